"""A canonical Zarr store before its values: whether it is there already, and what holds everything but the fields."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
import zarr

from etesian.core.clock import encode_time
from etesian.core.errors import DataError
from etesian.data.layout import consolidate


def plan_text(plan: Mapping[str, Any]) -> str:
    """Return a plan as the text that a finished store carries in its root attribute `plan`."""
    return json.dumps(dict(plan), sort_keys=True)


def is_finished(path: Path, plan: Mapping[str, Any], *, overwrite: bool) -> bool:
    """Return whether the finished store of a plan is at a path that is claimed, so that nothing is left to do.

    Raises:
        DataError: if a store of another plan is there that is not to be overwritten.
    """
    if overwrite or not (path / "zarr.json").exists():
        return False
    attributes = zarr.open_group(path, mode="r").attrs.asdict()
    if attributes.get("plan") != plan_text(plan):
        raise DataError(f"{path} exists{_difference(attributes.get('plan'), plan)}; use --overwrite to replace it")
    return True


def _difference(text: object, plan: Mapping[str, Any]) -> str:
    """Return words for the first setting in which the store at hand differs from a plan."""
    if not isinstance(text, str):
        return " and was made otherwise"
    theirs = json.loads(text)
    for name, value in plan.items():
        if theirs.get(name) != value:
            return f", made with {name} = {theirs.get(name)} instead of {value}"
    return " and was made otherwise"


def create_skeleton(
    store: Path, fixed: xr.Dataset, moving: Mapping[str, xr.DataArray], *, steps_per_chunk: Mapping[str, int]
) -> None:
    """Write a store whose fields are still missing.

    Args:
        store: where, replacing what is there.
        fixed: coordinates (`time` among them, unless nothing moves), static fields and attributes, written as they are.
        moving: one time of each field that changes in time, without its time dimension, for its dimensions,
            shape, type and attributes.
        steps_per_chunk: times in one chunk, for each of `moving`.
    """
    encoding = {}
    if "time" in fixed.coords:
        _, calendar = encode_time(fixed["time"].values)
        encoding["time"] = {"units": "seconds since 1970-01-01", "dtype": "int64", "calendar": calendar}
    fixed.to_zarr(store, mode="w", zarr_format=3, consolidated=False, encoding=encoding)
    group = zarr.open_group(store, mode="r+")
    for name, field in moving.items():
        steps = fixed.sizes["time"]
        group.create_array(
            name,
            shape=(steps, *field.shape),
            chunks=(min(steps_per_chunk[name], steps), *field.shape),
            dtype=field.dtype,
            fill_value=np.nan,
            dimension_names=("time", *map(str, field.dims)),
            attributes=field.attrs,
        )
    consolidate(store)
