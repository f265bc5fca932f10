"""What whole globes may have of each scale: no more than true fields had."""

from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from etesian.core import Channel, Fields, Grid
from etesian.core.sphere import power, spherical_harmonics

_UNKNOWN = torch.finfo(torch.float32).max


class PowerLimit(nn.Module):
    """Takes from fields the power at a total wavenumber that is beyond the most that any true field had.

    Convolutions on a grid of latitudes and longitudes make waves that their data have not: the images of coarse ones,
    the stride of a network, what is beyond the truncation of a spectral model. Here a field keeps its coefficients of
    spherical harmonics but where their power, summed over zonal wavenumbers, is too large: these are made smaller
    together. Fields within the limit stay as they are.

    Args:
        channels: of the fields.
        grid: of a part of the globe; its rows tell how many wavenumbers there are.

    Attributes:
        most: the largest power, in the square of each channel's units; the largest number where it is not known.
    """

    most: Float[Tensor, "channel degree"]

    def __init__(self, channels: Sequence[Channel], grid: Grid) -> None:
        super().__init__()
        self.channels = list(channels)
        degrees = round(180 / float(np.diff(grid.latitude).min())) + 1
        self.register_buffer("most", torch.full((len(channels), degrees), _UNKNOWN))

    def fit(self, truth: Iterable[Fields]) -> None:
        """Learn the largest power from true fields.

        Args:
            truth: whole globes in physical units.

        Raises:
            GridError: if they do not cover the globe.
            DataError: if values are missing.
        """
        found = [power(_coefficients(fields.select(self.channels))).max((0, 1)) for fields in truth]
        most = torch.from_numpy(np.max(found, axis=0))
        self.most[:, : most.shape[1]] = most

    def forward(self, fields: Fields) -> Fields:
        """Return fields in physical units within the limit; wavenumbers that were not seen are let through.

        Raises:
            GridError: if they do not cover the globe.
        """
        coefficients = _coefficients(fields)
        index = [self.channels.index(channel) for channel in fields.frame.channels]
        found, most = power(coefficients), self.most[index].cpu().numpy()
        allowed = np.full_like(found, _UNKNOWN)
        known = min(allowed.shape[-1], most.shape[-1])
        allowed[..., :known] = most[:, :known]
        gain = np.sqrt(np.divide(allowed, found, out=np.ones_like(found), where=found > allowed))
        excess = coefficients * (gain - 1)[..., None]
        taken = torch.from_numpy(spherical_harmonics(fields.frame.grid).synthesise(excess))
        return replace(fields, values=fields.values + taken.to(fields.values))


def _coefficients(fields: Fields) -> np.ndarray:
    return spherical_harmonics(fields.frame.grid).analyse(fields.filled(torch.nan).cpu().numpy())
