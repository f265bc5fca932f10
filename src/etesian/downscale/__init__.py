"""Downscaling and super-resolution."""
