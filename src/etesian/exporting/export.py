"""The verb that writes what others can read: fields as NetCDF or GRIB 2."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import xarray as xr

from etesian.core.errors import RecipeError, suggest
from etesian.exporting.fields import ExportedFields, file_in_the_making
from etesian.exporting.grib import write_grib
from etesian.exporting.netcdf import write_netcdf

BITS = 24

FORMATS = {".nc": "netcdf", ".grib2": "grib", ".grb2": "grib"}
"""By the ending of a name."""


def export(
    source: str | Path | xr.Dataset,
    out: str | Path,
    *,
    variables: Sequence[str] | None = None,
    bits: int | None = None,
    overwrite: bool = False,
) -> Path:
    """Write forecasts, filled or fine fields as one file in a format that others read; its ending tells which.

    It is written piece by piece, so that what is larger than memory can be exported, and gets its name when it is
    complete.

    Args:
        source: forecasts, filled or fine fields, a training store, anything that `etesian.open` reads, or a canonical
            dataset.
        out: the file to make: .nc is NetCDF by the CF conventions, .grib2 is GRIB 2.
        variables: to write, such as 2m_temperature; all by default.
        bits: of GRIB 2, bits per value: 16, or by default 24; a map's values are off by at most its range / 2^bits.
        overwrite: replace a file that is there already.

    Returns:
        The file.

    Raises:
        EtesianError: if the source cannot be read, the format cannot hold it, or a file is there already.
    """
    if (suffix := Path(out).suffix.lower()) not in FORMATS:
        raise RecipeError(
            f"nothing is exported as '{Path(out).name}', whose ending tells the format{suggest(suffix, FORMATS)}"
        )
    write: Callable[[ExportedFields, Path], None] = write_netcdf
    if FORMATS[suffix] == "grib":
        write = partial(write_grib, bits=BITS if bits is None else bits)
    elif bits is not None:
        raise RecipeError(f"bits are of GRIB 2, and {out} is none; leave them out, or name a file that ends in .grib2")
    fields = ExportedFields(source, variables)
    inputs = [] if isinstance(source, xr.Dataset) else [source]
    with file_in_the_making(out, inputs, overwrite=overwrite) as partial_file:
        write(fields, partial_file)
    return Path(out)
