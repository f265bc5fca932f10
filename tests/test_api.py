"""From files to scores in Python: verbs take paths or objects, return objects, and say which verb a run has."""

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import xarray as xr

import etesian as et
from etesian.core.errors import CheckpointError, DataError, RecipeError

pytestmark = pytest.mark.filterwarnings("ignore")

TIMES = pd.date_range("2001-01-01", periods=60, freq="D")
RECIPE: dict[str, Any] = {
    "seed_everything": 0,
    "data": {
        "class_path": "ForecastData",
        "init_args": {
            "stores": ["named below"],
            "leads": [24, 48],
            "train": ["2001-01-01", "2001-02-05"],
            "validate": ["2001-02-06", "2001-02-20"],
        },
    },
    "model": {
        "class_path": "etesian.ForecastTask",
        "init_args": {
            "network": {
                "class_path": "ClimaX",
                "init_args": {"patch": 2, "dim": 16, "depth": 1, "heads": 2, "dropout": 0.0, "drop_path": 0.0},
            },
            "warmup_steps": 2,
        },
    },
    "trainer": {"accelerator": "cpu", "max_epochs": 3, "enable_model_summary": False, "logger": False},
}


def planet() -> xr.Dataset:
    latitude, longitude = np.linspace(-75, 75, 6), np.arange(8) * 45.0
    wave = np.sin(np.radians(longitude) - 0.4 * np.arange(60)[:, None])[:, None] * np.cos(np.radians(latitude))[:, None]
    noise = np.random.default_rng(0).standard_normal((60, 6, 8))
    return xr.Dataset(
        {"t2m": (("time", "lat", "lon"), (280 + 10 * wave + noise).astype("f4"), {"units": "K"})},
        {
            "time": TIMES.values,
            "lat": ("lat", latitude, {"units": "degrees_north"}),
            "lon": ("lon", longitude, {"units": "degrees_east"}),
        },
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("api")
    planet().to_netcdf(made / "planet.nc")
    et.prepare(made / "planet.nc", made / "store.zarr", train=("2001-01-01", "2001-02-05"))
    et.fit(RECIPE, run=made / "run", stores=[made / "store.zarr"])
    return made


@pytest.fixture(scope="module")
def store(folder: Path) -> et.Store:
    return et.Store(folder / "store.zarr")


@pytest.fixture(scope="module")
def run(folder: Path) -> et.Run:
    return et.load(folder / "run")  # type: ignore[return-value]


def test_files_become_a_canonical_dataset_and_a_store(folder: Path, store: et.Store, tmp_path: Path) -> None:
    raw = et.open(folder / "planet.nc")
    assert list(raw.data_vars) == ["2m_temperature"]
    assert et.doctor(folder / "planet.nc").exit_status == 0
    again = et.prepare(raw, tmp_path / "again.zarr", train=("2001-01-01", "2001-02-05"))
    np.testing.assert_array_equal(again.dataset["fields"], store.dataset["fields"])
    np.testing.assert_array_equal(again.dataset["mean"], store.dataset["mean"])
    coarse = et.prepare(raw.isel(time=slice(0, 40)), tmp_path / "coarse.zarr", grid=30.0)
    assert coarse.grid == et.Grid.equiangular(30.0)
    assert len(coarse.time) == 40
    assert "60 times" in repr(store)
    assert "2m_temperature" in store._repr_html_()


def test_no_verb_warns_of_what_this_library_writes(tmp_path: Path) -> None:
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        # Python shows these only where the user's own script is to be changed.
        warnings.simplefilter("ignore", DeprecationWarning)
        planet().to_netcdf(tmp_path / "planet.nc")
        store = et.prepare(et.open(tmp_path / "planet.nc"), tmp_path / "store.zarr", train=("2001-01-01", "2001-02-05"))
        run = et.fit(RECIPE, run=tmp_path / "run", stores=[store], epochs=1)
        run.forecast(store, "2001-02-06", [24], out=tmp_path / "forecast.zarr")
        et.open(tmp_path / "forecast.zarr")
        xr.open_zarr(tmp_path / "forecast.zarr")
        et.evaluate(tmp_path / "forecast.zarr", store, baselines=["persistence"], out=tmp_path / "evaluation")
    assert [f"{one.filename}: {one.message}" for one in warned] == []


def test_a_run_says_what_it_holds_and_what_training_wrote_down(run: et.Run) -> None:
    assert run.job == "forecast"
    text = repr(run)
    for fact in ("ClimaX of", "2m_temperature", "store.zarr", "2001-01-01 to 2001-02-05", "best validation loss"):
        assert fact in text
        assert fact in run._repr_html_()
    losses = run.log["val_loss"].dropna()
    assert len(losses) == 3
    assert run.best == losses.min()


def test_forecasts_in_memory_are_those_on_disk_and_those_from_a_dataset(
    run: et.Run, store: et.Store, folder: Path, tmp_path: Path
) -> None:
    span = ("2001-02-21", "2001-02-25")
    held = run.forecast(store, span, leads=[48, 24])
    assert held["2m_temperature"].dims == ("time", "prediction_timedelta", "latitude", "longitude")
    assert held["2m_temperature"].attrs["units"] == "K"
    assert dict(held.sizes) == {"time": 5, "prediction_timedelta": 2, "latitude": 6, "longitude": 8}
    written = run.forecast(folder / "store.zarr", span, [24, 48], out=tmp_path / "f.zarr")
    xr.testing.assert_equal(held, written.load())
    assert written.attrs["source"]
    from_files = run.forecast(et.open(folder / "planet.nc"), span, [24, 48])
    xr.testing.assert_allclose(held, from_files, rtol=1e-6)
    assert run.forecast(store, "2001-02-21", [24]).sizes["time"] == 1


def test_a_run_forecasts_for_stations(run: et.Run, store: et.Store) -> None:
    places = pd.DataFrame({"station": ["A"], "latitude": [-45.0], "longitude": [90.0], "elevation": [800.0]})
    held = run.forecast(store, ("2001-02-21", "2001-02-25"), [24, 48], at=places)["2m_temperature"]
    maps = run.forecast(store, ("2001-02-21", "2001-02-25"), [24, 48])["2m_temperature"]
    np.testing.assert_array_equal(held.isel(station=0), maps.sel(latitude=-45, longitude=90))
    assert held.attrs["height_correction"] == (
        "not corrected, for there is neither orography nor geopotential_at_surface"
    )
    with pytest.raises(RecipeError, match="a lapse rate of 5 K/km needs the height of the model's surface"):
        run.forecast(store, "2001-02-21", [24], at=places, lapse_rate=5)
    with pytest.raises(RecipeError, match="lapse_rate = 5 is for stations; give their table"):
        run.forecast(store, "2001-02-21", [24], lapse_rate=5)


@pytest.mark.usefixtures("no_rendering")
def test_scores_come_with_baselines_and_intervals(run: et.Run, store: et.Store, tmp_path: Path) -> None:
    span = ("2001-02-21", "2001-02-27")
    forecast = run.forecast(store, span, [24, 48])
    persistence = et.baseline("persistence", store).forecast(store, span, [24, 48])
    scores = et.evaluate({"ClimaX": forecast, "mine": persistence}, store, baselines=["persistence"])
    assert scores.forecast.values.tolist() == ["ClimaX", "mine", "persistence"]
    rmse = scores.rmse.sel(region=scores.region[0], channel="2m_temperature")
    np.testing.assert_array_equal(rmse.sel(forecast="mine"), rmse.sel(forecast="persistence"))
    assert (scores.rmse_low <= scores.rmse).all()
    reported = et.evaluate(forecast, store, out=tmp_path / "evaluation")
    assert reported.forecast.values.tolist() == ["forecast", "persistence", "seasonal_cycle"]
    assert (tmp_path / "evaluation" / "report.html").exists()
    assert "2m_temperature" in str(et.summary(scores).columns[0]._cells)


def test_a_run_asked_for_another_job_says_which_verb_it_has(run: et.Run, store: et.Store) -> None:
    with pytest.raises(RecipeError, match=r"forecasts: call \.forecast\(store, init, leads\); it has no \.fill"):
        run.fill(store, "2001-01")
    with pytest.raises(RecipeError, match=r"it has no \.downscale"):
        run.downscale(store)
    with pytest.raises(RecipeError, match=r"the baseline linear fills gaps: call \.fill"):
        et.baseline("linear").forecast(store, "2001-01", [24])
    with pytest.raises(RecipeError, match="no baseline 'persistance'; did you mean 'persistence'"):
        et.load("baseline:persistance")


def test_what_cannot_be_is_said_in_a_sentence(run: et.Run, store: et.Store, folder: Path) -> None:
    with pytest.raises(RecipeError, match=r"leads \[0\] must be hours greater than 0"):
        run.forecast(store, "2001", [0])
    with pytest.raises(DataError, match="is a source"):
        run.forecast(folder / "store.zarr", "2001", [24], out=folder / "store.zarr", overwrite=True)
    with pytest.raises(CheckpointError, match="nowhere does not exist"):
        et.load("nowhere")
    with pytest.raises(RecipeError, match="did you mean 'planet_climax'"):
        et.fit("planet_climx")
    with pytest.raises(RecipeError, match="did you mean 'ocean'"):
        et.simulate("ocaen", "x.zarr")
    with pytest.raises(RecipeError, match="the climate is simulated without days; its options are members, resolut"):
        et.simulate("climate", folder / "climate", days=3, members=1)
    with pytest.raises(RecipeError, match="baselines are fitted to a training store"):
        et.evaluate(run.forecast(store, "2001-02-21", [24]), et.open(folder / "planet.nc"), baselines=["persistence"])


def test_the_same_call_says_that_a_run_is_finished_and_more_epochs_go_on(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    again = et.fit(RECIPE, run=folder / "run", stores=[folder / "store.zarr"])
    assert "already finished" in capsys.readouterr().out
    assert again.description["epoch"] <= 2
    longer = et.fit(RECIPE, run=folder / "run", stores=[folder / "store.zarr"], epochs=4)
    assert len(longer.log["val_loss"].dropna()) == 4


def test_a_network_is_asked_at_the_level_of_research(store: et.Store) -> None:
    layout = et.Layout(store.channels, store.channels, store.grid)
    task = et.ForecastTask(lambda given: et.ClimaX(given, patch=2, dim=16, depth=1, heads=2), layout, store.statistics)
    states = et.Fields.from_xarray(xr.Dataset({"2m_temperature": planet().t2m.rename(lat="latitude", lon="longitude")}))
    batch = et.Batch(states.at(0))
    answer = task.eval().predict(batch, task.target_frame(batch, [24])).to_xarray()
    assert dict(answer.sizes) == {"time": 1, "latitude": 6, "longitude": 8}
    assert answer.time.values[0] == TIMES.values[1].astype(answer.time.dtype)


@pytest.mark.usefixtures("no_pictures")
def test_the_same_evaluation_is_there_already_and_another_is_refused(
    run: et.Run, store: et.Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, days = tmp_path / "evaluation", ("2001-02-21", "2001-02-27")
    forecast = tmp_path / "f.zarr"
    run.forecast(store, days, [24, 48], out=forecast)

    def scores(**options: Any) -> xr.Dataset:
        return et.evaluate(forecast, store, baselines=["persistence"], out=out, **options)

    first = scores()
    before = {file: file.stat().st_mtime_ns for file in tmp_path.rglob("*")}
    capsys.readouterr()
    again = scores()
    assert capsys.readouterr().out == f"{out} is already there\n"
    xr.testing.assert_identical(again.drop_attrs(), first.drop_attrs())
    assert again.attrs == first.attrs
    assert {file: file.stat().st_mtime_ns for file in tmp_path.rglob("*")} == before
    assert str(et.summary(again).columns[0]._cells) == str(et.summary(first).columns[0]._cells)
    with pytest.raises(
        DataError, match=r"evaluation exists, made with leads = None instead of \[24\]; use --overwrite"
    ):
        scores(leads=[24])
    assert scores(leads=[24], overwrite=True).lead_time.values.tolist() == [24]
    run.forecast(store, days, [24], out=forecast, overwrite=True)
    with pytest.raises(DataError, match=r"made with forecast f = \w{12} instead of \w{12}; use"):
        scores(leads=[24])
