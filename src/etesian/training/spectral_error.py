"""An error of fields that counts amplitude and phase of each scale apart, so that nothing is gained by flat fields."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from scipy.fft import dct
from torch import Tensor

from etesian.core import Channel, Fields
from etesian.core.device import sent
from etesian.training.field_task import Penalty, Values, check_weights, met_where_missing

_LEAST = 1e-12
"""Least power of a band, in units of the variance: roots need one."""


@dataclass(frozen=True)
class SpectralError:
    """The adjusted mean squared error of Subich et al. 2025 (arXiv 2501.19374), by scales of a cosine transform.

    The squared error of fields P and T at one scale is (√p − √t)² + 2·√(p·t)·(1 − c), of their powers p and t and the
    coherence c. The less is known, the smaller it makes p, until there is nothing. Here the second term is
    2·max(p, t)·(1 − c): phases cost what they did, and a smaller amplitude gains nothing. Scales are bands of the
    cosine transform of limited areas (Denis et al. 2002, doi 10.1175/1520-0493(2002)130<1812:SDOTDA>2.0.CO;2).

    Attributes:
        weight: of this error, which is about as large as a mean squared error of normalised fields.
        error_weight: of the task's own error beside it; 0 leaves this one alone.
    """

    weight: float = 1.0
    error_weight: float = 0.0

    def over(self, channels: Sequence[Channel]) -> Penalty:
        """Return the weighted error of fields in physical units; truth that is missing counts as met.

        Args:
            channels: that the task predicts; any will do.

        Raises:
            RecipeError: if the weight is not greater than 0, or that of the error less than 0.
        """
        check_weights(self.weight, self.error_weight)

        def penalty(predicted: Fields, truth: Fields) -> Tensor:
            return self.weight * adjusted_error(predicted.values, met_where_missing(truth, predicted))

        return penalty


def adjusted_error(predicted: Values, truth: Values) -> Float[Tensor, ""]:
    """Return the adjusted mean squared error over the truth's variance within its fields, as a mean over channels."""
    rows, columns = truth.shape[-2:]
    number = np.hypot(np.arange(rows)[:, None] / rows, np.arange(columns) / columns) * min(rows, columns)
    band = sent(np.rint(number).astype(np.int64).ravel(), truth)
    with torch.autocast(truth.device.type, enabled=False):
        predicted, truth = predicted.float(), truth.float()
        scale = truth.flatten(3).var(dim=3).mean(dim=(0, 1)).clamp(min=torch.finfo(truth.dtype).tiny).sqrt()
        waves = [_transformed(field / scale[:, None, None]) for field in (predicted, truth)]
        nothing = truth.new_zeros(*truth.shape[:3], int(number.max().round()) + 1)
        p, t, both = (nothing.index_add(-1, band, a * b) for a, b in ((waves[0],) * 2, (waves[1],) * 2, waves))
        p, t = p.clamp(min=_LEAST), t.clamp(min=_LEAST)
        error = (p.sqrt() - t.sqrt()).square() + 2 * torch.maximum(p, t) * (1 - both / (p * t).sqrt())
    return error.sum(-1).mean() / (rows * columns)


def _transformed(fields: Values) -> Float[Tensor, "batch time channel wave"]:
    rows, columns = (sent(dct(np.eye(size), axis=0, norm="ortho"), fields) for size in fields.shape[-2:])
    return (rows @ fields @ columns.T).flatten(-2)
