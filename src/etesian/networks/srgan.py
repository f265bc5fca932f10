"""Super-resolution: a residual generator and its discriminator, as in SRGAN (arXiv 1609.04802) and PhIRE."""

from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from etesian.core.device import positions
from etesian.core.errors import DataError, GridError, RecipeError
from etesian.core.fields import Fields, Frame, Layout
from etesian.core.grid import Grid
from etesian.networks.network import Network, Normals
from etesian.nn.convolution import pad_globe
from etesian.nn.noise import NORMALS

_SLOPE = 0.2
"""Of the leaky rectifiers, below zero."""

_CORRECTIONS = 2
"""How often what means over blocks lack is added to a bicubic interpolation."""


class SRGenerator(Network):
    """Coarse fields to fine ones by residual blocks at the coarse resolution and sub-pixel convolutions.

    Convolutional throughout: it learns from patches and is asked for fields of any size. Fields that go round the
    globe are continued round the circle and across the poles as far as the network sees, so that there is no seam;
    fields larger than `tile` are made in tiles that overlap as far, which changes nothing but the memory.

    Args:
        layout: with a `target_grid` that has a whole number of rows and columns for each of the coarse grid.
        width: channels between the convolutions.
        blocks: number of residual blocks.
        residual: the network gives the difference from the `bicubic` or `bilinear` interpolation of the coarse field,
            none at the start, so that it begins with what it is judged against; or from the `conservative` one, a
            bicubic one to which what means over blocks lack is added twice, interpolated; false for the field itself,
            as the original. True is `bilinear`. Needs every target among the inputs.
        shrink: whether a share of that difference is added, by channel: that with the least squared error over the
            validation data, none if it does not help there.
        tile: coarse rows and columns that are made at once outside training.

    Raises:
        RecipeError: if the grids are in no whole proportion, the same for rows and columns, statics or a history are
            given, which the network has no place for, or there is nothing to shrink.
    """

    share: Tensor | None

    def __init__(
        self,
        layout: Layout,
        *,
        width: int = 64,
        blocks: int = 16,
        residual: Literal["conservative", "bicubic", "bilinear"] | bool = "bicubic",
        shrink: bool = False,
        tile: int = 192,
    ) -> None:
        super().__init__()
        self.layout, self.tile = layout, tile
        self.residual = "bilinear" if residual is True else residual
        self.factor = resolution_factor(layout)
        if residual and (missing := [channel for channel in layout.targets if channel not in layout.inputs]):
            raise RecipeError(
                f"a residual needs the coarse field, but the target '{missing[0]}' is not among the inputs; "
                "set residual: false"
            )
        if shrink and not residual:
            raise RecipeError("shrink needs an interpolation that the network adds to; set residual: conservative")
        self.register_buffer("share", torch.ones(len(layout.targets), 1, 1) if shrink else None)
        self.coarse_index = [layout.inputs.index(channel) for channel in layout.targets if channel in layout.inputs]
        stages = prime_factors(self.factor)
        self.enter = _Convolution(len(layout.inputs), width, 9)
        self.blocks = nn.Sequential(*(_Residual(width) for _ in range(blocks)), _Convolution(width, width, 3))
        self.up = nn.Sequential(*(_SubPixel(width, stage) for stage in stages))
        self.leave = _Convolution(width, len(layout.targets), 9)
        if residual:
            nn.init.zeros_(self.leave.convolution.weight)
            nn.init.zeros_(self.leave.convolution.bias)  # type: ignore[arg-type]
        self.reach = _reach(blocks, stages)
        self.noise_enter: _Convolution | None = None

    def accept_noise(self) -> None:
        """Take noise beside the coarse fields, as Leinonen et al. do (arXiv 2005.10374); begins by ignoring it."""
        self.noise_enter = _Convolution(NORMALS, self.enter.convolution.out_channels, 9)
        nn.init.zeros_(self.noise_enter.convolution.weight)
        nn.init.zeros_(self.noise_enter.convolution.bias)  # type: ignore[arg-type]

    def noise_shape(self, grid: Grid) -> tuple[int, ...]:
        """Return that of some normals for each point of the coarse grid, from the fine one."""
        return (grid.shape[0] // self.factor, grid.shape[1] // self.factor, NORMALS)

    def forward(
        self,
        inputs: Fields,
        target: Frame,
        *,
        forcings: Fields | None = None,
        statics: Fields | None = None,
        noise: Normals | None = None,
    ) -> Float[Tensor, "batch time channel row column"]:
        """Predict; see `Network.forward` and `Network.accept_noise`.

        Raises:
            GridError: if the target grid is not as many times finer as the network was built for.
            DataError: if the inputs have holes.
        """
        grid = inputs.frame.grid
        if inputs.valid is not None and not bool(inputs.valid.all()):
            raise DataError("super-resolution has no place for holes, but part of the coarse field is missing; fill it")
        if target.grid.shape != (grid.shape[0] * self.factor, grid.shape[1] * self.factor):
            raise GridError(f"the network makes fields {self.factor} times finer than {grid}, not {target.grid}")
        coarse = inputs.select(self.layout.inputs).values[:, 0]
        if noise is not None:
            coarse = torch.cat([coarse, noise(0).movedim(-1, 1).to(coarse)], dim=1)
        fine = self._globe(coarse) if grid.is_periodic else self._tiles(coarse)
        known = Frame(self.layout.targets, target.time, target.grid).index(target.channels)
        return fine.index_select(1, positions(known, fine.device))[:, None]

    def _globe(self, coarse: Float[Tensor, "batch channel row column"]) -> Float[Tensor, "batch target lat lon"]:
        """Continue a globe, and the noise on it, beyond its edges as far as the network sees."""
        rows = min(self.reach, coarse.shape[-2])
        fine = self._tiles(pad_globe(coarse, (rows, rows), (self.reach, self.reach)))
        return _cropped(fine, rows * self.factor, self.reach * self.factor)

    def _tiles(self, coarse: Float[Tensor, "batch channel row column"]) -> Float[Tensor, "batch target lat lon"]:
        """Make a field in tiles that overlap as far as the network sees; in training, at once."""
        if self.training or max(coarse.shape[-2:]) <= self.tile:
            return self._field(coarse)
        height, width = coarse.shape[-2:]
        rows = []
        for top in range(0, height, self.tile):
            tiles = []
            for left in range(0, width, self.tile):
                inner = (top, min(top + self.tile, height), left, min(left + self.tile, width))
                outer = (
                    max(inner[0] - self.reach, 0),
                    min(inner[1] + self.reach, height),
                    max(inner[2] - self.reach, 0),
                    min(inner[3] + self.reach, width),
                )
                tile = self._field(coarse[..., outer[0] : outer[1], outer[2] : outer[3]])
                first, before = (inner[0] - outer[0]) * self.factor, (inner[2] - outer[2]) * self.factor
                tile = tile[..., first : first + (inner[1] - inner[0]) * self.factor, :]
                tiles.append(tile[..., before : before + (inner[3] - inner[2]) * self.factor])
            rows.append(torch.cat(tiles, dim=-1))
        return torch.cat(rows, dim=-2)

    def _field(self, coarse: Float[Tensor, "batch channel row column"]) -> Float[Tensor, "batch target lat lon"]:
        coarse, normals = coarse[:, : len(self.layout.inputs)], coarse[:, len(self.layout.inputs) :]
        entered = self.enter(coarse)
        if self.noise_enter is not None and normals.shape[1]:
            entered = entered + self.noise_enter(normals)
        features = _rectified(entered)
        fine: Tensor = self.leave(self.up(features + self.blocks(features)))
        if not self.residual:
            return fine
        if self.share is not None and not self.training:
            fine = self.share * fine
        return fine + self._interpolated(coarse.index_select(1, positions(self.coarse_index, coarse.device)))

    def _interpolated(self, coarse: Float[Tensor, "batch target row column"]) -> Float[Tensor, "batch target lat lon"]:
        if self.residual != "conservative":
            return F.interpolate(coarse, scale_factor=self.factor, mode=str(self.residual))
        fine = F.interpolate(coarse, scale_factor=self.factor, mode="bicubic")
        for _ in range(_CORRECTIONS):
            lacking = coarse - F.avg_pool2d(fine, self.factor)
            fine = fine + F.interpolate(lacking, scale_factor=self.factor, mode="bicubic")
        return fine


class SRDiscriminator(nn.Module):
    """Tells true fine patches from generated ones: eight convolutions, every second one halving, and two layers.

    Features are averaged to 6 × 6 places, as many as patches of 96 × 96 points have, so that patches of any size can
    be judged.

    Args:
        channels: of the fields.
        width: channels behind the first convolution; eight times as many behind the last.
        hidden: width of the layer before the last.
    """

    def __init__(self, channels: int, *, width: int = 32, hidden: int = 1024) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        before = channels
        for number in range(8):
            after = width * 2 ** (number // 2)
            layers += [nn.Conv2d(before, after, 3, stride=1 + number % 2, padding=1), nn.LeakyReLU(_SLOPE)]
            before = after
        self.features = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(6), nn.Flatten())
        self.judge = nn.Sequential(nn.Linear(36 * before, hidden), nn.LeakyReLU(_SLOPE), nn.Linear(hidden, 1))

    def forward(self, fields: Float[Tensor, "batch channel row column"]) -> Float[Tensor, " batch"]:
        """Return the logit that each patch is true."""
        return self.judge(self.features(fields))[:, 0]  # type: ignore[no-any-return]


class _Convolution(nn.Module):
    """Convolution that goes on beyond the edges with the outermost points."""

    def __init__(self, inputs: int, outputs: int, kernel: int) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, padding_mode="replicate")

    def forward(self, values: Tensor) -> Tensor:
        return self.convolution(values)  # type: ignore[no-any-return]


class _Residual(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.first, self.second = _Convolution(width, width, 3), _Convolution(width, width, 3)

    def forward(self, values: Tensor) -> Tensor:
        return values + self.second(_rectified(self.first(values)))  # type: ignore[no-any-return]


class _SubPixel(nn.Module):
    """A convolution to factor² times the channels, which become factor × factor points (arXiv 1609.05158)."""

    def __init__(self, width: int, factor: int) -> None:
        super().__init__()
        self.factor, self.convolution = factor, _Convolution(width, width * factor**2, 3)

    def forward(self, values: Tensor) -> Tensor:
        return _rectified(F.pixel_shuffle(self.convolution(values), self.factor))


def resolution_factor(layout: Layout) -> int:
    """Return how many times finer than the inputs the targets are.

    Raises:
        RecipeError: if the proportion is no whole number above 1, the same for rows and columns, or the layout has
            statics, forcings or a history.
    """
    if layout.statics or layout.forcings or layout.history != (0,):
        raise RecipeError("super-resolution takes one field at a time, without static fields, forcings or history")
    (rows, columns), (fine_rows, fine_columns) = layout.grid.shape, layout.output_grid.shape
    factor = fine_rows // rows
    if factor < 2 or (fine_rows, fine_columns) != (factor * rows, factor * columns):
        raise RecipeError(
            f"the fine grid must have a whole number of rows and columns for each of the coarse one, the same for "
            f"both: {fine_rows}×{fine_columns} points for {rows}×{columns}"
        )
    return factor


def prime_factors(number: int) -> list[int]:
    """Return the prime factors in ascending order.

    >>> prime_factors(8), prime_factors(10)
    ([2, 2, 2], [2, 5])
    """
    factors = []
    divisor = 2
    while number > 1:
        while number % divisor == 0:
            factors.append(divisor)
            number //= divisor
        divisor += 1
    return factors


def _reach(blocks: int, stages: list[int]) -> int:
    """Return how many coarse points away from it a fine point still sees."""
    fine = 4.0
    for stage in reversed(stages):
        fine = (fine + stage - 1) / stage + 1
    return int(fine) + 1 + 4 + 2 * blocks + 1


def _cropped(fine: Tensor, rows: int, columns: int) -> Tensor:
    return fine[..., rows : fine.shape[-2] - rows, columns : fine.shape[-1] - columns]


def _rectified(values: Tensor) -> Tensor:
    return F.leaky_relu(values, _SLOPE)
