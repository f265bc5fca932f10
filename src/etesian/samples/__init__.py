"""A training store → batches."""
