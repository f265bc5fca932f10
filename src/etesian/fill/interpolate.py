"""Gaps filled without learning: mean of the observed days, climatology, linear interpolation."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.interpolate import LinearNDInterpolator, NearestNDInterpolator
from scipy.ndimage import binary_dilation

from etesian.core.errors import DataError
from etesian.core.grid import Grid

Days = Float[np.ndarray, "time lat lon"]

Groups = Int[np.ndarray, " time"]


@dataclass(frozen=True)
class Gappy:
    """Fields of successive times with gaps.

    Attributes:
        values: in any units, float64; NaN where nothing was observed. What lies on land is not looked at.
        sea: True where a field is wanted.
        days: when, in days since any date; strictly ascending.
        grid: of the fields.

    Raises:
        DataError: if shapes do not fit together, times do not ascend, or nothing was observed at sea.
    """

    values: Days
    sea: Bool[np.ndarray, "lat lon"]
    days: Float[np.ndarray, " time"]
    grid: Grid

    def __post_init__(self) -> None:
        if self.values.shape != (self.days.size, *self.grid.shape) or self.sea.shape != self.grid.shape:
            raise DataError(
                f"the fields have shape {self.values.shape}, their times and grid {(self.days.size, *self.grid.shape)}"
            )
        if (np.diff(self.days) <= 0).any():
            raise DataError(
                "the times of the fields are not strictly ascending; sort them and drop what is there twice"
            )
        if not self.observed.any():
            raise DataError("nothing was observed at sea in the whole period, so there is nothing to fill gaps from")

    @property
    def observed(self) -> Bool[np.ndarray, "time lat lon"]:
        """Where there is an observation at sea."""
        return np.asarray(np.isfinite(self.values) & self.sea)


@dataclass(frozen=True)
class Filled:
    """Fields without gaps; NaN on land, and at sea where the method has no answer.

    Attributes:
        values: in the units of the observations.
        deviation: standard deviation of the error, in the same units, of a method that knows one.
    """

    values: Days
    deviation: Days | None = None


def observed_mean(data: Gappy, groups: Groups | None = None) -> Filled:
    """Fill every day with the mean of the days of its group, such as its month, observed at the point.

    Where none was, it is the mean over all observations of the group, weighted by area.

    Args:
        data: what was observed.
        groups: number of the group of each time; all are one by default.
    """
    return climatology_anomaly(data, np.zeros_like(data.values), groups)


def climatology_anomaly(data: Gappy, climatology: Days, groups: Groups | None = None) -> Filled:
    """Add the mean anomaly of the days of a group, such as a month, observed at a point to its climatology.

    Where none was, the anomaly is the mean over all observations of the group, weighted by area; where the group has
    none, over all observations.

    Args:
        data: what was observed.
        climatology: at the same times; NaN where it is not known.
        groups: number of the group of each time; all are one by default.
    """
    anomaly = data.values - climatology
    known = data.observed & np.isfinite(anomaly)
    if not known.any():
        raise DataError("the climatology is not known at any point that was observed")
    anomaly = np.where(known, anomaly, 0.0)
    weight = known * data.grid.area_weights[:, None]
    total = (weight * anomaly).sum((1, 2)), weight.sum((1, 2))
    everywhere = total[0].sum() / total[1].sum()
    values = np.empty_like(data.values)
    number = np.zeros(data.days.size, dtype=np.int64) if groups is None else groups
    for group in np.unique(number):
        own = number == group
        count, seen = known[own].sum(0), total[1][own].sum()
        elsewhere = total[0][own].sum() / seen if seen else everywhere
        values[own] = climatology[own] + np.where(count, anomaly[own].sum(0) / np.maximum(count, 1), elsewhere)
    return Filled(np.where(data.sea, values, np.nan))


def linear(data: Gappy) -> Filled:
    """Interpolate linearly in time, then in space.

    Each point is interpolated between the observations before and after, and keeps the first before it and the last
    after it. Points that were never observed are then interpolated on each day between those around them, on a Delaunay
    triangulation in grid points, round the globe where the grid is periodic; the nearest point outside the hull.
    """
    values = _in_time(data)
    known = data.observed.any(0)
    wanted = data.sea & ~known
    if not wanted.any():
        return Filled(values)
    columns = data.sea.shape[1]
    # Only the points that border on gaps make a difference.
    bordered = np.pad(wanted, ((0, 0), (1, 1)), mode="wrap" if data.grid.is_periodic else "constant")
    rim = known & binary_dilation(bordered, np.ones((3, 3), bool))[:, 1:-1]
    rim = rim if rim.any() else known
    rows, cols = np.nonzero(rim)
    samples = values[:, rows, cols].T
    points = np.column_stack([rows, cols]).astype(np.float64)
    if data.grid.is_periodic:
        points = np.concatenate([points + np.array([0, shift]) for shift in (-columns, 0, columns)])
        samples = np.tile(samples, (3, 1))
    targets = np.argwhere(wanted).astype(np.float64)
    answer = np.full((len(targets), len(values)), np.nan)
    if len(np.unique(points[:, 0])) > 1 and len(np.unique(points[:, 1])) > 1 and len(points) > 3:
        answer = LinearNDInterpolator(points, samples)(targets)
    outside = np.isnan(answer).any(1)
    if outside.any():
        answer[outside] = NearestNDInterpolator(points, samples)(targets[outside])
    values[:, wanted] = answer.T
    return Filled(values)


def _in_time(data: Gappy) -> Days:
    """Interpolate every point in time between its observations; NaN where there are none."""
    observed = data.observed
    number = np.arange(data.days.size)[:, None, None]
    before = np.maximum.accumulate(np.where(observed, number, -1), axis=0)
    after = np.minimum.accumulate(np.where(observed, number, data.days.size)[::-1], axis=0)[::-1]
    ever = observed.any(0)
    before = np.where(before < 0, np.minimum(after, data.days.size - 1), before)
    after = np.where(after == data.days.size, before, after)
    low, high = (np.take_along_axis(data.values, index, axis=0) for index in (before, after))
    start, span = data.days[before], data.days[after] - data.days[before]
    share = np.where(span > 0, (data.days[:, None, None] - start) / np.where(span > 0, span, 1.0), 0.0)
    return np.where(ever, low + share * (high - low), np.nan)
