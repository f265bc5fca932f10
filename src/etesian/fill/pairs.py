"""Filled fields: what they hold beside each channel, and their truth and observations, paired time by time."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import xarray as xr
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from etesian.core.channels import Channel
from etesian.core.clock import Seconds, count_alike, decode_time, month_start
from etesian.core.constants import EARTH_RADIUS
from etesian.core.dataset import MEMBER
from etesian.core.errors import ChannelError, DataError, GridError, suggest
from etesian.scores.series import FieldSeries, find_lead, open_any, open_truth

Resolution = Literal["monthly", "daily"]

DEVIATION, COUNT, FLAG = "_standard_deviation", "_observations", "_flag"
"""Suffixes of what stands beside a channel."""

FILLED, UNOBSERVED, ON_LAND = 0, 1, 2
"""Values of a flag: filled from observations; nothing observed in the whole month; land."""

Field = Float[np.ndarray, "lat lon"]

Mask = Bool[np.ndarray, "lat lon"]


def filled_attributes(units: str, channel: Channel, suffix: str, target: Resolution) -> dict[str, Any]:
    """Return the attributes of a filled channel, or of what stands beside it under its name and a suffix."""
    known: dict[str, dict[str, Any]] = {
        "": {"units": units},
        DEVIATION: {"units": units, "long_name": f"standard deviation of the error of {channel}"},
        COUNT: {"units": "1", "long_name": f"times in the month at which {channel} was observed"},
        FLAG: {
            "flag_values": np.array([FILLED, UNOBSERVED, ON_LAND], np.int8),
            "flag_meanings": "filled nothing_observed_in_month land",
        },
    }
    attributes = known[suffix]
    if target == "monthly" and suffix in ("", DEVIATION):
        attributes["cell_methods"] = "time: mean (over the calendar month)"
    return attributes


@dataclass(frozen=True)
class FilledCase:
    """One time, a day or a month, of one channel.

    Attributes:
        filled: by name; of members, their mean.
        deviation: standard deviation of the error, of those who give one and no members.
        members: of those who have them.
        truth: NaN where it is not known.
        observed: whether anything was observed at a point: on the day, or on any day of the month.
        count: times at which a point was observed in the whole month.
        cloud_share: share of the sea that was not observed: on the day, or in the mean over the month's times.
        distance: km from each point of the sea to the nearest one observed; infinite if there is none.
        sea: where a field is wanted.
    """

    filled: dict[str, Field]
    deviation: dict[str, Field]
    members: dict[str, Float[np.ndarray, "member lat lon"]]
    truth: Field
    observed: Mask
    count: Int[np.ndarray, "lat lon"]
    cloud_share: float
    distance: Field
    sea: Mask


class FilledPairs:
    """Filled fields beside truth and observations, at the times that all of them have.

    Args:
        filled: by name; each as `etesian fill` writes it.
        truth: complete fields, or the observations of which some were withheld.
        observed: what the gaps were filled from.
        channels: names; all that every one of them holds by default.

    Attributes:
        monthly: whether they are means over calendar months.
        time: that are scored, seconds since 1970-01-01.
        dropped: how many times were left out, by where they are missing.

    Raises:
        DataError: if files are no filled fields, mix days with months, or have no time in common.
        GridError: if grids differ.
        ChannelError: if there is no channel in common.
    """

    def __init__(
        self,
        filled: Mapping[str, str | Path | xr.Dataset],
        truth: str | Path | xr.Dataset,
        observed: str | Path | xr.Dataset,
        channels: Sequence[str] | None = None,
    ) -> None:
        self.filled = {name: open_filled(name, series) for name, series in filled.items()}
        self.truth, self.observed = open_truth(truth), open_truth(observed)
        self.observed.name = "the store of observations"
        self.grid, self.calendar = self.truth.grid, self.truth.times[1]
        for series in (*self.filled.values(), self.observed):
            if series.grid != self.grid:
                raise GridError(f"{series.name} is on the grid {series.grid}, the truth on {self.grid}")
            if not count_alike(*series.times, *self.truth.times):
                raise DataError(f"{series.name} has the calendar {series.times[1]}, the truth {self.calendar}")
        self.channels = self._common(channels)
        self._check_units()
        kinds = {name: self._is_monthly(series) for name, series in self.filled.items()}
        if len(set(kinds.values())) > 1:
            said = [f"{name} holds {'monthly means' if kind else 'single times'}" for name, kind in kinds.items()]
            raise DataError(f"{', '.join(said)}: fill all of them to the same target")
        self.monthly = next(iter(kinds.values()))
        self._months = month_start(self.observed.times[0], self.calendar)
        self._truth_months = month_start(self.truth.times[0], self.calendar)
        self.time, self.dropped = self._common_times()
        self.sea = self._sea()
        self._counts: tuple[int, str, NDArray[np.int64], float] | None = None

    def _common(self, names: Sequence[str] | None) -> tuple[Channel, ...]:
        held = [{str(channel) for channel in series.channels} for series in (self.truth, self.observed)]
        first = next(iter(self.filled.values()))
        shared = [
            channel
            for channel in first.channels
            if not str(channel).endswith((DEVIATION, COUNT, FLAG))
            and all(str(channel) in known for known in held)
            and all(channel in series.channels for series in self.filled.values())
        ]
        if not shared:
            raise ChannelError(
                f"filled fields, truth and observations have no channel in common: {first.name} holds "
                f"{', '.join(map(str, first.channels))}, the truth {', '.join(map(str, self.truth.channels))}"
            )
        if names is None:
            return tuple(shared)
        if unknown := [name for name in names if name not in map(str, shared)]:
            raise ChannelError(f"there is no channel '{unknown[0]}'{suggest(unknown[0], map(str, shared))}")
        return tuple(channel for channel in shared if str(channel) in names)

    def _check_units(self) -> None:
        for channel in self.channels:
            for series in self.filled.values():
                if series.units(channel) != self.truth.units(channel):
                    raise DataError(
                        f"{series.name}: '{channel}' is in {series.units(channel)}, in the truth in "
                        f"{self.truth.units(channel)}; convert it"
                    )

    def _is_monthly(self, series: FieldSeries) -> bool:
        """Whether fields say that they are means over months, or have the first day of each month alone."""
        if "month" in str(series.dataset[self.channels[0].name].attrs.get("cell_methods", "")):
            return True
        seconds = series.times[0]
        if not np.array_equal(month_start(seconds, self.calendar), seconds):
            return False
        between = (self.observed.times[0] >= seconds[0]) & (self.observed.times[0] <= seconds[-1])
        return bool(seconds.size > 1 and between.sum() > seconds.size)

    def _common_times(self) -> tuple[Seconds, dict[str, int]]:
        have = {series.name: series.times[0] for series in self.filled.values()}
        have[self.truth.name] = self._truth_months if self.monthly else self.truth.times[0]
        have[self.observed.name] = self._months if self.monthly else self.observed.times[0]
        first = next(iter(self.filled.values())).times[0]
        common = np.array([t for t in first if all(t in times for times in have.values())], dtype=np.int64)
        if common.size == 0:
            ranges = [f"{name} {self._range(times)}" for name, times in have.items()]
            raise DataError(f"filled fields, truth and observations have no time in common: {', '.join(ranges)}")
        return common, {name: int((~np.isin(first, times)).sum()) for name, times in have.items()}

    def _range(self, times: Seconds) -> str:
        first, last = decode_time(np.array([times[0], times[-1]]), self.calendar)
        return f"{str(first)[:10]} to {str(last)[:10]}"

    def _sea(self) -> Mask:
        for series in (self.observed, self.truth):
            land = series.dataset.get("land_sea_mask")
            if land is not None and land.ndim == 2:
                return np.asarray(land.transpose("latitude", "longitude").values < 0.5)
        first = next(iter(self.filled.values()))
        flag = first.dataset.get(f"{self.channels[0]}{FLAG}")
        if flag is not None:
            return np.asarray((flag.values != ON_LAND).any(0))
        known = np.zeros(self.grid.shape, dtype=bool)
        for number in range(self.truth.times[0].size):
            known |= np.isfinite(self.truth.read([self.truth.own(self.channels[0])], time=number)[0])
        return known

    def cases(self) -> Iterator[tuple[int, Channel, FilledCase]]:
        """Return every time and channel, with the number of the time."""
        for number in range(self.time.size):
            for channel in self.channels:
                yield number, channel, self.case(number, channel)

    def case(self, number: int, channel: Channel) -> FilledCase:
        """Return one time of one channel."""
        filled, deviation, members = {}, {}, {}
        for name, series in self.filled.items():
            position = int(np.flatnonzero(series.times[0] == self.time[number])[0])
            maps = series.read([channel], time=position)
            filled[name] = maps.reshape(-1, *self.grid.shape).mean(0, dtype=np.float64)
            spread = Channel(f"{channel}{DEVIATION}")
            if series.members > 1:
                members[name] = maps[:, 0]
            elif spread in series.channels:
                deviation[name] = series.read([spread], time=position)[0].astype(np.float64)
        count, cloud_share = self._count(number, channel)
        observed = count > 0
        if not self.monthly:
            observed = np.isfinite(self.observations(number, channel)[0]) & self.sea
            cloud_share = float(1 - observed.sum() / max(self.sea.sum(), 1))
        return FilledCase(
            filled, deviation, members, self.true_fields(number, channel).mean(0), observed, count, cloud_share,
            self._distance(observed), self.sea,
        )  # fmt: skip

    def times_of(self, number: int, *, whole_month: bool = False) -> Seconds:
        """Return the times observed in a month, or the one time of a day."""
        if self.monthly or whole_month:
            start = month_start(self.time[number : number + 1], self.calendar)[0]
            return np.asarray(self.observed.times[0][self._months == start])
        return self.time[number : number + 1]

    def observations(
        self, number: int, channel: Channel, *, whole_month: bool = False
    ) -> Float[np.ndarray, "time lat lon"]:
        """Return what was observed on the day, or on the days of the month."""
        index = np.flatnonzero(np.isin(self.observed.times[0], self.times_of(number, whole_month=whole_month)))
        return self.observed.read([self.observed.own(channel)], time=index)[:, 0].astype(np.float64)

    def true_fields(
        self, number: int, channel: Channel, *, whole_month: bool = False
    ) -> Float[np.ndarray, "time lat lon"]:
        """Return the truth on the day, or at the observed times of the month; a truth of months is one field."""
        wanted = self.times_of(number, whole_month=whole_month)
        index = np.flatnonzero(np.isin(self.truth.times[0], wanted))
        month = np.flatnonzero(self._truth_months == month_start(self.time[number : number + 1], self.calendar)[0])
        if month.size == 1 and self.monthly:
            index = month
        elif index.size < wanted.size and not whole_month:
            raise DataError(
                f"the truth lacks {wanted.size - index.size} of the {wanted.size} observed times from "
                f"{self._range(wanted)}, so that their mean is not known"
            )
        return self.truth.read([self.truth.own(channel)], time=index)[:, 0].astype(np.float64)

    def _count(self, number: int, channel: Channel) -> tuple[NDArray[np.int64], float]:
        start = int(month_start(self.time[number : number + 1], self.calendar)[0])
        if self._counts is None or self._counts[:2] != (start, str(channel)):
            seen = np.isfinite(self.observations(number, channel, whole_month=True)) & self.sea
            share = float(1 - seen.sum() / max(len(seen) * self.sea.sum(), 1))
            self._counts = start, str(channel), seen.sum(0), share
        return self._counts[2], self._counts[3]

    def _distance(self, observed: Mask) -> Field:
        distance = np.where(observed, 0.0, np.inf)
        gaps = self.sea & ~observed
        if observed.any() and gaps.any():
            chord, _ = cKDTree(self.grid.unit_vectors[observed]).query(self.grid.unit_vectors[gaps])
            distance[gaps] = 2e-3 * EARTH_RADIUS * np.arcsin(np.clip(chord / 2, 0, 1))
        return distance


def open_filled(name: str, data: str | Path | xr.Dataset) -> FieldSeries:
    """Open filled fields: dimensions time, latitude, longitude, and number where they have members.

    Raises:
        DataError: if the path holds forecasts or something else.
    """
    if isinstance(data, xr.Dataset):
        dataset = data
    else:
        if "://" not in str(data) and not Path(data).exists():
            raise DataError(f"filled fields '{name}': there is no '{data}'")
        dataset = open_any(str(data))
    if lead := find_lead(dataset):
        raise DataError(
            f"'{name}' holds forecasts, with lead times in {lead}, and no filled fields; evaluate it without --observed"
        )
    if "time" not in dataset.dims:
        raise DataError(f"'{name}' holds no filled fields, which have the dimensions time, latitude and longitude")
    return FieldSeries(f"filled fields '{name}'", dataset, ("time", MEMBER) if MEMBER in dataset.dims else ("time",))
