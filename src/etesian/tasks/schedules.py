"""Learning-rate schedules."""

import math

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR


class WarmupCosine:
    """Share of the full learning rate at a step: it rises linearly, then falls along half a cosine.

    Its numbers are kept in checkpoints, so that a run that goes on for longer knows how it began.

    Args:
        warmup_steps: steps until the full learning rate.
        total_steps: steps until the end of the cosine.
        floor: share of the full learning rate at the end.
    """

    def __init__(self, warmup_steps: int, total_steps: int, floor: float = 0.0) -> None:
        self.warmup_steps, self.total_steps, self.floor = warmup_steps, total_steps, floor
        self.asked_steps = total_steps
        self.falls_from, self.height = warmup_steps, 1.0

    def __call__(self, step: int) -> float:
        """Return the share of the full learning rate."""
        if step < self.warmup_steps:
            return (step + 1) / (self.warmup_steps + 1)
        gone = min((step - self.falls_from) / max(self.total_steps - self.falls_from, 1), 1.0)
        return self.floor + (self.height - self.floor) * (1 + math.cos(math.pi * gone)) / 2

    def redirect(self, step: int, end: int, asked_steps: int) -> None:
        """Fall to another end from here on, without a jump; from the last rate that was used if the end was reached.

        Args:
            step: that is about to be made.
            end: step of the new end.
            asked_steps: length of the whole schedule as the recipe has it.
        """
        if step > self.warmup_steps:
            self.height, self.falls_from = self(min(step, self.total_steps - 1)), step
        self.total_steps, self.asked_steps = end, asked_steps


def warmup_cosine(optimizer: Optimizer, warmup_steps: int, total_steps: int, floor: float = 0.0) -> LambdaLR:
    """Return a schedule that rises linearly, then falls along half a cosine; see `WarmupCosine`."""
    return LambdaLR(optimizer, WarmupCosine(warmup_steps, total_steps, floor))
