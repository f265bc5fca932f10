"""Locations on the globe by name, at which distributions are compared."""

import numpy as np

from etesian.core.errors import RecipeError, suggest
from etesian.core.grid import Grid

CITIES: dict[str, tuple[float, float]] = {
    "Anchorage": (61.2, -149.9),
    "Beijing": (39.9, 116.4),
    "Berlin": (52.5, 13.4),
    "Buenos Aires": (-34.6, -58.4),
    "Cairo": (30.0, 31.2),
    "Cape Town": (-33.9, 18.4),
    "Honolulu": (21.3, -157.9),
    "Jakarta": (-6.2, 106.8),
    "Lagos": (6.5, 3.4),
    "Lima": (-12.0, -77.0),
    "London": (51.5, -0.1),
    "Moscow": (55.8, 37.6),
    "Mumbai": (19.1, 72.9),
    "Nairobi": (-1.3, 36.8),
    "New York": (40.7, -74.0),
    "Reykjavik": (64.1, -21.9),
    "Singapore": (1.4, 103.8),
    "Sydney": (-33.9, 151.2),
    "Tokyo": (35.7, 139.7),
    "Wellington": (-41.3, 174.8),
}
"""Latitude and longitude in degrees."""

USUAL = ("Berlin", "Tokyo", "New York", "Sydney", "Nairobi", "Lima")


def nearest_points(locations: list[str], grid: Grid) -> tuple[list[int], list[int]]:
    """Return the row and column of the grid point closest to each location.

    Args:
        locations: names of cities, or latitude,longitude in degrees such as 47.4,8.5.
        grid: whose points are asked for.

    Raises:
        RecipeError: if a location is neither, or further from every point than the points are from each other.
    """
    rows, columns = [], []
    for location in locations:
        latitude, longitude = _position(location)
        row = int(np.abs(grid.latitude - latitude).argmin())
        apart = np.abs((grid.longitude - longitude + 180) % 360 - 180)
        column = int(apart.argmin())
        spacing = [float(np.diff(axis).max(initial=1.0)) for axis in (grid.latitude, grid.longitude)]
        if abs(grid.latitude[row] - latitude) > spacing[0] or apart[column] > spacing[1]:
            raise RecipeError(f"the location {location} lies outside the grid {grid}; name locations inside")
        rows.append(row)
        columns.append(column)
    return rows, columns


def inside(grid: Grid) -> list[str]:
    """Return the usual cities that lie on a grid."""
    found = []
    for location in USUAL:
        try:
            nearest_points([location], grid)
        except RecipeError:
            continue
        found.append(location)
    return found


def _position(location: str) -> tuple[float, float]:
    if location in CITIES:
        return CITIES[location]
    try:
        latitude, longitude = (float(part) for part in location.split(","))
    except ValueError:
        raise RecipeError(
            f"'{location}' is neither latitude,longitude in degrees nor a city known here{suggest(location, CITIES)}"
        ) from None
    if not -90 <= latitude <= 90:
        raise RecipeError(f"the latitude of the location {location} is not within −90…90; write latitude,longitude")
    return latitude, longitude
