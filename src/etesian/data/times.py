"""The times of a dataset as a file holds them → one dimension `time` of dates."""

from collections.abc import Hashable

import numpy as np
import xarray as xr

from etesian.core.clock import decode_time, encode_time
from etesian.core.errors import DataError

_TIMES = ("time", "valid_time", "t", "date", "datetime")


def timed(dataset: xr.Dataset, label: str) -> xr.Dataset:
    """Give the time dimension its name, and every field a time where the file has one moment for all."""
    moments = [name for name, c in dataset.variables.items() if c.ndim <= 1 and _is_time(name, dataset[name])]
    along = [name for name in moments if dataset[name].ndim == 1]
    if along:
        name = min(along, key=lambda n: (str(n) != "valid_time", dataset[n].dims != (n,)))
        dimension = dataset[name].dims[0]
        if dataset[name].dtype.kind not in "MO":
            units = dataset[name].attrs.get("units")
            raise DataError(
                f"{label} has times in '{name}' without a date ({'units ' + repr(units) if units else 'no units'}): "
                f"give it units such as 'hours since 2000-01-01'"
            )
        times = dataset[name].variable
        dataset = dataset.drop_vars([n for n in moments if n in dataset.variables])
        dataset = dataset.rename({dimension: "time"}).assign_coords(time=("time", decode_time(*encode_time(times))))
    elif moments:
        name = min(moments, key=lambda n: str(n) != "valid_time")
        time = decode_time(*encode_time(dataset[name].values))
        dataset = dataset.drop_vars(moments).expand_dims(time=np.atleast_1d(time))
    return dataset


def _is_time(name: Hashable, array: xr.DataArray) -> bool:
    standard_name = str(array.attrs.get("standard_name", ""))
    if standard_name in ("forecast_reference_time", "forecast_period"):
        return str(name).lower() == "time" and array.dtype.kind == "M"
    is_date = array.dtype.kind == "M" or (array.dtype == object and standard_name == "time")
    named = str(name).lower() in _TIMES and (array.dtype.kind in "MO" or array.dims == (name,))
    return (is_date and standard_name == "time") or named or (array.attrs.get("axis") == "T" and array.ndim == 1)
