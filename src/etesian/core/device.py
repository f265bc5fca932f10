"""What the host knows, on the device where it is needed, without making the host wait for the device."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor
from torch.utils._python_dispatch import _disable_current_modes


def sent(numbers: Tensor | np.ndarray, like: Tensor) -> Tensor:
    """Return numbers of the host where another tensor is, fractions in its type.

    They leave from memory that a GPU reads by itself: from any other, the host waits until it has done all that it was
    given so far.
    """
    tensor = numbers if isinstance(numbers, Tensor) else torch.as_tensor(numbers)
    tensor = tensor.to(like.dtype) if tensor.is_floating_point() else tensor
    if like.device.type != "cuda" or torch.compiler.is_compiling():
        return tensor.to(like.device)
    return tensor.pin_memory().to(like.device, non_blocking=True)


@contextmanager
def at_once() -> Iterator[None]:
    """Carry out at once what is known when a network is exported, instead of tracing it: it can then be looked at."""
    if not getattr(torch.compiler, "is_exporting", bool)():
        yield
        return
    with _disable_current_modes():
        yield


def positions(index: Sequence[int] | np.ndarray, device: torch.device) -> Int64[Tensor, " index"]:
    """Return positions along an axis as a tensor on a device, kept there: a list would be copied at every use."""
    if torch.compiler.is_compiling():
        # What is compiled keeps it as a constant.
        return torch.as_tensor(index, device=device)
    return _positions(tuple(map(int, index)), device)


@lru_cache(maxsize=4096)
def _positions(index: tuple[int, ...], device: torch.device) -> Tensor:
    # What is kept must serve in training too, also where it is first needed in validation.
    with torch.inference_mode(False):
        return torch.tensor(index, dtype=torch.int64, device=device)
