"""Grids of cells along one dimension, reduced and HEALPix, and how much of each cell lies in each of a grid's.

The value of a cell is taken for its mean. Overlaps are exact: no point is sampled.
"""

from functools import cached_property
from typing import Any

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray
from scipy.sparse import csr_array

from etesian.core.grid import Grid, overlap_weights

Float64 = NDArray[np.float64]

Int64 = NDArray[np.int64]

_SAME = 1e-4
"""Degrees that rounding explains."""

_EVEN = 0.01
"""Share of a cell's width by which longitudes may be off even steps."""

_FEWEST = 3
"""Cells of a row that is not at a pole: two points of a cloud may share a latitude by chance."""

_AT_ONCE = 2**19
"""Pairs of a box and a HEALPix cell that are worked on together."""


class Rows:
    """Any reduced grid: rows round the whole circle, each of cells of one width.

    A cell reaches halfway to its neighbours, a row halfway to the next, the outermost as `Grid.latitude_bounds` has it.

    Attributes:
        latitude: of the rows, ascending, degrees.
        counts: of the cells of each row.
        first: longitude of the first cell of each row, degrees.
        order: positions in the file of the cells, row by row from the south, eastward from `first`.
    """

    def __init__(self, latitude: Float64, counts: Int64, first: Float64, order: Int64) -> None:
        self.latitude, self.counts, self.first, self.order, self.size = latitude, counts, first, order, order.size

    @cached_property
    def span(self) -> Grid:
        """A grid of four columns that covers what the cells cover, by the same rows."""
        return Grid(self.latitude, np.arange(0, 360, 90))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Rows) or not np.array_equal(self.counts, other.counts):
            return False
        apart = np.abs([self.latitude - other.latitude, self.first - other.first]).max()
        return bool(apart < 2 * _SAME and np.array_equal(self.order, other.order))

    __hash__ = None  # type: ignore[assignment]

    def __str__(self) -> str:
        rows = self.latitude.size
        is_gaussian = np.allclose(self.latitude, Grid.gaussian(rows).latitude, rtol=0, atol=1e-2)
        octahedral = 20 + 4 * np.minimum(np.arange(rows), np.arange(rows)[::-1])
        kind = f"a reduced {'Gaussian' if is_gaussian else 'latitude–longitude'} grid of {rows} rows"
        if is_gaussian and np.array_equal(self.counts, octahedral):
            kind = f"the octahedral grid O{rows // 2}"
        return f"{kind}, {self.size} cells"

    def shares(self, target: Grid) -> csr_array:
        """Return which share of the area of each cell of a grid lies in each of these: (latitude × longitude, cell)."""
        across, _ = overlap_weights(self.span, target)
        starts = np.concatenate([[0], np.cumsum(self.counts)])
        columns = target.longitude.size
        known: dict[tuple[int, float], tuple[Int64, Int64, Float64]] = {}
        places, cells, shares = [], [], []
        for row, own in np.argwhere(across > 0):
            key = int(self.counts[own]), float(self.first[own])
            if key not in known:
                known[key] = _along(*key, target.longitude_bounds)
            column, cell, share = known[key]
            places.append(row * columns + column)
            cells.append(self.order[starts[own] + cell])
            shares.append(across[row, own] * share)
        return _matrix(places, cells, shares, target, self.size)


class Healpix:
    """HEALPix (Górski et al. 2005, ApJ 622, 759): 12 nside² cells of equal area.

    Its projection (Calabretta and Roukema 2007, MNRAS 381, 865) keeps areas. Cells are squares in it, on a corner, and
    boxes of latitude and longitude are polygons once they are cut at its bends.

    Attributes:
        nside: cells along the side of each of the twelve faces.
        order: positions in the file of the cells in ring order, from the north, within a ring from 0° eastward.
    """

    def __init__(self, nside: int, order: Int64) -> None:
        self.nside, self.order, self.size = nside, order, order.size

    @classmethod
    def ring(cls, nside: int) -> "Healpix":
        """Return the grid whose cells are stored ring by ring."""
        return cls(nside, np.arange(12 * nside**2))

    @classmethod
    def nested(cls, nside: int) -> "Healpix":
        """Return the grid whose cells are stored face by face, within a face in Morton's order; nside is a power of 2.

        >>> Healpix.nested(2).order[:5].tolist()
        [3, 7, 11, 15, 2]
        """
        x, y = (np.zeros(nside**2, dtype=np.int64) for _ in range(2))
        within = np.arange(nside**2)
        for bit in range(nside.bit_length() - 1):
            x |= (within >> 2 * bit & 1) << bit
            y |= (within >> 2 * bit + 1 & 1) << bit
        order = np.empty(12 * nside**2, dtype=np.int64)
        order[_rings(nside)[:, x, y].ravel()] = np.arange(order.size)
        return cls(nside, order)

    @cached_property
    def span(self) -> Grid:
        """A grid that covers the globe."""
        return Grid.equiangular(90)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Healpix) and np.array_equal(self.order, other.order)

    __hash__ = None  # type: ignore[assignment]

    def __str__(self) -> str:
        return f"the HEALPix grid of nside {self.nside}, {self.size} cells"

    @cached_property
    def rows(self) -> Rows:
        """The rings as rows: their points are right, the shapes of their cells are not."""
        ring = np.arange(1, 4 * self.nside)
        polar = np.minimum(np.minimum(ring, 4 * self.nside - ring), self.nside)
        colatitude = 2 * np.arcsin(polar / (self.nside * np.sqrt(6)))
        height = np.where(polar < self.nside, np.cos(colatitude), np.abs(4 / 3 - 2 * ring / (3 * self.nside)))
        latitude = np.degrees(np.arcsin(height)) * np.sign(2 * self.nside - ring)
        is_shifted = (polar < self.nside) | ((ring - self.nside) % 2 == 0)
        first = np.where(is_shifted, 45 / polar, 0.0)
        return Rows(latitude[::-1], 4 * polar[::-1], first[::-1], _upside_down(4 * polar, self.order))

    def shares(self, target: Grid) -> csr_array:
        """Return which share of the area of each cell of a grid lies in each of these: (latitude × longitude, cell)."""
        box, corners = _boxes(target, self.nside)
        areas = np.diff(np.sin(np.radians(target.latitude_bounds)))[:, None] * np.diff(target.longitude_bounds) / 720
        whole = areas.ravel() * self.size
        low = np.floor(corners.min(axis=1) + 1e-9).astype(np.int64)
        reach = np.maximum(np.ceil(corners.max(axis=1) - 1e-9).astype(np.int64) - low, 1)
        pairs = reach.prod(axis=1)
        pieces = np.searchsorted(np.cumsum(pairs), np.arange(_AT_ONCE, pairs.sum(), _AT_ONCE))
        rings = _rings(self.nside)
        places, cells, shares = [], [], []
        for piece in np.split(np.arange(box.size), np.unique(pieces)):
            own = np.repeat(piece, pairs[piece])
            number = np.arange(own.size) - np.repeat(np.cumsum(pairs[piece]) - pairs[piece], pairs[piece])
            square = low[own] + np.stack(np.divmod(number, reach[own, 1]), axis=1)
            area = _area_in_square(corners[own] - square[:, None])
            (p, q), inside = np.divmod(square, self.nside)[0].T, square % self.nside
            face = _FACES[np.clip(p, 0, 4), np.clip(q, 0, 6)]
            kept = (area > 1e-12) & (face >= 0)
            own, area = own[kept], area[kept]
            places.append(box[own])
            cells.append(self.order[rings[face[kept], inside[kept, 0], inside[kept, 1]]])
            shares.append(area / whole[box[own]])
        return _matrix(places, cells, shares, target, self.size)


Cells = Rows | Healpix


def recognised(latitude: Float64, longitude: Float64) -> Cells | None:
    """Return the grid that points, in any order, are the cells of; None if they are of no reduced or HEALPix grid.

    Args:
        latitude: of the points, degrees.
        longitude: of the points, degrees, counted from anywhere.
    """
    by_latitude = np.argsort(latitude, kind="stable")
    steps = np.diff(latitude[by_latitude], prepend=latitude[by_latitude[:1]])
    row = np.empty(latitude.size, dtype=np.int64)
    row[by_latitude] = np.cumsum(steps > _SAME)
    # By rounding, the first point of a row at 0° may lie before it.
    east = np.mod(longitude + _SAME, 360) - _SAME
    order = np.lexsort((east, row))
    counts = np.bincount(row)
    starts = np.cumsum(counts) - counts
    latitudes, first = latitude[order[starts]], east[order[starts]]
    width = 360 / counts
    even = np.repeat(first, counts) + (np.arange(row.size) - np.repeat(starts, counts)) * np.repeat(width, counts)
    few = (counts < _FEWEST) & (np.abs(latitudes) < 90 - _SAME)
    if counts.size < 2 or few.any() or (np.abs(east[order] - even) > _EVEN * np.repeat(width, counts)).any():
        return None
    found = Rows(latitudes, counts, first, order)
    nside = round((latitude.size / 12) ** 0.5)
    if latitude.size != 12 * nside**2 or counts.size != 4 * nside - 1:
        return found
    rings = Healpix.ring(nside).rows
    rings.order = order
    return Healpix(nside, _upside_down(counts, order)) if found == rings else found


def _upside_down(counts: Int64, order: Int64) -> Int64:
    """Turn rows from the south into rows from the north, or back, each from west to east as before."""
    ends = np.cumsum(counts)
    return np.concatenate([order[end - n : end] for end, n in zip(ends[::-1], counts[::-1], strict=True)])


def _along(count: int, first: float, bounds: Float64) -> tuple[Int64, Int64, Float64]:
    """Return columns of a grid, the cells of one row that lie in them, and which share of the column each has."""
    width = 360 / count
    start = first - width / 2
    turns = np.arange(-3 * count, 3 * count)
    edges, column = _cut(bounds, start + turns * width)
    cell = np.floor(((edges[1:] + edges[:-1]) / 2 - start) / width).astype(np.int64) % count
    share = np.diff(edges) / np.diff(bounds)[column]
    kept = share > 1e-10
    return column[kept], cell[kept], share[kept]


def _matrix(places: list[Int64], cells: list[Int64], shares: list[Float64], target: Grid, size: int) -> csr_array:
    shape = target.latitude.size * target.longitude.size, size
    values = np.concatenate(shares), (np.concatenate(places), np.concatenate(cells))
    return csr_array(values, shape=shape)


_FACES = np.full((5, 7), -1)
"""The face in each square of nside × nside of the plane; those of the equator begin half a face west of 0°."""

for _k in range(4):
    _FACES[_k + 1, 5 - _k], _FACES[_k, 5 - _k], _FACES[_k, 4 - _k] = _k, _k + 4, _k + 8
_FACES[4, 1] = 4


def _rings(nside: int) -> Int64:
    """Return the number in ring order of the cell at x (to the north-east) and y (to the north-west) of each face."""
    face, x, y = np.indices((12, nside, nside)).reshape(3, -1)
    ring = (2 + face // 4) * nside - x - y - 1
    polar = np.minimum(np.minimum(ring, 4 * nside - ring), nside)
    # Half cells east of 0°, of which a ring has 8 times `polar`.
    middle = np.where(face // 4 == 1, 2 * (face % 4), 2 * (face % 4) + 1)
    east = np.mod(middle * polar + x - y, 8 * polar)
    return np.lexsort((east, ring)).argsort().reshape(12, nside, nside)


def _boxes(target: Grid, nside: int) -> tuple[Int64, Float[np.ndarray, "piece 4 2"]]:
    """Cut the cells of a grid where the projection bends, and project the pieces to the plane of the squares.

    Returns:
        The number of the cell that each piece belongs to, and its corners, counter-clockwise, in units of squares.
    """
    bend = np.degrees(np.arcsin(2 / 3))
    latitudes, row = _cut(target.latitude_bounds, np.array([-bend, bend]))
    longitudes, column = _cut(target.longitude_bounds, 90.0 * np.arange(-8, 9))
    quarter = np.floor((longitudes[1:] + longitudes[:-1]) / 180)
    sigma = np.sqrt(6) * np.sin(np.radians(90 - np.abs(latitudes)) / 2)
    is_polar = np.abs(latitudes) > bend
    v = np.where(is_polar, np.sign(latitudes) * (2 - sigma), 1.5 * np.sin(np.radians(latitudes)))
    narrowed = np.where(is_polar, sigma, 1.0)
    middle = 2 * (quarter % 4) + 1
    corners = np.empty((latitudes.size - 1, longitudes.size - 1, 4, 2))
    for corner, (below, right) in enumerate(((0, 0), (0, 1), (1, 1), (1, 0))):
        levels = slice(below, latitudes.size - 1 + below)
        edge = longitudes[right : longitudes.size - 1 + right] / 45 - 8 * (quarter // 4)
        u = middle + (edge - middle) * narrowed[levels, None]
        corners[:, :, corner, 0] = (u + v[levels, None] + 1) / 2 * nside
        corners[:, :, corner, 1] = ((v[levels, None] - u + 1) / 2 + 5) * nside
    box = row[:, None] * target.longitude.size + column
    return box.ravel(), corners.reshape(-1, 4, 2)


def _cut(bounds: Float64, at: NDArray[Any]) -> tuple[Float64, Int64]:
    """Add the bounds that lie within some intervals, and return which interval each of the pieces belongs to."""
    edges = np.union1d(bounds, at[(at > bounds[0]) & (at < bounds[-1])])
    return edges, np.searchsorted(bounds, (edges[1:] + edges[:-1]) / 2) - 1


def _area_in_square(corners: Float[np.ndarray, "n 4 2"]) -> Float[np.ndarray, " n"]:
    """Return the areas of polygons, counter-clockwise, within the square from 0 to 1.

    Green's theorem: ∮ clip(x, 0, 1) dy over the parts of the edges with 0 < y < 1.
    """
    total = np.zeros(len(corners))
    for i in range(4):
        (x0, y0), (x1, y1) = corners[:, i].T, corners[:, (i + 1) % 4].T
        rise = y1 - y0
        with np.errstate(divide="ignore", invalid="ignore"):
            ends = [np.where(rise == 0, 0.0, (np.clip(y, 0, 1) - y0) / rise) for y in (y0, y1)]
        start, stop = (x0 + end * (x1 - x0) for end in ends)
        run = stop - start
        is_steep = np.abs(run) < 1e-6
        integrals = [np.clip(x, 0, 1) ** 2 / 2 + np.maximum(x - 1, 0) for x in (start, stop)]
        integral = (integrals[1] - integrals[0]) / np.where(is_steep, 1.0, run)
        mean = np.where(is_steep, np.clip((start + stop) / 2, 0, 1), integral)
        total += mean * (np.clip(y1, 0, 1) - np.clip(y0, 0, 1))
    return total
