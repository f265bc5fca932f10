"""The place that every lazily read value of NetCDF and Zarr passes: damage is named, invalid values become NaN."""

from collections.abc import Mapping
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
    """Values are there, but cannot be decoded."""


class _Values(BackendArray):
    """A variable that is read when it is indexed."""

    def __init__(self, variable: xr.Variable, name: str, path: str, valid: Range | None) -> None:
        self.shape, self.variable, self.name, self.path, self.valid = variable.shape, variable, name, path, valid
        self.dtype = variable.dtype if valid is None else np.result_type(variable.dtype, np.float32)

    def __getitem__(self, key: indexing.ExplicitIndexer) -> Any:
        return indexing.explicit_indexing_adapter(key, self.shape, indexing.IndexingSupport.OUTER, self._read)

    def _read(self, key: tuple[Any, ...]) -> NDArray[Any]:
        try:
            values = np.asarray(self.variable[key].values)
        except (EtesianError, UnreachableError, MemoryError):
            raise
        except Exception as error:
            remedy = "try again" if "://" in self.path else "copy or download it again"
            raise DamagedError(
                f"{self.path} cannot be read at '{self.name}', it is damaged ({first_line(error)}); {remedy}"
            ) from error
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
    wrapped = {
        name: xr.Variable(
            variable.dims,
            indexing.LazilyIndexedArray(_Values(variable, str(name), path, valid.get(str(name)))),
            variable.attrs,
            variable.encoding,
        )
        for name, variable in dataset.variables.items()
        if variable.chunks is None and name not in dataset.indexes
    }
    return dataset.assign(
        {name: variable for name, variable in wrapped.items() if name in dataset.data_vars}
    ).assign_coords({name: variable for name, variable in wrapped.items() if name in dataset.coords})
