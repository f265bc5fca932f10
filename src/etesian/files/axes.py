"""The axes of a dataset as a file has them: latitude, longitude, level, time and member, named, ordered, checked."""

import re
from collections.abc import Hashable, Iterable

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from etesian.core.errors import DataError, GridError
from etesian.core.grid import Grid
from etesian.files.cells import CELLS, on_healpix, on_points
from etesian.files.decoding import in_chunks
from etesian.files.naming import HEIGHT, PRESSURE, Place
from etesian.files.times import timed
from etesian.files.units import LENGTH, PRESSURE_DIMENSION, parse_units

_PRESSURES = ("level", "levels", "lev", "plev", "pressure_level", "isobaricinhpa", "pressure", "air_pressure", "p")

_NO_UNITS = ("", "1", "-", "none", "level", "levels", "layer", "unknown", "dimensionless")

_LOW_PRESSURES = (1, 2, 3, 4, 5, 7, 10, 15, 20, 30, 40, 50, 70)
"""Levels below 100 hPa that archives keep; above it they keep multiples of 25 hPa."""

_MODEL_LEVELS = (
    "hybrid", "sigma", "model level", "model_level", "sleve", "atmosphere_ln_pressure", "generalized_height",
)  # fmt: skip

_ABOVE_SEA = ("altitude", "above_mean_sea_level", "above mean sea", "above sea", "ellipsoid", "geoid", "geopotential")

_VERTICAL = ("depth", "altitude", "sigma", "hybrid", "level", "layer", "vertical")

REGRID_CURVILINEAR = (
    "regrid it first, for example with `cdo remapcon,r360x180 IN OUT`, or with remapdis where the file tells no "
    "corners of its cells"
)

_LATITUDES = ("latitude", "lat", "lats", "nav_lat")

_LONGITUDES = ("longitude", "lon", "long", "lons", "nav_lon")

MEMBERS = ("member", "number", "ensemble", "realization", "member_id", "ens", "ensemble_member")
"""Names under which files have the members of an ensemble."""

_CELLS = ("cell", "cells", "ncell", "ncells", "node", "nodes", "values", "npoints", "ncol")

_SEPARABLE = ("latitude_longitude", "mercator", "lambert_cylindrical_equal_area")

_HIGHEST = 1100
"""Pressure (hPa) beyond which no level of the air lies."""

_OF_THE_SEA = parse_units("dbar")
"""The units in which the sea's pressures stand for depths."""

_LEVEL_NOISE = 1e-5
"""By which a pressure may be off a whole hPa because of its few digits, as a part of it."""

_ROUNDING = 1e-3
"""Degrees beyond a pole that rounding explains."""

_NOMINAL = 1e-2
"""Degrees by which the same coordinate may differ between one and two dimensions."""

Order = tuple[NDArray[np.intp], NDArray[np.float64]]


def pressures(coordinate: xr.DataArray, label: str, *, is_scalar: bool = False) -> NDArray[np.float64] | None:
    """Return pressure levels in hPa, or None if a coordinate is something else.

    Levels without units are pressures where the coordinate's name says so, or where each is one that archives keep (in
    hPa or Pa) and one of them is 100 hPa or more: 1, 2, 3 are numbers of levels.

    Args:
        coordinate: of levels, or without a dimension.
        label: name of the file in messages.
        is_scalar: whether it has no dimension, so that a model level need not be refused.

    Raises:
        GridError: if they are numbered, are model levels, or are missing or repeated.
    """
    if coordinate.dtype.kind not in "fiu":
        return None
    values = np.atleast_1d(np.asarray(coordinate.values, dtype=np.float64))
    if says_model_levels(coordinate):
        if is_scalar:
            return None
        raise _model_levels(coordinate, values, label)
    units = str(coordinate.attrs.get("units", "")).strip()
    unit = parse_units(units)
    if unit is not None and unit.dimension == PRESSURE_DIMENSION:
        if unit == _OF_THE_SEA:
            return None
        return _checked(values * unit.scale / 100, coordinate, label)
    name = str(coordinate.name).lower()
    if units.lower() not in _NO_UNITS or name not in _PRESSURES or coordinate.attrs.get("positive") == "up":
        return None
    hectopascals = values / 100 if values.max(initial=0) > _HIGHEST else values
    says_pressure = any(word in f"{name} {_words(coordinate)}" for word in ("pressure", "plev", "isobaric"))
    if _is_counted(values):
        raise _model_levels(coordinate, values, label)
    if not says_pressure and not _are_usual(hectopascals):
        raise GridError(
            f"{label} has levels without units ('{name}' is {_listed(values)}): if they are pressures, say so with "
            f"`ncatted -a units,{coordinate.name},o,c,hPa IN`; if they are model levels, interpolate them with "
            f"`cdo ml2pl,85000,50000 IN OUT`"
        )
    return _checked(hectopascals, coordinate, label)


def vertical_place(coordinate: xr.DataArray) -> tuple[str, NDArray[np.float64]] | None:
    """Return what a vertical coordinate other than pressure measures, and its values (lengths in m), or None.

    A height above the ground is one that is called a height and has units of length or none; above the sea it is not.
    """
    name, attrs = str(coordinate.name), coordinate.attrs
    words = f"{name} {_words(coordinate)}".lower()
    units = str(attrs.get("units", ""))
    unit = parse_units(units)
    is_length = unit is not None and unit.dimension == LENGTH
    values = np.atleast_1d(np.asarray(coordinate.values)).astype(np.float64) if coordinate.dtype.kind in "fiu" else None
    if values is None:
        return (name, np.array([np.nan])) if any(word in words for word in _VERTICAL) else None
    if is_length and unit is not None:
        values = values * unit.scale
    is_height = attrs.get("standard_name") == "height" or name.lower().startswith(("height", HEIGHT.lower()))
    if is_height and (is_length or not units) and attrs.get("positive") != "down":
        if not any(word in words for word in _ABOVE_SEA):
            return HEIGHT, values
        return ("altitude" if name.lower() == "height" else name), values
    is_vertical = (
        is_height
        or attrs.get("axis") == "Z"
        or "positive" in attrs
        or any(word in f"{name} {attrs.get('standard_name', '')}".lower() for word in _VERTICAL)
        or str(attrs.get("long_name", "")).startswith("original GRIB coordinate")
        or (name.lower() == "z" and is_length)
        or unit == _OF_THE_SEA
    )
    return (name, values) if is_vertical else None


def on_pressure(part: xr.DataArray, dimension: str, levels: NDArray[np.float64]) -> list[tuple[Place, xr.DataArray]]:
    """Name the level dimension in whole hPa, ascending; a level between whole hPa becomes a variable of its own."""
    whole = (levels == np.round(levels)) & (levels > 0)
    order = np.flatnonzero(whole)[np.argsort(levels[whole], kind="stable")]
    parts = [(Place(f"{levels[i]:g}hPa"), part.isel({dimension: i})) for i in np.flatnonzero(~whole)]
    if order.size:
        renamed = part.isel({dimension: order}).drop_vars(dimension, errors="ignore").rename({dimension: "level"})
        parts.insert(0, (Place(PRESSURE), renamed.assign_coords(level=levels[order].astype(np.int64))))
    return parts


def _checked(levels: NDArray[np.float64], coordinate: xr.DataArray, label: str) -> NDArray[np.float64]:
    near = np.round(levels)
    levels = np.where(np.isclose(levels, near, rtol=_LEVEL_NOISE, atol=0), near, np.round(levels, 6))
    refuse_repeated(levels, coordinate, label)
    stored = np.atleast_1d(coordinate.values)
    is_low = levels.max() <= 11 and bool(np.isin(stored, (825, 850, 875, 925, 950, 975)).any())
    if is_low or levels.max() > _HIGHEST or levels.min() < 0:
        name, meant = coordinate.name, "hPa" if is_low else "Pa"
        raise GridError(
            f"{label} has levels in '{name}' that would be pressures of {_listed(levels)} hPa: give them their units, "
            f"for example with `ncatted -a units,{name},o,c,{meant} IN OUT`"
        )
    return levels


def refuse_repeated(levels: NDArray[np.float64], coordinate: xr.DataArray, label: str) -> None:
    """See that every level is known and there once.

    Raises:
        GridError: naming the level that is there twice, or that one is missing.
    """
    name = coordinate.name
    if coordinate.dtype.kind not in "fiu":
        raise GridError(
            f"{label} has levels in '{name}' that are no numbers ('{coordinate.values.flat[0]}'): write them as such, "
            f"for example with xarray's assign_coords({name}=ds['{name}'].astype(float))"
        )
    if not np.isfinite(levels).all():
        raise GridError(
            f"{label} has missing values in its levels '{name}': keep those that are known, for example with "
            f"xarray's sel({name}=ds['{name}'].notnull())"
        )
    known, counts = np.unique(levels, return_counts=True)
    if counts.max(initial=0) > 1:
        raise GridError(
            f"{label} holds the level {known[counts.argmax()]:g} twice in '{name}': keep one, for example with "
            f"xarray's drop_duplicates('{name}')"
        )


def is_named_as_levels(coordinate: xr.DataArray) -> bool:
    """Whether a dimension bears a name that is used for pressure levels."""
    return str(coordinate.name).lower() in _PRESSURES


def _are_usual(levels: NDArray[np.float64]) -> bool:
    usual = np.isin(levels, _LOW_PRESSURES) | ((levels >= 100) & (levels <= 1100) & (levels % 25 == 0))
    return bool(usual.all() and (levels >= 100).any())


def _words(coordinate: xr.DataArray) -> str:
    return f"{coordinate.attrs.get('standard_name', '')} {coordinate.attrs.get('long_name', '')}".lower()


def _listed(values: NDArray[np.float64]) -> str:
    return ", ".join(f"{value:g}" for value in values[:4]) + (" …" if values.size > 4 else "")


def says_model_levels(coordinate: xr.DataArray) -> bool:
    """Whether name, names in words or a formula say that a coordinate numbers the levels of an atmospheric model."""
    words = f"{str(coordinate.name).lower()} {_words(coordinate)}"
    is_of_air = not any(word in words for word in ("ocean", "soil", "land"))
    return is_of_air and ("formula_terms" in coordinate.attrs or any(word in words for word in _MODEL_LEVELS))


def _model_levels(coordinate: xr.DataArray, values: NDArray[np.float64], label: str) -> GridError:
    name = coordinate.name
    extent = f"counts {values[0]:g}…{values[-1]:g}" if _is_counted(values) else f"is {_listed(values)}"
    remedy = f", or say that they are pressures with `ncatted -a units,{name},o,c,hPa IN`"
    return GridError(
        f"{label} is on model levels ('{name}' {extent}): interpolate to pressure levels first, for example with "
        f"`cdo ml2pl,85000,50000 IN OUT`{'' if says_model_levels(coordinate) else remedy}"
    )


def _is_counted(values: NDArray[np.float64]) -> bool:
    return values.size > 1 and bool((np.abs(np.diff(values)) == 1).all())


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
    return _member(timed(_on_grid(raw, label, notes), label, notes), label)


def _on_grid(raw: xr.Dataset, label: str, notes: list[str]) -> xr.Dataset:
    """Rename, order and check the two horizontal coordinates, or the one dimension of cells in their place."""
    found = horizontal(raw)
    if not all(found) and (cells := on_healpix(raw, label)) is not None:
        return cells
    latitude, longitude = (_chosen(*each, raw, label) for each in zip(found, ("latitude", "longitude"), strict=True))
    if latitude.ndim == 1 and latitude.dims == longitude.dims:
        listed = on_points(raw, latitude, longitude, label, notes)
        if listed is not None:
            return listed if CELLS in listed.dims else _on_grid(listed, label, notes)
    _refuse_nominal(raw, label, latitude, longitude)
    if latitude.ndim > 1 or longitude.ndim > 1:
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
        units = str(coordinate.attrs.get("units", "")).strip().lower()
        if units.startswith("rad"):
            values = np.degrees(values)
        elif re.fullmatch(r"degrees?_?(s(outh)?|w(est)?)", units):
            values = -values
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
            dataset, index[axis] = dataset.map(in_chunks), order
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


def horizontal(raw: xr.Dataset) -> list[list[xr.DataArray]]:
    """Return what may be the latitude of a dataset as a file holds it, and what may be its longitude."""
    return [_candidates(raw, "latitude", _LATITUDES, "n(orth)?"), _candidates(raw, "longitude", _LONGITUDES, "e(ast)?")]


def _candidates(raw: xr.Dataset, axis: str, names: tuple[str, ...], direction: str) -> list[xr.DataArray]:
    """Find horizontal coordinates by standard name, units or name."""

    def matches(name: Hashable, array: xr.Variable) -> bool:
        standard_name = str(array.attrs.get("standard_name", ""))
        if array.dtype.kind not in "fiu" or standard_name.startswith(("grid_", "projection_")):
            return False
        given = str(array.attrs.get("units", "")).strip().lower().replace(" ", "_")
        is_degrees = re.fullmatch(rf"degrees?_?{direction}", given) is not None
        by_units = is_degrees and (array.ndim != 1 or array.dims == (name,))
        return standard_name == axis or str(name).lower() in names or by_units

    found = [raw[name] for name, variable in raw.variables.items() if matches(name, variable)]
    return [array for array in found if not str(array.name).endswith(("_bnds", "_bounds", "_vertices"))]


def _chosen(found: list[xr.DataArray], axis: str, raw: xr.Dataset, label: str) -> xr.DataArray:
    """Choose a horizontal coordinate; one that is a dimension comes first."""
    if found:
        return min(found, key=lambda array: (array.dims != (array.name,), array.ndim < 2))
    if cells := _cells(raw):
        raise GridError(
            f"{label} is on {cells}, without latitudes and longitudes: interpolate it to a grid of latitudes and "
            f"longitudes first"
        )
    raise GridError(
        f"{label} has no {axis}; its dimensions are {_listing(raw.dims)}: add coordinates with units "
        f"degrees_north and degrees_east"
    )


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
    """Say which dimension of cells a dataset without coordinates has, if it has one."""
    for dimension, size in raw.sizes.items():
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


def _member(dataset: xr.Dataset, label: str) -> xr.Dataset:
    for name in dataset.dims:
        if str(name).lower() in MEMBERS:
            if (repeated := dataset.indexes[name].duplicated() if name in dataset.indexes else np.zeros(0)).any():
                twice = dataset.indexes[name][repeated][0]
                raise DataError(
                    f"{label} holds the member {twice} twice in '{name}': drop one with xarray's "
                    f"drop_duplicates('{name}')"
                )
            return dataset.rename({name: "member"})
    return dataset


def _listing(names: Iterable[Hashable]) -> str:
    return ", ".join(str(name) for name in names)
