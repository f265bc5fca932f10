"""Spherical harmonics are orthonormal on the sphere."""

import numpy as np

from etesian.core.grid import Grid
from etesian.nn.tokens import spherical_harmonics


def test_mean_products_over_the_sphere_are_those_of_an_orthonormal_set() -> None:
    nodes, weights = np.polynomial.legendre.leggauss(16)
    grid = Grid.gaussian(16)
    values = spherical_harmonics(grid.latitude, grid.longitude, 5)
    products = np.einsum("i,ijk,ijl->kl", weights / 2, values, values) / grid.longitude.size
    assert values.shape[-1] == 36
    np.testing.assert_allclose(products, np.eye(36), atol=1e-12)
    np.testing.assert_allclose(values[:, 0, 2], np.sqrt(3) * nodes, atol=1e-12)
