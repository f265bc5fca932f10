"""Places such as stations, and what fields on a grid say there: between points, and at another height."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int64
from numpy.typing import NDArray

from etesian.core.channels import Channel
from etesian.core.constants import STANDARD_GRAVITY
from etesian.core.errors import GridError, RecipeError
from etesian.core.grid import Grid

LAPSE_RATE = 6.5
"""Of the standard atmosphere's troposphere (ICAO Doc 7488), K km⁻¹."""

TO_HEIGHT = ("2m_temperature", "surface_pressure")
"""Variables that are taken from the model's height to that of the station."""

SURFACES = {"orography": 1.0, "geopotential_at_surface": STANDARD_GRAVITY}
"""Static fields that tell the height of the model's surface, and what they are divided by for metres."""

_EXPONENT = STANDARD_GRAVITY * 0.0289644 / (8.31446 * LAPSE_RATE / 1000)
"""Of the pressure in the standard atmosphere: g M / (R L)."""

_TOLERANCE = 1e-6


@dataclass(frozen=True)
class Points:
    """Places on the globe, each with a name.

    Attributes:
        names: one each.
        latitude: degrees north.
        longitude: degrees east, in −180…180 or 0…360.
        elevation: m above the sea; NaN where it is not known.
    """

    names: tuple[str, ...]
    latitude: Float[np.ndarray, " point"]
    longitude: Float[np.ndarray, " point"]
    elevation: Float[np.ndarray, " point"]

    def to_dict(self) -> dict[str, Any]:
        """Return names and coordinates as plain lists, for JSON."""
        elevation = [None if np.isnan(each) else each for each in self.elevation.tolist()]
        return {
            "station": list(self.names),
            "latitude": self.latitude.tolist(),
            "longitude": self.longitude.tolist(),
            "elevation": elevation,
        }

    def coordinates(self) -> dict[str, tuple[str, Any, dict[str, str]]]:
        """Return names and places as coordinates of a dimension `station`, with the attributes of CF's point data."""
        return {
            "station": (
                "station",
                np.array(self.names, dtype=object),
                {"cf_role": "timeseries_id", "long_name": "station"},
            ),
            "latitude": ("station", self.latitude, {"standard_name": "latitude", "units": "degrees_north"}),
            "longitude": ("station", self.longitude, {"standard_name": "longitude", "units": "degrees_east"}),
            "elevation": ("station", self.elevation, {"standard_name": "surface_altitude", "units": "m"}),
        }


class Bilinear:
    """Bilinear interpolation from a grid to points, linear in latitude and longitude, round the globe where it closes.

    Nothing is extrapolated: points beyond the outermost rows, as next to the poles where no row lies on them, or
    beyond a region's columns lie outside. A point takes part of up to four neighbours; where one of them is missing,
    so is the point.

    Attributes:
        inside: which points have neighbours on all sides.
    """

    def __init__(self, grid: Grid, points: Points) -> None:
        west, columns = grid.longitude[0], grid.longitude.size
        circle = np.append(grid.longitude, west + 360) if grid.is_periodic else grid.longitude
        east = west + (points.longitude - west + _TOLERANCE) % 360 - _TOLERANCE
        south, north_share, row_inside = _between(grid.latitude, points.latitude)
        left, right_share, column_inside = _between(circle, east)
        self.inside: Bool[np.ndarray, " point"] = row_inside & column_inside
        north = np.minimum(south + 1, grid.latitude.size - 1)
        right = (left + 1) % columns if grid.is_periodic else np.minimum(left + 1, columns - 1)
        self._neighbours: list[tuple[Int64[np.ndarray, " point"], Float[np.ndarray, " point"]]] = [
            (row * columns + column, row_share * share)
            for row, row_share in ((south, 1 - north_share), (north, north_share))
            for column, share in ((left, 1 - right_share), (right, right_share))
        ]

    def __call__(self, fields: Float[np.ndarray, "*axes lat lon"]) -> Float[np.ndarray, "*axes point"]:
        """Return the values at the points, float64; NaN outside and where a neighbour that counts is missing."""
        flat = fields.reshape(*fields.shape[:-2], -1)
        values = np.zeros((*flat.shape[:-1], self.inside.size))
        for place, share in self._neighbours:
            # A neighbour without weight may be missing: 0 × NaN would be NaN.
            values += np.where(share > 0, flat[..., place], 0) * share
        values[..., ~self.inside] = np.nan
        return np.asarray(values)


def _between(
    axis: NDArray[np.float64], position: NDArray[np.float64]
) -> tuple[Int64[np.ndarray, " point"], Float[np.ndarray, " point"], Bool[np.ndarray, " point"]]:
    """Return the position on an axis below each point, the share of the one above, and which points lie on the axis."""
    inside = (position >= axis[0] - _TOLERANCE) & (position <= axis[-1] + _TOLERANCE)
    if axis.size == 1:
        return np.zeros(position.size, dtype=np.int64), np.zeros(position.size), inside
    at = np.clip(position, axis[0], axis[-1])
    below = np.clip(np.searchsorted(axis, at, side="right") - 1, 0, axis.size - 2).astype(np.int64)
    share = (at - axis[below]) / (axis[below + 1] - axis[below])
    # On a row or column by all but rounding is on it: the one beyond does not count.
    near = np.round(share)
    return below, np.where(np.abs(share - near) < _TOLERANCE, near, share), inside


class AtPoints:
    """What fields say at points: interpolated, 2 m temperature and surface pressure also brought to their elevation.

    Temperature falls by `lapse_rate` with height; pressure changes as in the standard atmosphere between the two
    heights, which is how an altimeter setting is defined. Other variables stay as they are.

    Args:
        grid: of the fields.
        points: where.
        statics: fields of the grid by name, in the catalogue's units; `orography` or `geopotential_at_surface` counts.
        lapse_rate: K km⁻¹, 0 leaves temperatures as they are; by default 6.5 where there is one of these fields.

    Attributes:
        inside: which points the grid holds.
        height: of the model's surface at the points, m; NaN where it is not known.

    Raises:
        GridError: if the grid holds none of the points.
        RecipeError: if a lapse rate is asked for, and the height of the surface is not known.
    """

    def __init__(
        self,
        grid: Grid,
        points: Points,
        statics: Mapping[str, Float[np.ndarray, "lat lon"]] | None = None,
        lapse_rate: float | None = None,
    ) -> None:
        self.points, self.lapse_rate = points, LAPSE_RATE if lapse_rate is None else lapse_rate
        self._interpolate = Bilinear(grid, points)
        self.inside = self._interpolate.inside
        if not self.inside.any():
            raise GridError(
                f"no station lies on the grid {grid}; the first one is {points.names[0]} at {points.latitude[0]:g}°N, "
                f"{points.longitude[0]:g}°E: see that latitude and longitude are not exchanged"
            )
        self.surface = next((name for name in SURFACES if name in (statics or {})), None)
        self.height: Float[np.ndarray, " point"] = np.full(len(points.names), np.nan)
        if statics and self.surface is not None:
            self.height = self._interpolate(statics[self.surface]) / SURFACES[self.surface]
        elif lapse_rate:
            raise RecipeError(
                f"a lapse rate of {lapse_rate:g} K/km needs the height of the model's surface, but there is neither "
                f"{' nor '.join(SURFACES)}: prepare the store with one of them, or leave the lapse rate out"
            )

    @cached_property
    def to_height(self) -> tuple[str, ...]:
        """Variables that are brought to the elevation of the points."""
        if self.surface is None:
            return ()
        return tuple(name for name in TO_HEIGHT if name != "2m_temperature" or self.lapse_rate)

    def said_of(self, name: str) -> str:
        """Return in words what is done about height for a variable; empty where nothing needs to be."""
        if name in self.to_height:
            how = f"by {self.lapse_rate:g} K/km" if name == "2m_temperature" else "by the standard atmosphere"
            return f"{how} from the height of {self.surface} to the station's"
        if name not in TO_HEIGHT:
            return ""
        why = "the lapse rate is 0" if self.surface else f"there is neither {' nor '.join(SURFACES)}"
        return f"not corrected, for {why}"

    def can_say(self, channel: Channel) -> Bool[np.ndarray, " point"]:
        """Return at which points there can be a value: inside the grid, and of known elevation where that counts."""
        if channel.name not in self.to_height:
            return self.inside
        return np.asarray(self.inside & np.isfinite(self.points.elevation) & np.isfinite(self.height))

    def __call__(
        self, fields: Float[np.ndarray, "*axes channel lat lon"], channels: Sequence[Channel]
    ) -> Float[np.ndarray, "*axes channel point"]:
        """Return the values at the points, float64; NaN where there is none."""
        values = self._interpolate(fields)
        for number, channel in enumerate(channels):
            if channel.name in self.to_height:
                values[..., number, :] = self._raised(channel.name, values[..., number, :])
        return np.asarray(values)

    def _raised(self, name: str, values: NDArray[np.float64]) -> NDArray[np.float64]:
        if name == "2m_temperature":
            return np.asarray(values - self.lapse_rate / 1000 * (self.points.elevation - self.height))
        return standard_pressure(values, self.height, self.points.elevation)


def standard_pressure(
    pressure: Float[np.ndarray, "*#axes"], lower: Float[np.ndarray, "*#axes"], upper: Float[np.ndarray, "*#axes"]
) -> Float[np.ndarray, "..."]:
    """Return the pressure at another height where the air is the standard atmosphere's, shifted to hold the given one.

    With lower = 0 it turns an altimeter setting (QNH) into the pressure at a station, with upper = 0 the reverse
    (WMO-No. 8, chapter 3).

    Args:
        pressure: Pa, at `lower`.
        lower: height at which the pressure is given, m.
        upper: height at which it is asked for, m.

    >>> round(float(standard_pressure(np.array(101325.0), np.array(0.0), np.array(1000.0))), -1)
    89870.0
    """
    # p^(1/k) falls linearly with height: (p / p0)^(1/k) = 1 - L z / T0 for the pressure p0 that altimeters call QNH.
    slope = 101325 ** (1 / _EXPONENT) * LAPSE_RATE / 1000 / 288.15
    return np.asarray((pressure ** (1 / _EXPONENT) - slope * (upper - lower)) ** _EXPONENT)
