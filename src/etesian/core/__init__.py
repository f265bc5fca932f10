"""What every other layer speaks: channels, grids, fields with their frames, clocks and errors."""

from etesian.core.channels import Channel
from etesian.core.errors import EtesianError
from etesian.core.fields import Batch, Fields, Frame, Layout
from etesian.core.grid import Grid, Region

__all__ = ["Batch", "Channel", "EtesianError", "Fields", "Frame", "Grid", "Layout", "Region"]
