"""Commands that predict, and that score and draw what was predicted."""

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from etesian.cli.app import Dates, Numbers, Switch, Words, app, explained, words_of
from etesian.core.errors import RecipeError

LOADING = {name: words_of("api.load")[name] for name in ("checkpoint", "device", "precision")}
EVALUATE = words_of("evaluation.evaluate")


@app.command
@explained(
    "run.Run.forecast",
    run="run directory of `etesian fit`, a checkpoint folder, or a baseline fitted to the training period of the "
    "store: baseline:persistence, baseline:climatology, baseline:seasonal_cycle, baseline:damped_persistence, "
    "baseline:ridge, baseline:ridge_3_days or baseline:ridge_all_channels.",
    store="training store that holds the initial states.",
    out="the Zarr store to make.",
    init="first and last date of the initial times, such as 2008-01-01 2008-12-26; a year or month as the last one "
    "means all of it.",
    leads="hours after the initial time, such as 24 72 120.",
    channels="what a baseline predicts; all by default. A run predicts what it was trained on.",
    blend="training stores of further sources as SOURCE=PATH=WEIGHT, whose states of the same times are blended "
    "with those of the store in the run's latent; the store's weight is what is left of 1.",
    **LOADING,
)
def forecast(
    run: str,
    store: str,
    out: str,
    *,
    init: Dates,
    leads: Numbers,
    every: int = 24,
    beside: Words | None = None,
    channels: Words | None = None,
    checkpoint: str | None = None,
    device: str | None = None,
    precision: str | None = None,
    source: str | None = None,
    blend: Words | None = None,
    forcings: str | None = None,
    members: int | None = None,
    seed: int = 0,
    inflation: float = 1.0,
    perturb: Literal["gaussian", "correlated", "bred", "lagged"] | None = None,
    amplitude: float | None = None,
    length: float | None = None,
    interval: int | None = None,
    cycles: int | None = None,
    at: str | None = None,
    lapse_rate: float | None = None,
    batch_size: int = 16,
    scheduler: str | None = None,
    overwrite: Switch = False,
) -> None:
    """Forecasts from the states in a training store, in physical units, as a Zarr store in WeatherBench 2's layout.

    The work goes on in OUT.partial and can be interrupted; the same command continues it. OUT appears when it is
    complete.
    """
    import etesian as et

    loaded = et.load(run, checkpoint, device=device, precision=precision)
    if isinstance(loaded, et.Baseline):
        _only_for_runs(
            beside=beside, source=source, blend=blend, forcings=forcings, members=members, seed=seed,
            inflation=inflation != 1, perturb=perturb, amplitude=amplitude, length=length,
            interval=interval, cycles=cycles, device=device, precision=precision,
        )  # fmt: skip
        loaded.forecast(
            store, init, leads, channels=channels, every=every, at=at, lapse_rate=lapse_rate, out=out,
            batch_size=batch_size, scheduler=scheduler, overwrite=overwrite,
        )  # fmt: skip
        return
    if channels is not None:
        raise RecipeError("a run predicts the channels it was trained on; --channels is for baselines")
    further = dict(_blended(text) for text in blend or [])
    loaded.forecast(
        store, init, leads, beside=beside or (), source=source, blend=further, forcings=forcings,
        members=members, seed=seed, inflation=inflation, perturb=perturb, amplitude=amplitude, length=length,
        interval=interval, cycles=cycles, every=every, at=at, lapse_rate=lapse_rate, out=out,
        batch_size=batch_size, scheduler=scheduler, overwrite=overwrite,
    )  # fmt: skip


@app.command
@explained(
    "run.Run.fill",
    run="run directory of `etesian fit`, or a baseline: baseline:observed_mean, baseline:climatology_anomaly, "
    "baseline:linear, baseline:optimal_interpolation or baseline:dineof.",
    store="training store with the gaps.",
    out="the Zarr store to make.",
    months="first and last month, such as 2006-01 2006-12.",
    target="what a baseline makes: means over the months, or every time. A run knows its target.",
    channels="what a baseline fills; all by default.",
    **LOADING,
)
def fill(
    run: str,
    store: str,
    out: str,
    *,
    months: Dates,
    empty: Literal["missing", "climatology"] | None = None,
    target: Literal["monthly", "daily"] | None = None,
    channels: Words | None = None,
    members: int | None = None,
    seed: int | None = None,
    checkpoint: str | None = None,
    device: str | None = None,
    precision: str | None = None,
    scheduler: str | None = None,
    overwrite: Switch = False,
) -> None:
    """Gaps filled, month by month, with standard deviations and flags; interrupted, the same command goes on."""
    import etesian as et

    loaded = et.load(run, checkpoint, device=device, precision=precision)
    if isinstance(loaded, et.Baseline):
        _only_for_runs(empty=empty, members=members, seed=seed, device=device, precision=precision, scheduler=scheduler)
        loaded.fill(store, months, target=target or "monthly", channels=channels, out=out, overwrite=overwrite)
        return
    if target is not None or channels is not None:
        raise RecipeError("a run knows its target and channels; --target and --channels are for baselines")
    loaded.fill(
        store, months, empty=empty or "missing", members=members, seed=seed or 0, out=out, scheduler=scheduler,
        overwrite=overwrite,
    )  # fmt: skip


@app.command
@explained(
    "run.Run.downscale",
    run="run directory of `etesian fit`, or baseline:interpolation (bilinear), bicubic or conservative.",
    coarse="training store of the coarse fields.",
    out="the Zarr store to make.",
    grid="that a baseline goes to, or, for super-resolution, the fine grid where even steps around the store's "
    "points are not it: degrees (1.5, or 1.5+poles), gaussian32, or a file or store that is on it.",
    **LOADING,
)
def downscale(
    run: str,
    coarse: str,
    out: str,
    *,
    times: Dates | None = None,
    every: int = 1,
    grid: str | None = None,
    checkpoint: str | None = None,
    device: str | None = None,
    precision: str | None = None,
    members: int | None = None,
    seed: int = 0,
    batch_size: int = 16,
    overwrite: Switch = False,
) -> None:
    """Fine fields from coarse ones: downscaling and super-resolution."""
    import etesian as et

    loaded = et.load(run, checkpoint, device=device, precision=precision)
    if isinstance(loaded, et.Baseline):
        _only_for_runs(members=members, seed=seed, device=device, precision=precision)
        if grid is None:
            raise RecipeError(f"{run} needs --grid, the grid to interpolate to")
        loaded.downscale(coarse, grid, times, every=every, out=out, batch_size=batch_size, overwrite=overwrite)
        return
    loaded.downscale(
        coarse, times, every=every, grid=grid, out=out, members=members, seed=seed, batch_size=batch_size,
        overwrite=overwrite,
    )  # fmt: skip


@app.command
@explained("run.Run.project", run="run directory of `etesian fit`.", out="the Zarr store to make.", **LOADING)
def project(
    run: str,
    folder: str,
    out: str,
    *,
    scenario: str,
    years: Annotated[tuple[int, int], Parameter(negative=())] | None = None,
    checkpoint: str | None = None,
    device: str | None = None,
    precision: str | None = None,
    overwrite: Switch = False,
) -> None:
    """Maps of the years of a scenario, from what drives its climate."""
    import etesian as et

    loaded = et.load(run, checkpoint, device=device, precision=precision)
    if isinstance(loaded, et.Baseline):
        raise RecipeError(f"{run} projects no climate; its emulators are scored by `etesian test`")
    loaded.project(folder, scenario, years, out=out, overwrite=overwrite)


@app.command
@explained(
    "evaluation.evaluate",
    forecast="Zarr store of `etesian forecast`, `fill` or `downscale`, or any in WeatherBench 2's layout; may be "
    "NAME=PATH.",
    truth="a training store, or any file that `etesian doctor` can read.",
    beside="further forecasts to compare, as NAME=PATH.",
    baselines=f"{EVALUATE['baselines'].removesuffix('.')}; `none` for none.",
    thresholds="events whose forecasts are scored: values of a channel above these, in its units, such as "
    "2m_temperature=273.15,300.",
    out=EVALUATE["out"].partition(";")[0] + ".",
)
def evaluate(
    forecast: str,
    truth: str,
    *,
    observed: str | None = None,
    out: str = "evaluation",
    beside: Words | None = None,
    baselines: Words | None = None,
    references: Words | None = None,
    climatology: str | None = None,
    channels: Words | None = None,
    leads: Numbers | None = None,
    regions: Words | None = None,
    weights: Literal["area", "cosine"] = "area",
    headline: Words | None = None,
    structure: Switch = False,
    locations: Words | None = None,
    distance: str | None = None,
    thresholds: Words | None = None,
    quantiles: Annotated[list[float], Parameter(consume_multiple=True, negative=())] | None = None,
    windows: Numbers | None = None,
    stations: str | None = None,
    tolerance: float = 10,
    lapse_rate: float | None = None,
    scheduler: str | None = None,
    overwrite: Switch = False,
) -> None:
    """Scores with intervals, baselines, and a report in one file: of forecasts, filled or fine fields.

    Every forecast is scored over the same initial times, leads and points. Baselines are made from the truth, which
    must then be a training store, and kept in OUT.baselines. The same command again reads the scores that are there.
    """
    from rich.console import Console

    import etesian as et

    named = dict(_named(text) for text in [forecast, *(beside or [])])
    chosen = [] if baselines == ["none"] else baselines
    scores = et.evaluate(
        named, truth, baselines=chosen, observed=observed, distance=distance, out=out, references=references,
        climatology=climatology, channels=channels, leads=leads, regions=regions, weights=weights, headline=headline,
        structure=structure, locations=locations, quantiles=quantiles, windows=windows, stations=stations,
        tolerance=tolerance, lapse_rate=lapse_rate, scheduler=scheduler, overwrite=overwrite,
        thresholds=None if thresholds is None else dict(_limits(text) for text in thresholds),
    )  # fmt: skip
    console = Console()
    console.print(et.summary(scores))
    console.print(f"report: {out}/report.html")


@app.command
@explained("api.plot")
def plot(
    path: str,
    out: str,
    *,
    channel: str | None = None,
    time: str | None = None,
    lead: Numbers | None = None,
    member: int | None = None,
    truth: str | None = None,
    score: Literal["rmse", "mae", "bias", "acc", "activity"] = "rmse",
    region: str | None = None,
    projection: str | None = None,
    units: Literal["data", "reader"] = "data",
    coastlines: bool | None = None,
) -> None:
    """Maps of data and forecasts, and curves of scores."""
    import etesian as et

    et.plot(
        path, out, channel=channel, time=time, lead=lead, member=member, truth=truth, score=score, region=region,
        projection=projection, units=units, coastlines=coastlines,
    )  # fmt: skip


@app.command
@explained("api.serve_view")
def view(*paths: str, truth: str | None = None, port: int = 5006, browser: bool = True) -> None:
    """A page in the browser, on this machine only: maps, series at a click, spectra and scores."""
    from etesian import api

    api.serve_view(paths, truth=truth, port=port, browser=browser)


@app.command
@explained("exporting.export.export")
def export(
    source: str,
    out: str,
    *,
    variables: Words | None = None,
    bits: int | None = None,
    leads: Numbers | None = None,
    batch: int | None = None,
    overwrite: Switch = False,
) -> None:
    """Fields as NetCDF (.nc) or GRIB 2 (.grib2), a run as a function of tensors (.pt2, .onnx)."""
    import etesian as et

    et.export(source, out, variables=variables, bits=bits, leads=leads, batch=batch, overwrite=overwrite)


def _named(text: str) -> tuple[str, str]:
    name, equals, path = text.partition("=")
    return (name, path) if equals else (Path(text).name.removesuffix(".zarr"), text)


def _blended(text: str) -> tuple[str, tuple[str, float]]:
    source, _, rest = text.partition("=")
    path, _, weight = rest.rpartition("=")
    try:
        return source, (path, float(weight))
    except ValueError:
        raise RecipeError(f"--blend takes SOURCE=PATH=WEIGHT, such as HRES=hres.zarr=0.9, not '{text}'") from None


def _limits(text: str) -> tuple[str, list[float]]:
    channel, _, limits = text.partition("=")
    try:
        return channel, [float(limit) for limit in limits.split(",")]
    except ValueError:
        raise RecipeError(
            f"--thresholds takes CHANNEL=VALUE,VALUE, such as 2m_temperature=273.15,300, not '{text}'"
        ) from None


def _only_for_runs(**options: object) -> None:
    if given := [name for name, value in options.items() if value]:
        raise RecipeError(f"--{given[0]} is for runs; a baseline has none")
