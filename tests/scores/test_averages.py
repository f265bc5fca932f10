"""Means over weeks are written, judged and compared as means over weeks."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from numpy.testing import assert_allclose

from etesian.core.clock import parse_time
from etesian.core.errors import DataError, RecipeError
from etesian.core.grid import Grid
from etesian.evaluation import evaluate
from etesian.forecast.baselines import baseline_task
from etesian.forecast.run import predict_to
from etesian.samples.windows import WindowReader
from etesian.scores.score import score
from etesian.store.reader import Store

pytestmark = pytest.mark.filterwarnings("ignore::zarr.errors.ZarrUserWarning")
FIRST, HOURS, LEADS = parse_time("2001-01-05", "proleptic_gregorian"), 48, (48, 96)
INITIAL = FIRST + 86400 * np.arange(5)


def write(path: Path, store: str, name: str, average_hours: int | None = HOURS) -> str:
    reader = Store(store)
    task = baseline_task(name, reader, reader.channels, LEADS, average_hours)
    predict_to(task, reader, str(path / f"{name}.zarr"), INITIAL, LEADS, source={"baseline": name}, overwrite=True)
    return str(path / f"{name}.zarr")


def window_means(store: str, ends: Any) -> np.ndarray:
    """Means over the eight 6-hourly states up to each time."""
    fields = xr.open_zarr(store)["fields"]
    return np.stack([fields.sel(time=slice(end - np.timedelta64(42, "h"), end)).values.mean(0) for end in ends])


@pytest.fixture
def year(make_store: Any) -> str:
    return str(make_store(pd.date_range("2001-01-01", periods=1480, freq="6h")))


def test_every_variable_says_over_what_it_is_averaged_and_states_say_nothing(store: str, tmp_path: Path) -> None:
    averaged = xr.open_zarr(write(tmp_path, store, "persistence"))
    assert [array.attrs["averaging_hours"] for array in averaged.data_vars.values()] == [48, 48]
    states = xr.open_zarr(write(tmp_path, store, "persistence", None))
    assert all("averaging_hours" not in array.attrs for array in states.data_vars.values())


def test_averaged_persistence_is_the_mean_up_to_the_initial_time(store: str, tmp_path: Path) -> None:
    written = xr.open_zarr(write(tmp_path, store, "persistence"))
    expected = window_means(store, written.time.values)
    for lead in range(2):
        assert_allclose(written["temperature"][:, lead], expected[:, :2], rtol=1e-6)
        assert_allclose(written["surface_pressure"][:, lead], expected[:, 2], rtol=1e-6)


def test_averaged_persistence_is_missing_where_fewer_than_half_of_the_states_are_there(
    make_store: Any, tmp_path: Path
) -> None:
    store = make_store(gaps=0.5)
    written = xr.open_zarr(write(tmp_path, store, "persistence"))
    fields = xr.open_zarr(store)["fields"]
    for place, start in enumerate(written.time.values):
        states = fields.sel(time=slice(start - np.timedelta64(42, "h"), start))[:, :2].values
        known = np.isfinite(states).sum(0)
        expected = np.where(known >= 4, np.nansum(states, 0) / np.maximum(known, 1), np.nan)
        assert 0 < np.isnan(expected).mean() < 1
        assert_allclose(written["temperature"][place, 0], expected, rtol=1e-6)


def test_seasons_and_climatology_are_averaged_over_the_window(year: str, tmp_path: Path) -> None:
    reader = Store(year)
    for name in ("seasonal_cycle", "climatology"):
        written = xr.open_zarr(write(tmp_path, year, name))
        task = baseline_task(name, reader, reader.channels, LEADS)
        batch = WindowReader(reader, task.layout).start(INITIAL)
        means = []
        for lead in LEADS:
            frames = [
                type(batch.inputs.frame)(
                    reader.channels, batch.inputs.frame.time + 3600 * (lead - back), reader.grid, reader.calendar
                )
                for back in range(0, 48, 6)
            ]
            means.append(np.mean([task.predict(batch, frame).values[:, 0].numpy() for frame in frames], axis=0))
        assert_allclose(written["temperature"], np.stack(means, axis=1)[:, :, :2], rtol=1e-5)


def test_averaged_forecasts_are_scored_against_the_averaged_truth(store: str, tmp_path: Path) -> None:
    forecast = write(tmp_path, store, "persistence")
    scores = score({"persistence": forecast}, store, progress=False, regions=["domain"])
    written = xr.open_zarr(forecast)
    weight = Grid(written.latitude.values, written.longitude.values).area_weights
    for place, lead in enumerate(LEADS):
        truth = window_means(store, written.time.values + np.timedelta64(lead, "h"))
        error = written["surface_pressure"][:, place].values.astype(float) - truth[:, 2]
        expected = np.sqrt((error**2 * (weight / weight.mean())[:, None]).mean())
        found = scores.rmse.sel(channel="surface_pressure", lead_time=lead).item()
        assert found == pytest.approx(expected, rel=1e-5)
    assert scores.attrs["averaging_hours"] == 48


def test_anomalies_are_about_the_averaged_climatology(year: str, tmp_path: Path) -> None:
    scores = score({"c": write(tmp_path, year, "climatology")}, year, progress=False, regions=["domain"])
    assert (scores.activity < 1e-4 * scores.rmse).all()


@pytest.mark.usefixtures("no_rendering")
def test_the_command_makes_averaged_baselines(store: str, tmp_path: Path) -> None:
    forecast = write(tmp_path, store, "seasonal_cycle")
    evaluate(forecast, store, out=str(tmp_path / "scores"), baselines=["persistence"], regions=["domain"])
    scores = xr.open_dataset(tmp_path / "scores" / "scores.nc")
    alone = score({"p": write(tmp_path, store, "persistence")}, store, progress=False, regions=["domain"])
    assert_allclose(scores.rmse.sel(forecast="persistence"), alone.rmse.isel(forecast=0), rtol=1e-5)


def test_what_cannot_be_averaged_or_compared_is_refused(store: str, make_store: Any, tmp_path: Path) -> None:
    averaged = write(tmp_path, store, "persistence")
    (tmp_path / "states").mkdir()
    states = write(tmp_path / "states", store, "persistence", None)
    with pytest.raises(DataError, match=r"'a' holds means over 48 h, .*'b' holds states; compare only forecasts with"):
        score({"a": averaged, "b": states}, store, progress=False)
    with pytest.raises(RecipeError, match="ridge is fitted to states, not to means over 48 h"):
        write(tmp_path, store, "ridge")
    daily = make_store(pd.date_range("2001-01-01", periods=20, freq="5D"))
    with pytest.raises(DataError, match=r"48 h are no whole number of steps of the truth, 120 h"):
        score({"a": averaged}, daily, progress=False)
    short = xr.open_zarr(averaged).rename(time="x").isel(prediction_timedelta=0, drop=True).rename(x="time")
    with pytest.raises(DataError, match="the truth covers no 48 h without a gap"):
        score({"a": averaged}, short.isel(time=slice(0, 1)), progress=False)
