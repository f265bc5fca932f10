"""The jet is where the zonal-mean wind has its maximum."""

import numpy as np
import pytest

from etesian.core import Grid
from etesian.core.errors import DataError
from etesian.scores.views import jet_latitude

GRID = Grid(np.concatenate([np.arange(-85.0, 0, 10), [2, 9, 20, 29, 41, 48, 61, 70, 82]]), np.arange(8) * 45.0)


def jet(*tops: float) -> np.ndarray:
    """Parabolas with their top at some latitudes, with waves that have no zonal mean."""
    profile = 30 - 0.01 * (GRID.latitude - np.array(tops)[:, None]) ** 2
    return profile[:, :, None] + 20 * np.cos(np.radians(3 * GRID.longitude))


def test_a_parabolas_top_is_found_between_uneven_rows() -> None:
    np.testing.assert_allclose(jet_latitude(jet(36.5, 44.0, 48.0, 55.3), GRID), [36.5, 44.0, 48.0, 55.3], atol=1e-6)


def test_a_maximum_beyond_the_band_is_at_its_edge() -> None:
    assert jet_latitude(jet(-30.0, 85.0), GRID).tolist() == [20.0, 70.0]
    assert jet_latitude(jet(-45.0), GRID, south=-75, north=-15)[0] == pytest.approx(-45)


def test_a_band_with_few_rows_is_refused() -> None:
    with pytest.raises(DataError, match="has 2 rows from 15 to 30°N"):
        jet_latitude(jet(40.0), GRID, north=30)
