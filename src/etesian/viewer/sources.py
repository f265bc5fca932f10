"""What the viewer shows, whatever holds it: fields by time, lead and member, of which no more is read than is seen."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import xarray as xr
from jaxtyping import Float
from numpy.typing import NDArray

from etesian.core.channels import Channel
from etesian.core.clock import count_alike, decode_time
from etesian.core.constants import SECONDS_PER_HOUR
from etesian.core.dataset import LEAD, MEMBER, planet_of
from etesian.core.errors import DataError
from etesian.files.open import open_store
from etesian.scores.projections import Projection, columns_of
from etesian.scores.series import FieldSeries, find_lead, open_any, open_forecast, open_truth
from etesian.store.reader import Store, is_training_store

MEAN = "mean"
"""Stands for the mean of all members."""

LONGEST = 240
"""Times of which a series at a point is made; each of them may have to be read as a whole map."""


class Window(NamedTuple):
    """Cells along one axis of a map: their positions on it, and where the first begins and the last ends (°)."""

    cells: NDArray[np.int64]
    low: float
    high: float


def window(edges: Float[np.ndarray, " edge"], low: float, high: float, pixels: int) -> Window:
    """Choose the cells that a stretch of an axis shows, no more than there are pixels.

    Where there are more cells than pixels, each pixel shows the cell at its middle. Cells of uneven size are drawn by
    several even pixels.

    Args:
        edges: of the cells, ascending.
        low: where the stretch begins.
        high: where it ends.
        pixels: that it has.
    """
    last = len(edges) - 2
    first = int(np.clip(np.searchsorted(edges, low, side="right") - 1, 0, last))
    final = int(np.clip(np.searchsorted(edges, high, side="left") - 1, first, last))
    low, high = float(edges[first]), float(edges[final + 1])
    steps = np.diff(edges[first : final + 2])
    count = len(steps) if np.ptp(steps) < 1e-3 * steps.mean() else 4 * len(steps)
    count = max(1, min(count, pixels))
    middles = low + (np.arange(count) + 0.5) * (high - low) / count
    return Window(np.searchsorted(edges, middles, side="right") - 1, low, high)


class Source:
    """Fields on one grid, by time, and where there are leads and members by these.

    Attributes:
        name: under which it is chosen.
        series: the fields.
        is_forecast: whether they have leads.
        times: dates as text.
        leads: hours; none where there are no leads.
        members: their numbers; none where there are no members.
        columns: of the data, from west to east on the map.
        longitude_edges: between them, degrees.
        latitude_edges: between rows.
    """

    def __init__(self, name: str, data: str | Path | xr.Dataset) -> None:
        self.name = name
        self._store = Store(data) if not isinstance(data, xr.Dataset) and is_training_store(data) else None
        self._member = ""
        dataset = data if isinstance(data, xr.Dataset) else open_any(str(data))
        self.is_forecast = find_lead(dataset) is not None
        if self.is_forecast:
            self.series: FieldSeries = open_forecast(name, dataset)
        elif self._store is not None:
            self.series = open_truth(str(data))
        else:
            fields = data if isinstance(data, xr.Dataset) else open_store(str(data))
            others = [dim for dim in ("member", MEMBER) if dim in fields.dims]
            self._member = others[0] if others else ""
            # Statics and what has no members are not drawn beside those that have.
            self.series = FieldSeries(name, fields, ("time", *others))
        if self.is_forecast and MEMBER in self.series.dims:
            self._member = MEMBER
        self.channels = self.series.channels
        self.grid = self.series.grid
        seconds, self.calendar = self.series.times
        self.seconds = seconds
        self.times = [str(date)[:16] for date in self.series.dataset["time"].values]
        self.leads: list[int] = self.series.leads.tolist() if self.is_forecast else []
        self.members: list[int] = []
        if self._member:
            held = self.series.dataset
            count = held.sizes[self._member]
            self.members = held[self._member].values.tolist() if self._member in held.coords else list(range(count))
        self.columns, self.longitude_edges = columns_of(self.grid, Projection("equirectangular"))
        self.latitude_edges = self.grid.latitude_bounds

    @property
    def outline(self) -> xr.Dataset:
        """The grid, with `land_sea_mask` and `planet` where the data have them."""
        dataset = self.series.dataset
        land = dataset.get("land_sea_mask")
        held = {} if land is None or land.ndim != 2 else {"land_sea_mask": land}
        axes = {name: dataset[name].values for name in ("latitude", "longitude")}
        return xr.Dataset(held, axes, planet_of(dataset))

    def valid(self, time: int, lead: int) -> int:
        """Return the time at which a field is valid, seconds since 1970, from positions of its time and lead."""
        return int(self.seconds[time]) + (self.leads[lead] * SECONDS_PER_HOUR if self.leads else 0)

    def date(self, seconds: int) -> str:
        """Write a time as a date in the calendar of the data."""
        return str(decode_time(np.array([seconds]), self.calendar)[0])[:16]

    def find(self, seconds: int, calendar: str) -> int | None:
        """Return the position of a time, or None where there is no such time."""
        if not count_alike(np.array([seconds]), calendar, self.seconds, self.calendar):
            return None
        found = np.flatnonzero(self.seconds == seconds)
        return int(found[0]) if found.size else None

    def field(
        self,
        channel: Channel,
        time: int,
        lead: int = 0,
        member: int | str = MEAN,
        rows: NDArray[np.int64] | slice = slice(None),
        columns: NDArray[np.int64] | slice = slice(None),
    ) -> Float[np.ndarray, "lat lon"]:
        """Read one map, or the part of it at some rows and columns of the data.

        Args:
            channel: to read.
            time: position.
            lead: position; ignored where there are no leads.
            member: a number, or the mean of all; ignored where there are no members.
            rows: of the data.
            columns: of the data.
        """
        if self._store is not None:
            position = self._store.channels.index(channel)
            read = self._store.read([time], slice(position, position + 1), _compact(rows), _compact(columns))
            return np.asarray(read[0, 0])
        index: dict[str, object] = {"time": time, "latitude": rows, "longitude": columns}
        if self.leads:
            index[LEAD] = lead
        if self._member and member != MEAN:
            index[self._member] = self.members.index(int(member))
        array = self._array(channel).isel(index)
        if self._member and member == MEAN:
            array = array.mean(self._member)
        return np.asarray(array.transpose("latitude", "longitude").values, dtype=np.float64)

    def series_at(
        self, channel: Channel, row: int, column: int, time: int
    ) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Read what a channel is at one point: over all leads from one initial time, or over times around one.

        Returns:
            Valid times, seconds since 1970, and values (time, member).
        """
        if self.leads:
            when = self.seconds[time] + np.array(self.leads, dtype=np.int64) * SECONDS_PER_HOUR
            array = self._array(channel).isel(time=time, latitude=row, longitude=column)
            return when, self._by_member(array, LEAD)
        first = max(0, min(time - LONGEST // 2, len(self.times) - LONGEST))
        some = np.arange(first, min(first + LONGEST, len(self.times)))
        return self.seconds[some], self._values(channel, row, column, some)

    def at_times(self, channel: Channel, row: int, column: int, seconds: NDArray[np.int64]) -> NDArray[np.float64]:
        """Read what a channel is at one point at some times, NaN at those that are not there: (time, member)."""
        found = np.searchsorted(self.seconds, seconds).clip(max=len(self.seconds) - 1)
        there = self.seconds[found] == seconds
        values = np.full((len(seconds), max(1, len(self.members))), np.nan)
        if there.any():
            values[there] = self._values(channel, row, column, found[there])
        return values

    def nearest(self, latitude: float, longitude: float) -> tuple[int, int]:
        """Return row and column of the data at a place on the map."""
        row = np.searchsorted(self.latitude_edges, latitude, side="right") - 1
        west = self.longitude_edges[0]
        place = np.searchsorted(self.longitude_edges, west + (longitude - west) % 360, side="right") - 1
        return int(row.clip(0, self.grid.shape[0] - 1)), int(self.columns[place.clip(0, len(self.columns) - 1)])

    def _values(self, channel: Channel, row: int, column: int, times: NDArray[np.int64]) -> NDArray[np.float64]:
        if self._store is not None:
            position = self._store.channels.index(channel)
            each = self._store.read(
                times.tolist(), slice(position, position + 1), slice(row, row + 1), slice(column, column + 1)
            )
            return each[:, 0, 0].astype(np.float64)
        array = self._array(channel).isel(time=times, latitude=row, longitude=column)
        return self._by_member(array, "time")

    def _by_member(self, array: xr.DataArray, first: str) -> NDArray[np.float64]:
        if not self._member:
            array = array.expand_dims("only")
        return np.asarray(array.transpose(first, self._member or "only").values, dtype=np.float64)

    def _array(self, channel: Channel) -> xr.DataArray:
        array = self.series.dataset[channel.name]
        return array if channel.level is None else array.sel(level=channel.level)


def _compact(index: NDArray[np.int64] | slice) -> NDArray[np.int64] | slice:
    """Return even steps upwards as a slice, which reads nothing that it skips."""
    if isinstance(index, slice) or len(index) < 2:
        return index
    step = int(index[1] - index[0])
    is_even = step > 0 and (np.diff(index) == step).all()
    return slice(int(index[0]), int(index[-1]) + 1, step) if is_even else index


def read_sources(paths: Sequence[str | Path | xr.Dataset]) -> tuple[list[Source], dict[str, xr.Dataset]]:
    """Open what is to be looked at: fields, and scores by name.

    Raises:
        DataError: if nothing is given, or something cannot be read.
        GridError: if it has no grid that can be drawn.
    """
    if not paths:
        raise DataError("nothing is given to look at; name stores, forecasts, filled fields or scores")
    fields: list[Source] = []
    scores: dict[str, xr.Dataset] = {}
    taken: dict[str, int] = {}
    for path in paths:
        name = "data" if isinstance(path, xr.Dataset) else _short(str(path))
        taken[name] = taken.get(name, 0) + 1
        name = name if taken[name] == 1 else f"{name} ({taken[name]})"
        where = path if isinstance(path, xr.Dataset) else _scores_in(str(path))
        dataset = where if isinstance(where, xr.Dataset) else open_any(where)
        if {"forecast", "channel", "region"} <= set(dataset.dims):
            scores[name] = dataset.load()
        else:
            fields.append(Source(name, path))
    return fields, scores


def _scores_in(path: str) -> str:
    """Return the scores in the folder of an evaluation, or the path itself."""
    inside = Path(path) / "scores.nc"
    return str(inside) if inside.is_file() else path


def _short(path: str) -> str:
    name = Path(path.rstrip("/"))
    return name.parent.name if name.name == "scores.nc" and name.parent.name else name.name.removesuffix(".zarr")


def axes_of(source: Source) -> Float[np.ndarray, "four"]:
    """Return the edges of the map of a source: west, east, south, north in degrees."""
    west, east = source.longitude_edges[[0, -1]]
    if source.grid.is_periodic:
        west, east = -180.0, 180.0
    return np.array([west, east, *source.latitude_edges[[0, -1]]])
