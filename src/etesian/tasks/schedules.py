"""Learning-rate schedules."""

import math

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR


def warmup_cosine(optimizer: Optimizer, warmup_steps: int, total_steps: int, floor: float = 0.0) -> LambdaLR:
    """Return a schedule that rises linearly, then falls along half a cosine.

    Args:
        optimizer: whose learning rates are scaled.
        warmup_steps: steps until the full learning rate.
        total_steps: steps until the end of the cosine.
        floor: share of the full learning rate at the end.
    """

    def factor(step: int) -> float:
        if step < warmup_steps:
            return (step + 1) / (warmup_steps + 1)
        gone = min((step - warmup_steps) / max(total_steps - warmup_steps, 1), 1.0)
        return floor + (1 - floor) * (1 + math.cos(math.pi * gone)) / 2

    return LambdaLR(optimizer, factor)
