"""What is known at the target times: computed from the clock, read from a store, or the state around a region."""

from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray

from etesian.core import Channel, Fields, Frame, Grid, Layout
from etesian.core.clock import count_alike, decode_time
from etesian.core.errors import ChannelError, DataError, suggest
from etesian.core.radiation import SOLAR_RADIATION, incident_solar_radiation
from etesian.store.reader import Store, compact, positions
from etesian.store.states import DatasetStates, States

COMPUTED = {SOLAR_RADIATION: "J m-2"}
"""Forcings that follow from the clock and the grid, with their units; they are never read."""


@runtime_checkable
class Driving(Protocol):
    """Forecasts that are known beforehand, from which forcings may be read: each at its own initial time."""

    path: str
    channels: tuple[Channel, ...]
    units: dict[Channel, str]
    initial: NDArray[np.int64]
    calendar: str
    fingerprint: str

    def find(self, initial: NDArray[np.int64], time: NDArray[np.int64], channel: Channel) -> object:
        """Return where the forecasts from initial times lie for times after them.

        Raises:
            DataError: naming the channel and the first time that there is none for.
        """

    def read_ahead(
        self, initial: NDArray[np.int64], time: NDArray[np.int64], channels: tuple[Channel, ...], grid: Grid
    ) -> Float[np.ndarray, "batch time channel lat lon"]:
        """Return some channels at some times after each initial time."""


class Forcings:
    """Reads the forcings of a layout at the target times.

    Args:
        source: store, dataset or driving forecasts that hold what is not computed.
        layout: whose forcings are read; of channels that are targets, only the boundary.
        calendar: that times are given in.

    Raises:
        ChannelError: if the source lacks one of them.
        GridError: if the layout's grid is no part of the source's.
        DataError: if the source counts time in another calendar.
    """

    def __init__(self, source: States | Driving, layout: Layout, calendar: str) -> None:
        self.source, self.layout, self.calendar = source, layout, calendar
        self.read = tuple(channel for channel in layout.forcings if channel not in COMPUTED)
        if missing := [channel for channel in self.read if channel not in source.channels]:
            raise ChannelError(
                f"{source.path} has no channel '{missing[0]}', which the run is to know at the target times"
                f"{suggest(str(missing[0]), map(str, source.channels))}"
            )
        theirs = source.initial if isinstance(source, Driving) else source.time
        if self.read and not count_alike(theirs, source.calendar, theirs, calendar):
            raise DataError(
                f"{source.path} counts time in the {source.calendar} calendar, the initial states in {calendar}; use "
                "one calendar"
            )
        self.outside: torch.Tensor | None = None
        if layout.boundary:
            rows, columns = layout.grid.inside(layout.boundary)
            self.outside = torch.ones(len(layout.forcings), *layout.grid.shape, dtype=torch.bool)
            self.outside[[c in layout.targets for c in layout.forcings], rows, columns] = False

    def at(self, initial: NDArray[np.int64], time: NDArray[np.int64]) -> Fields:
        """Read the forcings of some samples, masked where they are missing, and inside of the boundary.

        Args:
            initial: initial time of each sample, in seconds.
            time: target times of each sample, in seconds.

        Raises:
            DataError: naming the first time that the source does not hold.
        """
        layout = self.layout
        values = np.empty((*time.shape, len(layout.forcings), *layout.grid.shape), dtype=np.float32)
        known = self._read(initial, time) if self.read else values
        for place, channel in enumerate(layout.forcings):
            if channel in COMPUTED:
                values[:, :, place] = incident_solar_radiation(time, layout.grid, self.calendar)
            else:
                values[:, :, place] = known[:, :, self.read.index(channel)]
        tensor = torch.from_numpy(values)
        frame = Frame(layout.forcings, torch.from_numpy(time), layout.grid, self.calendar)
        if not self.read or (isinstance(self.source, Store) and not self.source.has_gaps and self.outside is None):
            return Fields(tensor, frame)
        valid = torch.isfinite(tensor)
        if self.outside is None and bool(valid.all()):
            return Fields(tensor, frame)
        valid = valid if self.outside is None else valid & self.outside
        return Fields(tensor.masked_fill(~valid, 0.0), frame, valid)

    def check(self, initial: NDArray[np.int64], time: NDArray[np.int64]) -> None:
        """See that the source holds every time that some forecasts need.

        Raises:
            DataError: naming the first time that it does not hold.
        """
        source = self.source
        if self.read and isinstance(source, Store | DatasetStates):
            _index(source, time, self.read[0], self.calendar)
        elif self.read and isinstance(source, Driving):
            source.find(initial, time, self.read[0])

    def _read(
        self, initial: NDArray[np.int64], time: NDArray[np.int64]
    ) -> Float[np.ndarray, "batch time channel lat lon"]:
        source = self.source
        if isinstance(source, Driving):
            return source.read_ahead(initial, time, self.read, self.layout.grid)
        index = _index(source, time, self.read[0], self.calendar)
        rows, columns = source.locate(self.layout.grid)
        chosen = compact(positions(self.read, source.channels, source.path))
        values = source.read(index, chosen, rows, columns)
        return values.reshape(*time.shape, *values.shape[1:])


def not_known(channel: Channel, path: str, time: int, calendar: str, initial: int | None = None) -> DataError:
    """Return what is said of a time at which a forcing is not known, for want of forecasts from an initial time."""
    when, since = decode_time([time, time if initial is None else initial], calendar)
    lacking = "that time" if initial is None else f"forecasts from {since!s:.16}"
    return DataError(
        f"'{channel}' must be known at {when!s:.16}, but {path} does not hold {lacking}; ask for earlier or shorter "
        "forecasts, or give another dataset of what is known as forcings"
    )


def _index(source: States, time: NDArray[np.int64], channel: Channel, calendar: str) -> NDArray[np.int64]:
    index = np.searchsorted(source.time, time.ravel())
    wrong = source.time.take(index, mode="clip") != time.ravel()
    if wrong.any():
        raise not_known(channel, source.path, int(time.ravel()[wrong][0]), calendar)
    return np.asarray(index)
