"""Etesian: train, run and judge learned models of the atmosphere and ocean."""

from importlib.metadata import version

__version__ = version("etesian")
