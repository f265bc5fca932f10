"""Fields → one GRIB 2 file, message by message."""

from datetime import timedelta
from pathlib import Path
from typing import IO, Any, NamedTuple

import eccodes
import numpy as np
from numpy.typing import NDArray

from etesian.core.channels import CATALOGUE
from etesian.core.clock import decode_time, settle_calendar
from etesian.core.errors import ChannelError, DataError, GridError
from etesian.core.grid import Grid
from etesian.exporting.fields import ExportedFields, hours_covered, whole_hours
from etesian.exporting.parameters import ISOBARIC, MEAN, PARAMETERS, SUM, Parameter
from etesian.files.grib_messages import LOCK
from etesian.files.units import conversion

BITS = (16, 24)
"""Per value that messages may have."""

_NO_CENTRE, _LATEST_TABLES = 255, "tablesVersionLatest"

_SPHERE = 6
"""Shape of the Earth: a sphere of 6371.229 km; code table 3.2."""

_MISSING = 9.999e20

_DEGREE = 1e-6
"""What GRIB 2 counts coordinates in."""

Keys = dict[str, int]


class _Form(NamedTuple):
    """What the messages of one variable share; `hours` is what they cover up to their time."""

    parameter: Parameter
    process: int | None
    hours: int
    factor: float


def write_grib(fields: ExportedFields, path: Path, bits: int) -> None:
    """Write fields into a file.

    Each map is packed by itself: steps between two numbers are powers of 2, the smallest with which 2^bits of them
    cover the map's range, so that its values are off by at most its range / (2^bits − 1).

    Args:
        fields: to write.
        path: of the file, which is made anew.
        bits: per value, 16 or 24.

    Raises:
        ChannelError: if a variable has no code, or says not over how many hours it is taken.
        DataError: if dates or units are not GRIB's.
        GridError: if the grid is neither regular nor Gaussian.
    """
    if bits not in BITS:
        raise DataError(f"bits = {bits} is no packing that is written; take one of {', '.join(map(str, BITS))}")
    if settle_calendar(fields.seconds, fields.calendar) != "proleptic_gregorian":
        raise DataError(
            f"{fields.name} counts time in the {fields.calendar} calendar, and GRIB knows dates of the Gregorian only: "
            f"write NetCDF, a name that ends in .nc"
        )
    if not fields.seconds.size:
        raise DataError(f"{fields.name} has no time, and every GRIB message needs one: write NetCDF, or add a time")
    forms = {str(name): _form(fields, str(name)) for name in fields.dataset.data_vars}
    grid = _grid_keys(fields.grid, fields.name)
    blank = _blank(grid, bits)
    try:
        with path.open("wb") as file:
            _write_all(fields, forms, blank, file)
    finally:
        eccodes.codes_release(blank)


def _write_all(fields: ExportedFields, forms: dict[str, _Form], blank: int, file: IO[bytes]) -> None:
    initial = decode_time(fields.seconds, "proleptic_gregorian").astype("datetime64[s]").tolist()
    leads = [0] if fields.lead_seconds is None else [whole_hours(int(s), fields.name) for s in fields.lead_seconds]
    for piece in fields.pieces():
        form, (t, m, first) = forms[piece.name], piece.place
        static = "time" not in fields.dataset[piece.name].dims
        for i, maps in enumerate(piece.values):
            lead = 0 if static else leads[first + i]
            for level, values in zip(fields.levels(piece.name), maps, strict=True):
                if level is not None and _is_lacking(fields, piece.name, level, values):
                    continue
                keys = _product_keys(fields, form, initial[t], lead, m, static)
                keys |= _surface_keys(form.parameter, level)
                _write(file, blank, keys, values.astype(np.float64)[::-1] * form.factor)


def _is_lacking(fields: ExportedFields, name: str, level: int, values: NDArray[Any]) -> bool:
    """Whether a level stands only for those of other variables."""
    own = fields.dataset[name].attrs.get("levels")
    return own is not None and level not in np.atleast_1d(own) and not np.isfinite(values).any()


def _form(fields: ExportedFields, name: str) -> _Form:
    array, remedy = fields.dataset[name], "leave it out with variables, or write NetCDF, a name that ends in .nc"
    if name not in PARAMETERS:
        raise ChannelError(f"'{name}' in {fields.name} has no GRIB 2 code that is known here: {remedy}")
    parameter, known = PARAMETERS[name], CATALOGUE[name]
    if ("level" in array.dims) != (parameter.surface == ISOBARIC):
        said = "levels" if "level" in array.dims else "no level"
        raise ChannelError(f"'{name}' in {fields.name} has {said}, which GRIB 2 does not mean by it: {remedy}")
    units = str(array.attrs.get("units") or known.units)
    factor, offset = conversion(units, known) or (0.0, 0.0)
    if (factor, offset) != (1.0, 0.0):
        raise DataError(f"'{name}' in {fields.name} is in {units}, not in {known.units}: convert it first")
    covered = hours_covered(array)
    if covered is None and parameter.process is not None:
        raise ChannelError(
            f"'{name}' in {fields.name} says not over how many hours it is taken: give it the attribute "
            f"accumulation_hours, or write NetCDF, a name that ends in .nc"
        )
    if covered is not None and covered[0] == "mean" and (parameter.process is not None or known.accumulation_hours):
        raise ChannelError(
            f"'{name}' in {fields.name} is a mean over {covered[1]} hours of sums or extremes over fewer, which GRIB 2 "
            f"does not mean by it: {remedy}"
        )
    if covered is None:
        return _Form(parameter, None, 0, parameter.factor)
    process = parameter.process if parameter.process is not None else MEAN if covered[0] == "mean" else SUM
    return _Form(parameter, process, covered[1], parameter.factor)


def _blank(grid: Keys, bits: int) -> int:
    """Return a message that holds what all of a file share."""
    handle = int(eccodes.codes_grib_new_from_samples("GRIB2"))
    latest = int(eccodes.codes_get(handle, _LATEST_TABLES))
    _set(handle, {"tablesVersion": latest, "centre": _NO_CENTRE, "subCentre": 0} | grid)
    _set(handle, {"shapeOfTheEarth": _SPHERE, "bitsPerValue": bits, "indicatorOfUnitOfTimeRange": 1})
    return handle


def _set(handle: int, keys: Keys) -> None:
    for key, value in keys.items():
        eccodes.codes_set(handle, key, value)


def _grid_keys(grid: Grid, name: str) -> Keys:
    """Return what describes a grid, its rows from north to south.

    Raises:
        GridError: if its points are neither evenly spaced nor those of a Gaussian grid.
    """
    rows, columns = grid.shape
    north, south = grid.latitude[-1], grid.latitude[0]
    west, east = grid.longitude[0] % 360, grid.longitude[-1] % 360
    ends = {
        "Ni": columns, "Nj": rows, "iScansNegatively": 0, "jScansPositively": 0,
        "latitudeOfFirstGridPoint": _counted(north), "latitudeOfLastGridPoint": _counted(south),
        "longitudeOfFirstGridPoint": _counted(west), "longitudeOfLastGridPoint": _counted(east),
    }  # fmt: skip
    step = _step(grid.longitude)
    if step is not None and _step(grid.latitude) is None and rows % 2 == 0 and grid == Grid.gaussian(rows):
        return {"gridDefinitionTemplateNumber": 40, "N": rows // 2} | ends | {"iDirectionIncrement": _counted(step)}
    height = _step(grid.latitude)
    if step is None or height is None:
        raise GridError(
            f"{name} is on the grid {grid}, which is neither evenly spaced nor Gaussian, as GRIB needs it: regrid it "
            f"with `etesian prepare --grid`, or write NetCDF, a name that ends in .nc"
        )
    steps = {"iDirectionIncrement": _counted(step), "jDirectionIncrement": _counted(height)}
    return {"gridDefinitionTemplateNumber": 0} | ends | steps


def _counted(degrees: float) -> int:
    return round(degrees / _DEGREE)


def _step(axis: NDArray[np.float64]) -> float | None:
    """Return the even spacing of points, None where it is not even to what a grid may be off."""
    if axis.size < 2:
        return 1.0
    step = (axis[-1] - axis[0]) / (axis.size - 1)
    return float(step) if np.abs(axis - (axis[0] + step * np.arange(axis.size))).max() < 1e-4 else None


def _product_keys(fields: ExportedFields, form: _Form, initial: Any, lead: int, m: int, static: bool) -> Keys:
    """Return what a message says of parameter, time and member."""
    members, is_forecast = (None if static else fields.members), fields.lead_seconds is not None and not static
    # Means, sums and extremes up to an analysis' time begin before it.
    start = lead - form.hours
    p = form.parameter
    keys: Keys = {
        "discipline": p.discipline,
        "productDefinitionTemplateNumber": (8 if form.hours else 0)
        + (0 if members is None else 3 if form.hours else 1),
        "parameterCategory": p.category,
        "parameterNumber": p.number,
        "significanceOfReferenceTime": 1 if is_forecast else 0,
        "typeOfProcessedData": 4 if members is not None else 1 if is_forecast else 0,
        "typeOfGeneratingProcess": 4 if members is not None else 2 if is_forecast else 0,
    }
    if members is not None:
        # Code table 4.6 has no entry for members that differ by noise.
        keys |= {"typeOfEnsembleForecast": 255, "perturbationNumber": members[m]}
        keys |= {"numberOfForecastsInEnsemble": len(members)}
    base = initial
    if start < 0:
        base, start = initial + timedelta(hours=start), 0
    keys |= {"dataDate": int(f"{base:%Y%m%d}"), "dataTime": int(f"{base:%H%M}"), "second": base.second}
    keys |= {"forecastTime": start}
    if form.hours:
        end = initial + timedelta(hours=lead)
        keys |= {f"{unit}OfEndOfOverallTimeInterval": getattr(end, unit) for unit in
                 ("year", "month", "day", "hour", "minute", "second")}  # fmt: skip
        keys |= {"typeOfStatisticalProcessing": form.process or 0, "indicatorOfUnitForTimeRange": 1}
        keys |= {"lengthOfTimeRange": form.hours}
    return keys


def _surface_keys(parameter: Parameter, level: int | None) -> Keys:
    keys: Keys = {"typeOfFirstFixedSurface": parameter.surface}
    value = parameter.height if level is None else level * 100
    if value is not None:
        keys |= {"scaleFactorOfFirstFixedSurface": 0, "scaledValueOfFirstFixedSurface": value}
    return keys | ({"typeOfSecondFixedSurface": 8} if parameter.column else {})


def _write(file: IO[bytes], blank: int, keys: Keys, values: NDArray[np.float64]) -> None:
    """Write one message; NaN becomes a point that its bitmap leaves out."""
    missing = ~np.isfinite(values)
    # Not around the reading of what is written, which may be GRIB too.
    with LOCK:
        handle = eccodes.codes_clone(blank)
        try:
            _set(handle, keys)
            if missing.any():
                _set(handle, {"bitmapPresent": 1})
                eccodes.codes_set(handle, "missingValue", _MISSING)
            eccodes.codes_set_values(handle, np.where(missing, _MISSING, values).ravel())
            eccodes.codes_write(handle, file)
        finally:
            eccodes.codes_release(handle)
