"""Weather of the embedded planet as a canonical Zarr store, without a download."""

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
import zarr
from numpy.typing import NDArray
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from etesian.core.channels import CATALOGUE
from etesian.core.errors import RecipeError
from etesian.core.outputs import claim
from etesian.core.resumable import WorkFolder, create_empty_store, is_finished, plan_text, work_folder
from etesian.simulation.planet import EARTHLIKE, Planet, Truncation, planet

BLOCK_DAYS = 10
"""Days per chunk of the store, and between two saved states."""

FIRST_TIME = np.datetime64("2000-01-01T00", "s")

_COMMENTS = {
    "2m_temperature": "temperature of the lowest model layer, about 500 m above the ground",
    "mean_sea_level_pressure": "surface pressure reduced along the standard lapse rate",
    "temperature": "below ground along the standard lapse rate from the lowest layer's temperature",
    "geopotential": "hydrostatic integral of the temperature, continued below ground",
    "land_sea_mask": "1 where the surface is higher than 100 m; land differs from sea in nothing else",
}


def simulate(
    path: str,
    *,
    days: int = 800,
    spinup_days: int = 180,
    seed: int = 0,
    step_hours: int = 6,
    levels: Sequence[int] = (100, 250, 500, 700, 850),
    truncation: Truncation = "T21",
    contrast: float = EARTHLIKE,
    overwrite: bool = False,
) -> None:
    """Simulate the weather of an idealised planet into a Zarr store.

    A dry atmosphere over smooth mountains, heated as Held and Suarez (1994) did: baroclinic weather with
    Earth-like jets and limits of predictability, but without seasons, days or moisture. The same seed gives
    the same store. An interrupted run continues where it stopped, to the same values; a finished one is left
    as it is.

    Args:
        path: the Zarr store to write.
        days: simulated days to keep.
        spinup_days: simulated days before the first one that is kept; the weather is typical after about 150.
        seed: of the disturbance from which the weather grows.
        step_hours: hours between two kept times, a divisor of 24.
        levels: pressure levels in hPa.
        truncation: T21 (32×64 points) or T42 (64×128, which takes about 15 times as long).
        contrast: how much warmer the equator would be than the poles without motion, in K; planets that differ in it
            differ as climate models do.
        overwrite: replace a store of other settings that is there already.

    Raises:
        RecipeError: if a setting is impossible, or the extra `simulate` is not installed.
        DataError: if something else is at the path and not to be overwritten.
    """
    _check(days, spinup_days, step_hours, levels, contrast)
    plan = {
        "days": days,
        "spinup_days": spinup_days,
        "seed": seed,
        "step_hours": step_hours,
        "levels": sorted(levels),
        "truncation": truncation,
        "contrast": contrast,
    }
    target = claim(path, "fields", overwrite=overwrite)
    if is_finished(target, plan, overwrite=overwrite):
        return
    model = planet(truncation, tuple(sorted(levels)), step_hours, contrast)
    with work_folder(target, "fields") as place:
        if not place.begin(plan) or place.load("state") is None:
            _create(place.result, model, plan)
        _run(place, model, seed, spinup_days * 24 // step_hours, days * 24 // step_hours, step_hours)
        place.finish()


def _check(days: int, spinup_days: int, step_hours: int, levels: Sequence[int], contrast: float) -> None:
    if days < 1 or spinup_days < 0:
        raise RecipeError(f"days = {days} must be at least 1 and spinup_days = {spinup_days} at least 0")
    if step_hours < 1 or 24 % step_hours:
        raise RecipeError(f"step_hours = {step_hours} must divide 24")
    if not 20 <= contrast <= 120:
        raise RecipeError(f"contrast = {contrast:g} must be 20 to 120 K; outside, there is no weather or no stable run")
    if not levels or min(levels) < 10 or max(levels) > 1000 or len(set(levels)) < len(levels):
        raise RecipeError(f"levels = {list(levels)} must be different pressures from 10 to 1000 hPa")


def _run(place: WorkFolder, model: Planet, seed: int, spinup: int, kept: int, step_hours: int) -> None:
    """Advance the model block by block; after each, its fields and then its state are on disk."""
    block = BLOCK_DAYS * 24 // step_hours
    edges = [*range(0, spinup, block), *range(spinup, spinup + kept, block), spinup + kept]
    saved = place.load("state")
    done = 0 if saved is None else int(saved.pop("step"))
    state = model.start(seed) if saved is None else model.load(saved)
    group = zarr.open_group(place.result, mode="r+")
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("day {task.fields[day]} of {task.fields[days]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns) as progress:
        total = spinup + kept
        days = total * step_hours // 24
        bar = progress.add_task("Simulating", total=total, completed=done, day=done * step_hours // 24, days=days)
        for begin, end in pairwise(edges):
            if begin < done:
                continue
            fields: list[dict[str, NDArray[np.float32]]] = []
            for step in range(begin, end):
                if begin >= spinup:
                    fields.append(model.fields(state))
                state = model.advance(state)
                progress.update(bar, completed=step + 1, day=(step + 1) * step_hours // 24)
            if fields:
                for name in fields[0]:
                    group[name][begin - spinup : end - spinup] = np.stack([each[name] for each in fields])
            place.save("state", step=np.asarray(end), **model.save(state))


def _create(store: Path, model: Planet, plan: dict[str, Any]) -> None:
    """Write everything but the values that change in time."""
    steps, block = (days * 24 // plan["step_hours"] for days in (plan["days"], BLOCK_DAYS))
    times = FIRST_TIME + np.arange(steps) * np.timedelta64(plan["step_hours"], "h")
    coordinates = {
        "time": ("time", times, {"standard_name": "time"}),
        "level": ("level", np.asarray(plan["levels"]), {"standard_name": "air_pressure", "units": "hPa"}),
        "latitude": ("latitude", model.grid.latitude, {"standard_name": "latitude", "units": "degrees_north"}),
        "longitude": ("longitude", model.grid.longitude, {"standard_name": "longitude", "units": "degrees_east"}),
    }
    statics = {"orography": model.orography, "land_sea_mask": model.land_sea_mask}
    dataset = xr.Dataset(
        {name: (("latitude", "longitude"), values, _attributes(name)) for name, values in statics.items()},
        coordinates,
        {
            "Conventions": "CF-1.11",
            "title": "Weather of an idealised planet",
            "source": "dinosaur-dycore, dry primitive equations with Held-Suarez forcing over idealised mountains",
            "plan": plan_text(plan),
        },
    )
    fields = model.fields(model.start(plan["seed"]))
    horizontal = ("latitude", "longitude")
    moving = {
        name: xr.DataArray(values, dims=("level", *horizontal)[3 - values.ndim :], attrs=_attributes(name))
        for name, values in fields.items()
    }
    create_empty_store(store, dataset, moving, steps_per_chunk=dict.fromkeys(moving, block))


def _attributes(name: str) -> dict[str, str]:
    known = CATALOGUE[name]
    attributes = {"units": known.units, "long_name": name.replace("_", " ")}
    if known.standard_name:
        attributes["standard_name"] = known.standard_name
    if name in _COMMENTS:
        attributes["comment"] = _COMMENTS[name]
    return attributes
