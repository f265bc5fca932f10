"""Months of tiles as samples, with points hidden under the clouds of other days."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Float
from numpy.typing import NDArray
from torch import Tensor

from etesian.core import Batch, Channel, Fields, Frame, Layout
from etesian.core.clock import Seconds, month_start, seasonal_terms
from etesian.core.errors import DataError, RecipeError
from etesian.fill.months import MonthAxis, MonthReader, Tile, Tiling, following_month, static_fields
from etesian.samples.batches import Group, group_of, order_of
from etesian.samples.windows import Period
from etesian.simulation.clouds import CloudLibrary
from etesian.store.reader import Store

Target = Literal["monthly", "daily"]

Maps = Float[np.ndarray, "time channel lat lon"]

Mask = Bool[np.ndarray, "time lat lon"]

_TRIES = 20

_ANY_EPOCH = 2**31


@dataclass(frozen=True)
class Months:
    """What a sample of months holds, and what is asked of it.

    Attributes:
        target: means of the months, or the fields at each time.
        months: that follow one another.
        margin: days before and after them that are given as well.
        min_days: days of which something must be known for the mean of a month.

    Raises:
        RecipeError: if there is no such sample.
    """

    target: Target
    months: int
    margin: int
    min_days: int

    def __post_init__(self) -> None:
        if self.months < 1 or not 1 <= self.min_days <= 28 or not 0 <= self.margin <= 28:
            raise RecipeError(
                f"months = {self.months} must be at least 1, min_days = {self.min_days} from 1 to 28 and margin = "
                f"{self.margin} from 0 to 28"
            )


@dataclass(frozen=True, eq=False)
class Hiding:
    """Which observed points are hidden from a sample: those under clouds of other times.

    The clouds are those of other times that follow one another as the sample's do, so that they last as long.

    Attributes:
        share: mean share of the times over which clouds are laid.
        times: positions on the store's time axis of the times that clouds are taken from.
        library: clouds to lay instead.
        fixed: hide the same points in every epoch.
    """

    share: float
    times: NDArray[np.int64]
    library: CloudLibrary | None
    fixed: bool

    def points(
        self, draw: tuple[int, ...], seen: Mask, own: slice, index: NDArray[np.int64], reader: MonthReader, tile: Tile
    ) -> Mask:
        """Return which points of a sample to hide: some of its own, but not all there are; none where that fails.

        Args:
            draw: seed of what is drawn.
            seen: where something was observed.
            own: which times are the sample's, without its margin.
            index: positions of the sample's times on the store's time axis.
            reader: of the store that clouds are taken from.
            tile: of the sample.
        """
        nothing = np.zeros_like(seen)
        if self.share == 0 or not seen.any():
            return nothing
        random = np.random.default_rng(draw)
        for _ in range(_TRIES):
            chosen = random.random(len(index)) < self.share
            hidden: Mask = seen & self._clouds(random, index, reader, tile) & chosen[:, None, None]
            if hidden[own].any() and (seen & ~hidden).any():
                return hidden
        return nothing

    def _clouds(self, random: np.random.Generator, index: NDArray[np.int64], reader: MonthReader, tile: Tile) -> Mask:
        if self.library is not None:
            return np.stack([self.library.draw(random, tile.grid.shape) for _ in index])
        start = int(random.integers(len(self.times)))
        others = self.times[(start + np.arange(len(index))) % len(self.times)]
        # A time is no cloud of itself.
        cloudy = np.isnan(reader.read(others, tile)).all(axis=1)
        return np.asarray(cloudy & (others != index)[:, None, None])


@dataclass(frozen=True)
class MonthPick:
    """One sample: months of a tile, and what its hidden points are drawn from.

    Attributes:
        tile: its number.
        start: first moment of the months, seconds.
        draw: seed of what is hidden.
    """

    tile: int
    start: int
    draw: tuple[int, ...]

    @property
    def group(self) -> int:
        """Number of the tile."""
        return self.tile


class MonthDataset:
    """Tiles of some months, gappy as observed, and the truth or what was hidden of them.

    A batch is months of one tile: all its samples lie on one grid. Its inputs are valid where something was observed
    at sea and is not hidden; times without any observation, and those that fill up shorter months, are valid nowhere.

    Args:
        observed: with the gaps.
        truth: on the same grid with the same calendar; None to learn from what is hidden.
        layout: channels, statics with the land, and the grid that tiles are part of.
        tiling: of that grid.
        sea: where on it there is sea.
        starts: first moments of the months, or of the first ones where a sample has several.
        period: times outside are as if they were not there.
        months: what a sample holds, and what is asked of it.
        hiding: what is hidden of it.

    Attributes:
        tiles: with sea.
        groups: one for each tile.

    Raises:
        DataError: if no tile has any sea.
    """

    def __init__(
        self,
        observed: Store,
        truth: Store | None,
        layout: Layout,
        tiling: Tiling,
        sea: Bool[np.ndarray, "lat lon"],
        starts: Seconds,
        period: Period,
        *,
        months: Months,
        hiding: Hiding,
    ) -> None:
        self.layout, self.starts, self.period, self.months, self.hiding = layout, starts, period, months, hiding
        self.axis = MonthAxis(observed)
        self.calendar = observed.calendar
        self.reader = MonthReader(observed, layout.inputs, layout.grid)
        self.truth = None if truth is None else MonthReader(truth, layout.targets, layout.grid)
        self.truth_axis = None if truth is None else MonthAxis(truth)
        self.answers = None if truth is not None else MonthReader(observed, layout.targets, layout.grid)
        self.sea, self.statics = sea, static_fields(observed, layout, sea)
        self.tiles = [tile for tile in tiling.tiles if sea[np.ix_(tile.rows, tile.columns)].any()]
        if not self.tiles:
            raise DataError(f"there is no sea on {layout.grid}")
        seasons = observed.statistics.select(layout.targets).harmonics if truth is None else None
        rows, columns = observed.locate(layout.grid)
        self.seasons = None if seasons is None else seasons[:, :, rows][:, :, :, columns]
        self.groups: list[Group] = [Group(f"each tile of {observed.path}", len(starts))] * len(self.tiles)

    def epoch(self, seed: int, epoch: int, *, shuffle: bool, batches: int = 1) -> list[MonthPick]:
        """Return the epoch's samples in order: the same for any number of workers and ranks."""
        samples = [(tile, int(start)) for tile in range(len(self.tiles)) for start in self.starts]
        when = _ANY_EPOCH if self.hiding.fixed else epoch
        chosen = [samples[i] for i in order_of(len(samples), seed, epoch, shuffle=shuffle)]
        return [MonthPick(tile, start, (seed, when, tile, start % 2**31)) for tile, start in chosen]

    def __getitem__(self, picks: Sequence[MonthPick]) -> Batch:
        tile = self.tiles[group_of(picks)]
        sea = self.sea[np.ix_(tile.rows, tile.columns)]
        samples = [self._sample(pick, tile, sea) for pick in picks]
        inputs, targets, statics = self.layout.inputs, self.layout.targets, self.layout.statics
        times = torch.from_numpy(np.stack([sample.times for sample in samples]))
        asked = torch.from_numpy(np.stack([sample.asked for sample in samples]))
        return Batch(
            _fields(np.stack([s.values for s in samples]), Frame(inputs, times, tile.grid, self.calendar)),
            _fields(np.stack([s.answer for s in samples]), Frame(targets, asked, tile.grid, self.calendar)),
            statics=fixed_fields(self.statics, statics, tile, times, self.calendar),
        )

    def _sample(self, pick: MonthPick, tile: Tile, sea: Bool[np.ndarray, "lat lon"]) -> "_Sample":
        daily = self.months.target == "daily"
        times, own = self.axis.times(pick.start, self.months.months, self.months.margin)
        outside = ~self.period.covers(times, self.calendar)
        index = np.where(outside, -1, self.axis.given(times, own))
        values = self.reader.read(index, tile)
        values[:, :, ~sea] = np.nan
        seen = np.asarray(np.isfinite(values).any(axis=1))
        hidden = self.hiding.points(pick.draw, seen, own, index, self.reader, tile)
        if self.truth is not None and self.truth_axis is not None:
            answer = self.truth.read(np.where(outside, -1, self.truth_axis.given(times, own)), tile)
        else:
            assert self.answers is not None
            answer = self.answers.read(index, tile)
            if daily:
                answer = np.where(hidden[:, None], answer, np.nan).astype(np.float32)
        answer[:, :, ~sea] = np.nan
        answer[: own.start], answer[own.stop :] = np.nan, np.nan
        values = np.where(hidden[:, None], np.nan, values).astype(np.float32)
        if daily:
            return _Sample(times, values, times, answer)
        month = month_start(times, self.calendar)
        month[: own.start], month[own.stop :] = -1, -1
        asked = first_moments(pick.start, self.months.months, self.calendar)
        means = [self._mean(answer[month == start], times[month == start], tile) for start in asked]
        return _Sample(times, values, asked, np.stack(means))

    def _mean(self, values: Maps, times: Seconds, tile: Tile) -> Float[np.ndarray, "channel lat lon"]:
        """Return the mean over a month, NaN where too little of it is known.

        Without a truth only some days are known: the season between them and the others is made up for by the seasonal
        cycle, so that the mean is one over all days.
        """
        known = np.isfinite(values)
        count = known.sum(axis=0)
        season = np.zeros(values.shape)
        if self.seasons is not None:
            cycle = self.seasons[:, :, tile.rows][:, :, :, tile.columns].astype(np.float64)
            season = np.einsum("tk,kchw->tchw", seasonal_terms(times, self.calendar), cycle)
        anomaly = np.where(known, values - season, 0.0).sum(axis=0) / np.maximum(count, 1)
        enough = count >= self.months.min_days * self.axis.per_day
        return np.where(enough, anomaly + season.mean(axis=0), np.nan).astype(np.float32)


@dataclass(frozen=True)
class _Sample:
    times: Seconds
    values: Maps
    asked: Seconds
    answer: Float[np.ndarray, "asked target lat lon"]


def first_moments(start: int, months: int, calendar: str) -> Seconds:
    """Return the first moments of some months that follow one another."""
    moments = [start]
    while len(moments) < months:
        moments.append(following_month(moments[-1], calendar))
    return np.array(moments, dtype=np.int64)


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


def _fields(values: Float[np.ndarray, "sample time channel lat lon"], frame: Frame) -> Fields:
    tensor = torch.from_numpy(values)
    valid = torch.isfinite(tensor)
    return Fields(tensor.masked_fill(~valid, 0.0), frame, valid)
