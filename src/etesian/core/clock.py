"""Time as numbers: calendars, day of year, and where the sun stands."""

import warnings
from collections.abc import Callable
from typing import Any

import cftime
import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike, NDArray

from etesian.core.constants import SECONDS_PER_DAY, SECONDS_PER_HOUR
from etesian.core.errors import DataError
from etesian.core.grid import Grid

Seconds = NDArray[np.int64]

LAST_YEAR = 9999
"""Dates go from year 1, or 0 where the calendar has one, to the end of this year."""

_EPOCH = "seconds since 1970-01-01"

_PROLEPTIC, _MIXED = "proleptic_gregorian", "standard"

_NAMES = {"gregorian": _MIXED, "365_day": "noleap", "366_day": "all_leap"}

CALENDARS = (_MIXED, _PROLEPTIC, "noleap", "all_leap", "360_day", "julian", *_NAMES)

YEAR_DAYS = {"360_day": 360, "noleap": 365, "all_leap": 366}

_CYCLE_DAYS = 4 * 365 + 1

_REFORM = int(np.datetime64("1582-10-15", "s").astype(np.int64))

_NEXT_MONTH = int(np.datetime64("1582-11-01", "s").astype(np.int64))


def settle_calendar(seconds: ArrayLike, calendar: str) -> str:
    """Return the one name of the calendar in which times are counted.

    From 1582-10-15 on, the standard calendar counts as the proleptic Gregorian does, whose name it then takes.

    >>> settle_calendar([0], "gregorian"), settle_calendar([-20_000_000_000], "gregorian")
    ('proleptic_gregorian', 'standard')
    """
    name = _NAMES.get(calendar, calendar)
    earliest = np.min(np.asarray(seconds), initial=np.iinfo(np.int64).max)
    return _PROLEPTIC if name == _MIXED and earliest >= _REFORM else name


def count_alike(ours: Seconds, calendar: str, theirs: Seconds, other: str) -> bool:
    """Whether times in two calendars can be compared: equal numbers are equal dates.

    The standard calendar differs from the proleptic Gregorian before 1582-10-15 only.
    """
    if calendar == other:
        return True
    proleptic = ours if calendar == _PROLEPTIC else theirs
    return {calendar, other} == {_PROLEPTIC, _MIXED} and settle_calendar(proleptic, _MIXED) == _PROLEPTIC


def encode_time(times: ArrayLike) -> tuple[Seconds, str]:
    """Turn numpy datetimes or cftime dates into whole seconds since 1970-01-01 and their calendar.

    Fractions of a second are rounded: a file's hours or days are seldom exact to the last digit.

    Raises:
        DataError: if the values are neither, or one is missing.

    >>> encode_time(np.array(["1970-01-02", "1970-01-02T23:59:59.8"], "datetime64[ns]"))
    (array([ 86400, 172800]), 'proleptic_gregorian')
    """
    array = np.asarray(times)
    if np.issubdtype(array.dtype, np.datetime64):
        if np.isnat(array).any():
            raise DataError("time holds missing values: select the steps that are dated")
        whole = array.astype("datetime64[s]")
        half = np.timedelta64(500, "ms")
        return np.asarray(whole + (array - whole >= half)).astype(np.int64), _PROLEPTIC
    first = array.flat[0] if array.size else None
    if not isinstance(first, cftime.datetime):
        raise DataError(f"time holds {array.dtype} values, not dates: give it units such as 'hours since 2000-01-01'")
    try:
        numbers = cftime.date2num(array, _EPOCH, calendar=first.calendar)
    except (TypeError, ValueError, AttributeError):
        raise DataError("time holds missing values, or dates of several calendars: select the steps that fit") from None
    seconds = np.round(np.asarray(numbers, dtype=np.float64)).astype(np.int64)
    return seconds, settle_calendar(seconds, str(first.calendar))


def decode_time(seconds: ArrayLike, calendar: str) -> NDArray[Any]:
    """Turn seconds since 1970-01-01 into numpy datetimes of whole seconds, or cftime dates in other calendars.

    Dates of the standard calendar are numpy datetimes from 1582-10-15 on, where it is the Gregorian.

    >>> decode_time([86400 * 359], "360_day")[0].strftime("%Y-%m-%d")
    '1970-12-30'
    """
    numbers = np.asarray(seconds, dtype=np.int64)
    name = settle_calendar(numbers, calendar)
    if name == _PROLEPTIC:
        return numbers.astype("datetime64[s]")
    return _dates(numbers, name)


def moment(calendar: str, *parts: int) -> int:
    """Return the seconds since 1970-01-01 of a year, month, day, hour, minute and second.

    Raises:
        ValueError: if the calendar has no such date.
    """
    with warnings.catch_warnings():
        # The models' calendars may have a year 0, of which cftime says that CF does not know it.
        warnings.simplefilter("ignore", UserWarning)
        date = cftime.datetime(*parts, calendar=calendar)
        return round(float(cftime.date2num(date, _EPOCH, calendar=calendar)))


def parse_time(text: str, calendar: str) -> int:
    """Read `2008`, `2008-02`, `2008-02-30` or `2008-02-30T06` as seconds since 1970-01-01 of a calendar.

    Raises:
        DataError: if the text is no date of that calendar, or beyond the year 9999.

    >>> parse_time("1971", "360_day") // 86400
    360
    """
    date, _, clock = text.replace(" ", "T").partition("T")
    try:
        parts = [int(part) for part in date.split("-")] + [1, 1]
        hours = [int(part) for part in clock.split(":")] if clock else [0]
        if not int(calendar not in YEAR_DAYS) <= parts[0] <= LAST_YEAR:
            raise ValueError
        return moment(calendar, *parts[:3], *hours[:3])
    except (ValueError, TypeError):
        raise DataError(f"'{text}' is no date of the {calendar} calendar; write YYYY-MM-DDTHH") from None


def end_of(text: str, calendar: str) -> int:
    """Read a date as the last second of the year, month, day or hour that it names."""
    date, _, clock = text.replace(" ", "T").partition("T")
    start = parse_time(text, calendar)
    if clock:
        return start + SECONDS_PER_HOUR - 1
    parts = [int(part) for part in date.split("-")]
    if len(parts) == 3:
        return start + SECONDS_PER_DAY - 1
    year, month = (parts[0] + 1, 1) if len(parts) == 1 or parts[1] == 12 else (parts[0], parts[1] + 1)
    return moment(calendar, year, month, 1) - 1


def hour_of_day(seconds: ArrayLike) -> NDArray[np.float64]:
    """Return the UTC hour, 0 ≤ hour < 24."""
    return np.asarray(np.mod(np.asarray(seconds, dtype=np.int64), SECONDS_PER_DAY) / SECONDS_PER_HOUR)


def day_of_year(seconds: ArrayLike, calendar: str) -> NDArray[np.int64]:
    """Return the day of the year, from 1.

    >>> day_of_year([0, 86400 * 31], "noleap")
    array([ 1, 32])
    """
    numbers = np.asarray(seconds, dtype=np.int64)
    name = _NAMES.get(calendar, calendar)
    if name in (_PROLEPTIC, _MIXED):
        days = numbers.astype("datetime64[s]").astype("datetime64[D]")
        result = np.asarray((days - days.astype("datetime64[Y]")).astype(np.int64) + 1)
        return _mend(result, numbers, name, _REFORM, _julian_day_of_year)
    if name in YEAR_DAYS:
        return np.asarray(np.mod(numbers // SECONDS_PER_DAY, YEAR_DAYS[name]) + 1)
    return _julian_day_of_year(numbers, name)


def month_start(seconds: ArrayLike, calendar: str) -> Seconds:
    """Return 00:00 of the first day of the month in which each time lies, in seconds since 1970-01-01.

    >>> month_start([86400 * 40, 86400 * 59], "noleap") // 86400
    array([31, 59])
    """
    numbers = np.asarray(seconds, dtype=np.int64)
    name = _NAMES.get(calendar, calendar)
    if name in (_PROLEPTIC, _MIXED):
        months = numbers.astype("datetime64[s]").astype("datetime64[M]")
        return _mend(months.astype("datetime64[s]").astype(np.int64), numbers, name, _NEXT_MONTH, _counted_months)
    if name == "360_day":
        return np.asarray(numbers - numbers % (30 * SECONDS_PER_DAY))
    return _counted_months(numbers, name)


def year_phase(seconds: ArrayLike, calendar: str) -> NDArray[np.float64]:
    """Return how far the year has gone, 0 ≤ phase < 1, in years of the calendar's mean length."""
    day = day_of_year(seconds, calendar) - 1 + hour_of_day(seconds) / 24
    return np.asarray(day / YEAR_DAYS.get(_NAMES.get(calendar, calendar), 366))


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
    constant, by_latitude, by_longitude = solar_zenith_parts(seconds, grid, calendar)
    return np.asarray(constant[..., None] + by_latitude[..., None] * by_longitude[..., None, :])


def solar_zenith_parts(
    seconds: ArrayLike, grid: Grid, calendar: str
) -> tuple[Float[np.ndarray, "... lat"], Float[np.ndarray, "... lat"], Float[np.ndarray, "... lon"]]:
    """Return of which the cosine of the solar zenith angle is made: the first, and the second times the third."""
    times = np.asarray(seconds, dtype=np.int64)
    declination, equation_of_time = sun_angles(2 * np.pi * year_phase(times, calendar))
    solar_time = 2 * np.pi * hour_of_day(times) / 24 - np.pi + equation_of_time
    hour_angle = solar_time[..., None] + np.radians(grid.longitude)
    latitude = np.radians(grid.latitude)
    constant = np.sin(latitude) * np.sin(declination)[..., None]
    return constant, np.cos(latitude) * np.cos(declination)[..., None], np.cos(hour_angle)


def sun_angles(angle: ArrayLike) -> tuple[Float[np.ndarray, "..."], Float[np.ndarray, "..."]]:
    """Return declination and equation of time, in radians, from how far the year has gone, 2π at its end.

    Source: Spencer 1971, Search 2 (5), 172.
    """
    angle = np.asarray(angle)
    declination = (
        0.006918 - 0.399912 * np.cos(angle) + 0.070257 * np.sin(angle)
        - 0.006758 * np.cos(2 * angle) + 0.000907 * np.sin(2 * angle)
        - 0.002697 * np.cos(3 * angle) + 0.00148 * np.sin(3 * angle)
    )  # fmt: skip
    equation_of_time = (
        0.000075 + 0.001868 * np.cos(angle) - 0.032077 * np.sin(angle)
        - 0.014615 * np.cos(2 * angle) - 0.040849 * np.sin(2 * angle)
    )  # fmt: skip
    return np.asarray(declination), np.asarray(equation_of_time)


def days_in_year(calendar: str) -> float:
    """Return the mean length of a calendar's years in days."""
    name = _NAMES.get(calendar, calendar)
    return 365.25 if name == "julian" else YEAR_DAYS.get(name, 365.2425)


def _dates(numbers: Seconds, calendar: str) -> NDArray[Any]:
    return np.asarray(cftime.num2date(numbers, _EPOCH, calendar=calendar), dtype=object)


def _julian_day_of_year(numbers: Seconds, calendar: str) -> NDArray[np.int64]:
    """Count by cycles of four years, of which the fourth has the leap day."""
    days = (numbers - moment(calendar, 1, 1, 1)) // SECONDS_PER_DAY
    year, day = np.divmod(days % _CYCLE_DAYS, 365)
    return np.asarray(np.where(year == 4, 366, day + 1))


def _counted_months(numbers: Seconds, calendar: str) -> Seconds:
    midnight = {"day": 1, "hour": 0, "minute": 0, "second": 0}
    starts = [date.replace(**midnight) for date in _dates(numbers, calendar).flat]
    return np.asarray(cftime.date2num(starts, _EPOCH, calendar=calendar), dtype=np.int64).reshape(numbers.shape)


def _mend(
    result: NDArray[np.int64], numbers: Seconds, calendar: str, until: int, count: Callable[..., NDArray[np.int64]]
) -> NDArray[np.int64]:
    """Count anew what the Gregorian rules get wrong in the standard calendar, whose earlier dates are Julian."""
    early = numbers < until
    if calendar == _MIXED and early.any():
        result[early] = count(numbers[early], calendar)
    return result
