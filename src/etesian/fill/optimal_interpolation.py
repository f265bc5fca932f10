"""Optimal interpolation in space and time, tile by tile, with the variance of its error.

Its covariance is fitted by restricted maximum likelihood.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray
from rich.progress import track
from scipy.linalg import cholesky, solve_triangular
from scipy.optimize import minimize
from scipy.special import expit

from etesian.core.constants import EARTH_RADIUS
from etesian.core.errors import DataError
from etesian.core.grid import Grid
from etesian.fill.dineof import withhold
from etesian.fill.interpolate import Days, Filled, Gappy

_Vector = Float[np.ndarray, " n"]

BROADER = 4
"""How much broader and longer than the narrow part of the covariance its broad part is."""

_CLUSTER = 250

_LEAST_BROAD = 0.05
"""Share of the variance below which observations further out are not looked for."""

_TARGETS = 8192

_BESIDE = 2
"""Points next to a tile whose observations on its days are all taken."""

_LEAST_THINNED = 200
"""Observations further out that are taken at least, if there are as many."""

_CHECKED = 80
"""Tiles and spans of time in which observations are withheld to find how wrong the stated deviations are."""

_IN_90 = 1.6449
"""Standard deviations of a Gaussian from its mean to the ends of its central 90 %."""


@dataclass(frozen=True)
class Covariance:
    """Gaussian covariance of what is observed, in space and time, and uncorrelated noise of the observations.

    s² [(1 − b) exp(−d²/2L² − t²/2τ²) + b exp(−d²/32L² − t²/32τ²)] between two points a distance d and a time t apart;
    distances are chords of the sphere.

    Attributes:
        deviation: s, in the units of the observations.
        length: L, km.
        duration: τ, days.
        noise: standard deviation of an observation's error.
        broad: b, the share of the variance that is four times as broad and lasts four times as long.
        widening: what the deviations that follow from all this are multiplied by.
    """

    deviation: float
    length: float
    duration: float
    noise: float
    broad: float = 0.0
    widening: float = 1.0

    def correlation(self, ours: Float[np.ndarray, "m 4"], theirs: Float[np.ndarray, "n 4"]) -> Float[np.ndarray, "m n"]:
        """Return the correlation between points (x, y, z in km, days)."""
        scale = np.array([self.length] * 3 + [self.duration]) * np.sqrt(2)
        a, b = ours / scale, theirs / scale
        squared = np.square(a).sum(1)[:, None] + np.square(b).sum(1) - 2 * a @ b.T
        return self._mixed(-np.maximum(squared, 0))

    def in_time(self, days: _Vector) -> Float[np.ndarray, "day day"]:
        """Return the correlation of one place with itself between days."""
        return self._mixed(-((days[:, None] - days) ** 2) / (2 * self.duration**2))

    def _mixed(self, exponent: NDArray[np.float64]) -> NDArray[np.float64]:
        narrow = np.exp(exponent)
        if self.broad == 0:
            return np.asarray(narrow)
        return np.asarray((1 - self.broad) * narrow + self.broad * np.exp(exponent / BROADER**2))


def fit_covariance(data: Gappy, *, clusters: int = 12, seed: int = 0) -> Covariance:
    """Fit the covariance by restricted maximum likelihood to random clusters of observations.

    Each cluster has a mean of its own; clusters are of different sizes, so that near and far pairs count.

    Args:
        data: what was observed.
        clusters: number of clusters, of up to 250 observations each.
        seed: of their choice.

    Raises:
        DataError: if there are fewer than ten observations.
    """
    observed = data.observed
    if observed.sum() < 10:
        raise DataError(f"a covariance cannot be fitted to {int(observed.sum())} observations")
    random = np.random.default_rng(seed)
    samples = [_cluster(data, observed, random) for _ in range(clusters)]
    step = spacing(data.grid)
    days = float(np.median(np.diff(data.days))) if data.days.size > 1 else 1.0
    span = max(np.ptp(data.days), days)

    def evaluate(logarithms: _Vector) -> tuple[float, Covariance]:
        length, duration, ratio = np.exp(logarithms[:3]).tolist()
        broad = float(expit(logarithms[3]))
        shape = Covariance(1.0, length, duration, 0.0, broad)
        squares, determinants, freedom = 0.0, 0.0, 0
        for positions, values in samples:
            correlation = shape.correlation(positions, positions)
            correlation[np.diag_indices_from(correlation)] += ratio
            root = cholesky(correlation, lower=True, check_finite=False)
            white = solve_triangular(
                root, np.column_stack([values, np.ones_like(values)]), lower=True, check_finite=False
            )
            own = white[:, 1] @ white[:, 1]
            residual = white[:, 0] - white[:, 1] * (white[:, 0] @ white[:, 1]) / own
            squares += residual @ residual
            determinants += 2 * np.log(np.diag(root)).sum() + np.log(own)
            freedom += values.size - 1
        variance = max(squares / freedom, 1e-300)
        fitted = Covariance(float(np.sqrt(variance)), length, duration, float(np.sqrt(variance * ratio)), broad)
        return freedom * np.log(variance) + determinants, fitted

    bounds = np.log([(step, 400 * step), (0.3 * days, 10 * span), (1e-5, 10.0)])
    start = np.log([8 * step, max(0.3 * span, days), 0.05]).clip(*bounds.T)
    bounds, start = np.vstack([bounds, [-6, 6]]), np.append(start, -1.0)
    found = minimize(
        lambda x: evaluate(x)[0], start, method="Nelder-Mead", bounds=bounds,
        options={"xatol": 0.02, "fatol": 0.1, "maxfev": 350},
    )  # fmt: skip
    return evaluate(found.x)[1]


def positions(grid: Grid) -> Float[np.ndarray, "lat lon 3"]:
    """Return the points on the sphere, km."""
    return EARTH_RADIUS / 1000 * grid.unit_vectors


def spacing(grid: Grid) -> float:
    """Return the distance between neighbouring latitudes, km."""
    steps = np.diff(grid.latitude)
    return float(np.radians(np.median(steps) if steps.size else 1.0) * EARTH_RADIUS / 1000)


def _cluster(
    data: Gappy, observed: NDArray[np.bool_], random: np.random.Generator
) -> tuple[Float[np.ndarray, "n 4"], _Vector]:
    """Draw observations from a box of random size about a random one."""
    centre = np.unravel_index(random.choice(np.flatnonzero(observed)), observed.shape)
    half = int(np.exp(random.uniform(np.log(4), np.log(60))))
    rows = np.arange(max(0, centre[1] - half), min(observed.shape[1], centre[1] + half + 1))
    columns = np.arange(centre[2] - half, centre[2] + half + 1)
    columns = (
        np.unique(columns % observed.shape[2]) if data.grid.is_periodic else columns.clip(0, observed.shape[2] - 1)
    )
    near = np.flatnonzero(abs(np.arange(observed.shape[0]) - centre[0]) <= 15)
    box = np.ix_(near, rows, np.unique(columns))
    found = np.argwhere(observed[box])
    found = found[random.choice(len(found), min(len(found), _CLUSTER), replace=False)]
    day, row, column = (axis.ravel()[found[:, i]] for i, axis in enumerate(box))
    return np.column_stack([positions(data.grid)[row, column], data.days[day]]), data.values[day, row, column]


class Estimate(NamedTuple):
    """Filled fields, and the error of their means over groups of days.

    Attributes:
        filled: daily fields with the standard deviation of their error.
        mean_deviation: standard deviation of the error of the mean over each group of days.
        covariance: what it was made with.
    """

    filled: Filled
    mean_deviation: Float[np.ndarray, "group lat lon"]
    covariance: Covariance


def optimal_interpolation(
    data: Gappy,
    covariance: Covariance | None = None,
    *,
    groups: Sequence[int] | None = None,
    max_observations: int = 600,
    progress: bool = False,
) -> Estimate:
    """Interpolate all points from the observations around them, with the least expected square error.

    The posterior of a Gaussian process with a mean that is unknown and locally constant (ordinary kriging). Tiles are
    interpolated, for spans of τ/2, from the observations within 2.5 of the broader length and 2.5 τ. Those in the tile
    and next to it on the days of the span are all taken, whatever their number, so that no estimate is worse than the
    observation at its point; where the others are more than can be taken as well, one is taken of each block of
    neighbours, of larger blocks away from the tile than near it. Where there are none, the search goes on further out.
    The error of a mean is that of one such estimate for the whole group, at most the mean of the errors, and a little
    too large where spans are shorter.

    Args:
        data: what was observed.
        covariance: fitted to the observations if None; then its `widening` is such that of observations withheld under
            the clouds of other days 90 % lie within their 90 % intervals, too.
        groups: number of the group of each time, such as its month, ascending. The mean over each is estimated with its
            own error, which is not that of a day. By default groups of 32 times.
        max_observations: taken for a tile, of which those in and next to it may be more.
        progress: show a progress bar.
    """
    if covariance is None:
        covariance = fit_covariance(data)
        covariance = replace(covariance, widening=_widening(data, covariance, max_observations))
    number = np.asarray(groups if groups is not None else np.arange(data.days.size) // 32)
    values, deviation = (np.full(data.values.shape, np.nan) for _ in range(2))
    names = np.unique(number)
    means = np.full((names.size, *data.grid.shape), np.nan)
    around = positions(data.grid)
    tiles = []
    for i, name in enumerate(names):
        times = np.flatnonzero(number == name)
        spans = _blocks(data.days, times, covariance.duration)
        tiles += [(i, times, *tile) for tile in _tiles(data, spans, max_observations)]
    search = _Search(data, around, covariance, max_observations)
    for i, times, rows, columns in track(tiles, "Interpolating", disable=not progress, transient=True):
        sea = data.sea[rows, columns]
        points = around[rows, columns][sea]
        blocks = _blocks(data.days, times, covariance.duration)
        for block in blocks:
            found = _posterior(covariance, search.gather(block, rows, columns), points, data.days[block])
            for fields, part in zip((values, deviation), found[:2], strict=True):
                fields[block[0] : block[-1] + 1, rows, columns][:, sea] = part
        if len(blocks) > 1:
            found = _posterior(covariance, search.gather(times, rows, columns, thin=True), points, data.days[times])
        # The error of a mean is no larger than the mean of the errors.
        most = deviation[times[0] : times[-1] + 1, rows, columns][:, sea].mean(0)
        means[i, rows, columns][sea] = np.minimum(found[2], most)
    return Estimate(Filled(values, deviation), means, covariance)


def _widening(data: Gappy, covariance: Covariance, most: int) -> float:
    """Return what deviations must be multiplied by for 90 % of withheld observations to lie in their 90 % intervals."""
    hidden = withhold(data, 0.05, "clouds")
    rest = Gappy(np.where(hidden, np.nan, data.values), data.sea, data.days, data.grid)
    around = positions(data.grid)
    search = _Search(rest, around, covariance, most)
    random = np.random.default_rng(0)
    blocks = _blocks(data.days, np.arange(data.days.size), covariance.duration)
    tiles = list(_tiles(rest, blocks, most))
    cases = [(block, *tile) for block in blocks for tile in tiles if hidden[block][(slice(None), *tile)].any()]
    ratios = []
    for number in random.permutation(len(cases))[:_CHECKED]:
        block, rows, columns = cases[number]
        asked = hidden[block][:, rows, columns]
        where = asked.any(0)
        found = _posterior(
            covariance, search.gather(block, rows, columns), around[rows, columns][where], data.days[block]
        )
        known = asked[:, where]
        error = found[0] - data.values[block][:, rows, columns][:, where]
        ratios.append(abs(error / found[1])[known] / _IN_90)
    return float(np.clip(np.quantile(np.concatenate(ratios), 0.9), 0.5, 5.0)) if ratios else 1.0


def _blocks(days: _Vector, times: NDArray[np.int64], duration: float) -> list[NDArray[np.int64]]:
    """Cut the times of a group into spans of τ/2, so that near days are seen in detail."""
    label = np.floor((days[times] - days[times[0]]) / (duration / 2)).astype(np.int64)
    return np.split(times, np.flatnonzero(np.diff(label)) + 1)


class _Observations(NamedTuple):
    positions: Float[np.ndarray, "n 4"]
    values: _Vector


def _posterior(
    covariance: Covariance,
    observed: _Observations,
    points: Float[np.ndarray, "point 3"],
    days: _Vector,
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Return mean and standard deviation (day, point), and the standard deviation of the mean over days (point)."""
    variance, noise = covariance.deviation**2, covariance.noise**2
    own = variance * covariance.correlation(observed.positions, observed.positions)
    # A trace of noise keeps what is smooth and dense solvable.
    own[np.diag_indices_from(own)] += noise + 1e-9 * variance
    root = cholesky(own, lower=True, check_finite=False)
    centre = observed.values.mean()
    white = solve_triangular(
        root, np.column_stack([observed.values - centre, np.ones_like(observed.values)]), lower=True, check_finite=False
    )
    information = white[:, 1] @ white[:, 1]
    mean = white[:, 0] @ white[:, 1] / information
    targets = np.concatenate([np.column_stack([points, np.full(len(points), day)]) for day in days])
    cross = variance * covariance.correlation(observed.positions, targets)
    cross = solve_triangular(root, cross, lower=True, check_finite=False, overwrite_b=True)
    shape = (days.size, len(points))
    estimate = (cross.T @ (white[:, 0] - mean * white[:, 1]) + mean + centre).reshape(shape)
    # What is not known of the local mean adds to the error (universal kriging with a constant).
    lack = (1 - cross.T @ white[:, 1]).reshape(shape)
    error = variance - np.square(cross).sum(0).reshape(shape) + lack**2 / information
    together = cross.reshape(-1, *shape).mean(1)
    prior = variance * covariance.in_time(days).mean()
    error_of_mean = prior - np.square(together).sum(0) + lack.mean(0) ** 2 / information
    least = 1e-12 * variance
    deviations = (covariance.widening * np.sqrt(np.maximum(x, least)) for x in (error, error_of_mean))
    return estimate, next(deviations), next(deviations)


class _Search(NamedTuple):
    """Looks for the observations that a tile is estimated from.

    Attributes:
        data: what was observed.
        positions: of the grid's points.
        covariance: how far observations count.
        most: to take, unless more lie in and next to the tile.
    """

    data: Gappy
    positions: Float[np.ndarray, "lat lon 3"]
    covariance: Covariance
    most: int

    def gather(self, times: NDArray[np.int64], rows: slice, columns: slice, *, thin: bool = False) -> _Observations:
        """Return the observations for a tile and successive times: nearby ones, and those further out more coarsely.

        Args:
            times: of which the tile is asked for.
            rows: of the tile.
            columns: of the tile.
            thin: also in and next to the tile.
        """
        data, covariance = self.data, self.covariance
        broader = BROADER if covariance.broad > _LEAST_BROAD else 1
        reach_days = 2.5 * covariance.duration
        near = (data.days >= data.days[times[0]] - reach_days) & (data.days <= data.days[times[-1]] + reach_days)
        reach = 2.5 * covariance.length * broader
        beside = (_BESIDE + 0.5) * spacing(data.grid)
        while True:
            beside_it, inner, outer = (
                _window(data, rows, columns, distance) for distance in (beside, 0.5 * covariance.length, reach)
            )
            values = data.values[near][:, outer[0]][:, :, outer[1]]
            known = data.observed[near][:, outer[0]][:, :, outer[1]]
            whole = outer[0].size == data.grid.shape[0] and outer[1].size == data.grid.shape[1]
            if known.sum() >= min(20, self.most) or (whole and near.all()):
                break
            reach *= 2
            if whole:
                near = np.ones_like(near)
        day = data.days[near]
        first, last = data.days[times[0]], data.days[times[-1]]
        soon = (day >= first - covariance.duration / 2) & (day <= last + covariance.duration / 2)
        inside = soon[:, None, None] & _within(outer, inner)
        kept = ((day >= first) & (day <= last))[:, None, None] & _within(outer, beside_it) & (not thin)
        left = max(self.most - int((known & kept).sum()), _LEAST_THINNED)
        positions = self.positions[outer[0]][:, outer[1]]
        parts = [_thinned(values, known & kept, positions, day, 1)]
        for ring, share in ((inside & ~kept, 0.6), (~inside & ~kept, 0.4)):
            allowed = int(known.sum()) if known.sum() <= self.most else max(int(share * left), 1)
            parts.append(_as_many(values, known & ring, positions, day, allowed))
        joined = [np.concatenate(arrays) for arrays in zip(*parts, strict=True)]
        return _Observations(*joined)


def _within(
    outer: tuple[NDArray[np.int64], NDArray[np.int64]], inner: tuple[NDArray[np.int64], NDArray[np.int64]]
) -> NDArray[np.bool_]:
    return np.isin(outer[0], inner[0])[:, None] & np.isin(outer[1], inner[1])


def _as_many(
    values: Days,
    known: NDArray[np.bool_],
    positions: Float[np.ndarray, "lat lon 3"],
    days: _Vector,
    allowed: int,
) -> _Observations:
    """Return the observations, or so few of them, spread evenly."""
    block = 1
    while True:
        part = _thinned(values, known, positions, days, block)
        if part.values.size <= allowed or block >= max(known.shape[1:]):
            return part
        block = max(block + 1, round(block * np.sqrt(part.values.size / allowed)))


def _thinned(
    values: Days,
    known: NDArray[np.bool_],
    positions: Float[np.ndarray, "lat lon 3"],
    days: _Vector,
    block: int,
) -> _Observations:
    """Return, for blocks of so many points each way and half as many days, the observation nearest to their middle."""
    day, row, column = np.nonzero(known)
    width = -(-known.shape[2] // block)
    label = (day // max(1, block // 2) * -(-known.shape[1] // block) + row // block) * width + column // block
    _, index = np.unique(label, return_inverse=True)
    count = np.bincount(index)
    off = np.zeros(index.size)
    for axis in (row, column):
        off += np.square(axis - (np.bincount(index, axis) / count)[index])
    order = np.lexsort((off, index))
    chosen = order[np.searchsorted(index[order], np.arange(count.size))]
    day, row, column = day[chosen], row[chosen], column[chosen]
    return _Observations(np.column_stack([positions[row, column], days[day]]), values[day, row, column])


def _window(data: Gappy, rows: slice, columns: slice, reach: float) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the rows and columns within a distance of a tile, round the globe where the grid is."""
    latitude, longitude = data.grid.latitude, data.grid.longitude
    degrees = np.degrees(1000 * reach / EARTH_RADIUS)
    south, north = latitude[rows][[0, -1]] + [-degrees, degrees]
    inside = np.flatnonzero((latitude >= south) & (latitude <= north))
    widest = np.cos(np.radians(min(max(abs(south), abs(north)), 90.0)))
    across = degrees / max(widest, 1e-3)
    west, east = longitude[columns][[0, -1]] + [-across, across]
    if east - west >= 360:
        return inside, np.arange(longitude.size)
    offset = (longitude - west) % 360 if data.grid.is_periodic else longitude - west
    ahead = np.flatnonzero((offset >= 0) & (offset <= east - west))
    return inside, ahead[np.argsort(offset[ahead], kind="stable")]


def _tiles(data: Gappy, blocks: Sequence[NDArray[np.int64]], most: int) -> Iterator[tuple[slice, slice]]:
    """Cut the grid so that about a quarter of the observations that can be taken lie in and next to a tile."""
    density = sum(float(data.observed[block].sum()) for block in blocks) / len(blocks) / max(int(data.sea.sum()), 1)
    times = sum(map(len, blocks))
    widest = np.sqrt(0.25 * most / max(density, 1e-9)) - 2 * _BESIDE
    size = int(np.clip(min(np.sqrt(_TARGETS / times), widest), 4, 24))
    for row in range(0, data.grid.shape[0], size):
        for column in range(0, data.grid.shape[1], size):
            tile = slice(row, row + size), slice(column, column + size)
            if data.sea[tile].any():
                yield tile
