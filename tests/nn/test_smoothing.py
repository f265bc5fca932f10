"""Smoothing of gappy fields."""

import torch

from etesian.nn.smoothing import ObservedSmoothing


def test_smoothing_is_the_weighted_mean_of_the_observations_drawn_to_zero() -> None:
    torch.manual_seed(0)
    values, valid = torch.randn(1, 4, 1, 5, 6), torch.rand(1, 4, 1, 5, 6) < 0.4
    smoothing = ObservedSmoothing([(1.3, 2.0)])
    days = torch.tensor([[0.0, 1.0, 2.5, 6.0]])
    for periodic in (False, True):
        found = smoothing(values.masked_fill(~valid, 0), valid, days, periodic=periodic)
        total = count = torch.zeros(())
        for t, i, j in valid[0, :, 0].nonzero().tolist():
            east = abs(j - 1)
            east = min(east, 6 - east) if periodic else east
            weight = torch.exp(-((i - 3.0) ** 2 + east**2) / (2 * 1.3**2) - (days[0, t] - 2.5) ** 2 / (2 * 2.0**2))
            total, count = total + weight * values[0, t, 0, i, j], count + weight
        prior = smoothing.log_prior.exp()[0]
        torch.testing.assert_close(found.values[0, 2, 0, 0, 3, 1], total / (count + prior))
        torch.testing.assert_close(found.amount[0, 2, 0, 0, 3, 1], torch.log1p(count))
