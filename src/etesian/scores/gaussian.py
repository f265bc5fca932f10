"""Scores of fields that state their own standard deviation, as Gaussians against what happened."""

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri
from torch import Tensor

from etesian.scores.registry import SCORES, MapPair, Score, register_score, register_statistic

Values = Float[np.ndarray, "*axes"]

LEVELS = (0.5, 0.68, 0.9, 0.95)
"""Probabilities of the central intervals whose coverage is counted."""


def log_score(error: Values, deviation: Values) -> Values:
    """Return the negative logarithm of the probability density, in nats; lower is better."""
    return np.asarray(0.5 * np.log(2 * np.pi) + np.log(deviation) + 0.5 * (error / deviation) ** 2)


def crps(error: Values, deviation: Values) -> Values:
    """Return the continuous ranked probability score (Gneiting et al. 2005, eq. 5), in the units of the error.

    doi 10.1175/MWR2904.1.
    """
    z = error / deviation
    density = np.exp(-0.5 * z**2) / np.sqrt(2 * np.pi)
    return np.asarray(deviation * (z * (2 * ndtr(z) - 1) + 2 * density - 1 / np.sqrt(np.pi)))


def inside(error: Values, deviation: Values, probability: float) -> NDArray[np.bool_]:
    """Return whether the truth lies in the central interval of a probability."""
    return np.asarray(np.abs(error) <= deviation * ndtri(0.5 + probability / 2))


def _where_stated(pair: MapPair, values: Tensor | None) -> Tensor:
    """Sum what needs a stated deviation, where there is one."""
    if pair.deviation is None or values is None:
        return pair.total(torch.zeros_like(pair.truth))
    return pair.total(values, pair.deviation.isfinite())


@register_statistic
def stated_weight(pair: MapPair) -> Tensor:
    """Sum the areas where a standard deviation is stated."""
    return _where_stated(pair, torch.ones_like(pair.truth))


@register_statistic
def stated_variance(pair: MapPair) -> Tensor:
    """Sum the stated variances."""
    return _where_stated(pair, None if pair.deviation is None else pair.deviation.square())


@register_statistic
def stated_squared_error(pair: MapPair) -> Tensor:
    """Sum (f − o)² where a standard deviation is stated."""
    return _where_stated(pair, pair.squared)


@register_statistic
def gaussian_crps(pair: MapPair) -> Tensor:
    """Sum the continuous ranked probability score of a Gaussian."""
    if pair.deviation is None:
        return _where_stated(pair, None)
    return _where_stated(pair, torch.from_numpy(crps(pair.error.numpy(), pair.deviation.numpy())))


@register_statistic
def gaussian_log_score(pair: MapPair) -> Tensor:
    """Sum the negative logarithm of a Gaussian's density."""
    if pair.deviation is None:
        return _where_stated(pair, None)
    return _where_stated(pair, torch.from_numpy(log_score(pair.error.numpy(), pair.deviation.numpy())))


@register_score("stated_weight", relative=True, name="crps")
def _mean_crps(gaussian_crps: Tensor, stated_weight: Tensor) -> Tensor:
    """Return the mean continuous ranked probability score of Gaussians with the stated deviations."""
    return gaussian_crps / stated_weight


@register_score("stated_weight", units="1", name="log_score")
def _mean_log_score(gaussian_log_score: Tensor, stated_weight: Tensor) -> Tensor:
    """Return the mean negative logarithm of the density of Gaussians with the stated deviations, in nats."""
    return gaussian_log_score / stated_weight


@register_score("stated_weight", relative=True)
def spread(stated_variance: Tensor, stated_weight: Tensor) -> Tensor:
    """Return the root of the mean stated variance."""
    return (stated_variance / stated_weight).sqrt()


@register_score("stated_weight", relative=True)
def rmse_where_spread(stated_squared_error: Tensor, stated_weight: Tensor) -> Tensor:
    """Return the root-mean-square error where a deviation is stated."""
    return (stated_squared_error / stated_weight).sqrt()


def _register_coverage(level: float) -> None:
    """Make the share of the truth inside the central interval of a probability a score."""
    percent = round(100 * level)

    def held(pair: MapPair) -> Tensor:
        if pair.deviation is None:
            return _where_stated(pair, None)
        return _where_stated(pair, torch.from_numpy(inside(pair.error.numpy(), pair.deviation.numpy(), level)).double())

    def coverage(inside: Tensor, stated_weight: Tensor) -> Tensor:
        return inside / stated_weight

    held.__name__, name = f"inside_{percent}", f"coverage_{percent}"
    register_statistic(held)
    SCORES[name] = Score(name, coverage, (held.__name__, "stated_weight"), "stated_weight", False, "1")


for _level in LEVELS:
    _register_coverage(_level)
