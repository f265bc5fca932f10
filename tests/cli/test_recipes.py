"""Every recipe runs from raw files to scores through the command line, small."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import xarray as xr
from running import etesian
from safetensors.torch import load_file

import etesian as et
from etesian.core.grid import Grid
from etesian.forecast.task import ForecastTask

RECIPES = Path(__file__).parents[2] / "recipes"
CALM = (
    "--trainer.enable_progress_bar=false",
    "--trainer.enable_model_summary=false",
    "--trainer.num_sanity_val_steps=0",
)


def wave(time: pd.DatetimeIndex, grid: Grid, scale: float, offset: float, seed: int) -> np.ndarray:
    """A wave that moves east by 30 degrees a day, and some noise."""
    days = (time - time[0]).total_seconds().to_numpy() / 86400
    phase = np.radians(2 * (grid.longitude - 30 * days[:, None]))[:, None, :]
    envelope = np.cos(np.radians(grid.latitude))[None, :, None]
    noise = 0.05 * np.random.default_rng(seed).standard_normal((len(days), *grid.shape))
    return (offset + scale * (envelope * np.sin(phase + seed) + noise)).astype(np.float32)


def planet(days: int = 120) -> xr.Dataset:
    grid, time = Grid.equiangular(22.5), pd.date_range("2000-01-01", periods=2 * days, freq="12h")
    axes = ("time", "level", "latitude", "longitude")
    upper = {
        "geopotential": (800.0, 5e4, "m2 s-2"),
        "temperature": (6.0, 270.0, "K"),
        "u_component_of_wind": (8.0, 5.0, "m s-1"),
        "v_component_of_wind": (8.0, 0.0, "m s-1"),
    }
    fields = {
        name: (axes, np.stack([wave(time, grid, scale, offset, level) for level in (1, 2)], axis=1), {"units": units})
        for name, (scale, offset, units) in upper.items()
    }
    flat = ("time", "latitude", "longitude")
    fields["2m_temperature"] = (flat, wave(time, grid, 5.0, 285.0, 3), {"units": "K"})
    fields["surface_pressure"] = (flat, wave(time, grid, 900.0, 1e5, 4), {"units": "Pa"})
    fields["orography"] = (flat[1:], np.zeros(grid.shape, dtype=np.float32), {"units": "m"})
    coordinates = {"time": time, "level": [500, 850], "latitude": grid.latitude, "longitude": grid.longitude}
    return xr.Dataset(fields, coordinates)


def pressure(path: Path) -> None:
    grid, time = Grid(np.arange(30, 47.5, 2.5), np.arange(290, 312.5, 2.5)), pd.date_range("2001-01-01", periods=240)
    values = wave(time, grid, 900.0, 101325.0, 5)
    xr.Dataset(
        {"mean_sea_level_pressure": (("time", "latitude", "longitude"), values, {"units": "Pa"})},
        {"time": time, "latitude": grid.latitude, "longitude": grid.longitude},
    ).to_netcdf(path)


def losses(run: Path) -> list[float]:
    found: list[pd.DataFrame] = [pd.read_csv(file) for file in sorted(run.glob("log/version_*/metrics.csv"))]
    return pd.concat(found)["train_loss_epoch"].dropna().tolist()  # type: ignore[no-any-return]


def run_recipe(folder: Path, recipe: str, periods: Sequence[str], init: tuple[str, str], *options: str) -> xr.Dataset:
    """Prepare, fit, predict, evaluate; return the scores."""
    store, run, forecast = folder / "store.zarr", folder / "run", folder / "forecast.zarr"
    train, validate = periods
    etesian("prepare", folder / "source.nc", store, "--train-end", train.split('"')[3])
    etesian(
        "fit", "-c", RECIPES / recipe, "--run", run, f"--data.stores=[{store}]",
        f"--data.train={train}", f"--data.validate={validate}", "--data.test=null",
        "--data.batch_size=8", "--model.init_args.warmup_steps=5", *options, *CALM,
    )  # fmt: skip
    etesian("forecast", run, store, forecast, "--init", *init, "--leads", 24, 72, 120)
    etesian("evaluate", f"trained={forecast}", store, "--out", folder / "scores", "--baselines", "persistence")
    return xr.open_dataset(folder / "scores" / "scores.nc").isel(region=0)


def persistence_error(folder: Path, channel: str, lead: int) -> float:
    """Root-mean-square error of persistence from the forecast's initial times, by hand."""
    initial = xr.open_zarr(folder / "forecast.zarr").time.values
    fields = xr.open_zarr(folder / "store.zarr").fields.sel(channel=channel)
    later = fields.sel(time=initial + np.timedelta64(lead, "h")).values
    error = (fields.sel(time=initial).values - later).astype(np.float64)
    rows = Grid(fields.latitude.values, fields.longitude.values).area_weights
    return float(np.sqrt((error**2 * (rows / rows.mean())[:, None]).mean()))


@pytest.mark.usefixtures("no_rendering")
def test_the_planets_recipe_goes_from_a_file_to_scores(tmp_path: Path) -> None:
    planet().to_netcdf(tmp_path / "source.nc")
    scores = run_recipe(
        tmp_path,
        "planet_climax.yaml",
        ('["2000-01-01", "2000-03-20"]', '["2000-03-21", "2000-04-05"]'),
        ("2000-04-06", "2000-04-20"),
        "--model.optimizer.lr=0.005",
        "--model.init_args.network.init_args={patch: 4, dim: 32, depth: 1, heads: 2, dropout: 0, drop_path: 0}",
        "--data.draw=all",
        "--data.batch_size=16",
        "--trainer.max_epochs=6",
    )
    assert scores.lead_time.values.tolist() == [24, 72, 120]
    for lead in (24, 120):
        found = scores.rmse.sel(forecast="persistence", channel="geopotential_500", lead_time=lead).item()
        assert found == pytest.approx(persistence_error(tmp_path, "geopotential_500", lead), rel=1e-5)
    course = losses(tmp_path / "run")
    assert len(course) == 6
    assert course[-1] < 0.8 * course[0]
    trained = scores.rmse.sel(forecast="trained", channel="geopotential_500", lead_time=72).item()
    assert trained < scores.rmse.sel(forecast="persistence", channel="geopotential_500", lead_time=72).item()
    assert (tmp_path / "scores" / "report.html").stat().st_size > 10_000


@pytest.mark.usefixtures("no_pictures")
def test_the_recipe_of_weathermesh_goes_from_a_file_to_scores_and_rolls_out_for_two_weeks(tmp_path: Path) -> None:
    planet().to_netcdf(tmp_path / "source.nc")
    scores = run_recipe(
        tmp_path,
        "planet_weathermesh.yaml",
        ('["2000-01-01", "2000-03-20"]', '["2000-03-21", "2000-04-05"]'),
        ("2000-04-06", "2000-04-14"),
        "--data.horizon={first: 24, batches: 20, growth: linear}",
        "--data.batch_size=16",
        "--model.optimizer.lr=0.03",
        "--model.network.patch=[2, 2, 2]",
        "--model.network.dim=16",
        "--model.network.heads=2",
        "--model.network.window=[2, 3, 5]",
        "--model.network.surface_width=4",
        "--trainer.precision=32",
        "--trainer.max_epochs=3",
    )
    rmse = scores.rmse.sel(channel="geopotential_500")
    assert losses(tmp_path / "run")[-1] < 0.7
    assert (rmse.sel(forecast="trained") < rmse.sel(forecast="persistence")).all()
    etesian("forecast", tmp_path / "run", tmp_path / "store.zarr", tmp_path / "long.zarr", "--init", "2000-04-06",
            "2000-04-06", "--leads", 24, 336)  # fmt: skip
    long = xr.open_zarr(tmp_path / "long.zarr").geopotential.load()
    assert np.isfinite(long).all()
    assert long.sel(prediction_timedelta=np.timedelta64(336, "h")).std() > 0.2 * long.isel(prediction_timedelta=0).std()


@pytest.mark.usefixtures("no_rendering")
def test_the_pressure_recipe_goes_from_a_file_to_scores(tmp_path: Path) -> None:
    pressure(tmp_path / "source.nc")
    scores = run_recipe(
        tmp_path,
        "slp_north_atlantic.yaml",
        ('["2001-01-01", "2001-06-10"]', '["2001-06-11", "2001-07-15"]'),
        ("2001-07-18", "2001-08-20"),
        "--model.init_args.network.init_args={leads: [24, 48, 72, 96, 120], width: 8}",
        "--trainer.max_epochs=4",
    )
    course = losses(tmp_path / "run")
    assert len(course) == 4
    assert course[-1] < 0.7 * course[0]
    rmse = scores.rmse.sel(channel="mean_sea_level_pressure")
    assert scores.lead_time.values.tolist() == [24, 72, 120]
    assert (rmse.sel(forecast="trained") < rmse.sel(forecast="persistence")).all()
    expected = persistence_error(tmp_path, "mean_sea_level_pressure", 72)
    assert rmse.sel(forecast="persistence", lead_time=72).item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.usefixtures("no_pictures")
def test_training_stops_early_when_validation_no_longer_improves(tmp_path: Path) -> None:
    pressure(tmp_path / "source.nc")
    stopping = "{class_path: lightning.pytorch.callbacks.EarlyStopping, init_args: {monitor: val_loss, patience: 1}}"
    run_recipe(
        tmp_path,
        "slp_north_atlantic.yaml",
        ('["2001-01-01", "2001-06-10"]', '["2001-06-11", "2001-07-15"]'),
        ("2001-07-18", "2001-07-20"),
        "--model.init_args.network.init_args={leads: [24, 48, 72, 96, 120], width: 4}",
        f"--trainer.callbacks=[{stopping}]",
        "--model.optimizer.lr=0.3",
        "--trainer.max_epochs=40",
    )
    steps = [
        json.loads((tmp_path / "run" / "checkpoints" / which / "description.json").read_text())["epoch"]
        for which in ("best", "last")
    ]
    files = sorted((tmp_path / "run").glob("log/version_*/metrics.csv"))
    validation = pd.read_csv(files[-1])["val_loss"].dropna().tolist()
    assert len(validation) < 40
    assert steps == [int(np.argmin(validation)), len(validation) - 1]
    assert steps[0] < steps[1]


@pytest.mark.parametrize("tuned", [False, True])
def test_a_run_that_was_interrupted_ends_as_an_undisturbed_one(
    tuned: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With averaged weights, dropout and noise; begun from scratch, or from trained weights that must not come back."""
    pressure(tmp_path / "source.nc")
    store = tmp_path / "store.zarr"
    etesian("prepare", tmp_path / "source.nc", store, "--train-end", "2001-06-10")

    def fit(run: str, *options: str) -> None:
        etesian(
            "fit", "-c", RECIPES / "slp_north_atlantic.yaml", "--run", tmp_path / run,
            f"--data.stores=[{store}]", '--data.train=["2001-01-01", "2001-03-31"]',
            '--data.validate=["2001-06-11", "2001-07-15"]', "--data.test=null",
            "--model.init_args.network.init_args={leads: [24, 48, 72, 96, 120], width: 4}",
            "--data.batch_size=16", "--trainer.max_epochs=4", *options, *CALM,
        )  # fmt: skip

    def pull_the_plug(task: ForecastTask) -> None:
        if task.current_epoch == 2:
            raise RuntimeError("the plug is pulled")

    begin = []
    if tuned:
        fit("trained", "--trainer.max_epochs=1")
        begin = [f"--model.init_args.start={{checkpoint: {tmp_path / 'trained'}}}"]
    fit("undisturbed", *begin)
    with monkeypatch.context() as patch:
        patch.setattr(ForecastTask, "on_train_epoch_start", pull_the_plug)
        with pytest.raises(RuntimeError, match="the plug is pulled"):
            fit("interrupted", *begin)
    fit("interrupted", *begin)
    for which in ("best", "last"):
        first, second = (
            load_file(tmp_path / run / "checkpoints" / which / "weights.safetensors")
            for run in ("undisturbed", "interrupted")
        )
        for name, expected in first.items():
            assert torch.equal(second[name], expected), (which, name)


@pytest.mark.usefixtures("no_rendering")
def test_quickstart_goes_all_the_way_and_run_again_repeats_nothing(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    request: pytest.FixtureRequest,
) -> None:
    made: list[str] = []

    def simulate(kind: str, out: Path, *, days: int) -> None:
        assert kind == "atmosphere"
        if not out.exists():
            planet(days).to_zarr(out)
            made.append("planet")

    def train(recipe: Path, *, run: Path, stores: list[et.Store]) -> et.Run:
        tiny = {"patch": 4, "dim": 16, "depth": 1, "heads": 2, "dropout": 0, "drop_path": 0}
        options = {"trainer.limit_train_batches": 2, "model.init_args.network.init_args": tiny}
        calm = dict(word.removeprefix("--").split("=", 1) for word in CALM)
        made.append("run")
        return fit(recipe, run=run, stores=stores, epochs=1, options=options | calm)

    fit = et.fit
    monkeypatch.setattr(et, "simulate", simulate)
    monkeypatch.setattr(et, "fit", train)
    monkeypatch.setattr("etesian.cli.training.LEADS", [24, 120])
    folder = tmp_path / "quickstart"
    etesian("quickstart", "--folder", folder)
    printed = " ".join(capsys.readouterr().out.split())
    assert "Geopotential at 500 hPa: ClimaX" in printed
    assert "134 initial times" in printed
    assert (folder / "weather.png").read_bytes() == b"PNG"
    assert (folder / "evaluation" / "report.html").stat().st_size > 10_000
    weights = (folder / "run" / "checkpoints" / "last" / "weights.safetensors").read_bytes()
    forecast = xr.open_zarr(folder / "climax.zarr").load()
    assert np.isfinite(forecast.geopotential).all()

    request.getfixturevalue("no_pictures")
    (folder / "weather.png").write_bytes(b"the user's")
    etesian("quickstart", "--folder", folder)
    assert (folder / "weather.png").read_bytes() == b"the user's"
    assert made == ["planet", "run", "run"]
    assert (folder / "run" / "checkpoints" / "last" / "weights.safetensors").read_bytes() == weights
