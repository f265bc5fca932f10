"""Which cases are scored, what is counted, and how certain the verdict is."""

from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import xarray as xr
from numpy.testing import assert_allclose

from etesian.core.errors import ChannelError, DataError, GridError, RecipeError
from etesian.core.grid import Region
from etesian.scores import pairs
from etesian.scores.region import part_of
from etesian.scores.score import score
from etesian.scores.series import MeanSeries, StoreSeries, open_truth
from etesian.store.prepare import prepare_dataset

Evaluated = tuple[xr.Dataset, Path]


def test_every_forecast_is_scored_over_the_same_points_and_holes_are_counted(evaluated: Evaluated) -> None:
    scores = evaluated[0].sel(channel="temperature_500", region="global")
    assert scores.missing_forecast.sel(forecast="model").values.tolist() == [0, 32, 0, 0]
    assert scores.missing_forecast.sel(forecast="persistence").sum() == 0
    assert (scores.points == scores.points.isel(forecast=0)).all()
    assert scores.points.sel(forecast="climatology", lead_time=48) == 57 * 16 * 32 - 32


def test_leads_beyond_the_truth_are_dropped_and_counted(evaluated: Evaluated) -> None:
    scores = evaluated[0]
    assert scores.unverified_initial_times.values.tolist() == [0, 0, 0, 2]
    assert (
        scores.points.sel(forecast="model", lead_time=120, channel="geopotential_500", region="global") == 55 * 16 * 32
    )


def test_a_climatology_has_no_anomaly_and_constant_error(evaluated: Evaluated, weather: ModuleType) -> None:
    scores = evaluated[0].sel(forecast="climatology", region="global", channel="geopotential_500")
    assert_allclose(scores.activity, 0, atol=1e-6)
    assert_allclose(scores.rmse, weather.SIZE["geopotential"], rtol=0.1)


def test_the_best_model_of_such_weather_beats_both_references_with_confidence(evaluated: Evaluated) -> None:
    skill = evaluated[0].sel(forecast="model", region="global", channel="geopotential_500")
    assert (skill.skill_low.sel(lead_time=[24, 48, 72]) > 0).all()
    expected = 1 - np.sqrt((1 - 0.8**2) / (2 * (1 - 0.8)))
    assert skill.skill.sel(reference="persistence", lead_time=24) == pytest.approx(expected, abs=0.3)
    assert (skill.skill_low < skill.skill).all()
    assert (skill.skill < skill.skill_high).all()


def test_the_piece_size_changes_no_score(
    forecasts: dict[str, xr.Dataset], weather: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    def scores() -> xr.Dataset:
        return score(
            {"model": forecasts["model"].isel(time=slice(0, 12))},
            weather.truth(),
            climatology=weather.climatology(),
            progress=False,
        )

    whole = scores()
    for size in (1, 60_000):
        monkeypatch.setattr(pairs, "CHUNK_BYTES", size)
        xr.testing.assert_allclose(scores(), whole, rtol=1e-13)


def test_initial_times_that_not_all_forecasts_have_are_left_out_and_named(
    forecasts: dict[str, xr.Dataset], weather: ModuleType
) -> None:
    fewer = {"model": forecasts["model"], "persistence": forecasts["persistence"].isel(time=slice(5, 20))}
    scores = score(fewer, weather.truth(), channels=["geopotential_500"], progress=False)
    assert scores.initial_time.size == 15
    assert scores.attrs["dropped_initial_times"] == "42 of model"


def test_files_are_read_like_datasets(forecasts: dict[str, xr.Dataset], weather: ModuleType, tmp_path: Path) -> None:
    few = forecasts["model"].isel(time=slice(0, 5))
    few.to_zarr(tmp_path / "forecast.zarr")
    weather.truth().to_netcdf(tmp_path / "truth.nc")
    read = score({"model": tmp_path / "forecast.zarr"}, tmp_path / "truth.nc", progress=False)
    given = score({"model": few}, weather.truth(), progress=False)
    assert_allclose(read.rmse.sel(channel="temperature_850"), given.rmse.sel(channel="temperature_850"), rtol=1e-12)
    assert np.isnan(read.acc).all()


def test_a_training_store_is_truth_and_climatology_at_once(weather: ModuleType, tmp_path: Path) -> None:
    truth, store = weather.truth(400), tmp_path / "store.zarr"
    prepare_dataset(truth, store)
    model = weather.forecasts("model", slice(2, 9), times=400)
    scores = score({"model": model}, store, progress=False)
    with xr.open_zarr(store) as stored:
        climatology = stored[["climatology"]].load()
    given = score({"model": model}, truth, climatology=climatology, progress=False)
    assert_allclose(scores.rmse, given.rmse, rtol=1e-6)
    assert_allclose(scores.acc, given.acc, rtol=1e-6)
    assert 0.5 < scores.acc.sel(channel="geopotential_500", region="global", lead_time=24).item() < 1


def test_a_regional_forecast_is_scored_within_a_truth_of_the_globe(
    weather: ModuleType, forecasts: dict[str, xr.Dataset], tmp_path: Path
) -> None:
    truth, store = weather.truth(400), tmp_path / "store.zarr"
    prepare_dataset(truth, store)
    few = {name: forecasts[name].isel(time=slice(2, 9)) for name in ("model", "persistence")}

    def cut(data: xr.Dataset) -> xr.Dataset:
        # Across the seam, with longitudes east of 360 as a run of such a region writes them.
        part = data.isel(latitude=slice(4, 10), longitude=[29, 30, 31, 0, 1, 2])
        return part.assign_coords(longitude=np.where(part.longitude < 180, part.longitude + 360, part.longitude))

    own = score({"model": cut(few["model"]), "persistence": few["persistence"]}, store, progress=False)
    with xr.open_zarr(store) as stored:
        climatology = cut(stored[["climatology"]].load())
    expected = score(
        {name: cut(each) for name, each in few.items()}, cut(truth), climatology=climatology, progress=False
    )
    assert own.sizes["latitude"] == own.sizes["longitude"] == 6
    for name in ("rmse", "bias", "acc", "points", "rmse_map"):
        assert_allclose(own[name], expected[name], rtol=1e-5, atol=1e-5, err_msg=name)
    asked = {"quantiles": [0.9], "headline": ["geopotential_500"], "regions": ["-30,10,330,20"], "progress": False}
    events, whole = (score({"model": each}, store, **asked) for each in (cut(few["model"]), few["model"]))
    assert float(whole.brier_score.min()) > 0
    assert_allclose(events.brier_score, whole.brier_score, rtol=1e-6)


def test_of_a_store_that_holds_a_region_one_map_is_read_at_once(
    weather: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare_dataset(weather.truth(9), tmp_path / "store.zarr")
    whole, read, asked = open_truth(tmp_path / "store.zarr"), StoreSeries.read, []
    grid, channels, times = whole.grid.crop(Region(-30, 40, 330, 30)), whole.channels[:2], np.array([1, 4, 7])
    rows, columns = whole.grid.locate(grid)
    expected = whole.read(channels, time=times)[..., rows[:, None], columns]
    monkeypatch.setattr(
        StoreSeries, "read", lambda self, some, time: asked.append(len(time)) or read(self, some, time=time)
    )
    np.testing.assert_array_equal(part_of(whole, grid).read(channels, time=times), expected)
    assert asked == [1, 1, 1]
    for series in (whole, MeanSeries(whole, 24), open_truth(weather.truth(9))):
        assert part_of(series, grid).read(channels, time=times[:0]).shape == (0, 2, *grid.shape)


def test_what_cannot_be_scored_is_refused_in_one_sentence(
    forecasts: dict[str, xr.Dataset], weather: ModuleType, tmp_path: Path
) -> None:
    model, truth = forecasts["model"], weather.truth()
    cases = [
        (DataError, "covers 2020-12-01", {"m": model}, truth.isel(time=slice(0, 1))),
        (GridError, "bring the truth to the forecasts' grid", {"m": model}, truth.isel(latitude=slice(0, 8))),
        (DataError, "WeatherBench 2's layout", {"m": truth}, truth),
        (DataError, "there is no '.*nowhere.zarr'", {"m": tmp_path / "nowhere.zarr"}, truth),
        (DataError, "a dimension 'scenario' of length 2", {"m": model.expand_dims(scenario=2)}, truth),
        (ChannelError, "no channel in common", {"m": model[["geopotential"]]}, truth.drop_vars("geopotential")),
    ]
    for error, message, given, against in cases:
        with pytest.raises(error, match=message):
            score(given, against, progress=False)
    with pytest.raises(DataError, match=r"no lead of 12 h; its leads are 24, 48, 72, 120 h"):
        score({"m": model}, truth, leads=[12], progress=False)
    with pytest.raises(RecipeError, match="did you mean 'persistence'"):
        score({"persistence": model}, truth, references=("persistance",), progress=False)
    furlongs = model.copy()
    furlongs["temperature"] = model.temperature.assign_attrs(units="furlong")
    with pytest.raises(DataError, match="'temperature' is in furlong, and in the truth it is in K; convert it"):
        score({"m": furlongs}, truth, progress=False)
    void = xr.full_like(model, np.nan)
    with pytest.raises(DataError, match="forecast 'void' holds no number where the truth has one"):
        score({"m": model, "void": void}, truth, progress=False)
    with pytest.raises(DataError, match="the truth holds no number at the times and points"):
        score({"m": model}, xr.full_like(truth, np.nan), progress=False)
    with pytest.raises(DataError, match="no map for day 337, hour 0; its hours are 12"):
        score({"m": model}, truth, climatology=weather.climatology().assign_coords(hour=[12]), progress=False)
