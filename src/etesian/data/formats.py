"""Files of every kind → decoded, lazily loaded xarray datasets, still under their own names."""

import re
import warnings
from pathlib import Path

import numpy as np
import xarray as xr
from scipy.io import netcdf_file

from etesian.core.errors import DataError, first_line
from etesian.data.grib import read_grib
from etesian.data.hdf5 import is_described, read_described, what_is_missing
from etesian.data.shards import read_shards, with_levels

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
        return [read_shards(Path(path))]
    try:
        with open(path, "rb") as file:
            head = file.read(8)
    except OSError as error:
        raise DataError(f"{path} cannot be opened: {error.strerror}") from None
    if head[:4] == b"GRIB":
        return read_grib(path)
    if head[:4] == b"\x89HDF" and is_described(path):
        return [with_levels(read_described(path))]
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
        raise DataError(f"{path} cannot be read as a Zarr store: {first_line(error)}") from None
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
        raise DataError(f"{path} cannot be read, it may be truncated: {first_line(error)}") from None
    except ValueError as error:
        raise DataError(f"{path} has times that cannot be decoded: {first_line(error)}") from None
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
