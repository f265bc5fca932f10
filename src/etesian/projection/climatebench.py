"""ClimateBench's files, and pairs of climate simulations, as years of emissions and maps (doi 10.1029/2021MS002954)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import xarray as xr
from jaxtyping import Float, Int64
from numpy.typing import NDArray

from etesian.core.channels import Channel
from etesian.core.constants import SECONDS_PER_DAY
from etesian.core.dataset import planet_of
from etesian.core.errors import ChannelError, DataError, GridError, RecipeError, suggest
from etesian.core.grid import Grid
from etesian.files.open import open_store

HISTORICAL = "historical"

FIRST_YEAR = 1850

INPUTS = ("CO2", "SO2", "CH4", "BC")

TARGETS = ("tas", "diurnal_temperature_range", "pr", "pr90")

_PER_DAY = ("pr", "pr90")

_AXES = {"lat": "latitude", "lon": "longitude"}


@dataclass(frozen=True)
class Scenario:
    """Years of a climate simulation.

    Attributes:
        name: such as `ssp245`.
        years: ascending by one.
        first: the first year that is the scenario's own; those before are its history.
        inputs: what drives the climate, physical units.
        targets: mean over the members, physical units.
    """

    name: str
    years: Int64[np.ndarray, " year"]
    first: int
    inputs: Float[np.ndarray, "year input lat lon"]
    targets: Float[np.ndarray, "year target lat lon"]


@dataclass(frozen=True)
class Scenarios:
    """Scenarios of the same channels on one grid.

    Attributes:
        inputs: names of the input channels.
        targets: names of the target channels.
        units: of the targets.
        grid: of both.
        runs: the scenarios by name.
        planet: what `planet_of` told of the targets.
    """

    inputs: tuple[Channel, ...]
    targets: tuple[Channel, ...]
    units: tuple[str, ...]
    grid: Grid
    runs: dict[str, Scenario]
    planet: Mapping[str, str] = field(default_factory=dict)


def read_climatebench(
    folder: str | Path, names: Sequence[str], inputs: Sequence[str] = INPUTS, targets: Sequence[str] = TARGETS
) -> Scenarios:
    """Read scenarios from `inputs_NAME.nc` and `outputs_NAME.nc` as ClimateBench publishes them.

    Inputs that are one number a year (CO2, CH4) become maps that are the same everywhere; targets are averaged over
    their members; `pr` and `pr90`, in kg m⁻² s⁻¹, are turned into mm/day. A scenario that begins after 1850 has the
    historical years put in front, which must end in the year before.

    Args:
        folder: that holds the files.
        names: scenarios to read.
        inputs: variables of the input files.
        targets: variables of the output files.

    Raises:
        DataError: if a file is missing or has missing values, if years are not consecutive, or differ between files.
        ChannelError: if a variable is missing.
        GridError: if grids differ.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise DataError(f"there is no folder {folder}; ClimateBench's files are at doi 10.5281/zenodo.5196512")
    read = {name: _read_scenario(folder, name, inputs, targets) for name in dict.fromkeys(names)}
    starts = {name: int(run.years[0]) for name, (run, *_) in read.items()}
    continuing = [name for name, start in starts.items() if start > FIRST_YEAR and name != HISTORICAL]
    if continuing and HISTORICAL not in read:
        read[HISTORICAL] = _read_scenario(folder, HISTORICAL, inputs, targets)
    grids = {name: grid for name, (_, grid, *_) in read.items()}
    first = next(iter(grids))
    if different := [name for name, grid in grids.items() if grid != grids[first]]:
        raise GridError(f"{folder}: {different[0]} is on {grids[different[0]]}, {first} on {grids[first]}")
    units = {name: found for name, (_, _, found, _) in read.items()}
    if different := [name for name, found in units.items() if found != units[first]]:
        raise DataError(
            f"{folder}: targets are in {units[different[0]]} in {different[0]}, in {units[first]} in {first}"
        )
    runs = {name: run for name, (run, *_) in read.items()}
    runs |= {name: _continued(runs[HISTORICAL], runs[name]) for name in continuing}
    return Scenarios(
        tuple(Channel(name) for name in inputs),
        tuple(Channel(name) for name in targets),
        units[first],
        grids[first],
        {name: runs[name] for name in dict.fromkeys(names)},
        read[first][3],
    )


def read_inputs(folder: str | Path, name: str, inputs: Sequence[str], grid: Grid) -> Scenario:
    """Read what drives the climate of a scenario from `inputs_NAME.nc`; the scenario comes without targets.

    Raises:
        DataError: if a file is missing or has missing values, or years are not consecutive.
        ChannelError: if a variable is missing.
        GridError: if the inputs are on another grid.
    """

    def read(scenario: str) -> Scenario:
        path = Path(folder) / f"inputs_{scenario}.nc"
        driving = _open(path, inputs, Path(folder))
        years = _consecutive(_years(driving), str(path))
        if "latitude" in driving.dims and Grid(driving.latitude.values, driving.longitude.values) != grid:
            raise GridError(f"{path} is not on the grid of the run, {grid}; regrid it")
        given = np.stack([_maps(driving[variable], grid, str(path)) for variable in inputs], axis=1)
        nothing = np.zeros((len(years), 0, *grid.shape), dtype=np.float32)
        return Scenario(scenario, years, int(years[0]), given.astype(np.float32), nothing)

    run = read(name)
    return _continued(read(HISTORICAL), run) if run.first > FIRST_YEAR and name != HISTORICAL else run


def read_simulations(
    sources: dict[str, str], variable: str, reference: tuple[int, int], average_years: int = 10
) -> Scenarios:
    """Read yearly maps of one variable from simulations that come without what drove them.

    The targets are anomalies from the mean of each simulation over the reference years, as ClimateBench's are from
    its control run. The input, `VARIABLE_before`, is the mean anomaly over the domain and over the years before: it
    is known before the year that is asked for.

    Args:
        sources: files or stores by name of the scenario.
        variable: name of the variable.
        reference: first and last year that anomalies are taken from.
        average_years: how many years before enter the input.

    Raises:
        ChannelError: if a source lacks the variable.
        DataError: if it is not yearly, lacks reference years, or has missing values.
        GridError: if grids differ.
    """
    runs: dict[str, Scenario] = {}
    grid, units = None, ""
    planet: dict[str, str] = {}
    for name, source in sources.items():
        dataset = open_store(source)
        if variable not in dataset:
            raise ChannelError(f"{source} has no variable '{variable}'{suggest(variable, map(str, dataset.data_vars))}")
        field = dataset[variable]
        if set(field.dims) != {"time", "latitude", "longitude"}:
            raise DataError(f"{source}: '{variable}' has the dimensions {tuple(field.dims)}, not time and two of space")
        own = Grid(field.latitude.values, field.longitude.values)
        if grid is not None and own != grid:
            raise GridError(f"{source} is on {own}, other simulations on {grid}; regrid one to the other")
        grid, units = own, str(field.attrs.get("units", ""))
        planet |= planet_of(dataset)
        years = _consecutive(np.asarray(field["time"].dt.year.values), str(source))
        values = _complete(field.values, variable, str(source))
        inside = (years >= reference[0]) & (years <= reference[1])
        if inside.sum() < reference[1] - reference[0] + 1:
            raise DataError(f"{source} has the years {years[0]}–{years[-1]}, not all of {reference[0]}–{reference[1]}")
        anomaly = values - values[inside].mean(0)
        mean = (anomaly.mean(-1) * own.cosine_weights).mean(-1)
        before = np.convolve(mean, np.full(average_years, 1 / average_years), mode="valid")[:-1]
        maps = np.broadcast_to(before[:, None, None, None], (before.size, 1, *own.shape))
        kept = years[average_years:]
        runs[name] = Scenario(
            name, kept, int(kept[0]), maps.astype(np.float32), anomaly[average_years:, None].astype(np.float32)
        )
    if grid is None:
        raise RecipeError("no simulations are named")
    return Scenarios((Channel(f"{variable}_before"),), (Channel(variable),), (units,), grid, runs, planet)


def _read_scenario(
    folder: Path, name: str, inputs: Sequence[str], targets: Sequence[str]
) -> tuple[Scenario, Grid, tuple[str, ...], dict[str, str]]:
    driving = _open(folder / f"inputs_{name}.nc", inputs, folder)
    responding = _open(folder / f"outputs_{name}.nc", targets, folder)
    if "member" in responding.dims:
        responding = responding.mean("member", keep_attrs=True)
    files = [folder / f"{kind}_{name}.nc" for kind in ("inputs", "outputs")]
    years = [_consecutive(_years(data), str(file)) for data, file in zip((driving, responding), files, strict=True)]
    if not np.array_equal(years[0], years[1]):
        raise DataError(
            f"{files[0]} has the years {years[0][0]}–{years[0][-1]}, but {files[1].name} {years[1][0]}–{years[1][-1]}; "
            "both must cover the same years"
        )
    grid = Grid(responding.latitude.values, responding.longitude.values)
    if "latitude" in driving.dims and Grid(driving.latitude.values, driving.longitude.values) != grid:
        raise GridError(f"{files[0]} is on another grid than {files[1].name}; regrid one to the other")
    given = [_maps(driving[variable], grid, str(files[0])) for variable in inputs]
    wanted, units = [], []
    for variable in targets:
        rate = variable in _PER_DAY and responding[variable].attrs.get("units") not in ("mm/day", "mm day-1")
        wanted.append(_maps(responding[variable], grid, str(files[1])) * (SECONDS_PER_DAY if rate else 1))
        units.append("mm/day" if variable in _PER_DAY else str(responding[variable].attrs.get("units", "K")))
    run = Scenario(
        name,
        years[0],
        int(years[0][0]),
        np.stack(given, axis=1).astype(np.float32),
        np.stack(wanted, axis=1).astype(np.float32),
    )
    return run, grid, tuple(units), planet_of(responding)


def _open(path: Path, variables: Sequence[str], folder: Path) -> xr.Dataset:
    """Return the variables of a file on canonical axes."""
    if not path.is_file():
        known = (file.name for file in folder.glob(f"{path.name.split('_')[0]}_*.nc"))
        raise DataError(f"there is no {path}{suggest(path.name, known)}")
    with xr.open_dataset(path) as dataset:
        if missing := [name for name in variables if name not in dataset]:
            raise ChannelError(f"{path} has no '{missing[0]}'{suggest(missing[0], map(str, dataset.data_vars))}")
        found = dataset[list(variables)].load()
    found = found.rename({old: new for old, new in _AXES.items() if old in found.dims})
    if "longitude" in found.dims:
        found = found.assign_coords(longitude=found.longitude % 360)
    return found.sortby([axis for axis in ("latitude", "longitude") if axis in found.dims])


def _maps(field: xr.DataArray, grid: Grid, path: str) -> Float[np.ndarray, "year lat lon"]:
    """Return a variable as maps, the same everywhere where it is one number a year."""
    if other := set(field.dims) - {"time", "latitude", "longitude"}:
        raise DataError(f"{path}: '{field.name}' has the dimension '{other.pop()}'; only time and space are understood")
    whole = field.transpose(*(axis for axis in ("time", "latitude", "longitude") if axis in field.dims))
    values = _complete(whole.values, str(field.name), path)
    return values if values.ndim == 3 else np.broadcast_to(values[:, None, None], (values.size, *grid.shape))


def _complete(values: NDArray[np.generic], variable: str, path: str) -> NDArray[np.float64]:
    numbers = values.astype(np.float64)
    if not np.isfinite(numbers).all():
        missing = int((~np.isfinite(numbers)).sum())
        raise DataError(f"{path}: '{variable}' has {missing} missing values; a projection needs complete years")
    return numbers


def _years(dataset: xr.Dataset) -> NDArray[np.int64]:
    """Return the years of a time axis that holds either dates or the years themselves."""
    time = dataset["time"]
    return np.asarray(time.values if np.issubdtype(time.dtype, np.number) else time.dt.year.values)


def _consecutive(years: NDArray[np.generic], path: str) -> NDArray[np.int64]:
    whole = years.astype(np.int64)
    if (gaps := np.flatnonzero(np.diff(whole) != 1)).size:
        raise DataError(
            f"{path} goes from the year {whole[gaps[0]]} to {whole[gaps[0] + 1]}; it must hold every year once"
        )
    return whole


def _continued(history: Scenario, scenario: Scenario) -> Scenario:
    """Put the historical years in front of a scenario."""
    if history.years[-1] + 1 != scenario.years[0]:
        raise DataError(
            f"{scenario.name} begins in {scenario.years[0]}, but {history.name} ends in {history.years[-1]}; "
            "there must be no gap and no overlap between them"
        )
    return replace(
        scenario,
        years=np.concatenate([history.years, scenario.years]),
        inputs=np.concatenate([history.inputs, scenario.inputs]),
        targets=np.concatenate([history.targets, scenario.targets]),
    )
