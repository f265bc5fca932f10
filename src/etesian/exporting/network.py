"""A trained run as a function of plain tensors in physical units."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_map

from etesian.core.channels import CATALOGUE, Channel
from etesian.core.clock import parse_time
from etesian.core.constants import SECONDS_PER_HOUR
from etesian.core.device import at_once
from etesian.core.errors import RecipeError
from etesian.core.fields import Batch, Fields, Frame
from etesian.core.grid import Grid
from etesian.core.version import __version__
from etesian.downscale.task import SuperResolutionTask
from etesian.forecast.task import ForecastTask
from etesian.networks.unet import UNet
from etesian.nn.moment import Initial, counted_from
from etesian.training.ensemble_task import EnsembleTask
from etesian.training.members import Shape
from etesian.training.task import Task

CALENDAR = "proleptic_gregorian"
"""In which the initial time of an exported run counts."""

Draw = Callable[[int, Shape], Tensor]


@dataclass(frozen=True)
class Given:
    """A tensor that an exported run is given: its name, shape, what its axes are, channels of the axis `channel`."""

    name: str
    shape: tuple[int, ...]
    dims: tuple[str, ...]
    channels: tuple[Channel, ...] = ()
    dtype: torch.dtype = torch.float32


class ExportedRun(nn.Module):
    """Answers as a run does, from tensors in the order of `given`; NaN in the answer is what the run never observed.

    Args:
        task: a trained task that forecasts or downscales.
        leads: hours after the initial time; none for a task that downscales.
        batch: samples at once.

    Attributes:
        given: the tensors: `states`; `statics`, `forcings`, `noise` and `time` (seconds since 1970-01-01) where needed.

    Raises:
        RecipeError: if the run does something else, or needs what tensors do not tell.
    """

    def __init__(self, task: Task, leads: tuple[int, ...], batch: int) -> None:
        super().__init__()
        _refuse(task, leads)
        self.task, self.leads, self.batch = task.cpu().eval().requires_grad_(False), leads, batch
        layout = task.layout
        place, maps = ("channel", "latitude", "longitude"), (len(layout.inputs), *layout.grid.shape)
        self.given = [
            Given("states", (batch, len(layout.history), *maps), ("batch", "time", *place), layout.inputs),
        ]
        if layout.statics:
            self.given.append(Given("statics", (len(layout.statics), *layout.output_grid.shape), place, layout.statics))
        self.known = task.hours_known(leads) if layout.forcings and isinstance(task, ForecastTask) else []
        if layout.forcings:
            shape = (batch, len(self.known), len(layout.forcings), *layout.grid.shape)
            self.given.append(Given("forcings", shape, ("batch", "known_hour", *place), layout.forcings))
        self.takes_holes = task.network.takes_holes or isinstance(task.network, UNet)
        self.noise_steps: list[int] = []
        self._find_out()

    def _find_out(self) -> None:
        """Find out by one answer whether the clock is looked at, and which noise is drawn."""
        shapes: set[Shape] = set()

        def noted(step: int, shape: Shape) -> Tensor:
            shapes.add(shape)
            self.noise_steps += [] if step in self.noise_steps else [step]
            return torch.zeros(self.batch, *shape)

        initial = Initial(torch.zeros(self.batch, dtype=torch.int64))
        with torch.no_grad(), counted_from(initial):
            self._answer({each.name: torch.zeros(each.shape) for each in self.given}, noted)
        for shape in shapes:
            full = (self.batch, len(self.noise_steps), *shape)
            self.given.append(Given("noise", full, ("batch", "step", "row", "column", "normal")))
        if initial.asked:
            self.given.append(Given("time", (self.batch,), ("batch",), dtype=torch.int64))

    def forward(self, *tensors: Tensor) -> Tensor:
        """Return the answer, (batch, lead, channel, latitude, longitude)."""
        named = self._named(tensors)
        if "time" not in named:
            return self._answer(named, self._drawn(named))
        with counted_from(Initial(named["time"])):
            return self._answer(named, self._drawn(named))

    def tensors(self, date: str, seed: int) -> tuple[Tensor, ...]:
        """Return tensors of a likely state at a date."""
        seconds, random = parse_time(date, CALENDAR), torch.Generator().manual_seed(seed)
        tensors = []
        for each in self.given:
            values = torch.randn(each.shape, generator=random)
            if each.channels:
                known = self.task.normalizer.statistics.select(each.channels)
                scale, mean = (torch.from_numpy(part).float()[:, None, None] for part in (known.std, known.mean))
                values = mean + 0.5 * scale * values
            tensors.append(torch.full(each.shape, seconds) if each.name == "time" else values)
        return tuple(tensors)

    @torch.no_grad()
    def trial(self, date: str, seed: int) -> tuple[tuple[Tensor, ...], Tensor]:
        """Return tensors of a likely state at a date, and what the run by itself answers to them."""
        tensors = self.tensors(date, seed)
        named = self._named(tensors)
        return tensors, self._answer(named, self._drawn(named), parse_time(date, CALENDAR))

    def _named(self, tensors: Sequence[Tensor]) -> dict[str, Tensor]:
        return {each.name: tensor for each, tensor in zip(self.given, tensors, strict=True)}

    def _drawn(self, named: dict[str, Tensor]) -> Draw:
        return lambda step, _: named["noise"][:, self.noise_steps.index(step)]

    def _answer(self, named: dict[str, Tensor], noise: Draw, start: int = 0) -> Tensor:
        task, layout = self.task, self.task.layout
        batch = self._batch(named, start)
        frame = batch.inputs.frame
        drawn: dict[str, Any] = {"noise": noise} if isinstance(task, EnsembleTask) and task.members is not None else {}
        if not isinstance(task, ForecastTask):
            target = Frame(layout.targets, frame.time[:, -1:], layout.output_grid, CALENDAR)
            return task.predict(batch, target, **drawn).filled(float("nan"))
        found: dict[int, Tensor] = {}
        for part in task.forecast(batch, self.leads, **drawn):
            hours = ((part.frame.time[0] - start) // SECONDS_PER_HOUR).tolist()
            values = part.filled(float("nan"))
            found |= {hour: values[:, i] for i, hour in enumerate(hours)}
        return torch.stack([found[lead] for lead in self.leads], dim=1)

    def _batch(self, named: dict[str, Tensor], start: int) -> Batch:
        """Return what the task is asked with, its times counted from a start."""
        layout = self.task.layout
        states = self._fields(named["states"], layout.inputs, layout.grid, layout.history, start)
        if self.takes_holes:
            valid = ~states.values.isnan()
            states = Fields(states.values.masked_fill(~valid, 0.0), states.frame, valid)
        statics = forcings = None
        if layout.statics:
            same = named["statics"].expand(self.batch, 1, -1, -1, -1)
            statics = self._fields(same, layout.statics, layout.output_grid, (0,), start)
        if layout.forcings:
            forcings = self._fields(named["forcings"], layout.forcings, layout.grid, self.known, start)
        return Batch(states, None, forcings, statics)

    def _fields(
        self, values: Tensor, channels: tuple[Channel, ...], grid: Grid, hours: Sequence[int], start: int
    ) -> Fields:
        with at_once():
            time = (start + torch.tensor(hours, dtype=torch.int64) * SECONDS_PER_HOUR).repeat(self.batch, 1)
        return Fields(values, Frame(channels, time.as_subclass(_Known), grid, CALENDAR, self.task.layout.source))

    def described(self) -> dict[str, Any]:
        """Return what a reader of the function has to know, as plain data."""
        layout, units = self.task.layout, self.task.provenance.get("units", {})

        def of(channel: Channel) -> dict[str, Any]:
            known = CATALOGUE.get(channel.name)
            unit = units.get(str(channel)) or (known.units if known else "")
            return {"name": channel.name, "level_hPa": channel.level, "units": unit}

        notes: dict[str, dict[str, Any]] = {
            "states": {"hours": list(layout.history), "missing": "NaN" if self.takes_holes else "not allowed"},
            "forcings": {"hours": list(self.known)},
            "noise": {"steps": self.noise_steps, "values": "standard normals, others for each member"},
            "time": {"units": "seconds since 1970-01-01", "calendar": CALENDAR},
        }
        inputs: list[dict[str, Any]] = [
            {"name": each.name, "shape": list(each.shape), "dims": list(each.dims), "type": str(each.dtype)[6:]}
            | ({"channels": [of(c) for c in each.channels]} if each.channels else {})
            | notes.get(each.name, {})
            for each in self.given
        ]
        return {
            "made_by": f"etesian {__version__}",
            "network": type(self.task.network).__name__,
            "job": self.task.job,
            "inputs": inputs,
            "output": {
                "name": "fields",
                "dims": ["batch", "lead", "channel", "latitude", "longitude"],
                "leads_hours": list(self.leads) or [0],
                "averaging_hours": self.task.provenance.get("average_hours"),
                "channels": [of(c) for c in layout.targets],
                "missing": "NaN where the run never observed a channel",
            },
            "grid": layout.grid.to_dict(),
            "output_grid": layout.output_grid.to_dict(),
        }


class _Known(Tensor):
    """Times, which are known when a network is exported: what follows from them alone is carried out at once."""

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        tensors = [each for each in tree_flatten((args, kwargs))[0] if isinstance(each, Tensor)]
        with torch._C.DisableTorchFunctionSubclass():
            with at_once():
                plain, named = tree_map(_plain, (args, kwargs or {}))
            if not all(type(each) in (Tensor, _Known) for each in tensors):
                return func(*plain, **named)
            with at_once():
                return tree_map(_known, func(*plain, **named))


def _plain(value: Any) -> Any:
    return value.as_subclass(Tensor) if isinstance(value, _Known) else value


def _known(value: Any) -> Any:
    return value.as_subclass(_Known) if type(value) is Tensor else value


def _refuse(task: Task, leads: tuple[int, ...]) -> None:
    """Refuse what is no function of a few tensors.

    Raises:
        RecipeError: saying what is in the way.
    """
    job, layout = task.job, task.layout
    if job not in ("forecast", "downscale"):
        does = {"fill": "fills the gaps of months of a calendar", "project": "projects scenarios"}
        raise RecipeError(
            f"a run that {does.get(job, 'measures distances')} is no function of one state and its leads; runs that "
            "forecast or downscale can be exported"
        )
    if isinstance(task, SuperResolutionTask):
        raise RecipeError("a run of super-resolution is made for each grid anew; export its fine fields instead")
    if layout.boundary or layout.other_grids:
        what = "is given the state around its region" if layout.boundary else "lies on several grids"
        raise RecipeError(f"a run that {what} is no function of tensors on one grid; export its forecasts instead")
    if isinstance(task, ForecastTask):
        if not leads:
            raise RecipeError("a run that forecasts is exported for some leads; name them, such as leads=[24, 72]")
        task.check_leads(leads)
    elif leads:
        raise RecipeError("a run that downscales has no leads; leave them out")
