"""Forecasts that somebody else wrote are scored as the same forecasts in this library's own layout."""

from collections.abc import Callable
from types import ModuleType

import numpy as np
import pytest
import xarray as xr
from numpy.testing import assert_allclose

from etesian.core.errors import DataError
from etesian.scores.score import score
from etesian.scores.series import open_forecast

Change = Callable[[xr.Dataset], xr.Dataset]


def with_units(dataset: xr.Dataset) -> xr.Dataset:
    units = {"geopotential": "m2 s-2", "temperature": "K"}
    return dataset.assign({n: a.assign_attrs(units=units.get(str(n), "m s-1")) for n, a in dataset.items()})


def leads_as(values: Callable[[np.ndarray], np.ndarray], **attrs: str) -> Change:
    def change(dataset: xr.Dataset) -> xr.Dataset:
        hours = dataset.prediction_timedelta.values.astype("timedelta64[h]").astype(np.int64)
        return dataset.assign_coords(prediction_timedelta=("prediction_timedelta", values(hours), attrs))

    return change


def westward(dataset: xr.Dataset) -> xr.Dataset:
    turned = dataset.assign_coords(longitude=(dataset.longitude.values + 180) % 360 - 180)
    return turned.sortby("longitude").isel(latitude=slice(None, None, -1)).rename(latitude="lat", longitude="lon")


def weatherbench_x(dataset: xr.Dataset) -> xr.Dataset:
    renamed = dataset.rename(time="init_time", prediction_timedelta="lead_time")
    return renamed.assign_coords(valid_time=renamed.init_time + renamed.lead_time)


def climate_data_store(dataset: xr.Dataset) -> xr.Dataset:
    short = {"geopotential": "z", "temperature": "t", "u_component_of_wind": "u", "v_component_of_wind": "v"}
    renamed = dataset.rename(short | {"time": "forecast_reference_time", "prediction_timedelta": "step"})
    renamed = renamed.rename(level="pressure_level").expand_dims(number=[0])
    return renamed.assign_coords(pressure_level=("pressure_level", renamed.pressure_level.values, {"units": "hPa"}))


def celsius(dataset: xr.Dataset) -> xr.Dataset:
    heights = (dataset.geopotential / 9.80665).assign_attrs(units="m", standard_name="geopotential_height")
    return dataset.assign(
        temperature=(dataset.temperature.astype(np.float64) - 273.15).assign_attrs(units="degC"), geopotential=heights
    )


CHANGES: dict[str, Change] = {
    "longitudes from -180, latitudes from the north": westward,
    "WeatherBench-X": weatherbench_x,
    "Climate Data Store": climate_data_store,
    "order of dimensions": lambda d: d.transpose("longitude", "latitude", "level", "prediction_timedelta", "time"),
    "levels as float in Pa": lambda d: d.assign_coords(level=("level", d.level.values * 100.0, {"units": "Pa"})),
    "levels as float": lambda d: d.assign_coords(level=d.level.values.astype(np.float32)),
    "other units": celsius,
    "hours with units": leads_as(lambda hours: hours.astype(np.int32), units="hours"),
    "hours as a number": leads_as(lambda hours: hours.astype(np.float64), units="h"),
    "days": leads_as(lambda hours: hours / 24, units="days"),
    "hours without units": leads_as(lambda hours: hours),
    "nanoseconds without units": leads_as(lambda hours: hours * 3_600 * 10**9),
    "one lead without a dimension": lambda d: d.isel(prediction_timedelta=2),
}


@pytest.mark.parametrize("change", CHANGES)
def test_the_layout_of_others_makes_no_difference_to_scores(
    change: str, forecasts: dict[str, xr.Dataset], weather: ModuleType
) -> None:
    own = with_units(forecasts["model"].isel(time=slice(0, 4)))
    given, truth = CHANGES[change](own.copy(deep=True)), with_units(weather.truth())
    expected, found = (score({"m": each}, truth, progress=False) for each in (own, given))
    expected = expected.sel(lead_time=found.lead_time)
    assert found.channel.values.tolist() == expected.channel.values.tolist() or change == "Climate Data Store"
    expected = expected.sel(channel=found.channel)
    for name in ("rmse", "bias"):
        assert_allclose(found[name], expected[name], rtol=2e-3, atol=2e-3)
    assert found.initial_time.size == 4


def test_one_initial_time_without_a_dimension_is_read(forecasts: dict[str, xr.Dataset], weather: ModuleType) -> None:
    single = weatherbench_x(forecasts["model"]).isel(init_time=3)
    assert open_forecast("m", single).dataset.sizes["time"] == 1
    assert score({"m": single}, weather.truth(), progress=False).initial_time.size == 1


def test_leads_that_may_be_hours_or_days_are_refused_with_a_remedy_that_works(
    forecasts: dict[str, xr.Dataset],
) -> None:
    unclear = leads_as(lambda hours: hours // 24)(forecasts["model"])
    with pytest.raises(DataError, match=r"holds 1, 2, 3, 5 without units, which may be hours or days; give it units"):
        open_forecast("m", unclear)
    mended = unclear.assign_coords(prediction_timedelta=unclear.prediction_timedelta.assign_attrs(units="days"))
    assert open_forecast("m", mended).dataset.prediction_timedelta.values[-1] == np.timedelta64(120, "h")


def test_values_without_units_are_in_those_of_the_catalogue_or_refused(
    forecasts: dict[str, xr.Dataset], weather: ModuleType
) -> None:
    model, truth = forecasts["model"].isel(time=slice(0, 3)).copy(), weather.truth().copy()
    refused = "'temperature' has no units, and a mean of {} is none in K: convert it, or set its units"
    for name, given in (("m", model), ("the truth", truth)):
        kelvin = given["temperature"]
        given["temperature"] = (kelvin - 273.15).drop_attrs()
        with pytest.raises(DataError, match=refused.format(r"-?[\d.]+")) as told:
            score({"m": model}, truth, channels=["temperature_500"], progress=False)
        assert name in str(told.value)
        given["temperature"] = kelvin.drop_attrs()
    assert np.isfinite(score({"m": model}, truth, channels=["temperature_500"], progress=False).rmse).all()


def test_units_that_a_forecast_lacks_are_asked_for(forecasts: dict[str, xr.Dataset], weather: ModuleType) -> None:
    model = forecasts["model"].isel(time=slice(0, 3))
    flux = model.temperature.isel(level=0, drop=True)
    truth = weather.truth()
    against = truth.assign(P=truth.temperature.isel(level=0, drop=True).assign_attrs(units="kg m-2 s-1"))
    flux.attrs.clear()
    with pytest.raises(DataError, match="'P' has no units, and in the truth it is in kg m-2 s-1; convert it, or set"):
        score({"m": model.assign(P=flux)}, against, channels=["P"], progress=False)
    for units in ("kg m-2 s-1", "kg/m^2/s", "kg m**-2 s**-1"):
        scores = score({"m": model.assign(P=flux.assign_attrs(units=units))}, against, channels=["P"], progress=False)
        assert scores.units.item() == "kg m-2 s-1"
        assert np.isfinite(scores.rmse).all()
