"""Where and when gaps are filled: a grid in overlapping tiles, and the times of months, each in its place."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Bool, Float
from numpy.typing import NDArray
from rich.progress import track
from torch import Tensor

from etesian.core import Channel, Fields, Frame, Layout
from etesian.core.clock import Seconds, month_start
from etesian.core.constants import SECONDS_PER_DAY
from etesian.core.errors import DataError, GridError
from etesian.core.grid import Grid
from etesian.samples.windows import Period
from etesian.store.reader import Store, positions

LAND = Channel("land_sea_mask")

LONGEST_GAP_DAYS = 32
"""More than any month has, and less than two."""


@dataclass(frozen=True, eq=False)
class Tile:
    """Part of a grid; on a globe it may reach across the last longitude, where its own run on past 360.

    Attributes:
        rows: positions of its latitudes.
        columns: positions of its longitudes.
        grid: its coordinates.
        weights: how much each of its points counts where tiles overlap, falling smoothly to the tile's inner edges.
    """

    rows: NDArray[np.int64]
    columns: NDArray[np.int64]
    grid: Grid
    weights: Float[np.ndarray, "lat lon"]


class Tiling:
    """Tiles of one size that cover a grid, evenly spread.

    Args:
        grid: to cover.
        size: rows and columns of a tile; None takes the whole grid as one.
        overlap: rows and columns that neighbours share, at least.

    Attributes:
        tiles: from south to north and from west to east.

    Raises:
        GridError: if the tiles do not fit on the grid, or overlap by more than half.
    """

    def __init__(self, grid: Grid, size: tuple[int, int] | None = None, overlap: int = 0) -> None:
        self.grid, self.size, self.overlap = grid, grid.shape if size is None else (size[0], size[1]), overlap
        for length, own, axis in zip(grid.shape, self.size, ("rows", "columns"), strict=True):
            if not 1 <= own <= length:
                raise GridError(f"tiles of {self.size[0]}×{self.size[1]} do not fit on the {length} {axis} of {grid}")
            if not 0 <= overlap <= own // 2 and own < length:
                raise GridError(f"an overlap of {overlap} is more than half of the {own} {axis} of a tile")
        rows = _axis(grid.shape[0], self.size[0], overlap, periodic=False)
        columns = _axis(grid.shape[1], self.size[1], overlap, periodic=grid.is_periodic)
        self.tiles = [
            Tile(
                across[0],
                along[0],
                Grid(grid.latitude[across[0]], grid.longitude[along[0]] + 360.0 * along[1]),
                across[2][:, None] * along[2],
            )
            for across in rows
            for along in columns
        ]

    @cached_property
    def coverage(self) -> Float[np.ndarray, "lat lon"]:
        """Sum of the weights of all tiles at each point."""
        total = np.zeros(self.grid.shape)
        for tile in self.tiles:
            total[np.ix_(tile.rows, tile.columns)] += tile.weights
        return total


def _axis(
    length: int, size: int, overlap: int, *, periodic: bool
) -> list[tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]]:
    """Return for each tile along an axis its positions, how often it has gone round the globe, and its weights."""
    if size == length:
        return [(np.arange(length), np.zeros(length, dtype=np.int64), np.ones(length))]
    if periodic:
        count = -(-length // (size - overlap))
        starts = np.arange(count) * length // count
        following = np.append(starts[1:], length + starts[0])
        shared = starts + size - following
        before, after = np.roll(shared, 1), shared
    else:
        count = -(-(length - overlap) // (size - overlap))
        starts = np.arange(count) * (length - size) // (count - 1)
        shared = starts[:-1] + size - starts[1:]
        before, after = np.append(0, shared), np.append(shared, 0)
    tiles = []
    for start, first, last in zip(starts, before, after, strict=True):
        positions = start + np.arange(size)
        weights = _rise(size, int(first)) * _rise(size, int(last))[::-1]
        tiles.append((positions % length, positions // length, weights))
    return tiles


def _rise(size: int, shared: int) -> NDArray[np.float64]:
    """Return weights that rise along sin² over the points shared with the tile before."""
    place = np.minimum((np.arange(size) + 0.5) / max(shared, 0.5), 1.0)
    return np.asarray(np.sin(np.pi / 2 * place) ** 2)


def month_starts(first: int, last: int, calendar: str, *, whole: bool = True) -> Seconds:
    """Return the first moments of the months that lie within two times, both included, in seconds.

    Args:
        first: first second.
        last: last second.
        calendar: of both.
        whole: leave out months of which only a part lies within.
    """
    start = int(month_start([first], calendar)[0])
    if whole and start < first:
        start = following_month(start, calendar)
    found = []
    while (end := following_month(start, calendar)) <= last + 1 or (not whole and start <= last):
        found.append(start)
        start = end
    return np.array(found, dtype=np.int64)


def following_month(start: int, calendar: str) -> int:
    """Return the first moment of the month after the one that begins at a time."""
    return int(month_start([start + LONGEST_GAP_DAYS * SECONDS_PER_DAY], calendar)[0])


def first_moments(start: int, months: int, calendar: str) -> Seconds:
    """Return the first moments of some months that follow one another."""
    moments = [start]
    while len(moments) < months:
        moments.append(following_month(moments[-1], calendar))
    return np.array(moments, dtype=np.int64)


class MonthAxis:
    """Which times the months of a store have, and where on its time axis they are, if they are.

    Args:
        store: with a regular step of a day or less; times may be missing.

    Attributes:
        step: seconds from one time to the next.
        per_day: times in a day.

    Raises:
        DataError: if the times are not regular within the day.
    """

    def __init__(self, store: Store) -> None:
        self.time, self.calendar = store.time, store.calendar
        self.step = int(np.diff(store.time).min()) if len(store.time) > 1 else SECONDS_PER_DAY
        if SECONDS_PER_DAY % self.step or ((store.time - store.time[0]) % self.step).any():
            raise DataError(
                f"the times of {store.path} are not {self.step / 3600:g} h apart or multiples of it that fill a day; "
                "prepare it with --every 24 to have daily fields"
            )
        self.per_day = SECONDS_PER_DAY // self.step
        self._offset = int(store.time[0]) % self.step

    def length(self, months: int) -> int:
        """Return how many times so many months have at most."""
        return months * (30 if self.calendar == "360_day" else 31) * self.per_day

    def times(self, start: int, months: int, margin: int = 0) -> tuple[Seconds, slice]:
        """Return the times of some months from a first moment on, always equally many, and which of them are theirs.

        The times before and after theirs go on with the same step.

        Args:
            start: first moment of the first month.
            months: that follow one another.
            margin: days before theirs, and after theirs at least.
        """
        end = start
        for _ in range(months):
            end = following_month(end, self.calendar)
        before = margin * self.per_day
        count = self.length(months) + 2 * before
        times = start + self._offset + self.step * np.arange(-before, count - before, dtype=np.int64)
        return times, slice(before, int((times < end).sum()))

    def find(self, times: Seconds) -> NDArray[np.int64]:
        """Return the positions of some times in the store, -1 where it does not have one."""
        place = np.searchsorted(self.time, times)
        there = self.time.take(place, mode="clip") == times
        return np.where(there, place, -1)

    def given(self, times: Seconds, own: slice) -> NDArray[np.int64]:
        """Return the positions in the store of months' times and of as many after as before them, -1 elsewhere."""
        found = self.find(times)
        found[own.stop + own.start :] = -1
        return found

    def windows(self, period: Period, months: int, stride: int, *, whole: bool = True) -> Seconds:
        """Return the first moments of stretches of months that lie in a period and of which the store has some time.

        Args:
            period: first and last date.
            months: in a stretch.
            stride: months from one stretch to the next.
            whole: leave out months of which only a part lies in the period.

        Raises:
            DataError: if there is none.
        """
        first, last = period.seconds(self.calendar)
        starts = month_starts(first, last, self.calendar, whole=whole)
        chosen = list(range(0, len(starts) - months + 1, stride))
        if chosen and chosen[-1] + months < len(starts):
            chosen.append(len(starts) - months)
        found = []
        for number in chosen:
            times, own = self.times(int(starts[number]), months)
            inside = (times[own] >= first) & (times[own] <= last)
            if (self.find(times[own])[inside] >= 0).any():
                found.append(starts[number])
        if not found:
            raise DataError(
                f"no {months} whole month{'s' if months > 1 else ''} with data in {period.start} to {period.end}; "
                "a period is named by its months, such as 2007-01 to 2007-12"
            )
        return np.array(found, dtype=np.int64)


class MonthReader:
    """Reads the fields of some times from tiles of one store.

    Args:
        store: what to read.
        channels: to read.
        grid: all of the store's or a region of it, whose positions tiles are counted in.
    """

    def __init__(self, store: Store, channels: Sequence[Channel], grid: Grid) -> None:
        self.store, self.grid = store, grid
        self.channels = np.array(positions(channels, store.channels, store.path), dtype=np.int64)
        rows, columns = store.locate(grid)
        self._rows = np.arange(store.grid.shape[0])[rows]
        self._columns = np.arange(store.grid.shape[1])[columns]

    def read(self, index: NDArray[np.int64], tile: Tile) -> Float[np.ndarray, "index channel lat lon"]:
        """Return the fields at some positions of the time axis, NaN where missing and where the position is -1."""
        values = np.full((len(index), len(self.channels), *tile.grid.shape), np.nan, dtype=np.float32)
        there = np.flatnonzero(index >= 0)
        rows, columns = self._rows[tile.rows], self._columns[tile.columns]
        values[there] = self.store.read(index[there], self.channels, rows, columns)
        return values


def sea_mask(grid: Grid, *stores: Store, field: str | None = None) -> Bool[np.ndarray, "lat lon"]:
    """Return where there is sea: by the `land_sea_mask` of the first store that has one, below one half.

    Where none has one, sea is where the last store ever saw a value.

    Args:
        grid: all of the stores' or a region of it.
        *stores: on the same grid.
        field: static field that is 1 at sea and 0 on land, to take instead.

    Raises:
        ChannelError: if no store has that field.
        DataError: if the mask has gaps, or is land everywhere.
    """
    wanted = LAND if field is None else stores[0].resolve_statics([field])[0]
    for store in stores:
        if wanted in store.static_channels:
            rows, columns = store.locate(grid)
            mask = store.statics[store.static_channels.index(wanted)][rows][:, columns]
            if not np.isfinite(mask).all():
                raise DataError(f"the field {wanted} of {store.path} has gaps; fill them before `etesian prepare`")
            sea = np.asarray(mask < 0.5 if field is None else mask >= 0.5)
            break
    else:
        store = stores[-1]
        rows, columns = store.locate(grid)
        sea = np.zeros(grid.shape, dtype=bool)
        times = range(len(store.time))
        for time in track(times, "Looking for land", disable=len(times) * sea.size < 5e8, transient=True):
            sea |= np.isfinite(store.read([time], rows=rows, columns=columns)[0]).any(axis=0)
    if not sea.any():
        raise DataError(f"{store.path} has no sea on {grid}; its land_sea_mask must be 1 on land and 0 at sea")
    return sea


def with_land(layout: Layout) -> Layout:
    """Return a layout whose static fields hold the land."""
    return layout if LAND in layout.statics else replace(layout, statics=(*layout.statics, LAND))


def static_fields(
    store: Store, layout: Layout, sea: Bool[np.ndarray, "lat lon"]
) -> Float[np.ndarray, "static lat lon"]:
    """Return the static fields of a layout on its grid; the land is where there is no sea.

    Raises:
        DataError: if they have gaps.
    """
    rows, columns = store.locate(layout.grid)
    fields = []
    for channel in layout.statics:
        if channel == LAND:
            fields.append((~sea).astype(np.float32))
            continue
        place = positions([channel], store.static_channels, store.path)[0]
        fields.append(store.statics[place][rows][:, columns])
    values = np.stack(fields) if fields else np.zeros((0, *layout.grid.shape), dtype=np.float32)
    if not np.isfinite(values).all():
        raise DataError(f"the static fields of {store.path} have gaps; fill them before `etesian prepare`")
    return np.ascontiguousarray(values, dtype=np.float32)


def fixed_fields(
    values: Float[np.ndarray, "static lat lon"],
    statics: tuple[Channel, ...],
    tile: Tile,
    times: Tensor,
    calendar: str,
) -> Fields | None:
    """Return a tile's part of static fields for a batch, None if there are none."""
    if not statics:
        return None
    own = torch.from_numpy(np.ascontiguousarray(values[:, tile.rows][:, :, tile.columns]))
    return Fields(own.expand(len(times), 1, *own.shape), Frame(statics, times[:, :1], tile.grid, calendar))
