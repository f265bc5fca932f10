import cftime
import numpy as np
import pytest

from etesian.core import Grid
from etesian.core.clock import (
    cosine_solar_zenith,
    count_alike,
    day_of_year,
    decode_time,
    encode_time,
    end_of,
    month_start,
    parse_time,
    year_phase,
)
from etesian.core.errors import DataError


@pytest.mark.parametrize("calendar", ["proleptic_gregorian", "noleap", "360_day", "all_leap", "julian"])
def test_times_survive_the_round_trip(calendar: str) -> None:
    seconds = np.arange(0, 800 * 86400, 6 * 3600) + parse_time("1999-12-01", calendar)
    again, found = encode_time(decode_time(seconds, calendar))
    assert found == calendar
    assert (again == seconds).all()


@pytest.mark.parametrize(
    ("calendar", "days"), [("noleap", 365), ("360_day", 360), ("all_leap", 366), ("standard", 366)]
)
def test_a_year_ends_on_its_last_day(calendar: str, days: int) -> None:
    assert day_of_year([end_of("2008", calendar)], calendar)[0] == days


def test_a_leap_day_does_not_exist_everywhere() -> None:
    with pytest.raises(DataError, match="'2008-02-30' is no date of the noleap calendar"):
        parse_time("2008-02-30", "noleap")
    assert parse_time("2008-02-30", "360_day") - parse_time("2008-02-29", "360_day") == 86400


def test_the_sun_stands_over_greenwich_at_noon_of_the_equinox() -> None:
    grid = Grid([-45, 0, 45], [0, 90, 180, 270])
    zenith = cosine_solar_zenith(parse_time("2021-03-20T12", "standard"), grid)
    assert zenith[1, 0] == pytest.approx(1, abs=0.01)
    assert zenith[1, 2] == pytest.approx(-1, abs=0.01)
    assert zenith[2, 0] == pytest.approx(np.cos(np.pi / 4), abs=0.01)


def test_midsummer_is_bright_at_the_north_pole_all_day() -> None:
    hours = parse_time("2021-06-21", "standard") + 3600 * np.arange(24)
    assert cosine_solar_zenith(hours, Grid([89.9], [0])).min() == pytest.approx(np.sin(np.radians(23.44)), abs=0.01)


@pytest.mark.parametrize("calendar", ["standard", "proleptic_gregorian", "noleap", "360_day", "all_leap", "julian"])
@pytest.mark.parametrize("year", [1, 850, 1581, 2298, 9999])
def test_every_year_survives_the_round_trip_in_every_calendar(calendar: str, year: int) -> None:
    first, last = parse_time(str(year), calendar), end_of(str(year), calendar)
    dates = decode_time([first, last], calendar)
    assert [str(date)[:19].replace("T", " ") for date in dates] == [
        f"{year:04d}-01-01 00:00:00",
        f"{year:04d}-12-{30 if calendar == '360_day' else 31} 23:59:59",
    ]
    assert encode_time(dates)[0].tolist() == [first, last]


def test_the_standard_calendar_is_the_gregorian_from_the_reform_on_and_julian_before() -> None:
    assert parse_time("1582-10-15", "standard") - parse_time("1582-10-04", "standard") == 86400
    with pytest.raises(DataError, match="'1582-10-10' is no date of the standard calendar"):
        parse_time("1582-10-10", "standard")
    assert decode_time([parse_time("1582-10-15", "standard")], "standard").dtype == np.dtype("datetime64[s]")
    (early,) = decode_time([parse_time("1500-02-29", "standard")], "standard")
    assert isinstance(early, cftime.DatetimeGregorian)
    assert early.strftime("%m-%d") == "02-29"
    assert parse_time("0850-03-01", "proleptic_gregorian") - parse_time("0850-03-01", "standard") == -4 * 86400


@pytest.mark.parametrize(("date", "day"), [("1500-12-31", 366), ("1501-12-31", 365), ("1582-10-04", 277)])
def test_days_and_months_before_the_reform_are_those_of_the_julian_calendar(date: str, day: int) -> None:
    seconds = [parse_time(date, "standard"), parse_time("2000-12-31", "standard")]
    assert day_of_year(seconds, "standard").tolist() == [day, 366]
    assert day_of_year([parse_time(date, "julian")], "julian").tolist() == [day]
    assert month_start(seconds, "standard")[0] == parse_time(date[:7], "standard")
    assert year_phase(seconds, "standard")[0] == (day - 1) / 366


def test_the_month_of_the_reform_begins_on_its_first_day() -> None:
    assert month_start([parse_time("1582-10-20T12", "standard")], "standard") == [parse_time("1582-10", "standard")]


def test_numbers_in_two_calendars_mean_one_date_only_where_the_calendars_agree() -> None:
    modern, medieval = np.array([0]), np.array([-30_000_000_000])
    assert count_alike(modern, "proleptic_gregorian", medieval, "standard")
    assert not count_alike(modern, "standard", medieval, "proleptic_gregorian")
    assert not count_alike(modern, "noleap", modern, "proleptic_gregorian")


def test_times_are_rounded_to_the_second_and_not_cut() -> None:
    early = np.array(["2020-01-01T05:59:59.870", "1969-12-31T23:59:58.499", "1969-12-31T23:59:58.5"], "datetime64[ms]")
    assert encode_time(early)[0].tolist() == [1577858400, -2, -1]
    assert encode_time([cftime.DatetimeNoLeap(1970, 1, 1, 5, 59, 59, 740000)])[0].tolist() == [21600]


@pytest.mark.parametrize("text", ["10000", "0", "-44-03-15", "yesterday"])
def test_dates_outside_the_years_1_to_9999_are_refused(text: str) -> None:
    with pytest.raises(DataError, match=f"'{text}' is no date of the standard calendar; write YYYY-MM-DDTHH"):
        parse_time(text, "standard")


def test_a_missing_time_is_refused() -> None:
    with pytest.raises(DataError, match="time holds missing values"):
        encode_time(np.array(["2000-01-01", "NaT"], "datetime64[s]"))
