"""One dataset as a file holds it → canonical names, units, coordinates and dimension order."""

from collections.abc import Iterable
from typing import Any

import numpy as np
import xarray as xr

from etesian.core.channels import canonical_name
from etesian.core.errors import DataError, GridError
from etesian.data import remarks
from etesian.data.axes import with_axes
from etesian.data.naming import HEIGHT, ON_LEVELS, PRESSURE, SURFACE, UNKNOWN, Place, identify, own_name
from etesian.data.pieces import in_pieces
from etesian.data.units import conversion, parse_units

DIMENSIONS = ("time", "member", "level", "latitude", "longitude")
"""The order of dimensions in a canonical dataset."""

_PRESSURES = ("level", "levels", "lev", "plev", "pressure_level", "isobaricinhpa", "pressure", "air_pressure", "p")
_PRESSURE_UNITS = parse_units("Pa")


def canonicalise(raw: xr.Dataset, label: str) -> tuple[xr.Dataset, list[str]]:
    """Return a dataset under canonical names, units and coordinates, and one sentence for each thing that was mended.

    Times are taken as they are: whether they ascend is for the caller to judge. Every variable keeps in its
    attributes under which name (`source_name`) and in which units (`source_units`) it was stored;
    `units_missing` = 1 marks one without units.

    Args:
        raw: decoded, lazily loaded dataset.
        label: name of the file in messages.

    Raises:
        GridError: if the grid is not a latitude–longitude grid with finite coordinates.
        DataError: if a dimension means nothing here, or nothing is on the grid.
    """
    notes = remarks.all_mended(raw)
    dataset = with_axes(raw, label, notes)
    fields: dict[str, xr.DataArray] = {}
    for name, array in dataset.data_vars.items():
        if {"latitude", "longitude"} <= set(array.dims) and array.dtype.kind in "fiub":
            notes += [array.attrs["note"]] if "note" in array.attrs else []
            for place, part in _layers(array, label, notes):
                field = _field(str(name), place, part, notes)
                if field.name in fields:
                    raise DataError(
                        f"{label} holds '{field.name}' twice, as '{fields[str(field.name)].attrs['source_name']}' and "
                        f"'{name}'; delete one of them, for example with `cdo delname,{name} IN OUT`"
                    )
                fields[str(field.name)] = field
    if not fields:
        raise DataError(f"{label} holds no numbers on its latitude–longitude grid")
    return side_by_side(fields.values()), notes


def side_by_side(fields: Iterable[xr.DataArray]) -> xr.Dataset:
    """Put named fields on one grid together; a level that one of them lacks is NaN, and not in its `levels`."""
    arrays = list(fields)
    every = sorted({int(level) for array in arrays if "level" in array.dims for level in array.level.values})
    for i, array in enumerate(arrays):
        if "level" in array.dims and array.sizes["level"] < len(every):
            arrays[i] = array.reindex(level=every)
    merged = xr.merge(arrays, join="exact", compat="override", combine_attrs="override")
    return merged.transpose(*(name for name in DIMENSIONS if name in merged.dims))


def _layers(array: xr.DataArray, label: str, notes: list[str]) -> list[tuple[Place, xr.DataArray]]:
    """Split a field into parts that lie at one place each: on pressure levels, or at one other height or depth."""
    place = _scalar_place(array)
    if (canonical_name(str(array.name)) or next(iter(ON_LEVELS))) in ON_LEVELS:
        scalars = [name for name, c in array.coords.items() if c.ndim == 0 and _pressures(c, label) is not None]
        array = array.expand_dims(scalars)
    others = [str(name) for name in array.dims if name not in DIMENSIONS or name == "level"]
    parts = [(place, array)]
    for name in others:
        coordinate = array[name]
        pressures = _pressures(coordinate, label)
        if pressures is not None:
            parts = [piece for _, part in parts for piece in _on_pressure(part, name, pressures)]
        elif array.sizes[name] == 1:
            kind = _vertical_kind(coordinate)
            value = float(coordinate.values[0]) or None if kind and coordinate.dtype.kind in "fiu" else None
            parts = [(Place(kind, value) if kind else where, part.isel({name: 0})) for where, part in parts]
        elif kind := _vertical_kind(coordinate):
            notes.append(f"'{array.name}' lies at {coordinate.size} values of '{name}': one variable made of each")
            parts = [
                (Place(kind, float(value)), part.isel({name: i}))
                for _, part in parts
                for i, value in enumerate(coordinate.values)
            ]
        else:
            raise DataError(
                f"'{array.name}' in {label} has a dimension '{name}' of length {array.sizes[name]} that is neither "
                f"time, member, level, latitude nor longitude: select one of its values, or make it a time with dates"
            )
    return [(where, part.reset_coords(drop=True)) for where, part in parts]


def _scalar_place(array: xr.DataArray) -> Place:
    """Read where a field lies from coordinates without a dimension, or from the level type that GRIB gives."""
    kind = str(array.attrs.get("GRIB_typeOfLevel", ""))
    if kind and not kind.startswith("isobaric"):
        at = array.coords.get(kind)
        return Place(kind, float(at) if at is not None and at.ndim == 0 and kind == HEIGHT else None)
    height = array.coords.get("height")
    if height is not None and height.ndim == 0 and height.attrs.get("units", "m") == "m":
        return Place(HEIGHT, float(height))
    return Place(UNKNOWN)


def _pressures(coordinate: xr.DataArray, label: str) -> np.ndarray | None:
    """Return pressure levels in hPa, or None if the coordinate is something else.

    Raises:
        GridError: if they are numbered rather than given as pressures.
    """
    words = f"{coordinate.attrs.get('standard_name', '')} {coordinate.attrs.get('long_name', '')}".lower()
    if coordinate.dtype.kind not in "fiu" or any(word in words for word in ("sigma", "hybrid", "model level")):
        return None
    values = np.atleast_1d(np.asarray(coordinate.values, dtype=np.float64))
    units = str(coordinate.attrs.get("units", "")).strip()
    unit = parse_units(units)
    if unit is not None and _PRESSURE_UNITS is not None and unit.dimension == _PRESSURE_UNITS.dimension:
        return values * unit.scale / 100
    is_named = str(coordinate.name).lower() in _PRESSURES and coordinate.attrs.get("positive") != "up"
    if units or not is_named:
        return None
    if values.size > 3 and np.array_equal(values, np.arange(values.size) + values[0]):
        raise GridError(
            f"{label} is on model levels ('{coordinate.name}' counts {values[0]:g}…{values[-1]:g}): "
            f"interpolate to pressure levels first, for example with `cdo ml2pl,85000,50000 IN OUT`"
        )
    return values / 100 if values.max() > 1100 else values


def _vertical_kind(coordinate: xr.DataArray) -> str:
    """Return what a vertical coordinate other than pressure measures, or an empty string."""
    name = str(coordinate.name)
    attrs = coordinate.attrs
    standard_name = str(attrs.get("standard_name", ""))
    if standard_name == "height" or name.lower() in ("height", HEIGHT.lower()):
        return HEIGHT
    words = ("depth", "altitude", "sigma", "hybrid", "level", "layer", "vertical")
    is_vertical = (
        attrs.get("axis") == "Z"
        or "positive" in attrs
        or any(word in f"{name} {standard_name}".lower() for word in words)
        or str(attrs.get("long_name", "")).startswith("original GRIB coordinate")
        or (name.lower() == "z" and parse_units(str(attrs.get("units", ""))) == parse_units("m"))
    )
    return name if is_vertical else ""


def _on_pressure(part: xr.DataArray, dimension: str, pressures: np.ndarray) -> list[tuple[Place, xr.DataArray]]:
    """Name the level dimension in whole hPa, ascending; a level between whole hPa becomes a variable of its own."""
    whole = np.isclose(pressures, np.round(pressures), rtol=0, atol=1e-6) & (np.round(pressures) > 0)
    order = np.flatnonzero(whole)[np.argsort(pressures[whole], kind="stable")]
    pieces = [(Place(f"{pressures[i]:g}hPa"), part.isel({dimension: i})) for i in np.flatnonzero(~whole)]
    if order.size:
        levels = np.round(pressures[order]).astype(np.int64)
        renamed = part.isel({dimension: order}).drop_vars(dimension, errors="ignore").rename({dimension: "level"})
        pieces.insert(0, (Place(PRESSURE), renamed.assign_coords(level=levels)))
    return pieces


def _field(name: str, place: Place, array: xr.DataArray, notes: list[str]) -> xr.DataArray:
    """Give one field its canonical name, units, type and attributes."""
    attrs = array.attrs
    units = str(attrs.get("units", "")).strip()
    units = "" if units == "unknown" else units
    variable = identify(
        name,
        place,
        standard_name=str(attrs.get("standard_name", "")).replace("unknown", ""),
        units=units,
        cell_methods=str(attrs.get("cell_methods", "")),
        static="time" not in array.dims or (array.sizes["time"] == 1 and place.kind == SURFACE),
    )
    dtype = array.dtype if array.dtype in (np.float32, np.float64) else np.float32
    array = in_pieces(array).astype(dtype, copy=False)
    kept = {key: attrs[key] for key in ("long_name", "cell_methods") if key in attrs}
    kept |= {"source_name": name, "source_units": units}
    if not units:
        kept["units_missing"] = 1
    if "level" in array.dims:
        kept["levels"] = [int(level) for level in array.level.values]
    if variable is None:
        return array.rename(own_name(name, place)).pipe(_with_attrs, kept | {"units": units})
    if variable.static and "time" in array.dims:
        array = array.isel(time=0, drop=True)
        notes.append(f"'{variable.name}' does not change in time: its first time kept")
    factor, offset = conversion(units, variable) or (1.0, 0.0)
    if (factor, offset) != (1.0, 0.0):
        array = array * array.dtype.type(factor) + array.dtype.type(offset)
        notes.append(f"'{name}' converted from {units} to {variable.units}")
    kept["units"] = variable.units if units else ""
    if variable.standard_name:
        kept["standard_name"] = variable.standard_name
    return array.rename(variable.name).pipe(_with_attrs, kept)


def _with_attrs(array: xr.DataArray, attrs: dict[str, Any]) -> xr.DataArray:
    array.attrs = attrs
    return array
