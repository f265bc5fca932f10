"""Ranks, events and their probabilities, against numbers by hand and other libraries."""

from pathlib import Path
from types import ModuleType

import numpy as np
import pandas as pd
import pytest
import torch
import xarray as xr
from scipy.ndimage import uniform_filter
from sklearn.metrics import brier_score_loss, roc_auc_score

from etesian.core.channels import Channel
from etesian.core.errors import ChannelError, RecipeError
from etesian.scores import events, pairs
from etesian.scores.ensemble_plots import probability_maps
from etesian.scores.events import economic_value, sedi
from etesian.scores.members import ranked
from etesian.scores.report import write_report
from etesian.scores.score import score
from etesian.store.prepare import prepare_dataset
from etesian.store.reader import Store

CHANNEL = "temperature_850"


def ensemble(weather: ModuleType, members: int, spread: float = 3.0, leads: tuple[int, ...] = (1, 2)) -> xr.Dataset:
    """Members about a centre from which the truth lies 3 K away; with such a spread they are as likely."""
    random = np.random.default_rng(0)
    like = weather.forecasts("model", slice(2, 40), leads)[["temperature"]]
    known = weather.truth().temperature.sel(time=like.time + like.prediction_timedelta).drop_vars("time")
    truth = known.transpose(*like.temperature.dims).values
    centre = truth + 3 * random.standard_normal(truth.shape)
    made = like.expand_dims(number=np.arange(members)).copy()
    values = centre + spread * random.standard_normal((members, *truth.shape))
    made["temperature"] = ("number", *like.temperature.dims), values.astype("f4"), like.temperature.attrs
    return made


def known(weather: ModuleType, forecast: xr.Dataset, lead: int = 24) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Members, truth and weights of one channel and lead: (member, time, lat, lon), (time, lat, lon) twice."""
    values = forecast.temperature.sel(level=850, prediction_timedelta=np.timedelta64(lead, "h"))
    truth = weather.truth().temperature.sel(level=850, time=values.time + np.timedelta64(lead, "h")).values
    members = values.transpose("number", "time", "latitude", "longitude").values
    return members, truth, np.broadcast_to(weather.GRID.area_weights[:, None], truth.shape)


@pytest.fixture(scope="module")
def scored(weather: ModuleType) -> tuple[xr.Dataset, xr.Dataset]:
    """An ensemble and its scores beside those of its first member."""
    members = ensemble(weather, 7)
    given = {"members": members, "first": members.isel(number=0)}
    scores = score(
        given, weather.truth(), climatology=weather.climatology(), headline=[CHANNEL],
        thresholds={CHANNEL: [270, 275]}, windows=[1, 5], progress=False,
    )  # fmt: skip
    return members, scores


def test_a_truth_that_equals_members_has_all_ranks_that_it_may_have() -> None:
    members = [torch.tensor([[each]]) for each in ([6.0, 4.0, 4.0], [6.0, 5.0, 4.0], [6.0, 6.0, 5.0])]
    use, weights = torch.tensor([[[True, True, False]]]), torch.tensor([[2.0], [1.0], [9.0]]).double()
    found = ranked(members, torch.full((1, 1, 3), 5.0), use, weights)
    np.testing.assert_allclose(found, [[[[2, 0.5, 0.5, 0]]]])


def test_ranks_are_counted_and_their_departure_from_even_ones_is_weighed(
    weather: ModuleType, scored: tuple[xr.Dataset, xr.Dataset]
) -> None:
    members, scores = scored
    values, truth, weight = known(weather, members)
    rank = (values < truth).sum(0)
    expected = np.bincount(rank.ravel(), weight.ravel(), 8) / weight.sum()
    found = scores.sel(forecast="members", lead_time=24, map_channel=CHANNEL, region="global")
    np.testing.assert_allclose(found.rank_frequency, expected, rtol=1e-10)
    assert (found.rank_frequency_low < found.rank_frequency).all()
    assert found.rank_p_value > 0.01
    assert np.isnan(scores.rank_frequency.sel(forecast="first")).all()
    narrow = score({"m": ensemble(weather, 7, 2.0)}, weather.truth(), headline=[CHANNEL], progress=False)
    narrow = narrow.isel(forecast=0).sel(lead_time=24, region="global")
    assert (narrow.rank_p_value < 1e-6).all()
    assert (narrow.rank_frequency[..., [0, -1]] > 0.15).all()


def test_probabilities_of_an_event_are_scored_as_other_libraries_do(
    weather: ModuleType, scored: tuple[xr.Dataset, xr.Dataset]
) -> None:
    members, scores = scored
    values, truth, weight = known(weather, members)
    for limit in (270, 275):
        found = scores.sel(forecast="members", event=f"{CHANNEL} > {limit}", lead_time=24, region="global")
        said, happened = (values > limit).mean(0).ravel(), (truth > limit).ravel()
        each = weight.ravel()
        brier = brier_score_loss(happened, said, sample_weight=each)
        assert found.brier_score.item() == pytest.approx(brier, rel=1e-9)
        parts = found.brier_reliability - found.brier_resolution + found.brier_uncertainty
        assert parts.item() == pytest.approx(brier, rel=1e-9)
        assert found.brier_score_fair.item() == pytest.approx(brier - np.average(said * (1 - said), weights=each) / 6)
        often = np.average(happened, weights=each)
        assert found.event_frequency.item() == pytest.approx(often)
        assert found.brier_skill_score.item() == pytest.approx(1 - brier / (often * (1 - often)))
        assert found.roc_area.item() == pytest.approx(roc_auc_score(happened, said, sample_weight=each), rel=1e-9)
        for name in ("brier_score", "roc_area", "brier_skill_score", "sedi"):
            assert found[f"{name}_low"] < found[name] < found[f"{name}_high"]
        some = said == 3 / 7
        assert found.observed_frequency[3].item() == pytest.approx(np.average(happened[some], weights=each[some]))
        assert found.issued_share[3].item() == pytest.approx(each[some].sum() / each.sum())
        assert found.probability[3].item() == 3 / 7
        # The mean of the members as a yes or no.
        mean = (values.mean(0) > limit).ravel()
        hit, alarm = (np.average(mean[part], weights=each[part]) for part in (happened, ~happened))
        logs = np.log([alarm, hit, 1 - alarm, 1 - hit])
        assert found.sedi.item() == pytest.approx((logs @ [1, -1, -1, 1]) / logs.sum(), rel=1e-9)
    single = scores.sel(forecast="first", event=f"{CHANNEL} > 270", lead_time=24, region="global")
    said, happened = (values[0] > 270).ravel(), (truth > 270).ravel()
    assert single.brier_score.item() == pytest.approx(np.average(said != happened, weights=weight.ravel()))
    assert np.isfinite(single.hit_rate).sum() == 2


def test_neighbourhoods_go_round_the_globe(weather: ModuleType, scored: tuple[xr.Dataset, xr.Dataset]) -> None:
    members, scores = scored
    values, truth, weight = known(weather, members)
    said, happened = (values > 275).mean(0), (truth > 275).astype(float)
    for window, inner in ((1, slice(None)), (5, slice(2, -2))):
        ours, theirs = (
            uniform_filter(part, (0, window, window), mode=["nearest", "nearest", "wrap"])[:, inner]
            for part in (said, happened)
        )
        area = weight[:, inner]
        expected = 1 - (area * (ours - theirs) ** 2).sum() / (area * (ours**2 + theirs**2)).sum()
        found = scores.sel(forecast="members", event=f"{CHANNEL} > 275", lead_time=24, region="global", window=window)
        assert found.fss.item() == pytest.approx(expected, rel=1e-9)
        assert found.fss_low < found.fss < found.fss_high
    assert (scores.fss.sel(window=5) > scores.fss.sel(window=1)).all()


def test_the_report_shows_members_and_events(
    weather: ModuleType, scored: tuple[xr.Dataset, xr.Dataset], tmp_path: Path
) -> None:
    members, scores = scored
    page = write_report(scores, tmp_path / "scores").read_text(encoding="utf-8")
    drawn = {path.stem for path in (tmp_path / "scores").glob("*.png")}
    assert drawn >= {
        "spread_and_error", "rank_histograms", f"plumes_{CHANNEL}", "stamps", "reliability", "roc", "economic_value",
        "event_probability",
    }  # fmt: skip
    assert page.count("<figure>") == len(drawn)
    table = pd.read_csv(tmp_path / "scores" / "scores.csv")
    row = table.query(
        f"forecast == 'members' and bin == '{CHANNEL} > 275, window 5' and score == 'fss' and region == 'tropics' "
        "and lead_hours == 48"
    )
    found = scores.fss.sel(forecast="members", event=f"{CHANNEL} > 275", window=5, region="tropics", lead_time=48)
    assert row.value.item() == pytest.approx(found.item())
    assert row.channel.item() == CHANNEL
    # One case: its members, truth and the probability of an event.
    case = members.temperature.sel(level=850, time=scores.example_initial_time)
    at = scores.stamp.attrs["lead_time"]
    field = case.sel(prediction_timedelta=np.timedelta64(at, "h")).transpose("number", "latitude", "longitude")
    np.testing.assert_array_equal(scores.stamp, field)
    np.testing.assert_allclose(scores.event_probability.sel(event=f"{CHANNEL} > 275"), (field > 275).mean("number"))
    happened = (
        weather.truth().temperature.sel(level=850, time=scores.example_initial_time + np.timedelta64(at, "h")) > 275
    )
    np.testing.assert_array_equal(scores.event_happened.sel(event=f"{CHANNEL} > 275"), happened)
    berlin = case.sel(latitude=52.5, longitude=13.4, method="nearest").transpose("number", ...)
    np.testing.assert_array_equal(scores.plume.sel(place="Berlin", plume_channel=CHANNEL), berlin)
    # Neither another planet's mask nor the Earth's coasts hide where the event happened there.
    earth = scores.drop_vars("land_sea_mask")
    drawn_on = [
        len(probability_maps(each).axes[0].get_children())
        for each in (earth, scores, earth.assign_attrs(planet="simulated"))
    ]
    assert drawn_on[1] == drawn_on[2] == drawn_on[0] - 1


def test_values_of_an_event_by_hand() -> None:
    # Of 100 days 20 have the event; a warning is given on 10 of them, and on 8 others.
    issued, happened = torch.tensor([82.0, 18.0]).double(), torch.tensor([10.0, 10.0]).double()
    # At a cost of a tenth of the loss: to act always costs 10, with the warnings 1.8 + 10, perfectly 2.
    assert economic_value(0.1, issued, happened).item() == pytest.approx((10 - 11.8) / (10 - 2))
    # At three tenths: never to act costs 20, with the warnings 5.4 + 10, perfectly 6.
    assert economic_value(0.3, issued, happened).item() == pytest.approx((20 - 15.4) / (20 - 6))
    table = torch.tensor([72.0, 10, 8, 10]).double()
    logs = np.log([0.1, 0.5, 0.9, 0.5])
    assert sedi(table, table.sum()).item() == pytest.approx((logs @ [1, -1, -1, 1]) / logs.sum())
    assert sedi(torch.tensor([80.0, 20, 0, 0]).double(), table.sum()).isnan()


def test_the_piece_size_changes_no_score(
    weather: ModuleType, scored: tuple[xr.Dataset, xr.Dataset], monkeypatch: pytest.MonkeyPatch
) -> None:
    members, scores = scored
    given = {"members": members, "first": members.isel(number=0)}
    monkeypatch.setattr(pairs, "CHUNK_BYTES", 500_000)
    again = score(
        given, weather.truth(), climatology=weather.climatology(), headline=[CHANNEL],
        thresholds={CHANNEL: [270, 275]}, windows=[1, 5], progress=False,
    )  # fmt: skip
    xr.testing.assert_allclose(again, scores, rtol=1e-10)


def test_climatological_quantiles_are_those_of_departures_in_the_training_period(
    weather: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "store.zarr"
    prepare_dataset(weather.truth(400), path)
    store, channel = Store(path), Channel("temperature", 850)
    monkeypatch.setattr(events, "_QUANTILE_BYTES", 4 * 400 * 32 * 10)  # ten rows at once
    found = events.departure_quantiles(store, channel, [0.1, 0.9])
    values = store.read(range(400), np.array([store.channels.index(channel)]))[:, 0]
    departures = values - store.climatology_at(store.time, [channel])[:, 0]
    np.testing.assert_allclose(found, np.quantile(departures, [0.1, 0.9], axis=0), rtol=1e-5, atol=1e-5)
    model = weather.forecasts("model", slice(2, 100), (1,), times=400)
    scores = score({"m": model}, path, quantiles=[0.1, 0.9], headline=[CHANNEL], progress=False).sel(region="global")
    assert scores.event.values.tolist() == [f"{CHANNEL} < q0.1", f"{CHANNEL} > q0.9"]
    np.testing.assert_allclose(scores.event_frequency, 0.1, atol=0.05)
    assert (scores.roc_area > 0.6).all()


def test_dry_light_and_heavy_precipitation_is_told_apart(weather: ModuleType) -> None:
    random = np.random.default_rng(2)
    name, dims = "total_precipitation_24hr", ("time", "latitude", "longitude")
    points = {"latitude": weather.GRID.latitude, "longitude": weather.GRID.longitude}
    grid, shape = weather.GRID.shape, (20, *weather.GRID.shape)
    rain = 0.01 * random.exponential(size=shape) * (random.uniform(size=shape) < 0.6)
    time = weather.truth(20).time.values
    truth = xr.Dataset({name: (dims, rain.astype("f4"), {"units": "m"})}, points | {"time": time})
    dry, heavy = random.uniform(0.05, 0.9, grid), random.uniform(0.005, 0.02, grid)
    spread = np.ones((1, 366, 1, 1))
    over = ("hour", "dayofyear", "latitude", "longitude")
    climatology = xr.Dataset(
        {f"{name}_seeps_dry_fraction": (over, dry * spread), f"{name}_seeps_threshold": (over, heavy * spread)},
        points | {"hour": [0], "dayofyear": np.arange(1, 367)},
    )
    said = np.roll(rain, 1, axis=0)[:15].astype("f4")
    forecast = xr.Dataset(
        {name: (("time", "prediction_timedelta", *dims[1:]), said[:, None], {"units": "m"})},
        points | {"time": time[:15], "prediction_timedelta": np.array([24 * 3600 * 10**9], "m8[ns]")},
    )
    scores = score({"m": forecast}, truth, climatology=climatology, progress=False).sel(region="global", lead_time=24)
    errors = weights = 0.0
    area = weather.GRID.area_weights
    was = rain[1:16].astype("f4")
    for case, row, column in np.ndindex(*said.shape):
        p = dry[row, column]
        if not 0.1 <= p <= 0.85:
            continue
        matrix = 0.5 * np.array(
            [[0, 1 / (1 - p), 4 / (1 - p)], [1 / p, 0, 3 / (1 - p)], [1 / p + 3 / (2 + p), 3 / (2 + p), 0]]
        )
        ours, theirs = (
            0 if value <= 0.00025 else 1 if value < heavy[row, column] else 2
            for value in (said[case, row, column], was[case, row, column])
        )
        errors, weights = errors + area[row] * matrix[ours, theirs], weights + area[row]
    assert scores.seeps.sel(forecast="m", channel=name).item() == pytest.approx(errors / weights, rel=1e-9)
    assert (scores.seeps_low < scores.seeps).all()


def test_what_cannot_be_asked_of_events_is_refused_in_one_sentence(weather: ModuleType) -> None:
    model = {"m": weather.forecasts("model", slice(2, 6))}
    for error, message, options in (
        (RecipeError, "neither the truth nor the climatology is one", {"quantiles": [0.9]}),
        (RecipeError, "the quantile 90 is no probability between 0 and 1", {"quantiles": [90]}),
        (RecipeError, "a window of 4 points cannot be laid", {"thresholds": {CHANNEL: [270]}, "windows": [4]}),
        (RecipeError, "windows are the neighbourhoods of events; give thresholds or quantiles", {"windows": [5]}),
        (ChannelError, "did you mean", {"thresholds": {"temperatur_850": [270]}}),
    ):
        with pytest.raises(error, match=message):
            score(model, weather.truth(), progress=False, **options)  # type: ignore[arg-type]
