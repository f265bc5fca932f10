"""A run as a prognostic model of NVIDIA's earth2studio, by its documented interface; the package itself is not needed.

https://nvidia.github.io/earth2studio/userguide/components/prognostic.html as of 0.19: tensors with their coordinates in
order.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from etesian.core.channels import CATALOGUE, Channel
from etesian.core.constants import SECONDS_PER_HOUR
from etesian.core.errors import DataError, RecipeError
from etesian.core.fields import Batch, Fields, Frame
from etesian.forecast.task import ForecastTask
from etesian.run import Run
from etesian.samples.windows import WindowReader
from etesian.store.reader import Store
from etesian.training.members import MemberNoise
from etesian.training.prediction import starting_side
from etesian.verbs import hours, require, training_store

Coords = OrderedDict[str, Any]
"""Of each dimension of a tensor, in order, its values."""

Hook = Callable[[Tensor, Coords], tuple[Tensor, Coords]]

_OWN = ("time", "lead_time", "variable", "lat", "lon")

_ON_LEVELS = {
    "geopotential": "z", "temperature": "t", "u_component_of_wind": "u", "v_component_of_wind": "v",
    "vertical_velocity": "w", "specific_humidity": "q", "relative_humidity": "r",
}  # fmt: skip

_SINGLE = {
    "2m_temperature": "t2m", "2m_dewpoint_temperature": "d2m", "10m_u_component_of_wind": "u10m",
    "10m_v_component_of_wind": "v10m", "100m_u_component_of_wind": "u100m", "100m_v_component_of_wind": "v100m",
    "mean_sea_level_pressure": "msl", "surface_pressure": "sp", "skin_temperature": "skt",
    "sea_surface_temperature": "sst", "sea_ice_cover": "sic", "total_cloud_cover": "tcc",
    "total_column_water_vapour": "tcwv", "total_precipitation_6hr": "tp06", "total_precipitation_12hr": "tp12",
    "total_precipitation_24hr": "tp24", "precipitation_flux": "tpf",
}  # fmt: skip


def lexicon_name(channel: Channel) -> str:
    """Return earth2studio's name of a channel; the library's own where its lexicon has none.

    >>> lexicon_name(Channel("geopotential", 500)), lexicon_name(Channel("2m_temperature"))
    ('z500', 't2m')
    """
    if channel.level is not None and channel.name in _ON_LEVELS:
        return f"{_ON_LEVELS[channel.name]}{channel.level}"
    return _SINGLE.get(channel.name, str(channel))


class Earth2Prognostic(nn.Module):
    """A run that forecasts, as a prognostic model of earth2studio: its numbers are those of `run.forecast`.

    Tensors have the dimensions (…, time, lead_time, variable, lat, lon), whatever comes before counting as members;
    latitudes go from north to south. `front_hook` and `rear_hook` may be set, and are called with the states that a
    step starts from and with what it gives; where they change something, the forecast goes on from that.

    Args:
        run: that forecasts, or its directory.
        leads: hours, each so much after the other as the first after the initial time: what the iterator gives.
        store: training store of the static fields, where the run has any.
        seed: of the members, where the run was trained for some.

    Raises:
        RecipeError: if the run does not forecast so, or needs what the interface does not give.
        DataError: if static fields are needed and no store is given.
    """

    front_hook: Hook
    rear_hook: Hook
    statics: Tensor | None

    def __init__(
        self, run: Run | str | Path, leads: Sequence[int], *, store: Store | str | Path | None = None, seed: int = 0
    ) -> None:
        super().__init__()
        run = run if isinstance(run, Run) else Run(run)
        require(run.job, "forecast", str(run.path))
        task = run.task
        assert isinstance(task, ForecastTask)
        self.task, self.seed, self.leads = task, seed, hours(leads)
        self.step = self.leads[0]
        if self.leads != tuple(self.step * (number + 1) for number in range(len(self.leads))):
            raise RecipeError(f"leads {list(self.leads)} are no steps of one length; give such as 6 12 18")
        task.check_leads(self.leads)
        layout = task.layout
        for is_there, what in (
            (layout.forcings, "knows the target times"),
            (layout.other_grids, "has several grids"),
            (task.provenance.get("average_hours"), "forecasts means over hours"),
        ):
            if is_there:
                raise RecipeError(f"{run.path} {what}, for which earth2studio's interface has no place")
        units = task.provenance.get("units", {})
        for channel in (*layout.inputs, *layout.targets):
            given, known = units.get(str(channel), ""), CATALOGUE.get(channel.name)
            if known and given and given != known.units:
                raise RecipeError(f"{run.path} knows '{channel}' in {given}, earth2studio in {known.units}")
        statics = None
        if layout.statics:
            if store is None:
                raise DataError(f"{run.path} needs '{layout.statics[0]}': give store, which holds its static fields")
            statics = WindowReader(training_store(store), starting_side(layout)).statics
        self.register_buffer("statics", None if statics is None else statics.to(task.device), persistent=False)
        self.front_hook = self.rear_hook = _unchanged

    def input_coords(self) -> Coords:
        """Return the coordinates of what is to be given; `batch` and `time` are the caller's."""
        history = np.array(self.task.layout.history, dtype="timedelta64[h]")
        return self._coords(np.empty(0), np.empty(0), history, self.task.layout.inputs)

    def output_coords(self, input_coords: Coords) -> Coords:
        """Return the coordinates of one step from others.

        Raises:
            ValueError: if these are not those of the model.
        """
        dims, own = list(input_coords), self.input_coords()
        if dims[-len(_OWN) :] != list(_OWN):
            raise ValueError(f"the dimensions are {dims}, but must end in {list(_OWN)}")
        for name in ("variable", "lat", "lon"):
            given, known = np.asarray(input_coords[name]), own[name]
            same = given.shape == known.shape and (
                bool((given == known).all()) if name == "variable" else np.allclose(given, known, rtol=0, atol=1e-4)
            )
            if not same:
                raise ValueError(
                    f"'{name}' is {given.tolist()[:8]} …, but must be {known.tolist()[:8]} …; see input_coords"
                )
        lead = np.asarray(input_coords["lead_time"])
        if not np.array_equal(lead - lead[-1], own["lead_time"]):
            raise ValueError(f"the lead times must lie at {list(self.task.layout.history)} h from the last of them")
        out = OrderedDict((name, input_coords[name]) for name in dims)
        out["lead_time"] = lead[-1:] + np.timedelta64(self.step, "h")
        out["variable"] = self._names(self.task.layout.targets)
        return out

    def forward(self, x: Tensor, coords: Coords) -> tuple[Tensor, Coords]:
        """Return the state one step later, and its coordinates.

        Raises:
            ValueError: if the coordinates are not those of the model.
        """
        out = self.output_coords(coords)
        return next(self._stream(x, coords, self.leads[:1])), out

    def create_iterator(self, x: Tensor, coords: Coords) -> Iterator[tuple[Tensor, Coords]]:
        """Yield the initial state, then the forecasts of all leads with their coordinates.

        The initial state holds the variables of the forecasts, NaN where it is not told.

        Raises:
            ValueError: if the coordinates are not those of the model.
            RecipeError: if more is asked for than the leads.
        """
        out = self.output_coords(coords)
        yield self._as_forecast(x), out | {"lead_time": np.asarray(coords["lead_time"])[-1:]}
        parts, window, where = self._stream(x, coords, self.leads), x, OrderedDict(coords)
        for place in range(len(self.leads)):
            before = window.clone() if self.front_hook is not _unchanged else window
            window, where = self.front_hook(window, where)
            if not _same(window, before):
                parts = self._restarted(window, where, place, 0)
            answer, told = next(parts), self.output_coords(where)
            # A window that the forecasts do not refill stays at the initial time.
            told["lead_time"] = np.asarray(coords["lead_time"])[-1:] + np.timedelta64(self.leads[place], "h")
            before = answer.clone() if self.rear_hook is not _unchanged else answer
            answer, told = self.rear_hook(answer, told)
            window, where = self._moved_on(window, where, answer)
            if not _same(answer, before):
                parts = self._restarted(window, where, place, 1)
            yield answer, told
        raise RecipeError(f"the leads of this model end at {self.leads[-1]} h; name more of them when it is made")

    def _restarted(self, window: Tensor, where: Coords, place: int, ahead: int) -> Iterator[Tensor]:
        """Return the forecasts of what is left of the leads, from a changed state."""
        history = self.task.layout.history
        if any(b - a != self.step for a, b in pairwise(history)):
            raise RecipeError(
                f"a hook changed a state, but a history at {list(history)} h is not refilled by {self.step} h"
            )
        if missing := [c for c in self.task.layout.inputs if c not in self.task.layout.targets]:
            raise RecipeError(f"a hook changed a state, but '{missing[0]}' of the next one is not forecast")
        return self._stream(window, where, self.leads[: len(self.leads) - place - ahead])

    def _moved_on(self, window: Tensor, where: Coords, answer: Tensor) -> tuple[Tensor, Coords]:
        layout = self.task.layout
        index = [layout.targets.index(c) for c in layout.inputs if c in layout.targets]
        if len(index) < len(layout.inputs):
            return window, where
        later = np.asarray(where["lead_time"]) + np.timedelta64(self.step, "h")
        newest = answer.index_select(-3, torch.tensor(index, device=answer.device))
        return torch.cat([window[..., 1:, :, :, :], newest], dim=-4), OrderedDict(where) | {"lead_time": later}

    def _stream(self, x: Tensor, coords: Coords, leads: tuple[int, ...]) -> Iterator[Tensor]:
        """Forecast, lead by lead, (…, time, 1, variable, lat, lon)."""
        task, leading = self.task, x.shape[:-4]
        batch, noise = self._batch(x, coords)
        parts = iter(task.forecast(batch, leads, (), (), noise) if noise else task.forecast(batch, leads))
        initial = batch.inputs.frame.time[0, -1]
        found: dict[int, Tensor] = {}
        for lead in leads:
            while lead not in found:
                with task.answering():
                    part = next(parts)
                values = part.filled(float("nan")).flip(-2)
                after = ((part.frame.time[0] - initial) // SECONDS_PER_HOUR).tolist()
                found |= {hour: values[:, i] for i, hour in enumerate(after)}
            yield found.pop(lead).reshape(*leading, 1, *values.shape[2:])

    def _batch(self, x: Tensor, coords: Coords) -> tuple[Batch, MemberNoise | None]:
        layout = self.task.layout
        values = x.to(self.task.device, torch.float32).flip(-2).reshape(-1, *x.shape[-4:]).contiguous()
        dates, lead = (np.asarray(coords[name]) for name in ("time", "lead_time"))
        initial = (dates.astype("datetime64[s]") + lead[-1].astype("timedelta64[s]")).astype(np.int64)
        members = len(values) // len(initial)
        each = np.tile(initial, members)
        time = torch.from_numpy(each[:, None] + np.array(layout.history, dtype=np.int64) * SECONDS_PER_HOUR)
        valid = torch.isfinite(values)
        is_whole = bool(valid.all())
        frame = Frame(layout.inputs, time, layout.grid, "proleptic_gregorian", layout.source)
        inputs = Fields(values if is_whole else values.masked_fill(~valid, 0.0), frame, None if is_whole else valid)
        statics = None
        if self.statics is not None:
            same = self.statics.expand(len(values), 1, *self.statics.shape)
            statics = Fields(same, Frame(layout.statics, time[:, -1:], layout.grid))
        noise = None
        if self.task.members is not None:
            noise = MemberNoise(self.seed, each.tolist(), np.repeat(np.arange(members), len(initial)).tolist())
        return Batch(inputs, statics=statics), noise

    def _as_forecast(self, x: Tensor) -> Tensor:
        """Return the last given state with the variables of forecasts."""
        layout, last = self.task.layout, x[..., -1:, :, :, :]
        nothing = torch.full_like(last[..., :1, :, :], torch.nan)
        layers = [last[..., [layout.inputs.index(c)], :, :] if c in layout.inputs else nothing for c in layout.targets]
        return torch.cat(layers, dim=-3)

    def _names(self, channels: tuple[Channel, ...]) -> np.ndarray:
        return np.array([lexicon_name(channel) for channel in channels])

    def _coords(self, batch: Any, time: Any, lead: Any, channels: tuple[Channel, ...]) -> Coords:
        grid = self.task.layout.grid
        values = (batch, time, lead, self._names(channels), grid.latitude[::-1].copy(), grid.longitude.copy())
        return OrderedDict(zip(("batch", *_OWN), values, strict=True))


def _unchanged(x: Tensor, coords: Coords) -> tuple[Tensor, Coords]:
    return x, coords


def _same(one: Tensor, other: Tensor) -> bool:
    return one is other or (one.shape == other.shape and bool(((one == other) | (one.isnan() & other.isnan())).all()))
