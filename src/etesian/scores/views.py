"""Other sides of a map than its values: gradients, waves, pairs of points; what is summed over them is the same.

And where its jet stream is.
"""

from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64
from numpy.typing import NDArray
from torch import Tensor

from etesian.core.constants import EARTH_RADIUS
from etesian.core.errors import DataError, GridError
from etesian.core.grid import Grid
from etesian.core.sphere import SphericalHarmonics, inverse_laplacian, spherical_harmonics
from etesian.scores.registry import Groups
from etesian.scores.weights import WHOLE_DOMAIN, RegionGroups, point_weights

Array = NDArray[np.float64]

PAIRS = 60_000
"""Pairs of points of which the semivariogram is made; the same for every field."""


@runtime_checkable
class View(Groups, Protocol):
    """A side of maps, whose points are summed in groups.

    Attributes:
        size: number of groups.
    """

    size: int

    def __call__(self, *fields: Float[np.ndarray, "case lat lon"]) -> Float64[Tensor, "case point"]:
        """Return what is to be summed of fields; those of one vector belong together."""


class Values(RegionGroups):
    """The values themselves, by area."""

    size = 1

    def __init__(self, grid: Grid) -> None:
        super().__init__(*point_weights(grid, (WHOLE_DOMAIN,), "area"))

    def __call__(self, *fields: Float[np.ndarray, "case lat lon"]) -> Float64[Tensor, "case point"]:
        """Return the values of a field."""
        (field,) = fields
        return torch.from_numpy(field).flatten(1)


class Gradients(Values):
    """Magnitude of horizontal gradients by central differences, in units per 100 km."""

    def __init__(self, grid: Grid) -> None:
        super().__init__(grid)
        self.periodic = grid.is_periodic
        metres = np.pi / 180 * EARTH_RADIUS / 1e5
        self.y = grid.latitude * metres
        longitude = grid.longitude
        if self.periodic:
            longitude = np.concatenate([longitude[-1:] - 360, longitude, longitude[:1] + 360])
        self.x = longitude * metres
        self.narrowing = np.cos(np.radians(grid.latitude)).clip(min=1e-6)[:, None]

    def __call__(self, *fields: Float[np.ndarray, "case lat lon"]) -> Float64[Tensor, "case point"]:
        """Return the magnitude of a field's gradient."""
        (field,) = fields
        padded = np.concatenate([field[..., -1:], field, field[..., :1]], axis=-1) if self.periodic else field
        eastward = np.gradient(padded, self.x, axis=-1) / self.narrowing
        eastward = eastward[..., 1:-1] if self.periodic else eastward
        # On a pole itself every meridian meets, and the difference along the row has no meaning.
        eastward = np.where(self.narrowing > 1e-5, eastward, 0.0)
        return super().__call__(np.hypot(eastward, np.gradient(field, self.y, axis=-2)))


class Waves:
    """Spherical-harmonic coefficients of fields by total wavenumber, whose squares add up to the area mean square."""

    def __init__(self, harmonics: SphericalHarmonics) -> None:
        self.harmonics, self.size = harmonics, harmonics.truncation + 1
        # Waves that travel eastward and westward have one coefficient, the zonal mean has half as many.
        self.weight = torch.full((self.size, self.size), 2.0, dtype=torch.float64)
        self.weight[:, 0] = 1

    def __call__(self, *fields: Float[np.ndarray, "case lat lon"]) -> Float64[Tensor, "case point"]:
        """Return real and imaginary parts."""
        (field,) = fields
        return torch.view_as_real(torch.from_numpy(self.harmonics.analyse(field))).flatten(1)

    def total(self, values: Float64[Tensor, "*maps point"]) -> Float64[Tensor, "*maps wavenumber"]:
        """Return sums over each wavenumber."""
        return (self._by_wavenumber(values) * self.weight).sum(-1)

    def count(self, values: Float64[Tensor, "*maps point"]) -> Float64[Tensor, "*maps wavenumber"]:
        """Return sums over each wavenumber, each coefficient counted once."""
        return self._by_wavenumber(values).sum(-1)

    def _by_wavenumber(self, values: Tensor) -> Float64[Tensor, "*maps n m"]:
        parts = values.reshape(*values.shape[:-1], -1, self.size, self.size, 2)
        return parts.sum((-4, -1))


class WindWaves(Waves):
    """Coefficients of a wind whose squares add up to its kinetic energy (Lambert 1984, Atmos.-Ocean 22, 411).

    Args:
        harmonics: the transform.
        rotational: whether vorticity and divergence are given, not the wind's components.
    """

    def __init__(self, harmonics: SphericalHarmonics, *, rotational: bool) -> None:
        super().__init__(harmonics)
        self.rotational = rotational
        self.weight *= torch.from_numpy(-inverse_laplacian(harmonics.truncation) / 2)[:, None]

    def __call__(self, *fields: Float[np.ndarray, "case lat lon"]) -> Float64[Tensor, "case point"]:
        """Return real and imaginary parts of vorticity, then of divergence."""
        first, second = fields
        if self.rotational:
            parts = self.harmonics.analyse(first), self.harmonics.analyse(second)
        else:
            parts = self.harmonics.analyse_winds(first, second)
        return torch.cat([torch.view_as_real(torch.from_numpy(part)).flatten(1) for part in parts], -1)


class DistantPoints:
    """Differences of pairs of points, by their distance.

    Pairs are drawn evenly over the area in 12 bins of distance from 25 to 1000 km. Grids too coarse for 25 km begin at
    their spacing and reach to eight times that, if it is more than 1000 km.

    Attributes:
        distance: mean distance in each bin, km.
    """

    def __init__(self, grid: Grid) -> None:
        generator = np.random.default_rng(0)
        spacing = np.radians(np.diff(grid.latitude).mean()) * EARTH_RADIUS / 1e3
        edges = np.geomspace(max(25.0, spacing), max(1000.0, 8 * spacing), 13)
        share = np.repeat(grid.area_weights, grid.shape[1])
        start = generator.choice(share.size, PAIRS, p=share / share.sum())
        latitude = np.radians(grid.latitude)[start // grid.shape[1]]
        longitude = np.radians(grid.longitude)[start % grid.shape[1]]
        bearing = generator.uniform(0, 2 * np.pi, PAIRS)
        arc = np.exp(generator.uniform(np.log(edges[0]), np.log(edges[-1]), PAIRS)) * 1e3 / EARTH_RADIUS
        sine = np.sin(latitude) * np.cos(arc) + np.cos(latitude) * np.sin(arc) * np.cos(bearing)
        east = np.arctan2(np.sin(bearing) * np.sin(arc) * np.cos(latitude), np.cos(arc) - np.sin(latitude) * sine)
        row, column = _nearest(grid, np.degrees(np.arcsin(sine.clip(-1, 1))), np.degrees(longitude + east))
        there = np.radians(grid.latitude[row]), np.radians(grid.longitude[column])
        haversine = np.sin((there[0] - latitude) / 2) ** 2
        haversine += np.cos(latitude) * np.cos(there[0]) * np.sin((there[1] - longitude) / 2) ** 2
        apart = 2 * EARTH_RADIUS / 1e3 * np.arcsin(np.sqrt(haversine.clip(0, 1)))
        bins = np.digitize(apart, edges) - 1
        usable = (bins >= 0) & (bins < 12)
        _, bins = np.unique(bins[usable], return_inverse=True)
        self.distance = np.bincount(bins, apart[usable]) / np.bincount(bins)
        self.size = self.distance.size
        self._first, self._second = start[usable], (row * grid.shape[1] + column)[usable]
        self._bin = torch.from_numpy(bins)

    def __call__(self, *fields: Float[np.ndarray, "case lat lon"]) -> Float64[Tensor, "case point"]:
        """Return the difference of each pair of points."""
        (field,) = fields
        flat = field.reshape(len(field), -1)
        return torch.from_numpy(flat[:, self._first] - flat[:, self._second])

    def total(self, values: Float64[Tensor, "*maps point"]) -> Float64[Tensor, "*maps distance"]:
        """Return sums over the pairs of each bin."""
        return values.new_zeros(*values.shape[:-1], self.size).index_add_(-1, self._bin, values)

    count = total


class Spectrum(NamedTuple):
    """Variance by wavenumber.

    Attributes:
        wavenumber: cycles per unit of the spacing, the middle of each ring.
        power: variance per wavenumber; its sum times the rings' width is the variance of the tapered map.
    """

    wavenumber: Float[np.ndarray, " ring"]
    power: Float[np.ndarray, "*maps ring"]


def isotropic_spectrum(maps: Float[np.ndarray, "*maps row column"], spacing: tuple[float, float]) -> Spectrum:
    """Return the spectrum of maps without gaps, summed over rings of wavenumber up to the coarser Nyquist wavenumber.

    A plane fitted by least squares is taken off, and the rest multiplied by a Hann window of mean square 1, so that the
    edges do not leak into small scales.

    Args:
        maps: without missing values.
        spacing: between rows and between columns, in one unit.
    """
    rows, columns = maps.shape[-2:]
    y, x = np.meshgrid(np.linspace(-1, 1, rows), np.linspace(-1, 1, columns), indexing="ij")
    basis, _ = np.linalg.qr(np.stack([np.ones_like(y), y, x], -1).reshape(-1, 3))
    flat = maps.reshape(*maps.shape[:-2], -1)
    rest = (flat - (flat @ basis) @ basis.T).reshape(maps.shape)
    window = np.hanning(rows + 2)[1:-1, None] * np.hanning(columns + 2)[None, 1:-1]
    rest = rest * window / np.sqrt(np.square(window).mean())
    variance = np.abs(np.fft.fft2(rest)) ** 2 / (rows * columns) ** 2
    wavenumber = np.hypot(np.fft.fftfreq(rows, spacing[0])[:, None], np.fft.fftfreq(columns, spacing[1]))
    width = 1 / min(rows * spacing[0], columns * spacing[1])
    count = int(0.5 / max(spacing) / width)
    ring = np.floor(wavenumber / width - 0.5).astype(int)
    held = (ring >= 0) & (ring < count)
    power = np.zeros((*maps.shape[:-2], count))
    for number in range(count):
        power[..., number] = variance[..., held & (ring == number)].sum(-1) / width
    return Spectrum((np.arange(count) + 1) * width, power)


def largest_rectangle(mask: Bool[np.ndarray, "row column"]) -> tuple[slice, slice]:
    """Return the largest rectangle of points that are all True; empty slices if there is none."""
    best, area = (slice(0, 0), slice(0, 0)), 0
    height = np.zeros(mask.shape[1] + 1, dtype=int)
    for row, line in enumerate(mask):
        height[:-1] = np.where(line, height[:-1] + 1, 0)
        # Columns whose rectangles may still grow, with heights ascending.
        waiting: list[tuple[int, int]] = []
        for column, tall in enumerate(height.tolist()):
            start = column
            while waiting and waiting[-1][1] > tall:
                start, lower = waiting.pop()
                if lower * (column - start) > area:
                    area = lower * (column - start)
                    best = slice(row - lower + 1, row + 1), slice(start, column)
            if not waiting or waiting[-1][1] < tall:
                waiting.append((start, tall))
    return best


def waves(grid: Grid) -> Waves | None:
    """Return the view by wavenumber on a globe; on a region there is none."""
    try:
        return Waves(spherical_harmonics(grid))
    except GridError:
        return None


def _nearest(grid: Grid, latitude: Array, longitude: Array) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the rows and columns of the closest points; on a region those of its edge where a location lies beyond."""
    rows = np.searchsorted((grid.latitude[1:] + grid.latitude[:-1]) / 2, latitude)
    offset = longitude - grid.longitude[0]
    if grid.is_periodic:
        columns = np.rint(offset % 360 / (360 / grid.longitude.size)).astype(np.int64) % grid.longitude.size
    else:
        middle = (grid.longitude[1:] + grid.longitude[:-1]) / 2
        columns = np.searchsorted(middle, (offset + 180) % 360 - 180 + grid.longitude[0])
    return rows, columns


SOUTH, NORTH = 15.0, 75.0


def jet_latitude(
    wind: Float[np.ndarray, "time lat lon"], grid: Grid, *, south: float = SOUTH, north: float = NORTH
) -> Float[np.ndarray, " time"]:
    """Return the latitude of the maximum of the zonal-mean zonal wind in a band of latitude, in degrees north.

    The low-level jet of Woollings et al. (2010, QJRMS 136, 856), who look for the maximum from 15 to 75° N in the North
    Atlantic, averaged over 925 to 700 hPa and ten days; here in the zonal mean of whatever level is given, at every
    time. A parabola through the maximum and its neighbours places it between grid points.

    Args:
        wind: eastward wind, m/s.
        grid: of the wind.
        south: lowest latitude of the band, degrees north.
        north: highest latitude of the band, degrees north.

    Raises:
        DataError: if fewer than three rows lie in the band.
    """
    inside = np.flatnonzero((grid.latitude >= south) & (grid.latitude <= north))
    if inside.size < 3:
        raise DataError(
            f"the grid has {inside.size} rows from {south:g} to {north:g}°N; the jet's latitude needs three"
        )
    latitude = grid.latitude[inside]
    zonal = wind.astype(np.float64)[:, inside].mean(axis=2)
    # At the edge of the band the parabola takes the three outermost rows, and the maximum stays within the band.
    middle = zonal.argmax(axis=1).clip(1, inside.size - 2)
    found = np.empty(len(zonal))
    for time in range(len(zonal)):
        around = slice(middle[time] - 1, middle[time] + 2)
        curve, slope, _ = np.polyfit(latitude[around] - latitude[middle[time]], zonal[time, around], 2)
        top = latitude[middle[time]] - slope / (2 * curve) if curve < 0 else latitude[zonal[time].argmax()]
        found[time] = np.clip(top, latitude[0], latitude[-1])
    return found
