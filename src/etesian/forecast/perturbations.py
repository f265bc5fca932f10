"""Members of any run by initial states that differ: by noise, by bred vectors, or by an earlier initial time.

Member 0 is the control, which starts from the state as it is. What is added to the others follows from the seed, the
initial time, the member and the channel alone, so that forecasts are the same however the work is divided.
"""

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from etesian.core import Batch, Channel, Fields, Grid
from etesian.core.channels import CATALOGUE
from etesian.core.clock import decode_time
from etesian.core.constants import EARTH_RADIUS, SECONDS_PER_HOUR
from etesian.core.device import positions, sent
from etesian.core.errors import DataError, RecipeError, suggest
from etesian.core.sphere import spherical_harmonics
from etesian.forecast.task import ForecastTask
from etesian.store.reader import Store
from etesian.store.states import States
from etesian.training.task import Task

Change = Float[Tensor, "batch time changed lat lon"]
"""What is added to the channels that are perturbed, in physical units."""

Read = Callable[[NDArray[np.int64], Sequence[int]], Batch]
"""From initial times and leads to states on the device of the run, with what is known on the way."""

Kind = Literal["gaussian", "correlated", "bred", "lagged"]

AMPLITUDE, LENGTH, CYCLES = 0.1, 1000.0, 5
"""By default: standard deviations of anomalies, km, and cycles of breeding."""

_RESOLVED = 0.05
"""Share of the largest waves' variance that the smallest ones may have, for a length to be resolved."""

_STREAM = 2**31
"""Keeps these numbers apart from a network's noise, whose steps are counted from 0."""


@dataclass(frozen=True)
class Perturbation:
    """How the initial states of members differ from the control.

    Attributes:
        kind: `gaussian`: white noise at every grid point. `correlated`: noise whose correlation at a distance d on the
            sphere is exp(−d²/2L²), of each channel by itself. `bred`: what the run itself makes of white noise that it
            forecasts for some cycles, scaled back after each (Toth and Kalnay 1993, BAMS 74, 2317). `lagged`: the state
            of an earlier time; the leads are as much longer.
        amplitude: root mean square of what is added, in standard deviations of each channel's anomalies from the
            seasonal cycle; of bred vectors that over all channels.
        length: L, km.
        interval: hours between the initial times of lagged members, or of a cycle of breeding; by default a step of the
            run, or its shortest lead.
        cycles: of breeding before the initial time.

    Raises:
        RecipeError: if there is no such kind, an option is for another one, or a number makes no sense.
    """

    kind: str
    amplitude: float | None = None
    length: float | None = None
    interval: int | None = None
    cycles: int | None = None

    def __post_init__(self) -> None:
        if self.kind not in get_args(Kind):
            raise RecipeError(f"there is no perturb: {self.kind}{suggest(self.kind, get_args(Kind))}")
        kinds = {
            "amplitude": ("gaussian", "correlated", "bred"),
            "length": ("correlated",),
            "interval": ("bred", "lagged"),
            "cycles": ("bred",),
        }
        for name, takes in kinds.items():
            given = getattr(self, name)
            if given is None:
                continue
            if self.kind not in takes:
                raise RecipeError(f"{name} is for perturb: {' and '.join(takes)}, not for {self.kind}; leave it out")
            if not given > 0:
                raise RecipeError(f"{name} = {given:g} must be above 0")

    def settled(self, task: Task) -> "Perturbation":
        """Return it with the options that were left open as a run has it.

        Raises:
            RecipeError: if the run does not tell how long its steps are.
        """
        chosen: dict[str, Any] = {}
        if self.kind != "lagged":
            chosen["amplitude"] = AMPLITUDE if self.amplitude is None else self.amplitude
        if self.kind == "correlated":
            chosen["length"] = LENGTH if self.length is None else self.length
        if self.kind == "bred":
            chosen["cycles"] = CYCLES if self.cycles is None else self.cycles
        if self.kind in ("bred", "lagged"):
            chosen["interval"] = _interval(task) if self.interval is None else self.interval
        return replace(self, **chosen)

    def plan(self) -> dict[str, Any]:
        """Return it as plain data."""
        options = {name: getattr(self, name) for name in ("kind", "amplitude", "length", "interval", "cycles")}
        return {name: value for name, value in options.items() if value is not None}

    def lag(self, number: int) -> int:
        """Return how many hours before the initial time a member starts."""
        return number * (self.interval or 0) if self.kind == "lagged" else 0

    def earlier(self, members: int) -> list[int]:
        """Return how many hours before the initial time states are needed that the control does without."""
        count = {"bred": (self.cycles or 0) + 1, "lagged": members}.get(self.kind, 1)
        return [number * (self.interval or 0) for number in range(1, count)]


def asked_for(perturb: str | None, **options: Any) -> Perturbation | None:
    """Return the perturbation that is asked for by options, None where none is.

    Raises:
        RecipeError: if there is no such kind, an option is for another one, or for none.
    """
    if perturb is not None:
        return Perturbation(perturb, **options)
    if idle := [name for name, value in options.items() if value is not None]:
        raise RecipeError(f"{idle[0]} is for perturbed states; give perturb as well, such as gaussian, or leave it out")
    return None


def _interval(task: Task) -> int:
    leads = [int(lead) for lead in task.provenance.get("leads", ())]
    step = task.step_hours if isinstance(task, ForecastTask) else None
    if step is None and not leads:
        raise RecipeError("the run does not tell how long its steps are; give interval, in hours")
    return step or min(leads)


def prepared(
    perturbation: Perturbation,
    seed: int,
    task: Task,
    leads: Sequence[int],
    store: States,
    read: Read,
    initial: NDArray[np.int64],
    members: int,
) -> "Perturbed":
    """Return what starts the members of a run, of which all that they need is there.

    Args:
        perturbation: settled.
        seed: of the ensemble.
        task: trained.
        leads: hours after the initial time that are asked for.
        store: with the states.
        read: reads them.
        initial: initial times, seconds since 1970-01-01.
        members: how many.

    Raises:
        RecipeError: if the run cannot have the leads of its members, or there is nothing that could be perturbed.
        DataError: if the store lacks a state, or the size of anomalies is not known.
    """
    if not isinstance(task, ForecastTask):
        raise RecipeError(f"{type(task).__name__} makes no forecasts from states that could be perturbed")
    task.check_leads([lead + perturbation.lag(number) for number in range(members) for lead in leads])
    if perturbation.kind == "bred":
        task.check_leads([perturbation.interval or 0])
    _check_times(store, initial, task.layout.history, perturbation.earlier(members))
    std = {} if perturbation.kind == "lagged" else anomaly_std(task, store)
    return Perturbed(perturbation, seed, task, read, std)


def _check_times(store: States, initial: NDArray[np.int64], history: Sequence[int], before: Sequence[int]) -> None:
    hours = np.array(sorted({hour - lag for hour in history for lag in before}, reverse=True), dtype=np.int64)
    needed = initial[:, None] + hours * SECONDS_PER_HOUR
    if (lacking := ~np.isin(needed, store.time)).any():
        row, column = np.argwhere(lacking)[0]
        first, lacks = (decode_time(np.array([t]), store.calendar)[0] for t in (initial[row], needed[row, column]))
        raise DataError(
            f"members from {first!s:.16} need the state of {lacks!s:.16}, which {store.path} does not hold; begin with "
            "a later --init, or take fewer --members or --cycles, or another --interval"
        )


@dataclass(frozen=True)
class Perturbed:
    """Adds to the initial states of members what tells them apart.

    Attributes:
        perturbation: what is added.
        seed: of the ensemble.
        task: that forecasts, by which vectors are bred.
        read: reads states at some times, and what is known on the way to some leads.
        std: standard deviation of the anomalies of each input that the run predicts.
    """

    perturbation: Perturbation
    seed: int
    task: ForecastTask
    read: Read
    std: dict[Channel, float]

    def start(self, times: NDArray[np.int64], numbers: Sequence[int], leads: Sequence[int]) -> Batch:
        """Return the initial states of some members.

        Args:
            times: initial time of each, seconds since 1970-01-01.
            numbers: of the members.
            leads: hours that will be asked for.
        """
        batch = self.read(times, leads)
        if self.perturbation.kind == "lagged":
            return batch
        if self.perturbation.kind == "bred":
            return self._added(batch, self._bred(batch, times, numbers))
        return self._added(batch, self._drawn(batch.inputs, times, numbers))

    def _added(self, batch: Batch, change: Change) -> Batch:
        """Return a batch with something added to the channels that are perturbed, at all times of its history."""
        inputs = batch.inputs
        places = positions([inputs.frame.channels.index(c) for c in self.std], inputs.values.device)
        given = inputs.values.index_select(2, places)
        limits = [CATALOGUE[c.name].limits if c.name in CATALOGUE else (None, None) for c in self.std]
        lower = given.new_tensor([-torch.inf if low is None else low for low, _ in limits])[:, None, None]
        upper = given.new_tensor([torch.inf if high is None else high for _, high in limits])[:, None, None]
        # Nature's limits hold, such as humidity that is not negative; the control stays as it is, whatever it holds.
        changed = torch.where(change == 0, given, (given + change).clamp(lower, upper))
        values = inputs.values.index_copy(2, places, changed)
        if inputs.valid is not None:
            values = torch.where(inputs.valid, values, inputs.values)
        return replace(batch, inputs=replace(inputs, values=values))

    def _drawn(self, inputs: Fields, times: NDArray[np.int64], numbers: Sequence[int]) -> Change:
        """Return noise in physical units, none for the control."""
        grid, amplitude = inputs.frame.grid, self.perturbation.amplitude or 0.0
        nothing = np.zeros((len(self.std), *grid.shape))
        rows = [
            self._noise(grid, int(time), number) if number else nothing
            for time, number in zip(times, numbers, strict=True)
        ]
        scale = np.array(list(self.std.values()))[:, None, None]
        return sent(torch.from_numpy(amplitude * scale * np.array(rows)).float(), inputs.values)[:, None]

    def _noise(self, grid: Grid, time: int, number: int) -> Float[np.ndarray, "changed lat lon"]:
        """Return noise of variance one, of each channel by its name."""
        names = (zlib.crc32(str(channel).encode()) for channel in self.std)
        each = [np.random.default_rng((self.seed, time % 2**64, number, _STREAM, name)) for name in names]
        if self.perturbation.length is None:
            return np.stack([rng.standard_normal(grid.shape) for rng in each])
        return correlated_noise(grid, self.perturbation.length, each)

    def _bred(self, batch: Batch, times: NDArray[np.int64], numbers: Sequence[int]) -> Change:
        """Return what the run has made of noise in some cycles before the initial time, in physical units."""
        interval, cycles = self.perturbation.interval or 0, self.perturbation.cycles or 0
        begin = times - cycles * interval * SECONDS_PER_HOUR
        control = self.read(begin, [interval])
        change = self._scaled(self._drawn(control.inputs, begin, numbers), control.inputs)
        for left in reversed(range(cycles)):
            one, other = (self._later(states, interval) for states in (control, self._added(control, change)))
            control = self.read(times - left * interval * SECONDS_PER_HOUR, [interval]) if left else batch
            change = self._scaled(other - one, control.inputs)
        return change

    def _later(self, batch: Batch, hours: int) -> Change:
        """Return what the run makes of states, of the channels that are perturbed, in physical units."""
        (fields,) = self.task.forecast(batch, [hours])
        return fields.select(tuple(self.std)).filled()

    def _scaled(self, change: Change, inputs: Fields) -> Change:
        """Return differences scaled to the amplitude asked for: root mean squares over valid points and channels."""
        std = sent(torch.tensor(list(self.std.values())), change)[:, None, None]
        weight = sent(inputs.frame.grid.area_weights, change).float()[:, None].expand_as(change)
        if inputs.valid is not None:
            places = positions([inputs.frame.channels.index(c) for c in self.std], change.device)
            weight = weight * inputs.valid[:, -1:].index_select(2, places)
        square = ((change / std).double().square() * weight).sum((1, 2, 3, 4), keepdim=True)
        size = (square / weight.sum((1, 2, 3, 4), keepdim=True)).sqrt()
        if not bool(size.isfinite().all()):
            raise DataError("bred vectors grew beyond all numbers; take a shorter interval or fewer cycles")
        # The control's, and only that, is nothing.
        scaled = change * (self.perturbation.amplitude or 0.0) / size.clamp(min=torch.finfo(torch.float32).tiny)
        return scaled.to(change)


def correlated_noise(
    grid: Grid, length: float, each: Sequence[np.random.Generator]
) -> Float[np.ndarray, "draw lat lon"]:
    """Return maps of Gaussian noise of variance one on a globe whose correlation at a distance d is exp(−d²/2L²).

    That is the kernel of diffusion on the sphere, whose total wavenumbers n have the variance (2n + 1) exp(−n(n + 1)
    L²/2a²) but for a factor (Weaver and Courtier 2001, Q. J. R. Meteorol. Soc. 127, 1815).

    Args:
        grid: all round the globe.
        length: L, km.
        each: that draws a map.

    Raises:
        RecipeError: if the grid is a region, or does not resolve the length.
    """
    if not grid.is_periodic:
        raise RecipeError(f"perturb: correlated needs a whole globe, not {grid}; take gaussian, bred or lagged")
    harmonics = spherical_harmonics(grid)
    count = harmonics.truncation + 1
    n = np.arange(count)
    ratio = 1000 * length / EARTH_RADIUS
    spectrum = np.exp(-n * (n + 1) * ratio**2 / 2)
    if spectrum[-1] > _RESOLVED:
        least = np.sqrt(-2 * np.log(_RESOLVED) / (n[-1] * (n[-1] + 1))) * EARTH_RADIUS / 1000
        raise RecipeError(
            f"length = {length:g} km is less than {grid} resolves, {np.ceil(least):.0f} km; take a longer one, or "
            "perturb: gaussian"
        )
    spectrum /= ((2 * n + 1) * spectrum).sum()
    real, imaginary = np.stack([rng.standard_normal((2, count, count)) for rng in each], axis=1)
    coefficients = np.tril((real + 1j * imaginary) / np.sqrt(2))
    coefficients[:, :, 0] = real[:, :, 0]
    return harmonics.synthesise(coefficients * np.sqrt(spectrum)[:, None])


def anomaly_std(task: ForecastTask, store: States) -> dict[Channel, float]:
    """Return the standard deviation of the anomalies of each input that a run predicts, in physical units.

    Raises:
        RecipeError: if it predicts none of its inputs.
        DataError: if neither the run nor the store knows them.
    """
    chosen = [c for c in task.layout.inputs if c in task.layout.targets]
    if not chosen:
        raise RecipeError("the run predicts none of its inputs, so there is nothing to perturb; take perturb: lagged")
    known = [task.normalizer.statistics, *([store.statistics] if isinstance(store, Store) else [])]
    for statistics in known:
        if (std := statistics.anomaly_std) is not None:
            return {channel: float(std[statistics.channels.index(channel)]) for channel in chosen}
    raise DataError(
        f"amplitudes are in standard deviations of anomalies, which neither the run nor {store.path} knows; give the "
        "training store that holds the initial states"
    )
