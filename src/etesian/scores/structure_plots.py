"""Pictures of structure: spectra, semivariograms, distributions, and close views of one field."""

from collections.abc import Iterator

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.dates import ConciseDateFormatter
from matplotlib.figure import Figure
from numpy.typing import NDArray

from etesian.core.errors import GridError
from etesian.core.grid import Grid, Region
from etesian.scores.maps import STYLE, draw_map, earths_coasts, map_height, value_range
from etesian.scores.plots import band, colour_bar, colours, dress, legend, line_style, plain_logarithm
from etesian.scores.structure import TRUTH
from etesian.scores.tables import days, headline, number, pretty_units, squared, title
from etesian.store.derive import high_pass, power_spectrum

ZOOM = Region(25, 65, 280, 350)
"""The storm track over the western North Atlantic."""


def structure_figures(scores: xr.Dataset) -> Iterator[tuple[str, Figure]]:
    """Draw everything that `evaluate(structure=True)` found, by the names of the pictures."""
    if "spectrum" in scores:
        yield "spectra", spectra(scores)
    yield "semivariograms", semivariograms(scores)
    yield "error_in_time", error_in_time(scores)
    for channel in headline(scores):
        if scores.location.size:
            yield f"distribution_{channel}", distributions(scores, channel)
        yield f"views_{channel}", views(scores, channel)


def spectra(scores: xr.Dataset) -> Figure:
    """Draw power by total wavenumber at the first lead, and below it the share of the truth's with 95 % bands."""
    names = scores.spectrum_of.values.tolist()
    figure = Figure(figsize=(4.2 * len(names), 5.2), layout="constrained")
    panels = figure.subplots(2, len(names), squeeze=False, sharex=True, height_ratios=(2.2, 1))
    ratio = scores.isel(map_lead_time=0, wavenumber=slice(1, None))
    first = ratio.spectrum
    for column, name in enumerate(names):
        for series, colour in _colours(scores).items():
            power = first.sel(series=series, spectrum_of=name)
            style = {
                "color": colour,
                "linewidth": 2 if series == TRUTH else 1.5,
                "linestyle": line_style(scores, series),
            }
            panels[0, column].loglog(power.wavenumber, power, label=series if column == 0 else None, **style)
            if series == TRUTH:
                panels[1, column].axhline(1, **style)
                continue
            part = ratio.sel(series=series, spectrum_of=name)
            panels[1, column].semilogx(part.wavenumber, part.spectral_ratio, **style)
            band(panels[1, column], part.wavenumber, part, "spectral_ratio", colour)
        panels[0, column].set_title(title(name), loc="left", fontsize=11, fontweight="bold", color=STYLE["text"])
        drawn = first.sel(spectrum_of=name)
        panels[0, column].set_ylim(bottom=max(float(drawn.min()), 1e-8 * float(drawn.max())) / 2)
        panels[1, column].set_ylim(0, 1.6)
        panels[1, column].set_xlabel("Total wavenumber")
        units = "m² s⁻²" if name.startswith("kinetic_energy") else _units(scores, name, square=True)
        panels[0, column].set_ylabel(f"Power ({units})" if units else "Power")
        panels[1, column].set_ylabel("of the truth")
        for panel in panels[:, column]:
            dress(panel)
    legend(figure, figure.axes[0])
    return figure


def semivariograms(scores: xr.Dataset) -> Figure:
    """Draw half the mean squared difference of two points against their distance, at the first lead, with bands."""
    names = headline(scores)
    figure, panels = _row(names)
    for panel, name in zip(panels, names, strict=True):
        for series, colour in _colours(scores).items():
            part = scores.isel(map_lead_time=0).sel(map_channel=name, series=series)
            style = {"color": colour, "label": series, "linestyle": line_style(scores, series)}
            panel.loglog(part.distance, part.semivariance, marker="o", markersize=3, **style)
            band(panel, part.distance, part, "semivariance", colour)
        panel.set_xlabel("Distance (km)")
        for axis in (panel.xaxis, panel.yaxis):
            plain_logarithm(axis)
        units = _units(scores, name, square=True)
        panel.set_ylabel(f"Semivariance ({units})" if units else "Semivariance")
        _entitle(panel, name)
    legend(figure, figure.axes[0])
    return figure


def error_in_time(scores: xr.Dataset) -> Figure:
    """Draw the root-mean-square error of every initial time at the first lead."""
    names = headline(scores)
    figure, panels = _row(names)
    error = np.sqrt(scores.mse_by_initial_time.isel(lead_time=0, region=0))
    when = scores.initial_time.values
    dated = when.dtype.kind == "M"  # other calendars' dates cannot be drawn
    for panel, name in zip(panels, names, strict=True):
        for series, colour in _colours(scores).items():
            if series != TRUTH:
                values = error.sel(channel=name, forecast=series).values
                style = {"color": colour, "linestyle": line_style(scores, series)}
                panel.plot(when if dated else np.arange(values.size), values, label=series, linewidth=1.2, **style)
        panel.set_xlabel("Initial time" if dated else "Initial time, one after the other")
        if dated:
            panel.xaxis.set_major_formatter(ConciseDateFormatter(panel.xaxis.get_major_locator()))  # type: ignore[no-untyped-call]
        panel.set_ylabel(f"RMSE ({_units(scores, name)})")
        panel.set_ylim(bottom=0)
        _entitle(panel, name)
    legend(figure, figure.axes[0])
    return figure


def distributions(scores: xr.Dataset, channel: str) -> Figure:
    """Draw histograms of the values at each location, at the first lead, with Wasserstein distances from the truth."""
    locations = scores.location.values.tolist()
    figure, panels = _row(locations)
    part = scores.value_at_location.isel(map_lead_time=0).sel(map_channel=channel)
    far = scores.isel(map_lead_time=0).sel(map_channel=channel)
    for panel, location in zip(panels, locations, strict=True):
        values = part.sel(location=location)
        bins = min(24, 4 + int(np.sqrt(values.sizes["initial_time"])))
        edges = np.histogram_bin_edges(values.values[np.isfinite(values.values)], bins)
        for series, colour in _colours(scores).items():
            label = series
            if series != TRUTH:
                here = far.sel(forecast=series, location=location)
                label += f": {number(float(here.wasserstein))}"
                if np.isfinite(here.wasserstein_low):
                    label += f" ({number(float(here.wasserstein_low), 2)} to {number(float(here.wasserstein_high), 2)})"
            filled = series == TRUTH
            panel.hist(
                values.sel(series=series).values, edges, density=True, histtype="stepfilled" if filled else "step",
                color=colour, alpha=0.3 if filled else 1.0, label=label, linewidth=1.6,
            )  # fmt: skip
        panel.set_xlabel(_units(scores, channel))
        panel.set_ylabel("Density")
        panel.set_title(location, loc="left", fontsize=11, fontweight="bold", color=STYLE["text"])
        panel.legend(frameon=False, fontsize=8)
        dress(panel)
    figure.suptitle(
        f"{title(channel)}: distributions, with Wasserstein distances from the truth (95 %)",
        fontsize=12,
        color=STYLE["text"],
    )
    return figure


def views(scores: xr.Dataset, channel: str) -> Figure:
    """Draw one field of the truth and of every forecast side by side: whole, close, and without its large scales."""
    part = scores.sel(map_channel=channel).isel(map_lead_time=0)
    fields = {TRUTH: part.example_truth} | {
        str(name): part.example_forecast.sel(forecast=name) for name in scores.forecast.values
    }
    rows = [fields, {name: _zoomed(field) for name, field in fields.items()}]
    labels = ["", "close"]
    fine = {name: fine for name, field in fields.items() if (fine := _fine(field)) is not None}
    if len(fine) == len(fields):
        rows.append(fine)
        labels.append("fine scales")
    grids = [field for row in rows for field in list(row.values())[:1]]
    heights = [map_height(grid.to_dataset(name="field"), 4.2) for grid in grids]
    figure = Figure(figsize=(4.2 * len(fields), sum(heights) + 0.8 * len(rows) + 0.6), layout="constrained")
    panels = figure.subplots(len(rows), len(fields), squeeze=False, height_ratios=heights)
    coasts = earths_coasts(scores)
    for line, row, label in zip(panels, rows, labels, strict=True):
        values = [np.asarray(field.values, dtype=np.float64) for field in row.values()]
        palette, low, high = value_range("anomaly" if label == "fine scales" else channel, values[:1])
        for panel, name, field in zip(line, row, values, strict=True):
            grid = row[name].to_dataset(name="field")
            image = draw_map(panel, field, grid, palette, low, high, coasts=coasts)
            panel.set_title(f"{name}{f', {label}' if label else ''}", loc="left", fontsize=10, color=STYLE["text"])
            panel.tick_params(labelbottom=True)  # rows show different places
        units = str(scores.units.sel(channel=channel).values)
        colour_bar(figure, image, line, f"{title(channel)}{f', {label}' if label == 'fine scales' else ''}", units)
    lead = float(part.map_lead_time)
    when = f", +{days(lead)}" if lead > 0 else ""
    figure.suptitle(f"{title(channel)}{when}", fontsize=12, fontweight="bold", color=STYLE["text"])
    return figure


def _fine(field: xr.DataArray) -> xr.DataArray | None:
    """Return what has wavenumbers above a quarter of the grid's, on a globe without holes."""
    if not np.isfinite(field.values).all():
        return None
    try:
        size = power_spectrum(field).sizes["wavenumber"]
        return high_pass(field, size // 4)
    except GridError:
        return None


def _zoomed(field: xr.DataArray) -> xr.DataArray:
    """Return the view over the North Atlantic, or the middle of a grid that does not reach there."""
    grid = Grid(field.latitude.values, field.longitude.values)
    if grid.is_periodic:
        try:
            rows, columns = grid.region(ZOOM)
            return field.isel(latitude=rows, longitude=columns)
        except GridError:
            pass
    middle = [slice(size // 3, max(2 * size // 3, size // 3 + 2)) for size in grid.shape]
    return field.isel(latitude=middle[0], longitude=middle[1])


def _colours(scores: xr.Dataset) -> dict[str, str]:
    return {TRUTH: STYLE["text"]} | colours(scores)


def _units(scores: xr.Dataset, channel: str, *, square: bool = False) -> str:
    units = str(scores.units.sel(channel=channel).values)
    return pretty_units(squared(units) if square else units)


def _row(names: list[str]) -> tuple[Figure, NDArray[np.object_]]:
    columns = min(3, len(names))
    rows = -(-len(names) // columns)
    figure = Figure(figsize=(4.4 * columns, 3.4 * rows + 0.5), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    for panel in panels[len(names) :]:
        panel.set_visible(False)
    return figure, panels[: len(names)]


def _entitle(panel: Axes, name: str) -> None:
    panel.set_title(title(name), loc="left", fontsize=11, fontweight="bold", color=STYLE["text"])
    dress(panel)
