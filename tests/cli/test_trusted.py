"""A recipe names what training is made of; nothing else is imported or called."""

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from jsonargparse import Namespace

from etesian.cli.main import main, trust
from etesian.core.errors import RecipeError
from etesian.training.trusted import check, read

RECIPE = """
data:
  class_path: etesian.forecast.data.ForecastData
  init_args: {{stores: [{store}], leads: [24], train: [2001-01-01, 2001-01-08], validate: [2001-01-09, 2001-01-15]}}
model:
  class_path: etesian.forecast.task.ForecastTask
  init_args:
    network: {{class_path: etesian.networks.climax.ClimaX, init_args: {{patch: 2, dim: 16, depth: 1, heads: 2}}}}
trainer: {{max_epochs: 1, enable_progress_bar: false, accelerator: cpu}}
"""
OPTIMIZER = "--model.init_args.optimizer={{class_path: {}, init_args: {}}}"


@pytest.fixture
def recipe(store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "recipe.yaml").write_text(RECIPE.format(store=store))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "recipe.yaml"


@pytest.mark.parametrize(
    ("option", "said"),
    [
        (OPTIMIZER.format("os.mkdir", "{path: ran}"), "the recipe names os.mkdir, but only what is in torch"),
        (
            OPTIMIZER.format("torch.utils.collect_env.run", "{command: mkdir ran}"),
            "names torch.utils.collect_env.run, which is no optimizer",
        ),
        (
            OPTIMIZER.format("torch.nn.Linear", "{in_features: 1, out_features: 1}"),
            "model.init_args.optimizer names torch.nn.Linear, which is not an Optimizer",
        ),
        ("--model.init_args.network.class_path=unasked.Net", "names unasked.Net, but only what is in torch"),
        ("--trainer.callbacks+=unasked.Watch", "names unasked.Watch, but only what is in torch"),
        ("--trainer.callbacks+=torch.nn.ReLU", "trainer.callbacks[0] names torch.nn.ReLU, which is not a Callback"),
        (
            "--trainer.callbacks+={class_path: LambdaCallback, init_args: {setup: torch.hub.load}}",
            "trainer.callbacks[0].init_args.setup names torch.hub.load, which is no optimizer, callback, logger",
        ),
        (
            "--model.init_args.optimizer={class_path: torch.optim.SGD, dict_kwargs: {a: [{class_path: unasked.X}]}}",
            "model.init_args.optimizer.dict_kwargs.a[0] names unasked.X; where you trust it, add --trust unasked",
        ),
        ("--trainer.strategy=unasked.Strategy", "strategy"),
        ("--model.help=unasked.Task", "names unasked.Task, but only what is in torch"),
    ],
)
def test_what_is_no_part_of_training_is_neither_imported_nor_called(
    option: str, said: str, recipe: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (recipe.parent / "unasked.py").write_text("open('ran', 'w').close()")
    with pytest.raises(SystemExit) as stop:
        main(["fit", "-c", "recipe.yaml", option])
    assert stop.value.code in (1, 2)
    assert said in capsys.readouterr().err
    assert {path.name for path in recipe.parent.iterdir()} == {"recipe.yaml", "unasked.py"}


def test_what_is_trusted_may_be_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine_to_trust.py").write_text("def average(*_):\n    return None\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    assert trust(["-c", "r.yaml", "--trust", "mine_to_trust", "--run=x"]) == ["-c", "r.yaml", "--run=x"]
    named = recipe_with(sys.modules["mine_to_trust"].average)
    with pytest.raises(RecipeError, match=r"names mine_to_trust\.average, .* add --trust mine_to_trust"):
        check(named, [])
    check(named, ["mine_to_trust"])
    with pytest.raises(RecipeError, match="--trust takes a module that can be imported, not 'nowhere'"):
        trust(["--trust=nowhere"])


def recipe_with(function: Any) -> Namespace:
    return Namespace(data=Namespace(), model=Namespace(), trainer=Namespace(callbacks=[{"init_args": {"f": function}}]))


def test_classes_that_training_is_made_of_may_be_named() -> None:
    check(recipe_with(torch.optim.AdamW), [])
    with pytest.raises(RecipeError, match=r"trainer.callbacks\[0\].init_args.f names torch.nn"):
        check(recipe_with(torch.nn.Linear), [])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b"\xff\x00\xe9", "is no text in UTF-8; a recipe is a YAML file"),
        (b"", "is empty; a recipe has the parts data, model and trainer"),
        (b"- data\n- model", "is a list; a recipe has the parts"),
        (b"model: [1", "is no YAML file"),
        (b"model: !!python/object/apply:os.mkdir [ran]", "is no YAML file"),
        (b"data: {}", "'data' in .* needs class_path and init_args"),
        (b"data: {stores: [a]}", "'data' in .* needs class_path and init_args"),
        (b"data: {class_path: [a]}", "'data' in .* needs class_path and init_args"),
        (b"model: words", "'model' in .* is a str; it holds options by name"),
        (b"trainer: [1]", "'trainer' in .* is a list"),
        (b"a: &a [*a]", "aliases"),
        (
            "\n".join(f"k{i}: &k{i} [{', '.join([f'*k{i - 1}' if i else '1'] * 9)}]" for i in range(9)).encode(),
            "aliases",
        ),
        (b"trainer: {max_epochs: 1}\nmodel: {x: [{a: 1, a: 2}]}\ntrainer: {}", "r.yaml says 'trainer' twice, and the"),
    ],
)
def test_a_file_that_is_no_recipe_is_refused(text: bytes, said: str, tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_bytes(text)
    with pytest.raises(RecipeError, match=said) as caught:
        read(tmp_path / "r.yaml")
    assert "\n" not in str(caught.value)


def test_aliases_of_ordinary_size_are_read(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text("x: &x {lr: 1.0e-3}\ntrainer: {a: *x, b: *x}")
    assert read(tmp_path / "r.yaml")["trainer"] == {"a": {"lr": 1e-3}, "b": {"lr": 1e-3}}


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ("--trainer.accelerator=quantum", "invalid accelerator name: `accelerator='quantum'`"),
        ("--trainer.max_epochs=-7", "`max_epochs` must be a non-negative integer or -1"),
        ("--trainer.devices=0", "devices"),
        ("--ckpt_path=recipe.yaml", "recipe.yaml is a file, but a checkpoint here is a folder"),
    ],
)
def test_options_of_the_trainer_that_cannot_be_are_refused_in_a_sentence(
    option: str, said: str, recipe: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["fit", "-c", "recipe.yaml", option])
    assert stop.value.code == 1
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert last.startswith("etesian: ")
    assert said in last
