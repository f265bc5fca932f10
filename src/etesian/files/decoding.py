"""Values as NetCDF and Zarr store them → numbers, still unread: in chunks along time, masked, their damage named.

What is missing follows NetCDF's conventions and CF: `_FillValue` and `missing_value` (also several, also as text, also
of another type than the data) are compared as stored. `valid_range`, `valid_min` and `valid_max` are as stored where
they are integers, and in the units of the unpacked values where they are floating-point numbers.
"""

import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from xarray.backends import BackendArray
from xarray.core import indexing

from etesian.core.errors import DataError, EtesianError, first_line
from etesian.files import diagnosis

CHUNK_BYTES = 32 * 2**20
"""Size of a piece, unless one time step is larger."""

Range = tuple[float, float]

_RANGE = ("valid_range", "valid_min", "valid_max")

_FINAL, _PRELIMINARY = 1, 5


def in_chunks(array: xr.DataArray, most: int | None = None) -> xr.DataArray:
    """Return an array that Dask reads in chunks along time (else along its first dimension), in whole stored chunks.

    One that Dask reads already is returned as it is.

    Args:
        array: to be read.
        most: bytes of a piece, unless one stored chunk is larger; `CHUNK_BYTES` by default.
    """
    if array.chunks is not None or array.ndim == 0 or array.size == 0:
        return array
    axis = "time" if "time" in array.dims else array.dims[0]
    stored = array.encoding.get("preferred_chunks", {}).get(axis, 1)
    stored_bytes = stored * array.nbytes // array.sizes[axis]
    sizes = dict.fromkeys(array.dims, -1) | {axis: stored * max((most or CHUNK_BYTES) // max(stored_bytes, 1), 1)}
    # Cheaper than the array's own `chunk`, which takes its coordinates for data to be cut as well.
    return array.copy(data=array.variable.chunk(sizes).data)


class UnreachableError(DataError):
    """A request failed every time."""


class DamagedError(DataError):
    """Values are there, but cannot be decoded; `path` is their file."""

    def __init__(self, message: str, path: str) -> None:
        super().__init__(message)
        self.path = path


_gathered: list[DamagedError] | None = None


@contextmanager
def damage_gathered() -> Iterator[list[DamagedError]]:
    """Read on where values are damaged, as if they were missing, and gather what was wrong with them.

    It holds for all threads, since other threads than the caller's do the reading.
    """
    global _gathered
    before, _gathered = _gathered, []
    try:
        yield _gathered
    finally:
        _gathered = before


def is_passed_over(error: DamagedError) -> bool:
    """Whether to read on after damage, because somebody gathers it."""
    if _gathered is not None:
        _gathered.append(error)
    return _gathered is not None


class _Values(BackendArray):
    """A variable that is read when it is indexed."""

    def __init__(self, variable: xr.Variable, name: str, path: str, valid: Range | None) -> None:
        self.shape, self.variable, self.name, self.path, self.valid = variable.shape, variable, name, path, valid
        self.dtype = variable.dtype if valid is None else np.result_type(variable.dtype, np.float32)

    def __getitem__(self, key: indexing.ExplicitIndexer) -> Any:
        return indexing.explicit_indexing_adapter(key, self.shape, indexing.IndexingSupport.OUTER, self._read)

    def _read(self, key: tuple[Any, ...]) -> NDArray[Any]:
        piece = self.variable[key]
        try:
            values = np.asarray(piece.values)
        except (EtesianError, MemoryError):
            raise
        except Exception as error:
            remedy = "try again" if "://" in self.path else "copy or download it again"
            damage = DamagedError(
                f"{self.path} cannot be read at '{self.name}', it is damaged ({first_line(error)}); {remedy}", self.path
            )
            if is_passed_over(damage):
                return np.full(piece.shape, np.nan, dtype=np.float32)
            raise damage from error
        if self.valid is None:
            return values
        inside = (values >= self.dtype.type(self.valid[0])) & (values <= self.dtype.type(self.valid[1]))
        return np.where(inside, values, self.dtype.type(np.nan)).astype(self.dtype, copy=False)


def guarded(dataset: xr.Dataset, path: str, valid: Mapping[str, Range]) -> xr.Dataset:
    """Return a dataset whose values, still unread, name file and variable where they cannot be read.

    Args:
        dataset: decoded, lazily loaded dataset.
        path: what to call it.
        valid: the smallest and the largest valid value of variables, beyond which they become NaN.
    """
    coords = {name for name in dataset.coords if name not in dataset.indexes}
    wrapped = {
        name: indexing.LazilyIndexedArray(_Values(variable, str(name), path, valid.get(str(name))))
        if variable.chunks is None
        else variable.data
        for name, variable in dataset.variables.items()
        if name not in dataset.indexes
    }
    plain = dataset.reset_coords(coords) if coords else dataset
    return plain.copy(data=wrapped).set_coords(coords) if wrapped else dataset


def declare(raw: xr.Dataset, path: str, defaults: Mapping[str, Any] | None = None) -> dict[str, Range]:
    """Bring what an undecoded dataset says about missing values into the one form that xarray decodes.

    Args:
        raw: undecoded dataset; the attributes of its variables are changed.
        path: what to call it.
        defaults: by variable, the value that stands where nothing was ever written, unless `_FillValue` tells another.

    Returns:
        By variable, the smallest and the largest valid value in the units of the unpacked values.

    Raises:
        DataError: if a packing is no number.
    """
    valid = {}
    for name, variable in raw.variables.items():
        if variable.dtype.kind not in "iuf":
            continue
        packing = {key: _packing(variable, str(name), key, path) for key in ("scale_factor", "add_offset")}
        is_axis = name in raw.dims
        stored = _stored_type(variable)
        fills = _numbers(raw, str(name), ("_FillValue", "missing_value"))
        if "_FillValue" not in variable.attrs and not is_axis and name in (defaults or {}):
            fills.append(("", np.asarray(defaults[name])[()]))  # type: ignore[index]
        for key in ("_FillValue", "missing_value"):
            variable.attrs.pop(key, None)
        kept = [_as_stored(value, stored) for _, value in fills]
        for (key, value), as_stored in zip(fills, kept, strict=True):
            if as_stored is None and np.isfinite(value):
                diagnosis.look(raw, f"'{name}' has a {key} {value:g} that is no {stored}: it means nothing")
        if numbers := [value for value in kept if value is not None and not np.isnan(value)]:
            variable.attrs["missing_value"] = np.unique(np.array(numbers, dtype=stored))
        limits = dict(_numbers(raw, str(name), _RANGE[1:]))
        both = [value for _, value in _numbers(raw, str(name), _RANGE[:1])]
        if len(both) == 2:
            limits = {"valid_min": both[0], "valid_max": both[1]}
        is_time = "since" in str(variable.attrs.get("units", ""))
        if limits and not is_axis and not is_time and (range_ := _valid(raw, str(name), limits, packing, stored)):
            valid[str(name)] = range_
    return valid


def _packing(variable: xr.Variable, name: str, key: str, path: str) -> Any:
    value = variable.attrs.get(key)
    if value is None:
        return None
    is_number = np.size(value) == 1 and np.asarray(value).dtype.kind in "iuf"
    if is_number and np.isfinite(value) and (np.all(value) or key == "add_offset"):
        return np.ravel(value)[0]
    kind = "text" if isinstance(value, str | bytes) else "0 or not finite" if is_number else "no single number"
    shown = value if isinstance(value, str) else str(value)
    raise DataError(f"'{name}' in {path} has a {key} that is {kind} ('{shown}'): write it as a number")


def _stored_type(variable: xr.Variable) -> np.dtype[Any]:
    """Return the type that stored values have once `_Unsigned` is heeded."""
    unsigned = str(variable.attrs.get("_Unsigned", "")).lower()
    kind = {("i", "true"): "u", ("u", "false"): "i"}.get((variable.dtype.kind, unsigned), variable.dtype.kind)
    return np.dtype(f"{kind}{variable.dtype.itemsize}")


def _numbers(raw: xr.Dataset, name: str, keys: tuple[str, ...]) -> list[tuple[str, Any]]:
    """Read the numbers in some attributes of a variable, also where they are written as text."""
    found: list[tuple[str, Any]] = []
    for key in keys:
        given = raw.variables[name].attrs.get(key)
        if isinstance(given, bytes):
            given = given.decode("latin-1")
        for value in [] if given is None else np.ravel(given):
            if isinstance(value, str):
                for word in re.split(r"[,;\s]+", value.strip("[]() \0")):
                    try:
                        found.append((key, int(word) if re.fullmatch(r"[+-]?\d+", word) else float(word)))
                    except ValueError:
                        diagnosis.look(raw, f"'{name}' has a {key} '{value}' that is no number: it means nothing")
            elif np.asarray(value).dtype.kind in "iuf":
                found.append((key, value))
    return found


def _as_stored(value: Any, stored: np.dtype[Any]) -> Any:
    """Return a number as the type of the stored values holds it, None if it cannot."""
    if stored.kind == "f":
        with np.errstate(over="ignore"):
            return stored.type(value)
    if not np.isfinite(value) or value != int(value):
        return None
    number, limits = int(value), np.iinfo(stored)
    if stored.kind == "u" and -(2 ** (limits.bits - 1)) <= number < 0:
        # Written as a signed number of as many bits.
        number += 2**limits.bits
    return stored.type(number) if limits.min <= number <= limits.max else None


def _valid(
    raw: xr.Dataset, name: str, limits: Mapping[str, Any], packing: Mapping[str, Any], stored: np.dtype[Any]
) -> Range | None:
    """Return the valid range in the units of the unpacked values, None if there is none."""
    types = [np.asarray(value).dtype for value in limits.values()]
    is_packed = any(value is not None for value in packing.values())
    words = " and ".join(f"{key} {value:g}" for key, value in limits.items())
    if stored.kind == "f" and not is_packed and all(t.kind in "iu" and t.itemsize <= 2 for t in types):
        diagnosis.look(raw, f"'{name}' has {words} from a packing that it no longer has: they mean nothing")
        return None
    scale = 1.0 if packing["scale_factor"] is None else float(packing["scale_factor"])
    offset = 0.0 if packing["add_offset"] is None else float(packing["add_offset"])
    is_unpacked = is_packed and any(t.kind == "f" for t in types)
    if stored.kind == "u" and not is_unpacked:
        limits = {key: value if (fits := _as_stored(value, stored)) is None else fits for key, value in limits.items()}
    low, high = float(limits.get("valid_min", -np.inf)), float(limits.get("valid_max", np.inf))
    if not low <= high:
        diagnosis.look(raw, f"'{name}' has {words}, between which nothing lies: they mean nothing")
        return None
    # Unpacking rounds, so that a limit itself could end up beyond it.
    slack = abs(scale) * (1e-3 if is_unpacked else 0.5) if stored.kind in "iu" else 0.0
    if not is_unpacked:
        low, high = sorted((low * scale + offset, high * scale + offset))
    diagnosis.mended(raw, f"'{name}' is taken for missing where it is outside its {words}")
    return low - slack, high + slack


def decoded(raw: xr.Dataset, path: str, defaults: Mapping[str, Any] | None = None) -> xr.Dataset:
    """Unpack and mask a dataset by what its attributes say, reading no values beyond coordinates.

    Args:
        raw: undecoded dataset; the attributes of its variables are changed.
        path: what to call it.
        defaults: by variable, the value that stands where nothing was ever written.

    Raises:
        DataError: if a packing is no number.
    """
    valid = declare(raw, path, defaults)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", xr.SerializationWarning)
            dataset = xr.decode_cf(raw, decode_times=False)
    except ValueError as error:
        raise DataError(f"{path} has attributes that cannot be decoded: {first_line(error)}") from None
    dataset = guarded(dataset, path, valid)
    if "expver" in dataset.dims:
        dataset = _one_version(dataset, path)
        diagnosis.mended(raw, "ERA5T (expver 5) stands where ERA5 (expver 1) has no values yet")
    dataset.encoding = dict(raw.encoding)
    return dataset


def _one_version(dataset: xr.Dataset, path: str) -> xr.Dataset:
    """Put ERA5 (`expver` 1) and, where that is not there yet, preliminary ERA5T (5) into one."""
    told = (re.fullmatch(r"0*([15])(\.0)?", version) for version in dataset["expver"].values.astype(str))
    versions = [int(found[1]) if found else 0 for found in told]
    if not set(versions) <= {_FINAL, _PRELIMINARY}:
        raise DataError(
            f"{path} has a dimension 'expver' of {dataset.sizes['expver']} that are not the versions 1 (ERA5) and 5 "
            f"(ERA5T): select one of them with xarray's isel(expver=0)"
        )
    merged = {}
    for name, array in dataset.data_vars.items():
        if "expver" in array.dims:
            parts = [in_chunks(array).isel(expver=versions.index(version), drop=True) for version in sorted(versions)]
            merged[name] = parts[0] if len(parts) == 1 else parts[0].where(parts[0].notnull(), parts[1])
    return dataset.drop_vars([*merged, "expver"]).assign(merged)
