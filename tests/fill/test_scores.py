"""Filled fields scored: against loops written out, laws of scores, and what must be refused."""

import re
from collections import defaultdict
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from numpy.testing import assert_allclose

from etesian.core.errors import DataError, GridError
from etesian.fill import plots
from etesian.fill.pairs import FilledPairs
from etesian.fill.report import filled_summary, render, tidy
from etesian.fill.scores import score_filled
from etesian.scores.tables import verdicts

LATITUDE, LONGITUDE = np.linspace(30, 37.6, 20), np.linspace(5, 14.2, 24)
AREA = np.diff(np.sin(np.radians(np.linspace(29.8, 37.8, 21))))[:, None] * np.ones(24)
NAME = "sea_surface_temperature"


def dataset(values: np.ndarray, time: object, **more: np.ndarray) -> xr.Dataset:
    """Return fields in canonical form, a corner of which is land."""
    land = np.zeros((20, 24), np.float32)
    land[:4, :3] = 1
    dims = ("time", "latitude", "longitude")
    variables = {NAME: (dims, np.where(land, np.nan, values), {"units": "K"})}
    variables |= {f"{NAME}_{key}": (dims, np.where(land, np.nan, field), {"units": "K"}) for key, field in more.items()}
    coordinates = {"time": time, "latitude": LATITUDE, "longitude": LONGITUDE}
    return xr.Dataset(variables, coordinates).assign(land_sea_mask=(dims[1:], land))


@pytest.fixture(scope="module")
def world() -> dict[str, xr.Dataset]:
    """January and February: truth, gappy observations, a filled field with an honest deviation, and a worse one."""
    random = np.random.default_rng(0)
    time = pd.date_range("2001-01-01", "2001-02-28")
    truth = 290 + random.standard_normal((59, 20, 24)).cumsum(1) * 0.3
    clouds = random.random((59, 5, 6)).repeat(4, 1).repeat(4, 2) < np.linspace(0.2, 0.9, 59)[:, None, None]
    spread = random.uniform(0.1, 0.6, truth.shape)
    ours = truth + spread * random.standard_normal(truth.shape)
    worse = truth + 0.5 + random.standard_normal(truth.shape)
    return {
        "truth": dataset(truth, time),
        "observed": dataset(np.where(clouds, np.nan, truth), time),
        "ours": dataset(ours, time, standard_deviation=spread),
        "worse": dataset(worse, time),
    }


@pytest.fixture(scope="module")
def scored(world: dict[str, xr.Dataset], tmp_path_factory: pytest.TempPathFactory) -> tuple[xr.Dataset, Path]:
    out = tmp_path_factory.mktemp("gapfill") / "scores"
    filled = {"ours": world["ours"], "worse": world["worse"]}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plots, "_FRAMES", 3)
        return score_filled(filled, world["truth"], world["observed"], out=out, progress=False), out


def test_errors_in_gaps_are_those_of_a_mean_over_area_and_all_gaps(
    world: dict[str, xr.Dataset], scored: tuple[xr.Dataset, Path]
) -> None:
    truth, observed = world["truth"][NAME].values, world["observed"][NAME].values
    for where, use in (
        ("gaps", np.isfinite(truth) & np.isnan(observed)),
        ("observed", np.isfinite(observed)),
        ("all", np.isfinite(truth)),
    ):
        weight = np.broadcast_to(AREA, truth.shape)[use]
        filled = world["worse"][NAME].values[use]
        error = filled - truth[use]
        found = scored[0].sel(forecast="worse", channel=NAME, region=where)
        assert_allclose(found.rmse, np.sqrt(np.average(error**2, weights=weight)))
        assert_allclose(found.bias, np.average(error, weights=weight))
        assert_allclose(found.mae, np.average(np.abs(error), weights=weight))
        assert int(found.points) == use.sum()
        cov = np.cov(filled, truth[use], aweights=weight)
        assert_allclose(found.correlation, cov[0, 1] / np.sqrt(cov[0, 0] * cov[1, 1]), rtol=1e-9)
    low, high = (float(scored[0][name].sel(forecast="worse", region="gaps")[0]) for name in ("rmse_low", "rmse_high"))
    assert low < float(scored[0].rmse.sel(forecast="worse", region="gaps")[0]) < high


def test_every_score_has_an_interval_and_a_verdict_says_how_sure_it_is(
    world: dict[str, xr.Dataset], scored: tuple[xr.Dataset, Path]
) -> None:
    scores = scored[0].sel(channel=NAME)
    for name in ("mae", "correlation", "crps", "coverage_90", "spread"):
        found = scores.sel(forecast="ours")
        assert (found[f"{name}_low"] < found[name]).all(), name
        assert (found[name] < found[f"{name}_high"]).all(), name
    assert scores.reference.values.tolist() == ["worse"]
    ratio = scores.rmse.sel(forecast="ours") / scores.rmse.sel(forecast="worse")
    assert_allclose(scores.skill.sel(forecast="ours", reference="worse"), 1 - ratio)
    assert verdicts(scored[0], [NAME])[0].endswith("points without an observation, with 95 % confidence).")
    months = world["truth"].resample(time="MS").mean().assign(land_sea_mask=world["truth"].land_sea_mask)
    months[NAME].attrs["units"] = "K"
    both = {"near": months.assign({NAME: months[NAME] + 0.1}), "far": months.assign({NAME: months[NAME] + 0.2})}
    for each in both.values():
        each[NAME].attrs["units"] = "K"
    two = score_filled(both, world["truth"], world["observed"], references=["near"], progress=False)
    assert np.isnan(two.rmse_low).all()
    (said,) = verdicts(two, [NAME])
    assert said == (
        "Sea surface temperature: far does not beat near (RMSE 0.200 against 0.100, all points, too few times to tell "
        "how certain)."
    )


def test_bins_hold_every_gap_once_and_their_squares_add_up(scored: tuple[xr.Dataset, Path]) -> None:
    scores = scored[0].sel(forecast="ours", channel=NAME)
    gaps = int(scores.points.sel(region="gaps"))
    for binning in ("observations", "cloud_share", "deviation"):
        assert int(scores[f"points_by_{binning}"].sum()) == gaps, binning
    distance = scores.points_by_distance
    assert int(distance[0]) == int(scores.points.sel(region="observed"))
    assert int(distance.sum()) == int(scores.points.sel(region="all"))


def test_distance_is_that_to_the_nearest_observed_point_on_the_sphere(world: dict[str, xr.Dataset]) -> None:
    observed = world["observed"].isel(time=[40]).copy(deep=True)
    observed[NAME][:] = np.nan
    observed[NAME][0, 10, 12] = 290.0
    truth = world["truth"].isel(time=[40])
    found = score_filled({"ours": world["ours"]}, truth, observed, progress=False).points_by_distance
    phi, lam = np.radians(LATITUDE)[:, None], np.radians(LONGITUDE)
    cosine = np.sin(phi) * np.sin(phi[10]) + np.cos(phi) * np.cos(phi[10]) * np.cos(lam - lam[12])
    distance = 6371.229 * np.arccos(np.clip(cosine, -1, 1))
    sea = world["truth"].land_sea_mask.values < 0.5
    spacing = 6371.229 * np.radians(0.4)
    expected = np.histogram(distance[sea], [-1, 1, *(spacing * np.array([3.5, 6.5, 12.5, 24.5, 48.5, 1e3]))])[0]
    assert found.values.ravel().tolist() == expected.tolist()


def test_an_honest_deviation_is_found_honest_and_half_of_it_too_small(
    world: dict[str, xr.Dataset], scored: tuple[xr.Dataset, Path]
) -> None:
    honest = scored[0].sel(forecast="ours", channel=NAME, region="gaps")
    assert_allclose(honest.spread / honest.rmse_where_spread, 1, atol=0.03)
    assert_allclose([honest.coverage_50, honest.coverage_90], [0.5, 0.9], atol=0.02)
    assert_allclose(scored[0].pit.sel(forecast="ours"), 0.05, atol=0.01)
    by_deviation = scored[0].sel(forecast="ours", channel=NAME)
    full = by_deviation.points_by_deviation.values > 500
    ratio = (by_deviation.rmse_where_spread_by_deviation / by_deviation.spread_by_deviation).values[full]
    assert_allclose(ratio, 1, atol=0.1)
    overconfident = world["ours"].copy()
    overconfident[f"{NAME}_standard_deviation"] = overconfident[f"{NAME}_standard_deviation"] / 2
    found = score_filled({"half": overconfident}, world["truth"], world["observed"], progress=False)
    assert found.coverage_90.sel(region="gaps").item() < 0.65
    assert found.log_score.sel(region="gaps").item() > float(honest.log_score) + 0.5
    assert found.crps.sel(region="gaps").item() > float(honest.crps)


def test_months_are_scored_by_the_mean_of_the_true_days(world: dict[str, xr.Dataset]) -> None:
    months = world["truth"].resample(time="MS").mean()
    months = months.assign(land_sea_mask=world["truth"].land_sea_mask)
    months[NAME] = months[NAME] + 0.25
    months[NAME].attrs["units"] = "K"
    scores = score_filled({"shifted": months}, world["truth"], world["observed"], progress=False)
    assert scores.attrs["target"] == "monthly means"
    assert_allclose(scores.bias.sel(region="all"), 0.25, atol=1e-9)
    assert_allclose(scores.rmse.sel(region="all"), 0.25, atol=1e-9)
    assert scores.time.size == 2
    share = world["observed"][NAME].isnull().where(world["truth"].land_sea_mask < 0.5)
    assert_allclose(scores.cloud_share_of_time, share.groupby("time.month").mean(...), atol=1e-9)


def test_only_points_that_all_have_are_scored_and_what_one_lacks_is_counted(world: dict[str, xr.Dataset]) -> None:
    holes = world["worse"].copy(deep=True)
    holes[NAME][3, 10:12, 10:12] = np.nan
    scores = score_filled({"ours": world["ours"], "holes": holes}, world["truth"], world["observed"], progress=False)
    assert scores.missing_forecast.values.ravel().tolist() == [0, 4]
    points = scores.points.sel(region="all").values.ravel()
    assert points[0] == points[1] == 59 * (480 - 12) - 4


def test_fields_on_levels_are_scored_against_those_that_are_called_by_them(world: dict[str, xr.Dataset]) -> None:
    filled = world["worse"].rename({NAME: "temperature_500"})
    truth, observed = (
        world[name].assign({"temperature": world[name][NAME].expand_dims(level=[500], axis=1)}).drop_vars(NAME)
        for name in ("truth", "observed")
    )
    scores = score_filled({"worse": filled}, truth, observed, progress=False)
    assert scores.units.item() == "K"
    alike = score_filled({"worse": world["worse"]}, world["truth"], world["observed"], progress=False)
    assert_allclose(scores.rmse, alike.rmse)


def test_withheld_observations_are_the_truth_of_what_was_given(world: dict[str, xr.Dataset]) -> None:
    given = world["observed"].copy(deep=True)
    given[NAME][5] = np.nan
    scores = score_filled({"ours": world["ours"]}, world["observed"], given, progress=False)
    assert scores.points.sel(region="gaps").item() == int(world["observed"][NAME][5].notnull().sum())


def test_the_spectrum_of_a_field_that_is_too_smooth_lies_below_the_truth_at_small_scales() -> None:
    random = np.random.default_rng(1)
    truth = random.standard_normal((2, 20, 24))
    smooth = (truth + np.roll(truth, 1, 2) + np.roll(truth, -1, 2)) / 3
    time = pd.date_range("2001-01-01", periods=2)
    bare = [dataset(values, time).drop_vars("land_sea_mask") for values in (truth, smooth, truth)]
    scores = score_filled({"smooth": bare[1]}, bare[0], bare[2], progress=False)
    ratio = (scores.power.sel(spectrum_of="smooth") / scores.power.sel(spectrum_of="truth")).values
    assert ratio[-1] < 0.6 < ratio[0] < 1.3


def test_spectra_of_a_few_days_have_paired_intervals_and_rows_of_their_own() -> None:
    random = np.random.default_rng(1)
    truth = random.standard_normal((8, 20, 24))
    time = pd.date_range("2001-01-01", periods=8)
    bare = [dataset(values, time).drop_vars("land_sea_mask") for values in (truth, truth / 2)]
    scores = score_filled({"half": bare[1]}, bare[0], bare[0], progress=False).sel(channel=NAME)
    half = scores.sel(spectrum_of="half")
    np.testing.assert_allclose(half.spectral_ratio_low, 0.25, rtol=1e-5)
    np.testing.assert_allclose(half.spectral_ratio_high, 0.25, rtol=1e-5)
    assert (half.power_low < half.power).all()
    assert (half.power < half.power_high).all()
    table = tidy(score_filled({"half": bare[1]}, bare[0], bare[0], progress=False))
    rows = table.query("score == 'spectral_ratio' and forecast == 'half'")
    assert len(rows) == scores.wavenumber.size
    np.testing.assert_allclose(rows.value, 0.25, rtol=1e-5)


def test_the_report_stands_alone_and_names_who_wins(scored: tuple[xr.Dataset, Path]) -> None:
    scores, folder = scored
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert not re.findall(r"(?:src|href)\s*=\s*['\"](?!data:image/)", page)
    assert verdicts(scores, [NAME])[0].startswith("Sea surface temperature: ours beats worse (RMSE ")
    assert verdicts(scores, [NAME])[0] in page
    assert (folder / "film.gif").read_bytes()[:6] == b"GIF89a"
    pictures = {path.name for path in folder.glob("*.png")}
    kinds = ("fields", "models", "errors", "bins", "reliability")
    assert pictures == {*(f"{kind}_{NAME}.png" for kind in kinds), "spectra.png", "days.png"}
    table = pd.read_csv(folder / "scores.csv")
    row = table.query("forecast == 'ours' and binning == 'region' and bin == 'gaps' and score == 'rmse'")
    assert_allclose(row["value"].item(), scores.rmse.sel(forecast="ours", region="gaps").item())


def test_what_cannot_be_scored_is_said_in_a_sentence(world: dict[str, xr.Dataset], tmp_path: Path) -> None:
    truth, observed, ours = world["truth"], world["observed"], world["ours"]
    forecast = ours.expand_dims(prediction_timedelta=[np.timedelta64(1, "D")], axis=1)
    with pytest.raises(DataError, match=r"holds forecasts, with lead times .* evaluate it without --observed"):
        score_filled({"ours": forecast}, truth, observed)
    with pytest.raises(DataError, match="there is no"):
        score_filled({"ours": tmp_path / "nothing.zarr"}, truth, observed)
    with pytest.raises(GridError, match="is on the grid"):
        score_filled({"ours": ours.isel(latitude=slice(1, None))}, truth, observed)
    late = ours.assign_coords(time=pd.date_range("2005-01-01", periods=59))
    with pytest.raises(DataError, match=r"have no time in common: .* 2005-01-01 to 2005-02-28"):
        score_filled({"ours": late}, truth, observed)
    monthly = ours.isel(time=[0, 31])
    with pytest.raises(DataError, match=r"monthly means, .* holds single times|holds monthly means"):
        score_filled({"months": monthly, "ours": ours}, truth, observed)
    with pytest.raises(DataError, match="a truth with gaps has no means over months"):
        score_filled({"months": monthly}, observed.where(observed.time.dt.day > 3), observed, progress=False)


@pytest.fixture(scope="module")
def drawn(world: dict[str, xr.Dataset]) -> dict[str, np.ndarray]:
    """Members and a truth that are equally likely, errors of which are alike all over a day and within blocks."""
    random = np.random.default_rng(4)
    alike = 0.5 * random.standard_normal((9, 59, 1, 1)) + random.standard_normal((9, 59, 4, 4)).repeat(5, 2).repeat(
        6, 3
    )
    return {"truth": world["truth"][NAME].values + alike[0], "members": world["truth"][NAME].values + alike[1:]}


def ensemble(members: np.ndarray) -> xr.Dataset:
    time = pd.date_range("2001-01-01", periods=59)
    stack = xr.concat([dataset(member, time) for member in members], "number").transpose("time", "number", ...)
    return stack.assign_coords(number=np.arange(len(members))).drop_vars("land_sea_mask")


@pytest.fixture(scope="module")
def scored_members(world: dict[str, xr.Dataset], drawn: dict[str, np.ndarray]) -> tuple[xr.Dataset, FilledPairs]:
    mean, deviation = drawn["members"].mean(0), drawn["members"].std(0, ddof=1)
    filled = {
        "members": ensemble(drawn["members"]),
        "gaussian": dataset(mean, world["truth"].time.values, standard_deviation=deviation),
    }
    truth = dataset(drawn["truth"], world["truth"].time.values)
    return score_filled(filled, truth, world["observed"], progress=False), FilledPairs(filled, truth, world["observed"])


def test_members_have_the_fair_score_their_spread_and_coverage_written_out(
    world: dict[str, xr.Dataset], drawn: dict[str, np.ndarray], scored_members: tuple[xr.Dataset, FilledPairs]
) -> None:
    use = np.isfinite(drawn["truth"]) & np.isnan(world["observed"][NAME].values)
    weight, truth = np.broadcast_to(AREA, use.shape)[use], drawn["truth"][use]
    members = drawn["members"][:, use]
    apart = np.abs(members[:, None] - members).sum((0, 1)) / (8 * 7) / 2
    found = scored_members[0].sel(channel=NAME, region="gaps", forecast="members")
    assert_allclose(found.crps, np.average(np.abs(members - truth).mean(0) - apart, weights=weight))
    assert_allclose(found.rmse, np.sqrt(np.average((members.mean(0) - truth) ** 2, weights=weight)))
    assert_allclose(found.spread, np.sqrt(np.average(members.var(0, ddof=1) * 9 / 8, weights=weight)))
    assert_allclose(found.spread / found.rmse_where_spread, 1, atol=0.05)
    assert_allclose(found.coverage_50, 0.5, atol=0.03)
    assert np.isnan(found.coverage_90)
    assert np.isnan(found.log_score)
    rank = (members < truth).sum(0)
    share = np.bincount(rank, weight) / weight.sum()
    assert_allclose(scored_members[0].rank_frequency.sel(forecast="members", channel=NAME), share)
    assert_allclose(share, 1 / 9, atol=0.03)
    assert float(scored_members[0].rank_p_value.sel(forecast="members", channel=NAME)) > 0.001
    assert np.isnan(scored_members[0].rank_frequency.sel(forecast="gaussian")).all()
    assert int(scored_members[0].points_by_deviation.sel(forecast="members", channel=NAME).sum()) == use.sum()


def test_members_tell_the_error_of_means_and_independent_deviations_do_not(
    drawn: dict[str, np.ndarray], scored_members: tuple[xr.Dataset, FilledPairs]
) -> None:
    scores = scored_members[0].sel(channel=NAME)
    sea = np.isfinite(drawn["truth"][0])
    weight = AREA[sea] / AREA[sea].sum()
    over_area = drawn["members"][..., sea] @ weight
    wrong = over_area.mean(0) - drawn["truth"][:, sea] @ weight
    found = scores.sel(forecast="members")
    assert_allclose(found.rmse_of_area_mean, np.sqrt(np.mean(wrong**2)))
    assert_allclose(found.spread_of_area_mean, np.sqrt(np.mean(over_area.var(0, ddof=1)) * 9 / 8))
    assert_allclose(found.spread_skill_of_area_mean, found.spread_of_area_mean / found.rmse_of_area_mean)
    assert float(found.spread_skill_of_area_mean) == pytest.approx(1, abs=0.2)
    months = [slice(0, 31), slice(31, 59)]
    over_month = np.stack([drawn["members"][:, month][..., sea].mean(1) for month in months])
    wrong = over_month.mean(1) - np.stack([drawn["truth"][month][:, sea].mean(0) for month in months])
    assert_allclose(found.rmse_of_month_mean, np.sqrt((wrong**2 @ weight).mean()))
    assert_allclose(found.spread_of_month_mean, np.sqrt((over_month.var(1, ddof=1) @ weight).mean() * 9 / 8))
    # The same means, and as if errors were independent.
    alone, variance = scores.sel(forecast="gaussian"), drawn["members"].var(0, ddof=1)[:, sea]
    assert_allclose(alone.rmse_of_area_mean, found.rmse_of_area_mean)
    assert_allclose(alone.spread_of_area_mean, np.sqrt((variance @ weight**2).mean()))
    assert float(alone.spread_skill_of_area_mean) < 0.2
    each = [variance[month].sum(0) / (month.stop - month.start) ** 2 for month in months]
    assert_allclose(alone.spread_of_month_mean, np.sqrt((np.stack(each) @ weight).mean()))


def test_of_means_only_those_with_a_point_without_a_deviation_state_none(world: dict[str, xr.Dataset]) -> None:
    ours, name = world["ours"].copy(deep=True), f"{NAME}_standard_deviation"
    ours[name][3, 10, 12] = np.nan
    found = score_filled({"ours": ours}, world["truth"], world["observed"], progress=False).sel(channel=NAME)
    sea = np.isfinite(world["truth"][NAME].values[0])
    variance, weight = ours[name].values[:, sea] ** 2, AREA[sea] / AREA[sea].sum()
    assert_allclose(found.spread_of_area_mean, np.sqrt(np.nanmean(variance @ weight**2)))
    over_month = np.stack([variance[:31].sum(0) / 31**2, variance[31:].sum(0) / 28**2])
    stated = np.isfinite(over_month)
    assert stated.sum() == stated.size - 1
    expected = np.average(over_month[stated], weights=np.broadcast_to(weight, stated.shape)[stated])
    assert_allclose(found.spread_of_month_mean, np.sqrt(expected))


def test_the_report_shows_members_and_the_errors_of_means(scored_members: tuple[xr.Dataset, FilledPairs]) -> None:
    scores, pairs = scored_members
    page = render(scores, defaultdict(bytes, {f"members_{NAME}": b"members"}))
    plain = scores.assign(units=scores.units.where(False, "1"))
    assert next(filled_summary(plain).columns[0].cells) == scores.channel[0]
    assert "Members beside their mean and the truth" in page
    assert "spread / RMSE of month means" in page
    figure = plots.members(pairs, pairs.channels[0], pairs.case(3, pairs.channels[0]), "2001-01-04")
    titles = [axes.get_title("left") for axes in figure.axes[:6]]
    assert titles == ["Truth, 2001-01-04", "Mean of 8", *(f"Member {number}" for number in range(4))]
    plots.reliability(scores.sel(channel=NAME))
    rows = tidy(scores).query("forecast == 'members' and binning == 'area_mean'")
    assert rows.score.tolist() == ["rmse", "spread", "spread_skill"]
    assert (rows.low < rows.value).all()


def test_months_have_no_means_and_one_member_is_a_field(
    world: dict[str, xr.Dataset], drawn: dict[str, np.ndarray]
) -> None:
    one = score_filled({"one": ensemble(drawn["members"][:1])}, world["truth"], world["observed"], progress=False)
    same = dataset(drawn["members"][0], world["truth"].time.values)
    plain = score_filled({"one": same}, world["truth"], world["observed"], progress=False)
    assert_allclose(one.rmse, plain.rmse, rtol=1e-6)
    assert "rank_frequency" not in one
    assert np.isnan(one.crps).all()
    assert np.isnan(one.spread_of_area_mean).all()
