"""Latitude–longitude grids: coordinates, cell areas, regions, and interpolation from one to another."""

from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike, NDArray
from scipy.interpolate import CubicSpline

from etesian.core.errors import GridError

Float64 = NDArray[np.float64]

_TOLERANCE = 1e-6


class Region(NamedTuple):
    """A latitude–longitude box in degrees; `west` > `east` means that it crosses Greenwich.

    Longitudes may be given in −180…180 or 0…360; a box's edges belong to it.
    """

    south: float
    north: float
    west: float
    east: float

    @classmethod
    def parse(cls, text: str) -> "Region":
        """Read a named region, or `south,north,west,east` in degrees.

        Raises:
            GridError: if the text is neither.

        >>> Region.parse("Europe").north, Region.parse("-10,10,350,20").west
        (65, 350.0)
        """
        if text in REGIONS:
            return REGIONS[text]
        try:
            south, north, west, east = (float(part) for part in text.split(","))
        except ValueError:
            raise GridError(
                f"region '{text}' is neither south,north,west,east in degrees nor one of {', '.join(REGIONS)}"
            ) from None
        if not -90 <= south < north <= 90:
            raise GridError(f"region '{text}' needs −90 ≤ south < north ≤ 90")
        return cls(south, north, west, east)

    @property
    def width(self) -> float:
        """Degrees from west to east, 360 at most.

        >>> Region.parse("-10,10,350,20").width, Region.parse("global").width
        (30.0, 360)
        """
        return 360 if self.east - self.west >= 360 else (self.east - self.west) % 360

    def within(
        self, latitude: NDArray[np.floating], longitude: NDArray[np.floating]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the positions of latitudes and longitudes inside, the latter from west to east."""
        offset = (longitude - self.west) % 360
        eastward = np.argsort(offset, kind="stable") if self.width < 360 else np.arange(longitude.size)
        rows = np.flatnonzero((latitude >= self.south) & (latitude <= self.north))
        return rows, eastward[offset[eastward] <= self.width]


REGIONS: dict[str, Region] = {
    "global": Region(-90, 90, 0, 360),
    "tropics": Region(-20, 20, 0, 360),
    "extratropics_north": Region(20, 90, 0, 360),
    "extratropics_south": Region(-90, -20, 0, 360),
    "NorthAmerica": Region(15, 65, 220, 300),
    "SouthAmerica": Region(-55, 20, 270, 330),
    "Europe": Region(30, 65, 0, 40),
    "SouthAsia": Region(-15, 45, 25, 110),
    "EastAsia": Region(5, 65, 70, 150),
    "Australia": Region(-50, 10, 100, 180),
}
"""Boxes by name: ClimaX's regional benchmarks (arXiv 2301.10343) and WeatherBench 2's zonal bands."""


class Grid:
    """A rectilinear grid with strictly ascending latitude and ascending longitude, in degrees.

    Longitudes lie in 0…360 except on a region that crosses Greenwich, where they run on past 360.
    Two grids are equal if their coordinates agree to 1e-4 degrees.

    Raises:
        GridError: if a coordinate is not one-dimensional, finite and strictly ascending, or latitudes
            leave −90…90.
    """

    def __init__(self, latitude: ArrayLike, longitude: ArrayLike) -> None:
        self.latitude: Float64 = np.array(latitude, dtype=np.float64)
        self.longitude: Float64 = np.array(longitude, dtype=np.float64)
        for name, values in (("latitude", self.latitude), ("longitude", self.longitude)):
            if values.ndim != 1 or values.size == 0:
                raise GridError(f"{name} has shape {values.shape}; a grid needs one dimension")
            if not np.isfinite(values).all() or (np.diff(values) <= 0).any():
                raise GridError(f"{name} must be finite and strictly ascending")
        if abs(self.latitude).max() > 90 + 1e-6:
            raise GridError(f"latitude reaches {abs(self.latitude).max():g}°, beyond the pole")
        if self.longitude[-1] - self.longitude[0] >= 360:
            raise GridError("longitude covers the circle more than once")
        self.latitude.flags.writeable = False
        self.longitude.flags.writeable = False

    @classmethod
    def equiangular(cls, resolution: float, *, poles: bool = False) -> "Grid":
        """Build a global grid of square cells; with `poles`, points lie on both poles.

        >>> Grid.equiangular(5.625).shape, Grid.equiangular(1.5, poles=True).shape
        ((32, 64), (121, 240))
        """
        rows, columns = 180 / resolution, 360 / resolution
        if abs(rows - round(rows)) > 1e-6 or abs(columns - round(columns)) > 1e-6:
            raise GridError(f"a resolution of {resolution}° does not divide 180°")
        edges = np.linspace(-90.0, 90.0, round(rows) + 1)
        latitude = edges if poles else (edges[1:] + edges[:-1]) / 2
        return cls(latitude, np.arange(round(columns)) * resolution)

    @classmethod
    def gaussian(cls, rows: int) -> "Grid":
        """Build the global Gaussian grid with `rows` latitudes and twice as many longitudes."""
        nodes, _ = np.polynomial.legendre.leggauss(rows)
        return cls(np.degrees(np.arcsin(nodes)), np.arange(2 * rows) * 180 / rows)

    @property
    def shape(self) -> tuple[int, int]:
        """Number of latitudes and longitudes."""
        return self.latitude.size, self.longitude.size

    @cached_property
    def is_periodic(self) -> bool:
        """Whether the longitudes close the circle with even steps."""
        if self.longitude.size < 2:
            return False
        steps = np.diff(np.append(self.longitude, self.longitude[0] + 360))
        return bool(np.ptp(steps) < 1e-3 * steps.mean())

    @cached_property
    def has_poles(self) -> bool:
        """Whether rows of points lie on both poles."""
        return bool(self.latitude[0] < -90 + 1e-6 and self.latitude[-1] > 90 - 1e-6)

    @cached_property
    def latitude_bounds(self) -> Float64:
        """Edges of the rows of cells, one more than there are rows, in degrees.

        Halfway between points. An outer row ends at the pole if that is closer than one row's spacing
        (which makes the bounds of global grids WeatherBench 2's), else half a spacing away.
        """
        latitude = self.latitude
        if latitude.size == 1:
            return np.array([max(latitude[0] - 0.5, -90.0), min(latitude[0] + 0.5, 90.0)])
        middle = (latitude[1:] + latitude[:-1]) / 2
        south, north = latitude[1] - latitude[0], latitude[-1] - latitude[-2]
        lowest = -90.0 if latitude[0] - south < -90 + 1e-6 else latitude[0] - south / 2
        highest = 90.0 if latitude[-1] + north > 90 - 1e-6 else latitude[-1] + north / 2
        return np.concatenate([[lowest], middle, [highest]])

    @cached_property
    def longitude_bounds(self) -> Float64:
        """Edges of the columns of cells, one more than there are columns, in degrees."""
        longitude = self.longitude
        if longitude.size == 1:
            return np.array([longitude[0] - 0.5, longitude[0] + 0.5])
        middle = (longitude[1:] + longitude[:-1]) / 2
        if self.is_periodic:
            west = (longitude[0] + longitude[-1] - 360) / 2
            return np.concatenate([[west], middle, [west + 360]])
        west = longitude[0] - (longitude[1] - longitude[0]) / 2
        east = longitude[-1] + (longitude[-1] - longitude[-2]) / 2
        return np.concatenate([[west], middle, [east]])

    @cached_property
    def area_weights(self) -> Float64:
        """Relative cell area per latitude, mean 1: sin(north edge) − sin(south edge), as WeatherBench 2 does."""
        weights = np.diff(np.sin(np.radians(self.latitude_bounds)))
        return np.asarray(weights / weights.mean())

    @cached_property
    def cosine_weights(self) -> Float64:
        """Weights cos φ per latitude, mean 1, as WeatherBench 1 and ClimaX weight."""
        weights = np.cos(np.radians(self.latitude)).clip(min=0)
        return np.asarray(weights / weights.mean())

    @cached_property
    def unit_vectors(self) -> Float[np.ndarray, "lat lon 3"]:
        """Points on the sphere of radius 1; its axes go through 0° and 90° E on the equator and the north pole."""
        latitude, longitude = np.radians(self.latitude)[:, None], np.radians(self.longitude)
        axes = np.cos(latitude) * np.cos(longitude), np.cos(latitude) * np.sin(longitude), np.sin(latitude)
        return np.stack(np.broadcast_arrays(*axes), -1)

    def region(self, box: Region) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the row and column numbers inside a box, chosen by coordinate, from west to east.

        Raises:
            GridError: if no point lies inside.
        """
        rows, columns = box.within(self.latitude, self.longitude)
        if rows.size == 0 or columns.size == 0:
            raise GridError(f"no grid point lies inside {box}; the grid is {self}")
        return rows, columns

    def crop(self, box: Region) -> "Grid":
        """Return the part of the grid inside a box; across Greenwich its longitudes run on past 360."""
        rows, columns = self.region(box)
        return self._part(rows, columns)

    def _part(self, rows: slice | NDArray[np.int64], columns: slice | NDArray[np.int64]) -> "Grid":
        """Return the grid of some rows and columns, whose longitudes run on past 360 across Greenwich."""
        longitude = self.longitude[columns]
        return Grid(self.latitude[rows], longitude + 360 * np.cumsum(np.diff(longitude, prepend=longitude[0]) < 0))

    def locate(self, part: "Grid") -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the row and column numbers of the points of a grid that is this one or a region of it.

        Raises:
            GridError: if it is not.
        """
        latitude, longitude = part.latitude, part.longitude
        box = Region(latitude[0] - 1e-4, latitude[-1] + 1e-4, longitude[0] - 1e-4, longitude[-1] + 1e-4)
        rows, columns = self.region(box)
        if (rows.size, columns.size) != part.shape or not (
            np.allclose(self.latitude[rows], latitude, rtol=0, atol=1e-4)
            and np.allclose((self.longitude[columns] - longitude + 180) % 360, 180, rtol=0, atol=1e-4)
        ):
            raise GridError(f"the grid {part} is no region of {self}")
        return rows, columns

    def holds(self, part: "Grid") -> bool:
        """Return whether a grid is this one or a region of it."""
        try:
            self.locate(part)
        except GridError:
            return False
        return True

    def widened(self, part: "Grid", width: int) -> "Grid":
        """Return a part of this grid with some more rows and columns on each side that has an edge.

        A circle of longitudes has none, nor has a part that reaches a pole.

        Raises:
            GridError: if the part is none, or this grid, or the globe, ends before.
        """
        held, own = self.locate(part)
        near, west = held[[0, -1]].tolist(), int(own[0])
        at_pole = np.abs(self.latitude_bounds[[0, -1]]) > 90 - 1e-3
        rows = self.latitude.size - int(at_pole[1] and near[1] != self.latitude.size - 1)
        first = near[0] - (0 if at_pole[0] and near[0] == 0 else width)
        last = near[1] + (0 if at_pole[1] and near[1] == self.latitude.size - 1 else width)
        columns = np.arange(west, west + part.longitude.size)
        if not part.is_periodic:
            columns = np.arange(west - width, columns[-1] + width + 1)
        size = self.longitude.size
        beyond = columns.size > size if self.is_periodic else columns[0] < 0 or columns[-1] >= size
        # Rows next to a pole would be no edge.
        if first < int(at_pole[0] and near[0] != 0) or last >= rows or (beyond and not part.is_periodic):
            raise GridError(
                f"{width} rows and columns around {part} reach beyond the grid {self}; choose a smaller region"
            )
        return self._part(slice(first, last + 1), columns % size)

    def inside(self, width: int) -> tuple[slice, slice]:
        """Return the rows and columns that lie so many points or more from every edge; see `widened`."""
        rows, columns = self.shape
        south, north = (0 if abs(bound) > 90 - 1e-3 else width for bound in self.latitude_bounds[[0, -1]])
        side = 0 if self.is_periodic else width
        return slice(south, rows - north), slice(side, columns - side)

    def without(self, width: int) -> "Grid":
        """Return the grid without so many rows and columns at every edge; see `inside`."""
        rows, columns = self.inside(width)
        return Grid(self.latitude[rows], self.longitude[columns]) if width else self

    def refined(self, factor: int) -> "Grid":
        """Return the grid with `factor` × `factor` points evenly around each point of this one.

        Raises:
            GridError: if points are not evenly spaced, so that they do not tell where finer ones lie.
        """
        axes = []
        for name, values in (("latitude", self.latitude), ("longitude", self.longitude)):
            steps = np.diff(values)
            if values.size < 2 or np.ptp(steps) > 1e-3 * steps.mean():
                raise GridError(f"the {name}s of the grid {self} are not evenly spaced; name the finer grid itself")
            offsets = ((np.arange(factor) + 0.5) / factor - 0.5) * steps.mean()
            axes.append((values[:, None] + offsets).ravel())
        return Grid(*axes)

    def to_dict(self) -> dict[str, list[float]]:
        """Return the coordinates as plain lists, for JSON."""
        return {"latitude": self.latitude.tolist(), "longitude": self.longitude.tolist()}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> "Grid":
        """Rebuild what `to_dict` described."""
        return cls(data["latitude"], data["longitude"])

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Grid)
            and self.shape == other.shape
            and np.allclose(self.latitude, other.latitude, rtol=0, atol=1e-4)
            and np.allclose(self.longitude, other.longitude, rtol=0, atol=1e-4)
        )

    def __hash__(self) -> int:
        return hash(self.shape)

    def __repr__(self) -> str:
        lat, lon = self.latitude, self.longitude
        return f"{lat.size}×{lon.size} from {lat[0]:.4g} to {lat[-1]:.4g}°N, {lon[0]:.4g} to {lon[-1]:.4g}°E"


def linear_weights(source: Float64, target: Float64) -> Float[np.ndarray, "target source"]:
    """Return linear interpolation weights; rows of points outside the source are zero."""
    weights = np.zeros((target.size, source.size))
    inside = np.flatnonzero((target >= source[0] - _TOLERANCE) & (target <= source[-1] + _TOLERANCE))
    position = np.clip(target[inside], source[0], source[-1])
    if source.size == 1:
        weights[inside, 0] = 1
        return weights
    left = np.clip(np.searchsorted(source, position, side="right") - 1, 0, source.size - 2)
    share = (position - source[left]) / (source[left + 1] - source[left])
    weights[inside, left], weights[inside, left + 1] = 1 - share, share
    return weights


def longitude_weights(source: Grid, target: Grid) -> Float[np.ndarray, "target source"]:
    """Return linear interpolation weights between the longitudes of two grids, round the circle where it closes."""
    west = source.longitude[0]
    position = west + (target.longitude - west + _TOLERANCE) % 360 - _TOLERANCE
    if not source.is_periodic:
        return linear_weights(source.longitude, position)
    weights = linear_weights(np.append(source.longitude, west + 360), position)
    weights[:, 0] += weights[:, -1]
    return weights[:, :-1]


def cubic_weights(source: Float64, target: Float64) -> Float[np.ndarray, "target source"]:
    """Return cubic-spline weights of points between the first and the last of the source."""
    return np.asarray(CubicSpline(source, np.eye(source.size))(target))


def cubic_longitude_weights(source: Grid, target: Grid) -> Float[np.ndarray, "target source"]:
    """Return cubic-spline weights between the longitudes of two grids, round the circle where it closes."""
    west = source.longitude[0]
    position = west + (target.longitude - west + _TOLERANCE) % 360 - _TOLERANCE
    if not source.is_periodic:
        return cubic_weights(source.longitude, position)
    columns = source.longitude.size
    closed = np.eye(columns)[np.append(np.arange(columns), 0)]
    return np.asarray(CubicSpline(np.append(source.longitude, west + 360), closed, bc_type="periodic")(position))


def mean_keeping(
    weights: Float[np.ndarray, "target source"], shares: Float[np.ndarray, "source target"]
) -> Float[np.ndarray, "target source"]:
    """Return interpolation weights for means over the source's cells, instead of for values at its points.

    What is interpolated takes such values at the points that the means over each cell are what was given; at points
    whose cell the target does not cover, it takes what was given.

    Args:
        weights: of an interpolation of values at points.
        shares: of each source cell that lies in each target cell (`overlap_weights`).
    """
    covered = shares.sum(axis=1, keepdims=True) > 1 - _TOLERANCE
    given = np.where(covered, shares @ weights, np.eye(len(shares)))
    return np.asarray(weights @ np.linalg.inv(given))


def overlap_weights(
    source: Grid, target: Grid
) -> tuple[Float[np.ndarray, "lat_out lat"], Float[np.ndarray, "lon_out lon"]]:
    """Return which share of each target row and column lies in each of the source's, of area and of longitude."""
    rows = _overlap(*(np.sin(np.radians(grid.latitude_bounds)) for grid in (source, target)))
    turns = range(-2, 3)
    columns = [_overlap(source.longitude_bounds + 360 * turn, target.longitude_bounds) for turn in turns]
    return rows, np.asarray(np.sum(columns, axis=0))


def _overlap(source: Float64, target: Float64) -> Float[np.ndarray, "target source"]:
    """Return which share of each target interval lies in each source interval, from ascending bounds."""
    low = np.maximum(target[:-1, None], source[None, :-1])
    high = np.minimum(target[1:, None], source[None, 1:])
    return np.asarray(np.clip(high - low, 0, None) / np.diff(target)[:, None])
