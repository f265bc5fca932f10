"""The data of downscaling and super-resolution: coarse fields and fine ones, from two stores or one."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from etesian.core import Batch, Grid, Layout, Region
from etesian.core.errors import DataError, GridError, RecipeError
from etesian.core.statistics import Statistics
from etesian.samples.batches import Group, order_of
from etesian.samples.loading import Loading, StoreData, check_history
from etesian.samples.patches import Cutter, PatchData, PatchDataset, PatchPick, block_mean, coarse_grid
from etesian.samples.windows import Period, WindowReader, given_side, initial_times, no_window
from etesian.store.reader import Store, observed_targets


class DownscalingData(StoreData):
    """Inputs on a coarse grid, targets on a fine one at the same time, from two training stores.

    The two may come from two sources, or one from the other by `etesian prepare --grid`; the times that both hold are
    used. Static fields are the fine store's. A channel that is predicted is normalised by the fine store's statistics
    on both grids, so that an interpolated field keeps its meaning; other inputs by the coarse store's.

    Args:
        coarse: training store of the inputs.
        fine: training store of the targets and of the static fields.
        train: first and last date to train on; a year or month as an end means all of it.
        validate: first and last date to choose on.
        test: first and last date to judge on.
        inputs: channels that are given; default all of the coarse store.
        targets: channels that are asked for; default those that both stores hold, of the inputs.
        statics: static fields of the fine grid that are given as well; default all.
        history: hours of the input states relative to the time asked for, ascending, the last one 0.
        region: named box, or south,north,west,east in degrees, of the fine grid; the coarse points that surround it are
            read as well. Default both grids whole.
        every: hours between samples; default every time there is.
        batch_size: samples in a batch, per process.
        workers: processes that read ahead; 0 reads in the training process, which is fastest for small grids.
        seed: of the order of samples.

    Raises:
        RecipeError: if the periods overlap, the calendars differ, history is out of order, or there is nothing to
            predict.
        ChannelError: if a store lacks a channel.
    """

    def __init__(
        self,
        coarse: str,
        fine: str,
        train: tuple[str, str],
        validate: tuple[str, str],
        test: tuple[str, str] | None = None,
        inputs: list[str] | None = None,
        targets: list[str] | None = None,
        statics: list[str] | None = None,
        history: list[int] = [0],  # noqa: B006 — jsonargparse shows this default in --help
        region: str | None = None,
        every: int | None = None,
        batch_size: int = 32,
        workers: int = 0,
        seed: int = 0,
    ) -> None:
        low, high = Store(coarse), Store(fine)
        if low.calendar != high.calendar:
            raise RecipeError(
                f"{coarse} counts days in the {low.calendar} calendar, {fine} in {high.calendar}; times of one do not "
                "exist in the other, so take two sources of one calendar"
            )
        super().__init__([low, high], train, validate, test, Loading(batch_size, workers, seed))
        given = low.resolve(inputs)
        wanted = tuple(c for c in given if c in high.channels) if targets is None else high.resolve(targets)
        if not wanted:
            raise RecipeError(f"{coarse} and {fine} have no channel in common; name targets of {fine}")
        box = None if region is None else Region.parse(region)
        self.layout = Layout(
            inputs=given,
            targets=wanted,
            grid=low.grid if box is None else surrounding(low.grid, box),
            statics=high.resolve_statics(statics),
            history=check_history(history),
            target_grid=high.grid if box is None else high.grid.crop(box),
        )
        self.every = every

    @property
    def statistics(self) -> Statistics:
        """Distribution of every channel of the layout: targets and statics of the fine store, other inputs coarse."""
        coarse, fine = self.stores
        others = tuple(c for c in self.layout.inputs if c not in self.layout.targets)
        parts = [
            (fine.statistics, self.layout.targets),
            (coarse.statistics, others),
            (fine.static_statistics, self.layout.statics),
        ]
        everything = tuple(channel for _, channels in parts for channel in channels)
        return Statistics(
            everything,
            np.concatenate([known.mean[known.index(channels)] for known, channels in parts]),
            np.concatenate([known.std[known.index(channels)] for known, channels in parts]),
            observed=observed_targets([fine], self.layout, everything),
        )

    def dataset(self, part: str) -> "PairDataset":
        """Return the samples of `train`, `validate` or `test`.

        Raises:
            RecipeError: if the recipe names no such period.
            DataError: if no time in it is in both stores.
        """
        coarse, fine = self.stores
        return PairDataset(coarse, fine, self.layout, self.period(part), every=self.every)


@dataclass(frozen=True)
class PairPick:
    """One sample: a time that both stores hold.

    Attributes:
        initial: its position on the coarse store's time axis.
    """

    initial: int

    @property
    def group(self) -> int:
        """The one that all pairs belong to, for they lie on the same two grids."""
        return 0


class PairDataset:
    """Coarse states, with their history, and fine states at the times that two stores share.

    Args:
        coarse: store of the inputs.
        fine: store of the targets and statics.
        layout: with a `target_grid`.
        period: first and last time.
        every: hours between samples; None takes every time there is.

    Attributes:
        picks: every pair there is, in the order of time.
        groups: one, of all pairs.

    Raises:
        DataError: if no such time is in the period.
        GridError: if the layout's grids are no parts of the stores'.
    """

    def __init__(self, coarse: Store, fine: Store, layout: Layout, period: Period, *, every: int | None = None) -> None:
        self.coarse = WindowReader(coarse, given_side(layout))
        self.fine = WindowReader(fine, _wanted_side(layout))
        usable = initial_times(coarse, layout.history, period.covers(coarse.time, coarse.calendar), every)
        if not usable.any():
            raise no_window(coarse, layout.history, [0], period)
        self.picks = [PairPick(int(i)) for i in np.flatnonzero(usable & np.isin(coarse.time, fine.time))]
        if not self.picks:
            raise DataError(
                f"{coarse.path} and {fine.path} share no time in {period.start} to {period.end}; a sample needs both "
                "at the same time"
            )
        self.groups = [Group(f"{coarse.path} and {fine.path}", len(self.picks))]

    def __len__(self) -> int:
        return len(self.picks)

    def epoch(self, seed: int, epoch: int, *, shuffle: bool, batches: int = 1) -> list[PairPick]:
        """Return the epoch's samples in order: the same for any number of workers, ranks and batches."""
        return [self.picks[i] for i in order_of(len(self.picks), seed, epoch, shuffle=shuffle)]

    def __getitem__(self, picks: Sequence[PairPick]) -> Batch:
        time = self.coarse.store.time[[pick.initial for pick in picks]]
        fine = self.fine.start(time)
        return replace(self.coarse.start(time), targets=fine.inputs, statics=fine.statics)


def _wanted_side(layout: Layout) -> Layout:
    return replace(layout, inputs=layout.targets, grid=layout.output_grid, history=(0,), target_grid=None)


def surrounding(grid: Grid, box: Region) -> Grid:
    """Return the part of a grid inside a box and the next points around it, from which all of the box is interpolated.

    Raises:
        GridError: if there is none.
    """
    margin = np.diff(grid.latitude).max(initial=0), np.diff(grid.longitude).max(initial=0)
    if box.width + 2 * margin[1] >= 360:
        west, east = 0.0, 360.0
    else:
        west, east = box.west - margin[1], box.west + box.width + margin[1]
    return grid.crop(Region(box.south - margin[0], box.north + margin[0], west, east))


class SuperResolutionDataset(PatchDataset):
    """Targets are patches, inputs their block means."""

    def __getitem__(self, picks: Sequence[PatchPick]) -> Batch:
        fine = self.read(picks, [(0,)] * len(picks), self.layout.output_grid)
        return Batch(block_mean(fine, self.cutter.size[0] // self.layout.grid.shape[0]), fine)


class SuperResolutionData(PatchData):
    """Patches as targets, and as inputs their means over blocks of `factor` × `factor` points, in physical units.

    Args:
        store: training store of the fine fields.
        train: first and last date to train on; a year or month as an end means all of it.
        validate: first and last date to choose on.
        test: first and last date to judge on.
        channels: that are sharpened; a bare name means all its levels; default all.
        factor: how many rows and columns of the fine grid make one of the coarse grid.
        patch_size: rows and columns of a fine patch.
        band: the largest latitude of a patch's centre, degrees north or south.
        patches: places at each time, which cost one read.
        times: in an epoch of training; default as many as there are.
        batch_size: patches in a batch, per process.
        workers: processes that read ahead.
        seed: of places and the order of samples.

    Raises:
        RecipeError: if the periods overlap, no patch fits, or the factor does not divide it.
        ChannelError: if the store lacks a channel.
    """

    def __init__(
        self,
        store: str,
        train: tuple[str, str],
        validate: tuple[str, str],
        test: tuple[str, str] | None = None,
        channels: list[str] | None = None,
        factor: int = 4,
        patch_size: tuple[int, int] = (96, 96),
        band: float = 60.0,
        patches: int = 4,
        times: int | None = None,
        batch_size: int = 32,
        workers: int = 0,
        seed: int = 0,
    ) -> None:
        opened = Store(store)
        cutter = Cutter(opened.grid, patch_size, band)
        given = opened.resolve(channels)
        try:
            coarse = coarse_grid(cutter.reference, factor)
        except GridError:
            raise RecipeError(
                f"a factor of {factor} does not divide patches of {patch_size[0]}×{patch_size[1]}; choose another size"
            ) from None
        super().__init__(
            opened,
            Layout(given, given, coarse, target_grid=cutter.reference),
            cutter,
            train,
            validate,
            test,
            patches=patches,
            times=times,
            loading=Loading(batch_size, workers, seed),
        )
        self.factor = factor

    @property
    def provenance(self) -> dict[str, object]:
        """What the run has seen, for its checkpoint: store with its fingerprint, periods, factor."""
        return super().provenance | {"factor": self.factor}

    def dataset(self, part: str) -> SuperResolutionDataset:
        """Return the patches of `train`, `validate` or `test`.

        Raises:
            RecipeError: if the recipe names no such period.
            DataError: if no time lies in it.
        """
        times = self.times if part == "train" else None
        return SuperResolutionDataset(
            self.stores[0], self.layout, self.cutter, (0,), self.period(part), patches=self.patches, times=times
        )
