"""Fields become datasets in WeatherBench 2's layout and come back unchanged; what a dataset lacks is said."""

import numpy as np
import pandas as pd
import pytest
import torch
import xarray as xr
from conftest import weather

from etesian import Channel, Fields, Frame, Grid
from etesian.core.dataset import from_dataset, to_dataset
from etesian.core.errors import ChannelError, DataError, GridError

GRID = Grid.equiangular(45.0)
CHANNELS = (Channel("temperature", 850), Channel("geopotential", 500), Channel("temperature", 500), Channel("rain"))


def fields(samples: int, times: int) -> Fields:
    values = torch.arange(float(samples * times * 4 * GRID.shape[0] * GRID.shape[1]))
    time = torch.arange(times)[None] * 21600 + 86400 * torch.arange(1, samples + 1)[:, None]
    values = values.reshape(samples, times, 4, *GRID.shape)
    valid = torch.ones_like(values, dtype=torch.bool)
    valid[..., 0, 0] = False
    return Fields(values.masked_fill(~valid, 0.0), Frame(CHANNELS, time, GRID), valid)


def test_forecasts_have_initial_times_and_leads_units_and_levels() -> None:
    given = fields(2, 3)
    dataset = given.to_xarray(initial=[0, 86400], units={Channel("rain"): "kg m-2 s-1"})
    assert dataset.temperature.dims == ("time", "prediction_timedelta", "level", "latitude", "longitude")
    assert dataset.rain.dims == ("time", "prediction_timedelta", "latitude", "longitude")
    assert (dataset.prediction_timedelta == pd.to_timedelta([24, 30, 36], "h")).all()
    assert [dataset[name].attrs["units"] for name in ("temperature", "geopotential", "rain")] == [
        "K", "m2 s-2", "kg m-2 s-1",
    ]  # fmt: skip
    assert dataset.geopotential.attrs["levels"] == [500]
    assert dataset.geopotential.sel(level=850).isnull().all()
    chosen = dataset.temperature.sel(level=850).isel(time=1, prediction_timedelta=2)
    np.testing.assert_array_equal(chosen[1:], given.values[1, 2, 0, 1:])
    assert np.isnan(chosen[0, 0])


def test_one_sample_has_valid_times_and_several_say_theirs() -> None:
    assert dict(fields(1, 3).to_xarray().rain.sizes) == {"time": 3, "latitude": 4, "longitude": 8}
    several = fields(2, 3).to_xarray()
    assert several.rain.dims[:2] == ("sample", "step")
    assert several.valid_time.values[1, 2] == np.datetime64("1970-01-03T12")
    with pytest.raises(ValueError, match="different leads"):
        fields(2, 3).to_xarray(initial=[0, 0])


def test_fields_come_back_from_the_dataset_that_they_became() -> None:
    given = fields(1, 3)
    back = Fields.from_xarray(given.to_xarray(), CHANNELS)
    assert back.frame.channels == CHANNELS
    assert back.frame.grid == GRID
    torch.testing.assert_close(back.values, given.values)
    torch.testing.assert_close(back.valid, given.valid)
    assert Fields.from_xarray(given.to_xarray().fillna(0)).valid is None


def test_a_dataset_of_another_calendar_keeps_it() -> None:
    time = xr.date_range("2000-02-28", periods=3, calendar="360_day", use_cftime=True)
    back = Fields.from_xarray(weather(time), [Channel("surface_pressure")])
    assert back.frame.calendar == "360_day"
    assert str(back.to_xarray().time.values[2])[:10] == "2000-02-30"


def test_what_a_dataset_lacks_is_named() -> None:
    dataset = weather(pd.date_range("2001", periods=2))
    with pytest.raises(ChannelError, match="no variable 'temprature'; did you mean 'temperature'"):
        from_dataset(dataset, [Channel("temprature", 850)])
    with pytest.raises(ChannelError, match=r"'temperature' has no level of 10 hPa; its levels are \[500, 850\]"):
        from_dataset(dataset, [Channel("temperature", 10)])
    with pytest.raises(GridError, match="no dimension 'latitude'"):
        from_dataset(dataset.rename(latitude="lat"), [Channel("surface_pressure")])
    with pytest.raises(DataError, match="no dimension 'time'"):
        Fields.from_xarray(dataset.isel(time=0, drop=True), [Channel("surface_pressure")])


def test_an_array_without_leading_dimensions_becomes_maps() -> None:
    values = np.ones((1, *GRID.shape))
    assert to_dataset(values, {}, [Channel("rain")], GRID).rain.dims == ("latitude", "longitude")
