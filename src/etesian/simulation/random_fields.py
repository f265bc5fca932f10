"""Gaussian random fields on a plane that closes on itself: of a given spectrum, drifting and forgetting by scale."""

from collections.abc import Callable

import numpy as np
from jaxtyping import Complex128, Float
from scipy import fft

Map = Float[np.ndarray, "row column"]

Scale = Callable[[Map], Map]


class RandomField:
    """A Gaussian field of zero mean and unit variance whose waves drift and are renewed, each in its own time.

    Args:
        random: where it is drawn from.
        shape: rows and columns.
        spacing: of rows and columns, km.
        power: of a wave by its wavenumber in rad km⁻¹, up to a factor: the density in the plane of wavenumbers.
        memory: days after which a wave of a wavenumber has forgotten itself to 1/e.

    Attributes:
        north: wavenumber northward of each wave, rad km⁻¹.
        east: wavenumber eastward of each wave, rad km⁻¹.
        waves: the field's Fourier coefficients.
    """

    waves: Complex128[np.ndarray, "row half"]

    def __init__(
        self,
        random: np.random.Generator,
        shape: tuple[int, int],
        spacing: tuple[float, float],
        *,
        power: Scale,
        memory: Scale,
    ) -> None:
        self.random, self.shape = random, shape
        self.north = 2 * np.pi * fft.fftfreq(shape[0], spacing[0])[:, None]
        self.east = 2 * np.pi * fft.rfftfreq(shape[1], spacing[1])[None, :]
        size = np.hypot(self.north, self.east)
        size[0, 0] = size[0, 1]
        density = power(size)
        density[0, 0] = 0.0
        # Of a real field only half the waves are kept: all but the first column, and the last of an even number, count
        # twice.
        twice = np.full(size.shape[1], 2.0)
        twice[0] = 1.0
        if shape[1] % 2 == 0:
            twice[-1] = 1.0
        self.amplitude = np.sqrt(density * shape[0] * shape[1] / (density * twice).sum())
        self.memory = memory(size)
        self.waves = self._noise()

    def _noise(self) -> Complex128[np.ndarray, "row half"]:
        return np.asarray(self.amplitude * fft.rfft2(self.random.standard_normal(self.shape)))

    def advance(self, days: float, drift: tuple[float, float] = (0.0, 0.0)) -> None:
        """Go on in time, drifting northward and eastward by so many km a day."""
        kept = np.exp(-days / self.memory)
        turn = np.exp(-1j * days * (self.north * drift[0] + self.east * drift[1]))
        self.waves = self.waves * kept * turn + np.sqrt(1 - kept**2) * self._noise()

    def values(self) -> Map:
        """Return the field as it is now."""
        return self.of(self.waves)

    def of(self, waves: Complex128[np.ndarray, "row half"]) -> Map:
        """Return the field of other Fourier coefficients."""
        return np.asarray(fft.irfft2(waves, self.shape))
