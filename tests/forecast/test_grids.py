"""A run on stores of two resolutions: its checkpoint knows both grids, and forecasts go on from either."""

import json
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import xarray as xr

import etesian as et
from etesian.core.errors import GridError, RecipeError
from etesian.core.grid import Grid
from etesian.samples.windows import WindowReader
from etesian.store.prepare import prepare_dataset
from etesian.training.checkpoint import load_task

COARSE, FINE, ELSEWHERE = Grid.equiangular(22.5), Grid.equiangular(11.25), Grid.gaussian(12)
TIME = pd.date_range("2001-01-01", periods=40, freq="6h")


def weather(grid: Grid) -> xr.Dataset:
    """A wave that goes round the globe in four days, over a state that differs from place to place."""
    turn = 2 * np.pi * np.arange(len(TIME))[:, None, None] / 16
    east, north = np.radians(grid.longitude), np.radians(grid.latitude)[:, None]
    surface = 280 + 10 * np.cos(north) * np.cos(2 * east - turn) - 20 * np.sin(north) ** 2
    aloft = np.stack([surface - 30, surface - 5], axis=1)
    dims = ("time", "latitude", "longitude")
    return xr.Dataset(
        {
            "temperature": (("time", "level", *dims[1:]), aloft.astype(np.float32), {"units": "K"}),
            "2m_temperature": (dims, surface.astype(np.float32), {"units": "K"}),
        },
        {"time": TIME, "level": [500, 850], "latitude": grid.latitude, "longitude": grid.longitude},
    )


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("grids")
    made = [str(folder / f"{name}.zarr") for name in ("coarse", "fine", "elsewhere")]
    for path, grid in zip(made, (COARSE, FINE, ELSEWHERE), strict=True):
        prepare_dataset(weather(grid), path, train_end="2001-01-08")
    return made


def recipe(stores: list[str], **options: Any) -> dict[str, Any]:
    data = {"stores": stores, "leads": [6, 12], "train": ["2001-01-01", "2001-01-07"], "batch_size": 8}
    data |= {"validate": ["2001-01-08", "2001-01-10"], **options}
    network = {
        "class_path": "etesian.WeatherMesh",
        "init_args": {"patch": [2, 2, 2], "dim": 16, "heads": 2, "window": [2, 3, 3], "encoder_depth": 1,
                      "decoder_depth": 1, "processors": {6: 1}, "surface_width": 4},
    }  # fmt: skip
    optimizer = {"class_path": "torch.optim.AdamW", "init_args": {"lr": 1e-2}}
    model = {"network": network, "anomalies": True, "consistency": 0.1, "optimizer": optimizer, "warmup_steps": 1}
    return {
        "seed_everything": 0,
        "data": {"class_path": "etesian.ForecastData", "init_args": data},
        "model": {"class_path": "etesian.LatentForecastTask", "init_args": model},
        "trainer": {"max_epochs": 3, "enable_progress_bar": False, "enable_model_summary": False},
    }


@pytest.fixture(scope="module")
def runs(stores: list[str], tmp_path_factory: pytest.TempPathFactory) -> dict[str, et.Run]:
    """A run on the coarse store; one that goes on with it on the fine store; and one on both from the beginning."""
    folder = tmp_path_factory.mktemp("runs")
    made = {"coarse": et.fit(recipe(stores[:1]), run=folder / "coarse")}
    onward = recipe(stores[:2], weights=[0, 1])
    onward["model"]["init_args"]["start"] = {"checkpoint": str(folder / "coarse"), "statistics": "trained"}
    return made | {
        "onward": et.fit(onward, run=folder / "onward"),
        "both": et.fit(recipe(stores[:2]), run=folder / "both"),
    }


def error(forecast: xr.Dataset, grid: Grid) -> float:
    """Root-mean-square error of the temperature at 2 m after 6 h."""
    made = forecast["2m_temperature"].sel(prediction_timedelta="6h").transpose("time", "latitude", "longitude")
    truth = weather(grid)["2m_temperature"].sel(time=made.time + np.timedelta64(6, "h"))
    return float(np.sqrt(((made.values - truth.values) ** 2).mean()))


SPAN = ("2001-01-08", "2001-01-09")


def test_a_run_on_two_grids_says_them_and_forecasts_from_either(runs: dict[str, et.Run], stores: list[str]) -> None:
    run = runs["both"]
    layout = json.loads((run.checkpoint / "description.json").read_text())["network"]["arguments"]["layout"]["fields"]
    assert len(layout["grid"]["grid"]["latitude"]) == 8
    assert [len(each["grid"]["latitude"]) for each in layout["other_grids"]] == [16]
    assert "8×16 from -78.75 to 78.75°N, 0 to 337.5°E and 16×32 from" in repr(run)
    for store, grid in zip(stores, (COARSE, FINE), strict=False):
        forecast = run.forecast(store, SPAN, [6], every=6)
        assert Grid(forecast.latitude.values, forecast.longitude.values) == grid
        # Of the cycle of each place it would be 5 K.
        assert error(forecast, grid) < 3.5
    with pytest.raises(GridError, match=r"elsewhere.zarr lies on 12×24 .*, the run on 8×16 .* and 16×32 .*; regrid it"):
        run.forecast(stores[2], SPAN, [6])


def test_a_run_on_one_grid_goes_on_at_a_finer_one(runs: dict[str, et.Run], stores: list[str]) -> None:
    assert runs["coarse"].task.layout.other_grids == ()
    run = runs["onward"]
    assert run.task.layout.other_grids == (FINE,)
    assert error(run.forecast(stores[1], SPAN, [6], every=6), FINE) < 3.5
    # In the units of the run that it goes on with, and about the cycle that each grid has in the data.
    known, own = run.task.normalizer.statistics, et.Store(stores[1]).statistics
    np.testing.assert_array_equal(known.mean, runs["coarse"].task.normalizer.statistics.mean)
    assert known.other_harmonics is not None
    np.testing.assert_array_equal(known.other_harmonics[0], own.harmonics)


@torch.no_grad()
def test_a_task_answers_on_any_of_its_grids(runs: dict[str, et.Run], stores: list[str]) -> None:
    task = load_task(runs["both"].checkpoint)
    layout = et.ForecastData(stores[:2], *(("2001-01-01", "2001-01-07"), SPAN), leads=[6]).layouts[0]
    store = et.Store(stores[0])
    batch = WindowReader(store, layout).start(store.time[28:30])
    frame = task.target_frame(batch, [6])
    assert frame.grid == COARSE
    finer = task.predict(batch, et.Frame(frame.channels, frame.time, FINE, frame.calendar))
    truth = weather(FINE)["2m_temperature"].values[29:31]
    number = frame.channels.index(et.Channel("2m_temperature"))
    assert float(np.sqrt(((finer.values[:, 0, number].numpy() - truth) ** 2).mean())) < 3.5


def test_analyses_on_two_grids_meet_in_the_latent_but_have_no_one_state_to_depart_from(
    runs: dict[str, et.Run], stores: list[str]
) -> None:
    run = runs["both"]
    blended = run.forecast(stores[1], SPAN, [6], every=6, blend={"analysis": (stores[0], 0.5)})
    assert Grid(blended.latitude.values, blended.longitude.values) == FINE
    assert error(blended, FINE) < 3.5
    departing = et.load(run.path)
    departing.task.predicts = "change"
    blend = {"analysis": (stores[0], 0.5)}
    with pytest.raises(RecipeError, match=r"a change or departure from analyses on 16×32 .* and on 8×16 .* has no one"):
        departing.forecast(stores[1], SPAN, [6], every=6, blend=blend)
