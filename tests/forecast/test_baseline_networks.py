"""Baselines are the simple maps that they say they are."""

import numpy as np
import pytest
import torch

from etesian.core import Channel, Fields, Frame, Grid, Layout
from etesian.core.errors import DataError, GridError
from etesian.downscale.baselines import Interpolation
from etesian.forecast.baselines import Climatology, LinearForecast, Persistence, apply_linear

CHANNELS = (Channel("temperature", 500), Channel("temperature", 850))
COARSE, FINE = Grid.equiangular(30), Grid.equiangular(10)
HOUR = 3600


def state(values: torch.Tensor, grid: Grid = COARSE) -> Fields:
    time = torch.arange(values.shape[0])[:, None] * 24 * HOUR
    return Fields(values, Frame(CHANNELS, time, grid))


def frame(inputs: Fields, *leads: int, grid: Grid = COARSE) -> Frame:
    return Frame(inputs.frame.channels, inputs.frame.time[:, -1:] + HOUR * torch.tensor(leads), grid)


def on(grid: Grid) -> torch.Tensor:
    """A field that is linear in latitude and one that is a wave of longitude, on some grid."""
    latitude = np.broadcast_to(grid.latitude[:, None], grid.shape)
    wave = np.broadcast_to(np.cos(np.radians(grid.longitude)), grid.shape)
    return torch.from_numpy(np.stack([latitude, wave])[None, None]).float()


def test_interpolation_is_exact_for_what_is_linear_and_close_for_a_wave_round_the_globe() -> None:
    network, inputs = Interpolation(Layout(CHANNELS, CHANNELS, COARSE, target_grid=FINE)), state(on(COARSE))
    found = network(inputs, frame(inputs, 0, grid=FINE))
    inside = abs(FINE.latitude) <= 75
    torch.testing.assert_close(found[:, :, 0][..., inside, :], on(FINE)[:, :, 0][..., inside, :])
    # Beyond the outermost rows their values go on.
    torch.testing.assert_close(found[0, 0, 0, 0], torch.full((36,), -75.0))
    assert (found[:, :, 1] - on(FINE)[:, :, 1]).abs().max() < np.radians(30) ** 2 / 8


def test_interpolation_keeps_points_that_both_grids_have_and_repeats_for_every_time() -> None:
    network = Interpolation(Layout(CHANNELS, CHANNELS, COARSE, target_grid=FINE))
    inputs = state(torch.randn(3, 1, 2, *COARSE.shape))
    found = network(inputs, frame(inputs, 6, 12, grid=FINE))
    assert found.shape == (3, 2, 2, *FINE.shape)
    torch.testing.assert_close(found[:, 1, :, 1::3, ::3], inputs.values[:, 0])
    with pytest.raises(GridError, match="interpolation needs a layout with a target_grid"):
        Interpolation(Layout(CHANNELS, CHANNELS, COARSE))


def test_a_missing_value_is_missing_only_where_it_is_needed() -> None:
    network = Interpolation(Layout(CHANNELS, CHANNELS, COARSE, target_grid=FINE))
    whole = state(torch.randn(1, 1, 2, *COARSE.shape))
    valid = torch.ones_like(whole.values, dtype=torch.bool)
    valid[0, 0, 1, 2, 5] = False
    target = frame(whole, 0, grid=FINE)
    found = network(Fields(whole.values, whole.frame, valid), target)
    assert not found[:, :, 0].isnan().any()
    rows, columns = np.nonzero(found[0, 0, 1].isnan().numpy())
    np.testing.assert_array_equal(np.unique(rows), [5, 6, 7, 8, 9])
    np.testing.assert_array_equal(np.unique(columns), [13, 14, 15, 16, 17])
    known = found.isfinite()
    torch.testing.assert_close(found[known], network(whole, target)[known])


def test_a_target_grid_beyond_that_of_a_region_is_refused() -> None:
    region, wider = Grid([0, 10, 20], [30, 40, 50]), Grid([5, 10], [25, 35])
    with pytest.raises(GridError, match=r"the target grid .* reaches beyond the inputs' grid"):
        Interpolation(Layout(CHANNELS, CHANNELS, region, target_grid=wider))


def test_a_linear_forecast_of_grid_points_damps_each_by_its_own_coefficient() -> None:
    coefficients = {6: torch.rand(2, *COARSE.shape), 24: torch.rand(2, *COARSE.shape)}
    network = LinearForecast(Layout(CHANNELS, CHANNELS, COARSE), coefficients)
    inputs = state(torch.randn(3, 1, 2, *COARSE.shape))
    found = network(inputs, frame(inputs, 24, 6))
    torch.testing.assert_close(found[:, 0], coefficients[24] * inputs.values[:, 0])
    torch.testing.assert_close(found[:, 1], coefficients[6] * inputs.values[:, 0])
    one = Frame(CHANNELS[1:], frame(inputs, 6).time, COARSE)
    torch.testing.assert_close(network(inputs, one), found[:, 1:, 1:])


def test_a_linear_forecast_of_all_points_is_a_matrix_for_each_channel() -> None:
    grid = Grid([-30, 30], [0, 90, 180, 270])
    matrix = torch.randn(2, 8, 8)
    values = torch.randn(3, 2, *grid.shape)
    found = apply_linear(matrix, values[:, None])
    for sample in range(3):
        for channel in range(2):
            expected = values[sample, channel].flatten() @ matrix[channel]
            torch.testing.assert_close(found[sample, channel].flatten(), expected)


def test_a_matrix_of_a_grid_of_one_row_is_not_taken_for_a_map_of_coefficients() -> None:
    values, matrix = torch.randn(1, 2, 4, 1), torch.randn(2, 4, 4)
    torch.testing.assert_close(apply_linear(matrix, values[:, None])[0, 1, :, 0], values[0, 1, :, 0] @ matrix[1])


def test_a_lead_that_was_not_fitted_is_named() -> None:
    network = LinearForecast(Layout(CHANNELS, CHANNELS, COARSE), {6: torch.rand(2, *COARSE.shape)})
    inputs = state(on(COARSE))
    with pytest.raises(DataError, match=r"no regression was fitted for a lead of 24 h; fitted were \[6\]"):
        network(inputs, frame(inputs, 24))


def test_persistence_and_climatology_give_the_state_and_the_table() -> None:
    layout, inputs = Layout(CHANNELS, CHANNELS, COARSE), state(on(COARSE))
    target = frame(inputs, 6, 24)
    assert torch.equal(Persistence(layout)(inputs, target), on(COARSE).expand(-1, 2, -1, -1, -1))
    table = Climatology(layout, lambda asked: asked.time.float()[:, :, None, None, None].expand(-1, -1, 2, 6, 12))
    assert torch.equal(table(inputs, target)[0, :, 0, 0, 0], target.time[0].float())
