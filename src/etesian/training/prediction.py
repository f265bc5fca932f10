"""What trained networks say of the times of a store, streamed to disk: complete or not there, resumable."""

import json
import math
import shutil
from collections.abc import Callable, Iterable, Mapping
from contextlib import closing
from dataclasses import replace
from functools import cached_property, partial
from typing import Any

import dask.array
import numpy as np
import xarray as xr
from numpy.typing import NDArray
from rich.progress import track

from etesian.core import Channel, Fields, Grid, Layout
from etesian.core.channels import AVERAGING_HOURS
from etesian.core.clock import decode_time
from etesian.core.constants import SECONDS_PER_HOUR
from etesian.core.dataset import CONVENTIONS, LEAD, MEMBER, attributes, coordinates, forecast_times, levels_of
from etesian.core.errors import DataError
from etesian.core.points import AtPoints
from etesian.core.resumable import ResumableStore
from etesian.core.workers import Workers
from etesian.samples.windows import Period, exists, given_side
from etesian.store.select import refuse_beyond
from etesian.store.states import States

Answer = Callable[[NDArray[np.int64], list[int]], Iterable[Fields]]
"""From initial times, and the member that each is for, to predictions."""

CHUNK_BYTES = 8 * 2**20
"""Of the leads of one variable that are written together, if there is more than one."""


def initial_times(store: States, history: tuple[int, ...], period: Period, every: int) -> NDArray[np.int64]:
    """Return the times of a store from which a prediction can start.

    Args:
        store: that holds the states.
        history: hours of the states that a prediction starts from.
        period: first and last initial time.
        every: hours between initial times.

    Raises:
        DataError: if there is none, or the period reaches beyond the times of the store.
    """
    first, last = period.seconds(store.calendar)
    everywhere = np.ones(len(store.time), dtype=bool)
    usable = exists(store, history, everywhere) & (store.time >= first) & (store.time <= last)
    found = store.time[usable]
    if found.size:
        found = found[(found - found[0]) % (every * SECONDS_PER_HOUR) == 0]
    if not found.size:
        ends = decode_time(store.time[[0, -1]], store.calendar)
        raise DataError(
            f"{store.path} has no initial time with states at {list(history)} h in {period.start} to {period.end}; "
            f"it holds {ends[0]!s:.16} to {ends[1]!s:.16}"
        )
    refuse_beyond(store.path, store.time, store.calendar, *period)
    return found


def starting_side(layout: Layout) -> Layout:
    """Return what of a layout is read to start from, without what is to be predicted."""
    return replace(given_side(layout), targets=layout.inputs, forcings=(), boundary=0)


class PredictionWriter(ResumableStore):
    """Writes what is predicted from one initial time after another, in WeatherBench 2's layout.

    Blocks of work are the predictions from one initial time; of an ensemble those of one member.

    Args:
        path: of the Zarr store to make.
        channels: to write.
        grid: of the predictions.
        initial: initial times, seconds since 1970-01-01 in `calendar`.
        leads: hours after the initial time; None for fields at the times themselves, which then have no lead.
        calendar: of the times.
        source: what the predictions are made from, as plain data; an unfinished attempt from others is discarded.
        units: of the channels; those of the catalogue where nothing is said.
        planet: what `planet_of` told of the data that the predictions are made from.
        averaging_hours: predictions are means over so many hours up to the lead; None for states at the lead.
        members: of the ensemble from each initial time; None for one prediction without a dimension for it.
        at: points at which predictions are written, in place of maps.
        overwrite: replace an existing store when the new one is complete.

    Raises:
        DataError: if the store exists and may not be replaced.
    """

    def __init__(
        self,
        path: str,
        channels: tuple[Channel, ...],
        grid: Grid,
        initial: NDArray[np.int64],
        leads: tuple[int, ...] | None,
        calendar: str,
        source: dict[str, Any],
        *,
        units: Mapping[Channel, str] | None = None,
        planet: Mapping[str, str] | None = None,
        averaging_hours: int | None = None,
        members: int | None = None,
        at: AtPoints | None = None,
        overwrite: bool = False,
    ) -> None:
        self.members, self.at = members, at
        self.initial, self.has_leads = initial, leads is not None
        # A plan without leads says 0, as it did when such stores were first made: they are still the same.
        self.leads = [0] if leads is None else list(leads)
        source = json.loads(json.dumps(source))
        plan = {
            "channels": [str(c) for c in channels],
            "grid": grid.to_dict(),
            "initial": initial.tolist(),
            "leads": self.leads,
            "calendar": calendar,
            "source": source,
            "averaging_hours": averaging_hours,
        }
        if members is not None:
            plan["members"] = members
        if at is not None:
            plan["at"] = at.points.to_dict() | {"lapse_rate": at.lapse_rate}

        def describe() -> xr.Dataset:
            template = _template(channels, grid, decode_time(initial, calendar), leads, units or {}, members, at)
            template.attrs |= {"source": json.dumps(source)} | dict(planet or {})
            if averaging_hours is not None:
                for name in template.data_vars:
                    template[name].attrs[AVERAGING_HOURS] = averaging_hours
            return template

        super().__init__(path, "forecasts", plan, describe, overwrite=overwrite)
        if self.is_complete:
            return
        self.has_numbers = False
        self.levels = {c.name: levels_of(channels, c.name) for c in channels}
        every = sorted({c.level for c in channels if c.level is not None})
        self.level_positions = {
            name: [every.index(level) for level in own if level is not None] for name, own in self.levels.items()
        }

    @cached_property
    def arrays(self) -> dict[str, Any]:
        """The arrays in the making, by name."""
        return {name: self.group[name] for name in self.levels}

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in super().__getstate__().items() if name != "arrays"}

    def write_all(
        self,
        build: Callable[[], Answer],
        batch_size: int,
        label: str,
        *,
        members_apart: bool = False,
        workers: Workers | None = None,
    ) -> None:
        """Write what is left to be written, and give the complete store its name.

        Args:
            build: makes what returns the predictions from some initial times, parts of the leads one after the other.
            batch_size: predictions at once.
            label: of the progress bar.
            members_apart: ask for one member at a time, of as many initial times.
            workers: who predicts, each its own part of the store; see `Workers.each` for `build`.

        Raises:
            DataError: if there is not a single number to write.
        """
        if self.is_complete:
            return
        done = self.done()
        left = [block for block in range(len(self.initial) * (self.members or 1)) if block not in done]
        groups: dict[int, list[int]] = {}
        for block in left:
            groups.setdefault(block % (self.members or 1) if members_apart else 0, []).append(block)
        blocks = [
            group[start : start + batch_size] for group in groups.values() for start in range(0, len(group), batch_size)
        ]
        # Closed at once when the work is interrupted, while there still is a cluster whose work can be cancelled.
        with closing((workers or Workers()).each(partial(_with_answer, self, build), _write_answer, blocks)) as made:
            for some, has_numbers in track(zip(blocks, made, strict=True), label, len(blocks), disable=len(blocks) < 2):
                self.has_numbers = self.has_numbers or has_numbers
                self.mark(some)
        self.finish()

    def cases(self, blocks: list[int]) -> tuple[NDArray[np.int64], list[int]]:
        """Return the initial times and members of some blocks."""
        times, numbers = zip(*(divmod(block, self.members or 1) for block in blocks), strict=True)
        return self.initial[list(times)], list(numbers)

    def _place(self, block: int) -> tuple[int, ...]:
        """Return the index of a block in the leading dimensions of an array."""
        return (block,) if self.members is None else divmod(block, self.members)

    def write(self, blocks: list[int], parts: Iterable[Fields]) -> bool:
        """Write the predictions of some blocks, NaN where they are not valid; return whether there is any number.

        Holds no more than the leads that make a chunk, if they come in order.

        Args:
            blocks: of work.
            parts: predictions at some of the leads each, which hold every lead once.
        """
        waiting: dict[str, dict[int, NDArray[np.float32]]] = {name: {} for name in self.levels}
        initial, _ = self.cases(blocks)
        has_numbers = False
        for fields in parts:
            after = fields.frame.time.cpu().numpy() - initial[:, None]
            leads = (after[0] // SECONDS_PER_HOUR).tolist()
            values = fields.filled(float("nan")).cpu().numpy()
            if self.at is not None:
                values = self.at(values, fields.frame.channels).astype(np.float32)
            has_numbers = has_numbers or bool(np.isfinite(values).any())
            for name, levels in self.levels.items():
                index = [fields.frame.channels.index(Channel(name, level)) for level in levels]
                own = values[:, :, index[0]] if levels == [None] else values[:, :, index]
                waiting[name] |= {self.leads.index(lead): own[:, i] for i, lead in enumerate(leads)}
                self._write_chunks(name, blocks, waiting[name])
        assert not any(waiting.values()), "a prediction must hold every lead"
        return has_numbers

    def finish(self) -> None:
        """Give the complete store its name.

        Raises:
            DataError: if it does not hold a single number; nothing of it is kept then.
        """
        if not (self.has_numbers or self._earlier_numbers()):
            shutil.rmtree(self.partial)
            raise DataError(
                f"the predictions for {self.path} hold not a single number, so nothing was written: the states at all "
                f"{len(self.initial)} initial times are missing, or the weights of the run are of no use"
            )
        super().finish()

    def _earlier_numbers(self) -> bool:
        """Whether an earlier attempt has written any number."""
        return any(
            bool(np.isfinite(array[self._place(block)]).any())
            for array in self.arrays.values()
            for block in self.done()
        )

    def _write_chunks(self, name: str, blocks: list[int], waiting: dict[int, NDArray[np.float32]]) -> None:
        """Write and forget what makes whole chunks of leads."""
        array, levels = self.arrays[name], self.level_positions[name]
        if not self.has_leads:
            for row, block in enumerate(blocks):
                maps = np.full(array.shape[len(self._place(block)) :], np.nan, dtype=np.float32)
                maps[levels or slice(None)] = waiting[0][row]
                array[self._place(block)] = maps
            del waiting[0]
            return
        axis = len(self._place(0))
        together = array.chunks[axis]
        for start in range(0, len(self.leads), together):
            leads = range(start, min(start + together, len(self.leads)))
            if not all(lead in waiting for lead in leads):
                continue
            for row, block in enumerate(blocks):
                maps = np.full((len(leads), *array.shape[axis + 1 :]), np.nan, dtype=np.float32)
                maps[:, levels or slice(None)] = np.stack([waiting[lead][row] for lead in leads])
                array[*self._place(block), start : leads.stop] = maps
            for lead in leads:
                del waiting[lead]


def _with_answer(writer: PredictionWriter, build: Callable[[], Answer]) -> tuple[PredictionWriter, Answer]:
    return writer, build()


def _write_answer(job: tuple[PredictionWriter, Answer], blocks: list[int]) -> bool:
    writer, answer = job
    return writer.write(blocks, answer(*writer.cases(blocks)))


def _template(
    channels: tuple[Channel, ...],
    grid: Grid,
    initial: NDArray[Any],
    leads: tuple[int, ...] | None,
    units: Mapping[Channel, str],
    members: int | None,
    at: AtPoints | None,
) -> xr.Dataset:
    """Describe the store without any values."""
    times: dict[str, Any] = {"time": ("time", initial, {"standard_name": "time"})}
    if leads is not None:
        times = forecast_times(initial, np.array(leads, dtype=np.int64) * SECONDS_PER_HOUR)
    if members is not None:
        time, *after = times.items()
        times = dict([time, (MEMBER, (MEMBER, np.arange(members), {"standard_name": "realization"})), *after])
    known = {**times, **coordinates(grid, channels)}
    horizontal: tuple[str, ...] = ("latitude", "longitude")
    if at is not None:
        known |= at.points.coordinates()
        horizontal = ("station",)
    variables = {}
    for name in dict.fromkeys(c.name for c in channels):
        on_levels = levels_of(channels, name) != [None]
        dims = (*times, *(("level",) if on_levels else ()), *horizontal)
        shape = tuple(len(known[dim][1]) for dim in dims)
        together = max(1, min(len(leads or (0,)), CHUNK_BYTES // (4 * math.prod(shape[len(times) :]))))
        leading = [together if dim == LEAD else 1 for dim in times]
        chunks = (*leading, *shape[len(times) :])
        values = dask.array.full(shape, np.nan, dtype=np.float32, chunks=chunks)
        said = attributes(name, channels, units)
        if at is not None and (height := at.said_of(name)):
            said["height_correction"] = height
        variables[name] = (dims, values, said)
    return xr.Dataset(variables, known, CONVENTIONS | _outside(at))


def _outside(at: AtPoints | None) -> dict[str, str]:
    """Name the points that predictions say nothing of."""
    left = [] if at is None else [name for name, inside in zip(at.points.names, at.inside, strict=True) if not inside]
    return {"stations_outside": ", ".join(left)} if left else {}
