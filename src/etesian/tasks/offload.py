"""Keeping less of a long chain of steps for the backward pass."""

from collections.abc import Callable
from contextlib import nullcontext

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.graph import save_on_cpu
from torch.utils.checkpoint import checkpoint

Latent = Float[Tensor, "sample depth row column dim"]
Step = Callable[[Latent, int], Latent]


def recomputed(step: Step, *, offload: bool) -> Step:
    """Return a step of which only what enters it is kept; the backward pass computes the rest again.

    Memory then grows with the number of steps by one latent each, and holds the intermediate results of one step.

    Args:
        step: advances a latent by some hours.
        offload: keep what enters in the memory of the CPU, pinned, and fetch it back when it is needed. Latents that
            are on the CPU stay where they are.
    """

    def thrifty(latent: Latent, hours: int) -> Latent:
        if not torch.is_grad_enabled():
            return step(latent, hours)
        moves = offload and latent.device.type != "cpu"
        with save_on_cpu(pin_memory=True, device_type=latent.device.type) if moves else nullcontext():
            answer: Tensor = checkpoint(step, latent, hours, use_reentrant=False)
        return answer

    return thrifty
