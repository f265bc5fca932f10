"""Commands that join several layers: predict, evaluate, import."""

import json
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
from rich.console import Console

from etesian.api_fill import evaluate_filled, fill, fill_gaps
from etesian.core import Grid
from etesian.core.clock import encode_time
from etesian.core.errors import RecipeError, suggest
from etesian.core.outputs import claim, complete_or_absent, keep_apart
from etesian.distance.score import LearnedDistance
from etesian.downscale.baselines import INTERPOLATIONS, interpolation_task
from etesian.downscale.superresolution import SuperResolutionTask
from etesian.fill.baselines import GAP_BASELINES
from etesian.fill.filled import Resolution
from etesian.fill.run import Empty
from etesian.fill.task import GapFillTask
from etesian.forecast.baselines import BASELINES, baseline_task
from etesian.forecast.run import initial_times, predict_to
from etesian.networks.network import Network
from etesian.samples.windows import Period, exists
from etesian.scores.plots import plot
from etesian.scores.score import score
from etesian.scores.series import averaging_hours, is_training_store, open_forecast
from etesian.scores.tables import summary
from etesian.store.reader import TrainingStore
from etesian.store.regrid import parse_grid
from etesian.training.checkpoint import find_checkpoint, load_task, read_description
from etesian.training.task import Task

__all__ = ["evaluate", "import_checkpoint", "plot", "predict"]


def predict(
    run: str,
    store: str,
    out: str,
    *,
    init: tuple[str, str],
    leads: list[int] | None = None,
    others: list[str] | None = None,
    every: int = 24,
    channels: list[str] | None = None,
    grid: str | None = None,
    checkpoint: str | None = None,
    source: str | None = None,
    blend: list[str] | None = None,
    blend_weights: list[float] | None = None,
    batch_size: int = 16,
    target: Resolution = "monthly",
    empty: Empty = "missing",
    overwrite: bool = False,
) -> None:
    """Forecast from the states in a training store, in physical units, as a Zarr store in WeatherBench 2's layout.

    The work goes on in OUT.partial and can be interrupted; the same command continues it. OUT appears when it is
    complete.

    Args:
        run: run directory of `etesian fit`, a checkpoint folder, or a baseline: persistence, climatology,
            seasonal_cycle, damped_persistence, ridge, ridge_3_days or ridge_all_channels, fitted to the training
            period of the store. A run on two grids
            downscales, and so do `interpolation`, bilinearly, and `bicubic`. A run of GapFillTask fills the gaps of
            the months from INIT.
        store: training store that holds the initial states.
        out: the Zarr store to make.
        init: first and last date of the initial times, such as 2008-01-01 2008-12-26; a year or month as the last one
            means all of it.
        leads: hours after the initial time, such as 24 72 120; 0 where a run downscales. None where gaps are filled.
        others: further runs of direct models; each lead is then answered by the run that was trained for it.
        every: hours between initial times.
        channels: what a baseline predicts; all by default. A run predicts what it was trained on.
        grid: that `interpolation` or `bicubic` goes to: degrees (1.5, or 1.5+poles), gaussian32, or a file or store
            that is on it. For super-resolution, the fine grid, where even steps around the store's points are not it.
        checkpoint: name of the run's checkpoint, such as last; the best by default.
        source: which of the sources that the run has encoders for the store holds.
        blend: training stores of further sources, as SOURCE=PATH, whose states of the same times are blended with
            those of the store in the run's latent.
        blend_weights: of the store and the further ones, such as 0.1 0.9; by default the same.
        batch_size: initial times at once.
        target: what a baseline that fills gaps (observed_mean, climatology_anomaly, linear, optimal_interpolation,
            dineof) makes of the times from INIT: means over the months, or every time. A run knows its target.
        empty: what a run that fills gaps gives where a month has no observation, which is flagged: nothing, or the
            seasonal cycle of the store.
        overwrite: replace forecasts that are there already.

    Raises:
        EtesianError: if the run, the store and the options do not fit together.
    """
    blended = [_named(text)[1] for text in blend or []]
    keep_apart(out, [run, store, *(others or []), *([grid] if grid else []), *blended])
    if run in GAP_BASELINES:
        if leads or others:
            raise RecipeError(f"{run} fills gaps, without leads or other runs; leave --leads and --others out")
        return fill(run, store, out, init, target, channels, overwrite=overwrite)
    if leads is None:
        filling = None if run in (*BASELINES, *INTERPOLATIONS) else _load(run, checkpoint)
        if filling is not None and isinstance(filling[0], GapFillTask):
            return fill_gaps(filling[0], store, out, init, filling[1], empty, overwrite=overwrite)
        raise RecipeError("forecasts need --leads, hours after the initial time, such as 24 72 120")
    wanted = tuple(sorted(set(leads)))
    if not wanted or wanted[0] < 0 or (wanted[0] == 0 and run in BASELINES):
        raise RecipeError(f"leads {list(leads)} must be hours greater than 0, such as 24 72 120")
    if grid is None and run in INTERPOLATIONS:
        raise RecipeError(f"{run} needs --grid, the grid to interpolate to")
    if every < 1 or batch_size < 1:
        raise RecipeError(f"every = {every} and batch_size = {batch_size} must be at least 1")
    opened = TrainingStore(store)
    fine = None if grid is None else TrainingStore(grid).grid if is_training_store(grid) else parse_grid(grid)
    task: Task
    by_lead: dict[int, Task] = {}
    if others and (run in BASELINES or grid is not None):
        raise RecipeError(f"--others are runs beside a run, but {run} is a baseline; predict with them alone")
    if run in BASELINES:
        task = baseline_task(run, opened, opened.resolve(channels), wanted)
        identity: dict[str, object] = {"baseline": run}
    elif run in INTERPOLATIONS and fine is not None:
        task = interpolation_task(run, opened, opened.resolve(channels), fine)
        identity = {"baseline": run}
    else:
        if channels is not None:
            raise RecipeError("a run predicts the channels it was trained on; --channels is for baselines")
        runs = {each: _load(each, checkpoint) for each in (run, *(others or []))}
        task, identity = runs[run]
        if isinstance(task, GapFillTask):
            raise RecipeError(f"{run} fills gaps, without leads or other runs; leave --leads and --others out")
        if not others:
            _refuse_untrained(run, task, wanted)
        else:
            by_lead = _by_lead({name: loaded for name, (loaded, _) in runs.items()}, wanted)
            identity = {"runs": [each for _, each in runs.values()]}
        if isinstance(task, SuperResolutionTask):
            task = task.between(opened.grid, fine or opened.grid.refined(task.factor))
        elif fine is not None:
            raise RecipeError(f"--grid is for interpolation and super-resolution; the run {run} knows its grid")
    if (task.layout.target_grid is not None) != (wanted == (0,)):
        raise RecipeError("leads are 0 where a run or `interpolation` downscales, and greater than 0 in a forecast")
    history = sorted({hour for each in (task, *by_lead.values()) for hour in each.layout.history})
    initial = initial_times(opened, tuple(history), Period(*init), every)
    further = dict(_source(text) for text in blend or [])
    predict_to(
        by_lead or task,
        opened,
        out,
        initial,
        wanted,
        source=identity,
        encoder=source,
        blend=further,
        weights=blend_weights or (),
        batch_size=batch_size,
        overwrite=overwrite,
        label=out,
    )


def _source(text: str) -> tuple[str, TrainingStore]:
    name, equals, path = text.partition("=")
    if not (name and equals and path):
        raise RecipeError(f"--blend takes SOURCE=PATH, such as HRES=hres.store.zarr, not '{text}'")
    return name, TrainingStore(path)


def _load(run: str, checkpoint: str | None) -> tuple[Task, dict[str, object]]:
    """Return a trained task and what identifies it."""
    if not Path(run).exists():
        raise RecipeError(f"there is no run or baseline '{run}'{suggest(run, (*BASELINES, *INTERPOLATIONS))}")
    folder = find_checkpoint(run, checkpoint)
    description = read_description(folder)
    identity = {"run": str(run), "step": description["step"], "provenance": description["provenance"]}
    return load_task(folder), identity


def _refuse_untrained(run: str, task: Task, leads: tuple[int, ...]) -> None:
    """Refuse leads beyond those of training, except of a run that takes steps."""
    trained = [int(lead) for lead in task.provenance.get("leads") or ()]
    steps = task.network.takes_steps or getattr(task, "step_hours", None) is not None
    outside = [lead for lead in leads if trained and not trained[0] <= lead <= trained[-1]]
    if outside and not steps:
        span = f"{trained[0]} h" if len(trained) == 1 else f"{trained[0]} to {trained[-1]} h"
        raise RecipeError(
            f"{run} was trained for leads of {span}, not for {outside[-1]} h; ask for leads within, or train with "
            f"--data.init_args.leads that hold {outside[-1]}"
        )


def _by_lead(runs: dict[str, Task], leads: tuple[int, ...]) -> dict[int, Task]:
    """Return the task that was trained for each lead."""
    trained = {name: [int(lead) for lead in task.provenance.get("leads", ())] for name, task in runs.items()}
    answers: dict[int, Task] = {}
    for lead in leads:
        claims = [name for name, own in trained.items() if lead in own]
        if len(claims) > 1:
            raise RecipeError(f"{claims[0]} and {claims[1]} were both trained for {lead} h; leave one of them out")
        if not claims:
            known = ", ".join(f"{name} for {own} h" for name, own in trained.items())
            raise RecipeError(f"no run was trained for {lead} h: {known}")
        answers[lead] = runs[claims[0]]
    return answers


def evaluate(
    forecast: str,
    truth: str,
    *,
    observed: str | None = None,
    out: str = "evaluation",
    others: list[str] | None = None,
    baselines: list[str] | None = None,
    references: list[str] | None = None,
    climatology: str | None = None,
    channels: list[str] | None = None,
    leads: list[int] | None = None,
    regions: list[str] | None = None,
    weights: Literal["area", "cosine"] = "area",
    headline: list[str] | None = None,
    structure: bool = False,
    locations: list[str] | None = None,
    distance: str | None = None,
) -> None:
    """Score forecasts against the truth and baselines: a table, report.html, scores.nc, scores.csv and pictures.

    Every forecast is scored over the same initial times, leads and points. Baselines are made from the truth, which
    must then be a training store, and kept in OUT.baselines.

    Args:
        forecast: Zarr store of `etesian predict`, or any in WeatherBench 2's layout; may be NAME=PATH.
        truth: a training store, or any file that `etesian doctor` can read.
        observed: where gaps were filled, the store with the gaps; the truth is then complete fields, or the
            observations of which some were withheld. Baselines are then those that fill gaps, by default all.
        out: folder to write.
        others: further forecasts to compare, as NAME=PATH.
        baselines: persistence, climatology, seasonal_cycle, damped_persistence, ridge, ridge_3_days,
            ridge_all_channels; by default persistence and
            seasonal_cycle where the truth is a training store; none for downscaled fields.
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

    Raises:
        EtesianError: if files cannot be read or compared.
    """
    forecasts = dict(_named(text) for text in [forecast, *(others or [])])
    inputs = [*forecasts.values(), truth, *(path for path in (observed, climatology, distance) if path is not None)]
    claim(out, "evaluation", inputs)
    if observed is not None:
        unused = {"references": references, "climatology": climatology, "leads": leads, "regions": regions}
        if given := [name for name, value in unused.items() if value]:
            raise RecipeError(f"--{given[0]} is for forecasts; filled gaps are judged without it")
        return evaluate_filled(forecasts, truth, observed, out, baselines, channels)
    is_store = is_training_store(truth)
    if baselines is None:
        downscaled = is_store and not open_forecast(*next(iter(forecasts.items()))).leads.any()
        baselines = ["persistence", "seasonal_cycle"] if is_store and not downscaled else []
    if baselines and not is_store:
        raise RecipeError(
            f"baselines are fitted to a training store, which {truth} is not; pass --baselines with nothing behind it"
        )
    for name in baselines:
        path = f"{out}.baselines/{name}.zarr"
        keep_apart(path, inputs)
        _forecast_baseline(name, next(iter(forecasts.values())), truth, path, channels)
        forecasts[name] = path
    scores = score(
        forecasts,
        truth,
        climatology=climatology,
        references=[*baselines, *(references or [])],
        channels=channels,
        leads=leads,
        regions=regions,
        weights=weights,
        headline=headline,
        structure=structure,
        locations=locations,
        further=[] if distance is None else [partial(LearnedDistance, run=distance)],
        out=out,
    )
    console = Console()
    console.print(summary(scores))
    console.print(f"report: {out}/report.html")


def _named(text: str) -> tuple[str, str]:
    name, equals, path = text.partition("=")
    return (name, path) if equals else (Path(text).name.removesuffix(".zarr"), text)


def _forecast_baseline(name: str, like: str, truth: str, path: str, channels: list[str] | None) -> None:
    """Forecast with a baseline for the initial times, leads and channels of another forecast."""
    store, other = TrainingStore(truth), open_forecast(name, like)
    wanted = store.channels if channels is None else store.resolve(channels)
    shared = [channel for channel in other.channels if channel in wanted]
    leads = tuple(int(lead) for lead in other.leads)
    if 0 in leads and name not in ("climatology", "seasonal_cycle"):
        raise RecipeError(f"at lead 0 {name} is the truth itself; compare downscaled fields with `interpolation`")
    initial, _ = encode_time(other.dataset["time"].values)
    task = baseline_task(name, store, shared, leads, averaging_hours({name: other}))
    usable = exists(store, task.layout.history, np.ones(len(store.time), dtype=bool))
    initial = initial[np.isin(initial, store.time[usable])]
    predict_to(task, store, path, initial, leads, source={"baseline": name}, overwrite=True, label=name)


def import_checkpoint(
    path: str,
    out: str,
    *,
    num_heads: int = 16,
    grid: str | None = None,
    variables: list[str] | None = None,
    patch: int = 160,
) -> None:
    """Turn a checkpoint of the original ClimaX or AtmoDist into a network of this library.

    Of ClimaX it says what became of each key; AtmoDist's Keras weights, an HDF5 file, fit as a whole or are refused.

    Args:
        path: `5.625deg.ckpt`, `1.40625deg.ckpt`, another of ClimaX's files, or AtmoDist's `model_weights.hdf5`.
        out: folder to write `weights.safetensors` and `network.json` into.
        num_heads: ClimaX's attention heads, which the weights do not tell; 16 for the released checkpoints.
        grid: resolution in degrees; by default the global grid that the weights fit; AtmoDist needs it.
        variables: in the order of the weights; by default the 48 of the released checkpoints; AtmoDist needs them.
        patch: rows and columns of AtmoDist's patches.

    Raises:
        CheckpointError: if the file cannot be read without running code, or keys do not fit.
    """
    import h5py
    from safetensors.torch import save_file

    from etesian.interop import atmodist, climax

    claim(out, "network", [path])
    network: Network
    if Path(path).is_file() and h5py.is_hdf5(path):
        if grid is None or not variables:
            raise RecipeError("AtmoDist's weights tell neither; give --grid (degrees) and --variables, in their order")
        degrees = _degrees(grid) * np.arange(patch)
        network = atmodist.load(path, channels=variables, grid=Grid(degrees - degrees.mean(), degrees))
        report: object = f"every weight of {path} has its place"
    else:
        network, report = climax.load(
            path,
            num_heads=num_heads,
            grid=None if grid is None else Grid.equiangular(_degrees(grid)),
            variables=variables,
        )
    with complete_or_absent(out, "network") as folder:
        save_file(
            {name: tensor.contiguous() for name, tensor in network.state_dict().items()}, folder / "weights.safetensors"
        )
        (folder / "network.json").write_text(json.dumps(network.describe(), indent=1))
    Console().print(report)


def _degrees(text: str) -> float:
    try:
        degrees = float(text)
    except ValueError:
        degrees = 0.0
    if not 0 < degrees <= 90:
        raise RecipeError(f"--grid is a resolution in degrees, such as 5.625, not '{text}'")
    return degrees
