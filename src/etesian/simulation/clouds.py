"""Random fields that drift and forget, and where clouds like them hide the sea from a satellite, simulated or real."""

from collections.abc import Callable, Iterator

import numpy as np
import xarray as xr
from jaxtyping import Bool, Complex128, Float
from scipy import fft, ndimage, special

from etesian.core.errors import DataError, RecipeError

Map = Float[np.ndarray, "row column"]

Scale = Callable[[Map], Map]

Mask = Bool[np.ndarray, "row column"]

Masks = Bool[np.ndarray, "time row column"]

_WIND = 200.0
"""Mean drift of cloud systems eastward, km a day."""

_WEATHER_DAYS = 3.0
"""After which the cover and the wind have forgotten themselves to 1/e."""

_SPREAD = 1.0
"""Standard deviation of the cover from day to day, as a logit."""


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


def moving_clouds(
    random: np.random.Generator, shape: tuple[int, int], spacing: tuple[float, float], cover: float
) -> Iterator[Mask]:
    """Yield the clouds of one day after another, True where there are some.

    Clouds are where a random field is high: a field without a scale of its own below 1500 km (1-D spectrum k^-5/3,
    as of cloud fields), blown by a wind that changes from day to day. How much is covered changes, too, with the
    weather, about the mean that is asked for.

    Args:
        random: where they are drawn from.
        shape: rows and columns.
        spacing: of rows and columns, km.
        cover: mean share that is covered, between 0 and 1; at 0 there are none.

    Raises:
        RecipeError: if the cover is no share below 1.
    """
    if not 0 <= cover < 1:
        raise RecipeError(f"cloud = {cover:g} must be a share from 0 to below 1, such as 0.7")
    # Twice as wide as the region, so that what leaves it does not come back on the other side.
    wide = tuple(fft.next_fast_len(2 * size, real=True) for size in shape)
    outer = 2 * np.pi / 1500
    field = RandomField(
        random,
        (wide[0], wide[1]),
        spacing,
        power=lambda k: (1 + (k / outer) ** 2) ** (-4 / 3),
        memory=lambda k: 4 * (1 + (k / outer) ** 2) ** (-1 / 3),
    )
    middle = _logit_of_mean(cover)
    kept = np.exp(-1 / _WEATHER_DAYS)
    weather, *wind = random.standard_normal(3)
    while True:
        values = field.values()
        share = special.expit(middle + _SPREAD * weather) if cover else 0.0
        yield values[: shape[0], : shape[1]] > special.ndtri(1 - share)
        weather, *wind = kept * np.array([weather, *wind]) + np.sqrt(1 - kept**2) * random.standard_normal(3)
        field.advance(1.0, (_WIND / 2 * wind[0], _WIND * (1 + wind[1] / 2)))


def _logit_of_mean(cover: float) -> float:
    """Return about which value logits vary so that their shares have a mean."""
    if cover == 0:
        return -np.inf
    nodes, weights = np.polynomial.hermite_e.hermegauss(40)
    weights = weights / weights.sum()
    low, high = -30.0, 30.0
    for _ in range(60):
        middle = (low + high) / 2
        if weights @ special.expit(middle + _SPREAD * nodes) < cover:
            low = middle
        else:
            high = middle
    return middle


class CloudLibrary:
    """Shapes of gaps, of a data set's own or of another's, to be laid over any field.

    Where the data set never saw anything, on land, its clouds are unknown and go on as at the nearest point that is
    known.

    Args:
        gaps: True where missing.
        shares: smallest and largest share of missing points, of those that are ever seen, in a mask to be used.

    Attributes:
        masks: that may be drawn, True where cloudy.

    Raises:
        DataError: if none is usable.
    """

    def __init__(self, gaps: Masks, shares: tuple[float, float] = (0.05, 0.95)) -> None:
        seen = ~gaps.all(axis=0)
        if not seen.any():
            raise DataError("the clouds' data set holds no value; give one with clouds and clear days")
        share = gaps[:, seen].mean(axis=1)
        usable = (share >= shares[0]) & (share <= shares[1])
        if not usable.any():
            raise DataError(
                f"of {len(gaps)} times in the clouds' data set none has {shares[0]:.0%} to {shares[1]:.0%} of its "
                f"points missing; its shares are {share.min():.0%} to {share.max():.0%}"
            )
        nearest = ndimage.distance_transform_edt(~seen, return_distances=False, return_indices=True)
        self.masks = gaps[usable][:, nearest[0], nearest[1]]

    @classmethod
    def of(cls, field: xr.DataArray) -> "CloudLibrary":
        """Take the gaps of a field over (time, latitude, longitude)."""
        return cls(np.isnan(field.transpose("time", "latitude", "longitude").values))

    def draw(self, random: np.random.Generator, shape: tuple[int, int]) -> Mask:
        """Return some clouds of any size, cut out of one of the masks.

        Masks smaller than asked for are continued by their mirror images; where they are cut and whether they are
        mirrored is drawn.
        """
        mask = self.masks[random.integers(len(self.masks))]
        index = []
        for size, wanted in zip(mask.shape, shape, strict=True):
            period = 2 * size
            start = random.integers(period) if wanted > size else random.integers(size - wanted + 1)
            run = (start + np.arange(wanted)) % period
            run = np.minimum(run, period - 1 - run)
            index.append(run[::-1] if random.integers(2) else run)
        return np.asarray(mask[np.ix_(*index)])
