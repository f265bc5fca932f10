"""What is read and written of a training store in the making, block by block, by threads or a Dask cluster."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import dask
import dask.array as da
import numpy as np
import zarr
from dask import threaded
from numpy.typing import NDArray
from rich.progress import Progress

from etesian.core.clock import decode_time
from etesian.core.resumable import WorkFolder, consolidate
from etesian.core.statistics import Moments, log1p_transform
from etesian.core.workers import Workers
from etesian.store import format as layout
from etesian.store.climatology import SeasonalSums, Seasons
from etesian.store.format import Axes

BAND_BYTES = 128 * 2**20
"""Memory of the sums behind the climatology of the grid points that are worked on together."""

_BLOCK_VALUES = 2**21


def _run(
    tasks: Sequence[tuple[str, Callable[[], Any]]], place: WorkFolder, title: str, workers: Workers, progress: Progress
) -> list[dict[str, NDArray[Any]]]:
    """Do the blocks of work that are not done yet, some at once, and return the outcomes of all."""
    pending = [make for name, make in tasks if place.load(name) is None]
    bar = progress.add_task(title, total=len(tasks), completed=len(tasks) - len(pending))
    while pending:
        # Of a cluster there may be more workers by now.
        some = workers.at_once
        group, pending = [make() for make in pending[:some]], pending[some:]
        workers.compute(group)
        progress.advance(bar, len(group))
    return [outcome for name, _ in tasks if (outcome := place.load(name)) is not None]


def write_fields(
    place: WorkFolder, axes: Axes, train: slice, parts: Sequence[da.Array], workers: Workers, progress: Progress
) -> tuple[Moments, NDArray[np.int64]]:
    """Write all fields; return the moments over the training period and the number of missing values."""

    def task(number: int) -> tuple[str, Callable[[], Any]]:
        steps = axes.shard(number)
        return f"fields-{number}", lambda: dask.delayed(_write_shard)(
            place, axes, train, number, [part[steps] for part in parts]
        )

    outcomes = _run([task(number) for number in range(axes.shards)], place, "fields", workers, progress)
    moments, missing = Moments.none(len(axes.channels)), np.zeros(len(axes.channels), dtype=np.int64)
    for outcome in outcomes:
        missing = missing + outcome.pop("missing")
        moments = moments + Moments(**outcome)
    moments.check(axes.channels, f"{iso_date(axes, train.start)} to {iso_date(axes, train.stop - 1)}")
    return moments, missing


def _write_shard(
    place: WorkFolder, axes: Axes, train: slice, number: int, parts: Sequence[NDArray[np.float32]]
) -> None:
    steps = axes.shard(number)
    block = np.concatenate(parts, axis=1)
    layout.write_shard(place.result, axes, number, block)
    inside = slice(max(train.start - steps.start, 0), max(train.stop - steps.start, 0))
    moments = Moments.of(block[inside])
    place.save(f"fields-{number}", missing=np.isnan(block).sum(axis=(0, 2, 3)), **moments.arrays())


def write_seasons(
    place: WorkFolder,
    axes: Axes,
    train: slice,
    seasons: Seasons,
    moments: Moments,
    workers: Workers,
    progress: Progress,
) -> None:
    """Write climatology, harmonics and the statistics of the log1p transform, from the fields written."""
    group = zarr.open_group(place.result, mode="r+")
    if seasons.covers_year:
        if "climatology" not in group:
            layout.create_climatology(place.result, axes, seasons.hours, seasons.days)
        points = max(1, BAND_BYTES // (16 * len(seasons.hours) * seasons.days))
    else:
        points = _BLOCK_VALUES
    bands = [slice(a, min(a + points, axes.points)) for a in range(0, axes.points, points)]

    def task(number: int, band: slice) -> tuple[str, Callable[[], Any]]:
        return f"seasons-{number}", lambda: dask.delayed(_write_band)(
            place, axes, train, seasons, moments, number, band
        )

    outcomes = _run(
        [task(i, band) for i, band in enumerate(bands)], place, "statistics and climatology", workers, progress
    )
    shape = (5, len(axes.channels), *axes.grid.shape)
    harmonics = np.concatenate([outcome["harmonics"] for outcome in outcomes], axis=1).reshape(shape)
    layout.write_array(group, "harmonics", harmonics, ["harmonic", "channel", "latitude", "longitude"])
    observed = np.concatenate([outcome["observed"] for outcome in outcomes]).reshape(shape[1:])
    layout.write_array(group, "observed", observed, ["channel", "latitude", "longitude"])
    sums = np.sum([outcome["log1p"] for outcome in outcomes], axis=0) / moments.count
    layout.write_array(group, "log1p_mean", sums[0], ["channel"])
    layout.write_array(group, "log1p_std", np.sqrt(sums[1] - sums[0] ** 2), ["channel"])


def _write_band(
    place: WorkFolder, axes: Axes, train: slice, seasons: Seasons, moments: Moments, number: int, band: slice
) -> None:
    """Work on some of the points of every field, flattened over channel, latitude and longitude."""
    points = band.stop - band.start
    channel = np.arange(band.start, band.stop) // (axes.points // len(axes.channels))
    mean, std = moments.mean[channel], moments.std[channel]
    everything = (train.stop - train.start) * (axes.points // len(axes.channels))
    sums = SeasonalSums(seasons, points, gaps=bool((moments.count[channel] < everything).any()))
    log1p = np.zeros((2, points))
    rows = max(1, _BLOCK_VALUES // points)
    for shard in range(axes.shards):
        steps = axes.shard(shard)
        fields = layout.read_shard(place.result, axes, shard)
        for first in range(max(steps.start, train.start), min(steps.stop, train.stop), rows):
            last = min(first + rows, steps.stop, train.stop)
            block = fields[first - steps.start : last - steps.start, band].astype(np.float64)
            sums.add(first - train.start, block)
            transformed = np.nan_to_num(log1p_transform((block - mean) / std), copy=False, nan=0.0)
            log1p += [transformed.sum(axis=0), (transformed**2).sum(axis=0)]
    if seasons.covers_year:
        layout.write_climatology(place.result, seasons.hours, band.start, sums.climatology())
    by_channel = np.stack([np.bincount(channel, row, len(axes.channels)) for row in log1p])
    place.save(f"seasons-{number}", harmonics=sums.coefficients(mean), observed=sums.observed(), log1p=by_channel)


def write_statics(path: Path, parts: Sequence[da.Array]) -> None:
    """Write the static fields and their statistics over space, if there are any."""
    if not parts:
        return
    values = np.concatenate(dask.compute(*parts, scheduler=threaded.get))
    group = zarr.open_group(path, mode="r+")
    layout.write_array(group, "statics", values, ["static", "latitude", "longitude"])
    moments = Moments.of(values[None])
    layout.write_array(group, "static_mean", moments.mean, ["static"])
    # A static field without contrast carries nothing; a spread of 1 lets it be normalised to zero all the same.
    layout.write_array(group, "static_std", np.where(moments.squares > 0, moments.std, 1.0), ["static"])


def describe(
    path: Path,
    axes: Axes,
    train: slice,
    seasons: Seasons,
    moments: Moments,
    missing: NDArray[np.int64],
    plan: dict[str, Any],
) -> None:
    """Write statistics, attributes and consolidated metadata."""
    group = zarr.open_group(path, mode="r+")
    for name in ("mean", "std", "minimum", "maximum", "count"):
        layout.write_array(group, name, getattr(moments, name), ["channel"])
    layout.write_array(group, "missing", missing, ["channel"])
    begin, stop = (iso_date(axes, i) for i in (train.start, train.stop - 1))
    attributes = {
        "Conventions": "CF-1.11",
        "etesian_store": layout.VERSION,
        "train_start": begin,
        "train_end": stop,
        "calendar": axes.calendar,
        "step_hours": axes.step_hours,
        "fingerprint": plan["fingerprint"],
    }
    if not seasons.covers_year:
        attributes["climatology_omitted"] = f"the training period {begin} to {stop} is shorter than a year"
    given = plan["sources"][0] if plan["sources"] else []
    if snapshots := [row for row in given if isinstance(row, list) and str(row[-1]).startswith("snapshot ")]:
        attributes["icechunk"] = ", ".join(" ".join(row) for row in snapshots)
    group.attrs.update(attributes)
    consolidate(path)


def iso_date(axes: Axes, position: int) -> str:
    """Return one of the times as an ISO string, in its own calendar."""
    date = decode_time(axes.time[[position]], axes.calendar)[0]
    return str(np.datetime_as_string(date, unit="s")) if isinstance(date, np.datetime64) else str(date.isoformat())
