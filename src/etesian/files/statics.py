"""Fields that the catalogue knows not to change in time, though a file may keep one for every time."""

from collections.abc import Iterable

import pandas as pd
import xarray as xr

from etesian.core.channels import CATALOGUE
from etesian.core.errors import DataError


def is_static(name: str) -> bool:
    """Whether the catalogue knows that a variable does not change in time."""
    return name in CATALOGUE and CATALOGUE[name].static


def changes(array: xr.DataArray, first: xr.DataArray) -> xr.DataArray:
    """Whether a field differs from its first time anywhere, as a lazy scalar; what is missing in both does not."""
    return ((array != first) & ~(array.isnull() & first.isnull())).any()


def refusal(name: str) -> str:
    """Return the sentence that refuses a static field that changes."""
    return f"'{name}' should not change in time but does: leave it out with --exclude {name}, or rename it"


def without_time(array: xr.DataArray) -> xr.DataArray:
    """Return a static field without its time; all its values are read.

    Raises:
        DataError: if it changes in time.
    """
    first = array.isel(time=0, drop=True)
    if array.sizes["time"] == 1:
        return first
    first = first.load()
    if bool(changes(array, first)):
        raise DataError(refusal(str(array.name)))
    return first


def at_rest(fields: Iterable[xr.DataArray]) -> list[xr.DataArray]:
    """Take the time from static fields that are kept at a single time, or at others than the rest is.

    Raises:
        DataError: if one of the latter changes in time.
    """
    arrays = list(fields)
    moving = next((array.indexes["time"] for array in arrays if "time" in array.dims and not is_timed(array)), None)
    return [
        without_time(array) if is_timed(array) and (array.sizes["time"] == 1 or not _is_along(array, moving)) else array
        for array in arrays
    ]


def _is_along(array: xr.DataArray, times: pd.Index | None) -> bool:
    return times is None or array.indexes["time"].equals(times)


def is_timed(array: xr.DataArray) -> bool:
    """Whether a static field is kept for every time."""
    return "time" in array.dims and is_static(str(array.name))
