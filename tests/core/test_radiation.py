"""The sun at the top of the atmosphere: hand numbers, laws and calendars."""

from pathlib import Path

import numpy as np
import pytest

import etesian as et
from etesian.core import Grid
from etesian.core.clock import cosine_solar_zenith, encode_time, parse_time
from etesian.core.radiation import incident_solar_radiation, radiation_moments

GRID = Grid([-90, -70, 0, 70, 90], np.arange(24) * 15.0)


def flux(date: str, grid: Grid = GRID, calendar: str = "proleptic_gregorian") -> np.ndarray:
    return incident_solar_radiation(parse_time(date, calendar), grid, calendar) / 3600


def test_noon_of_an_equinox_at_the_equator_is_the_solar_constant_by_the_distance() -> None:
    # On 20 March 1 au is 1.0039 times the distance, and the sun is highest at 0° E 7.4 minutes after 12 UTC, so 22.6
    # minutes, 5.65°, further west in the middle of the hour, whose mean is sin(7.5°)/7.5° of the highest.
    noon = flux("2003-03-20T13", Grid([-1.0, 0.0, 1.0], [354.35]))[1, 0]
    assert noon == pytest.approx(1361 * 1.0039**2 * 0.99715, rel=1e-3)
    assert flux("2003-03-21T01")[2].argmax() == 12
    assert (flux("2003-03-20T13")[2, 8:17] == 0).all()


def test_poles_have_night_or_day_for_all_hours() -> None:
    for date, dark, light in (("2003-12-21T12", slice(3, 5), slice(0, 2)), ("2003-06-21T12", slice(0, 2), slice(3, 5))):
        assert (flux(date)[dark] == 0).all()
        assert (flux(date)[light] > 0).all()
    # sin(23.45°) of the constant at the distances of January and July.
    np.testing.assert_allclose(flux("2003-12-21T12")[0], 1361 * 1.0337 * np.sin(np.radians(23.43)), rtol=3e-3)
    np.testing.assert_allclose(flux("2003-06-21T12")[-1], 1361 * 0.9677 * np.sin(np.radians(23.44)), rtol=3e-3)


@pytest.mark.parametrize("calendar", ["standard", "noleap", "360_day", "julian", "all_leap"])
def test_the_mean_over_globe_and_year_is_a_quarter_of_the_constant(calendar: str) -> None:
    grid = Grid(Grid.equiangular(4.0).latitude, [0.0])
    hours = parse_time("2001-01-01", calendar) + np.arange(0, 360, 3)[:, None] * 86400 + np.arange(24) * 3600
    mean = incident_solar_radiation(hours, grid, calendar).mean((0, 1, 3)) / 3600
    assert float(mean @ grid.area_weights) / grid.shape[0] == pytest.approx(340.2, abs=0.5)


def test_an_hour_is_the_integral_of_the_flux_with_sunrise_inside() -> None:
    grid = Grid([-60.0, 10.0, 55.0], np.arange(48) * 7.5)
    end = parse_time("2001-05-04T09", "standard")
    seconds = end - 3600 + 20 * np.arange(180) + 10
    cosine = np.maximum(cosine_solar_zenith(seconds, grid, "standard"), 0).mean(0)
    ours = incident_solar_radiation(end, grid, "standard") / 3600
    np.testing.assert_allclose(ours, 1361 * 0.9835 * cosine, atol=4)
    assert ((ours > 0) & (ours < 50)).any()


def test_seasons_are_where_the_calendar_has_them() -> None:
    for calendar, day in (("360_day", "2001-06-21T12"), ("julian", "2001-06-21T12"), ("noleap", "2001-06-21T12")):
        np.testing.assert_allclose(flux(day, calendar=calendar), flux(day), atol=6)
    late = incident_solar_radiation(parse_time("2001-12-30T12", "360_day") + 86400, GRID, "360_day") / 3600
    np.testing.assert_allclose(late, flux("2002-01-01T12"), atol=3)


def test_a_models_sunniest_days_are_four_fifths_of_it_in_every_season(shared: Path) -> None:
    file = shared / "data" / "cmip6_cesm2waccm_daily_regional" / "rsds_test.nc"
    found = et.open(file)["surface_solar_radiation_downwards"]
    seconds, calendar = encode_time(found.time.values)
    grid = Grid(found.latitude.values, found.longitude.values)
    hours = seconds[:, None] // 86400 * 86400 + np.arange(1, 25) * 3600
    share = found.values / (incident_solar_radiation(hours, grid, calendar).mean(1) / 3600)
    assert share.max() < 0.86
    for month in np.array_split(share, 12):
        assert 0.73 < np.quantile(month, 0.95) < 0.83


def test_the_moments_are_those_of_all_hours_of_a_year() -> None:
    grid = Grid([-45.0, 0.0, 45.0], np.arange(8) * 45.0)
    times = np.arange(365)[:, None] * 86400 + np.arange(24) * 3600
    values = incident_solar_radiation(times, grid, "noleap")
    mean, std = radiation_moments(grid, "noleap")
    assert (mean, std) == pytest.approx((values.mean(), values.std()), rel=0.01)
