"""The training store: what lies where in its Zarr group, and the way back to a canonical dataset."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import xarray as xr
import zarr
from numpy.typing import NDArray

from etesian.core.channels import CATALOGUE, Channel
from etesian.core.clock import Seconds, decode_time, encode_time
from etesian.core.constants import SECONDS_PER_HOUR
from etesian.core.dataset import planet_of
from etesian.core.errors import DataError
from etesian.core.grid import Grid
from etesian.files.canonical import side_by_side
from etesian.files.zarrs import at

VERSION = 1

SHARD_BYTES = 64 * 2**20
"""What one file of fields holds at most, unless a single time is larger."""

_FIELDS = ("time", "channel", "latitude", "longitude")


@dataclass(frozen=True)
class Axes:
    """The axes of a training store.

    Attributes:
        time: seconds since 1970-01-01 counted in `calendar`, ascending.
        calendar: CF name.
        channels: of `fields`.
        units: one per channel.
        grid: latitudes and longitudes.
        statics: channels of `statics`.
        static_units: one per channel of `statics`.
        planet: what `planet_of` told of the data.
    """

    time: Seconds
    calendar: str
    channels: tuple[Channel, ...]
    units: tuple[str, ...]
    grid: Grid
    statics: tuple[Channel, ...] = ()
    static_units: tuple[str, ...] = ()
    planet: Mapping[str, str] = field(default_factory=dict)

    @property
    def points(self) -> int:
        """Values of one time."""
        return len(self.channels) * self.grid.shape[0] * self.grid.shape[1]

    @property
    def steps_per_shard(self) -> int:
        """Times in one file of fields."""
        return int(min(max(1, SHARD_BYTES // (4 * self.points)), self.time.size))

    @property
    def shards(self) -> int:
        """Number of files of fields."""
        return -(-self.time.size // self.steps_per_shard)

    def shard(self, number: int) -> slice:
        """Return which times a file of fields holds."""
        first = number * self.steps_per_shard
        return slice(first, min(first + self.steps_per_shard, self.time.size))

    @property
    def step_hours(self) -> int:
        """The common step in whole hours, 0 if there is none."""
        steps = np.unique(np.diff(self.time))
        return int(steps[0]) // SECONDS_PER_HOUR if steps.size == 1 and steps[0] % SECONDS_PER_HOUR == 0 else 0


def write_array(group: zarr.Group, name: str, values: Any, dimensions: Sequence[str], **attributes: str) -> None:
    """Write a small array in one piece, replacing what an interrupted run may have left."""
    array = np.asarray(values)
    if array.dtype.kind in "UO":
        array = array.astype(np.dtypes.StringDType())
    group.create_array(
        name, data=array, chunks=array.shape, compressors=None, dimension_names=dimensions, attributes=attributes,
        overwrite=True,
    )  # fmt: skip


def create(path: Path, axes: Axes) -> None:
    """Write coordinates and the description of `fields` into an empty store."""
    group = zarr.open_group(path, mode="w", zarr_format=3, attributes=dict(axes.planet))
    shape = (axes.time.size, len(axes.channels), *axes.grid.shape)
    group.create_array(
        "fields", shape=shape, dtype="<f4", chunks=(1, *shape[1:]), shards=(axes.steps_per_shard, *shape[1:]),
        compressors=None, fill_value=np.nan, dimension_names=_FIELDS,
    )  # fmt: skip
    units = "seconds since 1970-01-01"
    write_array(group, "time", axes.time, ["time"], units=units, calendar=axes.calendar, standard_name="time")
    write_array(group, "channel", [str(channel) for channel in axes.channels], ["channel"])
    write_array(group, "variable", [channel.name for channel in axes.channels], ["channel"])
    levels = [np.nan if channel.level is None else channel.level for channel in axes.channels]
    write_array(group, "level", np.array(levels, dtype=np.float64), ["channel"], units="hPa")
    write_array(group, "units", list(axes.units), ["channel"])
    for name, values in (("latitude", axes.grid.latitude), ("longitude", axes.grid.longitude)):
        units = "degrees_north" if name == "latitude" else "degrees_east"
        write_array(group, name, values, [name], units=units, standard_name=name)
    if axes.statics:
        write_array(group, "static", [str(channel) for channel in axes.statics], ["static"])
        write_array(group, "static_units", list(axes.static_units), ["static"])


def write_shard(path: Path, axes: Axes, number: int, block: NDArray[np.float32]) -> None:
    """Write one file of fields, (time, channel, latitude, longitude).

    Every time is written, all-missing ones too, so that the file begins with the plain array.
    """
    array = zarr.open_array(path / "fields", mode="r+").with_config({"write_empty_chunks": True})
    array[axes.shard(number)] = block


def read_shard(path: Path, axes: Axes, number: int) -> NDArray[np.float32]:
    """Map one file of fields into memory, (time, channel · latitude · longitude)."""
    steps = axes.shard(number)
    file = path / "fields" / "c" / str(number) / "0" / "0" / "0"
    return np.memmap(file, dtype="<f4", mode="r", shape=(steps.stop - steps.start, axes.points))


def to_dataset(path: str | Path, *, by_file: bool = True) -> xr.Dataset:
    """Open a training store as a canonical dataset, lazily: one variable per name, on levels where it has them.

    Args:
        path: of the store.
        by_file: let Dask read all times of a file at once; otherwise nothing is read beyond what is asked for.

    Raises:
        DataError: if it is not a training store.
    """
    try:
        store = xr.open_zarr(at(str(path)), chunks=None, decode_times=False)
    except (OSError, ValueError, KeyError, zarr.errors.BaseZarrError) as error:
        raise DataError(f"{path} cannot be read as a training store ({error}); remake it") from None
    if store.attrs.get("etesian_store") != VERSION:
        raise DataError(f"{path} is no training store; make one from it with `etesian prepare`")
    time = decode_time(store["time"].values, store.attrs["calendar"])
    if by_file:
        store = store.chunk(time=store["fields"].encoding["shards"][0], token=uuid4().hex)
    fields = store["fields"].assign_coords(time=time)
    units = dict(zip(store["channel"].values.tolist(), store["units"].values.tolist(), strict=True))
    variables = _unstack(fields, "channel", units)
    if "statics" in store:
        # Stores of version 0.1 keep no units of statics.
        kept = store["static_units"].values.tolist() if "static_units" in store else []
        units = dict(zip(store["static"].values.tolist(), kept, strict=False))
        variables |= _unstack(store["statics"], "static", units)
    dataset = side_by_side(variables.values()).assign_attrs(planet_of(store))
    for name in ("latitude", "longitude"):
        dataset[name].attrs = dict(store[name].attrs)
    return dataset


def _unstack(array: xr.DataArray, dimension: str, units: dict[str, str]) -> dict[str, xr.DataArray]:
    """Split a stacked array into variables."""
    names = [str(name) for name in array[dimension].values]
    channels = [Channel.parse(name) for name in names]
    array = array.reset_coords(drop=True)
    variables = {}
    for variable in dict.fromkeys(channel.name for channel in channels):
        index = [i for i, channel in enumerate(channels) if channel.name == variable]
        levels = [channels[i].level for i in index]
        if levels == [None]:
            values = array.isel({dimension: index[0]}, drop=True)
        else:
            values = array.isel({dimension: index}).rename({dimension: "level"}).assign_coords(level=levels)
        known = CATALOGUE.get(variable)
        values.attrs = {"units": units.get(names[index[0]], known.units if known else "")}
        if levels != [None]:
            values.attrs["levels"] = levels
        variables[variable] = values.rename(variable)
    return variables


def axes_of(dataset: xr.Dataset, channels: dict[Channel, str], statics: dict[Channel, str]) -> Axes:
    """Describe a canonical dataset's axes, with the units of its channels."""
    time, calendar = encode_time(dataset["time"].values)
    grid = Grid(dataset["latitude"].values, dataset["longitude"].values)
    units, static_units = tuple(channels.values()), tuple(statics.values())
    return Axes(time, calendar, tuple(channels), units, grid, tuple(statics), static_units, planet_of(dataset))


def write_climatology(path: Path, hours: Sequence[int], first: int, values: NDArray[np.float32]) -> None:
    """Write some grid points of every (hour, day) map; a map is one file that holds nothing but its values.

    Args:
        path: the store.
        hours: of the climatology.
        first: position of the first point in a map, flattened over channel, latitude and longitude.
        values: (hour, day, points).
    """
    for hour in range(len(hours)):
        for day in range(values.shape[1]):
            file = path / "climatology" / "c" / str(hour) / str(day) / "0" / "0" / "0"
            file.parent.mkdir(parents=True, exist_ok=True)
            with open(file, "r+b", opener=_made_if_missing) as stream:
                stream.seek(4 * first)
                stream.write(values[hour, day].astype("<f4").tobytes())


def _made_if_missing(path: str, flags: int) -> int:
    """Open a file, made if it is not there, without emptying it: several workers write parts of one."""
    return os.open(path, flags | os.O_CREAT, 0o666)


def create_climatology(path: Path, axes: Axes, hours: Sequence[int], days: int) -> None:
    """Describe `climatology`, one chunk for each hour and day of the year."""
    group = zarr.open_group(path, mode="r+")
    shape = (len(hours), days, len(axes.channels), *axes.grid.shape)
    group.create_array(
        "climatology", shape=shape, dtype="<f4", chunks=(1, 1, *shape[2:]), compressors=None, fill_value=np.nan,
        dimension_names=("hour", "dayofyear", *_FIELDS[1:]),
    )  # fmt: skip
    write_array(group, "hour", np.array(hours, dtype=np.int64), ["hour"])
    write_array(group, "dayofyear", np.arange(1, days + 1, dtype=np.int64), ["dayofyear"])
