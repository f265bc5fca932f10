"""Gaps of real sea surface temperature: 492 months, and the globe under the clouds of the Alboran Sea."""

from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from numpy.testing import assert_allclose, assert_array_equal

from etesian.core import Grid
from etesian.fill.baselines import fill_baseline
from etesian.fill.interpolate import Gappy, linear, observed_mean
from etesian.fill.optimal_interpolation import Covariance, optimal_interpolation
from etesian.store.prepare import prepare_dataset
from etesian.store.reader import Store

SST = "sea_surface_temperature"


@pytest.fixture(scope="module")
def off_australia(shared: Path) -> xr.DataArray:
    raw = xr.open_dataset(shared / "data" / "oisst_daily_westaus_41yr" / "oisst_short.nc")["oisst_short"].sortby(
        "latitude"
    )
    return (raw.astype(np.float64) + 273.15).astype(np.float32).drop_vars("crs", errors="ignore")


def prepared(fields: xr.DataArray, path: Path) -> Store:
    prepare_dataset(fields.assign_attrs(units="K").to_dataset(name=SST), path)
    return Store(path)


def test_means_over_492_months_are_those_of_xarray(off_australia: xr.DataArray, tmp_path: Path) -> None:
    store = prepared(off_australia, tmp_path / "all.zarr")
    expected = off_australia.resample(time="MS").mean()
    assert expected.time.size == 492
    for name in ("linear", "observed_mean"):
        filled = fill_baseline(name, store, store.channels, "1982", "2022")
        assert_array_equal(filled.time, expected.time)
        assert_allclose(filled[SST], expected, atol=1e-4)
        days = off_australia.time.resample(time="MS").count()
        assert_array_equal(filled[f"{SST}_observations"], days.values[:, None, None] * np.ones((1, 2, 2)))


def test_half_of_the_days_give_the_means_of_those_days_and_knowing_the_season_or_the_neighbours_is_closer_to_the_truth(
    off_australia: xr.DataArray, tmp_path: Path
) -> None:
    gaps = np.random.default_rng(0).random((1498, 2, 2)).repeat(10, 0)[:14975] < 0.5
    observed = off_australia.where(~gaps)
    store = prepared(observed, tmp_path / "gappy.zarr")
    truth, seen = (fields.resample(time="MS").mean() for fields in (off_australia, observed))
    mean = fill_baseline("observed_mean", store, store.channels, "1982", "2022")[SST]
    assert_allclose(mean.where(seen.notnull()), seen, atol=1e-4)
    rmse = {
        name: float(np.sqrt(np.square(fill_baseline(name, store, store.channels, "1982", "2022")[SST] - truth).mean()))
        for name in ("observed_mean", "climatology_anomaly", "linear")
    }
    assert rmse["observed_mean"] > max(rmse["linear"], rmse["climatology_anomaly"])


@pytest.fixture(scope="module")
def globe(shared: Path) -> tuple[np.ndarray, Gappy]:
    """Two days of June 2017, and the same under the clouds of two days of the Alboran Sea, tiled."""
    files = sorted((shared / "data" / "ostia_global_daily").glob("201706*.nc"))[:2]
    days = xr.concat([xr.open_dataset(file).analysed_sst for file in files], "time").values.astype(np.float64)
    clouds = np.isnan(xr.open_dataset(shared / "data" / "alboran_sst_gappy_daily" / "alboranSST_small.nc").SST.values)
    clouds = np.tile(clouds[[3, 9], 100:190, 60:240], (1, 8, 8))
    return days, Gappy(np.where(clouds, np.nan, days), np.isfinite(days).all(0), np.arange(2.0), Grid.equiangular(0.25))


def test_interpolation_fills_the_whole_globe_under_real_clouds(globe: tuple[np.ndarray, Gappy]) -> None:
    truth, data = globe
    gaps = data.sea & ~data.observed
    assert 0.3 < gaps.sum() / (2 * data.sea.sum()) < 0.8
    error = {}
    for name, method in (("linear", linear), ("mean", observed_mean)):
        filled = method(data).values
        assert np.isfinite(filled[:, data.sea]).all()
        assert np.isnan(filled[:, ~data.sea]).all()
        error[name] = float(np.sqrt(np.square(filled - truth)[gaps].mean()))
    assert error["linear"] < 1.2
    assert error["linear"] < 0.2 * error["mean"]


def test_optimal_interpolation_crosses_the_first_meridian_without_a_seam(globe: tuple[np.ndarray, Gappy]) -> None:
    truth, data = globe
    rows = slice(300, 332)
    grid = Grid(data.grid.latitude[rows], data.grid.longitude)
    band = Gappy(data.values[:, rows], data.sea[rows], data.days, grid)
    filled = optimal_interpolation(band, Covariance(2.0, 600.0, 5.0, 0.1), max_observations=200).filled
    assert np.isfinite(filled.values[:, band.sea]).all()
    gaps = band.sea & ~band.observed
    ours, plain = (
        np.square(values - truth[:, rows])[gaps].mean() for values in (filled.values, observed_mean(band).values)
    )
    assert ours < 0.25 * plain
    step = np.abs(np.diff(filled.values, axis=2))
    seam = np.abs(filled.values[..., 0] - filled.values[..., -1])
    assert np.nanmean(seam) < 3 * np.nanmean(step)
