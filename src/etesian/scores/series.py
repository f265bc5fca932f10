"""Forecasts, truth and climatology as arrays of channels, read part by part, also as others write them."""

import warnings
from collections.abc import Hashable, Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from etesian.core.channels import ACCUMULATION_HOURS, AVERAGING_HOURS, CATALOGUE, Channel, parse_channels
from etesian.core.clock import Seconds, count_alike, encode_time
from etesian.core.constants import SECONDS_PER_HOUR
from etesian.core.dataset import LEAD, MEMBER
from etesian.core.errors import ChannelError, DataError, GridError
from etesian.core.grid import Grid
from etesian.files.axes import MEMBERS
from etesian.files.canonical import canonicalise
from etesian.files.cells import refuse_cells
from etesian.files.checks import physical_range
from etesian.files.open import open_store
from etesian.files.units import parse_units
from etesian.store.format import to_dataset
from etesian.store.reader import is_training_store

Array = NDArray[Any]

_LEADS = (LEAD, "lead_time", "step", "lead", "leadtime", "forecast_period", "forecast_hour", "timedelta")

_INITIALS = (
    "init_time", "forecast_reference_time", "initial_time", "initialization_time", "init", "reference_time", "time",
)  # fmt: skip

_KEPT = ("levels", AVERAGING_HOURS, ACCUMULATION_HOURS)
"""Attributes of this library's own forecasts that no other file has."""


class FieldSeries:
    """Fields by time, or by initial time and lead, on one grid; every variable, level by level, is a channel.

    Attributes:
        name: what it is called in messages.
        dataset: latitudes ascending.
        dims: the dimensions before level, latitude and longitude.
        channels: every variable that has exactly those dimensions, level by level.
        grid: of all variables.

    Raises:
        DataError: if no variable has these dimensions.
        GridError: if coordinates are missing or cannot be used.
    """

    def __init__(self, name: str, dataset: xr.Dataset, dims: tuple[str, ...]) -> None:
        for dim in ("latitude", "longitude"):
            if dim not in dataset.dims or dim not in dataset.coords:
                raise GridError(f"{name} has no coordinate '{dim}'; its dimensions are {_listed(dataset.sizes)}")
        self.name, self.dims = name, dims
        self.dataset = dataset.sortby("latitude")
        self.grid = Grid(self.dataset.latitude.values, self.dataset.longitude.values)
        self.channels = tuple(self._channels())
        if not self.channels:
            raise DataError(
                f"{name} has no variable over {_listed((*dims, 'latitude', 'longitude'))}; its dimensions are "
                f"{_listed(dataset.sizes)}"
            )

    def _channels(self) -> list[Channel]:
        channels: list[Channel] = []
        dataset_levels = self.dataset.level.values if "level" in self.dataset.coords else []
        for variable, array in self.dataset.data_vars.items():
            extra = set(array.dims) - {*self.dims, "latitude", "longitude"}
            if not {*self.dims, "latitude", "longitude"} <= set(array.dims):
                continue
            if others := extra - {"level"}:
                raise DataError(
                    f"{self.name}: '{variable}' also has the dimension {_listed(others)}; "
                    "select one of its values or take its mean"
                )
            known = np.atleast_1d(array.attrs.get("levels", dataset_levels)) if extra else [None]
            levels = [None if level is None else int(level) for level in known]
            channels += [Channel(str(variable), level) for level in levels]
        return channels

    @cached_property
    def times(self) -> tuple[Seconds, str]:
        """Return the values of `time` as seconds since 1970-01-01, and their calendar.

        Raises:
            DataError: if they are not strictly ascending.
        """
        seconds, calendar = encode_time(self.dataset["time"].values)
        if (np.diff(seconds) <= 0).any():
            raise DataError(f"{self.name}: time is not strictly ascending; sort it and remove duplicates")
        return seconds, calendar

    @cached_property
    def leads(self) -> NDArray[np.int64]:
        """Return the lead times of forecasts in hours.

        Raises:
            DataError: if one is not a whole number of hours.
        """
        seconds = self.dataset[LEAD].values.astype("timedelta64[s]").astype(np.int64)
        if (seconds % SECONDS_PER_HOUR).any():
            raise DataError(f"{self.name}: {LEAD} must be whole hours")
        return np.asarray(seconds // SECONDS_PER_HOUR)

    @property
    def members(self) -> int:
        """How many members forecasts have; 1 where there is no dimension for them."""
        return int(self.dataset.sizes.get(MEMBER, 1))

    def read(self, channels: Sequence[Channel], **index: Any) -> Array:
        """Read some channels at some positions of the leading dimensions, as (…, channel, latitude, longitude)."""
        variables = list(dict.fromkeys(channel.name for channel in channels))
        part = self.dataset[variables].isel(index).load()
        leading = [dim for dim in self.dims if dim in part.dims]
        arrays: dict[str, Array] = {}
        for variable in variables:
            order = [*leading, *(["level"] if "level" in part[variable].dims else []), "latitude", "longitude"]
            arrays[variable] = np.asarray(part[variable].transpose(*order).values)
        level = {int(value): i for i, value in enumerate(part.level.values)} if "level" in part.coords else {}
        layers = [
            arrays[name] if depth is None else np.take(arrays[name], level[depth], axis=len(leading))
            for name, depth in channels
        ]
        stacked = np.stack(layers, axis=len(leading))
        return stacked if np.issubdtype(stacked.dtype, np.floating) else stacked.astype(np.float64)

    def units(self, channel: Channel) -> str:
        """Return the units of a channel: what the file says, else the catalogue's."""
        own, known = self.own(channel), CATALOGUE.get(channel.name)
        return str(self.dataset[own.name].attrs.get("units") or (known.units if known else ""))

    def check_assumed_units(self, channel: Channel) -> None:
        """See once that a field whose units nobody tells can be in those of the catalogue, by its first map.

        Raises:
            DataError: if its mean cannot.
        """
        own, known = self.own(channel), CATALOGUE.get(channel.name)
        if known is None or channel in self._credible or self.dataset[own.name].attrs.get("units"):
            return
        field = self.read([own], **{dim: [0] for dim in self.dims})
        mean = float(field[np.isfinite(field)].mean()) if np.isfinite(field).any() else np.nan
        least, most = physical_range(channel)
        if mean < least or mean > most:
            raise DataError(
                f"{self.name}: '{channel.name}' has no units, and a mean of {mean:.4g} is none in {known.units}: "
                "convert it, or set its units"
            )
        self._credible.add(channel)

    @cached_property
    def _credible(self) -> set[Channel]:
        return set()

    def own(self, channel: Channel) -> Channel:
        """Return a channel as it is here: on a level, or a variable that is called like one, as in filled fields."""
        return next(own for own in self.channels if str(own) == str(channel))


class StoreSeries(FieldSeries):
    """A training store as truth, of which all channels of a time are read at once, as they lie on disk."""

    def __init__(self, path: str | Path) -> None:
        super().__init__("the truth", to_dataset(path), ("time",))
        store = open_as("the truth", str(path))
        self.has_climatology = "climatology" in store
        self._stacked = store["fields"]
        self.channels = tuple(Channel.parse(str(text)) for text in self._stacked["channel"].values)
        self._position = {channel: i for i, channel in enumerate(self.channels)}

    def read(self, channels: Sequence[Channel], **index: Any) -> Array:
        """Read some channels at some times."""
        maps = np.asarray(self._stacked.isel(index).values)
        return np.take(maps, [self._position[channel] for channel in channels], axis=-3)


class MeanSeries(FieldSeries):
    """Means over so many hours up to each time, that time included, where at least half of the states are there.

    Its times are those at which every state of the window is in the series.

    Attributes:
        window: seconds of the states of a mean relative to its time.

    Raises:
        DataError: if the hours are no whole number of steps of the series, or it is too short.
    """

    def __init__(self, series: FieldSeries, hours: int) -> None:
        self.series, self.name, self.dims = series, series.name, series.dims
        self.dataset, self.channels, self.grid = series.dataset, series.channels, series.grid
        seconds, calendar = series.times
        gap = f"{series.name} covers no {hours} h without a gap, over which the forecasts are averaged"
        if seconds.size < 2:
            raise DataError(gap)
        step = int(np.diff(seconds).min())
        if hours * SECONDS_PER_HOUR % step:
            raise DataError(f"means over {hours} h are no whole number of steps of {series.name}, {step / 3600:g} h")
        window = np.arange(step - hours * SECONDS_PER_HOUR, 1, step)
        known = np.isin(seconds[:, None] + window, seconds).all(1)
        if not known.any():
            raise DataError(gap)
        self.window, self.times = window, (seconds[known], calendar)

    def read(self, channels: Sequence[Channel], **index: Any) -> Array:
        """Read the means of some channels at some times."""
        means = []
        for end in self.times[0][np.atleast_1d(index["time"])]:
            states = self.series.read(channels, time=np.searchsorted(self.series.times[0], end + self.window))
            valid = np.isfinite(states)
            count = valid.sum(0)
            total = np.where(valid, states, 0).sum(0, dtype=np.float64)
            means.append(np.where(2 * count >= len(self.window), total / np.maximum(count, 1), np.nan))
        return np.array(means, np.float32).reshape(len(means), len(channels), *self.grid.shape)


def averaging_hours(forecasts: Mapping[str, FieldSeries]) -> int | None:
    """Return over how many hours up to the lead all forecasts are averaged; None for states at the lead.

    Raises:
        DataError: if they differ in it.
    """
    found = {
        (series.name, array.attrs.get(AVERAGING_HOURS))
        for series in forecasts.values()
        for array in series.dataset[[channel.name for channel in series.channels]].values()
    }
    kinds = {hours: name for name, hours in sorted(found, key=str)}
    if len(kinds) > 1:
        said = [f"{name} holds {f'means over {hours} h' if hours else 'states'}" for hours, name in kinds.items()]
        raise DataError(f"{', '.join(said)}; compare only forecasts with the same attribute `{AVERAGING_HOURS}`")
    (hours,) = kinds
    return None if hours is None else int(hours)


def open_forecast(name: str, data: str | Path | xr.Dataset) -> FieldSeries:
    """Open forecasts in WeatherBench 2's layout or one that is close to it; see `canonical_forecast`.

    Raises:
        DataError: if the path cannot be opened or holds something else.
        GridError: if its grid cannot be read.
    """
    label = f"forecast '{name}'"
    dataset = data if isinstance(data, xr.Dataset) else open_as(label, str(data))
    if "station" in dataset.dims:
        raise DataError(f"{label} is at stations; scores are made of maps: forecast those, and evaluate with stations")
    canonical = canonical_forecast(dataset, label)
    members = (MEMBER,) if MEMBER in canonical.dims else ()
    return FieldSeries(label, canonical, (*members, "time", LEAD))


def open_truth(data: str | Path | xr.Dataset) -> FieldSeries:
    """Open what forecasts are compared with: a training store, or anything that `open_store` reads."""
    if isinstance(data, xr.Dataset):
        return FieldSeries("the truth", data, ("time",))
    if is_training_store(data):
        return StoreSeries(data)
    return FieldSeries("the truth", open_store(str(data)), ("time",))


def check_match(forecast: FieldSeries, truth: FieldSeries, channels: Sequence[Channel]) -> None:
    """Make sure that forecasts and truth lie on one grid, in one calendar and in the same units.

    Raises:
        GridError: if the grids differ.
        DataError: if calendars or units differ.
    """
    if forecast.grid != truth.grid:
        raise GridError(
            f"{forecast.name} is on the grid {forecast.grid}, the truth on {truth.grid}; "
            "bring the truth to the forecasts' grid with `etesian prepare`"
        )
    if not count_alike(*forecast.times, *truth.times):
        raise DataError(f"{forecast.name} has the calendar {forecast.times[1]}, the truth {truth.times[1]}")
    for channel in channels:
        ours, theirs = forecast.units(channel), truth.units(channel)
        if ours != theirs and (parse_units(ours) is None or parse_units(ours) != parse_units(theirs)):
            given, wanted = (f"is in {units}" if units else "has no units" for units in (ours, theirs))
            raise DataError(
                f"{forecast.name}: '{channel.name}' {given}, and in the truth it {wanted}; convert it, or set its units"
            )
        for series in (forecast, truth):
            series.check_assumed_units(channel)


def common_channels(
    forecasts: Mapping[str, FieldSeries], truth: FieldSeries, names: Sequence[str] | None
) -> tuple[Channel, ...]:
    """Return the channels that every forecast and the truth hold, in the first forecast's order, or those named.

    Raises:
        ChannelError: if there are none, or a name is not among them.
    """
    everywhere = [
        channel
        for channel in next(iter(forecasts.values())).channels
        if all(channel in series.channels for series in (*forecasts.values(), truth))
    ]
    if not everywhere:
        raise ChannelError(
            "forecasts and truth have no channel in common: the truth holds "
            f"{_listed(truth.channels)}, the forecasts {_listed(next(iter(forecasts.values())).channels)}"
        )
    return tuple(everywhere) if names is None else parse_channels(names, everywhere)


def open_any(path: str) -> xr.Dataset:
    """Open a path to see what it is: scores, forecasts, or something that only `open_store` can read (left empty)."""
    if not path.endswith(".nc") and not (Path(path) / "zarr.json").exists() and not (Path(path) / ".zgroup").exists():
        return xr.Dataset()
    return open_as("the data", path)


def open_as(name: str, path: str) -> xr.Dataset:
    """Open Zarr or NetCDF, under a name for messages.

    Raises:
        DataError: if it is neither, or not there.
    """
    is_file = path.endswith((".nc", ".nc4", ".h5"))
    if "://" not in path and not Path(path).exists():
        raise DataError(f"{name}: there is no '{path}'")
    try:
        with warnings.catch_warnings():
            # Dates before 1582 and in other calendars come as cftime dates, which are as good.
            warnings.filterwarnings("ignore", "Unable to decode time axis", xr.SerializationWarning)
            return xr.open_dataset(
                path,
                engine=None if is_file else "zarr",
                chunks=None,
                decode_times=xr.coders.CFDatetimeCoder(time_unit="s"),
                decode_timedelta=True,
            )
    except (OSError, ValueError, KeyError) as error:
        reason = str(error).splitlines()[0]
        raise DataError(f"{name}: '{path}' is neither Zarr nor NetCDF that can be read ({reason})") from error


def find_lead(dataset: xr.Dataset) -> str | None:
    """Return the coordinate that holds lead times, a dimension or one number; None if there is none."""
    return _find(dataset, "forecast_period", _LEADS)


def canonical_forecast(dataset: xr.Dataset, label: str) -> xr.Dataset:
    """Return forecasts over `time` (initial), `prediction_timedelta` and canonical levels, latitudes and longitudes.

    Where there are several members, `number` is the first dimension.

    Initial times and leads are found by standard name or name, also where there is only one of them. Everything else is
    read as from any file, by `canonicalise`.

    Raises:
        DataError: if there are no initial times or leads, they mean nothing, or variables have further dimensions.
        GridError: if the grid cannot be read.
    """
    members = [name for name in dataset.dims if str(name).lower() in (*MEMBERS, "sample")]
    for name in members:
        if (count := dataset.sizes[name]) > 1:
            # The canonical form, which knows no leads, has no place for another dimension.
            apart = dataset.map(partial(_in_pieces, first=name), keep_attrs=True)
            each = [canonical_forecast(apart.isel({name: number}, drop=True), label) for number in range(count)]
            together = xr.concat(each, MEMBER, data_vars="all", coords="minimal", compat="override", join="override")
            numbers = dataset[name].values if name in dataset.coords else np.arange(count)
            return together.assign_coords({MEMBER: numbers if numbers.dtype.kind in "iu" else np.arange(count)})
    dataset = dataset.squeeze(members, drop=True)
    lead, initial = find_lead(dataset), _find(dataset, "forecast_reference_time", _INITIALS)
    is_plain = set(dataset.dims) <= {"time", "level", "latitude", "longitude"}
    is_filled = any(str(name).endswith("_flag") for name in dataset.data_vars)
    is_dated = initial == "time" and dataset["time"].attrs.get("standard_name") == "time"
    if lead is None and is_dated and is_plain and not is_filled:
        # Fine fields, which are valid at the times of the coarse ones.
        dataset, lead = dataset.expand_dims({LEAD: np.array([0], "timedelta64[ns]")}), LEAD
    if lead is None or initial is None or lead == initial:
        raise DataError(
            f"{label} is not in WeatherBench 2's layout: it needs the dimensions time (initial) and {LEAD}, and has "
            f"{_listed(dataset.sizes)}; filled gaps are evaluated with --observed, the store that has them"
        )
    for name in (lead, initial):
        if dataset[name].ndim == 0:
            dataset = dataset.expand_dims(name)
    leads = _durations(dataset[lead], label)
    # Times of validity follow from both; what else has no place of its own would be taken for a dimension or a date.
    dataset = dataset.drop_vars(
        [lead]
        + [
            name
            for name, c in dataset.coords.items()
            if name not in (lead, initial) and ({lead, initial} & set(c.dims) or c.dtype.kind in "Mm")
        ]
    )
    # The canonical form knows no leads; members are what it has of that kind.
    dataset = dataset.rename({lead: "member"} | ({} if initial == "time" else {initial: "time"}))
    dataset["time"].attrs["standard_name"] = "time"
    own = {str(name): {key: array.attrs[key] for key in _KEPT if key in array.attrs} for name, array in dataset.items()}
    canonical, _ = canonicalise(dataset, label)
    refuse_cells(canonical, label)
    for field in canonical.data_vars.values():
        field.attrs |= own.get(str(field.attrs.get("source_name")), {})
    renamed: xr.Dataset = canonical.rename(member=LEAD)
    return renamed.assign_coords({LEAD: leads})


def _in_pieces(array: xr.DataArray, first: Hashable) -> xr.DataArray:
    """Return an array of which no more is read than is asked for, also once members are put together.

    It is read in the pieces that it is stored in, so that none is read once for each member.
    """
    if array.chunks is not None or array.ndim < 2:
        return array
    pieces = array.encoding.get("preferred_chunks") or {
        name: 1 for name in array.dims if name == first or str(name).lower() in _INITIALS
    }
    # The values must not be read for a name of the pieces.
    return array.chunk({name: size for name, size in pieces.items() if name in array.dims}, token=uuid4().hex)


def _find(dataset: xr.Dataset, standard_name: str, names: Sequence[str]) -> str | None:
    coordinates = [str(name) for name, c in dataset.coords.items() if c.ndim == 0 or c.dims == (name,)]
    said = [name for name in coordinates if dataset[name].attrs.get("standard_name") == standard_name]
    known = [name for wanted in names for name in coordinates if name.lower() == wanted]
    found = sorted([*said, *known], key=lambda name: dataset[name].ndim == 0)
    return found[0] if found else None


def _durations(coordinate: xr.DataArray, label: str) -> NDArray[Any]:
    """Return lead times as durations in nanoseconds.

    Raises:
        DataError: if numbers without units may be anything.
    """
    values = np.asarray(coordinate.values)
    if values.dtype.kind == "m":
        return values.astype("timedelta64[ns]")
    units = str(coordinate.attrs.get("units", "")).strip()
    unit, hour = parse_units(units), parse_units("h")
    if values.dtype.kind in "iuf" and unit is not None and hour is not None and unit.dimension == hour.dimension:
        return (np.round(values * unit.scale).astype(np.int64) * 10**9).astype("timedelta64[ns]")
    if values.dtype.kind in "iu" and not units and values.max(initial=0) >= 3_600 * 10**9:
        return values.astype("timedelta64[ns]")
    if values.dtype.kind in "iuf" and not units and not (values % 6).any():
        return (values.astype(np.int64) * 3_600 * 10**9).astype("timedelta64[ns]")
    raise DataError(
        f"{label}: '{coordinate.name}' holds {_listed(values.ravel())} {units or 'without units'}, which may be hours "
        f"or days; give it units, for example with xarray's {coordinate.name}.assign_attrs(units='hours')"
    )


def _listed(items: Any) -> str:
    names = [str(item) for item in items]
    return ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
