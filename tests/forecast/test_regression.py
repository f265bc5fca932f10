"""Departures from a ridge regression begin with its error, and are learned from what it misses elsewhere."""

from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch
import xarray as xr

from etesian.core import Batch, Channel, Grid, Layout
from etesian.core.errors import DataError, RecipeError
from etesian.core.statistics import Statistics
from etesian.forecast.baselines import Persistence
from etesian.forecast.data import ForecastData
from etesian.forecast.regression import MOST_NUMBERS, PatternRidge, Ridge
from etesian.forecast.task import ForecastTask
from etesian.networks.climax import ClimaX
from etesian.networks.unet import UNet
from etesian.store.prepare import prepare_dataset
from etesian.training.checkpoint import SafeCheckpoints, best_and_last, load_task

LEADS, DAYS = [24, 48], 1500


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return a store of a process of second order: x(t) = 0.9 x(t-1) - 0.5 x(t-2) + noise at every point."""
    rng = np.random.default_rng(0)
    values = np.zeros((DAYS, 4, 8))
    for day in range(2, DAYS):
        values[day] = 0.9 * values[day - 1] - 0.5 * values[day - 2] + rng.standard_normal((4, 8))
    time = np.datetime64("2001-01-01", "ns") + np.arange(DAYS) * np.timedelta64(1, "D")
    dataset = xr.Dataset(
        {"mean_sea_level_pressure": (("time", "latitude", "longitude"), 1e5 + 100 * values, {"units": "Pa"})},
        {"time": time, "latitude": 30 + 5.0 * np.arange(4), "longitude": 300 + 5.0 * np.arange(8)},
    )
    path = str(tmp_path_factory.mktemp("second_order") / "store.zarr")
    prepare_dataset(dataset, path)
    return path


def data_of(store: str, **options: Any) -> ForecastData:
    periods = {"train": ("2001", "2003"), "validate": ("2004", "2004"), "batch_size": 64}
    return ForecastData([store], **({"leads": LEADS, "history": [-24, 0]} | periods | options))


def climax(layout: Layout) -> ClimaX:
    return ClimaX(layout, patch=4, dim=16, depth=1, heads=2, dropout=0.0, drop_path=0.0)


def unet(layout: Layout) -> UNet:
    return UNet(layout, tuple(LEADS), width=4, dropout=0.0, noise=0.0)


def task_of(data: ForecastData, network: Any = climax, **options: Any) -> ForecastTask:
    torch.manual_seed(0)
    chosen = {"anomalies": True, "predict": "departure", "ridge": Ridge(LEADS)} | options
    return ForecastTask(network, data.layout, data.statistics, **chosen)


def batch_of(data: ForecastData, part: str) -> Batch:
    dataset = data.dataset(part)
    return dataset[[pick for pick in dataset.picks if pick.leads == tuple(LEADS)]]


def mean_square(task: ForecastTask, batch: Batch) -> list[float]:
    """Return the mean square of the error at each lead in units of the noise."""
    assert batch.targets is not None
    with torch.no_grad():
        error = task.normalizer.denormalize(task(task.normalized(batch), batch.targets.frame), batch.targets.frame)
    return ((error - batch.targets.values) / 100).square().mean((0, 2, 3, 4)).tolist()


@pytest.mark.parametrize("network", [climax, unet])
def test_training_begins_with_the_error_of_the_regression(store: str, network: Any) -> None:
    data = data_of(store)
    task = task_of(data, network=network)
    assert task.ridge is not None
    task.ridge.fit(data, task.normalized)
    # What cannot be known of the process: the noise of the first day, then that of the second with 0.9 of the first's.
    assert mean_square(task.eval(), batch_of(data, "validate")) == pytest.approx([1.0, 1.81], rel=0.12)


def test_in_training_no_part_of_the_period_is_forecast_by_what_was_fitted_to_it(store: str) -> None:
    data = data_of(store)
    task = task_of(data)
    assert task.ridge is not None
    task.ridge.fit(data, task.normalized)
    elsewhere, fitted = batch_of(data, "validate"), batch_of(data, "train")
    unseen, seen = mean_square(task.eval(), elsewhere)[0], mean_square(task.eval(), fitted)[0]
    left_out = mean_square(task.train(), fitted)[0]
    assert seen < 0.97
    assert left_out > 1.01
    assert abs(left_out - unseen) < 0.05
    # A sample's forecast depends on where it lies, not on its neighbours in the batch.
    batch = task.normalized(fitted)
    assert batch.targets is not None
    whole = task.ridge(batch.inputs, batch.targets.frame)
    one = data.dataset("train")
    single = task.normalized(one[[one.picks[700]]])
    assert single.targets is not None
    assert torch.allclose(task.ridge(single.inputs, single.targets.frame)[0], whole[700], atol=1e-5)


def test_between_two_leads_forecasts_are_interpolated_and_beyond_them_there_are_none(store: str) -> None:
    data = data_of(store)
    task = task_of(data).eval()
    assert task.ridge is not None
    task.ridge.fit(data, task.normalized)
    batch = task.normalized(batch_of(data, "validate"))
    day, halfway, two = (task.ridge(batch.inputs, task.target_frame(batch, [lead])) for lead in (24, 36, 48))
    assert torch.allclose(halfway, (day + two) / 2, atol=1e-5)
    with pytest.raises(DataError, match="fitted to leads of 24 to 48 h"):
        task.ridge(batch.inputs, task.target_frame(batch, [72]))


def test_fewer_patterns_than_points_tell_less(store: str) -> None:
    data = data_of(store)
    errors = []
    for patterns in (4, 32):
        task = task_of(data, ridge=Ridge(LEADS, patterns)).eval()
        assert task.ridge is not None
        task.ridge.fit(data, task.normalized)
        errors.append(mean_square(task, batch_of(data, "validate"))[0])
    assert errors[0] > 1.3 > 1.1 > errors[1]


def test_fit_finds_the_regression_and_a_checkpoint_keeps_it(store: str, tmp_path: Path) -> None:
    data = data_of(store, draw="all")
    task = task_of(data)
    trainer = L.Trainer(
        max_steps=1, accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False,
        use_distributed_sampler=False, plugins=[SafeCheckpoints()], callbacks=best_and_last(tmp_path / "checkpoints"),
        num_sanity_val_steps=0,
    )  # fmt: skip
    trainer.fit(task, datamodule=data)
    loaded = load_task(tmp_path)
    assert isinstance(loaded, ForecastTask)
    assert loaded.ridge is not None
    assert loaded.ridge.leads == tuple(LEADS)
    batch = batch_of(data, "validate")
    found = mean_square(loaded, batch)
    assert found == pytest.approx(mean_square(task.eval(), batch), rel=1e-5)
    assert found == pytest.approx([1.0, 1.81], rel=0.12)


def test_what_a_regression_cannot_be_fitted_to_is_said(store: str) -> None:
    data = data_of(store)
    for options, words in (
        ({"predict": "state"}, "set predict: departure and anomalies: true"),
        ({"anomalies": False}, "set predict: departure and anomalies: true"),
        ({"ridge": Ridge([48, 24])}, "ascending leads"),
        ({"ridge": Ridge([])}, "ascending leads"),
    ):
        with pytest.raises(RecipeError, match=words):
            task_of(data, **options)
    task = task_of(data, ridge=Ridge([24, 96]))
    assert task.ridge is not None
    with pytest.raises(RecipeError, match=r"ridge names leads \[24, 96\], but the data have \[24, 48\]"):
        task.ridge.fit(data, task.normalized)


def test_a_regression_that_would_not_fit_into_memory_says_how_many_patterns_would() -> None:
    layout = Layout((Channel("temperature", 500),), (Channel("temperature", 500),), Grid.equiangular(1.0))
    with pytest.raises(RecipeError, match="set patterns to") as caught:
        PatternRidge(layout, Ridge([24, 48], 1000))
    most = int(str(caught.value).rpartition("set patterns to ")[2].split()[0])
    assert 6 * 2 * most * 180 * 360 <= MOST_NUMBERS
    PatternRidge(layout, Ridge([24, 48], most))
    many = tuple(Channel("temperature", level) for level in range(1, 101))
    with pytest.raises(RecipeError, match="leave ridge out"):
        PatternRidge(Layout(many, many, layout.grid), Ridge(list(range(24, 360, 24))))


def test_a_network_that_cannot_add_nothing_is_refused() -> None:
    grid = Grid.equiangular(22.5)
    layout = Layout((Channel("temperature", 500),), (Channel("temperature", 500),), grid, history=(0,))
    statistics = Statistics(
        layout.inputs, np.zeros(1), np.ones(1), np.zeros((5, 1, *grid.shape), np.float32), np.ones(1)
    )
    with pytest.raises(RecipeError, match="Persistence cannot begin by adding nothing"):
        ForecastTask(Persistence, layout, statistics, anomalies=True, predict="departure", ridge=Ridge([24]))
