"""A canonical dataset as the states that forecasts start from, read as those of a training store are."""

from collections.abc import Sequence
from functools import cached_property

import dask
import numpy as np
import xarray as xr
from jaxtyping import Float
from numpy.typing import NDArray

from etesian.core.clock import encode_time
from etesian.core.constants import SECONDS_PER_HOUR
from etesian.core.dataset import MEMBER, channels_of, from_dataset
from etesian.core.errors import DataError
from etesian.core.grid import Grid
from etesian.store.reader import Index, Located, Store


class DatasetStates(Located):
    """States of a dataset that lies in memory or is opened lazily; only what is asked for is read.

    Args:
        dataset: canonical, as `etesian.open` gives it, with the dimension `time`.
        name: what it is called in messages.

    Raises:
        DataError: if it has no times, or several members.
    """

    def __init__(self, dataset: xr.Dataset, name: str = "the dataset") -> None:
        if "time" not in dataset.dims:
            raise DataError(f"{name} has no dimension 'time'; open files with etesian.open, or expand_dims('time')")
        if member := next((dim for dim in ("member", MEMBER) if dim in dataset.dims), None):
            raise DataError(
                f"{name} holds {dataset.sizes[member]} members, and a forecast starts from one state; select one, as "
                f"dataset.isel({member}=0), or take dataset.mean('{member}')"
            )
        self.path = name
        ordered = dataset.sortby("latitude")
        static = [str(name) for name, array in ordered.data_vars.items() if "time" not in array.dims]
        self.dataset, self._still = ordered.drop_vars(static), ordered[static]
        self.channels, self.static_channels = channels_of(self.dataset), channels_of(self._still)
        self.grid = Grid(ordered.latitude.values, ordered.longitude.values)
        self.time, self.calendar = encode_time(ordered["time"].values)
        steps = np.unique(np.diff(self.time))
        self.step_hours = int(steps[0]) // SECONDS_PER_HOUR if steps.size == 1 else 0
        self.units = {c: str(self.dataset[c.name].attrs.get("units", "")) for c in self.channels}
        self.has_gaps = True
        self.fingerprint = str(dask.base.tokenize(dataset))

    @cached_property
    def statics(self) -> Float[np.ndarray, "static lat lon"]:
        """Static fields in physical units."""
        return np.asarray(from_dataset(self._still, self.static_channels).values, dtype=np.float32)

    def read(
        self,
        index: Sequence[int] | Index,
        channels: Index | slice = slice(None),
        rows: Index | slice = slice(None),
        columns: Index | slice = slice(None),
    ) -> Float[np.ndarray, "index channel lat lon"]:
        """Read some times, in any order, as float32 with NaN where missing; see `Store.read`."""
        positions: NDArray[np.int64] = np.arange(len(self.channels))[channels]
        wanted = [self.channels[place] for place in positions]
        piece = self.dataset.isel(time=np.asarray(index), latitude=rows, longitude=columns)
        stacked = from_dataset(piece, wanted).transpose("time", "channel", "latitude", "longitude")
        return np.asarray(stacked.values, dtype=np.float32)


States = Store | DatasetStates
"""Where forecasts and samples read states from."""
