"""Residual encoders have the sizes that their papers give, and TensorFlow's padding."""

import pytest
import torch
from torch import nn

from etesian.core.errors import RecipeError
from etesian.networks.residual import ResidualEncoder, SameConv, pad_same


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
