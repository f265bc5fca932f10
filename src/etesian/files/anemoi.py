"""What anemoi-datasets makes, one Zarr array of times × variables × members × points → fields by name and level."""

import contextlib
import re
from functools import cache
from typing import Any

import dask.array as da
import eccodes
import numpy as np
import xarray as xr
from xarray.backends.zarr import ZarrArrayWrapper
from xarray.core import indexing

from etesian.core.channels import canonical_name
from etesian.core.errors import DataError
from etesian.files import diagnosis
from etesian.files.decoding import CHUNK_BYTES
from etesian.files.grib_messages import silent_eccodes
from etesian.files.naming import ON_LEVELS

_ARRAYS = {
    "data": ("time", "variable", "number", "values"),
    "dates": ("time",),
    "latitudes": ("values",),
    "longitudes": ("values",),
}

_COMPUTED = re.compile(r"(cos|sin)_(julian_day|local_time|latitude|longitude)|cos_solar_zenith_angle|insolation")

_PRESSURE = "isobaricInhPa"

_PROCESSES = {"accumulation": "sum", "average": "mean"}


def holds_anemoi(group: Any) -> bool:
    """Whether a Zarr group is laid out as anemoi-datasets lays out fields."""
    return "variables" in group.attrs and all(name in group for name in _ARRAYS)


def read_anemoi(group: Any) -> xr.Dataset:
    """Return its arrays undecoded, under names of dimensions that Zarr 3 does not keep."""
    raw = xr.Dataset(attrs=dict(group.attrs))
    for name, dims in _ARRAYS.items():
        array = group[name]
        if array.ndim != len(dims):
            raise DataError(f"'{name}' in {group.store} has the shape {array.shape}, not {' × '.join(dims)}")
        raw[name] = xr.Variable(dims, indexing.LazilyIndexedArray(ZarrArrayWrapper(array)))  # type: ignore[no-untyped-call]
        raw[name].encoding["preferred_chunks"] = dict(zip(dims, array.chunks, strict=True))
    return raw


def fields_of(dataset: xr.Dataset, path: str) -> list[xr.Dataset]:
    """Return one dataset for each variable, with its levels, at the times that are not among the missing dates.

    Args:
        dataset: decoded arrays.
        path: of the store.

    Raises:
        DataError: if variables and array disagree.
    """
    names = [str(name) for name in dataset.attrs["variables"]]
    if len(names) != dataset.sizes["variable"]:
        raise DataError(f"{path} names {len(names)} variables, but holds {dataset.sizes['variable']}: copy it again")
    dates = dataset["dates"].values.astype("datetime64[s]")
    kept = np.flatnonzero(~np.isin(dates, np.array(dataset.attrs.get("missing_dates", []), dtype="datetime64[s]")))
    values = _blocks(dataset["data"])[kept]
    coordinates = {
        "time": dates[kept],
        "number": np.arange(dataset.sizes["number"]),
        "latitude": ("values", dataset["latitudes"].values, {"units": "degrees_north"}),
        "longitude": ("values", dataset["longitudes"].values, {"units": "degrees_east"}),
    }
    told = dataset.attrs.get("variables_metadata", {})
    computed = [name for name in names if told.get(name, {}).get("computed_forcing") or _COMPUTED.fullmatch(name)]
    groups: dict[tuple[str, str], dict[int, str]] = {}
    for name in names:
        if name not in computed:
            base, kind, level = _placed(name, told.get(name, {}).get("mars", {}))
            groups.setdefault((base, kind), {})[level] = name
    found = []
    for (base, kind), levels in groups.items():
        first = told.get(levels[min(levels)], {})
        positions = [names.index(name) for _, name in sorted(levels.items())]
        field = xr.DataArray(values[:, positions], coordinates, ("time", "level", "number", "values"))
        attrs = {
            "units": first.get("units") or _units(first.get("mars", {}).get("param", base)),
            "GRIB_typeOfLevel": kind,
        }
        process = first.get("process")
        field.attrs = attrs | ({"cell_methods": f"time: {_PROCESSES.get(process, process)}"} if process else {})
        if kind.startswith("isobaric"):
            field = field.assign_coords(level=("level", sorted(levels), {"units": "hPa"} if kind == _PRESSURE else {}))
        else:
            field = field.isel(level=0)
        single = field.isel(number=0, drop=True) if field.sizes["number"] == 1 else field
        found.append(single.to_dataset(name=base))
    if not found:
        raise DataError(f"{path} holds nothing but what follows from place and time: give a dataset with fields")
    if computed:
        words = ", ".join(f"'{name}'" for name in computed)
        diagnosis.mended(found[0], f"{words} follow from place and time and are left out: forcings are computed")
    if kept.size < dates.size:
        diagnosis.mended(found[0], f"{dates.size - kept.size} missing dates are left out")
    return found


def _placed(name: str, mars: dict[str, Any]) -> tuple[str, str, int]:
    """Return the name without its level, the kind of level in eccodes' words, and the level.

    Without MARS' words, `z_500` is a level whose kind is for its number to tell (`etesian.files.axes.pressures`).
    """
    match = re.fullmatch(r"(.+)_(\d+)", name)
    kind = str(mars.get("levtype", "")).lower()
    if match is None or kind == "sfc":
        return name, "surface", 0
    if kind not in ("", "pl"):
        return name, {"ml": "hybrid"}.get(kind, kind), 0
    if kind == "" and canonical_name(match[1]) not in ON_LEVELS:
        return name, "surface", 0
    return match[1], _PRESSURE if kind else "isobaric", int(match[2])


def _blocks(array: xr.DataArray) -> da.Array:
    """Return values in blocks of all variables, as they are stored, which are read once for all of these."""
    stored = array.encoding["preferred_chunks"]
    step = array.dtype.itemsize * array.sizes["variable"] * array.sizes["values"] * stored["number"]
    times = stored["time"] * max(1, CHUNK_BYTES // (stored["time"] * step))
    blocks = array.variable.chunk({"time": times, "number": stored["number"], "variable": -1, "values": -1}).data
    # What is selected from the blocks must not be selected from the store, once for each variable.
    return da.map_blocks(np.asarray, blocks, dtype=blocks.dtype)


@cache
def _units(parameter: str) -> str:
    """Return the units of one of ECMWF's short names, where both editions of GRIB agree on them."""
    found = set()
    with silent_eccodes():
        for sample in ("regular_ll_sfc_grib1", "regular_ll_sfc_grib2"):
            handle = eccodes.codes_grib_new_from_samples(sample)
            with contextlib.suppress(eccodes.CodesInternalError):
                eccodes.codes_set(handle, "shortName", parameter)
                found.add(str(eccodes.codes_get(handle, "units")))
            eccodes.codes_release(handle)
    return found.pop() if len(found) == 1 else ""
