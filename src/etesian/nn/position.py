"""Position embeddings: sines and cosines, and their interpolation between grids."""

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from etesian.core.grid import Grid
from etesian.core.interpolation import linear_weights
from etesian.nn.patch import Patch, patch_counts


def sincos(dim: int, positions: ArrayLike) -> Float[np.ndarray, "position dim"]:
    """Return sines, then cosines, of positions at `dim`/2 wavelengths from 2π to 20000π (Vaswani et al. 2017).

    Raises:
        ValueError: if `dim` is odd.
    """
    if dim % 2:
        raise ValueError(f"an embedding of sines and cosines needs an even dimension, not {dim}")
    frequency = 10000.0 ** (-np.arange(dim // 2) / (dim // 2))
    angle = np.asarray(positions, dtype=np.float64)[:, None] * frequency
    return np.concatenate([np.sin(angle), np.cos(angle)], axis=1)


def sincos_2d(dim: int, rows: int, columns: int) -> Float[np.ndarray, "row column dim"]:
    """Return an embedding of patch numbers, half for the column and half for the row, as masked autoencoders have it.

    Raises:
        ValueError: if `dim` is no multiple of 4.
    """
    if dim % 4:
        raise ValueError(f"a two-dimensional embedding of sines and cosines needs a multiple of 4, not {dim}")
    east = np.broadcast_to(sincos(dim // 2, np.arange(columns)), (rows, columns, dim // 2))
    north = np.broadcast_to(sincos(dim // 2, np.arange(rows))[:, None], (rows, columns, dim // 2))
    return np.concatenate([east, north], axis=2)


def interpolate_position(
    embedding: Float[Tensor, "row column dim"], source: Grid, target: Grid, source_patch: Patch, target_patch: Patch
) -> Float[Tensor, "row_out column_out dim"]:
    """Carry a position embedding from the patches of one grid to those of another.

    Bilinear in latitude and longitude of the patch centres, periodic in longitude where the source is; beyond the
    outermost centres the nearest one is taken. Patches of equal centres keep their embedding exactly.
    """
    north = _weights(
        _centres(source.latitude, source_patch[0]), _centres(target.latitude, target_patch[0]), periodic=False
    )
    east = _weights(
        _centres(source.longitude, source_patch[1]),
        _centres(target.longitude, target_patch[1]),
        periodic=source.is_periodic,
    )
    weights = [torch.from_numpy(w).to(embedding) for w in (north, east)]
    return torch.einsum("ri,cj,ijd->rcd", *weights, embedding)


def _centres(coordinate: NDArray[np.float64], size: int) -> NDArray[np.float64]:
    """Return the mean coordinate of each patch, the last one continued at the outermost spacing."""
    count, _ = patch_counts((coordinate.size, 1), (size, 1))
    missing = count * size - coordinate.size
    step = coordinate[-1] - coordinate[-2] if coordinate.size > 1 else 1.0
    full = np.concatenate([coordinate, coordinate[-1] + step * np.arange(1, missing + 1)])
    return np.asarray(full.reshape(count, size).mean(axis=1))


def _weights(
    source: NDArray[np.float64], target: NDArray[np.float64], *, periodic: bool
) -> Float[np.ndarray, "target source"]:
    """Return the matrix of linear interpolation between centres; beyond the outermost ones the nearest is taken."""
    if not periodic:
        return linear_weights(source, np.clip(target, source[0], source[-1]))
    weights = linear_weights(np.append(source, source[0] + 360), source[0] + (target - source[0]) % 360)
    weights[:, 0] += weights[:, -1]
    return weights[:, :-1]
