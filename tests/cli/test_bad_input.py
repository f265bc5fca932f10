"""What a user gets wrong is answered with one sentence that names it, and leaves nothing behind."""

import logging
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import xarray as xr

from etesian.cli.main import main

RECIPE = str(Path(__file__).parents[2] / "recipes" / "planet_climax.yaml")
FIT = (
    "fit", "-c", RECIPE, "--run", "new", "--data.init_args.stores=[store.zarr]", "--data.init_args.inputs=null",
    "--data.init_args.train=[2001-01-01,2001-01-08]", "--data.init_args.validate=[2001-01-09,2001-01-15]",
    "--data.init_args.test=null", "--data.init_args.leads=[24]", "--trainer.enable_progress_bar=false",
    "--model.init_args.network.init_args={patch: 2, dim: 16, depth: 1, heads: 2}", "--trainer.max_epochs=1",
)  # fmt: skip
FORECAST = ["forecast", "baseline:persistence", "store.zarr", "out.zarr", "--init", "2001-01-02", "2001-01-10"]
FORECAST += ["--leads", "24"]


@pytest.fixture(autouse=True)
def folder(store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "store.zarr").symlink_to(store)
    (tmp_path / "words.txt").write_text("words")
    coordinates = {"time": pd.date_range("2001-01-01", periods=4), "latitude": [-30.0, 30.0], "longitude": [0.0, 180.0]}
    field = (("time", "level", "latitude", "longitude"), np.ones((4, 1, 2, 2)), {"units": "K"})
    xr.Dataset({"temperature": field}, {**coordinates, "level": [500]}).to_netcdf(tmp_path / "raw.nc")
    # Lightning's handler still writes to what an earlier test has captured and closed.
    monkeypatch.setattr(logging, "raiseExceptions", False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def changed(words: Sequence[str], **positions: str) -> list[str]:
    return [positions.get(f"_{i}", word) for i, word in enumerate(words)]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["prepare", "nowhere.nc", "x.zarr"], "there is no 'nowhere.nc'"),
        (["prepare", "none*.nc", "x.zarr"], "the pattern 'none*.nc' matches no file"),
        (["prepare", "words.txt", "x.zarr"], "words.txt"),
        (["prepare", "raw.nc", "x.zarr", "--variables", "temprature"], "did you mean 'temperature'?"),
        (["prepare", "raw.nc", "x.zarr", "--levels", "300"], "300"),
        (["prepare", "raw.nc", "x.zarr", "--grid", "banana"], "'banana' names no grid; give degrees"),
        (["prepare", "raw.nc", "x.zarr", "--region", "Mordor"], "region 'Mordor' is neither"),
        (["prepare", "raw.nc", "words.txt/x.zarr"], "words.txt"),
        (changed(FORECAST, _1="baseline:persistense"), "no baseline 'persistense'; did you mean 'persistence'?"),
        (changed(FORECAST, _2="stor.zarr"), "there is no training store at stor.zarr"),
        (changed(FORECAST, _5="2011-01-02", _6="2011-02-01"), "it holds 2001-01-01T00:00 to 2001-01-15T18:00"),
        (changed(FORECAST, _5="2001-01-12"), "the period 2001-01-12 to 2001-01-10 ends before it starts"),
        (changed(FORECAST, _6="tomorrow"), "'tomorrow' is no date"),
        (changed(FORECAST, _8="-24"), "leads [-24] must be hours greater than 0"),
        ([*FORECAST, "--every", "0"], "every = 0 must be at least 1"),
        ([*FORECAST, "--batch-size", "0"], "batch_size = 0 must be at least 1"),
        ([*FORECAST, "--channels", "temprature"], "did you mean 'temperature'?"),
        ([*FIT, "--data.init_args.inputs=[temprature]"], "no channel 'temprature'; did you mean 'temperature'?"),
        ([*FIT, "--data.init_args.region=Mordor"], "region 'Mordor' is neither"),
        ([*FIT, "--data.init_args.leads=[7]"], "leads of [7] h lies within 2001-01-01 to 2001-01-08"),
        ([*FIT, "--data.init_args.leads=[2400]"], "store.zarr holds 2001-01-01T00:00 to 2001-01-15T18:00 every 6 h"),
        ([*FIT, "--data.init_args.validate=[2001-01-05,2001-01-15]"], "the periods train (2001-01-01 to 2001-01-08)"),
        ([*FIT, "--model.init_args.netwrok=x"], "ForecastTask has no option 'netwrok'; did you mean 'network'?"),
        ([*FIT, "--model.init_args.lead_weights={48: 1.0}"], "lead_weights has none for 24 h; it names [48] h"),
        ([*FIT, "--data.init_args.stores=[]"], "stores is empty: name the training stores to read"),
        ([*FIT, "--model.init_args.network.init_args.patch=0"], "ClimaX cannot be made as told: integer division"),
        ([*FIT, "--model.init_args.optimizer.init_args.lr=-1"], "the optimizer cannot be made: Invalid learning rate"),
        (["fit", "-c", "nowhere.yaml"], "nowhere.yaml"),
        (["evaluate", "nothing.zarr", "store.zarr"], "there is no 'nothing.zarr'"),
        (["evaluate", "store.zarr", "store.zarr"], "is not in WeatherBench 2's layout"),
        (["plot", "nothing.zarr", "out.png"], "there is no 'nothing.zarr'"),
        (["simulate", "atmosphere", "words.txt", "--days", "2"], "words.txt exists and holds no fields"),
        (["simulate", "atmosphere", "x.zarr", "--days", "many"], "days"),
    ],
)
def test_a_mistake_is_one_sentence_and_leaves_nothing(
    words: Sequence[str], message: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        main(list(words))
    assert stop.value.code in (1, 2)
    said = capsys.readouterr().err
    assert message in " ".join(said.split())
    assert "Traceback" not in said
    assert len([line for line in said.splitlines() if line and not line.startswith("Seed set")]) == 1
    left = {name for name in os.listdir(folder) if name != "new"}
    assert left == {"store.zarr", "words.txt", "raw.nc"}
    assert not (folder / "new" / "checkpoints").exists()


def test_going_on_with_a_run_of_another_network_is_refused(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(list(FIT))
    before = (folder / "new" / "checkpoints" / "last" / "weights.safetensors").read_bytes()
    with pytest.raises(SystemExit):
        main([*FIT, "--model.init_args.network.init_args.dim=32", "--trainer.max_epochs=2"])
    assert "the run to go on with was of another network" in capsys.readouterr().err
    assert (folder / "new" / "checkpoints" / "last" / "weights.safetensors").read_bytes() == before
