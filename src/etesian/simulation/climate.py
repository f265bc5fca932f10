"""A small generated climate in ClimateBench's layout: pathways of emissions, an energy balance, patterns, weather."""

from pathlib import Path

import numpy as np
import xarray as xr
from jaxtyping import Float
from numpy.typing import NDArray
from rich.progress import track

from etesian.core.constants import SECONDS_PER_DAY
from etesian.core.dataset import PLANET
from etesian.core.errors import RecipeError
from etesian.core.grid import Grid
from etesian.core.outputs import claim, complete_or_absent
from etesian.core.resumable import is_finished, plan_text

Series = Float[np.ndarray, " year"]

Map = Float[np.ndarray, "lat lon"]

Maps = Float[np.ndarray, "year lat lon"]

START, PRESENT, END = 1850, 2015, 2101

EARTH_AREA = 5.1e14

# At the end of the century: CO2 emitted since 1850 (Gt), CH4 (Gt/yr), SO2 and BC (Tg/yr).
_PATHWAYS = {
    "ssp126": (2600.0, 0.12, 12.0, 2.0),
    "ssp245": (4300.0, 0.29, 35.0, 4.0),
    "ssp370": (6000.0, 0.75, 80.0, 9.0),
    "ssp585": (8800.0, 0.50, 25.0, 4.0),
}

_PRESENT = (1500.0, 0.36, 105.0, 8.0)

_PREINDUSTRIAL = (0.0, 0.03, 2.0, 1.0)

_SOURCES = ((45.0, 270.0), (50.0, 15.0), (32.0, 112.0), (22.0, 78.0))


def simulate_scenarios(
    folder: str, *, resolution: float = 11.25, members: int = 3, seed: int = 0, overwrite: bool = False
) -> None:
    """Write a generated climate in ClimateBench's layout: `inputs_NAME.nc` and `outputs_NAME.nc` of seven scenarios.

    Temperature follows a two-box energy balance of the forcing by CO2, CH4, SO2 and BC (as in Geoffroy et al. 2013,
    doi 10.1175/JCLI-D-12-00195.1), is spread by a fixed pattern and cooled under sulphate; daily range and
    precipitation respond to it. Every member has its own variability from year to year. A stand-in to try things on:
    no climate model has been run.

    Args:
        folder: to make.
        resolution: of the grid, degrees.
        members: simulations of each scenario, which differ in their variability.
        seed: of the variability.
        overwrite: replace scenarios of other settings that are there already.

    Raises:
        RecipeError: if the options make no sense.
        DataError: if the folder is a file, or holds something else, or scenarios of other settings.
    """
    if members < 1:
        raise RecipeError(f"members = {members} must be at least 1")
    grid = Grid.equiangular(resolution)
    plan = {"resolution": resolution, "members": members, "seed": seed}
    target = claim(folder, "scenarios", overwrite=overwrite)
    if is_finished(target, plan, overwrite=overwrite):
        return
    with complete_or_absent(target, "scenarios", plan=plan_text(plan)) as place:
        _write_scenarios(place, grid, members, np.random.default_rng(seed))


def _write_scenarios(folder: Path, grid: Grid, members: int, random: np.random.Generator) -> None:
    for name in track(("historical", *_PATHWAYS, "hist-GHG", "hist-aer"), "Simulating scenarios", transient=True):
        years, rates = _emissions(name)
        sources = [_spread(years, rates[:, kind], grid) for kind in (2, 3)]
        shown = slice(PRESENT - START, None) if name in _PATHWAYS else slice(None)
        coordinates = {"time": years[shown], "latitude": grid.latitude, "longitude": grid.longitude}
        axes = ("time", "latitude", "longitude")
        xr.Dataset(
            {
                "CO2": ("time", rates[shown, 0], {"units": "GtCO2"}),
                "CH4": ("time", rates[shown, 1], {"units": "GtCH4 yr-1"}),
                "SO2": (axes, sources[0][shown], {"units": "kg m-2 s-1"}),
                "BC": (axes, sources[1][shown], {"units": "kg m-2 s-1"}),
            },
            coordinates,
            {PLANET: "simulated"},
        ).to_netcdf(folder / f"inputs_{name}.nc")
        response = {key: (maps[shown], units) for key, (maps, units) in _response(rates, sources[0], grid).items()}
        _write_members(folder / f"outputs_{name}.nc", response, years[shown], grid, members, random)


def _emissions(name: str) -> tuple[NDArray[np.int64], Float[np.ndarray, "year kind"]]:
    """Return the years since 1850 and CO2 so far (Gt), CH4 (Gt/yr), SO2 and BC (Tg/yr) in each."""
    years = np.arange(START, END if name in _PATHWAYS else PRESENT)
    past = ((np.minimum(years, PRESENT - 1) - START) / (PRESENT - 1 - START))[:, None]
    shape = np.concatenate([np.expm1(4 * past) / np.expm1(4), past**2, past**1.5, past], axis=1)
    low, high = np.array(_PREINDUSTRIAL), np.array(_PRESENT)
    rates = low + (high - low) * shape
    if name in _PATHWAYS:
        share = np.clip((years - PRESENT + 1) / (END - PRESENT), 0, None)[:, None]
        future = np.array(_PATHWAYS[name]) - high
        # Cumulative emissions keep today's slope at first; the rest eases in and out.
        eased = 3 * share**2 - 2 * share**3
        slope = 40.0 * (END - PRESENT)
        rates = rates + future * eased
        rates[:, :1] += slope * share * (1 - share) ** 2
    if name == "hist-GHG":
        rates[:, 2:] = low[2:]
    if name == "hist-aer":
        rates[:, :2] = low[:2]
    return years, rates


def _spread(years: NDArray[np.int64], total: Series, grid: Grid) -> Maps:
    """Spread emissions (Tg/yr) over source regions, which move from the Atlantic's shores to Asia, in kg m⁻² s⁻¹."""
    east = np.clip((years - 1950) / 80, 0, 1)
    shares = np.stack([0.5 * (1 - 0.8 * east), 0.4 * (1 - 0.7 * east), 0.05 + 0.38 * east, 0.05 + 0.3 * east])
    shapes = np.stack([_bump(grid, *place, width=14.0) for place in _SOURCES])
    shapes /= (shapes * grid.cosine_weights[:, None]).mean((1, 2), keepdims=True)
    per_area = total * 1e9 / (365 * SECONDS_PER_DAY) / EARTH_AREA
    return np.asarray(np.einsum("y,sy,sij->yij", per_area, shares / shares.sum(0), shapes))


def _bump(grid: Grid, latitude: float, longitude: float, width: float) -> Map:
    """Return a bell around a place, by great-circle distance in degrees."""
    rows, columns = np.radians(grid.latitude)[:, None], np.radians(grid.longitude - longitude)[None]
    cosine = np.sin(rows) * np.sin(np.radians(latitude)) + np.cos(rows) * np.cos(np.radians(latitude)) * np.cos(columns)
    return np.asarray(np.exp(-0.5 * (np.degrees(np.arccos(np.clip(cosine, -1, 1))) / width) ** 2))


def _response(rates: Float[np.ndarray, "year kind"], sulphur: Maps, grid: Grid) -> dict[str, tuple[Maps, str]]:
    """Return the forced change of each target since 1850, and its units."""
    concentration = 278 + 0.45 * rates[:, 0] / 7.8
    forcing = 5.35 * np.log(concentration / 278) + 1.0 * np.sqrt((rates[:, 1] - 0.03).clip(0) / 0.36)
    aerosol = -1.0 * (rates[:, 2] - 2.0) / 100 + 0.05 * (rates[:, 3] - 1.0) / 7
    warming = _energy_balance(forcing + aerosol)
    latitude = np.radians(grid.latitude)[:, None]
    continents = sum(_bump(grid, *place, width=25.0) for place in (*_SOURCES, (-15.0, 300.0), (5.0, 20.0)))
    amplified = 0.75 + 0.5 * np.sin(latitude) ** 2 + 0.9 * np.maximum(np.sin(latitude), 0) ** 4 + 0.35 * continents
    amplified /= (amplified * grid.cosine_weights[:, None]).mean()
    haze = sulphur / 1e-11
    temperature = warming[:, None, None] * amplified - 0.05 * np.sqrt(haze)
    daily_range = -0.12 * warming[:, None, None] * (0.4 + continents) - 0.06 * np.sqrt(haze)
    belts = np.exp(-((np.degrees(latitude) / 9) ** 2)) - 0.5 * np.exp(-(((abs(np.degrees(latitude)) - 27) / 9) ** 2))
    wetter = 0.18 * belts + 0.09 * np.sin(latitude) ** 2
    rain = warming[:, None, None] * wetter - 0.02 * np.sqrt(haze)
    return {
        "tas": (temperature, "K"),
        "diurnal_temperature_range": (daily_range, "K"),
        "pr": (rain / SECONDS_PER_DAY, "kg m-2 s-1"),
        "pr90": ((2.5 * rain + 0.05 * warming[:, None, None]) / SECONDS_PER_DAY, "kg m-2 s-1"),
    }


def _energy_balance(forcing: Series) -> Series:
    """Return the warming (K) of the upper of two boxes under a forcing in W m⁻², year by year."""
    upper, deep = 0.0, 0.0
    course = []
    for push in forcing:
        exchange = 0.7 * (upper - deep)
        upper += (push - 1.2 * upper - exchange) / 8.0
        deep += exchange / 100.0
        course.append(upper)
    return np.array(course)


def _write_members(
    path: Path,
    response: dict[str, tuple[Maps, str]],
    years: NDArray[np.int64],
    grid: Grid,
    members: int,
    random: np.random.Generator,
) -> None:
    """Write the forced response with a variability of its own in each member."""
    amplitude = {"tas": 0.35, "diurnal_temperature_range": 0.1, "pr": 0.15, "pr90": 0.5}
    centres = [(lat, lon) for lat in (-60, -25, 0, 25, 60) for lon in range(0, 360, 45)]
    shapes = np.stack([_bump(grid, *place, width=20.0) for place in centres])
    variables = {}
    for name, (forced, units) in response.items():
        noise = random.standard_normal((members, len(years), len(centres)))
        # Half of a year's departure stays for the next.
        for year in range(1, len(years)):
            noise[:, year] = 0.5 * noise[:, year - 1] + 0.75**0.5 * noise[:, year]
        scale = amplitude[name] / (SECONDS_PER_DAY if "kg" in units else 1)
        maps = forced + scale * np.einsum("myk,kij->myij", noise, shapes)
        variables[name] = (("member", "time", "latitude", "longitude"), maps.astype(np.float32), {"units": units})
    coordinates = {
        "member": np.arange(1, members + 1),
        "time": years,
        "latitude": grid.latitude,
        "longitude": grid.longitude,
    }
    xr.Dataset(variables, coordinates, {PLANET: "simulated"}).to_netcdf(path)
