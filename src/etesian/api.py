"""The verbs: each takes paths or objects and returns objects; the command line calls nothing else.

What only some verbs need is imported inside them: to open or to examine a file takes no trainer, which loads for
seconds.
"""

import inspect
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import xarray as xr

from etesian.core.errors import RecipeError, suggest
from etesian.files import fetch as fetching
from etesian.files.diagnosis import Diagnosis
from etesian.files.doctor import examine
from etesian.files.open import Source, open_store

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from etesian.baselines import Baseline
    from etesian.run import Run
    from etesian.scores.drawing import Units
    from etesian.simulation.atmosphere import Truncation
    from etesian.simulation.ocean import Calendar
    from etesian.store.reader import Store
    from etesian.store.regrid import GridLike, Method
    from etesian.store.select import Resampling
    from etesian.training.preflight import Preflight


def open(source: Source, grid: "GridLike | None" = None) -> xr.Dataset:
    """Open NetCDF, GRIB, HDF5, Zarr or ClimaX's shards as one canonical dataset, reading no values; see `open_store`.

    Args:
        source: a file, folder, store, address or pattern, or several of these.
        grid: grid to bring the fields to by areas, as for `prepare`; reduced and HEALPix grids need one.

    Raises:
        DataError: if something is missing, unreadable, or does not fit together.
        GridError: if fields are on no latitude–longitude grid and none is named, or grids differ.
    """
    if grid is None:
        return open_store(source)
    from etesian.store.regrid import opened_on

    return opened_on(source, grid)


def doctor(source: Source) -> Diagnosis:
    """Tell what a source holds, what is wrong with it and how to mend it: a table in a terminal, HTML in a notebook.

    Args:
        source: as for `open`, also what `open` refuses.
    """
    return examine(source)


def fetch(
    source: str,
    out: str | Path,
    *,
    variables: Sequence[str],
    levels: Sequence[int] | None = None,
    start: str | None = None,
    end: str | None = None,
    region: str | None = None,
    every: int | None = None,
    retries: int = 5,
    credentials: bool = False,
    overwrite: bool = False,
) -> xr.Dataset:
    """Copy a part of a remote Zarr store into a local one, resumably, and return it opened.

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

    Raises:
        EtesianError: if the store cannot be read, lacks what is asked for, or something else is at `out`.
    """
    fetching.fetch(
        source, str(out), variables=list(variables), levels=None if levels is None else list(levels), start=start,
        end=end, region=region, every=every, retries=retries, anonymous=not credentials, overwrite=overwrite,
    )  # fmt: skip
    return open_store(str(out))


def prepare(
    source: Source | xr.Dataset,
    out: str | Path,
    *,
    train: tuple[str | None, str | None] | None = None,
    variables: Sequence[str] | None = None,
    exclude: Sequence[str] | None = None,
    levels: Sequence[int] | None = None,
    grid: float | str | Path | None = None,
    method: "Method" = "conservative",
    coarsen: int | None = None,
    start: str | None = None,
    end: str | None = None,
    every: int | None = None,
    resampling: "Resampling" = "instant",
    region: str | None = None,
    member: int | str | None = None,
    derive: Sequence[str] | None = None,
    scheduler: str | None = None,
    memory_limit: str | None = None,
    overwrite: bool = False,
) -> "Store":
    """Make a training store: fields, statics, statistics, climatology.

    The work goes on in `OUT.partial` and can be killed at any time; the same call continues it. `OUT` appears when it
    is complete.

    Args:
        source: files, folders, globs or addresses of NetCDF, GRIB, HDF5, Zarr or ClimaX shards, or a canonical
            dataset as `open` gives it, of which more was selected with xarray.
        out: the Zarr store to make.
        train: first and last date of the statistics and the climatology: your training years. By default all, so that
            they see your test years.
        variables: variables (temperature) or channels (temperature_850) to keep; all by default. Fields without time
            and what is derived are always kept.
        exclude: variables or channels to leave out of these.
        levels: pressure levels to keep, hPa; all by default.
        grid: grid to bring the fields to: degrees (5.625, or 1.5+poles with points on the poles), gaussian32, or a
            file on it; the part that a regional source covers. Reduced Gaussian and HEALPix sources need one.
        method: how to regrid; conservative keeps area means, bilinear suits finer grids.
        coarsen: average blocks of so many rows and columns of the grid, as super-resolution undoes; a block with a
            missing value is missing.
        start: first date to keep, such as 1979 or 1979-06-01T06.
        end: last date to keep; 2018 means the end of 2018.
        every: hours between times, counted from 00 UTC; the times of the source by default.
        resampling: with every, whether to pick instants or average from each time to the next.
        region: south,north,west,east in degrees, or a name such as Europe.
        member: the ensemble member to keep, where there are several, by its number, or the `mean` of all.
        derive: variables to add, by spherical harmonics on the grid of the source: vorticity, divergence,
            streamfunction or velocity_potential from winds, or winds from vorticity and divergence; orography from
            geopotential_at_surface; latitude_field; temperature_anomaly from temperature, and so on: the departure
            from the mean of each grid point over the training years.
        scheduler: address of a Dask cluster (tcp://host:8786), or `local` for a process on each core of this machine;
            its threads by default.
        memory_limit: memory that this machine's threads may use, such as 4GB; at least 1 GB is needed.
        overwrite: replace a store that was made otherwise.

    Raises:
        EtesianError: if a source cannot be used, or an option asks for what is not there.
    """
    return _prepared(
        source, out, None, train=train, variables=variables, exclude=exclude, levels=levels, grid=grid, method=method,
        coarsen=coarsen, start=start, end=end, every=every, resampling=resampling, region=region, member=member,
        derive=derive, scheduler=scheduler, memory_limit=memory_limit, overwrite=overwrite,
    )  # fmt: skip


def _prepared(
    source: Source | xr.Dataset,
    out: str | Path,
    opened: xr.Dataset | None,
    *,
    train: tuple[str | None, str | None] | None = None,
    grid: float | str | Path | None = None,
    **options: Any,
) -> "Store":
    """Prepare a source, which may be open already."""
    from etesian.store.prepare import as_list
    from etesian.store.prepare import prepare as make
    from etesian.store.reader import Store

    first, last = train or (None, None)
    make(
        source if isinstance(source, xr.Dataset) else as_list(source), str(out), opened=opened,
        grid=None if grid is None else str(grid), train_start=first, train_end=last, **options,
    )  # fmt: skip
    return Store(out)


def prepare_members(source: Source | xr.Dataset, out: str | Path, **options: Any) -> "list[Store]":
    """Make a training store of each member of an ensemble; all of them are then the `stores` of a training.

    Args:
        source: as for `prepare`.
        out: the Zarr stores to make, with `{member}` where a member's number goes: `era5_{member}.zarr`.
        options: those of `prepare`, but for `member`.

    Raises:
        EtesianError: as `prepare` does; if `out` does not tell members apart, or the source has none.
    """
    from etesian.store.prepare import as_list
    from etesian.store.select import members_of

    if "{member}" not in str(out):
        apart = Path(out).with_stem(f"{Path(out).stem}_{{member}}")
        raise RecipeError(f"{out} cannot hold all members: say where the number of each goes, as in {apart}")
    cells = options.get("grid") is not None
    dataset = source if isinstance(source, xr.Dataset) else open_store(as_list(source), cells=cells)
    return [
        _prepared(source, str(out).replace("{member}", str(each).replace(os.sep, "_")), dataset, member=each, **options)
        for each in members_of(dataset)
    ]


def simulate(
    kind: str,
    out: str | Path,
    *,
    days: int | None = None,
    spinup_days: int | None = None,
    step_hours: int | None = None,
    levels: Sequence[int] | None = None,
    truncation: "Truncation | None" = None,
    contrast: float | None = None,
    truth: str | Path | None = None,
    years: int | None = None,
    points: int | None = None,
    cloud: float | None = None,
    clouds: str | Path | None = None,
    noise: float | None = None,
    land: float | None = None,
    calendar: "Calendar | None" = None,
    members: int | None = None,
    resolution: float | None = None,
    seed: int | None = None,
    overwrite: bool = False,
) -> xr.Dataset | Path:
    """Simulate an atmosphere with weather, a sea under clouds, or a climate under emissions, without any download.

    The same seed gives the same; interrupted, the same call goes on. What is not given is as `etesian simulate KIND
    --help` says.

    Args:
        kind: what to simulate: atmosphere, ocean or climate.
        out: the Zarr store to write; of a climate, the folder.
        days: of an atmosphere, to keep.
        spinup_days: of an atmosphere, simulated before the first one that is kept.
        step_hours: of an atmosphere, hours between two kept times, a divisor of 24.
        levels: of an atmosphere, pressures in hPa.
        truncation: of an atmosphere: T21 (32×64 points) or T42 (64×128).
        contrast: of an atmosphere, how much warmer the equator would be than the poles without motion, in K.
        truth: of an ocean, the Zarr store to write the gap-free truth to; default beside the other.
        years: of an ocean, whole years of daily fields.
        points: of an ocean, rows and columns of the grid.
        cloud: of an ocean, mean share under clouds.
        clouds: of an ocean, take the shapes of clouds from the gaps of this data set instead.
        noise: of an ocean, standard deviation of the measurements' error, in K.
        land: of an ocean, share of the region that is land.
        calendar: of an ocean's dates.
        members: of a climate, simulations of each scenario.
        resolution: of an ocean or a climate, degrees.
        seed: of everything that is random.
        overwrite: replace what was simulated with other options.

    Returns:
        What was simulated, opened; of a climate, the folder of its files in ClimateBench's layout.

    Raises:
        RecipeError: if there is no such kind, it has no such option, a setting is impossible, or the extra `simulate`
            is not installed.
        DataError: if something else is at `out`.
    """
    from etesian.simulation.atmosphere import simulate as simulate_atmosphere
    from etesian.simulation.climate import simulate_scenarios
    from etesian.simulation.ocean import simulate_ocean

    kinds: dict[str, Callable[..., None]] = {
        "atmosphere": simulate_atmosphere,
        "ocean": simulate_ocean,
        "climate": simulate_scenarios,
    }
    if kind not in kinds:
        raise RecipeError(f"there is no simulation of '{kind}'{suggest(kind, kinds)}")
    options = {
        "days": days, "spinup_days": spinup_days, "step_hours": step_hours, "levels": levels, "truncation": truncation,
        "contrast": contrast, "truth": None if truth is None else str(truth), "years": years, "points": points,
        "cloud": cloud, "clouds": None if clouds is None else str(clouds), "noise": noise, "land": land,
        "calendar": calendar, "members": members, "resolution": resolution, "seed": seed,
    }  # fmt: skip
    given: dict[str, Any] = {name: value for name, value in options.items() if value is not None}
    known = [name for name in options if name in inspect.signature(kinds[kind]).parameters]
    if others := given.keys() - known:
        raise RecipeError(f"the {kind} is simulated without {min(others)}; its options are {', '.join(known)}")
    kinds[kind](str(out), overwrite=overwrite, **given)
    return Path(out) if kind == "climate" else open_store(str(out))


def fit(
    recipe: str | Path | Mapping[str, Any],
    *,
    run: str | Path | None = None,
    stores: "Sequence[str | Path | Store] | None" = None,
    epochs: int | None = None,
    options: Mapping[str, Any] | None = None,
    trust: Sequence[str] = (),
) -> "Run":
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
    from etesian.run import Run
    from etesian.training.recipes import fit as train

    return Run(train(recipe, run, stores, epochs, options or {}, trust))


def check(
    recipe: str | Path | Mapping[str, Any],
    *,
    run: str | Path | None = None,
    stores: "Sequence[str | Path | Store] | None" = None,
    epochs: int | None = None,
    options: Mapping[str, Any] | None = None,
    trust: Sequence[str] = (),
) -> "Preflight":
    """Tell what training from a recipe will take: memory, time and disk, measured in a process that keeps nothing.

    The process trains a few steps at the recipe's batch size and validates once. What `fit` would refuse is refused in
    the same words. Memory and time are those of one process.

    Args:
        recipe: name of one that ships, a YAML file, or a mapping like it.
        run: directory that the run would have; by default below runs/. Nothing is written there.
        stores: training stores, instead of those that the recipe names.
        epochs: to train, instead of the recipe's.
        options: further options that take the place of the recipe's, by their dotted names.
        trust: modules of your own that the recipe may name classes of.

    Raises:
        RecipeError: as `fit` does; if a loss is no number; if the process is ended for want of memory.
    """
    from etesian.training.preflight import preflight

    return preflight(recipe, run, stores, epochs, options or {}, trust)


def load(
    run: str | Path, checkpoint: str | None = None, *, device: str | None = None, precision: str | None = None
) -> "Run | Baseline":
    """Return a trained run, or a baseline where it is called `baseline:NAME`.

    Args:
        run: directory of the run, a checkpoint folder, or for example `baseline:persistence`.
        checkpoint: name of the run's checkpoint, such as `last`; the best by default.
        device: to answer on, such as `cpu`, `cuda` or `cuda:1`; by default the GPU where there is one. A baseline
            answers on the CPU.
        precision: to answer in: 32-true, bf16-mixed or 16-mixed, as recipes have it; by default that of the training on
            a GPU, and 32-true on a CPU.

    Raises:
        CheckpointError: if there is none, or it is damaged.
        RecipeError: if there is no such baseline, device or precision.
    """
    from etesian.run import Run

    name = str(run)
    if name.startswith("baseline:"):
        return baseline(name.removeprefix("baseline:"))
    return Run(run, checkpoint, device, precision)


def baseline(name: str, store: "str | Path | Store | None" = None) -> "Baseline":
    """Return a simple answer that a network has to beat.

    Args:
        name: forecasting: persistence, climatology, seasonal_cycle, damped_persistence, ridge, ridge_3_days,
            ridge_all_channels; downscaling: interpolation, bicubic, conservative; gap filling: observed_mean,
            climatology_anomaly, linear, optimal_interpolation, dineof.
        store: whose training period it is fitted to; by default the one that it is asked about.

    Raises:
        RecipeError: if there is no such baseline.
    """
    from etesian.baselines import Baseline

    return Baseline(name, store)


def plot(
    path: str | Path,
    out: str | Path | None = None,
    *,
    channel: str | None = None,
    time: str | None = None,
    lead: Sequence[int] | None = None,
    member: int | None = None,
    truth: str | Path | None = None,
    score: str = "rmse",
    region: str | None = None,
    projection: str | None = None,
    units: "Units" = "data",
    coastlines: bool | None = None,
) -> "Figure":
    """Draw a picture of data, forecasts or scores, and return it as a Matplotlib figure.

    Args:
        path: scores.nc of `evaluate`, forecasts, a training store, or any file that can be opened.
        out: picture to write; its ending tells the format, such as .png, or .pdf and .svg, in which everything but the
            cells of maps is drawn with lines.
        channel: such as geopotential_500; the first one by default.
        time: initial time of forecasts, or time of data, as YYYY-MM-DDTHH; the first one by default.
        lead: hours, for forecasts; up to three are chosen by default.
        member: of an ensemble, the member to draw; by default the mean of all, which the title says.
        truth: what really happened, to draw beside forecasts.
        score: to draw: rmse, mae, bias, acc or activity.
        region: of scores, one of theirs, the first by default; of maps, a name such as Europe, or
            south,north,west,east in degrees.
        projection: of maps: equirectangular, equal_earth, north_polar, south_polar, orthographic, or
            orthographic:50,10 with its middle in degrees north and east; by default Equal Earth for whole globes,
            polar for bands around a pole, and regions as they are.
        units: data, as the data have them, or reader, as they are said: °C, hPa, dam, mm/day.
        coastlines: whether maps show the Earth's; by default where the data are of the Earth.

    Raises:
        EtesianError: if the path cannot be read or has no such channel, time or lead, or there is no such region or
            projection.
    """
    from etesian.scores.drawing import plot as draw

    return draw(
        str(path), None if out is None else str(out), channel=channel, time=time, lead=lead, member=member,
        truth=None if truth is None else str(truth), score=score, region=region, projection=projection, units=units,
        coastlines=coastlines,
    )  # fmt: skip


def view(*paths: str | Path | xr.Dataset, truth: str | Path | xr.Dataset | None = None) -> Any:
    """Return a page to look at stores, forecasts, filled fields and scores, as a Panel object that notebooks show.

    Args:
        paths: what to look at: training stores, forecasts, filled fields, scores.nc or the folder of an evaluation, any
            file that can be opened, or canonical datasets.
        truth: what really happened, to show beside the rest with the error; by default, beside forecasts, the first
            fields without leads on their grid.

    Raises:
        RecipeError: if the extra `view` is not installed.
        EtesianError: if something cannot be read.
    """
    return _viewer().build(paths, truth)


def serve_view(
    paths: Sequence[str | Path], *, truth: str | Path | None = None, port: int = 5006, browser: bool = True
) -> None:
    """Serve the page of `view` on this machine until it is interrupted.

    Args:
        paths: stores, forecasts, filled fields, scores.nc or the folder of an evaluation, any file that can be opened.
        truth: what really happened, to show beside the rest with the error; by default, beside forecasts, the first
            fields without leads on their grid.
        port: of the page, http://127.0.0.1:PORT/view; 0 takes a free one.
        browser: open it in a browser.

    Raises:
        RecipeError: if the extra `view` is not installed.
        EtesianError: if something cannot be read, or the port is taken.
    """
    _viewer().serve(paths, truth, port=port, show=browser)


def _viewer() -> Any:
    try:
        from etesian.viewer import app
    except ImportError as error:
        if error.name not in ("panel", "bokeh", "param"):
            raise
        raise RecipeError("the viewer needs the extra 'view': pip install 'etesian[view]'") from None
    return app
