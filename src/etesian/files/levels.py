"""Where the fields of a file lie in the vertical: pressure levels, heights, depths, and what is refused."""

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from etesian.core.errors import GridError
from etesian.files.naming import HEIGHT, PRESSURE, Place
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
        return _checked(values * unit.scale / 100, coordinate, label)
    name = str(coordinate.name).lower()
    if units.lower() not in _NO_UNITS or name not in _PRESSURES or coordinate.attrs.get("positive") == "up":
        return None
    hectopascals = values / 100 if values.max(initial=0) > 1100 else values
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
    )
    return (name, values) if is_vertical else None


def on_pressure(part: xr.DataArray, dimension: str, levels: NDArray[np.float64]) -> list[tuple[Place, xr.DataArray]]:
    """Name the level dimension in whole hPa, ascending; a level between whole hPa becomes a variable of its own."""
    whole = np.isclose(levels, np.round(levels), rtol=0, atol=1e-6) & (np.round(levels) > 0)
    order = np.flatnonzero(whole)[np.argsort(levels[whole], kind="stable")]
    pieces = [(Place(f"{levels[i]:g}hPa"), part.isel({dimension: i})) for i in np.flatnonzero(~whole)]
    if order.size:
        rounded = np.round(levels[order]).astype(np.int64)
        renamed = part.isel({dimension: order}).drop_vars(dimension, errors="ignore").rename({dimension: "level"})
        pieces.insert(0, (Place(PRESSURE), renamed.assign_coords(level=rounded)))
    return pieces


def _checked(levels: NDArray[np.float64], coordinate: xr.DataArray, label: str) -> NDArray[np.float64]:
    refuse_repeated(np.round(levels, 6), coordinate, label)
    return levels


def refuse_repeated(levels: NDArray[np.float64], coordinate: xr.DataArray, label: str) -> None:
    """See that every level is known and there once.

    Raises:
        GridError: naming the level that is there twice, or that one is missing.
    """
    name = coordinate.name
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
