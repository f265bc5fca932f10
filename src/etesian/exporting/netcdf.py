"""Fields → one NetCDF 4 file by the CF conventions, written piece by piece."""

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import netCDF4
import numpy as np

from etesian.core.channels import CATALOGUE
from etesian.core.constants import SECONDS_PER_HOUR
from etesian.core.dataset import CONVENTIONS, LEAD, MEMBER
from etesian.core.version import __version__
from etesian.exporting.fields import LEADING, ExportedFields, hours_covered, process_of

CHUNK_BYTES = 2**20
"""Of a chunk of a variable, where one map is not more."""

_HOURS = "hours since 1970-01-01 00:00:00"

_KEPT = ("long_name", "levels", "accumulation_hours", "averaging_hours", "planet", "flag_values", "flag_meanings")


def write_netcdf(fields: ExportedFields, path: Path) -> None:
    """Write fields into a file.

    Dimensions are `time` (the initial time of forecasts), `number`, `prediction_timedelta`, `level`, `latitude` and
    `longitude`, as far as there are such; `valid_time` is an auxiliary coordinate over both times.

    Args:
        fields: to write.
        path: of the file, which is made anew.
    """
    with netCDF4.Dataset(path, "w", format="NETCDF4") as file:
        _describe(file, fields)
        for piece in fields.pieces():
            array, (t, m, lead) = file[piece.name], piece.place
            there = dict(zip(LEADING, (t, m, slice(lead, lead + len(piece.values))), strict=True))
            values = piece.values if "level" in array.dimensions else piece.values[:, 0]
            values = values if LEAD in array.dimensions else values[0]
            array[tuple(there.get(dim, slice(None)) for dim in array.dimensions)] = values


def _describe(file: Any, fields: ExportedFields) -> None:
    """Write everything but the values."""
    said = fields.dataset.attrs
    file.setncatts(
        CONVENTIONS
        | {key: str(said[key]) for key in ("title", "source", "planet") if key in said}
        | {"history": f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ} exported by etesian {__version__}"}
    )
    is_forecast = fields.lead_seconds is not None
    if fields.seconds.size:
        told = {"standard_name": "forecast_reference_time" if is_forecast else "time", "axis": "T"}
        _axis(file, "time", fields.seconds / SECONDS_PER_HOUR, told | {"units": _HOURS, "calendar": fields.calendar})
    if fields.members is not None:
        _axis(file, MEMBER, np.array(fields.members, np.int32), {"standard_name": "realization", "units": "1"})
    if fields.lead_seconds is not None:
        _leads(file, fields)
    if "level" in fields.dataset.dims:
        pressure = {"standard_name": "air_pressure", "units": "hPa", "positive": "down", "axis": "Z"}
        _axis(file, "level", np.asarray(fields.dataset.level.values, np.int32), pressure)
    grid = fields.grid
    for name, values, edges, units, axis in (
        ("latitude", grid.latitude, grid.latitude_bounds, "degrees_north", "Y"),
        ("longitude", grid.longitude, grid.longitude_bounds, "degrees_east", "X"),
    ):
        bounds = f"{name}_bnds"
        place = {"standard_name": name, "units": units, "axis": axis, "bounds": bounds}
        _axis(file, name, values, place)
        _bounds(file, bounds, name, np.stack([edges[:-1], edges[1:]], axis=1))
    for variable in fields.dataset.data_vars:
        _variable(file, fields, str(variable))


def _leads(file: Any, fields: ExportedFields) -> None:
    """Write the forecast period, its bounds where all variables cover the same hours, and the valid times."""
    assert fields.lead_seconds is not None
    leads = fields.lead_seconds / SECONDS_PER_HOUR
    told = {"standard_name": "forecast_period", "units": "hours"}
    processes = [hours_covered(array) for array in fields.dataset.data_vars.values()]
    covered = {process and process[1] for process in processes}
    one = covered.pop() if len(covered) == 1 else None
    _axis(file, LEAD, leads, told if one is None else told | {"bounds": f"{LEAD}_bnds"})
    if one is not None:
        _bounds(file, f"{LEAD}_bnds", LEAD, np.stack([leads - one, leads], axis=1))
    valid = file.createVariable("valid_time", "f8", ("time", LEAD))
    valid.setncatts({"standard_name": "time", "units": _HOURS, "calendar": fields.calendar})
    valid[:] = fields.seconds[:, None] / SECONDS_PER_HOUR + leads


def _axis(file: Any, name: str, values: Any, attributes: dict[str, str]) -> None:
    file.createDimension(name, len(values))
    array = file.createVariable(name, f"{values.dtype.kind}{values.dtype.itemsize}", (name,))
    array.setncatts(attributes)
    array[:] = values


def _bounds(file: Any, name: str, axis: str, values: Any) -> None:
    if "bnds" not in file.dimensions:
        file.createDimension("bnds", 2)
    file.createVariable(name, "f8", (axis, "bnds"))[:] = values


def _variable(file: Any, fields: ExportedFields, name: str) -> None:
    given = fields.dataset[name]
    dims = tuple(dim for dim in file.dimensions if dim in given.dims)
    is_float = given.dtype.kind == "f"
    array = file.createVariable(
        name, given.dtype, dims, zlib=True, complevel=4, shuffle=True, chunksizes=_chunk(dims, given),
        fill_value=given.dtype.type(np.nan) if is_float else None,
    )  # fmt: skip
    known = CATALOGUE.get(name)
    standard_name = given.attrs.get("standard_name") or (known.standard_name if known else "")
    units = given.attrs.get("units") or (known.units if known else "")
    told = {key: given.attrs[key] for key in _KEPT if key in given.attrs}
    told |= {key: text for key, text in (("standard_name", standard_name), ("units", units)) if text}
    told.setdefault("long_name", name.replace("_", " "))
    if "levels" in told:
        told["levels"] = np.asarray(told["levels"], np.int32)
    if LEAD in dims:
        process = hours_covered(given)
        told |= {"coordinates": "valid_time"}
        # CF's interval would be that of the samples, which nobody has noted.
        if process is not None:
            told["cell_methods"] = f"{LEAD}: {process[0]} (over the {process[1]} hours before)"
        elif process_of(given) is None:
            told["cell_methods"] = "time: point"
    elif "cell_methods" in given.attrs:
        told["cell_methods"] = given.attrs["cell_methods"]
    array.setncatts(told)


def _chunk(dims: Sequence[str], given: Any) -> tuple[int, ...]:
    """Return chunks of whole maps of as many levels and leads as fit."""
    sizes, left = {}, CHUNK_BYTES // given.dtype.itemsize
    for dim in reversed(dims):
        length = given.sizes[dim]
        is_map = dim in ("latitude", "longitude")
        sizes[dim] = length if is_map else max(1, min(length, left)) if dim in ("level", LEAD) else 1
        left //= sizes[dim]
    return tuple(sizes[dim] for dim in dims)
