"""The axes of a dataset as a file holds it → latitude, longitude, time and member, named, ordered and checked."""

import re
from collections.abc import Hashable, Iterable
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from etesian.core.errors import DataError, GridError
from etesian.core.grid import Grid
from etesian.data.pieces import in_pieces
from etesian.data.times import timed

REGRID_CURVILINEAR = "regrid it first, for example with `cdo remapcon,r360x180 IN OUT`"

_LATITUDES = ("latitude", "lat", "lats", "nav_lat")
_LONGITUDES = ("longitude", "lon", "long", "lons", "nav_lon")
_MEMBERS = ("member", "number", "ensemble", "realization", "member_id", "ens", "ensemble_member")

Order = tuple[NDArray[np.intp], NDArray[np.float64]]


def with_axes(raw: xr.Dataset, label: str, notes: list[str]) -> xr.Dataset:
    """Return a dataset with `latitude` ascending, `longitude` ascending eastward, then `time` and `member`.

    Args:
        raw: decoded dataset.
        label: name of the file in messages.
        notes: gains a sentence for each thing that was mended.

    Raises:
        GridError: if the grid is not a latitude–longitude grid with finite coordinates.
        DataError: if the times have no dates.
    """
    return _member(timed(_on_grid(raw, label, notes), label))


def _on_grid(raw: xr.Dataset, label: str, notes: list[str]) -> xr.Dataset:
    """Rename, order and check the two horizontal coordinates."""
    latitude = _horizontal(raw, label, "latitude", _LATITUDES, r"degrees?_?n(orth)?")
    longitude = _horizontal(raw, label, "longitude", _LONGITUDES, r"degrees?_?e(ast)?")
    if latitude.ndim == 2 or longitude.ndim == 2:
        raise GridError(f"{label} is on a curvilinear grid ({_listing(latitude.dims)}): {REGRID_CURVILINEAR}")
    if latitude.ndim == 1 and latitude.dims == longitude.dims:
        raise GridError(
            f"{label} is on an unstructured grid of {latitude.size} points along '{latitude.dims[0]}': "
            f"{REGRID_CURVILINEAR}"
        )
    dataset = raw.drop_vars([latitude.name, longitude.name])
    if not {*latitude.dims, *longitude.dims} <= set(dataset.dims):
        raise DataError(f"{label} holds no numbers on its latitude–longitude grid")
    for axis, coordinate in (("latitude", latitude), ("longitude", longitude)):
        values = np.atleast_1d(np.asarray(coordinate.values, dtype=np.float64))
        if str(coordinate.attrs.get("units", "")).startswith("rad"):
            values = np.degrees(values)
        if not np.isfinite(values).all():
            raise GridError(
                f"{label} has {np.count_nonzero(~np.isfinite(values))} missing values in its {axis}; "
                f"write the coordinate anew"
            )
        dimension = coordinate.dims[0] if coordinate.ndim else axis
        dataset = dataset.rename({dimension: axis}) if coordinate.ndim else dataset.expand_dims(axis)
        order, ordered = _latitude(values, notes) if axis == "latitude" else _longitude(values, notes)
        if np.array_equal(order, np.arange(values.size)):
            index: Any = slice(None)
        elif np.array_equal(order, np.arange(values.size)[::-1]):
            index = slice(None, None, -1)
        else:
            dataset, index = dataset.map(in_pieces), order
        dataset = dataset.isel({axis: index}).assign_coords({axis: ordered})
    try:
        Grid(dataset.latitude.values, dataset.longitude.values)
    except GridError as error:
        raise GridError(f"{label}: {error}") from None
    return dataset


def _horizontal(raw: xr.Dataset, label: str, axis: str, names: tuple[str, ...], units: str) -> xr.DataArray:
    """Find a horizontal coordinate by standard name, units or name; one that is a dimension comes first."""

    def matches(name: Hashable, array: xr.DataArray) -> bool:
        standard_name = str(array.attrs.get("standard_name", ""))
        if array.dtype.kind not in "fiu" or array.ndim > 2 or standard_name.startswith(("grid_", "projection_")):
            return False
        given = str(array.attrs.get("units", "")).strip().lower().replace(" ", "_")
        by_units = re.fullmatch(units, given) is not None and (array.ndim != 1 or array.dims == (name,))
        return standard_name == axis or str(name).lower() in names or by_units

    variables = {name: raw[name] for name in raw.variables}
    found = [array for name, array in variables.items() if matches(name, array)]
    found = [array for array in found if not str(array.name).endswith(("_bnds", "_bounds", "_vertices"))]
    if not found:
        raise GridError(
            f"{label} has no {axis}; its dimensions are {_listing(raw.dims)}: add coordinates with units "
            f"degrees_north and degrees_east"
        )
    return min(found, key=lambda array: (array.dims != (array.name,), array.ndim != 2))


def _latitude(values: NDArray[np.float64], notes: list[str]) -> Order:
    order = np.argsort(values, kind="stable")
    if (order[1:] < order[:-1]).any():
        notes.append("latitude runs from north to south: turned to ascending")
    return order, values[order]


def _longitude(values: NDArray[np.float64], notes: list[str]) -> Order:
    """Order longitudes within 0…360, or contiguously past 360 on a region that crosses Greenwich."""
    east = values if (np.diff(values) > 0).all() else np.unwrap(values, period=360)
    order = np.argsort(east, kind="stable")
    east = east[order]
    gaps = np.diff(east)
    if gaps.size and gaps.max() > 180:
        turn = int(gaps.argmax()) + 1
        order, east = np.roll(order, -turn), np.concatenate([east[turn:], east[:turn] + 360])
    step = np.median(np.diff(east)) if east.size > 1 else 360.0
    if east[-1] - east[0] + 1.5 * step >= 360:
        wrapped = np.mod(east, 360)
        wrapped[wrapped > 360 - 1e-6] = 0.0
        start = np.argsort(wrapped, kind="stable")
        order, east = order[start], wrapped[start]
        keep = np.append(True, np.diff(east) > 1e-6)
        if not keep.all():
            notes.append(f"longitude repeats {np.count_nonzero(~keep)} meridians of the circle: repetitions dropped")
            order, east = order[keep], east[keep]
    else:
        east = np.mod(east[0], 360) + (east - east[0])
    if not np.array_equal(east, values):
        notes.append(f"longitude {values[0]:g}…{values[-1]:g} becomes {east[0]:g}…{east[-1]:g}")
    return order, east


def _member(dataset: xr.Dataset) -> xr.Dataset:
    for name in dataset.dims:
        if str(name).lower() in _MEMBERS:
            return dataset.rename({name: "member"})
    return dataset


def _listing(names: Iterable[Hashable]) -> str:
    return ", ".join(str(name) for name in names)
