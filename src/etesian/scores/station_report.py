"""What the report says of stations: errors by lead, what became of the reports, and where the errors are."""

from collections.abc import Iterator

import numpy as np
import xarray as xr
from matplotlib.figure import Figure

from etesian.scores.maps import DIVERGING, STYLE, draw_map, grid_of, largest_value, map_height
from etesian.scores.page import by_lead, named, picture, table, text
from etesian.scores.plots import colour_bar, score_curves
from etesian.scores.projections import Projection
from etesian.scores.structure import TRUTH
from etesian.scores.tables import at_stations, days, models, title

_MOST_CHANNELS, _MOST_LEADS = 4, 3


def station_figures(scores: xr.Dataset) -> Iterator[tuple[str, Figure]]:
    """Draw errors at stations against lead time, and on maps, by the names of the pictures."""
    part, region = at_stations(scores), str(scores.region.values[0])
    yield "station_rmse_curves", score_curves(part, "rmse", part.channel.values.tolist()[:_MOST_CHANNELS], region)
    for channel in scores.reported.values.tolist()[:_MOST_CHANNELS]:
        yield f"station_bias_{channel}", station_map(scores, channel)


def station_map(scores: xr.Dataset, channel: str) -> Figure:
    """Draw the mean error at each station: of the truth and the first forecast, one column per lead, one scale."""
    last = scores.lead_time.size - 1
    leads = scores.lead_time.values[sorted({0, last // 2, last})][:_MOST_LEADS]
    names = [models(scores)[0], TRUTH]
    bias = scores.bias_by_station.sel(reported=channel)
    largest = largest_value([bias.sel(series=names).values])
    figure = Figure(figsize=(4.3 * len(leads) + 0.6, len(names) * map_height(scores, 3.9) + 1.3), layout="constrained")
    panels = figure.subplots(len(names), len(leads), squeeze=False, sharex=True, sharey=True)
    grid = grid_of(scores)
    projection = Projection.of(grid)
    west = projection.longitude - 180 if grid.is_periodic else grid.longitude[0]
    x, y, seen = projection((scores.station_longitude.values - west) % 360 + west, scores.station_latitude.values)
    seen = seen & np.isfinite(bias.values).any((0, 1))
    for line, name in zip(panels, names, strict=True):
        for panel, lead in zip(line, leads, strict=True):
            draw_map(panel, np.full(grid.shape, np.nan), scores, DIVERGING, -largest, largest, missing="#ffffff")
            values = bias.sel(series=name, lead_time=lead).values[seen]
            shown = panel.scatter(
                x[seen], y[seen], c=values, s=18, cmap=DIVERGING, vmin=-largest, vmax=largest, edgecolors="#22292e",
                linewidths=0.3, zorder=3,
            )  # fmt: skip
            panel.set_title(f"{name}, +{days(lead)}", loc="left", fontsize=10, color=STYLE["text"])
    units = str(scores.station_units.sel(station_channel=channel).values)
    colour_bar(figure, shown, panels, "Mean error at stations", units)
    figure.suptitle(title(channel), fontsize=12, fontweight="bold", color=STYLE["text"])
    return figure


def station_section(scores: xr.Dataset, pictures: dict[str, bytes]) -> list[str]:
    """Lay out how good forecasts are where stations report."""
    told = scores.attrs
    where = text(
        f"RMSE over all reports of {told['stations']} within {told['stations_tolerance_minutes']:g} min of the valid "
        f"time, all of one weight, region {scores.region.values[0]}. The truth is what forecasts are compared with "
        "elsewhere, interpolated as they are: its error is that of the stations and of the grid. The lowest of the "
        "others is bold."
    )
    parts = ["<h2>At stations</h2>", f"<p class='note'>{where}</p>", _table(scores, "rmse")]
    parts.append(f"<p class='note'>Height: {text(told['stations_height_correction'])}.</p>")
    if "station_crps" in scores:
        parts += ["<h3>CRPS at stations</h3>", _table(scores, "crps")]
        parts.append("<p class='note'>Without an error of the observations, which members do not have.</p>")
    parts.append(picture(pictures["station_rmse_curves"], "RMSE at stations by lead time"))
    for channel in scores.reported.values.tolist()[:_MOST_CHANNELS]:
        parts.append(picture(pictures[f"station_bias_{channel}"], f"Mean error of {title(channel)} at stations"))
    return [*parts, "<h3>Reports</h3>", _reports(scores)]


def _table(scores: xr.Dataset, score: str) -> str:
    part = at_stations(scores)
    values = part[score].isel(region=0)
    groups = []
    for channel in part.channel.values.tolist():
        if (own := values.sel(channel=channel)).notnull().any():
            best = own.drop_sel(forecast=TRUTH).min("forecast")
            groups.append((named(part, channel), own, best.where(own.forecast != TRUTH)))
    return by_lead(part, groups, part.forecast.values.tolist())


def _reports(scores: xr.Dataset) -> str:
    rows = [
        [text(title(channel)), *(f"{int(count):,}" for count in scores.station_reports.sel(reported=channel).values)]
        for channel in scores.reported.values.tolist()
    ]
    left = scores.attrs["stations_left_out"]
    note = (
        "Each row of the table counts once for each variable: as a duplicate of a later row, outside the grid, without "
        "a value, flagged or incredible, of unknown elevation, further than the tolerance from every valid time or "
        "than another report of the station, or used."
    ) + (f" Columns left out: {left}." if left else "")
    return f"<p class='note'>{text(note)}</p>" + table(["", *scores.outcome.values.tolist()], rows, 1)
