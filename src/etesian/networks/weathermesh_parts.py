"""The layers of WeatherMesh between fields and its latent: profiles on levels, the surface, and further grids."""

from collections.abc import Sequence
from itertools import product, zip_longest

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor, nn

from etesian.core.channels import Channel
from etesian.core.clock import cosine_solar_zenith, hour_of_day, seasonal_terms, solar_zenith_parts
from etesian.core.device import sent
from etesian.core.errors import RecipeError
from etesian.core.fields import Frame
from etesian.core.grid import Grid, cubic_longitude_weights, cubic_weights, linear_weights, overlap_weights
from etesian.nn.convolution import GlobeConv, GlobeConvTranspose, MapNorm, Sides, pad_globe
from etesian.nn.moment import clock_inside
from etesian.nn.tokens import patch_counts

CLOCK_FEATURES = 7
"""Cosine of the solar zenith angle, cosine and sine of the time of day, two harmonics of the year."""


def clock_features(frame: Frame, like: Tensor) -> Float[Tensor, "batch feature lat lon"]:
    """Return what the clock tells about the last time of a frame, at every place, where another tensor is."""
    if (known := clock_inside(frame.time[:, -1], frame.grid, frame.calendar)) is not None:
        return known.to(like.dtype)
    time, wide = frame.time[:, -1].numpy(), torch.empty((), device=like.device)
    day = 2 * np.pi * hour_of_day(time) / 24
    terms = np.concatenate(
        [np.stack([np.cos(day), np.sin(day)], axis=-1), seasonal_terms(time, frame.calendar)[:, 1:]], axis=-1
    )
    if like.device.type == "cpu":
        sun = torch.from_numpy(cosine_solar_zenith(time, frame.grid, frame.calendar))
    else:
        # Maps of it at a quarter of a degree would keep the host busy for as long as a GPU takes to encode them.
        parts = (sent(part, wide) for part in solar_zenith_parts(time, frame.grid, frame.calendar))
        constant, by_latitude, by_longitude = parts
        sun = constant[..., None] + by_latitude[..., None] * by_longitude[:, None]
    everywhere = sent(terms, wide)[:, :, None, None].expand(-1, -1, *frame.grid.shape)
    return torch.cat([sun[:, None].float(), everywhere], dim=1).to(like.dtype)


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
        self.norm = MapNorm(width)
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


BEYOND = 3
"""Rows from across a pole that a spline goes on to, so that the pole is a place like any other."""


class Regridding(nn.Module):
    """Takes fields to another grid of the globe: to means over its cells where these are larger, else by cubic splines.

    Each axis is taken by itself. Rows go on across the poles, longitudes round the circle. In single precision at
    least, whatever the precision around it.

    Args:
        source: of the fields, all round the globe.
        target: where they are wanted.
    """

    rows: Tensor
    columns: Tensor

    def __init__(self, source: Grid, target: Grid) -> None:
        super().__init__()
        rows, columns = overlap_weights(source, target)
        self.beyond, self.poles = 0, source.has_poles
        if target.shape[0] >= source.shape[0]:
            self.beyond = min(BEYOND, source.shape[0] - int(self.poles))
            rows = cubic_weights(_across_poles(source, self.beyond), target.latitude)
        if target.shape[1] >= source.shape[1]:
            columns = cubic_longitude_weights(source, target)
        # Rebuilt from the grids.
        self.register_buffer("rows", torch.from_numpy(rows).float(), persistent=False)
        self.register_buffer("columns", torch.from_numpy(columns).float(), persistent=False)

    def forward(self, fields: Float[Tensor, "*lead lat lon"]) -> Float[Tensor, "*lead lat_out lon_out"]:
        """Return the fields on the other grid."""
        sides = (self.beyond, self.beyond)
        with torch.autocast(fields.device.type, enabled=False):
            padded = pad_globe(fields.to(self.rows.dtype), sides, (0, 0), poles=self.poles)
            return self.rows @ padded @ self.columns.T


def _across_poles(grid: Grid, count: int) -> Float[np.ndarray, " lat"]:
    """Return the latitudes with so many rows beyond each pole, as `pad_globe` adds them."""
    first, last = int(grid.has_poles), grid.shape[0] - int(grid.has_poles)
    south, north = grid.latitude[first : first + count], grid.latitude[last - count : last]
    return np.concatenate([-180 - south[::-1], grid.latitude, 180 - north[::-1]])


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
