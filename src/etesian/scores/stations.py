"""Forecasts beside what stations report: which report verifies which time, and the scores of all of them."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import xarray as xr
from jaxtyping import Bool, Float
from numpy.typing import NDArray
from torch import Tensor

from etesian.core.channels import CATALOGUE, Channel
from etesian.core.clock import Seconds, count_alike, decode_time
from etesian.core.constants import SECONDS_PER_HOUR
from etesian.core.errors import ChannelError, DataError, RecipeError
from etesian.core.points import SURFACES, AtPoints, Points
from etesian.files.stations import COUNTED, Reports
from etesian.files.units import conversion, parse_units
from etesian.scores.definitions import COVERAGES
from etesian.scores.pairs import Chunk, Pairs
from etesian.scores.registry import estimates, skill, statistics_of
from etesian.scores.score import HEADLINE
from etesian.scores.series import FieldSeries, MeanSeries
from etesian.scores.structure import TRUTH
from etesian.scores.sums import MISSING, PointValues, sum_points
from etesian.scores.weights import RegionGroups, default_regions, region_named

STATION_SCORES = ("rmse", "mae", "bias")

ENSEMBLE_STATION_SCORES = ("crps", "crps_plain", "spread", "spread_skill", *COVERAGES)

TOLERANCE = 10.0
"""Minutes by which the time of a report may differ from the valid time of a forecast."""

_OUTSIDE, _UNKNOWN, _UNMATCHED, _USED = (
    1 + COUNTED.index(outcome) for outcome in ("outside", "no elevation", "unmatched", "used")
)


class StationScores:
    """Scores of forecasts, and of the truth that they are compared with elsewhere, at stations.

    Each report counts for the valid time that is nearest to it, and of several of a station the one nearest to that
    time; none counts for two. All reports weigh the same, and all forecasts are scored by the same ones.

    Args:
        pairs: what is scored.
        reports: of the stations.
        regions: by which stations are grouped as points are; by default those of the grid.
        references: of the forecasts, those to measure skill by.
        tolerance: minutes between a report and the time that it verifies, at most.
        lapse_rate: K km⁻¹ by which 2 m temperatures are brought from the model's height to the station's; by default
            6.5 where the truth or a forecast holds the orography. 0 leaves them as they are.

    Raises:
        ChannelError: if forecasts and reports have no variable in common.
        DataError: if no report verifies a forecast, or units or calendars differ.
        GridError: if no station lies on the grid.
        RecipeError: if a lapse rate is asked for where no orography is known, or forecasts are means.
    """

    def __init__(
        self,
        pairs: Pairs,
        reports: Reports,
        regions: Sequence[str] | None = None,
        references: Sequence[str] = (),
        tolerance: float = TOLERANCE,
        lapse_rate: float | None = None,
    ) -> None:
        if not tolerance >= 0:
            raise RecipeError(f"tolerance = {tolerance:g} must be minutes from 0 on")
        if TRUTH in pairs.forecasts:
            raise RecipeError(
                f"at stations '{TRUTH}' is what forecasts are compared with; give the forecast another name"
            )
        if isinstance(pairs.truth, MeanSeries):
            raise RecipeError("the forecasts are means over hours, and stations report instants; score them without")
        if not count_alike(pairs.initial, pairs.calendar, reports.time, reports.calendar):
            raise DataError(
                f"{reports.source} has the calendar {reports.calendar}, the forecasts {pairs.calendar}; give reports "
                "in the calendar of the forecasts"
            )
        self.pairs, self.reports, self.references, self.tolerance = pairs, reports, references, tolerance
        statics = _statics((pairs.truth, *pairs.forecasts.values()))
        self.at = AtPoints(pairs.truth.grid, reports.points, statics, lapse_rate)
        self.channels = self._common()
        self.index = [pairs.channels.index(channel) for channel in self.channels]
        self.valid = np.unique(pairs.initial[:, None] + np.array(pairs.leads) * SECONDS_PER_HOUR)
        self.outcome: dict[Channel, NDArray[np.int8]] = {}
        self.used: dict[Channel, tuple[NDArray[np.int64], NDArray[np.int64]]] = {}
        for channel in self.channels:
            self._match(channel)
        self._refuse_nothing()
        self.regions = tuple(regions) if regions else default_regions(pairs.truth.grid)
        inside = np.stack([_inside(reports.points, name) for name in self.regions], 1)
        weights = torch.from_numpy(inside.astype(np.float64))
        self.groups = RegionGroups(weights, weights)
        has_members = any(series.members > 1 for series in pairs.forecasts.values())
        self.names = STATION_SCORES + (ENSEMBLE_STATION_SCORES if has_members else ())
        self.statistics = tuple(dict.fromkeys((*statistics_of(self.names), "points", *MISSING)))
        self.series = [TRUTH, *pairs.forecasts]
        self.sums: dict[str, NDArray[np.float64]] = {}
        shape = (len(self.series), len(pairs.leads), len(self.channels), len(reports.points.names))
        self.error, self.squared, self.count = np.zeros(shape), np.zeros(shape), np.zeros(shape, dtype=np.int64)

    def _common(self) -> tuple[Channel, ...]:
        """Return the channels that forecasts and reports hold, in the same units."""
        common = tuple(
            channel
            for channel in self.pairs.channels
            if channel in self.reports.values and (channel.name != "surface_pressure" or self.at.surface)
        )
        if not common:
            reported, held = ", ".join(map(str, self.reports.values)), ", ".join(map(str, self.pairs.channels))
            raise ChannelError(
                f"forecasts and {self.reports.source} have no variable that can be compared: stations report "
                f"{reported}, the forecasts hold {held}; surface_pressure needs the model's orography"
            )
        for channel in common:
            ours, theirs = self.reports.units[channel], self.pairs.truth.units(channel)
            if parse_units(ours) != parse_units(theirs):
                raise DataError(f"'{channel}' is in {theirs} in the truth, at stations in {ours}; convert the truth")
        first = [name for name in HEADLINE if name in map(str, common)]
        return tuple(sorted(common, key=lambda channel: (*first, str(channel)).index(str(channel))))

    def _match(self, channel: Channel) -> None:
        """Note what becomes of each report of a channel, and which valid time each report that is used is for."""
        station, outcome = self.reports.station, self.reports.reasons[channel].copy()
        outcome[(outcome == 0) & ~self.at.inside[station]] = _OUTSIDE
        outcome[(outcome == 0) & ~self.at.can_say(channel)[station]] = _UNKNOWN
        left = np.flatnonzero(outcome == 0)
        nearest, apart = _nearest(self.reports.time[left], self.valid)
        near = apart <= self.tolerance * 60
        outcome[left[~near]] = _UNMATCHED
        left, nearest, apart = left[near], nearest[near], apart[near]
        order = np.lexsort((self.reports.time[left], apart, station[left], nearest))
        left, nearest = left[order], nearest[order]
        key = np.stack([nearest, station[left]])
        first = np.ones(left.size, dtype=bool)
        first[1:] = (np.diff(key, axis=1) != 0).any(0)
        outcome[left[~first]] = _UNMATCHED
        outcome[left[first]] = _USED
        self.outcome[channel], self.used[channel] = outcome, (nearest[first], left[first])

    def _refuse_nothing(self) -> None:
        if any(used.size for used, _ in self.used.values()):
            return
        counts = [
            f"{channel}: {', '.join(f'{count} {word}' for word, count in self._counts(channel).items() if count)}"
            for channel in self.channels
        ]
        spans = ([each.min(), each.max()] for each in (self.valid, self.reports.time))
        first, last = (decode_time(span, self.pairs.calendar) for span in spans)
        raise DataError(
            f"no report of {self.reports.source} can be used ({'; '.join(counts)}): forecasts are valid from "
            f"{first[0]} to {first[1]}, reports are of {last[0]} to {last[1]}, and they may be {self.tolerance:g} min "
            "apart; correct the table, or give a larger tolerance"
        )

    def _counts(self, channel: Channel) -> dict[str, int]:
        found = np.bincount(self.outcome[channel], minlength=1 + len(COUNTED))
        return dict(zip(COUNTED, found[1:].tolist(), strict=True))

    def _observed(self, valid: Seconds) -> Float[Tensor, "initial lead channel station"]:
        """Return what stations report at some valid times; NaN where they report nothing."""
        times, place = np.unique(valid, return_inverse=True)
        maps = np.full((times.size, len(self.channels), len(self.reports.points.names)), np.nan)
        wanted = np.searchsorted(self.valid, times)
        for number, channel in enumerate(self.channels):
            position, used = self.used[channel]
            here = np.isin(position, wanted)
            row, used = np.searchsorted(wanted, position[here]), used[here]
            maps[row, number, self.reports.station[used]] = self.reports.values[channel][used]
        return torch.from_numpy(maps[place.reshape(valid.shape)])

    def _at(self, values: Tensor) -> Float[Tensor, "initial lead channel station"]:
        return torch.from_numpy(self.at(values[:, :, self.index].numpy(), self.channels))

    def add(self, chunk: Chunk, where: Bool[Tensor, "initial lead channel lat lon"]) -> None:
        """Take a chunk into account; at stations all that counts is where all forecasts have a value."""
        leads = np.array(self.pairs.leads[chunk.leads]) * SECONDS_PER_HOUR
        observed = PointValues(self.channels, self._observed(self.pairs.initial[chunk.initial][:, None] + leads))
        said = {TRUTH: self._at(chunk.truth.values)} | {
            name: self._at(forecast.values) for name, forecast in chunk.forecasts.items()
        }
        everywhere = torch.stack([values.isfinite() for name, values in said.items() if name != TRUTH]).all(0)
        for number, (name, values) in enumerate(said.items()):
            own = chunk.members.get(name) if name != TRUTH else None
            members = None if own is None else torch.stack([self._at(member) for member in own])
            part, self.scored = sum_points(
                PointValues(self.channels, values), observed, self.groups, self.statistics,
                where=everywhere, members=members,
            )  # fmt: skip
            if name not in self.sums:
                self.sums[name] = np.zeros((*self.pairs.position.shape, *part.shape[2:]))
            self.sums[name][chunk.initial, chunk.leads] = part.numpy()
            error = torch.where(everywhere, values - observed.values, torch.nan).numpy()
            known = np.isfinite(error)
            error = np.where(known, error, 0.0)
            self.error[number, chunk.leads] += error.sum(0)
            self.squared[number, chunk.leads] += (error**2).sum(0)
            self.count[number, chunk.leads] += known.sum(0)

    def part(self, block: slice) -> tuple[dict[str, NDArray[np.float64]], list[NDArray[Any]], tuple[Channel, ...]]:
        """Return the sums over a block by initial time, those by station, which begin anew, and what was scored."""
        totals = [each.copy() for each in (self.error, self.squared, self.count)]
        for each in (self.error, self.squared, self.count):
            each[...] = 0
        return {name: sums[block].copy() for name, sums in self.sums.items()}, totals, self.scored

    def take(
        self, block: slice, part: tuple[dict[str, NDArray[np.float64]], list[NDArray[Any]], tuple[Channel, ...]]
    ) -> None:
        """Put the sums over a block into their places, and add those by station."""
        by_time, totals, self.scored = part
        for name, sums in by_time.items():
            empty = np.zeros((*self.pairs.position.shape, *sums.shape[2:]))
            self.sums.setdefault(name, empty)[block] = sums
        for total, own in zip((self.error, self.squared, self.count), totals, strict=True):
            total += own

    def result(self) -> xr.Dataset:
        """Return scores with their intervals, what became of the reports, and the errors of each station."""
        everything = np.stack(list(self.sums.values()), axis=1)
        by_time = {name: everything[..., position] for position, name in enumerate(self.statistics)}
        dims = ("series", "lead_time", "station_channel", "region")
        found = estimates(by_time, self.names, dims)
        if self.references:
            found |= skill(by_time, self.series, self.references, dims)
        for name in ("points", *MISSING):
            found[name.replace("truth", "report")] = dims, by_time[name].sum(0).round().astype(np.int64)
        result = xr.Dataset(
            {f"station_{name}": values for name, values in found.items()},
            {
                "series": self.series,
                "lead_time": self.pairs.leads,
                "station_channel": [str(channel) for channel in self.scored],
                "region": list(self.regions),
                "reported": [str(channel) for channel in self.channels],
                "outcome": list(COUNTED),
                "station": list(self.reports.points.names),
            },
        )
        if self.references:
            result["reference"] = list(self.references)
        counts = [list(self._counts(channel).values()) for channel in self.channels]
        result["station_reports"] = ("reported", "outcome"), np.array(counts)
        by_station = ("series", "lead_time", "reported", "station")
        with np.errstate(divide="ignore", invalid="ignore"):
            result["bias_by_station"] = by_station, (self.error / self.count).astype(np.float32)
            result["rmse_by_station"] = by_station, np.sqrt(self.squared / self.count).astype(np.float32)
        result["reports_by_station"] = by_station, self.count
        points = self.reports.points
        places = {"latitude": points.latitude, "longitude": points.longitude, "elevation": points.elevation}
        for name, values in (places | {"model_height": self.at.height}).items():
            result[f"station_{name}"] = "station", values
        known = {str(channel): self.reports.units[channel] for channel in self.channels}
        units = [known.get(str(channel), "m s-1") for channel in self.scored]
        result = result.assign_coords(station_units=("station_channel", units))
        names = dict.fromkeys(channel.name for channel in self.channels)
        said = [f"{name} {how}" for name in names if (how := self.at.said_of(name))]
        result.attrs = {
            "stations": self.reports.source,
            "stations_tolerance_minutes": self.tolerance,
            "stations_height_correction": "; ".join(said) or "none is needed",
            "stations_left_out": ", ".join(self.reports.left_out),
        }
        return result


def _statics(series: Sequence[FieldSeries]) -> dict[str, NDArray[np.float64]]:
    """Return the fields that tell the height of the surface, of whatever has them first, in the catalogue's units.

    Raises:
        DataError: if their units are those of something else.
    """
    found: dict[str, NDArray[np.float64]] = {}
    for each in series:
        for name in SURFACES:
            field = each.dataset.get(name)
            if name in found or field is None or set(field.dims) != {"latitude", "longitude"}:
                continue
            told = str(field.attrs.get("units") or CATALOGUE[name].units)
            if (changed := conversion(told, CATALOGUE[name])) is None:
                raise DataError(f"{each.name}: '{name}' is in {told}, not {CATALOGUE[name].units}; correct its units")
            found[name] = field.transpose("latitude", "longitude").values.astype(np.float64) * changed[0]
    return found


def _nearest(times: Seconds, valid: Seconds) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the position of the nearest valid time to each time, the earlier of two, and the seconds between them."""
    after = np.searchsorted(valid, times).clip(max=valid.size - 1)
    before = (after - 1).clip(min=0)
    later, earlier = np.abs(valid[after] - times), np.abs(times - valid[before])
    nearest = np.where(earlier <= later, before, after)
    return nearest, np.minimum(earlier, later)


def _inside(points: Points, region: str) -> NDArray[np.bool_]:
    box = region_named(region)
    rows = (points.latitude >= box.south) & (points.latitude <= box.north)
    return np.asarray(rows & ((points.longitude - box.west) % 360 <= box.width))
