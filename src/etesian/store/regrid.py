"""Regridding to latitude–longitude grids: first-order conservative and bilinear, aware of missing values."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from scipy.sparse import csr_array

from etesian.core.cells import Cells
from etesian.core.errors import GridError
from etesian.core.grid import Grid, linear_weights, longitude_weights, overlap_weights
from etesian.files.cells import CELLS, grid_of, refuse_cells
from etesian.files.open import Source, open_store
from etesian.store.reader import Store, is_training_store

Float64 = NDArray[np.float64]

Method = Literal["conservative", "bilinear"]

GridLike = float | str | Path | Grid | Store | xr.Dataset

_ENOUGH = 0.5 - 1e-9

_TOLERANCE = 1e-6

_AT_ONCE = 16
"""Fields on cells that are regridded together: more of them share each pass over the matrix."""


def parse_grid(text: str) -> Grid:
    """Read the name of a grid.

    Args:
        text: a resolution in degrees such as `5.625`, with `+poles` where points lie on the poles (`1.5+poles`);
            `gaussian32` for 32 Gaussian latitudes; or a file or store whose grid is meant.

    Raises:
        GridError: if it is none of these.

    >>> parse_grid("1.5+poles").shape, parse_grid("gaussian32").shape
    ((121, 240), (32, 64))
    """
    number, _, poles = text.partition("+")
    try:
        if text.startswith("gaussian"):
            return Grid.gaussian(int(text.removeprefix("gaussian")))
        if poles in ("", "poles") and float(number) > 0:
            return Grid.equiangular(float(number), poles=bool(poles))
    except ValueError:
        pass
    if not Path(text).exists() and "://" not in text:
        raise GridError(
            f"'{text}' names no grid; give degrees (5.625, or 1.5+poles), a Gaussian grid (gaussian32) or a file"
        )
    example = open_store(text)
    return Grid(example["latitude"].values, example["longitude"].values)


def as_grid(grid: GridLike) -> Grid:
    """Return the grid that a resolution in degrees, a name, a file, a training store or a dataset stands for.

    Raises:
        GridError: if it stands for none.
    """
    if isinstance(grid, Grid):
        return grid
    if isinstance(grid, Store):
        return grid.grid
    if isinstance(grid, xr.Dataset):
        if lacking := [name for name in ("latitude", "longitude") if name not in grid.coords]:
            raise GridError(f"the dataset that is given for its grid has no {lacking[0]}; open it with et.open")
        refuse_cells(grid, "the dataset that is given for its grid")
        return Grid(grid["latitude"].values, grid["longitude"].values)
    if isinstance(grid, float | int):
        return Grid.equiangular(float(grid))
    if is_training_store(grid):
        return Store(grid).grid
    return parse_grid(str(grid))


def covered(target: Grid, source: Grid | Cells) -> Grid:
    """Return the part of a target grid whose points lie on a source that does not go round the globe.

    Raises:
        GridError: if there is none.
    """
    span = source if isinstance(source, Grid) else source.span
    if span.is_periodic:
        longitude = target.longitude
    else:
        west, east = span.longitude_bounds[[0, -1]]
        longitude = np.sort(west + (target.longitude - west + _TOLERANCE) % 360 - _TOLERANCE)
        longitude = longitude[longitude <= east + _TOLERANCE]
    south, north = span.latitude_bounds[[0, -1]]
    inside = (target.latitude >= south - _TOLERANCE) & (target.latitude <= north + _TOLERANCE)
    if not inside.any() or not longitude.size:
        raise GridError(f"no point of the grid {target} lies on the data's grid {source}")
    return Grid(target.latitude[inside], longitude)


def opened_on(source: Source, grid: GridLike) -> xr.Dataset:
    """Open a source, of cells too, on the part of a grid that it covers."""
    dataset = open_store(source, cells=True)
    return regrid(dataset, covered(as_grid(grid), grid_of(dataset)))


def regrid(dataset: xr.Dataset, target: Grid, method: Method = "conservative") -> xr.Dataset:
    """Bring every field of a canonical dataset to a grid of latitudes and longitudes, lazily where it is lazy.

    A target cell of which less than half (of its area, or of its bilinear weight) is observed becomes missing;
    the others are means over what is observed. Weights are applied in float64. Bilinear values beyond the
    outermost rows of a global grid are interpolated towards the mean of that row at the pole.

    Args:
        dataset: canonical, on (latitude, longitude), or on the cells of a reduced or HEALPix grid.
        target: the new grid.
        method: `conservative` keeps area integrals (Jones 1999, Mon. Wea. Rev. 127, 2204), for coarser grids and
            fluxes; `bilinear` is smooth, for finer grids.

    Returns:
        The dataset on the new grid; the same if it is on it already.

    Raises:
        GridError: if cells are to be regridded otherwise than by areas.
    """
    source = grid_of(dataset)
    if source == target:
        return dataset
    dims, weigh = _weighing(source, target, method)
    result = {}
    for name, array in dataset.data_vars.items():
        if not set(dims) <= set(array.dims):
            continue
        result[name] = xr.apply_ufunc(
            weigh,
            array,
            input_core_dims=[dims],
            output_core_dims=[["latitude", "longitude"]],
            exclude_dims=set(dims),
            dask="parallelized",
            output_dtypes=[array.dtype],
            dask_gufunc_kwargs={
                "output_sizes": dict(zip(("latitude", "longitude"), target.shape, strict=True)),
                "allow_rechunk": True,
            },
            keep_attrs=True,
        )
        result[name].attrs.pop(CELLS, None)
    axes = dict(zip(("latitude", "longitude"), ("degrees_north", "degrees_east"), strict=True))
    return xr.Dataset(result, attrs=dataset.attrs).assign_coords(
        {
            axis: (axis, getattr(target, axis), dataset[axis].attrs if axis in dataset.coords else {"units": units})
            for axis, units in axes.items()
        }
    )


def _weighing(source: Grid | Cells, target: Grid, method: Method) -> tuple[list[str], Callable[..., Any]]:
    """Return the dimensions of fields on a grid, and what brings values along these to another."""
    if not isinstance(source, Grid):
        if method != "conservative":
            raise GridError(f"fields on {source} are regridded by areas only: choose conservative instead of {method}")
        return [CELLS], partial(_apply_shares, shares=source.shares(target), shape=target.shape)
    pole_rows = method == "bilinear" and bool(np.allclose(source.latitude_bounds[[0, -1]], [-90, 90]))
    if method == "conservative":
        rows, columns = overlap_weights(source, target)
    else:
        latitude = np.unique([-90.0, *source.latitude, 90.0]) if pole_rows else source.latitude
        rows = linear_weights(latitude, target.latitude)
        columns = longitude_weights(source, target)
    return ["latitude", "longitude"], partial(_apply, rows=rows, columns=columns, pole_rows=pole_rows)


def _apply(values: NDArray[np.floating], *, rows: Float64, columns: Float64, pole_rows: bool) -> NDArray[np.floating]:
    """Weight (..., latitude, longitude), one map at a time so that float64 copies stay small."""
    maps = values.reshape(-1, *values.shape[-2:])
    result = np.empty((len(maps), len(rows), len(columns)), dtype=values.dtype)
    complete = np.outer(rows.sum(axis=1), columns.sum(axis=1))
    for i, single in enumerate(maps):
        field = single.astype(np.float64)
        valid = ~np.isnan(field)
        if pole_rows:
            field, valid = _with_poles(field, valid, rows.shape[1])
        if valid.all():
            weighted, weight = rows @ field @ columns.T, complete
        else:
            weighted = rows @ np.where(valid, field, 0) @ columns.T
            weight = rows @ valid.astype(np.float64) @ columns.T
        with np.errstate(invalid="ignore", divide="ignore"):
            result[i] = np.where(weight > _ENOUGH, weighted / weight, np.nan)
    return result.reshape(*values.shape[:-2], len(rows), len(columns))


def _apply_shares(values: NDArray[np.floating], *, shares: csr_array, shape: tuple[int, int]) -> NDArray[np.floating]:
    """Weight (..., cell), a few fields at a time so that float64 copies stay small."""
    fields = values.reshape(-1, values.shape[-1])
    result = np.empty((len(fields), shares.shape[0]), dtype=values.dtype)
    covered = shares.sum(axis=1)
    for first in range(0, len(fields), _AT_ONCE):
        part = fields[first : first + _AT_ONCE].T.astype(np.float64)
        valid = ~np.isnan(part)
        if valid.all():
            weighted, weight = shares @ part, covered[:, None]
        else:
            weighted, weight = shares @ np.where(valid, part, 0), shares @ valid.astype(np.float64)
        with np.errstate(invalid="ignore", divide="ignore"):
            result[first : first + _AT_ONCE] = np.where(weight > _ENOUGH, weighted / weight, np.nan).T
    return result.reshape(*values.shape[:-1], *shape)


def _with_poles(field: Float64, valid: NDArray[np.bool_], rows: int) -> tuple[Float64, NDArray[np.bool_]]:
    """Add the mean of the outermost rows as rows at the poles, unless rows lie there already."""
    if len(field) == rows:
        return field, valid
    padded = np.pad(field, ((1, 1), (0, 0)))
    observed = np.pad(valid, ((1, 1), (0, 0)))
    for pole, row in ((0, 0), (-1, -1)):
        observed[pole] = valid[row].any()
        padded[pole] = field[row][valid[row]].mean() if valid[row].any() else np.nan
    return padded, observed
