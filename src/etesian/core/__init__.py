"""What every other layer speaks: channels, grids, fields with their frames, clocks and errors."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from etesian.core.channels import Channel
    from etesian.core.errors import EtesianError
    from etesian.core.fields import Batch, Fields, Frame, Layout
    from etesian.core.grid import Grid, Region

__all__ = ["Batch", "Channel", "EtesianError", "Fields", "Frame", "Grid", "Layout", "Region"]

_HOMES = {
    "channels": ["Channel"],
    "errors": ["EtesianError"],
    "fields": ["Batch", "Fields", "Frame", "Layout"],
    "grid": ["Grid", "Region"],
}


def __getattr__(name: str) -> Any:
    # Loaded when first asked for: an error's message, or the command's help, need no torch.
    home = next((module for module, names in _HOMES.items() if name in names), None)
    if home is None:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    return getattr(import_module(f"{__name__}.{home}"), name)
