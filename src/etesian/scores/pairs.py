"""Which forecasts are compared with which truth, and both of them in chunks that fit into memory."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
import xarray as xr
from jaxtyping import Bool, Float
from numpy.typing import NDArray
from torch import Tensor

from etesian.core.channels import Channel
from etesian.core.clock import Seconds, decode_time
from etesian.core.constants import SECONDS_PER_HOUR
from etesian.core.errors import DataError
from etesian.core.fields import Fields, Frame
from etesian.scores.climatology import Climatology
from etesian.scores.series import FieldSeries, check_match

CHUNK_BYTES = 2**27
"""Size of the arrays of one chunk in memory, about; a chunk holds at least one lead of one initial time."""


@dataclass(frozen=True)
class Chunk:
    """Some initial times and leads of every forecast, with the truth and the climatology at their valid times.

    Attributes:
        initial: positions of the initial times among the common ones.
        leads: positions of the leads among those scored.
        verified: where the truth has the valid time at all.
        forecasts: by name; batch is the initial time and time the lead. Of an ensemble the mean of its members.
        members: of the ensembles among them, by name.
        truth: at the same times; NaN where it has no such time.
        climatology: at the same times, if there is one.
    """

    initial: slice
    leads: slice
    verified: Bool[Tensor, "initial lead"]
    forecasts: dict[str, Fields]
    members: dict[str, Float[Tensor, "member initial lead channel lat lon"]]
    truth: Fields
    climatology: Fields | None


@dataclass
class Pairs:
    """Forecasts matched with the truth: the initial times and leads that all of them share.

    Attributes:
        forecasts: by name.
        truth: what they are compared with.
        climatology: for anomalies, or None.
        channels: what is scored.
        leads: hours.
        initial: common initial times, seconds since 1970-01-01, ascending.
        dropped: how many initial times of each forecast others do not have, or no truth verifies at any lead.
        position: of each valid time in the truth, −1 where it has none; (initial, lead).

    Raises:
        DataError: if nothing is common, a lead is missing from a forecast, or no valid time is in the truth.
        GridError: if grids differ.
    """

    forecasts: Mapping[str, FieldSeries]
    truth: FieldSeries
    climatology: Climatology | None
    channels: tuple[Channel, ...]
    wanted_leads: Sequence[int] | None
    leads: list[int] = field(init=False)
    initial: Seconds = field(init=False)
    dropped: dict[str, int] = field(init=False)
    position: NDArray[np.int64] = field(init=False)

    def __post_init__(self) -> None:
        for series in self.forecasts.values():
            check_match(series, self.truth, self.channels)
        self.leads = self._common_leads()
        times = {name: series.times[0] for name, series in self.forecasts.items()}
        common = next(iter(times.values()))
        for seconds in times.values():
            common = np.intersect1d(common, seconds)
        if common.size == 0:
            raise DataError(f"the forecasts {', '.join(times)} share no initial time; make them from the same ones")
        truth_times, self.calendar = self.truth.times
        valid = common[:, None] + np.array(self.leads) * SECONDS_PER_HOUR
        found = np.searchsorted(truth_times, valid).clip(max=truth_times.size - 1)
        position = np.where(truth_times[found] == valid, found, -1)
        if (position < 0).all():
            first, last = (decode_time([t.min(), t.max()], self.calendar) for t in (valid, truth_times))
            raise DataError(
                f"no forecast can be scored: they are valid from {first[0]} to {first[1]}, the truth covers "
                f"{last[0]} to {last[1]}; give a truth that holds those times"
            )
        scored = (position >= 0).any(1)
        self.initial, self.position = common[scored], position[scored]
        self.dropped = {name: int(seconds.size - self.initial.size) for name, seconds in times.items()}

    def _common_leads(self) -> list[int]:
        hours = {name: set(series.leads.tolist()) for name, series in self.forecasts.items()}
        if self.wanted_leads is None:
            common = sorted(set.intersection(*hours.values()))
            if not common:
                raise DataError(f"the forecasts {', '.join(hours)} share no lead")
            return common
        for name, known in hours.items():
            if missing := [lead for lead in self.wanted_leads if lead not in known]:
                raise DataError(
                    f"forecast '{name}' has no lead of {missing[0]} h; its leads are "
                    f"{', '.join(map(str, sorted(known)))} h"
                )
        return sorted(set(self.wanted_leads))

    def unverified(self) -> NDArray[np.int64]:
        """Return how many initial times have no truth at each lead."""
        return np.asarray((self.position < 0).sum(0))

    def chunk(self, initial: slice, leads: slice) -> Chunk:
        """Read some initial times and leads."""
        hours = self.leads[leads]
        valid = self.initial[initial, None] + np.array(hours) * SECONDS_PER_HOUR
        frame = Frame(self.channels, torch.from_numpy(valid), self.truth.grid, self.calendar)
        position = self.position[initial, leads]
        needed, where = np.unique(position, return_inverse=True)
        maps = self.truth.read(self.channels, time=needed.clip(min=0))
        maps[needed < 0] = np.nan
        forecasts, members = {}, {}
        for name, series in self.forecasts.items():
            rows = np.searchsorted(series.times[0], self.initial[initial])
            columns = [series.leads.tolist().index(lead) for lead in hours]
            values = torch.from_numpy(series.read(self.channels, time=rows, prediction_timedelta=columns))
            if series.members > 1:
                members[name], values = values, values.mean(0, dtype=torch.float64).to(values.dtype)
            forecasts[name] = Fields(values, frame)
        return Chunk(
            initial,
            leads,
            torch.from_numpy(position >= 0),
            forecasts,
            members,
            Fields(torch.from_numpy(maps[where.reshape(position.shape)]), frame),
            self._climatology(frame, valid),
        )

    def _climatology(self, frame: Frame, valid: Seconds) -> Fields | None:
        if self.climatology is None:
            return None
        channels = tuple(channel for channel in self.channels if channel in self.climatology.channels)
        values = self.climatology.at(valid, self.calendar, channels)
        return Fields(torch.from_numpy(values), Frame(channels, frame.time, self.climatology.grid, self.calendar))

    def _at_once(self) -> tuple[int, int]:
        """Return how many initial times and leads make a chunk."""
        rows, columns = self.truth.grid.shape
        maps = sum(series.members for series in self.forecasts.values()) + 2
        pair = 4 * len(self.channels) * rows * columns * maps
        pairs = max(1, CHUNK_BYTES // pair)
        return max(1, pairs // len(self.leads)), min(pairs, len(self.leads))

    def blocks(self) -> list[slice]:
        """Return the initial times that are read together, in order."""
        times, _ = self._at_once()
        return [slice(a, min(a + times, self.initial.size)) for a in range(0, self.initial.size, times)]

    def chunks(self, block: slice) -> Iterator[Chunk]:
        """Read the initial times of a block, chunk by chunk."""
        _, leads = self._at_once()
        for lead in range(0, len(self.leads), leads):
            yield self.chunk(block, slice(lead, min(lead + leads, len(self.leads))))


@runtime_checkable
class PairedScore(Protocol):
    """What sums something over all chunks of `Pairs`, for which it was built."""

    def add(self, chunk: Chunk, where: Bool[Tensor, "initial lead channel lat lon"]) -> None:
        """Take a chunk into account, at the points where all forecasts and the truth are there."""

    def part(self, block: slice) -> Any:
        """Return what the chunks of a block have added, which were the last, to be taken over in another process."""

    def take(self, block: slice, part: Any) -> None:
        """Take over what another process has made of a block; blocks come in order."""

    def result(self) -> xr.Dataset:
        """Return what became of all chunks, as variables of the scores."""


class ByInitialTime(ABC):
    """A paired score that keeps everything by initial time, so that a part of it has its places in the whole."""

    @abstractmethod
    def kept(self) -> Iterable[tuple[NDArray[Any], int]]:
        """Return arrays, each with the number of its axis of initial times."""

    def part(self, block: slice) -> list[NDArray[Any]]:
        """Return what the chunks of a block have added."""
        return [array[(*[slice(None)] * axis, block)].copy() for array, axis in self.kept()]

    def take(self, block: slice, part: list[NDArray[Any]]) -> None:
        """Take over what another process has made of a block."""
        for (array, axis), values in zip(self.kept(), part, strict=True):
            array[(*[slice(None)] * axis, block)] = values
