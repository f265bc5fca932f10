"""Forecasts, filled and fine fields, as they are written into other formats: piece by piece."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from etesian.core.channels import ACCUMULATION_HOURS, AVERAGING_HOURS, CATALOGUE
from etesian.core.clock import encode_time
from etesian.core.constants import SECONDS_PER_HOUR
from etesian.core.dataset import LEAD, MEMBER
from etesian.core.errors import ChannelError, DataError, GridError, suggest
from etesian.core.grid import Grid
from etesian.core.outputs import keep_apart, unfinished
from etesian.exporting.parameters import MAXIMUM, MINIMUM, PARAMETERS
from etesian.files.open import open_store
from etesian.scores.series import find_lead, open_any, open_forecast
from etesian.store.format import to_dataset
from etesian.store.reader import is_training_store

PIECE_BYTES = 64 * 2**20
"""Of values that are held at once, where one map is not more."""

LEADING = ("time", MEMBER, LEAD)

_EXTREMES: dict[int | None, str] = {MAXIMUM: "maximum", MINIMUM: "minimum"}

_DIMENSIONS = (*LEADING, "level", "latitude", "longitude")


@dataclass(frozen=True)
class Piece:
    """Some leads of one variable, from one initial time and of one member.

    Attributes:
        name: of the variable.
        place: positions of initial time, member and first lead, 0 along dimensions that the variable does not have.
        values: (lead, level, latitude, longitude), NaN where missing.
    """

    name: str
    place: tuple[int, int, int]
    values: NDArray[Any]


class ExportedFields:
    """Fields over initial times (or times), members, leads, levels, latitudes and longitudes, whatever there is of it.

    Args:
        source: forecasts in WeatherBench 2's layout, filled or fine fields, anything that `etesian.open` reads, or a
            canonical dataset.
        variables: to keep; all by default.

    Attributes:
        dataset: canonical, its latitudes ascending.
        name: what it is called in messages.
        seconds: initial times, since 1970-01-01 in `calendar`; empty where nothing changes in time.

    Raises:
        DataError: if the source cannot be read, or has dimensions that mean nothing here.
        ChannelError: if a variable is not there.
        GridError: if there is no grid of latitudes and longitudes.
    """

    def __init__(self, source: str | Path | xr.Dataset, variables: Sequence[str] | None = None) -> None:
        self.name = "the dataset" if isinstance(source, xr.Dataset) else str(source)
        self.dataset = _opened(source, self.name)
        if variables is not None:
            if lacking := [name for name in variables if name not in self.dataset]:
                raise ChannelError(
                    f"{self.name} has no variable '{lacking[0]}'{suggest(lacking[0], map(str, self.dataset.data_vars))}"
                )
            self.dataset = self.dataset[list(variables)]
        for name, array in self.dataset.data_vars.items():
            if lacking := [dim for dim in ("latitude", "longitude") if dim not in array.dims]:
                raise GridError(f"'{name}' in {self.name} has no dimension '{lacking[0]}': leave it out")
            if others := [dim for dim in array.dims if dim not in _DIMENSIONS]:
                raise DataError(f"'{name}' in {self.name} has the dimension '{others[0]}': select one of its values")
        self.seconds, self.calendar = np.zeros(0, dtype=np.int64), "proleptic_gregorian"
        if "time" in self.dataset.coords:
            self.seconds, self.calendar = encode_time(np.atleast_1d(self.dataset["time"].values))
        if (np.diff(self.seconds) <= 0).any():
            raise DataError(f"{self.name}: time is not strictly ascending; sort it and remove duplicates")

    @cached_property
    def grid(self) -> Grid:
        """Where the values lie."""
        return Grid(self.dataset.latitude.values, self.dataset.longitude.values)

    @cached_property
    def lead_seconds(self) -> NDArray[np.int64] | None:
        """Seconds of the leads; None for fields at the times themselves."""
        if LEAD not in self.dataset.coords:
            return None
        return np.atleast_1d(self.dataset[LEAD].values).astype("timedelta64[s]").astype(np.int64)

    @cached_property
    def members(self) -> list[int] | None:
        """Numbers of the members; None where there are none."""
        return [int(n) for n in self.dataset[MEMBER].values] if MEMBER in self.dataset.dims else None

    def levels(self, name: str) -> list[int | None]:
        """Return the levels of a variable in hPa as they lie in the file; `[None]` where it has none."""
        array = self.dataset[name]
        return [int(level) for level in array.level.values] if "level" in array.dims else [None]

    def pieces(self) -> Iterator[Piece]:
        """Yield everything there is, initial time after initial time, holding no more than a piece."""
        for t in range(max(1, self.seconds.size)):
            for m in range(len(self.members or [0])):
                for name, array in self.dataset.data_vars.items():
                    first = t == 0 or "time" in array.dims
                    if first and (m == 0 or MEMBER in array.dims):
                        yield from self._of(str(name), array, t, m)

    def _of(self, name: str, array: xr.DataArray, t: int, m: int) -> Iterator[Piece]:
        own = array.isel({dim: i for dim, i in (("time", t), (MEMBER, m)) if dim in array.dims})
        for dim in ("level", LEAD):
            own = own if dim in own.dims else own.expand_dims(dim)
        own = own.transpose(LEAD, "level", "latitude", "longitude")
        if own.chunks is not None and len(own.chunksizes[LEAD]) == 1:
            # All leads would be read for each piece of them.
            own = own.compute()
        together = max(1, PIECE_BYTES // max(1, own[0].nbytes))
        for start in range(0, own.sizes[LEAD], together):
            yield Piece(name, (t, m, start), np.asarray(own[start : start + together].values))


def hours_covered(array: xr.DataArray) -> tuple[str, int] | None:
    """Return what is done over how many hours up to a time, None for an instant and where the length is not told."""
    if hours := array.attrs.get(AVERAGING_HOURS):
        return "mean", int(hours)
    known = CATALOGUE.get(str(array.name))
    hours = array.attrs.get(ACCUMULATION_HOURS) or (known and known.accumulation_hours)
    return (_EXTREMES.get(process_of(array), "sum"), int(hours)) if hours else None


def process_of(array: xr.DataArray) -> int | None:
    """Return what is done over time (code table 4.10) by variables that are never an instant."""
    parameter = PARAMETERS.get(str(array.name))
    return parameter.process if parameter else None


def whole_hours(seconds: int, what: str) -> int:
    """Return seconds in hours.

    Raises:
        DataError: if they are no whole number of hours.
    """
    if seconds % SECONDS_PER_HOUR:
        raise DataError(f"{what} has a lead of {seconds} s, which is no whole number of hours: select others")
    return seconds // SECONDS_PER_HOUR


@contextmanager
def file_in_the_making(out: str | Path, inputs: Sequence[str | Path], *, overwrite: bool) -> Iterator[Path]:
    """Give a file to write, which gets its name when all is written, or vanishes.

    Raises:
        DataError: if something is there that is not to be overwritten, or the place is one of the inputs.
    """
    place = keep_apart(out, inputs)
    if "://" in str(out):
        raise DataError(f"{out} is an address, and files are written to this machine's disks: give a path")
    if place.exists() and not (overwrite and place.is_file()):
        remedy = "use --overwrite to replace it" if place.is_file() else "it is no file; choose another place"
        raise DataError(f"{place} exists; {remedy}")
    place.parent.mkdir(parents=True, exist_ok=True)
    # A name that follows from the file's, so that what a killed process has left behind is written over.
    partial = unfinished(place)
    if partial.is_dir():
        raise DataError(f"{partial} is needed for the work on {out} and is a folder: move it elsewhere")
    try:
        yield partial
        partial.replace(place)
    finally:
        with suppress(FileNotFoundError):
            partial.unlink()


def _opened(source: str | Path | xr.Dataset, name: str) -> xr.Dataset:
    raw = source if isinstance(source, xr.Dataset) else open_any(str(source))
    if "station" in raw.dims:
        raise DataError(f"{name} is at stations, and maps are exported: forecast without `at`")
    if set(raw.dims) <= {*_DIMENSIONS, "member"} and (isinstance(source, xr.Dataset) or "plan" in raw.attrs):
        # This library's own: as they lie on disk, nothing is read beyond what is asked for.
        dataset = raw
    elif find_lead(raw) is not None:
        # As `evaluate` reads them, so that others' forecasts get their names and units too.
        dataset = open_forecast(name, raw).dataset.assign_attrs(raw.attrs)
    elif not isinstance(source, xr.Dataset) and is_training_store(source):
        dataset = to_dataset(source, by_file=False)
    elif isinstance(source, xr.Dataset):
        dataset = raw
    else:
        dataset = open_store(source)
    dataset = dataset.rename(member=MEMBER) if "member" in dataset.dims else dataset
    for axis in ("latitude", "longitude"):
        if axis not in dataset.coords:
            raise GridError(f"{name} has no coordinate '{axis}'; open it with etesian.open, which names it so")
    return dataset.sortby("latitude")
