"""From one grid of the globe to another, by coordinate."""

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from etesian.core.grid import Grid, cubic_longitude_weights, cubic_weights, overlap_weights
from etesian.nn.convolution import pad_globe

BEYOND = 3
"""Rows from across a pole that a spline goes on to, so that the pole is a place like any other."""


class Regridding(nn.Module):
    """Takes fields to another grid of the globe: to means over its cells where these are larger, else by cubic splines.

    Each axis is taken by itself. Rows go on across the poles, longitudes round the circle. In single precision at
    least, whatever the precision around it.

    Args:
        source: of the fields, all round the globe.
        target: where they are wanted.
    """

    rows: Tensor
    columns: Tensor

    def __init__(self, source: Grid, target: Grid) -> None:
        super().__init__()
        rows, columns = overlap_weights(source, target)
        self.beyond, self.poles = 0, source.has_poles
        if target.shape[0] >= source.shape[0]:
            self.beyond = min(BEYOND, source.shape[0] - int(self.poles))
            rows = cubic_weights(_across_poles(source, self.beyond), target.latitude)
        if target.shape[1] >= source.shape[1]:
            columns = cubic_longitude_weights(source, target)
        # Rebuilt from the grids.
        self.register_buffer("rows", torch.from_numpy(rows).float(), persistent=False)
        self.register_buffer("columns", torch.from_numpy(columns).float(), persistent=False)

    def forward(self, fields: Float[Tensor, "*lead lat lon"]) -> Float[Tensor, "*lead lat_out lon_out"]:
        """Return the fields on the other grid."""
        sides = (self.beyond, self.beyond)
        with torch.autocast(fields.device.type, enabled=False):
            padded = pad_globe(fields.to(self.rows.dtype), sides, (0, 0), poles=self.poles)
            return self.rows @ padded @ self.columns.T


def _across_poles(grid: Grid, count: int) -> Float[np.ndarray, " lat"]:
    """Return the latitudes with so many rows beyond each pole, as `pad_globe` adds them."""
    first, last = int(grid.has_poles), grid.shape[0] - int(grid.has_poles)
    south, north = grid.latitude[first : first + count], grid.latitude[last - count : last]
    return np.concatenate([-180 - south[::-1], grid.latitude, 180 - north[::-1]])
