"""Baselines recover the coefficients of a known process and the least-squares references on real pressure."""

from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from small_tasks import answered

from etesian.core import Channel, Layout
from etesian.core.errors import DataError, RecipeError
from etesian.forecast.baselines import baseline_task
from etesian.forecast.task import ForecastTask
from etesian.networks.climax import ClimaX
from etesian.samples.windows import Period, WindowDataset, WindowReader
from etesian.scores.sums import accumulate
from etesian.store.prepare import prepare, prepare_dataset
from etesian.store.reader import Store
from etesian.training.prediction import initial_times

PRESSURE = Channel("mean_sea_level_pressure")


@pytest.fixture(scope="module")
def autoregressive(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Three years of a process whose anomalies fall to 0.6 in a day at every point, independently."""
    rng = np.random.default_rng(0)
    steps, rows, columns = 1096, 4, 6
    values = np.zeros((steps, rows, columns))
    for step in range(1, steps):
        values[step] = 0.6 * values[step - 1] + 0.8 * rng.standard_normal((rows, columns))
    time = np.datetime64("2001-01-01", "ns") + np.arange(steps) * np.timedelta64(1, "D")
    dataset = xr.Dataset(
        {"mean_sea_level_pressure": (("time", "latitude", "longitude"), 1e5 + 100 * values, {"units": "Pa"})},
        {"time": time, "latitude": 30 + 10.0 * np.arange(rows), "longitude": 300 + 10.0 * np.arange(columns)},
    )
    path = tmp_path_factory.mktemp("autoregressive") / "store.zarr"
    prepare_dataset(dataset, str(path))
    return Store(path)


def test_damped_persistence_finds_the_decay(autoregressive: Store) -> None:
    network = baseline_task("damped_persistence", autoregressive, [PRESSURE], [24, 48]).network
    assert network.coefficients_24.mean().item() == pytest.approx(0.6, abs=0.02)
    assert network.coefficients_48.mean().item() == pytest.approx(0.36, abs=0.03)


def test_ridge_finds_that_points_do_not_depend_on_one_another(autoregressive: Store) -> None:
    coefficients = baseline_task("ridge", autoregressive, [PRESSURE], [24]).network.coefficients_24[0].numpy()
    assert np.diag(coefficients).mean() == pytest.approx(0.6, abs=0.06)
    assert np.abs(coefficients - np.diag(np.diag(coefficients))).mean() < 0.03


def test_ridge_with_history_finds_a_process_of_second_order(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    values = np.zeros((1096, 2, 3))
    for step in range(2, len(values)):
        values[step] = 0.9 * values[step - 1] - 0.5 * values[step - 2] + rng.standard_normal((2, 3))
    time = np.datetime64("2001-01-01", "ns") + np.arange(len(values)) * np.timedelta64(1, "D")
    dataset = xr.Dataset(
        {"mean_sea_level_pressure": (("time", "latitude", "longitude"), 1e5 + 100 * values, {"units": "Pa"})},
        {"time": time, "latitude": [30.0, 40.0], "longitude": [300.0, 310.0, 320.0]},
    )
    prepare_dataset(dataset, str(tmp_path / "store.zarr"))
    store = Store(tmp_path / "store.zarr")
    coefficients = baseline_task("ridge_3_days", store, [PRESSURE], [24]).network.coefficients_24[0].numpy()
    by_day = [np.diag(block).mean() for block in coefficients.reshape(3, 6, 6)]
    assert by_day == pytest.approx([0.0, -0.5, 0.9], abs=0.06)


def test_ridge_on_all_channels_learns_what_one_channel_does_to_another(tmp_path: Path) -> None:
    """The pressure follows the temperature of the day before, of which its own past tells nothing."""
    rng = np.random.default_rng(2)
    noise = rng.standard_normal((1097, 3, 4))
    axes = ("time", "latitude", "longitude")
    temperature = 280 + 5 * noise[1:]
    temperature[100:130, 1, 1] = np.nan
    fields = {
        "mean_sea_level_pressure": (
            axes,
            1e5 + 100 * (noise[:-1] + 0.1 * rng.standard_normal((1096, 3, 4))),
            {"units": "Pa"},
        ),
        "2m_temperature": (axes, temperature, {"units": "K"}),
    }
    time = np.datetime64("2001-01-01", "ns") + np.arange(1096) * np.timedelta64(1, "D")
    coordinates = {"time": time, "latitude": [30.0, 40.0, 50.0], "longitude": [300.0, 310.0, 320.0, 330.0]}
    prepare_dataset(xr.Dataset(fields, coordinates), str(tmp_path / "store.zarr"), train_end="2003-06-30")
    store = Store(tmp_path / "store.zarr")
    number = store.channels.index(PRESSURE)
    initial = store.time[-60:-1]
    truth = store.read(np.arange(len(store.time) - 59, len(store.time)), np.array([number]))[:, 0]
    error = {}
    for name in ("ridge", "ridge_all_channels"):
        task = baseline_task(name, store, store.channels, [24])
        predicted = answered(task, WindowReader(store, task.layout), initial, (24,)).values[:, 0, number].numpy()
        error[name] = float(np.sqrt(np.mean((predicted - truth) ** 2)))
    assert error["ridge"] == pytest.approx(100, rel=0.1)
    assert error["ridge_all_channels"] < 15


def test_persistence_is_the_initial_state_and_climatology_the_table(autoregressive: Store) -> None:
    layout = Layout((PRESSURE,), (PRESSURE,), autoregressive.grid)
    initial = autoregressive.time[[10, 500]]
    persistence = answered(
        baseline_task("persistence", autoregressive, [PRESSURE], [24]),
        WindowReader(autoregressive, layout), initial, (24, 72),
    )  # fmt: skip
    np.testing.assert_array_equal(persistence.values[:, 1].numpy(), autoregressive.read([10, 500]))
    climatology = answered(
        baseline_task("climatology", autoregressive, [PRESSURE], [24]),
        WindowReader(autoregressive, layout), initial, (24,),
    )  # fmt: skip
    expected = autoregressive.climatology_at(initial + 86400, [PRESSURE])
    np.testing.assert_allclose(climatology.values[:, 0].numpy(), expected)


def test_an_unknown_baseline_and_an_unfitted_lead_are_named(autoregressive: Store) -> None:
    with pytest.raises(RecipeError, match="no baseline 'persistense'; did you mean 'persistence'"):
        baseline_task("persistense", autoregressive, [PRESSURE], [24])
    layout = Layout((PRESSURE,), (PRESSURE,), autoregressive.grid)
    task = baseline_task("damped_persistence", autoregressive, [PRESSURE], [24])
    with pytest.raises(DataError, match="no regression was fitted for a lead of 48 h"):
        answered(task, WindowReader(autoregressive, layout), autoregressive.time[:1], (48,))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("persistence", (638.1, 1030.8, 1165.0)),
        ("seasonal_cycle", (910.6, 913.6, 916.6)),
        ("damped_persistence", (593.8, 849.3, 900.0)),
        ("ridge", (522.7, 823.3, 888.1)),
        ("ridge_3_days", (460.7, 818.4, 887.2)),
    ],
)
def test_references_on_north_atlantic_pressure(
    name: str, expected: tuple[float, ...], shared: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.getbasetemp() / "slp.zarr"
    source = str(shared / "data" / "ncep_slp_natl_daily" / "slp_2001_2008.nc")
    prepare([source], str(path), train_start="2001", train_end="2006")
    store = Store(path)
    task = baseline_task(name, store, [PRESSURE], [24, 72, 120])
    initial = initial_times(store, task.layout.history, Period("2008-01-01", "2008-12-26"), 24)
    assert len(initial) == 361
    predicted = answered(task, WindowReader(store, task.layout), initial, (24, 72, 120))
    layout = Layout((PRESSURE,), (PRESSURE,), store.grid)
    windows = WindowDataset([store], layout, [24, 72, 120], Period("2008", "2008"))
    batch = windows[windows.epoch(0, 0, shuffle=False)]
    assert batch.targets is not None
    rmse = accumulate(predicted, batch.targets, regions=("domain",), weighting="cosine").total().rmse().flatten()
    assert rmse.tolist() == pytest.approx(expected, abs=1.0)


@pytest.mark.parametrize(
    ("source", "lead", "options"),
    [
        ("storm_jan1996_6hourly/?storm.cdf", 24, {}),
        ("era5_eda_z_t_3deg/era5-levels-members.grib", 12, {"member": 3}),
    ],
)
def test_a_network_learns_from_real_files_with_gaps_and_members(
    source: str, lead: int, options: dict[str, int], shared: Path, tmp_path: Path
) -> None:
    import torch

    prepare([str(shared / "data" / source)], str(tmp_path / "store.zarr"), **options)
    store = Store(tmp_path / "store.zarr")
    windows = WindowDataset([store], Layout(store.channels, store.channels, store.grid), [lead], Period("1990", "2020"))
    batch = windows[windows.picks[:4]]
    torch.manual_seed(0)
    task = ForecastTask(
        lambda layout: ClimaX(layout, patch=3, dim=32, depth=1, heads=2), windows.layout, store.statistics
    )
    optimizer = torch.optim.AdamW(task.parameter_groups(), lr=1e-3)
    losses = []
    for _ in range(4):
        loss, _ = task.loss(batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert np.isfinite(losses).all()
    assert losses[-1] < losses[0]
