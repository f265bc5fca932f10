"""A grid in tiles that overlap, and fields put together from them without seams."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

from etesian.core.errors import GridError
from etesian.core.grid import Grid


@dataclass(frozen=True, eq=False)
class Tile:
    """Part of a grid; on a globe it may reach across the last longitude, where its own run on past 360.

    Attributes:
        rows: positions of its latitudes.
        columns: positions of its longitudes.
        grid: its coordinates.
        weights: how much each of its points counts where tiles overlap, falling smoothly to the tile's inner edges.
    """

    rows: NDArray[np.int64]
    columns: NDArray[np.int64]
    grid: Grid
    weights: Float[np.ndarray, "lat lon"]


class Tiling:
    """Tiles of one size that cover a grid, evenly spread.

    Args:
        grid: to cover.
        size: rows and columns of a tile; None takes the whole grid as one.
        overlap: rows and columns that neighbours share, at least.

    Attributes:
        tiles: from south to north and from west to east.

    Raises:
        GridError: if the tiles do not fit on the grid, or overlap by more than half.
    """

    def __init__(self, grid: Grid, size: tuple[int, int] | None = None, overlap: int = 0) -> None:
        self.grid, self.size, self.overlap = grid, grid.shape if size is None else (size[0], size[1]), overlap
        for length, own, axis in zip(grid.shape, self.size, ("rows", "columns"), strict=True):
            if not 1 <= own <= length:
                raise GridError(f"tiles of {self.size[0]}×{self.size[1]} do not fit on the {length} {axis} of {grid}")
            if not 0 <= overlap <= own // 2 and own < length:
                raise GridError(f"an overlap of {overlap} is more than half of the {own} {axis} of a tile")
        rows = _axis(grid.shape[0], self.size[0], overlap, periodic=False)
        columns = _axis(grid.shape[1], self.size[1], overlap, periodic=grid.is_periodic)
        self.tiles = [
            Tile(
                across[0],
                along[0],
                Grid(grid.latitude[across[0]], grid.longitude[along[0]] + 360.0 * along[1]),
                across[2][:, None] * along[2],
            )
            for across in rows
            for along in columns
        ]

    @cached_property
    def coverage(self) -> Float[np.ndarray, "lat lon"]:
        """Sum of the weights of all tiles at each point."""
        total = np.zeros(self.grid.shape)
        for tile in self.tiles:
            total[np.ix_(tile.rows, tile.columns)] += tile.weights
        return total


def _axis(
    length: int, size: int, overlap: int, *, periodic: bool
) -> list[tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]]:
    """Return for each tile along an axis its positions, how often it has gone round the globe, and its weights."""
    if size == length:
        return [(np.arange(length), np.zeros(length, dtype=np.int64), np.ones(length))]
    if periodic:
        count = -(-length // (size - overlap))
        starts = np.arange(count) * length // count
        following = np.append(starts[1:], length + starts[0])
        shared = starts + size - following
        before, after = np.roll(shared, 1), shared
    else:
        count = -(-(length - overlap) // (size - overlap))
        starts = np.arange(count) * (length - size) // (count - 1)
        shared = starts[:-1] + size - starts[1:]
        before, after = np.append(0, shared), np.append(shared, 0)
    tiles = []
    for start, first, last in zip(starts, before, after, strict=True):
        places = start + np.arange(size)
        weights = _rise(size, int(first)) * _rise(size, int(last))[::-1]
        tiles.append((places % length, places // length, weights))
    return tiles


def _rise(size: int, shared: int) -> NDArray[np.float64]:
    """Return weights that rise along sin² over the points shared with the tile before."""
    place = np.minimum((np.arange(size) + 0.5) / max(shared, 0.5), 1.0)
    return np.asarray(np.sin(np.pi / 2 * place) ** 2)
