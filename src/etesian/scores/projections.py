"""Projections of the sphere onto a page, by their formulas (Snyder 1987, USGS Professional Paper 1395), and coastlines.

They take the place of cartopy, whose PROJ library ends a process that has loaded eccodes'.
"""

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal, get_args

import numpy as np
from jaxtyping import Bool, Float
from numpy.typing import NDArray

from etesian.core.errors import RecipeError, suggest
from etesian.core.grid import Grid

Array = NDArray[np.float64]
Kind = Literal["equirectangular", "equal_earth", "north_polar", "south_polar", "orthographic"]

KINDS: tuple[Kind, ...] = get_args(Kind)

_POLYNOMIAL = (1.340264, -0.081106, 0.000893, 0.003796)
"""Of the Equal Earth projection (Šavrič, Patterson & Jenny 2018, Int. J. Geogr. Inf. Sci. 33, 454)."""

_POLAR_EDGE = 20.0
"""Latitude that maps of a whole hemisphere reach, of the other poles' maps the same south."""


@dataclass(frozen=True)
class Projection:
    """A map of the sphere.

    Attributes:
        kind: which one.
        longitude: of the middle, degrees east; of a polar map the meridian that points down (south polar: up).
        latitude: of the middle of an orthographic map; of a polar map the one at its edge; degrees north.
    """

    kind: Kind
    longitude: float = 0.0
    latitude: float = 0.0

    @classmethod
    def of(cls, grid: Grid, text: str | None = None) -> "Projection":
        """Return the projection that suits a grid, or the one that is named.

        Whole globes are drawn in Equal Earth, bands around a pole in polar stereographic projection, regions as they
        are. An orthographic map may say its middle, as `orthographic:50,10` (degrees north and east).

        Raises:
            RecipeError: if there is no such projection, or a pole is asked for that the grid does not come near.
        """
        name, _, place = (text or "").partition(":")
        south, north = grid.latitude_bounds[[0, -1]]
        middle = 0.0 if grid.is_periodic else float(grid.longitude_bounds[[0, -1]].mean())
        if not name:
            name = "equirectangular"
            if grid.is_periodic:
                name = (
                    "north_polar" if south >= _POLAR_EDGE else "south_polar" if north <= -_POLAR_EDGE else "equal_earth"
                )
        if name not in KINDS or (place and name != "orthographic"):
            raise RecipeError(
                f"there is no projection '{text}'{suggest(name, KINDS)}; draw {', '.join(KINDS)}, or for example "
                "orthographic:50,10"
            )
        if name == "north_polar":
            if north <= _POLAR_EDGE:
                raise RecipeError(
                    f"the grid {grid} ends at {north:g}°N; a north polar map shows what lies north of 20°N"
                )
            return cls(name, middle, max(float(south), _POLAR_EDGE))
        if name == "south_polar":
            if south >= -_POLAR_EDGE:
                raise RecipeError(
                    f"the grid {grid} begins at {south:g}°N; a south polar map shows what lies south of 20°S"
                )
            return cls(name, middle, min(float(north), -_POLAR_EDGE))
        if name == "orthographic":
            tilt = 30.0 if grid.is_periodic else float((south + north) / 2)
            latitude, east = _place(place) if place else (tilt, middle)
            return cls(name, east, latitude)
        return cls("equal_earth" if name == "equal_earth" else "equirectangular", middle)

    @property
    def is_round(self) -> bool:
        """Whether the map is a disc."""
        return self.kind in ("north_polar", "south_polar", "orthographic")

    def __call__(self, longitude: Array, latitude: Array) -> tuple[Array, Array, Bool[np.ndarray, "..."]]:
        """Project points in degrees: x and y, finite everywhere, and which points the map shows.

        Longitudes are taken as they are, so that the edges of a map lie on its two sides.
        """
        east = np.radians(np.asarray(longitude, dtype=np.float64) - self.longitude)
        north = np.radians(np.asarray(latitude, dtype=np.float64))
        east, north = np.broadcast_arrays(east, north)
        if self.kind == "equirectangular":
            return np.degrees(east) + self.longitude, np.degrees(north), np.ones(east.shape, dtype=bool)
        if self.kind == "equal_earth":
            return *_equal_earth(east, north), np.ones(east.shape, dtype=bool)
        if self.kind == "orthographic":
            tilt = np.radians(self.latitude)
            x = np.cos(north) * np.sin(east)
            y = np.cos(tilt) * np.sin(north) - np.sin(tilt) * np.cos(north) * np.cos(east)
            towards = np.sin(tilt) * np.sin(north) + np.cos(tilt) * np.cos(north) * np.cos(east)
            # What lies behind the limb is put on it: cells that it cuts end there.
            distance = np.where(towards < 0, np.maximum(np.hypot(x, y), 1e-12), 1.0)
            return x / distance, y / distance, towards >= 0
        sign = 1.0 if self.kind == "north_polar" else -1.0
        colatitude = np.pi / 2 - sign * north
        radius = np.tan(np.minimum(colatitude, np.radians(120.0)) / 2)
        is_shown = colatitude <= np.radians(90.0 - sign * self.latitude) + 1e-9
        return radius * np.sin(east), -sign * radius * np.cos(east), is_shown

    def outline(self, grid: Grid) -> Float[np.ndarray, "point 2"]:
        """Return the edge of a map of a grid as a closed line of x and y."""
        if self.is_round:
            radius = 1.0
            if self.kind != "orthographic":
                radius = float(np.tan(np.radians(90.0 - abs(self.latitude)) / 2))
            angle = np.linspace(0, 2 * np.pi, 361)
            return radius * np.stack([np.cos(angle), np.sin(angle)], axis=1)
        south, north = grid.latitude_bounds[[0, -1]]
        west, east = grid.longitude_bounds[[0, -1]]
        if grid.is_periodic:
            west, east = self.longitude - 180, self.longitude + 180
        up, along = np.linspace(south, north, 181), np.linspace(west, east, 361)
        sides = [(np.full_like(up, west), up), (along, np.full_like(along, north)),
                 (np.full_like(up, east), up[::-1]), (along[::-1], np.full_like(along, south))]  # fmt: skip
        x, y, _ = self(*(np.concatenate(parts) for parts in zip(*sides, strict=True)))
        return np.stack([x, y], axis=1)

    def line(self, longitude: Array, latitude: Array) -> tuple[Array, Array]:
        """Project a line; it is broken (NaN) where it is not shown or leaves one side of the map for the other."""
        near = (longitude - self.longitude + 180) % 360 - 180 + self.longitude
        x, y, is_shown = self(near, latitude)
        jumps = np.append(np.abs(np.diff(near)) > 180, False)
        return np.where(is_shown & ~jumps, x, np.nan), np.where(is_shown & ~jumps, y, np.nan)


def columns_of(grid: Grid, projection: Projection) -> tuple[NDArray[np.int64], Array]:
    """Return which columns of a grid a map shows from west to east, and the edges between them in degrees.

    A column that the edge of a map of the globe cuts is shown on both sides.
    """
    if not grid.is_periodic:
        return np.arange(grid.longitude.size), grid.longitude_bounds
    count = grid.longitude.size
    step = 360 / count
    offset = (grid.longitude - projection.longitude + 180) % 360 - 180
    first = int(np.argmin(offset))
    west = float(offset[first]) - step / 2
    # Between the western edge of the map and the first column lies a part of the one that is last.
    before = int(west > -180 + 1e-6)
    columns = (first + np.arange(count + int(abs(west + 180) > 1e-6), dtype=np.int64) - before) % count
    return np.asarray(columns), np.asarray(
        projection.longitude + west + step * (np.arange(columns.size + 1.0) - before)
    )


@cache
def coastlines() -> tuple[tuple[Array, Array], ...]:
    """Return the coasts of the Earth as lines of longitudes and latitudes in degrees; longitudes run on past 180.

    Natural Earth's land at 1:110 million, which is in the public domain (`.ci/make_coastlines.py`).
    """
    with np.load(Path(__file__).with_name("coastlines.npz")) as file:
        steps, points = file["steps"].astype(np.int64), file["points"]
    lines = np.split(steps, np.cumsum(points)[:-1], axis=1)
    degrees = [np.cumsum(line, axis=1) / 100 for line in lines]
    return tuple((line[0], line[1]) for line in degrees)


def is_land(grid: Grid) -> Bool[np.ndarray, "lat lon"]:
    """Return which points of a grid lie on land: those with an odd number of coasts between them and the north pole."""
    starts, ends = (
        np.concatenate([np.stack([x[part], y[part]], axis=1) for x, y in coastlines()])
        for part in (slice(None, -1), slice(1, None))
    )
    land = np.empty(grid.shape, dtype=bool)
    for column, longitude in enumerate(grid.longitude):
        # Seen from the meridian, of which no coast is made: points on it count as east of it.
        x = (starts[:, 0] - longitude + 180) % 360 - 180
        after = x + ends[:, 0] - starts[:, 0]
        crossed = (x < 0) != (after < 0)
        share = -x[crossed] / (after - x)[crossed]
        crossings = np.sort(starts[crossed, 1] + share * (ends - starts)[crossed, 1])
        land[:, column] = (crossings.size - np.searchsorted(crossings, grid.latitude)) % 2 == 1
    return land


def _equal_earth(east: Array, north: Array) -> tuple[Array, Array]:
    angle = np.arcsin(np.sqrt(3) / 2 * np.sin(north))
    square = angle**2
    first, second, third, fourth = _POLYNOMIAL
    slope = first + 3 * second * square + square**3 * (7 * third + 9 * fourth * square)
    y = angle * (first + second * square + square**3 * (third + fourth * square))
    return 2 * np.sqrt(3) / 3 * east * np.cos(angle) / slope, y


def _place(text: str) -> tuple[float, float]:
    try:
        latitude, longitude = (float(part) for part in text.split(","))
    except ValueError:
        raise RecipeError(f"'{text}' is no middle of a map; give degrees north and east, such as 50,10") from None
    if not (-90 <= latitude <= 90 and -360 <= longitude <= 360):
        raise RecipeError(f"'{text}' is no place; latitudes lie between −90 and 90, longitudes between −360 and 360")
    return latitude, longitude
