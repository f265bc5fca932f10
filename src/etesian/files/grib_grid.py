"""Where the values of a GRIB message lie: on the points of a grid, or in spherical harmonics on Gaussian ones."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import eccodes
import numpy as np
import xarray as xr
from numpy.typing import NDArray

from etesian.core.errors import DataError, GridError, first_line
from etesian.core.grid import Grid
from etesian.core.sphere import spherical_harmonics
from etesian.files.decoding import in_chunks

_REGRID = "interpolate it with `cdo remapcon,r360x180 IN OUT`"

_BY_POINTS = "interpolate it with `cdo remapnn,r360x180 -setgrid,GRID IN OUT`, GRID being a file that lists its points"

_KINDS = {
    "unstructured_grid": ("an unstructured grid", _BY_POINTS),
    "rotated_ll": ("a rotated latitude–longitude grid", _REGRID),
    "lambert": ("Lambert's conformal grid", _REGRID),
    "polar_stereographic": ("a polar stereographic grid", _REGRID),
}

# CDO reads none of the others.
_ELSEWHERE = "ask its archive for regular latitudes and longitudes, at ECMWF with `grid=1/1`"

Coordinates = dict[str, tuple[str, NDArray[np.float64], dict[str, str]]]


@dataclass(frozen=True, eq=False)
class Raster:
    """Rows and columns of a grid in the order in which a message scans them (code table 3.4 of GRIB).

    Attributes:
        latitude: degrees north of each row.
        longitude: degrees east of each column.
        by_columns: whether points of one meridian follow each other.
        alternating: whether every other row (or column) runs backwards.
    """

    latitude: NDArray[np.float64]
    longitude: NDArray[np.float64]
    by_columns: bool
    alternating: bool

    @property
    def dims(self) -> tuple[str, ...]:
        """Dimensions of the values."""
        return ("latitude", "longitude")

    @property
    def shape(self) -> tuple[int, ...]:
        """Numbers of latitudes and longitudes."""
        return self.latitude.size, self.longitude.size

    @property
    def coordinates(self) -> Coordinates:
        """Latitudes and longitudes as coordinates of a dataset."""
        return _coordinates(self.latitude, self.longitude)

    def arrange(self, values: NDArray[Any]) -> NDArray[Any]:
        """Put the values of a message, in its own order, into an array (latitude, longitude)."""
        lines = _lines(values, self.latitude.size, self.longitude.size, self.by_columns)
        if self.alternating:
            lines = lines.copy()
            lines[1::2] = lines[1::2, ::-1]
        return lines.T if self.by_columns else lines

    def on_points(self, cube: xr.Dataset, path: str) -> xr.Dataset:
        """Return a variable as it is: it lies on points."""
        return cube


class Points(NamedTuple):
    """Points of a reduced or HEALPix grid, degrees, in the order of a message's values."""

    latitude: NDArray[np.float64]
    longitude: NDArray[np.float64]

    @property
    def dims(self) -> tuple[str, ...]:
        """Dimensions of the values."""
        return ("values",)

    @property
    def shape(self) -> tuple[int, ...]:
        """Number of points."""
        return self.latitude.shape

    @property
    def coordinates(self) -> Coordinates:
        """Latitudes and longitudes as coordinates of a dataset."""
        return {axis: ("values", *told[1:]) for axis, told in _coordinates(*self).items()}

    def arrange(self, values: NDArray[Any]) -> NDArray[Any]:
        """Leave the values of a message in their order."""
        return values

    def on_points(self, cube: xr.Dataset, path: str) -> xr.Dataset:
        """Return a variable as it is: it lies on points."""
        return cube


def raster(handle: int, where: str) -> Raster | Points:
    """Read the grid of a message: latitudes and longitudes, a Gaussian grid, a reduced one of either, or HEALPix.

    Args:
        handle: of eccodes.
        where: the message in words.

    Raises:
        GridError: if the grid is of another kind, or contradicts itself.
    """
    kind = str(eccodes.codes_get(handle, "gridType"))
    if kind in ("reduced_gg", "reduced_ll", "healpix"):
        return _points(handle, kind, where)
    if kind not in ("regular_ll", "regular_gg"):
        words, remedy = _KINDS.get(kind, (f"a grid of the kind '{kind}'", _ELSEWHERE))
        raise GridError(f"{where} is on {words}: {remedy}")
    try:
        rows, columns = (int(eccodes.codes_get(handle, key)) for key in ("Nj", "Ni"))
        by_columns, alternating = (
            _is_given(handle, key) for key in ("jPointsAreConsecutive", "alternativeRowScanning")
        )
        latitudes, longitudes = (eccodes.codes_get_double_array(handle, key) for key in ("latitudes", "longitudes"))
    except eccodes.CodesInternalError as error:
        raise _contradiction(where, first_line(error)) from None
    counted = int(eccodes.codes_get_size(handle, "values"))
    if not rows * columns == latitudes.size == counted:
        raise _contradiction(where, f"{rows} × {columns} points, but {counted} values")
    latitude, longitude = _axes(latitudes, longitudes, rows, columns, by_columns)
    found = Raster(latitude, longitude, by_columns, alternating)
    _check_ends(handle, found, where)
    return found


def _points(handle: int, kind: str, where: str) -> Points:
    """Read where the points of a reduced or HEALPix grid lie.

    Raises:
        GridError: if the message contradicts itself, or orders its points in a way that eccodes does not heed.
    """
    # eccodes' points do not follow these keys.
    for key in ("iScansNegatively", "jScansPositively", "jPointsAreConsecutive", "alternativeRowScanning"):
        if _is_given(handle, key):
            raise GridError(f"{where} is on a grid of the kind '{kind}' scanned otherwise ({key}): {_ELSEWHERE}")
    try:
        latitude, longitude = (eccodes.codes_get_double_array(handle, key) for key in ("latitudes", "longitudes"))
    except eccodes.CodesInternalError as error:
        raise _contradiction(where, first_line(error)) from None
    counted = int(eccodes.codes_get_size(handle, "values"))
    if latitude.size != counted:
        raise _contradiction(where, f"{latitude.size} points, but {counted} values")
    return Points(latitude, longitude)


def _axes(
    latitudes: NDArray[np.float64], longitudes: NDArray[np.float64], rows: int, columns: int, by_columns: bool
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the latitude of each row and the longitude of each column.

    eccodes gives the points in their order but for two things: it never turns alternating lines, of which only the
    first is taken here, and it gives Gaussian grids by rows whatever the message says.
    """
    for order in (by_columns, not by_columns):
        lines = [_lines(array, rows, columns, order) for array in (latitudes, longitudes)]
        latitude, longitude = (array.T for array in lines) if order else lines
        if (latitude == latitude[:, :1]).all():
            break
    return latitude[:, 0].copy(), longitude[0].copy()


def _lines(array: NDArray[Any], rows: int, columns: int, by_columns: bool) -> NDArray[Any]:
    return array.reshape((columns, rows) if by_columns else (rows, columns))


def _check_ends(handle: int, found: Raster, where: str) -> None:
    """Hold the coordinates against the first and last point and the increments that the message gives beside them."""
    for axis, letter, values in (("latitude", "j", found.latitude), ("longitude", "i", found.longitude)):
        step = float(np.abs(np.diff(values)).min()) if values.size > 1 else 1.0
        ends = [float(eccodes.codes_get(handle, f"{axis}Of{end}GridPointInDegrees")) for end in ("First", "Last")]
        # Longitudes may differ by whole circles; the distances of latitudes are less than half of one.
        off = np.abs((np.array(ends) - values[[0, -1]] + 180) % 360 - 180)
        if step == 0 or off.max() > step / 2:
            raise _contradiction(
                where, f"{axis} {ends[0]:g} … {ends[1]:g}, but {values.size} points {values[0]:g} … {values[-1]:g}"
            )
        increment = f"{letter}DirectionIncrementInDegrees"
        if values.size > 1 and _is_given(handle, f"{letter}DirectionIncrementGiven") and _is_given(handle, increment):
            said = float(eccodes.codes_get(handle, increment))
            if abs(said - step) > 0.1 * step:
                raise _contradiction(where, f"{axis} in steps of {said:g}, but points {step:g} apart")


def _is_given(handle: int, key: str) -> bool:
    return bool(eccodes.codes_is_defined(handle, key)) and bool(eccodes.codes_get(handle, key))


def _contradiction(where: str, what: str) -> GridError:
    return GridError(f"{where} has a grid that contradicts itself ({what}): copy or download the file again")


class Triangle(NamedTuple):
    """The truncation of spherical harmonics as GRIB gives it: J, K and M are equal where it is triangular."""

    j: int
    k: int
    m: int

    @property
    def dims(self) -> tuple[str, ...]:
        """Dimensions of the values."""
        return ("values",)

    @property
    def shape(self) -> tuple[int, ...]:
        """Numbers that a message holds: real and imaginary parts."""
        return ((self.j + 1) * (self.j + 2),)

    @property
    def coordinates(self) -> Coordinates:
        """Coefficients have none."""
        return {}

    def arrange(self, values: NDArray[Any]) -> NDArray[Any]:
        """Leave the values of a message in their order."""
        return values

    def on_points(self, cube: xr.Dataset, path: str) -> xr.Dataset:
        """Bring one variable of coefficients, (…, values), to N + 1 Gaussian latitudes for a truncation N, lazily.

        Raises:
            DataError: if the truncation is not triangular.
        """
        (name,) = cube.data_vars
        array = cube[name]
        if len(set(self)) > 1:
            raise DataError(
                f"'{name}' in {path} has coefficients of the truncation J, K, M = {list(self)}, not a triangular one: "
                f"transform them first with `cdo sp2gp IN OUT`"
            )
        grid = Grid.gaussian(self.j + 1)
        field: xr.DataArray = xr.apply_ufunc(
            _synthesise,
            in_chunks(array),
            kwargs={"grid": grid, "truncation": self.j},
            input_core_dims=[["values"]],
            output_core_dims=[["latitude", "longitude"]],
            dask="parallelized",
            output_dtypes=[np.float32],
            dask_gufunc_kwargs={"output_sizes": {"latitude": grid.shape[0], "longitude": grid.shape[1]}},
            keep_attrs=True,
        )
        dataset: xr.Dataset = field.to_dataset(name=name).assign_coords(_coordinates(grid.latitude, grid.longitude))
        return dataset


Layout = Raster | Points | Triangle
"""Where the values of a message lie."""


def _coordinates(latitude: NDArray[np.float64], longitude: NDArray[np.float64]) -> Coordinates:
    return {
        "latitude": ("latitude", latitude, {"units": "degrees_north"}),
        "longitude": ("longitude", longitude, {"units": "degrees_east"}),
    }


def _synthesise(values: NDArray[Any], *, grid: Grid, truncation: int) -> NDArray[np.float32]:
    """Unpack real and imaginary parts, which GRIB orders by m and within it by n."""
    n, m = np.array([(n, m) for m in range(truncation + 1) for n in range(m, truncation + 1)]).T
    coefficients = np.zeros((*values.shape[:-1], truncation + 1, truncation + 1), dtype=np.complex128)
    coefficients[..., n, m] = values[..., ::2] + 1j * values[..., 1::2]
    return spherical_harmonics(grid).synthesise(coefficients).astype(np.float32)
