"""What the verbs of runs and baselines share: what they take, and where their results go."""

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from etesian.core import Fields
from etesian.core.clock import decode_time
from etesian.core.errors import RecipeError
from etesian.core.outputs import keep_apart
from etesian.files.open import open_store
from etesian.samples.windows import Period
from etesian.store.reader import Store
from etesian.store.states import DatasetStates, States
from etesian.training.prediction import initial_times
from etesian.training.task import Job, Task

Given = str | Path | Store | xr.Dataset
"""A training store or its path, or a canonical dataset."""

Source = str | Path | xr.Dataset | Fields
"""States: files as `etesian.open` takes them, a canonical dataset, or fields."""

Span = str | tuple[str, str]
"""One date, such as `2018` (all of it) or `2018-01`, or the first and the last one."""

SERVES: dict[Job, str] = {
    "forecast": "forecasts: call .forecast(store, init, leads)",
    "fill": "fills gaps: call .fill(store, months)",
    "downscale": "makes fine fields of coarse ones: call .downscale(coarse)",
    "project": "projects climate: call .project(folder, scenario)",
    "distance": "measures distances: call .distance(a, b)",
}
"""What a run or a baseline of a job does, and by which verb."""


def require(own: Job, asked: Job, who: str) -> None:
    """See that a verb is that of the job.

    Raises:
        RecipeError: if it is another job's, naming the verb that there is.
    """
    if own != asked:
        raise RecipeError(f"{who} {SERVES[own]}; it has no .{asked}")


def opened(given: Given) -> States:
    """Return a training store, or the states of a dataset."""
    if isinstance(given, xr.Dataset):
        return DatasetStates(given)
    return given if isinstance(given, Store) else Store(given)


def dataset_of(given: Source) -> xr.Dataset:
    """Return files or fields as a canonical dataset; a dataset is one."""
    if isinstance(given, Fields):
        return given.to_xarray()
    return given if isinstance(given, xr.Dataset) else open_store(given)


def training_store(given: str | Path | Store) -> Store:
    """Return a training store."""
    return given if isinstance(given, Store) else Store(given)


def period(span: Span) -> Period:
    """Return the first and the last date of a span."""
    return Period(span, span) if isinstance(span, str) else Period(*span)


def hours(leads: Sequence[int]) -> tuple[int, ...]:
    """Return leads in hours, ascending.

    Raises:
        RecipeError: if there are none, or one is not greater than 0.
    """
    wanted = tuple(sorted({int(lead) for lead in leads}))
    if not wanted or wanted[0] <= 0:
        raise RecipeError(f"leads {list(leads)} must be hours greater than 0, such as 24 72 120")
    return wanted


def at_least_one(**numbers: int) -> None:
    """See that numbers are positive.

    Raises:
        RecipeError: if one is not.
    """
    if wrong := [name for name, number in numbers.items() if number < 1]:
        raise RecipeError(f"{wrong[0]} = {numbers[wrong[0]]} must be at least 1")


def at_stations(stations: object, lapse_rate: float | None) -> None:
    """See that a lapse rate is that of stations."""
    if stations is None and lapse_rate is not None:
        raise RecipeError(f"lapse_rate = {lapse_rate:g} is for stations; give their table as well, or leave it out")


def in_reach(out: str | Path | None, scheduler: str | None) -> None:
    """See that what a cluster of several machines writes has a place that all of them reach.

    Raises:
        RecipeError: if it has none.
    """
    if out is None and scheduler not in (None, "local", "gpus"):
        raise RecipeError(f"the cluster at {scheduler} needs a place that all of its machines reach; give out")


def times_of(coarse: States, task: Task, times: Span | None, every: int) -> NDArray[np.int64]:
    """Return the times of coarse fields that fine ones are made of, in seconds; all within the span.

    Raises:
        DataError: if there is none.
    """
    ends = decode_time(coarse.time[[0, -1]], coarse.calendar)
    span = Period(*(str(end)[:19] for end in ends)) if times is None else period(times)
    return initial_times(coarse, task.layout.history, span, every)


def streamed(write: Callable[[str], None], out: str | Path | None, inputs: Sequence[str | Path]) -> xr.Dataset:
    """Let something be written into a store, and return it opened; without one, in memory."""
    if out is not None:
        keep_apart(out, inputs)
        write(str(out))
        lazily: xr.Dataset = xr.open_zarr(out, decode_timedelta=True)
        return lazily
    # By way of the disk, too: there is one code that writes, which holds one block of the result at a time, so that
    # memory holds the result once, and what is in memory is what would have been written.
    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/result.zarr"
        write(path)
        held: xr.Dataset = xr.open_zarr(path, decode_timedelta=True).load()
        return held
