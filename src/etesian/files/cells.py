"""Fields along one dimension of cells: which grid they lie on, and fields of flattened rows and columns as such."""

from functools import lru_cache
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray

from etesian.core.cells import Cells, Healpix, Rows, recognised
from etesian.core.errors import GridError
from etesian.core.grid import Grid
from etesian.files.decoding import in_chunks

CELLS = "etesian_cells"
"""The dimension of cells in a dataset that waits to be brought to a grid, and the attribute that tells the grid."""

_PIECE_BYTES = 4 * 2**20
"""Fields on cells are often coarse: of larger pieces, all would be regridded for each few times that are written."""

_IDS = ("cell", "cells", "cell_ids", "healpix", "healpix_index", "pix", "ipix", "ncells", "values")

_CORNERS = ("bnds", "bounds", "vertices")

_NSIDES = ("healpix_nside", "nside")

_LEVELS = ("refinement_level", "healpix_level", "healpix_zoom")

_ORDERS = ("healpix_order", "indexing_scheme", "healpix_ordering", "ordering")


def grid_of(dataset: xr.Dataset) -> Grid | Cells:
    """Return the grid of a canonical dataset."""
    for array in dataset.data_vars.values():
        if CELLS in array.attrs:
            cells: Cells = array.attrs[CELLS]
            return cells
    return Grid(dataset["latitude"].values, dataset["longitude"].values)


def is_on_grid(array: xr.DataArray | xr.Variable) -> bool:
    """Whether a field lies on latitudes and longitudes, or on cells."""
    return {"latitude", "longitude"} <= set(array.dims) or CELLS in array.dims


def refuse_cells(dataset: xr.Dataset, label: str) -> None:
    """See that a canonical dataset lies on latitudes and longitudes.

    Raises:
        GridError: naming the grid of cells that it lies on, and the remedy.
    """
    if isinstance(grid := grid_of(dataset), Rows | Healpix):
        raise GridError(
            f"{label} is on {grid}: name a grid of latitudes and longitudes to bring it to, for example with "
            f"`etesian prepare --grid 1 IN OUT`, or grid=1 in Python"
        )


def on_points(
    raw: xr.Dataset, latitude: xr.DataArray, longitude: xr.DataArray, label: str, notes: list[str]
) -> xr.Dataset | None:
    """Read fields whose points are listed along one dimension; None if they are of no grid that is known.

    Args:
        raw: decoded dataset.
        latitude: of the points.
        longitude: of the points.
        label: name of the file in messages.
        notes: gains a sentence where rows and columns were flattened.

    Raises:
        GridError: if the file says that it is HEALPix otherwise than its points lie.
    """
    (dimension,) = map(str, latitude.dims)
    points = [_degrees(axis) for axis in (latitude, longitude)]
    if not all(np.isfinite(axis).all() for axis in points):
        return None
    dataset = _without_corners(raw, dimension).drop_vars([latitude.name, longitude.name])
    if (flat := _unflattened(dataset, dimension, points)) is not None:
        rows, columns = flat.sizes["latitude"], flat.sizes["longitude"]
        notes.append(f"'{dimension}' lists the points of {rows} rows and {columns} columns: put into rows and columns")
        return flat
    cells = _recognised(*(axis.tobytes() for axis in points))
    if cells is None:
        return None
    told = _healpix(raw)
    if told is not None and _order(told) and (stated := _stated(told, dimension, cells.size, label)) != cells:
        raise GridError(
            f"{label} says that it is {stated} in {_order(told)} order, but its points lie elsewhere: correct its "
            f"attributes, or leave them out"
        )
    return _along_cells(dataset, dimension, cells)


def on_healpix(raw: xr.Dataset, label: str) -> xr.Dataset | None:
    """Read fields that say to be HEALPix and list no points; None if none does.

    Raises:
        GridError: if they do not say which, or are not the whole sphere.
    """
    told = _healpix(raw)
    if told is None:
        return None
    sizes = {str(dimension): size for dimension, size in raw.sizes.items()}
    dimension = next((d for d in sizes if d.lower() in _IDS), max(sizes, key=lambda d: sizes[d], default=""))
    if not dimension or round((sizes[dimension] / 12) ** 0.5) ** 2 * 12 != sizes[dimension]:
        raise GridError(
            f"{label} holds {sizes.get(dimension, 0)} cells of HEALPix along '{dimension}', which is not the whole "
            f"sphere: give all 12 nside² cells"
        )
    cells = _stated(told, dimension, sizes[dimension], label)
    ids = next((raw[c] for c in raw.coords if raw[c].dims == (dimension,) and str(c).lower() in _IDS), None)
    if ids is not None:
        numbers = np.asarray(ids.values)
        if not np.array_equal(np.sort(numbers), np.arange(cells.size)):
            raise GridError(f"{label} numbers its cells in '{ids.name}' otherwise than 0 … {cells.size - 1}: mend it")
        cells = Healpix(cells.nside, np.argsort(numbers)[cells.order])
        raw = raw.drop_vars(str(ids.name))
    return _along_cells(_without_corners(raw, dimension), dimension, cells)


def _along_cells(dataset: xr.Dataset, dimension: str, cells: Cells) -> xr.Dataset:
    """Give the dimension of cells its name, and the fields along it their grid."""
    dataset = dataset.rename({dimension: CELLS}).drop_vars(CELLS, errors="ignore")
    for name, array in dataset.data_vars.items():
        if CELLS in array.dims:
            dataset[name] = in_chunks(array, _PIECE_BYTES).assign_attrs({CELLS: cells})
    return dataset


def _without_corners(raw: xr.Dataset, dimension: str) -> xr.Dataset:
    """Leave out where cells end: what is named as bounds, or is called so and counts something without values."""
    named = {array.attrs.get("bounds") for array in raw.variables.values() if dimension in array.dims}
    corners = [
        name
        for name, array in raw.variables.items()
        if name in named
        or (str(name).endswith(_CORNERS) and array.dims[:-1] == (dimension,) and array.dims[1] not in raw.variables)
    ]
    return raw.drop_vars(corners)


def _degrees(coordinate: xr.DataArray) -> NDArray[np.float64]:
    values = np.asarray(coordinate.values, dtype=np.float64)
    return np.degrees(values) if str(coordinate.attrs.get("units", "")).startswith("rad") else values


@lru_cache(maxsize=1)
def _recognised(latitude: bytes, longitude: bytes) -> Cells | None:
    """Recognise a grid once, of which a GRIB file may hold many variables."""
    return recognised(np.frombuffer(latitude), np.frombuffer(longitude))


def _unflattened(dataset: xr.Dataset, dimension: str, points: list[NDArray[np.float64]]) -> xr.Dataset | None:
    """Return fields by rows and columns, where the points, in any order, are all crossings of some of these."""
    sizes = [np.unique(axis).size for axis in points]
    if min(sizes) < 2 or np.prod(sizes) != points[0].size:
        return None
    index = pd.MultiIndex.from_arrays(points, names=["latitude", "longitude"])
    if not index.is_unique:
        return None
    lazy = dataset.map(in_chunks, keep_attrs=True).drop_vars(dimension, errors="ignore")
    flat: xr.Dataset = lazy.assign_coords(xr.Coordinates.from_pandas_multiindex(index, dimension)).unstack(dimension)
    return flat


def _healpix(raw: xr.Dataset) -> dict[str, Any] | None:
    """Return what a dataset says of HEALPix, in the attributes of a mapping, a variable or the file."""
    told: dict[str, Any] = {}
    for attributes in [*(array.attrs for array in raw.variables.values()), raw.attrs]:
        if any("healpix" in f"{key} {value}".lower() for key, value in attributes.items() if np.size(value) == 1):
            told |= {str(key).lower(): value for key, value in attributes.items()}
    return told if told or any("healpix" in str(dimension).lower() for dimension in raw.dims) else None


def _order(told: dict[str, Any]) -> str:
    word = next((str(told[key]).lower() for key in _ORDERS if key in told), "")
    return "nested" if word in ("nest", "nested") else word


def _stated(told: dict[str, Any], dimension: str, size: int, label: str) -> Healpix:
    """Return the grid that a file's words and the number of its cells mean.

    Raises:
        GridError: if they contradict each other, or the order is not said.
    """
    nside = round((size / 12) ** 0.5)
    sides = [int(told[key]) for key in _NSIDES if key in told]
    said = next(iter([*sides, *(2 ** int(told[key]) for key in _LEVELS if key in told), nside]))
    if said != nside:
        raise GridError(
            f"{label} says that it is HEALPix of nside {said}, but holds {size} cells along '{dimension}', those of "
            f"nside {nside}: correct its attributes"
        )
    order = _order(told)
    if order != "ring" and (order != "nested" or nside & (nside - 1)):
        kind = f"in the order '{order}'" if order else "in an order that it does not say"
        raise GridError(
            f"{label} holds {size} cells of HEALPix along '{dimension}' {kind}: say whether it is ring or nested, for "
            f"example with `ncatted -a grid_mapping_name,crs,o,c,healpix -a healpix_order,crs,o,c,nested IN OUT`"
        )
    return Healpix.ring(nside) if order == "ring" else Healpix.nested(nside)
