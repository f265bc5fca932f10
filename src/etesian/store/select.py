"""What of a canonical dataset goes into a training store: channels, member, period, steps, region."""

from collections.abc import Sequence
from typing import Any, Literal

import dask.array as da
import numpy as np
import xarray as xr
from numpy.typing import NDArray

from etesian.core.channels import parse_channels
from etesian.core.clock import decode_time, encode_time, end_of, parse_time
from etesian.core.constants import SECONDS_PER_HOUR
from etesian.core.dataset import MEMBER, channels_of
from etesian.core.errors import ChannelError, DataError, GridError
from etesian.core.grid import Grid, Region
from etesian.files.times import is_static, is_timed, without_time

Resampling = Literal["instant", "mean"]


def select_channels(
    dataset: xr.Dataset,
    variables: Sequence[str] | None = None,
    exclude: Sequence[str] | None = None,
    levels: Sequence[int] | None = None,
) -> xr.Dataset:
    """Keep some variables, on some levels; fields without time are kept whether listed or not.

    Args:
        dataset: canonical.
        variables: names such as `temperature` or `temperature_850`, or short names (`t2m`); None keeps all.
        exclude: names of the same kind to leave out.
        levels: in hPa, for every variable that has levels; None keeps all.

    Raises:
        ChannelError: if a variable or level is not there, naming the closest.
    """
    known = channels_of(dataset)
    chosen = known
    if variables is not None:
        chosen = parse_channels(variables, known)
        chosen += tuple(c for c in known if _is_still(dataset[c.name]) and c not in chosen)
    if exclude is not None:
        left_out = parse_channels(exclude, chosen)
        chosen = tuple(channel for channel in chosen if channel not in left_out)
    if levels is not None:
        for name in dict.fromkeys(channel.name for channel in chosen):
            there = [c.level for c in chosen if c.name == name and c.level is not None]
            for level in levels if there and not _is_still(dataset[name]) else ():
                if level not in there:
                    closest = min(there, key=lambda other: abs(other - level))
                    raise ChannelError(f"there is no '{name}_{level}'; the closest level is {closest} hPa")
        chosen = tuple(c for c in chosen if c.level is None or _is_still(dataset[c.name]) or c.level in levels)
    kept = dataset[list(dict.fromkeys(channel.name for channel in chosen))]
    if "level" in kept.dims:
        kept = kept.sel(level=sorted({c.level for c in chosen if c.level is not None}))
        for array in kept.data_vars.values():
            if "level" in array.dims:
                array.attrs["levels"] = [c.level for c in chosen if c.name == str(array.name)]
    return kept


def _is_still(array: xr.DataArray) -> bool:
    return "time" not in array.dims or is_static(str(array.name))


def members_of(dataset: xr.Dataset) -> list[int]:
    """Return the numbers of an ensemble's members.

    Raises:
        DataError: if there are none.
    """
    if (name := _dimension_of_members(dataset)) is None:
        raise DataError("there are no members: the data are no ensemble; leave member out")
    return dataset[name].values.tolist() if name in dataset.coords else list(range(dataset.sizes[name]))


def _dimension_of_members(dataset: xr.Dataset) -> str | None:
    """Return its name; datasets that no file reader has named have it under the name of forecasts."""
    return next((name for name in ("member", MEMBER) if name in dataset.dims), None)


def select_member(dataset: xr.Dataset, member: int | str | None) -> xr.Dataset:
    """Pick one member of an ensemble, or the mean of them, which is missing where any of them is.

    Raises:
        DataError: if there are several and neither is named, or the member is not there.
    """
    if (name := _dimension_of_members(dataset)) is None:
        if member is not None:
            raise DataError(f"there is no member '{member}': the data are no ensemble; leave member out")
        return dataset
    there = members_of(dataset)
    names = ", ".join(map(str, there))
    if member == "mean":
        return dataset.mean(name, skipna=False, keep_attrs=True)
    if member is None and len(there) > 1:
        raise DataError(
            f"the data hold {len(there)} members ({names}), and a training store holds one state for each time; name "
            f"the member to keep (--member {there[0]}), or take --member mean, or --member all and a store's name with "
            "{member} in it for a store of each"
        )
    if member is not None and member not in there:
        raise DataError(f"there is no member {member}; there are {names}")
    return dataset.isel({name: 0 if member is None else there.index(member)}, drop=True)


def unchanging(dataset: xr.Dataset) -> xr.Dataset:
    """Take the time from variables that the catalogue knows as static, such as a land-sea mask kept at every time.

    Raises:
        DataError: if one changes in time.
    """
    still = {name: without_time(array) for name, array in dataset.data_vars.items() if is_timed(array)}
    return dataset.assign(still)


def select_period(dataset: xr.Dataset, start: str | None, end: str | None) -> xr.Dataset:
    """Keep the times from `start` to the end of the year, month, day or hour that `end` names.

    Raises:
        DataError: if no time is left, or there is no time at all.
    """
    if "time" not in dataset.dims:
        raise DataError("the data have no time; a training store needs fields that change in time")
    seconds, calendar = encode_time(dataset["time"].values)
    keep = within(seconds, calendar, start, end)
    if keep.start >= keep.stop:
        first, last = decode_time(seconds[[0, -1]], calendar)
        raise DataError(f"no time lies from {start} to {end}; the data go from {first} to {last}")
    return dataset.isel(time=keep)


def within(seconds: NDArray[np.int64], calendar: str, start: str | None, end: str | None) -> slice:
    """Return which of ascending times lie in a period, both ends included."""
    first = 0 if start is None else np.searchsorted(seconds, parse_time(start, calendar))
    last = seconds.size if end is None else np.searchsorted(seconds, end_of(end, calendar), side="right")
    return slice(int(first), int(last))


def refuse_beyond(where: str, seconds: NDArray[np.int64], calendar: str, first: str | None, last: str | None) -> None:
    """See that no time which a span asks for lies before or after all that there are.

    A year, month or day of which only a part is there is not beyond, nor is what lies between the last time and the one
    that would be next.

    Args:
        where: what holds the times, for the message.
        seconds: ascending times.
        calendar: of the times.
        first: date with which the span begins; None for that of the first time.
        last: date with which it ends; None for that of the last time.

    Raises:
        DataError: if one does, naming the dates within.
    """
    begin, end = (f"{date!s:.16}".replace(" ", "T") for date in decode_time(seconds[[0, -1]], calendar))
    first, last = first or begin[:10], last or end[:10]
    step = np.median(np.diff(seconds)) if seconds.size > 1 else 0
    early = end_of(first, calendar) < seconds[0] and parse_time(first, calendar) <= seconds[0] - step
    late = parse_time(last, calendar) > seconds[-1] and end_of(last, calendar) >= seconds[-1] + step
    if early or late:
        begins_within = not early and parse_time(first, calendar) <= seconds[-1]
        ends_within = not late and end_of(last, calendar) >= seconds[0]
        raise DataError(
            f"{where} holds {begin} to {end}, and {first} to {last} reaches beyond that; ask for "
            f"{first if begins_within else begin[:10]} to {last if ends_within else end[:10]}"
        )


def resample(dataset: xr.Dataset, every: int, how: Resampling = "instant") -> xr.Dataset:
    """Thin out the times to multiples of some hours after 00 UTC, or average them over windows of so many hours.

    A window is labelled with its start; windows with fewer times than the fullest are left out. Where less than
    half of a window's times are observed, its mean is missing.

    Args:
        dataset: canonical, with time.
        every: hours.
        how: `instant` picks times, `mean` averages.

    Raises:
        DataError: if `every` is not positive, or no time is picked.
    """
    if every < 1:
        raise DataError(f"cannot resample to every {every} hours; give a whole number of hours from 1 up")
    seconds, calendar = encode_time(dataset["time"].values)
    span = every * SECONDS_PER_HOUR
    if how == "instant":
        keep = np.flatnonzero(seconds % span == 0)
        if not keep.size:
            raise DataError(f"no time is a multiple of {every} hours after 00 UTC; average instead, or leave every out")
        return dataset.isel(time=keep)
    labels, counts = np.unique(seconds // span, return_counts=True)
    full = counts == counts.max()
    dataset = dataset.isel(time=np.flatnonzero(np.repeat(full, counts)))
    time = decode_time(labels[full] * span, calendar)
    means = {
        name: xr.DataArray(_window_means(da.asarray(array.data), int(counts.max())), {}, array.dims, attrs=array.attrs)
        for name, array in dataset.data_vars.items()
        if "time" in array.dims
    }
    return dataset.drop_dims("time").assign(means).assign_coords(time=time)[list(dataset.data_vars)]


def _window_means(array: da.Array, steps: int) -> da.Array:
    """Average every `steps` times, in chunks that are whole windows."""
    sizes = np.maximum(1, np.array(array.chunks[0]) // steps)
    edges = np.unique(np.append(np.minimum(np.cumsum(sizes), array.shape[0] // steps), array.shape[0] // steps))
    windows = np.diff(edges, prepend=0)
    aligned = array.rechunk({0: tuple(int(n) * steps for n in windows)})
    return da.map_blocks(
        _block_means, aligned, steps, dtype=array.dtype, chunks=(tuple(int(n) for n in windows), *array.chunks[1:])
    )


def _block_means(block: NDArray[Any], steps: int) -> NDArray[Any]:
    split = block.reshape(-1, steps, *block.shape[1:])
    count = np.sum(~np.isnan(split), axis=1)
    total = np.nansum(split, axis=1, dtype=np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(2 * count >= steps, total / count, np.nan).astype(block.dtype)


def select_region(dataset: xr.Dataset, text: str) -> xr.Dataset:
    """Keep the grid points inside a named region or `south,north,west,east`.

    Raises:
        GridError: if there are none, or the text is no region.
    """
    grid, box = Grid(dataset["latitude"].values, dataset["longitude"].values), Region.parse(text)
    rows, columns = grid.region(box)
    cropped = dataset.isel(latitude=rows, longitude=columns)
    return cropped.assign_coords(longitude=("longitude", grid.crop(box).longitude, dataset["longitude"].attrs))


def block_means(dataset: xr.Dataset, factor: int) -> xr.Dataset:
    """Average blocks of `factor` × `factor` grid points, lazily; a block with a missing value is missing.

    Raises:
        GridError: if the factor does not divide the grid.
    """
    rows, columns = (dataset.sizes[axis] for axis in ("latitude", "longitude"))
    if factor < 2 or rows % factor or columns % factor:
        raise GridError(f"blocks of {factor}×{factor} points do not divide a grid of {rows}×{columns}")
    blocks = dataset.coarsen(latitude=factor, longitude=factor)
    return blocks.reduce(np.mean, keep_attrs=True)
