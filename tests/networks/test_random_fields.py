"""Random fields have the covariance that they are drawn from, and kriging misses of them what it says it misses."""

from itertools import product

import numpy as np
import pytest
import torch

from etesian.core import Grid
from etesian.networks.kriging import LocalKriging
from etesian.networks.random_fields import Draw, embedded, random_field, standard_departures, white_noise

GRID = Grid(40 + 0.2 * np.arange(6), 3 + 0.25 * np.arange(6))
DAYS = np.array([11000.0, 11001.0, 11002.5])
KERNELS = np.array([(0.3, 30.0, 0.8, 0.5), (1.2, 150.0, 3.0, 1.6)])
PLAIN = [(s, length, days) for s, length, days, _ in KERNELS.tolist()]
MANY = 400


def apart(grid: Grid, stretch: float) -> np.ndarray:
    """Return the distances of all pairs of points as they count, km."""
    north = 6371.229 * np.radians(grid.latitude)[:, None] + 0 * grid.longitude
    east = 6371.229 * np.radians(grid.longitude) + 0 * north
    middle = np.cos(np.radians((grid.latitude[:, None] + grid.latitude) / 2)).repeat(6, 0).repeat(6, 1)
    return np.hypot((east.ravel()[:, None] - east.ravel()) * middle, (north.ravel()[:, None] - north.ravel()) / stretch)


@pytest.mark.parametrize(("south", "stretch"), list(product((-1.0, 40.0, 72.0), (0.4, 1.0, 1.6, 3.0))))
def test_near_points_are_as_far_apart_as_counts_at_every_latitude(south: float, stretch: float) -> None:
    grid = Grid(south + 0.2 * np.arange(6), 359 + 0.25 * np.arange(6))
    points = embedded(grid, stretch)
    np.testing.assert_allclose(np.linalg.norm(points[:, None] - points, axis=-1), apart(grid, stretch), rtol=0.01)


def covariance() -> np.ndarray:
    """Return the sum of the kernels between all times and points."""
    far, total = np.abs(DAYS[:, None] - DAYS).repeat(36, 0).repeat(36, 1), np.zeros((108, 108))
    for variance, length, duration, stretch in KERNELS:
        h = np.sqrt(3) * np.hypot(np.tile(apart(GRID, stretch) / length, (3, 3)), far / duration)
        total += variance * (1 + h) * np.exp(-h)
    return total


def test_fields_have_the_covariance_of_their_kernels_in_space_and_time() -> None:
    fields = torch.stack([
        random_field(Draw(3, number, 0), KERNELS, GRID, DAYS, np.arange(36)).flatten() for number in range(MANY)
    ]).double()  # fmt: skip
    expected = covariance()
    found = (fields.T @ fields / MANY).numpy()
    # Of so many fields a variance is uncertain by its √(2 / 400).
    assert np.abs(found - expected).max() < 3 * 1.5 * (2 / MANY) ** 0.5
    assert np.sqrt(np.mean((found - expected) ** 2)) < 1.5 * (2 / MANY) ** 0.5
    assert float((fields**4).mean() / fields.square().mean() ** 2) == pytest.approx(3, abs=0.1)


def test_a_field_is_the_same_wherever_and_whenever_it_is_looked_at() -> None:
    draw, part = Draw(3, 1, 0), np.array([20, 27, 7])
    whole = random_field(draw, KERNELS, GRID, DAYS, np.arange(36))
    round_the_globe = Grid(GRID.latitude, GRID.longitude + 360)
    torch.testing.assert_close(
        random_field(draw, KERNELS, round_the_globe, DAYS[1:], part), whole[1:, part], rtol=0, atol=1e-4
    )
    for other in (Draw(4, 1, 0), Draw(3, 2, 0), Draw(3, 1, 1)):
        assert abs(random_field(other, KERNELS, GRID, DAYS, np.arange(36)) - whole).max() > 0.5
    assert (white_noise(draw, -86400, (4, 5)) == white_noise(draw, -86400, (4, 5))).all()
    assert (white_noise(draw, 0, (4, 5)) != white_noise(draw, 86400, (4, 5))).all()


def test_what_kriging_misses_of_fields_has_the_covariance_of_the_posterior() -> None:
    # One block for each time, which sees all observations.
    kriging = LocalKriging(1, PLAIN, noise=0.2, neighbors=((1.0, 100),), block=6)
    with torch.no_grad():
        kriging.stretch_logarithms[:] = torch.from_numpy(np.log(KERNELS[:, 3])) / 10
    valid = torch.rand(3, 6, 6, generator=torch.Generator().manual_seed(0)) < 0.2
    draws = [Draw(0, number, 0) for number in range(MANY)]
    fields = torch.stack([random_field(draw, KERNELS, GRID, DAYS, np.arange(36)) for draw in draws], -1)
    fields = fields.view(3, 6, 6, MANY)
    white = np.stack([[white_noise(draw, time, (6, 6)) for time in range(3)] for draw in draws], -1)
    noise = 0.2 * torch.from_numpy(white).float()
    every = np.ones((3, 6, 6), bool)
    found = standard_departures(kriging, 0, fields, noise, valid, torch.from_numpy(DAYS), GRID, every)
    deviation = found.double().square().mean(-1).sqrt()
    # Pointwise it is what is stated, also at observations, ...
    assert abs(deviation - 1).max() < 5 / (2 * MANY) ** 0.5
    assert abs(float(deviation.square().mean()) - 1) < 0.015
    with torch.no_grad():
        stated = kriging(torch.zeros(1, 3, 1, 6, 6), valid[None, :, None], torch.from_numpy(DAYS)[None], GRID)
        assert stated.variance[0, :, 0][valid].max() < 0.2**2
    # ... and of means it is that of the dense posterior, which independent errors would make far smaller.
    departures = found * stated.variance[0, :, 0].sqrt()[..., None]
    total = covariance()
    seen = valid.numpy().ravel()
    own = total[np.ix_(seen, seen)] + 0.04 * np.eye(seen.sum())
    ones, cross = np.ones(seen.sum()), total[seen].mean(1)
    inverse = np.linalg.inv(own)
    mean_error = total.mean() - cross @ inverse @ cross + (1 - ones @ inverse @ cross) ** 2 / (ones @ inverse @ ones)
    means = departures.flatten(0, 2).mean(0)
    assert float(means.square().mean()) == pytest.approx(mean_error, rel=0.2)
    assert float(stated.variance.mean()) / 108 < 0.3 * mean_error


def test_nothing_is_kriged_that_nobody_asks_for() -> None:
    kriging = LocalKriging(1, PLAIN, block=2)
    fields, asked = torch.randn(3, 6, 6, 2), np.zeros((3, 6, 6), bool)
    asked[1, 2, 3] = True
    valid, noise = torch.rand(3, 6, 6) < 0.3, torch.zeros_like(fields)
    found = standard_departures(kriging, 0, fields, noise, valid, torch.from_numpy(DAYS), GRID, asked)
    every = standard_departures(kriging, 0, fields, noise, valid, torch.from_numpy(DAYS), GRID, np.ones_like(asked))
    assert torch.equal(found[1, 2:4, 2:4], every[1, 2:4, 2:4])
    assert found.count_nonzero() == 8
    nothing = standard_departures(
        kriging, 0, fields, noise, torch.zeros_like(valid), torch.from_numpy(DAYS), GRID, asked
    )
    torch.testing.assert_close(nothing, fields / 1.5**0.5)
