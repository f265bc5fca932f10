"""The downscaling task keeps the static fields it was trained with, and weighs rows of the fine grid."""

import numpy as np
import pytest
import torch

from etesian.core import Batch, Channel, Fields, Frame, Grid, Layout
from etesian.core.errors import RecipeError
from etesian.core.statistics import Statistics
from etesian.downscale.baselines import Interpolation
from etesian.downscale.task import DownscaleTask
from etesian.networks.climax import ClimaX
from etesian.networks.downscaler import Downscaler
from etesian.networks.network import Network

CHANNELS, STATIC = (Channel("2m_temperature"),), (Channel("orography"),)
COARSE, FINE = Grid.equiangular(45), Grid.equiangular(22.5)
LAYOUT = Layout(CHANNELS, CHANNELS, COARSE, STATIC, target_grid=FINE)
STATISTICS = Statistics((*CHANNELS, *STATIC), np.array([280.0, 500.0]), np.array([10.0, 300.0]))


def network(layout: Layout) -> Network:
    return Downscaler(layout, lambda fine: ClimaX(fine, patch=4, dim=8, depth=1, heads=2, dropout=0, drop_path=0))


def fields(grid: Grid, channels: tuple[Channel, ...], mean: float, seed: int) -> Fields:
    values = mean + 10 * torch.randn(2, 1, 1, *grid.shape, generator=torch.Generator().manual_seed(seed))
    return Fields(values, Frame(channels, torch.tensor([[0], [86400]]), grid))


def test_a_trained_task_predicts_from_coarse_fields_alone_what_it_predicts_with_statics() -> None:
    torch.manual_seed(0)
    task = DownscaleTask(network, LAYOUT, STATISTICS).eval()
    height = fields(FINE, STATIC, 500, 2)
    height = Fields(height.values[:1].expand(2, -1, -1, -1, -1), height.frame)
    batch = Batch(fields(COARSE, CHANNELS, 280, 0), fields(FINE, CHANNELS, 280, 1), statics=height)
    assert batch.targets is not None
    task.on_train_batch_start(batch, 0)
    expected = task.predict(batch, batch.targets.frame).values
    assert torch.equal(task.predict(Batch(batch.inputs), batch.targets.frame).values, expected)
    again = DownscaleTask(network, LAYOUT, STATISTICS, **task.options()).eval()
    again.load_state_dict(task.state_dict())
    assert torch.equal(again.predict(Batch(batch.inputs), batch.targets.frame).values, expected)


def test_the_loss_of_bilinear_interpolation_is_its_error_weighted_by_the_fine_rows() -> None:
    task = DownscaleTask(Interpolation, LAYOUT, STATISTICS)
    height = fields(FINE, STATIC, 500, 2)
    batch = Batch(fields(COARSE, CHANNELS, 280, 0), fields(FINE, CHANNELS, 280, 1), statics=height)
    assert batch.targets is not None
    error = task.predict(batch, batch.targets.frame).values - batch.targets.values
    rows = torch.from_numpy(FINE.area_weights)[:, None]
    expected = (rows * (error / 10).double().square()).mean().item()
    assert task.loss(batch)[0].item() == pytest.approx(expected, rel=1e-5)


def test_a_layout_of_one_grid_is_refused() -> None:
    with pytest.raises(RecipeError, match="DownscaleTask needs data on two grids"):
        DownscaleTask(network, Layout(CHANNELS, CHANNELS, COARSE), STATISTICS)
