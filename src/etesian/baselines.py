"""A simple answer that a network has to beat, with the verb of its job."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import pandas as pd
import xarray as xr

from etesian.core.errors import RecipeError, suggest
from etesian.core.workers import Workers
from etesian.downscale.baselines import INTERPOLATIONS, interpolation_task
from etesian.downscale.run import downscale_to
from etesian.files.stations import read_points
from etesian.fill.baselines import GAP_BASELINES, fill_baseline_to
from etesian.fill.pairs import Resolution
from etesian.forecast.baselines import BASELINES, baseline_task
from etesian.forecast.run import predict_to
from etesian.store.reader import Store
from etesian.store.regrid import GridLike, as_grid
from etesian.store.select import refuse_beyond
from etesian.training.prediction import initial_times
from etesian.training.task import Job
from etesian.verbs import (
    SERVES,
    Given,
    Span,
    at_least_one,
    at_stations,
    hours,
    in_reach,
    opened,
    period,
    require,
    streamed,
    times_of,
    training_store,
)


class Baseline:
    """A simple answer that a network has to beat, with the verb of its job.

    Args:
        name: of `etesian.baseline`.
        store: whose training period it is fitted to; by default the one that it is asked about.

    Attributes:
        job: which verb it has.

    Raises:
        RecipeError: if there is no such baseline.
    """

    def __init__(self, name: str, store: str | Path | Store | None = None) -> None:
        self.name = name
        self.store = None if store is None else training_store(store)
        self.job = _job_of(name)

    def forecast(
        self,
        store: str | Path | Store,
        init: Span,
        leads: Sequence[int],
        *,
        every: int = 24,
        channels: Sequence[str] | None = None,
        at: str | Path | pd.DataFrame | None = None,
        lapse_rate: float | None = None,
        out: str | Path | None = None,
        batch_size: int = 16,
        scheduler: str | None = None,
        overwrite: bool = False,
    ) -> xr.Dataset:
        """Forecast from the states of a store; see `Run.forecast`.

        Args:
            store: training store that holds the initial states.
            init: first and last initial time.
            leads: hours after the initial time.
            every: hours between initial times.
            channels: to predict; all by default.
            at: table of stations to forecast for instead of maps.
            lapse_rate: K per km to the height of the stations.
            out: Zarr store to stream into; None keeps the forecasts in memory.
            batch_size: initial times at once.
            scheduler: who forecasts, as for `Run.forecast`; each process fits the baseline for itself.
            overwrite: replace forecasts that are there already.

        Raises:
            RecipeError: if the baseline does not forecast.
        """
        require(self.job, "forecast", f"the baseline {self.name}")
        in_reach(out, scheduler)
        at_stations(at, lapse_rate)
        wanted = hours(leads)
        at_least_one(every=every, batch_size=batch_size)
        states = training_store(store)
        again = partial(baseline_task, self.name, self.store or states, states.resolve(channels), wanted)
        task = again()
        initial = initial_times(states, task.layout.history, period(init), every)
        stations = None if at is None else read_points(at)

        def write(path: str) -> None:
            with Workers(scheduler) as workers:
                predict_to(
                    task, states, path, initial, wanted, source={"baseline": self.name}, at=stations,
                    lapse_rate=lapse_rate, batch_size=batch_size, overwrite=overwrite, label=self.name,
                    workers=workers, again=again,
                )  # fmt: skip

        return streamed(write, out, [states.path, *([at] if isinstance(at, str | Path) else [])])

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
            DataError: if the period reaches beyond the store's times, or `out` holds something else.
        """
        require(self.job, "fill", f"the baseline {self.name}")
        gappy, span = training_store(store), period(months)
        refuse_beyond(gappy.path, gappy.time, gappy.calendar, *span)

        def write(path: str) -> None:
            fill_baseline_to(
                self.name, gappy, path, span, target=target, channels=gappy.resolve(channels),
                overwrite=overwrite,
            )  # fmt: skip

        return streamed(write, out, [gappy.path])

    def downscale(
        self,
        coarse: Given,
        grid: GridLike,
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
            grid: to interpolate to: degrees, `gaussian32`, or a grid, file, store or dataset.
            times: first and last time; by default all.
            every: least number of hours from one time to the next.
            out: Zarr store to stream into; None keeps the fields in memory.
            batch_size: times at once.
            overwrite: replace fields that are there already.

        Raises:
            RecipeError: if the baseline does not downscale.
            GridError: if the grid reaches beyond the coarse one.
        """
        require(self.job, "downscale", f"the baseline {self.name}")
        at_least_one(every=every, batch_size=batch_size)
        states = opened(coarse)
        task = interpolation_task(self.name, states, states.channels, as_grid(grid))
        chosen = times_of(states, task, times, every)

        def write(path: str) -> None:
            downscale_to(
                task, states, path, chosen, source={"baseline": self.name}, batch_size=batch_size,
                overwrite=overwrite, label=self.name,
            )  # fmt: skip

        return streamed(write, out, [states.path])

    def __repr__(self) -> str:
        return f"Baseline {self.name}: {SERVES[self.job]}"


def _job_of(name: str) -> Job:
    names: dict[Job, Sequence[str]] = {"forecast": BASELINES, "downscale": tuple(INTERPOLATIONS), "fill": GAP_BASELINES}
    for job, known in names.items():
        if name in known:
            return job
    every = [each for known in names.values() for each in known]
    raise RecipeError(f"there is no baseline '{name}'{suggest(name, every)}")
