"""Scores of ensembles, against numbers by hand, another library, and what they promise of perfect ensembles."""

from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import scoringrules
import torch
import xarray as xr
from matplotlib.figure import Figure

from etesian.core.errors import DataError
from etesian.scores import drawing, pairs
from etesian.scores.ensembles import energy_score, ensemble_crps, member_facts
from etesian.scores.score import score
from etesian.scores.series import open_forecast
from etesian.training.members import ALMOST_FAIR


def test_scores_of_three_members_by_hand() -> None:
    members, truth = torch.tensor([1.0, 2.0, 6.0], dtype=torch.float64), torch.tensor(3.0, dtype=torch.float64)
    # Distances from the truth 2, 1 and 3; of the pairs 1, 5 and 4.
    assert ensemble_crps(members, truth).item() == pytest.approx(2 - 10 / 3 / 2)
    assert ensemble_crps(members, truth, fairness=0.0).item() == pytest.approx(2 - 20 / 9 / 2)
    assert ensemble_crps(members, truth, fairness=0.95).item() == pytest.approx(2 - (1 - 0.05 / 3) * 10 / 3 / 2)
    assert ensemble_crps(members[:1], truth).item() == 2
    facts = member_facts(members, truth, (0.5, 0.9))
    assert facts.crps().item() == pytest.approx(2 - 10 / 3 / 2)
    assert facts.crps(0.0).item() == pytest.approx(2 - 20 / 9 / 2)
    assert facts.predictive_variance().item() == pytest.approx(7 * 4 / 3)
    # Half of the truths lie between the outer two of three members.
    assert facts.inside[0.5] == 1
    assert facts.inside[0.9] is None
    single = member_facts(members[:1], truth)
    assert single.crps().item() == 2
    assert single.predictive_variance().isnan()


@pytest.mark.parametrize("count", [2, 8, 9, 51])
def test_the_crps_is_that_of_another_library(count: int) -> None:
    random = np.random.default_rng(count)
    members, truth = random.standard_normal((count, 300)), 2 * random.standard_normal(300)
    for fairness, estimator in ((1.0, "fair"), (0.0, "nrg")):
        found = ensemble_crps(torch.from_numpy(members), torch.from_numpy(truth), fairness)
        expected = scoringrules.crps_ensemble(truth, members, m_axis=0, estimator=estimator)
        np.testing.assert_allclose(found, expected, atol=1e-12)
        facts = member_facts(torch.from_numpy(members), torch.from_numpy(truth))
        np.testing.assert_allclose(facts.crps(fairness), expected, atol=1e-12)
        coarse = torch.from_numpy((members + 5e5).astype("f4"))
        shifted = scoringrules.crps_ensemble(truth + 5e5, coarse.double().numpy(), m_axis=0, estimator=estimator)
        facts = member_facts(coarse, torch.from_numpy(truth + 5e5))
        np.testing.assert_allclose(facts.crps(fairness), shifted, rtol=2e-6, atol=1e-7)


def test_intervals_of_members_that_are_as_likely_as_the_truth_hold_as_often_as_they_say() -> None:
    random = np.random.default_rng(0)
    members, truth = torch.from_numpy(random.standard_normal((13, 100_000))), random.standard_normal(100_000)
    facts = member_facts(members, torch.from_numpy(truth), (0.5, 0.68, 0.9))
    assert facts.inside[0.5].mean() == pytest.approx(0.5, abs=0.005)  # type: ignore[union-attr]
    assert facts.inside[0.68].mean() == pytest.approx(0.68, abs=0.005)  # type: ignore[union-attr]
    # The widest interval of 13 members holds 12/14.
    assert facts.inside[0.9] is None


def test_the_energy_score_is_that_of_another_library() -> None:
    random = np.random.default_rng(1)
    members, truth = random.standard_normal((4, 3, 50)), 2 * random.standard_normal((3, 50))
    area = random.uniform(0.5, 2, (50, 2)) * np.stack([np.ones(50), np.arange(50) < 20], 1)
    use = random.uniform(size=(3, 50)) < 0.8
    found = energy_score(*(torch.from_numpy(part) for part in (members, truth, use, area)))
    for number in range(3):
        for region in range(2):
            weight = np.sqrt(area[:, region] * use[number] / (area[:, region] * use[number]).sum())
            scaled = members[:, number] * weight, truth[number] * weight
            expected = scoringrules.es_ensemble(scaled[1], scaled[0], m_axis=-2, v_axis=-1, estimator="fair")
            assert found[number, region].item() == pytest.approx(expected, rel=1e-12)
    alone = energy_score(*(torch.from_numpy(part) for part in (members[:1], truth, use, area)))
    square = ((members[0] - truth) ** 2 * use) @ area / (use @ area)
    np.testing.assert_allclose(alone, np.sqrt(square), rtol=1e-12)


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
    plain = scoringrules.crps_ensemble(known.values, values.values, m_axis=0, estimator="nrg")
    assert ours.crps_plain.item() == pytest.approx((plain * weight).sum() / weight.sum(), rel=1e-6)
    maps = [part.values.reshape(*part.shape[:-2], -1) for part in (known, values.transpose("time", "number", ...))]
    root = np.sqrt(weight[0].ravel() / weight[0].sum())
    energy = scoringrules.es_ensemble(maps[0] * root, maps[1] * root, m_axis=-2, v_axis=-1, estimator="fair")
    assert ours.energy_score.item() == pytest.approx(energy.mean(), rel=1e-6)
    assert ours.energy_score_low < ours.energy_score < ours.energy_score_high
    assert ours.coverage_50.item() == pytest.approx(0.5, abs=0.01)
    assert np.isnan(ours.coverage_90)
    # Their members are as likely as the truth.
    np.testing.assert_allclose(scores.spread_skill.sel(forecast="members"), 1, rtol=0.05)

    few = {name: forecast.isel(time=slice(5)) for name, forecast in given.items()}
    scores = score(few, truth, climatology=weather.climatology(), progress=False)
    monkeypatch.setattr(pairs, "CHUNK_BYTES", 1)
    again = score(few, truth, climatology=weather.climatology(), progress=False)
    xr.testing.assert_allclose(again, scores, rtol=1e-12)


@pytest.mark.parametrize("name", ["realization", "ensemble"])
def test_members_of_others_are_read_no_further_than_they_are_asked_for(
    weather: ModuleType, tmp_path: Path, name: str
) -> None:
    members = ensemble(weather, 3)
    expected = score({"m": members}, weather.truth(), progress=False)
    others = members.rename(number=name).transpose(
        "time", name, "prediction_timedelta", "level", "longitude", "latitude"
    )
    others = others.isel(latitude=slice(None, None, -1)).chunk({"time": 2, name: 3})
    others.to_zarr(tmp_path / "others.zarr")
    for given in (tmp_path / "others.zarr", xr.open_zarr(tmp_path / "others.zarr", chunks=None)):
        found = open_forecast("m", given).dataset
        # In the pieces that are stored: two times of all members each, of which one member is taken.
        assert found.temperature.chunks is not None
        assert found.temperature.sizes["number"] == 3
        xr.testing.assert_allclose(score({"m": given}, weather.truth(), progress=False), expected)


def test_the_numbers_of_members_are_kept(weather: ModuleType) -> None:
    members = ensemble(weather, 3).assign_coords(number=[1, 2, 5])
    assert open_forecast("m", members).dataset.number.values.tolist() == [1, 2, 5]
    named = members.rename(number="member").assign_coords(member=["a", "b", "c"])
    assert open_forecast("m", named).dataset.number.values.tolist() == [0, 1, 2]


def test_a_picture_of_members_is_that_of_their_mean_or_of_one(
    weather: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[tuple[str, np.ndarray]] = []
    monkeypatch.setattr(drawing, "_maps", lambda rows, *_, **__: drawn.append(rows) or Figure())
    members = ensemble(weather, 3)
    members.to_zarr(tmp_path / "m.zarr")
    options = {"channel": "temperature_850", "lead": [24]}
    titles = []
    monkeypatch.setattr(Figure, "suptitle", lambda _, text, **__: titles.append(text))
    drawing.plot(str(tmp_path / "m.zarr"), str(tmp_path / "mean.png"), **options)
    drawing.plot(str(tmp_path / "m.zarr"), str(tmp_path / "one.png"), member=2, **options)
    field = (
        members.temperature.sel(level=850)
        .isel(time=0, prediction_timedelta=0)
        .transpose("number", "latitude", "longitude")
    )
    np.testing.assert_allclose(drawn[0][0][1], field.mean("number"), rtol=1e-6)
    np.testing.assert_array_equal(drawn[1][0][1], field[2])
    assert titles[0].endswith("UTC, mean of 3 members")
    assert titles[1].endswith("UTC, member 2")
    with pytest.raises(DataError, match="has no member 7; its members are 0, 1, 2"):
        drawing.plot(str(tmp_path / "m.zarr"), str(tmp_path / "none.png"), member=7, **options)
    # Analyses with members: the mean of what happened is drawn as well.
    states = weather.truth(4)[["temperature"]].expand_dims(member=2)
    states = states.assign(temperature=states.temperature.assign_attrs(units="K", levels=[500, 850]))
    states.to_netcdf(tmp_path / "states.nc")
    drawing.plot(str(tmp_path / "states.nc"), str(tmp_path / "states.png"), channel="temperature_850")
    assert drawn[-1][0][0] == "2020-12-01 00:00 UTC, mean of 2 members"


def test_what_is_unfair_in_training_costs_members_one_hundredth_of_their_spread() -> None:
    first, second, truth = torch.from_numpy(np.random.default_rng(0).standard_normal((3, 1_000_000)))
    spreads = torch.linspace(0.85, 1.1, 26, dtype=torch.float64)

    def best(fairness: float) -> float:
        scores = [ensemble_crps(spread * torch.stack([first, second]), truth, fairness).mean() for spread in spreads]
        return float(spreads[torch.stack(scores).argmin()])

    assert best(1.0) == pytest.approx(1, abs=0.006)
    assert best(ALMOST_FAIR) == pytest.approx(0.99, abs=0.006)
    assert best(0.95) == pytest.approx(0.95, abs=0.006)
