"""The data of a gap-filling run: gappy fields of months, and what they should have been."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Float
from numpy.typing import NDArray

from etesian.core import Batch, Fields, Frame, Layout, Region
from etesian.core.clock import Seconds, month_start, seasonal_terms
from etesian.core.dataset import channels_of
from etesian.core.errors import DataError, RecipeError
from etesian.core.statistics import HARMONICS, Statistics
from etesian.files.open import field, open_store
from etesian.fill.months import (
    MonthAxis,
    MonthReader,
    Tile,
    Tiling,
    first_moments,
    fixed_fields,
    sea_mask,
    static_fields,
    with_land,
)
from etesian.samples.batches import Group, group_of, order_of
from etesian.samples.loading import Loading, StoreData
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


def _fields(values: Float[np.ndarray, "sample time channel lat lon"], frame: Frame) -> Fields:
    tensor = torch.from_numpy(values)
    valid = torch.isfinite(tensor)
    return Fields(tensor.masked_fill(~valid, 0.0), frame, valid)


class GapFillData(StoreData):
    """Months of gappy fields, and their means or daily fields to learn from, from training stores.

    With a truth (a simulation, an analysis) that is what is learned. Without, observed points are hidden under the
    clouds of other days and are learned: for daily targets they alone count, the mean of a month is that over all days
    observed. A month whose mean is asked for belongs to a period if all of it does; of a month of days, those in the
    period. Land, told by a static `land_sea_mask` (of the
    observations, or of the truth) or else by being never observed, never counts as observed; tiles without sea are
    left out.

    Args:
        observed: training store of the gappy fields: daily or at any fixed step of a day or less; times may be missing.
        train: first and last month to train on, such as 2001-01 2004-12; a year means all of it.
        validate: first and last month to choose on.
        test: first and last month to test on.
        truth: training store of the complete fields on the same grid; None to learn from what is hidden.
        inputs: channels that are given; default all of the observed store.
        targets: channels that are asked for; default the inputs.
        statics: static fields that are given as well; default all, and the land.
        target: the means of the months, or the fields at each time.
        months: that follow one another in a sample.
        margin: days before and after them that are given as well, so that a month's first and last days have neighbours
            on both sides; those in another period are not.
        tile: rows and columns of a sample; default the whole grid.
        overlap: rows and columns that neighbouring tiles share at least.
        region: named box, or south,north,west,east in degrees; default the whole grid.
        sea: static field of the observed store that is 1 at sea and 0 on land, where it has no `land_sea_mask`.
        hide: mean share of a sample's times over which clouds of other times are laid; default none with a truth,
            half of them without. In validation and test always the same ones, and none with a truth.
        clouds: a data set of any grid whose gaps are laid over instead, such as one with real clouds.
        min_days: days of a month of which something must be known at a point for its mean to be learned.
        batch_size: samples in a batch, per process.
        workers: processes that read ahead; 0 reads in the training process.
        seed: of the order of samples and of what is hidden.

    Raises:
        RecipeError: if the periods overlap, an option makes no sense, or the two stores do not fit together.
        GridError: if tiles do not fit on the grid.
    """

    def __init__(
        self,
        observed: str,
        train: tuple[str, str],
        validate: tuple[str, str],
        test: tuple[str, str] | None = None,
        truth: str | None = None,
        inputs: list[str] | None = None,
        targets: list[str] | None = None,
        statics: list[str] | None = None,
        target: Target = "monthly",
        months: int = 1,
        margin: int = 0,
        tile: tuple[int, int] | None = None,
        overlap: int = 0,
        region: str | None = None,
        sea: str | None = None,
        hide: float | None = None,
        clouds: str | None = None,
        min_days: int = 5,
        batch_size: int = 4,
        workers: int = 0,
        seed: int = 0,
    ) -> None:
        gappy = Store(observed)
        complete = None if truth is None else Store(truth)
        super().__init__([gappy], train, validate, test, Loading(batch_size, workers, seed))
        if complete is not None:
            _check_pair(gappy, complete)
            self.stores.append(complete)
        self.hide = (0.5 if complete is None else 0.0) if hide is None else hide
        if not 0 <= self.hide <= 1 or (self.hide == 0 and complete is None):
            raise RecipeError(
                f"hide = {self.hide:g} must be a share of the times, greater than 0 where there is no truth to learn"
            )
        self.months = Months(target, months, margin, min_days)
        given = gappy.resolve(inputs)
        wanted = given if targets is None else (complete or gappy).resolve(targets)
        box = None if region is None else Region.parse(region)
        self.layout = with_land(
            Layout(
                inputs=given,
                targets=wanted,
                grid=gappy.grid if box is None else gappy.grid.crop(box),
                statics=gappy.resolve_statics(statics),
            )
        )
        self.tiling = Tiling(self.layout.grid, tile, overlap)
        self.sea = sea_mask(self.layout.grid, gappy, *([] if complete is None else [complete]), field=sea)
        self.library = None if clouds is None else _library(clouds)
        self.sea_field = sea

    @property
    def statistics(self) -> Statistics:
        """Distribution of every channel of the layout, with the seasonal cycle of the observations."""
        gappy, others = self.stores[0], self.stores[-1]
        own = tuple(dict.fromkeys(c for c in (*self.layout.inputs, *self.layout.targets) if c in gappy.channels))
        more = tuple(c for c in self.layout.targets if c not in own)
        parts = [gappy.statistics.select(own), others.statistics.select(more)]
        fixed = static_fields(gappy, self.layout, self.sea).astype(np.float64)
        mean, std = fixed.mean(axis=(1, 2)), fixed.std(axis=(1, 2))
        # A field that is the same everywhere, as where there is no land, tells nothing and does no harm.
        std[std == 0] = 1.0
        rows, columns = gappy.locate(self.layout.grid)
        still = np.zeros((HARMONICS, len(fixed), *self.layout.grid.shape), dtype=np.float32)
        still[0] = mean[:, None, None]
        cycles = [part.harmonics[:, :, rows][:, :, :, columns] for part in parts if part.harmonics is not None]
        spreads = [part.anomaly_std for part in parts if part.anomaly_std is not None]
        return Statistics(
            (*own, *more, *self.layout.statics),
            np.concatenate([*(part.mean for part in parts), mean]),
            np.concatenate([*(part.std for part in parts), std]),
            np.concatenate([*cycles, still], axis=1),
            np.concatenate([*spreads, std]),
        )

    @property
    def provenance(self) -> dict[str, object]:
        """What the run has seen, for its checkpoint, and how fields are to be cut into samples."""
        return super().provenance | {
            "gap_filling": {
                "target": self.months.target,
                "months": self.months.months,
                "margin": self.months.margin,
                "tile": list(self.tiling.size),
                "overlap": self.tiling.overlap,
                "sea": self.sea_field,
            }
        }

    def dataset(self, part: str) -> MonthDataset:
        """Return the months of `train`, `validate` or `test`.

        Raises:
            RecipeError: if the recipe names no such period.
            DataError: if no whole month with data lies in it.
        """
        training = part == "train"
        gappy, complete = self.stores[0], self.stores[1] if len(self.stores) > 1 else None
        period, months = self.period(part), self.months
        starts = MonthAxis(gappy).windows(
            period, months.months, 1 if training else months.months, whole=months.target == "monthly"
        )
        hiding = Hiding(
            self.hide if training or complete is None else 0.0,
            np.flatnonzero(self.period("train").covers(gappy.time, gappy.calendar)),
            self.library,
            fixed=not training,
        )
        return MonthDataset(
            gappy, complete, self.layout, self.tiling, self.sea, starts, period, months=months, hiding=hiding
        )


def _library(path: str) -> CloudLibrary:
    dataset = open_store(path)
    return CloudLibrary.of(field(dataset, channels_of(dataset)[0]).load())


def _check_pair(observed: Store, truth: Store) -> None:
    if observed.grid != truth.grid:
        raise RecipeError(f"{observed.path} lies on {observed.grid}, {truth.path} on {truth.grid}; regrid one of them")
    if observed.calendar != truth.calendar:
        raise RecipeError(
            f"{observed.path} counts days in the {observed.calendar} calendar, {truth.path} in {truth.calendar}; give "
            "two of one calendar"
        )
