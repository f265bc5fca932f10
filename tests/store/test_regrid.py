"""Regridding conserves, keeps constants, turns with the globe, and knows what is missing."""

from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from etesian.core import Grid
from etesian.core.cells import Rows
from etesian.core.errors import GridError
from etesian.core.grid import Region
from etesian.store.regrid import Method, covered, parse_grid, regrid

GRIDS = {
    "coarse": Grid.equiangular(22.5),
    "fine": Grid.equiangular(7.5),
    "poles": Grid.equiangular(15, poles=True),
    "gaussian": Grid.gaussian(16),
    "shifted": Grid(np.arange(-85.0, 90, 10), np.arange(36) * 10 + 3.7),
}
PAIRS = [(a, b) for a in GRIDS for b in GRIDS if a != b]


def on(grid: Grid, values: np.ndarray) -> xr.Dataset:
    coordinates = {"latitude": grid.latitude, "longitude": grid.longitude}
    return xr.Dataset({"field": (("time", "latitude", "longitude"), values[None])}, coordinates)


def noise(grid: Grid) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(grid.shape)


def integral(grid: Grid, values: np.ndarray) -> float:
    heights = np.diff(np.sin(np.radians(grid.latitude_bounds)))
    return float(heights @ values @ np.diff(grid.longitude_bounds))


@pytest.mark.parametrize(("source", "target"), PAIRS)
def test_conservative_regridding_conserves_the_area_integral(source: str, target: str) -> None:
    values = noise(GRIDS[source]) + 5
    result = regrid(on(GRIDS[source], values), GRIDS[target])["field"].values[0]
    assert integral(GRIDS[target], result) == pytest.approx(integral(GRIDS[source], values), rel=1e-12)


@pytest.mark.parametrize(("source", "target"), PAIRS)
@pytest.mark.parametrize("method", ["conservative", "bilinear"])
def test_a_constant_stays_constant(source: str, target: str, method: Method) -> None:
    result = regrid(on(GRIDS[source], np.full(GRIDS[source].shape, 7.0)), GRIDS[target], method)
    np.testing.assert_allclose(result["field"].values, 7.0, rtol=1e-12)


@pytest.mark.parametrize("method", ["conservative", "bilinear"])
def test_turning_the_globe_before_or_after_is_the_same(method: Method) -> None:
    values = noise(GRIDS["fine"])
    result = regrid(on(GRIDS["fine"], values), GRIDS["coarse"], method)["field"].values
    turned = regrid(on(GRIDS["fine"], np.roll(values, 3, axis=1)), GRIDS["coarse"], method)["field"].values
    np.testing.assert_allclose(turned, np.roll(result, 1, axis=2), rtol=1e-11)


def test_bilinear_is_exact_for_what_is_linear_in_latitude() -> None:
    source, target = GRIDS["poles"], GRIDS["fine"]
    values = np.repeat(source.latitude[:, None], source.shape[1], axis=1)
    result = regrid(on(source, values), target, "bilinear")["field"].values[0]
    np.testing.assert_allclose(result, np.repeat(target.latitude[:, None], target.shape[1], axis=1), atol=1e-12)


def test_bilinear_follows_a_smooth_wave_across_greenwich() -> None:
    source, target = Grid.equiangular(2.0), Grid(np.arange(-60.0, 61, 4), np.arange(90) * 4 + 3.3)

    def wave(grid: Grid) -> np.ndarray:
        return np.cos(np.radians(grid.latitude))[:, None] * np.cos(np.radians(grid.longitude))

    result = regrid(on(source, wave(source)), target, "bilinear")["field"].values[0]
    np.testing.assert_allclose(result, wave(target), atol=np.radians(2) ** 2 / 4)


def test_bilinear_goes_to_the_mean_of_the_outermost_row_at_the_poles() -> None:
    values = noise(GRIDS["fine"])
    result = regrid(on(GRIDS["fine"], values), GRIDS["poles"], "bilinear")["field"].values[0]
    np.testing.assert_allclose(result[0], values[0].mean(), rtol=1e-12)
    np.testing.assert_allclose(result[-1], values[-1].mean(), rtol=1e-12)


def test_a_cell_is_missing_if_less_than_half_of_its_area_is_observed() -> None:
    source, target = Grid(np.array([-5.0, 5]), np.array([0.0, 10, 20, 30])), Grid(np.array([0.0]), np.array([5.0, 25]))
    target = Grid(np.array([-5.0, 5]), np.array([5.0, 25]))
    values = np.array([[1.0, np.nan, np.nan, np.nan], [1.0, 3.0, 5.0, np.nan]])
    result = regrid(on(source, values), target)["field"].values[0]
    np.testing.assert_allclose(result, [[1, np.nan], [2, 5]])


@pytest.mark.parametrize("method", ["conservative", "bilinear"])
def test_missing_values_do_not_dilute_a_constant(method: Method) -> None:
    values = np.where(np.random.default_rng(1).random(GRIDS["fine"].shape) < 0.3, np.nan, 4.0)
    result = regrid(on(GRIDS["fine"], values), GRIDS["coarse"], method)["field"].values
    np.testing.assert_allclose(result[~np.isnan(result)], 4.0, rtol=1e-12)
    assert np.isnan(result).mean() < 0.5


@pytest.mark.parametrize("method", ["conservative", "bilinear"])
def test_the_own_grid_gives_back_the_same(method: Method) -> None:
    dataset = on(GRIDS["gaussian"], noise(GRIDS["gaussian"]))
    xr.testing.assert_identical(regrid(dataset, Grid.gaussian(16), method), dataset)


@pytest.mark.parametrize("method", ["conservative", "bilinear"])
def test_lazy_fields_stay_lazy_and_float32_and_chunks_do_not_matter(method: Method) -> None:
    dataset = on(GRIDS["fine"], noise(GRIDS["fine"])).astype(np.float32)
    lazy = regrid(dataset.chunk(latitude=5, longitude=7), GRIDS["coarse"], method)["field"]
    assert lazy.chunks is not None
    assert lazy.dtype == np.float32
    np.testing.assert_array_equal(lazy, regrid(dataset, GRIDS["coarse"], method)["field"])


def test_a_region_across_greenwich_is_brought_to_the_part_of_the_grid_it_covers() -> None:
    source = Grid.equiangular(5).crop(Region(30, 70, 330, 20))
    part = covered(Grid.equiangular(10), source)
    assert part.longitude.tolist() == [330, 340, 350, 360, 370, 380]
    assert part.latitude.tolist() == [35, 45, 55, 65]
    values = np.repeat(source.longitude[None], source.shape[0], axis=0)
    result = regrid(on(source, values), part)["field"].values[0]
    np.testing.assert_allclose(result[:, 1:-1], np.repeat(part.longitude[None, 1:-1], 4, axis=0), rtol=1e-12)
    assert not np.isnan(result).any()


def test_a_region_elsewhere_is_refused() -> None:
    with pytest.raises(GridError, match="no point of the grid"):
        covered(Grid.equiangular(5).crop(Region(0, 40, 10, 20)), Grid.equiangular(5).crop(Region(50, 70, 200, 220)))
    rows = Rows(np.array([-10.0, 0, 10]), np.full(3, 20), np.zeros(3), np.arange(60))
    with pytest.raises(GridError, match=r"grid a reduced .* of 3 rows, 60 cells"):
        covered(Grid.equiangular(5).crop(Region(60, 90, 0, 360)), rows)


def test_grids_are_named_by_degrees_gaussian_rows_or_a_file(tmp_path: Path) -> None:
    assert parse_grid("5.625") == Grid.equiangular(5.625)
    assert parse_grid("1.5+poles") == Grid.equiangular(1.5, poles=True)
    assert parse_grid("gaussian32") == Grid.gaussian(32)
    on(GRIDS["fine"], noise(GRIDS["fine"])).assign_coords(time=[np.datetime64("2001-01-01", "ns")]).to_netcdf(
        tmp_path / "example.nc"
    )
    assert parse_grid(str(tmp_path / "example.nc")) == GRIDS["fine"]
    with pytest.raises(GridError, match="'5,625' names no grid; give degrees"):
        parse_grid("5,625")
