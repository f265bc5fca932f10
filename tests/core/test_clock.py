import numpy as np
import pytest

from etesian.core import Grid
from etesian.core.clock import cosine_solar_zenith, day_of_year, decode_time, encode_time, end_of, parse_time
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
