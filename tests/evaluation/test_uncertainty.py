"""Intervals that hold what they promise."""

import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy import stats

from etesian.evaluation.uncertainty import half_width, ratio_influence


def series(correlation: float, length: int, trials: int) -> np.ndarray:
    rng = np.random.default_rng(11)
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


def test_without_correlation_it_is_close_to_students_t() -> None:
    values = np.tile([1.0, -1.0], 20)[:, None]
    expected = stats.t.ppf(0.975, 39) * values.std(ddof=1) / np.sqrt(40)
    assert_allclose(half_width(values, np.ones(values.shape, bool)), expected, rtol=1e-6)


def test_too_few_initial_times_give_no_interval() -> None:
    assert np.isnan(half_width(np.array([[1.0], [2.0]]), np.ones((2, 1), bool))).all()


def test_initial_times_without_weight_have_no_influence() -> None:
    numerator, denominator = np.array([[4.0], [6.0], [99.0]]), np.array([[2.0], [1.0], [0.0]])
    estimate, influence = ratio_influence(numerator, denominator)
    assert_allclose(estimate, [10 / 3])
    assert_allclose(influence[:, 0], [-(8 / 3) / 1.5, (8 / 3) / 1.5, 0], atol=1e-12)
