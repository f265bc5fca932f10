"""What a file holds, what is wrong with it, and who mends it."""

import time as clock
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import dask
import numpy as np
import xarray as xr
from dask.callbacks import Callback
from numpy.typing import NDArray
from rich.progress import Progress, track

from etesian.core.channels import CATALOGUE, canonical_name
from etesian.core.clock import encode_time
from etesian.core.constants import SECONDS_PER_DAY, SECONDS_PER_HOUR
from etesian.core.errors import EtesianError
from etesian.core.grid import Grid
from etesian.files.axes import horizontal
from etesian.files.canonical import canonicalise
from etesian.files.cells import grid_of
from etesian.files.checks import findings_of, gather, set_units, summaries, tallies
from etesian.files.dates import holds_dates
from etesian.files.decoding import damage_gathered
from etesian.files.diagnosis import Diagnosis, Finding, Severity, Summary, by_kind, to_look_at
from etesian.files.naming import ON_LEVELS
from etesian.files.open import Source, check_times, combine, expand, read_file
from etesian.files.times import changes, is_timed, refusal
from etesian.files.units import conversion

_CLOSE = 1e-3
"""Degrees, or units of the time, that rounding explains."""

MOST_BYTES = 8 * 2**30
"""Of larger data only every so many steps are checked."""


def examine(source: Source) -> Diagnosis:
    """Find out what a source holds and what is wrong with it, also where `open_store` would refuse it.

    Args:
        source: as for `open_store`.
    """
    findings: list[Finding] = []
    parts: list[tuple[str, xr.Dataset]] = []
    usable = True
    try:
        paths = expand(source)
    except EtesianError as error:
        paths, usable = [], False
        findings.append(Finding(Severity.BROKEN, str(error)))
    for path in track(paths, "Opening files", disable=len(paths) < 50, transient=True):
        try:
            for raw in read_file(path):
                dataset, notes = canonicalise(raw, path)
                parts.append((path, dataset))
                findings += [Finding(Severity.FIXED, note, (path,)) for note in notes]
                findings += [Finding(Severity.LOOK, text, (path,)) for text in to_look_at(raw)]
                findings += _check_left_out(raw, dataset, path)
                findings += [Finding(Severity.LOOK, text, (path,)) for text in _odd_bounds(raw)]
                usable = _check_time_axis(dataset, path, findings) and usable
        except EtesianError as error:
            usable = False
            findings.append(Finding(Severity.BROKEN, str(error), (path,)))
    if usable:
        try:
            parts = [(paths[0], combine(parts))]
        except EtesianError as error:
            findings.append(Finding(Severity.BROKEN, str(error)))
    for dataset in (dataset for _, dataset in parts):
        findings += [*_check_gaps(dataset), *_check_grid(dataset)]
    scanned = [summary for _, dataset in parts for summary in _scan(dataset, findings)]
    name = ", ".join(map(str, source)) if isinstance(source, Sequence) and not isinstance(source, str) else str(source)
    grids = dict.fromkeys(str(grid_of(dataset)) for _, dataset in parts)
    times = dict.fromkeys(_times_in_words(dataset) for _, dataset in parts)
    return Diagnosis(name, "; ".join(grids), "; ".join(times), tuple(scanned), tuple(by_kind(findings)))


def _check_left_out(raw: xr.Dataset, dataset: xr.Dataset, path: str) -> list[Finding]:
    """Name the fields of a file that are not on its grid."""
    used = {name for array in dataset.data_vars.values() for name in array.attrs["source_name"].split(", ")}
    used |= {variable.attrs.get(key) for variable in raw.variables.values() for key in ("bounds", "climatology")}
    return [
        Finding(
            Severity.LOOK,
            f"'{name}' is left out: it lies on {' × '.join(map(str, array.dims))}, not on the grid",
            (path,),
        )
        for name, array in raw.data_vars.items()
        if array.ndim > 1 and array.dtype.kind in "fiu" and name not in used and not holds_dates(array)
        if not str(name).endswith(("bnds", "bounds", "vertices"))
    ]


def _odd_bounds(raw: xr.Dataset) -> Iterator[str]:
    """Say which bounds of a file do not fit their coordinate, by which alone fields are placed and dated."""
    latitudes, longitudes = ({array.name for array in found} for found in horizontal(raw))
    for name, coordinate in raw.variables.items():
        units, called = coordinate.attrs.get("units"), coordinate.attrs.get("bounds")
        bounds = raw.variables.get(called)
        if bounds is None or coordinate.ndim != 1 or {coordinate.dtype.kind, bounds.dtype.kind} - set("fiu"):
            continue
        if bounds.shape != (coordinate.size, 2):
            shape = " × ".join(map(str, bounds.shape))
            yield f"'{called}' has {shape} values, not {coordinate.size} × 2 as bounds of '{name}': it is not read"
        if bounds.shape != (coordinate.size, 2) or bounds.attrs.get("units", units) != units:
            continue
        degrees = 180 / np.pi if str(units).startswith("rad") else 1.0
        points, ends = np.asarray(coordinate.values, np.float64), np.asarray(bounds.values, np.float64)
        beside = degrees * (ends - points[:, None])
        if name in longitudes:
            is_circle = np.abs(np.diff(beside)) > 360 - _CLOSE
            beside = np.where(is_circle, beside, np.mod(beside + 180, 360) - 180)
        low, high = beside.min(axis=1), beside.max(axis=1)
        outside = np.flatnonzero(~((low <= _CLOSE) & (high >= -_CLOSE)))
        order = np.argsort(points)
        half = degrees * np.diff(points[order]) / 2
        off = np.abs([high[order][:-1] - half, low[order][1:] + half]).max(axis=0)
        if outside.size:
            point, (begin, end) = points[outside[0]], ends[outside[0]]
            yield (
                f"'{called}' does not enclose '{name}' at {outside.size} of {points.size} points, the first of which "
                f"is {point:.10g} in {begin:.10g}…{end:.10g} {units or ''}: fields are put where '{name}' says"
            )
        elif name in latitudes | longitudes and (off > 0.2 * half).any():
            yield (
                f"'{called}' puts edges of cells up to {off.max():.3g}° from half way between the points of '{name}', "
                "where areas and regridding put them"
            )


def _check_time_axis(dataset: xr.Dataset, path: str, findings: list[Finding]) -> bool:
    try:
        check_times(dataset, path)
    except EtesianError as error:
        repeated = int(dataset.indexes["time"].duplicated().sum())
        more = f" ({repeated} repetitions in all)" if repeated > 1 else ""
        findings.append(Finding(Severity.BROKEN, f"{error}{more}", (path,)))
        return False
    return True


def _check_grid(dataset: xr.Dataset) -> list[Finding]:
    grid = grid_of(dataset)
    if isinstance(grid, Grid):
        return []
    text = f"fields are on {grid}: `etesian prepare --grid 1 …` brings them to latitudes and longitudes, by areas"
    return [Finding(Severity.LOOK, text)]


def _seconds(dataset: xr.Dataset) -> NDArray[np.int64]:
    times = dataset.indexes["time"].dropna().unique() if "time" in dataset.dims else []
    return np.sort(encode_time(np.asarray(times))[0]) if len(times) else np.zeros(0, dtype=np.int64)


def _common_step(seconds: NDArray[np.int64]) -> tuple[str, int]:
    """Return the usual step in words and in seconds; 0 seconds where calendar months or years make it uneven."""
    if seconds.size < 2:
        return "", 0
    lengths, counts = np.unique(np.diff(seconds), return_counts=True)
    days = lengths / SECONDS_PER_DAY
    for word, shortest, longest in (("monthly", 28, 31), ("yearly", 360, 366)):
        if shortest <= days.min() and days.max() <= longest:
            return word, 0
    step = int(lengths[counts.argmax()])
    if step % SECONDS_PER_DAY == 0:
        number = step // SECONDS_PER_DAY
        return "daily" if number == 1 else f"every {number} days", step
    return f"every {step / SECONDS_PER_HOUR:g} h", step


def _times_in_words(dataset: xr.Dataset) -> str:
    if "time" not in dataset.dims:
        return "no times: static"
    index = dataset.indexes["time"]
    calendar = encode_time(np.asarray(index[:1]))[1]
    step, _ = _common_step(_seconds(dataset))
    known = calendar if calendar != "proleptic_gregorian" else ""
    described = ", ".join(word for word in (step, f"calendar {known}" if known else "") if word)
    return f"{index.size} times, {index[0]} … {index[-1]}" + (f", {described}" if described else "")


def _check_gaps(dataset: xr.Dataset) -> list[Finding]:
    seconds = _seconds(dataset)
    word, step = _common_step(seconds)
    if not step:
        return []
    lengths = np.diff(seconds)
    wide = np.flatnonzero(lengths > step)
    uneven = np.flatnonzero(lengths % step)
    if uneven.size:
        text = f"times are uneven: {word} as a rule, but {uneven.size} of {lengths.size} steps are no multiple of that"
        return [Finding(Severity.LOOK, text)]
    if not wide.size:
        return []
    missing = int((lengths[wide] // step - 1).sum())
    before = dataset.indexes["time"].dropna().unique().sort_values()[wide[0]]
    text = f"{missing} of {missing + seconds.size} times missing ({word}), the first after {before}"
    return [Finding(Severity.LOOK, f"{text}: no sample will reach across a gap")]


def _scan(dataset: xr.Dataset, findings: list[Finding]) -> list[Summary]:
    """Read the values once, in blocks, and check each channel."""
    every = 1
    if "time" in dataset.dims and dataset.nbytes > MOST_BYTES:
        every = int(np.ceil(dataset.nbytes / MOST_BYTES))
        findings.append(Finding(Severity.LOOK, f"there are many values: only every {every}th time is checked"))
        dataset = dataset.isel(time=slice(None, None, every))
    lazy = {str(name): tallies(array) for name, array in dataset.data_vars.items()}
    still = {str(name): changes(a, a.isel(time=0, drop=True)) for name, a in dataset.data_vars.items() if is_timed(a)}
    try:
        with damage_gathered() as damage:
            read, changed = _compute({"values": lazy, "changes": still}, "Reading values").values()
    except EtesianError as error:
        findings.append(Finding(Severity.BROKEN, str(error)))
        return []
    findings += [Finding(Severity.BROKEN, str(error), (error.path,)) for error in damage]
    found = [
        summary
        for name, array in dataset.data_vars.items()
        for summary in summaries(str(name), array, gather(read[str(name)]))
    ]
    findings += [Finding(Severity.BROKEN, refusal(name)) for name, does_change in changed.items() if bool(does_change)]
    findings += [finding for summary in found for finding in findings_of(summary)]
    findings += _check_variables(dataset, found)
    return found


def _check_variables(dataset: xr.Dataset, scanned: Sequence[Summary]) -> list[Finding]:
    """Check names, units and missing values of whole variables."""
    findings = []
    for name, array in dataset.data_vars.items():
        variable = CATALOGUE.get(str(name))
        rumoured = canonical_name(array.attrs["source_name"])
        if "units_missing" in array.attrs:
            guess = f"; the values are taken to be in {variable.units}" if variable else ""
            remedy = set_units(array.attrs["source_name"], variable.units if variable else "UNITS")
            findings.append(Finding(Severity.LOOK, f"'{name}' has no units{guess}: give them with {remedy}"))
        elif variable is None and rumoured and str(name) == array.attrs["source_name"]:
            text = f"'{name}' would be '{rumoured}', but its units '{array.attrs['units']}' are no "
            text += f"{CATALOGUE[rumoured].units}: its name is kept"
            if rumoured in dataset.data_vars and conversion(array.attrs["units"], CATALOGUE[rumoured]):
                text = (
                    f"'{name}' means '{rumoured}' as '{dataset[rumoured].attrs['source_name']}' does: its name is kept"
                )
            findings.append(Finding(Severity.LOOK, text))
        if str(name) in ON_LEVELS and "level" not in array.dims:
            findings.append(Finding(Severity.LOOK, f"'{name}' comes without a level: is it at the surface?"))
        mine = [summary for summary in scanned if summary.channel.name == name]
        if empty := [summary for summary in mine if summary.missing == 1]:
            text = f"'{name}'{_levels_in_words(empty)} holds no values at all: leave it out of `prepare`"
            findings.append(Finding(Severity.LOOK, text))
        if flat := [summary for summary in mine if summary.minimum == summary.maximum and "time" in summary.dims]:
            text = f"'{name}'{_levels_in_words(flat)} is {flat[0].minimum:g} everywhere: nothing can be learned from it"
            findings.append(Finding(Severity.LOOK, text))
    if gappy := [summary for summary in scanned if 0 < summary.missing < 1]:
        worst = max(gappy, key=lambda summary: summary.missing)
        text = f"{len(gappy)} of {len(scanned)} channels have missing values, at most {worst.missing:.1%}"
        findings.append(Finding(Severity.FIXED, f"{text} ('{worst.channel}'): they will be masked"))
    return findings


def _levels_in_words(summaries: Sequence[Summary]) -> str:
    levels = [str(summary.channel.level) for summary in summaries if summary.channel.level is not None]
    return f" at {', '.join(levels)} hPa" if levels else ""


class _Bar(Callback):
    """A progress bar over Dask's tasks that appears after two seconds."""

    def __init__(self, title: str) -> None:
        self.title, self.progress, self.begun = title, Progress(transient=True), clock.monotonic()
        self.task = self.progress.add_task(title)
        super().__init__(posttask=self._advance, finish=self._stop)

    def _advance(self, key: Any, result: Any, graph: Any, state: dict[str, Any], worker: Any) -> None:
        if clock.monotonic() - self.begun > 2:
            total = sum(len(state[part]) for part in ("ready", "waiting", "running", "finished"))
            self.progress.start()
            self.progress.update(self.task, total=total, completed=len(state["finished"]))

    def _stop(self, graph: Any, state: Any, failed: bool) -> None:
        if self.progress.live.is_started:
            self.progress.stop()


def _compute(lazy: dict[Any, Any], title: str) -> dict[Any, Any]:
    with _Bar(title), warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        (values,) = dask.compute(lazy)
    return dict(values)
