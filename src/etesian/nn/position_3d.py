"""Positions over (depth, latitude, longitude): additive sines and cosines, and rotary ones; periodic in longitude."""

import math
from functools import lru_cache

import torch
from jaxtyping import Float
from torch import Tensor

Shape = tuple[int, int, int]


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
