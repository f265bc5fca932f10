"""Cutting fields into patches and putting them together again."""

import numpy as np
import torch.nn.functional as F
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from etesian.core.errors import GridError
from etesian.core.grid import Grid

Patch = tuple[int, int]


def patch_counts(shape: tuple[int, int], patch: Patch) -> tuple[int, int]:
    """Return how many patches cover a grid in latitude and longitude, the last ones padded where they reach beyond.

    >>> patch_counts((17, 33), (2, 2))
    (9, 17)
    """
    return -(-shape[0] // patch[0]), -(-shape[1] // patch[1])


def patchify(
    values: Float[Tensor, "batch channel lat lon"], patch: Patch, *, periodic: bool
) -> Float[Tensor, "batch patch channel pixel"]:
    """Cut fields into patches, row by row; pixels within a patch are row-major too.

    A grid that the patch does not divide is padded behind its last row by repeating that row, and behind its last
    column by the first columns on a periodic grid, else by repeating the last column.

    Args:
        values: fields.
        patch: rows and columns of a patch.
        periodic: whether the longitudes close the circle.
    """
    batch, channel, *shape = values.shape
    rows, columns = patch_counts((shape[0], shape[1]), patch)
    below, right = rows * patch[0] - shape[0], columns * patch[1] - shape[1]
    if right:
        values = F.pad(values, (0, right, 0, 0), mode="circular" if periodic else "replicate")
    if below:
        values = F.pad(values, (0, 0, 0, below), mode="replicate")
    cells = values.reshape(batch, channel, rows, patch[0], columns, patch[1])
    return cells.permute(0, 2, 4, 1, 3, 5).reshape(batch, rows * columns, channel, patch[0] * patch[1])


def unpatchify(
    patches: Float[Tensor, "batch patch channel pixel"], patch: Patch, shape: tuple[int, int]
) -> Float[Tensor, "batch channel lat lon"]:
    """Put patches together into fields on a grid of `shape`, dropping what was padded; the inverse of `patchify`."""
    rows, columns = patch_counts(shape, patch)
    batch, _, channel, _ = patches.shape
    cells = patches.reshape(batch, rows, columns, channel, *patch).permute(0, 3, 1, 4, 2, 5)
    whole = cells.reshape(batch, channel, rows * patch[0], columns * patch[1])
    return whole[..., : shape[0], : shape[1]]


def locate_patches(part: Grid, whole: Grid, patch: Patch) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Find the rows and columns of patches of a grid that make up a part of it, by coordinate.

    The part may be the whole grid, and may cross the seam of a periodic grid.

    Raises:
        GridError: if the coordinates are no contiguous part of the grid, or if they cut through patches.
    """
    if part == whole:
        counts = patch_counts(whole.shape, patch)
        return np.arange(counts[0]), np.arange(counts[1])
    first_row = _first(part.latitude, whole.latitude, wrap=False)
    first_column = _first(part.longitude, whole.longitude, wrap=whole.is_periodic)
    if first_row is None or first_column is None:
        raise GridError(f"the fields are on {part}, which is no part of the network's grid, {whole}; regrid them to it")
    rows = _whole_patches(first_row, part.shape[0], whole.shape[0], patch[0], "latitude", whole.latitude)
    columns = _whole_patches(first_column, part.shape[1], whole.shape[1], patch[1], "longitude", whole.longitude)
    return rows, columns


def _first(part: NDArray[np.float64], whole: NDArray[np.float64], *, wrap: bool) -> int | None:
    """Return where in `whole` the coordinates of `part` begin, or None if they are not consecutive there."""
    distance = np.abs((whole - part[0] + 180) % 360 - 180)
    first = int(distance.argmin())
    places = first + np.arange(part.size)
    if part.size > whole.size or (not wrap and places[-1] >= whole.size):
        return None
    difference = (whole[places % whole.size] - part + 180) % 360 - 180
    return first if np.abs(difference).max() < 1e-4 else None


def _whole_patches(
    first: int, count: int, total: int, size: int, axis: str, coordinate: NDArray[np.float64]
) -> NDArray[np.int64]:
    """Turn a run of points into the patches that it fills exactly."""
    last = first + count
    crosses_seam = last > total
    complete = count % size == 0 or last == total
    if first % size or not complete or (crosses_seam and total % size):
        start = first - first % size
        stop = min(-(-last // size) * size, total) if not crosses_seam else -(-last // size) * size
        ends = f"{coordinate[start % total]:g}° to {coordinate[(stop - 1) % total]:g}°"
        raise GridError(
            f"the {axis}s of the region cut through patches of {size}; choose whole patches, such as {ends}"
            if not crosses_seam or total % size == 0
            else f"the region crosses the seam of a grid whose {total} {axis}s are no multiple of the patch of {size}; "
            "choose a region on one side of it"
        )
    patches = np.arange(first // size, -(-last // size))
    return patches % patch_counts((total, 1), (size, 1))[0]
