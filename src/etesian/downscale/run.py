"""Fine fields from coarse ones, by a trained run or an interpolation, streamed to disk."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from etesian.core import Fields, Frame, Grid
from etesian.core.dataset import planet_of
from etesian.core.errors import RecipeError
from etesian.downscale.task import SuperResolutionTask
from etesian.samples.windows import WindowReader
from etesian.store.states import States
from etesian.training.ensemble_task import EnsembleTask, members_of
from etesian.training.members import MemberNoise
from etesian.training.prediction import PredictionWriter, starting_side
from etesian.training.task import Task, channel_units


def on_grids(task: Task, coarse: Grid, fine: Grid | None) -> Task:
    """Return the task that goes from one grid to another.

    Args:
        task: a trained task.
        coarse: grid of the fields that are given.
        fine: grid of those that are wanted; None for the task's own, or, of super-resolution, for even steps around
            the coarse points.

    Raises:
        RecipeError: if the task knows its fine grid, and another is given.
        GridError: if the fine grid does not fit the coarse one.
    """
    if isinstance(task, SuperResolutionTask):
        return task.between(coarse, coarse.refined(task.factor) if fine is None else fine)
    if fine is not None:
        raise RecipeError("grid is for super-resolution and interpolation; this run knows its grid")
    return task


def downscale_to(
    task: Task,
    coarse: States,
    path: str,
    times: NDArray[np.int64],
    *,
    source: dict[str, object],
    members: int | None = None,
    seed: int = 0,
    batch_size: int = 16,
    overwrite: bool = False,
    label: str = "downscaling",
) -> None:
    """Write fine fields at the times of coarse ones; run again after an interruption, it goes on.

    Args:
        task: a trained task.
        coarse: that holds the coarse fields.
        path: of the Zarr store to make.
        times: seconds since 1970-01-01 in the calendar of the coarse fields.
        source: what the fine fields are made from, as plain data.
        members: of the fine fields at each time, where the run was trained for some; by default `DEFAULT_MEMBERS`.
        seed: of the members' noise.
        batch_size: fine fields at once.
        overwrite: replace an existing store when the new one is complete.
        label: of the progress bar.

    Raises:
        GridError: if the coarse fields lie on another grid than the run's.
        ChannelError: if a channel is missing that the run needs.
        RecipeError: if members are asked for that were not trained.
        DataError: if the path exists and may not be replaced, a channel is in other units than the run was trained on,
            or there is not a single number to write.
    """
    layout = task.layout
    reader = WindowReader(coarse, starting_side(layout))
    members = members_of([task], members, path)
    identity = source | {"store": coarse.fingerprint} | ({} if members is None else {"seed": seed})
    writer = PredictionWriter(
        path, layout.targets, layout.output_grid, times, None, coarse.calendar, identity,
        units=channel_units(task, [coarse]), planet=planet_of(coarse.dataset), members=members, overwrite=overwrite,
    )  # fmt: skip

    def answer(some: NDArray[np.int64], numbers: list[int]) -> Iterator[Fields]:
        batch = reader.start(some).to(task.device)
        given = batch.inputs.frame
        target = Frame(layout.targets, given.time[:, -1:], layout.output_grid, given.calendar)
        with task.answering():
            if isinstance(task, EnsembleTask) and members is not None:
                fine = task.predict(batch, target, MemberNoise(seed, some.tolist(), numbers))
            else:
                fine = task.predict(batch, target)
        yield fine

    writer.write_all(lambda: answer, batch_size, label)
