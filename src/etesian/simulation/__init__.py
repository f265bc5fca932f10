"""Weather, sea and climate without a download."""
