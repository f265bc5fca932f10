"""Scores of a Gaussian with a mean and a standard deviation against what happened."""

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri

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
