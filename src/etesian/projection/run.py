"""Projections by a trained run: maps of years from what drives the climate."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray as xr

from etesian.core.clock import decode_time
from etesian.core.dataset import planet_of, to_dataset
from etesian.core.errors import DataError
from etesian.core.fields import Batch, Fields, Frame
from etesian.core.outputs import claim, complete_or_absent
from etesian.core.resumable import is_finished, plan_text, write_store
from etesian.projection.climatebench import HISTORICAL, read_inputs
from etesian.projection.data import CALENDAR, middle
from etesian.projection.task import ProjectionTask
from etesian.store.prepare import identity


def project(
    task: ProjectionTask, folder: str | Path, scenario: str, years: tuple[int, int] | None = None, batch_size: int = 16
) -> xr.Dataset:
    """Return the maps of a scenario's years, of which only the inputs are read.

    Args:
        task: a trained projection.
        folder: that holds `inputs_NAME.nc` in ClimateBench's layout.
        scenario: its name; the historical years are put in front of one that begins after them.
        years: first and last; by default all of the scenario's own that have the past that the run needs.
        batch_size: years at once.

    Raises:
        DataError: if a file is missing, or a year lies outside of what can be projected.
        ChannelError: if an input is missing.
        GridError: if the inputs are on another grid than the run.
    """
    layout, window = task.layout, len(task.layout.history)
    run = read_inputs(folder, scenario, [channel.name for channel in layout.inputs], layout.grid)
    possible = run.years[window - 1 :]
    possible = possible[possible >= run.first]
    first, last = years or ((int(possible[0]), int(possible[-1])) if possible.size else (0, -1))
    wanted = possible[(possible >= first) & (possible <= last)]
    if wanted.size != last - first + 1 or not wanted.size:
        held = f"{possible[0]}–{possible[-1]}" if possible.size else "none"
        raise DataError(
            f"{scenario} in {folder} can be projected for the years {held}, not {first}–{last}: each needs the "
            f"{window - 1} years before it"
        )
    positions = np.searchsorted(run.years, wanted)
    maps = []
    for start in range(0, len(positions), batch_size):
        chosen = positions[start : start + batch_size]
        inputs = np.stack([run.inputs[place - window + 1 : place + 1] for place in chosen])
        time = torch.from_numpy(middle(np.stack([run.years[place - window + 1 : place + 1] for place in chosen])))
        batch = Batch(Fields(torch.from_numpy(inputs), Frame(layout.inputs, time, layout.grid, CALENDAR)))
        target = Frame(layout.targets, time[:, -1:], layout.grid, CALENDAR)
        with task.answering():
            maps.append(task.predict(batch.to(task.device), target).values[:, 0].cpu().numpy())
    when = decode_time(middle(wanted), CALENDAR)
    with xr.open_dataset(Path(folder) / f"inputs_{scenario}.nc") as driving:
        planet = planet_of(driving)
    return to_dataset(
        np.concatenate(maps), {"time": ("time", when, {"standard_name": "time"})}, layout.targets, layout.grid,
        dict(zip(layout.targets, task.provenance.get("units", ()), strict=False)),
    ).assign_attrs(planet)  # fmt: skip


def project_to(
    task: ProjectionTask,
    folder: str | Path,
    scenario: str,
    path: str,
    years: tuple[int, int] | None = None,
    *,
    source: dict[str, Any],
    overwrite: bool = False,
) -> None:
    """Write the maps of a scenario's years into a Zarr store that is complete or not there; see `project`.

    Args:
        task: a trained projection.
        folder: that holds `inputs_NAME.nc` in ClimateBench's layout.
        scenario: its name.
        path: of the Zarr store to make.
        years: first and last.
        source: the run that the maps are made by, as plain data.
        overwrite: replace maps that are there already.

    Raises:
        DataError: if maps of something else are there and may not be replaced; further as `project` does.
    """
    driving = [Path(folder) / f"inputs_{name}.nc" for name in (HISTORICAL, scenario)]
    inputs = identity([str(file) for file in driving if file.exists()])
    plan = {"scenario": scenario, "years": years, "inputs": inputs, "source": source}
    if is_finished(claim(path, "fields", overwrite=overwrite), plan, overwrite=overwrite):
        return
    maps = project(task, folder, scenario, years).assign_attrs(plan=plan_text(plan))
    with complete_or_absent(path, "fields") as place:
        write_store(maps, place)
