"""A recipe that its parser refuses is answered with one sentence, found in the recipe and not in the parser's words."""

import inspect
from argparse import ArgumentError
from collections.abc import Callable
from pathlib import Path
from typing import Any, Union

import lightning as L
import pytest
import yaml
from jsonargparse import Namespace

from etesian.training.mistakes import explain
from etesian.training.recipes import TrainingCLI, train

RECIPE = """
data:
  class_path: etesian.ForecastData
  init_args: {stores: [s.zarr], leads: [24], train: ["2001-01-01", "2001-01-08"], validate: ["2001-02", "2001-03"]}
model:
  class_path: etesian.ForecastTask
  init_args:
    network: {class_path: ClimaX, init_args: {patch: 2, dim: 16}}
trainer: {max_epochs: 1, accelerator: cpu}
"""
Parse = Callable[..., Namespace]


class _Parsed(Exception):
    pass


@pytest.fixture
def parse(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Parse:
    """Parse a recipe with some of its parts changed, and options, and return what was read."""

    def stop(cli: TrainingCLI) -> None:
        raise _Parsed(cli.config["fit"])

    monkeypatch.setattr(TrainingCLI, "before_instantiate_classes", stop)
    monkeypatch.chdir(tmp_path)

    def parsed(changes: dict[str, Any], *options: str) -> Namespace:
        recipe = yaml.safe_load(RECIPE)
        for place, value in changes.items():
            *outer, last = place.split(".")
            inner = recipe
            for name in outer:
                inner = inner[name]
            inner[last] = value
            if value is None:
                del inner[last]
        Path("recipe.yaml").write_text(yaml.safe_dump(recipe))
        with pytest.raises(_Parsed) as caught:
            train(["fit", "--config=recipe.yaml", *options])
        return caught.value.args[0]  # type: ignore[no-any-return]

    return parsed


def test_a_whole_number_of_batches_is_no_share_of_them_whatever_python_made_first(
    parse: Parse, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Unions of the same types are equal in any order, and the one that was made first in a process may stand for all.
    types = inspect.unwrap(L.Trainer.__init__).__annotations__
    for name in ("limit_train_batches", "limit_val_batches", "overfit_batches"):
        monkeypatch.setitem(types, name, Union[float, int, None])  # noqa: UP007
    read = parse({"trainer.limit_train_batches": 1}, "--trainer.limit_val_batches=1").trainer
    assert [type(read[name]) for name in ("limit_train_batches", "limit_val_batches")] == [int, int]
    read = parse({"trainer.limit_train_batches": 1.0}, "--trainer.limit_val_batches=0.5").trainer
    assert (read.limit_train_batches, type(read.limit_train_batches), read.limit_val_batches) == (1.0, float, 0.5)


NETWORK, TASK = "model.init_args.network", "model.init_args"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"data.init_args.leeds": [24]}, "ForecastData has no option 'leeds'; did you mean 'leads'?"),
        (
            {"data.init_args": {"region": -20, 30: 5}},
            "no option '30'; put what has commas in it, such as a region, in quotes",
        ),
        ({f"{NETWORK}.init_args.heeds": 2}, "ClimaX has no option 'heeds'; did you mean 'heads'?"),
        ({"trainer.max_epoch": 2}, "Trainer has no option 'max_epoch'; did you mean 'max_epochs'?"),
        ({"modle": {"class_path": "x"}}, "a recipe has no part 'modle'; did you mean 'model'?"),
        (
            {f"{TASK}.optimizer": {"class_path": "torch.optim.AdamW", "init_args": {"beta": [0.9, 0.95]}}},
            "AdamW has no option 'beta'; did you mean 'betas'?",
        ),
        ({f"{TASK}.start": {"chekpoint": "r"}}, "Start has no option 'chekpoint'; did you mean 'checkpoint'?"),
        ({"data.init_args.batch_size": "many"}, "data.init_args.batch_size is 'many', but must be int"),
        ({"data.init_args.leads": "day"}, "data.init_args.leads is 'day', but must be list[int]"),
        ({"trainer.max_epochs": "all"}, "trainer.max_epochs is 'all', but must be int or null"),
        ({f"{TASK}.predict": "chnge"}, "model.init_args.predict cannot be 'chnge'; did you mean 'change'?"),
        ({f"{NETWORK}.init_args.dim": "wide"}, "model.init_args.network.init_args.dim is 'wide', but must be int"),
        ({"data.init_args.leads": None}, "data.init_args lacks 'leads', without which there is no ForecastData"),
        ({NETWORK: None}, "model.init_args lacks 'network', without which there is no ForecastTask"),
        ({"model": None}, "the recipe lacks its part 'model', which names a class and its arguments"),
        (
            {"trainer.callbacks": [{"class_path": "EarlyStopping", "init_args": {}}]},
            "trainer.callbacks[0].init_args lacks 'monitor', without which there is no EarlyStopping",
        ),
        (
            {f"{NETWORK}.class_path": "etesian.ClimX"},
            "model.init_args.network names etesian.ClimX, which there is not; did you mean 'ClimaX'?",
        ),
        ({NETWORK: "ClimX"}, "model.init_args.network names ClimX, which there is not; did you mean 'ClimaX'?"),
        (
            {f"{TASK}.optimizer": {"class_path": "torch.optim.AdamX"}},
            "model.init_args.optimizer names torch.optim.AdamX, which there is not; did you mean 'Adam'?",
        ),
        (
            {f"{TASK}.optimizer": {"class_path": "torch.optimm.Adam"}},
            "names torch.optimm.Adam, which cannot be imported (No module named 'torch.optimm')",
        ),
        ({"trainer.callbacks": ["EarlyStoping"]}, "which there is not; did you mean 'EarlyStopping'?"),
        ({"trainer.logger": "TensorBordLogger"}, "which there is not; did you mean 'TensorBoardLogger'?"),
        (
            {"data.class_path": "etesian.ForecastTask"},
            "data names etesian.forecast.task.ForecastTask, which is not a TaskData; did you mean 'ForecastData'?",
        ),
    ],
)
def test_a_wrong_recipe_is_one_sentence_that_names_the_place(changes: dict[str, Any], said: str, parse: Parse) -> None:
    with pytest.raises(ArgumentError) as caught:
        parse(changes)
    assert said in caught.value.message
    assert "\n" not in caught.value.message


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--data.leeds=[24]"], "ForecastData has no option 'leeds'; did you mean 'leads'?"),
        (["--model.network.dim", "wide"], "model.init_args.network.init_args.dim is 'wide', but must be int"),
        (
            ["--trainer.callbacks+=EarlyStoping"],
            "names EarlyStoping, which there is not; did you mean",
        ),
        (["--model.network=UNet"], "model.init_args.network.init_args lacks 'leads', without which there is no UNet"),
        (
            ["--model.network=UNet", "--model.network.leads=[24]", "--model.network.widht=3"],
            "UNet has no option 'widht'",
        ),
        (["--model.network.class_path=GapFiller", "--model.network.dimm=8"], "GapFiller has no option 'dimm'"),
        (
            ["--trainer.logger=TensorBoardLogger", "--trainer.logger.nam=x", "--data.leads=x"],
            "'x', but must be list[int]",
        ),
        (["--seed_everything=x"], "seed_everything is 'x', but must be bool or int"),
        (["--trainer.logger.name=x"], "such as --trainer.logger=lightning.pytorch.loggers.TensorBoardLogger"),
        (["-c", "nowhere.yaml"], "there is no recipe nowhere.yaml; `etesian recipes` lists those that ship"),
        (["--datta=x"], "a recipe has no part 'datta'; did you mean 'data'?"),
        (["planet"], "'planet' is no option; name what to set, such as --trainer.max_epochs=20"),
    ],
)
def test_a_wrong_option_is_one_sentence(options: list[str], said: str, parse: Parse) -> None:
    with pytest.raises(ArgumentError) as caught:
        parse({}, *options)
    assert said in caught.value.message
    assert "\n" not in caught.value.message


@pytest.mark.parametrize(
    ("option", "part", "argument", "value"),
    [
        ("--model.optimizer.lr=1e-3", "optimizer", "lr", 1e-3),
        ("--model.init_args.optimizer.init_args.lr=1e-3", "optimizer", "lr", 1e-3),
        ("--model.content.run=runs/x", "content", "run", "runs/x"),
    ],
)
def test_an_option_of_a_class_that_is_not_named_says_how_to_name_it(
    option: str, part: str, argument: str, value: object, parse: Parse
) -> None:
    with pytest.raises(ArgumentError) as caught:
        parse({}, option)
    said = caught.value.message
    assert f"model.init_args.{part} names no class that '{argument}' is an option of; give the class first" in said
    remedy = said.rpartition(" ")[2]
    assert parse({}, remedy, option).model.init_args[part].init_args[argument] == value


def test_what_only_the_parser_knows_is_its_own_first_line(parse: Parse) -> None:
    parse({})
    told = ArgumentError(None, "something else\nand more of it")
    assert explain(told, ["fit", "--config=recipe.yaml"], []) == "something else"
    told.__cause__ = ValueError("what began it.\nmore")
    assert explain(told, ["fit", "--config=recipe.yaml", "--trainer.devices=2"], []) == "what began it"
