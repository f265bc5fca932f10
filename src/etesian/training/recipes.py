"""Training from a recipe, in a run directory: LightningCLI, from the command line and from Python."""

import json
import logging
import sys
import tempfile
import warnings
from argparse import ArgumentError
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, Union, get_args

import lightning as L
import torch
import yaml
from jsonargparse import set_loader, set_parsing_settings
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import LearningRateMonitor, RichProgressBar
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI, SaveConfigCallback
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger

import etesian.training.sharding  # noqa: F401  makes strategy: sharded known
from etesian.core import Channel, Layout
from etesian.core.errors import EtesianError, RecipeError, first_line
from etesian.core.names import recipe_text
from etesian.core.outputs import claim_run, mark
from etesian.core.statistics import Statistics
from etesian.networks.network import Network, Transfer
from etesian.networks.unet import UNet
from etesian.nn.dropout import Dropout, DropPath
from etesian.samples.loading import TaskData
from etesian.training.checkpoint import SafeCheckpoints, best_and_last, read_description
from etesian.training.going_on import is_finished, refuse_changes, was_stopped
from etesian.training.logs import EpochLines, keep_identities, options_with_folders, placed, with_folders
from etesian.training.mistakes import causes, explain, maker
from etesian.training.task import Task
from etesian.training.trusted import by_public_names, check, plain, read, restrict, spelled_out

# The data module gives these to the task; without this, each of their fields would become an option.
set_parsing_settings(subclasses_enabled=[Layout, Statistics])


class _FinishedError(Exception):
    """Nothing is left to train."""


class SaveRecipe(SaveConfigCallback):
    """Keeps the complete recipe, defaults included, in the run directory, and gives it to the loggers."""

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Write the recipe when training begins."""
        if stage == "fit" and trainer.is_global_zero:
            path = Path(trainer.default_root_dir) / "recipe.yaml"
            path.parent.mkdir(parents=True, exist_ok=True)
            mark(path.parent, "run")
            self.parser.save(self.config, path, skip_unset=False, skip_validation=True, overwrite=True, multifile=False)
            recipe = path.read_text(encoding="utf-8")
            path.write_text(by_public_names(recipe), encoding="utf-8")
            _, *asked = trainer.loggers
            for logger in asked:
                logger.log_hyperparams(plain(recipe))
            keep_identities(asked, path.parent)


class TrainingCLI(LightningCLI):
    """Builds data, task and trainer from a recipe and gives the run a directory of its own."""

    keeps: type[SaveConfigCallback] | None = SaveRecipe
    """What keeps the recipe in the run directory."""
    command: str
    run_directory: Path
    trusted: tuple[str, ...] = ()
    """Modules that the recipe may name something of beyond the known ones."""

    @classmethod
    def subcommands(cls) -> dict[str, set[str]]:
        """Return the command that is asked for, with the arguments the recipe fills in: a parser of each takes long."""
        more = {"train_dataloaders", "val_dataloaders"} if cls.command == "fit" else {"verbose"}
        return {cls.command: {"model", "dataloaders", "datamodule", "weights_only"} | more}

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Let the task see what the data holds, so that no recipe says it twice."""
        parser.add_argument("--run", type=str | None, default=None, help="run directory; default runs/RECIPE")
        parser.link_arguments("data.layout", "model.init_args.layout", apply_on="instantiate")
        parser.link_arguments("data.statistics", "model.init_args.statistics", apply_on="instantiate")
        for argument in parser._actions:
            # Of the trainer 1 is one batch and 1.0 all of them, but Python gives unions of the same types in the order
            # of whichever was made first in the process, and what is tried first takes the number.
            kinds = get_args(getattr(argument, "_typehint", None))
            if {int, float} <= set(kinds):
                argument._typehint = Union[(int, *(kind for kind in kinds if kind is not int))]

    def _parse_ckpt_path(self) -> None:
        """Take no options from a checkpoint: the recipe is all there is."""

    def before_instantiate_classes(self) -> None:
        """Choose the run directory and go on from its last checkpoint if it has one."""
        config = self.config[self.subcommand]
        check(config, self.trusted)
        given = config.get("config") or []
        name = Path(str(given[0])).stem if given else "run"
        self.run_directory = Path(config.run or f"runs/{name}")
        if self.subcommand == "fit":
            claim_run(self.run_directory)
            self._go_on(config)
        checkpoints = self.run_directory / "checkpoints"
        wanted = checkpoints / ("last" if self.subcommand == "fit" else "best")
        if config.get("ckpt_path") is None and wanted.exists():
            config.ckpt_path = str(wanted)

    def _go_on(self, config: Any) -> None:
        """See what there is to go on with, before anything is read or made."""
        folder = self.run_directory / "checkpoints" / "last"
        if config.get("ckpt_path") is not None or not folder.exists():
            return
        last = read_description(folder)
        recipe = plain(self._parser(self.subcommand).dump(config, skip_unset=False, skip_validation=True))
        finished = is_finished(last, recipe["trainer"])
        stopped = was_stopped(self.run_directory, last, recipe["trainer"])
        refuse_changes(self.run_directory, recipe, last, finished=finished or stopped)
        after = f"after {last['epoch'] + 1} epochs"
        if finished:
            raise _FinishedError(
                f"{self.run_directory} is already finished, {after}; to go on, give a larger --trainer.max_epochs"
            )
        if stopped:
            raise _FinishedError(
                f"{self.run_directory} is already finished, stopped {after}; to go on, give its early stopping more "
                "patience in the recipe's trainer.callbacks, or a larger trainer.max_time"
            )

    def instantiate_classes(self) -> None:
        """Make data, task and trainer; the recipe that is kept does not say where the run lies.

        Raises:
            RecipeError: if a package is not installed, or a class of this library cannot be made with its options.
        """
        config = self.config[self.subcommand]
        asked, going_on = config.trainer.logger, config.get("ckpt_path") is not None
        config.trainer.logger = placed(asked, self.run_directory, self.trusted, going_on=going_on)
        try:
            super().instantiate_classes()
        except (ImportError, ValueError) as error:
            # The parser wraps what a constructor raises.
            chain = list(causes(error))
            if (absent := next((each for each in chain if isinstance(each, ImportError)), None)) is not None:
                raise RecipeError(f"a class that the recipe names lacks what it needs: {first_line(absent)}") from error
            if self.trusted or any(isinstance(each, EtesianError) for each in chain):
                raise
            raise RecipeError(f"{maker(chain[-1])} cannot be made as told: {first_line(chain[-1])}") from error
        config.trainer.logger = asked

    def instantiate_trainer(self, **kwargs: Any) -> L.Trainer:
        """Build the trainer with logs and checkpoints inside the run directory."""
        run = self.run_directory
        callbacks = [*best_and_last(run / "checkpoints", has_best=self.model.has_best), LearningRateMonitor("step")]
        if sys.stdout.isatty() and self.config[self.subcommand].trainer.enable_progress_bar is not False:
            callbacks.append(RichProgressBar())
        else:
            callbacks.append(EpochLines())
            kwargs["enable_progress_bar"] = False
        self.trainer_defaults = {"callbacks": callbacks}
        asked = self.config_init[self.subcommand].trainer.logger
        if asked is None or asked is True:
            asked = TensorBoardLogger(str(run), name="tensorboard")
        loggers = asked if isinstance(asked, list) else [asked] if asked else []
        return self._built(
            default_root_dir=str(run),
            logger=[CSVLogger(run, name="log"), *loggers],
            plugins=[SafeCheckpoints()],
            **kwargs,
        )

    def _built(self, **kwargs: Any) -> L.Trainer:
        """Return the recipe's trainer with what this library asks for.

        Raises:
            RecipeError: if it cannot be made.
        """
        try:
            return super().instantiate_trainer(use_distributed_sampler=False, **kwargs)
        except (MisconfigurationException, ValueError, TypeError, ImportError) as error:
            raise RecipeError(f"the trainer cannot be made: {first_line(error)}") from error

    def before_fit(self) -> None:
        """Tell the task what it is about to see, for its checkpoints."""
        self.model.provenance = self.datamodule.provenance
        for said in (told_of_holes(self.model.network, self.datamodule.holes()), told_of_chance(self.model)):
            if said and self.trainer.is_global_zero:
                print(said)
        if self.model.transfer is not None:
            self.model.provenance["transfer"] = self.model.transfer.outcomes
            if self.trainer.is_global_zero:
                print(_summary(self.model.transfer))


def written_out(recipe: str | Path | Mapping[str, Any], folder: Path) -> Path:
    """Return the file of a recipe, written into a folder where it is one that ships or a mapping.

    Raises:
        RecipeError: if there is no such recipe.
    """
    if isinstance(recipe, Mapping):
        path = folder / "recipe.yaml"
        path.write_text(yaml.safe_dump(dict(recipe), sort_keys=False), encoding="utf-8")
        return path
    if Path(recipe).is_file():
        return Path(recipe)
    path = folder / f"{recipe}.yaml"
    path.write_text(recipe_text(str(recipe)), encoding="utf-8")
    return path


def fit(
    recipe: str | Path | Mapping[str, Any],
    run: str | Path | None,
    stores: Sequence[Any] | None,
    epochs: int | None,
    options: Mapping[str, Any],
    trust: Sequence[str],
) -> Path:
    """Train from a recipe and return the run's directory; see `etesian.fit`.

    Raises:
        RecipeError: if there is no such recipe, or its options do not fit together.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = written_out(recipe, Path(folder))
        directory = Path(f"runs/{path.stem}" if run is None else run)
        words = ["fit", f"--config={path}", f"--run={directory}", *as_words(stores, epochs, options)]
        try:
            train(words, trust)
        except ArgumentError as error:
            raise RecipeError(error.message) from error
    return directory


def as_words(stores: Sequence[Any] | None, epochs: int | None, options: Mapping[str, Any]) -> Iterator[str]:
    """Write what takes the place of a recipe's values as options of the command line."""
    if stores is not None:
        yield f"--data.init_args.stores={json.dumps([str(getattr(each, 'path', each)) for each in stores])}"
    if epochs is not None:
        yield f"--trainer.max_epochs={epochs}"
    for name, value in options.items():
        yield f"--{name}={value if isinstance(value, str) else json.dumps(value)}"


def told_of_chance(task: Task) -> str:
    """Say what makes members differ in training and not in forecasts, whose spread then lacks it, if anything."""
    modules = list(task.network.modules()) if getattr(task, "members", None) else []
    shares = [each.share for each in modules if isinstance(each, (Dropout, DropPath))]
    shares += [each.p for each in modules if isinstance(each, torch.nn.Dropout2d)]
    if not any(shares) and not any(isinstance(each, UNet) and each.noise for each in modules):
        return ""
    return (
        "Dropout and noise on the inputs make members differ in training only, so that forecasts spread too little: "
        "set dropout, drop_path and noise of the network to 0"
    )


def told_of_holes(network: Network, holes: Mapping[Channel, float]) -> str:
    """Say what stands in for missing inputs of a network that does not know of them; nothing if it does.

    Args:
        network: to train.
        holes: share of missing values of each input that has any.

    Raises:
        RecipeError: if the network could know of them, but was not told that there are any.
    """
    if not holes or network.takes_holes:
        return ""
    parts = [f"{channel} ({share:.2g} of its values)" for channel, share in sorted(holes.items(), key=lambda i: -i[1])]
    named = ", ".join(parts[:4]) + (f" and {len(parts) - 4} more" if len(parts) > 4 else "")
    kind = type(network).__name__
    if hasattr(network, "validity"):
        raise RecipeError(
            f"values are missing in {named}, and {kind} would take them for the mean; set validity: true among its "
            "arguments (--model.init_args.network.init_args.validity true)"
        )
    return f"Missing values enter {kind} as the mean, which it cannot tell from a hole: {named}"


def _summary(transfer: Transfer) -> str:
    """Say what training begins with: the number of tensors loaded, and everything else by name."""
    loaded = sum(outcome == "loaded" for outcome in transfer.outcomes.values())
    rest = [f"  {name}: {outcome}" for name, outcome in sorted(transfer.outcomes.items()) if outcome != "loaded"]
    return "\n".join([f"Begins with {loaded} trained tensors" + (", and" if rest else ""), *rest])


def train(
    arguments: list[str], trusted: Sequence[str] = (), kind: type[TrainingCLI] = TrainingCLI
) -> TrainingCLI | None:
    """Run one of the training commands; return what has done it, None if nothing was left to be done.

    Args:
        arguments: the command and its options.
        trusted: modules that the recipe may name something of beyond the known ones.
        kind: what builds data, task and trainer, and trains.

    Raises:
        EtesianError: if a recipe cannot be read, names what is neither known nor trusted, or asks for the impossible.
        ArgumentError: if a recipe or an option does not fit the classes that it names.
    """
    restrict(trusted)
    set_loader("yaml", lambda text: with_folders(plain(text), trusted), (yaml.YAMLError,))
    arguments = list(options_with_folders(spelled_out(arguments), trusted))
    for before, word in pairwise(["", *arguments]):
        recipe = word.removeprefix("--config=") if word.startswith("--config=") else word
        if (before in ("-c", "--config") or recipe != word) and Path(recipe).is_file():
            read(Path(recipe))
    TrainingCLI.trusted, TrainingCLI.command = tuple(trusted), arguments[0]
    logging.getLogger("lightning.pytorch.utilities.rank_zero").setLevel(logging.WARNING)
    for message in (
        ".*LeafSpec.*",
        "LightningCLI's args parameter.*",
        ".*does not have many workers.*",
        ".*litlogger.*",
        ".*exists and is not empty.*",
        ".*smaller than the logging interval.*",
    ):
        warnings.filterwarnings("ignore", message=message)
    try:
        return kind(
            Task,
            TaskData,
            args=arguments,
            subclass_mode_model=True,
            subclass_mode_data=True,
            save_config_callback=kind.keeps,
            auto_configure_optimizers=False,
            seed_everything_default=0,
            parser_kwargs={"prog": "etesian", "exit_on_error": False} | {arguments[0]: {"exit_on_error": False}},
        )
    except _FinishedError as done:
        print(done)
        return None
    except ArgumentError as error:
        raise ArgumentError(None, explain(error, arguments, trusted)) from error
    except ValueError as error:
        # The parser wraps what a constructor raises into a list of all it has tried.
        if not isinstance(error.__cause__, EtesianError):
            raise
        wrapped = error.__cause__
    # Not within the handler, whose error would be the context of its own cause: a circle that cannot be pickled.
    raise wrapped
