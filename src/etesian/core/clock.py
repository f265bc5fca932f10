"""Time as numbers: calendars, day of year, and where the sun stands."""

from typing import Any

import cftime
import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike, NDArray

from etesian.core.constants import SECONDS_PER_DAY, SECONDS_PER_HOUR
from etesian.core.errors import DataError
from etesian.core.grid import Grid

Seconds = NDArray[np.int64]
STANDARD_CALENDARS = ("standard", "gregorian", "proleptic_gregorian")
CALENDARS = (*STANDARD_CALENDARS, "noleap", "365_day", "all_leap", "366_day", "360_day", "julian")
_EPOCH = "seconds since 1970-01-01"


def encode_time(times: ArrayLike) -> tuple[Seconds, str]:
    """Turn numpy datetimes or cftime dates into seconds since 1970-01-01 and their calendar.

    Raises:
        DataError: if the values are neither.

    >>> encode_time(np.array(["1970-01-02"], "datetime64[ns]"))
    (array([86400]), 'proleptic_gregorian')
    """
    array = np.asarray(times)
    if np.issubdtype(array.dtype, np.datetime64):
        return array.astype("datetime64[s]").astype(np.int64), "proleptic_gregorian"
    first = array.flat[0] if array.size else None
    if not isinstance(first, cftime.datetime):
        raise DataError(f"time holds {array.dtype} values, not dates: give it units such as 'hours since 2000-01-01'")
    seconds = cftime.date2num(array, _EPOCH, calendar=first.calendar)
    return np.round(np.asarray(seconds, dtype=np.float64)).astype(np.int64), str(first.calendar)


def decode_time(seconds: ArrayLike, calendar: str) -> NDArray[Any]:
    """Turn seconds since 1970-01-01 into numpy datetimes, or cftime dates where the calendar is not Gregorian.

    >>> decode_time([86400 * 359], "360_day")[0].strftime("%Y-%m-%d")
    '1970-12-30'
    """
    numbers = np.asarray(seconds, dtype=np.int64)
    if calendar in STANDARD_CALENDARS:
        return numbers.astype("datetime64[s]").astype("datetime64[ns]")
    return np.asarray(cftime.num2date(numbers, _EPOCH, calendar=calendar))


def parse_time(text: str, calendar: str) -> int:
    """Read `2008`, `2008-02`, `2008-02-30` or `2008-02-30T06` as seconds since 1970-01-01 of a calendar.

    Raises:
        DataError: if the text is no date of that calendar.

    >>> parse_time("1971", "360_day") // 86400
    360
    """
    date, _, clock = text.replace(" ", "T").partition("T")
    try:
        parts = [int(part) for part in date.split("-")] + [1, 1]
        hours = [int(part) for part in clock.split(":")] if clock else [0]
        moment = cftime.datetime(*parts[:3], *hours[:3], calendar=_cf(calendar))
    except (ValueError, TypeError):
        raise DataError(f"'{text}' is no date of the {calendar} calendar; write YYYY-MM-DDTHH") from None
    return round(float(cftime.date2num(moment, _EPOCH, calendar=_cf(calendar))))


def end_of(text: str, calendar: str) -> int:
    """Read a date as the last second of the year, month, day or hour that it names."""
    date, _, clock = text.replace(" ", "T").partition("T")
    start = parse_time(text, calendar)
    if clock:
        return start + SECONDS_PER_HOUR - 1
    parts = [int(part) for part in date.split("-")]
    if len(parts) == 3:
        return start + SECONDS_PER_DAY - 1
    following = [parts[0] + 1] if len(parts) == 1 or parts[1] == 12 else [parts[0], parts[1] + 1]
    return (
        parse_time("-".join(f"{part:04d}" if i == 0 else f"{part:02d}" for i, part in enumerate(following)), calendar)
        - 1
    )


def hour_of_day(seconds: ArrayLike) -> NDArray[np.float64]:
    """Return the UTC hour, 0 ≤ hour < 24."""
    return np.asarray(np.mod(np.asarray(seconds, dtype=np.int64), SECONDS_PER_DAY) / SECONDS_PER_HOUR)


def day_of_year(seconds: ArrayLike, calendar: str) -> NDArray[np.int64]:
    """Return the day of the year, from 1.

    >>> day_of_year([0, 86400 * 31], "noleap")
    array([ 1, 32])
    """
    numbers = np.asarray(seconds, dtype=np.int64)
    if calendar in STANDARD_CALENDARS:
        days = numbers.astype("datetime64[s]").astype("datetime64[D]")
        return np.asarray((days - days.astype("datetime64[Y]")).astype(np.int64) + 1)
    if calendar == "360_day":
        return np.asarray(np.mod(numbers // SECONDS_PER_DAY, 360) + 1)
    if calendar in ("noleap", "365_day"):
        return np.asarray(np.mod(numbers // SECONDS_PER_DAY, 365) + 1)
    if calendar in ("all_leap", "366_day"):
        return np.asarray(np.mod(numbers // SECONDS_PER_DAY, 366) + 1)
    dates = np.asarray(decode_time(numbers, calendar), dtype=object)
    return np.array([date.dayofyr for date in dates.flat], dtype=np.int64).reshape(numbers.shape)


def month_start(seconds: ArrayLike, calendar: str) -> Seconds:
    """Return 00:00 of the first day of the month in which each time lies, in seconds since 1970-01-01.

    >>> month_start([86400 * 40, 86400 * 59], "noleap") // 86400
    array([31, 59])
    """
    numbers = np.asarray(seconds, dtype=np.int64)
    if calendar in STANDARD_CALENDARS:
        months = numbers.astype("datetime64[s]").astype("datetime64[M]")
        return np.asarray(months.astype("datetime64[s]").astype(np.int64))
    if calendar == "360_day":
        return np.asarray(numbers - numbers % (30 * SECONDS_PER_DAY))
    days = [date.day - 1 for date in np.asarray(decode_time(numbers, calendar), dtype=object).flat]
    midnight = numbers - numbers % SECONDS_PER_DAY
    return np.asarray(midnight - SECONDS_PER_DAY * np.array(days, dtype=np.int64).reshape(numbers.shape))


def year_phase(seconds: ArrayLike, calendar: str) -> NDArray[np.float64]:
    """Return how far the year has gone, 0 ≤ phase < 1, in years of the calendar's mean length."""
    length = {"360_day": 360.0, "noleap": 365.0, "365_day": 365.0, "all_leap": 366.0, "366_day": 366.0}
    day = day_of_year(seconds, calendar) - 1 + hour_of_day(seconds) / 24
    return np.asarray(day / length.get(calendar, 366.0))


def seasonal_terms(seconds: ArrayLike, calendar: str) -> Float[np.ndarray, "... 5"]:
    """Return 1, cos φ, sin φ, cos 2φ, sin 2φ with φ the phase of the year: the terms of a seasonal cycle."""
    phase = 2 * np.pi * year_phase(seconds, calendar)
    return np.stack([np.ones_like(phase), np.cos(phase), np.sin(phase), np.cos(2 * phase), np.sin(2 * phase)], axis=-1)


def cosine_solar_zenith(
    seconds: ArrayLike, grid: Grid, calendar: str = "proleptic_gregorian"
) -> Float[np.ndarray, "... lat lon"]:
    """Return the cosine of the solar zenith angle, negative at night.

    Spencer's Fourier series for the declination and the equation of time (Spencer 1971, Search 2 (5), 172),
    good to about 0.01.

    Args:
        seconds: times of any shape, as `encode_time` gives them.
        grid: where.
        calendar: of the times.
    """
    times = np.asarray(seconds, dtype=np.int64)
    angle = 2 * np.pi * year_phase(times, calendar)
    declination = (
        0.006918 - 0.399912 * np.cos(angle) + 0.070257 * np.sin(angle)
        - 0.006758 * np.cos(2 * angle) + 0.000907 * np.sin(2 * angle)
        - 0.002697 * np.cos(3 * angle) + 0.00148 * np.sin(3 * angle)
    )  # fmt: skip
    equation_of_time = (
        0.000075 + 0.001868 * np.cos(angle) - 0.032077 * np.sin(angle)
        - 0.014615 * np.cos(2 * angle) - 0.040849 * np.sin(2 * angle)
    )  # fmt: skip
    solar_time = 2 * np.pi * hour_of_day(times) / 24 - np.pi + equation_of_time
    hour_angle = solar_time[..., None] + np.radians(grid.longitude)
    latitude = np.radians(grid.latitude)[:, None]
    sin_part = np.sin(latitude) * np.sin(declination)[..., None, None]
    cos_part = np.cos(latitude) * np.cos(declination)[..., None, None] * np.cos(hour_angle)[..., None, :]
    return np.asarray(sin_part + cos_part)


def _cf(calendar: str) -> str:
    return "proleptic_gregorian" if calendar in STANDARD_CALENDARS else calendar
