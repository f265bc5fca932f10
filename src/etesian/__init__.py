"""Etesian: train, run and evaluate learned models of the atmosphere and ocean."""

import lazy_loader

from etesian.core.names import HOMES

# Loaded when first asked for (scientific Python's SPEC 1): the command's help and an error's message need no torch.
__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={"core.version": ["__version__"]} | {module: list(names) for module, names in HOMES.items()},
)
