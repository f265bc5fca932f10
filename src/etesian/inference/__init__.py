"""Predict, roll out, write."""
