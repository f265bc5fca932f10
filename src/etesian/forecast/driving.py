"""Forecasts that drive others: what a larger or coarser model predicts, known at the target times of a run."""

from pathlib import Path

import numpy as np
import xarray as xr
from dask.base import tokenize
from jaxtyping import Float
from numpy.typing import NDArray

from etesian.core import Channel, Grid
from etesian.core.constants import SECONDS_PER_HOUR
from etesian.core.dataset import LEAD, MEMBER
from etesian.core.errors import DataError
from etesian.files.open import open_store
from etesian.samples.forcings import Driving, not_known
from etesian.scores.series import FieldSeries, find_lead, open_any, open_forecast
from etesian.store.reader import Store, is_training_store
from etesian.store.regrid import regrid
from etesian.store.states import DatasetStates, States


class DrivingForecasts:
    """Forecasts in WeatherBench 2's layout, read at the initial time of each forecast that they drive.

    On another grid they are interpolated bilinearly.

    Args:
        data: path or dataset.
        name: what they are called in messages.

    Raises:
        DataError: if they are no forecasts, or several members.
    """

    def __init__(self, data: str | Path | xr.Dataset, name: str) -> None:
        series = open_forecast(name, data)
        if MEMBER in series.dims:
            raise DataError(f"{name} holds an ensemble; select one of its members, or take its mean")
        self.path, self.series, self.channels = name, series, series.channels
        self.units = {channel: series.units(channel) for channel in series.channels}
        self.initial, self.calendar = series.times
        one = self._one(0, np.array([len(series.leads) - 1]), series.channels[:1], series.grid)
        # What they say of themselves, and one of their fields.
        told = (series.dataset.attrs, list(map(str, self.channels)), series.grid.to_dict())
        self.fingerprint = str(tokenize(*told, self.initial, series.leads, one))

    def read_ahead(
        self, initial: NDArray[np.int64], time: NDArray[np.int64], channels: tuple[Channel, ...], grid: Grid
    ) -> Float[np.ndarray, "batch time channel lat lon"]:
        """Return some channels at some times after each initial time; see `Driving`."""
        rows, leads = self.find(initial, time, channels[0])
        return np.stack([self._one(int(row), own, channels, grid) for row, own in zip(rows, leads, strict=True)])

    def _one(
        self, row: int, leads: NDArray[np.int64], channels: tuple[Channel, ...], grid: Grid
    ) -> Float[np.ndarray, "time channel lat lon"]:
        # Leads may come twice, where a file asks for them once.
        distinct, places = np.unique(leads, return_inverse=True)
        part = self.series.dataset[list(dict.fromkeys(c.name for c in channels))].isel(time=[row])
        part = part.isel({LEAD: distinct})
        near = part if self.series.grid == grid else regrid(part.load(), grid, "bilinear")
        values = FieldSeries(self.path, near, self.series.dims).read(channels)
        return np.asarray(values[0][places], dtype=np.float32)

    def find(
        self, initial: NDArray[np.int64], time: NDArray[np.int64], channel: Channel
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the positions of initial times and of leads; see `Driving`."""
        known, hours = self.initial, self.series.leads
        after = (time - initial[:, None]) // SECONDS_PER_HOUR
        rows, leads = np.searchsorted(known, initial), np.searchsorted(hours, after)
        wrong = (hours.take(leads, mode="clip") != after) | (known.take(rows, mode="clip") != initial)[:, None]
        if wrong.any():
            row, column = np.argwhere(wrong)[0]
            lacking = None if initial[row] in known else int(initial[row])
            raise not_known(channel, self.path, int(time[row, column]), self.calendar, lacking)
        return rows, leads


def open_forcings(given: str | Path | States | xr.Dataset) -> States | Driving:
    """Open what is known at the target times: a training store, a canonical dataset, or forecasts of another model.

    Raises:
        DataError: if it is none of these.
    """
    if isinstance(given, Store | DatasetStates):
        return given
    if isinstance(given, xr.Dataset):
        return DrivingForecasts(given, "the forcings") if LEAD in given.dims else DatasetStates(given, "the forcings")
    if is_training_store(given):
        return Store(given)
    if find_lead(open_any(str(given))) is not None:
        return DrivingForecasts(given, str(given))
    return DatasetStates(open_store(given), str(given))
