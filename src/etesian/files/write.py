"""A canonical Zarr store before its values: whether it is there already, and what holds everything but the fields."""

import warnings
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import xarray as xr
import zarr

from etesian.core.clock import encode_time


def consolidate(path: Path) -> None:
    """Gather the metadata of all arrays in the group's, so that opening takes one read."""
    with warnings.catch_warnings():
        # Every reader of Zarr 3 that does not know consolidated metadata ignores it.
        warnings.simplefilter("ignore", zarr.errors.ZarrUserWarning)
        zarr.consolidate_metadata(path)


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
