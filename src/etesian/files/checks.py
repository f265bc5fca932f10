"""What values say about a data set: tallied while they are read, checked alike for `doctor` and `prepare`."""

import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dask
import dask.array as da
import numpy as np
import xarray as xr
from numpy.typing import NDArray

from etesian.core.channels import CATALOGUE, Channel
from etesian.core.constants import STANDARD_GRAVITY
from etesian.core.errors import DataError
from etesian.files.diagnosis import Finding, Severity, Summary
from etesian.files.units import conversion

_FILLS = (-99.0, -999.0, -9999.0, -99999.0, -32767.0, -32768.0, 9999.0, 32767.0, 99999.0, 999999.0)

_HUGE = 1e10


@dataclass(frozen=True)
class Tally:
    """What is kept of values that were read, for each level, or for the one place where a field lies.

    Attributes:
        missing: number of missing values.
        count: number of values.
        total: their sum.
        low: the least of them (1), how often it occurs (2), and the least of the others (3); NaN where there is none.
        high: the same of the greatest.
    """

    missing: NDArray[np.int64]
    count: NDArray[np.int64]
    total: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]

    @classmethod
    def of(cls, block: NDArray[Any], axis: int | None) -> "Tally":
        """Tally a block of values whose levels lie along `axis`."""
        rows = [block] if axis is None else list(np.moveaxis(block, axis, 0))
        values = [row[~np.isnan(row)].astype(np.float64) for row in rows]
        return cls(
            missing=np.array([row.size - value.size for row, value in zip(rows, values, strict=True)]),
            count=np.array([value.size for value in values]),
            total=np.array([value.sum() for value in values]),
            low=np.stack([_least(value) for value in values]),
            high=np.stack([-_least(-value) * (1, -1, 1) for value in values]),
        )

    @classmethod
    def merge(cls, parts: Sequence["Tally"]) -> "Tally":
        """Put together what was found in parts of the same field."""
        return cls(
            missing=sum_of(part.missing for part in parts),
            count=sum_of(part.count for part in parts),
            total=sum_of(part.total for part in parts),
            low=_merge_least([part.low for part in parts]),
            high=_merge_least([part.high * (-1, 1, -1) for part in parts]) * (-1, 1, -1),
        )

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return the parts by name."""
        return dict(vars(self))


def sum_of(arrays: Iterable[NDArray[Any]]) -> NDArray[Any]:
    """Add arrays of one shape."""
    return np.asarray(np.sum(list(arrays), axis=0))


def _least(values: NDArray[np.float64]) -> NDArray[np.float64]:
    if not values.size:
        return np.array([np.nan, 0, np.nan])
    least = values.min()
    others = values[values != least]
    return np.array([least, values.size - others.size, others.min() if others.size else np.nan])


def _merge_least(parts: Sequence[NDArray[np.float64]]) -> NDArray[np.float64]:
    """Merge (least, number, next) of parts, for each level."""
    stacked = np.stack(parts)
    merged = np.full(stacked.shape[1:], np.nan)
    for i in range(stacked.shape[1]):
        rows = stacked[:, i][stacked[:, i, 1] > 0]
        least = rows[:, 0].min() if rows.size else np.nan
        others = np.concatenate([rows[:, 0][rows[:, 0] != least], rows[:, 2]])
        others = others[~np.isnan(others)]
        merged[i] = least, rows[rows[:, 0] == least, 1].sum(), others.min() if others.size else np.nan
    return merged


def tallies(array: xr.DataArray) -> list[tuple[int, Any]]:
    """Return, for each block of an array that Dask reads, the position of its first level and its lazy tally."""
    axis = array.dims.index("level") if "level" in array.dims else None
    data = da.asarray(array.data)
    firsts = np.cumsum([0, *data.chunks[axis]])[:-1] if axis is not None else np.zeros(1, dtype=np.int64)
    blocks = data.to_delayed()
    return [
        (int(firsts[place[axis]]) if axis is not None else 0, dask.delayed(Tally.of)(blocks[place], axis))
        for place in np.ndindex(blocks.shape)
    ]


def gather(parts: Iterable[tuple[int, Tally]]) -> dict[int, Tally]:
    """Merge the tallies of blocks, by the position of their first level."""
    by_first: dict[int, list[Tally]] = {}
    for first, part in parts:
        by_first.setdefault(first, []).append(part)
    return {first: Tally.merge(group) for first, group in by_first.items()}


def summaries(name: str, array: xr.DataArray, tallied: dict[int, Tally]) -> list[Summary]:
    """Put what was tallied of a canonical variable into one summary for each channel."""
    found = []
    levels = array.level.values.tolist() if "level" in array.dims else [None]
    for first, tally in tallied.items():
        for i, level in enumerate(levels[first : first + len(tally.count)]):
            if level is not None and level not in array.attrs.get("levels", levels):
                continue
            count = int(tally.count[i])
            every = count + int(tally.missing[i])
            found.append(
                Summary(
                    channel=Channel(name, level),
                    dims=tuple(map(str, array.dims)),
                    source_name=str(array.attrs.get("source_name", name)),
                    source_units=str(array.attrs.get("source_units", array.attrs.get("units", ""))),
                    units=str(array.attrs.get("units", "")),
                    missing=1 - count / every if every else 1.0,
                    mean=float(tally.total[i]) / count if count else np.nan,
                    low=tuple(tally.low[i].tolist()),
                    high=tuple(tally.high[i].tolist()),
                )
            )
    return found


def findings_of(summary: Summary) -> list[Finding]:
    """Check one channel by its values: fill values that nobody declared, and the catalogue's physical range."""
    variable = CATALOGUE.get(summary.channel.name)
    low, high = summary.minimum, summary.maximum
    least, most = physical_range(summary.channel)
    if summary.missing == 1 or (variable and least <= low and high <= most):
        return []
    factor, offset = (variable and conversion(summary.source_units, variable)) or (1.0, 0.0)
    for extreme, count, others in (
        (low, int(summary.low[1]), (summary.low[2], high)),
        (high, int(summary.high[1]), (low, summary.high[2])),
    ):
        stored = (extreme - offset) / factor
        is_known = abs(stored) > _HUGE or any(np.isclose(stored, fill, rtol=1e-6) for fill in _FILLS)
        if (is_known or count > 1) and _is_fill(summary.channel, extreme, is_known, *others):
            text = f"'{summary.channel}' holds the value {stored:g} exactly {count} time{'s' * (count > 1)}, a fill "
            text += f"value that the file does not declare: set it, for example with `cdo setmissval,{stored:g} IN OUT`"
            return [Finding(Severity.BROKEN, text)]
    return _check_range(summary)


def _is_fill(channel: Channel, extreme: float, is_known: bool, low: float, high: float) -> bool:
    """Whether an extreme is one that centres use, or cannot be, and stands apart from all other values."""
    least, most = physical_range(channel)
    if not is_known and least <= extreme <= most:
        return False
    return (np.isfinite(most) and least <= low and high <= most) or max(low - extreme, extreme - high) > high - low


def physical_range(channel: Channel) -> tuple[float, float]:
    """Return the physical range of a channel, of geopotential by its level, so that m and m2 s-2 are told apart."""
    if channel.name == "geopotential" and (level := channel.level or 1000) <= 700:
        # The height (m) of an atmosphere whose pressure falls by e every 7 km.
        usual = STANDARD_GRAVITY * 7000 * float(np.log(1013 / level))
        return usual / 3, usual * 3
    variable = CATALOGUE.get(channel.name)
    return (variable.minimum, variable.maximum) if variable else (-np.inf, np.inf)


_MISTAKEN = {
    "K": (("K", 1.0, -273.15),),
    "Pa": (("hPa", 100.0, 0.0), ("Pa", 0.01, 0.0)),
    "m2 s-2": (("m", STANDARD_GRAVITY, 0.0), ("m2 s-2", 1 / STANDARD_GRAVITY, 0.0)),
}
"""By the catalogue's units, those that values may be in where a file says others, and what turns back what was read."""


def _check_range(summary: Summary) -> list[Finding]:
    channel, low, high = summary.channel, summary.minimum, summary.maximum
    values = f"{low:.4g} … {high:.4g}"
    variable = CATALOGUE.get(channel.name)
    if variable is None:
        return []
    if variable.units == "K" and low > -110 and high < 70 and not channel.name.endswith("_anomaly"):
        told = "says K" if summary.units else "has no units"
        text = f"'{channel}' {told} but {values} looks like °C: say so, for example with "
        return [Finding(Severity.BROKEN, text + set_units(summary.source_name, "degC"))]
    least, most = physical_range(channel)
    range_ = f"{least:g} … {most:g} {variable.units}"
    if not summary.units:
        text = f"'{channel}' has no units, and {values} is outside {range_}: give it the units it is in, for example "
        text += f"with {set_units(summary.source_name, 'UNITS')}"
        return [Finding(Severity.BROKEN, text)]
    is_outside = low > most or high < least
    for meant, factor, offset in _MISTAKEN.get(variable.units, ()) if is_outside else ():
        if least <= factor * low + offset and factor * high + offset <= most:
            text = f"'{channel}' says {summary.source_units} but has values {values}, all outside {range_}: it looks "
            text += f"like {meant}: say so, for example with {set_units(summary.source_name, meant)}"
            return [Finding(Severity.BROKEN, text)]
    return [Finding(Severity.LOOK, f"'{channel}' has values {values}, outside the physical range {range_}")]


def set_units(source_name: str, units: str) -> str:
    """Return the command that gives the variables behind a canonical one their units.

    >>> set_units("ta850, ta500", "degC")
    '`ncatted -O -a units,ta850,o,c,degC -a units,ta500,o,c,degC IN OUT`'
    >>> set_units("u", "m s-1")
    "`ncatted -O -a 'units,u,o,c,m s-1' IN OUT`"
    """
    changes = " ".join(f"-a {shlex.quote(f'units,{name},o,c,{units}')}" for name in source_name.split(", "))
    return f"`ncatted -O {changes} IN OUT`"


class Watched:
    """A canonical dataset whose values are tallied, block by block, whenever something reads them.

    What a block comes to is kept in a file, so that it counts once however often and wherever it is read.

    Args:
        dataset: canonical, read by Dask.
        folder: where that is; values that are read before it is there do not count.

    Attributes:
        dataset: the same, watched.
    """

    def __init__(self, dataset: xr.Dataset, folder: Path) -> None:
        self.folder = folder
        self.dataset = dataset.copy()
        for name, array in dataset.data_vars.items():
            axis = array.dims.index("level") if "level" in array.dims else None
            data = da.asarray(array.data)
            seen = da.map_blocks(_watch, data, folder, str(name), axis, dtype=data.dtype, meta=data._meta)
            self.dataset[name] = array.copy(data=seen)

    def refuse(self) -> None:
        """Check what was read.

        Raises:
            DataError: if the user must mend something.
        """
        for name, array in self.dataset.data_vars.items():
            parts = []
            for file in self.folder.glob(f"seen-*-{name}.npz"):
                with np.load(file) as held:
                    kept = dict(held)
                parts.append((int(kept.pop("first")), Tally(**kept)))
            for summary in summaries(str(name), array, gather(parts)):
                for finding in findings_of(summary):
                    if finding.severity is Severity.BROKEN:
                        raise DataError(f"{finding.text}; or leave the variable out")


def _watch(block: NDArray[Any], folder: Path, name: str, axis: int | None, block_info: Any = None) -> NDArray[Any]:
    place, spans = block_info[0]["chunk-location"], block_info[0]["array-location"]
    file = folder / f"seen-{'-'.join(map(str, place))}-{name}.npz"
    # What is read before the work begins, such as coordinates of a regridding, is read again with it.
    if folder.is_dir() and not file.exists() and block.size:
        temporary = file.with_name(f"{file.stem}.{np.random.default_rng().integers(2**62)}.tmp.npz")
        first = np.int64(0 if axis is None else spans[axis][0])
        np.savez(temporary, allow_pickle=False, first=first, **Tally.of(block, axis).arrays())
        temporary.replace(file)
    return block
