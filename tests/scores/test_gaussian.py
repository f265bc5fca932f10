"""Scores of a Gaussian, against integrals and frequencies."""

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.stats import norm

from etesian.scores.definitions import LEVELS, crps, inside, log_score


@pytest.mark.parametrize(("error", "deviation"), [(0.0, 1.0), (1.3, 0.4), (-2.0, 3.0)])
def test_the_crps_is_the_integral_of_the_squared_difference_of_the_distributions(
    error: float, deviation: float
) -> None:
    below = quad(lambda x: norm.cdf(x, error, deviation) ** 2, -40, 0, limit=200)[0]
    above = quad(lambda x: (1 - norm.cdf(x, error, deviation)) ** 2, 0, 40, limit=200)[0]
    found = crps(np.array([error]), np.array([deviation]))
    assert found.item() == pytest.approx(below + above, rel=1e-6)


def test_the_log_score_is_minus_the_log_of_the_density() -> None:
    error, deviation = np.array([0.5, -3.0]), np.array([2.0, 0.7])
    np.testing.assert_allclose(log_score(error, deviation), -norm.logpdf(error, 0, deviation))


def test_intervals_hold_as_many_errors_as_they_should() -> None:
    random = np.random.default_rng(0)
    deviation = random.uniform(0.1, 3, 200_000)
    error = deviation * random.standard_normal(200_000)
    for level in LEVELS:
        assert inside(error, deviation, level).mean() == pytest.approx(level, abs=0.004)
