"""Statistical emulators: exact where their assumptions hold."""

import numpy as np
import pytest

from etesian.core import Grid
from etesian.projection.emulators import EMULATORS, Emulator, PatternScaling

GRID = Grid(np.linspace(-75, 75, 6), np.arange(8) * 45.0)


def linear_climate(years: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Inputs of two channels, and two targets that are a pattern each times one line in the inputs."""
    random = np.random.default_rng(seed)
    carbon, sulphur = random.random((2, years))
    spread = random.random(GRID.shape)
    inputs = np.stack([np.ones(GRID.shape) * carbon[:, None, None], spread * sulphur[:, None, None]], axis=1)
    patterns = np.random.default_rng(7).normal(1.0, 0.5, (2, *GRID.shape))
    sulphur_mean = (inputs[:, 1].mean(-1) * GRID.cosine_weights).mean(-1)
    warming = 2 * carbon - sulphur_mean + 0.3
    return inputs, warming[:, None, None, None] * patterns


def test_pattern_scaling_is_exact_where_the_climate_is_linear() -> None:
    inputs, targets = linear_climate(40)
    emulator = PatternScaling(inputs[:30], targets[:30], GRID)
    np.testing.assert_allclose(emulator.predict(inputs[30:]), targets[30:], rtol=0, atol=1e-10)


@pytest.mark.parametrize("emulator", EMULATORS.values())
def test_emulators_recover_a_smooth_response_between_the_years_they_saw(emulator: type[Emulator]) -> None:
    inputs, targets = linear_climate(80)
    found = emulator(inputs[:60], targets[:60], GRID).predict(inputs[60:])
    assert found.shape == targets[60:].shape
    assert np.sqrt(((found - targets[60:]) ** 2).mean()) < 0.2 * targets.std()
