"""Normalisation: physical units ↔ numbers of order one, about a constant or about the seasonal cycle."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor, nn

from etesian.core.channels import Channel
from etesian.core.clock import seasonal_terms
from etesian.core.errors import ChannelError, RecipeError, suggest
from etesian.core.fields import Fields, Frame

HARMONICS = 5
"""Terms of a seasonal cycle, as `core.clock.seasonal_terms` gives them."""


@dataclass(frozen=True)
class Statistics:
    """What a training store knows of its channels' distribution over the training period, in physical units.

    Attributes:
        channels: names of the channel axis.
        mean: per channel, over time and space.
        std: per channel, over time and space.
        harmonics: seasonal cycle at every grid point, by term of `core.clock.seasonal_terms`; None if not wanted.
        anomaly_std: per channel, about the seasonal cycle of each grid point; None if not wanted.
    """

    channels: tuple[Channel, ...]
    mean: Float[NDArray[np.float64], " channel"]
    std: Float[NDArray[np.float64], " channel"]
    harmonics: Float[NDArray[np.float32], "5 channel lat lon"] | None = None
    anomaly_std: Float[NDArray[np.float64], " channel"] | None = None

    def index(self, channels: Sequence[Channel]) -> list[int]:
        """Return the positions of some channels.

        Raises:
            ChannelError: if one is not there.
        """
        missing = [c for c in channels if c not in self.channels]
        if missing:
            raise ChannelError(
                f"there are no statistics for '{missing[0]}'{suggest(str(missing[0]), map(str, self.channels))}"
            )
        return [self.channels.index(c) for c in channels]

    def without_seasons(self) -> "Statistics":
        """Return the same without the seasonal cycle."""
        return Statistics(self.channels, self.mean, self.std)


def anomaly_std(
    mean: Float[NDArray[np.float64], " channel"],
    std: Float[NDArray[np.float64], " channel"],
    harmonics: Float[NDArray[np.float32], "5 channel lat lon"],
) -> Float[NDArray[np.float64], " channel"]:
    """Return the standard deviation about the seasonal cycle.

    The cycle is a least-squares fit, so that what it explains and what is left add up to the variance.
    """
    coefficients = harmonics.astype(np.float64)
    explained = (coefficients[0] - mean[:, None, None]) ** 2 + (coefficients[1:] ** 2).sum(0) / 2
    left = std**2 - np.nanmean(explained, axis=(1, 2))
    return np.asarray(np.sqrt(np.maximum(left, 1e-6 * std**2)))


class Normalizer(nn.Module):
    """Takes fields to zero mean and unit variance and back.

    Args:
        statistics: of every channel that may come.
        anomalies: subtract the seasonal cycle of each grid point instead of one mean per channel.

    Raises:
        ChannelError: if a channel does not vary; later, when fields hold a channel without statistics.
        RecipeError: if the statistics have no seasonal cycle that anomalies could be about.
    """

    centre: Tensor
    scale: Tensor

    def __init__(self, statistics: Statistics, *, anomalies: bool = False) -> None:
        super().__init__()
        self.statistics = statistics if anomalies else statistics.without_seasons()
        self.anomalies = anomalies
        for channel, std in zip(statistics.channels, statistics.std, strict=True):
            if not (np.isfinite(std) and std > 0):
                raise ChannelError(
                    f"'{channel}' has a standard deviation of {std:g} over the training period and cannot be learned; "
                    "leave it out of the inputs and targets"
                )
        if anomalies:
            if statistics.harmonics is None or statistics.anomaly_std is None:
                raise RecipeError(
                    "anomalies need the seasonal cycle at every grid point, which only stores on one grid have "
                    "together; set anomalies: false"
                )
            # Where training saw no value the channel's mean stands in for the cycle.
            cycle = np.nan_to_num(statistics.harmonics)
            cycle[0] = np.where(np.isnan(statistics.harmonics[0]), statistics.mean[:, None, None], cycle[0])
            centre, scale = torch.from_numpy(cycle), statistics.anomaly_std
        else:
            centre, scale = torch.from_numpy(statistics.mean)[None, :, None, None], statistics.std
        # Both are rebuilt from the statistics that a checkpoint holds, so they are not part of the weights.
        self.register_buffer("centre", centre.float(), persistent=False)
        self.register_buffer("scale", torch.from_numpy(scale).float(), persistent=False)

    def _centre_and_scale(self, frame: Frame) -> tuple[Tensor, Tensor]:
        index = self.statistics.index(frame.channels)
        scale = self.scale[index][:, None, None]
        centre = self.centre[:, index]
        if not self.anomalies:
            return centre[0], scale
        terms = seasonal_terms(frame.time.cpu().numpy(), frame.calendar)
        basis = torch.from_numpy(terms).to(centre)
        return torch.einsum("btk,kchw->btchw", basis, centre), scale

    def normalize(self, fields: Fields) -> Fields:
        """Return the fields in normalised units, zero where they are not valid."""
        centre, scale = self._centre_and_scale(fields.frame)
        values = (fields.values - centre) / scale
        if fields.valid is not None:
            values = values.masked_fill(~fields.valid, 0.0)
        return replace(fields, values=values)

    def denormalize(
        self, values: Float[Tensor, "batch time channel lat lon"], frame: Frame
    ) -> Float[Tensor, "batch time channel lat lon"]:
        """Return normalised values in physical units."""
        centre, scale = self._centre_and_scale(frame)
        return values * scale + centre
