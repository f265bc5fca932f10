"""Arrays of channels ↔ xarray datasets of variables, in the layout and with the attributes of WeatherBench 2."""

import html
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from etesian.core.channels import ACCUMULATION_HOURS, CATALOGUE, Channel
from etesian.core.errors import ChannelError, GridError, suggest
from etesian.core.grid import Grid

CONVENTIONS = {"Conventions": "CF-1.11"}
LEAD = "prediction_timedelta"
"""WeatherBench 2's dimension of the time after the initial one."""
MEMBER = "number"
"""WeatherBench 2's dimension of the members of an ensemble."""
PLANET = "planet"
"""Attribute of data that are of no place on Earth, such as what `simulate` makes; what is made from them keeps it."""


def planet_of(dataset: xr.Dataset) -> dict[str, str]:
    """Return the attribute by which data, or any of their variables, say that they are not of the Earth; else nothing.

    >>> planet_of(xr.Dataset(attrs={"planet": "simulated", "title": "weather"})), planet_of(xr.Dataset())
    ({'planet': 'simulated'}, {})
    """
    said = [dataset.attrs, *(array.attrs for array in dataset.data_vars.values())]
    return next(({PLANET: str(attrs[PLANET])} for attrs in said if PLANET in attrs), {})


def levels_of(channels: Sequence[Channel], name: str) -> list[int | None]:
    """Return the levels of a variable among channels, ascending; `[None]` where it has none.

    >>> levels_of([Channel("temperature", 850), Channel("temperature", 500)], "temperature")
    [500, 850]
    """
    return sorted((c.level for c in channels if c.name == name), key=lambda level: level or 0)


def coordinates(grid: Grid, channels: Sequence[Channel]) -> dict[str, tuple[str, Any, dict[str, str]]]:
    """Return latitude and longitude, and the levels that any channel has, with their attributes."""
    found: dict[str, tuple[str, Any, dict[str, str]]] = {
        "latitude": ("latitude", grid.latitude, {"standard_name": "latitude", "units": "degrees_north"}),
        "longitude": ("longitude", grid.longitude, {"standard_name": "longitude", "units": "degrees_east"}),
    }
    if levels := sorted({c.level for c in channels if c.level is not None}):
        found["level"] = ("level", levels, {"standard_name": "air_pressure", "units": "hPa"})
    return found


def forecast_times(initial: NDArray[Any], leads: NDArray[np.int64]) -> dict[str, Any]:
    """Return WeatherBench 2's two times of forecasts as coordinates.

    Args:
        initial: dates.
        leads: seconds after them.
    """
    after = leads.astype("timedelta64[s]").astype("timedelta64[ns]")
    return {
        "time": ("time", initial, {"standard_name": "forecast_reference_time"}),
        LEAD: (LEAD, after, {"standard_name": "forecast_period"}),
    }


def channels_of(dataset: xr.Dataset) -> tuple[Channel, ...]:
    """List the channels of a canonical dataset: each variable, or each level that it has.

    Variables come in the dataset's order, levels ascending.
    """
    return tuple(
        Channel(str(name), level)
        for name, array in dataset.data_vars.items()
        for level in (array.attrs.get("levels", array.level.values.tolist()) if "level" in array.dims else [None])
    )


def attributes(name: str, channels: Sequence[Channel], units: Mapping[Channel, str] | None = None) -> dict[str, Any]:
    """Return what a variable says of itself: CF standard name, units, and which levels are meant to be there.

    Args:
        name: of the variable.
        channels: among them those of the variable.
        units: of channels; those of the catalogue where nothing is said.
    """
    known = CATALOGUE.get(name)
    given = next((units[c] for c in channels if c.name == name and units.get(c)), "") if units else ""
    said = {
        "standard_name": known.standard_name if known else "",
        "units": given or (known.units if known else ""),
        ACCUMULATION_HOURS: known.accumulation_hours if known else None,
        # Where another variable has further levels, NaN stands in for those that this one lacks.
        "levels": [level for level in levels_of(channels, name) if level is not None],
    }
    return {key: value for key, value in said.items() if value}


def to_dataset(
    values: NDArray[np.floating],
    leading: Mapping[str, Any],
    channels: Sequence[Channel],
    grid: Grid,
    units: Mapping[Channel, str] | None = None,
) -> xr.Dataset:
    """Part an array of channels into variables, those on levels with a dimension `level`.

    Args:
        values: (…, channel, latitude, longitude), in physical units, NaN where missing.
        leading: the coordinate of each leading dimension, as xarray takes it.
        channels: of the array.
        grid: of the array.
        units: of channels; those of the catalogue where nothing is said.
    """
    known = coordinates(grid, channels)
    every = list(known["level"][1]) if "level" in known else []
    horizontal = ("latitude", "longitude")
    variables = {}
    for name in dict.fromkeys(channel.name for channel in channels):
        own = levels_of(channels, name)
        layers = [values[..., channels.index(Channel(name, level)), :, :] for level in own]
        if own == [None]:
            dims, array = (*leading, *horizontal), layers[0]
        else:
            shape = (*values.shape[:-3], len(every), *values.shape[-2:])
            array = np.full(shape, np.nan, dtype=values.dtype)
            for level, layer in zip(own, layers, strict=True):
                array[..., every.index(level), :, :] = layer
            dims = (*leading, "level", *horizontal)
        variables[name] = dims, array, attributes(name, channels, units)
    return xr.Dataset(variables, {**leading, **known}, CONVENTIONS)


def from_dataset(dataset: xr.Dataset, channels: Sequence[Channel]) -> xr.DataArray:
    """Stack the channels of a dataset along a dimension `channel` before latitude (ascending) and longitude, lazily.

    Args:
        dataset: with `latitude`, `longitude` and, where a channel has one, `level` in hPa.
        channels: to stack.

    Raises:
        ChannelError: if a variable or a level is missing, naming the closest.
        GridError: if latitude or longitude is missing.
    """
    for axis in ("latitude", "longitude"):
        if axis not in dataset.dims:
            raise GridError(f"the dataset has no dimension '{axis}'; open files with etesian.open, which names it so")
    arrays = []
    for channel in channels:
        if channel.name not in dataset:
            raise ChannelError(
                f"the dataset has no variable '{channel.name}'{suggest(channel.name, map(str, dataset.data_vars))}"
            )
        array = dataset[channel.name]
        if channel.level is not None:
            if "level" not in array.coords or channel.level not in np.atleast_1d(array.level.values):
                held = np.atleast_1d(array.level.values).tolist() if "level" in array.coords else "none"
                raise ChannelError(f"'{channel.name}' has no level of {channel.level} hPa; its levels are {held}")
            array = array.sel(level=channel.level) if "level" in array.dims else array
        arrays.append(array.drop_vars("level", errors="ignore"))
    stacked = xr.concat(arrays, "channel", combine_attrs="drop").sortby("latitude")
    return stacked.transpose(..., "channel", "latitude", "longitude")


def facts_table(title: str, facts: Mapping[str, str]) -> str:
    """Return facts by name as the HTML that notebooks show."""
    left = "style='text-align:left'"
    rows = "".join(
        f"<tr><th {left}>{html.escape(name)}</th><td {left}>{html.escape(fact)}</td></tr>"
        for name, fact in facts.items()
    )
    return f"<strong>{html.escape(title)}</strong><table>{rows}</table>"
