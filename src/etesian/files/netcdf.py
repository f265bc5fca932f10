"""NetCDF, and HDF5 that follows its conventions → one decoded, lazily loaded dataset."""

import re
import warnings
from collections.abc import Iterator
from typing import Any

import netCDF4
import numpy as np
import xarray as xr

from etesian.core.errors import DataError, first_line
from etesian.files import remarks
from etesian.files.classic import Records, check_length
from etesian.files.decoding import decoded
from etesian.files.hdf5 import what_is_missing

_SKIPPED = re.compile(r"variable '(.+)' has unsupported datatype")


def read_netcdf(path: str, *, classic: bool) -> xr.Dataset:
    """Open a NetCDF file's variables at its top.

    Args:
        path: local file.
        classic: whether it is of the classic format rather than HDF5.

    Raises:
        DataError: if the file is unreadable or truncated, or holds nothing at its top.
    """
    records = check_length(path) if classic else None
    try:
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            store = xr.backends.NetCDF4DataStore.open(path)  # type: ignore[no-untyped-call]
            file = store.ds
        left_out = _left_out(file) | {
            match[1]: "is of a type that NetCDF does not read"
            for warning in warned
            if (match := _SKIPPED.search(str(warning.message)))
        }
        raw = _open(store, [name for name in left_out if name in file.variables], records)
    except (OSError, RuntimeError) as error:
        raise DataError(f"{path} cannot be read, it may be truncated: {first_line(error)}") from None
    groups = list(_groups(file))
    if not raw.variables:
        raise DataError(_nothing_on_top(path, groups))
    remarks.look(raw, *(f"'{name}' is left out: it {why}" for name, why in left_out.items()))
    remarks.look(
        raw,
        *(
            f"the group '{group}' ({', '.join(names)}) is left out: `ncks -G : -g {group} IN OUT` makes a file of it"
            for group, names in groups
        ),
    )
    if records is not None:
        remarks.mended(raw, f"{records.number} times by the length of the file, whose header leaves their number open")
    raw = decoded(raw, path, _defaults(file))
    if not raw.coords and all(str(name).startswith("phony_dim") for name in raw.dims):
        raise DataError(what_is_missing(path, list(map(str, raw.data_vars))))
    return raw


def _open(store: Any, left_out: list[str], records: Records | None) -> xr.Dataset:
    """Open undecoded variables, of those without end the records that are there."""
    if records is None and not left_out:
        return xr.Dataset.load_store(store)  # In half the time of open_dataset, which has more to choose.
    if records is None:
        raw: xr.Dataset = xr.open_dataset(store, decode_cf=False, drop_variables=left_out)
        return raw
    # Its coordinate would be read to its end.
    dimension = records.dimension
    raw = xr.open_dataset(store, decode_cf=False, drop_variables=[*left_out, dimension])
    raw = raw.isel({dimension: slice(records.number)})
    if dimension in store.ds.variables:
        axis = store.ds.variables[dimension]
        axis.set_auto_maskandscale(False)
        attributes = {name: axis.getncattr(name) for name in axis.ncattrs()}
        raw = raw.assign_coords({dimension: (dimension, axis[: records.number], attributes)})
    return raw


def _left_out(file: Any) -> dict[str, str]:
    """Say which variables hold no plain numbers or texts."""
    kinds = {
        netCDF4.VLType: "holds rows of different length",
        netCDF4.CompoundType: "holds several numbers at each point",
    }
    return {
        name: why
        for name, variable in file.variables.items()
        for kind, why in kinds.items()
        if isinstance(variable.datatype, kind) and variable.dtype is not str
    }


def _groups(group: Any) -> Iterator[tuple[str, list[str]]]:
    """List the groups that hold variables on dimensions, at any depth, by their path."""
    for inner in group.groups.values():
        names = [name for name, variable in inner.variables.items() if variable.dimensions]
        if names:
            yield inner.path.strip("/"), names
        yield from _groups(inner)


def _nothing_on_top(path: str, groups: list[tuple[str, list[str]]]) -> str:
    if not groups:
        return f"{path} holds no variables"
    named = ", ".join(f"'{group}' ({', '.join(names)})" for group, names in groups)
    return (
        f"{path} holds no variables at its top, only in groups: {named}; make a file of the one that you need, "
        f"for example with `ncks -G : -g {groups[0][0]} IN OUT`"
    )


def _defaults(file: Any) -> dict[str, Any]:
    """Return NetCDF's own fill value for each variable whose unwritten values hold it; bytes have no such value."""
    defaults = {}
    for name, variable in file.variables.items():
        is_plain = isinstance(variable.dtype, np.dtype) and variable.dtype.kind in "iuf"
        if is_plain and variable.dtype.itemsize > 1:
            usual = np.array(netCDF4.default_fillvals[variable.dtype.str[1:]], variable.dtype)[()]
            if variable.get_fill_value() == usual:
                defaults[name] = usual
    return defaults
