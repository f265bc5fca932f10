"""Climatology by hour and day of the year as WeatherBench 2 defines it, and two harmonics of the year."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

from etesian.core.clock import YEAR_DAYS, Seconds, day_of_year, hour_of_day, seasonal_terms
from etesian.core.constants import SECONDS_PER_DAY

Float64 = NDArray[np.float64]

WINDOW = 61
"""Days of the year, centred, that enter the climatology of one day; the weight falls linearly to 0 at the ends."""

_LEAST_DETERMINED = 0.02


@dataclass(frozen=True)
class Seasons:
    """Which times of a training period count for which hour and day of the climatology.

    Attributes:
        time: of the training period, ascending, seconds since 1970-01-01 in `calendar`.
        calendar: CF name.
    """

    time: Seconds
    calendar: str

    @property
    def days(self) -> int:
        """Length of the longest year of the calendar."""
        return YEAR_DAYS.get(self.calendar, 366)

    @cached_property
    def covers_year(self) -> bool:
        """Whether the period is long enough to tell the season."""
        if self.time.size < 2:
            return False
        span = self.time[-1] - self.time[0] + int(np.median(np.diff(self.time)))
        return bool(span >= min(self.days, 365) * SECONDS_PER_DAY)

    @cached_property
    def is_daily(self) -> bool:
        """Whether no two times lie within one day, so that the hour tells nothing."""
        return self.time.size < 2 or bool(np.diff(self.time).min() >= SECONDS_PER_DAY)

    @cached_property
    def hours(self) -> tuple[int, ...]:
        """Hours of the climatology: 0, 6, 12 and 18 where the data have them, else those that they have."""
        hours, counts = np.unique(hour_of_day(self.time).astype(int), return_counts=True)
        if self.is_daily:
            return (int(hours[counts.argmax()]),)
        return tuple(int(h) for h in hours if h in (0, 6, 12, 18)) or tuple(int(h) for h in hours)

    @cached_property
    def cells(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Position on the hour axis (−1 for none) and on the day axis of each time."""
        day = day_of_year(self.time, self.calendar) - 1
        if self.is_daily:
            return np.zeros_like(day), day
        whole = hour_of_day(self.time)
        position = np.full(day.shape, -1)
        for i, hour in enumerate(self.hours):
            position[whole == hour] = i
        return position, day

    @cached_property
    def stands_for_day_366(self) -> NDArray[np.bool_]:
        """Whether a time is of day 365 of a year that has no day 366, for which it then counts too."""
        day = day_of_year(self.time, self.calendar)
        last = (day == 365) & (day_of_year(self.time + SECONDS_PER_DAY, self.calendar) == 1)
        return np.asarray(last & (self.days == 366))

    @cached_property
    def window(self) -> Float[np.ndarray, "day day"]:
        """Weight of each day of the year in the climatology of each, wrapped over New Year."""
        day = np.arange(self.days)
        distance = np.abs(day[:, None] - day[None, :])
        distance = np.minimum(distance, self.days - distance)
        return np.asarray(np.clip(1 - distance / (WINDOW // 2), 0, None))


class SeasonalSums:
    """Sums from which climatology and harmonics of some grid points follow, filled block by block in time.

    Args:
        seasons: of the whole training period.
        points: how many grid points.
        gaps: whether values may be missing.
    """

    def __init__(self, seasons: Seasons, points: int, *, gaps: bool) -> None:
        self.seasons = seasons
        self.gaps = gaps
        self.design = seasonal_terms(seasons.time, seasons.calendar)
        if not seasons.covers_year:
            self.design = self.design[:, :1]
        terms = self.design.shape[1]
        self._projection = np.zeros((terms, points))
        self._gram = np.zeros((terms, terms, points if gaps else 1))
        if seasons.covers_year:
            cells = (len(seasons.hours), seasons.days)
            self._sum = np.zeros((*cells, points))
            self._count = np.zeros((*cells, points if gaps else 1))

    def add(self, first: int, block: Float[np.ndarray, "time points"]) -> None:
        """Add times from position `first` of the training period on, NaN where missing."""
        times = slice(first, first + len(block))
        design = self.design[times]
        if self.gaps:
            valid = (~np.isnan(block)).astype(np.float64)
            block = np.nan_to_num(block, nan=0.0)
        else:
            valid = np.ones((len(block), 1))
        self._projection += design.T @ block
        terms = design.shape[1]
        products = (design[:, :, None] * design[:, None, :]).reshape(len(block), -1)
        self._gram += (products.T @ valid).reshape(terms, terms, -1)
        if not self.seasons.covers_year:
            return
        hours, days = (cell[times] for cell in self.seasons.cells)
        twice = self.seasons.stands_for_day_366[times]
        for i in np.flatnonzero(hours >= 0):
            for day in (days[i], days[i] + 1) if twice[i] else (days[i],):
                self._sum[hours[i], day] += block[i]
                self._count[hours[i], day] += valid[i]

    def climatology(self) -> Float[np.ndarray, "hour day points"]:
        """Return the weighted means, NaN where no value lies within the window."""
        with np.errstate(invalid="ignore", divide="ignore"):
            result = np.matmul(self.seasons.window, self._sum) / np.matmul(self.seasons.window, self._count)
        return np.asarray(result.astype(np.float32))

    def observed(self) -> NDArray[np.bool_]:
        """Return which points have any value."""
        return np.broadcast_to(self._gram[0, 0] > 0, (self._projection.shape[1],))

    def coefficients(self, fallback: Float[np.ndarray, " points"]) -> Float[np.ndarray, "harmonic=5 points"]:
        """Return the least-squares coefficients of 1, cos φ, sin φ, cos 2φ, sin 2φ.

        Where the observed times do not determine the cycle (a sea that freezes over for half of the year), only
        the constant is fitted; where nothing is observed it is `fallback`.
        """
        terms, points = self._projection.shape
        gram = np.moveaxis(self._gram, -1, 0)
        count = gram[:, 0, 0]
        determined = np.linalg.eigvalsh(gram / np.maximum(count, 1)[:, None, None])[:, 0] > _LEAST_DETERMINED
        solvable = np.where(determined[:, None, None], gram, np.eye(terms))
        cycle = np.linalg.solve(solvable, self._projection.T[:, :, None])[:, :, 0]
        result = np.zeros((5, points))
        result[:terms] = np.where(np.broadcast_to(determined, (points,)), cycle.T, 0)
        constant = np.where(count > 0, self._projection[0] / np.maximum(count, 1), fallback)
        result[0] = np.where(np.broadcast_to(determined, (points,)), result[0], constant)
        return result.astype(np.float32)
