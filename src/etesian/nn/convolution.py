"""Convolutions on a globe: periodic in longitude, reflected over the poles, with nothing lost at the edges.

Also over tokens, which may cover any part of it and have holes.
"""

import math
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from etesian.nn.dropout import Dropout

Sizes = tuple[int, ...]

Sides = tuple[int, int]


class MapNorm(nn.GroupNorm):
    """Normalises all features at all places of a map together, and then scales and shifts each feature.

    Args:
        width: number of features.
    """

    def __init__(self, width: int) -> None:
        super().__init__(1, width)

    def forward(self, input: Float[Tensor, "batch feature lat lon"]) -> Float[Tensor, "batch feature lat lon"]:
        """Normalise."""
        if input.device.type == "cpu":
            return super().forward(input)
        # A reduction in two stages: CUDA's kernel for groups lets one block of threads go through all of a sample.
        wide = torch.promote_types(input.dtype, self.weight.dtype)
        variance, mean = torch.var_mean(input.float(), (1, 2, 3), keepdim=True, correction=0)
        normal = (input - mean) * (variance + self.eps).rsqrt()
        return (normal * self.weight[:, None, None] + self.bias[:, None, None]).to(wide)


def opposite(rows: Float[Tensor, "*lead lat lon"]) -> Float[Tensor, "*lead lat lon"]:
    """Return rows as seen from the meridian opposite: turned by half the circle.

    With an odd number of longitudes that meridian lies halfway between two, whose mean is taken; for smooth fields
    the error is of second order in the spacing.
    """
    half = rows.shape[-1] // 2
    turned = rows.roll(half, -1)
    return turned if rows.shape[-1] % 2 == 0 else (turned + rows.roll(half + 1, -1)) / 2


def pad_globe(
    values: Float[Tensor, "*lead lat lon"], latitude: Sides, longitude: Sides, *, poles: bool = False
) -> Float[Tensor, "*lead padded_lat padded_lon"]:
    """Pad scalar fields on a globe with what lies beyond their edges.

    Longitudes go on round the circle. A row beyond a pole is the row as far before it, on the meridian opposite.

    Args:
        values: fields of scalars; the components of a vector would have to change sign across a pole.
        latitude: rows to add before the first and behind the last.
        longitude: columns to add before the first and behind the last.
        poles: whether the first and last rows lie on the poles, else half a spacing from them.

    Raises:
        ValueError: if there are fewer rows than are to be added.
    """
    known = values.shape[-2] - int(poles)
    if max(latitude) > known:
        raise ValueError(f"{values.shape[-2]} rows cannot be padded with {max(latitude)} rows from across a pole")
    first, last = int(poles), values.shape[-2] - int(poles)
    south = values[..., first : first + latitude[0], :].flip(-2)
    north = values[..., last - latitude[1] : last, :].flip(-2)
    if any(latitude):
        values = torch.cat([opposite(south), values, opposite(north)], dim=-2)
    if any(longitude):
        size = values.shape[-1]
        around = torch.arange(-longitude[0], size + longitude[1], device=values.device) % size
        values = values.index_select(-1, around)
    return values


class GlobeConv(nn.Module):
    """Convolution over (latitude, longitude) or (depth, latitude, longitude) of a globe, padded inside.

    A stride divides the number of points; a kernel reaches equally far to both sides, one further behind if its
    excess over the stride is odd. Depth is padded by repeating its outermost layers.

    Args:
        inputs: channels that come in.
        outputs: channels that go out.
        kernel: points of the kernel along each axis.
        stride: points from one output to the next; by default 1.
        bias: whether a constant is added.

    Raises:
        ValueError: if a kernel is smaller than its stride, which would leave points out.
    """

    def __init__(
        self, inputs: int, outputs: int, kernel: Sizes, stride: Sizes | None = None, *, bias: bool = True
    ) -> None:
        super().__init__()
        self.kernel, self.stride = _checked(kernel, stride)
        convolution = nn.Conv2d if len(kernel) == 2 else nn.Conv3d
        self.convolution = convolution(inputs, outputs, self.kernel, self.stride, bias=bias)  # type: ignore[arg-type]

    def forward(self, values: Float[Tensor, "batch channel *axes"]) -> Float[Tensor, "batch channel_out *axes_out"]:
        """Convolve.

        Raises:
            ValueError: if the stride does not divide an axis.
        """
        for size, step in zip(values.shape[2:], self.stride, strict=True):
            if size % step:
                raise ValueError(f"a stride of {self.stride} does not divide {tuple(values.shape[2:])} points")
        before = [_before(k, s) for k, s in zip(self.kernel, self.stride, strict=True)]
        sides = [(b, k - s - b) for b, k, s in zip(before, self.kernel, self.stride, strict=True)]
        return self.convolution(_padded(values, sides))  # type: ignore[no-any-return]


class GlobeConvTranspose(nn.Module):
    """Up-convolution that mirrors `GlobeConv`: each point spreads a kernel, periodic and across the poles.

    Args:
        inputs: channels that come in.
        outputs: channels that go out.
        kernel: points of the kernel along each axis.
        stride: how many times as many points go out along each axis.
        bias: whether a constant is added.
        seamless: whether points that are all the same leave no trace of their spacing, along either axis: at each
            distance from them their kernels add up to the same, and the result is averaged over half a stride.

    Raises:
        ValueError: if a kernel is smaller than its stride, which would leave points out, or no multiple of it where it
            is to be seamless.
    """

    def __init__(
        self, inputs: int, outputs: int, kernel: Sizes, stride: Sizes, *, bias: bool = True, seamless: bool = False
    ) -> None:
        super().__init__()
        self.kernel, self.stride = _checked(kernel, stride)
        self.seamless = seamless
        if seamless and any(k % s for k, s in zip(self.kernel, self.stride, strict=True)):
            raise ValueError(f"a seamless kernel of {kernel} must be a multiple of its stride of {stride}")
        convolution = nn.ConvTranspose2d if len(kernel) == 2 else nn.ConvTranspose3d
        self.convolution = convolution(inputs, outputs, self.kernel, self.stride, bias=bias)  # type: ignore[arg-type]

    def forward(self, values: Float[Tensor, "batch channel *axes"]) -> Float[Tensor, "batch channel_out *axes_out"]:
        """Convolve to a finer grid."""
        before = [_before(k, s) for k, s in zip(self.kernel, self.stride, strict=True)]
        reach = [
            math.ceil((k - 1 - b) / s) if k > s else 0 for k, s, b in zip(self.kernel, self.stride, before, strict=True)
        ]
        padded = _padded(values, [(r, r) for r in reach])
        if self.seamless:
            up = F.conv_transpose2d if len(self.kernel) == 2 else F.conv_transpose3d
            spread: Tensor = up(padded, self._even(), self.convolution.bias, self.stride)
        else:
            spread = self.convolution(padded)
        for axis, (size, b, r, s) in enumerate(zip(values.shape[2:], before, reach, self.stride, strict=True), start=2):
            spread = spread.narrow(axis, r * s + b, size * s)
        if self.seamless:
            spread = running_mean(spread, (max(self.stride[-2] // 2, 1), max(self.stride[-1] // 2, 1)))
        return spread

    def _even(self) -> Float[Tensor, "input output *kernel"]:
        """Return the kernels without what their overlapping copies, one stride apart, do not add up to evenly."""
        weight = self.convolution.weight
        for axis in (-2, -1):
            turned = weight.transpose(axis, -1)
            parts = turned.reshape(*turned.shape[:-1], -1, self.stride[axis])
            total = parts.sum(-2, keepdim=True)
            parts = parts - (total - total.mean(-1, keepdim=True)) / parts.shape[-2]
            weight = parts.flatten(-2).transpose(axis, -1)
        return weight


def running_mean(values: Float[Tensor, "*lead lat lon"], width: tuple[int, int]) -> Float[Tensor, "*lead lat lon"]:
    """Return means over so many rows and columns around each point, the outermost ones by half if they are even.

    Waves of these lengths, and of whole parts of them, have no mean.
    """
    for axis, points in zip((-2, -1), width, strict=True):
        sides = [(0, 0), (0, 0)]
        sides[axis] = (points // 2, points // 2)
        padded = pad_globe(values, *sides)
        single = padded.shape[axis] - values.shape[axis]
        parts = [padded.narrow(axis, first, values.shape[axis]) for first in range(single + 1)]
        if points % 2 == 0:
            parts[0], parts[-1] = parts[0] / 2, parts[-1] / 2
        values = torch.stack(parts).sum(0) / points
    return values


def _checked(kernel: Sizes, stride: Sizes | None) -> tuple[Sizes, Sizes]:
    steps = stride or (1,) * len(kernel)
    if any(k < s for k, s in zip(kernel, steps, strict=True)):
        raise ValueError(f"a kernel of {kernel} leaves out points at a stride of {steps}")
    return tuple(kernel), tuple(steps)


def _before(kernel: int, stride: int) -> int:
    return (kernel - stride) // 2


def _padded(values: Tensor, sides: list[Sides]) -> Tensor:
    if len(sides) == 3 and any(sides[0]):
        depth = values.shape[2]
        layers = torch.arange(-sides[0][0], depth + sides[0][1], device=values.device).clamp(0, depth - 1)
        values = values.index_select(2, layers)
    return pad_globe(values, sides[-2], sides[-1])


class _Wrapped(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, maps: Tensor) -> Tensor:
        return torch.cat([maps[..., -1:], maps, maps[..., :1]], dim=-1)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        inner = gradient[..., 1:-1].clone()
        inner[..., -1] += gradient[..., 0]
        inner[..., 0] += gradient[..., -1]
        return inner


def wrapped(maps: Float[Tensor, "*lead lat lon"]) -> Float[Tensor, "*lead lat wider_lon"]:
    """Return maps with one column more on each side, which is the last and the first of the circle.

    PyTorch's circular padding does the same. On a CPU, forwards and backwards, it takes twice as long or more.
    """
    return _Wrapped.apply(maps)  # type: ignore[no-any-return, no-untyped-call]


class Plane(NamedTuple):
    """How tokens lie beside one another, row by row.

    Attributes:
        rows: of latitude.
        columns: of longitude.
        periodic: whether the columns close the circle.
    """

    rows: int
    columns: int
    periodic: bool


class TokenConvolution(nn.Conv2d):
    """3×3 convolution over tokens; beyond the edges of the plane and at holes there is nothing.

    Args:
        given: width of a token.
        width: of a token that goes out.
    """

    def __init__(self, given: int, width: int) -> None:
        super().__init__(given, width, 3)

    def forward(  # type: ignore[override]
        self, tokens: Float[Tensor, "batch token given"], plane: Plane, keys: Bool[Tensor, "batch token"] | None = None
    ) -> Float[Tensor, "batch token width"]:
        """Convolve.

        Args:
            tokens: as many as the plane has places.
            plane: how they lie.
            keys: which of them others may see; None for all.
        """
        if keys is not None:
            tokens = tokens * keys.unsqueeze(-1)
        maps = tokens.reshape(len(tokens), *plane[:2], -1).permute(0, 3, 1, 2)
        if plane.periodic:
            maps = wrapped(maps)
        mixed = F.conv2d(maps, self.weight, self.bias, padding=(1, 0 if plane.periodic else 1))
        return mixed.permute(0, 2, 3, 1).flatten(1, 2)


class ConvolutionBranch(nn.Module):
    """Two 3×3 convolutions over tokens with a GELU between them, for a residual branch; begins as zero.

    Args:
        width: of a token.
        dropout: share of activations dropped between the two in training.
    """

    def __init__(self, width: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.first, self.second = TokenConvolution(width, width), TokenConvolution(width, width)
        self.dropout = Dropout(dropout)
        nn.init.zeros_(self.second.weight)
        assert self.second.bias is not None
        nn.init.zeros_(self.second.bias)

    def forward(
        self, tokens: Float[Tensor, "batch token width"], plane: Plane, keys: Bool[Tensor, "batch token"] | None = None
    ) -> Float[Tensor, "batch token width"]:
        """Convolve; see `TokenConvolution`."""
        return self.second(self.dropout(F.gelu(self.first(tokens, plane, keys))), plane, keys)  # type: ignore[no-any-return]
