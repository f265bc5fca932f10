"""Files of every kind → decoded, lazily loaded xarray datasets, still under their own names."""

import stat
import zipfile
from pathlib import Path
from urllib.parse import urlsplit

import xarray as xr

from etesian.core.errors import DataError
from etesian.files.arrays import holds_shards, is_described, read_described, read_shards, with_levels
from etesian.files.grib import read_grib
from etesian.files.netcdf import read_netcdf
from etesian.files.zarrs import is_zarr, read_zarr

SUFFIXES = (".nc", ".nc4", ".cdf", ".grib", ".grib1", ".grib2", ".grb", ".grb2", ".h5", ".hdf5")
"""How files end that a folder is searched for."""

_PACKED = {
    b"\x1f\x8b": ("gzip", "gunzip"),
    b"BZh": ("bzip2", "bunzip2"),
    b"\x28\xb5\x2f\xfd": ("zstd", "unzstd"),
    b"\xfd7zXZ": ("xz", "unxz"),
}


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
    if "://" in path:
        _refuse_remote_files(path)
        return [read_zarr(path)]
    if is_zarr(Path(path)):
        return [read_zarr(path)]
    if Path(path).is_dir():
        return [read_shards(Path(path))]
    head = _head(path)
    if head[:4] == b"GRIB":
        return read_grib(path)
    if head[:4] == b"\x89HDF" and is_described(path):
        return [with_levels(read_described(path))]
    if head[:3] == b"CDF" or head[:4] == b"\x89HDF":
        return [read_netcdf(path, classic=head[:3] == b"CDF")]
    if head[:4] == b"PK\x03\x04" and _is_zipped_zarr(path):
        return [read_zarr(path)]
    raise DataError(_what_else(path, head))


def is_store(path: Path) -> bool:
    """Whether a folder is one data set: a Zarr store, or ClimaX shards."""
    return is_zarr(path) or holds_shards(path)


def _refuse_remote_files(url: str) -> None:
    address = urlsplit(url)
    if address.path.lower().endswith((*SUFFIXES, ".zip", ".gz")):
        how = f", for example with `curl -O {url}`" if address.scheme in ("http", "https", "ftp") else ""
        raise DataError(f"{url} is no Zarr store, and nothing else is read from an address: copy it here first{how}")


def _head(path: str) -> bytes:
    try:
        if not stat.S_ISREG(Path(path).stat().st_mode):
            raise DataError(f"{path} is no file but a device or pipe: write what comes from it into a file first")
        with open(path, "rb") as file:
            head = file.read(512)
    except OSError as error:
        raise DataError(f"{path} cannot be opened: {error.strerror}") from None
    if not head:
        raise DataError(f"{path} is empty: copy or download it again")
    return head


def _is_zipped_zarr(path: str) -> bool:
    try:
        with zipfile.ZipFile(path) as archive:
            return not {"zarr.json", ".zgroup", ".zmetadata"}.isdisjoint(archive.namelist())
    except (zipfile.BadZipFile, OSError):
        return False


def _what_else(path: str, head: bytes) -> str:
    """Say in one sentence what a file is that is not read, and the remedy."""
    for magic, (kind, remedy) in _PACKED.items():
        if head.startswith(magic):
            return f"{path} is compressed with {kind}: unpack it with `{remedy} < {path} > OUT`"
    if head.startswith(b"PK\x03\x04"):
        return _what_a_zip_holds(path)
    if head[257:262] == b"ustar":
        return f"{path} is a tar archive: unpack it with `tar -xf {path}` and give the files that it holds"
    if head.lstrip().lower().startswith((b"<!doctype", b"<html", b"<?xml")):
        return f"{path} is a web page, perhaps one that asks to log in, under the name of a file: download it again"
    if head.lstrip().startswith(b"{") and b'"refs"' in head:
        return f"{path} holds references of kerchunk, which are not read: give the files that it refers to"
    return (
        f"{path} is neither NetCDF, GRIB, HDF5 nor Zarr (it begins with {head[:8]!r}): "
        f"convert it first, for example with xarray's to_netcdf"
    )


def _what_a_zip_holds(path: str) -> str:
    try:
        with zipfile.ZipFile(path) as archive:
            names = [name for name in archive.namelist() if not name.endswith("/")]
    except (zipfile.BadZipFile, OSError):
        return f"{path} is a zip archive that is truncated: copy or download it again"
    if names and all(name.endswith(".npy") for name in names):
        return f"{path} is NumPy's .npz, without coordinates: write it with them, for example with xarray's to_netcdf"
    shown = ", ".join(names[:3]) + (", …" if len(names) > 3 else "")
    folder = Path(path).with_suffix("") if Path(path).suffix else f"{path}_files"
    return (
        f"{path} is a zip archive of {len(names)} files ({shown}): unpack it with `unzip {path} -d {folder}` and give "
        f"that folder"
    )
