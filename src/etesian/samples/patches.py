"""Samples cut from global fields: two times of one place, or one time on two scales."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from etesian.core import Batch, Fields, Frame, Grid, Layout
from etesian.core.constants import SECONDS_PER_HOUR
from etesian.core.errors import GridError, RecipeError
from etesian.core.statistics import Statistics
from etesian.samples.batches import Group
from etesian.samples.loading import Loading, StoreData
from etesian.samples.windows import Period, exists, no_window
from etesian.store.reader import Store, compact, positions

Size = tuple[int, int]


@dataclass(frozen=True)
class PatchPick:
    """One sample: an initial time, a lead, and the south-western corner of a patch on the store's grid.

    Attributes:
        initial: position of the initial time on the store's time axis.
        lead: hours after the initial time.
        row: southernmost row.
        column: westernmost column.
    """

    initial: int
    lead: int
    row: int
    column: int

    @property
    def group(self) -> int:
        """The one that all patches belong to, for they are of one size."""
        return 0


class Cutter:
    """Where patches may lie on a grid.

    Args:
        grid: that patches are cut from.
        size: rows and columns of a patch.
        band: the largest latitude of a patch's centre, degrees north or south.

    Attributes:
        rows: southernmost rows of the patches whose centre lies in the band.
        columns: number of westernmost columns: all of a globe's, where patches reach across the date line.
        reference: the grid of a patch on the equator or as near to it as there is.

    Raises:
        RecipeError: if no patch of this size fits.
    """

    def __init__(self, grid: Grid, size: Size, band: float) -> None:
        (height, width), (rows, columns) = size, grid.shape
        if not (1 <= height <= rows and 1 <= width <= columns):
            raise RecipeError(f"patches of {height}×{width} do not fit on the grid {grid}; make them smaller")
        centres = (grid.latitude[: rows - height + 1] + grid.latitude[height - 1 :]) / 2
        self.size = size
        self.rows = np.flatnonzero(abs(centres) <= band + 1e-6)
        if not self.rows.size:
            nearest = abs(centres).min()
            raise RecipeError(
                f"no patch of {height} rows has its centre within {band:g}° of the equator on the grid {grid}; the "
                f"nearest is at {nearest:.3g}°"
            )
        self.columns = columns if grid.is_periodic else columns - width + 1
        first = int(abs(centres).argmin())
        self.reference = Grid(grid.latitude[first : first + height], grid.longitude[:width])


class PatchDataset(ABC):
    """Patches at the times of a period; indexing takes a list of `PatchPick`s and returns a `Batch` in physical units.

    An epoch draws some times, one lead for each, and some patches of each pair of times, which cost one read. Each lead
    is drawn equally often. Samples depend on seed and epoch alone.

    Args:
        store: what to read.
        layout: channels, and the grids of a patch.
        cutter: where patches lie.
        leads: hours after the initial time; one is drawn.
        period: first and last time.
        patches: cut at each time drawn.
        times: initial times in an epoch; by default as many as there are. More are drawn again, in another order.
        fixed_epochs: the first so many epochs see the samples of the first one.

    Raises:
        DataError: if no window fits.
    """

    def __init__(
        self,
        store: Store,
        layout: Layout,
        cutter: Cutter,
        leads: Sequence[int],
        period: Period,
        *,
        patches: int,
        times: int | None = None,
        fixed_epochs: int = 0,
    ) -> None:
        self.store, self.layout, self.cutter, self.leads = store, layout, cutter, tuple(leads)
        self.patches, self.fixed_epochs = patches, fixed_epochs
        inside = period.covers(store.time, store.calendar)
        self.initial = np.flatnonzero(inside & exists(store, self.leads, inside))
        if not self.initial.size:
            raise no_window(store, (0,), self.leads, period)
        self.times = self.initial.size if times is None else times
        self.groups: list[Group] = [Group(store.path, self.times * patches)]
        self.channels = compact(positions(layout.inputs, store.channels, store.path))

    def __len__(self) -> int:
        return self.times * self.patches

    def epoch(self, seed: int, epoch: int, *, shuffle: bool, batches: int = 1) -> list[PatchPick]:
        """Return the epoch's samples in order: the same for any number of workers, ranks and batches.

        Without `shuffle`, every epoch is the same, in the order of time.
        """
        rng = np.random.default_rng((seed, epoch if shuffle and epoch >= self.fixed_epochs else 0))
        rounds = -(-self.times // self.initial.size)
        initial = np.concatenate([rng.permutation(self.initial) for _ in range(rounds)])[: self.times]
        leads = np.array(self.leads)[rng.permutation(np.arange(self.times) % len(self.leads))]
        rows = rng.choice(self.cutter.rows, (self.times, self.patches))
        columns = rng.integers(0, self.cutter.columns, (self.times, self.patches))
        order = np.random.default_rng((seed, epoch, 1)).permutation(self.times) if shuffle else np.argsort(initial)
        return [
            PatchPick(int(initial[i]), int(leads[i]), int(rows[i, j]), int(columns[i, j]))
            for i in order
            for j in range(self.patches)
        ]

    @abstractmethod
    def __getitem__(self, picks: Sequence[PatchPick]) -> Batch:
        """Return the batch of some patches."""

    def whole(self, count: int) -> Iterator[Fields]:
        """Read the whole grid at some of the initial times, evenly spaced, one after the other."""
        for index in self.initial[:: -(-self.initial.size // count)].tolist():
            values = self.store.read([index], self.channels)[:, None]
            yield self._fields(values, self.store.time[[index]][:, None], self.store.grid)

    def read(self, picks: Sequence[PatchPick], leads: Sequence[Sequence[int]], grid: Grid) -> Fields:
        """Read patches at hours after their initial times.

        Args:
            picks: the patches.
            leads: hours, for each patch the same number.
            grid: that stands for all of them.
        """
        store, initial = self.store, self.store.time[[pick.initial for pick in picks]]
        time = initial[:, None] + SECONDS_PER_HOUR * np.array(leads, dtype=np.int64)
        index = np.searchsorted(store.time, time)
        corners = [(pick.row, pick.column) for pick in picks for _ in range(time.shape[1])]
        values = store.patches(index.ravel(), self.channels, corners, self.cutter.size)
        return self._fields(values.reshape(*time.shape, *values.shape[1:]), time, grid)

    def _fields(self, values: NDArray[np.float32], time: NDArray[np.int64], grid: Grid) -> Fields:
        tensor = torch.from_numpy(values)
        valid = torch.isfinite(tensor) if self.store.has_gaps else None
        frame = Frame(self.layout.inputs, torch.from_numpy(time), grid, self.store.calendar)
        return Fields(tensor if valid is None else tensor.masked_fill(~valid, 0.0), frame, valid)


def coarse_grid(grid: Grid, factor: int) -> Grid:
    """Return the grid whose points are the means of `factor` rows and columns.

    Raises:
        GridError: if the factor does not divide the grid.
    """
    rows, columns = grid.shape
    if factor < 1 or rows % factor or columns % factor:
        raise GridError(f"a factor of {factor} does not divide the {rows}×{columns} points of the grid {grid}")
    return Grid(grid.latitude.reshape(-1, factor).mean(axis=1), grid.longitude.reshape(-1, factor).mean(axis=1))


def block_mean(fields: Fields, factor: int) -> Fields:
    """Return means over blocks of `factor` × `factor` points, where at least half of them are valid.

    Raises:
        GridError: if the factor does not divide the grid.
    """
    grid = coarse_grid(fields.frame.grid, factor)
    frame = Frame(fields.frame.channels, fields.frame.time, grid, fields.frame.calendar)
    if fields.valid is None:
        return Fields(_blocks(fields.values, factor).mean(dim=(-3, -1)), frame)
    count = _blocks(fields.valid, factor).sum(dim=(-3, -1))
    valid = 2 * count >= factor**2
    mean = _blocks(fields.filled(), factor).sum(dim=(-3, -1)) / count.clamp(min=1)
    return Fields(mean.masked_fill(~valid, 0.0), frame, valid)


def _blocks(values: Tensor, factor: int) -> Tensor:
    rows, columns = values.shape[-2:]
    return values.reshape(*values.shape[:-2], rows // factor, factor, columns // factor, factor)


class PatchData(StoreData):
    """What data modules of patches share: one store, its channels, and where patches lie."""

    def __init__(
        self,
        store: Store,
        layout: Layout,
        cutter: Cutter,
        train: tuple[str, str],
        validate: tuple[str, str],
        test: tuple[str, str] | None,
        *,
        patches: int,
        times: int | None,
        loading: Loading,
    ) -> None:
        super().__init__([store], train, validate, test, loading)
        for name, value in (("patches", patches), ("times", times)):
            if value is not None and value < 1:
                raise RecipeError(f"{name} = {value} must be at least 1")
        self.layout, self.cutter, self.patches, self.times = layout, cutter, patches, times

    @property
    def statistics(self) -> Statistics:
        """Distribution of every channel of the store; of patches, which lie anywhere, nothing is known by point."""
        return replace(self.stores[0].statistics.without_seasons(), observed=None)
