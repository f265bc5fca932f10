"""The projection recipes run from files to a table of scores through the command line, small."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import xarray as xr

from etesian.cli.main import main
from etesian.projection.data import ProjectionData, SimulationData
from etesian.projection.emulators import PatternScaling
from etesian.projection.scores import climatebench_scores
from etesian.simulation.climate import simulate_scenarios
from etesian.training.checkpoint import load_task

RECIPES = Path(__file__).parents[2] / "recipes"
CALM = ("--trainer.enable_progress_bar=false", "--trainer.num_sanity_val_steps=0", "--trainer.accelerator=cpu")
TINY = "--model.init_args.network.init_args={patch: 3, dim: 16, depth: 1, heads: 2, dropout: 0, drop_path: 0}"


def etesian(*words: object) -> int | str | None:
    try:
        main([str(word) for word in words])
    except SystemExit as stop:
        return stop.code
    return 0


def report(*baselines: str) -> str:
    arguments = f"{{baselines: [{', '.join(baselines)}]}}"
    return f"--trainer.callbacks=[{{class_path: etesian.projection.report.ProjectionReport, init_args: {arguments}}}]"


NRMSE = ["nrmse_s", "nrmse_g", "nrmse"]


def test_the_climatebench_recipe_goes_from_emissions_to_scores_beside_baselines(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    simulate_scenarios(str(tmp_path / "climate"), resolution=30, members=1)
    options = (
        "-c", RECIPES / "projection_climatebench.yaml", "--run", tmp_path / "run",
        f"--data.folder={tmp_path / 'climate'}", "--data.targets=[tas, pr]",
        "--data.train=[historical, ssp126, ssp585]", report("pattern_scaling"), TINY, *CALM,
    )  # fmt: skip
    assert not etesian("fit", *options, "--trainer.max_epochs=2", "--model.init_args.frozen=true")
    course = pd.concat(pd.read_csv(file) for file in (tmp_path / "run").glob("log/version_*/metrics.csv"))
    losses = course["train_loss_epoch"].dropna().tolist()
    assert losses[1] < losses[0]
    assert not etesian("test", *options, "--model.init_args.frozen=true")
    scores = pd.read_csv(tmp_path / "run" / "projection" / "scores.csv").set_index(["target", "forecast"])
    assert len(scores) == 4
    assert {"tas.png", "pr.png"} <= {file.name for file in (tmp_path / "run" / "projection").iterdir()}
    assert "pattern_scaling" in capsys.readouterr().out

    data = ProjectionData(
        str(tmp_path / "climate"), "2041-2050", ["historical", "ssp126", "ssp585"], targets=["tas", "pr"]
    )
    given, truth = (maps.astype(np.float64) for maps in data.dataset("test").arrays())
    scaled = PatternScaling(*data.dataset("train").arrays(), data.layout.grid).predict(given)
    expected = climatebench_scores(scaled[:, 0], truth[:, 0], data.layout.grid)
    assert scores.loc[("tas", "pattern_scaling"), NRMSE].tolist() == pytest.approx(list(expected), rel=1e-5)
    task = load_task(tmp_path / "run")
    batch = data.dataset("test")[list(range(21))]
    assert batch.targets is not None
    predicted = task.predict(batch, batch.targets.frame).values[:, 0, 0].double().numpy()
    expected = climatebench_scores(predicted, truth[:, 0], data.layout.grid)
    assert scores.loc[("tas", "network"), NRMSE].tolist() == pytest.approx(list(expected), rel=1e-4)
    moved = {name for name, parameter in task.network.named_parameters() if not parameter.requires_grad}
    assert moved == {
        f"blocks.0.{layer}.{kind}"
        for layer in ("attention.qkv", "attention.out", "mlp.expand", "mlp.contract")
        for kind in ("weight", "bias")
    }


def test_the_recipe_of_two_simulations_learns_from_one_and_projects_the_other(tmp_path: Path) -> None:
    for name, warming in (("A1B", 0.05), ("E1", 0.03)):
        time = xr.date_range("1860-06-01", periods=120, freq="YS-JUN", calendar="360_day", use_cftime=True)
        rows, columns = np.arange(15.0, 60.0, 5), np.arange(225.0, 315.0, 10)
        pattern = 1 + rows[:, None] / 60 * np.ones(columns.size)
        values = 280 + warming * (np.arange(120) + np.arange(120) ** 2 / 240)[:, None, None] * pattern
        xr.Dataset(
            {"tas": (("time", "latitude", "longitude"), values, {"units": "K"})},
            {"time": time, "latitude": rows, "longitude": columns},
        ).to_netcdf(tmp_path / f"{name}.nc")
    simulations = f"{{A1B: {tmp_path / 'A1B.nc'}, E1: {tmp_path / 'E1.nc'}}}"
    options = (
        "-c", RECIPES / "projection_hadcm3.yaml", "--run", tmp_path / "run",
        f"--data.simulations={simulations}", "--data.test_years=[1960, 1979]",
        "--data.validate=1940-1944", report("pattern_scaling", "random_forest"), TINY, *CALM,
    )  # fmt: skip
    assert not etesian("fit", *options, "--trainer.max_epochs=1")
    assert not etesian("test", *options)
    scores = pd.read_csv(tmp_path / "run" / "projection" / "scores.csv").set_index("forecast")
    # The mean of the ten years before lags a year's warming by 5.5 years of it, which differs between the two.
    assert scores.nrmse_s["pattern_scaling"] < 0.05
    assert scores.nrmse_s["random_forest"] < 0.15
    # What the network departs from are lines of the level and of its change over the window.
    files = {name: str(tmp_path / f"{name}.nc") for name in ("A1B", "E1")}
    years = SimulationData(files, "2m_temperature", ["A1B"], "1940-1944", "E1", (1960, 1979)).dataset("train")
    inputs, targets = years.arrays()
    warming = years.changes()
    assert warming[0].max() < 0.6 * warming[-1].min()
    lines = PatternScaling(np.concatenate([inputs, warming], axis=1), targets, years.layout.grid)
    np.testing.assert_allclose(load_task(tmp_path / "run").slope, lines.slope, rtol=1e-3, atol=1e-4)


def test_an_unknown_baseline_is_refused_in_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    simulate_scenarios(str(tmp_path / "climate"), resolution=45, members=1)
    status = etesian(
        "test", "-c", RECIPES / "projection_climatebench.yaml", "--run", tmp_path / "run",
        f"--data.folder={tmp_path / 'climate'}", report("random_forrest"), TINY, *CALM,
    )  # fmt: skip
    assert status == 1
    assert "there is no baseline 'random_forrest'; did you mean 'random_forest'?" in capsys.readouterr().err
