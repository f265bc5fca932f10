"""Climatology agrees with the definition written out as loops, and harmonics with least squares."""

import cftime
import numpy as np
import pandas as pd
import pytest

from etesian.core.clock import day_of_year, decode_time, encode_time, hour_of_day, seasonal_terms
from etesian.store.climatology import SeasonalSums, Seasons


def seconds_of(start: str, steps: int, hours: int, calendar: str = "proleptic_gregorian") -> np.ndarray:
    year, month, day = (int(part) for part in start.split("-"))
    first = cftime.datetime(year, month, day, calendar=calendar)
    origin = round(float(cftime.date2num(first, "seconds since 1970-01-01", calendar=calendar)))
    return origin + np.arange(steps, dtype=np.int64) * hours * 3600


def by_definition(values: np.ndarray, seconds: np.ndarray, calendar: str, hour: int, length: int) -> np.ndarray:
    """Stack the years by day of the year, fill day 366 with day 365, weight a wrapped window of 61 days."""
    days, hours = day_of_year(seconds, calendar), hour_of_day(seconds)
    years = np.array([int(str(date)[:4]) for date in decode_time(seconds, calendar)])
    stacked = np.full((years.max() - years.min() + 1, length), np.nan)
    for value, day, year, h in zip(values, days, years, hours, strict=True):
        if h == hour:
            stacked[year - years.min(), day - 1] = value
    if length == 366:
        for row, year in zip(stacked, range(years.min(), years.max() + 1), strict=True):
            is_leap = year % 4 == 0 and (year % 100 != 0 or year % 400 == 0)
            if not is_leap:
                row[365] = row[364]
    result = np.full(length, np.nan)
    for day in range(length):
        total = weight_sum = 0.0
        for row in stacked:
            for offset in range(-30, 31):
                value, weight = row[(day + offset) % length], 1 - abs(offset) / 30
                if not np.isnan(value):
                    total, weight_sum = total + weight * value, weight_sum + weight
        result[day] = total / weight_sum if weight_sum else np.nan
    return result


@pytest.mark.parametrize(
    ("start", "steps", "hours", "calendar", "length"),
    [
        ("1999-11-20", 900, 24, "proleptic_gregorian", 366),
        ("2001-01-01", 2 * 366 * 4, 6, "proleptic_gregorian", 366),
        ("2001-03-01", 800, 24, "360_day", 360),
        ("2003-06-01", 800, 24, "noleap", 365),
    ],
)
@pytest.mark.parametrize("missing", [0.0, 0.4])
def test_climatology_is_weather_bench_2s(
    start: str, steps: int, hours: int, calendar: str, length: int, missing: float
) -> None:
    random = np.random.default_rng(1)
    seconds = seconds_of(start, steps, hours, calendar)
    values = random.standard_normal((steps, 2)) + 280
    values[random.random(values.shape) < missing] = np.nan
    seasons = Seasons(seconds, calendar)
    sums = SeasonalSums(seasons, 2, gaps=missing > 0)
    for first in range(0, steps, 333):
        sums.add(first, values[first : first + 333])
    result = sums.climatology()
    assert result.shape == (len(seasons.hours), length, 2)
    for i, hour in enumerate(seasons.hours):
        for point in range(2):
            expected = by_definition(values[:, point], seconds, calendar, hour, length)
            np.testing.assert_allclose(result[i, :, point], expected, rtol=1e-6)


def test_days_that_no_window_reaches_stay_missing() -> None:
    seconds = np.concatenate([seconds_of("2001-01-01", 60, 24), seconds_of("2002-01-01", 60, 24)])
    seconds = np.concatenate([seconds, seconds_of("2003-01-01", 60, 24)])
    sums = SeasonalSums(Seasons(seconds, "proleptic_gregorian"), 1, gaps=False)
    sums.add(0, np.ones((180, 1)))
    result = sums.climatology()[0, :, 0]
    assert np.flatnonzero(np.isnan(result)).tolist() == list(range(59 + 30, 366 - 29))
    assert (result[~np.isnan(result)] == 1).all()


def test_hours_are_the_synoptic_ones_where_there_are_any() -> None:
    assert Seasons(seconds_of("2001-01-01", 500 * 8, 3), "proleptic_gregorian").hours == (0, 6, 12, 18)
    assert Seasons(seconds_of("2001-01-01", 500 * 2, 12), "proleptic_gregorian").hours == (0, 12)
    assert Seasons(seconds_of("2001-01-01", 500, 24) + 9 * 3600, "proleptic_gregorian").hours == (9,)


def test_monthly_means_stamped_at_different_hours_share_one_climatology() -> None:
    dates = pd.date_range("2001-01-01", periods=36, freq="MS") + pd.to_timedelta([348, 360] * 18, unit="h")
    seconds, calendar = encode_time(dates.values)
    seasons = Seasons(seconds, calendar)
    sums = SeasonalSums(seasons, 1, gaps=False)
    sums.add(0, np.full((36, 1), 3.0))
    assert len(seasons.hours) == 1
    np.testing.assert_array_equal(sums.climatology(), 3.0)


@pytest.mark.parametrize("gaps", [False, True])
def test_harmonics_are_the_least_squares_fit(gaps: bool) -> None:
    random = np.random.default_rng(2)
    seconds = seconds_of("2001-01-01", 1200, 24)
    design = seasonal_terms(seconds, "proleptic_gregorian")
    values = design @ random.standard_normal((5, 3)) + 0.1 * random.standard_normal((1200, 3))
    if gaps:
        values[random.random(values.shape) < 0.3] = np.nan
    sums = SeasonalSums(Seasons(seconds, "proleptic_gregorian"), 3, gaps=gaps)
    sums.add(0, values[:500])
    sums.add(500, values[500:])
    result = sums.coefficients(np.zeros(3))
    for point in range(3):
        observed = ~np.isnan(values[:, point])
        expected = np.linalg.lstsq(design[observed], values[observed, point], rcond=None)[0]
        np.testing.assert_allclose(result[:, point], expected, rtol=1e-5, atol=1e-6)


def test_harmonics_of_undetermined_points_are_constant_and_of_unobserved_ones_the_fallback() -> None:
    seconds = seconds_of("2001-01-01", 730, 24)
    day = day_of_year(seconds, "proleptic_gregorian")
    values = np.full((730, 2), np.nan)
    summer = (day > 200) & (day < 260)
    values[summer, 0] = day[summer]
    sums = SeasonalSums(Seasons(seconds, "proleptic_gregorian"), 2, gaps=True)
    sums.add(0, values)
    expected = [[values[summer, 0].mean(), 0, 0, 0, 0], [-5, 0, 0, 0, 0]]
    np.testing.assert_allclose(sums.coefficients(np.array([0.0, -5.0])).T, expected, rtol=1e-6)


def test_a_period_shorter_than_a_year_gives_a_constant_only() -> None:
    seconds = seconds_of("2001-01-01", 300, 24)
    seasons = Seasons(seconds, "proleptic_gregorian")
    sums = SeasonalSums(seasons, 1, gaps=False)
    sums.add(0, np.arange(300.0)[:, None])
    assert not seasons.covers_year
    np.testing.assert_allclose(sums.coefficients(np.zeros(1))[:, 0], [149.5, 0, 0, 0, 0])
