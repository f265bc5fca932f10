"""ClimateBench's scores: agreement with the original, and their laws."""

import re
from pathlib import Path

import numpy as np
import pytest

from etesian.core import Grid
from etesian.core.errors import DataError
from etesian.projection.report import render
from etesian.projection.scores import PROJECTION_SCORES, climatebench_scores, domain_mean, score_projections
from etesian.scores.tables import number, verdicts

GOLDEN = Path(__file__).parents[1] / "golden"
GRID = Grid(np.linspace(-75, 75, 6), np.arange(8) * 45.0)


def test_scores_are_those_of_the_original() -> None:
    with np.load(GOLDEN / "climatebench_nrmse.npz") as golden:
        grid = Grid(golden["lat"], np.arange(32) * 11.25)
        predicted, truth = (golden[name][:, 0].astype(np.float64) for name in ("pred", "y"))
        found = climatebench_scores(predicted, truth, grid, float(golden["normalization"]))
        assert found == pytest.approx([golden[name].item() for name in ("nrmse_s", "nrmse_g", "nrmse")], rel=1e-6)


def test_a_constant_error_counts_the_same_in_both_scores_and_six_times_in_the_total() -> None:
    truth = np.random.default_rng(0).normal(4.0, 1.0, (5, *GRID.shape))
    scale = abs(domain_mean(truth, GRID).mean())
    found = climatebench_scores(truth + 0.5, truth, GRID)
    assert found == pytest.approx([0.5 / scale, 0.5 / scale, 3.0 / scale], rel=1e-12)


def test_errors_that_cancel_over_the_years_leave_the_spatial_score_at_zero() -> None:
    truth = np.full((2, *GRID.shape), 2.0)
    error = np.stack([np.ones(GRID.shape), -np.ones(GRID.shape)])
    found = climatebench_scores(truth + error, truth, GRID)
    assert found.spatial == pytest.approx(0, abs=1e-12)
    assert found.mean == pytest.approx(0.5, rel=1e-12)


def test_a_truth_of_zero_mean_cannot_be_divided_by() -> None:
    with pytest.raises(DataError, match="the truth is 0 in the mean"):
        climatebench_scores(np.ones((1, *GRID.shape)), np.zeros((1, *GRID.shape)), GRID)


def test_projections_are_scored_over_the_dimensions_of_all_scores_and_with_intervals() -> None:
    random = np.random.default_rng(1)
    truth = random.normal(4.0, 1.0, (8, 2, *GRID.shape))
    maps = {name: truth + bias + random.normal(0, 0.5, truth.shape) for name, bias in (("near", 0.1), ("far", 1.0))}
    scores = score_projections(maps, truth, ["tas", "pr"], GRID)
    assert scores.nrmse.dims == ("forecast", "channel", "region")
    for channel, name in enumerate(("tas", "pr")):
        for each in maps:
            expected = climatebench_scores(maps[each][:, channel], truth[:, channel], GRID)
            found = scores.sel(forecast=each, channel=name, region="domain")
            assert [found[score].item() for score in PROJECTION_SCORES] == pytest.approx(list(expected), rel=1e-12)
    for score in PROJECTION_SCORES:
        assert (scores[f"{score}_low"] < scores[score]).all()
        assert (scores[score] < scores[f"{score}_high"]).all()
    assert (scores.nrmse_high.sel(forecast="near") < scores.nrmse_low.sel(forecast="far")).all()


def test_the_page_says_which_emulators_are_beaten_and_needs_nothing_else() -> None:
    random = np.random.default_rng(2)
    truth = random.normal(4.0, 1.0, (12, 1, *GRID.shape))
    maps = {name: truth + bias + random.normal(0, 0.1, truth.shape) for name, bias in (("network", 0.1), ("far", 1.0))}
    scores = score_projections(maps, truth, ["2m_temperature"], GRID)
    expected = 1 - scores.nrmse.sel(forecast="network") / scores.nrmse.sel(forecast="far")
    assert scores.skill.sel(forecast="network", reference="far").item() == pytest.approx(expected.item(), rel=1e-12)
    assert scores.skill_low.sel(forecast="network", reference="far").item() > 0.5
    ours, theirs = (number(scores.nrmse.sel(forecast=name).item()) for name in ("network", "far"))
    sentence = f"2 m temperature: network beats far (NRMSE {ours} against {theirs}, 12 years, with 95 % confidence)."
    assert verdicts(scores, ["2m_temperature"]) == [sentence]
    page = render(scores, {"2m_temperature": b"picture"})
    assert f"<li>{sentence}</li>" in page
    assert f"<b>{ours}</b>" in page
    assert not re.findall(r"(?:src|href)\s*=\s*['\"](?!data:image/)", page)
