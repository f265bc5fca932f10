"""Dropout: of single activations, and of a residual branch for whole samples."""

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

_STEPS = 1 << 16


class Dropout(nn.Module):
    """Zeroes a share of activations in training and scales up the rest.

    On a CPU, PyTorch's own draws one 64-bit number per activation and keeps a factor of the activations' type for the
    backward pass; this one draws a quarter as many numbers and keeps one byte. The share is rounded to 1/65536.

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
        return _Drop.apply(values, round(self.share * _STEPS))  # type: ignore[no-any-return, no-untyped-call]

    def extra_repr(self) -> str:
        """Return the share, for printing the network."""
        return f"share={self.share}"


class _Drop(torch.autograd.Function):
    """Drops `steps` of 65536 values."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, steps: int) -> Tensor:
        bits = torch.empty(-(-values.numel() // 4), dtype=torch.int64).random_(-(1 << 63), None)
        keep = bits.view(torch.int16)[: values.numel()].view(values.shape) >= steps - _STEPS // 2
        ctx.save_for_backward(keep)
        ctx.scale = _STEPS / (_STEPS - steps)
        return torch.where(keep, values, 0).mul_(ctx.scale)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (keep,) = ctx.saved_tensors
        return torch.where(keep, gradient, 0) * ctx.scale, None


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
