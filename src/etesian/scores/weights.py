"""How much each grid point counts, in each region."""

from collections.abc import Sequence
from functools import lru_cache
from typing import Literal, get_args

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from etesian.core.errors import RecipeError, suggest
from etesian.core.grid import Grid, Region

Weighting = Literal["area", "cosine"]
"""`area`: by the cells' edges, as WeatherBench 2; `cosine`: cos φ of the points, as WeatherBench 1 and ClimaX."""

WHOLE_DOMAIN = "domain"
"""Name of the region that holds every point of a grid which does not cover the globe."""


def region_named(name: str) -> Region:
    """Return the box of a region; `domain` is every point there is.

    Raises:
        GridError: if the name is neither known nor `south,north,west,east`.
    """
    return Region(-90, 90, 0, 360) if name == WHOLE_DOMAIN else Region.parse(name)


def point_weights(
    grid: Grid, regions: Sequence[str], weighting: str, device: torch.device | str = "cpu"
) -> tuple[Float[Tensor, "point region"], Float[Tensor, "point region"]]:
    """Return the weights of all points of a grid in each region, float64, and 1 or 0 for whether they lie in it.

    Raises:
        GridError: if a region is unknown or holds no point.
        RecipeError: if the weighting is unknown.
    """
    return _point_weights(grid, tuple(regions), weighting, str(device))


@lru_cache(maxsize=32)
def _point_weights(grid: Grid, regions: tuple[str, ...], weighting: str, device: str) -> tuple[Tensor, Tensor]:
    if weighting not in get_args(Weighting):
        raise RecipeError(f"there is no weighting '{weighting}'{suggest(weighting, get_args(Weighting))}")
    by_latitude = grid.area_weights if weighting == "area" else grid.cosine_weights
    inside = np.zeros((len(regions), *grid.shape))
    for number, name in enumerate(regions):
        rows, columns = grid.region(region_named(name))
        inside[number, rows[:, None], columns] = 1
    weights = inside * by_latitude[:, None]
    points = [torch.from_numpy(a.reshape(len(regions), -1).T.copy()).to(device) for a in (weights, inside)]
    return points[0], points[1]
