"""The times of a dataset → one dimension `time` of dates at which fields are valid; none for those at rest."""

import re
from collections.abc import Hashable, Iterable
from functools import cached_property

import numpy as np
import pandas as pd
import xarray as xr

from etesian.core.channels import CATALOGUE
from etesian.core.clock import Seconds, decode_time
from etesian.core.errors import DataError
from etesian.files.cells import CELLS, is_on_grid
from etesian.files.dates import (
    RENUMBER,
    holds_dates,
    is_duration,
    is_lead,
    is_text,
    read_dates,
    read_duration,
    units_of,
)
from etesian.files.decoding import in_chunks

_TIMES = ("time", "times", "t", "date", "dates", "datetime", "valid_time", "xtime")

_VALID = ("valid_time", "validtime", "valid_date", "verification_time")

_REFERENCES = re.compile(
    r"(forecast_)?(reference|ref|init|initial|initiali[sz]ation|base|analysis|start)_?(time|date)|init"
)

_KINDS = ("valid", "time", "other", "reference")

_DATED_TEXT = re.compile(r"\d{4}[ -]\d\d[ -]\d\d[ T]\d\d:\d\d")


def timed(dataset: xr.Dataset, label: str, notes: list[str]) -> xr.Dataset:
    """Give every field its valid times along `time`, or none where the file has no dates.

    The valid time is what the file calls so, else the initial time and the lead together, else the only dates that
    there are. Fields along initial times and leads are put in the order of their valid times.

    Args:
        dataset: with the dimensions `latitude` and `longitude`, or the one of cells.
        label: name of the file in messages.
        notes: gains a sentence for each thing that was mended.

    Raises:
        DataError: if dates are missing, ambiguous or cannot be read, or if forecasts overlap.
    """
    return _Times(_without_dates_on_the_grid(_counted_from_text(dataset, label), notes), label, notes).apply()


class _Times:
    """What of a dataset tells the time of its fields."""

    def __init__(self, dataset: xr.Dataset, label: str, notes: list[str]) -> None:
        self.dataset, self.label, self.notes = dataset, label, notes
        fields = [v.dims for v in dataset.variables.values() if is_on_grid(v)]
        self.dims = {dim for dims in fields for dim in dims} - {"latitude", "longitude", CELLS}
        self.fields = [set(dims) for dims in fields]
        bounds = {str(v.attrs.get(key)) for v in dataset.variables.values() for key in ("bounds", "climatology")}
        small = [
            name
            for name, v in dataset.variables.items()
            if v.ndim <= 2 and set(v.dims) <= self.dims and str(name) not in bounds
        ]
        self.dated = [n for n in small if holds_dates(dataset[n]) and (dataset[n].ndim or self.kind(n) != "other")]
        self.leads = [n for n in small if n not in self.dated and dataset[n].ndim <= 1 and self._is_lead(n)]

    def kind(self, name: Hashable) -> str:
        """Return what a variable with dates is called: valid, reference, time, or other."""
        attrs, lower = self.dataset[name].attrs, str(name).lower()
        standard_name = attrs.get("standard_name")
        if standard_name == "forecast_reference_time" or (_REFERENCES.fullmatch(lower) and standard_name != "time"):
            return "reference"
        if standard_name == "time" or lower in _VALID:
            return "valid"
        return "time" if lower in _TIMES or attrs.get("axis") == "T" else "other"

    def _is_lead(self, name: Hashable) -> bool:
        array = self.dataset[name]
        return is_lead(array) or (str(name).lower() in _TIMES and array.dims == (name,) and is_duration(array))

    @cached_property
    def along(self) -> dict[Hashable, str]:
        """Return the dimensions that dates or leads lie on, and which of both."""
        dates = {dim: "dates" for name in self.dated for dim in self.dataset[name].dims if self.dataset[name].ndim == 1}
        leads = {dim: "leads" for name in self.leads for dim in self.dataset[name].dims}
        return leads | dates

    def apply(self) -> xr.Dataset:
        """Return the dataset with the dimension `time`."""
        for dim in self.dims:
            if self.dataset.sizes[dim] == 0 and (dim in self.along or str(dim).lower() in _TIMES):
                raise DataError(f"{self.label} holds no times, its '{dim}' is empty: it was never filled; leave it out")
        self._refuse_undated()
        if not self.dated:
            return self.dataset
        (dims, seconds), calendar = self._valid()
        dataset = self.dataset.drop_vars([*self.dated, *self.leads])
        for dim in [dim for dim in self.along if dim not in dims]:
            if dataset.sizes[dim] > 1:
                raise DataError(self._several(dim))
            dataset = dataset.isel({dim: 0}, drop=True)
        if len(dims) == 2 and 1 in seconds.shape:
            single = dims[seconds.shape.index(1)]
            dataset, dims = dataset.isel({single: 0}, drop=True), tuple(dim for dim in dims if dim != single)
        times = decode_time(seconds.ravel(), calendar)
        if not dims:
            return dataset.expand_dims(time=times)
        if len(dims) == 2:
            return self._flattened(dataset, dims, seconds.ravel(), calendar)
        (dim,) = dims
        if dim != "time":
            dataset = dataset.drop_vars("time", errors="ignore").rename({dim: "time"})
        return dataset.assign_coords(time=times)

    def _valid(self) -> tuple[tuple[tuple[Hashable, ...], Seconds], str]:
        """Return the dimensions and values of the valid times, and their calendar."""
        long = {dim for dim in self.along if self.dataset.sizes[dim] > 1}
        names = sorted(self.dated, key=self._rank)
        told = [n for n in names if self.kind(n) == "valid" and long <= set(self.dataset[n].dims)]
        base = self.dataset[told[0] if told else names[0]]
        self._refuse_rivals(base)
        seconds, calendar = read_dates(base, self.label, self.notes)
        lead = self._lead()
        if lead is None or not self._counts_from(base, lead):
            return (base.dims, seconds), calendar
        total = xr.Variable(base.dims, seconds) + xr.Variable(lead.dims, read_duration(lead))
        self.notes.append(f"'{base.name}' is the initial time: dated by '{base.name}' and '{lead.name}' together")
        return (total.dims, total.values), calendar

    def _rank(self, name: Hashable) -> tuple[bool, int, bool, bool]:
        array = self.dataset[name]
        return array.ndim == 0, _KINDS.index(self.kind(name)), str(name) not in _VALID, array.dims != (name,)

    def _refuse_rivals(self, base: xr.DataArray) -> None:
        """Refuse to choose among several dates that nothing tells apart."""
        if self.kind(base.name) != "other" or base.dims == (base.name,):
            return
        rivals = [n for n in self.dated if self.kind(n) == "other" and self.dataset[n].dims == base.dims]
        if any(not np.array_equal(self.dataset[n].values, base.values) for n in rivals):
            raise DataError(
                f"{self.label} has dates in {_quoted(rivals)}: give the one that is meant the name time, for example "
                f"with `ncrename -v {rivals[0]},time IN OUT`"
            )

    def _lead(self) -> xr.DataArray | None:
        """Return the leads, if any is not 0."""
        for name in sorted(self.leads, key=lambda n: self.dataset[n].ndim == 0):
            lead = self.dataset[name]
            if not np.asarray(lead.values).astype(np.float64).any():
                continue
            if not is_duration(lead):
                raise DataError(
                    f"{self.label} has leads in '{name}' in the units '{units_of(lead)[1]}', which have no one length: "
                    f"give them such as hours, for example with `ncatted -a units,{name},o,c,hours IN OUT`"
                )
            return lead
        return None

    def _counts_from(self, base: xr.DataArray, lead: xr.DataArray) -> bool:
        """Whether leads count from these dates, which are then no valid times."""
        kind = self.kind(base.name)
        if kind == "reference":
            return True
        if set(lead.dims) & set(base.dims) or any(self.kind(n) == "reference" for n in self.dated):
            return False
        if kind == "valid" and lead.dims and base.name not in _VALID and lead.size == 1:
            raise DataError(
                f"{self.label} calls '{base.name}' the valid time but has a dimension of leads, '{lead.name}': if so, "
                f"drop the dimension with `ncwa -a {lead.dims[0]} IN OUT`, and if it is the initial time, say so "
                f"with `ncatted -a standard_name,{base.name},o,c,forecast_reference_time IN OUT`"
            )
        return kind != "valid"

    def _flattened(
        self, dataset: xr.Dataset, dims: tuple[Hashable, ...], seconds: Seconds, calendar: str
    ) -> xr.Dataset:
        """Put fields along initial times and leads one after the other, in the order of their valid times."""
        if np.unique(seconds).size < seconds.size:
            raise DataError(self._several(next((dim for dim in dims if self.along.get(dim) == "leads"), dims[1])))
        fields = [name for name, v in dataset.variables.items() if is_on_grid(v)]
        others = [n for n, v in dataset.variables.items() if n not in fields and set(v.dims) & set(dims)]
        stacked = dataset.drop_vars(others).map(in_chunks).stack(when=dims).drop_vars(["when", *dims])
        order = np.argsort(seconds, kind="stable")
        return stacked.isel(when=order).rename(when="time").assign_coords(time=decode_time(seconds[order], calendar))

    def _several(self, dim: Hashable) -> str:
        """Say why a dimension of times cannot stand beside another."""
        count = self.dataset.sizes[dim]
        if self.along.get(dim) == "leads":
            return (
                f"{self.label} is a forecast with {count} leads along '{dim}', whose valid times overlap or are not "
                f"told: score it with `etesian evaluate`, or keep one lead, for example with `ncks -d {dim},0 IN OUT`"
            )
        axes = [name for name, kind in self.along.items() if kind == "dates"]
        if not any(set(axes) <= dims for dims in self.fields):
            return (
                f"{self.label} has fields on several time axes, {_quoted(axes)}: part them with `ncks -v NAME IN OUT`"
            )
        return f"{self.label} has two axes of dates, {_quoted(axes)}: keep one time with `ncks -d {dim},0 IN OUT`"

    def _refuse_undated(self) -> None:
        """Refuse a dimension that is time by its name or attributes and has no dates."""
        for dim in self.dims - {dim for dim, kind in self.along.items() if kind == "dates" or self.dated}:
            if dim in self.dataset.variables:
                array = self.dataset[dim]
                is_time = str(dim).lower() in _TIMES or array.attrs.get("axis") == "T"
                if is_time or array.attrs.get("standard_name") == "time":
                    raise DataError(self._without_date(array))
                if dim in self.along and dim in self.leads:
                    raise DataError(
                        f"{self.label} has leads in '{dim}' but no date from which they count: add a variable "
                        f"forecast_reference_time with units such as 'hours since 2000-01-01'"
                    )
            elif str(dim).lower() in _TIMES:
                raise DataError(
                    f"{self.label} has a dimension '{dim}' without dates: add a variable {dim}({dim}) with units such "
                    f"as 'hours since 2000-01-01', for example with `cdo settaxis,2000-01-01,00:00,6hour IN OUT`"
                )

    def _without_date(self, array: xr.DataArray) -> str:
        if array.size and is_text(array):
            text = array.values.flat[0]
            text = text.decode("utf-8", "replace") if isinstance(text, bytes) else text
            return f"{self.label} has times in '{array.name}' as text that is no date ('{text}'): {RENUMBER}"
        units, first = units_of(array)[1], array.values.flat[0] if array.size else "none"
        spelt = array.dtype.kind in "iuf" and array.size and 10000101 <= float(first) <= 99991231
        remedy = (
            f"if values such as {first} spell dates, say so with "
            f"`ncatted -a 'units,{array.name},o,c,day as %Y%m%d.%f' IN OUT`"
            if spelt
            else f"give it units such as 'hours since 2000-01-01' (its first value is {first}), or {RENUMBER}"
        )
        told = f"units {units!r}" if units else "no units"
        return f"{self.label} has times in '{array.name}' without a date ({told}): {remedy}"


def _quoted(names: Iterable[Hashable]) -> str:
    return " and ".join(f"'{name}'" for name in names)


def _without_dates_on_the_grid(dataset: xr.Dataset, notes: list[str]) -> xr.Dataset:
    """Leave out fields whose values are dates, such as the day on which ice sets in."""
    found = [
        name
        for name, array in dataset.data_vars.items()
        if is_on_grid(array) and array.dtype.kind in "iufM" and holds_dates(array)
    ]
    notes += [f"'{name}' is left out: its values are dates" for name in found]
    return dataset.drop_vars(found)


def _counted_from_text(dataset: xr.Dataset, label: str) -> xr.Dataset:
    """Give units to a time axis that counts hours from a date which another variable holds as text."""
    for name, array in dataset.variables.items():
        if array.ndim == 0 and array.dtype.kind == "S" and "ref" in str(name).lower():
            axes = [a for a in dataset.dims if "time" in str(a).lower() and a in dataset.coords]
            axes = [a for a in axes if dataset[a].dtype.kind in "iuf" and not holds_dates(dataset[a])]
            if not axes:
                continue
            match = _DATED_TEXT.search(bytes(array.values).decode("utf-8", "replace"))
            if match is None or len(axes) > 1:
                raise DataError(
                    f"{label} has a reference date '{name}' as text that does not date its time axis: "
                    f"give time units such as 'hours since 2000-01-01'"
                )
            counted = dataset[axes[0]].assign_attrs(units=f"hours since {match[0]}", axis="T")
            return dataset.drop_vars([name]).assign_coords({axes[0]: counted})
    return dataset


def is_static(name: str) -> bool:
    """Whether the catalogue knows that a variable does not change in time."""
    return name in CATALOGUE and CATALOGUE[name].static


def changes(array: xr.DataArray, first: xr.DataArray) -> xr.DataArray:
    """Whether a field differs from its first time anywhere, as a lazy scalar; what is missing in both does not."""
    return ((array != first) & ~(array.isnull() & first.isnull())).any()


def refusal(name: str) -> str:
    """Return the sentence that refuses a static field that changes."""
    return f"'{name}' should not change in time but does: leave it out with --exclude {name}, or rename it"


def without_time(array: xr.DataArray) -> xr.DataArray:
    """Return a static field without its time; all its values are read.

    Raises:
        DataError: if it changes in time.
    """
    first = array.isel(time=0, drop=True)
    if array.sizes["time"] == 1:
        return first
    first = first.load()
    if bool(changes(array, first)):
        raise DataError(refusal(str(array.name)))
    return first


def at_rest(fields: Iterable[xr.DataArray]) -> list[xr.DataArray]:
    """Take the time from static fields that are kept at a single time, or at others than the rest is.

    Raises:
        DataError: if one of the latter changes in time.
    """
    arrays = list(fields)
    moving = next((array.indexes["time"] for array in arrays if "time" in array.dims and not is_timed(array)), None)
    return [
        without_time(array) if is_timed(array) and (array.sizes["time"] == 1 or not _is_along(array, moving)) else array
        for array in arrays
    ]


def _is_along(array: xr.DataArray, times: pd.Index | None) -> bool:
    return times is None or array.indexes["time"].equals(times)


def is_timed(array: xr.DataArray) -> bool:
    """Whether a static field is kept for every time."""
    return "time" in array.dims and is_static(str(array.name))
