"""Reduced and HEALPix grids: recognised by their points, overlaps that keep areas, cells that lie where they should."""

import eccodes
import numpy as np
import pytest
from numpy.typing import NDArray

from etesian.core import Grid
from etesian.core.cells import Cells, Healpix, Rows, recognised
from etesian.core.grid import Region

Points = tuple[NDArray[np.float64], NDArray[np.float64]]

TARGETS = {
    "coarse": Grid.equiangular(22.5),
    "fine": Grid.equiangular(4.5),
    "poles": Grid.equiangular(15, poles=True),
    "shifted": Grid(np.arange(-85.0, 90, 10), np.arange(36) * 10 + 3.7),
}


def reduced(latitude: NDArray[np.float64], counts: NDArray[np.int64], first: NDArray[np.float64]) -> Points:
    """Points of rows of cells, row by row."""
    steps = [start + np.arange(count) * 360 / count for start, count in zip(first, counts, strict=True)]
    return np.repeat(latitude, counts), np.concatenate(steps)


def octahedral(number: int) -> Points:
    """Points of O8, say, in the order of GRIB."""
    rows = np.arange(2 * number)
    counts = 20 + 4 * np.minimum(rows, rows[::-1])
    return reduced(Grid.gaussian(2 * number).latitude[::-1], counts, np.zeros(rows.size))


def centres(cells: Healpix) -> Points:
    """Points in the order of the file."""
    rows = cells.rows
    latitude, longitude = np.empty((2, cells.size))
    latitude[rows.order], longitude[rows.order] = reduced(rows.latitude, rows.counts, rows.first)
    return latitude, longitude


def known(points: Points) -> Cells:
    cells = recognised(*points)
    assert cells is not None
    return cells


GRIDS = {
    "O8": known(octahedral(8)),
    "ring": Healpix.ring(4),
    "ring of 3": Healpix.ring(3),
    "nested": Healpix.nested(8),
    "poles": known(reduced(np.linspace(90, -90, 7), np.array([1, 6, 12, 12, 12, 6, 1]), np.arange(7) * 5.0)),
}


@pytest.mark.parametrize("source", GRIDS)
@pytest.mark.parametrize("target", TARGETS)
def test_overlaps_keep_constants_and_area_integrals(source: str, target: str) -> None:
    cells, grid = GRIDS[source], TARGETS[target]
    shares = cells.shares(grid)
    areas = np.full(cells.size, 1 / cells.size)
    if isinstance(cells, Rows):
        heights = np.diff(np.sin(np.radians(cells.span.latitude_bounds))) / 2
        areas[cells.order] = np.repeat(heights / cells.counts, cells.counts)
    weights = np.repeat(grid.area_weights, grid.longitude.size) / (grid.latitude.size * grid.longitude.size)
    np.testing.assert_allclose(shares.sum(axis=1), 1, rtol=1e-10)
    np.testing.assert_allclose(weights @ shares, areas, rtol=1e-9)
    assert shares.data.min() > 0


@pytest.mark.parametrize("kind", ["reduced", "ring", "nested"])
def test_a_smooth_field_is_kept_and_better_on_finer_cells(kind: str) -> None:
    grid, fine = Grid.equiangular(11.25), Grid.equiangular(0.75)

    def harmonic(latitude: NDArray[np.float64], longitude: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.sin(np.radians(2 * latitude)) * np.cos(np.radians(longitude - 20))

    # The first column of the coarse grid begins half a cell west of 0°.
    values = harmonic(fine.latitude[:, None], fine.longitude - 5.25) * fine.area_weights[:, None]
    exact = values.reshape(16, 15, 32, 15).sum((1, 3)) / (15 * fine.area_weights.reshape(16, 15).sum(1)[:, None])
    errors = []
    for size in (8, 32):
        points = octahedral(size) if kind == "reduced" else centres(getattr(Healpix, kind)(size))
        error = (known(points).shares(grid) @ harmonic(*points)).reshape(grid.shape) - exact
        errors.append(float(np.sqrt((grid.area_weights[:, None] * error**2).mean())))
    assert errors[0] < 0.03
    assert errors[1] < errors[0] / 8


def test_points_are_recognised_in_any_order_and_counted_from_anywhere() -> None:
    latitude, longitude = octahedral(8)
    values, grid = np.random.default_rng(0).standard_normal(latitude.size), Grid.equiangular(15)
    expected = GRIDS["O8"].shares(grid) @ values
    mixed = np.random.default_rng(1).permutation(latitude.size)
    for order in (np.arange(latitude.size)[::-1], mixed):
        for west in (-180.0, 0.0, 180.0):
            east = np.mod(longitude[order] - west, 360) + west
            found = known((latitude[order].astype("f4").astype(float), east.astype("f4").astype(float)))
            assert str(found) == "the octahedral grid O8, 544 cells"
            np.testing.assert_allclose(found.shares(grid) @ values[order], expected, atol=1e-5)
    turned = known((latitude, np.mod(longitude + 45, 360))).shares(grid) @ values
    np.testing.assert_allclose(turned.reshape(grid.shape), np.roll(expected.reshape(grid.shape), 3, axis=1), atol=1e-10)


@pytest.mark.parametrize("order", ["ring", "nested"])
def test_healpix_lies_where_eccodes_has_it_and_is_recognised_there(order: str) -> None:
    handle = eccodes.codes_grib_new_from_samples("GRIB2")
    keys = {"gridType": "healpix", "Nside": 4, "orderingConvention": order, "numberOfDataPoints": 192}
    for key, value in {**keys, "longitudeOfFirstGridPointInDegrees": 45}.items():
        eccodes.codes_set(handle, key, value)
    eccodes.codes_set_values(handle, np.zeros(192))
    points = tuple(eccodes.codes_get_double_array(handle, axis) for axis in ("latitudes", "longitudes"))
    eccodes.codes_release(handle)
    np.testing.assert_allclose(centres(getattr(Healpix, order)(4)), points, atol=1e-6)
    assert recognised(*points) == getattr(Healpix, order)(4)


def test_bands_are_grids_and_clouds_of_points_and_cut_rows_are_none() -> None:
    latitude, longitude = reduced(np.array([30.0, 0, -30]), np.array([6, 8, 6]), np.zeros(3))
    np.testing.assert_allclose(known((latitude, longitude)).span.latitude_bounds[[0, -1]], [-45, 45])
    for cut in (slice(-2), slice(3, None)):
        assert recognised(latitude[cut], longitude[cut]) is None
    random = np.random.default_rng(0)
    assert recognised(random.uniform(-90, 90, 100), random.uniform(0, 360, 100)) is None


@pytest.mark.parametrize("source", GRIDS)
def test_a_region_takes_what_lies_in_it(source: str) -> None:
    box, whole, cells = Region(30, 60, 340, 20), TARGETS["fine"], GRIDS[source]
    rows, columns = whole.region(box)
    inside = np.arange(whole.latitude.size * whole.longitude.size).reshape(whole.shape)[np.ix_(rows, columns)].ravel()
    np.testing.assert_allclose(
        cells.shares(whole.crop(box)).toarray(), cells.shares(whole)[inside].toarray(), atol=1e-9
    )
