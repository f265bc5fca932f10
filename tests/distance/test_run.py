"""The design's example of a distance through the API: two datasets in, a distance out."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import xarray as xr

import etesian as et

pytestmark = pytest.mark.filterwarnings("ignore")


def weather(days: int = 30, seed: int = 0) -> xr.Dataset:
    values = np.random.default_rng(seed).standard_normal((days, 16, 16)).cumsum(axis=0)
    return xr.Dataset(
        {"2m_temperature": (("time", "latitude", "longitude"), (280 + values).astype("f4"), {"units": "K"})},
        {
            "time": pd.date_range("2001-01-01", periods=days, freq="6h"),
            "latitude": np.linspace(-60, 60, 16),
            "longitude": np.arange(16) * 22.5,
        },
    )


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> et.Run:
    folder = tmp_path_factory.mktemp("distance")
    store = et.prepare(weather(), folder / "store.zarr")
    recipe = {
        "seed_everything": 0,
        "data": {
            "class_path": "LagData",
            "init_args": {
                "store": str(store.path),
                "lags": 3,
                "patch_size": [16, 16],
                "batch_size": 8,
                "train": ["2001-01-01", "2001-01-05"],
                "validate": ["2001-01-06", "2001-01-07T18"],
            },
        },
        "model": {
            "class_path": "TimeLagTask",
            "init_args": {"network": {"class_path": "AtmoDist", "init_args": {"lags": 3}}, "step_hours": 6},
        },
        "trainer": {"accelerator": "cpu", "max_epochs": 1, "enable_model_summary": False, "logger": False},
    }
    return et.fit(recipe, run=folder / "run")


def test_the_distance_of_two_datasets_is_over_their_times_and_zero_of_the_same(run: et.Run, tmp_path: Path) -> None:
    a, b = weather(4), weather(4, seed=1)
    d = run.distance(a, b)
    assert d.dims == ("time",)
    assert d.sizes["time"] == 4
    assert (d > 0).all()
    assert run.distance(a, a).max() == 0
    b.to_netcdf(tmp_path / "b.nc")
    xr.testing.assert_allclose(run.distance(a, tmp_path / "b.nc"), d, rtol=1e-5)
    fields = et.Fields.from_xarray(b)
    np.testing.assert_allclose(run.distance(et.Fields.from_xarray(a), fields), d, rtol=1e-5)
    one = run.distance(a, b.isel(time=3, drop=True))
    np.testing.assert_allclose(one[3], d[3], rtol=1e-5)
