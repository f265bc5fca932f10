"""Horizontal grids: which are taken, which are refused, and with which remedy."""

from typing import Any

import numpy as np
import pytest
import xarray as xr

from etesian.core.errors import GridError
from etesian.files.axes import with_axes


def field(
    latitude: Any = (-30.0, 0.0, 30.0), longitude: Any = (0.0, 90.0, 180.0, 270.0), **attributes: str
) -> xr.Dataset:
    """A field that tells its rows and columns, on axes with other names than the canonical ones."""
    latitude, longitude = np.asarray(latitude), np.asarray(longitude)
    values = 100 * np.arange(latitude.size)[:, None] + np.arange(longitude.size)
    return xr.Dataset(
        {"q": (("y", "x"), values.astype("f4"), attributes)},
        {"y": ("y", latitude, {"units": "degrees_N"}), "x": ("x", longitude, {"units": "degrees_E"})},
    )


def nominal(shift: float, named: bool = True) -> xr.Dataset:
    """A field whose two-dimensional coordinates differ from its axes by `shift` degrees in the last row."""
    dataset = field()
    latitude, longitude = np.meshgrid(dataset.y, dataset.x, indexing="ij")
    latitude[-1] += shift
    attributes = {} if named else {"standard_name": "latitude"}
    true = {
        "geolat": (("y", "x"), latitude, {"units": "degrees_north"} | attributes),
        "geolon": (("y", "x"), longitude - 360, {"units": "degrees_east"}),
    }
    return dataset.assign_coords(true) if named else dataset.assign(true)


@pytest.mark.parametrize("named", [True, False])
def test_nominal_axes_of_a_curvilinear_grid_are_refused(named: bool) -> None:
    with pytest.raises(GridError, match=r"a\.nc is on a curvilinear grid, .* is 'geolat', 'y' is nominal"):
        with_axes(nominal(5.0, named), "a.nc", [])
    assert with_axes(nominal(0.0, named), "a.nc", []).latitude.values.tolist() == [-30, 0, 30]


@pytest.mark.parametrize(
    ("mapping", "refused"),
    [("rotated_latitude_longitude", True), ("lambert_conformal_conic", True), ("latitude_longitude", False)],
)
@pytest.mark.parametrize("words", ["crs", "crs: y x"])
def test_axes_in_another_mapping_are_refused(mapping: str, refused: bool, words: str) -> None:
    dataset = field(grid_mapping=words).assign(crs=((), 0, {"grid_mapping_name": mapping}))
    if refused:
        with pytest.raises(GridError, match=rf"'q' in a\.nc is on a grid in the mapping {mapping}: .*`cdo remapcon"):
            with_axes(dataset, "a.nc", [])
    else:
        assert "q" in with_axes(dataset, "a.nc", [])
    assert "q" in with_axes(dataset.drop_vars("crs"), "a.nc", [])


def test_a_latitude_beyond_the_pole_by_rounding_is_the_pole() -> None:
    notes: list[str] = []
    turned = with_axes(field(np.array([90.0001, 0, -90.0001])), "a.nc", notes)
    assert turned.latitude.values.tolist() == [-90, 0, 90]
    np.testing.assert_array_equal(turned.q[:, 0], [200, 100, 0])
    assert "latitude 90.0001 lies beyond the pole by rounding: set to 90" in notes
    with pytest.raises(GridError, match="latitude reaches 91°, beyond the pole"):
        with_axes(field([0.0, 91.0]), "a.nc", [])


@pytest.mark.parametrize(
    ("latitude", "longitude", "message"),
    [
        ([10.0, 20, 20], [0.0, 90], r"holds the latitude 20 twice: drop one with xarray's drop_duplicates\('y'\)"),
        ([10.0, 20], [5.0, 7, 7, 9], r"holds the longitude 7 twice: drop one with xarray's drop_duplicates\('x'\)"),
    ],
)
def test_a_coordinate_that_occurs_twice_is_named(latitude: list[float], longitude: list[float], message: str) -> None:
    with pytest.raises(GridError, match=message):
        with_axes(field(latitude, longitude), "a.nc", [])


def test_one_row_uneven_rows_radians_and_single_precision_are_grids() -> None:
    assert with_axes(field([12.5]), "a.nc", []).latitude.values.tolist() == [12.5]
    assert with_axes(field([-60.0, -59, 3, 88]), "a.nc", []).latitude.values.tolist() == [-60, -59, 3, 88]
    single = with_axes(field(longitude=np.arange(0, 360, 0.1, dtype="f4")), "a.nc", [])
    assert single.sizes["longitude"] == 3600
    dataset = field(np.radians([-30.0, 0, 30]), np.radians([0.0, 90, 180, 270])).rename(y="lat", x="lon")
    for name in ("lat", "lon"):
        dataset[name].attrs["units"] = "radian"
    np.testing.assert_allclose(with_axes(dataset, "a.nc", []).longitude, [0, 90, 180, 270])


@pytest.mark.parametrize(
    ("dimension", "attributes", "size", "kind"),
    [
        ("cell", {}, 10, "an unstructured grid of 10 cells along 'cell'"),
        ("cell", {"grid_mapping_name": "healpix", "healpix_nside": 2}, 48, "a HEALPix grid of 48 cells along 'cell'"),
        ("healpix_index", {}, 12, "a HEALPix grid of 12 cells along 'healpix_index'"),
    ],
)
def test_cells_without_coordinates_are_told(dimension: str, attributes: dict[str, Any], size: int, kind: str) -> None:
    dataset = xr.Dataset({"q": ((dimension,), np.zeros(size)), "crs": ((), 0, attributes)})
    with pytest.raises(GridError, match=rf"a\.nc is on {kind}, without latitudes and longitudes: interpolate"):
        with_axes(dataset, "a.nc", [])
