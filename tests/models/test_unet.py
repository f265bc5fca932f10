import numpy as np
import pytest
import torch

from etesian.core import Channel, Fields, Frame, Grid, Layout
from etesian.core.errors import DataError
from etesian.models.unet import UNet

CHANNELS = (Channel("mean_sea_level_pressure"), Channel("2m_temperature"))


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
