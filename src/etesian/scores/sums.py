"""Scores of deterministic forecasts, kept as sums and weights until they are asked for."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64, Int64
from numpy.typing import NDArray
from torch import Tensor

from etesian.core.channels import Channel
from etesian.core.errors import DataError, GridError, RecipeError
from etesian.core.fields import Fields
from etesian.scores.definitions import FORECAST_SCORES
from etesian.scores.registry import MapPair, collect, score_named, statistics_of
from etesian.scores.weights import RegionGroups, Weighting, point_weights

WIND_PAIRS = {
    "u_component_of_wind": ("v_component_of_wind", "wind_vector"),
    "10m_u_component_of_wind": ("10m_v_component_of_wind", "10m_wind_vector"),
}
"""Eastward component → northward component and the name under which their vector is scored."""

MISSING = ("missing_forecast", "missing_truth")
"""Counts of points that could not be scored; they are summed whatever is scored."""

FORECAST_STATISTICS = (*statistics_of(FORECAST_SCORES), "points", *MISSING)
"""What is summed for forecasts: weighted over points, then plainly over samples; the last three count points."""


@dataclass(frozen=True)
class Sums:
    """The sums that the scores of forecasts are made of.

    `a + b` equals one pass over the samples of both up to the rounding of float64 additions (a few 1e-16), however the
    samples were divided; the sums of each sample do not depend on the division. Over several processes, sum `values`.

    Attributes:
        values: float64; the last axis is `statistics`.
        channels: the channels scored, then a `wind_vector` for every pair of wind components among them.
        regions: names of the regions.
        statistics: what was summed.
    """

    values: Float64[Tensor, "*sample lead channel region statistic"]
    channels: tuple[Channel, ...]
    regions: tuple[str, ...]
    statistics: tuple[str, ...] = FORECAST_STATISTICS

    def __add__(self, other: "Sums") -> "Sums":
        if (self.channels, self.regions, self.statistics) != (other.channels, other.regions, other.statistics):
            raise ValueError("sums of different statistics, channels or regions cannot be added")
        return replace(self, values=self.values + other.values)

    def total(self) -> "Sums":
        """Return the sums over all samples."""
        return replace(self, values=self.values.sum(tuple(range(self.values.ndim - 4))))

    def over_leads(self) -> "Sums":
        """Return the sums over all leads, as one."""
        return replace(self, values=self.values.sum(-4, keepdim=True))

    def sum_of(self, statistic: str) -> Float64[Tensor, "*sample lead channel region"]:
        """Return the sums of one statistic."""
        return self.values[..., self.statistics.index(statistic)]

    def rmse(self) -> Float64[Tensor, "*sample lead channel region"]:
        """Return the root-mean-square error, in the channels' units."""
        return self.score("rmse")

    def score(self, name: str) -> Float64[Tensor, "*sample lead channel region"]:
        """Return one score; NaN where nothing could be scored.

        Raises:
            RecipeError: if there is no such score, or what it is made of was not summed.
        """
        chosen = score_named(name)
        if unknown := [each for each in chosen.statistics if each not in self.statistics]:
            raise RecipeError(f"the score {name} is made of {unknown[0]}, which was not summed")
        return chosen.value({each: self.sum_of(each) for each in chosen.statistics})

    def scores(self, names: Sequence[str] = FORECAST_SCORES) -> dict[str, Tensor]:
        """Return scores by name, each (…, lead, channel, region); NaN where nothing could be scored."""
        return {name: self.score(name) for name in names}


class RunningSums(dict[tuple[Channel, ...], Sums]):
    """Sums of batches by their channels, as in validation on stores that differ."""

    def add(self, sums: Sums) -> None:
        """Add the sums of a batch."""
        known = self.get(sums.channels)
        self[sums.channels] = sums if known is None else known + sums

    def score(self, name: str, over_processes: Callable[[Tensor], Tensor]) -> dict[Channel, Tensor]:
        """Return a score of each channel, (lead, region), over all stores that have it.

        Args:
            name: of the score.
            over_processes: adds up the sums of several processes.
        """
        totals: dict[Channel, Sums] = {}
        for sums in self.values():
            values = over_processes(sums.values)
            for number, channel in enumerate(sums.channels):
                one = replace(sums, values=values[:, number : number + 1], channels=(channel,))
                totals[channel] = totals[channel] + one if channel in totals else one
        return {channel: sums.score(name)[:, 0] for channel, sums in totals.items()}


@torch.no_grad()
def accumulate(
    prediction: Fields,
    target: Fields,
    climatology: Fields | None = None,
    *,
    regions: Sequence[str] = ("global",),
    weighting: Weighting = "area",
    where: Bool[Tensor, "batch time channel lat lon"] | None = None,
    statistics: tuple[str, ...] = FORECAST_STATISTICS,
    members: Float[Tensor, "member batch time channel lat lon"] | None = None,
) -> Sums:
    """Return the sums over the points of each sample and lead, to be added up and turned into scores.

    A point counts where prediction and target are both valid and finite. Where only one of them is, the point is
    counted as missing: a forecast with holes cannot look better than it is without that being seen.

    Args:
        prediction: forecasts in physical units; position k of the time axis holds the k-th lead of every sample.
        target: the truth at the same times on the same grid; it may hold further channels.
        climatology: at the same times; anomalies are taken where it is valid. Channels it lacks get no anomalies.
        regions: names as in `core.grid.REGIONS`, `domain`, or `south,north,west,east`.
        weighting: of the latitudes.
        where: score only here, for example where other forecasts are valid too; missing values are counted everywhere.
        statistics: what is summed, `points` and the counts of missing points among it.
        members: of the ensemble whose mean the prediction is, for what is said of ensembles; by default the prediction
            is the only one.

    Raises:
        ChannelError: if the target lacks a channel of the prediction.
        GridError: if grids differ, or a region is unknown or empty.
        DataError: if times differ.
    """
    channels = prediction.frame.channels
    target = target.select(channels)
    _check_frames(prediction, target)
    if climatology is not None:
        _check_frames(prediction, climatology)
    groups = RegionGroups(*point_weights(prediction.frame.grid, regions, weighting, prediction.values.device))
    values, scored = sum_points(
        PointValues.of(prediction),
        PointValues.of(target),
        groups,
        statistics,
        climatology=None if climatology is None else PointValues.of(climatology),
        where=None if where is None else where.flatten(3),
        members=None if members is None else members.flatten(4),
    )
    return Sums(values, scored, tuple(regions), statistics)


@dataclass(frozen=True)
class PointValues:
    """Values at points, such as those of a grid one after the other, or stations.

    Attributes:
        channels: of the third axis.
        values: in physical units.
        valid: where they are known; None means wherever they are finite.
    """

    channels: tuple[Channel, ...]
    values: Float[Tensor, "batch time channel point"]
    valid: Bool[Tensor, "batch time channel point"] | None = None

    @classmethod
    def of(cls, fields: Fields) -> "PointValues":
        """Return the values of fields at all points of their grid."""
        valid = None if fields.valid is None else fields.valid.flatten(3)
        return cls(fields.frame.channels, fields.values.flatten(3), valid)

    def at(self, channel: int) -> Float64[Tensor, "batch time point"]:
        """Return the values of one channel."""
        return self.values[:, :, channel].double()

    def known(self, channel: int) -> Bool[Tensor, "batch time point"]:
        """Return where there is a value of one channel."""
        finite = self.values[:, :, channel].isfinite()
        return finite if self.valid is None else finite & self.valid[:, :, channel]


@torch.no_grad()
def sum_points(
    prediction: PointValues,
    target: PointValues,
    groups: RegionGroups,
    statistics: tuple[str, ...],
    *,
    climatology: PointValues | None = None,
    where: Bool[Tensor, "batch time channel point"] | None = None,
    members: Float[Tensor, "member batch time channel point"] | None = None,
) -> tuple[Float64[Tensor, "batch time scored region statistic"], tuple[Channel, ...]]:
    """Return the sums over points of each sample and lead, and of which channels they are: see `accumulate`."""
    channels = prediction.channels
    anomalies_of = set(channels) & set(() if climatology is None else climatology.channels)
    pairs = _wind_pairs(channels)
    components = {component for pair in pairs.values() for component in pair}
    of_component: dict[Channel, tuple[Tensor, Tensor, Tensor, Tensor]] = {}

    scored = (*channels, *pairs)
    shape = (*prediction.values.shape[:2], len(scored), groups.weights.shape[1], len(statistics))
    values = torch.zeros(shape, dtype=torch.float64, device=prediction.values.device)

    def store(number: int, pair: MapPair, has_forecast: Tensor, has_truth: Tensor) -> None:
        sums = collect(pair, [name for name in statistics if name not in MISSING])
        sums["missing_forecast"] = groups.count((has_truth & ~has_forecast).double())
        sums["missing_truth"] = groups.count((~has_truth).double())
        for position, name in enumerate(statistics):
            values[:, :, number, :, position] = sums[name]

    for number, channel in enumerate(channels):
        forecast, truth = prediction.at(number), target.at(number)
        has_forecast, has_truth = prediction.known(number), target.known(number)
        use = has_forecast & has_truth
        if where is not None:
            use = use & where[:, :, number]
        squared = torch.where(use, forecast - truth, 0.0).square()
        normal = None
        if climatology is not None and channel in anomalies_of:
            position = climatology.channels.index(channel)
            normal = climatology.at(position).where(climatology.known(position), torch.nan)
        each = forecast[None] if members is None else members[:, :, :, number]
        pair = MapPair(forecast, truth, use, groups, squared, normal, members=each)
        store(number, pair, has_forecast, has_truth)
        if channel in components:
            of_component[channel] = squared, use, has_forecast, has_truth
    for number, (eastward, northward) in enumerate(pairs.values(), start=len(channels)):
        (u_squared, *u_masks), (v_squared, *v_masks) = of_component[eastward], of_component[northward]
        use, has_forecast, has_truth = (u & v for u, v in zip(u_masks, v_masks, strict=True))
        squared = u_squared + v_squared
        # Vectors have no value of their own, only the length of their difference.
        nothing = torch.full_like(squared, torch.nan)
        store(number, MapPair(nothing, nothing, use, groups, squared), has_forecast, has_truth)
    return values, scored


def _wind_pairs(channels: tuple[Channel, ...]) -> dict[Channel, tuple[Channel, Channel]]:
    pairs = {}
    for channel in channels:
        if channel.name in WIND_PAIRS:
            northward, vector = WIND_PAIRS[channel.name]
            if (other := Channel(northward, channel.level)) in channels:
                pairs[Channel(vector, channel.level)] = channel, other
    return pairs


def _check_frames(prediction: Fields, other: Fields) -> None:
    if prediction.frame.grid != other.frame.grid:
        raise GridError(
            f"the forecast is on the grid {prediction.frame.grid}, what it is compared with on {other.frame.grid}; "
            "regrid one of them"
        )
    if prediction.frame.time is not other.frame.time and (
        prediction.frame.calendar != other.frame.calendar
        or not torch.equal(prediction.frame.time.cpu(), other.frame.time.cpu())
    ):
        raise DataError("the forecast and what it is compared with are valid at different times")


def sums_by_bin(
    which: Int64[Tensor, "initial lead point"],
    values: Float64[Tensor, "initial lead point"],
    weights: Float64[Tensor, "point region"],
    bins: int,
) -> NDArray[np.float64]:
    """Return weighted sums of the values of the points in each bin, (initial, lead, region, bin)."""
    maps = which.shape[0] * which.shape[1]
    place = (which.reshape(maps, -1) + bins * torch.arange(maps)[:, None]).numpy().ravel()
    found = np.empty((maps, weights.shape[1], bins))
    for region, weight in enumerate(weights.T):
        each = (values.reshape(maps, -1) * weight).numpy().ravel()
        found[:, region] = np.bincount(place, each, minlength=maps * bins).reshape(maps, bins)
    return found.reshape(*which.shape[:2], -1, bins)
