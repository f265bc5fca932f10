"""Baselines that fill a store's gaps, in the layout that learned reconstructions are written in."""

from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from numpy.testing import assert_allclose, assert_array_equal

from etesian.core.errors import DataError, RecipeError
from etesian.fill.baselines import GAP_BASELINES, fill_baseline
from etesian.fill.pairs import FILLED, ON_LAND, UNOBSERVED
from etesian.store.prepare import prepare_dataset
from etesian.store.reader import Store

LATITUDE, LONGITUDE = np.linspace(30, 33, 10), np.linspace(10, 14, 12)


def sea_surface(time: pd.DatetimeIndex, seed: int = 0) -> tuple[xr.Dataset, xr.Dataset]:
    """Return smooth fields of sea surface temperature in Celsius with land, and the same with gaps."""
    random = np.random.default_rng(seed)
    day = np.arange(time.size)[:, None, None]
    y, x = np.meshgrid(np.linspace(0, 3, 10), np.linspace(0, 4, 12), indexing="ij")
    values = 290 + np.sin(x + day / 9) + np.cos(y - day / 13) + 3 * np.cos(2 * np.pi * day / 365)
    land = np.zeros((10, 12), np.float32)
    land[:2, :3] = 1
    values = np.where(land, np.nan, values).astype(np.float32)
    gaps = random.random(values.shape) < 0.5

    def dataset(fields: np.ndarray) -> xr.Dataset:
        return xr.Dataset(
            {
                "sea_surface_temperature": (("time", "latitude", "longitude"), fields, {"units": "K"}),
                "land_sea_mask": (("latitude", "longitude"), land, {"units": "1"}),
            },
            {"time": time, "latitude": LATITUDE, "longitude": LONGITUDE},
        )

    return dataset(values), dataset(np.where(gaps, np.nan, values))


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> tuple[xr.Dataset, xr.Dataset, Store]:
    truth, observed = sea_surface(pd.date_range("2001-01-01", "2001-03-31"))
    observed["sea_surface_temperature"][31:59] = np.nan
    path = tmp_path_factory.mktemp("gaps") / "observed.zarr"
    prepare_dataset(observed, path)
    return truth, observed, Store(path)


@pytest.fixture(scope="module")
def january(stores: tuple[xr.Dataset, xr.Dataset, Store]) -> Callable[[str], tuple[xr.Dataset, xr.Dataset]]:
    """Return how a baseline fills the days of January, and the month; fitted once."""
    store = stores[2]

    @cache
    def filled(name: str) -> tuple[xr.Dataset, xr.Dataset]:
        return (
            fill_baseline(name, store, store.channels, "2001-01-01", "2001-01-31", "daily"),
            fill_baseline(name, store, store.channels, "2001-01", "2001-01"),
        )

    return filled


@pytest.mark.parametrize("name", GAP_BASELINES)
def test_a_baseline_fills_days_closer_than_their_spread_and_its_months_are_the_means_of_its_days(
    name: str,
    stores: tuple[xr.Dataset, xr.Dataset, Store],
    january: Callable[[str], tuple[xr.Dataset, xr.Dataset]],
) -> None:
    truth, observed, _ = stores
    daily, monthly = january(name)
    assert daily.sea_surface_temperature.dims == ("time", "latitude", "longitude")
    assert_array_equal(daily.time, truth.time[:31])
    assert_array_equal(monthly.time, truth.time[:1])
    gaps = observed.sea_surface_temperature[:31].isnull() & (truth.land_sea_mask == 0)
    error = (daily.sea_surface_temperature - truth.sea_surface_temperature[:31]).where(gaps)
    assert float(error.std()) < 0.9 * float(truth.sea_surface_temperature[:31].std())
    assert_allclose(monthly.sea_surface_temperature[0], daily.sea_surface_temperature.mean("time"), atol=1e-4)


def test_land_counts_and_months_without_any_observation_are_marked_and_nothing_is_invented(
    stores: tuple[xr.Dataset, xr.Dataset, Store],
) -> None:
    _, observed, store = stores
    filled = fill_baseline("linear", store, store.channels, "2001-01", "2001-03")
    flag = filled.sea_surface_temperature_flag.values
    land = observed.land_sea_mask.values > 0.5
    assert (flag[:, land] == ON_LAND).all()
    assert_array_equal(flag[:, ~land], np.broadcast_to([[FILLED], [UNOBSERVED], [FILLED]], (3, (~land).sum())))
    assert np.isnan(filled.sea_surface_temperature.values[flag != FILLED]).all()
    assert np.isfinite(filled.sea_surface_temperature.values[flag == FILLED]).all()
    count = observed.sea_surface_temperature.notnull().groupby("time.month").sum()
    assert_array_equal(filled.sea_surface_temperature_observations, count)


def test_optimal_interpolation_tells_its_error_and_is_surer_of_a_month_than_of_a_day(
    stores: tuple[xr.Dataset, xr.Dataset, Store], january: Callable[[str], tuple[xr.Dataset, xr.Dataset]]
) -> None:
    truth = stores[0]
    daily, monthly = january("optimal_interpolation")
    of_month = monthly.sea_surface_temperature_standard_deviation[0]
    assert (of_month <= daily.sea_surface_temperature_standard_deviation.max("time")).where(of_month.notnull()).all()
    error = monthly.sea_surface_temperature[0] - truth.sea_surface_temperature[:31].mean("time")
    assert float(abs(error).max()) < 0.05


def test_without_a_land_mask_land_is_where_nothing_was_ever_seen(tmp_path: Path) -> None:
    _, observed = sea_surface(pd.date_range("2001-01-01", "2001-01-31"))
    prepare_dataset(observed.drop_vars("land_sea_mask"), tmp_path / "observed.zarr")
    store = Store(tmp_path / "observed.zarr")
    flag = fill_baseline("linear", store, store.channels, "2001-01", "2001-01").sea_surface_temperature_flag
    assert_array_equal(flag[0] == ON_LAND, observed.land_sea_mask > 0.5)


def test_months_follow_the_calendar_of_the_store(tmp_path: Path) -> None:
    time = xr.date_range("2001-02-01", periods=60, freq="D", calendar="360_day", use_cftime=True)
    _, observed = sea_surface(pd.date_range("2001-01-01", periods=60))
    prepare_dataset(observed.assign_coords(time=time), tmp_path / "observed.zarr")
    store = Store(tmp_path / "observed.zarr")
    filled = fill_baseline("observed_mean", store, store.channels, "2001-02-30", "2001-03-30")
    assert [str(value)[:10] for value in filled.time.values] == ["2001-02-01", "2001-03-01"]
    assert int(filled.sea_surface_temperature_observations[0].max()) == 1


def test_what_cannot_be_filled_is_said_in_a_sentence(stores: tuple[xr.Dataset, xr.Dataset, Store]) -> None:
    store = stores[2]
    with pytest.raises(RecipeError, match=r"no baseline 'dinoef'; did you mean 'dineof'\?"):
        fill_baseline("dinoef", store, store.channels, "2001-01", "2001-01")
    with pytest.raises(DataError, match="has no times from 1999 to 1999; they run from 2001-01-01"):
        fill_baseline("dineof", store, store.channels, "1999", "1999")
    with pytest.raises(DataError, match="nothing was observed at sea in the whole period"):
        fill_baseline("dineof", store, store.channels, "2001-02", "2001-02")
