"""Options choose what they name, and what is not there is refused with the closest that is."""

from typing import Any

import numpy as np
import pandas as pd
import pytest
import xarray as xr

from etesian.core.clock import encode_time
from etesian.core.dataset import channels_of
from etesian.core.errors import ChannelError, DataError
from etesian.store.select import (
    refuse_beyond,
    resample,
    select_channels,
    select_member,
    select_period,
    select_region,
    unchanging,
)
from etesian.store.states import DatasetStates


def states(steps: int = 24, freq: str = "3h") -> xr.Dataset:
    shape = (steps, 2, 3, 4)
    values = np.arange(np.prod(shape), dtype=np.float64).reshape(shape)
    coordinates = {"time": pd.date_range("2001-01-01", periods=steps, freq=freq), "level": [500, 850]}
    return xr.Dataset(
        {
            "temperature": (("time", "level", "latitude", "longitude"), values),
            "2m_temperature": (("time", "latitude", "longitude"), values[:, 0]),
            "orography": (("latitude", "longitude"), values[0, 0]),
        },
        coordinates | {"latitude": [-10.0, 0, 10], "longitude": [0.0, 90, 180, 270]},
    )


def names(dataset: xr.Dataset) -> list[str]:
    return [str(channel) for channel in channels_of(dataset)]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"variables": ["t2m"]}, ["2m_temperature", "orography"]),
        ({"variables": ["temperature_850", "2m_temperature"]}, ["temperature_850", "2m_temperature", "orography"]),
        ({"levels": [500]}, ["temperature_500", "2m_temperature", "orography"]),
        ({"exclude": ["temperature_500", "orography"]}, ["temperature_850", "2m_temperature"]),
    ],
)
def test_channels_are_chosen_by_variable_level_and_exclusion(options: dict[str, Any], expected: list[str]) -> None:
    assert names(select_channels(states(), **options)) == expected


def test_a_missing_variable_or_level_is_refused_with_the_closest() -> None:
    with pytest.raises(ChannelError, match="no channel 'temprature'; did you mean 'temperature'"):
        select_channels(states(), variables=["temprature"])
    with pytest.raises(ChannelError, match="no 'temperature_700'; the closest level is 850 hPa"):
        select_channels(states(), levels=[700])


def test_one_member_is_picked_and_several_are_averaged_only_if_that_is_asked_for() -> None:
    ensemble = xr.concat([states(), states() + 1], dim=pd.Index([3, 7], name="member"))
    for each in (ensemble, ensemble.assign_coords(member=["r1i1p1f1", "r2i1p1f1"])):
        xr.testing.assert_equal(select_member(each, each.member.values[1]), states() + 1)
    with pytest.raises(DataError, match=r"the data hold 2 members \(3, 7\), .*; name the member to keep \(--member 3"):
        select_member(ensemble, None)
    with pytest.raises(DataError, match="there is no member 4; there are 3, 7"):
        select_member(ensemble, 4)
    ensemble = ensemble.where((ensemble.member == 3) | (ensemble.latitude > ensemble.latitude[0]))
    mean = select_member(ensemble, "mean")
    assert mean.temperature.attrs == states().temperature.attrs
    np.testing.assert_allclose(mean.temperature[..., 1:, :], states().temperature[..., 1:, :] + 0.5, rtol=1e-6)
    assert mean.temperature[..., 0, :].isnull().all()
    with pytest.raises(DataError, match="there is no member 'mean': the data are no ensemble"):
        select_member(states(), "mean")
    unnamed = ensemble.rename(member="number")
    xr.testing.assert_equal(select_member(unnamed, 7), select_member(ensemble, 7))
    with pytest.raises(DataError, match=r"the dataset holds 2 members, .* dataset\.isel\(number=0\)"):
        DatasetStates(unnamed)


def test_a_period_includes_all_of_the_day_that_ends_it() -> None:
    kept = select_period(states(), "2001-01-01T12", "2001-01-02")
    assert kept.indexes["time"][[0, -1]].astype(str).tolist() == ["2001-01-01 12:00:00", "2001-01-02 21:00:00"]
    with pytest.raises(DataError, match="no time lies from 2002 to None"):
        select_period(states(), "2002", None)


def test_instants_are_picked_at_multiples_of_the_step_after_midnight() -> None:
    kept = resample(states().isel(time=slice(1, None)), 6)
    assert kept.indexes["time"].hour.tolist() == [6, 12, 18, 0, 6, 12, 18, 0, 6, 12, 18]
    with pytest.raises(DataError, match="no time is a multiple of 24 hours after 00 UTC"):
        resample(states(8).isel(time=slice(1, None)), 24)


@pytest.mark.parametrize("chunk", [1, 5, 8, 23])
def test_daily_means_are_means_of_whole_days_whatever_the_chunks(chunk: int) -> None:
    source = states(23)
    result = resample(source.chunk(time=chunk), 24, "mean")
    assert result.indexes["time"].astype(str).tolist() == ["2001-01-01", "2001-01-02"]
    np.testing.assert_allclose(result["temperature"][1], source["temperature"][8:16].mean("time"), rtol=1e-14)
    xr.testing.assert_equal(result["orography"], source["orography"])


def test_a_mean_of_less_than_half_of_a_window_is_missing() -> None:
    source = states(16)
    source["2m_temperature"][:4, 0, 0] = np.nan
    source["2m_temperature"][:5, 0, 1] = np.nan
    result = resample(source, 24, "mean")["2m_temperature"][0, 0, :2]
    np.testing.assert_array_equal(result, [source["2m_temperature"][4:8, 0, 0].mean(), np.nan])


def test_a_region_across_greenwich_runs_on_past_360() -> None:
    cropped = select_region(states(), "-5,20,200,100")
    assert cropped["longitude"].values.tolist() == [270, 360, 450]
    assert cropped["latitude"].values.tolist() == [0, 10]
    np.testing.assert_array_equal(cropped["orography"], states()["orography"].values[1:][:, [3, 0, 1]])


def test_a_static_field_kept_at_every_time_loses_it_unless_it_changes() -> None:
    source = states()
    source["land_sea_mask"] = xr.ones_like(source["2m_temperature"])
    assert unchanging(source)["land_sea_mask"].dims == ("latitude", "longitude")
    source["land_sea_mask"][-1] = 0
    with pytest.raises(DataError, match="'land_sea_mask' should not change in time but does"):
        unchanging(source)


@pytest.mark.parametrize("freq", ["3h", "24h"])
@pytest.mark.parametrize(
    ("first", "last", "within"),
    [
        ("2000-12-31", "2001-01-04", "2001-01-01 to 2001-01-04"),
        ("2001-01-02", "2001-01-25", "2001-01-02 to 2001-01-24"),
        ("1999", "2002", "2001-01-01 to 2001-01-24"),
        ("2003", "2003", "2001-01-01 to 2001-01-24"),
    ],
)
def test_a_span_that_reaches_beyond_all_times_is_refused_with_the_part_that_is_there(
    freq: str, first: str, last: str, within: str
) -> None:
    times = pd.date_range("2001-01-01", "2001-01-24", freq=freq).values
    with pytest.raises(
        DataError, match=f"^a.zarr holds 2001-01-01T00:00 to 2001-01-24T00:00, and .*; ask for {within}$"
    ):
        refuse_beyond("a.zarr", *encode_time(times), first, last)
    refuse_beyond("a.zarr", *encode_time(times), *within.split(" to "))


@pytest.mark.parametrize(
    ("times", "first", "last"),
    [
        # Parts of a year, a month or a day that is named.
        (pd.date_range("2001-02-10", "2001-06-20T06", freq="6h"), "2001", "2001"),
        (pd.date_range("2001-02-10", "2001-06-20T06", freq="6h"), "2001-02", "2001-06-20"),
        # Nothing is missing: the next time would lie outside.
        (pd.date_range("2001-01-01T12", "2001-01-09T12", freq="24h"), "2001-01-01T00", "2001-01-10T11"),
        (pd.date_range("2001-01", "2001-12", freq="MS"), "2001-01-01", "2001-12-31"),
        (pd.date_range("2001-01-01T06", periods=1), "2001-01-01", "2001-01-01"),
    ],
)
def test_a_span_is_within_times_that_begin_or_end_in_what_its_dates_name(
    times: pd.DatetimeIndex, first: str, last: str
) -> None:
    refuse_beyond("a.zarr", *encode_time(times.values), first, last)
