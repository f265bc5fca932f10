"""Spectra, semivariograms, distributions and gradients of forecasts beside the truth."""

from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from numpy.testing import assert_allclose

from etesian.core import Grid
from etesian.core.errors import RecipeError
from etesian.scores import pairs
from etesian.scores.registry import half_width
from etesian.scores.score import score
from etesian.scores.structure import nearest_points
from etesian.scores.tables import smoothness, tidy
from etesian.store.derive import truncate

GRID = Grid.equiangular(5.625)
CASES, LEADS = 6, 2


def weather(grid: Grid = GRID, times: int = CASES + 1, seed: int = 0) -> xr.Dataset:
    rng = np.random.default_rng(seed)
    shape = (times, 1, *grid.shape)
    names = ("temperature", "u_component_of_wind", "v_component_of_wind")
    day = np.datetime64("2020-01-01", "ns") + np.arange(times) * np.timedelta64(1, "D")
    fields = {
        name: (("time", "level", "latitude", "longitude"), mean + rng.normal(size=shape), {"levels": [500]})
        for name, mean in zip(names, (280.0, 0.0, 0.0), strict=True)
    }
    coords = {"time": day, "level": [500], "latitude": grid.latitude, "longitude": grid.longitude}
    smooth = xr.Dataset(fields, coords)
    return smooth.map(lambda field: truncate(field, 12), keep_attrs=True) if grid.is_periodic else smooth


def forecast_of(truth: xr.Dataset, change: object = lambda fields: fields) -> xr.Dataset:
    days = np.arange(1, LEADS)
    leads = [
        truth.shift(time=0).isel(time=slice(day, day + CASES)).assign_coords(time=truth.time[:CASES]) for day in days
    ]
    made = xr.concat(leads, "prediction_timedelta").assign_coords(
        prediction_timedelta=(days * np.timedelta64(1, "D")).astype("timedelta64[ns]")
    )
    return change(made).transpose("time", "prediction_timedelta", "level", "latitude", "longitude")


def structure(truth: xr.Dataset, **forecasts: xr.Dataset) -> xr.Dataset:
    return score(forecasts, truth, structure=True, progress=False)


def test_a_forecast_of_half_the_anomaly_has_a_quarter_of_the_power_and_of_the_semivariance() -> None:
    truth = weather()
    scores = structure(truth, half=forecast_of(truth, lambda fields: 280 + (fields - 280) / 2))
    part = scores.sel(spectrum_of="temperature_500", wavenumber=slice(1, 12)).isel(map_lead_time=0)
    assert_allclose(part.spectrum.sel(series="half"), part.spectrum.sel(series="truth") / 4, rtol=1e-3)
    part = scores.sel(map_channel="temperature_500").isel(map_lead_time=0)
    assert_allclose(part.semivariance.sel(series="half"), part.semivariance.sel(series="truth") / 4, rtol=1e-3)
    gradient = part.moment.sel(statistic="mean gradient")
    assert_allclose(gradient.sel(series="half"), gradient.sel(series="truth") / 2, rtol=1e-3)


def test_the_spectrum_adds_up_to_the_mean_square_and_kinetic_energy_to_that_of_the_winds() -> None:
    truth = weather()
    scores = structure(truth, same=forecast_of(truth))
    total = scores.spectrum.isel(map_lead_time=0).sel(series="same").sum("wavenumber")
    part = truth.isel(time=slice(1, None), level=0)
    area = xr.DataArray(GRID.area_weights, dims="latitude")
    square = (part.temperature**2).weighted(area).mean()
    assert_allclose(total.sel(spectrum_of="temperature_500"), square, rtol=1e-6)
    wind = (part.u_component_of_wind**2 + part.v_component_of_wind**2).weighted(area).mean() / 2
    assert_allclose(total.sel(spectrum_of="kinetic_energy_500"), wind, rtol=0.02)


def test_moments_are_those_of_all_points_by_area() -> None:
    truth = weather(seed=3)
    scores = structure(truth, same=forecast_of(truth))
    values = truth.temperature.isel(time=slice(1, None), level=0).values
    weight = np.broadcast_to(GRID.area_weights[:, None], values.shape)
    mean = np.average(values, weights=weight)
    central = [np.average((values - mean) ** order, weights=weight) for order in (2, 3, 4)]
    expected = [mean, central[0] ** 0.5, central[1] / central[0] ** 1.5, central[2] / central[0] ** 2 - 3]
    found = scores.moment.isel(map_lead_time=0, statistic=slice(4)).sel(series="same", map_channel="temperature_500")
    assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def test_the_gradient_of_a_field_that_rises_northward_is_known() -> None:
    truth = weather()
    rising = truth * 0 + 280 + np.sin(np.radians(truth.latitude))
    rising.temperature.attrs = truth.temperature.attrs
    rising = rising[["temperature"]]
    scores = structure(rising, same=forecast_of(rising))
    expected = np.pi / 4 / 6.371229e6 * 1e5
    found = scores.moment.sel(statistic="mean gradient", series="truth", map_channel="temperature_500")
    assert_allclose(found, expected, rtol=5e-3)


def test_the_semivariance_of_independent_points_is_their_variance() -> None:
    rng = np.random.default_rng(0)
    truth = weather()[["temperature"]]
    noise = truth.copy(data={"temperature": rng.normal(280, 2, truth.temperature.shape)})
    scores = structure(noise, same=forecast_of(noise))
    assert_allclose(scores.semivariance.sel(series="truth", map_channel="temperature_500"), 4, rtol=0.1)
    assert np.all(np.diff(scores.distance) > 0)


def test_the_distance_of_distributions_is_the_shift_between_them() -> None:
    truth = weather()
    scores = structure(truth, warm=forecast_of(truth, lambda fields: fields + 1.5))
    assert scores.location.size == 6
    assert_allclose(scores.wasserstein.sel(forecast="warm", map_channel="temperature_500"), 1.5, rtol=1e-4)


def test_fields_with_holes_are_left_out_of_all_forecasts_alike() -> None:
    truth = weather()
    holed = forecast_of(truth).copy(deep=True)
    holed.temperature[2, 0, 0, 5, 5] = np.nan
    scores = structure(truth, whole=forecast_of(truth), holed=holed).isel(map_lead_time=0)
    cases = [1, 2, 4, 5, 6]
    kept = truth.temperature.isel(time=cases, level=0).weighted(xr.DataArray(GRID.area_weights, dims="latitude"))
    assert int(scores.complete_fields.sel(map_channel="temperature_500")) == len(cases)
    means = scores.moment.sel(map_channel="temperature_500", statistic="mean")
    assert_allclose(means, float(kept.mean()), rtol=1e-7)
    assert np.isfinite(scores.spectrum).all()


def test_nothing_depends_on_the_size_of_the_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    truth = weather()
    whole = structure(truth, same=forecast_of(truth))
    monkeypatch.setattr(pairs, "CHUNK_BYTES", 1)
    pieces = structure(truth, same=forecast_of(truth))
    for name in ("spectrum", "semivariance", "moment", "wasserstein"):
        assert_allclose(pieces[name], whole[name], rtol=1e-7, atol=1e-9)


@pytest.mark.usefixtures("no_rendering")
def test_a_region_has_everything_but_spectra(tmp_path: Path) -> None:
    region = Grid(np.arange(40, 60, 1.0), np.arange(0, 30, 1.0))
    truth = weather(region)
    scores = score({"same": forecast_of(truth)}, truth, structure=True, out=tmp_path / "out", progress=False)
    assert "spectrum" not in scores
    assert scores.location.values.tolist() == ["Berlin"]
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert "need a grid of the whole globe" in page
    assert "Semivariograms" in page


def test_the_report_shows_the_structure_of_every_model(tmp_path: Path) -> None:
    truth = weather()
    forecasts = {"same": forecast_of(truth), "half": forecast_of(truth, lambda fields: 280 + (fields - 280) / 2)}
    score(forecasts, truth, structure=True, locations=["London", "-30,150"], out=tmp_path / "out", progress=False)
    names = {path.stem for path in (tmp_path / "out").glob("*.png")}
    assert {"spectra", "semivariograms", "error_in_time", "distribution_temperature_500"} <= names
    assert "views_temperature_500" in names
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert page.count("<td class='name'>half</td>") >= 3
    with xr.open_dataset(tmp_path / "out" / "scores.nc") as stored:
        assert stored.location.values.tolist() == ["London", "-30,150"]


def test_places_are_found_on_the_grid_or_refused() -> None:
    assert nearest_points(["London"], Grid.equiangular(1.0)) == ([141], [0])
    with pytest.raises(RecipeError, match=r"'Lodnon' is neither .* did you mean 'London'"):
        nearest_points(["Lodnon"], GRID)
    with pytest.raises(RecipeError, match="Tokyo lies outside the grid"):
        nearest_points(["Tokyo"], Grid(np.arange(40, 60, 1.0), np.arange(0, 30, 1.0)))
    truth = weather()
    with pytest.raises(RecipeError, match="ask for the structure"):
        score({"same": forecast_of(truth)}, truth, locations=["London"], progress=False)


def test_intervals_of_moments_and_of_the_mean_distance_are_those_of_means_over_cases() -> None:
    truth = weather(times=40, seed=5)
    made = forecast_of(truth, lambda fields: fields + 0.5)
    scores = score({"warm": made}, truth, structure=True, progress=False).isel(map_lead_time=0)
    cases = truth.temperature.isel(time=slice(1, CASES + 1), level=0)
    means = cases.weighted(xr.DataArray(GRID.area_weights, dims="latitude")).mean(("latitude", "longitude")).values
    half = half_width(means - means.mean(), np.ones(CASES, bool))
    here = scores.sel(map_channel="temperature_500", series="truth", statistic="mean")
    assert_allclose(here.moment_high - here.moment, half, rtol=1e-4)
    assert_allclose(here.moment - here.moment_low, half, rtol=1e-4)
    # A shift moves every case by the same, so that the distance is certain.
    far = scores.sel(map_channel="temperature_500", forecast="warm")
    assert_allclose(far.wasserstein_low, 0.5, rtol=1e-4)
    assert_allclose(far.wasserstein_high, 0.5, rtol=1e-4)


def test_the_distance_of_distributions_is_that_of_their_sorted_values() -> None:
    truth = weather(seed=1)
    noisy = forecast_of(truth, lambda fields: fields + np.random.default_rng(7).normal(0, 3, fields.temperature.shape))
    scores = structure(truth, noisy=noisy).isel(map_lead_time=0).sel(map_channel="temperature_500")
    values = np.sort(scores.value_at_location.values.astype(np.float64), axis=-1)
    expected = np.abs(values[1] - values[0]).mean(-1)
    assert_allclose(scores.wasserstein.sel(forecast="noisy"), expected, rtol=1e-10)
    assert (scores.wasserstein_low < scores.wasserstein).all()
    assert (scores.wasserstein < scores.wasserstein_high).all()


def test_the_power_over_that_of_the_truth_is_paired_and_certain_where_it_never_differs() -> None:
    truth = weather()
    scores = structure(truth, half=forecast_of(truth, lambda fields: 280 + (fields - 280) / 2))
    part = scores.sel(spectrum_of="temperature_500", wavenumber=slice(1, 10), series="half").isel(map_lead_time=0)
    assert_allclose(part.spectral_ratio, 0.25, rtol=1e-3)
    assert_allclose(part.spectral_ratio_high, part.spectral_ratio, rtol=1e-3)
    assert (part.spectrum_high > 1.2 * part.spectrum).all()
    sentences = smoothness(scores.sel(wavenumber=slice(12)))
    assert any("half has less power than the truth from wavenumber" in sentence for sentence in sentences)


def test_each_number_of_structure_has_a_row_with_its_interval_and_units() -> None:
    truth = weather()
    scores = structure(truth, same=forecast_of(truth))
    table = tidy(scores)
    one = table.query("forecast == 'truth' and channel == 'kinetic_energy_500' and score == 'spectrum' and bin == 3")
    assert one.units.tolist() == ["(m s-1)2"]
    assert one.initial_times.tolist() == [CASES]
    assert one.low.item() < one.value.item() < one.high.item()
    kinds = set(table.score)
    assert {"mean", "mean_gradient", "semivariance", "spectral_ratio", "wasserstein", "rmse"} <= kinds
    assert table.query("score == 'rmse'").bin.eq("").all()
