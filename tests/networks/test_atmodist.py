"""AtmoDist's encoders, and how it tells lags."""

import numpy as np
import pytest
import torch
from torch import nn

from etesian.core import Channel, Fields, Frame, Grid, Layout
from etesian.core.errors import RecipeError
from etesian.networks.atmodist import AtmoDist, OddsOfDistance, ProportionalOdds, ResidualEncoder, SameConv, pad_same


@pytest.mark.parametrize("size", [5, 6, 7, 8, 9])
@pytest.mark.parametrize(("kernel", "stride"), [(8, 2), (3, 2), (3, 1), (1, 2)])
def test_same_padding_centres_the_kernels_with_the_odd_point_behind(size: int, kernel: int, stride: int) -> None:
    conv = SameConv(1, 1, kernel, stride)
    nn.init.ones_(conv.weight)
    ramp = torch.arange(1.0, size + 1).expand(1, 1, size, size)
    outputs = -(-size // stride)
    before = max((outputs - 1) * stride + kernel - size, 0) // 2
    expected = []
    for place in range(outputs):
        seen = range(place * stride - before, place * stride - before + kernel)
        expected.append(sum(column + 1 for column in seen if 0 <= column < size))
    rows = sum(1 for row in range(-before, kernel - before) if 0 <= row < size)
    assert conv(ramp)[0, 0, 0].tolist() == [rows * value for value in expected]


def test_what_is_padded_for_the_maximum_never_wins() -> None:
    negative = torch.full((1, 1, 6, 6), -5.0)
    assert nn.functional.max_pool2d(pad_same(negative, 3, 2, -torch.inf), 3, 2).unique().tolist() == [-5.0]


@pytest.mark.parametrize(
    ("kind", "channels", "parameters"),
    [("resnet18", 3, 11_176_512), ("resnet50", 3, 23_508_032), ("resnet101", 3, 42_500_160)],
)
def test_resnets_have_as_many_weights_as_published(kind: str, channels: int, parameters: int) -> None:
    with torch.device("meta"):
        encoder = ResidualEncoder(channels, kind)  # type: ignore[arg-type]
    assert sum(p.numel() for p in encoder.parameters()) == parameters


def test_the_small_encoder_has_2_28_million_weights_batch_statistics_included() -> None:
    encoder = ResidualEncoder(2)
    state = encoder.state_dict()
    weights = sum(tensor.numel() for name, tensor in state.items() if not name.endswith("num_batches_tracked"))
    assert round(weights / 1e6, 2) == 2.28


def test_every_layer_gives_features_at_its_resolution() -> None:
    encoder = ResidualEncoder(2).eval()
    maps = torch.zeros(1, 2, 70, 45)
    shapes = {layer: tuple(encoder(maps, layer).shape[1:]) for layer in encoder.layers()}
    assert len(shapes) == 25
    assert shapes["stem"] == shapes["1.6"] == (16, 18, 12)
    assert (shapes["2.1"], shapes["3.6"], shapes["4.6"]) == ((32, 9, 6), (64, 5, 3), (128, 3, 2))
    assert torch.equal(encoder(maps), encoder(maps, "4.6"))


def test_a_layer_that_is_not_there_is_refused() -> None:
    with pytest.raises(RecipeError, match=r"no layer '4.7'"):
        ResidualEncoder(2)(torch.zeros(1, 2, 64, 64), "4.7")


CHANNELS = (Channel("vorticity", 850), Channel("divergence", 850))
GRID = Grid(np.linspace(-31, 31, 64), np.arange(64.0))


def pair(batch: int = 2) -> Fields:
    time = torch.tensor([[0, 6 * 3600]] * batch)
    return Fields(torch.randn(batch, 2, 2, 64, 64), Frame(CHANNELS, time, GRID))


@pytest.mark.parametrize("order", ["none", "ordinal", "distance"])
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


def test_what_is_farther_apart_is_never_told_as_nearer_in_time() -> None:
    torch.manual_seed(0)
    head = OddsOfDistance(5).eval()
    torch.testing.assert_close(head(torch.ones(1)).exp(), torch.full((1, 5), 0.2))
    for parameter in head.parameters():
        torch.nn.init.normal_(parameter)
    later = head(torch.tensor([0.0, 1e-3, 0.1, 1.0, 40.0])).exp()
    torch.testing.assert_close(later.sum(dim=1), torch.ones(5))
    assert (later.cumsum(dim=1)[:, :-1].diff(dim=0) <= 0).all()
    assert (later @ torch.arange(5.0)).diff().min() > 0


def test_a_head_of_the_distance_sees_nothing_but_the_distance() -> None:
    network = AtmoDist(Layout(CHANNELS, (), GRID), lags=5, order="distance").eval()
    assert network.parts()["head"] == {"answer.first", "answer.gaps", "answer.slope"}
    states = pair()
    one, other = (network.features(states.values[:, i]) for i in (0, 1))
    torch.testing.assert_close(network(states), network.answer((one - other).square().mean(dim=(1, 2, 3))))
    turned = Fields(states.values.flip(1), states.frame)
    torch.testing.assert_close(network(turned), network(states))
