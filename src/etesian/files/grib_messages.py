"""The messages of a GRIB file: what each says of itself, and its values."""

import contextlib
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import IO, Any, NamedTuple

import eccodes
import numpy as np
from gribapi import grib_context_set_logging
from numpy.typing import NDArray
from xarray.backends.locks import SerializableLock

from etesian.core.constants import SECONDS_PER_HOUR
from etesian.core.errors import DataError, first_line
from etesian.files.accumulations import Period
from etesian.files.decoding import DamagedError
from etesian.files.grib_grid import Layout, Triangle, raster

LOCK = SerializableLock()
"""Held while eccodes is at work: its switch for several fields in one message is global."""

# eccodes keeps a pointer to the file that it logs to, so it must not be closed.
_NOWHERE = open(os.devnull, "w")  # noqa: SIM115

_EPOCH = datetime(1970, 1, 1)

_GRID_KEYS = ("md5GridSection", "gridDefinition", "gridType", "numberOfPoints")

_MISSING = float(np.finfo(np.float32).max)

_PARAMETER_KEYS = {
    1: ("table2Version", "indicatorOfParameter"),
    2: ("discipline", "parameterCategory", "parameterNumber"),
}

_SURFACE_KEYS = {1: "indicatorOfTypeOfLevel", 2: "typeOfFirstFixedSurface"}

# Months in units of time that have no fixed length, and the hours that eccodes takes for one of them (code table 4.4).
_CALENDAR_UNITS = {3: (1, 720), 4: (12, 8760), 5: (120, 87600), 6: (360, 262800), 7: (1200, 876000)}

_ENSEMBLE_STATISTICS = {0: "em", 1: "em", 2: "es", 3: "es", 4: "es", 6: "em"}  # code table 4.7

# MARS' types that are statistics of an ensemble or a climate: mean, spread, probabilities, indices, clusters.
_STATISTICS = ("em", "es", "ep", "efi", "efic", "sot", "pb", "pd", "cd", "cm", "cs", "ci", "taem", "taes", "ssd", "cl")

# eccodes' words for what was done over time, by code table 4.10, where a parameter's own name hides it.
_PROCESSES = {0: "avg", 1: "accum", 2: "max", 3: "min", 4: "diff", 5: "rms", 6: "sd"}


class Parameter(NamedTuple):
    """What a message measures, in eccodes' words; `cf_name` is empty where eccodes knows none."""

    id: int
    short_name: str
    variable: str
    cf_name: str
    name: str
    units: str


@dataclass(frozen=True)
class Message:
    """One field of a file.

    Attributes:
        offset: of its message in the file, in bytes.
        part: which field of the message it is, from 0.
        parameter: what it measures.
        surface: its type of level, in eccodes' words.
        level: its value, hPa on pressure levels and m on heights.
        bottom: value of the lower end of a layer in edition 2, else None.
        process: what was done over time, in eccodes' words; `instant` where nothing was.
        period: when.
        source: `an`, `fc`, `cf`, `pf`, … in MARS' words.
        statistic: of an ensemble (`em`, `es`, `p90`), empty for one realisation.
        number: of the member, or None.
        grid: key of its grid in `Catalogue.rasters`.
    """

    offset: int
    part: int
    parameter: Parameter
    surface: str
    level: float
    bottom: float | None
    process: str
    period: Period
    source: str
    statistic: str
    number: int | None
    grid: tuple[object, ...]


@dataclass(frozen=True)
class Catalogue:
    """The messages of a file, their grids (a raster, or a truncation), and parameters by identifier and edition."""

    messages: list[Message]
    rasters: dict[tuple[object, ...], Layout]
    parameters: dict[tuple[int, int], Parameter]


def scan(path: str) -> Catalogue:
    """Read what every message of a file says of itself, without its values.

    Raises:
        DataError: if one is damaged, or says what cannot be.
        GridError: if one is on a grid that cannot be read.
    """
    found = Catalogue([], {}, {})
    end, part, length = 0, 0, 0
    try:
        with silent_eccodes(), open(path, "rb") as file, _several_fields(file):
            while (handle := eccodes.codes_grib_new_from_file(file)) is not None:
                try:
                    offset = int(eccodes.codes_get(handle, "offset"))
                    part = part + 1 if length and offset == end - length else 0
                    if part == 0:
                        _refuse_lost(path, end, offset)
                        length = int(eccodes.codes_get(handle, "totalLength"))
                        end = offset + length
                    found.messages.append(_message(handle, path, offset, part, found))
                finally:
                    eccodes.codes_release(handle)
    except eccodes.CodesInternalError as error:
        raise DataError(
            f"{path} is truncated or no valid GRIB after {len(found.messages)} messages ({first_line(error)}); "
            f"copy or download it again"
        ) from None
    _refuse_lost(path, end, None)
    if not found.messages:
        raise DataError(f"{path} holds no GRIB message; copy or download it again")
    return found


def read_values(path: str, messages: Sequence[Message]) -> Iterator[NDArray[np.float64]]:
    """Yield the values of messages, in the order of their points, NaN where the message says missing.

    Raises:
        DamagedError: if they cannot be unpacked.
    """
    with silent_eccodes(), open(path, "rb") as file:
        for message in messages:
            try:
                handle = _open(file, message)
                try:
                    eccodes.codes_set(handle, "missingValue", _MISSING)
                    values = np.asarray(eccodes.codes_get_values(handle), dtype=np.float64)
                finally:
                    eccodes.codes_release(handle)
            except (eccodes.CodesInternalError, EOFError) as error:
                raise DamagedError(
                    f"'{message.parameter.short_name}' at byte {message.offset} of {path} cannot be unpacked "
                    f"({first_line(error)}): copy or download the file again",
                    path,
                ) from None
            values[values == _MISSING] = np.nan
            yield values


@contextlib.contextmanager
def silent_eccodes() -> Iterator[None]:
    """Keep others off eccodes, and its own lines off the terminal: what goes wrong is raised."""
    with LOCK:
        grib_context_set_logging(_NOWHERE)
        try:
            yield
        finally:
            grib_context_set_logging(sys.__stderr__)


@contextlib.contextmanager
def _several_fields(file: IO[bytes]) -> Iterator[None]:
    eccodes.codes_grib_multi_support_on()
    eccodes.codes_grib_multi_support_reset_file(file)
    try:
        yield
    finally:
        eccodes.codes_grib_multi_support_off()


def _open(file: IO[bytes], message: Message) -> int:
    file.seek(message.offset)
    if message.part == 0:
        eccodes.codes_grib_multi_support_off()
        handle = eccodes.codes_grib_new_from_file(file)
    else:
        with _several_fields(file):
            for part in range(message.part + 1):
                handle = eccodes.codes_grib_new_from_file(file)
                if handle is not None and part < message.part:
                    eccodes.codes_release(handle)
    if handle is None:
        raise EOFError("the file ends before it")
    return int(handle)


def _refuse_lost(path: str, start: int, stop: int | None) -> None:
    """Refuse a message that eccodes passed over because it is damaged: bulletin headers and padding may stay."""
    with open(path, "rb") as file:
        file.seek(start)
        between = file.read() if stop is None else file.read(stop - start)
    if b"GRIB" in between:
        raise DataError(
            f"{path} holds a damaged message at byte {start + between.index(b'GRIB')}; copy or download it again"
        )


def _message(handle: int, path: str, offset: int, part: int, found: Catalogue) -> Message:
    """Read the keys of one message."""
    edition = int(eccodes.codes_get(handle, "edition"))
    parameter = _parameter(handle, edition, found)
    where = f"message {len(found.messages) + 1} ('{parameter.short_name}') of {path}"
    try:
        surface = str(eccodes.codes_get(handle, "typeOfLevel"))
        if surface == "unknown":
            surface += str(eccodes.codes_get(handle, _SURFACE_KEYS[edition], int))
        level = float(eccodes.codes_get(handle, "level", float))
        bottom = None
        if surface.endswith("Layer") and edition == 2:
            scale = 10.0 ** -int(eccodes.codes_get(handle, "scaleFactorOfSecondFixedSurface"))
            bottom = int(eccodes.codes_get(handle, "scaledValueOfSecondFixedSurface")) * scale
        grid = tuple(
            _get(handle, key, None) for key in ("md5GridSection", "gridDefinition", "gridType", "numberOfPoints")
        )
        if grid not in found.rasters:
            is_spectral = grid[2] == "sh"
            j, k, m = (int(eccodes.codes_get(handle, key)) if is_spectral else 0 for key in "JKM")
            found.rasters[grid] = Triangle(j, k, m) if is_spectral else raster(handle, where)
        source = str(_get(handle, "dataType", "unknown"))
        number = _get(handle, "number", None)
        step_type = str(eccodes.codes_get(handle, "stepType"))
        period = _period(handle, where)
    except eccodes.CodesInternalError as error:
        raise DataError(
            f"{where} lacks what it needs to be read ({first_line(error)}): copy or download the file again"
        ) from None
    if step_type == "instant" and period.start < period.end:
        step_type = _PROCESSES.get(int(_get(handle, "typeOfStatisticalProcessing", -1)), step_type)
    statistic = _statistic(handle, source)
    return Message(
        offset, part, parameter, surface, level, bottom, step_type, period, source, statistic,
        None if number is None else int(number), grid,
    )  # fmt: skip


def _parameter(handle: int, edition: int, found: Catalogue) -> Parameter:
    """Read what a message measures; eccodes takes a millisecond for each word, so those of one identifier are kept."""
    identifier = int(_get(handle, "paramId", 0))
    if (identifier, edition) not in found.parameters:
        short_name = str(_get(handle, "shortName", "unknown"))
        words = [_word(handle, key) for key in ("cfVarName", "cfName", "name")]
        units = str(_get(handle, "units", ""))
        parameter = Parameter(identifier, short_name, words[0] or short_name, words[1], words[2], units)
        if identifier == 0:
            numbers = ".".join(str(_get(handle, key, "")) for key in _PARAMETER_KEYS[edition])
            return parameter._replace(variable=f"unknown_{numbers}")
        found.parameters[identifier, edition] = parameter
    return found.parameters[identifier, edition]


def _get(handle: int, key: str, default: Any) -> Any:
    try:
        return eccodes.codes_get(handle, key)
    except eccodes.CodesInternalError:
        return default


def _word(handle: int, key: str) -> str:
    word = str(_get(handle, key, ""))
    return "" if word in ("unknown", "undef") else word


def _statistic(handle: int, source: str) -> str:
    """Tell statistics of an ensemble from one realisation."""
    derived = _get(handle, "derivedForecast", None)
    if derived is not None:
        return _ENSEMBLE_STATISTICS.get(int(derived), f"derived{derived}")
    percentile = _get(handle, "percentileValue", None)
    if percentile is not None:
        return f"p{percentile}"
    return source if source in _STATISTICS else ""


def _period(handle: int, where: str) -> Period:
    """Read the initial time, and the start and end of what a message covers, in seconds since 1970-01-01.

    Raises:
        DataError: if a date cannot be.
    """
    date = [int(eccodes.codes_get(handle, key)) for key in ("year", "month", "day", "hour", "minute", "second")]
    # GRIB 2 writes a length in units of its own behind the start; edition 1 has one unit for both.
    units = [int(_get(handle, f"indicatorOfUnit{word}TimeRange", 1)) for word in ("Of", "For")]
    units[1] = units[1] if int(eccodes.codes_get(handle, "edition")) == 2 else units[0]
    eccodes.codes_set(handle, "stepUnits", "s")
    start, end = (int(eccodes.codes_get(handle, key, int)) for key in ("startStep", "endStep"))
    try:
        initial = datetime(*date)  # type: ignore[arg-type]
        first = _later(initial, start, units[0])
        last = _later(first, end - start, units[1])
    except (ValueError, OverflowError):
        text = "{}-{:02}-{:02} {:02}:{:02}:{:02}".format(*date)
        hours = end / SECONDS_PER_HOUR
        raise DataError(
            f"{where} is dated {text} with a forecast time of {hours:g} h, which is no date between the years 1 and "
            f"9999: copy or download the file again"
        ) from None
    return Period(*(int((moment - _EPOCH) // timedelta(seconds=1)) for moment in (initial, first, last)))


def _later(moment: datetime, seconds: int, unit: int) -> datetime:
    """Add seconds as eccodes gives them, or the months of the calendar where they were counted in those."""
    if unit not in _CALENDAR_UNITS:
        return moment + timedelta(seconds=seconds)
    months, hours = _CALENDAR_UNITS[unit]
    count = moment.month - 1 + months * round(seconds / (hours * SECONDS_PER_HOUR))
    return moment.replace(year=moment.year + count // 12, month=count % 12 + 1)
