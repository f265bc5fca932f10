"""Interpolation by regression finds what filters of the coarse fields there are, on any globe, and says where not."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from etesian.core import Batch, Channel, Fields, Frame, Grid, Layout
from etesian.core.errors import DataError, GridError, RecipeError
from etesian.networks import regression
from etesian.networks.interpolation import ConservativeInterpolation
from etesian.networks.regression import RegressionInterpolation

HEIGHT, WIND, MOISTURE = Channel("geopotential", 500), Channel("u_component_of_wind", 500), Channel("specific_humidity")
COARSE = Grid.equiangular(22.5)
FINE = Grid(np.arange(-84.375, 85, 11.25), np.arange(0, 360, 7.5))
LAYOUT = Layout((MOISTURE, HEIGHT, WIND), (WIND, HEIGHT), COARSE, target_grid=FINE)


def fields(count: int, seed: int = 0, channels: tuple[Channel, ...] = LAYOUT.inputs, grid: Grid = COARSE) -> Fields:
    values = torch.randn(count, 1, len(channels), *grid.shape, generator=torch.Generator().manual_seed(seed))
    return Fields(values, Frame(channels, torch.arange(count)[:, None] * 86400, grid))


def truth(given: Fields, noise: float = 0.0) -> Fields:
    """Splines and filters of coarse fields: three columns for each, other weights in each row."""
    height, wind = given.values[:, 0, 1], given.values[:, 0, 2]
    slope = height.roll(-2, -1) - height.roll(3, -1)
    rows = torch.linspace(-2, 2, FINE.shape[0])[:, None]
    nearest = np.abs(FINE.latitude[:, None] - COARSE.latitude).argmin(1)
    cells = [slope + step * wind + 0.5 for step in range(3)], [height - step * slope for step in range(3)]
    fine = [torch.stack(parts, -1).flatten(-2)[:, nearest] * rows + rows for parts in cells]
    splines = ConservativeInterpolation(COARSE, FINE)(given).select(LAYOUT.targets)
    values = splines.values + torch.stack(fine, 1)[:, None]
    return Fields(values + noise * torch.randn_like(values), Frame(LAYOUT.targets, given.frame.time, FINE))


def fitted(layout: Layout, samples: list[Batch]) -> RegressionInterpolation:
    interpolation = RegressionInterpolation(layout)
    interpolation.fit(samples, sum(len(sample) for sample in samples))
    return interpolation


def batches(count: int, noise: float = 0.0) -> list[Batch]:
    given = fields(count)
    wanted, parts = truth(given, noise), []
    for some in (slice(0, count // 3), slice(count // 3, count)):
        halves = (
            Fields(f.values[some], Frame(f.frame.channels, f.frame.time[some], f.frame.grid)) for f in (given, wanted)
        )
        parts.append(Batch(*halves))
    return parts


def estimated(interpolation: RegressionInterpolation, given: Fields) -> Tensor:
    return interpolation(given).select(LAYOUT.targets).values


def test_filters_of_all_inputs_that_change_from_row_to_row_are_found() -> None:
    interpolation, new = fitted(LAYOUT, batches(150)), fields(4, seed=1)
    torch.testing.assert_close(estimated(interpolation, new), truth(new).values, rtol=1e-3, atol=5e-3)


def test_noise_makes_it_no_worse_than_what_is_expected() -> None:
    torch.manual_seed(0)
    interpolation, new = fitted(LAYOUT, batches(150, noise=1.0)), fields(20, seed=1)
    error = (estimated(interpolation, new) - truth(new).values).square().mean()
    # 148 numbers of each row and step from 150 × 16 equations: the expected error is that share of the noise.
    assert error == pytest.approx(148 / (150 * 16), rel=0.2)


def test_turning_the_coarse_fields_turns_the_fine_ones() -> None:
    interpolation, new = fitted(LAYOUT, batches(20, noise=0.1)), fields(2, seed=1)
    turned = Fields(new.values.roll(5, -1), new.frame)
    torch.testing.assert_close(estimated(interpolation, turned), estimated(interpolation, new).roll(15, -1))


def test_what_is_no_target_is_interpolated_by_splines_and_each_time_of_a_history_by_itself() -> None:
    interpolation, new = fitted(LAYOUT, batches(20)), fields(6, seed=1)
    found = interpolation(new)
    splines = ConservativeInterpolation(COARSE, FINE)(new)
    assert found.frame == splines.frame
    torch.testing.assert_close(found.select((MOISTURE,)).values, splines.select((MOISTURE,)).values)
    history = Fields(
        new.values.view(2, 3, *new.values.shape[2:]), Frame(LAYOUT.inputs, new.frame.time.view(2, 3), COARSE)
    )
    torch.testing.assert_close(interpolation(history).values, found.values.view(2, 3, *found.values.shape[2:]))


def test_a_state_dict_keeps_it() -> None:
    interpolation, again, new = fitted(LAYOUT, batches(20)), RegressionInterpolation(LAYOUT), fields(2, seed=1)
    again.load_state_dict(interpolation.state_dict())
    assert torch.equal(again(new).values, interpolation(new).values)


@pytest.mark.parametrize(
    ("grids", "message"),
    [
        ((COARSE, Grid.equiangular(15)), "whole number of fine columns for each coarse one, not .*conservative"),
        ((COARSE, Grid(np.arange(30, 60, 5), np.arange(0, 90, 5))), "needs grids round the globe"),
        ((Grid.equiangular(45), FINE), "7 coarse rows or more"),
    ],
)
def test_grids_that_it_cannot_serve_are_refused(grids: tuple[Grid, Grid], message: str) -> None:
    with pytest.raises(GridError, match=message):
        RegressionInterpolation(Layout(LAYOUT.inputs, LAYOUT.targets, grids[0], target_grid=grids[1]))


def test_what_does_not_fit_into_memory_holes_and_few_samples_are_refused(monkeypatch: Any) -> None:
    sample = batches(9)[0]
    assert sample.targets is not None
    with pytest.raises(DataError, match="needs 5 samples to train on or more, not 3; set interpolation: conservative"):
        fitted(LAYOUT, [sample])
    valid = torch.ones_like(sample.targets.values, dtype=torch.bool)
    valid[0, 0, 0, 0, 0] = False
    holes = Batch(sample.inputs, Fields(sample.targets.values, sample.targets.frame, valid))
    with pytest.raises(DataError, match="targets have missing values; set interpolation: conservative"):
        fitted(LAYOUT, [holes, holes])
    monkeypatch.setattr(regression, "MOST_NUMBERS", 100_000)
    with pytest.raises(RecipeError, match="3 inputs at 49 points for 16 rows is out of reach"):
        RegressionInterpolation(LAYOUT)
