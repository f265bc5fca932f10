"""How a file says which values are missing → what xarray decodes, and ranges of valid values.

The rules, after NetCDF's conventions and CF: `_FillValue` and `missing_value` (also several, also as text, also of
another type than the data) are compared as stored. `valid_range`, `valid_min` and `valid_max` are as stored where they
are integers, and in the units of the unpacked values where they are floating-point numbers.
"""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import xarray as xr

from etesian.core.errors import DataError
from etesian.files import remarks
from etesian.files.values import Range

_RANGE = ("valid_range", "valid_min", "valid_max")


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
                remarks.look(raw, f"'{name}' has a {key} {value:g} that is no {stored}: it means nothing")
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
    if value is None or (np.size(value) == 1 and np.asarray(value).dtype.kind in "iuf"):
        return None if value is None else np.ravel(value)[0]
    kind = "text" if isinstance(value, str | bytes) else "no single number"
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
                        remarks.look(raw, f"'{name}' has a {key} '{value}' that is no number: it means nothing")
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
        remarks.look(raw, f"'{name}' has {words} from a packing that it no longer has: they mean nothing")
        return None
    scale = 1.0 if packing["scale_factor"] is None else float(packing["scale_factor"])
    offset = 0.0 if packing["add_offset"] is None else float(packing["add_offset"])
    is_unpacked = is_packed and any(t.kind == "f" for t in types)
    if stored.kind == "u" and not is_unpacked:
        limits = {key: value if (fits := _as_stored(value, stored)) is None else fits for key, value in limits.items()}
    low, high = float(limits.get("valid_min", -np.inf)), float(limits.get("valid_max", np.inf))
    if not low <= high:
        remarks.look(raw, f"'{name}' has {words}, between which nothing lies: they mean nothing")
        return None
    # Unpacking rounds, so that a limit itself could end up beyond it.
    slack = abs(scale) * (1e-3 if is_unpacked else 0.5) if stored.kind in "iu" else 0.0
    if not is_unpacked:
        low, high = sorted((low * scale + offset, high * scale + offset))
    remarks.mended(raw, f"'{name}' is taken for missing where it is outside its {words}")
    return low - slack, high + slack
