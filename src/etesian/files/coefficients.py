"""Spherical-harmonic coefficients of GRIB files → fields on the Gaussian grid that holds them all."""

from typing import Any, NamedTuple

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from etesian.core.errors import DataError
from etesian.core.grid import Grid
from etesian.core.sphere import spherical_harmonics
from etesian.files.lazy import in_pieces


class Triangle(NamedTuple):
    """The truncation of spherical harmonics as GRIB gives it: J, K and M are equal where it is triangular."""

    j: int
    k: int
    m: int

    @property
    def size(self) -> int:
        """Numbers that a message holds: real and imaginary parts."""
        return (self.j + 1) * (self.j + 2)


def to_grid(cube: xr.Dataset, truncation: Triangle, path: str) -> xr.Dataset:
    """Bring one variable of coefficients, (…, values), to N + 1 Gaussian latitudes for a truncation N, lazily.

    Raises:
        DataError: if the truncation is not triangular.
    """
    (name,) = cube.data_vars
    array = cube[name]
    if len(set(truncation)) > 1:
        raise DataError(
            f"'{name}' in {path} has coefficients of the truncation J, K, M = {list(truncation)}, "
            f"not a triangular one: "
            f"transform them first with `cdo sp2gp IN OUT`"
        )
    grid = Grid.gaussian(truncation.j + 1)
    field: xr.DataArray = xr.apply_ufunc(
        _synthesise,
        in_pieces(array),
        kwargs={"grid": grid, "truncation": truncation.j},
        input_core_dims=[["values"]],
        output_core_dims=[["latitude", "longitude"]],
        dask="parallelized",
        output_dtypes=[np.float32],
        dask_gufunc_kwargs={"output_sizes": {"latitude": grid.shape[0], "longitude": grid.shape[1]}},
        keep_attrs=True,
    )
    coordinates = {
        "latitude": ("latitude", grid.latitude, {"units": "degrees_north"}),
        "longitude": ("longitude", grid.longitude, {"units": "degrees_east"}),
    }
    dataset: xr.Dataset = field.to_dataset(name=name).assign_coords(coordinates)
    return dataset


def _synthesise(values: NDArray[Any], *, grid: Grid, truncation: int) -> NDArray[np.float32]:
    """Unpack real and imaginary parts, which GRIB orders by m and within it by n."""
    n, m = np.array([(n, m) for m in range(truncation + 1) for n in range(m, truncation + 1)]).T
    coefficients = np.zeros((*values.shape[:-1], truncation + 1, truncation + 1), dtype=np.complex128)
    coefficients[..., n, m] = values[..., ::2] + 1j * values[..., 1::2]
    return spherical_harmonics(grid).synthesise(coefficients).astype(np.float32)
