"""A sample of downscaling is one time on two grids, each value from its own store."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import xarray as xr

from etesian.core import Channel, Grid, Region
from etesian.core.errors import DataError, RecipeError
from etesian.downscale.data import DownscalingData, surrounding
from etesian.samples.batches import GroupedBatchSampler
from etesian.store.prepare import prepare_dataset
from etesian.store.regrid import regrid

PERIODS: dict[str, Any] = {"train": ("2001-01-01", "2001-01-20"), "validate": ("2001-01-21", "2001-01-30")}
FINE = Grid.equiangular(15)


def source(start: str = "2001-01-01", steps: int = 60, calendar: str | None = None) -> xr.Dataset:
    random = np.random.default_rng(0)
    if calendar is None:
        time = pd.date_range(start, periods=steps, freq="12h")
    else:
        time = xr.date_range(start, periods=steps, freq="12h", calendar=calendar, use_cftime=True)
    dims = ("time", "latitude", "longitude")
    values = {
        name: (dims, (random.standard_normal((steps, *FINE.shape)) * 5 + 280).astype(np.float32), {"units": "K"})
        for name in ("2m_temperature", "sea_surface_temperature")
    }
    height = (dims[1:], random.random(FINE.shape).astype(np.float32), {"units": "m"})
    return xr.Dataset(
        values | {"orography": height}, {"time": time, "latitude": FINE.latitude, "longitude": FINE.longitude}
    )


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    folder = tmp_path_factory.mktemp("pair")
    fine = source()
    prepare_dataset(fine, folder / "fine.zarr")
    # The coarse source begins later, is hotter, and has a channel less.
    coarse = regrid(source().isel(time=slice(4, None)), Grid.equiangular(30)) + 10
    for name in coarse:
        coarse[name].attrs = fine[name].attrs
    prepare_dataset(coarse.drop_vars(["sea_surface_temperature", "orography"]), folder / "coarse.zarr")
    return str(folder / "coarse.zarr"), str(folder / "fine.zarr")


def test_inputs_are_the_coarse_stores_and_targets_the_fine_ones_at_the_same_time(stores: tuple[str, str]) -> None:
    data = DownscalingData(*stores, **PERIODS, history=[-12, 0], targets=["2m_temperature", "sea_surface_temperature"])
    dataset = data.dataset("train")
    batch = dataset[dataset.picks[:2]]
    coarse, fine = (xr.open_zarr(path) for path in stores)
    # The first coarse state is that of 3 January, its history needs one more.
    assert pd.to_datetime(batch.inputs.frame.time[0, -1].item(), unit="s") == pd.Timestamp("2001-01-03T12")
    np.testing.assert_array_equal(batch.inputs.values[0, :, 0], coarse.fields[0:2, 0])
    assert batch.targets is not None
    assert batch.statics is not None
    np.testing.assert_array_equal(batch.targets.values[0, 0], fine.fields[5])
    np.testing.assert_array_equal(batch.statics.values[0, 0], fine.statics)
    assert batch.targets.frame.grid == FINE
    assert batch.targets.frame.time.tolist() == batch.inputs.frame.time[:, -1:].tolist()
    assert len(dataset) == 35


def test_only_times_of_both_stores_count(stores: tuple[str, str], tmp_path: Path) -> None:
    prepare_dataset(source("2001-01-16"), tmp_path / "later.zarr")
    dataset = DownscalingData(stores[0], str(tmp_path / "later.zarr"), **PERIODS).dataset("train")
    assert [pick.initial for pick in dataset.picks] == list(range(26, 36))
    sampler = GroupedBatchSampler(dataset, 4, shuffle=True)
    assert [len(picks) for picks in sampler] == [3, 3, 4]
    assert len(sampler) == 3


def test_a_predicted_channel_has_the_fine_stores_statistics_on_both_grids(stores: tuple[str, str]) -> None:
    data = DownscalingData(*stores, **PERIODS)
    fine = xr.open_zarr(stores[1])
    assert data.layout.inputs == data.layout.targets == (Channel("2m_temperature"),)
    assert data.statistics.channels == (Channel("2m_temperature"), Channel("orography"))
    np.testing.assert_array_equal(data.statistics.mean, [fine["mean"][0], fine.static_mean[0]])
    other = DownscalingData(*stores, **PERIODS, targets=["sea_surface_temperature"])
    coarse = xr.open_zarr(stores[0])
    names = [str(channel) for channel in other.statistics.channels]
    assert names == ["sea_surface_temperature", "2m_temperature", "orography"]
    np.testing.assert_array_equal(other.statistics.mean[:2], [fine["mean"][1], coarse["mean"][0]])


def test_a_region_reads_the_coarse_points_around_it_too(stores: tuple[str, str]) -> None:
    data = DownscalingData(*stores, **PERIODS, region="-30,30,340,35")
    assert data.layout.target_grid is not None
    np.testing.assert_array_equal(data.layout.target_grid.longitude, [345, 360, 375, 390])
    np.testing.assert_array_equal(data.layout.grid.longitude, [330, 360, 390, 420])
    np.testing.assert_array_equal(data.layout.grid.latitude, [-45, -15, 15, 45])
    dataset = data.dataset("validate")
    batch = dataset[dataset.picks[:1]]
    whole = xr.open_zarr(stores[0]).fields.sel(time="2001-01-21T00")[0]
    np.testing.assert_array_equal(batch.inputs.values[0, 0, 0], whole[1:5, [11, 0, 1, 2]])
    assert surrounding(Grid.equiangular(30), Region(-90, 90, 10, 320)).shape == (6, 12)


def test_what_does_not_pair_is_said(stores: tuple[str, str], tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"the periods train .* overlap"):
        DownscalingData(*stores, **PERIODS | {"validate": ("2001-01-10", "2001-01-30")})
    prepare_dataset(source()[["sea_surface_temperature"]], tmp_path / "sea.zarr")
    with pytest.raises(RecipeError, match="have no channel in common; name targets"):
        DownscalingData(stores[0], str(tmp_path / "sea.zarr"), **PERIODS)
    prepare_dataset(source("2001-02-01"), tmp_path / "later.zarr")
    with pytest.raises(DataError, match="share no time in 2001-01-01 to 2001-01-20; a sample needs both"):
        DownscalingData(stores[0], str(tmp_path / "later.zarr"), **PERIODS).dataset("train")
    prepare_dataset(source(calendar="360_day"), tmp_path / "model.zarr")
    with pytest.raises(RecipeError, match=r"in the 360_day calendar, .* in proleptic_gregorian; .* one calendar"):
        DownscalingData(str(tmp_path / "model.zarr"), stores[1], **PERIODS)
