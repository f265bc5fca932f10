"""Scores as sums and weights, exact under any chunking."""
