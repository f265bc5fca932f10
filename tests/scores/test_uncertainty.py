"""Intervals that hold what they promise."""

import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy import stats

from etesian.scores import definitions  # noqa: F401  (registers the scores)
from etesian.scores.registry import half_width, score_named


def series(correlation: float, length: int, trials: int, seed: int = 11) -> np.ndarray:
    rng = np.random.default_rng(seed)
    values = np.empty((length, trials))
    values[0] = rng.normal(size=trials)
    for step in range(1, length):
        values[step] = correlation * values[step - 1] + np.sqrt(1 - correlation**2) * rng.normal(size=trials)
    return values


@pytest.mark.parametrize(("correlation", "length"), [(0.0, 50), (0.3, 100), (0.6, 100), (0.8, 300)])
def test_nineteen_of_twenty_intervals_cover_the_true_mean(correlation: float, length: int) -> None:
    values = series(correlation, length, 4000)
    covered = np.abs(values.mean(0)) < half_width(values, np.ones(values.shape, bool))
    assert 0.93 < covered.mean() < 0.985


@pytest.mark.parametrize(("slow", "memory", "neighbours"), [(0.15, 14, 0.0), (0.3, 21, 0.5)])
def test_a_slow_part_of_the_errors_does_not_make_equal_forecasts_differ(
    slow: float, memory: float, neighbours: float
) -> None:
    """Equal pairs over a year and over two, where an interval from neighbours alone errs in 20 to 40 of 100."""
    for days, most in ((361, 0.06), (700, 0.05)):
        errors = np.sqrt(slow) * series(np.exp(-1 / memory), days, 2000)
        errors += np.sqrt(1 - slow) * series(neighbours, days, 2000, seed=12)
        width = half_width(errors, np.ones(errors.shape, bool))
        assert (np.abs(errors.mean(0)) > width).mean() < most
        assert (errors.mean(0) > width).mean() < 0.035


def test_the_price_for_independent_errors_is_an_interval_half_as_long_again() -> None:
    errors = series(0.0, 361, 2000)
    ratio = half_width(errors, np.ones(errors.shape, bool)) / (1.967 / np.sqrt(361))
    assert 1.3 < ratio.mean() < 1.5
    assert ratio.min() > 0.85  # never shorter than Student's t, but for the chance in its variance


def test_a_series_with_gaps_has_the_interval_of_what_is_there() -> None:
    errors = series(0.6, 200, 50)
    present = np.ones(errors.shape, bool)
    present[60:90], present[::7, 25:] = False, False
    width = half_width(errors, present)
    for trial in (0, 30):
        own = errors[present[:, trial], trial][:, None]
        assert_allclose(width[trial], half_width(own, np.ones(own.shape, bool)))


def test_it_is_never_shorter_than_students_t_for_independent_values() -> None:
    values = np.tile([1.0, -1.0], 20)[:, None]
    expected = stats.t.ppf(0.975, 39) * values.std(ddof=1) / np.sqrt(40)
    assert_allclose(half_width(values, np.ones(values.shape, bool)), expected, rtol=1e-6)


def test_too_few_initial_times_give_no_interval() -> None:
    assert np.isnan(half_width(np.array([[1.0], [2.0]]), np.ones((2, 1), bool))).all()


def test_initial_times_without_weight_have_no_influence() -> None:
    numerator, denominator = np.array([[4.0], [6.0], [99.0]]), np.array([[2.0], [1.0], [0.0]])
    estimate, influence, _ = score_named("mae").influence({"absolute_error": numerator, "weight": denominator})
    assert_allclose(estimate, [10 / 3])
    assert_allclose(influence[:, 0], [-(8 / 3) / 1.5, (8 / 3) / 1.5, 0], atol=1e-12)
