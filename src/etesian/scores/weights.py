"""How much each grid point counts, in each region: in validation, in `evaluate` and in every report alike."""

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
"""`area`: of cells, by their edges, as WeatherBench 2; `cosine`: cos φ of points, as WeatherBench 1 and ClimaX."""

WHOLE_DOMAIN = "domain"
"""Name of the region that holds every point of a grid which does not cover the globe."""


def region_named(name: str) -> Region:
    """Return the box of a region; `domain` is every point there is.

    Raises:
        GridError: if the name is neither known nor `south,north,west,east`.
    """
    return Region(-90, 90, 0, 360) if name == WHOLE_DOMAIN else Region.parse(name)


def default_regions(grid: Grid) -> tuple[str, ...]:
    """Return the regions that are scored where none are named."""
    bounds = grid.latitude_bounds
    if grid.is_periodic and bounds[0] < -89 and bounds[-1] > 89:
        return ("global", "tropics", "extratropics_north", "extratropics_south")
    return (WHOLE_DOMAIN,)


class RegionGroups:
    """Sums over regions of a grid.

    Args:
        weights: of the points in each region.
        inside: 1 where a point lies in a region, else 0.
    """

    def __init__(self, weights: Float[Tensor, "point region"], inside: Float[Tensor, "point region"]) -> None:
        self.weights, self.inside = weights, inside

    def total(self, values: Float[Tensor, "*maps point"]) -> Float[Tensor, "*maps region"]:
        """Return sums over the points of each region, weighted."""
        return values @ self.weights

    def count(self, values: Float[Tensor, "*maps point"]) -> Float[Tensor, "*maps region"]:
        """Return sums over the points of each region without weights."""
        return values @ self.inside


def point_weights(
    grid: Grid, regions: Sequence[str], weighting: str, device: torch.device | str = "cpu"
) -> tuple[Float[Tensor, "point region"], Float[Tensor, "point region"]]:
    """Return the weights of all points of a grid in each region, float64, and 1 or 0 for whether they lie in it.

    Areas are shares of the globe, so that sums over tiles, or over grids that differ, may be added up.

    Raises:
        GridError: if a region is unknown or holds no point.
        RecipeError: if the weighting is unknown.
    """
    return _point_weights(grid, tuple(regions), weighting, str(device))


@lru_cache(maxsize=32)
def _point_weights(grid: Grid, regions: tuple[str, ...], weighting: str, device: str) -> tuple[Tensor, Tensor]:
    if weighting not in get_args(Weighting):
        raise RecipeError(f"there is no weighting '{weighting}'{suggest(weighting, get_args(Weighting))}")
    by_latitude = _cell_areas(grid) if weighting == "area" else grid.cosine_weights
    inside = np.zeros((len(regions), *grid.shape))
    for number, name in enumerate(regions):
        rows, columns = grid.region(region_named(name))
        inside[number, rows[:, None], columns] = 1
    weights = inside * by_latitude[:, None]
    points = [torch.from_numpy(a.reshape(len(regions), -1).T.copy()).to(device) for a in (weights, inside)]
    return points[0], points[1]


def _cell_areas(grid: Grid) -> Float[np.ndarray, " lat"]:
    """Return the area of a cell of each row as a share of the globe's."""
    spacing = float(np.diff(grid.longitude).mean()) if grid.longitude.size > 1 else 1.0
    return np.asarray(np.diff(np.sin(np.radians(grid.latitude_bounds))) / 2 * spacing / 360)
