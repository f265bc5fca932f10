"""First guesses of gappy fields: successive corrections with learned kernels, and means of what was observed."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

Maps = Float[Tensor, "batch time channel lat lon"]

_GAIN = 10.0
"""By which the logarithms of kernels' widths learn faster than other parameters at the same learning rate."""

SMALL = 0.05
"""How large corrections of a guess and what it misses are beside the fields; networks are given them in this unit."""


class Guess(NamedTuple):
    """A first guess.

    Attributes:
        values: of the fields.
        known: maps that tell how it came about: the guess, its corrections and logarithms of how much was observed,
            scaled to about 1.
    """

    values: Maps
    known: Float[Tensor, "batch time map lat lon"]


class SuccessiveCorrections(nn.Module):
    """The method of successive corrections (Cressman 1959, Barnes 1964), with kernels that are learned.

    Begins with 0. In each pass the difference of the observations from the guess so far is smoothed by a Gaussian in
    space and time and added: with weights k and validity v, Σ k v (x − guess) / (Σ k v + λ). Passes with narrowing
    kernels first draw the large scales from afar, then the details from nearby; such iterations tend to optimal
    interpolation (Bratseth 1986, doi 10.1111/j.1600-0870.1986.tb00476.x). Each pass has its own widths and its own λ,
    the number of observations that would halve a correction. A time at which nothing is observed has no part in it.

    Args:
        scales: what to begin with, by pass: standard deviations of the kernel in grid points and in days, and λ.

    Raises:
        ValueError: if one of them is not positive.
    """

    def __init__(self, scales: Sequence[tuple[float, float, float]]) -> None:
        super().__init__()
        if min(value for scale in scales for value in scale) <= 0:
            raise ValueError(f"widths and numbers of observations must be positive, unlike those of {list(scales)}")
        self.logarithms = nn.Parameter(
            torch.tensor([tuple(scale) for scale in scales], dtype=torch.float32).log() / _GAIN
        )

    def scales(self) -> Float[Tensor, "pass 3"]:
        """Return what was learned, by pass, as it was given."""
        return (_GAIN * self.logarithms).exp()

    def forward(
        self,
        values: Maps,
        valid: Bool[Tensor, "batch time channel lat lon"],
        days: Float[Tensor, "batch time"],
        *,
        periodic: bool,
    ) -> Guess:
        """Guess the fields of all times.

        Args:
            values: zero where they are not valid.
            valid: where there is an observation.
            days: when, in days.
            periodic: whether the longitudes close the circle.
        """
        seen = valid.to(values.dtype)
        apart = days[:, :, None] - days[:, None, :]
        north = _distances(values.shape[-2], values, periodic=False)
        east = _distances(values.shape[-1], values, periodic=periodic)
        guess, known = torch.zeros_like(values), []
        for space, time, prior in self.scales():
            both = torch.stack([seen * (values - guess), seen], dim=2)
            summed = (_gaussian(apart, time) @ both.flatten(2)).view_as(both)
            total, weight = (_gaussian(north, space) @ (summed @ _gaussian(east, space))).unbind(2)
            correction = total / (weight + prior)
            guess = guess + correction
            known += [correction / SMALL, torch.log1p(weight) - 1]
        return Guess(guess, torch.cat([guess, *known], dim=2))


class DailyRefinement(nn.Module):
    """What a guess of each time misses, by convolutions over neighbouring times and points; begins as zero.

    Works at half the resolution, for what is missed is smooth. Times at which nothing was observed enter as if there
    were none.

    Args:
        channels: of the fields.
        known: maps that tell of the guess.
        width: channels within.
        depth: number of convolutions.
    """

    def __init__(self, channels: int, known: int, width: int, depth: int = 3) -> None:
        super().__init__()
        inputs = [known + 2 * channels, *[width] * (depth - 1)]
        self.convolutions = nn.ModuleList(nn.Conv3d(given, width, 3) for given in inputs)
        self.leave = nn.Conv3d(width, channels, 1)
        nn.init.zeros_(self.leave.weight)
        nn.init.zeros_(self.leave.bias)  # type: ignore[arg-type]

    def forward(
        self, guess: Guess, values: Maps, valid: Bool[Tensor, "batch time channel lat lon"], *, periodic: bool
    ) -> Maps:
        """Return what is to be added to the guess."""
        seen = valid.to(values.dtype)
        told = torch.cat([guess.known, seen * (values - guess.values) / SMALL, seen], dim=2)
        kept = valid.flatten(2).any(-1)[:, None, :, None, None].to(values.dtype)
        hidden = F.avg_pool3d(told.transpose(1, 2), (1, 2, 2), ceil_mode=True)
        for number, convolution in enumerate(self.convolutions):
            more = F.gelu(convolution(_padded(kept * hidden, periodic)))
            hidden = hidden + more if number else more
        return SMALL * _doubled(self.leave(hidden).transpose(1, 2), values.shape[-2:], periodic)


def _padded(maps: Float[Tensor, "batch map time lat lon"], periodic: bool) -> Tensor:
    if periodic:
        maps = torch.cat([maps[..., -1:], maps, maps[..., :1]], dim=-1)
    else:
        maps = F.pad(maps, (1, 1, 0, 0, 0, 0), mode="replicate")
    return F.pad(F.pad(maps, (0, 0, 1, 1, 0, 0), mode="replicate"), (0, 0, 0, 0, 1, 1))


def _doubled(coarse: Tensor, size: torch.Size, periodic: bool) -> Tensor:
    """Interpolate to twice the rows and columns, at most so many of them."""
    maps = F.pad(coarse.flatten(0, 1), (1, 1, 0, 0), mode="circular" if periodic else "replicate")
    fine = F.interpolate(maps, scale_factor=2.0, mode="bilinear")[..., : size[0], 2 : 2 + size[1]]
    return torch.unflatten(fine, 0, coarse.shape[:2])


def observed_mean(
    values: Maps, valid: Bool[Tensor, "batch time channel lat lon"], group: Bool[Tensor, "batch time month"]
) -> Guess:
    """Return the mean of what was observed in each month, 0 where nothing was."""
    member = group.to(values.dtype)
    number = torch.einsum("btm,btchw->bmchw", member, valid.to(values.dtype))
    mean = torch.einsum("btm,btchw->bmchw", member, values) / number.clamp(min=1)
    return Guess(mean, torch.cat([mean, torch.log1p(number)], dim=2))


def _gaussian(distance: Tensor, width: Tensor) -> Tensor:
    return torch.exp(-0.5 * (distance / width).square())


def _distances(size: int, like: Tensor, *, periodic: bool) -> Float[Tensor, "point point"]:
    place = torch.arange(size, device=like.device, dtype=like.dtype)
    apart = (place[:, None] - place).abs()
    return torch.minimum(apart, size - apart) if periodic else apart
