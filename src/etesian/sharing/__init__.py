"""Trained runs on their way to others: what travels, where it lies, and what is said of it."""
