"""The members of an ensemble: what is drawn for each of them, and batches of several."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from etesian.core import Batch, Fields

ALMOST_FAIR = 0.99
"""How fair the score is that members are trained by; a fair one of two members is blind where one of them is right.

What is unfair costs spread: the deviation of Gaussian members that scores best, of a truth of deviation 1, is
w / √(2 − w²) where the distance of members counts by w = 1 − (1 − α) / M. With α = 0.95, of ensembles of four
(arXiv 2412.15832), two members would be 5 % too close to each other.
"""

VALIDATION_MEMBERS = 4
"""Members of the forecasts that are validated."""

DEFAULT_MEMBERS = 8
"""Members of a forecast where nothing is said."""

Shape = tuple[int, ...]

Noise = Callable[[int, Shape], Float[Tensor, "batch *shape"]]
"""From the number of a step and the shape of the noise of one sample to the normals of each sample."""


@dataclass(frozen=True)
class MemberNoise:
    """Normals that follow from what they are for, so that forecasts are the same however the work is divided.

    Attributes:
        seed: of the ensemble.
        initial: initial time of each sample, seconds since 1970-01-01.
        numbers: member of each sample, counted from 0.
        inflation: standard deviation of what is drawn; above 1 members differ by more than was learned.
    """

    seed: int
    initial: Sequence[int]
    numbers: Sequence[int]
    inflation: float = 1.0

    def __call__(self, step: int, shape: Shape) -> Float[Tensor, "batch *shape"]:
        """Return the normals of a step; 0 where every lead is answered at once, counted from 1 in a roll-out."""
        rows = [
            np.random.default_rng((self.seed, time % 2**64, number, step)).standard_normal(shape, dtype=np.float32)
            for time, number in zip(self.initial, self.numbers, strict=True)
        ]
        return torch.from_numpy(np.stack(rows)) * self.inflation


def fresh(samples: int) -> Noise:
    """Return noise that is new each time, for training."""
    return lambda _, shape: torch.randn(samples, *shape)


def noise_of(batch: Batch, members: int, seed: int = 0) -> MemberNoise:
    """Return the noise of a batch that was repeated for so many members."""
    initial: list[int] = batch.inputs.frame.time[:, -1].tolist()
    numbers = np.repeat(np.arange(members), len(initial) // members).tolist()
    return MemberNoise(seed, initial, numbers)


def repeated(batch: Batch, members: int) -> Batch:
    """Return a batch once for each member, all of the first before all of the second."""
    return Batch(*(None if part is None else _repeated(part, members) for part in batch.parts()))  # type: ignore[arg-type]


def _repeated(fields: Fields, members: int) -> Fields:
    frame = replace(fields.frame, time=fields.frame.time.repeat(members, 1))
    valid = None if fields.valid is None else fields.valid.repeat(members, 1, 1, 1, 1)
    return Fields(fields.values.repeat(members, 1, 1, 1, 1), frame, valid)
