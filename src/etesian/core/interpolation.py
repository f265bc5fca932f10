"""Interpolation along coordinates as matrices, one for latitude and one for longitude."""

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray
from scipy.interpolate import CubicSpline

from etesian.core.grid import Grid

Float64 = NDArray[np.float64]

_TOLERANCE = 1e-6


def linear_weights(source: Float64, target: Float64) -> Float[np.ndarray, "target source"]:
    """Return linear interpolation weights; rows of points outside the source are zero."""
    weights = np.zeros((target.size, source.size))
    inside = np.flatnonzero((target >= source[0] - _TOLERANCE) & (target <= source[-1] + _TOLERANCE))
    position = np.clip(target[inside], source[0], source[-1])
    if source.size == 1:
        weights[inside, 0] = 1
        return weights
    left = np.clip(np.searchsorted(source, position, side="right") - 1, 0, source.size - 2)
    share = (position - source[left]) / (source[left + 1] - source[left])
    weights[inside, left], weights[inside, left + 1] = 1 - share, share
    return weights


def longitude_weights(source: Grid, target: Grid) -> Float[np.ndarray, "target source"]:
    """Return linear interpolation weights between the longitudes of two grids, round the circle where it closes."""
    west = source.longitude[0]
    position = west + (target.longitude - west + _TOLERANCE) % 360 - _TOLERANCE
    if not source.is_periodic:
        return linear_weights(source.longitude, position)
    weights = linear_weights(np.append(source.longitude, west + 360), position)
    weights[:, 0] += weights[:, -1]
    return weights[:, :-1]


def cubic_weights(source: Float64, target: Float64) -> Float[np.ndarray, "target source"]:
    """Return cubic-spline weights of points between the first and the last of the source."""
    return np.asarray(CubicSpline(source, np.eye(source.size))(target))


def cubic_longitude_weights(source: Grid, target: Grid) -> Float[np.ndarray, "target source"]:
    """Return cubic-spline weights between the longitudes of two grids, round the circle where it closes."""
    west = source.longitude[0]
    position = west + (target.longitude - west + _TOLERANCE) % 360 - _TOLERANCE
    if not source.is_periodic:
        return cubic_weights(source.longitude, position)
    columns = source.longitude.size
    closed = np.eye(columns)[np.append(np.arange(columns), 0)]
    return np.asarray(CubicSpline(np.append(source.longitude, west + 360), closed, bc_type="periodic")(position))
