"""Gaps filled without learning, against laws and loops written out."""

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from etesian.core import Grid
from etesian.core.errors import DataError
from etesian.fill.dineof import DINEOF, withhold
from etesian.fill.interpolate import Gappy, climatology_anomaly, linear, observed_mean

GRID = Grid(np.linspace(30, 41, 12), np.linspace(0, 15, 16))


def gappy(values: np.ndarray, share: float = 0.4, seed: int = 0, grid: Grid = GRID) -> Gappy:
    """Hide a share of some fields at random, and a corner of land."""
    random = np.random.default_rng(seed)
    sea = np.ones(grid.shape, bool)
    sea[:3, :2] = False
    hidden = random.random(values.shape) < share
    return Gappy(np.where(hidden | ~sea, np.nan, values), sea, np.arange(len(values), dtype=float), grid)


def series(rank: int, days: int = 20, seed: int = 1) -> np.ndarray:
    """Return smooth fields that are a sum of so many products of a map and a series."""
    random = np.random.default_rng(seed)
    y, x = np.meshgrid(np.linspace(0, 1, 12), np.linspace(0, 1, 16), indexing="ij")
    maps = np.stack([np.sin((k + 1) * 2 * x + k) * np.cos((k + 1) * 1.7 * y - k) for k in range(rank)])
    scale = 2.0 ** -np.arange(rank)
    return np.einsum("tk,kyx->tyx", random.standard_normal((days, rank)) * scale, maps)


def test_the_observed_mean_is_the_mean_of_what_was_seen_at_a_point_or_else_anywhere() -> None:
    values = np.zeros((3, 12, 16))
    data = gappy(values, 0.0)
    data.values[:] = np.nan
    data.values[:, 5, 5] = [1, np.nan, 4]
    filled = observed_mean(data).values
    assert_array_equal(filled[:, 5, 5], 2.5)
    assert_allclose(filled[:, 6, 6], 2.5)
    assert np.isnan(filled[:, 0, 0]).all()


def test_climatology_plus_anomaly_returns_a_field_that_is_the_climatology_plus_a_constant() -> None:
    climatology = series(3)
    data = gappy(climatology + 1.5)
    data.values[:, 7, 7] = np.nan
    filled = climatology_anomaly(data, climatology).values
    assert_allclose(filled[:, data.sea], climatology[:, data.sea] + 1.5, atol=1e-12)
    assert np.isnan(filled[:, ~data.sea]).all()


def test_where_nothing_was_seen_the_anomaly_is_the_area_weighted_mean_of_all_others() -> None:
    climatology = np.zeros((2, 12, 16))
    data = gappy(climatology, 0.0)
    data.values[:] = np.nan
    data.values[0, 4, 4], data.values[1, 9, 9] = 1.0, 5.0
    south, north = GRID.area_weights[[4, 9]]
    filled = climatology_anomaly(data, climatology).values
    assert_allclose(filled[:, 11, 11], (south + 5 * north) / (south + north))
    assert_allclose(filled[:, 9, 9], 5.0)


def test_linear_interpolation_is_exact_in_time_for_a_linear_trend_between_uneven_days() -> None:
    data = gappy(np.zeros((5, 12, 16)), 0.0)
    days = np.array([0.0, 1, 4, 5, 9])
    values = days[:, None, None] * np.linspace(-1, 1, 12 * 16).reshape(12, 16)
    holes = values.copy()
    holes[1:4, 5:9, 5:9] = np.nan
    filled = linear(Gappy(holes, data.sea, days, GRID)).values
    assert_allclose(filled[:, data.sea], values[:, data.sea], atol=1e-12)


def test_linear_interpolation_is_exact_in_space_for_a_plane_where_nothing_was_ever_seen() -> None:
    y, x = np.mgrid[:12, :16].astype(float)
    values = np.stack([2 * y - 3 * x + 1, y + x])
    data = gappy(values, 0.0)
    data.values[:, 4:9, 6:12] = np.nan
    filled = linear(data).values
    assert_allclose(filled[:, data.sea], values[:, data.sea], atol=1e-9)


def test_linear_interpolation_goes_round_the_globe() -> None:
    grid = Grid.equiangular(30)
    values = np.tile(np.array([5.0, 4, 3, 2, 1, 0, 0, 1, 2, 3, 4, 5]), (2, 6, 1))
    holes = values.copy()
    holes[:, :, [0, 11]] = np.nan
    filled = linear(Gappy(holes, np.ones(grid.shape, bool), np.arange(2.0), grid)).values
    # Between the 4 on either side: not on to 5 as an extrapolation would have it, nor to 4 and 0 across the map.
    assert_allclose(filled[:, :, [0, 11]], 4.0, atol=1e-12)
    turned = linear(Gappy(np.roll(holes, 5, 2), np.ones(grid.shape, bool), np.arange(2.0), grid)).values
    assert_allclose(turned, np.roll(filled, 5, 2), atol=1e-12)


@pytest.mark.parametrize("rank", [1, 3])
def test_dineof_finds_the_rank_of_a_field_and_fills_it_to_1e6(rank: int) -> None:
    # One of the patterns is the same everywhere, so that taking off the mean does not raise the rank.
    truth = np.linspace(-1, 3, 20)[:, None, None] + (series(rank - 1) if rank > 1 else np.zeros((20, 12, 16)))
    result = DINEOF(tolerance=1e-10, max_iterations=20000, holes="random", withheld=0.02).fill(data := gappy(truth))
    assert result.rank == rank
    assert np.abs(result.values - truth)[:, data.sea].max() < 1e-6
    assert result.errors is not None
    assert result.errors[rank - 1] < 1e-6


def test_dineof_of_full_rank_is_a_projection_written_out() -> None:
    data = gappy(series(6) + 3.0, 0.3)
    result = DINEOF(rank=2, tolerance=1e-10, max_iterations=20000).fill(data)
    table = result.values[:, data.sea].T - np.nanmean(data.values[:, data.sea])
    u, s, v = np.linalg.svd(table, full_matrices=False)
    again = (u[:, :2] * s[:2]) @ v[:2]
    gaps = ~data.observed[:, data.sea].T
    assert_allclose(again[gaps], table[gaps], atol=1e-7)
    assert_array_equal(result.values[data.observed], data.values[data.observed])


def test_days_and_points_without_any_observation_are_filled_by_dineof_without_harm() -> None:
    data = gappy(series(2), 0.2)
    data.values[4] = np.nan
    data.values[:, 8, 8] = np.nan
    result = DINEOF(rank=2).fill(data)
    assert np.isfinite(result.values[:, data.sea]).all()
    assert np.isnan(result.values[:, ~data.sea]).all()


def test_the_time_filter_of_dineof_damps_what_jumps_from_day_to_day_and_keeps_what_is_slow() -> None:
    days, pattern = np.arange(40.0), series(1, 1)[0] + 0.2
    slow, jumps = np.sin(2 * np.pi * days / 40), 0.8 * (-1.0) ** days
    data = gappy((slow + jumps)[:, None, None] * pattern, 0.0)
    smooth = DINEOF(rank=1, filter_days=8).fill(data).smoothed
    plain = DINEOF(rank=1).fill(data).smoothed
    assert smooth is not None
    assert plain is not None
    point = (slice(None), 6, 6)
    assert np.abs(np.diff(smooth[point])).mean() < 0.3 * np.abs(np.diff(plain[point])).mean()
    assert np.corrcoef(smooth[point], slow * pattern[6, 6])[0, 1] > 0.95


@pytest.mark.parametrize("holes", ["clouds", "random"])
def test_as_much_is_withheld_as_asked_for_among_the_observations_and_always_the_same(holes: str) -> None:
    data = gappy(series(2), 0.3)
    hidden = withhold(data, 0.1, holes, seed=3)  # type: ignore[arg-type]
    assert hidden.sum() == round(0.1 * data.observed.sum())
    assert not (hidden & ~data.observed).any()
    assert_array_equal(hidden, withhold(data, 0.1, holes, seed=3))  # type: ignore[arg-type]
    assert (hidden != withhold(data, 0.1, holes, seed=4)).any()  # type: ignore[arg-type]


def test_clouds_that_are_withheld_lie_under_the_gaps_of_another_day() -> None:
    values = np.ones((3, 12, 16))
    values[0, :, :8] = np.nan
    values[1, 6:] = np.nan
    data = gappy(values, 0.0)
    hidden = withhold(data, 0.05, "clouds")
    gaps = np.isnan(values)
    assert all((gaps[[k for k in range(3) if k != day]].any(0) | ~hidden[day]).all() for day in range(3))


def test_fields_without_any_observation_at_sea_are_refused() -> None:
    with pytest.raises(DataError, match="nothing was observed at sea"):
        gappy(np.full((2, 12, 16), np.nan))
    with pytest.raises(DataError, match="not strictly ascending"):
        Gappy(np.ones((2, *GRID.shape)), np.ones(GRID.shape, bool), np.zeros(2), GRID)
    with pytest.raises(DataError, match="at least two times"):
        DINEOF().fill(gappy(series(1, 1)))
