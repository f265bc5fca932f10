"""The one door: any file, store, folder or pattern → one canonical, lazily loaded dataset."""

import glob
import itertools
import os
import stat
import zipfile
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

import dask.array as da
import numpy as np
import pandas as pd
import xarray as xr
from rich.progress import track

from etesian.core.channels import CATALOGUE, Channel
from etesian.core.clock import count_alike, decode_time, encode_time
from etesian.core.dataset import channels_of
from etesian.core.errors import ChannelError, DataError, GridError, suggest
from etesian.files.accumulations import named_by_length
from etesian.files.arrays import holds_shards, is_described, read_described, read_shards, with_levels
from etesian.files.canonical import canonicalise, side_by_side
from etesian.files.cells import grid_of, refuse_cells
from etesian.files.grib import read_grib
from etesian.files.netcdf import read_netcdf
from etesian.files.times import at_rest
from etesian.files.virtual import is_virtual, read_virtual
from etesian.files.zarrs import is_zarr, read_zarr

Source = str | Path | Sequence[str | Path]

SUFFIXES = (".nc", ".nc4", ".cdf", ".grib", ".grib1", ".grib2", ".grb", ".grb2", ".h5", ".hdf5")
"""How files end that a folder is searched for."""

_PACKED = {
    b"\x1f\x8b": ("gzip", "gunzip"),
    b"BZh": ("bzip2", "bunzip2"),
    b"\x28\xb5\x2f\xfd": ("zstd", "unzstd"),
    b"\xfd7zXZ": ("xz", "unxz"),
}


def open_store(source: Source, *, cells: bool = False) -> xr.Dataset:
    """Open NetCDF, GRIB, HDF5, Zarr or ClimaX shards as one canonical dataset, reading no values.

    Variables carry WeatherBench 2's names and the catalogue's units where the catalogue knows them, and
    their own otherwise. Dimensions are (time, member, level, latitude, longitude) where present; `level` is
    in whole hPa, latitude ascends, longitude ascends from 0…360 (past 360 on a region that crosses
    Greenwich), NaN is missing. The attributes of a variable tell its `source_name`, its `source_units`, and
    `units_missing` = 1 where the file gives none; `levels` lists the levels that a variable has.

    Args:
        source: a file, a folder of files, a Zarr store (a folder or any URL that fsspec knows), a glob, a folder of
            ClimaX shards, or several of these: variables are put side by side, times one after the other.
        cells: let fields on reduced and HEALPix grids pass along one dimension of cells, for `regrid` to take on.

    Raises:
        DataError: if something is missing, unreadable, or does not fit together.
        GridError: if the grid is not a latitude–longitude grid, or grids differ.
    """
    parts: list[tuple[str, xr.Dataset]] = []
    paths = expand(source)
    for path in track(paths, "Opening files", disable=len(paths) < 50, transient=True):
        for raw in read_file(path):
            dataset, _ = canonicalise(raw, path)
            check_times(dataset, path)
            if not cells:
                refuse_cells(dataset, path)
            parts.append((path, dataset))
    return combine(parts)


def expand(source: Source) -> list[str]:
    """Turn a source into the files, stores and URLs that it means.

    Raises:
        DataError: if a path or pattern means nothing, naming the closest that exists.
    """
    if not isinstance(source, str | os.PathLike):
        paths = [path for item in source for path in expand(item)]
        if not paths:
            raise DataError("no files were given to read")
        return paths
    text = os.fspath(source)
    if text.startswith("file://"):
        text = url2pathname(urlsplit(text).path)
    if "://" in text:
        return [text]
    try:
        return _expand_local(text)
    except PermissionError as error:
        raise DataError(
            f"{error.filename or text} cannot be read, you lack the permission: `ls -ld` shows why"
        ) from None


def _expand_local(text: str) -> list[str]:
    path = Path(text).expanduser()
    if path.is_dir():
        if is_store(path):
            return [str(path)]
        inside = [
            str(file) for file in sorted(path.iterdir()) if file.suffix.lower() in SUFFIXES or _is_folder_store(file)
        ]
        if not inside:
            raise DataError(f"the folder {path} holds no files ending in {', '.join(SUFFIXES)} and no Zarr store")
        return inside
    if path.exists():
        return [str(path)]
    if glob.has_magic(text):
        found = sorted(glob.glob(os.path.expanduser(text), recursive=True))
        if not found:
            raise DataError(f"the pattern '{text}' matches no file")
        return [member for file in found for member in expand(file)]
    if path.is_symlink():
        raise DataError(f"{path} is a link to {os.readlink(path)}, which is not there")
    parent = path.parent
    while not parent.is_dir():
        path, parent = parent, parent.parent
    raise DataError(f"there is no '{text}'{suggest(path.name, (file.name for file in parent.iterdir()))}")


def check_times(dataset: xr.Dataset, label: str) -> None:
    """Refuse times that are missing, repeated or out of order.

    Raises:
        DataError: naming the first such time.
    """
    if "time" not in dataset.dims:
        return
    times = dataset.indexes["time"]
    if times.hasnans:
        raise DataError(f"{label} has missing values in its time: select the steps that are dated")
    later = times[1:] > times[:-1]
    if later.all():
        return
    position = int(np.flatnonzero(~later)[0])
    before, after = times[position], times[position + 1]
    if before == after:
        raise DataError(f"{label} holds the time {after} twice: drop one with xarray's drop_duplicates('time')")
    raise DataError(f"{label} has {after} after {before}: sort it, for example with `cdo sorttimestamp IN OUT`")


def combine(parts: Sequence[tuple[str, xr.Dataset]]) -> xr.Dataset:
    """Put canonical datasets together: variables side by side, and each variable along the one axis it continues on.

    Args:
        parts: file names and their datasets.

    Raises:
        GridError: if grids differ.
        DataError: if two files hold the same field, or variables have different times.
    """
    if len(parts) == 1:
        return side_by_side(at_rest(parts[0][1].data_vars.values()))
    first_path, first = parts[0]
    grid = grid_of(first)
    parts = _in_one_calendar(parts)
    fields: dict[str, list[tuple[str, xr.DataArray]]] = {}
    for path, dataset in parts:
        other = grid_of(dataset)
        if other != grid:
            raise GridError(
                f"{path} is on another grid ({other}) than {first_path} ({grid}): open them apart or regrid one of them"
            )
        if not all(np.array_equal(dataset[axis], first[axis]) for axis in ("latitude", "longitude") if axis in dataset):
            dataset = dataset.assign_coords(latitude=first.latitude, longitude=first.longitude)
        for name, array in dataset.data_vars.items():
            fields.setdefault(str(name), []).append((path, array))
    fields = named_by_length(fields)
    told: dict[str, list[tuple[str, xr.DataArray]]] = {}
    for name, arrays in fields.items():
        for own, apart in _told_apart(name, arrays).items():
            told.setdefault(own, []).extend(apart)
    joined = {str(array.name): array for array in at_rest(_join(name, arrays) for name, arrays in told.items())}
    owners = {name: arrays[0][0] for name, arrays in told.items()}
    for axis in ("time", "member"):
        joined = _aligned(axis, joined, owners)
    return side_by_side(joined.values())


def _in_one_calendar(parts: Sequence[tuple[str, xr.Dataset]]) -> Sequence[tuple[str, xr.Dataset]]:
    """Give all times the type that holds them all: files in the standard calendar may lie on both sides of 1582."""
    times = {i: dataset["time"].values for i, (_, dataset) in enumerate(parts) if "time" in dataset.dims}
    if len({getattr(values[0], "calendar", "") for values in times.values()}) < 2:
        return parts
    dated = {i: encode_time(values) for i, values in times.items()}
    first, (seconds, calendar) = min(dated.items(), key=lambda item: (item[1][1] != "standard", item[0]))
    for i, (others, other) in dated.items():
        if not count_alike(seconds, calendar, others, other):
            raise DataError(
                f"{parts[i][0]} counts its times in the {other} calendar, {parts[first][0]} in {calendar}: "
                f"open them apart"
            )
    together = decode_time(np.concatenate([seconds for seconds, _ in dated.values()]), calendar)
    split = np.split(together, np.cumsum([seconds.size for seconds, _ in dated.values()])[:-1])
    replaced = list(parts)
    for i, values in zip(dated, split, strict=True):
        path, dataset = parts[i]
        replaced[i] = path, dataset.assign_coords(time=values)
    return replaced


def _aligned(axis: str, joined: dict[str, xr.DataArray], owners: dict[str, str]) -> dict[str, xr.DataArray]:
    """See that variables share their times and members; within one file, those that one lacks become NaN.

    So do times that instants have and sums, means or extremes lack, such as the start of a forecast.
    """
    indexes = {name: array.indexes[axis] for name, array in joined.items() if axis in array.dims}
    if not indexes:
        return joined
    over_time = [name for name in indexes if "period" in joined[name].attrs]
    first = min(indexes, key=over_time.count)
    for name, index in indexes.items():
        if index.equals(indexes[first]):
            continue
        is_part = name in over_time and (first in over_time or index.isin(indexes[first]).all())
        if not is_part and owners[name] != owners[first]:
            raise DataError(
                f"'{name}' in {owners[name]} has other {axis}s ({_extent(index)}) than '{first}' in {owners[first]} "
                f"({_extent(indexes[first])}): give files that cover the same {axis}s"
            )
    union = indexes[first]
    for index in indexes.values():
        union = union.union(index)
    return {
        name: array if name not in indexes or indexes[name].equals(union) else array.reindex({axis: union})
        for name, array in joined.items()
    }


def _extent(index: pd.Index) -> str:
    return f"{index[0]} … {index[-1]}, {index.size} in all"


def _told_apart(name: str, arrays: list[tuple[str, xr.DataArray]]) -> dict[str, list[tuple[str, xr.DataArray]]]:
    """Where one file holds several fields that the catalogue takes for one, let the first of its aliases have the name.

    The others keep their own, as the two reductions to sea level of every GFS file do.
    """
    sources: dict[str, list[tuple[str, xr.DataArray]]] = {}
    for path, array in arrays:
        sources.setdefault(array.attrs["source_name"], []).append((path, array))
    pairs = itertools.combinations(arrays, 2)
    if len(sources) < 2 or not any(one[0] == two[0] and _overlap(one[1], two[1]) for one, two in pairs):
        return {name: arrays}
    aliases = CATALOGUE[name].aliases if name in CATALOGUE else ()
    first = min(sources, key=lambda source: aliases.index(source) if source in aliases else len(aliases))
    return {
        own: [(path, array.rename(own)) for path, array in arrays]
        for source, arrays in sources.items()
        for own in [name if source == first else source]
    }


def _overlap(one: xr.DataArray, two: xr.DataArray) -> bool:
    """Whether two fields of one file cannot be one: they share a place, or cover periods of several lengths."""
    shared = [axis for axis in ("level", "member", "time") if axis in one.dims and axis in two.dims]
    is_same = one.attrs.get("period") == two.attrs.get("period")
    return not is_same or all(one.indexes[axis].intersection(two.indexes[axis]).size for axis in shared)


def _join(name: str, arrays: list[tuple[str, xr.DataArray]]) -> xr.DataArray:
    """Join the arrays of one variable along level, member and time, whichever tells them apart."""
    _refuse_other_units(name, arrays)
    for axis in ("level", "member", "time"):
        groups: dict[tuple[object, ...], list[tuple[str, xr.DataArray]]] = {}
        for path, array in arrays:
            groups.setdefault(_signature(array, without=axis), []).append((path, array))
        arrays = [piece for group in groups.values() for piece in _along(axis, group)]
    _refuse_overlaps(name, arrays)
    (path, array), *others = arrays
    for other_path, other in others:
        if "time" not in array.dims and "time" not in other.dims and array.equals(other):
            continue
        for axis in ("level", "member"):
            here, there = (sorted(each.indexes.get(axis, ())) for each in (array, other))
            if here != there and not _overlap(array, other):
                raise DataError(
                    f"'{name}' in {other_path} has other {axis}s ({', '.join(map(str, there))}) than in {path} "
                    f"({', '.join(map(str, here))}): give files of the same {axis}s"
                )
        where = f"for {_extent(other.indexes['time'])}" if "time" in other.dims else "in different versions"
        raise DataError(
            f"{other_path} and {path} both hold '{name}' {where}: leave one of them out, or rename one of the variables"
        )
    return array


def _refuse_overlaps(name: str, arrays: list[tuple[str, xr.DataArray]]) -> None:
    """Refuse files that go on with times which the one before them has already, saying how to cut these."""
    dated = [(path, array.indexes["time"]) for path, array in arrays if "time" in array.dims]
    for (path, times), (other, later) in itertools.pairwise(sorted(dated, key=lambda piece: piece[1][0])):
        common = later[later.isin(times)]
        if 0 < common.size < later.size and later[: common.size].equals(common):
            steps = f"{common.size + 1}/{later.size}"
            raise DataError(
                f"{other} and {path} both hold '{name}' for {_extent(common)}: cut these times from one of them, for "
                f"example with `cdo seltimestep,{steps} {other} OUT`"
            )


def _refuse_other_units(name: str, arrays: list[tuple[str, xr.DataArray]]) -> None:
    """Refuse arrays of which one is in other units, or in none."""
    known = next((piece for piece in arrays if piece[1].attrs.get("units")), arrays[0])
    units = known[1].attrs.get("units", "")
    for path, array in arrays:
        given, source = array.attrs.get("units", ""), array.attrs.get("source_name", name)
        if given == units:
            continue
        if given:
            raise DataError(f"'{source}' is in {given} in {path} but in {units} in {known[0]}: convert one of them")
        raise DataError(
            f"'{source}' has no units in {path}, but {units} in {known[0]}: if they are the same, give them, for "
            f"example with `ncatted -a units,{source},o,c,'{units}' IN OUT`"
        )


def _along(axis: str, group: list[tuple[str, xr.DataArray]]) -> list[tuple[str, xr.DataArray]]:
    """Concatenate arrays that agree in everything but one axis, if they do not overlap on it."""
    if len(group) == 1 or any(axis not in array.dims for _, array in group):
        return group
    ordered = sorted(group, key=lambda piece: piece[1].indexes[axis][0])
    indexes = [array.indexes[axis] for _, array in ordered]
    together = indexes[0].append(indexes[1:])
    if not together.is_unique:
        return group
    path, first = ordered[0]
    # In all but this axis they are alike, which `xr.concat` would see to once more, at the cost of a second look.
    values = da.concatenate([array.data for _, array in ordered], axis=first.get_axis_num(axis))
    coords = {**first.coords, axis: np.asarray(together)}
    joined = xr.DataArray(values, coords, first.dims, first.name, dict(first.attrs))
    if axis == "level":
        joined.attrs["levels"] = sorted(int(level) for level in together)
    return [(path, joined if together.is_monotonic_increasing else joined.sortby(axis))]


def _signature(array: xr.DataArray, *, without: str) -> tuple[object, ...]:
    others = (name for name in ("time", "member", "level") if name in array.dims and name != without)
    return array.dims, array.attrs.get("units"), *(tuple(array.indexes[name]) for name in others)


def _is_folder_store(path: Path) -> bool:
    return path.is_dir() and is_store(path)


def field(dataset: xr.Dataset, channel: Channel) -> xr.DataArray:
    """Return one channel of a canonical dataset, without a level dimension.

    Raises:
        ChannelError: if it is not there, naming the closest.
    """
    known = channels_of(dataset)
    if channel not in known:
        raise ChannelError(f"there is no channel '{channel}'{suggest(str(channel), map(str, known))}")
    array = dataset[channel.name]
    return array if channel.level is None else array.sel(level=channel.level, drop=True)


def read_file(path: str) -> list[xr.Dataset]:
    """Open one file, one Zarr store or one folder of ClimaX shards, deciding by content.

    Args:
        path: local path, or a URL that fsspec knows for a Zarr store.

    Returns:
        Datasets that share a grid; GRIB and anemoi's Zarr give one for each variable, everything else a single one.

    Raises:
        DataError: if the file is unreadable, truncated or of an unknown kind.
        GridError: if its values are on a grid that cannot be read.
    """
    _refuse_remote_files(path)
    if is_virtual(path):
        return read_virtual(path)
    if "://" in path or is_zarr(Path(path)):
        return read_zarr(path)
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
        return read_zarr(path)
    raise DataError(_what_else(path, head))


def is_store(path: Path) -> bool:
    """Whether a folder is one data set: a Zarr store, or ClimaX shards."""
    return is_zarr(path) or holds_shards(path) or is_virtual(str(path))


def _refuse_remote_files(url: str) -> None:
    address = urlsplit(url)
    if "://" in url and address.path.lower().endswith((*SUFFIXES, ".zip", ".gz")):
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
