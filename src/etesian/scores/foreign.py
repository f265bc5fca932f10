"""Forecasts as others write them → WeatherBench 2's layout under canonical names, units and coordinates."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from etesian.core.channels import ACCUMULATION_HOURS, AVERAGING_HOURS
from etesian.core.errors import DataError
from etesian.files.canonical import canonicalise
from etesian.files.units import parse_units

LEAD = "prediction_timedelta"

_LEADS = (LEAD, "lead_time", "step", "lead", "leadtime", "forecast_period", "forecast_hour", "timedelta")

_INITIALS = (
    "init_time", "forecast_reference_time", "initial_time", "initialization_time", "init", "reference_time", "time",
)  # fmt: skip

_MEMBERS = ("member", "number", "realization", "ensemble", "sample")

_KEPT = ("levels", AVERAGING_HOURS, ACCUMULATION_HOURS)
"""Attributes of this library's own forecasts that no other file has."""


def find_lead(dataset: xr.Dataset) -> str | None:
    """Return the coordinate that holds lead times, a dimension or one number; None if there is none."""
    return _find(dataset, "forecast_period", _LEADS)


def canonical_forecast(dataset: xr.Dataset, label: str) -> xr.Dataset:
    """Return forecasts over `time` (initial), `prediction_timedelta` and canonical levels, latitudes and longitudes.

    Initial times and leads are found by standard name or name, also where there is only one of them. Everything else is
    read as from any file, by `canonicalise`.

    Raises:
        DataError: if there are no initial times or leads, they mean nothing, or variables have further dimensions.
        GridError: if the grid cannot be read.
    """
    lead, initial = find_lead(dataset), _find(dataset, "forecast_reference_time", _INITIALS)
    is_plain = set(dataset.dims) <= {"time", "level", "latitude", "longitude"}
    is_filled = any(str(name).endswith("_flag") for name in dataset.data_vars)
    is_dated = initial == "time" and dataset["time"].attrs.get("standard_name") == "time"
    if lead is None and is_dated and is_plain and not is_filled:
        # Fine fields, which are valid at the times of the coarse ones.
        dataset, lead = dataset.expand_dims({LEAD: np.array([0], "timedelta64[ns]")}), LEAD
    if lead is None or initial is None or lead == initial:
        raise DataError(
            f"{label} is not in WeatherBench 2's layout: it needs the dimensions time (initial) and {LEAD}, and has "
            f"{_listed(dataset.sizes)}; filled gaps are evaluated with --observed, the store that has them"
        )
    for name in (lead, initial):
        if dataset[name].ndim == 0:
            dataset = dataset.expand_dims(name)
    leads = _durations(dataset[lead], label)
    # Times of validity follow from both; what else has no place of its own would be taken for a dimension or a date.
    dataset = dataset.drop_vars(
        [lead]
        + [
            name
            for name, c in dataset.coords.items()
            if name not in (lead, initial) and ({lead, initial} & set(c.dims) or c.dtype.kind in "Mm")
        ]
    )
    members = [name for name in dataset.dims if str(name).lower() in _MEMBERS]
    if any(dataset.sizes[name] > 1 for name in members):
        raise DataError(
            f"{label} also has the dimension {_listed(members)}; score one member or their mean, without that dimension"
        )
    dataset = dataset.squeeze(members, drop=True)
    # The canonical form knows no leads; members are what it has of that kind.
    dataset = dataset.rename({lead: "member"} | ({} if initial == "time" else {initial: "time"}))
    dataset["time"].attrs["standard_name"] = "time"
    own = {str(name): {key: array.attrs[key] for key in _KEPT if key in array.attrs} for name, array in dataset.items()}
    canonical, _ = canonicalise(dataset, label)
    for field in canonical.data_vars.values():
        field.attrs |= own.get(str(field.attrs.get("source_name")), {})
    renamed: xr.Dataset = canonical.rename(member=LEAD)
    return renamed.assign_coords({LEAD: leads})


def _find(dataset: xr.Dataset, standard_name: str, names: Sequence[str]) -> str | None:
    coordinates = [str(name) for name, c in dataset.coords.items() if c.ndim == 0 or c.dims == (name,)]
    said = [name for name in coordinates if dataset[name].attrs.get("standard_name") == standard_name]
    known = [name for wanted in names for name in coordinates if name.lower() == wanted]
    found = sorted([*said, *known], key=lambda name: dataset[name].ndim == 0)
    return found[0] if found else None


def _durations(coordinate: xr.DataArray, label: str) -> NDArray[Any]:
    """Return lead times as durations in nanoseconds.

    Raises:
        DataError: if numbers without units may be anything.
    """
    values = np.asarray(coordinate.values)
    if values.dtype.kind == "m":
        return values.astype("timedelta64[ns]")
    units = str(coordinate.attrs.get("units", "")).strip()
    unit, hour = parse_units(units), parse_units("h")
    if values.dtype.kind in "iuf" and unit is not None and hour is not None and unit.dimension == hour.dimension:
        return (np.round(values * unit.scale).astype(np.int64) * 10**9).astype("timedelta64[ns]")
    if values.dtype.kind in "iu" and not units and values.max(initial=0) >= 3_600 * 10**9:
        return values.astype("timedelta64[ns]")
    if values.dtype.kind in "iuf" and not units and not (values % 6).any():
        return (values.astype(np.int64) * 3_600 * 10**9).astype("timedelta64[ns]")
    raise DataError(
        f"{label}: '{coordinate.name}' holds {_listed(values.ravel())} {units or 'without units'}, which may be hours "
        f"or days; give it units, for example with xarray's {coordinate.name}.assign_attrs(units='hours')"
    )


def _listed(items: Any) -> str:
    names = [str(item) for item in items]
    return ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
