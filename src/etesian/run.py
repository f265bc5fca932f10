"""What a user holds after training: a run, or a baseline, with one verb for its job."""

import tempfile
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, cast

import pandas as pd
import xarray as xr

from etesian.core.clock import decode_time
from etesian.core.dataset import facts_table
from etesian.core.errors import DataError, RecipeError, suggest
from etesian.core.outputs import claim, complete_or_absent, keep_apart
from etesian.distance.distance import AtmoDistance, atmodistance
from etesian.downscale.baselines import INTERPOLATIONS, interpolation_task
from etesian.downscale.superresolution import SuperResolutionTask
from etesian.fill.baselines import GAP_BASELINES, fill_baseline_to
from etesian.fill.filled import Resolution
from etesian.fill.run import Empty, fill_to
from etesian.fill.task import GapFillTask
from etesian.forecast.baselines import BASELINES, baseline_task
from etesian.forecast.run import initial_times, predict_to
from etesian.projection.run import project
from etesian.projection.task import ProjectionTask
from etesian.samples.windows import Period
from etesian.store.reader import Store
from etesian.store.regrid import as_grid
from etesian.store.states import DatasetStates, States
from etesian.training.checkpoint import find_checkpoint, load_task, read_description
from etesian.training.task import Task

Job = Literal["forecast", "fill", "downscale", "project", "distance"]

Given = str | Path | Store | xr.Dataset
"""A training store or its path, or a canonical dataset."""

Span = str | tuple[str, str]
"""One date, such as `2018` (all of it) or `2018-01`, or the first and the last one."""

_SERVES: dict[str, str] = {
    "forecast": "forecasts: call .forecast(store, init, leads)",
    "fill": "fills gaps: call .fill(store, months)",
    "downscale": "makes fine fields of coarse ones: call .downscale(coarse)",
    "project": "projects climate: call .project(folder, scenario)",
    "distance": "measures distances: call .distance(a, b)",
}


def opened(given: Given) -> States:
    """Return a training store, or the states of a dataset."""
    if isinstance(given, xr.Dataset):
        return DatasetStates(given)
    return given if isinstance(given, Store) else Store(given)


def period(span: Span) -> Period:
    """Return the first and the last date of a span."""
    return Period(span, span) if isinstance(span, str) else Period(*span)


class Run:
    """A trained run: what `etesian fit` left in a directory.

    Args:
        path: run directory or checkpoint folder.
        checkpoint: name of the run's checkpoint, such as `last`; the best by default.

    Attributes:
        path: of the run.
        checkpoint: folder of the weights.
        description: what the checkpoint says of itself.

    Raises:
        CheckpointError: if there is none, or it is damaged.
    """

    def __init__(self, path: str | Path, checkpoint: str | None = None) -> None:
        self.path = Path(path)
        self.checkpoint = find_checkpoint(path, checkpoint)
        self.description = read_description(self.checkpoint)

    @cached_property
    def task(self) -> Task:
        """The task with its network and statistics, ready to predict."""
        return load_task(self.checkpoint)

    @property
    def job(self) -> Job:
        """Which verb the run has."""
        return self.task.job

    @property
    def identity(self) -> dict[str, Any]:
        """What forecasts of the run are made from, as plain data."""
        known = self.description
        return {"run": str(self.path), "step": known["step"], "provenance": known["provenance"]}

    @cached_property
    def log(self) -> pd.DataFrame:
        """What training has written down: a row for each time that something was logged, over all its starts."""
        tables = sorted(self.path.glob("log/version_*/metrics.csv"), key=lambda file: int(file.parent.name[8:]))
        return pd.concat([pd.read_csv(file) for file in tables], ignore_index=True) if tables else pd.DataFrame()

    @property
    def best(self) -> float | None:
        """Lowest validation loss, None where none was logged."""
        losses = self.log["val_loss"].dropna() if "val_loss" in self.log else []
        return float(min(losses)) if len(losses) else None

    def forecast(
        self,
        store: Given,
        init: Span,
        leads: Sequence[int],
        *,
        every: int = 24,
        out: str | Path | None = None,
        beside: Sequence["Run | str | Path"] = (),
        source: str | None = None,
        blend: Mapping[str, tuple[Given, float]] | None = None,
        batch_size: int = 16,
        overwrite: bool = False,
    ) -> xr.Dataset:
        """Forecast from the states of a store, in physical units, in WeatherBench 2's layout.

        Args:
            store: training store, its path, or a canonical dataset that holds the run's channels.
            init: first and last initial time, such as ("2018-01-01", "2018-12-26"), or `2018` for all of it.
            leads: hours after the initial time.
            every: hours between initial times.
            out: Zarr store to stream into; interrupted, the same call goes on. None keeps the forecasts in memory.
            beside: further runs of direct models; each lead is then answered by the run that was trained for it.
            source: which of the sources that the run has encoders for the store holds.
            blend: further stores with states of the same times and their weights, by the name of their source, blended
                with those of the store, whose weight is what is left of 1, in the run's latent.
            batch_size: initial times at once.
            overwrite: replace forecasts that are there already.

        Returns:
            Variables over `time` (initial), `prediction_timedelta`, `level` where they have one, latitude and
            longitude; opened lazily from `out` where that is given.

        Raises:
            RecipeError: if the run does not forecast, or was not trained for a lead.
            DataError: if the store has no such times, or `out` holds something else.
        """
        self._must("forecast")
        runs = [self, *(each if isinstance(each, Run) else Run(each) for each in beside)]
        wanted = hours(leads)
        _counted(every, batch_size)
        states = opened(store)
        further = {name: opened(each) for name, (each, _) in (blend or {}).items()}
        weights = [weight for _, weight in (blend or {}).values()]
        tasks = answering(runs, wanted) if beside else dict.fromkeys(wanted, self.task)
        history = sorted({hour for task in tasks.values() for hour in task.layout.history})
        initial = initial_times(states, tuple(history), period(init), every)
        paths = [each for each in (store, *(run.path for run in runs)) if isinstance(each, str | Path)]

        identity: dict[str, object] = {"runs": [run.identity for run in runs]} if beside else self.identity

        def write(path: str) -> None:
            predict_to(
                tasks if beside else self.task, states, path, initial, wanted, source=identity, encoder=source,
                blend=further, weights=[1 - sum(weights), *weights] if weights else (), batch_size=batch_size,
                overwrite=overwrite, label=f"forecasting with {self.path.name}",
            )  # fmt: skip

        return streamed(write, out, paths)

    def fill(
        self,
        store: str | Path | Store,
        months: Span,
        *,
        empty: Empty = "missing",
        out: str | Path | None = None,
        overwrite: bool = False,
    ) -> xr.Dataset:
        """Fill the gaps of whole months, with a standard deviation, a count of observations and a flag beside them.

        Args:
            store: training store with the gaps, or its path.
            months: first and last month, such as ("2006-01", "2006-12").
            empty: what points hold that nothing was observed for: nothing, or the store's seasonal cycle.
            out: Zarr store to stream into; interrupted, the same call goes on. None keeps the fields in memory.
            overwrite: replace fields that are there already.

        Raises:
            RecipeError: if the run fills no gaps.
            DataError: if no whole month lies in the span, or `out` holds something else.
        """
        self._must("fill")
        gappy = store if isinstance(store, Store) else Store(store)

        def write(path: str) -> None:
            task = cast(GapFillTask, self.task)
            fill_to(task, gappy, path, period(months), source=self.identity, empty=empty, overwrite=overwrite)

        return streamed(write, out, [gappy.path, self.path])

    def downscale(
        self,
        coarse: Given,
        times: Span | None = None,
        *,
        every: int = 1,
        grid: float | str | Path | None = None,
        out: str | Path | None = None,
        batch_size: int = 16,
        overwrite: bool = False,
    ) -> xr.Dataset:
        """Return fine fields at the times of coarse ones.

        Args:
            coarse: training store, its path, or a canonical dataset that holds the run's inputs.
            times: first and last time; by default all.
            every: least number of hours from one time to the next; by default every time there is.
            grid: of super-resolution, where even steps around the coarse points are not it; see `etesian.prepare`.
            out: Zarr store to stream into; None keeps the fields in memory.
            batch_size: times at once.
            overwrite: replace fields that are there already.

        Raises:
            RecipeError: if the run does not downscale.
            GridError: if the fine grid does not fit the coarse one.
        """
        self._must("downscale")
        states = opened(coarse)
        if isinstance(self.task, SuperResolutionTask):
            fine = states.grid.refined(self.task.factor) if grid is None else as_grid(grid)
            task: Task = self.task.between(states.grid, fine)
        elif grid is not None:
            raise RecipeError(f"grid is for super-resolution and interpolation; the run {self.path} knows its grid")
        else:
            task = self.task
        return finer(task, states, times, every, self.identity, out, batch_size=batch_size, overwrite=overwrite)

    def project(
        self,
        folder: str | Path,
        scenario: str,
        years: tuple[int, int] | None = None,
        *,
        out: str | Path | None = None,
        overwrite: bool = False,
    ) -> xr.Dataset:
        """Return maps of the years of a scenario from what drives its climate.

        Args:
            folder: that holds `inputs_NAME.nc` in ClimateBench's layout.
            scenario: such as `ssp245`.
            years: first and last; by default all that can be projected.
            out: Zarr store to write; None keeps the maps in memory.
            overwrite: replace maps that are there already.

        Raises:
            RecipeError: if the run projects no climate.
            DataError: if inputs are missing.
        """
        self._must("project")
        maps = project(cast(ProjectionTask, self.task), folder, scenario, years)
        return maps if out is None else written(maps, out, [folder, self.path], overwrite=overwrite)

    def distance(self, first: xr.Dataset, second: xr.Dataset, layer: str | None = None) -> xr.DataArray:
        """Return the learned distance of two canonical datasets over their dimensions beside level and horizontal ones.

        Args:
            first: states.
            second: states on the same grid; further dimensions are broadcast.
            layer: of the encoder whose features are compared; None is the last.

        Raises:
            RecipeError: if the run measures no distances.
            DataError: if a variable or level is missing.
        """
        self._must("distance")
        return atmodistance(AtmoDistance.load(self.checkpoint, layer), first, second)

    def _must(self, job: Job) -> None:
        if self.job != job:
            raise RecipeError(f"{self.path} {_SERVES[self.job]}; it has no .{job}")

    def _facts(self) -> dict[str, str]:
        known, layout = self.description, self.task.layout
        seen = known["provenance"]
        weights = sum(parameter.numel() for parameter in self.task.network.parameters())
        facts = {
            "job": _SERVES[self.job].partition(":")[0],
            "network": f"{type(self.task.network).__name__} of {weights:,} weights",
            "inputs": _listed(layout.inputs),
            "targets": _listed(layout.targets) if layout.targets != layout.inputs else "the same",
            "grid": str(layout.output_grid),
            "trained on": _listed(seen.get("stores", seen.get("scenarios", ()))),
            "periods": "; ".join(f"{name} {' to '.join(span)}" for name, span in seen.get("periods", {}).items()),
            "checkpoint": f"{self.checkpoint.name}, epoch {known['epoch'] + 1}, step {known['step']}",
            "best validation loss": "" if self.best is None else f"{self.best:.4g}",
        }
        return {name: fact for name, fact in facts.items() if fact}

    def __repr__(self) -> str:
        lines = [f"{name:>20}: {fact}" for name, fact in self._facts().items()]
        return "\n".join([f"Run {self.path}", *lines])

    def _repr_html_(self) -> str:
        return facts_table(f"Run {self.path}", self._facts())


class Baseline:
    """A simple answer that a network has to beat, with the verb of its job.

    Args:
        name: of `etesian.baseline`.
        store: whose training period it is fitted to; by default the one that it is asked about.

    Raises:
        RecipeError: if there is no such baseline.
    """

    def __init__(self, name: str, store: str | Path | Store | None = None) -> None:
        self.name = name
        self.store = None if store is None else store if isinstance(store, Store) else Store(store)
        self.job  # noqa: B018  names the closest one that there is

    @property
    def job(self) -> Job:
        """Which verb the baseline has."""
        names: dict[Job, Sequence[str]] = {"forecast": BASELINES, "downscale": INTERPOLATIONS, "fill": GAP_BASELINES}
        for job, known in names.items():
            if self.name in known:
                return job
        every = [name for known in names.values() for name in known]
        raise RecipeError(f"there is no baseline '{self.name}'{suggest(self.name, every)}")

    def forecast(
        self,
        store: str | Path | Store,
        init: Span,
        leads: Sequence[int],
        *,
        every: int = 24,
        channels: Sequence[str] | None = None,
        out: str | Path | None = None,
        batch_size: int = 16,
        overwrite: bool = False,
    ) -> xr.Dataset:
        """Forecast from the states of a store; see `Run.forecast`.

        Args:
            store: training store that holds the initial states.
            init: first and last initial time.
            leads: hours after the initial time.
            every: hours between initial times.
            channels: to predict; all by default.
            out: Zarr store to stream into; None keeps the forecasts in memory.
            batch_size: initial times at once.
            overwrite: replace forecasts that are there already.

        Raises:
            RecipeError: if the baseline does not forecast.
        """
        self._must("forecast")
        wanted = hours(leads)
        _counted(every, batch_size)
        states = store if isinstance(store, Store) else Store(store)
        task = baseline_task(self.name, self.store or states, states.resolve(channels), wanted)
        initial = initial_times(states, task.layout.history, period(init), every)

        def write(path: str) -> None:
            predict_to(
                task, states, path, initial, wanted, source={"baseline": self.name}, batch_size=batch_size,
                overwrite=overwrite, label=self.name,
            )  # fmt: skip

        return streamed(write, out, [states.path])

    def fill(
        self,
        store: str | Path | Store,
        months: Span,
        *,
        target: Resolution = "monthly",
        channels: Sequence[str] | None = None,
        out: str | Path | None = None,
        overwrite: bool = False,
    ) -> xr.Dataset:
        """Fill the gaps of a period.

        Args:
            store: training store with the gaps.
            months: first and last date.
            target: means over the months (`monthly`), or every time (`daily`).
            channels: to fill; all by default.
            out: Zarr store to write; None keeps the fields in memory.
            overwrite: replace fields that are there already.

        Raises:
            RecipeError: if the baseline fills no gaps.
        """
        self._must("fill")
        gappy = store if isinstance(store, Store) else Store(store)

        def write(path: str) -> None:
            fill_baseline_to(
                self.name, gappy, path, period(months), target=target, channels=gappy.resolve(channels),
                overwrite=overwrite,
            )  # fmt: skip

        return streamed(write, out, [gappy.path])

    def downscale(
        self,
        coarse: Given,
        grid: float | str | Path,
        times: Span | None = None,
        *,
        every: int = 1,
        out: str | Path | None = None,
        batch_size: int = 16,
        overwrite: bool = False,
    ) -> xr.Dataset:
        """Interpolate coarse fields to a finer grid; see `Run.downscale`.

        Args:
            coarse: training store, its path, or a canonical dataset.
            grid: to interpolate to: degrees, `gaussian32`, or a file or store that is on it.
            times: first and last time; by default all.
            every: least number of hours from one time to the next.
            out: Zarr store to stream into; None keeps the fields in memory.
            batch_size: times at once.
            overwrite: replace fields that are there already.

        Raises:
            RecipeError: if the baseline does not downscale.
            GridError: if the grid reaches beyond the coarse one.
        """
        self._must("downscale")
        states = opened(coarse)
        task = interpolation_task(self.name, states, states.channels, as_grid(grid))
        identity = {"baseline": self.name}
        return finer(task, states, times, every, identity, out, batch_size=batch_size, overwrite=overwrite)

    def _must(self, job: Job) -> None:
        if self.job != job:
            raise RecipeError(f"the baseline {self.name} {_SERVES[self.job]}; it has no .{job}")

    def __repr__(self) -> str:
        return f"Baseline {self.name}: {_SERVES[self.job]}"


def _counted(every: int, batch_size: int) -> None:
    if every < 1 or batch_size < 1:
        raise RecipeError(f"every = {every} and batch_size = {batch_size} must be at least 1")


def hours(leads: Sequence[int]) -> tuple[int, ...]:
    """Return leads in hours, ascending.

    Raises:
        RecipeError: if there are none, or one is not greater than 0.
    """
    wanted = tuple(sorted({int(lead) for lead in leads}))
    if not wanted or wanted[0] <= 0:
        raise RecipeError(f"leads {list(leads)} must be hours greater than 0, such as 24 72 120")
    return wanted


def answering(runs: Sequence[Run], leads: Sequence[int]) -> dict[int, Task]:
    """Return the task that was trained for each lead.

    Raises:
        RecipeError: if none or several were.
    """
    trained = {run: [int(lead) for lead in run.task.provenance.get("leads", ())] for run in runs}
    answers: dict[int, Task] = {}
    for lead in leads:
        claims = [run for run, own in trained.items() if lead in own]
        if len(claims) > 1:
            a, b, *_ = claims
            raise RecipeError(f"{a.path} and {b.path} were both trained for {lead} h; leave one of them out")
        if not claims:
            known = ", ".join(f"{run.path} for {own} h" for run, own in trained.items())
            raise RecipeError(f"no run was trained for {lead} h: {known}")
        answers[lead] = claims[0].task
    return answers


def finer(
    task: Task,
    coarse: States,
    times: Span | None,
    every: int,
    identity: dict[str, Any],
    out: str | Path | None,
    *,
    batch_size: int,
    overwrite: bool,
) -> xr.Dataset:
    """Write fine fields at the times of coarse ones."""
    _counted(every, batch_size)
    ends = decode_time(coarse.time[[0, -1]], coarse.calendar)
    span = Period(*(str(end)[:19] for end in ends)) if times is None else period(times)
    initial = initial_times(coarse, task.layout.history, span, every)

    def write(path: str) -> None:
        label = str(identity.get("run") or identity.get("baseline"))
        predict_to(
            task, coarse, path, initial, (0,), source=identity, batch_size=batch_size, overwrite=overwrite, label=label
        )

    return streamed(write, out, [coarse.path, *([identity["run"]] if "run" in identity else [])])


def streamed(write: Callable[[str], None], out: str | Path | None, inputs: Sequence[str | Path]) -> xr.Dataset:
    """Let something be written into a store, and return it opened; without one, in memory."""
    if out is not None:
        keep_apart(out, inputs)
        write(str(out))
        lazily: xr.Dataset = xr.open_zarr(out, decode_timedelta=True)
        return lazily
    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/result.zarr"
        write(path)
        held: xr.Dataset = xr.open_zarr(path, decode_timedelta=True).load()
        return held


def written(dataset: xr.Dataset, out: str | Path, inputs: Sequence[str | Path], *, overwrite: bool) -> xr.Dataset:
    """Write a dataset that is in memory, complete or not at all, and return it opened."""
    if claim(out, "fields", inputs, overwrite=overwrite).exists() and not overwrite:
        raise DataError(f"{out} exists; remove it or pass overwrite")
    with complete_or_absent(out, "fields", inputs) as folder:
        dataset.to_zarr(folder, mode="a", zarr_format=3, consolidated=True)
    opened: xr.Dataset = xr.open_zarr(out)
    return opened


def _listed(items: Any) -> str:
    names = [str(item) for item in items]
    return ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
