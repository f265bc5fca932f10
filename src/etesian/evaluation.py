"""Scores of forecasts, filled and fine fields beside baselines: what is compared, made and written down."""

import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

import dask
import numpy as np
import pandas as pd
import xarray as xr
from rich.table import Table

from etesian.core.clock import decode_time, encode_time, month_start
from etesian.core.errors import RecipeError
from etesian.core.outputs import claim, keep_apart
from etesian.core.resumable import is_finished, plan_text
from etesian.core.workers import Workers
from etesian.distance.distance import LearnedDistance
from etesian.files.stations import read_reports
from etesian.fill.baselines import GAP_BASELINES, fill_baseline_to
from etesian.fill.pairs import FilledPairs, Resolution
from etesian.fill.report import filled_summary, write_gapfill_report
from etesian.fill.scores import score_filled
from etesian.forecast.baselines import baseline_task
from etesian.forecast.run import predict_to
from etesian.samples.windows import Period, exists
from etesian.scores.report import write_report
from etesian.scores.score import score
from etesian.scores.series import averaging_hours, open_forecast
from etesian.scores.stations import TOLERANCE, StationScores
from etesian.scores.tables import summary as forecast_summary
from etesian.scores.weights import Weighting
from etesian.store.prepare import identity
from etesian.store.reader import Store, is_training_store
from etesian.training.checkpoint import WEIGHTS, find_checkpoint
from etesian.verbs import at_stations, in_reach

Forecast = str | Path | xr.Dataset


def evaluate(
    forecasts: Forecast | Mapping[str, Forecast],
    truth: str | Path | xr.Dataset | Store,
    *,
    baselines: Sequence[str] | None = None,
    observed: str | Path | Store | None = None,
    references: Sequence[str] | None = None,
    climatology: str | Path | xr.Dataset | None = None,
    channels: Sequence[str] | None = None,
    leads: Sequence[int] | None = None,
    regions: Sequence[str] | None = None,
    weights: Weighting = "area",
    headline: Sequence[str] | None = None,
    structure: bool = False,
    locations: Sequence[str] | None = None,
    distance: str | Path | None = None,
    thresholds: Mapping[str, Sequence[float]] | None = None,
    quantiles: Sequence[float] | None = None,
    windows: Sequence[int] | None = None,
    stations: str | Path | pd.DataFrame | None = None,
    tolerance: float = TOLERANCE,
    lapse_rate: float | None = None,
    out: str | Path | None = None,
    scheduler: str | None = None,
    overwrite: bool = False,
) -> xr.Dataset:
    """Score forecasts, filled or fine fields against the truth and baselines, with intervals and a report.

    Every forecast is scored over the same initial times, leads and points. Baselines are made from the truth, which
    must then be a training store, and kept in `OUT.baselines`. The same call again reads the scores that are there.

    Args:
        forecasts: one, or several by name, of which the first is what the report is about: Zarr stores or datasets.
        truth: a training store, any file that `etesian doctor` can read, or a canonical dataset.
        baselines: to compare with: persistence, climatology, seasonal_cycle, damped_persistence, ridge, ridge_3_days
            and ridge_all_channels, or those that fill gaps; by default persistence and seasonal_cycle for forecasts
            where the truth is a training store, all for filled gaps, none for fine fields.
        observed: where gaps were filled, the store with the gaps; the truth is then complete fields, or the
            observations of which some were withheld.
        references: of the others, those to measure skill by as well, such as bilinear interpolation.
        climatology: training store or WeatherBench 2 climatology for anomalies; by default that of the truth.
        channels: such as geopotential_500; all that are shared by default.
        leads: hours; all that are shared by default.
        regions: names or south,north,west,east.
        weights: of latitudes: cell area as WeatherBench 2, or the cosine of latitude as ClimaX.
        headline: channels of the report's first tables, four at most.
        structure: compare spectra, semivariograms, distributions and gradients of the headline channels as well, and
            look at one field closely.
        locations: cities, or latitude,longitude, whose distributions are compared; a few cities by default.
        distance: run of AtmoDist whose learned distance between forecast and truth is a score beside RMSE and ACC.
        thresholds: events whose forecasts are scored: values of a channel above these, in its units, such as
            `{"2m_temperature": [273.15, 300]}`.
        quantiles: climatological quantiles, such as 0.1 and 0.9: events are values of the headline channels further
            from the climatology than these of the departures in the training period of the store, below it for
            quantiles under a half.
        windows: sizes in grid points, odd, of the neighbourhoods whose fractions of an event are compared (FSS).
        stations: table of reports (CSV, Parquet or METAR's export) by which forecasts are scored as well;
            docs/stations.md says which columns it has.
        tolerance: minutes between a report and the time that it verifies, at most.
        lapse_rate: K per km by which 2 m temperatures go from the model's height to that of a station; by default 6.5
            where the truth or a forecast holds the orography, 0 for none.
        out: folder to write scores.nc, scores.csv, report.html and pictures into; without one there are scores only.
        scheduler: who reads and sums up: address of a Dask cluster (tcp://host:8786), or `local` for a process on
            each core; this process by default. The scores are the same.
        overwrite: replace an evaluation of something else that is there already.

    Returns:
        Scores with 95 % intervals; docs/scores.md defines them.

    Raises:
        EtesianError: if files cannot be read or compared, or an evaluation of something else is at `out`.
    """
    one = isinstance(forecasts, str | Path | xr.Dataset)  # a dataset is a mapping, too
    named: dict[str, Forecast] = {_name(forecasts): forecasts} if one else dict(forecasts)  # type: ignore[dict-item,arg-type]
    truth = truth.path if isinstance(truth, Store) else truth
    observed = observed.path if isinstance(observed, Store) else observed
    options: dict[str, Any] = {
        "climatology": climatology,
        "leads": leads,
        "regions": regions,
        "headline": headline,
        "structure": structure,
        "locations": locations,
        "thresholds": None if thresholds is None else {name: list(limits) for name, limits in thresholds.items()},
        "quantiles": None if quantiles is None else list(quantiles),
        "windows": None if windows is None else list(windows),
    }
    if observed is not None and scheduler is not None:
        raise RecipeError("scheduler is for forecasts; filled gaps are scored without it")
    in_reach(out, scheduler)
    at_stations(stations, lapse_rate)
    reported = None if stations is None else _AtStations(stations, tolerance, lapse_rate)
    asked = _Comparison(
        named, truth, observed, baselines, references, channels, weights, distance, options, reported, scheduler
    )
    if out is None:
        with tempfile.TemporaryDirectory() as folder:
            return asked.score(Path(folder))
    plan, beside = asked.plan(), Path(f"{out}.baselines")
    if is_finished(claim(out, "evaluation", asked.inputs, overwrite=overwrite), plan, overwrite=overwrite):
        return xr.load_dataset(Path(out) / "scores.nc", decode_timedelta=False)
    return asked.score(beside, out, plan_text(plan))


def summary(scores: xr.Dataset) -> Table:
    """Return the first table of scores: of forecasts, fine or filled fields."""
    return filled_summary(scores) if "lead_time" not in scores.dims else forecast_summary(scores)


@dataclass(frozen=True)
class _AtStations:
    """What is said of stations."""

    table: str | Path | pd.DataFrame
    tolerance: float
    lapse_rate: float | None

    def plan(self) -> dict[str, Any]:
        """Return all that scores at stations follow from, as plain data."""
        table = self.table
        told = dask.base.tokenize(table) if isinstance(table, pd.DataFrame) else _told_apart(table)
        return {"stations": told, "tolerance": self.tolerance, "lapse_rate": self.lapse_rate}


@dataclass(frozen=True)
class _Comparison:
    """What `evaluate` is asked for; stores by their paths, `options` those that `score` alone takes."""

    forecasts: dict[str, Forecast]
    truth: str | Path | xr.Dataset
    observed: str | Path | None
    baselines: Sequence[str] | None
    references: Sequence[str] | None
    channels: Sequence[str] | None
    weights: Weighting
    distance: str | Path | None
    options: dict[str, Any]
    stations: _AtStations | None
    scheduler: str | None

    @property
    def inputs(self) -> list[str | Path]:
        """Paths of all that is read."""
        given = (*self.forecasts.values(), self.truth, self.observed, self.distance, self.options["climatology"])
        given += () if self.stations is None else (self.stations.table,)
        return [each for each in given if isinstance(each, str | Path)]

    def plan(self) -> dict[str, Any]:
        """Return all that the scores follow from, as plain data."""
        told = {f"forecast {name}": _told_apart(forecast) for name, forecast in self.forecasts.items()}
        further = {
            "truth": self.truth,
            "observed": self.observed,
            "climatology": self.options["climatology"],
            "distance": None if self.distance is None else find_checkpoint(self.distance) / WEIGHTS,
        }
        told |= {name: _told_apart(given) for name, given in further.items() if given is not None}
        own = {name: getattr(self, name) for name in ("baselines", "references", "channels", "weights")}
        # Nothing is said of stations where there are none, so that evaluations of earlier versions are still the same.
        return self.options | dict.fromkeys(further) | own | told | (self.stations.plan() if self.stations else {})

    def score(self, beside: Path, out: str | Path | None = None, plan: str | None = None) -> xr.Dataset:
        """Make the baselines into a folder, score all, and write the report where there is a place for it."""
        if self.observed is None:
            scores = self._score_forecasts(beside)
            if out is not None:
                write_report(scores, out, plan)
            return scores.load()
        filled = self._filled(self.observed, beside)
        scores = score_filled(filled, self.truth, self.observed, channels=self.channels)
        if out is not None:
            write_gapfill_report(scores, FilledPairs(filled, self.truth, self.observed, self.channels), out, plan)
        return scores.load()

    def _score_forecasts(self, beside: Path) -> xr.Dataset:
        named, baselines = dict(self.forecasts), self.baselines
        # A table that cannot be read is found before baselines are made.
        reports = None if self.stations is None else read_reports(self.stations.table)
        like = next(iter(named.values()))
        fitted = _fitted(self.truth, baselines)
        if baselines is None:
            first = open_forecast(next(iter(named)), like)
            baselines = ["persistence", "seasonal_cycle"] if fitted and first.leads.any() else []
        further: list[Any] = [] if self.distance is None else [partial(LearnedDistance, run=Path(self.distance))]
        references = [*baselines, *(self.references or [])]
        if reports is not None:
            assert self.stations is not None
            further.append(
                partial(
                    StationScores, reports=reports, regions=self.options["regions"], references=references,
                    tolerance=self.stations.tolerance, lapse_rate=self.stations.lapse_rate,
                )
            )  # fmt: skip
        with Workers(self.scheduler) as workers:
            for name in baselines:
                assert fitted is not None
                named[name] = keep_apart(beside / f"{name}.zarr", self.inputs)
                _forecast_as(name, like, fitted, beside / f"{name}.zarr", self.channels, workers)
            return score(
                named, self.truth, references=references, channels=self.channels, weights=self.weights,
                further=further, workers=workers, **self.options,
            )  # fmt: skip

    def _filled(self, observed: str | Path, beside: Path) -> dict[str, Forecast]:
        """Return the filled fields and, beside them, baselines made from the same observations."""
        unfit = {"weights": self.weights != "area", "references": self.references, "distance": self.distance}
        unfit["stations"] = self.stations is not None
        if given := [name for name, value in (unfit | self.options).items() if value]:
            raise RecipeError(f"{given[0]} is for forecasts; filled gaps are scored without it")
        fitted = _fitted(observed, self.baselines)
        pairs = FilledPairs(self.forecasts, self.truth, observed, self.channels)
        months = decode_time(month_start(pairs.time[[0, -1]], pairs.calendar), pairs.calendar)
        span = Period(str(months[0])[:7], str(months[1])[:7])
        target: Resolution = "monthly" if pairs.monthly else "daily"
        filled = dict(self.forecasts)
        for name in (GAP_BASELINES if self.baselines is None else self.baselines) if fitted else ():
            assert fitted is not None
            path = keep_apart(beside / f"{name}.zarr", self.inputs)
            fill_baseline_to(name, fitted, str(path), span, target=target, channels=pairs.channels, overwrite=True)
            filled[name] = path
        return filled


def _told_apart(given: str | Path | xr.Dataset) -> str:
    """Return what tells data from others: of a training store its fingerprint, of files names, sizes and times."""
    if not isinstance(given, xr.Dataset) and is_training_store(given):
        return str(Store(given).fingerprint)
    stamps = dask.base.tokenize(given) if isinstance(given, xr.Dataset) else identity([str(given)])
    return sha256(json.dumps(stamps).encode()).hexdigest()[:12]


def _fitted(store: str | Path | xr.Dataset, baselines: Sequence[str] | None) -> Store | None:
    """Return the store that baselines are fitted to, None where there is none and none is asked for."""
    if not isinstance(store, xr.Dataset) and is_training_store(store):
        return Store(store)
    if baselines:
        raise RecipeError(f"baselines are fitted to a training store, which {store} is not; ask for no baselines")
    return None


def _name(forecast: Forecast) -> str:
    return "forecast" if isinstance(forecast, xr.Dataset) else Path(forecast).name.removesuffix(".zarr")


def _forecast_as(
    name: str, like: Forecast, store: Store, path: Path, channels: Sequence[str] | None, workers: Workers
) -> None:
    """Forecast with a baseline for the initial times, leads and channels of another forecast."""
    other = open_forecast(name, like)
    wanted = store.channels if channels is None else store.resolve(channels)
    shared = [channel for channel in other.channels if channel in wanted]
    leads = tuple(int(lead) for lead in other.leads)
    if 0 in leads and name not in ("climatology", "seasonal_cycle"):
        raise RecipeError(f"at lead 0 {name} is the truth itself; compare downscaled fields with `interpolation`")
    initial, _ = encode_time(other.dataset["time"].values)
    again = partial(baseline_task, name, store, shared, leads, averaging_hours({name: other}))
    task = again()
    usable = exists(store, task.layout.history, np.ones(len(store.time), dtype=bool))
    initial = initial[np.isin(initial, store.time[usable])]
    path.parent.mkdir(parents=True, exist_ok=True)
    predict_to(
        task, store, str(path), initial, leads, source={"baseline": name}, overwrite=True, label=name, workers=workers,
        again=again,
    )  # fmt: skip
