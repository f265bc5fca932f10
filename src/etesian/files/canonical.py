"""One dataset as a file holds it → canonical names, units, coordinates and dimension order."""

import functools
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import numpy as np
import xarray as xr

from etesian.core.channels import CATALOGUE, canonical_name
from etesian.core.dataset import planet_of
from etesian.core.errors import DataError, GridError
from etesian.files import diagnosis
from etesian.files.accumulations import named_by_period
from etesian.files.axes import (
    is_named_as_levels,
    on_pressure,
    pressures,
    refuse_repeated,
    says_model_levels,
    vertical_place,
    with_axes,
)
from etesian.files.cells import CELLS, is_on_grid
from etesian.files.decoding import in_chunks
from etesian.files.naming import (
    HEIGHT,
    ON_LEVELS,
    PRESSURE,
    SURFACE,
    UNKNOWN,
    Identity,
    Place,
    Said,
    identify,
    level_in_name,
)
from etesian.files.units import conversion

DIMENSIONS = ("time", "member", "level", CELLS, "latitude", "longitude")
"""The order of dimensions in a canonical dataset, which is on cells only until it is regridded."""


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
    notes = diagnosis.all_mended(raw)
    raw, renamed = named_by_period(raw, notes)
    dataset = with_axes(raw, label, notes)
    on_grid = {
        str(name): array
        for name, array in dataset.data_vars.items()
        if is_on_grid(array) and array.dtype.kind in "fiub"
    }
    scalars = _scalars_of(raw, list(on_grid))
    fields: dict[str, list[xr.DataArray]] = {}
    for name, array in on_grid.items():
        array = array.drop_vars([c for c in array.coords if array[c].ndim == 0 and c not in scalars[name]])
        for place, part in _layers(array, label, notes):
            field = _field(name, place, part, label, notes)
            field.attrs |= {"source_name": renamed.get(name, name), **planet_of(raw)}
            fields.setdefault(str(field.name), []).append(field)
    if not fields:
        raise DataError(f"{label} holds no numbers on its latitude–longitude grid")
    return side_by_side(field for alike in fields.values() for field in _told_apart(alike, label, notes)), notes


def side_by_side(fields: Iterable[xr.DataArray]) -> xr.Dataset:
    """Put named fields on one grid together; a level that one of them lacks is NaN, and not in its `levels`.

    Raises:
        DataError: if a variable bears the name of another's level.
    """
    arrays = list(fields)
    layered = [array for array in arrays if "level" in array.dims]
    channels = {f"{a.name}_{level}" for a in layered for level in a.attrs.get("levels", a.level.values)}
    for array in arrays:
        if array.name in channels:
            raise DataError(
                f"the channel '{array.name}' occurs twice, as a variable and as a level of another: leave one out, "
                f"for example with `cdo delname,{array.attrs.get('source_name', array.name)} IN OUT`"
            )
    every = sorted({int(level) for array in arrays if "level" in array.dims for level in array.level.values})
    for i, array in enumerate(arrays):
        if "level" in array.dims and array.sizes["level"] < len(every):
            arrays[i] = array.reindex(level=every)
    if len(arrays) > 1:
        merged = xr.merge(arrays, join="exact", compat="override", combine_attrs="override")
    else:
        merged = arrays[0].to_dataset()
    merged.attrs = {}
    return merged.transpose(*(name for name in DIMENSIONS if name in merged.dims))


def _scalars_of(raw: xr.Dataset, names: list[str]) -> dict[str, set[str]]:
    """Tell which coordinates without a dimension belong to which variable: xarray hangs each on all of them.

    They belong to the variables whose attribute `coordinates` names them; those that nobody names, to the only field
    of a file.
    """
    named = {name: set(str(raw[name].encoding.get("coordinates", "")).split()) for name in names}
    everywhere = {str(name) for name, c in raw.coords.items() if c.ndim == 0}
    unclaimed = everywhere - set().union(*named.values()) if len(names) == 1 else set()
    return {name: (own & everywhere) | unclaimed for name, own in named.items()}


def _layers(array: xr.DataArray, label: str, notes: list[str]) -> list[tuple[Place, xr.DataArray]]:
    """Split a field into parts that lie at one place each: on pressure levels, or at one other height or depth."""
    may_have_levels = _may_have_levels(array)
    kind = str(array.attrs.get("GRIB_typeOfLevel", "isobaric"))
    if may_have_levels is not False:
        scalars = [c for c in array.coords.values() if c.ndim == 0 and (may_have_levels or not _is_bare(c))]
        array = array.expand_dims([str(c.name) for c in scalars if pressures(c, label, is_scalar=True) is not None])
    parts = [(_scalar_place(array), array)]
    for name in [str(name) for name in array.dims if name not in DIMENSIONS or name == "level"]:
        coordinate = array[name]
        if array.sizes[name] == 1 and not may_have_levels and _is_bare(coordinate):
            parts = [(where, part.isel({name: 0}, drop=True)) for where, part in parts]
            continue
        if name not in array.coords and is_named_as_levels(coordinate):
            raise GridError(
                f"{label} has a dimension '{name}' without values: give it its levels, for example with xarray's "
                f"assign_coords({name}=('{name}', [850, 500], {{'units': 'hPa'}}))"
            )
        # GRIB says which of its levels are pressures, and what single model levels are called.
        is_asked = kind.startswith("isobaric") or ("hybrid" in kind and coordinate.size > 1)
        levels = pressures(coordinate, label) if is_asked else None
        if levels is not None:
            parts = [piece for _, part in parts for piece in on_pressure(part, name, levels)]
            continue
        found = vertical_place(coordinate)
        if array.sizes[name] == 1:
            parts = [(_single(found) or where, part.isel({name: 0})) for where, part in parts]
        elif found is not None:
            kind, values = found
            refuse_repeated(values, coordinate, label)
            notes.append(f"'{array.name}' lies at {coordinate.size} values of '{name}': one variable made of each")
            parts = [
                (Place(kind, float(value)), part.isel({name: i})) for _, part in parts for i, value in enumerate(values)
            ]
        else:
            raise DataError(
                f"'{array.name}' in {label} has a dimension '{name}' of length {array.sizes[name]} that is neither "
                f"time, member, level, latitude nor longitude: select one of its values, or make it a time with dates"
            )
    return [(where, part.reset_coords(drop=True)) for where, part in parts]


def _may_have_levels(array: xr.DataArray) -> bool | None:
    """Whether the catalogue means a variable on pressure levels; None where it does not know it."""
    name = str(array.name)
    base, _ = level_in_name(name) or (name, 0)
    known = canonical_name(base)
    return None if known is None else known in ON_LEVELS


def _is_bare(coordinate: xr.DataArray) -> bool:
    """Whether a single level says nothing: no units and no usual pressure."""
    try:
        levels = pressures(coordinate, "")
    except GridError:
        return not says_model_levels(coordinate)
    return False if levels is not None else coordinate.name not in coordinate.coords


def _scalar_place(array: xr.DataArray) -> Place:
    """Read where a field lies from coordinates without a dimension, or from the level type that GRIB gives."""
    kind = str(array.attrs.get("GRIB_typeOfLevel", ""))
    if kind and not kind.startswith("isobaric"):
        at = array.coords.get(kind)
        return Place(kind, float(at) if at is not None and at.ndim == 0 and kind == HEIGHT else None)
    levels = [_single(vertical_place(c)) for c in array.coords.values() if c.ndim == 0]
    heights = [place for place in levels if place is not None and place.kind == HEIGHT]
    others = [place for place in levels if place is not None and canonical_name(str(array.name)) is not None]
    return next(iter([*heights, *others]), Place(UNKNOWN))


def _single(found: tuple[str, np.ndarray] | None) -> Place | None:
    if found is None:
        return None
    kind, values = found
    return Place(kind, None if np.isnan(values[0]) else float(values[0]) or None)


def _told_apart(alike: list[xr.DataArray], label: str, notes: list[str]) -> list[xr.DataArray]:
    """Make one variable of fields that got the same name, or leave each its own where the catalogue does not know it.

    Raises:
        DataError: if several are the same variable of the catalogue.
    """
    name = str(alike[0].name)
    sources = [str(field.attrs["source_name"]) for field in alike]
    if len(set(sources)) < 2 or name in CATALOGUE or _lie_apart(alike):
        return [functools.reduce(lambda there, field: _stacked(there, field, label), alike)]
    notes.append(f"{' and '.join(map(repr, sources))} say that they are '{name}': each keeps its name")
    return [field.rename(source) for field, source in zip(alike, sources, strict=True)]


def _lie_apart(fields: list[xr.DataArray]) -> bool:
    """Whether fields lie on levels that none shares with another."""
    levels = [level for field in fields if "level" in field.dims for level in field.level.values.tolist()]
    return all("level" in field.dims for field in fields) and len(set(levels)) == len(levels)


def _stacked(there: xr.DataArray, field: xr.DataArray, label: str) -> xr.DataArray:
    """Put levels of one variable that a file holds under several names (`ta850`, `ta500`) together.

    Raises:
        DataError: if both hold the same.
    """
    names = [array.attrs["source_name"] for array in (there, field)]
    levels = [array.level.values if "level" in array.dims else None for array in (there, field)]
    if levels[0] is None or levels[1] is None or np.isin(levels[0], levels[1]).any() or there.dims != field.dims:
        fewest = names[0] if there.size < field.size else names[1]
        raise DataError(
            f"{label} holds '{field.name}' twice, as '{names[0]}' and '{names[1]}'; delete one of them, "
            f"for example with `cdo delname,{fewest} IN OUT`"
        )
    both = xr.concat([there, field], dim="level", combine_attrs="override", join="exact").sortby("level")
    both.attrs |= {"source_name": ", ".join(names), "levels": [int(level) for level in both.level.values]}
    return both


def _field(name: str, place: Place, array: xr.DataArray, label: str, notes: list[str]) -> xr.DataArray:
    """Give one field its canonical name, units, type and attributes."""
    attrs = array.attrs
    units = _text(attrs, "units")
    said = Said(
        name,
        place,
        standard_name=_text(attrs, "standard_name"),
        long_name=_text(attrs, "long_name"),
        units=units,
        cell_methods=(_text(attrs, "cell_methods") or _text(attrs, "GRIB_stepType"))
        + f" {_text(attrs, 'units_metadata')}",
        static="time" not in array.dims,
    )
    identity = identify(said)
    if identity.variable is None and (flat := level_in_name(name)) is not None:
        identity, array = _at_named_level(said, flat, array, label) or (identity, array)
    variable = identity.variable
    if identity.note:
        notes.append(identity.note)
    dtype = array.dtype if array.dtype in (np.float32, np.float64) else np.float32
    array = in_chunks(array).astype(dtype, copy=False)
    kept = {key: attrs[key] for key in ("long_name", "cell_methods", "period", CELLS) if key in attrs}
    kept["source_units"] = units
    if not units:
        kept["units_missing"] = 1
    if "level" in array.dims:
        kept["levels"] = [int(level) for level in array.level.values]
    if variable is None:
        return array.rename(identity.name).pipe(_with_attrs, kept | {"units": units})
    factor, offset = conversion(units, variable) or (1.0, 0.0)
    if (factor, offset) != (1.0, 0.0):
        array = array * array.dtype.type(factor) + array.dtype.type(offset)
        notes.append(f"'{name}' converted from {units} to {variable.units}")
    kept["units"] = variable.units if units else ""
    if variable.standard_name:
        kept["standard_name"] = variable.standard_name
    return array.rename(variable.name).pipe(_with_attrs, kept)


def _at_named_level(
    said: Said, flat: tuple[str, int], array: xr.DataArray, label: str
) -> tuple[Identity, xr.DataArray] | None:
    """Read `ta850` as `ta` at 850 hPa; None if it is something else.

    Raises:
        DataError: if the file puts it on another level than its name.
    """
    base, level = flat
    identity = identify(replace(said, name=base, place=Place(PRESSURE, level)))
    if identity.variable is None or said.place.kind not in (PRESSURE, UNKNOWN, SURFACE):
        return None
    if "level" not in array.dims:
        horizontal = CELLS if CELLS in array.dims else "latitude"
        return identity, array.expand_dims(level=[level], axis=array.dims.index(horizontal))
    if array.sizes["level"] > 1:
        return None
    if int(array.level[0]) != level:
        raise DataError(
            f"'{said.name}' in {label} lies at {int(array.level[0])} hPa by its coordinate: rename it, for example "
            f"with `cdo chname,{said.name},{base} IN OUT`"
        )
    return identity, array


def _text(attrs: dict[str, Any], key: str) -> str:
    """Return an attribute as text; `unknown` is what GRIB says where it knows none."""
    text = str(attrs.get(key, "")).strip()
    return "" if text == "unknown" else text


def _with_attrs(array: xr.DataArray, attrs: dict[str, Any]) -> xr.DataArray:
    array.attrs = attrs
    return array
