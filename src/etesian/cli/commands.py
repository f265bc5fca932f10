"""The commands: what each takes, in words; each calls one verb of the library and prints what it returns.

Nothing but signatures is needed to parse and to help, so the library is imported inside the commands.
"""

import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Literal

from cyclopts import App, Parameter

from etesian.core.errors import RecipeError, suggest

Words = Annotated[list[str], Parameter(consume_multiple=True, negative=())]
Numbers = Annotated[list[int], Parameter(consume_multiple=True, negative=())]
Dates = Annotated[tuple[str, str], Parameter(negative=())]
Switch = Annotated[bool, Parameter(negative=())]

TRUSTED: list[str] = []
"""Modules that the user has named by `--trust`."""

app = App(
    name="etesian",
    help="Train, run and judge learned models of the atmosphere and ocean.",
    help_format="plaintext",
    version_flags=["--version", "-V"],
)
simulate = App(name="simulate", help="An atmosphere, an ocean or a climate, no download.")
app.command(simulate)


@app.command
def quickstart(folder: str = "quickstart", *, days: int = 620) -> None:
    """The whole path on the embedded planet: simulate, prepare, train, forecast 1 to 5 days, judge.

    Needs no download. Run again, it goes on from what is done.

    Args:
        folder: where everything goes.
        days: simulated days; the last 73 are held out.
    """
    from etesian.cli.quickstart import quickstart as run

    run(folder, days=days)


@simulate.command
def atmosphere(
    out: str,
    *,
    days: int = 800,
    spinup_days: int = 180,
    seed: int = 0,
    step_hours: int = 6,
    levels: Numbers = [100, 250, 500, 700, 850],  # noqa: B006
    truncation: Literal["T21", "T42"] = "T21",
    contrast: float = 60.0,
    overwrite: Switch = False,
) -> None:
    """A planet with weather: a dry atmosphere over smooth mountains, heated as Held and Suarez (1994) did.

    The same seed gives the same store; interrupted, the same command goes on.

    Args:
        out: the Zarr store to write.
        days: simulated days to keep.
        spinup_days: simulated days before the first one that is kept; the weather is typical after about 150.
        seed: of the disturbance from which the weather grows.
        step_hours: hours between two kept times, a divisor of 24.
        levels: pressure levels in hPa.
        truncation: T21 (32×64 points) or T42 (64×128, which takes about 15 times as long).
        contrast: how much warmer the equator would be than the poles without motion, in K.
        overwrite: replace a store of other settings that is there already.
    """
    import etesian as et

    et.simulate(
        "atmosphere", out, days=days, spinup_days=spinup_days, seed=seed, step_hours=step_hours, levels=levels,
        truncation=truncation, contrast=contrast, overwrite=overwrite,
    )  # fmt: skip


@simulate.command
def ocean(
    out: str,
    *,
    truth: str | None = None,
    years: int = 6,
    points: int = 96,
    resolution: float = 0.25,
    cloud: float = 0.7,
    clouds: str | None = None,
    noise: float = 0.1,
    land: float = 0.2,
    calendar: Literal["standard", "360_day", "noleap"] = "standard",
    seed: int = 0,
    overwrite: Switch = False,
) -> None:
    """Daily sea surface temperature as a satellite sees it, under clouds and with noise, and the truth beside it.

    Args:
        out: the Zarr store to write what is observed to.
        truth: the Zarr store to write the gap-free truth to; default beside the other, its name ending in `_truth`.
        years: whole years of daily fields.
        points: rows and columns of the grid.
        resolution: of the grid, degrees.
        cloud: mean share of the sea under clouds; it varies from day to day, from clear to overcast.
        clouds: take the shapes of clouds from the gaps of this data set instead, each day's drawn at random.
        noise: standard deviation of the measurements' error, K; the truth has none.
        land: share of the region that is land.
        calendar: of the dates.
        seed: of everything that is random.
        overwrite: replace stores of other settings that are there already.
    """
    import etesian as et

    et.simulate(
        "ocean", out, truth=truth, years=years, points=points, resolution=resolution, cloud=cloud, clouds=clouds,
        noise=noise, land=land, calendar=calendar, seed=seed, overwrite=overwrite,
    )  # fmt: skip


@simulate.command
def climate(out: str, *, resolution: float = 11.25, members: int = 3, seed: int = 0) -> None:
    """A generated climate under emissions, in ClimateBench's layout: seven scenarios to try projections on.

    Args:
        out: the folder to make.
        resolution: of the grid, degrees.
        members: simulations of each scenario, which differ in their variability.
        seed: of the variability.
    """
    import etesian as et

    et.simulate("climate", out, resolution=resolution, members=members, seed=seed)


@app.command
def fetch(
    source: str,
    out: str,
    *,
    variables: Words,
    levels: Numbers | None = None,
    start: str | None = None,
    end: str | None = None,
    region: str | None = None,
    every: int | None = None,
    retries: int = 5,
    credentials: Switch = False,
    overwrite: Switch = False,
) -> None:
    """A part of a remote Zarr store → a local one, with retries; interrupted, the same command goes on.

    Args:
        source: an address (gs://, s3://, https://, file://) or one of weatherbench2/64x32, weatherbench2/240x121,
            weatherbench2/1440x721 (ERA5, 6-hourly, 1959 to 2022) and arco-era5 (hourly, 0.25°, from 1940).
        out: the Zarr store to write.
        variables: names such as geopotential, 2m_temperature, or the store's own.
        levels: pressure levels in hPa; all if not given.
        start: first time, such as 1979 or 1979-01-01T06; the store's first if not given.
        end: last time, such as 2018 (to its end) or 2018-12-31T18; the last written one if not given.
        region: a named region such as Europe, or south,north,west,east in degrees; everything if not given.
        every: hours between two kept times, counted from 00 UTC; all times if not given.
        retries: repetitions of a failing request, each after twice the pause of the one before.
        credentials: read with yours; public buckets need none.
        overwrite: replace another store that is there already.
    """
    import etesian as et

    et.fetch(
        source, out, variables=variables, levels=levels, start=start, end=end, region=region, every=every,
        retries=retries, anonymous=not credentials, overwrite=overwrite,
    )  # fmt: skip


@app.command
def doctor(*paths: str) -> int:
    """What a file, folder, pattern or store holds, what is wrong with it, how to mend it.

    Exit status 1 if you must mend something.

    Args:
        paths: one or several sources that belong together.
    """
    from rich.console import Console

    import etesian as et

    if not paths:
        raise RecipeError("name the files, folders or patterns to examine, such as 'era5/*.nc'")
    diagnosis = et.doctor(list(paths))
    Console().print(diagnosis)
    return diagnosis.exit_status


@app.command
def prepare(
    *sources_and_out: str,
    variables: Words | None = None,
    exclude: Words | None = None,
    levels: Numbers | None = None,
    grid: str | None = None,
    method: Literal["conservative", "bilinear"] = "conservative",
    coarsen: int | None = None,
    start: str | None = None,
    end: str | None = None,
    train_start: str | None = None,
    train_end: str | None = None,
    every: int | None = None,
    resampling: Literal["instant", "mean"] = "instant",
    region: str | None = None,
    member: int | None = None,
    derive: Words | None = None,
    scheduler: str | None = None,
    memory_limit: str | None = None,
    overwrite: Switch = False,
) -> None:
    """Files → training store: fields, statics, statistics, climatology.

    The work goes on in STORE.partial and can be killed at any time; the same command continues it. STORE appears
    when it is complete.

    Args:
        sources_and_out: files, folders, globs or addresses of NetCDF, GRIB, HDF5, Zarr or ClimaX shards, and the Zarr
            store to make, as the last one.
        variables: variables (temperature) or channels (temperature_850) to keep; all by default. Fields without
            time and what is derived are always kept.
        exclude: variables or channels to leave out of these.
        levels: pressure levels to keep, hPa; all by default.
        grid: grid to bring the fields to: degrees (5.625, or 1.5+poles with points on the poles), gaussian32, or a
            file that is on it. Of a regional source, the part of the grid that it covers.
        method: how to regrid; conservative keeps area means, bilinear suits finer grids.
        coarsen: average blocks of so many rows and columns of the grid, as super-resolution undoes; a block with a
            missing value is missing.
        start: first date to keep, such as 1979 or 1979-06-01T06.
        end: last date to keep; 2018 means the end of 2018.
        train_start: first date of the statistics and the climatology; the first of all by default.
        train_end: last date of the statistics and the climatology. By default the last of all, so that they see
            your test years: name the end of your training years.
        every: hours between times, counted from 00 UTC; the times of the source by default.
        resampling: with every, whether to pick instants or average from each time to the next.
        region: south,north,west,east in degrees, or a name such as Europe.
        member: the ensemble member to keep, where there are several.
        derive: variables to add, by spherical harmonics on the grid of the source: vorticity, divergence,
            streamfunction or velocity_potential from winds, or winds from vorticity and divergence.
        scheduler: address of a Dask cluster (tcp://host:8786); threads of this machine by default.
        memory_limit: memory that this machine's threads may use, such as 4GB; at least 1 GB is needed.
        overwrite: replace a store that was made otherwise.
    """
    import etesian as et

    if len(sources_and_out) < 2:
        raise RecipeError("name the sources and then the training store to make, such as 'era5/*.nc' era5.zarr")
    *sources, out = sources_and_out
    et.prepare(
        sources, out, train=(train_start, train_end), grid=grid, variables=variables, exclude=exclude, levels=levels,
        method=method, coarsen=coarsen, start=start, end=end, every=every, resampling=resampling, region=region,
        member=member, derive=derive, scheduler=scheduler, memory_limit=memory_limit, overwrite=overwrite,
    )  # fmt: skip


@app.command
def recipes(name: str | None = None) -> None:
    """What ships to train from, one line each; with a name, that recipe, to be written into a file of yours.

    Args:
        name: of a recipe: `etesian recipes planet_climax > mine.yaml`.
    """
    import etesian as et

    known = et.recipes()
    if name is None:
        width = max(map(len, known))
        for each, text in known.items():
            print(f"{each:<{width}}  {text.splitlines()[0].removeprefix('#').strip()}")
    elif name in known:
        print(known[name], end="")
    else:
        raise RecipeError(f"there is no recipe '{name}'{suggest(name, known)}")


@app.command
def fit(
    *words: Annotated[str, Parameter(name="RECIPE and further options", allow_leading_hyphen=True)],
    config: Annotated[list[str] | None, Parameter(name=["-c", "--config"], negative=())] = None,
    run: str | None = None,
    stores: Words | None = None,
    epochs: int | None = None,
    help_trainer: Switch = False,
) -> None:
    """Train from a recipe; run again, it goes on where it stopped, or says that it is finished.

    A run directory gets the complete recipe, checkpoints (`best` by validation loss, and `last`), and a log.

    Args:
        words: name of a recipe that ships (`etesian recipes` lists them), and any option of the recipe by its dotted
            name, such as --data.leads [24,72] or --trainer.precision=bf16-mixed.
        config: recipe of your own, a YAML file; several are laid over each other.
        run: run directory; by default runs/RECIPE.
        stores: training stores, instead of those that the recipe names.
        epochs: to train, instead of the recipe's.
        help_trainer: list every option of data, model and trainer.
    """
    _train("fit", words, config, run, stores, epochs, help_trainer)


@app.command
def validate(
    *words: Annotated[str, Parameter(name="RECIPE and further options", allow_leading_hyphen=True)],
    config: Annotated[list[str] | None, Parameter(name=["-c", "--config"], negative=())] = None,
    run: str | None = None,
    stores: Words | None = None,
) -> None:
    """Score the best checkpoint of a run on the validation period.

    Args:
        words: name of a recipe that ships, and any option of the recipe by its dotted name.
        config: recipe of your own, such as the recipe.yaml of the run directory.
        run: run directory; by default runs/RECIPE.
        stores: training stores, instead of those that the recipe names.
    """
    _train("validate", words, config, run, stores)


@app.command(name="test")
def judge(
    *words: Annotated[str, Parameter(name="RECIPE and further options", allow_leading_hyphen=True)],
    config: Annotated[list[str] | None, Parameter(name=["-c", "--config"], negative=())] = None,
    run: str | None = None,
    stores: Words | None = None,
) -> None:
    """Score the best checkpoint of a run on the test period.

    Args:
        words: name of a recipe that ships, and any option of the recipe by its dotted name.
        config: recipe of your own, such as the recipe.yaml of the run directory.
        run: run directory; by default runs/RECIPE.
        stores: training stores, instead of those that the recipe names.
    """
    _train("test", words, config, run, stores)


def _train(
    command: str,
    words: tuple[str, ...],
    config: list[str] | None,
    run: str | None,
    stores: list[str] | None,
    epochs: int | None = None,
    help_trainer: bool = False,
) -> None:
    from etesian.training.recipes import train, written_out

    rest = list(words)
    with TemporaryDirectory() as folder:
        recipes = list(config or [])
        if rest and not rest[0].startswith("-"):
            recipes.insert(0, str(written_out(rest.pop(0), Path(folder))))
        given = [f"--config={path}" for path in recipes]
        if run is not None:
            given.append(f"--run={run}")
        if stores is not None:
            given.append(f"--data.init_args.stores={json.dumps(stores)}")
        if epochs is not None:
            given.append(f"--trainer.max_epochs={epochs}")
        train([command, *given, *rest, *(["--help"] if help_trainer else [])], TRUSTED)


@app.command
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
    source: str | None = None,
    blend: Words | None = None,
    batch_size: int = 16,
    overwrite: Switch = False,
) -> None:
    """Forecasts from the states in a training store, in physical units, as a Zarr store in WeatherBench 2's layout.

    The work goes on in OUT.partial and can be interrupted; the same command continues it. OUT appears when it is
    complete.

    Args:
        run: run directory of `etesian fit`, a checkpoint folder, or a baseline fitted to the training period of the
            store: baseline:persistence, baseline:climatology, baseline:seasonal_cycle, baseline:damped_persistence,
            baseline:ridge, baseline:ridge_3_days or baseline:ridge_all_channels.
        store: training store that holds the initial states.
        out: the Zarr store to make.
        init: first and last date of the initial times, such as 2008-01-01 2008-12-26; a year or month as the last one
            means all of it.
        leads: hours after the initial time, such as 24 72 120.
        every: hours between initial times.
        beside: further runs of direct models; each lead is then answered by the run that was trained for it.
        channels: what a baseline predicts; all by default. A run predicts what it was trained on.
        checkpoint: name of the run's checkpoint, such as last; the best by default.
        source: which of the sources that the run has encoders for the store holds.
        blend: training stores of further sources as SOURCE=PATH=WEIGHT, whose states of the same times are blended
            with those of the store in the run's latent; the store's weight is what is left of 1.
        batch_size: initial times at once.
        overwrite: replace forecasts that are there already.
    """
    import etesian as et

    loaded = et.load(run, checkpoint)
    if isinstance(loaded, et.Baseline):
        _only_for_runs(beside=beside, source=source, blend=blend)
        loaded.forecast(
            store, init, leads, channels=channels, every=every, out=out, batch_size=batch_size, overwrite=overwrite
        )
        return
    if channels is not None:
        raise RecipeError("a run predicts the channels it was trained on; --channels is for baselines")
    further = dict(_blended(text) for text in blend or [])
    loaded.forecast(
        store, init, leads, beside=beside or (), source=source, blend=further, every=every, out=out,
        batch_size=batch_size, overwrite=overwrite,
    )  # fmt: skip


@app.command
def fill(
    run: str,
    store: str,
    out: str,
    *,
    months: Dates,
    empty: Literal["missing", "climatology"] | None = None,
    target: Literal["monthly", "daily"] | None = None,
    channels: Words | None = None,
    checkpoint: str | None = None,
    overwrite: Switch = False,
) -> None:
    """Gaps filled, month by month, with standard deviations and flags; interrupted, the same command goes on.

    Args:
        run: run directory of `etesian fit`, or a baseline: baseline:observed_mean, baseline:climatology_anomaly,
            baseline:linear, baseline:optimal_interpolation or baseline:dineof.
        store: training store with the gaps.
        out: the Zarr store to make.
        months: first and last month, such as 2006-01 2006-12.
        empty: what points hold that nothing was observed for: nothing, or the seasonal cycle of the store.
        target: what a baseline makes: means over the months, or every time. A run knows its target.
        channels: what a baseline fills; all by default.
        checkpoint: name of the run's checkpoint; the best by default.
        overwrite: replace fields that are there already.
    """
    import etesian as et

    loaded = et.load(run, checkpoint)
    if isinstance(loaded, et.Baseline):
        _only_for_runs(empty=empty)
        loaded.fill(store, months, target=target or "monthly", channels=channels, out=out, overwrite=overwrite)
        return
    if target is not None or channels is not None:
        raise RecipeError("a run knows its target and channels; --target and --channels are for baselines")
    loaded.fill(store, months, empty=empty or "missing", out=out, overwrite=overwrite)


@app.command
def downscale(
    run: str,
    coarse: str,
    out: str,
    *,
    times: Dates | None = None,
    every: int = 1,
    grid: str | None = None,
    checkpoint: str | None = None,
    batch_size: int = 16,
    overwrite: Switch = False,
) -> None:
    """Fine fields from coarse ones: downscaling and super-resolution.

    Args:
        run: run directory of `etesian fit`, or baseline:interpolation (bilinear) or baseline:bicubic.
        coarse: training store of the coarse fields.
        out: the Zarr store to make.
        times: first and last time; all by default.
        every: least number of hours from one time to the next.
        grid: that a baseline goes to, or, for super-resolution, the fine grid where even steps around the store's
            points are not it: degrees (1.5, or 1.5+poles), gaussian32, or a file or store that is on it.
        checkpoint: name of the run's checkpoint; the best by default.
        batch_size: times at once.
        overwrite: replace fields that are there already.
    """
    import etesian as et

    loaded = et.load(run, checkpoint)
    if isinstance(loaded, et.Baseline):
        if grid is None:
            raise RecipeError(f"{run} needs --grid, the grid to interpolate to")
        loaded.downscale(coarse, grid, times, every=every, out=out, batch_size=batch_size, overwrite=overwrite)
        return
    loaded.downscale(coarse, times, every=every, grid=grid, out=out, batch_size=batch_size, overwrite=overwrite)


@app.command
def project(
    run: str,
    folder: str,
    out: str,
    *,
    scenario: str,
    years: Annotated[tuple[int, int], Parameter(negative=())] | None = None,
    checkpoint: str | None = None,
    overwrite: Switch = False,
) -> None:
    """Maps of the years of a scenario, from what drives its climate.

    Args:
        run: run directory of `etesian fit`.
        folder: that holds inputs_NAME.nc in ClimateBench's layout.
        out: the Zarr store to make.
        scenario: such as ssp245.
        years: first and last year; by default all that can be projected.
        checkpoint: name of the run's checkpoint; the best by default.
        overwrite: replace maps that are there already.
    """
    import etesian as et

    loaded = et.load(run, checkpoint)
    if isinstance(loaded, et.Baseline):
        raise RecipeError(f"{run} projects no climate; its emulators are scored by `etesian test`")
    loaded.project(folder, scenario, years, out=out, overwrite=overwrite)


@app.command
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
) -> None:
    """Scores with intervals, baselines, and a report in one file: of forecasts, filled or fine fields.

    Every forecast is scored over the same initial times, leads and points. Baselines are made from the truth, which
    must then be a training store, and kept in OUT.baselines.

    Args:
        forecast: Zarr store of `etesian forecast`, `fill` or `downscale`, or any in WeatherBench 2's layout; may be
            NAME=PATH.
        truth: a training store, or any file that `etesian doctor` can read.
        observed: where gaps were filled, the store with the gaps; the truth is then complete fields, or the
            observations of which some were withheld. Baselines are then those that fill gaps, by default all.
        out: folder to write.
        beside: further forecasts to compare, as NAME=PATH.
        baselines: persistence, climatology, seasonal_cycle, damped_persistence, ridge, ridge_3_days,
            ridge_all_channels, or none; by default persistence and seasonal_cycle where the truth is a training store;
            none for downscaled fields.
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
    """
    from rich.console import Console

    import etesian as et

    named = dict(_named(text) for text in [forecast, *(beside or [])])
    chosen = [] if baselines == ["none"] else baselines
    scores = et.evaluate(
        named, truth, baselines=chosen, observed=observed, distance=distance, out=out, references=references,
        climatology=climatology, channels=channels, leads=leads, regions=regions, weights=weights, headline=headline,
        structure=structure, locations=locations,
    )  # fmt: skip
    console = Console()
    console.print(et.summary(scores))
    console.print(f"report: {out}/report.html")


@app.command
def plot(
    path: str,
    out: str,
    *,
    channel: str | None = None,
    time: str | None = None,
    lead: Numbers | None = None,
    truth: str | None = None,
    score: Literal["rmse", "mae", "bias", "acc", "activity"] = "rmse",
    region: str | None = None,
) -> None:
    """Maps of data and forecasts, and curves of scores.

    Args:
        path: scores.nc of `evaluate`, forecasts, a training store, or any file that can be opened.
        out: picture to write; its ending tells the format, such as .png or .pdf.
        channel: such as geopotential_500; the first one by default.
        time: initial time of forecasts, or time of data, as YYYY-MM-DDTHH; the first one by default.
        lead: hours, for forecasts; up to three are chosen by default.
        truth: what really happened, to draw beside forecasts.
        score: to draw.
        region: of scores; the first one by default.
    """
    import etesian as et

    et.plot(path, out, channel=channel, time=time, lead=lead, truth=truth, score=score, region=region)


@app.command(name="import")
def import_weights(
    path: str,
    out: str,
    *,
    num_heads: int = 16,
    grid: str | None = None,
    variables: Words | None = None,
    patch: int = 160,
) -> None:
    """An original ClimaX or AtmoDist checkpoint → a network of this library.

    Args:
        path: `5.625deg.ckpt`, `1.40625deg.ckpt`, another of ClimaX's files, or AtmoDist's `model_weights.hdf5`.
        out: folder to write `weights.safetensors` and `network.json` into.
        num_heads: ClimaX's attention heads, which the weights do not tell; 16 for the released checkpoints.
        grid: resolution in degrees; by default the global grid that the weights fit; AtmoDist needs it.
        variables: in the order of the weights; by default the 48 of the released checkpoints; AtmoDist needs them.
        patch: rows and columns of AtmoDist's patches.
    """
    from rich.console import Console

    import etesian as et

    Console().print(et.import_weights(path, out, num_heads=num_heads, grid=grid, variables=variables, patch=patch))


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


def _only_for_runs(**options: object) -> None:
    if given := [name for name, value in options.items() if value]:
        raise RecipeError(f"--{given[0]} is for runs; a baseline has none")
