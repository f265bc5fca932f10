"""Smoothing of what was observed, in space and time, with kernels whose widths are learned."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

Maps = Float[Tensor, "batch time channel lat lon"]


class Smoothed(NamedTuple):
    """What smoothing gives, by scale.

    Attributes:
        values: weighted means of what was observed, drawn towards 0 where little was.
        amount: logarithm of 1 plus the number of observations that a mean rests on.
    """

    values: Float[Tensor, "batch time channel scale lat lon"]
    amount: Float[Tensor, "batch time channel scale lat lon"]


class ObservedSmoothing(nn.Module):
    """Gaussian-weighted means of the observations around each point and time, at several scales (Nadaraya–Watson).

    With weights k and validity v the mean is Σ k v x / (Σ k v + λ). The widths of the kernels and λ are learned. A
    time at which nothing is observed has no part in it.

    Args:
        scales: standard deviations of the kernels to begin with, in grid points and in days.
    """

    def __init__(self, scales: Sequence[tuple[float, float]]) -> None:
        super().__init__()
        widths = torch.tensor([[float(space), float(time)] for space, time in scales])
        self.log_space = nn.Parameter(widths[:, 0].log())
        self.log_time = nn.Parameter(widths[:, 1].log())
        self.log_prior = nn.Parameter(torch.full((len(widths),), -1.0))

    def forward(
        self,
        values: Maps,
        valid: Bool[Tensor, "batch time channel lat lon"],
        days: Float[Tensor, "batch time"],
        *,
        periodic: bool,
    ) -> Smoothed:
        """Smooth.

        Args:
            values: zero where they are not valid.
            valid: where there is an observation.
            days: when, in days.
            periodic: whether the longitudes close the circle.
        """
        both = torch.stack([values, valid.to(values.dtype)], dim=2)
        apart = days[:, :, None] - days[:, None, :]
        north = _distances(values.shape[-2], values, periodic=False)
        east = _distances(values.shape[-1], values, periodic=periodic)
        means, amounts = [], []
        for space, time, prior in zip(self.log_space.exp(), self.log_time.exp(), self.log_prior.exp(), strict=True):
            summed = torch.einsum("bst,btkchw->bskchw", _gaussian(apart, time), both)
            summed = _gaussian(north, space) @ (summed @ _gaussian(east, space))
            total, weight = summed.unbind(2)
            means.append(total / (weight + prior))
            amounts.append(torch.log1p(weight))
        return Smoothed(torch.stack(means, dim=3), torch.stack(amounts, dim=3))


def observed_mean(
    values: Maps, valid: Bool[Tensor, "batch time channel lat lon"], group: Bool[Tensor, "batch time month"]
) -> Smoothed:
    """Return the mean of what was observed in each month, 0 where nothing was, as a smoothing of one scale."""
    member = group.to(values.dtype)
    number = torch.einsum("btm,btchw->bmchw", member, valid.to(values.dtype))
    total = torch.einsum("btm,btchw->bmchw", member, values)
    return Smoothed((total / number.clamp(min=1)).unsqueeze(3), torch.log1p(number).unsqueeze(3))


def _gaussian(distance: Tensor, width: Tensor) -> Tensor:
    return torch.exp(-0.5 * (distance / width).square())


def _distances(size: int, like: Tensor, *, periodic: bool) -> Float[Tensor, "point point"]:
    place = torch.arange(size, device=like.device, dtype=like.dtype)
    apart = (place[:, None] - place).abs()
    return torch.minimum(apart, size - apart) if periodic else apart
