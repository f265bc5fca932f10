"""Forecasts of a region beside a truth of the globe that holds it."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from etesian.core.channels import Channel
from etesian.core.grid import Grid
from etesian.scores.climatology import Climatology
from etesian.scores.series import Array, FieldSeries


class Part(FieldSeries):
    """The points of a series that lie on a smaller grid, in the order of that grid.

    Args:
        series: on a grid that holds the smaller one.
        grid: of which all points are points of the series.

    Raises:
        GridError: if it has others.
    """

    def __init__(self, series: FieldSeries, grid: Grid) -> None:
        self.series, self.name, self.dims, self.channels = series, series.name, series.dims, series.channels
        rows, columns = series.grid.locate(grid)
        self.grid, self._place = grid, (..., rows[:, None], columns)
        part = series.dataset.isel(latitude=rows, longitude=columns)
        self.dataset = part.assign_coords(latitude=grid.latitude, longitude=grid.longitude)

    @property
    def times(self) -> Any:
        """Those of the series."""
        return self.series.times

    def read(self, channels: Sequence[Channel], **index: Any) -> Array:
        """Read some channels at some positions of the leading dimensions."""
        if type(self.series) is FieldSeries:
            return super().read(channels, **index)
        # Stores and means read whole maps, of which no more than one is in memory.
        times = np.atleast_1d(index["time"])
        each = (self.series.read(channels, time=times[i : i + 1]) for i in range(max(1, times.size)))
        return np.concatenate([maps[self._place] for maps in each])

    def units(self, channel: Channel) -> str:
        """Return the units of a channel."""
        return self.series.units(channel)


def on_one_grid(
    forecasts: Mapping[str, FieldSeries], truth: FieldSeries, normals: Climatology | None
) -> tuple[dict[str, FieldSeries], FieldSeries, Climatology | None]:
    """Return forecasts, truth and climatology on the smallest grid of the forecasts, as far as it is a part of theirs.

    What lies on another grid stays as it is, to be refused where series are compared.
    """
    grid = min((series.grid for series in forecasts.values()), key=lambda each: np.prod(each.shape))
    placed = {name: part_of(series, grid) for name, series in forecasts.items()}
    if normals is not None and normals.grid == truth.grid and normals.grid.holds(grid):
        normals = normals.within(grid)
    return placed, part_of(truth, grid), normals


def part_of(series: FieldSeries, grid: Grid) -> FieldSeries:
    """Return a series on a grid where that is a part of its own, else as it is."""
    return Part(series, grid) if series.grid != grid and series.grid.holds(grid) else series
