"""Gaps of whole fields filled by a trained run: tile by tile, month by month, streamed to disk."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any, Literal, cast

import dask.array
import numpy as np
import torch
import xarray as xr
from jaxtyping import Bool, Float, Float32, Int
from numpy.typing import NDArray
from rich.progress import Progress

from etesian.core import Batch, Channel, Fields, Frame
from etesian.core.clock import Seconds, decode_time, month_start, seasonal_terms
from etesian.core.dataset import MEMBER, coordinates, planet_of
from etesian.core.device import sent
from etesian.core.errors import DataError, RecipeError
from etesian.core.resumable import ResumableStore
from etesian.core.workers import Workers
from etesian.fill.members import Scatter
from etesian.fill.months import (
    MonthAxis,
    MonthReader,
    Tile,
    Tiling,
    fixed_fields,
    month_starts,
    sea_mask,
    static_fields,
)
from etesian.fill.pairs import COUNT, DEVIATION, FILLED, FLAG, ON_LAND, UNOBSERVED, filled_attributes
from etesian.fill.task import GapFillTask
from etesian.samples.windows import Period
from etesian.store.reader import Store
from etesian.store.select import refuse_beyond
from etesian.training.task import Task, channel_units

Empty = Literal["missing", "climatology"]


@dataclass(frozen=True)
class Stretch:
    """Months that are answered together.

    Attributes:
        months: first moments of the months that the network sees.
        written: how many of them, at their end, are written; those before are written with an earlier stretch.
    """

    months: Seconds
    written: int


@dataclass
class _Filled:
    """What a stretch has come to; the first axis of the maps is that of the answers, of the counts the months."""

    value: Float[np.ndarray, "asked channel lat lon"]
    spread: Float[np.ndarray, "asked channel lat lon"] | None
    count: Int[np.ndarray, "month channel lat lon"]
    weight: Float[np.ndarray, "month lat lon"]


def fill_to(
    task: GapFillTask,
    store: Store,
    path: str,
    period: Period,
    *,
    source: dict[str, Any],
    empty: Empty = "missing",
    members: int | None = None,
    seed: int = 0,
    overwrite: bool = False,
    label: str = "filling gaps",
    workers: Workers | None = None,
    again: Callable[[], Task] | None = None,
) -> None:
    """Write the gap-free fields of some months; run again after an interruption, it goes on.

    Fields are cut into the tiles that the run was trained on; where they overlap, answers are blended with weights that
    fall smoothly to the tiles' edges and add up to one. No more than one tile's inputs and one stretch of months is
    held. A tile in which a month has no observation takes no part in that month: points of sea that only such tiles
    cover are flagged, and hold no value of the network's.

    Args:
        task: a trained run that fills gaps; its provenance tells months, tiles and target.
        store: with the gaps.
        path: of the Zarr store to make.
        period: first and last month.
        source: what the fields are made from, as plain data.
        empty: what points hold that nothing was observed for: nothing, or the mean of the store's seasonal cycle (two
            harmonics fitted to its training period) over the month.
        members: that are written in place of the fields that are expected, over a dimension `number`; see `Scatter`.
            They have no climatology where nothing was observed: it would be known exactly.
        seed: of the members.
        overwrite: replace an existing store when the new one is complete.
        label: of the progress bar.
        workers: who fills; by default this process.
        again: makes the task anew for each of them; see `Workers.each`.

    Raises:
        RecipeError: if the run fills no gaps, or has no members, or they are asked for with a climatology.
        GridError: if the store does not hold the run's grid.
        ChannelError: if the store lacks a channel that the run needs.
        DataError: if no whole month lies in the period, it reaches beyond the store's times, or the path exists and may
            not be replaced.
    """
    filler, scatter = _parts(task, store, empty, members, seed)
    stretches = filler.stretches(period)
    times = np.concatenate([filler.asked(stretch) for stretch in stretches])
    edges = np.cumsum([0, *(len(filler.asked(stretch)) for stretch in stretches)]).tolist()
    plan = {
        "times": times.tolist(),
        "grid": task.layout.grid.to_dict(),
        "tile": list(filler.tiling.size),
        "overlap": filler.tiling.overlap,
        "empty": empty,
        "source": source | {"store": store.fingerprint},
    } | ({} if members is None else {"members": members, "seed": seed})

    def describe() -> xr.Dataset:
        return filler.describe(times, members)

    target = ResumableStore(path, "filled fields", plan, describe, overwrite=overwrite)
    if target.is_complete:
        return
    done, tiles = target.done(), len(filler.tiling.tiles)
    blocks = [
        _Block(number, stretch, *ends)
        for number, (stretch, ends) in enumerate(zip(stretches, pairwise(edges), strict=True))
        if number not in done
    ]
    workers = workers or Workers()
    with Progress(transient=True) as progress:
        bar = progress.add_task(label, total=len(stretches) * tiles, completed=(len(stretches) - len(blocks)) * tiles)
        here = filler, scatter, target, lambda: progress.advance(bar)
        build = (
            partial(_filling, again, store, empty, members, seed, target)
            if workers.elsewhere and again is not None
            else lambda: here
        )
        for number in workers.each(build, _fill_block, blocks):
            target.mark([number])
            if workers.elsewhere:
                progress.advance(bar, tiles)
    target.finish()


@dataclass(frozen=True)
class _Block:
    """A stretch of months that is written from one position on the time axis to another."""

    number: int
    stretch: Stretch
    first: int
    last: int


_Filling = tuple["Filler", Scatter | None, ResumableStore, Callable[[], object]]


def _filling(
    again: Callable[[], Task], store: Store, empty: Empty, members: int | None, seed: int, target: ResumableStore
) -> _Filling:
    return *_parts(cast(GapFillTask, again()), store, empty, members, seed), target, lambda: None


def _parts(
    task: GapFillTask, store: Store, empty: Empty, members: int | None, seed: int
) -> tuple["Filler", Scatter | None]:
    """Return what fills, and what members differ by where they are asked for."""
    filler = Filler(task, store, empty)
    if members is None:
        return filler, None
    if empty == "climatology":
        raise RecipeError(
            "members would all hold the same climatology where nothing was observed, as if it were known exactly; "
            "leave out empty: climatology, or members"
        )
    return filler, Scatter(task, daily=filler.daily, count=members, seed=seed)


def _fill_block(job: _Filling, block: _Block) -> int:
    filler, scatter, target, advance = job
    variables, place = filler.fill(block.stretch, advance), slice(block.first, block.last)
    if scatter is not None:
        for numbers, name, values in filler.members(block.stretch, variables, scatter):
            target.group[name][place, numbers.start : numbers.stop] = values
    for name, values in variables.items():
        if scatter is None or target.group[name].ndim == values.ndim:
            target.group[name][place] = values
    return block.number


class Filler:
    """Fills the gaps of a store with a trained run.

    Args:
        task: the run.
        store: with the gaps.
        empty: what points hold that nothing was observed for.
    """

    def __init__(self, task: GapFillTask, store: Store, empty: Empty) -> None:
        known = task.provenance.get("gap_filling")
        if known is None:
            raise RecipeError("the run does not tell its months and tiles; train it with GapFillData")
        self.task, self.store, self.empty, self.layout = task, store, empty, task.layout
        self.daily, self.months = known["target"] == "daily", int(known["months"])
        self.margin = int(known.get("margin", 0))
        self.axis = MonthAxis(store)
        self.tiling = Tiling(self.layout.grid, (known["tile"][0], known["tile"][1]), int(known["overlap"]))
        self.sea = sea_mask(self.layout.grid, store, field=known.get("sea"))
        self.statics = static_fields(store, self.layout, self.sea)
        self.reader = MonthReader(store, self.layout.inputs, self.layout.grid)
        self.counted = [c for c in self.layout.targets if c in self.layout.inputs]

    def stretches(self, period: Period) -> list[Stretch]:
        """Return the months of a period, as many together as the run was trained on.

        Raises:
            DataError: if no whole month lies in the period, the store has no time in any of them, or it reaches beyond
                the store's times.
        """
        starts = month_starts(*period.seconds(self.store.calendar), self.store.calendar)
        if not len(starts) or not any(self._has_times(int(start)) for start in starts):
            ends = decode_time(self.store.time[[0, -1]], self.store.calendar)
            raise DataError(
                f"{self.store.path} has no whole month in {period.start} to {period.end}, which names months such as "
                f"2007-01 2007-12; it holds {str(ends[0])[:10]} to {str(ends[1])[:10]}"
            )
        refuse_beyond(self.store.path, self.store.time, self.store.calendar, *period)
        found = []
        for first in range(0, len(starts), self.months):
            own = starts[first : first + self.months]
            months = list(own)
            while len(months) < self.months:
                months.insert(0, month_start([months[0] - 1], self.store.calendar)[0])
            found.append(Stretch(np.array(months, dtype=np.int64), len(own)))
        return found

    def _has_times(self, start: int) -> bool:
        times, own = self.axis.times(start, 1)
        return bool((self.axis.find(times[own]) >= 0).any())

    def asked(self, stretch: Stretch) -> Seconds:
        """Return the times that are written of a stretch: its months, or all of their times."""
        months = stretch.months[-stretch.written :]
        if not self.daily:
            return months
        times, own = self.axis.times(int(months[0]), len(months))
        return times[own]

    def fill(self, stretch: Stretch, advance: Callable[[], object] = lambda: None) -> dict[str, NDArray[Any]]:
        """Return the maps of a stretch by the name of their variable."""
        times, own = self.axis.times(int(stretch.months[0]), self.months, self.margin)
        index = self.axis.given(times, own)
        month = np.searchsorted(stretch.months, times, side="right") - 1
        month[own.stop :] = -1
        count = own.stop - own.start if self.daily else self.months
        shape = len(self.layout.targets), *self.layout.grid.shape
        filled = _Filled(
            np.zeros((count, *shape)),
            np.zeros((count, *shape)) if self.task.network.gives_variance else None,
            np.zeros((self.months, len(self.counted), *shape[1:]), dtype=np.int32),
            np.zeros((self.months, *shape[1:])),
        )
        for tile in self.tiling.tiles:
            if self.sea[np.ix_(tile.rows, tile.columns)].any():
                self._add(filled, tile, stretch, times, index, month, own)
            advance()
        return self._finish(filled, stretch, times[own], month[own])

    def _add(
        self,
        filled: _Filled,
        tile: Tile,
        stretch: Stretch,
        times: Seconds,
        index: NDArray[np.int64],
        month: NDArray[np.int64],
        own: slice,
    ) -> None:
        """Add the answer for one tile, in the months of which it has an observation."""
        place = np.ix_(tile.rows, tile.columns)
        values, valid = self._read(tile, index)
        channels = self.layout.inputs
        for number in range(self.months):
            counts = valid[month == number].sum(axis=0)
            for position, channel in enumerate(self.counted):
                filled.count[number, position][place] = counts[channels.index(channel)]
        seen = np.array([valid[month == number].any() for number in range(self.months)])
        if not seen.any():
            return
        wanted = torch.zeros(1, len(times) if self.daily else self.months, 1, 1, 1, dtype=torch.bool)
        wanted[:, own if self.daily else slice(None)] = True
        answer, spread = self._ask(tile, stretch, times, values, valid, wanted)
        if self.daily:
            answer, spread = answer[own], None if spread is None else spread[own]
        asked_month = month[own] if self.daily else np.arange(self.months)
        for position in np.flatnonzero(seen[asked_month]).tolist():
            filled.value[position][:, *place] += tile.weights * answer[position]
            if spread is not None and filled.spread is not None:
                filled.spread[position][:, *place] += tile.weights * spread[position]
        for number in np.flatnonzero(seen).tolist():
            filled.weight[number][place] += tile.weights

    def members(
        self, stretch: Stretch, variables: dict[str, NDArray[Any]], scatter: Scatter
    ) -> Iterator[tuple[range, str, Float32[np.ndarray, "time member lat lon"]]]:
        """Yield numbers of members and their maps by the name of their variable.

        Args:
            stretch: of months of days.
            variables: what it was filled with.
            scatter: what members differ by.
        """
        times, own = self.axis.times(int(stretch.months[0]), self.months, self.margin)
        index = self.axis.given(times, own)
        written = variables[f"{self.layout.targets[0]}{FLAG}"].shape[0]
        kept = slice(own.stop - written, own.stop)
        weight = np.zeros((written, *self.layout.grid.shape), dtype=np.float32)
        for numbers in scatter.parts(written * len(self.layout.targets) * weight[0].size):
            total = np.zeros((len(numbers), written, len(self.layout.targets), *weight.shape[1:]), dtype=np.float32)
            weight[:] = 0
            for tile in self.tiling.tiles:
                place = np.ix_(tile.rows, tile.columns)
                if not self.sea[place].any() or not (valid := self._read(tile, index)[1]).any():
                    continue
                wanted = np.zeros((len(times), *tile.grid.shape), dtype=bool)
                wanted[kept] = self.sea[place]
                rows, columns = place
                some = scatter.of_tile(numbers, tile, times, valid, wanted)[:, kept]
                total[..., rows, columns] += tile.weights * some
                weight[:, rows, columns] += tile.weights
            total /= np.where(weight > 0, weight, 1)[:, None]
            for position, channel in enumerate(self.layout.targets):
                deviation = np.nan_to_num(variables[f"{channel}{DEVIATION}"])
                maps = variables[str(channel)] + deviation * total[:, :, position]
                yield numbers, str(channel), np.moveaxis(maps, 0, 1)

    def _read(
        self, tile: Tile, index: NDArray[np.int64]
    ) -> tuple[Float[np.ndarray, "time channel lat lon"], Bool[np.ndarray, "time channel lat lon"]]:
        """Return what was observed at sea, and where."""
        values = self.reader.read(index, tile)
        values[:, :, ~self.sea[np.ix_(tile.rows, tile.columns)]] = np.nan
        return values, np.isfinite(values)

    def _ask(
        self,
        tile: Tile,
        stretch: Stretch,
        times: Seconds,
        values: Float[np.ndarray, "time channel lat lon"],
        valid: Bool[np.ndarray, "time channel lat lon"],
        wanted: Bool[torch.Tensor, "1 asked 1 1 1"],
    ) -> tuple[NDArray[np.float64], NDArray[np.float64] | None]:
        calendar = self.store.calendar
        when = torch.from_numpy(times[None])
        frame = Frame(self.layout.inputs, when, tile.grid, calendar)
        inputs = Fields(torch.from_numpy(np.nan_to_num(values)[None]), frame, torch.from_numpy(valid[None]))
        statics = fixed_fields(self.statics, self.layout.statics, tile, when, calendar)
        asked = when if self.daily else torch.from_numpy(stretch.months[None])
        target = Frame(self.layout.targets, asked, tile.grid, calendar)
        with self.task.answering():
            batch = Batch(inputs, statics=statics).to(self.task.device)
            answer = self.task.distribution(batch, target, sent(wanted, batch.inputs.values))
        mean, spread = (None if each is None else each.values[0].double().cpu().numpy() for each in answer)
        assert mean is not None
        return mean, spread

    def _finish(
        self, filled: _Filled, stretch: Stretch, times: Seconds, month: NDArray[np.int64]
    ) -> dict[str, NDArray[Any]]:
        """Return what is written of a stretch."""
        first = self.months - stretch.written
        asked_month = month if self.daily else np.arange(self.months)
        kept = np.flatnonzero(asked_month >= first)
        shape = len(kept), *self.layout.grid.shape
        flag = np.empty(shape, dtype=np.int8)
        variables: dict[str, NDArray[Any]] = {}
        for channel in self.layout.targets:
            variables[str(channel)] = np.full(shape, np.nan, dtype=np.float32)
            if filled.spread is not None:
                variables[f"{channel}{DEVIATION}"] = np.full(shape, np.nan, dtype=np.float32)
        # Time by time, so that no further copy of a month of days is held.
        for place, position in enumerate(kept.tolist()):
            weight = filled.weight[asked_month[position]]
            flag[place] = np.where(self.sea, np.where(weight > 0, FILLED, UNOBSERVED), ON_LAND)
            known = flag[place] == FILLED
            for number, channel in enumerate(self.layout.targets):
                variables[str(channel)][place][known] = filled.value[position, number][known] / weight[known]
                if filled.spread is not None:
                    own = filled.spread[position, number][known] / weight[known]
                    variables[f"{channel}{DEVIATION}"][place][known] = own
        for channel in self.layout.targets:
            if (flag == UNOBSERVED).any() and self.empty == "climatology" and channel in self.store.channels:
                usual = self._usual(channel, times, month, asked_month[kept])
                variables[str(channel)][flag == UNOBSERVED] = usual[flag == UNOBSERVED]
            if channel in self.counted:
                count = filled.count[:, self.counted.index(channel)]
                variables[f"{channel}{COUNT}"] = np.where(self.sea, count[asked_month[kept]], 0).astype(np.int32)
            variables[f"{channel}{FLAG}"] = flag
        return variables

    def _usual(
        self, channel: Channel, times: Seconds, month: NDArray[np.int64], kept: NDArray[np.int64]
    ) -> NDArray[np.float64]:
        """Return the seasonal cycle at the times that are written, or its mean over their months."""
        harmonics = self.store.statistics.select([channel]).harmonics
        assert harmonics is not None
        rows, columns = self.store.locate(self.layout.grid)
        cycle = harmonics[:, 0, rows][:, :, columns].astype(np.float64)
        terms = seasonal_terms(times, self.store.calendar)
        if not self.daily:
            terms = np.stack([terms[month == number].mean(axis=0) for number in kept])
        else:
            terms = terms[month >= kept.min()]
        return np.asarray(np.tensordot(terms, cycle, 1))

    def describe(self, times: Seconds, members: int | None) -> xr.Dataset:
        """Return the store to write without its values."""
        grid = self.layout.grid
        dims = ("time", "latitude", "longitude")
        variables: dict[str, Any] = {}
        kinds: dict[str, tuple[Any, Any]] = {"": (np.float32, np.nan), COUNT: (np.int32, 0), FLAG: (np.int8, 1)}
        if self.task.network.gives_variance:
            kinds[DEVIATION] = np.float32, np.nan
        units = channel_units(self.task, [self.store])
        for channel in self.layout.targets:
            for suffix, (kind, nothing) in kinds.items():
                if suffix == COUNT and channel not in self.counted:
                    continue
                attributes = filled_attributes(units[channel], channel, suffix, "daily" if self.daily else "monthly")
                several = () if members is None or suffix else (members,)
                shape, chunks = (len(times), *several, *grid.shape), (1, *(1 for _ in several), *grid.shape)
                values = dask.array.full(shape, nothing, dtype=kind, chunks=chunks)
                variables[f"{channel}{suffix}"] = (dims[0], *(MEMBER for _ in several), *dims[1:]), values, attributes
        axes: dict[str, Any] = {} if members is None else {MEMBER: np.arange(members)}
        axes["time"] = "time", decode_time(times, self.store.calendar), {"standard_name": "time"}
        said = {"Conventions": "CF-1.11", "source": f"gaps of {self.store.path}"} | planet_of(self.store.dataset)
        return xr.Dataset(variables, axes | coordinates(grid, ()), said)
