"""The axes of a dataset as a file holds it → latitude, longitude, time and member, named, ordered and checked."""

import math
import re
from collections.abc import Hashable, Iterable

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from etesian.core.errors import DataError, GridError
from etesian.core.grid import Grid
from etesian.files.lazy import in_pieces
from etesian.files.times import timed

REGRID_CURVILINEAR = (
    "regrid it first, for example with `cdo remapcon,r360x180 IN OUT`, or with remapdis where the file tells no "
    "corners of its cells"
)

_LATITUDES = ("latitude", "lat", "lats", "nav_lat")

_LONGITUDES = ("longitude", "lon", "long", "lons", "nav_lon")

_MEMBERS = ("member", "number", "ensemble", "realization", "member_id", "ens", "ensemble_member")

_CELLS = ("cell", "cells", "ncell", "ncells", "node", "nodes", "values", "npoints", "ncol")

_SEPARABLE = ("latitude_longitude", "mercator", "lambert_cylindrical_equal_area")

_ROUNDING = 1e-3
"""Degrees beyond a pole that rounding explains."""

_NOMINAL = 1e-2
"""Degrees by which the same coordinate may differ between one and two dimensions."""

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
    return _member(timed(_on_grid(raw, label, notes), label, notes))


def _on_grid(raw: xr.Dataset, label: str, notes: list[str]) -> xr.Dataset:
    """Rename, order and check the two horizontal coordinates."""
    latitude = _horizontal(raw, label, "latitude", _LATITUDES, r"degrees?_?n(orth)?")
    longitude = _horizontal(raw, label, "longitude", _LONGITUDES, r"degrees?_?e(ast)?")
    _refuse_nominal(raw, label, latitude, longitude)
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
    ordered: dict[str, NDArray[np.float64]] = {}
    index: dict[str, slice | NDArray[np.intp]] = {}
    for axis, coordinate in (("latitude", latitude), ("longitude", longitude)):
        values = np.atleast_1d(np.asarray(coordinate.values, dtype=np.float64))
        if str(coordinate.attrs.get("units", "")).startswith("rad"):
            values = np.degrees(values)
        if not np.isfinite(values).all():
            raise GridError(
                f"{label} has {np.count_nonzero(~np.isfinite(values))} missing values in its {axis}; "
                f"write the coordinate anew"
            )
        if (beyond := np.abs(values) - 90).max() > 0 and axis == "latitude" and beyond.max() <= _ROUNDING:
            notes.append(f"latitude {values[beyond.argmax()]:.7g} lies beyond the pole by rounding: set to 90")
            values = values.clip(-90, 90)
        if not coordinate.ndim:
            dataset = dataset.expand_dims(axis)
        order, ordered[axis] = _latitude(values, notes) if axis == "latitude" else _longitude(values, notes)
        straight = np.arange(values.size)
        if values.size > 1 and np.array_equal(order, straight[::-1]):
            index[axis] = slice(None, None, -1)
        elif not np.array_equal(order, straight):
            dataset, index[axis] = dataset.map(in_pieces), order
        if (twice := ordered[axis][1:][np.diff(ordered[axis]) == 0]).size:
            raise GridError(
                f"{label} holds the {axis} {twice[0]:g} twice: drop one with xarray's "
                f"drop_duplicates('{coordinate.name}')"
            )
    try:
        Grid(**ordered)
    except GridError as error:
        raise GridError(f"{label}: {error}") from None
    names = {c.dims[0]: axis for axis, c in (("latitude", latitude), ("longitude", longitude)) if c.ndim}
    return dataset.rename(names).isel(index).assign_coords(ordered)


def _horizontal(raw: xr.Dataset, label: str, axis: str, names: tuple[str, ...], units: str) -> xr.DataArray:
    """Find a horizontal coordinate by standard name, units or name; one that is a dimension comes first."""

    def matches(name: Hashable, array: xr.Variable) -> bool:
        standard_name = str(array.attrs.get("standard_name", ""))
        if array.dtype.kind not in "fiu" or array.ndim > 2 or standard_name.startswith(("grid_", "projection_")):
            return False
        given = str(array.attrs.get("units", "")).strip().lower().replace(" ", "_")
        by_units = re.fullmatch(units, given) is not None and (array.ndim != 1 or array.dims == (name,))
        return standard_name == axis or str(name).lower() in names or by_units

    found = [raw[name] for name, variable in raw.variables.items() if matches(name, variable)]
    found = [array for array in found if not str(array.name).endswith(("_bnds", "_bounds", "_vertices"))]
    if not found:
        if cells := _cells(raw):
            raise GridError(
                f"{label} is on {cells}, without latitudes and longitudes: interpolate it to a grid of latitudes and "
                f"longitudes first"
            )
        raise GridError(
            f"{label} has no {axis}; its dimensions are {_listing(raw.dims)}: add coordinates with units "
            f"degrees_north and degrees_east"
        )
    return min(found, key=lambda array: (array.dims != (array.name,), array.ndim != 2))


def _refuse_nominal(raw: xr.Dataset, label: str, latitude: xr.DataArray, longitude: xr.DataArray) -> None:
    """Refuse axes that are not where the values lie: rotated or projected ones, nominal ones of curvilinear grids."""
    plane = {*latitude.dims, *longitude.dims}
    for name, array in raw.data_vars.items():
        for word in re.findall(
            r"[^\s:]+", str(array.attrs.get("grid_mapping", array.encoding.get("grid_mapping", "")))
        ):
            mapping = str(raw[word].attrs.get("grid_mapping_name", "")) if word in raw.variables else ""
            if mapping and mapping not in _SEPARABLE and plane <= set(array.dims):
                raise GridError(f"'{name}' in {label} is on a grid in the mapping {mapping}: {REGRID_CURVILINEAR}")
    if latitude.ndim != 1 or longitude.ndim != 1 or latitude.dims == longitude.dims:
        return
    for nominal, axis, units in ((latitude, "latitude", "n"), (longitude, "longitude", "e")):
        for other, variable in raw.variables.items():
            given = str(variable.attrs.get("units", "")).strip().lower()
            is_axis = variable.attrs.get("standard_name") == axis or (
                other in raw.coords and re.fullmatch(rf"degrees?_?{units}(orth|ast)?", given) is not None
            )
            if is_axis and variable.ndim == 2 and set(variable.dims) == plane and variable.dtype.kind == "f":
                apart = variable - nominal.variable
                # Longitudes may be counted from elsewhere.
                if (np.abs(np.mod(apart + 180, 360) - 180) > _NOMINAL).any():
                    raise GridError(
                        f"{label} is on a curvilinear grid, whose {axis} is '{other}', '{nominal.name}' is nominal: "
                        f"{REGRID_CURVILINEAR}"
                    )


def _cells(raw: xr.Dataset) -> str:
    """Say which grid of cells along one dimension a dataset without coordinates is on, if it is."""
    told = " ".join(f"{name} {array.attrs}" for name, array in raw.variables.items()) + str(raw.attrs)
    for dimension, size in raw.sizes.items():
        if "healpix" in f"{dimension} {told}".lower() and (
            size % 12 == 0 and math.isqrt(size // 12) ** 2 == size // 12
        ):
            return f"a HEALPix grid of {size} cells along '{dimension}'"
        if str(dimension).lower() in _CELLS:
            return f"an unstructured grid of {size} cells along '{dimension}'"
    return ""


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
