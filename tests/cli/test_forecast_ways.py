"""Direct, lead-conditioned and iterated forecasts go through the command line and into one report."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import xarray as xr
from running import etesian
from small_tasks import answered

import etesian as et
from etesian.cli.main import main
from etesian.core import Layout
from etesian.core.grid import Grid
from etesian.forecast.task import ForecastTask
from etesian.networks.unet import UNet
from etesian.samples.windows import WindowReader
from etesian.store.reader import Store
from etesian.training.checkpoint import load_task

pytestmark = pytest.mark.filterwarnings("ignore::zarr.errors.ZarrUserWarning")
RECIPES = Path(__file__).parents[2] / "recipes"
TINY = "{patch: 4, dim: 16, depth: 1, heads: 2, dropout: 0.0, drop_path: 0.0}"
INIT = ("--init", "2000-02-10", "2000-02-12")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wave that travels east, 12-hourly, in all variables of the recipes."""
    folder = tmp_path_factory.mktemp("ways")
    grid, time = Grid.equiangular(22.5), pd.date_range("2000-01-01", periods=100, freq="12h")
    phase = np.radians(2 * grid.longitude - 15.0 * np.arange(100)[:, None])[:, None, :]
    wave = np.cos(np.radians(grid.latitude))[:, None] * np.sin(phase)
    upper = {"geopotential": "m2 s-2", "temperature": "K"}
    upper |= dict.fromkeys(("u_component_of_wind", "v_component_of_wind"), "m s-1")
    means = {"geopotential": 5e4, "temperature": 270.0}
    axes = ("time", "level", "latitude", "longitude")
    fields: dict[str, Any] = {
        name: (axes, np.stack([means.get(name, 0.0) + 6 * wave] * 2, axis=1).astype("f4"), {"units": units})
        for name, units in upper.items()
    }
    flat = ("time", "latitude", "longitude")
    fields["2m_temperature"] = (flat, (285 + 5 * wave).astype("f4"), {"units": "K"})
    fields["surface_pressure"] = (flat, (1e5 + 900 * wave).astype("f4"), {"units": "Pa"})
    axes_values = {"time": time, "level": [500, 850], "latitude": grid.latitude, "longitude": grid.longitude}
    xr.Dataset(fields, axes_values).to_netcdf(folder / "planet.nc")
    etesian("prepare", folder / "planet.nc", folder / "planet.zarr", "--train-end", "2000-01-31")
    return folder / "planet.zarr"


def fit(recipe: str, run: Path, store: Path, *options: str) -> None:
    etesian(
        "fit", "-c", RECIPES / recipe, "--run", run, f"--data.stores=[{store}]",
        '--data.train=["2000-01-01", "2000-01-31"]', '--data.validate=["2000-02-01", "2000-02-09"]',
        "--data.test=null", f"--model.init_args.network.init_args={TINY}", "--model.init_args.warmup_steps=2",
        "--trainer.max_epochs=1", "--trainer.limit_train_batches=2", "--trainer.num_sanity_val_steps=0",
        "--trainer.enable_progress_bar=false", *options,
    )  # fmt: skip


@pytest.fixture(scope="module")
def runs(store: Path) -> dict[str, Path]:
    folder = store.parent
    for lead in (24, 72):
        fit("planet_direct.yaml", folder / f"direct_{lead}", store, f"--data.leads=[{lead}]")
    fit("planet_iterated.yaml", folder / "iterated", store)
    fit("planet_climax.yaml", folder / "conditioned", store)
    return {name: folder / name for name in ("direct_24", "direct_72", "iterated", "conditioned")}


def refused(capsys: pytest.CaptureFixture[str], *words: object) -> str:
    with pytest.raises(SystemExit) as stop:
        main([str(word) for word in words])
    assert stop.value.code == 1
    return " ".join(capsys.readouterr().err.split())


@pytest.mark.usefixtures("no_pictures")
def test_all_ways_of_forecasting_come_into_one_report(runs: dict[str, Path], store: Path, tmp_path: Path) -> None:
    direct, conditioned, iterated = (tmp_path / f"{name}.zarr" for name in ("direct", "conditioned", "iterated"))
    etesian("forecast", runs["direct_24"], store, direct, *INIT, "--leads", 24, 72, "--beside", runs["direct_72"])
    etesian("forecast", runs["conditioned"], store, conditioned, *INIT, "--leads", 24, 72)
    etesian("forecast", runs["iterated"], store, iterated, *INIT, "--leads", 24, 72)
    etesian(
        "evaluate", direct, store, "--beside", conditioned, iterated, "--baselines", "persistence",
        "--out", tmp_path / "scores",
    )  # fmt: skip
    scores = xr.open_dataset(tmp_path / "scores" / "scores.nc")
    assert scores.forecast.values.tolist() == ["direct", "conditioned", "iterated", "persistence"]
    assert scores.lead_time.values.tolist() == [24, 72]
    assert np.isfinite(scores.rmse.isel(region=0)).all()

    written, reader = xr.open_zarr(direct), Store(store)
    for place, lead in enumerate((24, 72)):
        task = load_task(runs[f"direct_{lead}"])
        initial = written.time.values[:1].astype("datetime64[s]").astype(np.int64)
        alone = answered(task, WindowReader(reader, task.layout), initial, (lead,))
        index = [str(c) for c in task.layout.targets].index("surface_pressure")
        np.testing.assert_allclose(written["surface_pressure"][0, place], alone.values[0, 0, index], rtol=1e-6)


@pytest.mark.usefixtures("no_rendering")
def test_an_ensemble_goes_through_the_command_line(
    runs: dict[str, Path], store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fit("planet_members.yaml", tmp_path / "run", store)
    run, out = et.load(tmp_path / "run"), tmp_path / "members.zarr"
    assert {"val_loss", "val_rmse/surface_pressure/24h", "val_crps/surface_pressure/24h"} <= set(run.log)
    etesian("forecast", tmp_path / "run", store, out, *INIT, "--leads", 24, "--members", 3, "--seed", 1)
    written = xr.open_zarr(out, decode_timedelta=True)
    assert written.sizes["number"] == 3
    again = run.forecast(store, INIT[1:], [24], members=3, seed=1)
    xr.testing.assert_identical(again.drop_attrs(), written.load().drop_attrs())
    assert run.forecast(store, INIT[1:], [24]).sizes["number"] == 8
    etesian(
        "evaluate", out, store, "--beside", f"again={out}", "--baselines", "persistence", "--out", tmp_path / "scores"
    )
    scores = xr.open_dataset(tmp_path / "scores" / "scores.nc").sel(channel="surface_pressure").isel(region=0)
    assert scores.crps.sel(forecast="members").item() == scores.crps.sel(forecast="again").item()
    assert scores.crps.sel(forecast="persistence").item() == pytest.approx(
        scores.mae.sel(forecast="persistence").item()
    )
    alone = ("forecast", runs["iterated"], store, tmp_path / "alone.zarr", *INIT, "--leads", 24, "--members", 3)
    assert "the run was trained without" in refused(capsys, *alone)
    assert "amplitude is for perturbed states" in refused(capsys, *alone, "--amplitude", 0.2)
    etesian(*alone, "--perturb", "gaussian", "--amplitude", 0.2)
    perturbed = xr.open_zarr(tmp_path / "alone.zarr", decode_timedelta=True).load()
    assert (perturbed.surface_pressure.std("number") > 0).all()
    control = et.load(runs["iterated"]).forecast(store, INIT[1:], [24])
    xr.testing.assert_allclose(perturbed.isel(number=0, drop=True), control, rtol=1e-5)
    baseline = ("forecast", "baseline:persistence", *alone[2:])
    assert "--members is for runs" in refused(capsys, *baseline, "--perturb", "bred")
    assert "--members is for runs; a baseline has none" in refused(capsys, *baseline)


def test_a_lead_that_no_run_or_two_runs_were_trained_for_is_refused(
    runs: dict[str, Path], store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    predict = ("forecast", runs["direct_24"], store, tmp_path / "out.zarr", *INIT, "--leads")
    assert "no run was trained for 48 h" in refused(capsys, *predict, 24, 48, "--beside", runs["direct_72"])
    assert "were both trained for 24 h; leave one" in refused(capsys, *predict, 24, "--beside", runs["conditioned"])
    baseline = ("forecast", "baseline:persistence", *predict[2:])
    assert "--beside is for runs; a baseline has none" in refused(capsys, *baseline, 24, "--beside", runs["direct_24"])
    assert not list(tmp_path.iterdir())


def test_training_through_steps_uses_every_step_and_reaches_back_to_the_initial_state(store: Path) -> None:
    reader = Store(store)
    layout = Layout(reader.channels, reader.channels, reader.grid)
    torch.manual_seed(0)
    network = lambda layout: UNet(layout, leads=(12,), width=4, noise=0.0, dropout=0.0)  # noqa: E731
    task = ForecastTask(network, layout, reader.statistics, predict="change", step_hours=12).eval()
    batch = task.normalized(WindowReader(reader, layout).start(reader.time[:2]))
    asked: list[torch.Tensor] = []
    task.network.register_forward_hook(lambda module, given, values: asked.append(values.retain_grad() or values))
    batch.inputs.values.requires_grad_(True)
    time = batch.inputs.frame.time + 3600 * torch.tensor([12, 24, 36])
    frame = type(batch.inputs.frame)(layout.targets, time, layout.grid, reader.calendar)
    predicted = task(batch, frame)
    assert len(asked) == 3
    predicted[:, 2].square().mean().backward(retain_graph=True)
    assert batch.inputs.values.grad is not None
    assert batch.inputs.values.grad.abs().sum() > 0
    for values in asked:
        assert values.grad is not None
        assert values.grad.abs().sum() > 0
        values.grad = None
    predicted[:, 0].square().mean().backward()
    assert asked[0].grad is not None
    assert asked[1].grad is not None
    assert asked[0].grad.abs().sum() > 0
    assert asked[1].grad.abs().sum() == 0
