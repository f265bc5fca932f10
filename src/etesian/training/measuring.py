"""A few steps of training from a recipe, and what they take.

Three steps on one sample each and two on as many as the recipe's batches have, and validation on one batch. Where a
whole batch would not fit memory, or takes minutes, a smaller one is measured, and a line drawn through both.
"""

import math
import os
import pickle
import shutil
import sys
import time
from argparse import ArgumentError
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Event, Thread
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Checkpoint, EarlyStopping, ProgressBar
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from torch.utils import _pytree as tree

from etesian.core import Batch
from etesian.core.errors import EtesianError, RecipeError
from etesian.samples.loading import Loader
from etesian.training.preflight import Preflight
from etesian.training.recipes import TrainingCLI, train
from etesian.training.trusted import check as check_names

SECONDS = 20.0
"""What a step that is measured may take, about."""


def answer(asked: str, path: str) -> None:
    """Do what `preflight.measure` asked for and write the result, or what the user can mend; both are files."""
    words, trust, recipe, at_hand = pickle.loads(Path(asked).read_bytes())
    result: Preflight | Exception | None = None
    CheckingCLI.at_hand, CheckingCLI.scratch = at_hand, Path(path).parent / "logs"
    try:
        done = train(words, trust, CheckingCLI)
        assert isinstance(done, CheckingCLI)
        result = replace(done.result(), recipe=recipe)
    except (EtesianError, ArgumentError) as error:
        result = error
    except SystemExit as stop:
        if stop.code:
            raise
    Path(path).write_bytes(pickle.dumps(result))


_UNFIT = Checkpoint, EarlyStopping, ProgressBar
"""What needs whole validations or a run directory, or writes on the terminal."""


class CheckingCLI(TrainingCLI):
    """Builds what `fit` builds, but trains a few steps and keeps nothing."""

    keeps = None
    at_hand: int
    """Bytes of memory before anything was built."""
    scratch: Path
    """Folder that goes away."""

    def before_instantiate_classes(self) -> None:
        """See what the recipe names; no run directory is claimed."""
        config = self.config[self.subcommand]
        check_names(config, self.trusted)
        self.run_directory = Path(config.run or "runs/check")
        self.asked = config.trainer.clone()

    def instantiate_trainer(self, **kwargs: Any) -> L.Trainer:
        """Build the recipe's trainer without its checkpoints and other processes; what is logged goes away.

        Loggers of the recipe's own might write to an address, so that they are not called.
        """
        logger: Any = CSVLogger(self.scratch)
        if self.asked.logger is None or self.asked.logger is True:
            # As fit writes it, for the memory that TensorBoard needs.
            logger = [logger, TensorBoardLogger(str(self.scratch))]
        trainer = self._built(
            **kwargs, logger=logger, default_root_dir=str(self.scratch), enable_progress_bar=False,
            enable_model_summary=False, enable_checkpointing=False,
            devices=1, num_nodes=1, strategy="auto", max_epochs=1, min_epochs=None, max_steps=-1, min_steps=None,
            max_time=None, limit_train_batches=None, limit_val_batches=None, num_sanity_val_steps=0,
            overfit_batches=0.0, fast_dev_run=False, accumulate_grad_batches=1, check_val_every_n_epoch=1,
            val_check_interval=None,
        )  # fmt: skip
        callbacks: list[Any] = trainer.callbacks  # type: ignore[attr-defined]
        callbacks[:] = [each for each in callbacks if not isinstance(each, _UNFIT)]
        return trainer

    def fit(self, **_: Any) -> None:
        """Train on a few batches, validate on one."""
        data, self.measured = self.datamodule, _Measured(1, self.at_hand)
        training, validating = data.train_dataloader, data.val_dataloader
        data.train_dataloader = lambda: self._few(training())
        data.val_dataloader = lambda: _One(loader := validating(), list(next(iter(loader.sampler))), self.measured)
        callbacks: list[Any] = self.trainer.callbacks  # type: ignore[attr-defined]
        callbacks.append(self.measured)
        if (kriging := getattr(self.model.network, "kriging", None)) is not None:
            # Its covariance is fitted in an epoch of its own, which may take minutes and is not like the others.
            kriging.fitted.fill_(True)
        self.trainer.fit(self.model, datamodule=data)
        self.measured.stop()
        # Weights and what the optimisers keep, and the distributions that lie beside them.
        dump = self.trainer._checkpoint_connector.dump_checkpoint()
        leaves = tree.tree_leaves([dump, vars(self.model.normalizer.statistics)])
        self.checkpoint = sum(_bytes(leaf) for leaf in leaves)

    def _few(self, loader: Loader) -> "_Few":
        self.picks, self.workers = [list(picks) for picks in loader.sampler], loader.num_workers
        self.batch_size = self.measured.batch_size = max(map(len, self.picks))
        return _Few(loader, max(self.picks, key=len), self.measured)

    def result(self) -> Preflight:
        """Return what follows from the measurements."""
        asked, measured = self.asked, self.measured
        devices, nodes = (n if isinstance(n, int) and n > 0 else 1 for n in (asked.devices, asked.num_nodes))
        batches, limit = len(self.picks) / (devices * nodes), asked.limit_train_batches
        batches = min(batches, limit) if isinstance(limit, int) else batches * (1.0 if limit is None else limit)
        epoch = max(1, math.ceil(batches / asked.accumulate_grad_batches))
        trained = sum(p.numel() for p in self.model.parameters() if p.requires_grad)
        each = measured.sample_memory
        found = [Path(store.path) for store in getattr(self.datamodule, "stores", ()) if "://" not in store.path]
        return Preflight(
            recipe="",
            device=str(self.trainer.strategy.root_device),
            precision=str(self.trainer.precision),
            parameters=(trained, sum(p.numel() for p in self.model.parameters()) - trained),
            samples=sum(map(len, self.picks)),
            batch_size=self.batch_size,
            measured=measured.count,
            steps=(epoch, total_steps(epoch, asked.max_epochs, asked.max_steps)),
            loss=measured.loss,
            memory=int(measured.peak + each * (self.batch_size - measured.count)),
            sample_memory=int(each),
            at_hand=torch.cuda.mem_get_info()[1] if measured.on_gpu else self.at_hand,
            step_seconds=measured.seconds(self.workers) * asked.accumulate_grad_batches,
            checkpoint=self.checkpoint,
            stores=sum(file.stat().st_size for store in found for file in store.rglob("*") if file.is_file()),
            free=_free(self.run_directory),
            saving=tuple(_saving(self.model)),
        )


@dataclass
class _Few:
    """Batches as they are asked for: three of one sample, then two of as many as are to be measured.

    The trainer reads a batch ahead, so that the second step is done when the fourth batch is chosen.
    """

    loader: Loader
    picks: list[Any]
    measured: "_Measured"

    def __iter__(self) -> Iterator[Batch]:
        for _ in range(3):
            yield self._read(1)
        count = self.measured.choose()
        for _ in range(2):
            yield self._read(count)

    def _read(self, count: int) -> Batch:
        begin = time.perf_counter()
        batch: Batch = self.loader.dataset[self.picks[:count]]
        self.measured.reading[len(batch)] = time.perf_counter() - begin
        return batch


class _One(_Few):
    """One batch to validate on, as large as those that training was measured with."""

    def __iter__(self) -> Iterator[Batch]:
        yield self.loader.dataset[self.picks[: self.measured.count]]


class _Measured(L.Callback):
    """Peaks of memory and times of steps: of one sample, after the optimiser has made what it keeps, and of many.

    Args:
        batch_size: samples of the recipe's batches.
        at_hand: bytes of memory to stay within.
    """

    def __init__(self, batch_size: int, at_hand: int) -> None:
        self.batch_size, self.at_hand = batch_size, at_hand
        self.count, self.on_gpu = 1, False
        self.loss: float | None = None
        self.times: dict[int, float] = {}
        self.reading: dict[int, float] = {}
        self._heap = _Heap()
        self._before = self._one = self.peak = 0

    def __deepcopy__(self, memo: dict[int, Any]) -> "_Measured":
        """Return itself: an average of weights copies the network with its trainer, and a thread cannot be copied."""
        return self

    def on_train_batch_start(self, trainer: L.Trainer, task: L.LightningModule, batch: Any, number: int) -> None:
        """Begin to watch."""
        self.on_gpu = task.device.type == "cuda"
        if number == 1:
            self._take()
            self._before = torch.cuda.memory_allocated() if self.on_gpu else resident()
        if self.on_gpu:
            torch.cuda.synchronize()
        self._begin = time.perf_counter()

    def on_train_batch_end(
        self, trainer: L.Trainer, task: L.LightningModule, outputs: Any, batch: Any, number: int
    ) -> None:
        """Note what the step took."""
        if self.on_gpu:
            torch.cuda.synchronize()
        self.times[len(batch)] = time.perf_counter() - self._begin
        if number == 1:
            self._one = self._take()
        logged = [value for name, value in trainer.callback_metrics.items() if name.startswith("train_")]
        losses = [outputs["loss"]] if isinstance(outputs, Mapping) and "loss" in outputs else logged
        loss = float(losses[0]) if losses else None
        refuse_no_number(loss, number + 1)
        self.loss = loss if number == 0 else self.loss

    def _take(self) -> int:
        """Return the peak of memory since this was last asked."""
        if self.on_gpu:
            peak = torch.cuda.max_memory_allocated()
            torch.cuda.reset_peak_memory_stats()
        else:
            peak = self._heap.take()
        self.peak = max(self.peak, peak)
        return peak

    def choose(self) -> int:
        """Return how many samples to try next: those of the recipe, or as many as time and memory allow."""
        each = max(self._one - self._before, 1)
        room = torch.cuda.mem_get_info()[0] if self.on_gpu else self.at_hand - self._one
        affordable = int(min(SECONDS / self.times[1], 0.8 * room / each))
        self.count = min(self.batch_size, max(affordable, 1))
        return self.count

    def stop(self) -> None:
        """End watching; the peak is that of the whole process, from its beginning to the end of validation."""
        self._take()
        self._heap.stop()

    @property
    def sample_memory(self) -> float:
        """Bytes that each sample adds at the peak."""
        if self.count == 1:
            return max(self._one - self._before, 0)
        return max(self.peak - self._one, 0) / (self.count - 1)

    def seconds(self, workers: int) -> float:
        """Return the time of a step of the recipe's batch, with reading it, which workers do meanwhile."""
        step, read = (self._line(times) for times in (self.times, self.reading))
        return max(step, read / workers) if workers else step + read

    def _line(self, times: Mapping[int, float]) -> float:
        some, one = times[self.count], times[1]
        each = some if self.count == 1 else max(some - one, 0.0) / (self.count - 1)
        return some + each * (self.batch_size - self.count)


def total_steps(epoch: int, epochs: int | None, limit: int) -> int:
    """Return the steps of epochs and of their limit, where -1 is none: of 1000 where neither says when to end."""
    ends = [] if epochs is None or epochs < 0 else [epoch * epochs]
    return min([*ends, limit] if limit > 0 else ends, default=1000 * epoch)


def refuse_no_number(loss: float | None, step: int) -> None:
    """See that a loss, where there is one, is finite.

    Raises:
        RecipeError: if not.
    """
    if loss is not None and not math.isfinite(loss):
        raise RecipeError(f"the loss of step {step} is {loss}; look at the data with `etesian doctor`")


class _Heap(Thread):
    """Watches the memory of this process without what is mapped of training stores, which the system can take back."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self._peak, self._done = 0, Event()
        self.start()

    def run(self) -> None:
        """Look every few milliseconds."""
        while not self._done.wait(0.003):
            self._peak = max(self._peak, resident())

    def take(self) -> int:
        """Return the most that was seen since this was last asked."""
        peak, self._peak = max(self._peak, resident()), 0
        return peak

    def stop(self) -> None:
        """End the thread."""
        self._done.set()
        self.join()


def resident() -> int:
    """Return the bytes of memory of this process; on Linux what is its own, elsewhere the most that it has had."""
    if sys.platform == "linux":
        _, everything, shared, *_ = map(int, Path("/proc/self/statm").read_text().split())
        return (everything - shared) * os.sysconf("SC_PAGE_SIZE")
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _saving(task: Any) -> Iterator[str]:
    """Name the options, not chosen yet, by which less is kept for the backward pass."""
    if getattr(task.network, "checkpoint_blocks", True) is False:
        yield "--model.init_args.network.init_args.checkpoint_blocks true"
    if getattr(task, "recompute", True) is False:
        yield "--model.init_args.recompute true"


def _free(place: Path) -> int:
    """Return the bytes free on the disk of a place that may not be there yet."""
    there = next(each for each in (place.absolute(), *place.absolute().parents) if each.exists())
    return shutil.disk_usage(there).free


def _bytes(value: Any) -> int:
    return int(getattr(value, "nbytes", 0)) if not isinstance(value, str | bytes | memoryview) else 0
