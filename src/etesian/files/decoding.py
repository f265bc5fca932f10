"""Undecoded datasets of NetCDF and Zarr → decoded ones whose values are still unread."""

import warnings
from collections.abc import Mapping
from typing import Any

import xarray as xr

from etesian.core.errors import DataError, first_line
from etesian.files import remarks
from etesian.files.lazy import in_pieces
from etesian.files.missing import declare
from etesian.files.values import guarded

_FINAL, _PRELIMINARY = 1, 5


def decoded(raw: xr.Dataset, path: str, defaults: Mapping[str, Any] | None = None) -> xr.Dataset:
    """Unpack and mask a dataset by what its attributes say, reading no values beyond coordinates.

    Args:
        raw: undecoded dataset; the attributes of its variables are changed.
        path: what to call it.
        defaults: by variable, the value that stands where nothing was ever written.

    Raises:
        DataError: if a packing is no number.
    """
    valid = declare(raw, path, defaults)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", xr.SerializationWarning)
            dataset = xr.decode_cf(raw, decode_times=False)
    except ValueError as error:
        raise DataError(f"{path} has attributes that cannot be decoded: {first_line(error)}") from None
    dataset = guarded(dataset, path, valid)
    if "expver" in dataset.dims:
        dataset = _one_version(dataset, path)
        remarks.mended(raw, "ERA5T (expver 5) stands where ERA5 (expver 1) has no values yet")
    dataset.encoding = dict(raw.encoding)
    return dataset


def _one_version(dataset: xr.Dataset, path: str) -> xr.Dataset:
    """Put ERA5 (`expver` 1) and, where that is not there yet, preliminary ERA5T (5) into one."""
    versions = [int(version) for version in dataset["expver"].values] if "expver" in dataset.coords else []
    if not set(versions) <= {_FINAL, _PRELIMINARY} or not versions:
        raise DataError(
            f"{path} has a dimension 'expver' of {dataset.sizes['expver']} that are not the versions 1 (ERA5) and 5 "
            f"(ERA5T): select one of them with xarray's isel(expver=0)"
        )
    merged = {}
    for name, array in dataset.data_vars.items():
        if "expver" in array.dims:
            parts = [in_pieces(array).isel(expver=versions.index(version), drop=True) for version in sorted(versions)]
            merged[name] = parts[0] if len(parts) == 1 else parts[0].where(parts[0].notnull(), parts[1])
    return dataset.drop_vars([*merged, "expver"]).assign(merged)
