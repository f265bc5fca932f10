"""Samples of any job in batches: what a data set says of its samples, and which of them a process reads when."""

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple, Protocol, TypeVar, runtime_checkable

import numpy as np
from numpy.typing import NDArray
from torch import distributed
from torch.utils.data import Sampler

from etesian.core import Batch
from etesian.core.errors import DataError


@runtime_checkable
class Pick(Protocol):
    """One sample before it is read: as much as its data set needs to know, and the group that it belongs to."""

    @property
    def group(self) -> int:
        """Number of the group; a batch comes from one of them."""


P = TypeVar("P", bound=Pick)


class Group(NamedTuple):
    """Samples that may share a batch, for they lie on one grid: those of one store, or of one tile.

    Attributes:
        name: of what they are read from, for messages.
        samples: how many of them an epoch has.
    """

    name: str
    samples: int


@runtime_checkable
class Samples(Protocol[P]):
    """What batches are drawn from. Indexing takes picks of one group and returns their `Batch` in physical units."""

    @property
    def groups(self) -> Sequence[Group]:
        """The groups that the samples of an epoch come from, in the order of their numbers."""

    def epoch(self, seed: int, epoch: int, *, shuffle: bool, batches: int = 1) -> list[P]:
        """Return the epoch's samples in order: the same for any number of workers and ranks.

        Args:
            seed: of the order and of whatever else is drawn.
            epoch: number of the epoch.
            shuffle: draw in random order.
            batches: that an epoch has.
        """

    def __getitem__(self, picks: Sequence[P]) -> Batch: ...


AT_ONCE = 64
"""Samples that are read together where all of them are gone through once."""


def in_chunks(samples: Samples[P], picks: Sequence[P]) -> Iterator[Batch]:
    """Read picks of one group in their order, some at a time."""
    for start in range(0, len(picks), AT_ONCE):
        yield samples[picks[start : start + AT_ONCE]]


class GroupedBatchSampler(Sampler[list[P]]):
    """Batches of samples for one of several ranks, each of one group.

    All ranks together see every sample of an epoch exactly once, in equally many batches; batches differ in
    size by one at most, so that no sample is dropped or repeated to make the count divide.

    Args:
        dataset: what to draw from.
        batch_size: samples in a batch, on one rank, at most; one more where a rank would otherwise get none.
        shuffle: draw in random order.
        seed: of the order and of whatever else is drawn.
        rank: number of this process.
        world: number of processes.

    Raises:
        DataError: if a group has fewer samples than there are processes.
    """

    def __init__(
        self, dataset: Samples[P], batch_size: int, *, shuffle: bool, seed: int = 0, rank: int = 0, world: int = 1
    ) -> None:
        self.dataset, self.batch_size, self.shuffle, self.seed = dataset, batch_size, shuffle, seed
        self.rank, self.world = rank, world
        self.epoch = 0
        for group in dataset.groups:
            if 0 < group.samples < world:
                raise DataError(f"the {group.samples} samples of {group.name} cannot be shared by {world} processes")

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch; Lightning calls this before each one."""
        self.epoch = epoch

    def _batches(self, samples: int) -> int:
        """Return how many batches hold so many samples of one group, leaving no rank without any."""
        return min(-(-samples // (self.batch_size * self.world)), samples // self.world)

    def __len__(self) -> int:
        return sum(self._batches(group.samples) for group in self.dataset.groups if group.samples)

    def __iter__(self) -> Iterator[list[P]]:
        members: list[list[P]] = [[] for _ in self.dataset.groups]
        for pick in self.dataset.epoch(self.seed, self.epoch, shuffle=self.shuffle, batches=len(self)):
            members[pick.group].append(pick)
        batches: list[list[P]] = []
        for own in members:
            if own:
                shares = _split(own, self._batches(len(own)))
                batches += [_split(share, self.world)[self.rank] for share in shares]
        order = np.arange(len(batches))
        if self.shuffle and len(members) > 1:
            order = np.random.default_rng((self.seed, self.epoch, 1)).permutation(len(batches))
        return iter([batches[i] for i in order])


def _split(items: list[P], parts: int) -> list[list[P]]:
    edges = [len(items) * part // parts for part in range(parts + 1)]
    return [items[start:stop] for start, stop in pairwise(edges)]


def order_of(samples: int, seed: int, epoch: int, *, shuffle: bool) -> NDArray[np.int64]:
    """Return the order of an epoch's samples: their own, or a random one that is another one in every epoch."""
    return np.random.default_rng((seed, epoch)).permutation(samples) if shuffle else np.arange(samples)


def group_of(picks: Sequence[Pick]) -> int:
    """Return the group that all samples of a batch belong to.

    Raises:
        ValueError: if they belong to several.
    """
    groups = {pick.group for pick in picks}
    if len(groups) != 1:
        raise ValueError(f"a batch comes from one group of samples, not from {len(groups)}")
    return groups.pop()


def rank_and_world() -> tuple[int, int]:
    """Return the number of this process and the number of all that train together."""
    if distributed.is_available() and distributed.is_initialized():
        return distributed.get_rank(), distributed.get_world_size()
    return 0, 1
