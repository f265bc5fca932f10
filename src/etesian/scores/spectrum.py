"""Spectra of maps of a region, by wavenumber whatever the direction."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float


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
