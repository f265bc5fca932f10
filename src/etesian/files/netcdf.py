"""NetCDF, and HDF5 that follows its conventions → one decoded, lazily loaded dataset."""

import math
import os
import re
import struct
import warnings
from collections.abc import Iterator
from typing import Any, BinaryIO, NamedTuple

import netCDF4
import numpy as np
import xarray as xr

from etesian.core.errors import DataError, first_line
from etesian.files import diagnosis
from etesian.files.arrays import what_is_missing
from etesian.files.decoding import decoded

_ITEM_BYTES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 4, 6: 8, 7: 1, 8: 2, 9: 4, 10: 8, 11: 8}

_DIMENSIONS, _VARIABLES, _ATTRIBUTES = 10, 11, 12

_SKIPPED = re.compile(r"variable '(.+)' has unsupported datatype")


class Records(NamedTuple):
    """The dimension without a fixed length, and how many records of it the file holds."""

    dimension: str
    number: int


class _Variable(NamedTuple):
    name: str
    dimensions: list[int]
    item_bytes: int
    begin: int


def check_length(path: str) -> Records | None:
    """Compare the header of a classic file (versions 1, 2 and 5) with its length.

    The NetCDF library itself reads beyond the end of a file in silence.

    Returns:
        The records that the file holds by its length, where its header leaves their number open as that of a file
        that is being streamed does; None otherwise.

    Raises:
        DataError: if the file is shorter than its header promises, its header makes no sense, or it leaves
            open the number of records in version 5, which the NetCDF library takes for one.
    """
    size = os.stat(path).st_size
    try:
        with open(path, "rb") as file:
            header = _Header(file, size)
            end, records = header.end(size)
    except (struct.error, KeyError, IndexError, UnicodeDecodeError, _NonsenseError):
        raise DataError(f"{path} is truncated or its header is damaged; copy or download it again") from None
    if end > size:
        raise DataError(
            f"{path} is truncated: it is {size} bytes long, less than the {end} that its header promises; "
            f"copy or download it again"
        )
    if records is not None and header.version == 5:
        written = "".join(f"\\{byte:03o}" for byte in struct.pack(">q", records.number))
        raise DataError(
            f"{path} leaves open how many records it holds, by its length {records.number}: write that into its header "
            f"with `printf '{written}' | dd of={path} bs=1 seek=4 conv=notrunc`"
        )
    return records


class _NonsenseError(Exception):
    """A length in the header that no file of this size could have."""


class _Header:
    """Dimensions and variables of a classic file; attributes are skipped."""

    def __init__(self, file: BinaryIO, size: int) -> None:
        self._file, self._size = file, size
        self.version = file.read(4)[3]
        self._count = ">q" if self.version == 5 else ">i"
        self._offset = ">i" if self.version == 1 else ">q"
        count_bytes = file.read(struct.calcsize(self._count))
        self.records = None if set(count_bytes) == {255} else struct.unpack(self._count, count_bytes)[0]
        self.dimensions = [(self._name(), self._number(self._count)) for _ in range(self._list(_DIMENSIONS))]
        self._skip_attributes()
        self.variables = [self._variable() for _ in range(self._list(_VARIABLES))]

    def end(self, size: int) -> tuple[int, Records | None]:
        """Return where the last value ends, and how many records fit if the header does not say."""
        fixed = [v for v in self.variables if not self._is_record(v)]
        recorded = [v for v in self.variables if self._is_record(v)]
        ends = [self._file.tell(), *(v.begin + self._bytes(v) for v in fixed)]
        if not recorded:
            return max(ends), None
        lengths = [self._bytes(v) for v in recorded]
        # A single variable's records follow each other without padding.
        stride = lengths[0] if len(recorded) == 1 else sum(length + -length % 4 for length in lengths)
        if self.records is None:
            first = min(v.begin for v in recorded)
            number = max(size - first, 0) // max(stride, 1)
            return max(ends), Records(self.dimensions[recorded[0].dimensions[0]][0], number)
        if self.records:
            ends += [v.begin + (self.records - 1) * stride + n for v, n in zip(recorded, lengths, strict=True)]
        return max(ends), None

    def _is_record(self, variable: _Variable) -> bool:
        return bool(variable.dimensions) and self.dimensions[variable.dimensions[0]][1] == 0

    def _bytes(self, variable: _Variable) -> int:
        sizes = [self.dimensions[i][1] for i in variable.dimensions]
        return variable.item_bytes * math.prod(sizes[1:] if self._is_record(variable) else sizes)

    def _number(self, form: str) -> int:
        value: int = struct.unpack(form, self._file.read(struct.calcsize(form)))[0]
        if value < 0:
            raise _NonsenseError
        return value

    def _list(self, tag: int) -> int:
        """Read the length of a list; an absent one has none."""
        found, length = self._number(">i"), self._number(self._count)
        if found not in (0, tag) or length > self._size:
            raise _NonsenseError
        return length if found else 0

    def _skip(self, length: int) -> bytes:
        if length > self._size:
            raise _NonsenseError
        return self._file.read(length + -length % 4)[:length]

    def _name(self) -> str:
        return self._skip(self._number(self._count)).decode()

    def _skip_attributes(self) -> None:
        for _ in range(self._list(_ATTRIBUTES)):
            self._name()
            item_bytes = _ITEM_BYTES[self._number(">i")]
            self._skip(item_bytes * self._number(self._count))

    def _variable(self) -> _Variable:
        name = self._name()
        dimensions = [self._number(self._count) for _ in range(self._number(self._count))]
        self._skip_attributes()
        item_bytes = _ITEM_BYTES[self._number(">i")]
        # The stored size is that of the values too, but overflows for large ones.
        self._file.read(struct.calcsize(self._count))
        return _Variable(name, dimensions, item_bytes, self._number(self._offset))


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
    if not raw.variables or (groups and not any(array.ndim > 1 for array in raw.data_vars.values())):
        raise DataError(_nothing_on_top(path, groups, " but coordinates" if raw.variables else ""))
    diagnosis.look(raw, *(f"'{name}' is left out: it {why}" for name, why in left_out.items()))
    diagnosis.look(
        raw,
        *(
            f"the group '{group}' ({', '.join(names)}) is left out: `ncks -G : -g {group} IN OUT` makes a file of it"
            for group, names in groups
        ),
    )
    if records is not None:
        diagnosis.mended(
            raw, f"{records.number} times by the length of the file, whose header leaves their number open"
        )
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


def _nothing_on_top(path: str, groups: list[tuple[str, list[str]]], others: str) -> str:
    if not groups:
        return f"{path} holds no variables"
    named = ", ".join(f"'{group}' ({', '.join(names)})" for group, names in groups)
    return (
        f"{path} holds no variables at its top{others}, only in groups: {named}; make a file of the one that you need, "
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
