"""The loggers that a recipe names get its metrics and itself, beside the table that a run reads."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonargparse import Namespace
from running import etesian
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import etesian as et
from etesian.cli.main import main
from etesian.core.errors import RecipeError
from etesian.training.logs import placed, with_folders

RECIPE = """
data:
  class_path: etesian.ForecastData
  init_args:
    stores: [{store}]
    leads: [24]
    inputs: [surface_pressure]
    train: ["2001-01-01", "2001-01-08"]
    validate: ["2001-01-09", "2001-01-15"]
model:
  class_path: etesian.ForecastTask
  init_args:
    network: {{class_path: etesian.ClimaX, init_args: {{patch: 2, dim: 8, depth: 1, heads: 1}}}}
trainer: {{max_epochs: 1, accelerator: cpu, enable_model_summary: false, logger: {logger}}}
"""
SERVICE = """
import json
from pathlib import Path
from lightning.pytorch.loggers.logger import Logger

class Service(Logger):
    def __init__(self, save_dir, project="p", run_id=None):
        super().__init__()
        self.folder, self.name_, self.run_id = Path(save_dir), project, run_id
        self.folder.mkdir(exist_ok=True)

    name = property(lambda self: self.name_)
    version = property(lambda self: self.run_id or "seven")

    def _write(self, what):
        with open(self.folder / f"{self.name_}.jsonl", "a") as file:
            file.write(json.dumps({"run": self.version, **what}) + "\\n")

    def log_metrics(self, metrics, step=None):
        self._write(metrics)

    def log_hyperparams(self, params):
        self._write({"recipe": params})
"""
NEEDY = """
from lightning.pytorch.loggers.logger import DummyLogger

class Needy(DummyLogger):
    def __init__(self, project="p"):
        import not_there
"""
BOARD = "{class_path: lightning.pytorch.loggers.TensorBoardLogger, init_args: {name: board}}"


@pytest.fixture
def folder(store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "its_service.py").write_text(SERVICE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    monkeypatch.delitem(sys.modules, "its_service", raising=False)
    for service in ("wandb", "mlflow", "comet_ml"):
        monkeypatch.setitem(sys.modules, service, None)
    return tmp_path


def fit(folder: Path, store: str, logger: str, *options: str) -> None:
    (folder / "recipe.yaml").write_text(RECIPE.format(store=store, logger=logger))
    etesian("fit", "-c", "recipe.yaml", "--run", "run", "--trust", "its_service", *options)


def logged(folder: Path, name: str = "p") -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "run" / f"{name}.jsonl").read_text().splitlines()]


def test_named_loggers_get_metrics_and_recipe_beside_the_runs_table_and_go_on(store: str, folder: Path) -> None:
    fit(folder, store, f"[{BOARD}, {{class_path: its_service.Service}}]")
    told = logged(folder)
    assert told[0]["recipe"]["model"]["init_args"]["network"]["class_path"].endswith("ClimaX")
    assert told[0]["recipe"]["data"]["init_args"]["leads"] == [24]
    losses = [entry["val_loss"] for entry in told if "val_loss" in entry]
    assert losses == pytest.approx(et.load("run").log["val_loss"].dropna().tolist(), rel=1e-6)
    board = EventAccumulator(str(folder / "run" / "board" / "version_0")).Reload()
    assert [each.value for each in board.Scalars("val_loss")] == pytest.approx(losses, rel=1e-6)
    kept = yaml.safe_load((folder / "run" / "recipe.yaml").read_text())["trainer"]["logger"]
    assert [each["init_args"]["save_dir"] for each in kept] == ["{run}", "{run}"]
    assert not (folder / "run" / "tensorboard").exists()
    (folder / "run" / "loggers.json").write_text(
        (folder / "run" / "loggers.json").read_text().replace("seven", "eight")
    )
    fit(folder, store, f"[{BOARD}, {{class_path: its_service.Service}}]", "--trainer.max_epochs=2")
    assert {entry["run"] for entry in logged(folder)} == {"seven", "eight"}
    assert len([entry for entry in logged(folder) if "val_loss" in entry]) == 2


def test_a_logger_may_be_named_on_the_command_line(store: str, folder: Path) -> None:
    fit(folder, store, "false", "--trainer.logger", "its_service.Service", "--trainer.logger.project=q")
    assert any("train_loss_epoch" in entry for entry in logged(folder, "q"))
    assert "val_loss" in et.load("run").log


@pytest.mark.parametrize(("logger", "board"), [("false", False), ("true", True)])
def test_the_runs_table_is_kept_whatever_is_asked(logger: str, board: bool, store: str, folder: Path) -> None:
    fit(folder, store, logger)
    assert len(et.load("run").log["val_loss"].dropna()) == 1
    assert (folder / "run" / "tensorboard").exists() is board


@pytest.mark.parametrize(
    ("name", "package"), [("WandbLogger", "wandb"), ("MLFlowLogger", "mlflow"), ("CometLogger", "comet-ml")]
)
def test_a_logger_whose_package_is_absent_says_how_to_get_it(name: str, package: str, folder: Path) -> None:
    asked = Namespace(class_path=f"lightning.pytorch.loggers.{name}", init_args=Namespace())
    with pytest.raises(RecipeError, match=f"names {name}, whose package is not installed; run `pip install {package}`"):
        placed([asked], folder, [], going_on=False)


def test_a_logger_without_a_folder_may_be_named_too_and_says_what_it_lacks(
    store: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "its_service.py").write_text(NEEDY)
    (folder / "recipe.yaml").write_text(RECIPE.format(store=store, logger="false"))
    with pytest.raises(SystemExit):
        main(["fit", "-c", "recipe.yaml", "--trust", "its_service", "--trainer.logger=its_service.Needy"])
    assert capsys.readouterr().err.strip().endswith("names lacks what it needs: No module named 'not_there'")


def test_the_command_line_says_the_same_and_imports_only_what_is_trusted(
    store: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for logger, said in (("WandbLogger", "run `pip install wandb`"), ("unasked.Service", "only what is in torch")):
        (folder / "recipe.yaml").write_text(RECIPE.format(store=store, logger=logger))
        with pytest.raises(SystemExit):
            main(["fit", "-c", "recipe.yaml", "--run", "run"])
        assert said in capsys.readouterr().err
    assert not (folder / "run" / "checkpoints").exists()


def test_loggers_write_into_the_run_where_they_are_not_told_otherwise() -> None:
    given: list[Any] = [
        "MLFlowLogger",
        {"class_path": "WandbLogger", "init_args": {"project": "x"}},
        {"class_path": "lightning.pytorch.loggers.TensorBoardLogger", "init_args": {"save_dir": "elsewhere"}},
        "CometLogger",
    ]
    found = with_folders({"trainer": {"logger": given}}, [])["trainer"]["logger"]
    assert found[0] == {"class_path": "MLFlowLogger", "init_args": {"save_dir": "{run}/mlruns"}}
    assert found[1]["init_args"] == {"save_dir": "{run}", "project": "x"}
    assert found[2:] == given[2:]
    assert with_folders({"trainer": {"logger": True}}, []) == {"trainer": {"logger": True}}
    assert with_folders({"data": 1}, []) == {"data": 1}
