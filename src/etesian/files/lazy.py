"""Lazy reading in pieces along time."""

import xarray as xr

PIECE_BYTES = 32 * 2**20
"""Size of a piece, unless one time step is larger."""


def in_pieces(array: xr.DataArray) -> xr.DataArray:
    """Return an array that Dask reads in pieces along time (else along its first dimension), in whole stored chunks.

    One that Dask reads already is returned as it is.
    """
    if array.chunks is not None or array.ndim == 0 or array.size == 0:
        return array
    axis = "time" if "time" in array.dims else array.dims[0]
    stored = array.encoding.get("preferred_chunks", {}).get(axis, 1)
    stored_bytes = stored * array.nbytes // array.sizes[axis]
    pieces = dict.fromkeys(array.dims, -1) | {axis: stored * max(PIECE_BYTES // max(stored_bytes, 1), 1)}
    # Cheaper than the array's own `chunk`, which takes its coordinates for data to be cut as well.
    return array.copy(data=array.variable.chunk(pieces).data)
