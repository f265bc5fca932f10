"""Forecasts from a trained run or a baseline, streamed to disk."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from rich.progress import track

from etesian.core import Channel, Fields, Layout
from etesian.core.clock import decode_time
from etesian.core.constants import SECONDS_PER_HOUR
from etesian.core.errors import DataError, RecipeError
from etesian.forecast.task import ForecastTask
from etesian.forecast.writer import ForecastWriter
from etesian.networks.network import shares
from etesian.samples.windows import Period, WindowReader, exists, given_side
from etesian.store.reader import Store, observed_targets
from etesian.store.states import States
from etesian.training.task import Task, channel_units


def forecast(task: Task, reader: WindowReader, initial: NDArray[np.int64], leads: tuple[int, ...]) -> Fields:
    """Forecast from some initial times.

    Args:
        task: a trained task.
        reader: of the store that holds the initial states.
        initial: seconds since 1970-01-01 in the store's calendar.
        leads: hours after the initial time.

    Returns:
        Fields in physical units; the time axis holds the leads.
    """
    batch = reader.start(initial).to(task.device)
    return task.predict(batch, task.target_frame(batch, leads))


def initial_times(store: States, history: tuple[int, ...], period: Period, every: int) -> NDArray[np.int64]:
    """Return the times of a store from which a forecast can start.

    Args:
        store: that holds the initial states.
        history: hours of the states that a forecast starts from.
        period: first and last initial time.
        every: hours between initial times.

    Raises:
        DataError: if there is none.
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
    return found


def predict_to(
    task: Task | Mapping[int, Task],
    store: States,
    path: str,
    initial: NDArray[np.int64],
    leads: tuple[int, ...],
    *,
    source: dict[str, object],
    encoder: str | None = None,
    blend: Mapping[str, States] | None = None,
    weights: Sequence[float] = (),
    batch_size: int = 16,
    overwrite: bool = False,
    label: str = "forecasting",
) -> None:
    """Write forecasts in WeatherBench 2's layout; run again after an interruption, it goes on.

    Args:
        task: a trained task, or the one that answers each lead.
        store: that holds the initial states.
        path: of the Zarr store to make.
        initial: seconds since 1970-01-01 in the store's calendar.
        leads: hours after the initial time.
        source: what the forecasts are made from, as plain data.
        encoder: name of the source of the initial states, where the run has an encoder for each.
        blend: further stores with states of the same times, by the name of their source, to blend in the latent.
        weights: of the store and the further ones, of any sum; by default the same.
        batch_size: initial times at once.
        overwrite: replace an existing store when the new one is complete.
        label: of the progress bar.

    Raises:
        GridError: if the store lies on another grid than the run.
        ChannelError: if the store lacks a channel that the run needs.
        RecipeError: if the tasks for different leads predict different things, or a lead is beyond training.
        DataError: if the path exists and may not be replaced, the store has a channel in other units than the run was
            trained on, or there is not a single number to write.
    """
    parts = [(task, leads)] if isinstance(task, Task) else [(task[lead], (lead,)) for lead in leads]
    analyses = [(encoder, store), *(blend or {}).items()]
    readers = [[WindowReader(given, _given(each, name)) for name, given in analyses] for each, _ in parts]
    if weights:
        shares(weights)
    if weights and len(weights) != len(analyses):
        raise RecipeError(f"weights {list(weights)} must be {len(analyses)} numbers, one for each store")
    first = parts[0][0]
    units: dict[Channel, str] = {}
    for each, asked in parts:
        if isinstance(each, ForecastTask):
            each.check_leads(asked)
            _know_observed(each, store)
        units |= channel_units(each, [given for _, given in analyses])
    targets, grid, averaging = first.layout.targets, first.layout.output_grid, first.provenance.get("average_hours")
    for each, (lead, *_) in parts:
        own = (each.layout.targets, each.layout.output_grid, each.provenance.get("average_hours"))
        if own != (targets, grid, averaging):
            raise RecipeError(
                f"the runs for {leads[0]} h and {lead} h differ in targets, grid or averaging; predict with each alone"
            )
    identity = source | {"store": store.fingerprint}
    if encoder is not None or blend:
        given = {str(name): each.fingerprint for name, each in analyses}
        identity |= {"sources": given, "weights": list(weights)}
    plain = json.loads(json.dumps(identity))
    writer = ForecastWriter(
        path, targets, grid, initial, leads, store.calendar, plain, units=units, averaging_hours=averaging,
        overwrite=overwrite,
    )  # fmt: skip
    if writer.is_complete:
        return
    done = writer.done()
    left = [i for i in range(len(initial)) if i not in done]
    blocks = [left[start : start + batch_size] for start in range(0, len(left), batch_size)]
    for block in track(blocks, description=label, disable=len(blocks) < 2):
        pairs = zip(parts, readers, strict=True)
        writer.write(
            block,
            (part for (each, own), given in pairs for part in stream(each, given, initial[block], own, weights)),
        )
    writer.finish()


def _know_observed(task: ForecastTask, store: States) -> None:
    """Let a run whose checkpoint does not tell where its targets were ever observed ask the store with the states."""
    layout = task.layout
    known = task.observed is not None or "stores" not in task.provenance or layout.target_grid is not None
    if isinstance(store, Store) and not known:
        task.know_observed(observed_targets([store], layout, layout.targets))


def _given(task: Task, source: str | None) -> Layout:
    """Return what a forecast of a task starts from, without what it is to predict."""
    layout = given_side(task.network.layout_of(source))
    return replace(layout, targets=layout.inputs)


def stream(
    task: Task,
    readers: Sequence[WindowReader],
    initial: NDArray[np.int64],
    leads: tuple[int, ...],
    weights: Sequence[float] = (),
) -> Iterator[Fields]:
    """Forecast from some initial times, one part of the leads after the other.

    Args:
        task: a trained task.
        readers: of the stores that hold the initial states, blended if they are several.
        initial: seconds since 1970-01-01 in the stores' calendar.
        leads: hours after the initial time.
        weights: of the stores.
    """
    first, *others = [reader.start(initial).to(task.device) for reader in readers]
    return task.forecast(first, leads, others, weights)
