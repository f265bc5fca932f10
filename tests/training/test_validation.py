"""Validation and `evaluate` weigh alike, so that the same fields have the same error in both."""

from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from etesian.core import Batch, Channel, Fields, Frame, Grid, Layout
from etesian.core.statistics import Statistics
from etesian.downscale.baselines import Interpolation
from etesian.downscale.task import DownscaleTask, SuperResolutionTask
from etesian.fill.task import GapFillTask
from etesian.forecast.baselines import Persistence
from etesian.forecast.data import ForecastData
from etesian.forecast.run import predict_to
from etesian.forecast.task import ForecastTask
from etesian.networks.gapfiller import GapFiller
from etesian.samples.patches import block_mean
from etesian.scores.score import score
from etesian.scores.weights import WHOLE_DOMAIN, point_weights
from etesian.store.reader import Store

SST = Channel("sea_surface_temperature")
FINE = Grid.equiangular(22.5)
COARSE = Grid(FINE.latitude.reshape(-1, 2).mean(1), FINE.longitude.reshape(-1, 2).mean(1))


def validated(task: L.LightningModule, data: Any) -> dict[str, float]:
    trainer = L.Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False)
    given = {"datamodule": data} if isinstance(data, L.LightningDataModule) else {"dataloaders": data}
    return dict(trainer.validate(task, verbose=False, **given)[0])


@pytest.mark.parametrize("weights", ["area", "cosine", "uniform"])
def test_a_forecast_has_the_error_of_its_report_however_the_loss_weighs(
    gappy_store: str, tmp_path: Path, weights: Any
) -> None:
    store = Store(gappy_store)
    days = [("2001-01-01", "2001-01-05"), ("2001-01-06", "2001-01-12")]
    data = ForecastData([gappy_store], train=days[0], validate=days[1], leads=[6, 24], batch_size=5)
    task = ForecastTask(Persistence, data.layout, data.statistics, latitude_weights=weights)
    logged = validated(task, data)
    dataset = data.dataset("validate")
    initial = np.array([int(dataset[[pick]].inputs.frame.time[0, -1]) for pick in dataset.picks])
    predict_to(task, store, str(tmp_path / "out.zarr"), initial, (6, 24), source={"run": "persistence"})
    scores = score({"persistence": tmp_path / "out.zarr"}, gappy_store, progress=False)
    for channel in store.channels:
        for lead in (6, 24):
            expected = float(scores.rmse.sel(channel=str(channel), lead_time=lead).isel(forecast=0, region=0))
            assert logged[f"val_rmse/{channel}/{lead}h"] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("kind", ["downscaling", "super-resolution"])
def test_fine_fields_have_the_error_of_their_report(kind: str) -> None:
    channel = (Channel("2m_temperature"),)
    random = torch.Generator().manual_seed(0)
    time = 86400 * torch.arange(3)[:, None]
    fine = Fields(280 + 10 * torch.randn(3, 1, 1, *FINE.shape, generator=random), Frame(channel, time, FINE))
    batch = Batch(block_mean(fine, 2), fine)
    layout = Layout(channel, channel, batch.inputs.frame.grid, target_grid=FINE)
    statistics = Statistics(channel, np.array([280.0]), np.array([10.0]))
    task: DownscaleTask | SuperResolutionTask = DownscaleTask(
        Interpolation, layout, statistics, latitude_weights="cosine"
    )
    if kind == "super-resolution":
        task = SuperResolutionTask(Interpolation, layout, statistics, log1p=False)
    halves = [
        Batch(*(Fields(part.values[at], Frame(channel, time[at], part.frame.grid)) for part in (batch.inputs, fine)))
        for at in (slice(2), slice(2, 3))
    ]
    logged = validated(task, DataLoader(halves, batch_size=None))  # type: ignore[arg-type]
    made = task.predict(batch, fine.frame).to_xarray(initial=time[:, 0].numpy())
    truth = fine.to_xarray(initial=time[:, 0].numpy()).isel(prediction_timedelta=0, drop=True)
    scores = score({"bilinear": made}, truth, progress=False)
    expected = float(scores.rmse.isel(forecast=0, lead_time=0, channel=0, region=0))
    assert logged["val_rmse/2m_temperature/0h"] == pytest.approx(expected, rel=1e-5)


def test_tiles_of_filled_gaps_add_up_to_the_error_over_all_of_them() -> None:
    torch.manual_seed(0)
    grid = Grid(np.arange(10.0, 70.0, 3.75), np.arange(0.0, 30.0, 3.75))
    statistics = Statistics((SST,), np.array([290.0]), np.array([3.0]))
    small = {"dim": 8, "heads": 2, "depth": 1, "hidden": 8, "pooling_heads": 2, "variance": True, "daily": True}
    task = GapFillTask(
        lambda layout: GapFiller(layout, **small), Layout((SST,), (SST,), grid), statistics, anomalies=False
    )
    time, frames = 86400 * torch.arange(6)[None], []
    for rows in (slice(8), slice(8, 16)):
        tile = Grid(grid.latitude[rows], grid.longitude)
        values = 290 + 3 * torch.randn(1, 6, 1, *tile.shape)
        known, there = torch.rand(values.shape) < 0.5, torch.rand(values.shape) < 0.9
        frame = Frame((SST,), time, tile)
        frames.append(Batch(Fields(values, frame, known), Fields(values, frame, there)))
    logged = validated(task, DataLoader(frames, batch_size=None))  # type: ignore[arg-type]
    filled = torch.cat([task.predict(one, one.targets.frame).values for one in frames], -2)  # type: ignore[union-attr]
    truth = torch.cat([one.targets.values for one in frames], -2)  # type: ignore[union-attr]
    there = torch.cat([one.targets.valid for one in frames], -2)  # type: ignore[union-attr,misc]
    weight = point_weights(grid, (WHOLE_DOMAIN,), "area")[0][:, 0].reshape(grid.shape) * there
    expected = ((weight * (filled - truth).double() ** 2).sum() / weight.sum()).sqrt()
    assert logged["val_rmse/sea_surface_temperature"] == pytest.approx(float(expected), rel=1e-5)


def test_areas_are_shares_of_the_globe() -> None:
    for grid in (FINE, COARSE, Grid.equiangular(11.25)):
        assert float(point_weights(grid, ("global",), "area")[0].sum()) == pytest.approx(1, rel=1e-6)
