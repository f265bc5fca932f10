"""A canonical dataset → a training store, and back."""
