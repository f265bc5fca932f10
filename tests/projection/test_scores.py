"""ClimateBench's scores: agreement with the original, and their laws."""

from pathlib import Path

import numpy as np
import pytest

from etesian.core import Grid
from etesian.core.errors import DataError
from etesian.projection.scores import domain_mean, nrmse

GOLDEN = Path(__file__).parents[1] / "golden"
GRID = Grid(np.linspace(-75, 75, 6), np.arange(8) * 45.0)


def test_scores_are_those_of_the_original() -> None:
    with np.load(GOLDEN / "climatebench_nrmse.npz") as golden:
        grid = Grid(golden["lat"], np.arange(32) * 11.25)
        predicted, truth = (golden[name][:, 0].astype(np.float64) for name in ("pred", "y"))
        found = nrmse(predicted, truth, grid, float(golden["normalization"]))
        assert found == pytest.approx([golden[name].item() for name in ("nrmse_s", "nrmse_g", "nrmse")], rel=1e-6)


def test_a_constant_error_counts_the_same_in_both_scores_and_six_times_in_the_total() -> None:
    truth = np.random.default_rng(0).normal(4.0, 1.0, (5, *GRID.shape))
    scale = abs(domain_mean(truth, GRID).mean())
    found = nrmse(truth + 0.5, truth, GRID)
    assert found == pytest.approx([0.5 / scale, 0.5 / scale, 3.0 / scale], rel=1e-12)


def test_errors_that_cancel_over_the_years_leave_the_spatial_score_at_zero() -> None:
    truth = np.full((2, *GRID.shape), 2.0)
    error = np.stack([np.ones(GRID.shape), -np.ones(GRID.shape)])
    found = nrmse(truth + error, truth, GRID)
    assert found.spatial == pytest.approx(0, abs=1e-12)
    assert found.mean == pytest.approx(0.5, rel=1e-12)


def test_a_truth_of_zero_mean_cannot_be_divided_by() -> None:
    with pytest.raises(DataError, match="the truth is 0 in the mean"):
        nrmse(np.ones((1, *GRID.shape)), np.zeros((1, *GRID.shape)), GRID)
