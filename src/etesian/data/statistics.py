"""Distribution of each channel over a training period: masked, in float64, mergeable in any chunking."""

from dataclasses import dataclass, fields

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

from etesian.core.channels import Channel
from etesian.core.errors import DataError

Float64 = NDArray[np.float64]


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
                    result.mean[i], result.squares[i] = mean, np.dot(values, values)
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
