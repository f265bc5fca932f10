"""Values that travel with their frame: which channels, when, on which grid."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
import xarray as xr
from jaxtyping import Bool, Float, Int64
from numpy.typing import ArrayLike
from torch import Tensor

from etesian.core.channels import Channel
from etesian.core.clock import decode_time, encode_time
from etesian.core.dataset import channels_of, forecast_times, from_dataset, to_dataset
from etesian.core.device import positions, sent
from etesian.core.errors import ChannelError, DataError, suggest
from etesian.core.grid import Grid


@dataclass(frozen=True)
class Layout:
    """What goes into a network and what comes out, on which grid; fixed when the network is built.

    Attributes:
        inputs: channels of the state that is given.
        targets: channels that are asked for.
        grid: the grid of both, unless `target_grid` is given.
        statics: channels that do not change in time, appended to the inputs.
        forcings: channels that are known at the target time; targets among them only on the boundary.
        history: hours of the input states relative to the initial time, ascending, the last one 0.
        target_grid: the grid of the targets where it differs (downscaling).
        other_grids: further grids that fields may be on, for networks that take several resolutions.
        boundary: rows and columns along the edges of the grid where the targets are known and not predicted.
        source: name of the analyses that the inputs come from, for networks that tell several apart.
    """

    inputs: tuple[Channel, ...]
    targets: tuple[Channel, ...]
    grid: Grid
    statics: tuple[Channel, ...] = ()
    forcings: tuple[Channel, ...] = ()
    history: tuple[int, ...] = (0,)
    target_grid: Grid | None = None
    source: str | None = None
    other_grids: tuple[Grid, ...] = ()
    boundary: int = 0

    @property
    def output_grid(self) -> Grid:
        """The grid of the targets."""
        return self.grid if self.target_grid is None else self.target_grid

    @property
    def predicted_grid(self) -> Grid:
        """The grid of what is predicted: that of the targets without its boundary."""
        return self.output_grid.without(self.boundary)


@dataclass(frozen=True)
class Frame:
    """Which channels, at which times, on which grid: everything about fields but their values.

    Attributes:
        channels: names of the channel axis.
        time: valid time, seconds since 1970-01-01 00:00 counted in `calendar`; always in the host's memory, where the
            code that reads it runs.
        grid: latitudes and longitudes.
        calendar: CF name of the calendar that `time` counts in.
        source: name of the analyses that the fields come from, where it matters.
    """

    channels: tuple[Channel, ...]
    time: Int64[Tensor, "batch time"]
    grid: Grid
    calendar: str = "proleptic_gregorian"
    source: str | None = None

    def __post_init__(self) -> None:
        if self.time.device.type == "cuda":
            object.__setattr__(self, "time", self.time.cpu())

    def index(self, channels: Sequence[Channel]) -> list[int]:
        """Return the positions of some channels.

        Raises:
            ChannelError: if one is not there, naming the closest.
        """
        position = {channel: i for i, channel in enumerate(self.channels)}
        missing = [c for c in channels if c not in position]
        if missing:
            raise ChannelError(f"there is no channel '{missing[0]}'{suggest(str(missing[0]), map(str, self.channels))}")
        return [position[c] for c in channels]


@dataclass(frozen=True)
class Fields:
    """Values on a frame, with a mask of where they are known.

    Attributes:
        values: in physical units at every public boundary; finite wherever `valid`.
        frame: what the axes mean.
        valid: True where observed; None means everywhere.

    Raises:
        ValueError: if the shapes disagree.
    """

    values: Float[Tensor, "batch time channel lat lon"]
    frame: Frame
    valid: Bool[Tensor, "batch time channel lat lon"] | None = None

    def __post_init__(self) -> None:
        expected = (*self.frame.time.shape, len(self.frame.channels), *self.frame.grid.shape)
        if tuple(self.values.shape) != expected:
            raise ValueError(f"values have shape {tuple(self.values.shape)}, their frame {expected}")
        if self.valid is not None and self.valid.shape != self.values.shape:
            raise ValueError(f"the mask has shape {tuple(self.valid.shape)}, the values {expected}")

    def select(self, channels: Sequence[Channel]) -> "Fields":
        """Return some channels, in the order asked for.

        Raises:
            ChannelError: if one is not there.
        """
        if tuple(channels) == self.frame.channels:
            return self
        index = positions(self.frame.index(channels), self.values.device)
        return Fields(
            self.values.index_select(2, index),
            replace(self.frame, channels=tuple(channels)),
            None if self.valid is None else self.valid.index_select(2, index),
        )

    def at(self, position: int) -> "Fields":
        """Return one position of the time axis, keeping that axis with length 1."""
        span = slice(position, position + 1) if position != -1 else slice(-1, None)
        return Fields(
            self.values[:, span],
            replace(self.frame, time=self.frame.time[:, span]),
            None if self.valid is None else self.valid[:, span],
        )

    def take(self, samples: Sequence[int]) -> "Fields":
        """Return some samples, in the order asked for."""
        index, time = positions(samples, self.values.device), self.frame.time[list(samples)]
        valid = None if self.valid is None else self.valid.index_select(0, index)
        return Fields(self.values.index_select(0, index), replace(self.frame, time=time), valid)

    def at_times(self, time: Int64[Tensor, "batch when"]) -> "Fields":
        """Return the fields of some times of each sample.

        Raises:
            DataError: if one is not there.
        """
        if torch.equal(time, self.frame.time):
            return self
        same = time[:, :, None] == self.frame.time[:, None]
        if not bool(same.any(-1).all()):
            wanted = decode_time(time[~same.any(-1)][:1].numpy(), self.frame.calendar)[0]
            raise DataError(f"'{self.frame.channels[0]}' is not known at {wanted!s:.16}, one of the times that need it")
        places = same.int().argmax(-1) + torch.arange(len(time))[:, None] * self.frame.time.shape[1]
        index = sent(places.flatten(), self.values)

        def taken(values: Tensor) -> Tensor:
            return values.flatten(0, 1).index_select(0, index).view(*time.shape, *values.shape[2:])

        valid = None if self.valid is None else taken(self.valid)
        return Fields(taken(self.values), replace(self.frame, time=time), valid)

    def one_by_one(self) -> "Fields":
        """Return each time of each sample as a sample of its own."""
        valid = None if self.valid is None else self.valid.flatten(0, 1)[:, None]
        return Fields(
            self.values.flatten(0, 1)[:, None], replace(self.frame, time=self.frame.time.reshape(-1, 1)), valid
        )

    def each(self, count: int) -> "Fields":
        """Return every sample so many times, one after the other."""
        valid = None if self.valid is None else self.valid.repeat_interleave(count, dim=0)
        frame = replace(self.frame, time=self.frame.time.repeat_interleave(count, dim=0))
        return Fields(self.values.repeat_interleave(count, dim=0), frame, valid)

    def inside(self, boundary: int) -> "Fields":
        """Return the fields without so many rows and columns along the edges of their grid."""
        if not boundary:
            return self
        place = self.frame.grid.inside(boundary)
        valid = None if self.valid is None else self.valid[..., *place]
        return Fields(self.values[..., *place], replace(self.frame, grid=self.frame.grid.without(boundary)), valid)

    def filled(self, value: float = 0.0) -> Float[Tensor, "batch time channel lat lon"]:
        """Return the values with a number where they are not valid, so that no NaN enters a network."""
        return self.values if self.valid is None else self.values.masked_fill(~self.valid, value)

    def to(self, device: torch.device | str) -> "Fields":
        """Move values and mask to a device; towards one, the host does not wait for what lies in pinned memory."""
        away = torch.device(device).type != "cpu"
        return Fields(
            self.values.to(device, non_blocking=away),
            self.frame,
            None if self.valid is None else self.valid.to(device, non_blocking=away),
        )

    def pin_memory(self) -> "Fields":
        """Put values and mask into memory that a GPU reads by itself."""
        return Fields(self.values.pin_memory(), self.frame, None if self.valid is None else self.valid.pin_memory())

    def to_xarray(self, initial: ArrayLike | None = None, units: Mapping[Channel, str] | None = None) -> xr.Dataset:
        """Return the fields as a dataset of variables, NaN where they are not valid.

        Args:
            initial: initial time of each sample, seconds since 1970-01-01 in the frame's calendar. The dimensions are
                then WeatherBench 2's: `time` (initial) and `prediction_timedelta`. Without them a single sample has
                the dimension `time` (valid), and several have `sample` and `step`, with the coordinate `valid_time`.
            units: of channels that the catalogue does not know.

        Raises:
            ValueError: if the leads of samples differ.

        >>> grid = Grid.equiangular(45.0)
        >>> frame = Frame((Channel("2m_temperature"),), torch.tensor([[0, 3600]]), grid)
        >>> Fields(torch.zeros(1, 2, 1, *grid.shape), frame).to_xarray()["2m_temperature"].dims
        ('time', 'latitude', 'longitude')
        """
        values = self.filled(float("nan")).detach().cpu().numpy()
        seconds = self.frame.time.cpu().numpy()
        valid = decode_time(seconds.ravel(), self.frame.calendar).reshape(seconds.shape)
        if initial is not None:
            begin = np.asarray(initial, dtype=np.int64)
            leads = seconds - begin[:, None]
            if (leads != leads[0]).any():
                raise ValueError(f"samples have different leads, {leads[0].tolist()} and others, in seconds")
            leading: dict[str, Any] = forecast_times(decode_time(begin, self.frame.calendar), leads[0])
        elif len(seconds) == 1:
            values, leading = values[0], {"time": ("time", valid[0], {"standard_name": "time"})}
        else:
            leading = {"sample": np.arange(len(seconds)), "step": np.arange(seconds.shape[1])}
        dataset = to_dataset(values, leading, self.frame.channels, self.frame.grid, units)
        if "sample" in leading:
            dataset = dataset.assign_coords(valid_time=(("sample", "step"), valid, {"standard_name": "time"}))
        return dataset

    @classmethod
    def from_xarray(cls, dataset: xr.Dataset, channels: Sequence[Channel] | None = None) -> "Fields":
        """Return a dataset with the dimensions `time`, latitude, longitude and, where it has levels, `level` as fields.

        Args:
            dataset: canonical, as `etesian.open` gives it; all of its values are read.
            channels: to take, in this order; by default all.

        Returns:
            One sample whose time axis is that of the dataset.

        Raises:
            ChannelError: if a channel is missing.
            DataError: if the dataset has no time.
        """
        wanted = channels_of(dataset) if channels is None else tuple(channels)
        stacked = from_dataset(dataset, wanted)
        if "time" not in stacked.dims:
            raise DataError("the dataset has no dimension 'time'; select nothing from it, or expand_dims('time')")
        values = np.asarray(stacked.transpose("time", "channel", "latitude", "longitude").values, dtype=np.float32)
        seconds, calendar = encode_time(stacked["time"].values)
        grid = Grid(stacked.latitude.values, stacked.longitude.values)
        tensor = torch.from_numpy(values)[None]
        valid = torch.isfinite(tensor)
        frame = Frame(wanted, torch.from_numpy(seconds)[None], grid, calendar)
        if bool(valid.all()):
            return cls(tensor, frame)
        return cls(tensor.masked_fill(~valid, 0.0), frame, valid)


@dataclass(frozen=True)
class Batch:
    """What a task is given: input fields, and whatever of targets, forcings and statics it needs."""

    inputs: Fields
    targets: Fields | None = None
    forcings: Fields | None = None
    statics: Fields | None = None

    def to(self, device: torch.device | str) -> "Batch":
        """Move everything to a device."""
        return Batch(*(None if f is None else f.to(device) for f in self.parts()))  # type: ignore[arg-type]

    def pin_memory(self) -> "Batch":
        """Put everything into memory that a GPU reads by itself, as PyTorch's loaders ask for."""
        return Batch(*(None if f is None else f.pin_memory() for f in self.parts()))  # type: ignore[arg-type]

    def parts(self) -> tuple[Fields | None, Fields | None, Fields | None, Fields | None]:
        """Return inputs, targets, forcings and statics."""
        return self.inputs, self.targets, self.forcings, self.statics

    def __len__(self) -> int:
        return self.inputs.values.shape[0]
