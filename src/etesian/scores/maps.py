"""Maps: cells of a grid in a projection, coasts, and the colours and ranges that suit each variable."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import xarray as xr
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.collections import QuadMesh
from matplotlib.colors import Colormap
from matplotlib.patches import Polygon
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from etesian.core.channels import SHARES, Channel
from etesian.core.dataset import planet_of
from etesian.core.grid import Grid
from etesian.scores.projections import Projection, coastlines, columns_of, is_land

STYLE = {"spines": "#9aa3a8", "grid": "#e3e7ea", "text": "#22292e"}

DIVERGING = "RdBu_r"

MISSING = "#d5d9dc"

_COAST: dict[str, Any] = {"color": "#222222", "linewidth": 0.6}

_SIGNED = ("u_component", "v_component", "vorticity", "divergence", "vertical_velocity", "anomaly")

_FROM_ZERO = {"precipitation": "YlGnBu", "humidity": "YlGnBu", "total_column_water": "YlGnBu", "wind_speed": "BuPu"}
"""Colours of amounts that are never negative, and pale where there is none."""

_FINE, _FINEST = 0.5, 0.1
"""Degrees between a region's points below which its own mask, or its gaps, tell more than coasts at 1:110 million."""

_LIKE_EARTH = 0.85
"""Share of points at which a mask agrees with the Earth's land; those of other planets agree at two thirds or fewer."""


def grid_of(dataset: xr.Dataset) -> Grid:
    """Return the grid of a dataset with ascending latitudes."""
    return Grid(dataset.latitude.values, dataset.longitude.values)


def draw_map(
    panel: Axes,
    field: Float[np.ndarray, "lat lon"],
    grid: xr.Dataset,
    colours: str | Colormap,
    low: float,
    high: float,
    *,
    projection: Projection | None = None,
    coasts: bool | None = None,
    missing: str = MISSING,
) -> QuadMesh:
    """Draw one field with coasts.

    Args:
        panel: empty axes.
        field: values; missing ones are NaN.
        grid: holds `latitude`, `longitude` and perhaps `land_sea_mask` and the attribute `planet`.
        colours: a colour map.
        low: value of its first colour.
        high: value of its last colour.
        projection: of the map; what suits the grid by default.
        coasts: whether to draw them; by default the Earth's where the data are of the Earth (`earths_coasts`), else the
            outline of `land_sea_mask` if there is one.
        missing: colour of what is missing.
    """
    points = grid_of(grid)
    projection = projection or Projection.of(points)
    _frame(panel, points, projection, missing)
    image = draw_cells(panel, field, points, projection, cmap=colours, vmin=low, vmax=high)
    if projection.kind != "equirectangular":
        _graticule(panel, points, projection)
    if coasts or (coasts is None and earths_coasts(grid)):
        parts = zip(*coastlines(), strict=True)
        x, y = projection.line(*(np.concatenate([np.append(line, np.nan) for line in lines]) for lines in parts))
        _clipped(panel, points, projection, panel.plot(x, y, scalex=False, scaley=False, **_COAST)[0])
    elif coasts is None and (land := grid.get("land_sea_mask")) is not None and land.ndim == 2:
        draw_outline(panel, land.transpose("latitude", "longitude").values, points, projection, **_COAST)
    return image


def draw_cells(
    panel: Axes, field: Float[np.ndarray, "lat lon"], grid: Grid, projection: Projection, **style: Any
) -> QuadMesh:
    """Draw a field cell by cell; `shown_cells` gives the values that its image holds."""
    _, edges = columns_of(grid, projection)
    x, y, _ = projection(edges, grid.latitude_bounds[:, None])
    image = panel.pcolormesh(x, y, shown_cells(field, grid, projection), rasterized=True, **style)
    _clipped(panel, grid, projection, image)
    return image


def shown_cells(
    field: Float[np.ndarray, "lat lon"], grid: Grid, projection: Projection
) -> np.ma.MaskedArray[Any, np.dtype[Any]]:
    """Return the values of a map's cells from south to north and west to east, masked where missing or not shown."""
    columns, edges = columns_of(grid, projection)
    shown = projection(edges, grid.latitude_bounds[:, None])[2]
    partly = shown[1:, 1:] | shown[1:, :-1] | shown[:-1, 1:] | shown[:-1, :-1]
    values = np.asarray(field)[:, columns]
    return np.ma.masked_where(~partly | ~np.isfinite(values), values)


def draw_outline(panel: Axes, mask: NDArray[Any], grid: Grid, projection: Projection, **style: Any) -> None:
    """Draw the line where a field passes one half, such as the outline of a mask."""
    columns, edges = columns_of(grid, projection)
    x, y, is_shown = projection((edges[1:] + edges[:-1]) / 2, grid.latitude[:, None])
    values = np.where(is_shown, np.asarray(mask, dtype=np.float64)[:, columns], np.nan)
    if not np.nanmin(values, initial=1) < 0.5 < np.nanmax(values, initial=0) or min(values.shape) < 2:
        return
    lines = panel.contour(
        x, y, np.ma.masked_invalid(values), levels=[0.5], colors=style["color"], linewidths=style["linewidth"]
    )
    _clipped(panel, grid, projection, lines)


def earths_coasts(grid: xr.Dataset) -> bool:
    """Whether the Earth's coasts belong on a map of these data.

    They do unless the data say that they are of another planet, or have a mask that is not the Earth's, or show more
    than coasts at 1:110 million can.
    """
    points, land = grid_of(grid), grid.get("land_sea_mask")
    has_mask = land is not None and set(land.dims) == {"latitude", "longitude"}
    step = np.diff(points.latitude).mean() if points.latitude.size > 1 else 1.0
    if planet_of(grid) or (not points.is_periodic and step < (_FINE if has_mask else _FINEST)):
        return False
    if land is None or not has_mask:
        return True
    mask = land.transpose("latitude", "longitude")
    every = [-(-size // 48) for size in points.shape]
    some = Grid(points.latitude[:: every[0]], points.longitude[:: every[1]])
    agrees = (mask.values[:: every[0], :: every[1]] > 0.5) == is_land(some)
    return float(np.average(agrees.mean(axis=1), weights=some.area_weights)) >= _LIKE_EARTH


def map_height(grid: xr.Dataset, width: float, projection: Projection | None = None) -> float:
    """Return the height in inches of a map with its title."""
    points = grid_of(grid)
    projection = projection or Projection.of(points)
    tall, wide = np.ptp(projection.outline(points), axis=0)[::-1]
    return float(width * tall * _stretch(points, projection) / max(wide, 1e-6)) + 0.35


def value_range(channel: str, fields: Sequence[NDArray[np.floating]]) -> tuple[str, float, float]:
    """Return a colour map and its limits for fields that are compared: symmetric where the sign matters."""
    name = Channel.parse(channel).name
    if any(part in channel for part in _SIGNED):
        largest = largest_value(fields)
        return ("BrBG" if "precipitation" in name else DIVERGING), -largest, largest
    finite = np.concatenate([np.ravel(field[np.isfinite(field)]) for field in fields])
    low, high = np.percentile(finite, [0.5, 99.5]) if finite.size else (0.0, 1.0)
    if name in SHARES:
        return "Blues_r", 0.0, 100.0 if high > 1.5 else 1.0
    for part, colours in _FROM_ZERO.items():
        if part in name and low >= 0:
            return colours, 0.0, float(high) or 1.0
    return "RdYlBu_r" if "temperature" in name else "viridis", float(low), float(high)


def largest_value(fields: Sequence[NDArray[np.floating]]) -> float:
    """Return the amount that all but one in 200 values stay below."""
    finite = np.concatenate([np.abs(field[np.isfinite(field)]).ravel() for field in fields])
    return float(np.percentile(finite, 99.5)) or 1.0 if finite.size else 1.0


def _stretch(grid: Grid, projection: Projection) -> float:
    """Return how much longer a degree of latitude is drawn than one of longitude."""
    if projection.kind != "equirectangular":
        return 1.0
    latitude = grid.latitude
    middle = np.radians(np.abs(latitude).min() if latitude[0] < 0 < latitude[-1] else latitude.mean())
    return 1 / max(float(np.cos(middle)), 0.3)


def _frame(panel: Axes, grid: Grid, projection: Projection, missing: str) -> None:
    outline = projection.outline(grid)
    panel.set_aspect(_stretch(grid, projection))
    low, high = outline.min(axis=0), outline.max(axis=0)
    if projection.kind != "equirectangular":
        # Not `add_patch`, which looks for the limits of an outline at length.
        panel.add_artist(Polygon(outline, facecolor=missing, edgecolor="none", zorder=0))
        panel.add_artist(Polygon(outline, facecolor="none", edgecolor=STYLE["spines"], linewidth=0.9, zorder=4))
        margin = 0.01 * (high - low)
        low, high = low - margin, high + margin
        panel.set_axis_off()
    panel.set_xlim(low[0], high[0])
    panel.set_ylim(low[1], high[1])
    if projection.kind != "equirectangular":
        return
    panel.set_facecolor(missing)
    panel.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 1.5, 3, 6, 9]))
    panel.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 1.5, 3, 6, 9]))
    panel.xaxis.set_major_formatter(lambda value, _: _east(value))
    panel.yaxis.set_major_formatter(lambda value, _: f"{abs(value):g}°{'N' if value > 0 else 'S' if value < 0 else ''}")
    panel.label_outer()
    panel.tick_params(labelsize=8, color=STYLE["spines"], labelcolor=STYLE["text"])
    for spine in panel.spines.values():
        spine.set_color(STYLE["spines"])


def _graticule(panel: Axes, grid: Grid, projection: Projection) -> None:
    around, along = np.linspace(-180, 180, 361) + projection.longitude, np.linspace(-90, 90, 181)
    lines = [(around, np.full_like(around, latitude)) for latitude in range(-60, 90, 30)]
    lines += [
        (np.full_like(along, longitude), along) for longitude in range(-180, 180, 30 if projection.is_round else 60)
    ]
    for longitude, latitude in lines:
        x, y = projection.line(longitude, latitude)
        drawn = panel.plot(x, y, color="#22292e", alpha=0.25, linewidth=0.4, scalex=False, scaley=False)[0]
        _clipped(panel, grid, projection, drawn)


def _clipped(panel: Axes, grid: Grid, projection: Projection, drawn: Any) -> None:
    if projection.kind != "equirectangular":
        drawn.set_clip_path(Polygon(projection.outline(grid), transform=panel.transData))


def _east(value: float) -> str:
    degrees = (value + 180) % 360 - 180
    return f"{abs(degrees):g}°{'E' if 0 < degrees < 180 else 'W' if -180 < degrees < 0 else ''}"
