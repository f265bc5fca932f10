"""The verbs: each takes paths or objects and returns objects; the command line calls nothing else."""

import tempfile
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from rich.table import Table

from etesian.baselines import Baseline
from etesian.core.clock import decode_time, encode_time, month_start
from etesian.core.errors import CheckpointError, RecipeError, suggest
from etesian.core.outputs import claim, keep_apart
from etesian.distance.score import LearnedDistance
from etesian.files import fetch as fetching
from etesian.files.diagnosis import Diagnosis
from etesian.files.doctor import examine
from etesian.files.open import Source, open_store
from etesian.fill.baselines import GAP_BASELINES, fill_baseline_to
from etesian.fill.pairs import FilledPairs, Resolution
from etesian.fill.report import filled_summary
from etesian.fill.scores import score_filled
from etesian.forecast.baselines import baseline_task
from etesian.forecast.run import predict_to
from etesian.run import Run
from etesian.samples.windows import Period, exists
from etesian.scores.score import score
from etesian.scores.series import averaging_hours, open_forecast
from etesian.scores.tables import summary as forecast_summary
from etesian.store import prepare as preparing
from etesian.store.reader import Store, is_training_store
from etesian.training.checkpoint import NETWORK

Forecast = str | Path | xr.Dataset


def open(source: Source) -> xr.Dataset:
    """Open NetCDF, GRIB, HDF5, Zarr or ClimaX's shards as one canonical dataset, reading no values; see `open_store`.

    Args:
        source: a file, folder, store, address or pattern, or several of these.

    Raises:
        DataError: if something is missing, unreadable, or does not fit together.
        GridError: if the grid is not a latitude–longitude grid, or grids differ.
    """
    return open_store(source)


def doctor(source: Source) -> Diagnosis:
    """Tell what a source holds, what is wrong with it and how to mend it: a table in a terminal, HTML in a notebook.

    Args:
        source: as for `open`, also what `open` refuses.
    """
    return examine(source)


def fetch(source: str, out: str | Path, *, variables: Sequence[str], **options: Any) -> xr.Dataset:
    """Copy a part of a remote Zarr store into a local one, resumably, and return it opened.

    Args:
        source: an address, or one of the public stores' short names such as `weatherbench2/64x32`.
        out: the Zarr store to write.
        variables: names such as geopotential, 2m_temperature, or the store's own.
        **options: `levels`, `start`, `end`, `region`, `every`, `retries`, `anonymous` and `overwrite`; see
            `etesian fetch --help`.

    Raises:
        EtesianError: if the store cannot be read, lacks what is asked for, or something else is at `out`.
    """
    fetching.fetch(source, str(out), variables=list(variables), **options)
    return open_store(str(out))


def prepare(
    source: Source | xr.Dataset,
    out: str | Path,
    *,
    train: tuple[str | None, str | None] | None = None,
    grid: float | str | Path | None = None,
    **options: Any,
) -> Store:
    """Make a training store: fields, statics, statistics, climatology.

    The work goes on in `OUT.partial` and can be killed at any time; the same call continues it.

    Args:
        source: files, or a canonical dataset as `open` gives it, of which more was selected with xarray.
        out: the Zarr store to make.
        train: first and last date of the statistics and the climatology: your training years. By default all.
        grid: to bring the fields to: degrees, `gaussian32`, or a file that is on it.
        **options: `variables`, `exclude`, `levels`, `method`, `coarsen`, `start`, `end`, `every`, `resampling`,
            `region`, `member`, `derive`, `scheduler`, `memory_limit` and `overwrite`; see `etesian prepare --help`.

    Raises:
        EtesianError: if a source cannot be used, or an option asks for what is not there.
    """
    first, last = train or (None, None)
    preparing.prepare(
        source if isinstance(source, xr.Dataset) else preparing.as_list(source), str(out), train_start=first,
        train_end=last, grid=None if grid is None else str(grid), **options,
    )  # fmt: skip
    return Store(out)


def simulate(kind: str, out: str | Path, **options: Any) -> xr.Dataset | Path:
    """Simulate an atmosphere with weather, a sea under clouds, or a climate under emissions, without any download.

    Args:
        kind: what to simulate.
        out: the Zarr store to write; of a climate, the folder.
        **options: see `etesian simulate KIND --help`.

    Returns:
        What was simulated, opened; of a climate, the folder of its files in ClimateBench's layout.

    Raises:
        RecipeError: if there is no such kind, a setting is impossible, or the extra `simulate` is not installed.
        DataError: if something else is at `out`.
    """
    kinds = ("atmosphere", "ocean", "climate")
    if kind not in kinds:
        raise RecipeError(f"there is no simulation of '{kind}'{suggest(kind, kinds)}")
    if kind == "climate":
        from etesian.simulation.climate import simulate_scenarios

        simulate_scenarios(str(out), **options)
        return Path(out)
    if kind == "ocean":
        from etesian.simulation.ocean import simulate_ocean

        simulate_ocean(str(out), **options)
    else:
        from etesian.simulation.atmosphere import simulate as simulate_atmosphere

        simulate_atmosphere(str(out), **options)
    return open_store(str(out))


def fit(
    recipe: str | Path | Mapping[str, Any],
    *,
    run: str | Path | None = None,
    stores: Sequence[str | Path | Store] | None = None,
    epochs: int | None = None,
    options: Mapping[str, Any] | None = None,
    trust: Sequence[str] = (),
) -> Run:
    """Train from a recipe, in this process; the same call again goes on, or says that the run is finished.

    Args:
        recipe: name of one that ships (`etesian recipes` lists them), a YAML file, or a mapping like it.
        run: directory of the run; by default runs/RECIPE.
        stores: training stores, instead of those that the recipe names.
        epochs: to train, instead of the recipe's.
        options: further options that take the place of the recipe's, by their dotted names, such as
            `{"model.optimizer.lr": 1e-4}`.
        trust: modules of your own that the recipe may name classes of.

    Raises:
        RecipeError: if there is no such recipe, or its options do not fit together.
    """
    from etesian.training.recipes import fit as train

    return Run(train(recipe, run, stores, epochs, options or {}, trust))


def summary(scores: xr.Dataset) -> Table:
    """Return the first table of scores: of forecasts, fine or filled fields."""
    return filled_summary(scores) if "lead_time" not in scores.dims else forecast_summary(scores)


def load(run: str | Path, checkpoint: str | None = None) -> Run | Baseline:
    """Return a trained run, or a baseline where it is called `baseline:NAME`.

    Args:
        run: directory of the run, a checkpoint folder, or for example `baseline:persistence`.
        checkpoint: name of the run's checkpoint, such as `last`; the best by default.

    Raises:
        CheckpointError: if there is none, or it is damaged.
        RecipeError: if there is no such baseline.
    """
    name = str(run)
    if name.startswith("baseline:"):
        return Baseline(name.removeprefix("baseline:"))
    if (Path(run) / NETWORK).exists():
        raise CheckpointError(f"{run} holds a network without statistics; name it as `start` in a recipe to train it")
    return Run(run, checkpoint)


def baseline(name: str, store: str | Path | Store | None = None) -> Baseline:
    """Return a simple answer that a network has to beat.

    Args:
        name: forecasting: persistence, climatology, seasonal_cycle, damped_persistence, ridge, ridge_3_days,
            ridge_all_channels; downscaling: interpolation, bicubic; gap filling: observed_mean, climatology_anomaly,
            linear, optimal_interpolation, dineof.
        store: whose training period it is fitted to; by default the one that it is asked about.

    Raises:
        RecipeError: if there is no such baseline.
    """
    return Baseline(name, store)


def evaluate(
    forecasts: Forecast | Mapping[str, Forecast],
    truth: str | Path | xr.Dataset | Store,
    *,
    baselines: Sequence[str] | None = None,
    observed: str | Path | Store | None = None,
    distance: str | Path | None = None,
    out: str | Path | None = None,
    **options: Any,
) -> xr.Dataset:
    """Score forecasts, filled or fine fields against the truth and baselines, with intervals and a report.

    Every forecast is scored over the same initial times, leads and points. Baselines are made from the truth, which
    must then be a training store, and kept in `OUT.baselines`.

    Args:
        forecasts: one, or several by name, of which the first is what the report is about: Zarr stores or datasets.
        truth: a training store, any file that `open` reads, or a canonical dataset.
        baselines: to compare with; by default persistence and the seasonal cycle for forecasts where the truth is a
            training store, all for filled gaps, none for fine fields.
        observed: where gaps were filled, the store with the gaps; the truth is then complete fields, or the
            observations of which some were withheld.
        distance: run of AtmoDist whose learned distance between forecast and truth is a score as well.
        out: folder for scores.nc, scores.csv, report.html and pictures; None gives the scores alone.
        **options: `references`, `climatology`, `channels`, `leads`, `regions`, `weights`, `headline`, `structure` and
            `locations`; see `etesian evaluate --help`.

    Returns:
        Scores with 95 % intervals; docs/scores.md defines them.

    Raises:
        EtesianError: if files cannot be read or compared.
    """
    one = isinstance(forecasts, str | Path | xr.Dataset)  # a dataset is a mapping, too
    named: dict[str, Forecast] = {_name(forecasts): forecasts} if one else dict(forecasts)  # type: ignore[dict-item,arg-type]
    judge = truth.path if isinstance(truth, Store) else truth
    gaps = observed.path if isinstance(observed, Store) else observed
    inputs = [each for each in (*named.values(), judge, gaps, distance) if isinstance(each, str | Path)]
    if out is not None:
        claim(out, "evaluation", inputs)
    with tempfile.TemporaryDirectory() as folder:
        beside = Path(folder) if out is None else Path(f"{out}.baselines")
        if gaps is not None:
            return _evaluate_filled(named, judge, gaps, baselines, beside, out, inputs, **options)
        fitted = _fitted(judge, baselines)
        if baselines is None:
            first = open_forecast(*next(iter(named.items())))
            baselines = ["persistence", "seasonal_cycle"] if fitted and first.leads.any() else []
        like = next(iter(named.values()))
        for name in baselines:
            assert fitted is not None
            named[name] = beside / f"{name}.zarr"
            keep_apart(beside / f"{name}.zarr", inputs)
            _forecast_as(name, like, fitted, beside / f"{name}.zarr", options.get("channels"))
        references = [*baselines, *(options.pop("references", None) or [])]
        further = [] if distance is None else [partial(LearnedDistance, run=distance)]
        return score(named, judge, references=references, further=further, out=out, **options).load()


def _evaluate_filled(
    filled: dict[str, Forecast],
    truth: str | Path | xr.Dataset,
    observed: str | Path,
    baselines: Sequence[str] | None,
    beside: Path,
    out: str | Path | None,
    inputs: Sequence[str | Path],
    *,
    channels: Sequence[str] | None = None,
    weights: str = "area",
    **unused: Any,
) -> xr.Dataset:
    """Score filled fields beside baselines made from the same observations."""
    given = [name for name, value in {"weights": weights != "area", **unused}.items() if value]
    if given:
        raise RecipeError(f"{given[0]} is for forecasts; filled gaps are judged without it")
    fitted = _fitted(observed, baselines)
    pairs = FilledPairs(filled, truth, observed, channels)
    months = decode_time(month_start(pairs.time[[0, -1]], pairs.calendar), pairs.calendar)
    span = Period(str(months[0])[:7], str(months[1])[:7])
    names = GAP_BASELINES if baselines is None else baselines
    for name in names if fitted else ():
        assert fitted is not None
        keep_apart(beside / f"{name}.zarr", inputs)
        target: Resolution = "monthly" if pairs.monthly else "daily"
        fill_baseline_to(
            name, fitted, str(beside / f"{name}.zarr"), span, target=target, channels=pairs.channels, overwrite=True
        )
        filled = {**filled, name: beside / f"{name}.zarr"}
    scores: xr.Dataset = score_filled(filled, truth, observed, channels=channels, out=out)
    return scores.load()


def _fitted(store: str | Path | xr.Dataset, baselines: Sequence[str] | None) -> Store | None:
    """Return the store that baselines are fitted to, None where there is none and none is asked for."""
    if not isinstance(store, xr.Dataset) and is_training_store(store):
        return Store(store)
    if baselines:
        raise RecipeError(f"baselines are fitted to a training store, which {store} is not; ask for no baselines")
    return None


def plot(path: str | Path, out: str | Path, **options: Any) -> Path:
    """Draw a picture of data, forecasts or scores.

    Args:
        path: scores.nc of `evaluate`, forecasts, a training store, or any file that can be opened.
        out: picture to write; its ending tells the format, such as .png or .pdf.
        **options: `channel`, `time`, `lead`, `truth`, `score` and `region`; see `etesian plot --help`.

    Raises:
        EtesianError: if the path cannot be read or has no such channel, time or lead.
    """
    from etesian.scores.plots import plot as draw

    draw(str(path), str(out), **options)
    return Path(out)


def _name(forecast: Forecast) -> str:
    return "forecast" if isinstance(forecast, xr.Dataset) else Path(forecast).name.removesuffix(".zarr")


def _forecast_as(name: str, like: Forecast, store: Store, path: Path, channels: Sequence[str] | None) -> None:
    """Forecast with a baseline for the initial times, leads and channels of another forecast."""
    other = open_forecast(name, like)
    wanted = store.channels if channels is None else store.resolve(channels)
    shared = [channel for channel in other.channels if channel in wanted]
    leads = tuple(int(lead) for lead in other.leads)
    if 0 in leads and name not in ("climatology", "seasonal_cycle"):
        raise RecipeError(f"at lead 0 {name} is the truth itself; compare downscaled fields with `interpolation`")
    initial, _ = encode_time(other.dataset["time"].values)
    task = baseline_task(name, store, shared, leads, averaging_hours({name: other}))
    usable = exists(store, task.layout.history, np.ones(len(store.time), dtype=bool))
    initial = initial[np.isin(initial, store.time[usable])]
    path.parent.mkdir(parents=True, exist_ok=True)
    predict_to(task, store, str(path), initial, leads, source={"baseline": name}, overwrite=True, label=name)
