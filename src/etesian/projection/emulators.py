"""Statistical emulators of a climate model, from a year's emissions to its maps: what projections are compared with.

Linear pattern scaling as in Lütjens et al. 2025 (doi 10.1029/2024MS004619), a Gaussian process and a random forest as
in ClimateBench (doi 10.1029/2021MS002954).
"""

import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray
from sklearn.ensemble import RandomForestRegressor
from sklearn.exceptions import ConvergenceWarning
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import ConstantKernel, Matern, WhiteKernel

from etesian.core.grid import Grid
from etesian.projection.scores import domain_mean

Inputs = Float[np.ndarray, "sample input lat lon"]

Targets = Float[np.ndarray, "sample target lat lon"]

Table = Float[np.ndarray, "sample column"]

Wanted = Float[np.ndarray, "sample amplitude"]

INPUT_PATTERNS, TARGET_PATTERNS = 5, 10
"""Leading patterns that stand for maps of an input and of a target."""


class Emulator(ABC):
    """Predicts the maps of a year from the inputs of that year alone.

    Args:
        inputs: of the years to fit.
        targets: of the same years.
        grid: of both.
    """

    @abstractmethod
    def __init__(self, inputs: Inputs, targets: Targets, grid: Grid) -> None: ...

    @abstractmethod
    def predict(self, inputs: Inputs) -> Targets:
        """Return the targets of other years."""


class PatternScaling(Emulator):
    """Two least-squares lines: the domain's mean of the first target from the inputs' means, then each point from it.

    In ClimateBench the first target is temperature.

    Args:
        inputs: of the years to fit.
        targets: of the same years.
        grid: of both.

    Attributes:
        slope: what the domain's mean is at inputs of zero, and by how much it rises with the mean of each input.
        maps: the targets where that mean is zero, and by how much they rise with it.
    """

    slope: Float[np.ndarray, " one_more_input"]
    maps: Float[np.ndarray, "2 target lat lon"]

    def __init__(self, inputs: Inputs, targets: Targets, grid: Grid) -> None:
        self._grid = grid
        means = domain_mean(inputs, grid)
        scale = _nonzero(means.std(0))
        level = domain_mean(targets[:, :1], grid)
        slope = np.linalg.lstsq(_with_constant((means - means.mean(0)) / scale), level, rcond=None)[0]
        slope[1:] /= scale[:, None]
        slope[0] -= means.mean(0) @ slope[1:]
        flat = targets.reshape(len(targets), -1).astype(np.float64)
        maps = np.linalg.lstsq(_with_constant(level), flat, rcond=None)[0]
        self.slope, self.maps = slope[:, 0], maps.reshape(2, *targets.shape[1:])

    def predict(self, inputs: Inputs) -> Targets:
        """Return the targets of other years."""
        level = _with_constant(domain_mean(inputs, self._grid)) @ self.slope
        return np.asarray(self.maps[0] + level[:, None, None, None] * self.maps[1])


class _Regressed(Emulator):
    """A regression between the leading patterns of inputs and those of each target."""

    def __init__(self, inputs: Inputs, targets: Targets, grid: Grid) -> None:
        self._inputs = [_Patterns(inputs[:, number], grid, INPUT_PATTERNS) for number in range(inputs.shape[1])]
        self._targets = [_Patterns(targets[:, number], grid, TARGET_PATTERNS) for number in range(targets.shape[1])]
        table = self._table(inputs)
        self._fitted = [
            self.fit(table, patterns.reduce(targets[:, number])) for number, patterns in enumerate(self._targets)
        ]

    @staticmethod
    @abstractmethod
    def fit(predictors: Table, wanted: Wanted) -> Callable[[Table], Table]:
        """Return a fitted function of predictors."""

    def predict(self, inputs: Inputs) -> Targets:
        """Return the targets of other years."""
        table = self._table(inputs)
        maps = [p.rebuild(fitted(table)) for p, fitted in zip(self._targets, self._fitted, strict=True)]
        return np.stack(maps, axis=1)

    def _table(self, inputs: Inputs) -> Table:
        return np.concatenate([p.reduce(inputs[:, number]) for number, p in enumerate(self._inputs)], axis=1)


class GaussianProcess(_Regressed):
    """A Gaussian process with a Matérn-3/2 kernel of one length scale per predictor, and noise.

    The kernel is fitted to the leading pattern of a target and used for all of them.

    Args:
        inputs: of the years to fit.
        targets: of the same years.
        grid: of both.
    """

    @staticmethod
    def fit(predictors: Table, wanted: Wanted) -> Callable[[Table], Table]:
        """Return the posterior mean."""
        scales = np.full(predictors.shape[1], 3.0)
        kernel = ConstantKernel(1.0, (1e-3, 1e3)) * Matern(scales, (1e-1, 1e3), nu=1.5)
        kernel += WhiteKernel(0.1, (1e-6, 10.0))
        with warnings.catch_warnings():
            # The length scale of a predictor that does not matter runs to its bound, as it should.
            warnings.simplefilter("ignore", ConvergenceWarning)
            leading = GaussianProcessRegressor(kernel, random_state=0).fit(predictors, wanted[:, 0])
        # The leading pattern is the one that emissions drive most; noise in the others would hide how.
        process = GaussianProcessRegressor(leading.kernel_, optimizer=None).fit(predictors, wanted)
        return lambda table: process.predict(table).reshape(len(table), -1)


class RandomForest(_Regressed):
    """A random forest of 200 trees; it cannot go beyond what it has seen.

    Args:
        inputs: of the years to fit.
        targets: of the same years.
        grid: of both.
    """

    @staticmethod
    def fit(predictors: Table, wanted: Wanted) -> Callable[[Table], Table]:
        """Return the mean over the trees."""
        forest = RandomForestRegressor(200, min_samples_leaf=2, random_state=0).fit(predictors, wanted)
        return lambda table: forest.predict(table).reshape(len(table), -1)


class _Patterns:
    """Leading empirical orthogonal functions of maps, rows weighted by √cos φ.

    Amplitudes are divided by one number, so that patterns keep their relative strength and noise its flat spectrum.
    """

    def __init__(self, maps: Float[np.ndarray, "sample lat lon"], grid: Grid, count: int) -> None:
        self._weight = np.sqrt(np.maximum(grid.cosine_weights, 1e-6))[:, None]
        self._shape = maps.shape[1:]
        flat = self._flat(maps)
        self._mean = flat.mean(0)
        _, _, modes = np.linalg.svd(flat - self._mean, full_matrices=False)
        # What is the same everywhere has one pattern.
        self._modes = modes[: 1 if np.ptp(maps, axis=(1, 2)).max() == 0 else count]
        self._scale = float(_nonzero(((flat - self._mean) @ self._modes[0]).std()))

    def _flat(self, maps: Float[np.ndarray, "sample lat lon"]) -> Table:
        return np.asarray((maps * self._weight).reshape(len(maps), -1), dtype=np.float64)

    def reduce(self, maps: Float[np.ndarray, "sample lat lon"]) -> Table:
        """Return the amplitudes of maps."""
        return np.asarray((self._flat(maps) - self._mean) @ self._modes.T / self._scale)

    def rebuild(self, amplitudes: Table) -> Float[np.ndarray, "sample lat lon"]:
        """Return the maps of amplitudes."""
        flat = amplitudes * self._scale @ self._modes + self._mean
        return np.asarray(flat.reshape(-1, *self._shape) / self._weight)


def _with_constant(table: Table) -> Float[np.ndarray, "sample one_more"]:
    return np.column_stack([np.ones(len(table)), table])


def _nonzero(scale: NDArray[np.float64] | np.float64) -> NDArray[np.float64]:
    return np.where(scale > 0, scale, 1.0)


EMULATORS: dict[str, type[Emulator]] = {
    "pattern_scaling": PatternScaling,
    "gaussian_process": GaussianProcess,
    "random_forest": RandomForest,
}
"""Baselines by the name that recipes give them."""
