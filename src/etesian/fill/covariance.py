"""The covariance in space and time of gappy fields, fitted by restricted maximum likelihood."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray
from scipy.linalg import cholesky, solve_triangular
from scipy.optimize import minimize
from scipy.special import expit

from etesian.core.constants import EARTH_RADIUS
from etesian.core.errors import DataError
from etesian.core.grid import Grid
from etesian.fill.interpolate import Gappy

_Vector = Float[np.ndarray, " n"]

BROADER = 4
"""How much broader and longer than the narrow part of the covariance its broad part is."""

_CLUSTER = 250


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
        """Return the correlation between places (x, y, z in km, days)."""
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
        for places, values in samples:
            correlation = shape.correlation(places, places)
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


def places(grid: Grid) -> Float[np.ndarray, "lat lon 3"]:
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
    return np.column_stack([places(data.grid)[row, column], data.days[day]]), data.values[day, row, column]
