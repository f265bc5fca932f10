"""Tables of reports: units in headers, METAR's customs, and what is wrong with them in one sentence."""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from etesian.core.channels import Channel
from etesian.core.errors import ChannelError, DataError
from etesian.files.stations import COUNTED, Reports, read_points, read_reports

METAR = """\
#DEBUG: Format Typ    -> onlycomma
station,valid,lon,lat,elevation,tmpf,dwpf,drct,sknt,p01i,alti,mslp,vsby,metar
NA,2024-01-01 00:53,-93.65,41.53,300.0,32.0,M,270.00,10.00,T,30.00,1013.2,10.00,"NA 010053Z, AUTO"
NA,2024-01-01 01:53,-93.65,41.53,300.0,M,14.0,VRB,4.00,0.01,M,M,10.00,
OSL,2024-01-01 00:50,11.10,60.20,M,50.0,M,M,0.00,0.00,29.92,M,M,M
OSL,2024-01-01 01:50,11.10,60.20,M,-999.0,M,0.00,5.00,0.00,M,M,M,M
"""


def why(reports: Reports, name: str) -> list[str]:
    return ["" if code == 0 else COUNTED[code - 1] for code in reports.reasons[Channel.parse(name)].tolist()]


def value(reports: Reports, name: str) -> list[float]:
    return reports.values[Channel.parse(name)].tolist()


def table(**columns: Any) -> pd.DataFrame:
    """Two reports of one station, and further columns."""
    usual = {
        "station": ["A", "A"],
        "latitude": [50.0, 50.0],
        "longitude": [10.0, 10.0],
        "elevation": [100.0, 100.0],
        "time": ["2024-01-01 00:00", "2024-01-01 06:00"],
        "2m_temperature [K]": [280.0, 281.0],
    }
    return pd.DataFrame({name: values for name, values in (usual | columns).items() if values is not None})


@pytest.fixture
def metar(tmp_path: Path) -> Reports:
    (tmp_path / "metar.csv").write_text(METAR)
    return read_reports(tmp_path / "metar.csv")


def test_metar_is_read_in_si_units_with_its_missing_values(metar: Reports) -> None:
    assert metar.points.names == ("NA", "OSL")
    assert metar.points.latitude.tolist() == [41.53, 60.2]
    assert metar.points.elevation[0] == 300
    assert np.isnan(metar.points.elevation[1])
    assert metar.left_out == ("vsby", "metar")
    assert value(metar, "2m_temperature")[::2] == pytest.approx([273.15, 283.15])
    assert why(metar, "2m_temperature") == ["", "missing", "", "flagged"]  # −999 °F is not credible
    assert value(metar, "2m_dewpoint_temperature")[1] == pytest.approx(263.15)
    assert value(metar, "mean_sea_level_pressure")[0] == pytest.approx(101320)
    # 30.00 inHg are 1015.917 hPa; at 300 m the standard atmosphere leaves 0.96490 of them, about.
    assert value(metar, "surface_pressure")[0] == pytest.approx(101591.7 * 0.9649, rel=2e-4)
    assert why(metar, "surface_pressure")[2] == "no elevation"
    rain = value(metar, "total_precipitation_1hr")
    assert rain == pytest.approx([0, 0.000254, 0, 0])  # a trace is nothing, 0.01 inch is 0.254 mm
    assert metar.time[0] == np.datetime64("2024-01-01T00:53", "s").astype(int)


def test_wind_comes_from_its_direction(metar: Reports) -> None:
    u, v = value(metar, "10m_u_component_of_wind"), value(metar, "10m_v_component_of_wind")
    ten_knots = 18520 / 3600
    assert (u[0], v[0]) == pytest.approx((ten_knots, 0))  # from the west, towards the east
    assert why(metar, "10m_u_component_of_wind") == ["", "missing", "", ""]  # a variable direction is none
    assert (u[2], v[2]) == (0, 0)  # calm air has no direction
    assert (u[3], v[3]) == pytest.approx((0, -ten_knots / 2))  # from the north
    winds = table(**{"10m_wind_speed [m s-1]": [2.0, 3.0], "10m_wind_direction [degrees]": [45.0, 400.0]})
    reports = read_reports(winds)
    assert value(reports, "10m_u_component_of_wind")[0] == pytest.approx(-np.sqrt(2))
    assert value(reports, "10m_v_component_of_wind")[0] == pytest.approx(-np.sqrt(2))
    assert why(reports, "10m_v_component_of_wind") == ["", "flagged"]
    with pytest.raises(DataError, match="only one of wind speed and direction"):
        read_reports(table(sknt=[1, 2]))


def test_units_of_headers_are_converted_and_short_names_are_known() -> None:
    reports = read_reports(
        table(**{
            "2m_temperature [K]": None, "t2m [degF]": [50, "M"], "msl [inHg]": [29.92, 30.0],
            "temperature_850 [degC]": [1, 2], "elevation": None, "elevation [ft]": [1000, 1000],
        })
    )  # fmt: skip
    assert value(reports, "2m_temperature")[0] == pytest.approx(283.15)
    assert value(reports, "mean_sea_level_pressure")[0] == pytest.approx(101320.8, abs=0.1)
    assert value(reports, "temperature_850") == pytest.approx([274.15, 275.15])
    assert reports.points.elevation[0] == pytest.approx(304.8)
    assert reports.units[Channel("temperature", 850)] == "K"


def test_flags_are_counted_and_their_header_says_which_pass() -> None:
    flagged = read_reports(table(**{"2m_temperature_flag": [0, 1]}))
    assert why(flagged, "2m_temperature") == ["", "flagged"]
    assert np.isnan(value(flagged, "2m_temperature")[1])
    assert why(read_reports(table(**{"2m_temperature_qc [1 V]": [1.0, np.nan]})), "2m_temperature") == ["", ""]
    assert why(read_reports(table(**{"2m_temperature_qc [1,V]": ["V", "X"]})), "2m_temperature") == ["", "flagged"]
    metar = table(**{"2m_temperature [K]": None, "tmpf": [50, 51], "tmpf_qc": ["bad", ""]})
    assert why(read_reports(metar), "2m_temperature") == ["flagged", ""]
    with pytest.raises(DataError, match=r"'2m_temperatur_flag' flags no column; did you mean '2m_temperature'"):
        read_reports(table(**{"2m_temperatur_flag": [0, 0]}))


def test_of_repeated_reports_the_last_one_with_a_value_counts() -> None:
    again = {"time": ["2024-01-01", "2024-01-01"], "msl [hPa]": [1000, "M"]}
    reports = read_reports(table(**again))
    assert why(reports, "2m_temperature") == ["duplicate", ""]
    assert why(reports, "mean_sea_level_pressure") == ["", "missing"]


def test_times_are_utc_or_say_where_they_are_from() -> None:
    utc = np.datetime64("2024-01-01T00:00", "s").astype(int)
    for first in ("2024-01-01", "2024-01-01T02:00+02:00", "2024-01-01 00:00Z"):
        assert read_reports(table(time=[first, "2024-01-01T06:00"])).time.tolist() == [utc, utc + 6 * 3600]
    zoned = pd.to_datetime(["2024-01-01 01:00", "2024-01-01 07:00"]).tz_localize("Europe/Berlin")
    assert read_reports(table(time=zoned)).time.tolist() == [utc, utc + 6 * 3600]
    for wrong in ("01/02/2024", "20240101", ""):
        with pytest.raises(DataError, match=rf"the time '{wrong}' in row 2 is no date; write it as 2024-01-31 18:53"):
            read_reports(table(time=["2024-01-01", wrong]))


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"msl": [1, 2]}, r"the column 'msl' says no units; write them into its header, such as 'msl \[Pa\]'"),
        ({"msl [m]": [1, 2]}, r"the units of 'msl \[m\]', 'm', are none of mean_sea_level_pressure, which is in Pa"),
        ({"msl [furlong]": [1, 2]}, "'furlong', are none of mean_sea_level_pressure"),
        ({"2m_temperature [K]": [280, "warm"]}, r"'2m_temperature \[K\]' holds 'warm' in row 2, which is no number"),
        ({"tmpf": [1, 2]}, r"'2m_temperature \[K\]' and 'tmpf' both hold 2m_temperature"),
        ({"latitude": [50, 51]}, "station 'A' has several latitudes, 1 apart"),
        ({"latitude": ["M", "M"]}, "station 'A' has the latitude nan, and it must be within -90…90 degrees"),
        ({"longitude": [500.0, 500.0]}, "station 'A' has the longitude 500, and it must be within -180…360 degrees"),
        ({"latitude": None, "latitud": [50, 50]}, "no column 'latitude'; did you mean 'latitud'"),
        ({"station": ["A", " "]}, "names no station in row 2"),
        ({"time": None}, r"no column 'time' \(METAR: valid\)"),
        ({"elevation": None, "elevation [K]": [1, 2]}, r"'elevation \[K\]' is in 'K', which is no length"),
        ({"lat": [50, 50]}, "two columns 'latitude'"),
    ],
)  # fmt: skip
def test_what_cannot_be_used_is_named_with_its_remedy(columns: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_reports(table(**columns))


def test_a_table_without_variables_names_places_only(tmp_path: Path) -> None:
    places = table(time=None, **{"2m_temperature [K]": None, "note": ["x", "y"], "latitude": [50.0, "M"]})
    assert read_points(places).latitude.tolist() == [50]
    with pytest.raises(ChannelError, match=r"no column with a variable and its units, .* its columns are station"):
        read_reports(table(**{"2m_temperature [K]": None}))
    with pytest.raises(DataError, match=r"there is no table of stations at nowhere\.csv"):
        read_reports("nowhere.csv")
    with pytest.raises(DataError, match="has no rows"):
        read_points(places.iloc[:0])
    (tmp_path / "empty.csv").write_text("")
    with pytest.raises(DataError, match=r"empty\.csv cannot be read as a table of comma-separated values"):
        read_points(tmp_path / "empty.csv")
    (tmp_path / "broken.parquet").write_bytes(b"no")
    with pytest.raises(DataError, match=r"broken.parquet(: reading Parquet needs| cannot be read as Parquet)"):
        read_points(tmp_path / "broken.parquet")
    with pytest.raises(DataError, match=r"t\.csv cannot be reached \(Cannot connect to 127\.0\.0\.1:9: .*; try again"):
        read_points("http://127.0.0.1:9/t.csv")


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_an_address_without_its_package_names_it(ending: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gcsfs", None)
    with pytest.raises(DataError, match=r"gs://a/b\..* pip install 'etesian\[cloud\]'"):
        read_points(f"gs://a/b.{ending}")


def test_parquet_says_what_the_csv_says(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    frame = table(**{"msl [hPa]": [1000.0, np.nan], "2m_temperature_flag": ["0", "1"]})
    frame.to_parquet(tmp_path / "reports.parquet")
    frame.to_csv(tmp_path / "reports.csv.gz", index=False)
    ours, theirs = (read_reports(tmp_path / f"reports.{ending}") for ending in ("parquet", "csv.gz"))
    for channel, values in ours.values.items():
        np.testing.assert_array_equal(values, theirs.values[channel])
        np.testing.assert_array_equal(ours.reasons[channel], theirs.reasons[channel])
    np.testing.assert_array_equal(ours.time, theirs.time)
