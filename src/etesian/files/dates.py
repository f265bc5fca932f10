"""The dates of a variable as a file holds them (numbers with units, text, dates) → seconds of a calendar."""

import re
from difflib import get_close_matches
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from etesian.core.clock import CALENDARS, LAST_YEAR, Seconds, decode_time, encode_time, moment, settle_calendar
from etesian.core.constants import SECONDS_PER_DAY, SECONDS_PER_HOUR
from etesian.core.errors import DataError, suggest

RENUMBER = "date its steps anew, for example with `cdo settaxis,2000-01-01,00:00,6hour IN OUT`"

_UNITS = {
    ("nanoseconds", "nanosecond", "nsec", "ns"): 1e-9,
    ("microseconds", "microsecond", "usec", "us"): 1e-6,
    ("milliseconds", "millisecond", "msec", "ms"): 1e-3,
    ("seconds", "second", "secs", "sec", "s"): 1,
    ("minutes", "minute", "mins", "min"): 60,
    ("hours", "hour", "hrs", "hr", "h"): SECONDS_PER_HOUR,
    ("days", "day", "d"): SECONDS_PER_DAY,
    ("weeks", "week"): 7 * SECONDS_PER_DAY,
    ("common_years", "common_year"): 365 * SECONDS_PER_DAY,
}

_SECONDS = {name: length for names, length in _UNITS.items() for name in names}

_MONTHS = {"months": 1, "month": 1, "mon": 1, "years": 12, "year": 12, "yrs": 12, "yr": 12}

_COUNTED = re.compile(r"\s*(\w+)\s+since\s+(.*?)\s*", re.IGNORECASE)

_WRITTEN = re.compile(r"\s*(?:days?\s+as\s+%Y%m%d(?:\.%f)?|%?Y+%?M+%?D+(?:\.%?f)?)\s*", re.IGNORECASE)

# A signed number is a zone behind an hour only: in 01-01-1970 it is the year.
_ZONE = r"\s*(?:Z|UTC|GMT|(?(4)(?P<zone>[+-]\d{1,2}(?::?\d{2})?)|(?!)))?"

_DATES = (
    re.compile(
        r"(\d{1,5})[-/ ](\d{1,2})(?:[-/ ](\d{1,2})(?:[T _]+(\d{1,2})(?::(\d{1,2})(?::(\d{1,2}(?:\.\d*)?))?)?)?)?"
        + _ZONE,
        re.IGNORECASE,
    ),
    re.compile(r"(\d{4})(\d{2})(\d{2})(?:[T _]?(\d{2})(?::?(\d{2})(?::?(\d{2}(?:\.\d*)?))?)?)?" + _ZONE, re.IGNORECASE),
)

_LEADS = re.compile(
    r"step|prediction_timedelta|forecast_?(period|hour|day|month|step)|fhour|lead(_?(time|hour|day|month))?s?"
)

_ROUND = {"days": 86400, "half days": 43200, "hours": 3600, "half hours": 1800, "quarters of an hour": 900,
          "tens of minutes": 600, "fives of minutes": 300, "minutes": 60}  # fmt: skip

_FILLS = (-2147483647, -2147483648, -9223372036854775806, -9223372036854775808)

_LARGEST = 9e36

_NOISE_SECONDS = 1e-3

_SHORTEST_STEP = 60


def units_of(array: xr.DataArray) -> tuple[str, str]:
    """Return under which attribute a variable gives its units, and these; some write `Unit`."""
    known = {str(key): str(value) for key, value in array.attrs.items() if str(key).lower() in ("units", "unit")}
    return next(((key, text) for key, text in known.items() if _is_date_units(text)), ("units", known.get("units", "")))


def holds_dates(array: xr.DataArray) -> bool:
    """Whether a variable holds dates, by its type, its units or its first text."""
    if array.dtype.kind == "M":
        return True
    if array.dtype.kind in "iuf":
        return _is_date_units(units_of(array)[1])
    if array.dtype.kind not in "OSUT" or not array.size:
        return False
    first = array.values.flat[0]
    return _matches(_plain(first)) is not None if isinstance(first, bytes | str) else hasattr(first, "dayofyr")


def is_text(array: xr.DataArray) -> bool:
    """Whether a variable holds text."""
    return array.dtype.kind in "SUT" or (array.dtype == object and isinstance(array.values.flat[0], bytes | str))


def read_dates(array: xr.DataArray, label: str, notes: list[str]) -> tuple[Seconds, str]:
    """Return the seconds since 1970-01-01 at which the dates of a variable lie, and their calendar.

    Args:
        array: a variable that holds dates.
        label: name of the file in messages.
        notes: gains a sentence for each thing that was mended.

    Raises:
        DataError: if a date is missing or cannot be read.
    """
    where = f"'{array.name}' in {label}"
    if array.dtype.kind in "iuf":
        calendar = _calendar(array, where)
        _refuse_missing(array, _is_missing(array.values), where)
        seconds = _from_numbers(array, calendar, where, notes)
    elif is_text(array):
        calendar = _calendar(array, where)
        texts = [_plain(value) for value in array.values.flat]
        _refuse_missing(array, np.array([not text for text in texts]).reshape(array.shape), where)
        read = [_date(text, calendar, where) for text in texts]
        seconds = np.array(read, dtype=np.int64).reshape(array.shape)
    else:
        _refuse_missing(array, np.asarray(array.isnull()), where)
        seconds, calendar = encode_time(array.values)
    calendar = settle_calendar(seconds, calendar)
    if seconds.size and not _first_second(calendar) <= seconds.min() <= seconds.max() < _last_second(calendar):
        told = f" ({array.values.flat[np.argmax(np.abs(seconds))]} {units_of(array)[1]})"
        raise DataError(f"{where} has dates outside the years 1 to {LAST_YEAR}{told}: {RENUMBER}")
    return seconds, calendar


def is_duration(array: xr.DataArray) -> bool:
    """Whether a variable counts units of time of one length."""
    return array.dtype.kind == "m" or units_of(array)[1].strip().lower() in _SECONDS


def is_lead(array: xr.DataArray) -> bool:
    """Whether a variable holds times since the initial time of a forecast, by its standard name or its own."""
    if array.dtype.kind not in "iufm":
        return False
    named = _LEADS.fullmatch(str(array.name).lower()) is not None and (array.name != "step" or is_duration(array))
    return named or array.attrs.get("standard_name") == "forecast_period"


def read_duration(array: xr.DataArray) -> Seconds:
    """Return a variable that is a duration in whole seconds."""
    if array.dtype.kind == "m":
        return np.asarray(array.values.astype("timedelta64[s]").astype(np.int64))
    length = _SECONDS[units_of(array)[1].strip().lower()]
    return np.asarray(np.rint(np.asarray(array.values, dtype=np.float64) * length)).astype(np.int64)


def _is_date_units(text: str) -> bool:
    return _COUNTED.fullmatch(text) is not None or _WRITTEN.fullmatch(text) is not None


def _calendar(array: xr.DataArray, where: str) -> str:
    text = str(array.attrs.get("calendar", array.encoding.get("calendar", ""))).strip()
    name = "360_day" if text == "360" else text.lower() or CALENDARS[0]
    if name not in CALENDARS:
        (likely,) = get_close_matches(name, CALENDARS, n=1, cutoff=0.7) or CALENDARS[:1]
        raise DataError(
            f"{where} is counted in the calendar '{text}', which is none of {', '.join(CALENDARS)}"
            f"{suggest(name, CALENDARS)}: set it with `ncatted -a calendar,{array.name},o,c,{likely} IN OUT`"
        )
    return name


def _is_missing(values: NDArray[Any]) -> NDArray[np.bool_]:
    if values.dtype.kind == "f":
        return np.asarray(~np.isfinite(values) | (np.abs(values) >= _LARGEST))
    return np.asarray(np.isin(values, _FILLS))


def _refuse_missing(array: xr.DataArray, missing: NDArray[np.bool_], where: str) -> None:
    if not missing.any():
        return
    if missing.all() or array.ndim != 1:
        raise DataError(f"{where} has {missing.sum()} missing dates of {missing.size}: {RENUMBER}")
    first = int(np.argmin(missing))
    last = first + int(np.argmax(np.append(missing[first:], True))) - 1
    raise DataError(
        f"{where} has {missing.sum()} missing values (such as {array.values[missing][0]}) among {missing.size} dates: "
        f"keep the steps that are dated, for example with `ncks -d {array.dims[0]},{first},{last} IN OUT`"
    )


def _from_numbers(array: xr.DataArray, calendar: str, where: str, notes: list[str]) -> Seconds:
    key, units = units_of(array)
    if key != "units":
        notes.append(f"the units of '{array.name}' stand in an attribute '{key}': read as '{units}'")
    values = np.asarray(array.values)
    counted = _COUNTED.fullmatch(units)
    if counted is None:
        return _from_written(values, units, calendar, where)
    unit = counted[1].lower()
    if unit not in _SECONDS and unit not in _MONTHS:
        raise DataError(f"{where} has the units '{units}', and '{counted[1]}' is no unit of time: {RENUMBER}")
    begin = _date(counted[2], calendar, f"the reference of {where} (units '{units}')")
    months = _MONTHS.get(unit, 0)
    if months and calendar != "360_day":
        return _from_months(np.asarray(values * months), begin, units, calendar, where)
    length = 30 * SECONDS_PER_DAY * months or _SECONDS[unit]
    exact = np.asarray(values.astype(np.float64) * length)
    if np.abs(exact).max(initial=0) > (LAST_YEAR + 1) * 366 * SECONDS_PER_DAY:
        raise DataError(f"{where} has dates outside the years 1 to {LAST_YEAR} ({values.flat[0]} {units}): {RENUMBER}")
    if values.dtype.kind in "iu" and length >= 1:
        return np.asarray(begin + values.astype(np.int64) * int(length))
    precision = float(np.spacing(np.abs(values).max(initial=0))) * length if values.dtype.kind == "f" else 0.0
    told = f"'{array.name}' is stored as {values.dtype} '{units}'"
    if precision > 1:
        even = _even(np.asarray(begin + exact), precision, f"{told}, exact to {precision:.3g} s only", notes)
        if (np.diff(even.ravel()) == 0).any():
            raise DataError(f"{where}: its times repeat, for {values.dtype} is too coarse for '{units}': {RENUMBER}")
        return even
    whole = np.asarray(np.rint(exact)).astype(np.int64)
    off, shortest = float(np.abs(exact - whole).max(initial=0)), np.diff(exact.ravel()).min(initial=np.inf)
    if off > _NOISE_SECONDS:
        if shortest < _SHORTEST_STEP and off > precision:
            raise DataError(
                f"{where} has steps of {shortest:g} s with fractions of a second, and times are kept in whole seconds: "
                f"keep steps on whole seconds, for example with `ncks -d {array.dims[0]},0,,2 IN OUT`"
            )
        notes.append(f"{told}, up to {off:.2g} s off whole seconds: rounded to them")
    return np.asarray(begin + whole)


def _even(exact: NDArray[np.float64], precision: float, told: str, notes: list[str]) -> Seconds:
    """Round as far as the numbers of a file do not tell apart, where that makes times even or leaves no doubt."""
    whole = np.asarray(np.rint(exact)).astype(np.int64)
    for name, unit in _ROUND.items():
        even = np.asarray(np.rint(exact / unit).astype(np.int64) * unit)
        steps = np.diff(even.ravel())
        is_clear = unit >= 4 * precision or (steps.size > 1 and bool((steps == steps[0]).all()))
        if is_clear and (np.abs(even - exact) <= 0.51 * precision).all() and (steps > 0).all():
            if not np.array_equal(even, whole):
                notes.append(f"{told}: rounded to whole {name}")
            return even
    notes.append(f"{told}: kept as it is")
    return whole


def _from_written(values: NDArray[Any], units: str, calendar: str, where: str) -> Seconds:
    """Read numbers that spell dates, 20200131.25 for six o'clock on the last of January."""
    if values.dtype == np.float32:
        raise DataError(f"{where} spells dates in float32 ('{units}'), which has too few digits: {RENUMBER}")
    days = np.floor(np.asarray(values, dtype=np.float64)).astype(np.int64)
    fraction = np.rint((np.asarray(values, dtype=np.float64) - days) * SECONDS_PER_DAY).astype(np.int64)
    read = [_date(f"{day // 10000}-{day // 100 % 100}-{day % 100}", calendar, where) for day in days.flat]
    return np.asarray(np.array(read, dtype=np.int64).reshape(values.shape) + fraction)


def _from_months(months: NDArray[Any], begin: int, units: str, calendar: str, where: str) -> Seconds:
    """Count whole months of the calendar, as those mean who write such units."""
    whole = np.asarray(np.rint(months)).astype(np.int64)
    if not np.array_equal(whole, months):
        odd = float(np.asarray(months, dtype=np.float64).flat[int(np.argmax((whole != months).ravel()))])
        raise DataError(
            f"{where} has '{units}' with fractions ({odd:g} months), which are no dates: date its steps anew, for "
            f"example with `cdo settaxis,2000-01-16,00:00,1month IN OUT`"
        )
    start = xr.DataArray(decode_time([begin], calendar), dims="time").dt
    year, month, day = (int(part.values[0]) for part in (start.year, start.month, start.day))
    total = (12 * year + month - 1 + whole).ravel().tolist()
    read = [_date(f"{number // 12}-{number % 12 + 1}-{day}", calendar, where) for number in total]
    return np.asarray(np.array(read, dtype=np.int64).reshape(months.shape) + begin % SECONDS_PER_DAY)


def _plain(value: Any) -> str:
    text = value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
    return text.strip().strip("\0").strip()


def _matches(text: str) -> re.Match[str] | None:
    return next((match for pattern in _DATES if (match := pattern.fullmatch(text))), None)


def _date(text: str, calendar: str, where: str) -> int:
    """Read a date in words as seconds since 1970-01-01.

    Raises:
        DataError: if it is none, or none of that calendar.
    """
    match = _matches(f"{text}-01" if re.fullmatch(r"\d{4}", text) else text)
    if match is None:
        raise DataError(f"{where}: '{text}' is no date that can be read: {RENUMBER}")
    year, month, day, hour, minute, second = (float(part or 0) for part in match.groups()[:6])
    zone = match["zone"] or ""
    try:
        start = moment(calendar, int(year), int(month), int(day) or (0 if match[3] else 1))
    except ValueError:
        raise DataError(f"{where}: '{text}' is no date of the {calendar} calendar: {RENUMBER}") from None
    digits = zone[1:].replace(":", "")
    offset = (int(digits[:-2] or 0) * 60 + int(digits[-2:])) * 60 if len(digits) > 2 else int(digits or 0) * 3600
    return start + round(hour * 3600 + minute * 60 + second) - (-offset if zone.startswith("-") else offset)


def _first_second(calendar: str) -> int:
    return moment(calendar, int(calendar in ("standard", "proleptic_gregorian", "julian")), 1, 1)


def _last_second(calendar: str) -> int:
    return moment(calendar, LAST_YEAR + 1, 1, 1)
