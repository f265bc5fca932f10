"""The header of classic NetCDF files (versions 1, 2 and 5), which tells how long the file has to be.

After the file format specification of the NetCDF User's Guide. The NetCDF library itself reads beyond the end of a file
in silence.
"""

import math
import os
import struct
from typing import BinaryIO, NamedTuple

from etesian.core.errors import DataError

_ITEM_BYTES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 4, 6: 8, 7: 1, 8: 2, 9: 4, 10: 8, 11: 8}

_DIMENSIONS, _VARIABLES, _ATTRIBUTES = 10, 11, 12


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
    """Compare the header of a classic file with its length.

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
