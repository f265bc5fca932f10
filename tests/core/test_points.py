"""Interpolation to points, and what height does to temperature and pressure."""

import numpy as np
import pytest

from etesian.core.channels import Channel
from etesian.core.grid import Grid
from etesian.core.points import AtPoints, Bilinear, Points, standard_pressure

GLOBE = Grid.equiangular(30.0)  # rows at ±15, ±45, ±75, columns at 0, 30, … 330
REGION = Grid([40.0, 42.0], [350.0, 355.0, 360.0])


def points(*places: tuple[float, float], elevation: float = 0.0) -> Points:
    latitude, longitude = np.array(places, dtype=np.float64).T
    return Points(tuple(f"S{i}" for i in range(len(places))), latitude, longitude, np.full(len(places), elevation))


def test_a_linear_field_is_reproduced_and_four_neighbours_are_weighted_by_hand() -> None:
    linear = 2 * GLOBE.latitude[:, None] - 3 * GLOBE.longitude
    np.testing.assert_allclose(Bilinear(GLOBE, points((7.0, 100.0), (-75.0, 0.0)))(linear), [14 - 300, -150])
    field = np.zeros(GLOBE.shape)
    field[2:4, 1:3] = [[1, 2], [3, 4]]  # at −15 and 15°, 30 and 60°E
    np.testing.assert_allclose(Bilinear(GLOBE, points((-7.5, 40.0)))(field), 0.75 * (1 + 1 / 3) + 0.25 * (3 + 1 / 3))


def test_points_lie_between_the_last_column_and_the_first_and_longitudes_may_be_negative() -> None:
    field = np.broadcast_to(np.where(GLOBE.longitude == 330, 10.0, GLOBE.longitude), GLOBE.shape)
    found = Bilinear(GLOBE, points((0, 345), (0, -15), (0, 360), (0, -180), (0, 180)))
    np.testing.assert_allclose(found(field), [5, 5, 0, 180, 180])
    dateline = Grid([-10.0, 10.0], [170.0, 180.0, 190.0])
    across = Bilinear(dateline, points((0, -175), (0, 175), (0, -169)))
    np.testing.assert_allclose(across(dateline.longitude + np.zeros((2, 1))), [185, 175, np.nan])


def test_nothing_is_extrapolated_to_the_poles_or_beyond_a_region() -> None:
    assert Bilinear(GLOBE, points((76, 0), (-90, 0), (75, 0))).inside.tolist() == [False, False, True]
    poles = Bilinear(Grid.equiangular(30.0, poles=True), points((90, 17), (-90, -3)))
    assert poles.inside.all()
    found = Bilinear(REGION, points((41, -10), (41, 0), (41, 0.1), (41, 349.9), (42.1, 355), (40, 352.5)))
    assert found.inside.tolist() == [True, True, False, False, False, True]
    np.testing.assert_array_equal(found(np.ones(REGION.shape)), [1, 1, np.nan, np.nan, np.nan, 1])
    column = Bilinear(Grid([0.0, 1.0], [5.0]), points((0.5, 5), (0.5, 6)))
    np.testing.assert_array_equal(column(np.array([[1.0], [3.0]])), [2, np.nan])


def test_a_point_beside_a_missing_neighbour_is_missing_and_on_a_neighbour_it_is_not() -> None:
    field = np.ones((2, 3, *REGION.shape), dtype=np.float32)
    field[..., 1, 1] = np.nan  # 42°N 355°E
    found = Bilinear(REGION, points((41, 352), (40, 355), (42, 350), (40, 352)))(field)
    assert found.shape == (2, 3, 4)
    np.testing.assert_array_equal(found[1, 2], [np.nan, 1, 1, 1])


def test_a_point_on_a_column_but_for_rounding_needs_no_other_column() -> None:
    grid = Grid([45.0, 47.5, 50.0], np.arange(-30, 38, 2.5))
    field = np.where(grid.longitude == 10, 7.0, np.nan) + np.zeros((3, 1))
    assert Bilinear(grid, points((50, 10), (50, 10.1)))(field).tolist() == pytest.approx([7, np.nan], nan_ok=True)


def test_two_metre_temperature_falls_by_the_lapse_rate_and_others_stay() -> None:
    channels = (Channel("2m_temperature"), Channel("temperature", 850), Channel("surface_pressure"))
    fields = np.full((3, *GLOBE.shape), 280.0)
    fields[2] = 101325.0
    orography = {"orography": np.broadcast_to(GLOBE.longitude, GLOBE.shape)}  # 45 m at 45°E
    place = points((0, 45), elevation=1045.0)
    found = AtPoints(GLOBE, place, orography)(fields, channels)
    assert found[0, 0] == pytest.approx(280 - 6.5)
    assert found[1, 0] == 280
    # 101325 Pa at 45 m is 101867.0 Pa at the sea; the standard atmosphere's hypsometric formula by hand.
    sea = 101325 * (1 - 0.0065 * -45 / 288.15) ** 5.2558
    assert found[2, 0] == pytest.approx(sea * (1 - 0.0065 * 1045 / 288.15) ** 5.2558, rel=2e-4)
    assert AtPoints(GLOBE, place, orography, 0.0)(fields, channels)[0, 0] == 280
    without = AtPoints(GLOBE, place)
    assert without(fields, channels)[:, 0].tolist() == [280, 280, 101325]
    unknown = AtPoints(GLOBE, points((0, 45), elevation=np.nan), orography)
    assert np.isnan(unknown(fields, channels)[0, 0])
    assert not unknown.can_say(channels[0]).any()
    assert unknown.can_say(channels[1]).all()


def test_pressure_in_the_standard_atmosphere_is_that_of_its_table_and_goes_back() -> None:
    heights = np.array([0.0, 1000.0, 5000.0])
    found = standard_pressure(np.full(3, 101325.0), np.zeros(3), heights)
    np.testing.assert_allclose(found, [101325, 89875, 54020], rtol=1e-4)  # ICAO Doc 7488
    np.testing.assert_allclose(standard_pressure(found, heights, np.zeros(3)), 101325)
