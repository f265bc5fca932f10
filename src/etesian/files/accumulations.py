"""Sums, means and extremes over time → one series for each length of the period that they cover."""

import itertools
import re
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import xarray as xr

from etesian.core.channels import CATALOGUE
from etesian.core.constants import SECONDS_PER_DAY, SECONDS_PER_HOUR
from etesian.files.dates import holds_dates, is_lead
from etesian.files.units import conversion


class Period(NamedTuple):
    """What a field of a forecast covers, in seconds since 1970-01-01: an instant where it starts as it ends."""

    initial: int
    start: int
    end: int

    @property
    def length(self) -> int:
        """Seconds from its start to its end."""
        return self.end - self.start


class Step(NamedTuple):
    """A sum over one step of a forecast: that over `whole`, less that over `before`."""

    period: Period
    whole: Period
    before: Period | None


def over_steps(periods: Iterable[Period]) -> list[Step]:
    """Turn sums of which several start together into sums from the end of one to the end of the next.

    A step that is given as such is taken as it is given; sums over no time at all are left out.

    >>> hour = 3600
    >>> [step.period[1:] for step in over_steps([Period(0, 0, 6 * hour), Period(0, 0, 9 * hour)])]
    [(0, 21600), (21600, 32400)]
    """
    together: dict[tuple[int, int], list[Period]] = {}
    for period in sorted({period for period in periods if period.length}):
        together.setdefault((period.initial, period.start), []).append(period)
    steps = {group[0]: Step(group[0], group[0], None) for group in together.values()}
    for group in together.values():
        for before, whole in itertools.pairwise(group):
            rest = whole._replace(start=before.end)
            steps.setdefault(rest, Step(rest, whole, before))
    return sorted(steps.values(), key=lambda step: step.period)


def span(seconds: int) -> str:
    """Say how long a period is; months and years are one length each, however many days they have.

    >>> span(6 * 3600), span(5400), span(28 * 86400) == span(31 * 86400)
    ('6h', '90min', True)
    """
    days = seconds / SECONDS_PER_DAY
    for word, shortest, longest in (("month", 28, 31), ("year", 360, 366)):
        if shortest <= days <= longest:
            return word
    return f"{seconds // SECONDS_PER_HOUR}h" if seconds % SECONDS_PER_HOUR == 0 else f"{seconds / 60:g}min"


Pieces = dict[str, list[tuple[str, xr.DataArray]]]
"""By name, the files and what each of them holds of a variable."""


def named_by_length(fields: Pieces) -> Pieces:
    """Part the sums, means and extremes of several files by the length of the periods that they cover.

    Where it differs, each has the name and the units that it has where one file holds several lengths (`tp_3h`).

    Args:
        fields: canonical variables; those over periods have an attribute `period`.
    """
    lengths: dict[str, set[str]] = {}
    for name, arrays in fields.items():
        for _, array in arrays:
            if "period" in array.attrs:
                lengths.setdefault(_without_length(name, array), set()).add(array.attrs["period"])
    parted: Pieces = {}
    for name, arrays in fields.items():
        for path, array in arrays:
            is_apart = "period" in array.attrs and len(lengths[_without_length(name, array)]) > 1
            own = _with_length(name, array) if is_apart else array
            parted.setdefault(str(own.name), []).append((path, own))
    return parted


def _without_length(name: str, array: xr.DataArray) -> str:
    """Return the name that a variable has in its file, or the one made for it, without the length of its period."""
    own = str(array.attrs["source_name"]) if name in CATALOGUE else name
    return own.removesuffix(f"_{array.attrs['period']}")


def _with_length(name: str, array: xr.DataArray) -> xr.DataArray:
    attrs = dict(array.attrs)
    own = f"{_without_length(name, array)}_{attrs['period']}"
    if name in CATALOGUE:
        factor, offset = conversion(attrs["source_units"], CATALOGUE[name]) or (1.0, 0.0)
        if (factor, offset) != (1.0, 0.0):
            array = (array - array.dtype.type(offset)) / array.dtype.type(factor)
        attrs.pop("standard_name", None)
        attrs |= {"source_name": own, "units": attrs["source_units"]}
    array = array.rename(own)
    array.attrs = attrs
    return array


_UNEVEN = 1.2
"""Ratio of two periods from which on they are no longer months, seasons or years of one kind."""


def named_by_period(raw: xr.Dataset, notes: list[str]) -> tuple[xr.Dataset, dict[str, str]]:
    """Rename the sums of a dataset that are no series over steps of one length, so that they pass for none.

    A sum is what says so by `cell_methods` or, as the Climate Data Store does, by GRIB's type of step. The bounds of
    its times tell over what it is taken; where it runs over lead times without them, it may start with the forecast.

    Args:
        raw: decoded dataset.
        notes: gains a sentence for each variable that was renamed.

    Returns:
        The dataset, and what those that were renamed are called in the file.
    """
    names = {}
    for name, array in raw.data_vars.items():
        methods = str(array.attrs.get("cell_methods", ""))
        is_sum = array.attrs.get("GRIB_stepType") == "accum" or re.search(r"time: sum\b", methods)
        why = _why_uneven(raw, array) if is_sum else ""
        if why:
            names[name] = f"{name}_accumulated"
            notes.append(
                f"'{name}' is a sum {why}: kept as '{names[name]}', since a series would mix several lengths; "
                f"take differences along its lead times where it starts with the forecast"
            )
    renamed = raw.rename(names) if names else raw
    for name in names.values():
        renamed[name].attrs.pop("standard_name", None)
    return renamed, {own: str(name) for name, own in names.items()}


def _why_uneven(raw: xr.Dataset, array: xr.DataArray) -> str:
    """Say what keeps a sum from being a series, or nothing."""
    leads = [c for c in array.coords.values() if c.ndim == 1 and is_lead(c) and np.unique(c.values).size > 1]
    axes = [c for c in array.coords.values() if c.ndim == 1 and (is_lead(c) or holds_dates(c))]
    bounds = [raw[c.attrs["bounds"]] for c in axes if c.attrs.get("bounds") in raw.variables]
    pairs = [bound for bound in bounds if bound.ndim == 2 and bound.shape[0] and bound.shape[1] == 2]
    for pair in pairs:
        starts, ends = np.asarray(pair.values).T
        lengths = ends - starts
        if not (lengths > 0).all():
            return f"over periods of which '{pair.name}' tells no length"
        if (starts[1:] < ends[:-1]).any():
            return "over periods that overlap"
        if lengths.max() > _UNEVEN * lengths.min():
            return "over periods of several lengths"
    if leads and not pairs:
        return f"over the lead times of '{leads[0].name}', maybe since the start of the forecast"
    return ""
