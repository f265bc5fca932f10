"""Files of every kind → decoded, lazily loaded xarray datasets, still under their own names."""

import logging
import re
import warnings
import zipfile
from pathlib import Path
from typing import Any

import dask.array
import eccodes
import numpy as np
import xarray as xr
from cfgrib import cfmessage, messages
from cfgrib import dataset as cfgrib_dataset
from cfgrib.xarray_plugin import ECCODES_LOCK, CfGribDataStore
from scipy.io import netcdf_file

from etesian.core.channels import Channel
from etesian.core.errors import DataError, GridError
from etesian.data.coefficients import to_grid
from etesian.data.hdf5 import is_described, read_described, what_is_missing
from etesian.data.pieces import in_pieces

_HYPERCUBE_KEYS = (
    "paramId", "typeOfLevel", "stepType", "dataType", "gridType", "numberOfPoints", "stepUnits", "uvRelativeToGrid",
)  # fmt: skip
_PARAMETER_KEYS = {
    1: ("table2Version", "indicatorOfParameter"),
    2: ("discipline", "parameterCategory", "parameterNumber"),
}
# Spectral messages have no grid to tell, and are given one here.
logging.getLogger("cfgrib.dataset").addFilter(lambda record: "gridType='sh'" not in record.getMessage())
_REFERENCE_TIME = re.compile(rb"(\d{4})[ -](\d\d)[ -](\d\d)[ T](\d\d):(\d\d)")


def read_file(path: str) -> list[xr.Dataset]:
    """Open one file, one Zarr store or one folder of ClimaX shards, deciding by content.

    Args:
        path: local path, or a URL that fsspec knows for a Zarr store.

    Returns:
        Datasets that share a grid; GRIB gives one for each hypercube, everything else a single one.

    Raises:
        DataError: if the file is unreadable, truncated or of an unknown kind.
        GridError: if its values are on a reduced grid.
    """
    if "://" in path or _is_zarr(Path(path)):
        return [_read_zarr(path)]
    if Path(path).is_dir():
        return [_read_shards(Path(path))]
    try:
        with open(path, "rb") as file:
            head = file.read(8)
    except OSError as error:
        raise DataError(f"{path} cannot be opened: {error.strerror}") from None
    if head[:4] == b"GRIB":
        return _read_grib(path)
    if head[:4] == b"\x89HDF" and is_described(path):
        return [_with_levels(read_described(path))]
    if head[:3] == b"CDF" or head[:4] == b"\x89HDF":
        return [_read_netcdf(path, classic=head[:3] == b"CDF")]
    raise DataError(
        f"{path} is neither NetCDF, GRIB, HDF5 nor Zarr (it begins with {head!r}): "
        f"convert it first, for example with xarray's to_netcdf"
    )


def is_store(path: Path) -> bool:
    """Whether a folder is one data set: a Zarr store, or ClimaX shards."""
    return _is_zarr(path) or any(path.glob("*.npz")) or any(path.glob("train/*.npz"))


def _is_zarr(path: Path) -> bool:
    return any((path / name).exists() for name in ("zarr.json", ".zgroup", ".zmetadata"))


def _read_zarr(path: str) -> xr.Dataset:
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Failed to open Zarr store with consolidated")
            dataset: xr.Dataset = xr.open_zarr(path, chunks=None, decode_timedelta=False)
    except ImportError as error:
        raise DataError(
            f"{path} needs a package that is not installed ({error}): pip install 'etesian[cloud]'"
        ) from None
    except Exception as error:
        raise DataError(f"{path} cannot be read as a Zarr store: {_first_line(error)}") from None
    if "etesian_store" in dataset.attrs:
        raise DataError(f"{path} is a training store already: train on it, or give the data that it was made from")
    return dataset


def _read_netcdf(path: str, *, classic: bool) -> xr.Dataset:
    if classic:
        _refuse_truncated(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", xr.SerializationWarning)
            raw = xr.open_dataset(path, decode_timedelta=False, engine="netcdf4")
    except (OSError, RuntimeError) as error:
        raise DataError(f"{path} cannot be read, it may be truncated: {_first_line(error)}") from None
    except ValueError as error:
        raise DataError(f"{path} has times that cannot be decoded: {_first_line(error)}") from None
    if not raw.variables:
        raise DataError(f"{path} holds no variables at its top; copy the group you need into a file of its own")
    raw = _read_text_time(raw, path)
    if not raw.coords and all(str(name).startswith("phony_dim") for name in raw.dims):
        raise DataError(what_is_missing(path, list(map(str, raw.data_vars))))
    return raw


def _refuse_truncated(path: str) -> None:
    """Compare a classic NetCDF file's header with its length: the NetCDF library reads past the end in silence."""
    with open(path, "rb") as file:
        if file.read(4)[3:] not in (b"\x01", b"\x02"):
            return
    try:
        with netcdf_file(path, mmap=True) as file:
            del file
    except (ValueError, TypeError, OSError, IndexError):
        raise DataError(
            f"{path} is truncated: it is {Path(path).stat().st_size} bytes long, less than its header promises; "
            f"copy or download it again"
        ) from None


def _read_text_time(raw: xr.Dataset, path: str) -> xr.Dataset:
    """Date a time axis that counts hours from a reference date which another variable holds as text."""
    for name, array in raw.variables.items():
        if array.dtype.kind == "S" and array.ndim == 0 and "ref" in str(name).lower():
            match = _REFERENCE_TIME.search(bytes(array.values))
            axes = [axis for axis in raw.dims if "time" in str(axis).lower() and axis in raw.coords]
            if match is None or len(axes) != 1 or raw[axes[0]].dtype.kind not in "iuf":
                raise DataError(
                    f"{path} has a reference date '{name}' as text that does not date its time axis: "
                    f"give time units such as 'hours since 2000-01-01'"
                )
            start = np.datetime64("{}-{}-{}T{}:{}".format(*(part.decode() for part in match.groups())), "ns")
            hours = np.round(np.asarray(raw[axes[0]].values, dtype=np.float64) * 3600).astype("timedelta64[s]")
            dated = raw.drop_vars([name]).assign_coords({axes[0]: start + hours})
            return dated.rename({axes[0]: "time"})
    return raw


class _HypercubeStore(CfGribDataStore):
    """The messages of one variable on one kind of level, as xarray's backend reads them."""

    def __init__(self, index: Any) -> None:
        self.lock = ECCODES_LOCK
        self.ds = cfgrib_dataset.open_from_index(index, squeeze=False, errors="raise")


def _read_grib(path: str) -> list[xr.Dataset]:
    """Scan the messages once and group them by what varies in neither time, step, member nor level."""
    try:
        index = messages.FileIndex.from_fieldset(
            messages.FileStream(path, errors="raise"), cfgrib_dataset.compute_index_keys(), cfmessage.COMPUTED_KEYS
        )
    except (EOFError, eccodes.CodesInternalError) as error:
        raise DataError(
            f"{path} is truncated or no valid GRIB ({_first_line(error)}); copy or download it again"
        ) from None
    positions = [index.index_keys.index(key) for key in _HYPERCUBE_KEYS]
    groups = dict.fromkeys(tuple(header[i] for i in positions) for header, _ in index.iter_index())
    cubes = []
    for group in groups:
        keys = dict(zip(_HYPERCUBE_KEYS, group, strict=True))
        if str(keys["gridType"]).startswith("reduced"):
            raise GridError(
                f"{path} is on a reduced Gaussian grid: interpolate it with `cdo setgridtype,regular IN OUT`"
            )
        same_field = {other for other in groups if other[:2] == group[:2]}
        mean = f"_{keys['stepType']}" if len(same_field) > 1 and keys["stepType"] != "instant" else ""
        for suffix, part in _apart(index.subindex(keys), path).items():
            cube = _hypercube(_HypercubeStore(part), path)
            cube = to_grid(cube, path) if keys["gridType"] == "sh" else cube
            is_usual = not mean + suffix and not any(str(name).startswith("avg_") for name in cube.data_vars)
            cubes.append(cube if is_usual else _renamed(cube, mean + suffix))
    return cubes


def _apart(index: Any, path: str) -> dict[str, Any]:
    """Tell apart messages that share all keys of the index, by a suffix for their names."""
    is_unknown = index.getone("paramId") == 0
    if not is_unknown and all(len(ids) == 1 for _, ids in index.iter_index()):
        return {"": index}
    entries: dict[str, dict[Any, list[Any]]] = {}
    for header, ids in index.iter_index():
        for position in ids:
            message = index.get_field(position)
            parameter = "_" + ".".join(str(message[key]) for key in _PARAMETER_KEYS[int(message["edition"])])
            suffix = (parameter if is_unknown else "") + (_difference(message) if len(ids) > 1 else "")
            chosen = entries.setdefault(suffix, {}).setdefault(header, [position])
            if chosen != [position] and message["startStep"] == message["endStep"]:
                raise DataError(
                    f"{path} holds '{message['shortName']}' more than once for one time, level and member: keep one"
                )
    return {
        suffix: type(index)(index.fieldset, index.index_keys, index.filter_by_keys, list(chosen.items()))
        for suffix, chosen in entries.items()
    }


def _renamed(cube: xr.Dataset, suffix: str) -> xr.Dataset:
    """Keep a field that is not the usual one of its name from passing for it."""
    (name,) = cube.data_vars
    cube[name].attrs.pop("standard_name", None)
    return cube.rename({name: f"{name}{suffix}"})


def _difference(message: Any) -> str:
    """Name the shorter of several periods (rain in six hours, not since the start), or the lower end of a layer."""
    start, end = int(message["startStep"]), int(message["endStep"])
    if 0 < start < end:
        return f"_{end - start}h"
    if str(message["typeOfLevel"]).endswith("Layer") and int(message["edition"]) == 2:
        scale = 10.0 ** -int(message["scaleFactorOfSecondFixedSurface"])
        return f"_to{int(message['scaledValueOfSecondFixedSurface']) * scale:g}"
    return ""


def _hypercube(store: _HypercubeStore, path: str) -> xr.Dataset:
    cube = xr.open_dataset(store, decode_timedelta=True)
    (name,) = cube.data_vars
    kind = cube[name].attrs["GRIB_typeOfLevel"]
    initial, steps = cube.sizes["time"], cube.sizes["step"]
    valid = cube.valid_time.values.reshape(-1)
    if np.unique(valid).size != valid.size:
        raise DataError(
            f"'{name}' in {path} holds {initial} initial times × {steps} steps whose valid times overlap: "
            f"keep one step, for example with `grib_copy -w step=0 IN OUT`"
        )
    if initial > 1 and steps > 1:
        cube = cube.map(in_pieces).stack(when=("time", "step")).drop_vars(["when", "time", "step"])
        order = np.argsort(valid, kind="stable")
        cube = cube.isel(when=order).rename(when="time").assign_coords(time=valid[order])
    else:
        along, other = ("time", "step") if initial > 1 else ("step", "time")
        cube = cube.isel({other: 0}, drop=True).drop_vars([along, "valid_time"])
        cube = cube.rename({along: "time"}).assign_coords(time=valid)
    if cube.sizes.get("number") == 1:
        cube = cube.isel(number=0, drop=True)
    cube = cube.rename({kind: "level"}) if kind == "isobaricInhPa" else cube
    cube[name].attrs["GRIB_typeOfLevel"] = kind
    return cube


def _read_shards(folder: Path) -> xr.Dataset:
    """Read ClimaX's shards `{train,val,test}/{year}_{shard}.npz`, dated by the year and their number of steps."""
    paths = sorted(folder.glob("*.npz")) + sorted(folder.glob("*/*.npz"))
    years: dict[int, list[tuple[int, Path]]] = {}
    for path in paths:
        if match := re.fullmatch(r"(\d{4})_(\d+)", path.stem):
            years.setdefault(int(match[1]), []).append((int(match[2]), path))
    if not years:
        raise DataError(f"{folder} holds no shards named YEAR_SHARD.npz, such as 1979_0.npz")
    roots = [root for root in (folder, folder.parent) if (root / "lat.npy").exists() and (root / "lon.npy").exists()]
    if not roots:
        raise DataError(f"{folder} holds shards but neither it nor the folder above holds lat.npy and lon.npy")
    latitude, longitude = (np.load(roots[0] / f"{name}.npy") for name in ("lat", "lon"))
    blocks: dict[str, list[dask.array.Array]] = {}
    times = []
    for year, shards in sorted(years.items()):
        lengths = []
        for _, path in sorted(shards):
            shapes = _shapes(path)
            lengths.append(next(iter(shapes.values()))[0][0])
            if blocks and set(shapes) != set(blocks):
                odd = sorted(set(shapes) ^ set(blocks))[0]
                raise DataError(f"'{odd}' is not in every shard of {folder}: {path.name} differs from those before it")
            for name, (shape, dtype) in shapes.items():
                read = dask.array.from_delayed(dask.delayed(_load)(path, name), shape, dtype)
                blocks.setdefault(name, []).append(read)
        times.append(_year_steps(year, sum(lengths), folder))
    return _stack_channels(blocks, np.concatenate(times), latitude, longitude)


def _year_steps(year: int, steps: int, folder: Path) -> np.ndarray:
    start, end = np.datetime64(f"{year}-01-01", "h"), np.datetime64(f"{year + 1}-01-01", "h")
    for hours in (8760, int((end - start).astype(int))):
        if hours % steps == 0:
            return (start + np.arange(steps) * np.timedelta64(hours // steps, "h")).astype("datetime64[ns]")
    raise DataError(
        f"the shards of {year} in {folder} hold {steps} steps, which do not divide the hours of the year: "
        f"a shard is missing or of another kind"
    )


def _shapes(path: Path) -> dict[str, tuple[tuple[int, ...], np.dtype]]:
    """Read the shapes and types in an .npz without its values."""
    shapes = {}
    try:
        with zipfile.ZipFile(path) as archive:
            for member in archive.namelist():
                with archive.open(member) as file:
                    version = np.lib.format.read_magic(file)
                    read = (
                        np.lib.format.read_array_header_1_0
                        if version == (1, 0)
                        else np.lib.format.read_array_header_2_0
                    )
                    shape, _, dtype = read(file)
                    shapes[member.removesuffix(".npy")] = (shape, dtype)
    except (zipfile.BadZipFile, ValueError) as error:
        raise DataError(f"{path} is truncated or no .npz file ({error}); copy or download it again") from None
    return shapes


def _load(path: Path, name: str) -> np.ndarray:
    with np.load(path) as shard:
        return np.asarray(shard[name])


def _stack_channels(
    blocks: dict[str, list[dask.array.Array]], times: np.ndarray, latitude: np.ndarray, longitude: np.ndarray
) -> xr.Dataset:
    """Gather arrays named by channel (T, 1, H, W) into variables with levels."""
    coordinates = {"time": times, "latitude": latitude, "longitude": longitude}
    dims = ("time", "latitude", "longitude")
    arrays = {
        Channel.parse(name): xr.DataArray(dask.array.concatenate(parts)[:, 0], coordinates, dims)
        for name, parts in blocks.items()
    }
    return _with_levels(arrays)


def _with_levels(arrays: dict[Channel, xr.DataArray]) -> xr.Dataset:
    """Gather fields by channel into variables with levels."""
    levels: dict[str, dict[int, xr.DataArray]] = {}
    raw = xr.Dataset()
    for channel, array in arrays.items():
        if channel.level is None:
            raw[channel.name] = array
        else:
            levels.setdefault(channel.name, {})[channel.level] = array
    for name, by_level in levels.items():
        order = sorted(by_level)
        stacked = xr.concat([by_level[level] for level in order], dim=f"level_{name}", combine_attrs="override")
        raw[name] = stacked.transpose("time", ...)
        raw = raw.assign_coords({f"level_{name}": (f"level_{name}", order, {"units": "hPa"})})
    return raw


def _first_line(error: BaseException) -> str:
    return str(error).strip().splitlines()[0].rstrip(".") if str(error).strip() else type(error).__name__
