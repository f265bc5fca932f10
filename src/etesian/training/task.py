"""What every task shares: normalisation, optimiser, schedule, checkpoints."""

from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, ClassVar, Literal, TypeVar, cast, get_args

import lightning as L
import torch
from lightning.pytorch.callbacks import WeightAveraging
from lightning.pytorch.strategies import DDPStrategy, FSDPStrategy, ModelParallelStrategy
from torch import Tensor, distributed
from torch.optim import AdamW, Optimizer

from etesian.core import Batch, Channel, Fields, Frame, Layout
from etesian.core.constants import SECONDS_PER_HOUR
from etesian.core.errors import CheckpointError, DataError, RecipeError, first_line
from etesian.core.names import public_name
from etesian.core.recorded import Recorded
from etesian.core.statistics import Statistics
from etesian.networks.network import Network, Transfer
from etesian.nn.normalizer import Normalizer
from etesian.samples.batches import rank_and_world
from etesian.store.states import States
from etesian.training.going_on import (
    Options,
    apply_options,
    keep_patience,
    optimizer_options,
    redirect_schedules,
    schedules,
)
from etesian.training.optimizers import warmup_cosine
from etesian.training.randomness import RandomStates, draw_apart, random_states, restore

Precision = Literal["32-true", "16-mixed", "bf16-mixed"]

FLOAT32: Precision = "32-true"

PRECISIONS: tuple[Precision, ...] = get_args(Precision)

HALVES: dict[Precision, torch.dtype] = {"16-mixed": torch.float16, "bf16-mixed": torch.bfloat16}
"""What matrix products and convolutions are computed in; weights and answers stay in single precision."""

LOOK_EVERY = 50
"""Steps between two looks at the loss on an accelerator."""

Job = Literal["forecast", "fill", "downscale", "project", "distance"]

NetworkFactory = Callable[[Layout], Network]

OptimizerFactory = Callable[[Iterable[Any]], Optimizer]

D = TypeVar("D", bound=L.LightningDataModule)


class Task(L.LightningModule):
    """Owns the loss, the normalisation, the optimiser and its schedule; the network knows none of them.

    Args:
        network: builds the network for a layout.
        layout: what goes in and what comes out.
        statistics: of every channel of the layout.
        anomalies: normalise about the seasonal cycle of each grid point instead of about one mean per channel.
        optimizer: builds the optimiser from parameter groups.
        warmup_steps: optimiser steps over which the learning rate rises; afterwards it falls along a cosine.
    """

    job: ClassVar[Job]
    """Which verb a trained run of the task serves; every task of a job declares it."""
    network: Network
    has_best = True
    """Whether the validation loss tells which epoch is the best."""
    trains_in_parts = False
    """Whether a step of training may have no use for some of the parameters."""

    def __init__(
        self,
        network: NetworkFactory,
        layout: Layout,
        statistics: Statistics,
        *,
        anomalies: bool,
        optimizer: OptimizerFactory | None,
        warmup_steps: int,
    ) -> None:
        super().__init__()
        self.layout = layout
        self.network = network(layout)
        self.normalizer = Normalizer(statistics, anomalies=anomalies, other_grids=layout.other_grids)
        self.make_optimizer = optimizer or default_optimizer
        self.warmup_steps = warmup_steps
        self.provenance: dict[str, Any] = {}
        self.answers_in: Precision = FLOAT32
        self.transfer: Transfer | None = None
        self.new_rate = 1.0
        self.matmul_precision = "highest"
        self.random_states: list[RandomStates] | None = None
        self.optimizer_options: Options = []
        self.restored_options: Options | None = None
        self.epochs_done = 0
        self.schedule_steps: list[int] = []

    @abstractmethod
    def loss(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss to minimise and what to log beside it."""

    @abstractmethod
    def predict(self, batch: Batch, target: Frame) -> Fields:
        """Return fields in physical units on the frame that is asked for."""

    def forecast(
        self, batch: Batch, leads: Sequence[int], others: Sequence[Batch] = (), weights: Sequence[float] = ()
    ) -> Iterator[Fields]:
        """Return fields in physical units, one part of the leads after the other.

        Args:
            batch: what the forecasts start from, in physical units.
            leads: hours after the initial time.
            others: analyses of the same times from other sources, to blend with the batch's.
            weights: of the batch and the others, of any sum; by default the same.

        Yields:
            Fields on all target channels whose time axis holds some of the leads; every lead comes once.

        Raises:
            RecipeError: if the task cannot blend analyses.
        """
        if others:
            raise RecipeError(f"{type(self).__name__} starts from one analysis; it cannot blend several")
        yield self.predict(batch, self.target_frame(batch, leads))

    def answering(self) -> AbstractContextManager[object]:
        """Return the context in which a trained run answers, of the precision `answers_in`."""
        if self.answers_in == FLOAT32:
            return nullcontext()
        return torch.autocast(self.device.type, HALVES[self.answers_in])

    def target_frame(self, batch: Batch, leads: Sequence[int]) -> Frame:
        """Return the frame of all target channels at some leads after the initial times of a batch."""
        initial = batch.inputs.frame
        after = initial.time.new_tensor(leads) * SECONDS_PER_HOUR
        grid = initial.grid if self.layout.target_grid is None else self.layout.target_grid
        return Frame(self.layout.targets, initial.time[:, -1:] + after, grid, initial.calendar)

    @abstractmethod
    def options(self) -> dict[str, Any]:
        """Return the constructor's arguments that a checkpoint keeps, as plain data."""

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Return the parameters to train: with weight decay and without, and those that are new to fine-tuning apart.

        Groups of new parameters carry `new`, by which `configure_optimizers` knows whose learning rate to multiply.
        """
        own = {name for name, _ in self.named_parameters(recurse=False)}
        exempt = own | {f"network.{name}" for name in self.network.no_decay()}
        new = frozenset() if self.transfer is None else {f"network.{name}" for name in self.transfer.new}
        groups: list[dict[str, Any]] = []
        for is_new in (False, True):
            named = [(name, p) for name, p in self.named_parameters() if p.requires_grad and (name in new) == is_new]
            mark = {"new": True} if is_new else {}
            groups.append({"params": [p for name, p in named if name not in exempt], **mark})
            groups.append({"params": [p for name, p in named if name in exempt], "weight_decay": 0.0, **mark})
        return [group for group in groups if group["params"]]

    def configure_optimizers(self) -> Any:
        """Build the optimiser and its schedule, stepped after every batch.

        Raises:
            RecipeError: if the optimiser takes none of its options' values.
        """
        try:
            optimizer = self.make_optimizer(self.parameter_groups())
        except ValueError as error:
            raise RecipeError(f"the optimizer cannot be made: {first_line(error)}") from error
        for group in optimizer.param_groups:
            if group.get("new"):
                group["lr"] *= self.new_rate
        total = int(self.trainer.estimated_stepping_batches)
        schedule = warmup_cosine(optimizer, min(self.warmup_steps, total // 2), total)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def training_step(self, batch: Batch, _: int) -> Tensor:
        """Return the loss of a batch and log it."""
        loss, parts = self.loss(batch)
        self.log_training(loss, parts, batch)
        return loss

    def log_training(self, loss: Tensor, parts: dict[str, Tensor], batch: Batch) -> None:
        """Log the loss of a training batch and its parts.

        Raises:
            RecipeError: if the loss is no number.
        """
        self.check_loss(loss)
        self.log("train_loss", loss, on_step=True, on_epoch=True, prog_bar=True, batch_size=len(batch))
        self.log_dict({f"train_{name}": value for name, value in parts.items()}, batch_size=len(batch))

    def check_loss(self, loss: Tensor) -> None:
        """Stop at a training loss that is no number, with which every weight becomes one that is none.

        On an accelerator, which would have to wait for it, only from time to time: once it is none, it stays so.

        Raises:
            RecipeError: if it is not finite.
        """
        if loss.device.type != "cpu" and self.global_step % LOOK_EVERY:
            return
        if not torch.isfinite(loss):
            raise diverged("training loss", float(loss), f"step {self.global_step} (epoch {self.current_epoch})")

    def fitted_to(self, kind: type[D], what: str) -> D:
        """Return the data that something is fitted to before training.

        Args:
            kind: of data that gives it.
            what: is fitted and to what, for the message.

        Raises:
            RecipeError: if training is by other data.
        """
        data = getattr(self.trainer, "datamodule", None)
        if not isinstance(data, kind):
            raise RecipeError(f"{what}: give fit a {kind.__name__}")
        return data

    def on_fit_start(self) -> None:
        """Note what the recipe asks of optimisers and schedules, before a checkpoint's state takes their place."""
        self.optimizer_options = optimizer_options(self.trainer)
        self.schedule_steps = [schedule.asked_steps for schedule in schedules(self.trainer)]
        self.matmul_precision = torch.get_float32_matmul_precision()
        if self.device.type == "cuda":
            # TF32, several times as fast; convolutions have it by PyTorch's default.
            torch.set_float32_matmul_precision("high")
            for callback in self.trainer.callbacks:  # type: ignore[attr-defined]
                # Made before the weights were moved, averages would be brought to the host and back at every step.
                if isinstance(callback, WeightAveraging) and callback._device is None:
                    assert callback._average_model is not None
                    callback._average_model.to(self.device)

    def on_fit_end(self) -> None:
        """Let matrix products be as exact again as they were before."""
        torch.set_float32_matmul_precision(self.matmul_precision)

    def on_train_start(self) -> None:
        """Let what the recipe asks for now take effect where a run goes on."""
        if self.restored_options is not None:
            apply_options(self.trainer, self.optimizer_options, self.restored_options)
            redirect_schedules(self.trainer, self.schedule_steps, self.epochs_done)
            self.restored_options = None
        if self.random_states is None:
            draw_apart()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Describe the task in plain data, from which `load_task` rebuilds it."""
        checkpoint["random_states"] = random_states(self.device)
        checkpoint["optimizer_options"] = self.optimizer_options
        # A task that was only built, not trained, has no trainer to ask.
        trainer = self._trainer
        score = None if trainer is None else trainer.callback_metrics.get("val_loss")
        checkpoint["etesian"] = {
            "task": public_name(f"{type(self).__module__}.{type(self).__qualname__}"),
            "options": self.options(),
            "network": cast(Recorded, self.network).describe(),
            "statistics": self.normalizer.statistics,
            "provenance": self.provenance,
            "precision": FLOAT32 if trainer is None else trainer.precision,
            "val_loss": None if score is None else float(score),
            "stopped": trainer is not None and bool(trainer.should_stop),
        }

    def setup(self, stage: str) -> None:
        """Refuse what this library cannot train with.

        Raises:
            RecipeError: if the strategy divides the weights among processes otherwise than `Sharded`, or the precision
                is that of the weights themselves.
        """
        if isinstance(self.trainer.strategy, FSDPStrategy | ModelParallelStrategy):
            name = type(self.trainer.strategy).__name__
            raise RecipeError(f"{name} writes no checkpoints that can be read here; use strategy: sharded")
        if self.trains_in_parts and isinstance(self.trainer.strategy, DDPStrategy):
            # Processes would wait for gradients that do not come.
            self.trainer.strategy._ddp_kwargs.setdefault("find_unused_parameters", True)
        if self.trainer.precision not in PRECISIONS:
            raise RecipeError(
                f"precision {self.trainer.precision} would change the weights themselves; take bf16-mixed, which "
                f"computes in half precision and keeps them, or one of {', '.join(PRECISIONS)}"
            )

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Make sure that a run to go on with is one of this network, and remember its random numbers.

        Raises:
            CheckpointError: if it is another network's.
        """
        own, theirs = self.state_dict(), checkpoint["state_dict"]
        for name in own.keys() | theirs.keys():
            shapes = [tuple(state[name].shape) if name in state else None for state in (own, theirs)]
            if shapes[0] != shapes[1]:
                raise CheckpointError(
                    f"the run to go on with was of another network ({name} is {shapes[1] or 'missing'} there and "
                    f"{shapes[0] or 'missing'} here); name another run directory with --run"
                )
        # Earlier versions kept the first process's alone.
        self.random_states = checkpoint.get("random_states") or [{"cpu": checkpoint["random_state"]}]
        self.restored_options = checkpoint.get("optimizer_options")
        self.epochs_done = checkpoint["epoch"] + 1
        keep_patience(self.trainer, checkpoint)

    def on_train_epoch_start(self) -> None:
        """Go on with the random numbers of the interrupted run, so that dropout and noise are the same."""
        if self.random_states is not None:
            restore(self.random_states, self.device)
            self.random_states = None


def diverged(what: str, loss: float, when: str) -> RecipeError:
    """Return what is said of a loss that is no number."""
    return RecipeError(
        f"the {what} is {loss} at {when}: training has diverged; lower the learning rate "
        "(--model.init_args.optimizer.init_args.lr) or clip gradients (--trainer.gradient_clip_val 1.0), and under "
        "16-mixed precision take bf16-mixed"
    )


def default_optimizer(parameters: Iterable[Any]) -> Optimizer:
    """Return AdamW as ClimaX was trained with (arXiv 2301.10343)."""
    return AdamW(parameters, lr=5e-4, betas=(0.9, 0.95), weight_decay=1e-5)


def masked_mean(error: Tensor, weight: Tensor, valid: Tensor | None) -> Tensor:
    """Return the weighted mean of errors over the points that are valid.

    In training on several processes, their mean of it is the weighted mean over the samples of all: gradients, of which
    they take the mean, are those of one process with all samples.

    Args:
        error: (batch, time, channel, lat, lon).
        weight: broadcasts against `error`.
        valid: where the error counts; None means everywhere.
    """
    weight = weight.expand_as(error)
    if valid is not None:
        weight = weight * valid
        error = error.masked_fill(~valid, 0.0)
    total = over_processes(weight.sum())
    return (error * weight).sum() / total.clamp(min=torch.finfo(error.dtype).tiny)


def over_processes(value: Tensor) -> Tensor:
    """Return the mean of a value over all processes that train together, the gradient of which is left to each of them.

    Each goes on with the gradient of its own value: as they take the mean of gradients in the end, what any function of
    the mean asks for is right. Where nothing is trained, it is a process's own value.
    """
    _, world = rank_and_world()
    if world == 1 or not torch.is_grad_enabled():
        return value
    mean = value.detach() / world
    distributed.all_reduce(mean)
    return value + (mean - value.detach()) if value.requires_grad else mean


def channel_units(task: Task, stores: Sequence[States]) -> dict[Channel, str]:
    """Return the units of the channels that a task gives: those of its training, or of the stores with the states.

    Raises:
        DataError: if a store has an input in other units than training.
    """
    trained: dict[str, str] = task.provenance.get("units", {})
    found: dict[Channel, str] = {}
    for channel in (*task.layout.inputs, *task.layout.targets):
        found[channel] = trained.get(str(channel), "")
        for store in stores:
            units = store.units.get(channel, "")
            found[channel] = found[channel] or units
            if channel in task.layout.inputs and units and units != found[channel]:
                raise DataError(
                    f"'{channel}' is in {units} in {store.path}, but the run knows it in {found[channel]}; convert it "
                    "and prepare the store again"
                )
    return found
