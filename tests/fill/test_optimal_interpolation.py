"""Optimal interpolation against scikit-learn's Gaussian process and against samples of a known covariance."""

from dataclasses import replace

import numpy as np
import pytest
from numpy.testing import assert_allclose
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF, ConstantKernel

from etesian.core import Grid
from etesian.core.errors import DataError
from etesian.fill.interpolate import Gappy
from etesian.fill.optimal_interpolation import Covariance, Estimate, fit_covariance, optimal_interpolation

GRID = Grid(np.linspace(35, 36.9, 20), np.linspace(1, 3.3, 24))
DAYS = np.array([0.0, 1, 1.5, 2.5, 3.5, 4.5])
TRUE = Covariance(deviation=1.5, length=40.0, duration=2.0, noise=0.2)


def places(grid: Grid = GRID) -> np.ndarray:
    """Return every point and day as (x, y, z in km, days)."""
    lat, lon = np.radians(np.meshgrid(grid.latitude, grid.longitude, indexing="ij"))
    sphere = 6371.229 * np.stack([np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)], -1).reshape(-1, 3)
    return np.concatenate([np.column_stack([sphere, np.full(len(sphere), day)]) for day in DAYS])


def sample(seed: int = 0, share: float = 0.3) -> tuple[np.ndarray, Gappy]:
    """Draw fields with the true covariance; observe a share of them with noise."""
    random = np.random.default_rng(seed)
    every = places()
    own = TRUE.deviation**2 * TRUE.correlation(every, every) + 1e-8 * np.eye(len(every))
    truth = (np.linalg.cholesky(own) @ random.standard_normal(len(every))).reshape(6, *GRID.shape) + 290
    noisy = truth + TRUE.noise * random.standard_normal(truth.shape)
    # Missing are rows of clouds, not single points.
    missing = random.random((6, 5, 4)).repeat(4, 1).repeat(6, 2) > share
    return truth, Gappy(np.where(missing, np.nan, noisy), np.ones(GRID.shape, bool), DAYS, GRID)


@pytest.fixture(scope="module")
def drawn() -> tuple[np.ndarray, Gappy, Estimate]:
    truth, data = sample()
    return truth, data, optimal_interpolation(data, TRUE, max_observations=10_000)


def test_it_is_the_posterior_of_scikit_learns_gaussian_process(drawn: tuple[np.ndarray, Gappy, Estimate]) -> None:
    _, data, (filled, mean_deviation, _) = drawn
    every, seen = places(), data.observed.ravel()
    # A constant that is nearly unknown stands for the unknown mean.
    kernel = ConstantKernel(TRUE.deviation**2) * RBF([40.0, 40, 40, 2.0]) + ConstantKernel(1e5)
    process = GaussianProcessRegressor(kernel, alpha=TRUE.noise**2, optimizer=None)
    process.fit(every[seen], data.values.ravel()[seen] - 290)
    mean, covariance = process.predict(every, return_cov=True)
    assert filled.deviation is not None
    assert_allclose(filled.values.ravel(), mean + 290, atol=2e-4)
    assert_allclose(filled.deviation.ravel() ** 2, np.diag(covariance), atol=2e-4)
    of_mean = covariance.reshape(6, 480, 6, 480).mean((0, 2)).diagonal()
    assert_allclose(mean_deviation[0].ravel() ** 2, of_mean, atol=2e-4)


def test_a_broader_part_is_that_of_a_sum_of_two_kernels() -> None:
    both = Covariance(1.5, 40.0, 2.0, 0.2, broad=0.3)
    kernel = 0.7 * RBF([40.0, 40, 40, 2.0]) + 0.3 * RBF([160.0, 160, 160, 8.0])
    some = places()[::97]
    assert_allclose(both.correlation(some, some), kernel(some), atol=1e-9)
    assert_allclose(both.in_time(DAYS), kernel(np.column_stack([np.zeros((6, 3)), DAYS])), atol=1e-12)


def test_its_errors_are_as_large_as_it_says(drawn: tuple[np.ndarray, Gappy, Estimate]) -> None:
    truth, data, (filled, _, _) = drawn
    gaps = ~data.observed
    score = ((filled.values - truth) / filled.deviation)[gaps]
    assert 0.8 < np.sqrt(np.square(score).mean()) < 1.25


def test_with_a_third_of_the_observations_the_error_grows_but_stays_far_below_the_spread() -> None:
    truth, data = sample(3, 0.5)
    full = optimal_interpolation(data, TRUE, max_observations=10_000).filled.values
    thinned = optimal_interpolation(data, TRUE, max_observations=500).filled.values
    gaps = ~data.observed
    errors = [np.sqrt(np.square(values - truth)[gaps].mean()) for values in (full, thinned)]
    assert errors[0] <= errors[1] < 0.25 * np.nanstd(truth)


def test_the_likelihood_finds_the_covariance_that_the_fields_were_drawn_from() -> None:
    fitted = fit_covariance(sample(1, 0.6)[1])
    assert_allclose([fitted.length, fitted.duration, fitted.noise], [TRUE.length, TRUE.duration, TRUE.noise], rtol=0.15)
    assert_allclose(fitted.deviation, TRUE.deviation, rtol=0.4)


def test_far_from_all_observations_it_returns_their_mean_and_the_full_variance() -> None:
    _, data = sample()
    values = np.full(data.values.shape, np.nan)
    values[0, :2, :2] = 290.0
    values[0, 0, 0] = 291.0
    near = Covariance(1.5, 10.0, 0.5, 0.1)
    filled = optimal_interpolation(Gappy(values, data.sea, DAYS, GRID), near).filled
    assert filled.deviation is not None
    assert 290 < filled.values[-1, -1, -1] < 291
    assert filled.deviation[-1, -1, -1] > 1.5


def test_the_globe_has_no_edge_at_its_first_meridian() -> None:
    grid = Grid.equiangular(10)
    random = np.random.default_rng(0)
    values = np.where(random.random((2, *grid.shape)) < 0.5, random.standard_normal((2, *grid.shape)), np.nan)
    covariance = Covariance(1.0, 1500.0, 3.0, 0.3)
    sea, days = np.ones(grid.shape, bool), np.arange(2.0)

    def fill(fields: np.ndarray) -> np.ndarray:
        return optimal_interpolation(Gappy(fields, sea, days, grid), covariance, max_observations=3000).filled.values

    # Where tiles begin changes which far observations are taken, and so the last digits.
    assert_allclose(fill(np.roll(values, 7, 2)), np.roll(fill(values), 7, 2), atol=0.02)


def test_a_covariance_is_not_fitted_to_a_handful_of_observations() -> None:
    values = np.full((6, *GRID.shape), np.nan)
    values[0, 0, :5] = 1.0
    with pytest.raises(DataError, match="cannot be fitted to 5 observations"):
        fit_covariance(Gappy(values, np.ones(GRID.shape, bool), DAYS, GRID))


def test_where_there_is_an_observation_the_error_is_at_most_its_noise_however_few_can_be_taken() -> None:
    truth, data = sample(5, 0.6)
    filled = optimal_interpolation(data, TRUE, max_observations=60).filled
    assert filled.deviation is not None
    seen = data.observed
    assert filled.deviation[seen].max() <= TRUE.noise * (1 + 1e-6)
    assert np.sqrt(np.square(filled.values - truth)[seen].mean()) < TRUE.noise


def test_a_fitted_covariance_is_widened_until_withheld_observations_lie_in_their_intervals(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    truth, data = sample(6, 0.5)
    # Structure that no Gaussian covariance has: rough on the scale of points.
    rough = truth + 0.6 * np.abs(np.sin(np.arange(24) * 2.5)) * np.cos(np.arange(20) * 1.9)[:, None]
    gappy = Gappy(np.where(data.observed, rough, np.nan), data.sea, DAYS, GRID)
    monkeypatch.setattr("etesian.fill.optimal_interpolation.fit_covariance", lambda data: TRUE)
    filled, _, covariance = optimal_interpolation(gappy)
    assert covariance.widening > 1.2
    assert filled.deviation is not None
    error = abs(filled.values - rough)[~data.observed]
    stated = filled.deviation[~data.observed]
    assert 0.8 < np.mean(error < 1.645 * stated) < 0.98
    narrow = optimal_interpolation(gappy, replace(covariance, widening=1.0)).filled
    assert narrow.deviation is not None
    assert_allclose(narrow.deviation * covariance.widening, filled.deviation)
    assert_allclose(narrow.values, filled.values)
