import numpy as np
import pytest

from etesian.core import Grid, Region
from etesian.core.errors import GridError


@pytest.mark.parametrize(
    "grid",
    [Grid.equiangular(5.625), Grid.equiangular(7.5, poles=True), Grid.gaussian(32)],
    ids=["plain", "poles", "gauss"],
)
def test_cell_areas_sum_to_the_sphere(grid: Grid) -> None:
    areas = np.diff(np.sin(np.radians(grid.latitude_bounds)))[:, None] * np.radians(np.diff(grid.longitude_bounds))
    assert areas.sum() == pytest.approx(4 * np.pi, rel=1e-14)
    assert grid.area_weights.mean() == pytest.approx(1, rel=1e-14)


def test_a_regional_grid_does_not_stretch_its_edge_cells_to_the_pole() -> None:
    grid = Grid(np.arange(30, 72.5, 2.5), np.arange(-70, 12.5, 2.5))
    assert grid.latitude_bounds[[0, -1]] == pytest.approx([28.75, 71.25])
    assert not grid.is_periodic


def test_a_region_is_chosen_by_coordinate_and_crosses_greenwich() -> None:
    grid = Grid.equiangular(5.625)
    rows, columns = grid.region(Region(30, 65, 350, 20))
    assert grid.latitude[rows].min() >= 30
    assert grid.latitude[rows].max() <= 65
    assert grid.longitude[columns] == pytest.approx([354.375, 0, 5.625, 11.25, 16.875])
    assert grid.crop(Region(30, 65, 350, 20)).longitude == pytest.approx([354.375, 360, 365.625, 371.25, 376.875])


def test_the_whole_circle_from_any_meridian() -> None:
    _, columns = Grid.equiangular(5.625).region(Region(-90, 90, -180, 180))
    assert sorted(columns) == list(range(64))


@pytest.mark.parametrize(
    ("latitude", "longitude", "message"),
    [
        ([10, 0], [0, 1], "latitude must be finite and strictly ascending"),
        ([0, np.nan], [0, 1], "latitude must be finite"),
        ([0, 95], [0, 1], "beyond the pole"),
        ([0, 1], [0, 360], "longitude covers the circle more than once"),
        ([[0, 1]], [0, 1], "needs one dimension"),
    ],
)
def test_bad_coordinates_are_refused(latitude: list[float], longitude: list[float], message: str) -> None:
    with pytest.raises(GridError, match=message):
        Grid(latitude, longitude)


def test_an_empty_region_says_so() -> None:
    with pytest.raises(GridError, match="no grid point lies inside"):
        Grid(np.arange(30, 70, 2.5), np.arange(0, 40, 2.5)).region(Region(-50, -40, 0, 10))


def test_a_refined_grid_has_its_blocks_around_the_coarse_points() -> None:
    coarse = Grid.equiangular(6.0)
    fine = coarse.refined(3)
    assert fine.shape == (90, 180)
    np.testing.assert_allclose(fine.latitude.reshape(-1, 3).mean(axis=1), coarse.latitude, atol=1e-12)
    np.testing.assert_allclose(fine.latitude, Grid.equiangular(2.0).latitude, atol=1e-12)
    np.testing.assert_allclose(np.diff(fine.longitude), 2.0)
    with pytest.raises(GridError, match=r"latitudes of the grid .* are not evenly spaced"):
        Grid.gaussian(32).refined(2)


def test_unit_vectors_point_to_where_the_grid_lies() -> None:
    grid = Grid([-90.0, 0.0, 60.0], [0.0, 90.0, 180.0, 270.0])
    found = grid.unit_vectors
    np.testing.assert_allclose(np.linalg.norm(found, axis=-1), 1)
    np.testing.assert_allclose(found[0], [[0, 0, -1]] * 4, atol=1e-15)
    np.testing.assert_allclose(found[1], [[1, 0, 0], [0, 1, 0], [-1, 0, 0], [0, -1, 0]], atol=1e-15)
    np.testing.assert_allclose(found[2, 1], [0, 0.5, 3**0.5 / 2], atol=1e-15)


@pytest.mark.parametrize("rows", [slice(1, 12), slice(20, 31)])
def test_a_part_that_ends_one_row_short_of_the_pole_has_no_room_for_a_boundary(rows: slice) -> None:
    grid = Grid.equiangular(5.625)
    with pytest.raises(GridError, match=r"2 rows and columns around 11×10 .* reach beyond the grid"):
        grid.widened(Grid(grid.latitude[rows], grid.longitude[5:15]), 2)
