"""A trained run, with one verb for its job."""

from collections.abc import Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any, cast

import pandas as pd
import xarray as xr

from etesian.core.dataset import facts_table
from etesian.core.errors import RecipeError
from etesian.core.outputs import keep_apart
from etesian.core.workers import Workers
from etesian.distance.distance import AtmoDistance, atmodistance
from etesian.downscale.run import downscale_to, on_grids
from etesian.files.stations import read_points
from etesian.fill.run import Empty, fill_to
from etesian.fill.task import GapFillTask
from etesian.forecast.driving import open_forcings
from etesian.forecast.perturbations import Kind, asked_for
from etesian.forecast.run import Analyses, predict_to
from etesian.projection.run import project, project_to
from etesian.projection.task import ProjectionTask
from etesian.store.reader import Store
from etesian.store.regrid import GridLike, as_grid
from etesian.store.states import States
from etesian.training.checkpoint import find_checkpoint, load_task, read_description
from etesian.training.device import choose_device, choose_precision
from etesian.training.prediction import initial_times
from etesian.training.task import FLOAT32, Job, Task
from etesian.verbs import (
    SERVES,
    Given,
    Source,
    Span,
    at_least_one,
    at_stations,
    dataset_of,
    hours,
    in_reach,
    opened,
    period,
    require,
    streamed,
    times_of,
    training_store,
)


class Run:
    """A trained run: what `etesian fit` left in a directory.

    Args:
        path: run directory or checkpoint folder.
        checkpoint: name of the run's checkpoint, such as `last`; the best by default.
        device: to answer on, such as `cpu`, `cuda` or `cuda:1`; by default the GPU where there is one.
        precision: to answer in: 32-true, bf16-mixed or 16-mixed, as recipes have it; by default that of the training
            on a GPU, and 32-true on a CPU.

    Attributes:
        path: of the run.
        device: that it answers on.
        precision: that it answers in.
        checkpoint: folder of the weights.
        description: what the checkpoint says of itself.

    Raises:
        CheckpointError: if there is none, or it is damaged.
        RecipeError: if there is no such device or precision.
    """

    def __init__(
        self,
        path: str | Path,
        checkpoint: str | None = None,
        device: str | None = None,
        precision: str | None = None,
    ) -> None:
        self.path = Path(path)
        self.checkpoint = find_checkpoint(path, checkpoint)
        self.description = read_description(self.checkpoint)
        self.device = choose_device(device)
        self.precision = choose_precision(precision, self.device, self.description.get("precision", FLOAT32))

    def __getstate__(self) -> dict[str, Any]:
        # Another process, which may work elsewhere, loads the weights by itself.
        kept = {name: value for name, value in self.__dict__.items() if name not in ("task", "log")}
        return kept | {"checkpoint": self.checkpoint.absolute()}

    @cached_property
    def task(self) -> Task:
        """The task with its network and statistics, ready to predict."""
        task = load_task(self.checkpoint).to(self.device)
        task.answers_in = self.precision
        return task

    @property
    def job(self) -> Job:
        """Which verb the run has."""
        return self.task.job

    @property
    def identity(self) -> dict[str, Any]:
        """What forecasts of the run are made from, as plain data."""
        known = self.description
        made = {"run": str(self.path), "step": known["step"], "provenance": known["provenance"]}
        # Nothing is said of single precision, so that forecasts of earlier versions are still the same.
        return made if self.precision == FLOAT32 else made | {"precision": self.precision}

    @cached_property
    def log(self) -> pd.DataFrame:
        """What training has written down: a row for each time that something was logged, over all its starts."""
        tables = [file for file in self.path.glob("log/version_*/metrics.csv") if file.parent.name[8:].isdecimal()]
        tables.sort(key=lambda file: int(file.parent.name[8:]))
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
        at: str | Path | pd.DataFrame | None = None,
        lapse_rate: float | None = None,
        out: str | Path | None = None,
        beside: Sequence["Run | str | Path"] = (),
        source: str | None = None,
        blend: Mapping[str, tuple[Given, float]] | None = None,
        forcings: str | Path | States | xr.Dataset | None = None,
        members: int | None = None,
        seed: int = 0,
        inflation: float = 1.0,
        perturb: Kind | None = None,
        amplitude: float | None = None,
        length: float | None = None,
        interval: int | None = None,
        cycles: int | None = None,
        batch_size: int = 16,
        scheduler: str | None = None,
        overwrite: bool = False,
    ) -> xr.Dataset:
        """Forecast from the states of a store, in physical units, in WeatherBench 2's layout.

        Args:
            store: training store, its path, or a canonical dataset that holds the run's channels.
            init: first and last initial time, such as ("2018-01-01", "2018-12-26"), or `2018` for all of it.
            leads: hours after the initial time.
            every: hours between initial times.
            at: table of stations, as `etesian.evaluate` takes it or of their places alone, to forecast for in place of
                maps.
            lapse_rate: K per km by which 2 m temperatures go from the model's height to that of a station; by default
                6.5 where the store holds the orography, 0 for none.
            out: Zarr store to stream into; interrupted, the same call goes on. None keeps the forecasts in memory.
            beside: further runs of direct models; each lead is then answered by the run that was trained for it.
            source: which of the sources that the run has encoders for the store holds.
            blend: further stores with states of the same times and their weights, by the name of their source, blended
                with those of the store, whose weight is what is left of 1, in the run's latent.
            forcings: where the run's forcings that are not computed are read, if not from the store, such as a scenario
                of the sea's temperature, or forecasts of a larger region that give the boundary of its own: training
                store, file, canonical dataset, or forecasts in WeatherBench 2's layout from the same initial times.
            members: of the ensemble from each initial time, where the run was trained with `members` or states are
                perturbed; by default 8.
            seed: of the members: another one gives others.
            inflation: factor of the noise by which trained members differ, such as 1.06 where their spread over error
                is too small; to be chosen on the validation period.
            perturb: how the initial states of members differ, for any run; member 0 starts from the state as it is.
                `gaussian` noise at every grid point, noise that is `correlated` in space, vectors `bred` by the run
                itself, or states of earlier times, `lagged`, from which the leads are as much longer.
            amplitude: of what `perturb` adds, in standard deviations of each channel's anomalies; by default 0.1.
            length: of correlated perturbations in km: their correlation at a distance d is exp(−d²/2 length²); by
                default 1000.
            interval: hours between the initial times of lagged members, or of a cycle of breeding; by default a step
                of the run, or its shortest lead.
            cycles: of breeding before each initial time; by default 5.
            batch_size: initial times at once; of an ensemble members.
            scheduler: who forecasts: address of a Dask cluster (tcp://host:8786), `local` for a process on each core,
                `gpus` for one on each GPU of this machine; this process by default. Members, perturbed states,
                forcings and stations are the same.
            overwrite: replace forecasts that are there already.

        Returns:
            Variables over `time` (initial), of an ensemble `number`, `prediction_timedelta`, `level` where they have
            one, latitude and longitude, or `station`; opened lazily from `out` where that is given.

        Raises:
            RecipeError: if the run does not forecast, or was not trained for a lead or for members.
            GridError: if no station lies on the grid.
            DataError: if `init` reaches beyond the store's times, states that `perturb` needs are not there, what the
                run knows of the target times is missing at one of them, the table cannot be read, or `out` holds
                something else.
        """
        require(self.job, "forecast", str(self.path))
        in_reach(out, scheduler)
        at_stations(at, lapse_rate)
        runs = [self, *(each if isinstance(each, Run) else self._beside(each) for each in beside)]
        wanted = hours(leads)
        perturbation = asked_for(perturb, amplitude=amplitude, length=length, interval=interval, cycles=cycles)
        at_least_one(every=every, batch_size=batch_size, members=1 if members is None else members)
        states = opened(store)
        further = {name: opened(each) for name, (each, _) in (blend or {}).items()}
        weights = [weight for _, weight in (blend or {}).values()]
        analyses = Analyses(source, further, [1 - sum(weights), *weights] if weights else ())
        again = partial(_tasks_of, runs, wanted, _kinds(runs))
        task = again()
        history = {
            hour for each in (task.values() if isinstance(task, dict) else [task]) for hour in each.layout.history
        }
        initial = initial_times(states, tuple(sorted(history)), period(init), every)
        identity: dict[str, object] = {"runs": [run.identity for run in runs]} if beside else self.identity
        paths = [each for each in (store, forcings, at, *(run.path for run in runs)) if isinstance(each, str | Path)]
        ahead = None if forcings is None else open_forcings(forcings)
        stations = None if at is None else read_points(at)

        def write(path: str) -> None:
            with Workers(scheduler) as workers:
                predict_to(
                    task, states, path, initial, wanted, source=identity, analyses=analyses, forcings=ahead,
                    members=members, seed=seed, inflation=inflation, perturbation=perturbation, at=stations,
                    lapse_rate=lapse_rate, batch_size=batch_size, overwrite=overwrite,
                    label=f"forecasting with {self.path.name}", workers=workers, again=again,
                )  # fmt: skip

        return streamed(write, out, paths)

    def fill(
        self,
        store: str | Path | Store,
        months: Span,
        *,
        empty: Empty = "missing",
        members: int | None = None,
        seed: int = 0,
        out: str | Path | None = None,
        scheduler: str | None = None,
        overwrite: bool = False,
    ) -> xr.Dataset:
        """Fill the gaps of whole months, with a standard deviation, a count of observations and a flag beside them.

        Args:
            store: training store with the gaps, or its path.
            months: first and last month, such as ("2006-01", "2006-12").
            empty: what points hold that nothing was observed for: nothing, or, without members, the store's seasonal
                cycle.
            members: equally likely fields to give in place of the expected one, over a dimension `number`, of a run of
                days whose network has `residual: kriging`; by default none.
            seed: of the members: another one gives others.
            out: Zarr store to stream into; interrupted, the same call goes on. None keeps the fields in memory.
            scheduler: who fills, as for `forecast`; this process by default.
            overwrite: replace fields that are there already.

        Raises:
            RecipeError: if the run fills no gaps, or has no members.
            DataError: if no whole month lies in the span, it reaches beyond the store's times, or `out` holds something
                else.
        """
        require(self.job, "fill", str(self.path))
        in_reach(out, scheduler)
        gappy = training_store(store)

        def write(path: str) -> None:
            with Workers(scheduler) as workers:
                fill_to(
                    cast(GapFillTask, self.task), gappy, path, period(months), source=self.identity, empty=empty,
                    members=members, seed=seed, overwrite=overwrite, workers=workers,
                    again=partial(_tasks_of, [self], (), _kinds([self])),
                )  # fmt: skip

        return streamed(write, out, [gappy.path, self.path])

    def downscale(
        self,
        coarse: Given,
        times: Span | None = None,
        *,
        every: int = 1,
        grid: GridLike | None = None,
        out: str | Path | None = None,
        members: int | None = None,
        seed: int = 0,
        batch_size: int = 16,
        overwrite: bool = False,
    ) -> xr.Dataset:
        """Return fine fields at the times of coarse ones.

        Args:
            coarse: training store, its path, or a canonical dataset that holds the run's inputs.
            times: first and last time; by default all.
            every: least number of hours from one time to the next; by default every time there is.
            grid: of super-resolution, where even steps around the coarse points are not it: a grid, a store or dataset
                that is on it, or what `etesian.prepare` takes.
            out: Zarr store to stream into; None keeps the fields in memory.
            members: of the fine fields at each time, where the run was trained with `members`; by default 8.
            seed: of the members: another one gives others.
            batch_size: fine fields at once.
            overwrite: replace fields that are there already.

        Returns:
            Variables over `time`, of an ensemble `number`, `level` where they have one, latitude and longitude.

        Raises:
            RecipeError: if the run does not downscale, or was not trained for members.
            GridError: if the fine grid does not fit the coarse one.
        """
        require(self.job, "downscale", str(self.path))
        at_least_one(every=every, batch_size=batch_size, members=1 if members is None else members)
        states = opened(coarse)
        task = on_grids(self.task, states.grid, None if grid is None else as_grid(grid))
        chosen = times_of(states, task, times, every)

        def write(path: str) -> None:
            downscale_to(
                task, states, path, chosen, source=self.identity, members=members, seed=seed, batch_size=batch_size,
                overwrite=overwrite, label=f"downscaling with {self.path.name}",
            )  # fmt: skip

        return streamed(write, out, [states.path, self.path])

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
        require(self.job, "project", str(self.path))
        task = cast(ProjectionTask, self.task)
        if out is None:
            return project(task, folder, scenario, years)
        keep_apart(out, [folder, self.path])
        project_to(task, folder, scenario, str(out), years, source=self.identity, overwrite=overwrite)
        lazily: xr.Dataset = xr.open_zarr(out)
        return lazily

    def distance(self, first: Source, second: Source, layer: str | None = None) -> xr.DataArray:
        """Return the learned distance of states over their dimensions beside level and horizontal ones.

        Args:
            first: states: a canonical dataset, fields, or files as `etesian.open` takes them.
            second: states on the same grid; further dimensions are broadcast, of shared ones what both have is taken.
            layer: of the encoder whose features are compared; None is the last.

        Raises:
            RecipeError: if the run measures no distances.
            DataError: if a variable or level is missing.
            GridError: if the grids differ.
        """
        require(self.job, "distance", str(self.path))
        distance = AtmoDistance.load(self.checkpoint, layer).to(self.device)
        return atmodistance(distance, dataset_of(first), dataset_of(second))

    def _beside(self, path: str | Path) -> "Run":
        """Return a further run on the same device."""
        return Run(path, device=str(self.device), precision=self.precision)

    def _facts(self) -> dict[str, str]:
        known, layout = self.description, self.task.layout
        seen = known["provenance"]
        weights = sum(parameter.numel() for parameter in self.task.network.parameters())
        facts = {
            "job": SERVES[self.job].partition(":")[0],
            "network": f"{type(self.task.network).__name__} of {weights:,} weights",
            "inputs": _listed(layout.inputs),
            "targets": _listed(layout.targets) if layout.targets != layout.inputs else "the same",
            "known ahead": _listed(layout.forcings),
            "grid": " and ".join(map(str, (layout.predicted_grid, *layout.other_grids))),
            "trained on": _listed(seen.get("stores", seen.get("scenarios", ()))),
            "periods": "; ".join(f"{name} {' to '.join(span)}" for name, span in seen.get("periods", {}).items()),
            "checkpoint": f"{self.checkpoint.name}, epoch {known['epoch'] + 1}, step {known['step']}",
            "answers on": f"{self.device}, {self.precision}",
            "best validation loss": "" if self.best is None else f"{self.best:.4g}",
        }
        return {name: fact for name, fact in facts.items() if fact}

    def __repr__(self) -> str:
        lines = [f"{name:>20}: {fact}" for name, fact in self._facts().items()]
        return "\n".join([f"Run {self.path}", *lines])

    def _repr_html_(self) -> str:
        return facts_table(f"Run {self.path}", self._facts())


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


def _tasks_of(runs: Sequence[Run], leads: Sequence[int], kinds: Sequence[type]) -> Any:
    """Return the task of a run, or of several the one that was trained for each lead.

    Args:
        runs: at least one.
        leads: that several are asked for.
        kinds: classes whose modules a checkpoint may name, which another process has imported when it gets them.
    """
    return answering(runs, leads) if len(runs) > 1 else runs[0].task


def _kinds(runs: Sequence[Run]) -> list[type]:
    return [type(part) for run in runs for part in (run.task, run.task.network)]


def _listed(items: Any) -> str:
    names = [str(item) for item in items]
    return ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
