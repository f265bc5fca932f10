"""Part of a remote Zarr store as a local one."""

import logging
import time
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
import zarr
from numpy.typing import NDArray
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

from etesian.core.channels import CATALOGUE, canonical_name
from etesian.core.clock import encode_time, end_of, parse_time
from etesian.core.constants import SECONDS_PER_HOUR
from etesian.core.dataset import planet_of
from etesian.core.errors import ChannelError, DataError, GridError, RecipeError, suggest
from etesian.core.grid import Region
from etesian.core.outputs import claim
from etesian.core.resumable import WorkFolder, create_empty_store, is_finished, plan_text, work_folder
from etesian.files import zarrs
from etesian.files.canonical import canonicalise
from etesian.files.decoding import DamagedError, UnreachableError
from etesian.files.public import PUBLIC
from etesian.files.zarrs import open_remote

_ERA5, _ARCO = PUBLIC["era5"], PUBLIC["arco-era5"]

PUBLIC_STORES = {
    "weatherbench2/64x32": "gs://weatherbench2/datasets/era5/1959-2022-6h-64x32_equiangular_conservative.zarr",
    "weatherbench2/240x121": f"{_ERA5.base}/{_ERA5.places[1.5]}",
    "weatherbench2/1440x721": f"{_ERA5.base}/{_ERA5.places[0.25]}",
    "arco-era5": f"{_ARCO.base}/{_ARCO.places[0.25]}",
}
"""Public stores by short name."""

BLOCK_BYTES = 64 * 2**20
"""Downloaded at once, at least one chunk of the remote store; bounds the memory."""

CHUNK_BYTES = 16 * 2**20
"""Size of a chunk of the local store."""


def fetch(
    source: str,
    path: str,
    *,
    variables: list[str],
    levels: list[int] | None = None,
    start: str | None = None,
    end: str | None = None,
    region: str | None = None,
    every: int | None = None,
    retries: int = 5,
    anonymous: bool = True,
    overwrite: bool = False,
) -> None:
    """Copy part of a remote Zarr store into a local one.

    The remote store has WeatherBench 2's or ARCO-ERA5's layout (dimensions time, latitude, longitude and level), or
    CMIP6's (time, lat, lon and plev); the local one gets canonical names and units. An interrupted copy continues where
    it stopped when the same command runs again; a finished one is left as it is.

    `etesian.fetch` says what the options mean; `anonymous` is the contrary of its `credentials`.

    Raises:
        DataError: if the store cannot be read, does not cover the times, or something else is at the path.
        ChannelError: if a variable or level is not in the store, naming the closest.
        GridError: if the region holds no points.
        RecipeError: if an option is impossible.
    """
    if not variables:
        raise RecipeError("variables is empty; name at least one, such as geopotential")
    if retries < 0 or (every is not None and every < 1):
        raise RecipeError(f"retries = {retries} must be at least 0 and every = {every} at least 1 hour")
    url = PUBLIC_STORES.get(source, source)
    if "://" not in url and not Path(url).exists():
        raise DataError(f"'{source}' is no address, no local store and no short name{suggest(source, PUBLIC_STORES)}")
    plan = {
        "source": url,
        "variables": variables,
        "levels": levels,
        "start": start,
        "end": end,
        "region": region,
        "every": every,
    }
    target = claim(path, "fields", [url], overwrite=overwrite)
    if is_finished(target, plan, overwrite=overwrite):
        return
    raw = _pick_variables(_renamed(open_remote(url, retries=retries, anonymous=anonymous)), variables, url)
    raw = _pick_points(_pick_levels(raw, levels, url), region, url)
    steps = _pick_times(raw, start, end, every, url)
    for name in raw.data_vars:
        known = CATALOGUE.get(canonical_name(str(name)) or "")
        if known and known.static and "time" in raw[name].dims:
            first, last = (raw[name].isel(time=steps[i], drop=True) for i in (0, -1))
            # One that changes keeps its time, so that nothing is lost.
            if steps.size == 1 or first.equals(last):
                raw[name] = first
    amount = sum(
        array.nbytes // array.sizes["time"] * steps.size if "time" in array.dims else array.nbytes
        for array in raw.values()
    )
    if "license" in raw.attrs:
        print(f"licence of {url}: {raw.attrs['license']}")
    print(f"{in_words(amount)} to copy from {url}, before compression")
    failure: str | None = None
    with work_folder(target, "fields") as place:
        times = raw["time"].values[steps] if "time" in raw.dims else np.array([], "datetime64[s]")
        place.begin({**plan, "times": [str(value) for value in times[[0, -1]]] if times.size else []})
        try:
            if place.load("done") is None:
                _create(place.result, raw, steps, plan)
            _copy(place, raw, steps, retries)
        except UnreachableError as error:
            # The requests that were still under way are given up; each would be reported when Python ends.
            logging.getLogger("asyncio").setLevel(logging.CRITICAL)
            failure = f"{url} stopped answering ({error}); run the same command again to continue"
        else:
            place.finish()
    if failure:
        raise DataError(failure)


def in_words(amount: int) -> str:
    """Return a number of bytes with a unit.

    >>> in_words(11_960_320), in_words(512)
    ('12 MB', '512 B')
    """
    for power, unit in ((12, "TB"), (9, "GB"), (6, "MB"), (3, "kB")):
        if amount >= 10**power:
            value = amount / 10**power
            return f"{value:.1f} {unit}" if value < 9.95 else f"{value:.0f} {unit}"
    return f"{amount} B"


def _renamed(dataset: xr.Dataset) -> xr.Dataset:
    """Give the dimensions of CMIP6 and GHRSST the names of WeatherBench 2's, and pressures hPa."""
    names = {"lat": "latitude", "lon": "longitude", "plev": "level"}
    found = {old: new for old, new in names.items() if old in dataset.indexes and new not in dataset.variables}
    dataset = dataset.rename(found)
    if "level" in dataset.indexes and dataset["level"].attrs.get("units") == "Pa":
        pressures = np.round(dataset["level"].values / 100, 6)
        dataset = dataset.assign_coords(level=("level", pressures, {"units": "hPa", "standard_name": "air_pressure"}))
    return dataset


def _pick_variables(dataset: xr.Dataset, variables: Sequence[str], url: str) -> xr.Dataset:
    if not {"latitude", "longitude"} <= set(dataset.dims):
        raise DataError(
            f"{url} has the dimensions {', '.join(map(str, dataset.dims)) or 'of no array'}; fetch needs latitude and "
            f"longitude as in WeatherBench 2: open it with xarray and save the part that you need"
        )
    names = {str(name): str(name) for name in dataset.data_vars}
    names |= {known: name for name in list(names) if (known := canonical_name(name)) and known not in names}
    chosen = []
    for variable in variables:
        name = names.get(variable) or names.get(canonical_name(variable) or "")
        if name is None:
            raise ChannelError(f"{url} has no variable '{variable}'{suggest(variable, names)}")
        chosen.append(name)
    return dataset[list(dict.fromkeys(chosen))]


def _pick_levels(dataset: xr.Dataset, levels: Sequence[int] | None, url: str) -> xr.Dataset:
    if levels is None:
        return dataset
    if "level" not in dataset.dims:
        raise ChannelError(f"the variables asked for from {url} have no levels; leave levels out")
    there = [float(value) for value in dataset["level"].values]
    for level in levels:
        if level not in there:
            listing = ", ".join(f"{value:g}" for value in there)
            raise ChannelError(f"{url} has no level {level} hPa; it has {listing}")
    return dataset.isel(level=[there.index(level) for level in sorted(set(levels))])


def _pick_points(dataset: xr.Dataset, region: str | None, url: str) -> xr.Dataset:
    if region is None:
        return dataset
    rows, columns = Region.parse(region).within(dataset["latitude"].values, dataset["longitude"].values)
    if rows.size == 0 or columns.size == 0:
        raise GridError(f"region '{region}' holds no point of {url}")
    return dataset.isel(latitude=rows, longitude=columns)


def _pick_times(
    dataset: xr.Dataset, start: str | None, end: str | None, every: int | None, url: str
) -> NDArray[np.int64]:
    """Return the positions of the times to copy; none if nothing changes in time."""
    if "time" not in dataset.dims:
        return np.array([], dtype=np.int64)
    seconds, calendar = encode_time(dataset["time"].values)
    stops = [dataset.attrs[name] for name in ("valid_time_stop", "valid_time_stop_era5t") if name in dataset.attrs]
    written = seconds <= max((end_of(str(stop), calendar) for stop in stops), default=seconds[-1])
    if "valid_time_start" in dataset.attrs:
        written &= seconds >= parse_time(str(dataset.attrs["valid_time_start"]), calendar)
    covered = np.flatnonzero(written)
    if covered.size == 0:
        raise DataError(f"{url} holds no written times")
    first, last = covered[0], covered[-1]
    step = int(np.diff(seconds[:2])[0]) if seconds.size > 1 else 0
    begin = seconds[first] if start is None else parse_time(start, calendar)
    finish = seconds[last] if end is None else end_of(end, calendar)
    holds = f"{url} is written from {dataset['time'].values[first]} to {dataset['time'].values[last]}"
    if begin > finish:
        raise RecipeError(f"start = {start} lies after end = {end}")
    if begin <= seconds[first] - max(step, 1) or finish >= seconds[last] + max(step, 1):
        raise DataError(f"{holds}; ask for a start and an end within it instead of {start} and {end}")
    kept = (seconds >= begin) & (seconds <= finish)
    if every is not None:
        kept &= seconds % (every * SECONDS_PER_HOUR) == 0
    steps = np.flatnonzero(kept)
    if steps.size == 0:
        raise DataError(f"{holds}, but has no time that was asked for")
    if every is not None and (np.diff(seconds[steps]) > every * SECONDS_PER_HOUR).any():
        raise RecipeError(
            f"every = {every} hours is not possible with {url}: it has a time every {step / 3600:g} hours"
        )
    return steps


def _create(store: Path, raw: xr.Dataset, steps: NDArray[np.int64], plan: dict[str, Any]) -> None:
    """Write coordinates and empty arrays under canonical names."""
    sample = canonicalise(_at(raw, steps[:1]).chunk(), plan["source"])[0]
    if "time" in sample.dims and not np.array_equal(sample["time"].values, raw["time"].values[steps[:1]]):
        raise DataError(
            f"{plan['source']} holds forecasts, whose fields are valid later than their times: states are copied, so "
            f"open it with xarray and save the part that you need"
        )
    planet = planet_of(sample)
    for field in sample.data_vars.values():
        kept = ("units", "standard_name", "long_name")
        field.attrs = {name: field.attrs[name] for name in kept if name in field.attrs}
    coordinates = {
        "latitude": ("latitude", sample["latitude"].values, {"standard_name": "latitude", "units": "degrees_north"}),
        "longitude": ("longitude", sample["longitude"].values, {"standard_name": "longitude", "units": "degrees_east"}),
    }
    if "level" in sample.dims:
        coordinates["level"] = ("level", sample["level"].values, {"standard_name": "air_pressure", "units": "hPa"})
    if steps.size:
        coordinates["time"] = ("time", raw["time"].values[steps], {"standard_name": "time"})
    still = {name: field.load() for name, field in sample.data_vars.items() if "time" not in field.dims}
    moving = {str(name): field.isel(time=0) for name, field in sample.data_vars.items() if "time" in field.dims}
    attributes = {"Conventions": "CF-1.11", "source": plan["source"], "plan": plan_text(plan)} | planet
    create_empty_store(
        store,
        xr.Dataset(still, coordinates, attributes),
        moving,
        steps_per_chunk={name: max(1, CHUNK_BYTES // field.nbytes) for name, field in moving.items()},
    )


def _copy(place: WorkFolder, raw: xr.Dataset, steps: NDArray[np.int64], retries: int) -> None:
    """Copy variable by variable, block of times by block of times; each is noted when it is on disk."""
    group = zarr.open_group(place.result, mode="r+")
    done = {name: int(value) for name, value in (place.load("done") or {}).items()}
    sizes = {name: array.isel(time=0).nbytes for name, array in raw.data_vars.items() if "time" in array.dims}
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Progress(*columns) as progress:
        bar = progress.add_task("Fetching", total=sum(sizes.values()) * steps.size)
        for name, size in sizes.items():
            progress.update(bar, description=f"Fetching {name}")
            for begin, end in _blocks(raw[name], steps):
                if end > done.get(str(name), 0):
                    block = _load(_at(raw[[name]], steps[begin:end]), retries)
                    for field in canonicalise(block, str(name))[0].data_vars.values():
                        if "time" in field.dims:
                            group[field.name].oindex[_within(group, field, slice(begin, end))] = field.values
                    done[str(name)] = end
                    place.save("done", **{key: np.asarray(value) for key, value in done.items()})
                progress.advance(bar, size * (end - begin))


def _within(group: zarr.Group, field: xr.DataArray, times: slice) -> tuple[Any, ...]:
    """Say where in the array of its variable a field lies: on all levels, or on some (`temperature_850`)."""
    index: list[Any] = [times, *[slice(None)] * (field.ndim - 1)]
    if "level" in field.dims:
        every = np.asarray(group["level"]).tolist()
        index[field.dims.index("level")] = [every.index(level) for level in field["level"].values.tolist()]
    return tuple(index)


def _blocks(array: xr.DataArray, steps: NDArray[np.int64]) -> Iterator[tuple[int, int]]:
    """Cut the wanted times where the remote store's chunks end, so that none is downloaded twice."""
    length = array.encoding.get("preferred_chunks", {}).get("time", 1)
    chunk = steps // length
    firsts = np.flatnonzero(np.diff(chunk, prepend=-1))
    size = max(1, int(BLOCK_BYTES // (array.isel(time=0).nbytes * length)))
    yield from pairwise([*(int(first) for first in firsts[::size]), steps.size])


def _at(dataset: xr.Dataset, steps: NDArray[np.int64]) -> xr.Dataset:
    return dataset.isel(time=steps) if "time" in dataset.dims else dataset


def _load(block: xr.Dataset, retries: int) -> xr.Dataset:
    """Read a block; what arrives damaged is asked for again."""
    for attempt in range(retries + 1):
        try:
            return block.copy().load()
        except DamagedError as error:
            if attempt == retries:
                raise UnreachableError(f"what arrives is damaged: {error.__cause__}") from error
            time.sleep(zarrs.FIRST_PAUSE * 2**attempt)
    raise AssertionError
