"""`etesian prepare --derive` puts fields made by spherical harmonics into the store as if the files had held them."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import xarray as xr

from etesian.cli.main import main
from etesian.core import Grid
from etesian.core.errors import ChannelError, DataError, GridError
from etesian.core.sphere import SphericalHarmonics
from etesian.store.derive import vorticity_divergence, winds
from etesian.store.format import to_dataset
from etesian.store.prepare import prepare

GRID = Grid.gaussian(12)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Winds of T10 at two levels, and a temperature."""
    random = np.random.default_rng(0)
    harmonics = SphericalHarmonics(GRID, 10)
    parts = [np.tril(random.standard_normal((12, 2, 11, 11))) * 1e-5 + 0j for _ in range(2)]
    u, v = harmonics.synthesise_winds(*parts)
    dims = ("time", "level", "latitude", "longitude")
    dataset = xr.Dataset(
        {
            "u": (dims, u.astype(np.float32), {"units": "m/s"}),
            "v": (dims, v.astype(np.float32), {"units": "m/s"}),
            "t": (dims, random.standard_normal(u.shape).astype(np.float32) + 270, {"units": "K"}),
            "lsm": (dims[2:], random.random(GRID.shape).astype(np.float32), {"units": "1"}),
        },
        {
            "time": pd.date_range("2001-01-01", periods=12, freq="6h"),
            "level": ("level", [500, 850], {"units": "hPa"}),
            "latitude": ("latitude", GRID.latitude, {"units": "degrees_north"}),
            "longitude": ("longitude", GRID.longitude, {"units": "degrees_east"}),
        },
    )
    path = tmp_path_factory.mktemp("winds") / "winds.nc"
    dataset.to_netcdf(path)
    return str(path)


def test_vorticity_and_divergence_are_those_of_the_winds(source: str, tmp_path: Path) -> None:
    store = tmp_path / "store.zarr"
    with pytest.raises(SystemExit) as done:
        main(["prepare", source, str(store), "--derive", "vorticity,divergence", "--exclude", "temperature"])
    assert done.value.code == 0
    made = to_dataset(store).load()
    assert list(made) == ["u_component_of_wind", "v_component_of_wind", "vorticity", "divergence", "land_sea_mask"]
    assert made["vorticity"].attrs == {"units": "s-1", "levels": [500, 850]}
    expected = vorticity_divergence(made["u_component_of_wind"], made["v_component_of_wind"])
    for name, values in zip(("vorticity", "divergence"), expected, strict=True):
        np.testing.assert_allclose(made[name], values, atol=1e-11)
        assert made[name].std() > 1e-6
    statistics = xr.open_zarr(store)
    assert statistics["log1p_std"].sel(channel="vorticity_850") > 0
    assert statistics["std"].sel(channel="vorticity_850") == pytest.approx(
        float(made["vorticity"][:, 1].std()), rel=1e-5
    )


def test_only_what_is_derived_is_kept_of_the_levels_times_and_grid_asked_for(source: str, tmp_path: Path) -> None:
    options = {"variables": [], "levels": [850], "every": 24, "grid": "gaussian6", "method": "bilinear"}
    prepare([source], str(tmp_path / "coarse.zarr"), derive=["strf", "vp"], **options)  # type: ignore[arg-type]
    made = to_dataset(tmp_path / "coarse.zarr")
    assert list(made) == ["streamfunction", "velocity_potential", "land_sea_mask"]
    assert dict(made.sizes) == {"time": 3, "level": 1, "latitude": 6, "longitude": 12}
    assert made["streamfunction"].attrs["units"] == "m2 s-1"


def test_winds_come_back_from_a_store_without_them(source: str, tmp_path: Path) -> None:
    prepare([source], str(tmp_path / "curl.zarr"), variables=["t"], derive=["vorticity", "divergence"])
    curl = to_dataset(tmp_path / "curl.zarr").load()
    assert list(curl) == ["temperature", "vorticity", "divergence", "land_sea_mask"]
    u, v = winds(curl["vorticity"], curl["divergence"])
    truth = xr.open_dataset(source)
    np.testing.assert_allclose(u, truth["u"], atol=1e-3)
    np.testing.assert_allclose(v, truth["v"], atol=1e-3)
    curl[["vorticity", "divergence"]].to_netcdf(tmp_path / "curl.nc")
    prepare([str(tmp_path / "curl.nc")], str(tmp_path / "winds.zarr"), variables=["u"], derive=["u", "v"])
    np.testing.assert_allclose(to_dataset(tmp_path / "winds.zarr")["v_component_of_wind"], truth["v"], atol=1e-3)


def test_what_was_derived_is_part_of_the_fingerprint(source: str, tmp_path: Path) -> None:
    store, options = str(tmp_path / "store.zarr"), {"variables": [], "levels": [500], "every": 24}
    prepare([source], store, derive=["vorticity"], **options)  # type: ignore[arg-type]
    first = xr.open_zarr(store).attrs["fingerprint"]
    prepare([source], store, derive=["vorticity"], **options)  # type: ignore[arg-type]
    assert xr.open_zarr(store).attrs["fingerprint"] == first
    with pytest.raises(DataError, match="made with vorticity_500 among its channels"):
        prepare([source], store, derive=["divergence"], **options)  # type: ignore[arg-type]


def test_what_cannot_be_derived_is_said_before_anything_is_written(source: str, tmp_path: Path) -> None:
    store = str(tmp_path / "store.zarr")
    with pytest.raises(ChannelError, match="'enstrophy' cannot be derived"):
        prepare([source], store, derive=["enstrophy"])
    xr.open_dataset(source).isel(longitude=slice(5)).to_netcdf(tmp_path / "region.nc")
    with pytest.raises(GridError, match=r"need a globe with even longitudes, which 12×5"):
        prepare([str(tmp_path / "region.nc")], store, derive=["vorticity"])
    assert not (tmp_path / "store.zarr.partial").exists()
    gappy = xr.open_dataset(source).load()
    gappy["u"][3, 0, 5, 6] = np.nan
    gappy.to_netcdf(tmp_path / "gappy.nc")
    with pytest.raises(DataError, match="need whole fields, but values are missing"):
        prepare([str(tmp_path / "gappy.nc")], store, derive=["vorticity"])


def test_an_anomaly_is_the_departure_from_the_mean_of_the_training_period(source: str, tmp_path: Path) -> None:
    prepare(
        [source], str(tmp_path / "away.zarr"), derive=["t_anomaly"], train_start="2001-01-02", train_end="2001-01-03"
    )
    made = to_dataset(tmp_path / "away.zarr").load()
    assert made["temperature_anomaly"].attrs == made["temperature"].attrs
    trained = made.sel(time=slice("2001-01-02", "2001-01-03"))
    expected = made["temperature"] - trained["temperature"].mean("time", dtype=np.float64)
    np.testing.assert_allclose(made["temperature_anomaly"], expected, atol=1e-4)
    np.testing.assert_allclose(trained["temperature_anomaly"].mean("time"), 0, atol=1e-4)
    assert made["temperature_anomaly"].std() > 0.5


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("lsm_anomaly", DataError, "'land_sea_mask' does not change in time, so that it has no anomaly"),
        ("tempreature_anomaly", ChannelError, "is derived from tempreature, which the data lack; did you mean"),
        ("orography", ChannelError, "'orography' is derived from geopotential_at_surface, which the data lack"),
    ],
)
def test_what_has_no_anomaly_is_refused(
    name: str, error: type[Exception], message: str, source: str, tmp_path: Path
) -> None:
    with pytest.raises(error, match=message):
        prepare([source], str(tmp_path / "store.zarr"), derive=[name])
