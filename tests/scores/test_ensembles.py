"""Scores of ensembles, against numbers by hand, another library, and what they promise of perfect ensembles."""

from types import ModuleType

import numpy as np
import pytest
import scoringrules
import torch
import xarray as xr

from etesian.scores import pairs
from etesian.scores.ensembles import ensemble_crps, predictive_variance
from etesian.scores.score import score


def test_scores_of_three_members_by_hand() -> None:
    members, truth = torch.tensor([1.0, 2.0, 6.0], dtype=torch.float64), torch.tensor(3.0, dtype=torch.float64)
    # Distances from the truth 2, 1 and 3; of the pairs 1, 5 and 4.
    assert ensemble_crps(members, truth).item() == pytest.approx(2 - 10 / 3 / 2)
    assert ensemble_crps(members, truth, fairness=0.0).item() == pytest.approx(2 - 20 / 9 / 2)
    assert ensemble_crps(members, truth, fairness=0.95).item() == pytest.approx(2 - (1 - 0.05 / 3) * 10 / 3 / 2)
    assert ensemble_crps(members[:1], truth).item() == 2
    assert predictive_variance(members).item() == pytest.approx(7 * 4 / 3)
    assert predictive_variance(members[:1]).isnan()


@pytest.mark.parametrize("count", [2, 8, 9, 51])
def test_the_crps_is_that_of_another_library(count: int) -> None:
    random = np.random.default_rng(count)
    members, truth = random.standard_normal((count, 300)), 2 * random.standard_normal(300)
    for fairness, estimator in ((1.0, "fair"), (0.0, "nrg")):
        found = ensemble_crps(torch.from_numpy(members), torch.from_numpy(truth), fairness)
        expected = scoringrules.crps_ensemble(truth, members, m_axis=0, estimator=estimator)
        np.testing.assert_allclose(found, expected, atol=1e-12)


def ensemble(weather: ModuleType, members: int) -> xr.Dataset:
    """Members that are as likely as the truth: about a centre from which it lies as far as they do."""
    random = np.random.default_rng(0)
    like = weather.forecasts("model", slice(2, 40))[["temperature"]]
    known = weather.truth().temperature.sel(time=like.time + like.prediction_timedelta).drop_vars("time")
    truth = known.transpose(*like.temperature.dims).values
    drawn = random.standard_normal((members, *truth.shape)) + random.standard_normal(truth.shape)
    made = like.expand_dims(number=np.arange(members)).copy()
    made["temperature"] = ("number", *like.temperature.dims), (truth + 3 * drawn).astype("f4"), like.temperature.attrs
    return made


def test_an_ensemble_is_scored_by_its_members_and_their_mean(
    weather: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    members, truth = ensemble(weather, 5), weather.truth()
    given = {"members": members, "mean": members.mean("number", keep_attrs=True), "first": members.isel(number=0)}
    scores = score(given, truth, climatology=weather.climatology(), progress=False)
    chosen = scores.sel(region="global", lead_time=24)
    for name in ("rmse", "bias", "acc", "mae"):
        np.testing.assert_allclose(chosen[name].sel(forecast="members"), chosen[name].sel(forecast="mean"), rtol=1e-4)
    for single in ("mean", "first"):
        np.testing.assert_allclose(chosen.crps.sel(forecast=single), chosen.mae.sel(forecast=single), rtol=1e-12)
        assert np.isnan(chosen.spread.sel(forecast=single)).all()

    # Another library's, and the formulas, at one level and lead.
    values = members.temperature.sel(level=850, prediction_timedelta=np.timedelta64(24, "h"))
    values = values.transpose("number", "time", "latitude", "longitude")
    known = truth.temperature.sel(level=850, time=values.time + np.timedelta64(24, "h"))
    points = scoringrules.crps_ensemble(known.values, values.values, m_axis=0, estimator="fair")
    weight = np.broadcast_to(weather.GRID.area_weights[:, None], points.shape)
    ours = chosen.sel(forecast="members", channel="temperature_850")
    assert ours.crps.item() == pytest.approx((points * weight).sum() / weight.sum(), rel=1e-6)
    assert ours.crps_low < ours.crps < ours.crps_high
    variance = values.var("number", ddof=1).values
    assert ours.spread.item() == pytest.approx(np.sqrt(1.2 * (variance * weight).sum() / weight.sum()), rel=1e-6)
    assert ours.spread_skill.item() == pytest.approx(ours.spread.item() / ours.rmse.item())
    # Their members are as likely as the truth.
    np.testing.assert_allclose(scores.spread_skill.sel(forecast="members"), 1, rtol=0.05)

    monkeypatch.setattr(pairs, "CHUNK_BYTES", 1)
    again = score(given, truth, climatology=weather.climatology(), progress=False)
    xr.testing.assert_allclose(again, scores, rtol=1e-12)


@pytest.mark.parametrize("name", ["number", "realization", "member"])
def test_members_are_found_by_the_names_that_others_give_them(weather: ModuleType, name: str) -> None:
    members = ensemble(weather, 3)
    expected = score({"m": members}, weather.truth(), progress=False)
    others = members.rename(number=name).transpose("time", name, ...)
    xr.testing.assert_allclose(score({"m": others}, weather.truth(), progress=False), expected)
