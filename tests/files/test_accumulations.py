"""Sums in files other than GRIB: what they are over is told by bounds, or not at all."""

from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from etesian.files.accumulations import Period, over_steps
from etesian.files.doctor import examine
from etesian.files.open import open_store

HOUR = 3600


def forecast(**attrs: str) -> xr.Dataset:
    """Precipitation since the start of a forecast, as files made from GRIB hold it."""
    steps = np.array([6, 12, 18], "timedelta64[h]").astype("timedelta64[ns]")
    start = np.datetime64("2001-01-01", "ns")
    values = np.broadcast_to(np.array([1.0, 3.0, 6.0], np.float32)[:, None, None], (3, 4, 6)) / 1000
    coords = {
        "time": ((), start, {"standard_name": "forecast_reference_time"}),
        "step": ("step", steps, {"standard_name": "forecast_period"}),
        "valid_time": ("step", start + steps, {"standard_name": "time"}),
        "latitude": ("latitude", [45.0, 15.0, -15.0, -45.0], {"units": "degrees_north"}),
        "longitude": ("longitude", np.arange(6) * 60.0, {"units": "degrees_east"}),
    }
    return xr.Dataset({"tp": (("step", "latitude", "longitude"), values, {"units": "m"} | attrs)}, coords)


@pytest.mark.parametrize("attrs", [{"GRIB_stepType": "accum"}, {"cell_methods": "area: mean valid_time: sum"}], ids=str)
def test_sums_over_lead_times_keep_a_name_of_their_own(tmp_path: Path, attrs: dict[str, str]) -> None:
    forecast(**attrs).to_netcdf(tmp_path / "a.nc")
    opened = open_store(tmp_path / "a.nc")
    assert list(opened.data_vars) == ["tp_accumulated"]
    np.testing.assert_allclose(opened.tp_accumulated[:, 0, 0], [0.001, 0.003, 0.006], rtol=1e-5)
    said = [finding.text for finding in examine(tmp_path / "a.nc").findings]
    assert any("'tp' is a sum over the lead times of 'step'" in text for text in said)
    assert not any("'tp' is left out" in text for text in said)


def test_sums_at_one_lead_time_are_a_series(tmp_path: Path) -> None:
    forecast(GRIB_stepType="accum").isel(step=[1]).to_netcdf(tmp_path / "a.nc")
    assert list(open_store(tmp_path / "a.nc").data_vars) == ["total_precipitation"]


@pytest.mark.parametrize(
    ("starts", "ends", "name"),
    [
        ([0, 6, 12], [6, 12, 18], "total_precipitation"),
        ([0, 0, 0], [6, 12, 18], "tp_accumulated"),
        ([0, 3, 9], [3, 9, 12], "tp_accumulated"),
        ([0, 31 * 24, 59 * 24], [31 * 24, 59 * 24, 90 * 24], "total_precipitation"),
        ([6, 12, 18], [6, 12, 18], "tp_accumulated"),
    ],
    ids=["steps", "since the start", "two lengths", "months", "no length"],
)
def test_bounds_tell_over_what_a_sum_is(tmp_path: Path, starts: list[int], ends: list[int], name: str) -> None:
    first = np.datetime64("2001-01-01", "ns")
    moments = [first + np.array(hours, "timedelta64[h]") for hours in (starts, ends)]
    dataset = forecast(cell_methods="time: sum").drop_vars(["time", "valid_time", "step"]).rename(step="time")
    dataset = dataset.assign_coords(time=("time", moments[1], {"bounds": "time_bnds", "standard_name": "time"}))
    dataset["time_bnds"] = (("time", "bnds"), np.stack(moments, axis=1))
    units = {"units": "hours since 2001-01-01"}
    dataset.to_netcdf(tmp_path / "a.nc", encoding={"time": units, "time_bnds": units})
    assert list(open_store(tmp_path / "a.nc").data_vars) == [name]


def test_steps_are_differences_of_sums_that_start_together() -> None:
    given = [Period(0, start * HOUR, end * HOUR) for start, end in ((0, 6), (0, 12), (6, 12), (12, 15), (0, 0))]
    steps = {(step.period.start // HOUR, step.period.end // HOUR): step.before for step in over_steps(given)}
    assert steps == {(0, 6): None, (6, 12): None, (12, 15): None}
    derived = over_steps([Period(0, 0, 6 * HOUR), Period(0, 0, 12 * HOUR), Period(HOUR, HOUR, 7 * HOUR)])
    assert [(step.period, step.before) for step in derived] == [
        (Period(0, 0, 6 * HOUR), None),
        (Period(0, 6 * HOUR, 12 * HOUR), Period(0, 0, 6 * HOUR)),
        (Period(HOUR, HOUR, 7 * HOUR), None),
    ]
