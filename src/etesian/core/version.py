"""The version that is installed; to look it up takes as long as half of all else that `import etesian` does."""

from importlib.metadata import version

__version__ = version("etesian")
