"""Further grids of WeatherMesh: what they show beyond the network's own grid, on the way to the latent and back."""

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor, nn

from etesian.core.errors import RecipeError
from etesian.core.grid import Grid
from etesian.networks.weathermesh_parts import GridPadding, overlapping, sides, start_at_zero
from etesian.nn.convolution import GlobeConv, GlobeConvTranspose
from etesian.nn.regridding import Regridding
from etesian.nn.tokens import patch_counts


class EncoderDetail(nn.Module):
    """Fields on another grid as fields on the network's own, and what these leave out as an addition to the tokens.

    It begins by adding nothing: a network meets a new grid with all that it knows of its own.

    Args:
        own: the network's own grid.
        grid: of the fields.
        aloft: channels on levels that come in.
        surface: channels without level that come in.
        dim: width of a token.
        patch: levels, rows and columns of the grid that make up a token.
    """

    def __init__(self, own: Grid, grid: Grid, aloft: int, surface: int, dim: int, patch: tuple[int, int, int]) -> None:
        super().__init__()
        self.to_own, self.back = Regridding(grid, own), Regridding(own, grid)
        self.padding = GridPadding(grid.shape, patch[1:], poles=grid.has_poles)
        self.pressure = GlobeConv(aloft, dim, patch, patch)
        self.surface = GlobeConv(surface, dim, patch[1:], patch[1:])
        start_at_zero(self.pressure)
        start_at_zero(self.surface)

    def split(
        self, fields: Float[Tensor, "*lead lat lon"]
    ) -> tuple[Float[Tensor, "*lead own_lat own_lon"], Float[Tensor, "*lead padded_lat padded_lon"]]:
        """Return fields on the network's own grid, and what these leave out, padded to whole patches."""
        coarse = self.to_own(fields)
        return coarse, self.padding.pad(fields - self.back(coarse))


class DecoderDetail(nn.Module):
    """Fields on the network's own grid as fields on another, and what tokens add to them there: nothing to begin with.

    Args:
        own: the network's own grid.
        grid: where fields are wanted.
        aloft: variables on levels that go out.
        surface: channels without level that go out.
        dim: width of a token.
        patch: levels, rows and columns of the grid that make up a token.
    """

    def __init__(self, own: Grid, grid: Grid, aloft: int, surface: int, dim: int, patch: tuple[int, int, int]) -> None:
        super().__init__()
        self.to_grid = Regridding(own, grid)
        self.padding = GridPadding(grid.shape, patch[1:], poles=grid.has_poles)
        kernel = overlapping(patch[1:])
        self.pressure = GlobeConvTranspose(dim, aloft, (patch[0], *kernel), patch) if aloft else None
        self.surface = GlobeConvTranspose(dim, surface, kernel, patch[1:]) if surface else None
        for layer in (self.pressure, self.surface):
            if layer is not None:
                start_at_zero(layer)


def name_of(grid: Grid) -> str:
    """Return the name of a grid among the parts of a network, such as 64x128."""
    return "x".join(map(str, grid.shape))


def fitting_patch(grid: Grid, own: Grid, patch: tuple[int, int]) -> tuple[int, int]:
    """Return the rows and columns of a grid that make up the tokens of the network's own.

    Args:
        grid: whose points are to be divided.
        own: the network's own grid.
        patch: rows and columns of that one.

    Raises:
        RecipeError: if no patches of it lie where those of the network's grid do.
    """
    tokens = patch_counts(own.shape, patch)
    fitting = -(-grid.shape[0] // tokens[0]), -(-grid.shape[1] // tokens[1])
    if patch_counts(grid.shape, fitting) != tokens:
        raise RecipeError(
            f"the {tokens[0]}×{tokens[1]} tokens of the network's own grid, {own}, cannot be made of patches of "
            f"{grid}; bring that to a grid with a multiple of so many points with `etesian prepare --grid`"
        )
    north, east = (
        _first_centre(ours, of_ours) - _first_centre(theirs, of_theirs)
        for ours, of_ours, theirs, of_theirs in (
            (own.latitude, patch[0], grid.latitude, fitting[0]),
            (own.longitude, patch[1], grid.longitude, fitting[1]),
        )
    )
    apart = abs(north), abs((east + 180) % 360 - 180)
    if apart[0] > 90 / tokens[0] or apart[1] > 180 / tokens[1]:
        raise RecipeError(
            f"the patches of {grid} lie {apart[0]:.3g}° of latitude and {apart[1]:.3g}° of longitude from those of the "
            f"network's own grid, {own}; bring one to a grid that begins where the other does with `etesian prepare "
            "--grid`"
        )
    return fitting


def _first_centre(coordinate: NDArray[np.float64], size: int) -> float:
    """Return where the middle of the first patch lies, in degrees."""
    step = float(np.diff(coordinate).mean())
    return float(coordinate[0]) + step * ((size - 1) / 2 - sides(coordinate.size, size)[0])
