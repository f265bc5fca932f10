"""Kriging against scikit-learn's Gaussian process, and what must change nothing."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import ConstantKernel, Matern
from torch import Tensor

from etesian.core import Channel, Fields, Frame, Grid, Layout
from etesian.networks.gapfiller import GapFiller
from etesian.networks.kriging import LocalKriging
from etesian.networks.kriging_fit import Sample, fit_covariance

GRID = Grid(40 + 0.2 * np.arange(6), 3 + 0.25 * np.arange(9))
DAYS = torch.tensor([[0.0, 1.0, 2.5]])
KERNELS = [(0.3, 30.0, 0.8), (1.2, 150.0, 3.0)]
SST = Channel("sea_surface_temperature")


def places(grid: Grid, days: np.ndarray) -> np.ndarray:
    """Return every time and point as (x, y, z in km, days)."""
    lat, lon = np.radians(np.meshgrid(grid.latitude, grid.longitude, indexing="ij"))
    sphere = 6371.229 * np.stack([np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)], -1).reshape(-1, 3)
    return np.concatenate([np.column_stack([sphere, np.full(len(sphere), day)]) for day in days])


def gappy(grid: Grid = GRID, times: int = 3, share: float = 0.3) -> tuple[Tensor, Tensor]:
    random = torch.Generator().manual_seed(2)
    shape = (1, times, 1, *grid.shape)
    return torch.randn(shape, generator=random), torch.rand(shape, generator=random) < share


@pytest.mark.parametrize("block", [1, 4])
def test_with_all_observations_it_is_the_posterior_of_scikit_learns_gaussian_process(block: int) -> None:
    values, valid = gappy()
    # So many neighbours that none is left out; some are found in both reaches.
    kriging = LocalKriging(1, KERNELS, noise=0.2, neighbors=((1.0, 60), (0.3, 9)), block=block)
    with torch.no_grad():
        mean, variance = kriging(values, valid, DAYS, GRID)
    every, seen = places(GRID, DAYS[0].numpy()), valid.numpy().ravel()
    kernel = ConstantKernel(1e5) + sum(
        (ConstantKernel(s) * Matern([L, L, L, t], nu=1.5) for s, L, t in KERNELS[1:]),
        ConstantKernel(0.3) * Matern([30.0, 30.0, 30.0, 0.8], nu=1.5),
    )
    process = GaussianProcessRegressor(kernel, alpha=0.04, optimizer=None)
    process.fit(every[seen], values.numpy().ravel()[seen])
    expected, deviation = process.predict(every, return_std=True)
    np.testing.assert_allclose(mean.numpy().ravel(), expected, atol=1e-4)
    np.testing.assert_allclose(variance.numpy().ravel(), deviation**2, atol=1e-4)


def turned(grid: Grid, days: np.ndarray) -> np.ndarray:
    """Return every time and point as (km east, north and up of the middle of the points, days)."""
    every = places(grid, days)
    middle = every[: grid.shape[0] * grid.shape[1], :3].mean(0)
    up = middle / np.linalg.norm(middle)
    east = np.cross([0.0, 0.0, 1.0], up)
    east /= np.linalg.norm(east)
    return np.column_stack([(every[:, :3] - middle) @ np.stack([east, np.cross(up, east), up], -1), every[:, 3]])


def test_stretched_northward_and_of_a_variance_known_but_for_a_factor_it_is_the_dense_posterior_of_both() -> None:
    grid = Grid(40 + 0.2 * np.arange(8), 3 + 0.25 * np.arange(8))
    values, valid = gappy(grid)
    # The points of one time are one block.
    kriging = LocalKriging(1, KERNELS, noise=0.2, certainty=5.0, neighbors=((1.0, 100),), block=8)
    with torch.no_grad():
        kriging.stretch_logarithms[:] = torch.tensor([0.4, 2.5]).log() / 10
        mean, variance = kriging(values, valid, DAYS, grid)
    every, seen = turned(grid, DAYS[0].numpy()), valid.numpy().ravel()
    total = sum(
        s * Matern([L, L * stretch, L, t], nu=1.5)(every)
        for (s, L, t), stretch in zip(KERNELS, (0.4, 2.5), strict=True)
    )
    own, cross, y = total[np.ix_(seen, seen)] + 0.04 * np.eye(seen.sum()), total[seen], values.numpy().ravel()[seen]
    one = np.linalg.solve(own, np.ones(len(y)))
    middle = one @ y / one.sum()
    weights = np.linalg.solve(own, y - middle)
    error = 1.5 - (cross * np.linalg.solve(own, cross)).sum(0) + (1 - one @ cross) ** 2 / one.sum()
    factor = (5.0 + weights @ (y - middle)) / (5.0 + len(y) - 1)
    assert factor > 1.05
    np.testing.assert_allclose(mean.numpy().ravel(), middle + cross.T @ weights, atol=1e-4)
    np.testing.assert_allclose(variance.numpy().ravel(), factor * error, rtol=1e-4)


def test_where_fields_vary_more_than_the_covariance_says_it_errs_more_unless_that_is_certain() -> None:
    values, valid = gappy()
    for certainty, times in ((1e-6, 100.0), (float("inf"), 1.0)):
        kriging = LocalKriging(1, KERNELS, noise=0.2, certainty=certainty)
        with torch.no_grad():
            found, larger = kriging(values, valid, DAYS, GRID), kriging(10 * values, valid, DAYS, GRID)
        torch.testing.assert_close(larger.values, 10 * found.values, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(larger.variance, times * found.variance, rtol=1e-4, atol=0)


def test_weights_of_earlier_versions_are_the_same_north_and_east_and_certain_of_their_variances() -> None:
    values, valid = gappy()
    earlier = LocalKriging(1, KERNELS, noise=0.2)
    state = {name: earlier.state_dict()[name] for name in ("logarithms", "noise_logarithm", "fitted")}
    kriging = LocalKriging(1, [(1.0, 1.0, 1.0)] * 2, certainty=20.0)
    with torch.no_grad():
        kriging.stretch_logarithms += 1
        kriging.load_state_dict(state)
        for found, expected in zip(kriging(values, valid, DAYS, GRID), earlier(values, valid, DAYS, GRID), strict=True):
            assert torch.equal(found, expected)


def test_what_lies_beneath_clouds_and_times_without_observations_change_nothing() -> None:
    values, valid = gappy(times=3)
    valid[:, 1] = False
    kriging = LocalKriging(1, KERNELS, neighbors=((1.0, 8), (0.5, 6)), block=2)
    with torch.no_grad():
        whole = kriging(values, valid, DAYS, GRID)
        below = kriging(torch.where(valid, values, torch.nan), valid, DAYS, GRID)
        without = kriging(values[:, ::2], valid[:, ::2], DAYS[:, ::2], GRID)
        nothing = kriging(values, torch.zeros_like(valid), DAYS, GRID)
    for found, same, alone in zip(whole, below, without, strict=True):
        assert torch.equal(found, same)
        torch.testing.assert_close(found[:, ::2], alone)
    assert (nothing.values == 0).all()
    torch.testing.assert_close(nothing.variance, torch.full_like(nothing.variance, 1.5))


def test_the_error_is_least_where_there_is_an_observation_and_no_more_than_its_noise() -> None:
    values, valid = gappy()
    with torch.no_grad():
        found = LocalKriging(1, KERNELS, noise=0.2)(values, valid, DAYS, GRID).variance
    assert found[valid].max() < 0.2**2
    assert found[~valid].min() > 0.2**2
    assert found.max() < 3 * 1.5


def test_the_globe_has_no_seam() -> None:
    globe = Grid.equiangular(15)
    values, valid = gappy(globe, times=2)
    kriging = LocalKriging(1, [(1.0, 2000.0, 2.0)], neighbors=((1.0, 400),))
    with torch.no_grad():
        found = kriging(values, valid, DAYS[:, :2], globe).values
        turned = kriging(values.roll(7, -1), valid.roll(7, -1), DAYS[:, :2], globe).values
    torch.testing.assert_close(turned, found.roll(7, -1), rtol=0, atol=1e-5)


def test_gradients_are_those_of_finite_differences() -> None:
    values, valid = gappy()
    kriging = LocalKriging(1, KERNELS, noise=0.2, certainty=5.0, neighbors=((1.0, 12), (0.5, 6)))
    kriging.pace = lambda channel: 40.0  # type: ignore[method-assign]  # So that the neighbours stay the same.

    def loss() -> Tensor:
        mean, variance = kriging(values.double(), valid, DAYS, GRID)
        return (mean.square() + variance)[0, 1].sum()

    loss().backward()
    for parameter in kriging.parameters():
        gradient, place = parameter.grad, (0,) * parameter.ndim
        assert gradient is not None
        assert torch.isfinite(gradient).all()
        with torch.no_grad():
            ends = []
            for step in (1e-3, -2e-3):
                parameter[place] += step
                ends.append(loss())
            parameter[place] += 1e-3
        torch.testing.assert_close(float(gradient[place]), float(ends[0] - ends[1]) / 2e-3, rtol=2e-2, atol=1e-3)


def test_the_likelihood_of_hidden_observations_finds_the_covariance_of_the_fields() -> None:
    random = np.random.default_rng(1)
    grid, days = Grid(40 + 0.1 * np.arange(16), 3 + 0.1 * np.arange(20)), np.arange(5.0)
    kernel = Matern([60.0, 30.0, 60.0, 3.0], nu=1.5)
    every = turned(grid, days)
    root = np.linalg.cholesky(kernel(every) + 1e-8 * np.eye(len(every)))
    fields = (root @ random.standard_normal(len(every))).reshape(1, 5, 1, *grid.shape)
    noisy = fields + 0.2 * random.standard_normal(fields.shape)
    clear = np.repeat(np.repeat(random.random((1, 5, 1, 4, 5)) < 0.7, 4, 3), 4, 4)
    sample = Sample(torch.from_numpy(noisy), torch.from_numpy(clear), torch.from_numpy(days[None]), grid)
    kriging = LocalKriging(1, [(0.5, 20.0, 1.0)], noise=0.5, neighbors=((1.0, 24), (0.2, 8)))
    before = kriging.kernels()[0, 0].tolist()
    loss = fit_covariance(kriging, [sample], points=600)
    variance, length, time = kriging.kernels()[0, 0].tolist()
    assert before != [variance, length, time]
    assert float(kriging.noise()[0]) == pytest.approx(0.2, rel=0.3)
    # What likelihood tells well is how steeply correlation falls from 1.
    assert variance**0.5 / length == pytest.approx(1 / 60, rel=0.3)
    assert length / time == pytest.approx(20, rel=0.4)
    assert float(kriging.stretch()[0, 0]) == pytest.approx(0.5, rel=0.3)
    assert np.isfinite(loss)
    assert kriging.fitted


def test_an_untrained_network_gives_the_kriged_fields_and_their_variance() -> None:
    grid = Grid(40 + 0.25 * np.arange(8), 3 + 0.25 * np.arange(8))
    network = GapFiller(
        Layout((SST,), (SST,), grid), dim=16, depth=1, heads=2, hidden=8, residual="kriging", daily=True, variance=True,
        kernels=KERNELS,
    ).eval()  # fmt: skip
    assert network.wants_fit
    assert network.kriging is not None
    values, valid = gappy(grid, times=30)
    time = 86400 * (365 + torch.arange(30))[None]
    inputs = Fields(values, Frame((SST,), time, grid), valid)
    kriged = network.kriging(values, valid, time / 86400, grid)
    with torch.no_grad():
        days = network.distribution(inputs, inputs.frame)
        month = network.distribution(inputs, replace(inputs.frame, time=time[:, :1]))
    assert days.variance is not None
    torch.testing.assert_close(days.mean, kriged.values)
    torch.testing.assert_close(days.variance, kriged.variance)
    torch.testing.assert_close(month.mean, kriged.values.mean(1, keepdim=True))
