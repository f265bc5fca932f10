"""Forecasts from a trained run or a baseline, streamed to disk."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from etesian.core import Batch, Channel, Fields, Grid, Layout
from etesian.core.constants import SECONDS_PER_HOUR
from etesian.core.dataset import planet_of
from etesian.core.errors import DataError, GridError, RecipeError
from etesian.core.points import AtPoints, Points
from etesian.core.workers import Workers
from etesian.forecast.perturbations import Perturbation, Read, prepared
from etesian.forecast.task import ForecastTask
from etesian.networks.network import shares
from etesian.samples.forcings import Driving, Forcings
from etesian.samples.windows import WindowReader
from etesian.store.reader import Store, observed_targets
from etesian.store.states import States
from etesian.training.ensemble_task import members_of
from etesian.training.members import DEFAULT_MEMBERS, MemberNoise, Noise
from etesian.training.prediction import Answer, PredictionWriter, starting_side
from etesian.training.task import Task, channel_units


def _start(
    task: Task, reader: WindowReader, initial: NDArray[np.int64], leads: Sequence[int], known: Forcings | None
) -> Batch:
    """Read what forecasts start from, with what is known on their way."""
    batch = reader.start(initial)
    if known is not None:
        batch = replace(batch, forcings=known.at(initial, _times_known(task, initial, leads)))
    return batch.to(task.device)


def _times_known(task: Task, initial: NDArray[np.int64], leads: Sequence[int]) -> NDArray[np.int64]:
    """Return the times at which forcings are needed."""
    hours = task.hours_known(leads) if isinstance(task, ForecastTask) else leads
    return np.asarray(initial[:, None] + np.array(hours, dtype=np.int64) * SECONDS_PER_HOUR)


@dataclass(frozen=True)
class Analyses:
    """From which sources the states come, where a run has an encoder for each.

    Attributes:
        source: of the states in the store; None where the run does not tell sources apart.
        beside: further stores with states of the same times, by the name of their source, to blend in the latent.
        weights: of the store and the further ones, of any sum; by default the same.
    """

    source: str | None = None
    beside: Mapping[str, States] = field(default_factory=dict)
    weights: Sequence[float] = ()


Tasks = Task | Mapping[int, Task]
"""A trained task, or the one that answers each lead."""


@dataclass(frozen=True)
class _Plan:
    """What forecasts are made from beside the tasks; it travels to the workers of a cluster.

    Attributes:
        store: that holds the initial states.
        initial: initial times of all forecasts.
        leads: hours after the initial time.
        readers: of the initial states, for each task.
        ahead: reads what is known on the way, for each task that needs it.
        weights: of the stores.
        members: of the ensemble.
        seed: of the members.
        inflation: of the noise that networks draw; None where they draw none.
        perturbation: how the initial states of members differ.
    """

    store: States
    initial: NDArray[np.int64]
    leads: tuple[int, ...]
    readers: Sequence[Sequence[WindowReader]]
    ahead: Sequence[Forcings | None]
    weights: Sequence[float]
    members: int | None
    seed: int
    inflation: float | None
    perturbation: Perturbation | None


def predict_to(
    task: Tasks,
    store: States,
    path: str,
    initial: NDArray[np.int64],
    leads: tuple[int, ...],
    *,
    source: dict[str, object],
    analyses: Analyses = Analyses(),
    forcings: States | Driving | None = None,
    members: int | None = None,
    seed: int = 0,
    inflation: float = 1.0,
    perturbation: Perturbation | None = None,
    at: Points | None = None,
    lapse_rate: float | None = None,
    batch_size: int = 16,
    overwrite: bool = False,
    label: str = "forecasting",
    workers: Workers | None = None,
    again: Callable[[], Tasks] | None = None,
) -> None:
    """Write forecasts in WeatherBench 2's layout; run again after an interruption, it goes on.

    Args:
        task: a trained task, or the one that answers each lead.
        store: that holds the initial states.
        path: of the Zarr store to make.
        initial: seconds since 1970-01-01 in the store's calendar.
        leads: hours after the initial time.
        source: what the forecasts are made from, as plain data.
        analyses: from which sources the states come.
        forcings: what is known at the target times and not computed; by default the store's own later states.
        members: of an ensemble, where the run was trained for one or states are perturbed; by default
            `DEFAULT_MEMBERS`.
        seed: of the members' noise and perturbations.
        inflation: factor of the networks' noise.
        perturbation: how the initial states of members differ; None lets all start from one.
        at: stations to forecast for, in place of maps.
        lapse_rate: by which 2 m temperatures are brought to the height of stations; see `AtPoints`.
        batch_size: forecasts at once: initial times, or members from them.
        overwrite: replace an existing store when the new one is complete.
        label: of the progress bar.
        workers: who forecasts; by default this process.
        again: makes the tasks anew for each of them; see `Workers.each`.

    Raises:
        GridError: if the store lies on another grid than the run.
        ChannelError: if the store lacks a channel that the run needs.
        RecipeError: if the tasks for different leads predict different things, a lead is beyond training, or members
            are asked for that were not trained.
        DataError: if the path exists and may not be replaced, a store has a channel in other units than the run was
            trained on, forcings are missing at a time that needs them, or states that a perturbation needs, or there
            is not a single number to write.
    """
    parts = _parts(task, leads)
    given = [(analyses.source, store), *analyses.beside.items()]
    readers = [
        [WindowReader(states, starting_side(_on_grid(states, each.network.layout_of(name)))) for name, states in given]
        for each, _ in parts
    ]
    weights = analyses.weights
    if weights:
        shares(weights)
    if weights and len(weights) != len(given):
        raise RecipeError(f"weights {list(weights)} must be {len(given)} numbers, one for each store")
    first = parts[0][0]
    units: dict[Channel, str] = {}
    for each, asked in parts:
        if isinstance(each, ForecastTask):
            each.check_leads(asked)
        units |= channel_units(each, [states for _, states in given])
    trained = members_of([each for each, _ in parts], members if perturbation is None else None, path)
    noisy, members = trained is not None, trained if perturbation is None else members or DEFAULT_MEMBERS
    if not 0 < inflation < math.inf:
        raise RecipeError(f"inflation = {inflation:g} is a factor of the members' noise and must be above 0")
    if inflation != 1 and not noisy:
        raise RecipeError(
            f"inflation = {inflation:g} is of the noise of a run that was trained for members; train one with "
            "--model.init_args.members 2, or leave it out"
        )
    targets, averaging = first.layout.targets, first.provenance.get("average_hours")
    grid = _on_grid(store, first.layout).predicted_grid
    ahead = [_known(each, asked, store, initial, forcings) for each, asked in parts]
    if perturbation is not None:
        if len(given) > 1:
            raise RecipeError("members whose states are perturbed start from one analysis; leave out blend, or perturb")
        perturbation = perturbation.settled(first)
    plan = _Plan(
        store, initial, leads, readers, ahead, weights, members, seed, inflation if noisy else None, perturbation
    )
    here = _answering(lambda: task, plan)
    if perturbation is not None:
        for (each, asked), known in zip(parts, ahead, strict=True):
            if known is not None:
                _check_earlier(each, asked, known, initial, perturbation, members or 1)
    for each, (lead, *_) in parts:
        own = (each.layout.targets, _on_grid(store, each.layout).predicted_grid, each.provenance.get("average_hours"))
        if own != (targets, grid, averaging):
            raise RecipeError(
                f"the runs for {leads[0]} h and {lead} h differ in targets, grid or averaging; predict with each alone"
            )
    identity = source | {"store": store.fingerprint} | ({} if members is None else {"seed": seed})
    if inflation != 1:
        identity |= {"inflation": inflation}
    if analyses.source is not None or analyses.beside:
        sources = {str(name): states.fingerprint for name, states in given}
        identity |= {"sources": sources, "weights": list(weights)}
    if perturbation is not None:
        identity |= {"perturb": perturbation.plan()}
    if forcings is not None:
        if not any(known is not None and known.read for known in ahead):
            raise RecipeError(f"the run reads nothing of the target times, but {forcings.path} is given as forcings")
        identity |= {"forcings": forcings.fingerprint}
    writer = PredictionWriter(
        path, targets, grid, initial, leads, store.calendar, identity, units=units, averaging_hours=averaging,
        planet=planet_of(store.dataset), members=members, overwrite=overwrite,
        at=None if at is None else AtPoints(grid, at, _statics(store, grid), lapse_rate),
    )  # fmt: skip

    elsewhere = workers is not None and workers.elsewhere
    build = partial(_answering, again, plan) if elsewhere and again is not None else lambda: here
    lagged = perturbation is not None and perturbation.kind == "lagged"
    writer.write_all(build, batch_size, label, members_apart=lagged, workers=workers)


def _parts(task: Tasks, leads: tuple[int, ...]) -> list[tuple[Task, tuple[int, ...]]]:
    return [(task, leads)] if isinstance(task, Task) else [(task[lead], (lead,)) for lead in leads]


def _answering(make: Callable[[], Tasks], plan: _Plan) -> Answer:
    """Return what forecasts from initial times by the tasks that are made.

    Raises:
        RecipeError, DataError: if states cannot be perturbed as the plan has it.
    """
    parts, perturbation, seed = _parts(make(), plan.leads), plan.perturbation, plan.seed
    starts = []
    for (each, own), (reader, *_), known in zip(parts, plan.readers, plan.ahead, strict=True):
        if isinstance(each, ForecastTask):
            _know_observed(each, plan.store)
        read = _reading(each, reader, known)
        starts.append(
            None if perturbation is None
            else prepared(perturbation, seed, each, own, plan.store, read, plan.initial, plan.members or 1)
        )  # fmt: skip

    def answer(times: NDArray[np.int64], numbers: list[int]) -> Iterator[Fields]:
        noise = None if plan.inflation is None else MemberNoise(seed, times.tolist(), numbers, plan.inflation)
        # Of lagged members, which are asked for one at a time.
        late = 0 if perturbation is None else perturbation.lag(numbers[0])
        begin = times - late * SECONDS_PER_HOUR
        for (each, own), reading, known, states in zip(parts, plan.readers, plan.ahead, starts, strict=True):
            hours = tuple(lead + late for lead in own)
            start = None if states is None else partial(states.start, begin, numbers, hours)
            yield from stream(each, reading, begin, hours, plan.weights, noise, known, start)

    return answer


def _reading(task: Task, reader: WindowReader, known: Forcings | None) -> Read:
    """Return what reads a task's initial states at some times, with what is known on the way to some leads."""
    return lambda initial, leads: _start(task, reader, initial, leads, known)


def _statics(store: States, grid: Grid) -> dict[str, NDArray[np.float32]]:
    """Return the static fields of a store on a grid that is its own or a part of it."""
    rows, columns = store.locate(grid)
    names = [channel.name for channel in store.static_channels]
    return {name: store.statics[number][rows][:, columns] for number, name in enumerate(names)}


def _known(
    task: Task, leads: Sequence[int], store: States, initial: NDArray[np.int64], given: States | Driving | None
) -> Forcings | None:
    """Return the reader of a task's forcings, None where it has none, having seen that all is there."""
    if not task.layout.forcings:
        return None
    known = Forcings(given or store, _on_grid(store, task.layout), store.calendar)
    trained: dict[str, str] = task.provenance.get("units", {})
    for channel in known.read:
        ours, theirs = trained.get(str(channel), ""), known.source.units.get(channel, "")
        if ours and theirs and ours != theirs:
            raise DataError(f"'{channel}' is in {theirs} in {known.source.path}, but the run knows it in {ours}")
    known.check(initial, _times_known(task, initial, leads))
    return known


def _check_earlier(
    task: Task,
    leads: Sequence[int],
    known: Forcings,
    initial: NDArray[np.int64],
    perturbation: Perturbation,
    members: int,
) -> None:
    """See that what is known ahead is so for the earlier states as well that perturbed members need."""
    for late in perturbation.earlier(members):
        begin = initial - late * SECONDS_PER_HOUR
        hours = [perturbation.interval or 0] if perturbation.kind == "bred" else [lead + late for lead in leads]
        known.check(begin, _times_known(task, begin, hours))


def _on_grid(states: States, layout: Layout) -> Layout:
    """Return a layout on the one of its grids that states lie on.

    Raises:
        GridError: if the layout has several grids, and the states are on none of them.
    """
    if not layout.other_grids:
        return layout
    for grid in (layout.grid, *layout.other_grids):
        if grid == states.grid:
            return replace(layout, grid=grid, other_grids=())
    known = " and ".join(map(str, (layout.grid, *layout.other_grids)))
    raise GridError(f"{states.path} lies on {states.grid}, the run on {known}; regrid it with `etesian prepare --grid`")


def _know_observed(task: ForecastTask, store: States) -> None:
    """Let a run whose checkpoint does not tell where its targets were ever observed ask the store with the states."""
    layout = task.layout
    known = task.observed is not None or "stores" not in task.provenance or layout.target_grid is not None
    known = known or bool(layout.other_grids)
    if isinstance(store, Store) and not known:
        task.know_observed(observed_targets([store], layout, layout.targets))


def stream(
    task: Task,
    readers: Sequence[WindowReader],
    initial: NDArray[np.int64],
    leads: tuple[int, ...],
    weights: Sequence[float] = (),
    noise: Noise | None = None,
    known: Forcings | None = None,
    start: Callable[[], Batch] | None = None,
) -> Iterator[Fields]:
    """Forecast from some initial times, one part of the leads after the other.

    Args:
        task: a trained task.
        readers: of the stores that hold the initial states, blended if they are several.
        initial: seconds since 1970-01-01 in the stores' calendar.
        leads: hours after the initial time.
        weights: of the stores.
        noise: of each forecast, where members were trained.
        known: reads the forcings, where the task has any.
        start: gives the states in place of the first reader.
    """
    with task.answering():
        first = _start(task, readers[0], initial, leads, known) if start is None else start()
    others = [reader.start(initial).to(task.device) for reader in readers[1:]]
    if noise is None:
        parts = iter(task.forecast(first, leads, others, weights))
    else:
        assert isinstance(task, ForecastTask)
        parts = iter(task.forecast(first, leads, others, weights, noise))
    while True:
        # Not around the loop, where it would hold for whoever takes the parts as well.
        with task.answering():
            part = next(parts, None)
        if part is None:
            return
        yield part.inside(task.layout.boundary)
