"""Scores: WeatherBench 2's values are in tests/evaluation; here are the laws."""

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose

from etesian.core import Channel, Fields, Frame, Grid
from etesian.core.errors import GridError, RecipeError
from etesian.scores.sums import Sums, accumulate
from etesian.scores.weights import point_weights

GRID = Grid.equiangular(15)
CHANNELS = (
    Channel("temperature", 850),
    Channel("u_component_of_wind", 500),
    Channel("v_component_of_wind", 500),
)


def fields(seed: int, *, samples: int = 7, leads: int = 2, grid: Grid = GRID) -> Fields:
    values = torch.from_numpy(np.random.default_rng(seed).normal(280, 5, (samples, leads, 3, *grid.shape)))
    time = torch.arange(samples)[:, None] * 86400 + torch.arange(leads) * 21600
    return Fields(values, Frame(CHANNELS, time, grid))


def part(of: Fields, samples: slice) -> Fields:
    frame = Frame(of.frame.channels, of.frame.time[samples], of.frame.grid)
    return Fields(of.values[samples], frame, None if of.valid is None else of.valid[samples])


@pytest.mark.parametrize("size", [1, 2, 3, 5])
def test_any_division_of_the_samples_gives_the_same_scores(size: int) -> None:
    forecast, truth, normal = fields(0), fields(1), fields(2)
    whole = accumulate(forecast, truth, normal, regions=("global", "tropics"))
    parts = [
        accumulate(*(part(f, slice(i, i + size)) for f in (forecast, truth, normal)), regions=("global", "tropics"))
        for i in range(0, 7, size)
    ]
    assert_allclose(torch.cat([p.values for p in parts]), whole.values, rtol=1e-14)
    added: Sums = parts[0].total()
    for piece in parts[1:]:
        added = added + piece.total()
    for name, values in whole.total().scores().items():
        assert_allclose(added.scores()[name], values, rtol=1e-13, atol=1e-13, err_msg=name)


def test_a_constant_error_is_the_rmse_the_mae_and_the_bias() -> None:
    truth = fields(1)
    forecast = Fields(truth.values - 2.5, truth.frame)
    scores = accumulate(forecast, truth).total().scores()
    for name, expected in (("mse", 6.25), ("rmse", 2.5), ("mae", 2.5), ("bias", -2.5)):
        assert_allclose(scores[name][:, :3], expected, rtol=1e-12)


def test_the_wind_vector_error_adds_the_squares_of_both_components() -> None:
    sums = accumulate(fields(0), fields(1))
    assert sums.channels[3] == Channel("wind_vector", 500)
    mse = sums.total().scores()["mse"]
    assert_allclose(mse[:, 3], mse[:, 1] + mse[:, 2], rtol=1e-12)
    assert torch.isnan(sums.total().scores()["bias"][:, 3]).all()


def test_a_perfect_forecast_has_correlation_and_activity_one() -> None:
    truth, normal = fields(1), fields(2)
    scores = accumulate(truth, truth, normal).total().scores()
    assert_allclose(scores["acc"][:, :3], 1, rtol=1e-12)
    assert_allclose(scores["activity"][:, :3], 1, rtol=1e-12)


def test_halved_anomalies_keep_the_correlation_and_halve_the_activity() -> None:
    truth, normal = fields(1), fields(2)
    forecast = Fields((truth.values + normal.values) / 2, truth.frame)
    scores = accumulate(forecast, truth, normal).total().scores()
    assert_allclose(scores["acc"][:, :3], 1, rtol=1e-12)
    assert_allclose(scores["activity"][:, :3], 0.5, rtol=1e-12)


def weighted_pearson(a: np.ndarray, b: np.ndarray, weights: np.ndarray) -> float:
    covariance = np.cov(a.ravel(), b.ravel(), aweights=weights.ravel())
    return float(covariance[0, 1] / np.sqrt(covariance[0, 0] * covariance[1, 1]))


def test_pearson_is_the_weighted_correlation_of_each_map_then_the_mean_over_samples() -> None:
    truth = fields(1)
    forecast = Fields(0.6 * truth.values + 0.4 * fields(0).values + 3, truth.frame)
    truth.values[2, 0, 0, 3, 4] = torch.nan
    tropics = abs(GRID.latitude) <= 20
    found = accumulate(forecast, truth, regions=("global", "tropics")).total().scores()["pearson"]
    weights = np.broadcast_to(GRID.area_weights[:, None], GRID.shape)
    for channel in range(3):
        for region, inside in enumerate((np.ones(GRID.shape, bool), np.broadcast_to(tropics[:, None], GRID.shape))):
            each = []
            for ours, theirs in zip(forecast.values[:, 0, channel], truth.values[:, 0, channel], strict=True):
                use = inside & np.isfinite(theirs.numpy())
                each.append(weighted_pearson(ours.numpy()[use], theirs.numpy()[use], weights[use]))
            assert_allclose(found[0, channel, region], np.mean(each), rtol=1e-10)
    assert torch.isnan(found[:, 3]).all()


def test_pearson_of_a_stretched_map_is_one_and_a_constant_map_is_not_counted() -> None:
    truth = fields(1)
    stretched = Fields(3 * truth.values - 700, truth.frame)
    assert_allclose(accumulate(stretched, truth).total().scores()["pearson"][:, :3], 1, rtol=1e-10)
    stretched.values[0] = 281.3
    sums = accumulate(stretched, truth)
    assert sums.sum_of("pattern_samples")[0].sum() == 0
    assert_allclose(sums.total().scores()["pearson"][:, :3], 1, rtol=1e-10)


def test_without_a_climatology_there_is_no_correlation() -> None:
    assert torch.isnan(accumulate(fields(0), fields(1)).total().scores()["acc"]).all()


def test_missing_forecasts_are_counted_and_missing_truth_is_not_their_fault() -> None:
    forecast, truth = fields(0), fields(1)
    forecast.values[0, 0, 0, 3, 4] = torch.nan
    forecast.values[0, 0, 0, 5, 6] = torch.inf
    truth.values[0, 0, 0, 7, 8] = torch.nan
    forecast.values[0, 0, 0, 7, 8] = torch.nan
    sums = accumulate(forecast, truth).total()
    assert sums.sum_of("missing_forecast")[0, 0, 0] == 2
    assert sums.sum_of("missing_truth")[0, 0, 0] == 1
    assert sums.sum_of("points")[0, 0, 0] == 7 * 12 * 24 - 3
    assert torch.isfinite(sums.rmse()).all()


def test_what_a_mask_hides_has_no_influence() -> None:
    forecast, truth = fields(0), fields(1)
    valid = torch.from_numpy(np.random.default_rng(3).random(truth.values.shape) > 0.3)
    spoilt = Fields(truth.values.masked_fill(~valid, 1e9), truth.frame, valid)
    holes = Fields(truth.values.masked_fill(~valid, torch.nan), truth.frame)
    torch.testing.assert_close(accumulate(forecast, spoilt).values, accumulate(forecast, holes).values, equal_nan=True)


def test_scoring_only_somewhere_still_counts_what_is_missing_elsewhere() -> None:
    forecast, truth = fields(0), fields(1)
    forecast.values[0, 0, 0, 0, 0] = torch.nan
    where = torch.zeros_like(forecast.values, dtype=torch.bool)
    sums = accumulate(forecast, truth, where=where).total()
    assert sums.sum_of("points").sum() == 0
    assert sums.sum_of("missing_forecast")[0, 0, 0] == 1


def test_an_error_at_one_point_weighs_by_the_area_of_its_cell() -> None:
    truth = fields(1, samples=1, leads=1)
    forecast = Fields(truth.values.clone(), truth.frame)
    forecast.values[0, 0, 0, 2, 0] += 3
    bounds = np.sin(np.radians([-60, -45]))
    area = (bounds[1] - bounds[0]) / 2 / 24
    assert_allclose(accumulate(forecast, truth).total().scores()["mse"][0, 0, 0], 9 * area, rtol=1e-12)
    latitude = np.radians(np.arange(-82.5, 90, 15))
    share = np.cos(latitude[2]) / np.cos(latitude).sum() / 24
    scores = accumulate(forecast, truth, weighting="cosine").total().scores()
    assert_allclose(scores["mse"][0, 0, 0], 9 * share, rtol=1e-12)


def test_regions_that_share_the_globe_share_its_sums() -> None:
    sums = accumulate(fields(0), fields(1), regions=("global", "-90,0,0,360", "0,90,0,360")).total()
    squared = sums.sum_of("squared_error")
    assert_allclose(squared[..., 1] + squared[..., 2], squared[..., 0], rtol=1e-12)


def test_turning_the_globe_changes_no_score() -> None:
    forecast, truth = fields(0), fields(1)
    turned = [Fields(f.values.roll(5, dims=-1), f.frame) for f in (forecast, truth)]
    for name, values in accumulate(forecast, truth).total().scores().items():
        assert_allclose(accumulate(*turned).total().scores()[name], values, rtol=1e-12, err_msg=name)


def test_other_grids_and_unknown_weightings_are_refused() -> None:
    with pytest.raises(GridError, match=r"12×24.*regrid one of them"):
        accumulate(fields(0), fields(1, grid=Grid.equiangular(30)))
    with pytest.raises(RecipeError, match="there is no weighting 'cosin'; did you mean 'cosine'"):
        point_weights(GRID, ("global",), "cosin", "cpu")
