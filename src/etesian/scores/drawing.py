"""What all pictures share: maps, colours, scales."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter
from numpy.typing import NDArray

from etesian.core.channels import Channel
from etesian.scores.tables import number, pretty_units

DIVERGING = "RdBu_r"

_SEQUENTIAL = {
    "geopotential": "viridis",
    "mean_sea_level_pressure": "viridis",
    "surface_pressure": "viridis",
    "specific_humidity": "YlGnBu",
    "total_precipitation": "YlGnBu",
}

_SIGNED = ("u_component", "v_component", "vorticity", "divergence", "vertical_velocity", "anomaly")

STYLE = {"spines": "#9aa3a8", "grid": "#e3e7ea", "text": "#22292e"}


def draw_map(panel: Axes, field: NDArray[np.floating], grid: xr.Dataset, colours: str, low: float, high: float) -> Any:
    """Draw one field on latitudes and longitudes, with the outline of land where it is known; missing is grey."""
    longitude, latitude = grid.longitude.values, grid.latitude.values
    panel.set_facecolor("#d5d9dc")
    image = panel.pcolormesh(
        longitude, latitude, field, cmap=colours, vmin=low, vmax=high, shading="nearest", rasterized=True
    )
    land = grid.get("land_sea_mask")
    if land is not None and float(land.min()) < 0.5 and float(land.max()) > 0.5:
        panel.contour(longitude, latitude, land.values, levels=[0.5], colors="#222222", linewidths=0.7)
    middle = np.radians(np.abs(latitude).min() if latitude[0] < 0 < latitude[-1] else latitude.mean())
    panel.set_aspect(1 / max(float(np.cos(middle)), 0.3))
    panel.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 1.5, 3, 6, 9]))
    panel.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 1.5, 3, 6, 9]))
    panel.xaxis.set_major_formatter(lambda value, _: _east(value))
    panel.yaxis.set_major_formatter(lambda value, _: f"{abs(value):g}°{'N' if value > 0 else 'S' if value < 0 else ''}")
    panel.label_outer()
    panel.tick_params(labelsize=8, color=STYLE["spines"], labelcolor=STYLE["text"])
    for spine in panel.spines.values():
        spine.set_color(STYLE["spines"])
    return image


def value_range(channel: str, fields: Sequence[NDArray[np.floating]]) -> tuple[str, float, float]:
    """Return a colour map and its limits: symmetric where the sign matters."""
    if any(part in channel for part in _SIGNED):
        largest = largest_value(fields)
        return DIVERGING, -largest, largest
    finite = np.concatenate([field[np.isfinite(field)] for field in fields])
    low, high = np.percentile(finite, [0.5, 99.5]) if finite.size else (0.0, 1.0)
    name = Channel.parse(channel).name
    return _SEQUENTIAL.get(name, "Spectral_r" if "temperature" in name else "viridis"), float(low), float(high)


def largest_value(fields: Sequence[NDArray[np.floating]]) -> float:
    """Return the amount that all but one in 200 values stay below."""
    finite = np.concatenate([np.abs(field[np.isfinite(field)]).ravel() for field in fields])
    return float(np.percentile(finite, 99.5)) or 1.0 if finite.size else 1.0


def map_height(grid: xr.Dataset, width: float) -> float:
    """Return the height in inches of a map with its title."""
    latitude, longitude = grid.latitude.values, grid.longitude.values
    middle = 0.0 if latitude[0] < 0 < latitude[-1] else np.radians(latitude.mean())
    return float(width * np.ptp(latitude) / max(np.ptp(longitude) * max(np.cos(middle), 0.3), 1e-6)) + 0.35


def _east(value: float) -> str:
    degrees = (value + 180) % 360 - 180
    return f"{abs(degrees):g}°{'E' if 0 < degrees < 180 else 'W' if -180 < degrees < 0 else ''}"


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
