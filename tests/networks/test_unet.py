from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from etesian.core import Channel, Fields, Frame, Grid, Layout
from etesian.core.errors import DataError, RecipeError
from etesian.networks.unet import UNet

CHANNELS = (Channel("mean_sea_level_pressure"), Channel("2m_temperature"))

STATICS = (Channel("orography"), Channel("land_sea_mask"))


def network_and_inputs(grid: Grid, **options: object) -> tuple[UNet, Fields]:
    torch.manual_seed(0)
    layout = Layout(CHANNELS, CHANNELS[:1], grid, history=(-24, 0))
    network = UNet(layout, (24, 72), width=4, **options).eval()  # type: ignore[arg-type]
    time = torch.tensor([[0, 86400]]) + torch.arange(3)[:, None] * 86400
    return network, Fields(torch.randn(3, 2, 2, *grid.shape), Frame(CHANNELS, time, grid))


def target(inputs: Fields, *leads: int) -> Frame:
    return Frame(CHANNELS[:1], inputs.frame.time[:, -1:] + torch.tensor(leads) * 3600, inputs.frame.grid)


def test_it_begins_as_damped_persistence_of_the_latest_state() -> None:
    network, inputs = network_and_inputs(Grid(np.arange(30, 72.5, 2.5), np.arange(290, 372.5, 2.5)))
    answer = network(inputs, target(inputs, 72, 24))
    latest = inputs.values[:, -1:, :1]
    torch.testing.assert_close(answer[:, :1], latest * np.exp(-1))
    torch.testing.assert_close(answer[:, 1:], latest * np.exp(-1 / 3))


@pytest.mark.parametrize("shift", [4, 12])
def test_turning_a_periodic_globe_turns_the_answer(shift: int) -> None:
    network, inputs = network_and_inputs(Grid.equiangular(15), maps=0)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    turned = Fields(inputs.values.roll(shift, -1), inputs.frame)
    expected = network(inputs, target(inputs, 24, 72)).roll(shift, -1)
    found = network(turned, target(inputs, 24, 72))
    assert (found - expected).norm() < 1e-5 * expected.norm()


def test_on_a_region_nothing_passes_from_the_eastern_edge_to_the_western() -> None:
    network, inputs = network_and_inputs(Grid(np.arange(0, 40, 2.5), np.arange(0, 200, 2.5)), maps=0)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    # Global normalisation inside the blocks would let everything reach everything.
    for block in network.modules():
        if isinstance(block, torch.nn.GroupNorm):
            block.forward = lambda values: values  # type: ignore[method-assign]
    changed = inputs.values.clone()
    changed[..., -1] += 100
    first, second = (network(Fields(v, inputs.frame), target(inputs, 24)) for v in (inputs.values, changed))
    assert torch.equal(first[..., :8], second[..., :8])
    assert not torch.equal(first[..., -8:], second[..., -8:])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"target_grid": Grid.equiangular(10)}, "UNet predicts on the grid of its inputs"),
        ({"inputs": CHANNELS[1:]}, "its target 'mean_sea_level_pressure' is not among the inputs"),
        ({"grid": Grid.equiangular(180 / 9)}, "needs a multiple of 4 longitudes, not 18"),
    ],
)
def test_a_layout_it_cannot_serve_is_refused(changes: dict[str, Any], message: str) -> None:
    layout = Layout(CHANNELS, CHANNELS[:1], Grid.equiangular(22.5))
    with pytest.raises(RecipeError, match=message):
        UNet(replace(layout, **changes), (24,))


@pytest.mark.parametrize(
    ("options", "name", "shape"),
    [
        ({"width": 6}, "enter.weight", (6, 16, 3, 3)),
        ({"maps": 3}, "enter.weight", (4, 11, 3, 3)),
        ({"maps": 3}, "maps", (3, 8, 16)),
    ],
)
def test_sizes_reach_the_parameters(options: dict[str, int], name: str, shape: tuple[int, ...]) -> None:
    layout = Layout(CHANNELS, CHANNELS[:1], Grid.equiangular(22.5), history=(-24, 0), statics=STATICS)
    network = UNet(layout, (24,), **({"width": 4} | options))
    assert tuple(network.get_parameter(name).shape) == shape


def test_dropout_acts_in_training_alone() -> None:
    answers = []
    for dropout in (0.0, 0.9):
        network, inputs = network_and_inputs(Grid.equiangular(22.5), dropout=dropout, noise=0.0)
        for parameter in network.parameters():
            torch.nn.init.normal_(parameter, std=0.3, generator=torch.Generator().manual_seed(parameter.numel()))
        answers.append((network(inputs, target(inputs, 24)), network.train()(inputs, target(inputs, 24))))
    assert torch.equal(answers[0][0], answers[1][0])
    assert torch.equal(*answers[0])
    assert not torch.equal(*answers[1])


def test_a_lead_it_was_not_built_for_is_named() -> None:
    network, inputs = network_and_inputs(Grid.equiangular(22.5))
    with pytest.raises(DataError, match=r"built for leads of \[24, 72\] h, not 48 h"):
        network(inputs, target(inputs, 48))


def test_noise_is_added_in_training_alone() -> None:
    network, inputs = network_and_inputs(Grid.equiangular(22.5), noise=0.5, dropout=0.0)
    torch.nn.init.normal_(network.leave.weight)
    first, second = (network(inputs, target(inputs, 24)) for _ in range(2))
    assert torch.equal(first, second)
    network.train()
    assert not torch.equal(network(inputs, target(inputs, 24)), first)


def test_only_kernels_are_decayed() -> None:
    network, _ = network_and_inputs(Grid.equiangular(22.5))
    decayed = {name for name, _ in network.named_parameters()} - network.no_decay()
    assert decayed == {name for name, p in network.named_parameters() if p.ndim == 4}
    assert "maps" not in decayed
