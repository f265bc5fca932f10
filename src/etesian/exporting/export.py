"""The verb that writes what others can use: fields as NetCDF or GRIB 2, runs as functions of tensors."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import xarray as xr

from etesian.core.errors import RecipeError, suggest
from etesian.exporting.fields import ExportedFields, file_in_the_making
from etesian.exporting.grib import write_grib
from etesian.exporting.netcdf import write_netcdf
from etesian.files.open import expand
from etesian.run import Run
from etesian.training.checkpoint import find_checkpoint, load_task
from etesian.verbs import at_least_one, hours

BITS = 24

FIELDS = (".nc", ".grib2", ".grb2")

RUNS = (".pt2", ".onnx")

RUN = ("leads", "batch")
"""Options of runs."""


def export(
    source: str | Path | xr.Dataset | Run,
    out: str | Path,
    *,
    variables: Sequence[str] | None = None,
    bits: int | None = None,
    leads: Sequence[int] | None = None,
    batch: int | None = None,
    overwrite: bool = False,
) -> Path:
    """Write fields or a run as one file in a format that others use; its ending tells which.

    Fields are written piece by piece, so that what is larger than memory can be exported. A run becomes a function of
    tensors in physical units, which is held against the run before it is written. A file gets its name when it is
    complete.

    Args:
        source: forecasts, filled or fine fields, a training store, anything that `etesian.open` reads, or a canonical
            dataset; or a trained run, or its directory.
        out: the file to make. Of fields .nc is NetCDF by the CF conventions and .grib2 GRIB 2; of a run that forecasts
            or downscales .pt2 is torch.export's program and .onnx an ONNX model.
        variables: of fields, to write, such as 2m_temperature; all by default.
        bits: of GRIB 2, bits per value: 16, or by default 24; a map's values are off by at most its range / 2^bits.
        leads: of a run that forecasts, hours after the initial time.
        batch: of a run, samples at once; by default 1.
        overwrite: replace a file that is there already.

    Returns:
        The file.

    Raises:
        EtesianError: if the source cannot be read, the format cannot hold it, or a file is there already.
    """
    suffix = Path(out).suffix.lower()
    if suffix not in (*FIELDS, *RUNS):
        raise RecipeError(f"'{Path(out).name}' ends in no format that is exported{suggest(suffix, (*FIELDS, *RUNS))}")
    options = {"variables": variables, "bits": bits, "leads": leads, "batch": batch}
    meant = {".nc": ("variables",), ".grib2": ("variables", "bits"), ".grb2": ("variables", "bits")}
    if others := [name for name, value in options.items() if value is not None and name not in meant.get(suffix, RUN)]:
        raise RecipeError(f"{others[0]} means nothing for a file that ends in {suffix}; leave it out")
    if suffix in RUNS:
        if isinstance(source, xr.Dataset) or str(source).startswith("baseline:"):
            raise RecipeError(f"only a trained run is exported as {suffix}; give its directory")
        path = source.path if isinstance(source, Run) else Path(source)
        checkpoint = source.checkpoint if isinstance(source, Run) else find_checkpoint(path)
        with file_in_the_making(out, [path], overwrite=overwrite) as file:
            _write_run(checkpoint, file, suffix, tuple(leads or ()), 1 if batch is None else batch)
        return Path(out)
    if isinstance(source, Run):
        raise RecipeError(f"{source.path} is a run, and {suffix} holds fields: export its forecasts, or name OUT.pt2")
    write: Callable[[ExportedFields, Path], None] = write_netcdf
    if suffix != ".nc":
        write = partial(write_grib, bits=BITS if bits is None else bits)
    fields = ExportedFields(source, variables)
    with file_in_the_making(out, [] if isinstance(source, xr.Dataset) else expand(source), overwrite=overwrite) as file:
        write(fields, file)
    return Path(out)


def _write_run(checkpoint: Path, file: Path, suffix: str, leads: tuple[int, ...], batch: int) -> None:
    # Loaded anew, on the CPU: the run that was given stays where it is.
    from etesian.exporting.network import ExportedRun
    from etesian.exporting.programs import write_onnx, write_pt2

    at_least_one(batch=batch)
    run = ExportedRun(load_task(checkpoint), hours(leads) if leads else (), batch)
    (write_pt2 if suffix == ".pt2" else write_onnx)(run, file)
