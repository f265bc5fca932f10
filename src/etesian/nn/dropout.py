"""Dropout: of single activations, and of a residual branch for whole samples."""

import math
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn


class Dropout(nn.Module):
    """Zeroes a share of activations in training and scales up the rest.

    On a CPU, PyTorch's own draws one number per activation and keeps a factor of the activations' type for the backward
    pass; this one draws how far apart those lie that are dropped, which follows a geometric distribution, and keeps
    their places.

    Args:
        share: of the activations, 0 ≤ share < 1.

    Raises:
        ValueError: if the share is out of range.
    """

    def __init__(self, share: float) -> None:
        super().__init__()
        if not 0 <= share < 1:
            raise ValueError(f"a share of {share} cannot be dropped")
        self.share = share

    def forward(self, values: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """Drop a share of the values in training."""
        if not self.training or self.share == 0:
            return values
        if values.device.type != "cpu":
            return F.dropout(values, self.share)
        return _Drop.apply(values, self.share)  # type: ignore[no-any-return, no-untyped-call]

    def extra_repr(self) -> str:
        """Return the share, for printing the network."""
        return f"share={self.share}"


class _Drop(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, share: float) -> Tensor:
        places = _places(values.numel(), share)
        ctx.save_for_backward(places)
        ctx.scale = 1 / (1 - share)
        return _dropped(values, places, ctx.scale)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (places,) = ctx.saved_tensors
        return _dropped(gradient, places, ctx.scale), None


def _places(count: int, share: float) -> Int[Tensor, " dropped"]:
    """Draw which of so many values are dropped, each by itself."""
    expected = count * share
    draws = int(expected + 6 * math.sqrt(expected)) + 20
    while True:
        # How many are kept before the next one that is dropped, by inversion.
        kept = torch.rand(draws).neg_().log1p_().div_(math.log1p(-share)).long()
        places = kept.add_(1).cumsum_(0).sub_(1)
        # Once in a thousand million times they do not reach the end.
        if places[-1] >= count - 1:
            return places[: int(torch.searchsorted(places, count))].to(torch.int32 if count < 1 << 31 else torch.int64)


def _dropped(values: Tensor, places: Int[Tensor, " dropped"], scale: float) -> Tensor:
    rest = (values * scale).contiguous()
    rest.view(-1).index_fill_(0, places.long(), 0)
    return rest


class DropPath(nn.Module):
    """Stochastic depth: drops a residual branch for whole samples in training (Huang et al. 2016).

    Args:
        share: of the samples, 0 ≤ share < 1.
    """

    def __init__(self, share: float) -> None:
        super().__init__()
        self.share = share

    def forward(self, branch: Float[Tensor, "batch token dim"]) -> Float[Tensor, "batch token dim"]:
        """Zero the branch for a random share of samples and scale up the others."""
        if not self.training or self.share == 0:
            return branch
        keep = 1 - self.share
        return branch * torch.empty_like(branch[:, :1, :1]).bernoulli_(keep).div_(keep)
