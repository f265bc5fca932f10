"""The recipes that pretrain on two planets run through the command line, small, and fine-tuning goes on from them."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from running import etesian

from etesian.core.grid import Grid
from etesian.forecast.pretrain import PretrainTask
from etesian.training.checkpoint import load_task

RECIPES = Path(__file__).parents[2] / "recipes"
TINY = "{patch: 4, dim: 32, depth: 1, heads: 2, dropout: 0.0, drop_path: 0.0, validity: true}"


def planet(levels: list[int], *, winds: bool, speed: float) -> xr.Dataset:
    """Waves that travel east, the same in all fields up to scale and offset."""
    grid, time = Grid.equiangular(22.5), pd.date_range("2000-01-01", periods=90, freq="12h")
    phase = np.radians(2 * grid.longitude - speed * np.arange(90)[:, None])[:, None, None, :]
    wave = np.cos(np.radians(grid.latitude))[:, None] * np.sin(phase)
    upper = {"geopotential": (800.0, 5e4, "m2 s-2"), "temperature": (6.0, 270.0, "K")}
    if winds:
        upper |= {"u_component_of_wind": (8.0, 5.0, "m s-1"), "v_component_of_wind": (8.0, 0.0, "m s-1")}
    heights = np.arange(1, len(levels) + 1)[:, None, None]
    fields: dict[str, Any] = {
        name: (("time", "level", "latitude", "longitude"), (offset + scale * heights * wave).astype("f4"), {"units": u})
        for name, (scale, offset, u) in upper.items()
    }
    flat = ("time", "latitude", "longitude")
    fields["2m_temperature"] = (flat, (285 + 5 * wave[:, 0]).astype("f4"), {"units": "K"})
    fields["surface_pressure"] = (flat, (1e5 + 900 * wave[:, 0]).astype("f4"), {"units": "Pa"})
    coordinates = {"time": time, "level": levels, "latitude": grid.latitude, "longitude": grid.longitude}
    return xr.Dataset(fields, coordinates)


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("planets")
    made = []
    for name, levels, winds, speed in (("warm", [500, 850], True, 15.0), ("calm", [500], False, 12.0)):
        planet(levels, winds=winds, speed=speed).to_netcdf(folder / f"{name}.nc")
        etesian("prepare", folder / f"{name}.nc", folder / f"{name}.zarr", "--train-end", "2000-02-05")
        made.append(folder / f"{name}.zarr")
    return made


def fit(recipe: str, run: Path, stores: list[Path], *options: str) -> pd.DataFrame:
    etesian(
        "fit", "-c", RECIPES / recipe, "--run", run, f"--data.stores=[{', '.join(map(str, stores))}]",
        '--data.train=["2000-01-01", "2000-02-05"]', '--data.validate=["2000-02-06", "2000-02-14"]',
        "--data.leads=[24, 72]", f"--model.init_args.network.init_args={TINY}",
        "--model.init_args.warmup_steps=3", "--model.optimizer.lr=0.005",
        "--trainer.enable_progress_bar=false", "--trainer.num_sanity_val_steps=0",
        "--trainer.check_val_every_n_epoch=1", *options,
    )  # fmt: skip
    return pd.read_csv(next(run.glob("log/version_0/metrics.csv")))


def test_masked_pretraining_learns_from_both_planets_and_fine_tuning_goes_on_from_it(
    stores: list[Path], tmp_path: Path
) -> None:
    beside_forecasts = ("--model.init_args.forecast_weight=1", "--trainer.max_epochs=4")
    log = fit("pretrain_masked_planets.yaml", tmp_path / "masked", stores, *beside_forecasts)
    course = log["train_loss_epoch"].dropna().tolist()
    assert course[-1] < 0.95 * course[0]
    parts = log[["val_forecast_loss", "val_reconstruct_loss", "val_loss"]].dropna()
    assert len(parts) == 4
    np.testing.assert_allclose(parts.val_forecast_loss + parts.val_reconstruct_loss, parts.val_loss, rtol=1e-5)
    assert "val_rmse/u_component_of_wind_850/72h" in log
    task = load_task(tmp_path / "masked")
    assert isinstance(task, PretrainTask)
    assert (task.mask_patches, task.mask_variables) == (0.5, 0.2)
    assert {str(c) for c in task.layout.inputs} >= {"geopotential_850", "u_component_of_wind_500", "2m_temperature"}

    fine = fit(
        "finetune_planet.yaml", tmp_path / "fine", stores[:1], "--data.test=null", "--trainer.max_epochs=1",
        f"--model.init_args.start.checkpoint={tmp_path / 'masked'}", "--model.init_args.start.statistics=data",
    )  # fmt: skip
    assert np.isfinite(fine["val_loss"].dropna()).all()
    assert set(load_task(tmp_path / "fine").provenance["transfer"].values()) == {"loaded"}


def test_reconstruction_alone_makes_no_forecasts(stores: list[Path], tmp_path: Path) -> None:
    options = ("--trainer.max_epochs=1", "--model.init_args.loss=l1")
    log = fit("pretrain_masked_planets.yaml", tmp_path / "run", stores, *options)
    assert "val_reconstruct_loss" in log
    assert not [name for name in log if "forecast" in name or "rmse" in name]
    task = load_task(tmp_path / "run")
    assert isinstance(task, PretrainTask)
    assert (task.forecast_weight, task.error.loss) == (0.0, "l1")


def test_forecast_pretraining_runs_on_both_planets(stores: list[Path], tmp_path: Path) -> None:
    log = fit("pretrain_planets.yaml", tmp_path / "run", stores, "--trainer.max_epochs=2")
    course = log["train_loss_epoch"].dropna().tolist()
    assert course[-1] < course[0]
    assert "val_rmse/u_component_of_wind_850/72h" in log
