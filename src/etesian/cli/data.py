"""Commands that make data and look at them."""

from functools import partial
from typing import Literal

from cyclopts import App

from etesian.cli.app import Dates, Numbers, Switch, Words, app, explained
from etesian.core.errors import RecipeError

simulate = App(name="simulate", help="An atmosphere, an ocean or a climate, no download.")
app.command(simulate)


@simulate.command
@explained("simulation.atmosphere.simulate", out="the Zarr store to write.")
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
    """
    import etesian as et

    et.simulate(
        "atmosphere", out, days=days, spinup_days=spinup_days, seed=seed, step_hours=step_hours, levels=levels,
        truncation=truncation, contrast=contrast, overwrite=overwrite,
    )  # fmt: skip


@simulate.command
@explained("simulation.ocean.simulate_ocean", out="the Zarr store to write what is observed to.")
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
    """Daily sea surface temperature as a satellite sees it, under clouds and with noise, and the truth beside it."""
    import etesian as et

    et.simulate(
        "ocean", out, truth=truth, years=years, points=points, resolution=resolution, cloud=cloud, clouds=clouds,
        noise=noise, land=land, calendar=calendar, seed=seed, overwrite=overwrite,
    )  # fmt: skip


@simulate.command
@explained("simulation.climate.simulate_scenarios", out="the folder to make.")
def climate(out: str, *, resolution: float = 11.25, members: int = 3, seed: int = 0, overwrite: Switch = False) -> None:
    """A generated climate under emissions, in ClimateBench's layout: seven scenarios to try projections on."""
    import etesian as et

    et.simulate("climate", out, resolution=resolution, members=members, seed=seed, overwrite=overwrite)


@app.command
@explained("files.data.data")
def data(
    name: str | None = None,
    out: str | None = None,
    *,
    years: Dates | None = None,
    resolution: float | None = None,
    channels: Words | None = None,
    region: str | None = None,
    every: int | None = None,
    model: str | None = None,
    experiment: str | None = None,
    member: str | None = None,
    table: str | None = None,
    grid: str | None = None,
    base: str | None = None,
    overwrite: Switch = False,
) -> None:
    """Public data by name: all listed, one described, or a part of it copied; interrupted, the same command goes on."""
    import etesian as et

    if name is None:
        print(repr(et.data()))
    elif out is None and not any((years, resolution, channels, region, every, model, experiment, member, table, grid)):
        print(et.data(name))
    elif out is None:
        raise RecipeError(f"say where the part of {name} is to be copied to")
    else:
        et.data(
            name, out, years=years, resolution=resolution, channels=channels, region=region, every=every, model=model,
            experiment=experiment, member=member, table=table, grid=grid, base=base,
            overwrite=overwrite,
        )  # fmt: skip


@app.command
@explained("api.fetch")
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
    """A part of a remote Zarr store → a local one, with retries; interrupted, the same command goes on."""
    import etesian as et

    et.fetch(
        source, out, variables=variables, levels=levels, start=start, end=end, region=region, every=every,
        retries=retries, credentials=credentials, overwrite=overwrite,
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
@explained(
    "api.prepare",
    sources_and_out="files, folders, globs or addresses of NetCDF, GRIB, HDF5, Zarr or ClimaX shards, and the Zarr "
    "store to make, as the last one.",
    member="the ensemble member to keep, where there are several, by its number; the `mean` of all; or `all`, each in "
    "a store whose name has the number where yours says {member}.",
    train_start="first date of the statistics and the climatology; the first of all by default.",
    train_end="last date of the statistics and the climatology. By default the last of all, so that they see your test "
    "years: name the end of your training years.",
)
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
    member: int | str | None = None,
    derive: Words | None = None,
    scheduler: str | None = None,
    memory_limit: str | None = None,
    overwrite: Switch = False,
) -> None:
    """Files → training store: fields, statics, statistics, climatology.

    The work goes on in STORE.partial and can be killed at any time; the same command continues it. STORE appears
    when it is complete.
    """
    import etesian as et

    if len(sources_and_out) < 2:
        raise RecipeError("name the sources and then the training store to make, such as 'era5/*.nc' era5.zarr")
    *sources, out = sources_and_out
    make = et.prepare_members if member == "all" else partial(et.prepare, member=member)
    make(
        sources, out, train=(train_start, train_end), grid=grid, variables=variables, exclude=exclude, levels=levels,
        method=method, coarsen=coarsen, start=start, end=end, every=every, resampling=resampling, region=region,
        derive=derive, scheduler=scheduler, memory_limit=memory_limit, overwrite=overwrite,
    )  # fmt: skip
