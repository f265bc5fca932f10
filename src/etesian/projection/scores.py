"""ClimateBench's scores of projected maps (Watson-Parris et al. 2022, doi 10.1029/2021MS002954)."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from etesian.core.errors import DataError
from etesian.core.grid import Grid

Maps = Float[np.ndarray, "year lat lon"]

GLOBAL_WEIGHT = 5.0


class NRMSE(NamedTuple):
    """Normalised errors of maps of several years.

    Attributes:
        spatial: NRMSE_s, of the map of the mean over years.
        mean: NRMSE_g, of the mean over the domain in each year.
        total: NRMSE_s + 5 NRMSE_g.
    """

    spatial: float
    mean: float
    total: float


def domain_mean(maps: Float[np.ndarray, "*axes lat lon"], grid: Grid) -> Float[np.ndarray, "*axes"]:
    """Return means over the grid, rows weighted by cos φ as in ClimateBench."""
    return np.asarray((maps.mean(-1, dtype=np.float64) * grid.cosine_weights).mean(-1))


def nrmse(predicted: Maps, truth: Maps, grid: Grid, normalization: float | None = None) -> NRMSE:
    """Score maps of the same years; all means over the domain are weighted by cos φ.

    Args:
        predicted: maps in any units.
        truth: maps in the same units.
        grid: of both.
        normalization: what errors are divided by; by default the absolute mean of the truth over domain and years.

    Raises:
        DataError: if the truth's mean, to divide by, is 0.
    """
    scale = abs(float(domain_mean(truth, grid).mean())) if normalization is None else normalization
    if not scale > 0:
        raise DataError("the truth is 0 in the mean over years and domain, by which ClimateBench's scores are divided")
    error = predicted - truth
    spatial = float(np.sqrt(domain_mean(error.mean(0) ** 2, grid))) / scale
    mean = float(np.sqrt((domain_mean(error, grid) ** 2).mean())) / scale
    return NRMSE(spatial, mean, spatial + GLOBAL_WEIGHT * mean)
