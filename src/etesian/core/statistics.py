"""Distribution of each channel over a training period: masked, in float64, mergeable in any chunking."""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
from jaxtyping import Bool, Float
from numpy.typing import NDArray

from etesian.core.channels import Channel
from etesian.core.errors import ChannelError, DataError, suggest

Float64 = NDArray[np.float64]

LOG1P_SCALE = 0.2
"""How soon log1p draws in what is far from the mean: sign(z)·log1p(0.2·|z|), as PhIRE and AtmoDist have it."""

HARMONICS = 5
"""Terms of a seasonal cycle, as `core.clock.seasonal_terms` gives them."""


@dataclass(frozen=True)
class Moments:
    """Count, mean, sum of squared deviations and extremes of the observed values, one per channel.

    `+` merges two sets as Chan, Golub and LeVeque do (1983, The American Statistician 37, 242), so that large
    means cost no digits.
    """

    count: NDArray[np.int64]
    mean: Float64
    squares: Float64
    minimum: Float64
    maximum: Float64

    @classmethod
    def none(cls, channels: int) -> "Moments":
        """Return the moments of no values at all."""
        extremes = np.full(channels, np.inf), np.full(channels, -np.inf)
        return cls(np.zeros(channels, dtype=np.int64), np.zeros(channels), np.zeros(channels), *extremes)

    @classmethod
    def of(cls, block: Float[np.ndarray, "time channel lat lon"]) -> "Moments":
        """Return the moments of a block of fields with NaN where missing."""
        result = cls.none(block.shape[1])
        for i in range(block.shape[1]):
            values = block[:, i].astype(np.float64).ravel()
            missing = np.isnan(values)
            if missing.any():
                values = values[~missing]
            if values.size:
                result.count[i] = values.size
                result.minimum[i], result.maximum[i] = values.min(), values.max()
                with np.errstate(invalid="ignore"):  # infinite values are refused by `check`, with their channel's name
                    mean = values.mean()
                    values -= mean
                    values *= values  # summed as the mean is: a dot product depends on the number of threads
                    result.mean[i], result.squares[i] = mean, values.sum()
        return result

    def __add__(self, other: "Moments") -> "Moments":
        count = self.count + other.count
        share = other.count / np.maximum(count, 1)
        shift = other.mean - self.mean
        return Moments(
            count,
            self.mean + shift * share,
            self.squares + other.squares + shift**2 * self.count * share,
            np.minimum(self.minimum, other.minimum),
            np.maximum(self.maximum, other.maximum),
        )

    @property
    def std(self) -> Float64:
        """Standard deviation, with the count as divisor."""
        return np.asarray(np.sqrt(self.squares / np.maximum(self.count, 1)))

    def arrays(self) -> dict[str, NDArray[np.generic]]:
        """Return the arrays by name, to keep them in a file."""
        return {f.name: getattr(self, f.name) for f in fields(self)}

    def check(self, channels: tuple[Channel, ...], period: str) -> None:
        """Refuse what cannot be normalised.

        Raises:
            DataError: if a channel is never observed, constant or infinite in the training period.
        """
        useless = {
            "without an observed value": self.count == 0,
            "infinite somewhere": (self.count > 0) & (np.isinf(self.minimum) | np.isinf(self.maximum)),
            "constant": np.isfinite(self.minimum) & (self.minimum == self.maximum),
        }
        problems = [
            f"{', '.join(str(channel) for channel, bad in zip(channels, where, strict=True) if bad)} {kind}"
            for kind, where in useless.items()
            if where.any()
        ]
        if problems:
            raise DataError(
                f"in the training period {period} some channels are of no use: {'; '.join(problems)}; "
                f"leave them out with --exclude"
            )


def log1p_transform(standardised: Float64) -> Float64:
    """Return sign(z)·log1p(0.2·|z|), which draws in the long tails of vorticity and divergence.

    Source: PhIRE and AtmoDist (arXiv 2109.09076).
    """
    return np.asarray(np.copysign(np.log1p(0.2 * np.abs(standardised)), standardised))


@dataclass(frozen=True)
class Statistics:
    """What a training store knows of its channels' distribution over the training period, in physical units.

    Attributes:
        channels: names of the channel axis.
        mean: per channel, over time and space.
        std: per channel, over time and space.
        harmonics: seasonal cycle at every grid point, by term of `core.clock.seasonal_terms`; None if not wanted.
        anomaly_std: per channel, about the seasonal cycle of each grid point; None if not wanted.
        log1p_mean: per channel, of `sign(z)·log1p(0.2·|z|)` of the standardised values z; None if not wanted.
        log1p_std: per channel, of the same.
        observed: where training has seen a value at any time, on the grid of the targets; None where that is everywhere
            or is not known.
        other_harmonics: the seasonal cycle on each of a layout's other grids; None if not wanted.
    """

    channels: tuple[Channel, ...]
    mean: Float[np.ndarray, " channel"]
    std: Float[np.ndarray, " channel"]
    harmonics: Float[np.ndarray, "5 channel lat lon"] | None = None
    anomaly_std: Float[np.ndarray, " channel"] | None = None
    log1p_mean: Float[np.ndarray, " channel"] | None = None
    log1p_std: Float[np.ndarray, " channel"] | None = None
    observed: Bool[np.ndarray, "channel lat lon"] | None = None
    other_harmonics: tuple[Float[np.ndarray, "5 channel lat_other lon_other"], ...] | None = None

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
        return replace(self, harmonics=None, anomaly_std=None, other_harmonics=None)

    def without_log1p(self) -> "Statistics":
        """Return the same without what log1p needs."""
        return replace(self, log1p_mean=None, log1p_std=None)

    def select(self, channels: Sequence[Channel]) -> "Statistics":
        """Return the statistics of some channels.

        Raises:
            ChannelError: if one is not there.
        """
        index = self.index(channels)
        of_each = (self.anomaly_std, self.log1p_mean, self.log1p_std, self.observed)
        anomaly_std, log1p_mean, log1p_std, observed = (None if part is None else part[index] for part in of_each)
        return Statistics(
            tuple(channels),
            self.mean[index],
            self.std[index],
            None if self.harmonics is None else self.harmonics[:, index],
            anomaly_std,
            log1p_mean,
            log1p_std,
            observed,
            None if self.other_harmonics is None else tuple(cycle[:, index] for cycle in self.other_harmonics),
        )


def anomaly_std(
    mean: Float[np.ndarray, " channel"],
    std: Float[np.ndarray, " channel"],
    harmonics: Float[np.ndarray, "5 channel lat lon"],
) -> Float[np.ndarray, " channel"]:
    """Return the standard deviation about the seasonal cycle.

    The cycle is a least-squares fit, so that what it explains and what is left add up to the variance.
    """
    coefficients = harmonics.astype(np.float64)
    explained = (coefficients[0] - mean[:, None, None]) ** 2 + (coefficients[1:] ** 2).sum(0) / 2
    left = std**2 - np.nanmean(explained, axis=(1, 2))
    return np.asarray(np.sqrt(np.maximum(left, 1e-6 * std**2)))


def unscaled(channels: Sequence[Channel]) -> Statistics:
    """Return statistics that leave values as they are: what is normalised by them stays in physical units."""
    return Statistics(tuple(channels), np.zeros(len(channels)), np.ones(len(channels)))
