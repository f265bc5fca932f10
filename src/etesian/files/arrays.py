"""Plain arrays of channels × times × rows × columns, in HDF5 beside a JSON file or in ClimaX's `.npz` shards."""

import json
import re
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import dask.array
import h5py
import hdf5plugin  # noqa: F401 — makes its filters known to h5py
import numpy as np
import xarray as xr
from numpy.typing import NDArray

from etesian.core.channels import Channel
from etesian.core.clock import decode_time, parse_time
from etesian.core.constants import SECONDS_PER_HOUR
from etesian.core.errors import DataError, first_line, suggest
from etesian.files.decoding import CHUNK_BYTES

_NEEDED = ("channels", "start", "step_hours", "latitude", "longitude")

_KNOWN = (*_NEEDED, "units", "calendar", "dataset", "missing")

_NAME = re.compile(r"(\d{4})_(\d+)")


def is_described(path: str) -> bool:
    """Whether a description lies beside an HDF5 file: `train.json` beside `train.h5`."""
    return Path(path).suffix.lower() in (".h5", ".hdf5", ".hdf") and Path(path).with_suffix(".json").exists()


def companions(path: str) -> list[Path]:
    """Return what a described HDF5 file is read together with: its description, and the parts of a virtual data set."""
    if not is_described(path):
        return []
    beside = Path(path).with_suffix(".json")
    with h5py.File(path, "r") as file:
        array = file[_array_name(_description(beside, path))]
        return [beside, *_parts(array, path)]


def what_is_missing(path: str, arrays: Sequence[str]) -> str:
    """Say in one sentence what a plain HDF5 file lacks and how to give it."""
    return (
        f"{path} is plain HDF5 without coordinates (it holds {', '.join(arrays)}): describe an array of channels × "
        f"times × rows × columns in {Path(path).with_suffix('.json').name} beside it, with "
        f"{', '.join(_NEEDED[:-1])} and {_NEEDED[-1]}, or write it with latitude, longitude and time, for example "
        f"with xarray's to_netcdf"
    )


def read_described(path: str) -> dict[Channel, xr.DataArray]:
    """Open the array that the JSON file beside an HDF5 file describes, lazily, one field (time, row, column) a channel.

    The description holds `channels`, one name each such as `vorticity` or `temperature_850`; `start`, the date of the
    first time; `step_hours`; `latitude` and `longitude`, of every row and column, or of the first and the last of
    evenly spaced ones; and may hold `units`, one a channel, `calendar`, `missing`, a value that means no value, and
    `dataset`, the name of the array where it is not `data`.

    Raises:
        DataError: if the description or the array lacks something, or they do not fit.
    """
    beside = Path(path).with_suffix(".json")
    told = _description(beside, path)
    try:
        file = h5py.File(path, "r")
    except OSError as error:
        raise DataError(f"{path} cannot be read, it may be truncated: {error}") from None
    with file:
        name = _array_name(told)
        array = file.get(name)
        if not isinstance(array, h5py.Dataset) or array.ndim != 4:
            raise DataError(
                f"{path} holds no array '{name}' of channels × times × rows × columns{suggest(name, file)}; name it as "
                f"'dataset' in {beside.name}"
            )
        for part in _parts(array, path):
            # HDF5 itself would fill in for it in silence.
            if not part.exists():
                raise DataError(f"{path} is put together from other files, of which {part} is not there; bring it back")
        shape, dtype = array.shape, array.dtype
        stored = array.chunks[1] if array.chunks else 1
    names = [str(channel) for channel in told["channels"]]
    units = told.get("units", [""] * len(names))
    for what, given in (("channels", names), ("units", units)):
        if len(given) != shape[0]:
            raise DataError(f"{beside} gives {len(given)} {what}, but '{name}' in {path} has {shape[0]} of them")
    latitude, longitude = (
        _coordinate(told[axis], size, axis, beside)
        for axis, size in zip(("latitude", "longitude"), shape[2:], strict=True)
    )
    times = _times(told, shape[1], beside)
    step_bytes = dtype.itemsize * shape[2] * shape[3]
    steps = stored * max(1, CHUNK_BYTES // (stored * step_bytes))
    lazy = dask.array.from_array(
        _Lazy(path, name, shape, dtype), chunks=(1, min(steps, shape[1]), -1, -1), name=None, asarray=False
    )
    fields = {}
    for i, text in enumerate(names):
        values = lazy[i].astype(np.float32)
        if "missing" in told:
            values = dask.array.where(values == np.float32(told["missing"]), np.float32(np.nan), values)
        coordinates = {
            "time": times,
            "latitude": ("latitude", latitude, {"units": "degrees_north"}),
            "longitude": ("longitude", longitude, {"units": "degrees_east"}),
        }
        attributes = {"units": str(units[i])} if units[i] else {}
        fields[Channel.parse(text)] = xr.DataArray(
            values, coordinates, ("time", "latitude", "longitude"), attrs=attributes
        )
    return fields


class _Lazy:
    """An HDF5 array that is opened for each read, so that any thread or process can."""

    def __init__(self, path: str, name: str, shape: tuple[int, ...], dtype: Any) -> None:
        self.path, self.name, self.shape, self.dtype, self.ndim = path, name, shape, dtype, len(shape)
        self.changed = Path(path).stat().st_mtime_ns

    def __dask_tokenize__(self) -> tuple[Any, ...]:
        return self.path, self.name, self.changed

    def __getitem__(self, key: Any) -> NDArray[Any]:
        try:
            with h5py.File(self.path, "r") as file:
                return np.asarray(file[self.name][key])
        except (OSError, RuntimeError) as error:
            raise DataError(
                f"{self.path} cannot be read at '{self.name}', it is damaged ({first_line(error)}); "
                "copy or download it again"
            ) from None


def _description(beside: Path, path: str) -> dict[str, Any]:
    try:
        told = json.loads(beside.read_text())
    except ValueError as error:
        raise DataError(f"{beside}, which should describe {path}, is no valid JSON: {error}") from None
    if not isinstance(told, dict):
        raise DataError(f"{beside}, which should describe {path}, holds no JSON object of {', '.join(_NEEDED)}")
    if missing := [key for key in _NEEDED if key not in told]:
        raise DataError(f"{beside} lacks {' and '.join(missing)}, without which {path} cannot be understood")
    if unknown := [key for key in told if key not in _KNOWN]:
        raise DataError(f"{beside} holds '{unknown[0]}', which means nothing{suggest(unknown[0], _KNOWN)}")
    return told


def _array_name(told: dict[str, Any]) -> str:
    return str(told.get("dataset", "data"))


def _parts(array: h5py.Dataset, path: str) -> list[Path]:
    """Return the files that a virtual data set is put together from."""
    if not array.is_virtual:
        return []
    names = dict.fromkeys(source.file_name for source in array.virtual_sources())
    return [Path(path).parent / name for name in names if name != "."]


def _coordinate(given: Any, size: int, axis: str, beside: Path) -> NDArray[np.float64]:
    try:
        values = np.atleast_1d(np.asarray(given, dtype=np.float64))
    except (TypeError, ValueError):
        values = np.zeros((0, 0))
    if values.shape == (2,):
        return np.linspace(values[0], values[1], size)
    if values.shape != (size,):
        raise DataError(
            f"'{axis}' in {beside} must be {size} numbers, or the first and the last of evenly spaced ones, in degrees"
        )
    return values


def _times(told: dict[str, Any], size: int, beside: Path) -> NDArray[Any]:
    calendar, step = str(told.get("calendar", "proleptic_gregorian")), told["step_hours"]
    if not isinstance(step, int | float) or step <= 0:
        raise DataError(f"'step_hours' in {beside} must be a number of hours greater than 0, not {step!r}")
    seconds = np.rint(np.arange(size) * step * SECONDS_PER_HOUR).astype(np.int64)
    return decode_time(parse_time(str(told["start"]), calendar) + seconds, calendar)


def holds_shards(folder: Path) -> bool:
    """Whether a folder holds files named YEAR_SHARD.npz, by themselves or in `train`; others may lie anywhere."""
    return any(_NAME.fullmatch(path.stem) for place in (folder, folder / "train") for path in place.glob("*.npz"))


def read_shards(folder: Path) -> xr.Dataset:
    """Read ClimaX's shards `{train,val,test}/{year}_{shard}.npz`, dated by the year and their number of steps."""
    paths = sorted(folder.glob("*.npz")) + sorted(folder.glob("*/*.npz"))
    years: dict[int, list[tuple[int, Path]]] = {}
    for path in paths:
        if match := _NAME.fullmatch(path.stem):
            years.setdefault(int(match[1]), []).append((int(match[2]), path))
    if not years:
        raise DataError(f"{folder} holds no shards named YEAR_SHARD.npz, such as 1979_0.npz")
    roots = [root for root in (folder, folder.parent) if (root / "lat.npy").exists() and (root / "lon.npy").exists()]
    if not roots:
        raise DataError(f"{folder} holds shards but neither it nor the folder above holds lat.npy and lon.npy")
    latitude, longitude = (_axis(roots[0] / f"{name}.npy") for name in ("lat", "lon"))
    blocks: dict[str, list[dask.array.Array]] = {}
    times = []
    for year, shards in sorted(years.items()):
        lengths = []
        for _, path in sorted(shards):
            shapes = _shapes(path)
            lengths.append(_steps(path, shapes, (latitude.size, longitude.size)))
            if blocks and set(shapes) != set(blocks):
                odd = sorted(set(shapes) ^ set(blocks))[0]
                raise DataError(f"'{odd}' is not in every shard of {folder}: {path.name} differs from those before it")
            for name, (shape, dtype) in shapes.items():
                read = dask.array.from_delayed(dask.delayed(_load)(path, name), shape, dtype)
                blocks.setdefault(name, []).append(read)
        times.append(_year_steps(year, sum(lengths), folder))
    return _stack_channels(blocks, np.concatenate(times), latitude, longitude)


def _axis(path: Path) -> NDArray[np.float64]:
    """Read the latitudes or longitudes of all shards."""
    try:
        values: NDArray[np.float64] = np.load(path, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise DataError(f"{path} holds no plain numbers ({first_line(error)}): write it with np.save") from None
    if values.ndim != 1 or values.dtype.kind not in "iuf":
        raise DataError(f"{path} holds {values.dtype} of shape {values.shape}, where a row of numbers is needed")
    return values.astype(np.float64)


def _steps(path: Path, shapes: dict[str, tuple[tuple[int, ...], np.dtype]], grid: tuple[int, int]) -> int:
    """Return how many steps a shard holds, once every array is seen to be steps × 1 × latitudes × longitudes."""
    if not shapes:
        raise DataError(f"{path} holds no arrays: make it anew or leave it out")
    steps = next(iter(shapes.values()))[0][:1]
    for name, (shape, dtype) in shapes.items():
        if shape != (*steps, 1, *grid) or dtype.kind not in "iufb":
            raise DataError(
                f"{path} holds '{name}' as {dtype} of shape {shape}, but steps × 1 × {grid[0]} latitudes in lat.npy × "
                f"{grid[1]} longitudes in lon.npy are needed: make it anew or leave it out"
            )
    return steps[0]


def _year_steps(year: int, steps: int, folder: Path) -> np.ndarray:
    start, end = np.datetime64(f"{year:04d}-01-01", "h"), np.datetime64(f"{year + 1:04d}-01-01", "h")
    for hours in (8760, int((end - start).astype(int))):
        if steps and hours % steps == 0:
            return (start + np.arange(steps) * np.timedelta64(hours // steps, "h")).astype("datetime64[s]")
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
    try:
        with np.load(path, allow_pickle=False) as shard:
            return np.asarray(shard[name])
    except (OSError, ValueError, KeyError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(
            f"{path} cannot be read at '{name}', it is damaged ({first_line(error)}); copy or download it again"
        ) from None


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
    return with_levels(arrays)


def with_levels(arrays: dict[Channel, xr.DataArray]) -> xr.Dataset:
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
