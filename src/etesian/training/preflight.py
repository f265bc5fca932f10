"""What training from a recipe will take, by what `training/measuring.py` measures of it in a process of its own."""

import math
import os
import pickle
import subprocess
import sys
import tempfile
from argparse import ArgumentError
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.table import Table

from etesian.core.dataset import facts_table
from etesian.core.errors import RecipeError
from etesian.training.recipes import as_words, written_out


@dataclass(frozen=True)
class Preflight:
    """What training from a recipe takes in each process.

    Attributes:
        recipe: what was checked.
        device: that trains.
        precision: that it computes in.
        parameters: numbers that are trained, and others of the network.
        samples: of an epoch, over all processes.
        batch_size: samples of a step, in each process.
        measured: samples of the largest step that was measured; memory and time of larger ones lie on a line.
        steps: optimiser steps of an epoch, and of the whole training.
        loss: of the first step; None where the task logs none by steps.
        memory: bytes at the peak: the process's own memory on a CPU, that of tensors on a GPU. Pages mapped from stores
            and libraries come on top; the system takes them back where memory is short.
        sample_memory: of these, what each sample of the batch adds.
        at_hand: bytes of memory that the process may use.
        step_seconds: of an optimiser's step, with reading its samples.
        checkpoint: bytes of a checkpoint.
        stores: bytes of the training stores on this machine.
        free: bytes free on the disk where the run goes.
        saving: options of the recipe that make activations smaller.
    """

    recipe: str
    device: str
    precision: str
    parameters: tuple[int, int]
    samples: int
    batch_size: int
    measured: int
    steps: tuple[int, int]
    loss: float | None
    memory: int
    sample_memory: int
    at_hand: int
    step_seconds: float
    checkpoint: int
    stores: int
    free: int
    saving: tuple[str, ...] = ()

    @property
    def largest_batch(self) -> int:
        """Samples of a step that fit the memory at hand, of those that there are; 0 if not even one does."""
        room = self.at_hand - (self.memory - self.sample_memory * self.batch_size)
        return min(max(0, room // max(self.sample_memory, 1)), self.samples)

    @property
    def fits(self) -> bool:
        """Whether memory and disk are enough."""
        return self.memory <= self.at_hand and 2 * self.checkpoint <= self.free

    @property
    def suggestions(self) -> list[str]:
        """What to change, the most needed first."""
        found = []
        if self.memory > self.at_hand:
            if self.largest_batch:
                parts = math.ceil(self.batch_size / self.largest_batch)
                found.append(
                    f"--data.init_args.batch_size {self.largest_batch} --trainer.accumulate_grad_batches {parts}, "
                    "which fits and steps as far"
                )
            else:
                found.append("a smaller network or grid: not even one sample fits")
            found += [f"{option}, which keeps less and computes it again" for option in self.saving]
        elif self.largest_batch >= 2 * self.batch_size:
            found.append(f"a batch_size of up to {self.largest_batch} would fit")
        if self.device != "cpu" and self.precision == "32-true":
            found.append("--trainer.precision bf16-mixed, which is faster on most GPUs and keeps less")
        if 2 * self.checkpoint > self.free:
            found.append("another --run directory: the disk has no room for two checkpoints")
        return found

    def facts(self) -> dict[str, str]:
        """Return everything in words."""
        step, (epoch, whole) = self.step_seconds, self.steps
        frozen = f", {self.parameters[1]:,} more not trained" if self.parameters[1] else ""
        how = "measured" if self.measured == self.batch_size else f"by a line through steps of 1 and {self.measured}"
        own = "of the process's own; pages mapped from stores come on top" if self.device == "cpu" else "of tensors"
        facts = {
            "parameters": f"{self.parameters[0]:,}{frozen}",
            "samples per epoch": f"{self.samples:,} in {epoch:,} steps of {self.batch_size} in each process",
            "first loss": "" if self.loss is None else f"{self.loss:.4g}",
            "memory": f"{_size(self.memory)} at the peak ({how}), {own}; {_size(self.at_hand)} at hand",
            "time": f"{_duration(step)} per step, {_duration(step * epoch)} per epoch, {_duration(step * whole)} "
            f"in all, on {self.device} in {self.precision}, without validation",
            "disk": f"{_size(2 * self.checkpoint)} for two checkpoints, {_size(self.free)} free"
            + (f"; stores of {_size(self.stores)}" if self.stores else ""),
            "suggested": "\n".join(self.suggestions),
        }
        return {name: fact for name, fact in facts.items() if fact}

    def __rich__(self) -> Table:
        table = Table(title=f"Training from {self.recipe}", show_header=False)
        for name, fact in self.facts().items():
            table.add_row(name, fact)
        return table

    def _repr_html_(self) -> str:
        return facts_table(f"Training from {self.recipe}", self.facts())


def preflight(
    recipe: str | Path | Mapping[str, Any],
    run: str | Path | None,
    stores: Sequence[Any] | None,
    epochs: int | None,
    options: Mapping[str, Any],
    trust: Sequence[str],
) -> Preflight:
    """Check a recipe; see `etesian.check`.

    Raises:
        RecipeError: as `fit` does; if a loss is no number; if the process is ended for want of memory.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = written_out(recipe, Path(folder))
        words = ["fit", f"--config={path}", *([] if run is None else [f"--run={run}"])]
        words += as_words(stores, epochs, options)
        try:
            result = measure(words, trust, "a recipe" if isinstance(recipe, Mapping) else str(recipe))
        except ArgumentError as error:
            raise RecipeError(error.message) from error
    if result is None:
        raise RecipeError(f"the options {dict(options)} ask for help, not for training; leave them out")
    return result


def measure(words: list[str], trust: Sequence[str], recipe: str) -> Preflight | None:
    """Take the measurements in a fresh process; None if the words asked for help only.

    Args:
        words: command and options, as `train` takes them.
        trust: modules that the recipe may name something of.
        recipe: its name.

    Raises:
        RecipeError: as `fit` does; if a loss is no number; if the process is ended for want of memory.
        ArgumentError: if a recipe or an option does not fit the classes that it names.
    """
    at_hand = memory_at_hand()
    with tempfile.TemporaryDirectory() as folder:
        asked, answer = Path(folder, "asked"), Path(folder, "answer")
        asked.write_bytes(pickle.dumps((words, list(trust), recipe, at_hand)))
        code = "import sys; from etesian.training.measuring import answer; answer(*sys.argv[1:])"
        paths = os.pathsep.join(path or os.getcwd() for path in sys.path)
        done = subprocess.run(
            [sys.executable, "-c", code, str(asked), str(answer)],
            env=os.environ | {"PYTHONPATH": paths},
            capture_output=True,
            text=True,
            check=False,
        )
        print(done.stdout, end="")
        if not answer.exists():
            if done.returncode < 0:
                raise RecipeError(
                    f"{recipe} was ended by the system while it was tried, as happens where memory is short "
                    f"({_size(at_hand)} at hand); give a smaller --data.init_args.batch_size"
                )
            raise RecipeError(
                f"{recipe} cannot be tried: {(done.stderr.strip() or 'no reason given').splitlines()[-1]}"
            )
        found: Preflight | Exception | None = pickle.loads(answer.read_bytes())
    if isinstance(found, Exception):
        raise found
    return found


def memory_at_hand() -> int:
    """Return the bytes of memory that this process may use: what is free and what a scheduler allows."""
    if sys.platform != "linux":
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    lines = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
    known = [1024 * int(lines["MemAvailable"].split()[0])]
    for name in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        limit = Path(name)
        if limit.exists() and (text := limit.read_text().strip()).isdigit():
            known.append(int(text))
    return min(known)


def _size(count: float) -> str:
    """Write bytes.

    >>> _size(999), _size(1_234_000), _size(56_000_000_000)
    ('999 B', '1.23 MB', '56 GB')
    """
    for unit in ("B", "kB", "MB", "GB"):
        if count < 999.5:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} TB"


def _duration(seconds: float) -> str:
    """Write a time.

    >>> _duration(0.0123), _duration(75), _duration(7200), _duration(345600)
    ('0.012 s', '1.2 min', '2 h', '4 d')
    """
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{seconds / length:.2g} {unit}"
    return f"{seconds:.2g} s"
