"""ClimaX's `.npz` shards → one lazily loaded dataset."""

import re
import zipfile
import zlib
from pathlib import Path

import dask.array
import numpy as np
import xarray as xr
from numpy.typing import NDArray

from etesian.core.channels import Channel
from etesian.core.errors import DataError, first_line

_NAME = re.compile(r"(\d{4})_(\d+)")


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
