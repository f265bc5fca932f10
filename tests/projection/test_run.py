"""Projections through the API: a generated climate, a run trained on it, maps of a scenario, which stay there."""

from pathlib import Path
from typing import Any

import pytest
import xarray as xr
from running import measured_here

import etesian as et
from etesian.core.errors import DataError

pytestmark = pytest.mark.filterwarnings("ignore")

RECIPE: dict[str, Any] = {
    "seed_everything": 0,
    "data": {
        "class_path": "ProjectionData",
        "init_args": {
            "train": ["historical", "ssp126"],
            "validate": "2091-2100",
            "test": "ssp245",
            "test_years": [2080, 2100],
            "window": 3,
            "batch_size": 64,
        },
    },
    "model": {
        "class_path": "ProjectionTask",
        "init_args": {
            "network": {
                "class_path": "ClimaXProjection",
                "init_args": {"patch": 2, "dim": 8, "depth": 1, "heads": 2, "dropout": 0.0, "drop_path": 0.0},
            },
            "warmup_steps": 1,
        },
    },
    "trainer": {"accelerator": "cpu", "max_epochs": 1, "enable_model_summary": False, "logger": False},
}


def test_a_scenario_is_projected_and_the_same_again_is_there_already(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    climate = et.simulate("climate", tmp_path / "climate", resolution=45.0, members=1)
    run = et.fit(RECIPE, run=tmp_path / "run", options={"data.init_args.folder": str(climate)})
    maps = et.load(tmp_path / "run").project(climate, "ssp245", years=(2090, 2094))
    assert dict(maps.sizes) == {"time": 5, "latitude": 4, "longitude": 8}
    assert maps["2m_temperature" if "2m_temperature" in maps else "tas"].notnull().all()
    written = run.project(climate, "ssp245", (2090, 2094), out=tmp_path / "maps.zarr")
    xr.testing.assert_equal(written.load().drop_attrs(), maps.drop_attrs())
    before = (tmp_path / "maps.zarr" / "zarr.json").stat().st_mtime_ns
    capsys.readouterr()
    run.project(climate, "ssp245", (2090, 2094), out=tmp_path / "maps.zarr")
    assert capsys.readouterr().out == f"{tmp_path / 'maps.zarr'} is already there\n"
    assert (tmp_path / "maps.zarr" / "zarr.json").stat().st_mtime_ns == before
    with pytest.raises(DataError, match=r"made with years = \[2090, 2094\] instead of \[2095, 2099\]; use --overwrite"):
        run.project(climate, "ssp245", (2095, 2099), out=tmp_path / "maps.zarr")
    departing = {"data.init_args.folder": str(climate), "model.init_args.predict": "departure"}
    monkeypatch.setattr("subprocess.run", measured_here)
    assert et.check(RECIPE, options=departing).samples == 239
    with pytest.raises(DataError, match=r"made with resolution = 45\.0 instead of 30\.0"):
        et.simulate("climate", tmp_path / "climate", resolution=30.0, members=1)
