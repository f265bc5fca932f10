"""The two paths of WeatherMesh between fields and its latent: profiles on pressure levels, and the surface."""

from collections.abc import Sequence
from itertools import product, zip_longest

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from etesian.core.channels import Channel
from etesian.core.clock import cosine_solar_zenith, hour_of_day, seasonal_terms
from etesian.core.errors import RecipeError
from etesian.core.fields import Frame
from etesian.core.grid import linear_weights
from etesian.nn.convolution import GlobeConv, GlobeConvTranspose, Sides, pad_globe

CLOCK_FEATURES = 7
"""Cosine of the solar zenith angle, cosine and sine of the time of day, two harmonics of the year."""


def clock_features(frame: Frame) -> Float[Tensor, "batch feature lat lon"]:
    """Return what the clock tells about the last time of a frame, at every place."""
    time = frame.time[:, -1].cpu().numpy()
    sun = cosine_solar_zenith(time, frame.grid, frame.calendar)
    day = 2 * np.pi * hour_of_day(time) / 24
    terms = np.concatenate(
        [np.stack([np.cos(day), np.sin(day)], axis=-1), seasonal_terms(time, frame.calendar)[:, 1:]], axis=-1
    )
    everywhere = np.broadcast_to(terms[:, :, None, None], (*terms.shape, *frame.grid.shape))
    return torch.from_numpy(np.concatenate([sun[:, None], everywhere], axis=1)).to(frame.time.device, torch.float32)


def sides(size: int, step: int) -> Sides:
    """Return how much to add on both sides until a step divides a size, the odd one behind."""
    missing = -size % step
    return missing // 2, missing - missing // 2


class GridPadding:
    """Pads fields to a grid that patches divide, round the globe, and crops them again.

    Args:
        shape: latitudes and longitudes.
        patch: rows and columns of a patch.
        poles: whether the outermost rows lie on the poles.
    """

    def __init__(self, shape: tuple[int, int], patch: tuple[int, int], *, poles: bool) -> None:
        self.shape, self.poles = shape, poles
        self.latitude, self.longitude = (sides(n, p) for n, p in zip(shape, patch, strict=True))

    def pad(self, values: Float[Tensor, "*lead lat lon"]) -> Float[Tensor, "*lead padded_lat padded_lon"]:
        """Continue fields beyond their edges."""
        return pad_globe(values, self.latitude, self.longitude, poles=self.poles)

    def crop(self, values: Float[Tensor, "*lead padded_lat padded_lon"]) -> Float[Tensor, "*lead lat lon"]:
        """Undo `pad`."""
        rows, columns = (
            slice(s[0], s[0] + n) for s, n in zip((self.latitude, self.longitude), self.shape, strict=True)
        )
        return values[..., rows, columns]


class LevelInterpolation(nn.Module):
    """Takes profiles from some channels to others of the same variables, linearly in the logarithm of pressure.

    Args:
        given: channels on levels that come in.
        wanted: channels on levels that go out.
        continued: beyond a variable's outermost levels, take the outermost one.

    Raises:
        RecipeError: if a level lies beyond a variable's outermost ones, unless `continued`.
    """

    def __init__(self, given: Sequence[Channel], wanted: Sequence[Channel], *, continued: bool = False) -> None:
        super().__init__()
        weights = np.zeros((len(wanted), len(given)))
        for name in dict.fromkeys(c.name for c in wanted):
            rows = [i for i, c in enumerate(wanted) if c.name == name]
            columns = sorted((i for i, c in enumerate(given) if c.name == name), key=lambda i: given[i].level or 0)
            source, target = (
                np.log([float(of[i].level or 0) for i in at]) for of, at in ((given, columns), (wanted, rows))
            )
            beyond = (target < source[0]) | (target > source[-1])
            if beyond.any() and not continued:
                level, first, last = (
                    of[i].level
                    for of, i in ((wanted, rows[int(beyond.argmax())]), (given, columns[0]), (given, columns[-1]))
                )
                raise RecipeError(
                    f"{name} at {level} hPa lies beyond the levels to interpolate from, {first} to {last} hPa; "
                    "choose other levels, or set continue_levels: true if the inputs are what ends too early"
                )
            weights[np.ix_(rows, columns)] = linear_weights(source, target.clip(source[0], source[-1]))
        order = (-weights).argsort(axis=1, kind="stable")
        nearest, second = order[:, 0], order[:, min(1, len(given) - 1)]
        share = np.where(nearest == second, 0.0, weights[np.arange(len(wanted)), second])
        self.exact = not share.any()
        self.register_buffer("nearest", torch.from_numpy(nearest), persistent=False)
        self.register_buffer("second", torch.from_numpy(second), persistent=False)
        self.register_buffer("share", torch.from_numpy(share).float()[:, None, None], persistent=False)

    nearest: Tensor
    second: Tensor
    share: Tensor

    def forward(self, values: Float[Tensor, "batch given lat lon"]) -> Float[Tensor, "batch wanted lat lon"]:
        """Interpolate."""
        nearest = values.index_select(1, self.nearest)
        if self.exact:
            return nearest
        return nearest + self.share.to(values.dtype) * (values.index_select(1, self.second) - nearest)


class ResidualConvolutions(nn.Module):
    """Two 3×3 convolutions on a residual branch."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(1, width)
        self.first = GlobeConv(width, width, (3, 3))
        self.second = GlobeConv(width, width, (3, 3))

    def forward(self, values: Float[Tensor, "batch channel lat lon"]) -> Float[Tensor, "batch channel lat lon"]:
        """Transform fields."""
        change: Tensor = self.second(F.gelu(self.first(self.norm(values))))
        return values + change


class SurfaceEncoder(nn.Module):
    """Residual convolutions with down-sampling from fields to patches.

    Args:
        inputs: channels that come in.
        dim: channels that go out.
        width: channels at the full resolution; twice as many after each halving, up to `dim`.
        patch: rows and columns of a patch.
    """

    def __init__(self, inputs: int, dim: int, width: int, patch: tuple[int, int]) -> None:
        super().__init__()
        steps = strides(patch)
        widths = stage_widths(width, dim, len(steps))
        self.enter = GlobeConv(inputs, widths[0], (3, 3))
        self.stages = nn.Sequential()
        for step, fine, coarse in zip(steps, widths, widths[1:], strict=False):
            self.stages.append(ResidualConvolutions(fine))
            self.stages.append(GlobeConv(fine, coarse, overlapping(step), step))
        self.leave = nn.Sequential(ResidualConvolutions(widths[-1]), GlobeConv(widths[-1], dim, (1, 1)))

    def forward(self, fields: Float[Tensor, "batch channel lat lon"]) -> Float[Tensor, "batch dim row column"]:
        """Encode."""
        return self.leave(self.stages(self.enter(fields)))  # type: ignore[no-any-return]


class SurfaceDecoder(nn.Module):
    """Mirrors `SurfaceEncoder`: up-convolutions from patches to fields.

    Args:
        dim: channels that come in.
        outputs: channels that go out.
        width: channels at the full resolution.
        patch: rows and columns of a patch.
        seamless: whether up-convolutions leave no edges; see `GlobeConvTranspose`.
    """

    def __init__(self, dim: int, outputs: int, width: int, patch: tuple[int, int], *, seamless: bool = False) -> None:
        super().__init__()
        steps = strides(patch)
        widths = stage_widths(width, dim, len(steps))
        self.enter = nn.Sequential(GlobeConv(dim, widths[-1], (1, 1)), ResidualConvolutions(widths[-1]))
        self.stages = nn.Sequential()
        for step, fine, coarse in reversed(list(zip(steps, widths, widths[1:], strict=False))):
            self.stages.append(GlobeConvTranspose(coarse, fine, overlapping(step), step, seamless=seamless))
            self.stages.append(ResidualConvolutions(fine))
        self.leave = GlobeConv(widths[0], outputs, (3, 3))
        start_at_zero(self.leave.convolution)

    def forward(self, latent: Float[Tensor, "batch dim row column"]) -> Float[Tensor, "batch channel lat lon"]:
        """Decode."""
        return self.leave(self.stages(self.enter(latent)))  # type: ignore[no-any-return]


def profiles(names: Sequence[str], levels: Sequence[int]) -> list[Channel]:
    """Return the channels of some variables on the same levels, variable by variable."""
    return [Channel(name, level) for name, level in product(names, levels)]


def strides(patch: tuple[int, int]) -> list[tuple[int, int]]:
    """Split a patch into the strides of successive convolutions, by prime factors.

    >>> strides((8, 8)), strides((2, 6))
    ([(2, 2), (2, 2), (2, 2)], [(2, 2), (1, 3)])
    """
    return list(zip_longest(*(_factors(n) for n in patch), fillvalue=1))  # type: ignore[arg-type]


def _factors(number: int) -> list[int]:
    factor = next((f for f in range(2, number + 1) if number % f == 0), None)
    return [] if factor is None else [factor, *_factors(number // factor)]


def stage_widths(width: int, dim: int, stages: int) -> list[int]:
    """Return the channels at each resolution, from the finest."""
    return [min(width * 2**i, max(width, dim)) for i in range(stages + 1)]


def overlapping(step: tuple[int, int]) -> tuple[int, int]:
    """Return the kernel of twice a stride, or of one point where nothing is strided."""
    return step[0] * 2 if step[0] > 1 else 1, step[1] * 2 if step[1] > 1 else 1


def start_at_zero(layer: nn.Module) -> None:
    """Make a last layer answer zero until it has learned: a normalised field's mean, or no change."""
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
