"""Fields ↔ tokens: patches and where they lie, told by sines and cosines or spherical harmonics."""

import math
from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from etesian.core.errors import GridError
from etesian.core.grid import Grid, linear_weights

Patch = tuple[int, int]

Shape = tuple[int, int, int]


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
    positions = first + np.arange(part.size)
    if part.size > whole.size or (not wrap and positions[-1] >= whole.size):
        return None
    difference = (whole[positions % whole.size] - part + 180) % 360 - 180
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


def sincos_3d(dim: int, shape: Shape) -> Float[Tensor, "depth lat lon dim"]:
    """Return an embedding of positions: sines and cosines, a third each for depth, latitude and longitude.

    Raises:
        ValueError: if `dim` is odd or less than 6.
    """
    if dim % 2 or dim < 6:
        raise ValueError(f"an embedding of three axes needs an even dimension of at least 6, not {dim}")
    angle = position_angles(dim // 2, shape)
    return torch.cat([angle.sin(), angle.cos()], dim=-1).float()


def rotate(values: Float[Tensor, "batch depth lat lon head dim"]) -> Float[Tensor, "batch depth lat lon head dim"]:
    """Turn pairs of components by angles that grow with position, so that products know distances (arXiv 2104.09864).

    A third of the pairs goes with each axis; on the circle of longitudes every pair makes whole turns, so that the
    distance across the seam is like any other. An odd last component stays.
    """
    pairs = values.shape[-1] // 2
    wide = torch.promote_types(values.dtype, torch.float32)
    cosine, sine = _turns(pairs, (values.shape[1], values.shape[2], values.shape[3]), wide, values.device)
    first, second, rest = values[..., :pairs], values[..., pairs : 2 * pairs], values[..., 2 * pairs :]
    turned = [first * cosine - second * sine, first * sine + second * cosine]
    return torch.cat([*(part.to(values.dtype) for part in turned), rest], dim=-1)


@lru_cache(maxsize=16)
def _turns(pairs: int, shape: Shape, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return cosines and sines that broadcast over batch and heads."""
    # Kept tensors must serve in training too, also those that are first needed in validation.
    with torch.inference_mode(False):
        angle = position_angles(pairs, shape).unsqueeze(-2)
        return angle.cos().to(device, dtype), angle.sin().to(device, dtype)


def position_angles(pairs: int, shape: Shape) -> Float[Tensor, "depth lat lon pair"]:
    """Return float64 angles of which a third goes with each axis, the odd ones with longitude, then latitude.

    Frequencies fall from one radian per token by a factor of 100; in longitude, to the nearest whole turns per circle.
    """
    counts = (pairs // 3, (pairs + 1) // 3, (pairs + 2) // 3)
    parts = []
    for i, (size, count) in enumerate(zip(shape, counts, strict=True)):
        frequency = 100.0 ** (-torch.arange(count, dtype=torch.float64) / max(count, 1))
        if i == 2:
            turn = 2 * math.pi / size
            frequency = (frequency / turn).round().clamp(min=1) * turn
        angle = torch.arange(size, dtype=torch.float64)[:, None] * frequency
        place = [1, 1, 1, count]
        place[i] = size
        parts.append(angle.view(place).expand(*shape, count))
    return torch.cat(parts, dim=-1)


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
