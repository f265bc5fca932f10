"""Positions on the sphere."""

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike


def spherical_harmonics(
    latitude: ArrayLike, longitude: ArrayLike, degree: int
) -> Float[np.ndarray, "lat lon harmonic"]:
    """Return the real spherical harmonics up to a degree, on the product of latitudes and longitudes in degrees.

    Normalised so that the mean of each one's square over the sphere is 1. By degree l, then order −l…l; negative
    orders go with sin |m|λ. The Legendre functions follow the recurrence of Holmes and Featherstone (2002, J. Geod. 76,
    279).
    """
    phi, east = np.radians(np.asarray(latitude, np.float64)), np.radians(np.asarray(longitude, np.float64))
    x, y = np.sin(phi), np.cos(phi)
    legendre = np.zeros((degree + 1, degree + 1, x.size))
    legendre[0, 0] = 1.0
    for m in range(1, degree + 1):
        legendre[m, m] = np.sqrt((2 * m + 1) / (2 * m) * (2 if m == 1 else 1)) * y * legendre[m - 1, m - 1]
    for m in range(degree + 1):
        for n in range(m + 1, degree + 1):
            ahead = np.sqrt((2 * n - 1) * (2 * n + 1) / ((n - m) * (n + m)))
            behind = np.sqrt((2 * n + 1) * (n + m - 1) * (n - m - 1) / ((n - m) * (n + m) * max(2 * n - 3, 1)))
            legendre[n, m] = ahead * x * legendre[n - 1, m] - (behind * legendre[n - 2, m] if n > m + 1 else 0)
    parts = [
        legendre[n, abs(m)][:, None] * (np.cos(m * east) if m >= 0 else np.sin(-m * east))
        for n in range(degree + 1)
        for m in range(-n, n + 1)
    ]
    return np.stack(parts, axis=-1)
