"""Spherical-harmonic transforms of scalars and winds between global grids and triangular truncations.

Coefficients are complex, (…, n, m), in the convention of ECMWF's GRIB files: a field is
f(λ, φ) = Σₙ Fₙ⁰ Pₙ⁰(sin φ) + 2 Re Σ_{m>0} Σₙ Fₙᵐ Pₙᵐ(sin φ) e^{imλ} with ½ ∫ (Pₙᵐ)² dμ = 1 and no (−1)ᵐ. So F₀⁰ is the
field's mean, and Σ |Fₙ⁰|² + 2 Σ_{m>0} |Fₙᵐ|² that of its square.
"""

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np
from jaxtyping import Complex, Float
from numpy.typing import NDArray

from etesian.core.constants import EARTH_RADIUS
from etesian.core.errors import DataError, GridError
from etesian.core.grid import Grid

_SERIES = (np.cos, np.sin)

_TOLERANCE = 1e-3
"""Of latitudes, in steps of the grid: files round their coordinates."""


class SphericalHarmonics:
    """Transforms on one grid: a Fourier transform along longitude, and one matrix product per zonal wavenumber.

    Latitudes are Gaussian, or evenly spaced with points on both poles, on one of them, or half a step away from both.
    Evenly spaced ones are carried to as many Gaussian latitudes and back by trigonometric interpolation, which is exact
    for all fields of the truncation (Swarztrauber and Spotz 2000, J. Comput. Phys. 159, 213); from there Gaussian
    quadrature is exact too. All is float64. The tables, of one hemisphere, take 2 H N² bytes for H latitudes and
    truncation N: 0.7 MB for 2.5°, 4 GB for 1280 latitudes and T1279.

    Args:
        grid: of the fields.
        truncation: largest total wavenumber N; by default, and at most, what the grid resolves.

    Raises:
        GridError: if the grid is a region, uneven, or too coarse for the truncation.
    """

    def __init__(self, grid: Grid, truncation: int | None = None) -> None:
        self.grid = grid
        rows, columns = grid.shape
        gaussian, weights = np.polynomial.legendre.leggauss(rows)
        colatitude = _colatitude(grid)
        on_poles = 0 if colatitude is None else int((np.sin(colatitude) < 1e-9).sum())
        largest = min(rows - max(on_poles, 1), (columns - 1) // 2)
        if truncation is not None and not 0 <= truncation <= largest:
            raise GridError(f"the grid {grid} resolves total wavenumbers up to {largest}, not {truncation}")
        self.truncation = largest if truncation is None else truncation
        self._half = (rows + 1) // 2
        self._weights = weights[-self._half :] / 2
        self._cosine = np.sqrt(1 - gaussian[-self._half :] ** 2)
        self._legendre = _legendre(gaussian[-self._half :], self.truncation + 1)
        self._from_grid: list[NDArray[np.float64]] | None = None
        if colatitude is not None:
            nodes = np.arccos(gaussian)
            # Sines vanish on the poles, so rows there bear no further term.
            waves = np.arange(rows), np.arange(1, rows + 1 - on_poles)
            self._from_grid = [
                _interpolation(colatitude, nodes, *series) for series in zip(_SERIES, waves, strict=True)
            ]
            self._to_grid = [_interpolation(nodes, colatitude, *series) for series in zip(_SERIES, waves, strict=True)]
        self._phase = np.exp(-1j * np.arange(self.truncation + 1) * np.radians(grid.longitude[0]))

    def analyse(self, values: Float[np.ndarray, "*batch lat lon"]) -> Complex[np.ndarray, "*batch n m"]:
        """Return the coefficients of scalar fields.

        Raises:
            DataError: if values are missing.
        """
        modes = self._modes(values, sine_for_odd=True)
        coefficients = self._coefficients(modes.shape[2])
        for m, mode in enumerate(modes):
            table = self._legendre[m][:, :-1].T * self._weights
            north, south = self._halves(mode)
            coefficients[m:, m] = _product(table, north) + self._parity(m) * _product(table, south)
        return self._unpacked(coefficients, values.shape[:-2])

    def synthesise(self, coefficients: Complex[np.ndarray, "*batch n m"]) -> Float[np.ndarray, "*batch lat lon"]:
        """Return scalar fields; coefficients beyond the truncation are left out."""
        packed = self._packed(coefficients)
        modes = []
        for m in range(len(packed)):
            table, part = self._legendre[m][:, :-1], packed[m:, m]
            modes.append(self._joined(_product(table, part), _product(table, self._parity(m) * part)))
        return self._values(np.stack(modes), coefficients.shape[:-2], sine_for_odd=True)

    def analyse_winds(
        self, u: Float[np.ndarray, "*batch lat lon"], v: Float[np.ndarray, "*batch lat lon"]
    ) -> tuple[Complex[np.ndarray, "*batch n m"], Complex[np.ndarray, "*batch n m"]]:
        """Return the coefficients of vorticity and divergence, s⁻¹, of winds in m s⁻¹.

        With D = dPₙᵐ/dφ and M = m Pₙᵐ/cos φ, aζ = ½∫(D u + iM v)dμ and aδ = ½∫(iM u − D v)dμ, by parts and thus without
        derivatives of the data; u ∓ w with v = iw need one matrix each, D ± M.

        Raises:
            DataError: if values are missing.
        """
        east, north = (self._modes(values, sine_for_odd=False) for values in (u, v))
        vorticity, divergence = (self._coefficients(east.shape[2]) for _ in range(2))
        for m, (mode_u, mode_v) in enumerate(zip(east, north, strict=True)):
            plus, minus = (table.T * (self._weights / EARTH_RADIUS / 2) for table in self._spin(m))
            parity = self._parity(m)
            (first_n, first_s), (second_n, second_s) = (self._halves(mode_u + i * mode_v) for i in (1j, -1j))
            first = _product(plus, first_n) - parity * _product(minus, first_s)
            second = _product(minus, second_n) - parity * _product(plus, second_s)
            vorticity[m:, m], divergence[m:, m] = first + second, 1j * (first - second)
        return self._unpacked(vorticity, u.shape[:-2]), self._unpacked(divergence, u.shape[:-2])

    def synthesise_winds(
        self, vorticity: Complex[np.ndarray, "*batch n m"], divergence: Complex[np.ndarray, "*batch n m"]
    ) -> tuple[Float[np.ndarray, "*batch lat lon"], Float[np.ndarray, "*batch lat lon"]]:
        """Return u and v, m s⁻¹, from the coefficients of vorticity and divergence, s⁻¹; their means are no wind."""
        inverse = inverse_laplacian(self.truncation)[:, None, None] / EARTH_RADIUS
        psi, chi = (self._packed(part) * inverse for part in (vorticity, divergence))
        east, north = [], []
        for m in range(len(psi)):
            plus, minus = self._spin(m)
            less, more = (psi[m:, m] + i * chi[m:, m] for i in (-1j, 1j))
            parity = self._parity(m)
            first = self._joined(-_product(plus, less), _product(minus, parity * less))
            second = self._joined(-_product(minus, more), _product(plus, parity * more))
            east.append((first + second) / 2)
            north.append(1j * (second - first) / 2)
        batch = vorticity.shape[:-2]
        return tuple(self._values(np.stack(modes), batch, sine_for_odd=False) for modes in (east, north))  # type: ignore[return-value]

    def _modes(self, values: NDArray[Any], *, sine_for_odd: bool) -> NDArray[np.complex128]:
        """Return Fourier modes at the Gaussian latitudes, (m, latitude, batch)."""
        if not np.isfinite(values).all():
            raise DataError("spherical harmonics need whole fields, but values are missing; fill them or leave it out")
        rows, columns = self.grid.shape
        fields = values.astype(np.float64).reshape(-1, rows, columns)
        modes = np.fft.rfft(fields, axis=-1)[..., : self.truncation + 1] * (self._phase / columns)
        modes = np.ascontiguousarray(modes.transpose(2, 1, 0))
        if self._from_grid is not None:
            for m, mode in enumerate(modes):
                modes[m] = _product(self._from_grid[m % 2 == sine_for_odd], mode)
        return modes

    def _values(
        self, modes: NDArray[np.complex128], batch: tuple[int, ...], *, sine_for_odd: bool
    ) -> NDArray[np.float64]:
        if self._from_grid is not None:
            modes = np.stack([_product(self._to_grid[m % 2 == sine_for_odd], mode) for m, mode in enumerate(modes)])
        spectrum = modes.transpose(2, 1, 0) * (np.conj(self._phase) * self.grid.shape[1])
        return np.fft.irfft(spectrum, n=self.grid.shape[1], axis=-1).reshape(*batch, *self.grid.shape)

    def _spin(self, m: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return D + M and D − M for n = m … N, (latitude, n)."""
        table = self._legendre[m]
        n = np.arange(m, self.truncation + 3, dtype=np.float64)
        epsilon = np.sqrt((n**2 - m**2) / (4 * n**2 - 1))
        derivative = -n[:-2] * epsilon[1:-1] * table[:, 1:]
        derivative[:, 1:] += (n[1:-2] + 1) * epsilon[1:-2] * table[:, :-2]
        derivative /= self._cosine[:, None]
        zonal = m / self._cosine[:, None] * table[:, :-1]
        return derivative + zonal, derivative - zonal

    def _parity(self, m: int) -> NDArray[np.float64]:
        """Return ±1, (n, 1), by which Pₙᵐ differs on the other hemisphere; D ± M become −(D ∓ M) times that."""
        return np.float64(-1) ** np.arange(self.truncation + 1 - m)[:, None]

    def _halves(self, mode: NDArray[np.complex128]) -> tuple[NDArray[np.complex128], NDArray[np.complex128]]:
        """Return values from the equator to the north pole, and to the south pole; the equator's count once."""
        north, south = mode[-self._half :], mode[: self._half][::-1].copy()
        if len(mode) % 2:
            south[0] = 0
        return north, south

    def _joined(self, north: NDArray[np.complex128], south: NDArray[np.complex128]) -> NDArray[np.complex128]:
        return np.concatenate([south[self.grid.shape[0] % 2 :][::-1], north])

    def _coefficients(self, batch: int) -> NDArray[np.complex128]:
        return np.zeros((self.truncation + 1, self.truncation + 1, batch), dtype=np.complex128)

    def _unpacked(self, coefficients: NDArray[np.complex128], batch: tuple[int, ...]) -> NDArray[np.complex128]:
        return np.moveaxis(coefficients, 2, 0).reshape(*batch, *coefficients.shape[:2])

    def _packed(self, coefficients: NDArray[Any]) -> NDArray[np.complex128]:
        """Bring coefficients to this truncation, (n, m, batch)."""
        size = min(self.truncation + 1, coefficients.shape[-1])
        flat = coefficients.reshape(-1, *coefficients.shape[-2:])
        packed = self._coefficients(len(flat))
        packed[:size, :size] = np.moveaxis(flat[:, :size, :size], 0, 2)
        return packed


@lru_cache(maxsize=4)
def spherical_harmonics(grid: Grid, truncation: int | None = None) -> SphericalHarmonics:
    """Return the transforms of a grid, made once per process."""
    return SphericalHarmonics(grid, truncation)


def inverse_laplacian(truncation: int) -> Float[np.ndarray, " n"]:
    """Return −a²/(n(n+1)) for n = 0 … N, m², and 0 for the mean: streamfunction over vorticity."""
    n = np.arange(truncation + 1, dtype=np.float64)
    return -(EARTH_RADIUS**2) * np.divide(1.0, n * (n + 1), out=np.zeros_like(n), where=n > 0)


def power(coefficients: Complex[np.ndarray, "*batch n m"]) -> Float[np.ndarray, "*batch n"]:
    """Return how much each total wavenumber adds to the area mean of the field's square."""
    square = np.abs(coefficients) ** 2
    return np.asarray(2 * square.sum(axis=-1) - square[..., 0])


def _product(table: NDArray[np.float64], modes: NDArray[np.complex128]) -> NDArray[np.complex128]:
    """Multiply a real matrix with complex columns."""
    columns = np.ascontiguousarray(modes).view(np.float64)
    return np.ascontiguousarray(table @ columns).view(np.complex128)


def _colatitude(grid: Grid) -> NDArray[np.float64] | None:
    """Return the colatitudes of evenly spaced rows, in radians, or None where they are Gaussian.

    Raises:
        GridError: if they are neither, or longitudes do not go evenly round the globe.
    """
    rows = grid.shape[0]
    if not grid.is_periodic:
        raise GridError(
            f"spherical harmonics need a globe with even longitudes, which {grid} is not; bring it to one first"
        )
    nodes = np.degrees(np.arcsin(np.polynomial.legendre.leggauss(rows)[0]))
    tolerance = _TOLERANCE * 180 / rows
    if np.allclose(grid.latitude, nodes, rtol=0, atol=tolerance):
        return None
    for south, north in ((0.0, 0.0), (0.5, 0.5), (0.0, 1.0), (1.0, 0.0)):
        step = 180 / (rows - 1 + south + north) if rows > 1 else 180.0
        even = -90 + step * (south + np.arange(rows))
        if np.allclose(grid.latitude, even, rtol=0, atol=tolerance):
            return np.asarray(np.radians(90 - even))
    raise GridError(
        f"spherical harmonics need latitudes that are Gaussian or evenly spaced from pole to pole, which {grid} are "
        "not; bring them to such a grid first"
    )


def _interpolation(
    given: NDArray[np.float64], wanted: NDArray[np.float64], series: Callable[..., Any], waves: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Return the matrix that evaluates the series of sines or cosines through values at some colatitudes at others."""
    return np.asarray(series(np.outer(wanted, waves)) @ np.linalg.pinv(series(np.outer(given, waves))))


def _legendre(sine: NDArray[np.float64], truncation: int) -> list[NDArray[np.float64]]:
    """Return Pₙᵐ at some sines of latitude for each m, (latitude, n = m … truncation).

    By recurrence in n from Pₘᵐ ∝ cosᵐ φ (Colombo 1981, Ohio State University report 310), which underflows where it
    matters only beyond T1900.
    """
    log_cosine = np.log1p(-(sine**2)) / 2
    tables, log_factor = [], 0.0
    for m in range(truncation + 1):
        if m:
            log_factor += np.log((2 * m + 1) / (2 * m)) / 2
        n = np.arange(m, truncation + 2, dtype=np.float64)
        epsilon = np.sqrt((n**2 - m**2) / (4 * n**2 - 1))
        table = np.zeros((n.size - 1, sine.size))
        table[0] = np.exp(log_factor + m * log_cosine)
        if n.size > 2:
            table[1] = sine * table[0] / epsilon[1]
        for k in range(2, n.size - 1):
            table[k] = (sine * table[k - 1] - epsilon[k - 1] * table[k - 2]) / epsilon[k]
        tables.append(table.T)
    return tables
