"""Gaps filled through the API: a recipe trained on a small sea, months filled in memory and on disk."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import xarray as xr

import etesian as et
from etesian.training.measuring import CheckingCLI
from etesian.training.recipes import train, written_out

pytestmark = pytest.mark.filterwarnings("ignore")
SST = "sea_surface_temperature"


def sea(gaps: float) -> xr.Dataset:
    """Return a year of daily fields of a sea with a coast, some of them under clouds."""
    random = np.random.default_rng(0)
    y, x = np.meshgrid(np.linspace(0, 3, 8), np.linspace(0, 4, 8), indexing="ij")
    days = pd.date_range("2001-01-01", periods=120)
    values = 290 + np.sin(x + np.arange(120)[:, None, None] / 9) + np.cos(y)
    land = np.zeros((8, 8), np.float32)
    land[0] = 1
    clouds = random.random((120, 4, 4)).repeat(2, 1).repeat(2, 2) < gaps
    return xr.Dataset(
        {
            SST: (("time", "latitude", "longitude"), np.where(clouds | (land > 0), np.nan, values), {"units": "K"}),
            "land_sea_mask": (("latitude", "longitude"), land, {"units": "1"}),
        },
        {"time": days, "latitude": np.linspace(30, 33, 8), "longitude": np.linspace(10, 13, 8)},
    )


RECIPE: dict[str, Any] = {
    "seed_everything": 0,
    "data": {
        "class_path": "GapFillData",
        "init_args": {
            "tile": [8, 8],
            "overlap": 0,
            "batch_size": 2,
            "train": ["2001-01", "2001-02"],
            "validate": ["2001-03", "2001-03"],
        },
    },
    "model": {
        "class_path": "GapFillTask",
        "init_args": {
            "network": {
                "class_path": "GapFiller",
                "init_args": {
                    "patch": 2,
                    "dim": 8,
                    "depth": 1,
                    "heads": 2,
                    "residual": "mean",
                    "pooling_heads": 2,
                    "hidden": 8,
                },
            }
        },
    },
    "trainer": {"accelerator": "cpu", "max_epochs": 1, "enable_model_summary": False, "logger": False},
}


def test_a_run_fills_months_in_memory_and_on_disk_alike(tmp_path: Path) -> None:
    store = et.prepare(sea(0.4), tmp_path / "observed.zarr")
    et.fit(RECIPE, run=tmp_path / "run", options={"data.init_args.observed": str(store.path)})
    filled = et.load(tmp_path / "run").fill(store, months=("2001-03", "2001-04"))
    assert {SST, f"{SST}_flag", f"{SST}_observations"} <= set(filled.data_vars)
    assert filled[SST].dims == ("time", "latitude", "longitude")
    assert filled[SST].attrs["units"] == "K"
    assert np.isnan(filled[SST][:, 0]).all()
    assert filled[SST][:, 1:].notnull().all()
    assert abs(filled[SST].mean() - 290) < 3
    written = et.load(tmp_path / "run").fill(store, ("2001-03", "2001-04"), out=tmp_path / "filled.zarr")
    xr.testing.assert_equal(written.load(), filled)
    base = et.baseline("linear").fill(store, ("2001-03", "2001-04"))
    for filler in (et.load(tmp_path / "run"), et.baseline("linear")):
        with pytest.raises(et.EtesianError, match=r"observed.zarr holds .*; ask for 2001-03 to 2001-04-30$"):
            filler.fill(store, ("2001-03", "2001-06"))
    assert base[SST].sizes == filled[SST].sizes


def test_a_check_takes_steps_as_they_are_once_kriging_is_fitted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = et.prepare(sea(0.4), tmp_path / "observed.zarr")
    for name, value in {"at_hand": 10**10, "scratch": tmp_path}.items():
        monkeypatch.setattr(CheckingCLI, name, value, raising=False)
    options = {"data.init_args.observed": store.path, "model.init_args.network.init_args.residual": "kriging"}
    words = ["fit", f"--config={written_out(RECIPE, tmp_path)}", *(f"--{name}={v}" for name, v in options.items())]
    checking = train(words, (), CheckingCLI)
    assert isinstance(checking, CheckingCLI)
    assert checking.result().measured == 2
