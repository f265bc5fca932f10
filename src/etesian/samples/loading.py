"""What data modules share: periods that do not overlap, loaders, and what the task has to know."""

from abc import abstractmethod
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import lightning as L
import torch
from torch.utils.data import DataLoader

from etesian.core import Batch, Channel, Layout
from etesian.core.errors import DataError, RecipeError
from etesian.core.statistics import Statistics
from etesian.samples.batches import GroupedBatchSampler, Samples, rank_and_world
from etesian.samples.windows import Period
from etesian.store.reader import Store

AHEAD = 4
"""Batches that are asked for before they are needed, where stores lie behind addresses."""


class Loader(DataLoader[Batch]):
    """Begins to read when the first batch is asked for.

    Lightning tells the sampler the epoch only after it has made the first iterator, which would otherwise have begun
    with another epoch's samples when a run is resumed.

    Attributes:
        far: stores behind addresses. Without workers, threads of this process read some batches before they are needed,
            as long as that asks the network for anything.
    """

    far: Sequence[Store] = ()

    def __iter__(self) -> Iterator[Batch]:  # type: ignore[override]
        yield from self._read_ahead() if self.far and not self.num_workers else super().__iter__()

    def _read_ahead(self) -> Iterator[Batch]:
        waiting: deque[Future[Batch]] = deque()
        requests = deque([-1], maxlen=AHEAD + 1)
        pool = ThreadPoolExecutor(AHEAD, "read-ahead")
        try:
            for picks in self.sampler:
                requests.append(sum(store.requests for store in self.far))
                if requests[0] != requests[-1]:
                    waiting.append(pool.submit(self.dataset.__getitem__, picks))
                else:
                    waiting.append(Future())
                    waiting[-1].set_result(self.dataset[picks])
                while len(waiting) > AHEAD or (waiting and waiting[0].done()):
                    yield self._arrived(waiting.popleft())
            while waiting:
                yield self._arrived(waiting.popleft())
        finally:
            pool.shutdown(cancel_futures=True)

    def _arrived(self, batch: "Future[Batch]") -> Batch:
        return batch.result().pin_memory() if self.pin_memory else batch.result()


class TaskData(L.LightningDataModule):
    """What every data module tells the task: what goes in and out, how it is distributed, and where it is from.

    Attributes:
        layout: what goes in and what comes out.
    """

    layout: Layout

    @property
    @abstractmethod
    def statistics(self) -> Statistics:
        """Distribution of every channel of the layout."""

    @property
    @abstractmethod
    def provenance(self) -> dict[str, object]:
        """What the run has seen, for its checkpoint."""

    @abstractmethod
    def _loader(self, part: str) -> Loader:
        """Return batches of `train`, shuffled, or of `validate` or `test`, in order."""

    def train_dataloader(self) -> Loader:
        """Return shuffled batches to train on."""
        return self._loader("train")

    def val_dataloader(self) -> Loader:
        """Return what to choose on, in order."""
        return self._loader("validate")

    def test_dataloader(self) -> Loader:
        """Return what to test on, in order."""
        return self._loader("test")

    def holes(self) -> dict[Channel, float]:
        """Return the share of values that are missing, for each input, forcing and static field that has any."""
        return {}


@dataclass(frozen=True)
class Loading:
    """How batches are made of samples.

    Attributes:
        batch_size: samples in a batch, per process.
        workers: processes that read ahead; where a store lies behind an address they start afresh, and a script that
            reads it needs `if __name__ == "__main__":`.
        seed: of the order of samples and of whatever else is drawn.

    Raises:
        RecipeError: if a batch would be empty.
    """

    batch_size: int
    workers: int
    seed: int

    def __post_init__(self) -> None:
        if self.batch_size < 1 or self.workers < 0:
            raise RecipeError(
                f"batch_size = {self.batch_size} must be at least 1 and workers = {self.workers} at least 0"
            )


class StoreData(TaskData):
    """Batches from training stores, of the periods to train, choose and test on.

    Args:
        stores: that are read; the periods are dates of the first one's calendar.
        train: first and last date to train on; a year or month as an end means all of it.
        validate: first and last date to choose on.
        test: first and last date to test on.
        loading: how batches are made.

    Raises:
        RecipeError: if the periods overlap.
        DataError: if two stores hold a channel in different units.
    """

    def __init__(
        self,
        stores: Sequence[Store],
        train: tuple[str, str],
        validate: tuple[str, str],
        test: tuple[str, str] | None,
        loading: Loading,
    ) -> None:
        super().__init__()
        self.stores, self.units = list(stores), common_units(stores)
        self.periods = {"train": Period(*train), "validate": Period(*validate)}
        if test is not None:
            self.periods["test"] = Period(*test)
        spans = sorted((period.seconds(self.stores[0].calendar), name) for name, period in self.periods.items())
        for (earlier, name), (later, following) in pairwise(spans):
            if later[0] <= earlier[1]:
                a, b = self.periods[name], self.periods[following]
                raise RecipeError(
                    f"the periods {name} ({a.start} to {a.end}) and {following} ({b.start} to {b.end}) overlap"
                )
        self.loading = loading

    @property
    def provenance(self) -> dict[str, object]:
        """What the run has seen, for its checkpoint: stores with their fingerprints, periods, calendar, units."""
        return {
            "stores": {store.path: store.fingerprint for store in self.stores},
            "periods": {name: list(period) for name, period in self.periods.items()},
            "calendar": self.stores[0].calendar,
            "units": {str(channel): units for channel, units in self.units.items()},
        }

    def holes(self) -> dict[Channel, float]:
        """Return the share of missing values of each input, forcing and static field that has any: the largest.

        On a part of a store's grid, the share of points that were never observed.
        """
        found: dict[Channel, float] = {}
        for store in self.stores:
            for channel, share in store.holes(self.layout.grid).items():
                if channel in (*self.layout.inputs, *self.layout.forcings, *self.layout.statics):
                    found[channel] = max(share, found.get(channel, 0.0))
        return found

    @abstractmethod
    def dataset(self, part: str) -> Samples[Any]:
        """Return the samples of `train`, `validate` or `test`."""

    def period(self, part: str) -> Period:
        """Return the dates of `train`, `validate` or `test`.

        Raises:
            RecipeError: if the recipe names no such period.
        """
        if part not in self.periods:
            raise RecipeError(f"the recipe names no {part} period")
        return self.periods[part]

    def _loader(self, part: str) -> Loader:
        dataset = self.dataset(part)
        far = [store for store in self.stores if "://" in store.path]
        rank, world = rank_and_world()
        sampler = GroupedBatchSampler(
            dataset, self.loading.batch_size, shuffle=part == "train", seed=self.loading.seed, rank=rank, world=world
        )
        loader = Loader(
            dataset,  # type: ignore[arg-type]  # PyTorch names a class of its own, but asks for no more than indexing.
            sampler=sampler,
            batch_size=None,
            num_workers=self.loading.workers,
            persistent_workers=self.loading.workers > 0,
            # From there a GPU reads by itself, while the host goes on.
            pin_memory=torch.cuda.is_available(),
            # Connections to an address live in a thread of this process, which a fork would not take along.
            multiprocessing_context="forkserver" if self.loading.workers and far else None,
        )
        loader.far = far
        return loader


def common_units(stores: Sequence[Store]) -> dict[Channel, str]:
    """Return the units of every channel of some stores.

    Raises:
        DataError: if two of them differ in the units of a channel.
    """
    found: dict[Channel, str] = {}
    for store in stores:
        for channel, units in store.units.items():
            if units and found.setdefault(channel, units) != units:
                other = next(each for each in stores if each.units.get(channel) == found[channel])
                raise DataError(
                    f"'{channel}' is in {found[channel]} in {other.path} and in {units} in {store.path}; convert one "
                    "of the files and prepare it again"
                )
    return found


def check_history(history: Sequence[int]) -> tuple[int, ...]:
    """Return the hours of a history.

    Raises:
        RecipeError: if they do not ascend to 0.
    """
    if not history or list(history) != sorted(set(history)) or history[-1] != 0:
        raise RecipeError(f"history {list(history)} must be ascending hours that end with 0, such as [-24, 0]")
    return tuple(history)
