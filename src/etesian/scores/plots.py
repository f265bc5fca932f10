"""Pictures: score curves, and forecasts beside the truth; frames and colours that all curves share."""

import io
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter
from numpy.typing import NDArray

from etesian.scores.maps import DIVERGING, STYLE, draw_map, largest_value, map_height, value_range
from etesian.scores.tables import DISTANCE, days, number, pretty_units, references, title, with_units


def dress(panel: Axes) -> None:
    """Give a panel of curves a quiet frame and a grid."""
    panel.grid(color=STYLE["grid"], linewidth=0.8)
    panel.set_axisbelow(True)
    for side in ("top", "right"):
        panel.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        panel.spines[side].set_color(STYLE["spines"])
    panel.tick_params(color=STYLE["spines"], labelcolor=STYLE["text"])


def plain_logarithm(axis: Axis) -> None:
    """Label a logarithmic axis at 1, 2 and 5 of each power of ten, without exponents."""
    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter(lambda value, _: number(value, 1))
    axis.set_minor_formatter(NullFormatter())


def band(panel: Axes, x: xr.DataArray | NDArray[np.floating], scores: xr.Dataset, score: str, colour: str) -> None:
    """Shade the 95 % interval of a score that has one."""
    if f"{score}_low" not in scores:
        return
    panel.fill_between(x, scores[f"{score}_low"], scores[f"{score}_high"], color=colour, alpha=0.14, linewidth=0)


def colour_bar(
    figure: Figure,
    image: Any,
    panels: NDArray[Any],
    label: str,
    units: str,
    *,
    shrink: float = 0.6,
    extend: str = "both",
) -> None:
    """Put one bar of colours under some panels."""
    bar = figure.colorbar(image, ax=panels, orientation="horizontal", shrink=shrink, aspect=40, pad=0.03, extend=extend)
    bar.set_label(f"{label} ({pretty_units(units)})" if label and pretty_units(units) else label or pretty_units(units))
    bar.ax.xaxis.set_major_locator(MaxNLocator(5))
    bar.outline.set_visible(False)


MODEL_COLOURS = (
    "#0b6e99", "#c8553d", "#6a4c93", "#2a9d6f", "#b5179e", "#e09f3e",
    "#1b1f3b", "#8c564b", "#7cb518", "#00a6d6", "#ff8fab", "#9a031e",
)  # fmt: skip

REFERENCE_COLOURS = ("#5f6b73", "#a3a9ad", "#8a7b66", "#7f8fa6")


class Picture(Figure):
    """A figure that notebooks show, also where pyplot is not loaded."""

    def _repr_png_(self) -> bytes:
        buffer = io.BytesIO()
        self.savefig(buffer, format="png", dpi=100)
        return buffer.getvalue()


def legend(
    figure: Figure, panel: Axes, place: Literal["outside upper left", "outside lower center"] = "outside upper left"
) -> None:
    """Say what the lines of a panel are, beside all panels, in as many columns as the figure is wide."""
    handles, labels = panel.get_legend_handles_labels()
    for columns in range(len(labels), 0, -1):
        drawn = figure.legend(handles, labels, loc=place, ncols=columns, frameon=False)
        if columns == 1 or drawn.get_window_extent().width <= figure.bbox.width:
            return
        drawn.remove()


def score_curves(scores: xr.Dataset, score: str, channels: Sequence[str], region: str) -> Figure:
    """Draw a score against lead time, one panel per channel, with 95 % bands.

    Args:
        scores: what `evaluate` returned.
        score: `rmse`, `mae`, `bias`, `acc` or `activity`.
        channels: one panel each.
        region: by name.
    """
    columns = min(2, len(channels))
    rows = -(-len(channels) // columns)
    figure = Picture(figsize=(5.4 * columns, 3.5 * rows + 0.5), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    for panel in panels[len(channels) :]:
        panel.set_visible(False)
    for panel, channel in zip(panels, channels, strict=False):
        _curve(panel, scores.sel(channel=channel, region=region), score)
        name = {"acc": "Anomaly correlation", "activity": "Activity (forecast / truth)"}.get(score, score.upper())
        name = "Bias" if score == "bias" else name
        panel.set_ylabel(with_units(name, score, str(scores.units.sel(channel=channel).values)))
        panel.set_title(title(channel), loc="left", fontsize=11, fontweight="bold", color=STYLE["text"])
    legend(figure, panels[0])
    return figure


def distance_curves(scores: xr.Dataset) -> Figure:
    """Draw the learned distance against lead time, with 95 % bands."""
    figure = Figure(figsize=(5.4, 4.0), layout="constrained")
    panel = figure.subplots()
    _curve(panel, scores, DISTANCE)
    panel.set_ylabel("AtmoDist distance")
    legend(figure, panel)
    return figure


def _curve(panel: Axes, scores: xr.Dataset, score: str) -> None:
    lead = scores.lead_time.values / 24
    baselines = references(scores)
    for name, colour in colours(scores).items():
        part = scores.sel(forecast=name)
        is_reference = name in baselines
        values = part[score].values
        panel.plot(
            lead, values, color=colour, label=name, linestyle=line_style(scores, name),
            linewidth=1.6 if is_reference else 2.2, marker="o", markersize=3 if is_reference else 4.5,
            zorder=2 if is_reference else 3,
        )  # fmt: skip
        band(panel, lead, part, score, colour)
    if score in ("rmse", DISTANCE):
        panel.set_ylim(bottom=0)
    elif score == "acc":
        panel.axhline(0.6, color="#9aa3a8", linewidth=0.8, linestyle=":")
        panel.set_ylim(top=1.02)
    else:
        panel.axhline(1 if score == "activity" else 0, color="#9aa3a8", linewidth=0.8)
    panel.set_xlabel("Lead time (days)")
    panel.set_xlim(0, lead.max() * 1.03 or 1)
    panel.xaxis.set_major_locator(MaxNLocator(integer=bool(lead.max() > 2), nbins=10))
    dress(panel)


def colours(scores: xr.Dataset) -> dict[str, str]:
    """Return a colour for every forecast; references are grey."""
    baselines = references(scores)
    names = scores.forecast.values.tolist()
    ours = [name for name in names if name not in baselines]
    return {
        name: REFERENCE_COLOURS[baselines.index(name) % len(REFERENCE_COLOURS)]
        if name in baselines
        else MODEL_COLOURS[ours.index(name) % len(MODEL_COLOURS)]
        for name in names
    }


def line_style(scores: xr.Dataset, name: str) -> Any:
    """Return how the line of a forecast is drawn; references are dashed."""
    return (0, (5, 2)) if name in references(scores) else "-"


def example_maps(scores: xr.Dataset, model: str, channel: str) -> Figure:
    """Draw forecast, truth and error of one initial time, one row per lead."""
    chosen = scores.sel(map_channel=channel)
    rows = []
    for lead in chosen.map_lead_time.values:
        forecast = chosen.example_forecast.sel(forecast=model, map_lead_time=lead).values
        rows.append((f"+{days(lead)}", forecast, chosen.example_truth.sel(map_lead_time=lead).values))
    initial = str(scores.example_initial_time.dt.strftime("%Y-%m-%d %H").values)
    units = str(scores.units.sel(channel=channel).values)
    figure = forecast_and_truth(rows, channel, units, scores)
    figure.suptitle(
        f"{title(channel)}: {model} from {initial} UTC", fontsize=12, fontweight="bold", color=STYLE["text"]
    )
    return figure


def forecast_and_truth(
    rows: Sequence[tuple[str, NDArray[np.floating], NDArray[np.floating]]],
    channel: str,
    units: str,
    grid: xr.Dataset,
    **drawn: Any,
) -> Figure:
    """Draw rows of forecast, truth and their difference; all rows share their colours.

    Args:
        rows: label, forecast (lat, lon), truth (lat, lon).
        channel: what is drawn.
        units: of it.
        grid: holds `latitude`, `longitude` and perhaps `land_sea_mask`.
        drawn: how, as `draw_map` takes it.
    """
    height = map_height(grid, 3.9, drawn.get("projection"))
    figure = Picture(figsize=(13, len(rows) * height + 1.3), layout="constrained")
    panels = figure.subplots(len(rows), 3, squeeze=False, sharex=True, sharey=True)
    colour_map, lowest, highest = value_range(channel, [field for row in rows for field in row[1:]])
    error = largest_value([forecast - truth for _, forecast, truth in rows])
    for line, (label, forecast, truth) in zip(panels, rows, strict=True):
        for panel, field, name in zip(
            line, (forecast, truth, forecast - truth), ("Forecast", "Truth", "Error"), strict=True
        ):
            if name == "Error":
                errors = draw_map(panel, field, grid, DIVERGING, -error, error, **drawn)
            else:
                shown = draw_map(panel, field, grid, colour_map, lowest, highest, **drawn)
            panel.set_title(f"{name}, {label}", loc="left", fontsize=10, color=STYLE["text"])
    colour_bar(figure, shown, panels[:, :2], title(channel), units)
    colour_bar(figure, errors, panels[:, 2:], "Forecast − truth", units, shrink=0.9)
    return figure


def error_maps(scores: xr.Dataset, channel: str, quantity: str) -> Figure:
    """Draw `bias_map` or `rmse_map`: one row per forecast, one column per lead, one scale for all."""
    fields = scores[quantity].sel(map_channel=channel)
    names, leads = fields.forecast.values.tolist(), fields.map_lead_time.values
    height = map_height(scores, 3.9)
    figure = Figure(figsize=(4.3 * len(leads) + 0.6, len(names) * height + 1.3), layout="constrained")
    panels = figure.subplots(len(names), len(leads), squeeze=False, sharex=True, sharey=True)
    largest = largest_value([fields.values])
    is_bias = quantity == "bias_map"
    for line, name in zip(panels, names, strict=True):
        for panel, lead in zip(line, leads, strict=True):
            field = fields.sel(forecast=name, map_lead_time=lead).values
            image = draw_map(
                panel, field, scores, DIVERGING if is_bias else "magma_r", -largest if is_bias else 0, largest
            )
            panel.set_title(f"{name}, +{days(lead)}", loc="left", fontsize=10, color=STYLE["text"])
    units = str(scores.units.sel(channel=channel).values)
    colour_bar(figure, image, panels, "Mean error" if is_bias else "RMSE", units, extend="both" if is_bias else "max")
    figure.suptitle(title(channel), fontsize=12, fontweight="bold", color=STYLE["text"])
    return figure
