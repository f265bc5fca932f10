"""A run goes on with the recipe that it was begun with, wherever it lies, and stops where its loss is no number."""

import json
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from running import etesian
from safetensors.torch import load_file, save_file

from etesian.cli.main import main
from etesian.core.errors import RecipeError
from etesian.training.going_on import is_finished, refuse_changes, was_stopped

RECIPE = """
seed_everything: 0
data:
  class_path: etesian.forecast.data.ForecastData
  init_args:
    stores: [{store}]
    leads: [24]
    inputs: [temperature, surface_pressure]
    train: ["2001-01-01", "2001-01-08"]
    validate: ["2001-01-09", "2001-01-15"]
    batch_size: 16
model:
  class_path: etesian.forecast.task.ForecastTask
  init_args:
    network:
      class_path: etesian.networks.climax.ClimaX
      init_args: {{patch: 2, dim: 8, depth: 1, heads: 1, dropout: 0.0, drop_path: 0.0}}
    optimizer: {{class_path: torch.optim.AdamW, init_args: {{lr: 1.0e-3}}}}
trainer: {{max_epochs: 2, accelerator: cpu, enable_model_summary: false}}
"""
FIT = ("fit", "-c", "recipe.yaml", "--run", "run")


@pytest.fixture
def folder(store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "recipe.yaml").write_text(RECIPE.format(store=store))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def refused(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    with pytest.raises(SystemExit) as stop:
        main(list(words))
    assert stop.value.code == 1
    return capsys.readouterr().err.strip().splitlines()[-1]


def test_a_run_says_each_epoch_that_it_is_finished_and_what_cannot_change(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    etesian(*FIT)
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("epoch")]
    assert len(lines) == 2
    assert lines[0].startswith("epoch 1/2, train loss ")
    assert lines[0].endswith(" s, best so far")
    before = (folder / "run" / "recipe.yaml").read_bytes()
    etesian(*FIT)
    assert "run is already finished, after 2 epochs" in capsys.readouterr().out
    rate = "--model.init_args.optimizer.init_args.lr=1e-6"
    assert "model.init_args.optimizer.init_args.lr was 0.001 in run, not 1e-06" in refused(capsys, *FIT, rate)
    more = [*FIT, "--trainer.max_epochs=3"]
    assert "model.init_args.loss was mse in run, not l1" in refused(capsys, *more, "--model.init_args.loss=l1")
    assert (folder / "run" / "recipe.yaml").read_bytes() == before
    etesian(*more, rate)
    assert yaml.safe_load((folder / "run" / "recipe.yaml").read_text())["trainer"]["max_epochs"] == 3
    state = torch.load(folder / "run" / "checkpoints" / "last" / "training.pt", weights_only=True)
    assert {group["initial_lr"] for group in state["optimizer_states"][0]["param_groups"]} == {1e-6}


def test_a_run_that_was_moved_keeps_its_best(folder: Path) -> None:
    etesian(*FIT)
    shutil.move("run", "moved")
    best = folder / "moved" / "checkpoints" / "best"
    before = json.loads((best / "description.json").read_text())
    file = folder / "moved" / "checkpoints" / "last" / "weights.safetensors"
    worse = {name: tensor + 3.0 if name.startswith("network.") else tensor for name, tensor in load_file(file).items()}
    save_file(worse, file)
    etesian(*FIT[:-1], "moved", "--trainer.max_epochs=3")
    assert json.loads((best / "description.json").read_text()) == before
    last = json.loads((folder / "moved" / "checkpoints" / "last" / "description.json").read_text())
    assert last["val_loss"] > before["val_loss"]


def test_a_loss_that_is_no_number_stops_and_leaves_no_checkpoint(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = refused(capsys, *FIT, "--model.init_args.optimizer.init_args.lr=1e30")
    assert " loss is nan at " in said or " loss is inf at " in said
    assert "lower the learning rate (--model.init_args.optimizer.init_args.lr) or clip gradients" in said
    assert not (folder / "run" / "checkpoints").exists()


@pytest.mark.parametrize("precision", ["bf16-true", "16-true", "64-true"])
def test_precisions_of_the_weights_are_refused(
    precision: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = refused(capsys, *FIT, f"--trainer.precision={precision}")
    assert f"precision {precision} would change the weights themselves; take bf16-mixed" in said


@pytest.mark.parametrize(
    ("trainer", "expected"),
    [
        ({"max_epochs": 5, "max_steps": -1}, True),
        ({"max_epochs": 6, "max_steps": -1}, False),
        ({"max_epochs": -1, "max_steps": -1}, False),
        ({"max_epochs": None, "max_steps": 40}, True),
        ({"max_epochs": None, "max_steps": 41}, False),
    ],
)
def test_a_run_is_finished_after_its_epochs_or_steps(trainer: dict[str, int], expected: bool) -> None:
    assert is_finished({"epoch": 4, "step": 40}, trainer) is expected


def test_a_run_that_was_stopped_early_is_finished_until_it_gets_more_patience(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = yaml.safe_load((folder / "recipe.yaml").read_text())
    options = {"monitor": "val_loss", "patience": 1, "min_delta": 100.0}
    recipe["trainer"]["callbacks"] = [{"class_path": "EarlyStopping", "init_args": options}]
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    more = [*FIT, "--trainer.max_epochs=9"]
    etesian(*more)
    last = folder / "run" / "checkpoints" / "last" / "weights.safetensors"
    before = last.read_bytes()
    capsys.readouterr()
    etesian(*more)
    said = capsys.readouterr().out
    assert said.startswith("run is already finished, stopped after 2 epochs; to go on, give its early stopping more")
    assert last.read_bytes() == before
    options["patience"] = 2
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    etesian(*more)
    assert "epoch 3/9" in capsys.readouterr().out
    assert json.loads((last.parent / "description.json").read_text())["epoch"] == 2


@pytest.mark.parametrize(
    ("stopped", "changed", "expected"),
    [
        (True, {}, True),
        (False, {}, False),
        (True, {"callbacks": [{"class_path": "EarlyStopping", "init_args": {"patience": 9}}]}, False),
        (True, {"max_time": "00:02:00:00"}, False),
        (True, {"min_epochs": 6}, False),
        (True, {"min_steps": 41}, False),
        (True, {"max_epochs": 100, "precision": "32-true"}, True),
    ],
)
def test_what_stopped_a_run_stops_it_again_unless_it_is_changed(
    stopped: bool, changed: dict[str, object], expected: bool, tmp_path: Path
) -> None:
    trainer = {"callbacks": [{"class_path": "EarlyStopping", "init_args": {"patience": 3}}], "max_time": "00:01:00:00"}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump({"trainer": trainer}))
    last = {"epoch": 4, "step": 40, "stopped": stopped}
    assert was_stopped(tmp_path, last, trainer | changed) is expected
    assert not was_stopped(tmp_path, {"epoch": 4, "step": 40}, trainer)


@pytest.mark.parametrize(
    ("place", "value", "said"),
    [
        ("data.init_args.train", ["2001-01-01", "2001-01-07"], r"data.init_args.train was"),
        (
            "data.class_path",
            "etesian.distance.data.LagData",
            r"data.class_path was etesian.forecast.data.ForecastData in",
        ),
        ("seed_everything", 1, r"begun otherwise: seed_everything was 0 in .*, not 1"),
        ("model.init_args.network.init_args.heads", 2, r"another network: .*heads was 1 in .*, not 2; leave"),
        ("model.init_args.optimizer.class_path", "torch.optim.SGD", r"optimizer.class_path was torch.optim.AdamW"),
        ("data.init_args.workers", 4, None),
        ("data.init_args.batch_size", 4, None),
        ("model.init_args.optimizer.init_args.lr", 1e-5, None),
        ("model.init_args.of_another_version", True, None),
        ("trainer.max_epochs", 20, None),
    ],
)
def test_what_cannot_take_effect_any_more_is_refused(
    place: str, value: object, said: str | None, tmp_path: Path
) -> None:
    (tmp_path / "recipe.yaml").write_text(RECIPE.format(store="s.zarr"))
    changed = yaml.safe_load(RECIPE.format(store="s.zarr"))
    *outer, name = place.split(".")
    inner = changed
    for part in outer:
        inner = inner[part]
    inner[name] = value
    if said is None:
        refuse_changes(tmp_path, changed, {}, finished=False)
    else:
        with pytest.raises(RecipeError, match=said):
            refuse_changes(tmp_path, changed, {}, finished=False)


def test_stores_may_lie_elsewhere_if_they_hold_the_same(store: str, make_store: object, tmp_path: Path) -> None:
    from etesian.store.reader import Store

    other = make_store(seed=5)  # type: ignore[operator]
    (tmp_path / "here.zarr").symlink_to(store)
    recipe = yaml.safe_load(RECIPE.format(store=store))
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    last = {"provenance": {"stores": {"gone.zarr": Store(store).fingerprint}}}
    recipe["data"]["init_args"]["stores"] = [str(tmp_path / "here.zarr")]
    refuse_changes(tmp_path, recipe, last, finished=False)
    recipe["data"]["init_args"]["stores"] = [other]
    with pytest.raises(RecipeError, match=r"data\.init_args\.stores was"):
        refuse_changes(tmp_path, recipe, last, finished=False)
