"""The error of means over an area and over a month beside what is said of it: whether errors are as alike as stated."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

from etesian.core.clock import month_start
from etesian.fill.pairs import FilledCase, FilledPairs
from etesian.scores.registry import Variables, estimates

Array = NDArray[np.float64]

MEANS = ("area_mean", "month_mean")
"""The mean over the area at each time, and the mean over each month's times at each point."""

MEAN_SCORES = ("rmse", "spread", "spread_skill")

_SUMS = ("squared_error", "weight", "stated_squared_error", "stated_variance", "stated_weight")


class MeanSums:
    """Sums of the squared errors of means, and of the variances stated for them.

    Members state the variance of their means times (M + 1) / M. A field with standard deviations and no members says
    nothing of how alike errors are: they are taken as independent from point to point and from time to time. A mean
    over a month is over the times at which its point is scored.

    Args:
        pairs: single times that are scored.
        area: of the points.
    """

    def __init__(self, pairs: FilledPairs, area: Float[np.ndarray, "lat lon"]) -> None:
        self.names, self.channels, self.area = list(pairs.filled), len(pairs.channels), area
        months = month_start(pairs.time, pairs.calendar)
        _, self.month = np.unique(months, return_inverse=True)
        self.last = np.searchsorted(self.month, self.month, side="right") - 1
        lead = len(self.names), self.channels
        self.sums = {
            mean: {name: np.zeros((count, *lead)) for name in _SUMS}
            for mean, count in zip(MEANS, (pairs.time.size, self.month.max() + 1), strict=True)
        }
        # Of the month that has begun, by channel and name: sums of errors and of members' departures or variances.
        self.count: dict[int, Array] = {}
        self.error: dict[tuple[int, str], Array] = {}
        self.scatter: dict[tuple[int, str], Array] = {}

    def add(self, number: int, channel: int, case: FilledCase, use: NDArray[np.bool_]) -> None:
        """Take one time of one channel into account, at the points that are scored."""
        if channel not in self.count:
            self.count[channel] = np.zeros(self.area.shape)
        self.count[channel] += use
        weight = np.where(use, self.area, 0.0)
        for place, name in enumerate(self.names):
            at = number, place, channel
            error = np.where(use, case.filled[name] - case.truth, 0.0)
            scatter = self._scatter(name, case, use)
            self._keep(self.error, (channel, name), error)
            if scatter is not None:
                self._keep(self.scatter, (channel, name), scatter)
            if use.any():
                mean = weight / weight.sum()
                variance = None if scatter is None else self._variance(scatter, mean, over=(-2, -1))
                self._sum(MEANS[0], at, np.sum(mean * error), variance, 1.0)
        if number == self.last[number]:
            self._end_month(int(self.month[number]), channel)

    def _end_month(self, month: int, channel: int) -> None:
        count = self.count.pop(channel)
        seen = count > 0
        for place, name in enumerate(self.names):
            error = self.error.pop((channel, name))[seen] / count[seen]
            scatter = self.scatter.pop((channel, name), None)
            variance = None if scatter is None else self._variance(scatter[..., seen], 1 / count[seen], over=())
            self._sum(MEANS[1], (month, place, channel), error, variance, self.area[seen])

    @staticmethod
    def _scatter(name: str, case: FilledCase, use: NDArray[np.bool_]) -> Array | None:
        """Return members' departures from their mean, or variances where a deviation is stated; 0 where not scored."""
        if name in case.members:
            return np.where(use, case.members[name] - case.filled[name], 0.0)
        return np.where(use, case.deviation[name] ** 2, 0.0)[None] if name in case.deviation else None

    @staticmethod
    def _variance(scatter: Array, weight: Array, *, over: tuple[int, ...]) -> Array:
        """Return the variance of weighted sums: of members, or of what errs independently."""
        if len(scatter) == 1:
            return np.asarray((weight**2 * scatter[0]).sum(over))
        count = len(scatter)
        return np.asarray((weight * scatter).sum(over).var(0, ddof=1) * (count + 1) / count)

    @staticmethod
    def _keep(sums: dict[tuple[int, str], Array], key: tuple[int, str], values: Array) -> None:
        sums[key] = sums[key] + values if key in sums else values

    def _sum(self, mean: str, at: tuple[int, ...], error: Any, variance: Array | None, weight: Any) -> None:
        sums = self.sums[mean]
        sums["squared_error"][at] += np.sum(weight * error**2)
        sums["weight"][at] += np.sum(weight)
        if variance is not None:
            # Of a mean a part of which states nothing, nothing is stated.
            stated = np.isfinite(variance)
            sums["stated_squared_error"][at] += np.sum(np.where(stated, weight * error**2, 0.0))
            sums["stated_variance"][at] += np.sum(np.where(stated, weight * variance, 0.0))
            sums["stated_weight"][at] += np.sum(np.where(stated, weight, 0.0))

    def result(self, dims: Sequence[str]) -> Variables:
        """Return error, spread and their ratio for both means, with 95 % intervals."""
        found: Variables = {}
        for mean, sums in self.sums.items():
            values = estimates(sums, MEAN_SCORES, tuple(dims))
            found |= {
                f"{score}_of_{mean}{end}": values[f"{score}{end}"]
                for score in MEAN_SCORES
                for end in ("", "_low", "_high")
            }
        return found
