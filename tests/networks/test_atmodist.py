"""AtmoDist's scores of lags are what its two heads promise."""

import numpy as np
import pytest
import torch

from etesian.core import Channel, Fields, Frame, Grid, Layout
from etesian.core.errors import RecipeError
from etesian.networks.atmodist import AtmoDist, ProportionalOdds

CHANNELS = (Channel("vorticity", 850), Channel("divergence", 850))
GRID = Grid(np.linspace(-31, 31, 64), np.arange(64.0))


def pair(batch: int = 2) -> Fields:
    time = torch.tensor([[0, 6 * 3600]] * batch)
    return Fields(torch.randn(batch, 2, 2, 64, 64), Frame(CHANNELS, time, GRID))


@pytest.mark.parametrize("order", ["none", "ordinal"])
def test_a_patch_of_any_size_gets_a_score_for_every_lag(order: str) -> None:
    grid = Grid(np.linspace(-40, 40, 81), np.arange(33.0))
    network = AtmoDist(Layout(CHANNELS, (), grid), lags=5, order=order)  # type: ignore[arg-type]
    values = torch.randn(3, 2, 2, 81, 33)
    assert network(Fields(values, Frame(CHANNELS, torch.zeros(3, 2, dtype=torch.int64), grid))).shape == (3, 5)


def test_the_order_of_the_two_states_matters_and_both_reach_the_scores() -> None:
    torch.manual_seed(0)
    network = AtmoDist(Layout(CHANNELS, (), GRID), lags=3).eval()
    states = pair()
    scores = network(states)
    assert not torch.allclose(scores, network(Fields(states.values.flip(1), states.frame)))
    for place in range(2):
        values = states.values.clone()
        values[:, place] += torch.randn_like(values[:, place])
        assert not torch.allclose(scores, network(Fields(values, states.frame)))


def test_proportional_odds_are_probabilities_whose_log_odds_differ_by_the_thresholds() -> None:
    torch.manual_seed(0)
    head = ProportionalOdds(4, 6).double()
    features = torch.randn(7, 4, dtype=torch.float64) * 30
    probability = head(features).exp()
    assert torch.allclose(probability.sum(1), torch.ones(7, dtype=torch.float64), atol=1e-12)
    cumulative = probability.cumsum(1)[:, :-1]
    log_odds = torch.log(cumulative / (1 - cumulative))
    expected = torch.arange(5) - 2.0 - head.position(features)
    near = expected.abs() < 12
    assert torch.allclose(log_odds[near], expected[near].double(), atol=1e-3)


def test_scores_far_beyond_the_thresholds_stay_finite_with_a_gradient() -> None:
    head = ProportionalOdds(1, 4)
    with torch.no_grad():
        head.position.weight.fill_(1.0)
    features = torch.tensor([[-300.0], [300.0]], requires_grad=True)
    scores = head(features)
    scores.sum().backward()
    assert torch.isfinite(scores).all()
    assert features.grad is not None
    assert torch.isfinite(features.grad).all()


def test_one_lag_is_refused() -> None:
    with pytest.raises(RecipeError, match="needs two at least, not lags: 1"):
        AtmoDist(Layout(CHANNELS, (), GRID), lags=1)
