"""Pictures of filled fields: what went in, what came out, how wrong it is and how sure; and a film of the days."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from matplotlib.animation import PillowWriter
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from numpy.typing import NDArray

from etesian.core.channels import Channel
from etesian.core.clock import decode_time
from etesian.core.dataset import planet_of
from etesian.fill.pairs import FilledCase, FilledPairs
from etesian.scores.definitions import LEVELS
from etesian.scores.maps import (
    DIVERGING,
    STYLE,
    draw_cells,
    draw_map,
    largest_value,
    map_height,
    shown_cells,
    value_range,
)
from etesian.scores.plots import MODEL_COLOURS, band, colour_bar, dress, legend, plain_logarithm
from etesian.scores.projections import Projection
from etesian.scores.tables import pretty_units, squared, title

_STRIP = 5

_MEMBERS = 4

_FRAMES = 31

_CLOUD = "#ffffff"

_LAND = "#9a9d9f"


def gapfill_figures(scores: xr.Dataset, pairs: FilledPairs) -> Iterator[tuple[str, Figure]]:
    """Return all pictures of an evaluation by name."""
    number = example(scores)
    for channel in pairs.channels:
        case = pairs.case(number, channel)
        when = _when(pairs, number)
        yield f"fields_{channel}", fields(pairs, number, channel, case, when)
        if len(case.filled) > 1:
            yield f"models_{channel}", models(pairs, channel, case, when)
        if case.members:
            yield f"members_{channel}", members(pairs, channel, case, when)
        yield f"errors_{channel}", error_maps(scores, pairs, str(channel))
        yield f"bins_{channel}", bins(scores.sel(channel=str(channel)))
        if np.isfinite(scores.spread.sel(channel=str(channel))).any():
            yield f"reliability_{channel}", reliability(scores.sel(channel=str(channel)))
    if "power" in scores:
        yield "spectra", spectra(scores)


def example(scores: xr.Dataset) -> int:
    """Return the number of the time whose cloud share is in the middle of those with gaps that could be scored."""
    scored = np.isfinite(scores.mse_by_time.sel(region="gaps").values).any((1, 2))
    times = np.flatnonzero(scored if scored.any() else np.ones_like(scored))
    share = scores.cloud_share_of_time.values[times]
    return int(times[np.argsort(share, kind="stable")[share.size // 2]])


def fields(pairs: FilledPairs, number: int, channel: Channel, case: FilledCase, when: str) -> Figure:
    """Draw days that went in and the share observed; beneath them the filled field, truth, error and uncertainty."""
    name = next(iter(case.filled))
    filled, grid = case.filled[name], _grid(pairs)
    days = pairs.observations(number, channel, whole_month=True)
    times = pairs.times_of(number, whole_month=True)
    chosen = _neighbours(times, None if pairs.monthly else int(pairs.time[number]), 3)
    colours, low, high = value_range(str(channel), [filled, case.truth])
    error = np.where(np.isfinite(case.truth), filled - case.truth, np.nan)
    figure = Figure(figsize=(15.5, 2 * map_height(grid, 3.6) + 2.8), layout="constrained")
    panels = figure.subplots(2, 4, sharex=True, sharey=True)
    units = pairs.truth.units(channel)
    for panel, day in zip(panels[0], chosen, strict=False):
        shown = _map(panel, days[day], pairs, colours, low, high)
        panel.set_title(f"Observed, {_date(pairs, int(times[day]))}", loc="left", fontsize=10, color=STYLE["text"])
    for panel in panels[0, len(chosen) : 3]:
        panel.set_visible(False)
    share = np.where(case.sea, 100 * case.count / len(days), np.nan)
    shares = _map(panels[0, 3], share, pairs, "viridis", 0, 100)
    panels[0, 3].set_title("Share of times observed", loc="left", fontsize=10, color=STYLE["text"])
    largest = largest_value([error])
    _map(panels[1, 0], filled, pairs, colours, low, high)
    _map(panels[1, 1], case.truth, pairs, colours, low, high)
    errors = _map(panels[1, 2], error, pairs, DIVERGING, -largest, largest)
    labels = [f"Filled by {name}, {when}", "Truth", "Error"]
    if name in case.deviation:
        spread = case.deviation[name]
        spreads = _map(panels[1, 3], spread, pairs, "magma_r", 0, largest_value([spread]))
        colour_bar(figure, spreads, panels[1, 3:], "Standard deviation", units, shrink=0.9, extend="max")
        labels.append("Uncertainty")
    else:
        panels[1, 3].set_visible(False)
    for panel, label in zip(panels[1], labels, strict=False):
        panel.set_title(label, loc="left", fontsize=10, color=STYLE["text"])
    colour_bar(figure, shown, panels[1, :2], title(str(channel)), units)
    colour_bar(figure, errors, panels[1, 2:3], "Filled − truth", units, shrink=0.9)
    colour_bar(figure, shares, panels[0, 3:], "", "%", shrink=0.9, extend="neither")
    return figure


def models(pairs: FilledPairs, channel: Channel, case: FilledCase, when: str) -> Figure:
    """Draw every model's field above its error, after the truth."""
    maps = {"Truth": case.truth, **case.filled}
    grid, units = _grid(pairs), pairs.truth.units(channel)
    figure = Figure(figsize=(3.3 * len(maps), 2 * map_height(grid, 3.1) + 2.8), layout="constrained")
    panels = figure.subplots(2, len(maps), sharex=True, sharey=True)
    colours, low, high = value_range(str(channel), list(maps.values()))
    errors = {name: values - case.truth for name, values in case.filled.items()}
    largest = largest_value(list(errors.values()))
    panels[1, 0].set_visible(False)
    for column, (name, values) in enumerate(maps.items()):
        shown = _map(panels[0, column], values, pairs, colours, low, high)
        label = f"{name}, {when}" if column == 0 else name.replace("_", " ")
        panels[0, column].set_title(label, loc="left", fontsize=10, color=STYLE["text"])
        if column:
            drawn = _map(panels[1, column], errors[name], pairs, DIVERGING, -largest, largest)
            wrong = errors[name][np.isfinite(errors[name]) & ~case.observed & case.sea]
            rmse = f"RMSE in gaps {np.sqrt(np.mean(wrong**2)):.3g}" if wrong.size else "no gaps"
            panels[1, column].set_title(f"Error, {rmse}", loc="left", fontsize=9, color=STYLE["text"])
    colour_bar(figure, shown, panels[0], title(str(channel)), units)
    colour_bar(figure, drawn, panels[1, 1:], "Filled − truth", units)
    return figure


def members(pairs: FilledPairs, channel: Channel, case: FilledCase, when: str) -> Figure:
    """Draw the truth and the mean of the first members, some of them, and how far each lies from the mean."""
    name, maps = next(iter(case.members.items()))
    mean, shown = case.filled[name], maps[:_MEMBERS]
    figure = Figure(figsize=(3.3 * (2 + len(shown)), 2 * map_height(_grid(pairs), 3.1) + 2.4), layout="constrained")
    panels = figure.subplots(2, 2 + len(shown), sharex=True, sharey=True)
    colours, low, high = value_range(str(channel), [case.truth, mean, *shown])
    deviation = maps.std(0, ddof=1)
    apart = [np.where(np.isfinite(case.truth), case.truth - mean, np.nan), deviation, *(each - mean for each in shown)]
    largest = largest_value(apart)
    labels = [f"Truth, {when}", f"Mean of {len(maps)}", *(f"Member {number}" for number in range(len(shown)))]
    beneath = ["Truth − mean", "Standard deviation", *["Member − mean"] * len(shown)]
    for column, (above, below) in enumerate(zip([case.truth, mean, *shown], apart, strict=True)):
        image = _map(panels[0, column], above, pairs, colours, low, high)
        drawn = _map(panels[1, column], below, pairs, DIVERGING, -largest, largest)
        for panel, label in zip(panels[:, column], (labels[column], beneath[column]), strict=True):
            panel.set_title(label, loc="left", fontsize=10, color=STYLE["text"])
    units = pairs.truth.units(channel)
    colour_bar(figure, image, panels[0], title(str(channel)), units)
    colour_bar(figure, drawn, panels[1], "Difference", units)
    return figure


def error_maps(scores: xr.Dataset, pairs: FilledPairs, channel: str) -> Figure:
    """Draw the root-mean-square error of every model point by point, over all times."""
    maps = scores.rmse_map.sel(channel=channel)
    names = maps.forecast.values.tolist()
    columns = min(3, len(names))
    rows = -(-len(names) // columns)
    figure = Figure(figsize=(4.6 * columns, rows * map_height(_grid(pairs), 4.3) + 1.4), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
    largest = largest_value([maps.values])
    for panel in panels.ravel()[len(names) :]:
        panel.set_visible(False)
    for panel, name in zip(panels.ravel(), names, strict=False):
        image = _map(panel, maps.sel(forecast=name).values, pairs, "magma_r", 0, largest)
        panel.set_title(name.replace("_", " "), loc="left", fontsize=10, color=STYLE["text"])
    colour_bar(
        figure, image, panels, "RMSE over all times", str(scores.units.sel(channel=channel).values), extend="max"
    )
    return figure


def bins(scores: xr.Dataset) -> Figure:
    """Draw RMSE by distance from the nearest observation, by observations at the point and by cloud share."""
    figure = Figure(figsize=(14, 4.4), layout="constrained")
    panels = figure.subplots(1, 3, sharey=True)
    headings = {
        "distance": "Distance from the nearest observation",
        "observations": "Times in the month observed at the point",
        "cloud_share": "Share of the sea under cloud",
    }
    for panel, (binning, heading) in zip(panels, headings.items(), strict=True):
        rmse = scores[f"rmse_by_{binning}"]
        there = np.flatnonzero(np.isfinite(rmse.values).any(0))
        for name, colour in _colours(scores).items():
            values = rmse.sel(forecast=name).values[there]
            panel.plot(there, values, color=colour, marker="o", markersize=4, label=name.replace("_", " "))
        panel.set_xticks(there, [str(label) for label in rmse[binning].values[there]], rotation=35, ha="right")
        panel.set_xlabel(heading)
        dress(panel)
    panels[0].set_ylim(bottom=0)
    panels[0].set_ylabel(f"RMSE ({pretty_units(str(scores.units.values))})")
    legend(figure, panels[0])
    return figure


def reliability(scores: xr.Dataset) -> Figure:
    """Draw coverage of intervals, error against stated deviation, and where the truth lies in the distribution.

    Of members that is its rank among them.
    """
    figure = Figure(figsize=(14, 4.6), layout="constrained")
    covering, spread, ranks = figure.subplots(1, 3)
    known = {
        name: colour for name, colour in _colours(scores).items() if np.isfinite(scores.spread.sel(forecast=name)).any()
    }
    for name, colour in known.items():
        part = scores.sel(forecast=name)
        label = name.replace("_", " ")
        here = part.isel(region=0)
        covered = [100 * float(here[f"coverage_{round(100 * level)}"]) for level in LEVELS]
        covering.plot(100 * np.array(LEVELS), covered, color=colour, marker="o", label=label)
        spread.plot(part.spread_by_deviation, part.rmse_where_spread_by_deviation, color=colour, marker="o")
        density = part.pit.values
        if "rank_frequency" in part and np.isfinite(part.rank_frequency[0]):
            density = part.rank_frequency.dropna("rank").values
        ranks.stairs(density.size * density, np.linspace(0, 1, density.size + 1), color=colour, linewidth=1.8)
    covering.plot([40, 100], [40, 100], color=STYLE["spines"], linewidth=1)
    covering.set(xlabel="Probability of the interval (%)", ylabel="Truth inside (%)")
    units = pretty_units(str(scores.units.values))
    largest = max(spread.get_xlim()[1], spread.get_ylim()[1])
    spread.plot([0, largest], [0, largest], color=STYLE["spines"], linewidth=1)
    spread.set(xlabel=f"Standard deviation stated ({units})", ylabel=f"RMSE found ({units})")
    ranks.axhline(1, color=STYLE["spines"], linewidth=1)
    ranks.set(xlabel="Where the truth lies in the distribution", ylabel="Density", ylim=(0, None))
    for panel in (covering, spread, ranks):
        dress(panel)
    legend(figure, covering)
    return figure


def spectra(scores: xr.Dataset) -> Figure:
    """Draw the spectra of the truth, of every model, and of their errors (dashed), with 95 % bands."""
    channels = scores.channel.values.tolist()
    figure = Figure(figsize=(8.5 * len(channels), 5), layout="constrained")
    panels = figure.subplots(1, len(channels), squeeze=False)[0]
    wavelength = 1 / scores.wavenumber.values
    for panel, channel in zip(panels, channels, strict=True):
        part = scores.sel(channel=channel)
        truth = part.sel(spectrum_of="truth")
        panel.loglog(wavelength, truth.power, color=STYLE["text"], linewidth=2.4, label="truth")
        band(panel, wavelength, truth, "power", STYLE["text"])
        for name, colour in _colours(scores).items():
            made, wrong = part.sel(spectrum_of=name), part.sel(spectrum_of=f"error of {name}")
            panel.loglog(wavelength, made.power, color=colour, label=name.replace("_", " "))
            band(panel, wavelength, made, "power", colour)
            panel.loglog(wavelength, wrong.power, color=colour, linestyle=(0, (4, 2)), linewidth=1)
        panel.invert_xaxis()
        panel.set_title(title(channel), loc="left", fontsize=11, fontweight="bold", color=STYLE["text"])
        plain_logarithm(panel.xaxis)
        units = pretty_units(f"{squared(str(part.units.values))} km")
        panel.set(xlabel="Wavelength (km); dashed: spectrum of the error", ylabel=f"Variance per wavenumber ({units})")
        dress(panel)
        panel.legend(frameon=False, fontsize=9)
    return figure


def strip(pairs: FilledPairs, number: int, channel: Channel) -> Figure:
    """Draw days one beside the other: observed, filled where days are filled, and the truth where it is known."""
    rows = _days(pairs, number, channel)
    times = pairs.times_of(number, whole_month=True)
    chosen = _neighbours(times, None, _STRIP)
    grid = _grid(pairs)
    figure = Figure(figsize=(2.9 * len(chosen), len(rows) * map_height(grid, 2.7) + 1.4), layout="constrained")
    panels = figure.subplots(len(rows), len(chosen), squeeze=False, sharex=True, sharey=True)
    colours, low, high = value_range(str(channel), [field for days in rows.values() for field in days])
    for line, (name, days) in zip(panels, rows.items(), strict=True):
        for panel, day in zip(line, chosen, strict=True):
            image = _map(panel, days[day], pairs, colours, low, high)
            label = f"{name}, {_date(pairs, int(times[day]))}"
            panel.set_title(label, loc="left", fontsize=9, color=STYLE["text"])
    colour_bar(figure, image, panels, title(str(channel)), pairs.truth.units(channel))
    return figure


def film(pairs: FilledPairs, number: int, channel: Channel, path: Path) -> None:
    """Write a GIF of the days of a month: observed, filled where days are filled, and the truth where it is known."""
    rows = _days(pairs, number, channel)
    times = pairs.times_of(number, whole_month=True)[:_FRAMES]
    grid = _grid(pairs)
    figure = Figure(figsize=(3.4 * len(rows), map_height(grid, 3.1) + 0.8), layout="constrained", dpi=72)
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, len(rows), squeeze=False, sharey=True)[0]
    colours, low, high = value_range(str(channel), [field for days in rows.values() for field in days])
    images = []
    for panel, (name, days) in zip(panels, rows.items(), strict=True):
        images.append(_map(panel, days[0], pairs, colours, low, high))
        panel.set_title(name, loc="left", fontsize=10, color=STYLE["text"])
    colour_bar(figure, images[0], panels, title(str(channel)), pairs.truth.units(channel), shrink=0.8)
    heading = figure.suptitle("", fontsize=11, color=STYLE["text"])

    writer = PillowWriter(fps=4)
    with writer.saving(figure, str(path), 72):
        for day, seconds in enumerate(times):
            for image, fields_of in zip(images, rows.values(), strict=True):
                image.set_array(shown_cells(fields_of[day], pairs.grid, Projection.of(pairs.grid)))
            heading.set_text(_date(pairs, int(seconds)))
            writer.grab_frame()


def _days(pairs: FilledPairs, number: int, channel: Channel) -> dict[str, NDArray[np.float64]]:
    times = pairs.times_of(number, whole_month=True)
    rows = {"Observed": pairs.observations(number, channel, whole_month=True)}
    name, series = next(iter(pairs.filled.items()))
    own = series.times[0]
    if not pairs.monthly and np.isin(times, own).all():
        maps = series.read([channel], time=np.searchsorted(own, times))
        rows[f"Filled by {name}"] = maps.reshape(len(times), -1, *pairs.grid.shape).mean(1, dtype=np.float64)
    if np.isin(times, pairs.truth.times[0]).all():
        rows["Truth"] = pairs.true_fields(number, channel, whole_month=True)
    return rows


def _map(panel: Axes, values: NDArray[np.floating], pairs: FilledPairs, colours: str, low: float, high: float) -> Any:
    """Draw a map with land grey and clouds white."""
    image = draw_map(panel, values, _grid(pairs), colours, low, high, missing=_CLOUD)
    land = np.where(pairs.sea, np.nan, 1.0)
    draw_cells(panel, land, pairs.grid, Projection.of(pairs.grid), cmap=ListedColormap([_LAND]))
    return image


def _grid(pairs: FilledPairs) -> xr.Dataset:
    land = ("latitude", "longitude"), ~pairs.sea
    axes = {"latitude": pairs.grid.latitude, "longitude": pairs.grid.longitude}
    return xr.Dataset({"land_sea_mask": land}, axes, planet_of(pairs.truth.dataset))


def _colours(scores: xr.Dataset) -> dict[str, str]:
    names = scores.forecast.values.tolist()
    return {name: MODEL_COLOURS[number % len(MODEL_COLOURS)] for number, name in enumerate(names)}


def _neighbours(times: NDArray[np.int64], middle: int | None, count: int) -> list[int]:
    """Return the positions of a time and its neighbours, or of times spread evenly over all."""
    if middle is None or middle not in times:
        return sorted({round(position) for position in np.linspace(0, times.size - 1, min(count, times.size))})
    position = int(np.flatnonzero(times == middle)[0])
    first = min(max(0, position - count // 2), max(0, times.size - count))
    return list(range(first, min(times.size, first + count)))


def _date(pairs: FilledPairs, seconds: int) -> str:
    date = str(decode_time(np.array([seconds]), pairs.calendar)[0])
    return date[:10] if date[11:16] in ("", "00:00") else date[:16].replace("T", " ")


def _when(pairs: FilledPairs, number: int) -> str:
    date = _date(pairs, int(pairs.time[number]))
    return date[:7] if pairs.monthly else date
