"""Fields keep what they are on another grid: constants, waves that both resolve, and their mean."""

import numpy as np
import pytest
import torch

from etesian.core.grid import Grid
from etesian.networks.weathermesh_parts import Regridding

GAUSSIAN, FINER = Grid.gaussian(32), Grid.gaussian(64)
POLES = Grid.equiangular(5.0, poles=True)


def waves(grid: Grid) -> torch.Tensor:
    """A field that is smooth everywhere on the sphere, also at the poles: a polynomial in the unit vectors."""
    x, y, z = np.moveaxis(grid.unit_vectors, -1, 0)
    return torch.from_numpy(1 + x * y * z + x**3 - 0.5 * z * y**2 + z**2).float()


@pytest.mark.parametrize(("source", "target"), [(GAUSSIAN, FINER), (POLES, FINER), (FINER, POLES), (GAUSSIAN, POLES)])
def test_a_smooth_field_is_the_same_on_both_grids_also_at_the_poles(source: Grid, target: Grid) -> None:
    there = Regridding(source, target)(waves(source)[None])[0]
    finer = target.shape[0] >= source.shape[0]
    assert (there - waves(target)).abs().max() < (1e-3 if finer else 0.03)


def test_means_over_larger_cells_keep_the_mean_over_the_globe() -> None:
    field = torch.randn(3, *FINER.shape, generator=torch.Generator().manual_seed(0))
    coarse = Regridding(FINER, GAUSSIAN)(field)
    before, after = (
        (values * torch.from_numpy(grid.area_weights).float()[:, None]).mean((-2, -1))
        for values, grid in ((field, FINER), (coarse, GAUSSIAN))
    )
    torch.testing.assert_close(after, before, rtol=0, atol=1e-5)
    assert float(coarse.std()) == pytest.approx(0.5, abs=0.1)


def test_half_precision_around_it_changes_nothing() -> None:
    regridding, field = Regridding(GAUSSIAN, FINER), waves(GAUSSIAN)[None]
    with torch.autocast("cpu", torch.bfloat16):
        under = regridding(field)
    assert torch.equal(under, regridding(field))
