"""What training writes down: the loggers that a recipe names, in the run's directory, and a line for each epoch."""

import copy
import importlib
import importlib.util
import inspect
import json
import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import lightning as L
import yaml
from jsonargparse import Namespace
from lightning.pytorch import loggers
from lightning.pytorch.loggers import Logger

from etesian.core.errors import RecipeError
from etesian.training.trusted import MODULES, is_within, plain

RUN = "{run}"
"""Stands for the run's directory in a logger's `save_dir`, so that a run that was moved logs where it lies now."""

NOTES = "loggers.json"
"""Under which identities the loggers of a run log, for them to go on."""

_IDENTITIES = ("experiment_key", "run_id", "id")
"""What the loggers of services call the argument by which they go on with what they have logged."""

_PACKAGES = {
    "CometLogger": ("comet_ml", "comet-ml"),
    "LitLogger": ("litlogger", "litlogger"),
    "MLFlowLogger": ("mlflow", "mlflow"),
    "TensorBoardLogger": ("tensorboard", "tensorboard"),
    "WandbLogger": ("wandb", "wandb"),
}
"""Module and package that Lightning's loggers need."""


def with_folders(recipe: Any, trusted: Sequence[str]) -> Any:
    """Return a recipe whose loggers write into the run's directory where it does not say otherwise.

    Args:
        recipe: as plain data.
        trusted: modules that it may name classes of beyond the known ones.
    """
    trainer = recipe.get("trainer") if isinstance(recipe, dict) else None
    if not isinstance(trainer, dict) or "logger" not in trainer:
        return recipe
    return recipe | {"trainer": trainer | {"logger": _with_folder(trainer["logger"], trusted)}}


def options_with_folders(words: Sequence[str], trusted: Sequence[str]) -> Iterator[str]:
    """Go through the words of a command line, with the folders of the loggers among them; see `with_folders`."""
    given = iter(words)
    for word in given:
        option, equals, value = word.partition("=")
        option = option.removesuffix(".class_path")
        if option.removesuffix("+") != "--trainer.logger":
            yield word
            continue
        value = value if equals else next(given, "")
        try:
            asked = plain(value)
        except yaml.YAMLError:
            asked = value
        chosen = _with_folder(asked, trusted)
        yield f"{option}={value if chosen == asked else json.dumps(chosen)}"


def _with_folder(given: Any, trusted: Sequence[str]) -> Any:
    if isinstance(given, list):
        return [_with_folder(each, trusted) for each in given]
    named = {"class_path": given} if isinstance(given, str) else given
    kind = _class(named["class_path"], trusted) if isinstance(named, dict) and "class_path" in named else None
    options = _options(kind)
    chosen = (named.get("init_args") or {}) if isinstance(named, dict) else {}
    if "save_dir" not in options or {"save_dir", "dir"} & chosen.keys():
        return given
    usual = options["save_dir"].default
    folder = os.path.normpath(os.path.join(RUN, usual if isinstance(usual, str | os.PathLike) else ""))
    return named | {"init_args": {"save_dir": folder, **chosen}}


def _class(path: Any, trusted: Sequence[str]) -> type | None:
    """Return a class by its path, or one of Lightning's loggers by its name; None is for the parser to judge."""
    module, _, name = str(path).rpartition(".")
    if module and not is_within(module, (*MODULES, *trusted)):
        return None
    try:
        found = getattr(importlib.import_module(module) if module else loggers, name, None)
    except ImportError:
        return None
    return found if inspect.isclass(found) else None


def _options(kind: type | None) -> dict[str, inspect.Parameter]:
    return {} if kind is None else dict(inspect.signature(kind).parameters)


def placed(given: Any, run: Path, trusted: Sequence[str], *, going_on: bool) -> Any:
    """Return what a parsed recipe says of loggers for the directory of a run.

    Args:
        given: a logger's class and arguments, or several, or true, false or None.
        run: directory.
        trusted: modules that the recipe may name classes of beyond the known ones.
        going_on: with what the loggers have logged before.

    Raises:
        RecipeError: if a logger's package is not installed.
    """
    notes = json.loads((run / NOTES).read_text()) if going_on and (run / NOTES).exists() else {}
    several = given if isinstance(given, list) else [given]
    made = [_placed(each, number, run, notes, trusted) for number, each in enumerate(several)]
    return made if isinstance(given, list) else made[0]


def _placed(given: Any, number: int, run: Path, notes: dict[str, str], trusted: Sequence[str]) -> Any:
    if not isinstance(given, Namespace):
        return given
    made = copy.deepcopy(given)
    kind = _class(made.class_path, trusted)
    name = made.class_path.rpartition(".")[2]
    module, package = _PACKAGES.get(name, ("lightning", ""))
    found = importlib.util.find_spec(module)
    # A folder of that name, such as the one that a service writes into, can be found too, but has no file of its own.
    if found is None or found.origin is None:
        raise RecipeError(
            f"trainer.logger names {name}, whose package is not installed; run `pip install {package}`, or leave it out"
        )
    options = made.get("init_args") or Namespace()
    made.init_args = options
    if isinstance(options.get("save_dir"), str):
        options.save_dir = options.save_dir.replace(RUN, str(run))
    for option in _identity(kind):
        if options.get(option) is None and _key(number, name) in notes:
            options[option] = notes[_key(number, name)]
    return made


def _identity(kind: type | None) -> list[str]:
    return [option for option in _IDENTITIES if option in _options(kind)][:1]


def _key(number: int, name: str) -> str:
    return f"{number} {name}"


def keep_identities(given: Sequence[Logger], run: Path) -> None:
    """Note under which identities the loggers of a recipe have begun to log, for `placed` to go on with.

    Args:
        given: loggers in the recipe's order.
        run: directory.
    """
    notes = {
        _key(number, type(each).__name__): str(each.version)
        for number, each in enumerate(given)
        if _identity(type(each)) and each.version is not None
    }
    if notes:
        (run / NOTES).write_text(json.dumps(notes, indent=1))


class EpochLines(L.Callback):
    """Prints one line per epoch: its number, losses, seconds, and whether it is the best so far."""

    def __init__(self) -> None:
        self.lowest = float("inf")
        self.began = 0.0

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Know the best of a run that goes on."""
        for each in trainer.checkpoint_callbacks:
            score = getattr(each, "best_model_score", None)
            if score is not None:
                self.lowest = float(score)

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Begin to count seconds."""
        self.began = time.monotonic()

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Print the line."""
        found = trainer.callback_metrics
        parts = [f"epoch {trainer.current_epoch + 1}" + (f"/{trainer.max_epochs}" if trainer.max_epochs else "")]
        for name, label in (("train_loss_epoch", "train loss"), ("val_loss", "validation loss")):
            if name in found:
                parts.append(f"{label} {float(found[name]):.4g}")
        parts.append(f"{time.monotonic() - self.began:.0f} s")
        score = float(found.get("val_loss", float("inf")))
        if score < self.lowest:
            self.lowest = score
            parts.append("best so far")
        if trainer.is_global_zero:
            print(", ".join(parts), flush=True)
