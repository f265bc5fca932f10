"""GRIB messages → lazily loaded xarray datasets, one for each variable on one kind of level."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from xarray.backends.common import BackendArray
from xarray.core import indexing

from etesian.core.channels import canonical_name
from etesian.core.clock import decode_time
from etesian.core.constants import SECONDS_PER_HOUR
from etesian.core.errors import DataError
from etesian.files import diagnosis
from etesian.files.accumulations import Period, over_steps, span
from etesian.files.decoding import DamagedError, is_passed_over
from etesian.files.grib_grid import Layout
from etesian.files.grib_messages import Catalogue, Message, Parameter, read_values, scan
from etesian.files.naming import OVER_TIME

_CELL_METHODS = {
    "avg": "mean", "accum": "sum", "max": "maximum", "min": "minimum", "sd": "standard_deviation",
    "rms": "root_mean_square", "diff": "difference", "sdiff": "difference",
}  # fmt: skip

_MONTHLY = ("avgua", "avgia", "avgfc", "avgas", "avgad", "avgid")
"""Edition 1's means of many analyses or forecasts, as reanalyses give for months."""

_PRESSURE = {"standard_name": "air_pressure", "positive": "down"}

_DEPTH = {"standard_name": "depth", "positive": "down", "units": "m"}

_LEVELS: dict[str, dict[str, str]] = {
    "isobaricInhPa": {"units": "hPa"} | _PRESSURE,
    "isobaricInPa": {"units": "Pa"} | _PRESSURE,
    "isobaricLayer": {"units": "Pa"} | _PRESSURE,
    "heightAboveGround": {"units": "m", "standard_name": "height", "positive": "up"},
    "depthBelowLand": _DEPTH,
    "depthBelowLandLayer": _DEPTH,
    "hybrid": {
        "units": "1",
        "standard_name": "atmosphere_hybrid_sigma_pressure_coordinate",
        "long_name": "hybrid level",
    },
}

Place = tuple[int, float, int]
"""Member, level and end in time."""

Cells = dict[Place, tuple[Message, Message | None]]
"""The message of each place, and the one to take away from it."""


@dataclass(frozen=True)
class _Field:
    """Messages that differ in member, level and time only; `suffixes` tell them from others of their parameter."""

    parameter: Parameter
    surface: str
    process: str
    statistic: str
    grid: tuple[object, ...]
    messages: tuple[Message, ...] = ()
    suffixes: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Series:
    """The cells of one variable, and what was decided about it."""

    field: _Field
    cells: Cells
    length: str
    notes: tuple[str, ...]


def read_grib(path: str) -> list[xr.Dataset]:
    """Scan the messages once and group them by what varies in neither time, step, member nor level.

    Raises:
        DataError: if the file is damaged, or one field occurs twice.
        GridError: if it is on a grid that is not one of latitudes and longitudes.
    """
    found = scan(path)
    series = [part for field in _fields(found.messages) for part in _in_time(field, path)]
    return [_dataset(part, found, path) for part in series]


def _fields(messages: Iterable[Message]) -> list[_Field]:
    """Group messages into fields, told apart from others of the same parameter by suffixes."""
    groups: dict[_Field, list[Message]] = {}
    for m in messages:
        groups.setdefault(_Field(m.parameter, m.surface, m.process, m.statistic, m.grid), []).append(m)
    fields = [replace(field, messages=tuple(group)) for field, group in groups.items()]
    fields = [part for field in fields for part in _members_apart(field)]
    fields = [part for field in fields for part in _layers_apart(field)]
    return [_distinct(field, fields) for field in fields]


def _members_apart(field: _Field) -> list[_Field]:
    """Part a single forecast or analysis from an ensemble: a control (`cf`) and perturbed (`pf`) members are one."""
    members = tuple(m for m in field.messages if m.source in ("cf", "pf"))
    others = tuple(m for m in field.messages if m.source not in ("cf", "pf"))
    if not members or not others:
        return [field]
    single = replace(field, messages=others, suffixes=(others[0].source,))
    return [replace(field, messages=members), single]


def _layers_apart(field: _Field) -> list[_Field]:
    """Part layers that begin at one level and end at several."""
    bottoms: dict[Any, set[float | None]] = {}
    for m in field.messages:
        bottoms.setdefault((m.number, m.level, m.period), set()).add(m.bottom)
    parts: dict[tuple[str, ...], list[Message]] = {}
    for m in field.messages:
        is_shared = len(bottoms[m.number, m.level, m.period]) > 1
        parts.setdefault((f"to{m.bottom:g}",) if is_shared else (), []).append(m)
    return [replace(field, messages=tuple(part), suffixes=field.suffixes + suffix) for suffix, part in parts.items()]


def _distinct(field: _Field, fields: list[_Field]) -> _Field:
    """Keep what was done over time, or over an ensemble, from passing for the variable itself."""
    same = [f for f in fields if f.parameter.variable == field.parameter.variable and f.surface == field.surface]
    known = canonical_name(field.parameter.variable)
    is_hidden = known is not None and known not in OVER_TIME and not _is_of_months(field)
    is_beside = field.process != "accum" and any(other.process != field.process for other in same)
    suffixes = field.suffixes
    if field.process != "instant" and (is_hidden or is_beside):
        suffixes = (field.process, *suffixes)
    if field.statistic and (field.statistic != "em" or any(other.statistic != "em" for other in same)):
        suffixes = (field.statistic, *suffixes)
    return replace(field, suffixes=suffixes)


def _is_of_months(field: _Field) -> bool:
    """Whether values are means over months or years, which go under the plain name of a variable."""
    if field.process == "avg":
        return all(span(m.period.length) in ("month", "year") for m in field.messages)
    return field.process in _MONTHLY


def _in_time(field: _Field, path: str) -> list[_Series]:
    """Place a field's messages in time, in a series of its own for each length of the periods that they cover."""
    steps = _steps(field)
    spans = dict.fromkeys(span(period.length) for _, _, period in steps)
    name = field.parameter.short_name
    notes = []
    if any(before is not None for _, before, _ in steps):
        notes.append(f"'{name}' is summed since the start of the forecast: differences make it sums over each step")
    if len(spans) > 1:
        notes.append(f"'{name}' covers {', '.join(spans)} ({field.process}): one variable made of each")
    series = []
    for length in spans:
        part = [step for step in steps if span(step[2].length) == length]
        suffixes = (*field.suffixes, length) if len(spans) > 1 else field.suffixes
        told = replace(field, suffixes=suffixes)
        series.append(_Series(told, _cells(part, field, path), length, tuple(notes)))
    return series


def _steps(field: _Field) -> list[tuple[Message, Message | None, Period]]:
    """Return the messages that make up each period, sums since the start of a forecast as differences of two."""
    over_time = [m for m in field.messages if m.period.length]
    if not over_time:
        return [(m, None, m.period) for m in field.messages]
    if field.process != "accum":
        return [(m, None, m.period) for m in over_time]
    steps: list[tuple[Message, Message | None, Period]] = []
    columns: dict[tuple[int | None, float], dict[Period, Message]] = {}
    for m in over_time:
        columns.setdefault((m.number, m.level), {}).setdefault(m.period, m)
    for given in columns.values():
        steps += [(given[s.whole], given[s.before] if s.before else None, s.period) for s in over_steps(given)]
    return steps


def _cells(steps: list[tuple[Message, Message | None, Period]], field: _Field, path: str) -> Cells:
    """Give each member, level and valid time its message.

    Raises:
        DataError: if there are two for one.
    """
    cells: Cells = {}
    periods: dict[Place, Period] = {}
    for message, before, period in steps:
        place = (message.number or 0, message.level, period.end)
        other = periods.setdefault(place, period)
        if other != period:
            every = {step[2] for step in steps}
            hours = (period.end - period.initial) // SECONDS_PER_HOUR
            raise DataError(
                f"'{field.parameter.short_name}' in {path} holds {len({p.initial for p in every})} initial times × "
                f"{len({p.end - p.initial for p in every})} steps whose valid times overlap: "
                f"keep one step, for example with `grib_copy -w endStep={hours} IN OUT`"
            )
        if place in cells and not period.length:
            raise DataError(
                f"{path} holds '{field.parameter.short_name}' more than once for one time, level and member: keep one"
            )
        cells.setdefault(place, (message, before))
    return cells


def _dataset(series: _Series, found: Catalogue, path: str) -> xr.Dataset:
    """Return one variable along member (where there are several), time, its kind of level, and its grid."""
    field = series.field
    members, levels, times = (sorted({place[i] for place in series.cells}) for i in range(3))
    messages: list[Message] = []
    numbers = np.full((2, len(members), len(times), len(levels)), -1)
    for (member, level, time), pair in series.cells.items():
        where = members.index(member), times.index(time), levels.index(level)
        for i, message in enumerate(pair):
            if message is not None:
                numbers[(i, *where)] = len(messages)
                messages.append(message)
    grid = found.rasters[field.grid]
    array = _Messages(path, messages, numbers, grid)
    level_attrs = {"units": "1", "long_name": f"original GRIB coordinate for key: level({field.surface})"}
    coords: dict[str, Any] = {
        "number": members,
        "time": decode_time(times, "proleptic_gregorian"),
        field.surface: (field.surface, levels, _LEVELS.get(field.surface, level_attrs)),
        **grid.coordinates,
    }
    dims = ("number", "time", field.surface, *grid.dims)
    name = "_".join((field.parameter.variable, *field.suffixes))
    variable = xr.Variable(dims, indexing.LazilyIndexedArray(array), _attributes(series))
    dataset = grid.on_points(xr.Dataset({name: variable}, coords), path)
    dataset = dataset.isel(number=0, drop=True) if len(members) == 1 else dataset
    dataset = dataset.rename({field.surface: "level"}) if field.surface == "isobaricInhPa" else dataset
    diagnosis.mended(dataset, *series.notes)
    return dataset


def _attributes(series: _Series) -> dict[str, Any]:
    """Return what the messages say of a variable; a standard name would hide what sets it apart from the usual one."""
    field = series.field
    parameter = field.parameter
    attrs: dict[str, Any] = {
        "GRIB_paramId": parameter.id,
        "GRIB_shortName": parameter.short_name,
        "GRIB_typeOfLevel": field.surface,
        "GRIB_stepType": field.process,
        "long_name": ", ".join((parameter.name or parameter.short_name, *field.suffixes)),
        "units": parameter.units,
    }
    is_usual = field.process in ("instant", "accum") or _is_of_months(field)
    if parameter.cf_name and not field.suffixes and is_usual:
        attrs["standard_name"] = parameter.cf_name
    method = "mean" if field.process in _MONTHLY else _CELL_METHODS.get(field.process, field.process)
    if field.process != "instant":
        attrs["cell_methods"] = f"time: {method}"
        attrs["period"] = series.length
    return attrs


class _Messages(BackendArray):
    """The values of a variable, read message by message when asked for; a pair of messages is the first less the other.

    Args:
        path: of the file.
        messages: those that are needed.
        numbers: (2, member, time, level), positions in `messages`, −1 where there is none.
        grid: where their values lie; the numbers of spherical harmonics stay as they are.
    """

    dtype = np.dtype(np.float32)

    def __init__(self, path: str, messages: list[Message], numbers: NDArray[np.int64], grid: Layout) -> None:
        self._path, self._messages, self._numbers, self._grid = path, messages, numbers, grid
        self.shape = numbers.shape[1:] + grid.shape

    def __getitem__(self, key: indexing.ExplicitIndexer) -> NDArray[np.float32]:
        support = indexing.IndexingSupport.BASIC
        values: NDArray[np.float32] = indexing.explicit_indexing_adapter(key, self.shape, support, self._read)
        return values

    def _read(self, key: tuple[Any, ...]) -> NDArray[np.float32]:
        firsts, seconds = (np.asarray(part[key[:3]]) for part in self._numbers)
        values = np.full(firsts.shape + self.shape[3:], np.nan, dtype=np.float32)
        for index in np.ndindex(firsts.shape):
            pair = [self._messages[numbers[index]] for numbers in (firsts, seconds) if numbers[index] >= 0]
            if not pair:
                continue
            try:
                first, *second = read_values(self._path, pair)
            except DamagedError as error:
                if is_passed_over(error):
                    continue
                raise
            field = first - second[0] if second else first
            values[index] = self._grid.arrange(field)
        return values[(..., *key[3:])]
