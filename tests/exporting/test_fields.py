"""Forecasts in others' formats: read back equal by this library and by the formats' own."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cftime
import eccodes
import netCDF4
import numpy as np
import pandas as pd
import pytest
import xarray as xr
from running import etesian

import etesian as et
from etesian.core.channels import CATALOGUE
from etesian.core.errors import ChannelError, DataError, GridError, RecipeError
from etesian.exporting import fields
from etesian.exporting.parameters import ISOBARIC, PARAMETERS
from etesian.files.grib_messages import LOCK
from etesian.scores.series import open_forecast

GLOBE = et.Grid.equiangular(22.5)
GREENWICH = et.Grid(np.arange(40, 50, 2.0), np.arange(350, 372, 2.0))
LEAD = "prediction_timedelta"
INITIAL = {"standard_name": "forecast_reference_time"}


def forecasts(
    grid: et.Grid = GLOBE, *, initial: int = 2, leads: tuple[int, ...] = (6, 12), members: int | None = 3
) -> xr.Dataset:
    """Random forecasts of days that do not overlap, with a hole."""
    random, who = np.random.default_rng(0), [] if members is None else [("number", members)]
    sizes = dict([("time", initial), *who, (LEAD, len(leads))])

    def array(mean: float, spread: float, units: str, *levels: int, **told: int) -> tuple[Any, ...]:
        dims = (*sizes, *(["level"] if levels else []), "latitude", "longitude")
        shape = (*sizes.values(), *([len(levels)] if levels else []), *grid.shape)
        values = mean + spread * random.standard_normal(shape)
        return dims, np.abs(values).astype(np.float32), {"units": units} | told

    made = xr.Dataset(
        {
            "temperature": array(270, 5, "K", 500, 850),
            "total_precipitation_6hr": array(0, 1e-3, "m", accumulation_hours=6),
            "mean_sea_level_pressure": array(1e5, 900, "Pa"),
        },
        {
            "time": ("time", pd.date_range("2020-02-28", periods=initial), INITIAL),
            LEAD: (LEAD, pd.to_timedelta(list(leads), unit="h"), {"standard_name": "forecast_period"}),
            "level": [500, 850], "latitude": grid.latitude, "longitude": grid.longitude,
        } | ({} if members is None else {"number": np.arange(members)}),
        {"source": "{}"},
    )  # fmt: skip
    made["mean_sea_level_pressure"].values[(0,) * len(sizes)][0] = np.nan
    return made


def in_time(forecast: xr.Dataset, name: str) -> np.ndarray:
    """The values in the order of their valid times, members behind them, as `et.open` has them."""
    order = [dim for dim in ("time", LEAD, "number", "level", "latitude", "longitude") if dim in forecast[name].dims]
    values = forecast[name].transpose(*order).values
    return values.reshape(-1, *values.shape[2:])


@pytest.mark.parametrize("grid", [GLOBE, GREENWICH, et.Grid.gaussian(8)], ids=["globe", "Greenwich", "gaussian"])
@pytest.mark.parametrize("members", [3, None])
def test_forecasts_in_netcdf_are_read_back_equal(tmp_path: Path, grid: et.Grid, members: int | None) -> None:
    made = forecasts(grid, members=members)
    out = et.export(made, tmp_path / "a.nc")
    opened = et.open(out)
    assert et.Grid(opened.latitude, opened.longitude) == grid
    assert opened.time.values[1] == np.datetime64("2020-02-28T12")
    for name in made.data_vars:
        np.testing.assert_array_equal(opened[name].values, in_time(made, str(name)), err_msg=str(name))
    scored, given = open_forecast("a", str(out)), open_forecast("b", made)
    assert (scored.channels, scored.leads.tolist(), scored.members) == (given.channels, [6, 12], members or 1)
    np.testing.assert_array_equal(scored.read(scored.channels), given.read(given.channels))


def test_netcdf_says_by_cf_what_it_holds(tmp_path: Path) -> None:
    with netCDF4.Dataset(et.export(forecasts(), tmp_path / "a.nc")) as file:
        assert file.Conventions == "CF-1.11"
        names = {name: getattr(file[name], "standard_name", None) for name in file.variables}
        assert names["time"] == "forecast_reference_time"
        assert (names[LEAD], names["number"], names["valid_time"]) == ("forecast_period", "realization", "time")
        assert names["total_precipitation_6hr"] == "lwe_thickness_of_precipitation_amount"
        assert (file["temperature"].units, file["level"].positive, file["level"].units) == ("K", "down", "hPa")
        assert file["total_precipitation_6hr"].cell_methods == f"{LEAD}: sum (over the 6 hours before)"
        assert file["temperature"].cell_methods == "time: point"
        assert file["temperature"].chunking() == [1, 1, 2, 2, 8, 16]
        assert file["temperature"].filters()["zlib"]
        assert file["latitude_bnds"][0].tolist() == [-90, -67.5]
        np.testing.assert_array_equal(file["valid_time"][1], file["time"][1] + np.array([6, 12]))
    rain = et.export(forecasts(), tmp_path / "rain.nc", variables=["total_precipitation_6hr"])
    with netCDF4.Dataset(rain) as file:
        assert file[file[LEAD].bounds][:].tolist() == [[0, 6], [6, 12]]


def test_netcdf_keeps_calendars_that_grib_refuses(tmp_path: Path) -> None:
    made = forecasts().assign_coords(time=[cftime.Datetime360Day(2020, 2, day) for day in (29, 30)])
    made["time"].attrs |= INITIAL
    opened = et.open(et.export(made, tmp_path / "a.nc"))
    assert str(opened.time.values[-1]) == "2020-02-30 12:00:00"
    np.testing.assert_array_equal(opened["temperature"].values, in_time(made, "temperature"))
    with pytest.raises(DataError, match="360_day calendar, and GRIB knows dates of the Gregorian only: write NetCDF"):
        et.export(made, tmp_path / "a.grib2")
    assert [file.name for file in tmp_path.iterdir()] == ["a.nc"]


def messages(path: Path, *keys: str) -> list[tuple[Any, ...]]:
    with path.open("rb") as file:
        handles = iter(lambda: eccodes.codes_grib_new_from_file(file), None)
        return [tuple(eccodes.codes_get(handle, key) for key in keys) for handle in handles]


@pytest.mark.parametrize("grid", [GLOBE, GREENWICH, et.Grid.gaussian(8)], ids=["globe", "Greenwich", "gaussian"])
@pytest.mark.parametrize("bits", [16, 24])
@pytest.mark.parametrize("members", [3, None])
def test_forecasts_in_grib_are_read_back_within_their_packing(
    tmp_path: Path, grid: et.Grid, bits: int, members: int | None
) -> None:
    made = forecasts(grid, members=members)
    opened = et.open(et.export(made, tmp_path / "a.grib2", bits=bits))
    assert et.Grid(opened.latitude, opened.longitude) == grid
    for name in made.data_vars:
        expected = in_time(made, str(name)).astype(np.float64)
        values = opened[str(name).removesuffix("_6hr")].values
        np.testing.assert_array_equal(np.isnan(values), np.isnan(expected))
        off = np.nanmax(np.abs(values - expected), axis=(-2, -1))
        step = (np.nanmax(expected, axis=(-2, -1)) - np.nanmin(expected, axis=(-2, -1))) / (2**bits - 1)
        # Values come back in single precision, and a message's lowest one is kept in it.
        assert (off <= step + 2.0**-23 * np.nanmax(np.abs(expected), axis=(-2, -1))).all(), name
        assert bits == 24 or off.max() > 0


def test_grib_messages_say_what_they_hold(tmp_path: Path) -> None:
    out = et.export(forecasts(initial=1), tmp_path / "a.grib2")
    keys = ("shortName", "level", "dataDate", "stepRange", "perturbationNumber", "numberOfForecastsInEnsemble")
    told = messages(out, *keys, "bitmapPresent", "packingType", "typeOfProcessedData")
    assert len(told) == 3 * 2 * 4
    assert told[0] == ("t", 500, 20200228, "6", 0, 3, 0, "grid_simple", "pf")
    assert told[4] == ("tp", 0, 20200228, "0-6", 0, 3, 0, "grid_simple", "pf")
    assert told[6][:7] == ("msl", 0, 20200228, "6", 0, 3, 1)
    assert told[-3][:5] == ("tp", 0, 20200228, "6-12", 2)
    first = messages(out, "latitudeOfFirstGridPointInDegrees", "jScansPositively", "Ni", "numberOfMissing")
    assert (first[0], first[6][3]) == ((78.75, 0, 16, 0), 16)


def maps(*names: str) -> xr.Dataset:
    """One map of each variable, of numbers that it may have, six hours ahead."""
    random, made = np.random.default_rng(1), {}
    for name in names:
        known, parameter = CATALOGUE[name], PARAMETERS[name]
        levels = ["level"] if parameter.surface == ISOBARIC else []
        dims = (*([] if known.static else ["time", LEAD]), *levels, "latitude", "longitude")
        values = random.uniform(known.minimum, known.maximum, (*(1 for _ in dims[:-2]), *GLOBE.shape))
        over = {"accumulation_hours": 6} if parameter.process is not None else {}
        made[name] = dims, values.astype(np.float32), {"units": known.units} | over
    times = {"time": [np.datetime64("2020-01-01", "ns")], LEAD: [np.timedelta64(6 * 3600 * 10**9, "ns")]}
    return xr.Dataset(made, times | {"level": [500], "latitude": GLOBE.latitude, "longitude": GLOBE.longitude})


def test_every_variable_with_a_code_comes_back_under_its_name(tmp_path: Path) -> None:
    sums = [name for name in PARAMETERS if name.startswith("total_precipitation")]
    others = [name for name in PARAMETERS if name not in sums]
    assert set(CATALOGUE) - set(PARAMETERS) == {
        "sea_surface_temperature_anomaly", "carbon_dioxide_total_column", "latitude_field"
    }  # fmt: skip
    for number, names in enumerate([others, *([name] for name in sums)]):
        made = maps(*names)
        opened = et.open(et.export(made, tmp_path / f"{number}.grib2"))
        assert opened.time.values == np.datetime64("2020-01-01T06")
        assert set(opened.data_vars) == ({"total_precipitation"} if number else set(others))
        for name in names:
            back, known = opened["total_precipitation" if number else name], CATALOGUE[name]
            assert back.attrs["units"] == known.units
            off = (known.maximum - known.minimum) / (2**24 - 1)
            np.testing.assert_allclose(back.values.squeeze(), made[name].values.squeeze(), rtol=3e-7, atol=off)


def test_what_grib_cannot_say_is_refused_by_name(tmp_path: Path) -> None:
    out, made = tmp_path / "a.grib2", forecasts()
    odd = made.rename(mean_sea_level_pressure="carbon_dioxide_total_column")
    odd["carbon_dioxide_total_column"].attrs["units"] = "ppm"
    with pytest.raises(ChannelError, match=r"'carbon_dioxide_total_column' in the dataset has no GRIB 2 code .* leave"):
        et.export(odd, out)
    whole = made.rename(total_precipitation_6hr="total_precipitation")
    del whole["total_precipitation"].attrs["accumulation_hours"]
    with pytest.raises(ChannelError, match=r"'total_precipitation' .* not over how many hours"):
        et.export(whole, out)
    flat = made[["temperature"]].isel(level=0, drop=True)
    with pytest.raises(ChannelError, match="'temperature' in the dataset has no level, which"):
        et.export(flat, out)
    uneven = et.Grid([-60.0, -10.0, 0.0, 30.0], GLOBE.longitude)
    with pytest.raises(GridError, match="neither evenly spaced nor Gaussian"):
        et.export(forecasts(uneven), out)
    with pytest.raises(DataError, match="bits = 12 is no packing"):
        et.export(made, out, bits=12)
    half = made.assign_coords({LEAD: pd.to_timedelta([30, 90], unit="min")})
    with pytest.raises(DataError, match="1800 s, which is no whole number of hours"):
        et.export(half, out)
    celsius = xr.Dataset(
        {"2m_temperature": (("latitude", "longitude"), np.ones(GLOBE.shape), {"units": "degC"})},
        {"time": np.datetime64("2020-01-01", "ns"), "latitude": GLOBE.latitude, "longitude": GLOBE.longitude},
    )
    with pytest.raises(DataError, match="'2m_temperature' in the dataset is in degC, not in K"):
        et.export(celsius, out)
    with pytest.raises(DataError, match="has no time, and every GRIB message needs one"):
        et.export(celsius.drop_vars("time"), out)
    assert not list(tmp_path.iterdir())


def test_means_since_before_the_initial_time_begin_where_they_do(tmp_path: Path) -> None:
    made = forecasts(members=None, initial=1)[["mean_sea_level_pressure"]]
    made["mean_sea_level_pressure"].attrs["averaging_hours"] = 24
    out = et.export(made, tmp_path / "a.grib2")
    assert messages(out, "stepType", "dataDate", "dataTime", "stepRange", "validityDate", "validityTime") == [
        ("avg", 20200227, 600, "0-24", 20200228, 600),
        ("avg", 20200227, 1200, "0-24", 20200228, 1200),
    ]


def test_sums_and_extremes_say_so_as_far_as_their_hours_are_known(tmp_path: Path) -> None:
    done = {f"{end}imum_2m_temperature": f"{end}imum" for end in ("max", "min")}
    done |= {"total_precipitation": "sum", "total_precipitation_6hr": "sum"}
    made = maps(*done)
    del made["total_precipitation_6hr"].attrs["accumulation_hours"]
    with netCDF4.Dataset(et.export(made, tmp_path / "a.nc")) as file:
        for name, what in done.items():
            assert file[name].cell_methods == f"{LEAD}: {what} (over the 6 hours before)"
        assert file[file[LEAD].bounds][:].tolist() == [[0, 6]]
    with netCDF4.Dataset(et.export(made.drop_attrs(), tmp_path / "b.nc")) as file:
        assert [name for name in done if "cell_methods" in file[name].ncattrs()] == ["total_precipitation_6hr"]


def test_means_of_sums_are_no_sums_of_grib(tmp_path: Path) -> None:
    made = forecasts()[["total_precipitation_6hr"]]
    made["total_precipitation_6hr"].attrs["averaging_hours"] = 24
    with pytest.raises(ChannelError, match=r"'total_precipitation_6hr' .* is a mean over 24 hours of sums or extremes"):
        et.export(made, tmp_path / "a.grib2")
    with netCDF4.Dataset(et.export(made, tmp_path / "a.nc")) as file:
        assert file["total_precipitation_6hr"].cell_methods == f"{LEAD}: mean (over the 24 hours before)"


@pytest.mark.parametrize("source", ["dd", "d*"])
def test_no_file_of_a_source_is_replaced(tmp_path: Path, source: str) -> None:
    out = et.export(forecasts(), tmp_path / "dd" / "a.nc")
    with pytest.raises(DataError, match=r"a\.nc is a source"):
        et.export(tmp_path / source, out, overwrite=True)


def test_filled_and_fine_fields_are_written_at_their_times(tmp_path: Path) -> None:
    time = pd.date_range("2006-01-01", periods=3, freq="MS")
    dims, shape = ("time", "latitude", "longitude"), (3, *GREENWICH.shape)
    random = np.random.default_rng(0)
    filled = xr.Dataset(
        {
            "sea_surface_temperature": (dims, (290 + random.random(shape)).astype("f4"), {"units": "K"}),
            "sea_surface_temperature_flag": (dims, random.integers(0, 3, shape).astype("i1"), {"flag_meanings": "a b"}),
        },
        {"time": time, "latitude": GREENWICH.latitude, "longitude": GREENWICH.longitude},
    )  # fmt: skip
    opened = et.open(et.export(filled, tmp_path / "a.nc"))
    for name in filled.data_vars:
        np.testing.assert_array_equal(opened[name].values, filled[name].values)
    assert opened.time.values.tolist() == time.values.astype(opened.time.dtype).tolist()
    with pytest.raises(ChannelError, match=r"'sea_surface_temperature_flag' .* no GRIB 2 code"):
        et.export(filled, tmp_path / "a.grib2")
    out = et.export(filled, tmp_path / "a.grib2", variables=["sea_surface_temperature"])
    np.testing.assert_allclose(et.open(out)["sea_surface_temperature"], filled["sea_surface_temperature"], atol=1e-4)
    assert messages(out, "typeOfProcessedData", "stepRange") == [("an", "0")] * 3


@pytest.mark.parametrize("ending", [".nc", ".grib2"])
def test_what_lies_the_other_way_round_is_put_right(tmp_path: Path, ending: str) -> None:
    west = et.Grid(GREENWICH.latitude, GREENWICH.longitude - 360)
    made = forecasts(west)
    out = et.export(made.isel(latitude=slice(None, None, -1)), tmp_path / f"a{ending}")
    opened = et.open(out)
    assert et.Grid(opened.latitude, opened.longitude) == GREENWICH
    np.testing.assert_allclose(opened["temperature"], in_time(made, "temperature"), atol=1e-4)


@pytest.mark.parametrize("ending", [".nc", ".grib2"])
def test_what_is_there_is_kept_until_another_is_complete(
    tmp_path: Path, ending: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / f"a{ending}"
    et.export(forecasts(), out)
    before = out.read_bytes()
    with pytest.raises(DataError, match=f"a{ending} exists; use --overwrite to replace it"):
        et.export(forecasts(), out)

    def stops(self: object) -> Iterator[fields.Piece]:
        yield from ()
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(fields.ExportedFields, "pieces", stops)
        with pytest.raises(KeyboardInterrupt):
            et.export(forecasts(), out, overwrite=True)
    assert out.read_bytes() == before
    assert list(tmp_path.iterdir()) == [out]
    et.export(forecasts(initial=1), out, overwrite=True)
    assert et.open(out).sizes["time"] == 2
    with pytest.raises(DataError, match=f"a{ending} is a source"):
        et.export(out, out, overwrite=True)


def test_names_and_options_that_fit_nothing_are_refused(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"'a.zip' ends in no format that is exported"):
        et.export(forecasts(), tmp_path / "a.zip")
    with pytest.raises(RecipeError, match=r"bits means nothing for a file that ends in \.nc"):
        et.export(forecasts(), tmp_path / "a.nc", bits=16)
    with pytest.raises(ChannelError, match="no variable 'temprature'; did you mean 'temperature'"):
        et.export(forecasts(), tmp_path / "a.nc", variables=["temprature"])
    stations = forecasts().isel(longitude=0, drop=True).rename(latitude="station")
    with pytest.raises(DataError, match="is at stations, and maps are exported"):
        et.export(stations, tmp_path / "a.nc")
    (tmp_path / "b.nc.partial").mkdir()
    with pytest.raises(DataError, match=r"b.nc.partial is needed for the work on .* and is a folder"):
        et.export(forecasts(), tmp_path / "b.nc")
    twice = forecasts().isel(time=[1, 0])
    with pytest.raises(DataError, match="time is not strictly ascending"):
        et.export(twice, tmp_path / "a.nc")


@pytest.mark.parametrize("ending", [".nc", ".grib2"])
def test_no_more_than_a_piece_is_held(tmp_path: Path, ending: str, monkeypatch: pytest.MonkeyPatch) -> None:
    made = forecasts(leads=tuple(range(6, 24, 6)))
    monkeypatch.setattr(fields, "PIECE_BYTES", 2 * 2 * 4 * 8 * 16)
    pieces = list(fields.ExportedFields(made).pieces())
    assert {piece.values.nbytes // (4 * 8 * 16) for piece in pieces if piece.name == "temperature"} == {4, 2}
    whole = et.export(made, tmp_path / f"a{ending}")
    np.testing.assert_allclose(et.open(whole)["temperature"], in_time(made, "temperature"), atol=1e-4)


def test_the_command_exports_what_others_wrote(tmp_path: Path) -> None:
    made = forecasts(initial=1)
    et.export(made, tmp_path / "a.grib2")
    etesian("export", tmp_path / "a.grib2", tmp_path / "b.nc", "--variables", "temperature")
    # A message is read while another is written: neither waits for the other.
    etesian("export", tmp_path / "a.grib2", tmp_path / "b.grib2", "--variables", "temperature", "--bits", 16)
    assert not LOCK.locked()
    for name in ("b.nc", "b.grib2"):
        opened = et.open(tmp_path / name)
        assert list(opened.data_vars) == ["temperature"]
        np.testing.assert_allclose(opened["temperature"], in_time(made, "temperature"), atol=1e-3)


def test_a_training_store_leaves_as_it_came(tmp_path: Path, store: str) -> None:
    opened = et.open(et.export(store, tmp_path / "a.nc"))
    given = et.Store(store)
    # No file of it is read whole for each of its times.
    assert not fields.ExportedFields(store).dataset.chunks
    assert set(opened.data_vars) == {"temperature", "surface_pressure", "orography"}
    stacked = et.Fields.from_xarray(opened, given.channels).values[0]
    np.testing.assert_array_equal(
        stacked, given.read(np.arange(len(given.time)), slice(None), slice(None), slice(None))
    )
