"""Spectra of regional maps and the rectangle without land that they are taken of."""

import itertools

import numpy as np
import pytest

from etesian.scores.views import isotropic_spectrum, largest_rectangle


def test_a_wave_in_any_direction_peaks_at_its_wavenumber_and_keeps_its_variance() -> None:
    y, x = np.mgrid[:80, :100] * np.array([5.0, 4.0])[:, None, None]
    for direction in np.radians([0, 30, 90, 140]):
        wave = 2 * np.sin(2 * np.pi * 0.025 * (x * np.cos(direction) + y * np.sin(direction)))
        wavenumber, power = isotropic_spectrum(wave, (5.0, 4.0))
        assert wavenumber[power.argmax()] == pytest.approx(0.025, abs=0.0026)
        assert power.sum() * np.diff(wavenumber)[0] == pytest.approx(2.0, rel=0.05)


def test_a_plane_has_no_power_and_a_stronger_map_has_its_square() -> None:
    y, x = np.mgrid[:40, :50].astype(float)
    noise = np.random.default_rng(0).standard_normal((40, 50))
    _, power = isotropic_spectrum(np.stack([3 + 0.4 * x - 2 * y, noise, 3 * noise + x]), (1.0, 1.0))
    assert power[0].max() < 1e-20
    np.testing.assert_allclose(power[2], 9 * power[1])


def test_the_largest_rectangle_is_that_of_a_search_over_all() -> None:
    random = np.random.default_rng(1)
    for _ in range(20):
        mask = random.random((7, 9)) < 0.75
        rows, columns = largest_rectangle(mask)
        assert mask[rows, columns].all()
        every = [
            (b - a) * (d - c)
            for a, b in itertools.combinations(range(8), 2)
            for c, d in itertools.combinations(range(10), 2)
            if mask[a:b, c:d].all()
        ]
        assert mask[rows, columns].size == max(every)
    assert largest_rectangle(np.zeros((3, 3), bool)) == (slice(0, 0), slice(0, 0))
