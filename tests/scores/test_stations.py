"""Forecasts at stations: which report counts, for how much, and what is done about height."""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import xarray as xr
from running import etesian

import etesian as et
from etesian.core.errors import ChannelError, DataError, GridError, RecipeError
from etesian.files.stations import COUNTED, read_reports
from etesian.scores.ensembles import ensemble_crps
from etesian.scores.score import score
from etesian.scores.stations import StationScores
from etesian.scores.tables import summary

GRID = et.Grid.equiangular(30.0)
TIMES = pd.date_range("2020-01-01", periods=12, freq="D").values
LEADS = np.array([24, 48])
PLACES = {"A": (-15.0, 30.0), "B": (30.0, -15.0), "C": (7.0, 200.0)}  # on a point, across Greenwich, in between


def fields(dims: dict[str, Any], seed: int) -> xr.Dataset:
    rng = np.random.default_rng(seed)
    shape = (*(len(values) for values in dims.values()), *GRID.shape)
    names = {"2m_temperature": (280, 5, "K"), "10m_u_component_of_wind": (0, 5, "m s-1")}
    names |= {"10m_v_component_of_wind": (0, 5, "m s-1"), "surface_pressure": (1e5, 500, "Pa")}
    axes = (*dims, "latitude", "longitude")
    made = {
        name: (axes, (middle + size * rng.standard_normal(shape)).astype("f4"), {"units": units})
        for name, (middle, size, units) in names.items()
    }
    return xr.Dataset(made, {**dims, "latitude": GRID.latitude, "longitude": GRID.longitude})


def forecast(seed: int, members: int = 0) -> xr.Dataset:
    leads = {"time": TIMES[:8], "prediction_timedelta": LEADS * np.timedelta64(3600, "s").astype("m8[ns]")}
    return fields(({"number": np.arange(members)} if members else {}) | leads, seed)


def truth(orography: float | None = None) -> xr.Dataset:
    made = fields({"time": TIMES}, 0)
    if orography is not None:
        made["orography"] = ("latitude", "longitude"), np.full(GRID.shape, orography), {"units": "m"}
    return made


def table(offset: int = 0, elevation: float = 0.0) -> pd.DataFrame:
    """One report of every station a day, so many minutes after midnight."""
    rng = np.random.default_rng(9)
    rows = [
        (name, *place, elevation, time + np.timedelta64(offset, "m"), 7 + 5 * rng.standard_normal())
        for time in TIMES
        for name, place in PLACES.items()
    ]
    return pd.DataFrame(rows, columns=["station", "lat", "lon", "elevation", "time", "2m_temperature [degC]"])


def at(dataset: xr.Dataset, name: str = "2m_temperature") -> np.ndarray:
    """What xarray interpolates at the stations, with Greenwich's column on both sides."""
    wide = xr.concat([dataset, dataset.isel(longitude=[0]).assign_coords(longitude=[360.0])], "longitude")
    places = np.array(list(PLACES.values())).T
    where = {"latitude": ("station", places[0]), "longitude": ("station", places[1] % 360)}
    return wide[name].astype("f8").interp(where).transpose(..., "station").values


def stations(reports: pd.DataFrame, given: dict[str, xr.Dataset], against: xr.Dataset, **options: Any) -> xr.Dataset:
    references = options.pop("references", ())
    build = partial(StationScores, reports=read_reports(reports), references=references, **options)
    regions = options.get("regions")
    return score(given, against, further=[build], references=references, regions=regions, progress=False)


def observed() -> np.ndarray:
    """Reports at the valid times, (initial, lead, station)."""
    values = table()["2m_temperature [degC]"].to_numpy().reshape(12, 3) + 273.15
    return np.stack([values[1:9], values[2:10]], 1)


def test_scores_are_those_of_numpy_with_intervals() -> None:
    given = {"mine": forecast(1), "other": forecast(2)}
    scores = stations(table(), given, truth(), references=["other"])
    errors = {name: at(each) - observed() for name, each in given.items()}
    part = scores.sel(station_channel="2m_temperature", region="global")
    for name, error in errors.items():
        one = part.sel(series=name)
        np.testing.assert_allclose(one.station_rmse, np.sqrt((error**2).mean((0, 2))), rtol=1e-6)
        np.testing.assert_allclose(one.station_mae, np.abs(error).mean((0, 2)), rtol=1e-6)
        np.testing.assert_allclose(one.station_bias, error.mean((0, 2)), rtol=1e-5)
        assert (one.station_rmse_low < one.station_rmse).all()
        assert (one.station_rmse < one.station_rmse_high).all()
        each = scores.bias_by_station.sel(series=name, reported="2m_temperature")
        np.testing.assert_allclose(each, error.mean(0), rtol=1e-4)
    ratio = part.station_rmse.sel(series="mine") / part.station_rmse.sel(series="other")
    np.testing.assert_allclose(part.station_skill.sel(series="mine", reference="other"), 1 - ratio)
    assert (part.station_points == 24).all()
    analysis = np.stack([at(truth())[1:9], at(truth())[2:10]], 1) - observed()
    np.testing.assert_allclose(part.station_rmse.sel(series="truth"), np.sqrt((analysis**2).mean((0, 2))), rtol=1e-6)
    south = scores.station_rmse.sel(region="tropics", station_channel="2m_temperature", series="mine")
    np.testing.assert_allclose(south, np.sqrt((errors["mine"][..., [0, 2]] ** 2).mean((0, 2))), rtol=1e-6)


def test_members_are_scored_by_the_crps_that_there_is_and_their_mean_by_its_error() -> None:
    ensemble = forecast(1, members=4)
    scores = stations(table(), {"members": ensemble, "single": forecast(2)}, truth())
    values = at(ensemble)
    part = scores.sel(station_channel="2m_temperature", region="global")
    expected = ensemble_crps(torch.from_numpy(values), torch.from_numpy(observed())).numpy().mean((0, 2))
    np.testing.assert_allclose(part.station_crps.sel(series="members"), expected, rtol=1e-6)
    np.testing.assert_allclose(part.station_crps.sel(series="single"), part.station_mae.sel(series="single"))
    spread = np.sqrt((values.var(0, ddof=1) * 5 / 4).mean((0, 2)))
    np.testing.assert_allclose(part.station_spread.sel(series="members"), spread, rtol=1e-5)
    error = values.mean(0) - observed()
    np.testing.assert_allclose(part.station_rmse.sel(series="members"), np.sqrt((error**2).mean((0, 2))), rtol=1e-5)


def test_wind_at_stations_is_scored_as_a_vector_too() -> None:
    reports = table().assign(drct=270.0, sknt=10.0)
    scores = stations(reports, {"mine": forecast(1)}, truth()).sel(series="mine", region="global")
    u = at(forecast(1), "10m_u_component_of_wind") - 18520 / 3600
    v = at(forecast(1), "10m_v_component_of_wind")
    vector = scores.station_rmse.sel(station_channel="10m_wind_vector")
    np.testing.assert_allclose(vector, np.sqrt((u**2 + v**2).mean((0, 2))), rtol=1e-6)
    assert scores.station_units.sel(station_channel="10m_wind_vector") == "m s-1"


def test_the_nearest_report_within_the_tolerance_counts_once() -> None:
    right = table(offset=-7)
    wrong = right.assign(time=right["time"] - pd.Timedelta("2min"), **{"2m_temperature [degC]": 49.0})
    beyond = right.assign(time=right["time"] + pd.Timedelta("5h"), **{"2m_temperature [degC]": 49.0})
    given = {"mine": forecast(1)}
    mixed = stations(pd.concat([beyond, wrong, right]), given, truth())
    xr.testing.assert_allclose(mixed.station_rmse, stations(table(), given, truth()).station_rmse)
    # Valid are 9 of 12 days; of each of those one report of three is used.
    counts = mixed.station_reports.sel(reported="2m_temperature")
    assert counts.sel(outcome="used") == 27
    assert counts.sel(outcome="unmatched") == 3 * 36 - 27
    with pytest.raises(DataError, match=r"no report .*36 unmatched.*may be 5 min apart.*larger tolerance"):
        stations(right, given, truth(), tolerance=5)
    # A report between two valid times is for the nearer one, whatever the tolerance.
    between = stations(table(offset=11 * 60), given, truth(), tolerance=10_000)
    assert (between.station_points.sel(station_channel="2m_temperature", region="global") == 24).all()


def test_every_report_is_counted_once() -> None:
    reports = table()
    extra = pd.DataFrame([
        ("A", -15.0, 30.0, 0.0, TIMES[1], 1.0),  # again, earlier in the table
        ("Pole", 89.0, 0.0, 0.0, TIMES[1], -30.0),
        ("A", -15.0, 30.0, 0.0, TIMES[11] + np.timedelta64(5, "h"), 1.0),
    ], columns=reports.columns)  # fmt: skip
    reports = pd.concat([extra, reports], ignore_index=True)
    reports["2m_temperature_flag"] = 0
    day = reports["time"] == TIMES[2]
    reports.loc[day & (reports["station"] == "B"), "2m_temperature_flag"] = 1
    reports.loc[day & (reports["station"] == "C"), "2m_temperature [degC]"] = np.nan
    reports.loc[day & (reports["station"] == "A"), "2m_temperature [degC]"] = 999.9
    scores = stations(reports, {"mine": forecast(1)}, truth())
    counts = scores.station_reports.sel(reported="2m_temperature").to_series().to_dict()
    assert counts == dict.fromkeys(COUNTED, 0) | {
        "duplicate": 1, "outside": 1, "missing": 1, "flagged": 2, "unmatched": 1 + 9, "used": 24,
    }  # fmt: skip
    assert sum(counts.values()) == len(reports)
    part = scores.sel(station_channel="2m_temperature", region="global", series="mine")
    assert part.station_points.values.tolist() == [21, 21]  # the third day is the valid time of one case at each lead
    assert part.station_missing_report.values.tolist() == [11, 11]  # with the eight of the pole


def test_a_station_beside_missing_cells_has_no_forecast() -> None:
    holed = forecast(1)
    holed["2m_temperature"][:, 0, 2, 1] = np.nan  # at −15°N 30°E, where A lies
    part = stations(table(), {"mine": holed}, truth()).sel(
        station_channel="2m_temperature", region="global", series="mine"
    )
    assert part.station_points.values.tolist() == [16, 24]
    assert part.station_missing_forecast.values.tolist() == [8, 0]


def test_temperature_is_brought_to_the_height_of_the_station() -> None:
    reports, given = table(elevation=1200.0), {"mine": forecast(1)}
    flat = stations(reports, given, truth(orography=200.0), lapse_rate=0.0)
    raised = stations(reports, given, truth(orography=200.0))
    wanted = {"series": "mine", "station_channel": "2m_temperature", "region": "global"}
    np.testing.assert_allclose(raised.station_bias.sel(wanted), flat.station_bias.sel(wanted) - 6.5)
    assert raised.attrs["stations_height_correction"] == (
        "2m_temperature by 6.5 K/km from the height of orography to the station's"
    )
    assert flat.attrs["stations_height_correction"] == "2m_temperature not corrected, for the lapse rate is 0"
    np.testing.assert_allclose(raised.station_model_height, 200)
    unsaid = stations(reports, given, truth())
    xr.testing.assert_allclose(unsaid.station_bias, flat.station_bias)
    assert "not corrected, for there is neither orography nor" in unsaid.attrs["stations_height_correction"]
    with pytest.raises(
        RecipeError, match=r"a lapse rate of 6.5 K/km needs the height of the model's surface, but there is neither"
    ):
        stations(reports, given, truth(), lapse_rate=6.5)
    geopotential = truth()
    geopotential["geopotential_at_surface"] = ("latitude", "longitude"), np.full(GRID.shape, 200 * 9.80665)
    xr.testing.assert_allclose(stations(reports, given, geopotential).station_bias, raised.station_bias)
    known = table().assign(elevation=lambda rows: np.where(rows["station"] == "A", np.nan, 1200.0))
    counts = stations(known, given, geopotential).station_reports.sel(reported="2m_temperature")
    assert counts.sel(outcome="no elevation") == 12
    assert counts.sel(outcome="used") == 18


def test_surface_pressure_is_scored_only_where_the_height_is_known() -> None:
    reports = table(elevation=200.0).assign(alti=29.92)
    scores = stations(reports, {"mine": forecast(1)}, truth(orography=200.0))
    assert scores.reported.values.tolist() == ["2m_temperature", "surface_pressure"]
    assert stations(reports, {"mine": forecast(1)}, truth()).reported.values.tolist() == ["2m_temperature"]


def test_what_does_not_fit_is_refused_in_one_sentence() -> None:
    given, usual = {"mine": forecast(1)}, truth()
    noleap = [
        each.assign_coords(time=xr.date_range("2020-01-01", periods=each.time.size, calendar="noleap", use_cftime=True))
        for each in (forecast(1), usual)
    ]
    with pytest.raises(DataError, match="has the calendar proleptic_gregorian, the forecasts noleap"):
        stations(table(), {"mine": noleap[0]}, noleap[1])
    with pytest.raises(
        ChannelError, match="that can be compared: stations report mean_sea_level_pressure, the forecasts hold"
    ):
        stations(
            table().rename(columns={"2m_temperature [degC]": "msl [Pa]"}).assign(**{"msl [Pa]": 1e5}), given, usual
        )
    region = [each.sel(latitude=slice(0, 90), longitude=slice(60, 90)) for each in (forecast(1), usual)]
    with pytest.raises(GridError, match=r"no station lies on the grid .* A at -15°N, 30°E: see"):
        stations(table(), {"mine": region[0]}, region[1])
    with pytest.raises(DataError, match=r"no report .* \(2m_temperature: 36 missing\)"):
        stations(table().assign(**{"2m_temperature [degC]": "M"}), given, usual)
    with pytest.raises(
        RecipeError, match="'truth' is what forecasts are compared with; give the forecast another name"
    ):
        stations(table(), {"truth": forecast(1)}, usual)
    with pytest.raises(RecipeError, match="tolerance = -1 must be minutes"):
        stations(table(), given, usual, tolerance=-1)


@pytest.mark.usefixtures("no_rendering")
def test_the_command_scores_as_the_verb_does_and_the_report_has_a_section(tmp_path: Path) -> None:
    forecast(1).to_zarr(tmp_path / "mine.zarr", zarr_format=3)
    truth(orography=100.0).to_netcdf(tmp_path / "truth.nc")
    table(offset=14).to_csv(tmp_path / "reports.csv", index=False)
    words = [tmp_path / "mine.zarr", tmp_path / "truth.nc", "--stations", tmp_path / "reports.csv", "--tolerance", "15"]
    out = tmp_path / "evaluation"
    etesian("evaluate", *words, "--lapse-rate", "5", "--baselines", "none", "--out", out)
    verb = et.evaluate(
        forecast(1), tmp_path / "truth.nc", stations=table(offset=14), tolerance=15, lapse_rate=5, baselines=[]
    )
    command = xr.load_dataset(out / "scores.nc", decode_timedelta=False)
    assert "5 K/km" in command.attrs["stations_height_correction"]
    for name in ("station_rmse", "station_rmse_low", "station_reports", "bias_by_station"):
        np.testing.assert_allclose(command[name], verb[name])
    for units, told in (("K", " (K)"), ("1", "")):
        cells = list(summary(verb.assign(station_units=verb.station_units.where(False, units))).columns[0].cells)
        assert f"2m_temperature at stations{told}" in cells
    rows = pd.read_csv(out / "scores.csv").query("binning == 'stations' and score == 'rmse' and region == 'global'")
    kept = rows.query("forecast == 'mine' and channel == '2m_temperature' and lead_hours == 48")
    chosen = command.sel(series="mine", station_channel="2m_temperature", region="global", lead_time=48)
    assert kept.value.item() == pytest.approx(float(chosen.station_rmse))
    assert kept.units.item() == "K"
    page = (out / "report.html").read_text(encoding="utf-8")
    assert "<h2>At stations</h2>" in page
    assert "reports.csv within 15 min" in page
    assert (out / "station_bias_2m_temperature.png").exists()
    with pytest.raises(DataError, match=r"made with tolerance = 15\.0 instead of 10\.0; use --overwrite"):
        et.evaluate(
            tmp_path / "mine.zarr",
            tmp_path / "truth.nc",
            stations=tmp_path / "reports.csv",
            baselines=[],
            lapse_rate=5,
            out=out,
        )
