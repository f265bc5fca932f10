"""Training stores opened for reading samples: one sample, one contiguous read."""

import json
import math
import mmap
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
import zarr
from jaxtyping import Bool, Float
from numpy.typing import NDArray

from etesian.core.channels import Channel, parse_channels
from etesian.core.clock import day_of_year, decode_time, hour_of_day, settle_calendar
from etesian.core.dataset import facts_table
from etesian.core.errors import ChannelError, DataError, GridError, suggest
from etesian.core.fields import Layout
from etesian.core.grid import Grid
from etesian.core.statistics import Statistics, anomaly_std
from etesian.files.decoding import UnreachableError
from etesian.files.zarrs import at
from etesian.store.remote import RemoteSteps

Index = NDArray[np.int64]


def compact(positions: Sequence[int]) -> Index | slice:
    """Turn neighbouring positions into a slice, which reads without a copy."""
    index = np.asarray(positions, dtype=np.int64)
    if index.size and (np.diff(index) == 1).all():
        return slice(int(index[0]), int(index[-1]) + 1)
    return index


def positions(wanted: Sequence[Channel], known: Sequence[Channel], where: str) -> list[int]:
    """Return the positions of channels.

    Raises:
        ChannelError: naming the file and the closest channel, if one is not there.
    """
    for channel in wanted:
        if channel not in known:
            raise ChannelError(f"{where} has no channel '{channel}'{suggest(str(channel), map(str, known))}")
    return [list(known).index(channel) for channel in wanted]


def observed_targets(
    stores: "Sequence[Store]", layout: Layout, channels: Sequence[Channel]
) -> Bool[np.ndarray, "channel lat lon"] | None:
    """Return where the stores have ever seen a target in their training period; None if that is everywhere.

    Args:
        stores: that hold the targets' grid.
        layout: of which the targets and their grid are taken.
        channels: of the result; those that are no targets, or in no store, count as seen.
    """
    seen = np.ones((len(channels), *layout.output_grid.shape), dtype=bool)
    for number, channel in enumerate(channels):
        holders = [store for store in stores if channel in layout.targets and channel in store.channels]
        if holders:
            parts = []
            for store in holders:
                rows, columns = store.locate(layout.output_grid)
                parts.append(store.observed[store.channels.index(channel)][rows][:, columns])
            seen[number] = np.any(parts, axis=0)
    return None if seen.all() else seen


def is_training_store(path: str | Path) -> bool:
    """Whether a path or an address is a training store made by `prepare`."""
    if "://" not in str(path) and not (Path(path) / "zarr.json").is_file():
        return False
    try:
        return "etesian_store" in zarr.open_group(at(str(path)), mode="r").attrs
    except (OSError, ValueError, KeyError, UnreachableError, zarr.errors.BaseZarrError):
        return False


class Located:
    """Fields on a grid of their own, of which regions can be read."""

    path: str
    grid: Grid

    def locate(self, grid: Grid) -> tuple[Index | slice, Index | slice]:
        """Return the rows and columns on which a grid lies, the store's own or a region of it.

        Raises:
            GridError: if the grid is not part of the store's.
        """
        if grid == self.grid:
            return slice(None), slice(None)
        try:
            rows, columns = self.grid.locate(grid)
        except GridError:
            raise GridError(
                f"{self.path} lies on {self.grid}, the run on {grid}; regrid it with `etesian prepare --grid`"
            ) from None
        return compact(rows.tolist()), compact(columns.tolist())


class Store(Located):
    """A training store made by `etesian prepare`.

    Args:
        path: a local folder, or any address that fsspec opens.

    Raises:
        DataError: if it is not there or is no training store.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = str(path)
        if "://" not in self.path and not Path(self.path).exists():
            raise DataError(f"there is no training store at {self.path}; make one with `etesian prepare`")
        try:
            self.dataset = xr.open_zarr(at(self.path), chunks=None, decode_times=False)
        except (OSError, ValueError, KeyError, zarr.errors.BaseZarrError) as error:
            raise DataError(f"{self.path} cannot be read as a training store ({error}); remake it") from None
        if self.dataset.attrs.get("etesian_store") != 1:
            raise DataError(f"{self.path} is no training store; make one from it with `etesian prepare`")
        self.channels = tuple(Channel.parse(str(name)) for name in self.dataset.channel.values)
        self.static_channels = (
            tuple(Channel.parse(str(name)) for name in self.dataset.static.values) if "statics" in self.dataset else ()
        )
        self.grid = Grid(self.dataset.latitude.values, self.dataset.longitude.values)
        self.time = np.asarray(self.dataset.time.values, dtype=np.int64)
        self.calendar = settle_calendar(self.time, str(self.dataset.attrs["calendar"]))
        self.step_hours = int(self.dataset.attrs["step_hours"])
        self.fingerprint = str(self.dataset.attrs["fingerprint"])
        self.has_gaps = bool(self.dataset["missing"].values.any())
        self._shards: dict[int, tuple[NDArray[np.uint64], mmap.mmap]] = {}
        self._steps_per_shard = self._mappable()
        self._remote = self._at_address()

    def __reduce__(self) -> tuple[type["Store"], tuple[str]]:
        # Another process, which may work elsewhere, opens it anew.
        return type(self), (self.path if "://" in self.path else str(Path(self.path).absolute()),)

    def _facts(self) -> dict[str, str]:
        begin, end = (str(date)[:16] for date in self.times([0, -1]))
        step = f"every {self.step_hours} h" if self.step_hours else "uneven steps"
        attributes = self.dataset.attrs
        return {
            "times": f"{len(self.time)} times, {begin} … {end}, {step}, calendar {self.calendar}",
            "channels": ", ".join(map(str, self.channels)),
            "static fields": ", ".join(map(str, self.static_channels)) or "none",
            "grid": str(self.grid),
            "statistics of": f"{attributes['train_start']} to {attributes['train_end']}",
            "missing values": "some" if self.has_gaps else "none",
        }

    def __repr__(self) -> str:
        return "\n".join([f"Store {self.path}", *(f"{k:>20}: {v}" for k, v in self._facts().items())])

    def _repr_html_(self) -> str:
        return facts_table(f"Training store {self.path}", self._facts())

    @property
    def requests(self) -> int:
        """How often fields were asked for over a network."""
        return 0 if self._remote is None else self._remote.requests

    @cached_property
    def statics(self) -> Float[np.ndarray, "static lat lon"]:
        """Static fields in physical units."""
        return np.asarray(self.dataset["statics"].values, dtype=np.float32)

    @cached_property
    def statistics(self) -> Statistics:
        """Distribution of channels and statics over the training period, with the seasonal cycle."""
        mean, std = (np.asarray(self.dataset[name].values, dtype=np.float64) for name in ("mean", "std"))
        harmonics = np.asarray(self.dataset["harmonics"].values, dtype=np.float32)
        log1p = [np.asarray(self.dataset[f"log1p_{name}"].values, dtype=np.float64) for name in ("mean", "std")]
        observed = None if self.observed.all() else self.observed
        return Statistics(
            self.channels, mean, std, harmonics, anomaly_std(mean, std, harmonics), log1p[0], log1p[1], observed
        )

    @cached_property
    def observed(self) -> Bool[np.ndarray, "channel lat lon"]:
        """Where the training period has a value at any time."""
        if not self.has_gaps:
            return np.ones((len(self.channels), *self.grid.shape), dtype=bool)
        if "observed" in self.dataset:
            return np.asarray(self.dataset["observed"].values, dtype=bool)
        # Stores of earlier versions have the channel's mean as the whole cycle of a point that was never observed.
        cycle = np.asarray(self.dataset["harmonics"].values, dtype=np.float32)
        mean = np.asarray(self.dataset["mean"].values, dtype=np.float32)[:, None, None]
        return np.asarray((cycle[0] != mean) | (cycle[1:] != 0).any(0))

    @cached_property
    def units(self) -> dict[Channel, str]:
        """Units of every channel."""
        return dict(zip(self.channels, map(str, self.dataset["units"].values), strict=True))

    @cached_property
    def static_statistics(self) -> Statistics:
        """Distribution of the static fields over space."""
        if not self.static_channels:
            return Statistics((), np.zeros(0), np.ones(0))
        mean, std = (np.asarray(self.dataset[name].values, dtype=np.float64) for name in ("static_mean", "static_std"))
        return Statistics(self.static_channels, mean, std)

    def climatology_at(
        self, seconds: NDArray[np.int64], channels: Sequence[Channel]
    ) -> Float[np.ndarray, "time channel lat lon"]:
        """Return the climatology by hour and day of the year at some times.

        Raises:
            DataError: if the store has none, or none for the hour of a time.
        """
        if "climatology" not in self.dataset:
            why = self.dataset.attrs.get("climatology_omitted", "it was not computed")
            raise DataError(f"{self.path} holds no climatology: {why}")
        table = self.dataset["climatology"]
        index = positions(channels, self.channels, self.path)
        keys = list(zip(hour_of_day(seconds).tolist(), day_of_year(seconds, self.calendar).tolist(), strict=True))
        hours = [float(hour) for hour in table["hour"].values]
        maps: dict[tuple[float, int], NDArray[np.float32]] = {}
        for hour, day in dict.fromkeys(keys):
            if hour not in hours:
                raise DataError(f"the climatology of {self.path} has no map for hour {hour:g}; its hours are {hours}")
            maps[hour, day] = np.asarray(table[hours.index(hour), day - 1].values[index], dtype=np.float32)
        return np.stack([maps[key] for key in keys])

    def holes(self, grid: Grid) -> dict[Channel, float]:
        """Return the share of values that are missing, for each channel and static field that lacks any.

        Args:
            grid: the store's own, or another. On a part of the store's grid it is the share of points that were never
                observed in the training period; a grid of its own, to which nothing was counted, has none.
        """
        try:
            rows, columns = self.locate(grid)
        except GridError:
            return {}
        if grid == self.grid:
            size = len(self.time) * math.prod(self.grid.shape)
            shares = np.asarray(self.dataset["missing"].values) / size
        else:
            shares = 1 - self.observed[:, rows][:, :, columns].mean(axis=(1, 2))
        found = dict(zip(self.channels, shares.tolist(), strict=True))
        if self.static_channels:
            fixed = np.isnan(self.statics[:, rows][:, :, columns]).mean(axis=(1, 2))
            found |= dict(zip(self.static_channels, fixed.tolist(), strict=True))
        return {channel: share for channel, share in found.items() if share}

    def resolve(self, names: Sequence[str] | None) -> tuple[Channel, ...]:
        """Turn names into channels of this store; None means all.

        Raises:
            ChannelError: naming the closest, if one is not there.
        """
        return self.channels if names is None else parse_channels(names, self.channels)

    def resolve_statics(self, names: Sequence[str] | None) -> tuple[Channel, ...]:
        """Turn names into static channels of this store; None means all."""
        return self.static_channels if names is None else parse_channels(names, self.static_channels)

    def times(self, index: Sequence[int] | Index) -> NDArray[Any]:
        """Return dates at some positions of the time axis."""
        return decode_time(self.time[np.asarray(index)], self.calendar)

    def read(
        self,
        index: Sequence[int] | Index,
        channels: Index | slice = slice(None),
        rows: Index | slice = slice(None),
        columns: Index | slice = slice(None),
    ) -> Float[np.ndarray, "index channel lat lon"]:
        """Read some times, in any order, as float32 with NaN where missing.

        Args:
            index: positions on the time axis.
            channels: positions of channels.
            rows: positions of latitudes.
            columns: positions of longitudes.
        """
        full = (len(self.channels), *self.grid.shape)
        shape = np.empty(full, dtype=bool)[channels][:, rows][:, :, columns].shape
        fields = np.empty((len(index), *shape), dtype=np.float32)
        whole_maps = shape[1:] == full[1:] and isinstance(rows, slice) and isinstance(columns, slice)
        arrived = {} if self._remote is None else self._remote.read(map(int, index))
        in_order = shape == full and all(isinstance(part, slice) for part in (channels, rows, columns))
        buffer = None if in_order or self._remote is None else np.empty(full, dtype=np.float32)
        for field, i in zip(fields, index, strict=True):
            # All channels on all points go from a file in the cache straight into place.
            place = field if in_order else buffer
            step = arrived[int(i)].reshape(full) if int(i) in arrived else self._step(int(i), place)
            if step is field:
                continue
            if whole_maps and not isinstance(channels, slice):
                # Straight into place; any mode but "clip" would copy once more.
                np.take(step, channels, axis=0, out=field, mode="clip")
            else:
                field[...] = step[channels][:, rows][:, :, columns]
        return fields

    def patches(
        self, index: Index, channels: Index | slice, corners: Sequence[tuple[int, int]], size: tuple[int, int]
    ) -> Float[np.ndarray, "patch channel lat lon"]:
        """Cut patches of one size; those that reach past the last column wrap round. Every time is read once.

        Args:
            index: position of each patch on the time axis.
            channels: positions of channels.
            corners: first row and column of each patch.
            size: rows and columns of a patch.
        """
        arrived = {} if self._remote is None else self._remote.read(index.tolist())
        height, width = size
        count = len(np.arange(len(self.channels))[channels])
        cut = np.empty((len(corners), count, height, width), dtype=np.float32)
        for i in np.unique(index).tolist():
            step = arrived.pop(i).reshape(-1, *self.grid.shape) if i in arrived else self._step(i)
            for number in np.flatnonzero(index == i).tolist():
                row, column = corners[number]
                before = min(width, self.grid.shape[1] - column)
                rows = step[:, row : row + height]
                cut[number, ..., :before] = rows[..., column : column + before][channels]
                cut[number, ..., before:] = rows[..., : width - before][channels]
        return cut

    def _mappable(self) -> int | None:
        """Return the number of steps in a shard, or None if shards cannot be mapped into memory."""
        description = Path(self.path) / "fields" / "zarr.json"
        if "://" in self.path or not description.exists():
            return None
        return _plain_shards(json.loads(description.read_text()))

    def _at_address(self) -> RemoteSteps | None:
        """Return the reader of shards behind an address, or None if it is none, or is not laid out as they are."""
        if "://" not in self.path:
            return None
        fields = zarr.open_array(at(self.path), path="fields", mode="r")
        per_shard = _plain_shards(fields.metadata.to_dict())
        if per_shard is None:
            return None
        return RemoteSteps(self.path, self.fingerprint, len(self.time), per_shard, 4 * math.prod(fields.shape[1:]))

    def _step(self, i: int, buffer: NDArray[np.float32] | None = None) -> NDArray[np.float32]:
        """Return the fields of a time; where they are copied from a cache, in the buffer if there is one."""
        shape = (len(self.channels), *self.grid.shape)
        if self._remote is not None:
            buffer = np.empty(shape, dtype=np.float32) if buffer is None else buffer
            arrived = self._remote.step(i, buffer)
            return buffer if arrived is None else arrived.reshape(shape)
        if self._steps_per_shard is None:
            values = np.asarray(self.dataset["fields"][i].values, dtype=np.float32)
            if not self.has_gaps and not np.isfinite(values).all():
                raise DataError(f"{self.path} lacks a part of its fields; copy or make it again")
            return values
        shard, within = divmod(i, self._steps_per_shard)
        if shard not in self._shards:
            self._map(shard)
        offsets, mapped = self._shards[shard]
        return np.frombuffer(mapped, np.float32, math.prod(shape), int(offsets[within])).reshape(shape)

    def _map(self, shard: int) -> None:
        """Map a shard file into memory; its last bytes say where each step begins (Zarr v3, sharding codec).

        Raises:
            DataError: if the file is missing or cut short; `etesian prepare` writes every step, all-missing ones too.
        """
        steps = self._steps_per_shard or 1
        held = min(steps, len(self.time) - shard * steps)
        length = 4 * len(self.channels) * math.prod(self.grid.shape)
        path = Path(self.path) / "fields" / "c" / str(shard) / "0" / "0" / "0"
        try:
            with path.open("rb") as file:
                buffer = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            index = np.frombuffer(buffer, "<u8", 2 * steps, len(buffer) - 16 * steps - 4).reshape(steps, 2)[:held]
        except (OSError, ValueError):
            index = np.zeros((1, 2), dtype=np.uint64)
        if (index[:, 1] != length).any() or (index[:, 0] > len(buffer) - length).any():
            raise DataError(f"{path} is missing or cut short; remake {self.path} with `etesian prepare`")
        self._shards[shard] = (index[:, 0], buffer)


def _plain_shards(metadata: dict[str, Any]) -> int | None:
    """Return the number of steps in a shard of plain steps with its index at the end; None for another layout."""
    codec: dict[str, Any] = metadata["codecs"][0] if metadata.get("codecs") else {"name": "none"}
    if codec["name"] != "sharding_indexed":
        return None
    inner, shape = list(codec["configuration"]["chunk_shape"]), list(metadata["shape"])
    plain = [{"name": "bytes", "configuration": {"endian": "little"}}]
    at_end = codec["configuration"].get("index_location", "end") == "end"
    if inner != [1, *shape[1:]] or list(codec["configuration"]["codecs"]) != plain or not at_end:
        return None
    return int(metadata["chunk_grid"]["configuration"]["chunk_shape"][0])
