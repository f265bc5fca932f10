"""The AtmoDist recipes run from raw fields to a score through the command line, small."""

import csv
import shlex
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from running import etesian

from etesian.core.grid import Grid
from etesian.distance.distance import AtmoDistance
from etesian.distance.task import TimeLagTask
from etesian.networks.atmodist import OddsOfDistance
from etesian.training.checkpoint import load_task

RECIPES = Path(__file__).parents[2] / "recipes"


def planet() -> xr.Dataset:
    """Waves of several lengths that move at speeds of their own, so that states grow apart with time."""
    grid, time = Grid.equiangular(5.625), pd.date_range("2000-01-01", periods=100, freq="6h")
    random = np.random.default_rng(0)
    fields = {}
    for name in ("vorticity", "divergence"):
        field = np.zeros((100, *grid.shape))
        for wave in range(1, 9):
            phase = np.radians(wave * grid.longitude) - (0.05 * wave * np.arange(100)[:, None] + random.random() * 6)
            field += np.cos(phase)[:, None] * np.cos(np.radians(grid.latitude * random.integers(1, 4)))[:, None]
        values = 1e-5 * (field + 0.3 * random.standard_normal(field.shape))
        fields[name] = (("time", "level", "latitude", "longitude"), values[:, None].astype("f4"), {"units": "s-1"})
    coordinates = {"time": time, "level": [850], "latitude": grid.latitude, "longitude": grid.longitude}
    return xr.Dataset(fields, coordinates)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("planet")
    planet().to_netcdf(folder / "planet.nc")
    etesian("prepare", folder / "planet.nc", folder / "store.zarr", "--train-end", "2000-01-15")
    return folder / "store.zarr"


def fit(recipe: str, store: Path, run: Path, epochs: int) -> None:
    etesian(
        "fit", "-c", RECIPES / recipe, "--run", run, f"--data.store={store}",
        "--data.lags=3", "--model.network.lags=3", "--data.times=24",
        "--data.patch_size=[32, 32]",
        "--data.batch_size=24", '--data.train=["2000-01-01", "2000-01-15"]',
        '--data.validate=["2000-01-16", "2000-01-19"]', '--data.test=["2000-01-20", "2000-01-25"]',
        f"--trainer.max_epochs={epochs}", "--trainer.enable_progress_bar=false", "--trainer.num_sanity_val_steps=0",
    )  # fmt: skip


def test_the_recipe_of_the_distance_trains_it_and_brings_it_back(store: Path, tmp_path: Path) -> None:
    fit("atmodist_distance.yaml", store, tmp_path / "run", epochs=1)
    task = load_task(tmp_path / "run")
    assert isinstance(task, TimeLagTask)
    assert isinstance(task.network.answer, OddsOfDistance)
    assert task.network.answer.norm.num_batches_tracked == 1
    assert task.curves.scale() > 0


@pytest.mark.usefixtures("no_rendering")
def test_the_planet_recipe_trains_and_its_distance_scores_forecasts(
    store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    fit("atmodist_planet.yaml", store, run, epochs=2)
    with (run / "lags" / "scores.csv").open() as file:
        assert [row["epoch"] for row in csv.DictReader(file)] == ["0", "1"]
    assert AtmoDistance.load(run).scale > 0
    forecast = tmp_path / "persistence.zarr"
    etesian("forecast", "baseline:persistence", store, forecast, "--init", "2000-01-20", "2000-01-23", "--leads", 6, 24)
    etesian("evaluate", forecast, store, "--baselines", "--distance", run, "--out", tmp_path / "report")
    learned = xr.open_dataset(tmp_path / "report" / "scores.nc").atmodistance.squeeze("forecast")
    assert learned.sel(lead_time=24) > learned.sel(lead_time=6) > 0
    assert "AtmoDist distance" in capsys.readouterr().out


def test_the_recipe_on_real_fields_trains_on_one_channel_with_the_options_it_names(tmp_path: Path) -> None:
    week = planet().isel(level=0, time=slice(0, 31)).drop_vars(["divergence", "level"])
    week.assign_coords(time=pd.date_range("2006-01-01T06", periods=31, freq="6h")).to_netcdf(tmp_path / "week.nc")
    store, run = tmp_path / "store.zarr", tmp_path / "run"
    etesian("prepare", tmp_path / "week.nc", store, "--train-end", "2006-01-05T18")
    options = [line.strip("# ") for line in (RECIPES / "atmodist_real.yaml").read_text().splitlines() if "--" in line]
    words = shlex.split(" ".join(line for line in options if line.startswith(("--run", "--data"))))
    words[1:4] = [str(run), words[2], str(store)]
    etesian(
        "fit", "-c", RECIPES / "atmodist_real.yaml", *words, "--data.patch_size=[32, 32]",
        "--data.times=32", "--trainer.max_epochs=1", "--trainer.enable_progress_bar=false",
        "--trainer.num_sanity_val_steps=0",
    )  # fmt: skip
    table = np.loadtxt(run / "lags" / "confusion_000.csv", delimiter=",", skiprows=1)
    assert table[:, 0].tolist() == [6, 12, 18, 24]
