"""The downscaling task keeps the static fields it was trained with, and weighs rows of the fine grid."""

from types import SimpleNamespace

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


class Adds(Network):
    """Gives given maps, one for each sample, whatever comes in."""

    def __init__(self, layout: Layout, maps: torch.Tensor) -> None:
        super().__init__()
        self.layout, self.maps = layout, maps

    def forward(
        self, inputs: Fields, target: Frame, *, forcings: Fields | None = None, statics: Fields | None = None
    ) -> torch.Tensor:
        return self.maps

    def begin_with_nothing(self) -> None:
        """Do as if."""


@pytest.mark.parametrize(("factor", "share"), [(2.0, 0.5), (0.5, 1.0), (-1.0, 0.0)])
def test_of_what_the_network_adds_the_share_is_kept_that_errs_least_on_the_validation_data(
    factor: float, share: float
) -> None:
    layout = Layout(CHANNELS, CHANNELS, COARSE, target_grid=FINE)
    batch = Batch(fields(COARSE, CHANNELS, 280, 0), fields(FINE, CHANNELS, 280, 1))
    assert batch.targets is not None
    valid = torch.rand(batch.targets.values.shape) > 0.3
    interpolated = DownscaleTask(Interpolation, layout, STATISTICS).predict(batch, batch.targets.frame).values
    lacking = (batch.targets.values - interpolated) / 10
    maps = torch.where(valid, factor * lacking, 7.0)
    task = DownscaleTask(
        lambda given: Downscaler(given, lambda fine: Adds(fine, maps), shrink=True), layout, STATISTICS
    )
    gappy = Batch(
        batch.inputs, Fields(batch.targets.values.masked_fill(~valid, float("nan")), batch.targets.frame, valid)
    )
    task._trainer = SimpleNamespace(  # type: ignore[assignment]
        val_dataloaders=[gappy], strategy=SimpleNamespace(reduce=lambda sums, reduce_op: sums)
    )
    task.eval().on_validation_epoch_start()
    predicted = task.predict(batch, batch.targets.frame).values
    torch.testing.assert_close(predicted, interpolated + 10 * share * maps, rtol=1e-5, atol=1e-3)
    assert "network.share" in task.state_dict()
    learned = task.train().predict(batch, batch.targets.frame).values
    torch.testing.assert_close(learned, interpolated + 10 * maps, rtol=1e-5, atol=1e-3)


def test_there_is_nothing_to_shrink_without_a_residual() -> None:
    with pytest.raises(RecipeError, match="shrink needs an interpolated field that the network adds to"):
        Downscaler(LAYOUT, lambda fine: Interpolation(fine), residual=False, shrink=True)


def test_a_regression_is_fitted_to_the_times_of_a_datamodule() -> None:
    coarse = Grid.equiangular(22.5)
    layout = Layout(CHANNELS, CHANNELS, coarse, target_grid=coarse.refined(2))
    task = DownscaleTask(
        lambda own: Downscaler(
            own, lambda fine: ClimaX(fine, patch=4, dim=8, depth=1, heads=2), interpolation="regression"
        ),
        layout,
        STATISTICS,
    )
    task._trainer = SimpleNamespace(datamodule=None, optimizers=[], lr_scheduler_configs=[])  # type: ignore[assignment]
    with pytest.raises(
        RecipeError, match="a regression is fitted to the times to train on: give fit a DownscalingData"
    ):
        task.on_fit_start()
