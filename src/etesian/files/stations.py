"""Reports of stations: tables with units in their headers, or METAR's columns, flags and units."""

import csv
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

import fsspec
import numpy as np
import pandas as pd
from jaxtyping import Float, Int64
from numpy.typing import NDArray

from etesian.core.channels import CATALOGUE, Channel, Variable, canonical_name
from etesian.core.clock import Seconds, encode_time
from etesian.core.errors import ChannelError, DataError, first_line, suggest
from etesian.core.points import Points, standard_pressure
from etesian.files.units import conversion, parse_units
from etesian.files.zarrs import reason, system_of

Source: TypeAlias = str | Path | pd.DataFrame
"""A CSV or Parquet file, or what pandas makes of one."""

COUNTED = ("duplicate", "outside", "missing", "flagged", "no elevation", "unmatched", "used")
"""What becomes of a report, of one variable; each report is counted once."""

MISSING = ("", "M", "NA", "N/A", "NaN", "nan", "NULL", "null", "None", "-", "/", "//", "///", "////", "/////")
"""How tables write that there is no value."""

_PLACES = {"lat": "latitude", "lon": "longitude", "valid": "time"}

_METAR = {
    **{f"tmp{unit}": f"2m_temperature [deg{unit}]" for unit in "fc"},
    **{f"dwp{unit}": f"2m_dewpoint_temperature [deg{unit}]" for unit in "fc"},
    "sknt": "10m_wind_speed [knots]",
    "drct": "10m_wind_direction [degrees]",
    "mslp": "mean_sea_level_pressure [hPa]",
    "alti": "altimeter_setting [inHg]",
    "p01i": "total_precipitation_1hr [inch]",
    "p01m": "total_precipitation_1hr [mm]",
}
"""Columns of the exports of METAR, and what they hold."""

_SPEED, _DIRECTION, _ALTIMETER = "10m_wind_speed", "10m_wind_direction", "altimeter_setting"

_SUMMED = re.compile(r"total_precipitation_(\d+)hr")

_HEADER = re.compile(r"\s*([^\[\]]+?)\s*(?:\[([^\[\]]*)\])?\s*")

_SAME_PLACE = 0.01, 0.01, 10.0
"""Degrees of latitude and longitude, and metres, within which coordinates of one station may differ."""


@dataclass(frozen=True)
class Reports:
    """What stations report, in the catalogue's units.

    Attributes:
        source: what the table is called in messages.
        points: the stations.
        station: position of each report's station.
        time: of each report, seconds since 1970-01-01 00:00 UTC.
        calendar: that the times count in.
        values: of each channel; NaN where a report has none.
        reasons: why a report has no value of a channel: 0 it has one, or 1 + the position in `COUNTED`.
        units: of each channel.
        left_out: columns that were not read.
    """

    source: str
    points: Points
    station: Int64[np.ndarray, " report"]
    time: Int64[np.ndarray, " report"]
    calendar: str
    values: dict[Channel, Float[np.ndarray, " report"]]
    reasons: dict[Channel, NDArray[np.int8]]
    units: dict[Channel, str]
    left_out: tuple[str, ...]


@dataclass(frozen=True)
class _Column:
    """A column that holds a variable: its name in the table, the variable, and its units."""

    header: str
    name: str
    units: str


def read_points(source: Source) -> Points:
    """Read which stations a table names, and where they are; each may have many rows.

    Raises:
        DataError: if the table cannot be read, or a station has no place or several.
    """
    return _Table(source).stations()[0]


def read_reports(source: Source) -> Reports:
    """Read a table of reports, one row for each station and time.

    docs/stations.md says which columns it has, how units and flags stand in headers, and how METAR's are read.

    Raises:
        DataError: if the table cannot be read, or a column, place, time or value cannot be used.
        ChannelError: if it holds no variable.
    """
    table = _Table(source)
    points, station = table.stations()
    time, calendar = table.times()
    columns, flags, left_out = table.variables()
    if not columns:
        raise ChannelError(
            f"{table.name} has no column with a variable and its units, such as '2m_temperature [degC]'; its columns "
            f"are {', '.join(map(str, table.frame.columns))}"
        )
    read = {column.name: table.values(column, flags.get(column.name)) for column in columns}
    if (_SPEED in read) != (_DIRECTION in read):
        raise DataError(f"{table.name} has only one of wind speed and direction; give both, or leave both out")
    if _SPEED in read:
        read |= _components(read.pop(_SPEED), read.pop(_DIRECTION))
    if _ALTIMETER in read:
        setting, reason = read.pop(_ALTIMETER)
        pressure = standard_pressure(setting, np.zeros(setting.size), points.elevation[station])
        unknown = (reason == 0) & np.isnan(pressure)
        # Of a table that holds both, the pressure at the station is the one that was measured.
        read.setdefault("surface_pressure", (pressure, np.where(unknown, _because("no elevation"), reason)))
    rows = pd.DataFrame({"station": station, "time": time})
    values, reasons, units = {}, {}, {}
    for name, (numbers, reason) in read.items():
        channel = Channel.parse(name)
        # What corrects an earlier report stands behind it.
        reason[reason == 0] = np.where(rows[reason == 0].duplicated(keep="last"), _because("duplicate"), 0)
        values[channel] = np.where(reason == 0, numbers, np.nan)
        reasons[channel], units[channel] = reason.astype(np.int8), _variable(channel.name).units
    return Reports(table.name, points, station, time, calendar, values, reasons, units, tuple(left_out))


def _because(outcome: str) -> int:
    return 1 + COUNTED.index(outcome)


def _components(
    speed: tuple[NDArray[Any], NDArray[Any]], direction: tuple[NDArray[Any], NDArray[Any]]
) -> dict[str, tuple[NDArray[Any], NDArray[Any]]]:
    """Return eastward and northward wind from its speed and the direction that it comes from; calm air needs none."""
    calm = speed[0] == 0
    toward = np.radians(np.where(calm, 0.0, direction[0])) + np.pi
    reason = np.where(speed[1] > 0, speed[1], np.where(calm, 0, direction[1]))
    parts = speed[0] * np.sin(toward), speed[0] * np.cos(toward)
    return {f"10m_{axis}_component_of_wind": (part, reason) for axis, part in zip("uv", parts, strict=True)}


_FURTHER = {
    _SPEED: Variable(_SPEED, "wind_speed", "m s-1", (), 0, 150),
    _DIRECTION: Variable(_DIRECTION, "wind_from_direction", "degrees", (), 0, 360),
    _ALTIMETER: Variable(_ALTIMETER, "", "Pa", (), 80000, 110000),
}
"""What stations report and fields do not hold."""


def _is_known(name: str) -> bool:
    bare = Channel.parse(name).name
    return bare in CATALOGUE or bare in _FURTHER or _SUMMED.fullmatch(bare) is not None


def _variable(name: str) -> Variable:
    """Return what is known of a variable; precipitation may be summed over any number of hours."""
    bare = Channel.parse(name).name
    if bare not in CATALOGUE and (summed := _SUMMED.fullmatch(bare)):
        return replace(CATALOGUE["total_precipitation_6hr"], name=bare, accumulation_hours=int(summed[1]))
    return CATALOGUE[bare] if bare in CATALOGUE else _FURTHER[bare]


class _Table:
    """A table whose columns of places and times have one name each.

    Raises:
        DataError: if it cannot be read, is empty, or lacks a column that every table needs.
    """

    def __init__(self, source: Source) -> None:
        self.name = "the table of stations" if isinstance(source, pd.DataFrame) else str(source)
        frame = source if isinstance(source, pd.DataFrame) else _read(str(source))
        renamed = {column: _PLACES.get(str(column).strip(), str(column).strip()) for column in frame.columns}
        self.frame = frame.rename(columns=renamed).reset_index(drop=True)
        if repeated := [name for name in self.frame.columns if (self.frame.columns == name).sum() > 1]:
            raise DataError(f"{self.name} has two columns '{repeated[0]}'; remove or rename one")
        self.elevation = next((c for c in self.frame.columns if re.fullmatch(r"elevation(\s*\[.*\])?", c)), None)
        for needed in ("station", "latitude", "longitude"):
            if needed not in self.frame.columns:
                raise DataError(
                    f"{self.name} has no column '{needed}'{suggest(needed, self.frame.columns)}; stations need "
                    "station, latitude and longitude, or METAR's station, lat and lon"
                )
        if self.frame.empty:
            raise DataError(f"{self.name} has no rows, so there is no station in it")

    def stations(self) -> tuple[Points, NDArray[np.int64]]:
        """Return the stations in the order of their names, and which of them each row is of.

        Raises:
            DataError: if one has no name or no place, or its places differ.
        """
        text = self.frame["station"].astype("string").str.strip().fillna("")
        if (text == "").any():
            raise DataError(f"{self.name} names no station in row {int((text == '').to_numpy().argmax()) + 1}")
        names, index = np.unique(text.to_numpy(dtype=str), return_inverse=True)
        places = []
        wanted = ("latitude", "longitude", self.elevation)
        for column, tolerance in zip(wanted, _SAME_PLACE, strict=True):
            if column is None:
                places.append(np.full(names.size, np.nan))
                continue
            numbers = self._numbers(column)
            if column == self.elevation:
                numbers = numbers * self._metres(column)
            each = pd.Series(numbers).groupby(index)
            place = each.median().to_numpy()
            apart = (each.max() - each.min()).to_numpy()
            if (apart > tolerance).any():
                moved = names[np.nanargmax(apart)]
                raise DataError(
                    f"{self.name}: station '{moved}' has several {column}s, {np.nanmax(apart):g} apart; give a station "
                    "that moved another name"
                )
            places.append(place)
        for column, place, (least, most) in zip(wanted, places, ((-90, 90), (-180, 360)), strict=False):
            wrong = ~((place >= least) & (place <= most))
            if wrong.any():
                raise DataError(
                    f"{self.name}: station '{names[wrong.argmax()]}' has the {column} {place[wrong.argmax()]:g}, and "
                    f"it must be within {least}…{most} degrees; correct it, or leave the station out"
                )
        latitude, longitude, elevation = places
        return Points(tuple(names.tolist()), latitude, longitude, elevation), index.astype(np.int64)

    def times(self) -> tuple[Seconds, str]:
        """Return the times of all rows, in seconds UTC, and their calendar.

        Raises:
            DataError: if one is no date that can only mean one thing.
        """
        if "time" not in self.frame.columns:
            raise DataError(f"{self.name} has no column 'time' (METAR: valid), so its reports cannot be compared")
        column = self.frame["time"]
        if column.dtype == object and hasattr(column.iloc[0], "calendar"):
            return encode_time(column.to_numpy())
        if column.dtype.kind != "M":
            text = column.astype("string").str.strip()
            # Digits alone may be a date or a count of seconds.
            column = text.mask(text.str.fullmatch(r"[\d.]*"))
        parsed = pd.to_datetime(column, utc=True, format="ISO8601", errors="coerce")
        if (wrong := parsed.isna().to_numpy()).any():
            row = int(wrong.argmax())
            raise DataError(
                f"{self.name}: the time '{self.frame['time'].iloc[row]}' in row {row + 1} is no date; write it as "
                "2024-01-31 18:53 (UTC) or 2024-01-31T20:53+02:00"
            )
        return encode_time(parsed.dt.tz_localize(None).to_numpy())

    def variables(self) -> tuple[list[_Column], dict[str, tuple[str, tuple[str, ...]]], list[str]]:
        """Return the columns of variables, the flags by variable with what passes, and the columns that are no such.

        Raises:
            DataError: if a column of a variable has no units or those of something else, or flags have no column.
        """
        found: list[_Column] = []
        flags: dict[str, tuple[str, tuple[str, ...]]] = {}
        left_out: list[str] = []
        marked: list[tuple[str, str, str | None]] = []
        by_column: dict[str, str] = {}
        for header in map(str, self.frame.columns):
            if header in ("station", "latitude", "longitude", "time", self.elevation):
                continue
            bare, units = _split(_METAR.get(header, header))
            if flag := re.fullmatch(r"(.+)_(?:flag|qc)", bare):
                marked.append((header, flag[1], units))
                continue
            name = bare if _is_known(bare) else canonical_name(bare) or ""
            if not name:
                left_out.append(header)
                continue
            if units is None:
                raise DataError(
                    f"{self.name}: the column '{header}' says no units; write them into its header, such as "
                    f"'{header} [{_variable(name).units}]'"
                )
            if (other := next((each for each in found if each.name == name), None)) is not None:
                raise DataError(f"{self.name}: '{other.header}' and '{header}' both hold {name}; leave one of them out")
            found.append(_Column(header, name, units))
            by_column |= {_split(header)[0]: name, name: name}
        for header, column, passing in marked:
            if column in left_out:
                left_out.append(header)
                continue
            if column not in by_column:
                raise DataError(f"{self.name}: '{header}' flags no column{suggest(column, by_column)}; rename it")
            flags[by_column[column]] = header, tuple((passing or "0").replace(",", " ").split())
        return found, flags, left_out

    def values(
        self, column: _Column, flag: tuple[str, tuple[str, ...]] | None
    ) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """Return the values of a column in the catalogue's units, and why a row has none; 0 where it has one.

        Raises:
            DataError: if the units are those of something else.
        """
        variable = _variable(column.name)
        changed = (1.0, 0.0) if column.name == _DIRECTION else conversion(column.units, variable)
        if column.name == _DIRECTION and not re.fullmatch(r"deg(ree)?s?|°", column.units.strip()):
            changed = None
        if changed is None:
            raise DataError(
                f"{self.name}: the units of '{column.header}', '{column.units}', are none of {column.name}, which is "
                f"in {variable.units}; correct the header"
            )
        rain = column.name.startswith("total_precipitation")
        numbers = self._numbers(column.header, nought=("T",) if rain else (), none=("VRB",)) * changed[0] + changed[1]
        reason = np.where(np.isnan(numbers), _because("missing"), 0)
        incredible = (numbers < variable.minimum) | (numbers > variable.maximum)
        if flag is not None:
            header, passing = flag
            said = self.frame[header]
            # Of numbers with gaps pandas makes 1.0 what was 1.
            text = said.map("{:g}".format, na_action="ignore") if said.dtype.kind == "f" else said.astype("string")
            incredible |= ~text.fillna("").str.strip().isin(["", *passing]).to_numpy(dtype=bool)
        return numbers, np.where((reason == 0) & incredible, _because("flagged"), reason)

    def _numbers(self, header: str, nought: Sequence[str] = (), none: Sequence[str] = ()) -> NDArray[np.float64]:
        """Return a column as numbers, NaN where it says that there is none.

        Raises:
            DataError: naming the first value that is no number.
        """
        column = self.frame[header]
        if column.dtype.kind in "iuf":
            numbers = column.to_numpy(dtype=np.float64, na_value=np.nan)
        else:
            text = column.astype("string").str.strip().fillna("")
            absent = text.isin([*MISSING, *none])
            given = text.mask(text.isin(list(nought)), "0").mask(absent)
            numbers = pd.to_numeric(given, errors="coerce").to_numpy(dtype=np.float64, na_value=np.nan)
            if (wrong := np.isnan(numbers) & ~absent.to_numpy(dtype=bool)).any():
                row = int(wrong.argmax())
                raise DataError(
                    f"{self.name}: '{header}' holds '{text.iloc[row]}' in row {row + 1}, which is no number; write a "
                    "number, or M where there is none"
                )
        return np.where(np.isfinite(numbers), numbers, np.nan)

    def _metres(self, header: str) -> float:
        units = _split(header)[1] or "m"
        unit = parse_units(units)
        if unit is None or unit.dimension != (1, 0, 0, 0, 0):
            raise DataError(f"{self.name}: '{header}' is in '{units}', which is no length; write 'elevation [m]'")
        return unit.scale


def _split(header: str) -> tuple[str, str | None]:
    """Return the name and the units of a header such as `2m_temperature [degC]`."""
    match = _HEADER.fullmatch(header)
    return (match[1], match[2]) if match else (header, None)


def _read(path: str) -> pd.DataFrame:
    """Read a file; of CSV the lines before the header that begin with # are left out.

    Raises:
        DataError: if there is none, or it is no table.
    """
    if "://" in path:
        system_of(path)
    elif not Path(path).exists():
        raise DataError(f"there is no table of stations at {path}")
    if path.endswith((".parquet", ".pq")):
        try:
            return pd.read_parquet(path)
        except ImportError:
            raise DataError(f"{path}: reading Parquet needs `pip install etesian[parquet]`; or give a CSV") from None
        except (OSError, ValueError) as error:
            raise DataError(f"{path} cannot be read as Parquet ({first_line(error)})") from error
    try:
        with fsspec.open(path, "rt", compression="infer", encoding="utf-8-sig", newline="") as file:
            while (line := file.readline()).startswith("#"):
                pass
            names = [name.strip() for name in next(csv.reader([line]), [])]
            # A station may be called NA, and a flag M.
            as_text = {name: str for name in names if name == "station" or re.search(r"_(flag|qc)\b", name)}
            missing = {name: MISSING for name in names if name not in as_text}
            return pd.read_csv(
                file, header=None, names=names, index_col=False, dtype=as_text, na_values=missing,
                keep_default_na=False, low_memory=False,
            )  # fmt: skip
    except (OSError, ValueError) as error:
        raise DataError(
            f"{path} cannot be read as a table of comma-separated values ({first_line(reason(error))})"
        ) from error
