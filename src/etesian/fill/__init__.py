"""Filling gaps."""
