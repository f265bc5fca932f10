"""Bokeh's figures of the viewer: maps with one scale, series at a point, spectra, and score curves."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
from bokeh.events import RangesUpdate, Tap
from bokeh.models import (
    ColorBar,
    ColumnDataSource,
    CustomJSTickFormatter,
    HoverTool,
    LinearColorMapper,
    Range1d,
    Span,
    Whisker,
)
from bokeh.plotting import figure
from contourpy import contour_generator
from jaxtyping import Float
from matplotlib import colormaps
from matplotlib.colors import to_hex

from etesian.scores.maps import MISSING, STYLE, earths_coasts
from etesian.scores.projections import Projection, coastlines
from etesian.viewer.sources import Source, Window, axes_of

_TOOLS = "pan,wheel_zoom,box_zoom,reset,save"

_EAST = """
const east = parseFloat(((tick % 360 + 540) % 360 - 180).toFixed(3))
return Math.abs(east) + "°" + (east > 0 ? "E" : east < 0 && east > -180 ? "W" : "")
"""

_NORTH = 'return parseFloat(Math.abs(tick).toFixed(3)) + "°" + (tick > 0 ? "N" : tick < 0 ? "S" : "")'

_TEXT = {"text_color": STYLE["text"], "text_font_size": "10pt", "text_font_style": "normal"}


def palette(name: str) -> list[str]:
    """Return one of Matplotlib's colour maps for Bokeh."""
    return [to_hex(colour) for colour in colormaps[name](np.linspace(0, 1, 256))]


class MapPanel:
    """One map: cells, coasts, the place that was clicked, and a bar of colours.

    Args:
        source: whose grid it shows.
        width: of its frame in pixels.
        ranges: of longitude and latitude, which maps share that move together.
        mapper: of its colours.
    """

    def __init__(self, source: Source, width: int, ranges: tuple[Range1d, Range1d], mapper: LinearColorMapper) -> None:
        west, east, south, north = axes_of(source)
        stretch = 1 / max(np.cos(np.radians(0 if south < 0 < north else (south + north) / 2)), 0.3)
        height = int(np.clip(width * stretch * (north - south) / (east - west), 150, 640))
        self.size = (width, height)
        self.mapper = mapper
        self.figure = figure(
            x_range=ranges[0], y_range=ranges[1], frame_width=width, frame_height=height, tools=_TOOLS,
            active_scroll="wheel_zoom", toolbar_location="right", background_fill_color=MISSING,
        )  # fmt: skip
        self.figure.title.update(**_TEXT)
        self.figure.grid.visible = False
        self.figure.xaxis.formatter = CustomJSTickFormatter(code=_EAST)
        self.figure.yaxis.formatter = CustomJSTickFormatter(code=_NORTH)
        self.cells = ColumnDataSource(
            {"image": [np.zeros((1, 1))], "x": [west], "y": [south], "dw": [1.0], "dh": [1.0]}
        )
        drawn = self.figure.image(
            image="image", x="x", y="y", dw="dw", dh="dh", color_mapper=mapper, source=self.cells, level="image"
        )
        self.figure.add_tools(
            HoverTool(
                renderers=[drawn],
                tooltips=[("value", "@image{%.6g}"), ("°N, °E", "$y{0.00}, $x{0.00}")],
                formatters={"@image": "printf"},
            )
        )
        xs, ys = _coasts(source)
        self.figure.multi_line(xs, ys, color="#222222", line_width=0.7)
        self.place = ColumnDataSource({"x": [], "y": []})
        self.figure.scatter("x", "y", source=self.place, size=11, marker="cross", line_width=2, color="#111111")
        self.bar = ColorBar(color_mapper=mapper, height=10, padding=4, title_text_font_style="normal")
        self.figure.add_layout(self.bar, "below")

    def show(self, title: str, values: Float[np.ndarray, "lat lon"], rows: Window, columns: Window) -> None:
        """Draw a part of a map."""
        self.figure.title.text = title
        self.cells.data = {
            "image": [values.astype(np.float32)], "x": [columns.low], "y": [rows.low],
            "dw": [columns.high - columns.low], "dh": [rows.high - rows.low],
        }  # fmt: skip

    def colour(self, name: str, low: float, high: float, units: str) -> None:
        """Set the colours."""
        self.mapper.update(palette=palette(name), low=low, high=high, nan_color=MISSING)
        self.bar.title = units

    def on_move(self, moved: Callable[[], None]) -> None:
        """Say what happens when this map moves, or one that shares its ranges."""
        self.figure.on_event(RangesUpdate, lambda _: moved())

    def on_click(self, clicked: Callable[[float, float], None]) -> None:
        """Say what happens when the map is clicked, at a latitude and longitude."""
        self.figure.on_event(Tap, lambda event: clicked(event.y, event.x))


def _coasts(source: Source) -> tuple[list[Any], list[Any]]:
    west, east, *_ = axes_of(source)
    outline = source.outline
    if earths_coasts(outline):
        around = Projection("equirectangular", float(west + east) / 2)
        lines = [around.line(*line) for line in coastlines()]
    elif "land_sea_mask" in outline:
        mask = outline.land_sea_mask.transpose("latitude", "longitude").values[:, source.columns]
        middles = (source.longitude_edges[1:] + source.longitude_edges[:-1]) / 2
        lines = [part.T for part in contour_generator(middles, source.grid.latitude, mask.astype(float)).lines(0.5)]
    else:
        lines = []
    return [x for x, _ in lines], [y for _, y in lines]


class Curves:
    """Curves over one axis, drawn anew whenever they change.

    Args:
        title: above them.
        x: name of the axis.
        options: what Bokeh's figure takes.
    """

    def __init__(self, title: str, x: str, **options: Any) -> None:
        size = {"frame_width": 430, "frame_height": 230} | options
        self.figure = figure(title=title, x_axis_label=x, tools=_TOOLS, toolbar_location="right", **size)
        self.figure.title.update(**_TEXT)
        self.figure.grid.grid_line_color = STYLE["grid"]
        self.span = Span(dimension="height", line_color="#9a9d9f", line_dash="dotted", location=np.nan)
        self.figure.add_layout(self.span)
        self.lines: dict[str, ColumnDataSource] = {}

    def line(self, name: str, x: Iterable[Any], y: Iterable[Any], **style: Any) -> None:
        """Draw one curve, or several in a list (`many=True`); of a name that is there, its new values."""
        many = style.pop("many", False)
        label, dots = style.pop("label", name), style.pop("dots", False)
        if name not in self.lines:
            self.lines[name] = ColumnDataSource({"x": [], "y": []})
            draw = self.figure.multi_line if many else self.figure.line
            draw("x", "y", source=self.lines[name], legend_label=label, **style)
            if dots:
                self.figure.scatter("x", "y", source=self.lines[name], size=5, color=style["color"], legend_label=label)
            self.figure.legend.update(label_text_font_size="8pt", background_fill_alpha=0.6, click_policy="hide")
        self.lines[name].data = {"x": list(x), "y": list(y)}

    def keep(self, names: Iterable[str]) -> None:
        """Empty all curves but those named."""
        for name, source in self.lines.items():
            if name not in names:
                source.data = {"x": [], "y": []}


def score_figure(
    curves: Mapping[str, tuple[Any, Any, Any | None, str, str]], x: str, y: str, floor: bool, categories: list[str]
) -> Any:
    """Draw scores with their 95 % intervals.

    Args:
        curves: by name of the forecast x, values, (low, high) or None, colour and dash.
        x: name of the axis.
        y: name of the score with its units.
        floor: whether the axis begins at 0.
        categories: names of the forecasts where there is one number for each, else empty.
    """
    options: dict[str, Any] = {"x_range": categories} if categories else {"x_axis_label": x}
    drawn = figure(frame_width=760, frame_height=380, y_axis_label=y, tools=_TOOLS, toolbar_location="right", **options)
    drawn.grid.grid_line_color = STYLE["grid"]
    for name, (where, values, interval, colour, dash) in curves.items():
        if categories:
            drawn.scatter(where, values, size=9, color=colour)
            if interval is not None:
                held = ColumnDataSource({"base": where, "lower": interval[0], "upper": interval[1]})
                drawn.add_layout(Whisker(source=held, base="base", lower="lower", upper="upper", line_color=colour))
            continue
        if interval is not None:
            drawn.varea(where, *interval, color=colour, alpha=0.14)
        drawn.line(where, values, color=colour, line_width=2, line_dash=dash, legend_label=name)
        points = drawn.scatter(where, values, size=6, color=colour, legend_label=name)
        drawn.add_tools(HoverTool(renderers=[points], tooltips=[("", name), (x, "@x"), (y, "@y")]))
    if floor:
        drawn.y_range.start = 0
    if not categories:
        drawn.legend.update(click_policy="hide", label_text_font_size="9pt", background_fill_alpha=0.6)
    return drawn
