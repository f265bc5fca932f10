"""The climatology that anomalies are from, at any time."""

from collections.abc import Callable, Sequence
from copy import copy
from pathlib import Path

import numpy as np
import xarray as xr

from etesian.core.channels import Channel
from etesian.core.clock import Seconds, day_of_year, hour_of_day
from etesian.core.errors import DataError
from etesian.core.grid import Grid
from etesian.scores.series import Array, FieldSeries, open_as


class Climatology:
    """Mean fields by hour and day of the year: of a training store, or in WeatherBench 2's layout.

    Attributes:
        channels: what it holds.
        grid: on which grid.
        window: seconds relative to each time over which it is averaged.
    """

    def __init__(self, data: str | Path | xr.Dataset) -> None:
        dataset = data if isinstance(data, xr.Dataset) else open_as("the climatology", str(data))
        if "climatology" in dataset:
            stacked = dataset["climatology"]
            self.channels = tuple(Channel.parse(str(text)) for text in dataset["channel"].values)
            self.grid = Grid(dataset.latitude.values, dataset.longitude.values)
            self._read: Callable[[int, int], Array] = lambda hour, day: np.asarray(
                stacked.isel(hour=hour, dayofyear=day).values
            )
        else:
            if not {"hour", "dayofyear"} <= set(dataset.dims):
                raise DataError(
                    "the climatology needs the dimensions hour and dayofyear, as WeatherBench 2's or a training "
                    f"store's have; it has {', '.join(map(str, dataset.sizes))}"
                )
            maps = FieldSeries("the climatology", dataset, ("hour", "dayofyear"))
            self.channels, self.grid = maps.channels, maps.grid
            self._read = lambda hour, day: maps.read(maps.channels, hour=hour, dayofyear=day)
        self.window = np.zeros(1, dtype=np.int64)
        self._hours = [int(hour) for hour in dataset["hour"].values]
        self._days = {int(day): i for i, day in enumerate(dataset["dayofyear"].values)}

    def within(self, grid: Grid) -> "Climatology":
        """Return those on a region of the grid.

        Raises:
            GridError: if it is none.
        """
        rows, columns = self.grid.locate(grid)
        part, whole = copy(self), self._read
        part.grid, part._read = grid, lambda hour, day: whole(hour, day)[..., rows[:, None], columns]
        return part

    def at(self, seconds: Seconds, calendar: str, channels: Sequence[Channel]) -> Array:
        """Return the climatology at times of any shape, averaged over the window: (…, channel, latitude, longitude).

        Raises:
            DataError: if it lacks an hour or a day of the year.
        """
        total = sum(self._maps(seconds + offset, calendar, channels) for offset in self.window)
        return np.asarray(total / len(self.window))

    def mean(self, channel: Channel) -> Array:
        """Return the mean of a channel over all hours and days, (latitude, longitude)."""
        position = self.channels.index(channel)
        places = [(hour, day) for hour in range(len(self._hours)) for day in self._days.values()]
        total = np.zeros(self.grid.shape)
        for hour, day in places:
            total += self._read(hour, day)[position]
        return total / len(places)

    def _maps(self, seconds: Seconds, calendar: str, channels: Sequence[Channel]) -> Array:
        days, hours = day_of_year(seconds.ravel(), calendar), hour_of_day(seconds.ravel())
        maps: dict[tuple[int, float], Array] = {}
        index = [self.channels.index(channel) for channel in channels]
        for day, hour in zip(days.tolist(), hours.tolist(), strict=True):
            if (day, hour) in maps:
                continue
            if hour not in self._hours or day not in self._days:
                known = ", ".join(map(str, self._hours))
                raise DataError(
                    f"the climatology has no map for day {day}, hour {hour:g}; its hours are {known}: score forecasts "
                    "valid at these hours, or go without it"
                )
            maps[day, hour] = self._read(self._hours.index(int(hour)), self._days[day])[index]
        found = [maps[key] for key in zip(days.tolist(), hours.tolist(), strict=True)]
        return np.stack(found).reshape(*seconds.shape, len(index), *self.grid.shape)
