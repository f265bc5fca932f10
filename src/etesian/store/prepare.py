"""Canonical dataset → training store, resumably and with bounded memory."""

import errno
import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import dask
import dask.array as da
import numpy as np
import xarray as xr
import zarr
from rich.progress import Progress

from etesian.core.cells import Cells
from etesian.core.channels import Channel, canonical_name
from etesian.core.clock import encode_time
from etesian.core.errors import DataError
from etesian.core.grid import Grid
from etesian.core.outputs import claim, unfinished
from etesian.core.resumable import work_folder
from etesian.core.workers import Workers
from etesian.files.arrays import companions
from etesian.files.cells import grid_of
from etesian.files.checks import Watched
from etesian.files.open import Source, expand, open_store
from etesian.files.virtual import snapshot_of
from etesian.store import format as layout
from etesian.store.climatology import Seasons
from etesian.store.derive import BY_HARMONICS, names_to_derive, sources_of
from etesian.store.derive import derive as add_derived
from etesian.store.format import Axes
from etesian.store.reader import Store
from etesian.store.regrid import Method, covered, parse_grid, regrid
from etesian.store.select import (
    Resampling,
    block_means,
    refuse_beyond,
    resample,
    select_channels,
    select_member,
    select_period,
    select_region,
    unchanging,
    within,
)
from etesian.store.write import describe, iso_date, write_fields, write_seasons, write_statics


def as_list(source: Source) -> list[str]:
    """Return the paths, patterns or addresses of a source."""
    return [str(source)] if isinstance(source, str | Path) else [str(each) for each in source]


def prepare(
    sources: Sequence[str] | xr.Dataset,
    store: str,
    *,
    variables: Sequence[str] | None = None,
    exclude: Sequence[str] | None = None,
    levels: Sequence[int] | None = None,
    grid: str | None = None,
    method: Method = "conservative",
    coarsen: int | None = None,
    start: str | None = None,
    end: str | None = None,
    train_start: str | None = None,
    train_end: str | None = None,
    every: int | None = None,
    resampling: Resampling = "instant",
    region: str | None = None,
    member: int | str | None = None,
    derive: Sequence[str] | None = None,
    scheduler: str | None = None,
    memory_limit: str | None = None,
    overwrite: bool = False,
    opened: xr.Dataset | None = None,
) -> None:
    """Make a training store: fields, statics, statistics, climatology.

    `etesian.prepare` says what the options mean; `train_start` and `train_end` are its `train`, and `opened` is what
    the sources hold, where they are open already.

    Raises:
        EtesianError: if a source cannot be used, an option asks for what is not there, or the disk is full.
    """
    files = [] if isinstance(sources, xr.Dataset) else expand(list(sources))
    target = claim(store, "training store", [*files, *([grid] if grid else [])], overwrite=overwrite)
    if isinstance(sources, xr.Dataset):
        dataset = sources
    else:
        dataset = open_store(list(sources), cells=grid is not None) if opened is None else opened
    if member != "mean":
        dataset = select_member(dataset, member)
    derived = names_to_derive(derive or [])
    kept = variables
    if derived and variables is not None:
        variables = [name for name in variables if (canonical_name(name) or name) not in derived]
        kept = [*variables, *sources_of(derived, map(str, dataset.data_vars))]
    dataset = unchanging(select_channels(dataset, kept, None if derived else exclude, levels))
    whole, dataset = dataset, select_period(dataset, start, end)
    refuse_beyond("the source", *encode_time(whole["time"].values), start, end)
    if every is not None and resampling == "instant":
        dataset = resample(dataset, every)
    is_cropped = region is not None and grid is None and not derived
    if region is not None and is_cropped:
        dataset = select_region(dataset, region)
    # Checked is what the sources hold, and of them no more than is needed; afterwards fill values are smeared.
    watched = Watched(dataset, unfinished(target))
    dataset = watched.dataset
    if member == "mean":
        dataset = select_member(dataset, member)
    if every is not None and resampling != "instant":
        dataset = resample(dataset, every, resampling)
    source = grid_of(dataset)
    if grid is not None and not isinstance(source, Grid):
        _refuse_harmonics(derived, source)
        dataset = regrid(dataset, covered(parse_grid(grid), source), method)
    if derived:
        kept = None if variables is None else [*variables, *derived]
        dataset = select_channels(add_derived(dataset, derived, (train_start, train_end)), kept, exclude)
    if grid is not None and isinstance(source, Grid):
        dataset = regrid(dataset, covered(parse_grid(grid), source), method)
    if region is not None and not is_cropped:
        dataset = select_region(dataset, region)
    if coarsen is not None:
        dataset = block_means(dataset, coarsen)
    prepare_dataset(
        dataset,
        store,
        train_start=train_start,
        train_end=train_end,
        scheduler=scheduler,
        memory_limit=memory_limit,
        overwrite=overwrite,
        watched=watched,
        sources=[identity(sources), grid, method, every, resampling, region, member, coarsen, *derived],
    )


def _refuse_harmonics(derived: Sequence[str], cells: Cells) -> None:
    """Refuse to differentiate means over boxes, as fields on cells have become before anything is derived from them."""
    if refused := [name for name in derived if name in BY_HARMONICS]:
        raise DataError(
            f"'{refused[0]}' is derived by spherical harmonics, which fields on {cells} do not give: interpolate the "
            f"winds to a Gaussian grid first, for example with `cdo remapbil,n80 IN OUT`"
        )


def prepare_dataset(
    dataset: xr.Dataset,
    store: str | Path,
    *,
    train_start: str | None = None,
    train_end: str | None = None,
    scheduler: str | None = None,
    memory_limit: str | None = None,
    overwrite: bool = False,
    sources: Sequence[Any] | None = None,
    watched: Watched | None = None,
) -> None:
    """Make a training store from all of a canonical dataset.

    Args:
        dataset: as `open_store` gives it.
        store: the Zarr store to make.
        train_start: first date of the training period.
        train_end: last date of the training period.
        scheduler: address of a Dask cluster, or `local`; None means threads.
        memory_limit: memory that the threads may use.
        overwrite: replace a store that was made otherwise.
        sources: what tells the dataset from others, as JSON data; None means the values themselves.
        watched: what the dataset is made from, to be checked as it is read; None trusts the values.

    Raises:
        DataError: if the dataset cannot be used, another store is in the way, or the disk is full.
    """
    target = claim(store, "training store", overwrite=overwrite)
    channels, parts = _stack(dataset, with_time=True)
    statics, static_parts = _stack(dataset, with_time=False)
    if not channels:
        raise DataError("no variable that changes in time is left; list one, or give the files that hold it")
    axes = layout.axes_of(dataset, channels, statics)
    train = _training(axes, train_start, train_end)
    plan = _plan(axes, train, [dask.base.tokenize(dataset)] if sources is None else sources)
    with Workers(scheduler, memory_limit) as workers, work_folder(target, "training store") as place:
        if target.exists():
            if _fingerprint(target) == plan["fingerprint"]:
                print(f"{target} is already there")
                return
            if not overwrite:
                made = _first_difference(target, axes, train)
                raise DataError(f"{target} exists, made {made}; choose another place or say --overwrite")
        if not place.begin(plan) or place.load("layout") is None:
            layout.create(place.result, axes)
            place.save("layout")
        with _disk_space(target, axes), Progress() as progress:
            moments, missing = write_fields(place, axes, train, parts, workers, progress)
            write_statics(place.result, static_parts)
            if watched is not None:
                watched.refuse()
            seasons = Seasons(axes.time[train], axes.calendar)
            write_seasons(place, axes, train, seasons, moments, workers, progress)
            describe(place.result, axes, train, seasons, moments, missing, plan)
        place.finish()


def identity(sources: Sequence[str] | xr.Dataset) -> list[list[str | int]]:
    """Return what tells sources from others: of local files name, size and time of change, or a dataset's token.

    Of an Icechunk repository it is the snapshot that is read, of any other address nothing more.
    """
    if isinstance(sources, xr.Dataset):
        return [[str(dask.base.tokenize(sources))]]
    found: list[list[str | int]] = []
    for path in expand(list(sources)):
        if (snapshot := snapshot_of(path)) is not None:
            found.append([path, f"snapshot {snapshot}"])
        elif "://" in path:
            found.append([path])
        elif Path(path).is_dir():
            files = (Path(folder) / name for folder, _, names in sorted(os.walk(path)) for name in sorted(names))
            found += [[str(file), *_stamp(file)] for file in files]
        else:
            found += [[str(file), *_stamp(file)] for file in (Path(path), *companions(path))]
    return found


def _stamp(file: Path) -> tuple[int, int]:
    status = file.stat()
    return status.st_size, status.st_mtime_ns


@contextmanager
def _disk_space(target: Path, axes: Axes) -> Iterator[None]:
    """Turn a full disk into one sentence."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        needed = 4 * axes.points * axes.time.size / 1e9
        raise DataError(
            f"the disk of {target} is full: its fields alone need {needed:.3g} GB; free some space or keep less"
        ) from None


def _stack(dataset: xr.Dataset, *, with_time: bool) -> tuple[dict[Channel, str], list[da.Array]]:
    """Return channels with their units, and the arrays ([time,] channel, latitude, longitude) that hold them."""
    channels: dict[Channel, str] = {}
    parts: list[da.Array] = []
    for name, variable in dataset.data_vars.items():
        if ("time" in variable.dims) != with_time:
            continue
        levels: list[int] | list[None] = [None]
        if "level" in variable.dims:
            levels = [int(level) for level in variable.attrs.get("levels", variable["level"].values)]
            if len(levels) < variable.sizes["level"]:
                variable = variable.sel(level=levels)
        else:
            variable = variable.expand_dims("level")
        variable = variable.transpose(*["time"] * with_time, "level", "latitude", "longitude")
        channels |= dict.fromkeys((Channel(str(name), level) for level in levels), str(variable.attrs.get("units", "")))
        parts.append(da.asarray(variable.data).astype(np.float32))
    return channels, parts


def _training(axes: Axes, start: str | None, end: str | None) -> slice:
    """Return which times make the training period."""
    inside = within(axes.time, axes.calendar, start, end)
    if inside.start >= inside.stop:
        raise DataError(
            f"the training period {start} to {end} holds none of the times, {iso_date(axes, 0)} to {iso_date(axes, -1)}"
        )
    return inside


def _plan(axes: Axes, train: slice, sources: Sequence[Any]) -> dict[str, Any]:
    """Describe the store to be made and what it is made from, with a fingerprint of both."""
    plan = {
        "version": layout.VERSION,
        "channels": [str(channel) for channel in axes.channels],
        "units": list(axes.units),
        "statics": [str(channel) for channel in axes.statics],
        "time": hashlib.sha256(axes.time.tobytes()).hexdigest(),
        "calendar": axes.calendar,
        "grid": axes.grid.to_dict(),
        "train": [train.start, train.stop],
        "sources": list(sources),
    }
    digest = hashlib.sha256(json.dumps(plan, sort_keys=True).encode()).hexdigest()
    return plan | {"fingerprint": digest}


def _first_difference(store: Path, axes: Axes, train: slice) -> str:
    """Say in what the store at hand differs from the one to be made, as far as it tells."""
    made = Store(store)
    named = {"channels": (made.channels, axes.channels), "static fields": (made.static_channels, axes.statics)}
    for what, (there, wanted) in named.items():
        if other := [channel for channel in there if channel not in wanted]:
            return f"with {other[0]} among its {what}"
        if absent := [channel for channel in wanted if channel not in there]:
            return f"without {absent[0]} among its {what}"
    if made.grid != axes.grid:
        return f"on {made.grid} instead of {axes.grid}"
    theirs, ours = (
        f"{held.time.size} times from {iso_date(held, 0)} to {iso_date(held, -1)} of the calendar {held.calendar}"
        for held in (replace(axes, time=made.time, calendar=made.calendar), axes)
    )
    if theirs != ours:
        return f"of {theirs} instead of {ours}"
    attributes, begin, end = made.dataset.attrs, iso_date(axes, train.start), iso_date(axes, train.stop - 1)
    theirs, ours = f"{attributes['train_start']} to {attributes['train_end']}", f"{begin} to {end}"
    if theirs != ours:
        return f"with statistics of {theirs} instead of {ours}"
    return "of other files or with other options"


def _fingerprint(store: Path) -> str | None:
    try:
        return str(zarr.open_group(store, mode="r").attrs["fingerprint"])
    except (OSError, ValueError, KeyError, zarr.errors.BaseZarrError):
        return None
