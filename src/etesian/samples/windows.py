"""Windows of a training store as samples: states before, at and after an initial time."""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from etesian.core import Batch, Channel, Fields, Frame, Layout
from etesian.core.clock import decode_time, end_of, parse_time
from etesian.core.constants import SECONDS_PER_HOUR
from etesian.core.errors import DataError
from etesian.samples.batches import Group, group_of
from etesian.samples.forcings import Forcings
from etesian.store.reader import Index, Store, compact, positions
from etesian.store.states import States


class Period(NamedTuple):
    """A span of time, both ends included; `2008` as an end means the end of 2008."""

    start: str
    end: str

    def seconds(self, calendar: str) -> tuple[int, int]:
        """Return the first and last second.

        Raises:
            DataError: if it ends before it starts.
        """
        first, last = parse_time(self.start, calendar), end_of(self.end, calendar)
        if last < first:
            raise DataError(f"the period {self.start} to {self.end} ends before it starts")
        return first, last

    def covers(self, time: NDArray[np.int64], calendar: str) -> NDArray[np.bool_]:
        """Return which times, in seconds of a calendar, lie in it.

        Raises:
            DataError: if it ends before it starts.
        """
        first, last = self.seconds(calendar)
        return (time >= first) & (time <= last)


@dataclass(frozen=True)
class Horizon:
    """How the largest lead to train on grows, from one lead to all of them.

    Attributes:
        first: hours of the largest lead at the beginning.
        batches: number of batches, which are the steps of the optimiser unless gradients are accumulated, after which
            every lead is drawn.
        growth: of the largest lead, `linear` or `quadratic` in the number of batches seen.
    """

    first: int
    batches: int
    growth: Literal["linear", "quadratic"] = "linear"

    def hours(self, batch: float, last: int) -> float:
        """Return the largest lead after so many batches, on the way to the last lead."""
        gone = min(batch / self.batches, 1.0)
        return self.first + (last - self.first) * gone ** (2 if self.growth == "quadratic" else 1)


@dataclass(frozen=True)
class RandomLeads:
    """How leads are drawn for a sample, anew every epoch.

    Attributes:
        number: leads drawn for each initial time, the first among the shorter ones, the last among the longer ones; one
            may be drawn twice where there are few.
        horizon: how the largest lead that is drawn grows; None draws among all.
    """

    number: int = 1
    horizon: Horizon | None = None


@dataclass(frozen=True)
class WindowPick:
    """One sample: an initial time and the leads to verify at.

    Attributes:
        store: number of the store.
        initial: position of the initial time on that store's time axis.
        leads: hours after the initial time.
    """

    store: int
    initial: int
    leads: tuple[int, ...]

    @property
    def group(self) -> int:
        """Number of the store."""
        return self.store


class WindowDataset:
    """Samples of a forecast problem from one or several stores; each batch comes from one of them.

    A window lies wholly inside the period, so that two periods which do not overlap share no field, and only
    windows whose every time exists are used. Indexing takes a list of `WindowPick`s and returns a `Batch` in
    physical units, read in one go.

    Args:
        stores: what to read.
        layout: channels, history and grid; a grid that is part of the stores' reads that region.
        leads: hours after the initial time.
        period: first and last time.
        draw: some of the leads at random for each initial time; None takes all of them.
        every: hours between initial times, counted from the first that has its history; None takes every time there is.
        layouts: what each store is read with, where they differ in channels or grid; by default `layout`.
        shares: of the samples of an epoch that come from each store; by default as many as it has. A store that gives
            more or fewer is walked through again and again, each time in another order.
        average_hours: targets are means over the states of so many hours up to the lead, the lead included; None takes
            the state at the lead.
        step_hours: of an iterated forecast, whose forcings are read at every step on the way to the leads; None reads
            them at the leads alone.

    Attributes:
        picks: every window there is, in the order of stores and times.
        groups: one for each store.

    Raises:
        DataError: if no window fits, or none that reaches one of the leads.
        GridError: if the layout's grid is no part of a store's.
    """

    def __init__(
        self,
        stores: Sequence[Store],
        layout: Layout,
        leads: Sequence[int],
        period: Period,
        *,
        draw: RandomLeads | None = None,
        every: int | None = None,
        layouts: Sequence[Layout] | None = None,
        shares: Sequence[float] | None = None,
        average_hours: int | None = None,
        step_hours: int | None = None,
    ) -> None:
        self.stores, self.layout, self.leads, self.draw = list(stores), layout, tuple(leads), draw
        own = [layout] * len(stores) if layouts is None else layouts
        self.readers = [
            WindowReader(store, each, average_hours, step_hours) for store, each in zip(stores, own, strict=True)
        ]
        self.picks: list[WindowPick] = []
        for number, (store, reader) in enumerate(zip(stores, self.readers, strict=True)):
            inside = period.covers(store.time, store.calendar)
            reachable = np.stack([exists(store, reader.hours([lead]), inside) for lead in self.leads], axis=1)
            usable = initial_times(store, layout.history, inside, every)
            usable &= reachable.any(axis=1) if draw else reachable.all(axis=1)
            for i in np.flatnonzero(usable):
                leads_here = tuple(lead for lead, ok in zip(self.leads, reachable[i], strict=True) if ok)
                self.picks.append(WindowPick(number, int(i), leads_here))
        reached = {lead for pick in self.picks for lead in pick.leads}
        if unreached := [lead for lead in self.leads if lead not in reached]:
            raise no_window(stores[0], layout.history, unreached, period)

        samples = np.bincount([pick.store for pick in self.picks], minlength=len(stores))
        self.mixed = shares is not None
        if shares is not None:
            for store, count in zip(stores, samples, strict=True):
                if not count:
                    raise DataError(f"{store.path} has no window within {period.start} to {period.end}; leave it out")
            parts = np.asarray(shares, dtype=np.float64) / np.sum(shares)
            samples = np.maximum(np.rint(parts * len(self.picks)).astype(np.int64), 1)
        self.groups = [Group(store.path, int(count)) for store, count in zip(stores, samples, strict=True)]

    def __len__(self) -> int:
        return sum(group.samples for group in self.groups)

    def epoch(self, seed: int, epoch: int, *, shuffle: bool, batches: int = 1) -> list[WindowPick]:
        """Return the epoch's samples in order: the same for any number of workers and ranks.

        Args:
            seed: of the order and the leads.
            epoch: number of the epoch.
            shuffle: draw in random order.
            batches: that an epoch has, by which the horizon grows from sample to sample.
        """
        rng = np.random.default_rng((seed, epoch))
        picks = self._share(seed, epoch) if self.mixed else self.picks
        order = rng.permutation(len(picks)) if shuffle else np.arange(len(picks))
        if self.draw is None:
            return [picks[i] for i in order]
        number = self.draw.number
        drawn = (np.arange(number) + rng.random((len(picks), number))) / number
        chosen = []
        for place, i in enumerate(order):
            pick = picks[i]
            leads = self._within_horizon(pick.leads, batches * (epoch + place / len(picks)))
            drawn_here = tuple(leads[int(share * len(leads))] for share in drawn[i])
            chosen.append(replace(pick, leads=drawn_here))
        return chosen

    def _within_horizon(self, leads: tuple[int, ...], batch: float) -> tuple[int, ...]:
        """Return the leads that are short enough by now, at least the shortest."""
        if self.draw is None or self.draw.horizon is None:
            return leads
        return leads[: max(bisect_right(leads, self.draw.horizon.hours(batch, self.leads[-1])), 1)]

    def _share(self, seed: int, epoch: int) -> list[WindowPick]:
        """Return each store's part of an epoch: where its walk through ever new permutations has come to."""
        chosen: list[WindowPick] = []
        for number, (_, samples) in enumerate(self.groups):
            own = [pick for pick in self.picks if pick.store == number]
            walk = range(epoch * samples, (epoch + 1) * samples)
            rounds = range(walk[0] // len(own), walk[-1] // len(own) + 1)
            order = {turn: np.random.default_rng((seed, number, turn)).permutation(len(own)) for turn in rounds}
            chosen += [own[order[step // len(own)][step % len(own)]] for step in walk]
        return chosen

    def __getitem__(self, picks: Sequence[WindowPick]) -> Batch:
        return self.readers[group_of(picks)].batch(picks)


class WindowReader:
    """Reads windows of one store, with the layout resolved once.

    Args:
        store: what to read.
        layout: channels, history and grid.
        average_hours: targets are means over the states of so many hours up to the lead, the lead included, where at
            least half of them are valid; None takes the state at the lead.
        step_hours: of an iterated forecast, at whose every step forcings are read.

    Raises:
        ChannelError: if the store lacks a channel of the layout.
        GridError: if the layout's grid is no part of the store's.
        DataError: if static fields have gaps, or the averages are no whole number of steps.
    """

    def __init__(
        self, store: States, layout: Layout, average_hours: int | None = None, step_hours: int | None = None
    ) -> None:
        self.store, self.layout, self.step_hours = store, layout, step_hours
        self.forcings = Forcings(store, layout, store.calendar) if layout.forcings else None
        if average_hours is not None and (store.step_hours < 1 or average_hours % store.step_hours):
            step = store.step_hours or "varying"
            raise DataError(f"averages over {average_hours} h are no whole number of steps of {store.path}, {step} h")
        self.before = (
            (0,) if average_hours is None else tuple(range(store.step_hours - average_hours, 1, store.step_hours))
        )
        self.inputs = compact(positions(layout.inputs, store.channels, store.path))
        self.targets = compact(positions(layout.targets, store.channels, store.path))
        self.rows, self.columns = store.locate(layout.grid)
        self.statics: Tensor | None = None
        if layout.statics:
            chosen = positions(layout.statics, store.static_channels, store.path)
            fields = store.statics[chosen][:, self.rows][:, :, self.columns]
            if not np.isfinite(fields).all():
                raise DataError(f"the static fields of {store.path} have gaps; fill them before `etesian prepare`")
            self.statics = torch.from_numpy(np.ascontiguousarray(fields))

    def batch(self, picks: Sequence[WindowPick]) -> Batch:
        """Read inputs, statics and targets of some samples."""
        initial = self.store.time[[pick.initial for pick in picks]]
        after = initial[:, None] + np.array([pick.leads for pick in picks]) * SECONDS_PER_HOUR
        targets = self._predicted(self._target_fields(after))
        if self.forcings is None:
            return replace(self.start(initial), targets=targets)
        # Where one sample has further to go than another, the other's last time is repeated: its steps beyond are no
        # part of any answer.
        steps = np.array(known_hours(int(max(max(pick.leads) for pick in picks)), self.step_hours), dtype=np.int64)
        time = after if self.step_hours is None else np.minimum(
            initial[:, None] + steps * SECONDS_PER_HOUR, after.max(axis=1, keepdims=True)
        )  # fmt: skip
        return replace(self.start(initial), targets=targets, forcings=self.forcings.at(initial, time))

    def hours(self, leads: Sequence[int]) -> list[int]:
        """Return the hours after the initial time of all states that samples with some leads are made of."""
        hours = [lead + hour for lead in leads for hour in self.before]
        if self.forcings is not None and self.forcings.read and self.step_hours is not None:
            hours += known_hours(max(leads), self.step_hours)
        return hours

    def _predicted(self, targets: Fields) -> Fields:
        """Return targets that are missing on the boundary, where they are not to be predicted."""
        if not self.layout.boundary:
            return targets
        rows, columns = targets.frame.grid.inside(self.layout.boundary)
        inside = torch.zeros_like(targets.values, dtype=torch.bool)
        inside[..., rows, columns] = True
        valid = inside if targets.valid is None else targets.valid & inside
        return Fields(targets.values.masked_fill(~valid, 0.0), targets.frame, valid)

    def _target_fields(self, after: NDArray[np.int64]) -> Fields:
        if self.before == (0,):
            return self._fields(after, self.targets, self.layout.targets)
        times = after[:, :, None] + np.array(self.before) * SECONDS_PER_HOUR
        states = self._fields(times.reshape(len(after), -1), self.targets, self.layout.targets)
        shape = (*times.shape, *states.values.shape[2:])
        values = states.filled().reshape(shape)
        frame = replace(states.frame, time=torch.from_numpy(after))
        if states.valid is None:
            return Fields(values.mean(dim=2), frame)
        count = states.valid.reshape(shape).sum(dim=2)
        mean = values.sum(dim=2) / count.clamp(min=1)
        valid = 2 * count >= len(self.before)
        return Fields(mean.masked_fill(~valid, 0.0), frame, valid)

    def start(self, initial: NDArray[np.int64]) -> Batch:
        """Read what a forecast starts from: inputs and statics at some initial times, in seconds."""
        before = initial[:, None] + np.array(self.layout.history) * SECONDS_PER_HOUR
        return Batch(self._fields(before, self.inputs, self.layout.inputs), statics=self._static_fields(initial))

    def _static_fields(self, initial: NDArray[np.int64]) -> Fields | None:
        if self.statics is None:
            return None
        time = torch.from_numpy(initial[:, None])
        values = self.statics.expand(len(initial), 1, *self.statics.shape)
        return Fields(values, Frame(self.layout.statics, time, self.layout.grid, self.store.calendar))

    def _fields(self, time: NDArray[np.int64], channels: Index | slice, names: tuple[Channel, ...]) -> Fields:
        index = np.searchsorted(self.store.time, time.ravel())
        if not np.array_equal(self.store.time.take(index, mode="clip"), time.ravel()):
            raise DataError(f"{self.store.path} does not hold every time that a sample needs")
        values = self.store.read(index, channels, self.rows, self.columns)
        tensor = torch.from_numpy(values.reshape(*time.shape, *values.shape[1:]))
        valid = torch.isfinite(tensor) if self.store.has_gaps else None
        frame = Frame(names, torch.from_numpy(time), self.layout.grid, self.store.calendar, self.layout.source)
        return Fields(tensor if valid is None else tensor.masked_fill(~valid, 0.0), frame, valid)


def known_hours(lead: int, step_hours: int | None) -> list[int]:
    """Return the hours after the initial time at which forcings are known on the way to a lead."""
    return [lead] if step_hours is None else list(range(step_hours, lead + 1, step_hours))


def exists(store: States, hours: Sequence[int], inside: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return, for each time, whether the store has every time that lies so many hours after it inside the period."""
    known = np.ones(len(store.time), dtype=bool)
    allowed = store.time[inside]
    for hour in hours:
        known &= np.isin(store.time + hour * SECONDS_PER_HOUR, allowed)
    return known


def initial_times(
    store: Store, history: Sequence[int], inside: NDArray[np.bool_], every: int | None = None
) -> NDArray[np.bool_]:
    """Return which times of a store a sample can start from: those whose history lies inside a period as well.

    Args:
        store: whose times they are.
        history: hours of the input states relative to the initial time.
        inside: which times of the store lie in the period.
        every: hours between initial times, counted from the first that has its history; None takes every one.
    """
    usable = inside & exists(store, history, inside)
    if every is not None and usable.any():
        usable &= (store.time - store.time[usable.argmax()]) % (every * SECONDS_PER_HOUR) == 0
    return usable


def no_window(store: Store, history: Sequence[int], leads: Sequence[int], period: Period) -> DataError:
    """Return the error to raise where no sample of a store reaches some leads inside a period."""
    first, last = (f"{decode_time(store.time[[end]], store.calendar)[0]!s:.16}" for end in (0, -1))
    return DataError(
        f"no window with inputs at {list(history)} h and leads of {list(leads)} h lies within {period.start} to "
        f"{period.end}; {store.path} holds {first} to {last} every {store.step_hours or '(varying)'} h"
    )


def given_side(layout: Layout) -> Layout:
    """Return what of a layout is read from the store of the inputs; all of it where there is no second grid."""
    if layout.target_grid is None:
        return layout
    return replace(layout, targets=layout.inputs, statics=(), target_grid=None)
