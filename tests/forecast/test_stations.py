"""Forecasts for stations are what maps say there, at the height of the stations."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from running import etesian

import etesian as et
from etesian.core.errors import DataError, GridError, RecipeError

PLACES = pd.DataFrame({
    "station": ["Point", "Date line", "Pole"], "latitude": [-45.0, 10.0, -90.0], "longitude": [90.0, -180.0, 0.0],
    "elevation [m]": [500.0, np.nan, 2800.0],
})  # fmt: skip
SPAN = ("2001-01-10", "2001-01-12")


def test_they_are_interpolated_with_names_and_places(store: str, tmp_path: Path) -> None:
    PLACES.to_csv(tmp_path / "places.csv", index=False)
    persistence = et.baseline("persistence")
    maps = persistence.forecast(store, SPAN, [6, 12])
    held = persistence.forecast(store, SPAN, [6, 12], at=PLACES)
    assert held.temperature.dims == ("time", "prediction_timedelta", "level", "station")
    assert held.station.values.tolist() == ["Date line", "Point", "Pole"]
    assert held.station.attrs["cf_role"] == "timeseries_id"
    assert held.latitude.sel(station="Pole") == -90
    assert held.attrs["stations_outside"] == "Pole"
    assert held.temperature.sel(station="Pole").isnull().all()
    at_point = maps.sel(latitude=-45, longitude=90)
    np.testing.assert_array_equal(held.temperature.sel(station="Point"), at_point.temperature)
    between = maps.temperature.sel(longitude=180).interp(latitude=10)
    np.testing.assert_allclose(held.temperature.sel(station="Date line"), between, rtol=1e-6)
    # Pressure goes from the hills of the store, below 1 m, to 500 m; where no elevation is known there is none.
    ratio = held.surface_pressure.sel(station="Point") / at_point.surface_pressure
    np.testing.assert_allclose(ratio, (1 - 0.0065 * 500 / 288.15) ** 5.2558, atol=2e-3)
    assert held.surface_pressure.attrs["height_correction"].startswith("by the standard atmosphere from the height of")
    assert held.surface_pressure.sel(station="Date line").isnull().all()
    words = ("--init", *SPAN, "--leads", "6", "12", "--at", tmp_path / "places.csv")
    etesian("forecast", "baseline:persistence", store, tmp_path / "at.zarr", *words)
    xr.testing.assert_identical(xr.open_zarr(tmp_path / "at.zarr", decode_timedelta=True).load(), held)
    with pytest.raises(DataError, match=r"exists, made with at = .* use --overwrite"):
        persistence.forecast(store, SPAN, [6, 12], at=PLACES.iloc[:2], out=tmp_path / "at.zarr")


def test_what_cannot_be_forecast_is_refused(store: str) -> None:
    persistence = et.baseline("persistence")
    with pytest.raises(GridError, match=r"no station lies on the grid .* Pole at -90°N, 0°E"):
        persistence.forecast(store, SPAN, [6], at=PLACES.iloc[2:])
    with pytest.raises(DataError, match="no column 'latitude'"):
        persistence.forecast(store, SPAN, [6], at=PLACES.drop(columns="latitude"))
    with pytest.raises(RecipeError, match="lapse_rate = 5 is for stations; give their table as well"):
        persistence.forecast(store, SPAN, [6], lapse_rate=5)
    with pytest.raises(RecipeError, match="lapse_rate = 0 is for stations"):
        et.evaluate(persistence.forecast(store, SPAN, [6]), store, baselines=[], lapse_rate=0)
    with pytest.raises(DataError, match="forecast 'forecast' is at stations; scores are made of maps"):
        et.evaluate(persistence.forecast(store, SPAN, [6], at=PLACES), store, baselines=[])
