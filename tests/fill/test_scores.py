"""Filled fields scored: against loops written out, laws of scores, and what must be refused."""

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from numpy.testing import assert_allclose

from etesian.core.errors import DataError, GridError
from etesian.fill.report import tidy
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
