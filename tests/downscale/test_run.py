"""Fine fields through the API, by interpolation and by a trained run: at the times of the coarse ones, no lead."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import xarray as xr

import etesian as et
from etesian.core.errors import DataError, GridError, RecipeError

pytestmark = pytest.mark.filterwarnings("ignore")


def waves(step: float) -> xr.Dataset:
    """Return sixteen days of a wave that both grids resolve, on a grid of so many degrees."""
    grid = et.Grid.equiangular(step)
    longitude, latitude = np.radians(np.meshgrid(grid.longitude, grid.latitude))
    phase = np.arange(32)[:, None, None] / 5
    values = 280 + 10 * np.sin(longitude + phase) * np.cos(latitude)
    axes = {
        "time": pd.date_range("2001-01-01", periods=32, freq="12h"),
        "latitude": grid.latitude,
        "longitude": grid.longitude,
    }
    return xr.Dataset({"2m_temperature": (tuple(axes), values.astype("f4"), {"units": "K"})}, axes)


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> tuple[et.Store, et.Store]:
    folder = tmp_path_factory.mktemp("downscale")
    return tuple(et.prepare(waves(step), folder / f"{step:g}.zarr") for step in (45.0, 22.5))  # type: ignore[return-value]


def test_interpolated_fields_have_the_times_of_the_coarse_ones_and_no_lead(
    stores: tuple[et.Store, et.Store], tmp_path: Path
) -> None:
    coarse, fine = stores
    made = et.baseline("bicubic").downscale(coarse, fine.path, ("2001-01-03", "2001-01-04"), out=tmp_path / "b.zarr")
    assert made["2m_temperature"].dims == ("time", "latitude", "longitude")
    assert made.time.values.tolist() == waves(45.0).time[4:8].values.astype(made.time.dtype).tolist()
    for given in (fine, waves(22.5), fine.grid):
        held = et.baseline("bicubic").downscale(waves(45.0), given, ("2001-01-03", "2001-01-04"))
        xr.testing.assert_allclose(made.load(), held)
    with pytest.raises(GridError, match=r"given for its grid has no longitude; open it with et\.open$"):
        et.baseline("bicubic").downscale(waves(45.0), waves(22.5).rename(longitude="lon"))
    truth = waves(22.5)["2m_temperature"][4:8, 1:-1].values
    assert np.abs(held["2m_temperature"].values[:, 1:-1] - truth).max() < 1.5
    scores = et.evaluate({"bicubic": held}, fine, baselines=["seasonal_cycle"])
    assert scores.forecast.values.tolist() == ["bicubic", "seasonal_cycle"]
    assert scores.lead_time.values.tolist() == [0]
    rmse = scores.rmse.isel(lead_time=0, region=0, channel=0)
    assert rmse.sel(forecast="bicubic") < 1
    with pytest.raises(DataError, match=r"b\.zarr exists, made with initial = "):
        et.baseline("bicubic").downscale(coarse, fine.path, "2001-01-05", out=tmp_path / "b.zarr")


def test_a_trained_run_makes_fine_fields_of_a_dataset(stores: tuple[et.Store, et.Store], tmp_path: Path) -> None:
    coarse, fine = stores
    recipe: dict[str, Any] = {
        "seed_everything": 0,
        "data": {
            "class_path": "DownscalingData",
            "init_args": {
                "coarse": str(coarse.path),
                "fine": str(fine.path),
                "batch_size": 8,
                "train": ["2001-01-01", "2001-01-10"],
                "validate": ["2001-01-11", "2001-01-16"],
            },
        },
        "model": {
            "class_path": "DownscaleTask",
            "init_args": {
                "network": {
                    "class_path": "Downscaler",
                    "init_args": {
                        "residual": True,
                        "network": {
                            "class_path": "ClimaX",
                            "init_args": {"patch": 4, "dim": 8, "depth": 1, "heads": 2, "dropout": 0, "drop_path": 0},
                        },
                    },
                },
                "warmup_steps": 1,
            },
        },
        "trainer": {"accelerator": "cpu", "max_epochs": 1, "enable_model_summary": False, "logger": False},
    }
    et.fit(recipe, run=tmp_path / "run")
    run = et.load(tmp_path / "run")
    made = run.downscale(waves(45.0))
    assert dict(made.sizes) == {"time": 32, "latitude": 8, "longitude": 16}
    rough = et.baseline("interpolation").downscale(coarse, fine.path)["2m_temperature"]
    error = np.square(made["2m_temperature"].values - waves(22.5)["2m_temperature"].values).mean()
    assert error < 1.2 * np.square(rough.values - waves(22.5)["2m_temperature"].values).mean()
    with pytest.raises(RecipeError, match="this run knows its grid"):
        run.downscale(coarse, grid=11.25)
