"""Scores of deterministic forecasts, kept as sums and weights until they are asked for."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from jaxtyping import Bool, Float, Float64
from torch import Tensor

from etesian.core.channels import Channel
from etesian.core.errors import DataError, GridError
from etesian.core.fields import Fields
from etesian.scores.weights import Weighting, point_weights

WIND_PAIRS = {
    "u_component_of_wind": ("v_component_of_wind", "wind_vector"),
    "10m_u_component_of_wind": ("10m_v_component_of_wind", "10m_wind_vector"),
}
"""Eastward component → northward component and the name under which their vector is scored."""

STATISTICS = (
    "weight",
    "squared_error",
    "absolute_error",
    "error",
    "anomaly_product",
    "forecast_anomaly_squared",
    "truth_anomaly_squared",
    "anomaly_correlation",
    "correlated_samples",
    "pattern_correlation",
    "pattern_samples",
    "points",
    "missing_forecast",
    "missing_truth",
)
"""What is summed: weighted over points, then plainly over samples; the last three count points."""

_CONSTANT = 1e-14
"""Variance over mean square below which a map is constant: beyond rounding in float64, within that of float32 data."""


class Metric(Protocol):
    """An accumulation of sums and weights; adding two gives what one pass over both would have given."""

    values: Tensor

    def __add__(self, other: Any) -> "Metric":
        """Return the accumulation over the samples of both."""

    def scores(self) -> dict[str, Tensor]:
        """Return every score by name."""


@dataclass(frozen=True)
class Sums:
    """The sums that the scores of forecasts are made of.

    `a + b` equals one pass over the samples of both up to the rounding of float64 additions (a few 1e-16), however the
    samples were divided; the sums of each sample do not depend on the division. Over several processes, sum `values`.

    Attributes:
        values: float64; the last axis is `STATISTICS`.
        channels: the channels scored, then a `wind_vector` for every pair of wind components among them.
        regions: names of the regions.
    """

    values: Float64[Tensor, "*sample lead channel region statistic"]
    channels: tuple[Channel, ...]
    regions: tuple[str, ...]

    def __add__(self, other: "Sums") -> "Sums":
        if (self.channels, self.regions) != (other.channels, other.regions):
            raise ValueError("sums over different channels or regions cannot be added")
        return replace(self, values=self.values + other.values)

    def total(self) -> "Sums":
        """Return the sums over all samples."""
        return replace(self, values=self.values.sum(tuple(range(self.values.ndim - 4))))

    def sum_of(self, statistic: str) -> Float64[Tensor, "*sample lead channel region"]:
        """Return the sums of one of `STATISTICS`."""
        return self.values[..., STATISTICS.index(statistic)]

    def rmse(self) -> Float64[Tensor, "*sample lead channel region"]:
        """Return the root-mean-square error, in the channels' units."""
        return (self.sum_of("squared_error") / self.sum_of("weight")).sqrt()

    def scores(self) -> dict[str, Tensor]:
        """Return every score by name, each (…, lead, channel, region); NaN where nothing could be scored.

        `mse`, `rmse` (root after the mean over samples), `mae`, `bias` (forecast − truth), `acc` (uncentred anomaly
        correlation of each sample, then the mean over samples), `pearson` (of the two maps of each sample about their
        own means over the region, with the points' weights, then the mean over samples; ClimaX judges downscaling by
        Pearson correlation, arXiv 2301.10343) and `activity` (root-mean-square anomaly of the forecasts over that of
        the truth: below 1, the forecasts are smoother than the weather).
        """
        weight, samples = self.sum_of("weight"), self.sum_of("correlated_samples")
        return {
            "mse": self.sum_of("squared_error") / weight,
            "rmse": self.rmse(),
            "mae": self.sum_of("absolute_error") / weight,
            "bias": self.sum_of("error") / weight,
            "acc": self.sum_of("anomaly_correlation") / samples,
            "pearson": self.sum_of("pattern_correlation") / self.sum_of("pattern_samples"),
            "activity": (self.sum_of("forecast_anomaly_squared") / self.sum_of("truth_anomaly_squared")).sqrt(),
        }


@torch.no_grad()
def accumulate(
    prediction: Fields,
    target: Fields,
    climatology: Fields | None = None,
    *,
    regions: Sequence[str] = ("global",),
    weighting: Weighting = "area",
    where: Bool[Tensor, "batch time channel lat lon"] | None = None,
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

    Raises:
        ChannelError: if the target lacks a channel of the prediction.
        GridError: if grids differ, or a region is unknown or empty.
        DataError: if times differ.
    """
    channels = prediction.frame.channels
    target = target.select(channels)
    _check_frames(prediction, target)
    anomalies_of: set[Channel] = set()
    if climatology is not None:
        _check_frames(prediction, climatology)
        anomalies_of = set(channels) & set(climatology.frame.channels)
    weights, inside = point_weights(prediction.frame.grid, regions, weighting, prediction.values.device)
    both = torch.cat([weights, inside], dim=1)
    pairs = _wind_pairs(channels)
    components = {component for pair in pairs.values() for component in pair}
    of_component: dict[Channel, tuple[Tensor, Tensor, Tensor, Tensor]] = {}

    scored = (*channels, *pairs)
    shape = (*prediction.frame.time.shape, len(scored), len(regions), len(STATISTICS))
    values = torch.zeros(shape, dtype=torch.float64, device=prediction.values.device)
    values[..., STATISTICS.index("anomaly_product") : STATISTICS.index("correlated_samples")] = torch.nan

    def store(number: int, **sums: Tensor | float) -> None:
        for statistic, value in sums.items():
            values[:, :, number, :, STATISTICS.index(statistic)] = value

    for number, channel in enumerate(channels):
        forecast, truth = _points(prediction, number), _points(target, number)
        has_forecast, has_truth = _known(prediction, number), _known(target, number)
        use = has_forecast & has_truth
        if where is not None:
            use = use & where[:, :, number].flatten(2)
        error = torch.where(use, forecast - truth, 0.0)
        squared = error.square()
        covered = use.double() @ both
        store(
            number,
            weight=covered[..., : len(regions)],
            points=covered[..., len(regions) :],
            squared_error=squared @ weights,
            absolute_error=error.abs() @ weights,
            error=error @ weights,
            missing_forecast=_count(has_truth & ~has_forecast, inside),
            missing_truth=_count(~has_truth, inside),
            **_pattern(forecast, truth, use, weights),
        )
        if channel in components:
            of_component[channel] = squared, use, has_forecast, has_truth
        if climatology is not None and channel in anomalies_of:
            position = climatology.frame.channels.index(channel)
            normal, use = _points(climatology, position), use & _known(climatology, position)
            forecast = torch.where(use, forecast - normal, 0.0)
            truth = torch.where(use, truth - normal, 0.0)
            product, ours, theirs = (forecast * truth) @ weights, forecast.square() @ weights, truth.square() @ weights
            correlation = product / (ours * theirs).sqrt()
            store(
                number,
                anomaly_product=product,
                forecast_anomaly_squared=ours,
                truth_anomaly_squared=theirs,
                anomaly_correlation=correlation.nan_to_num(0.0),
                correlated_samples=correlation.isfinite().double(),
            )
    for number, (eastward, northward) in enumerate(pairs.values(), start=len(channels)):
        (u_squared, *u_masks), (v_squared, *v_masks) = of_component[eastward], of_component[northward]
        use, has_forecast, has_truth = (u & v for u, v in zip(u_masks, v_masks, strict=True))
        covered = use.double() @ both
        squared = torch.where(use, u_squared + v_squared, 0.0)
        store(
            number,
            weight=covered[..., : len(regions)],
            points=covered[..., len(regions) :],
            squared_error=squared @ weights,
            absolute_error=squared.sqrt() @ weights,
            error=torch.nan,
            missing_forecast=_count(has_truth & ~has_forecast, inside),
            missing_truth=_count(~has_truth, inside),
        )
    return Sums(values, scored, tuple(regions))


def _pattern(
    forecast: Float64[Tensor, "batch time point"],
    truth: Float64[Tensor, "batch time point"],
    use: Bool[Tensor, "batch time point"],
    weights: Float64[Tensor, "point region"],
) -> dict[str, Tensor]:
    """Return the correlation of each pair of maps over the points used, not counted where a map is constant."""
    # About any constant the variances are the same; one near the values keeps their digits.
    near = torch.where(use, truth, 0.0).sum(-1, keepdim=True) / use.sum(-1, keepdim=True).clamp(min=1)
    forecast, truth = (torch.where(use, values - near, 0.0) for values in (forecast, truth))
    weight = use.double() @ weights
    ours, theirs = forecast @ weights / weight, truth @ weights / weight
    covariance = (forecast * truth) @ weights / weight - ours * theirs
    squares = torch.stack([forecast.square() @ weights, truth.square() @ weights]) / weight
    variances = squares - torch.stack([ours, theirs]).square()
    varies = (variances > _CONSTANT * (squares + near.square())).all(0)
    correlation = torch.where(varies, covariance / variances.prod(0).sqrt(), 0.0)
    return {"pattern_correlation": correlation, "pattern_samples": varies.double()}


def _points(fields: Fields, channel: int) -> Float64[Tensor, "batch time point"]:
    return fields.values[:, :, channel].flatten(2).double()


def _known(fields: Fields, channel: int) -> Bool[Tensor, "batch time point"]:
    finite = fields.values[:, :, channel].isfinite()
    return (finite if fields.valid is None else finite & fields.valid[:, :, channel]).flatten(2)


def _count(mask: Bool[Tensor, "batch time point"], inside: Float[Tensor, "point region"]) -> Tensor:
    return mask.double() @ inside


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
