"""GRIB messages → decoded, lazily loaded xarray datasets, one for each hypercube."""

import logging
from typing import Any

import eccodes
import numpy as np
import xarray as xr
from cfgrib import cfmessage, messages
from cfgrib import dataset as cfgrib_dataset
from cfgrib.xarray_plugin import ECCODES_LOCK, CfGribDataStore

from etesian.core.errors import DataError, GridError, first_line
from etesian.data.coefficients import to_grid
from etesian.data.pieces import in_pieces

_HYPERCUBE_KEYS = (
    "paramId", "typeOfLevel", "stepType", "dataType", "gridType", "numberOfPoints", "stepUnits", "uvRelativeToGrid",
)  # fmt: skip
_PARAMETER_KEYS = {
    1: ("table2Version", "indicatorOfParameter"),
    2: ("discipline", "parameterCategory", "parameterNumber"),
}
# Spectral messages have no grid to tell, and are given one here.
logging.getLogger("cfgrib.dataset").addFilter(lambda record: "gridType='sh'" not in record.getMessage())


class _HypercubeStore(CfGribDataStore):
    """The messages of one variable on one kind of level, as xarray's backend reads them."""

    def __init__(self, index: Any) -> None:
        self.lock = ECCODES_LOCK
        self.ds = cfgrib_dataset.open_from_index(index, squeeze=False, errors="raise")


def read_grib(path: str) -> list[xr.Dataset]:
    """Scan the messages once and group them by what varies in neither time, step, member nor level."""
    try:
        index = messages.FileIndex.from_fieldset(
            messages.FileStream(path, errors="raise"), cfgrib_dataset.compute_index_keys(), cfmessage.COMPUTED_KEYS
        )
    except (EOFError, eccodes.CodesInternalError) as error:
        raise DataError(
            f"{path} is truncated or no valid GRIB ({first_line(error)}); copy or download it again"
        ) from None
    positions = [index.index_keys.index(key) for key in _HYPERCUBE_KEYS]
    groups = dict.fromkeys(tuple(header[i] for i in positions) for header, _ in index.iter_index())
    cubes = []
    for group in groups:
        keys = dict(zip(_HYPERCUBE_KEYS, group, strict=True))
        if str(keys["gridType"]).startswith("reduced"):
            raise GridError(
                f"{path} is on a reduced Gaussian grid: interpolate it with `cdo setgridtype,regular IN OUT`"
            )
        same_field = {other for other in groups if other[:2] == group[:2]}
        mean = f"_{keys['stepType']}" if len(same_field) > 1 and keys["stepType"] != "instant" else ""
        for suffix, part in _apart(index.subindex(keys), path).items():
            cube = _hypercube(_HypercubeStore(part), path)
            cube = to_grid(cube, path) if keys["gridType"] == "sh" else cube
            is_usual = not mean + suffix and not any(str(name).startswith("avg_") for name in cube.data_vars)
            cubes.append(cube if is_usual else _renamed(cube, mean + suffix))
    return cubes


def _apart(index: Any, path: str) -> dict[str, Any]:
    """Tell apart messages that share all keys of the index, by a suffix for their names."""
    is_unknown = index.getone("paramId") == 0
    if not is_unknown and all(len(ids) == 1 for _, ids in index.iter_index()):
        return {"": index}
    entries: dict[str, dict[Any, list[Any]]] = {}
    for header, ids in index.iter_index():
        for position in ids:
            message = index.get_field(position)
            parameter = "_" + ".".join(str(message[key]) for key in _PARAMETER_KEYS[int(message["edition"])])
            suffix = (parameter if is_unknown else "") + (_difference(message) if len(ids) > 1 else "")
            chosen = entries.setdefault(suffix, {}).setdefault(header, [position])
            if chosen != [position] and message["startStep"] == message["endStep"]:
                raise DataError(
                    f"{path} holds '{message['shortName']}' more than once for one time, level and member: keep one"
                )
    return {
        suffix: type(index)(index.fieldset, index.index_keys, index.filter_by_keys, list(chosen.items()))
        for suffix, chosen in entries.items()
    }


def _renamed(cube: xr.Dataset, suffix: str) -> xr.Dataset:
    """Keep a field that is not the usual one of its name from passing for it."""
    (name,) = cube.data_vars
    cube[name].attrs.pop("standard_name", None)
    return cube.rename({name: f"{name}{suffix}"})


def _difference(message: Any) -> str:
    """Name the shorter of several periods (rain in six hours, not since the start), or the lower end of a layer."""
    start, end = int(message["startStep"]), int(message["endStep"])
    if 0 < start < end:
        return f"_{end - start}h"
    if str(message["typeOfLevel"]).endswith("Layer") and int(message["edition"]) == 2:
        scale = 10.0 ** -int(message["scaleFactorOfSecondFixedSurface"])
        return f"_to{int(message['scaledValueOfSecondFixedSurface']) * scale:g}"
    return ""


def _hypercube(store: _HypercubeStore, path: str) -> xr.Dataset:
    cube = xr.open_dataset(store, decode_timedelta=True)
    (name,) = cube.data_vars
    kind = cube[name].attrs["GRIB_typeOfLevel"]
    initial, steps = cube.sizes["time"], cube.sizes["step"]
    valid = cube.valid_time.values.reshape(-1)
    if np.unique(valid).size != valid.size:
        raise DataError(
            f"'{name}' in {path} holds {initial} initial times × {steps} steps whose valid times overlap: "
            f"keep one step, for example with `grib_copy -w step=0 IN OUT`"
        )
    if initial > 1 and steps > 1:
        cube = cube.map(in_pieces).stack(when=("time", "step")).drop_vars(["when", "time", "step"])
        order = np.argsort(valid, kind="stable")
        cube = cube.isel(when=order).rename(when="time").assign_coords(time=valid[order])
    else:
        along, other = ("time", "step") if initial > 1 else ("step", "time")
        cube = cube.isel({other: 0}, drop=True).drop_vars([along, "valid_time"])
        cube = cube.rename({along: "time"}).assign_coords(time=valid)
    if cube.sizes.get("number") == 1:
        cube = cube.isel(number=0, drop=True)
    cube = cube.rename({kind: "level"}) if kind == "isobaricInhPa" else cube
    cube[name].attrs["GRIB_typeOfLevel"] = kind
    return cube
