"""The place that every lazily read value of NetCDF and Zarr passes: damage is named, invalid values become NaN."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from xarray.backends import BackendArray
from xarray.core import indexing

from etesian.core.errors import DataError, EtesianError, first_line

Range = tuple[float, float]


class UnreachableError(Exception):
    """A request failed every time."""


class DamagedError(DataError):
    """Values are there, but cannot be decoded; `path` is their file."""

    def __init__(self, message: str, path: str) -> None:
        super().__init__(message)
        self.path = path


_gathered: list[DamagedError] | None = None


@contextmanager
def damage_gathered() -> Iterator[list[DamagedError]]:
    """Read on where values are damaged, as if they were missing, and gather what was wrong with them.

    It holds for all threads, since other threads than the caller's do the reading.
    """
    global _gathered
    before, _gathered = _gathered, []
    try:
        yield _gathered
    finally:
        _gathered = before


def is_passed_over(error: DamagedError) -> bool:
    """Whether to read on after damage, because somebody gathers it."""
    if _gathered is not None:
        _gathered.append(error)
    return _gathered is not None


class _Values(BackendArray):
    """A variable that is read when it is indexed."""

    def __init__(self, variable: xr.Variable, name: str, path: str, valid: Range | None) -> None:
        self.shape, self.variable, self.name, self.path, self.valid = variable.shape, variable, name, path, valid
        self.dtype = variable.dtype if valid is None else np.result_type(variable.dtype, np.float32)

    def __getitem__(self, key: indexing.ExplicitIndexer) -> Any:
        return indexing.explicit_indexing_adapter(key, self.shape, indexing.IndexingSupport.OUTER, self._read)

    def _read(self, key: tuple[Any, ...]) -> NDArray[Any]:
        piece = self.variable[key]
        try:
            values = np.asarray(piece.values)
        except (EtesianError, UnreachableError, MemoryError):
            raise
        except Exception as error:
            remedy = "try again" if "://" in self.path else "copy or download it again"
            damage = DamagedError(
                f"{self.path} cannot be read at '{self.name}', it is damaged ({first_line(error)}); {remedy}", self.path
            )
            if is_passed_over(damage):
                return np.full(piece.shape, np.nan, dtype=np.float32)
            raise damage from error
        if self.valid is None:
            return values
        inside = (values >= self.dtype.type(self.valid[0])) & (values <= self.dtype.type(self.valid[1]))
        return np.where(inside, values, self.dtype.type(np.nan)).astype(self.dtype, copy=False)


def guarded(dataset: xr.Dataset, path: str, valid: Mapping[str, Range]) -> xr.Dataset:
    """Return a dataset whose values, still unread, name file and variable where they cannot be read.

    Args:
        dataset: decoded, lazily loaded dataset.
        path: what to call it.
        valid: the smallest and the largest valid value of variables, beyond which they become NaN.
    """
    coords = {name for name in dataset.coords if name not in dataset.indexes}
    wrapped = {
        name: indexing.LazilyIndexedArray(_Values(variable, str(name), path, valid.get(str(name))))
        if variable.chunks is None
        else variable.data
        for name, variable in dataset.variables.items()
        if name not in dataset.indexes
    }
    plain = dataset.reset_coords(coords) if coords else dataset
    return plain.copy(data=wrapped).set_coords(coords) if wrapped else dataset
