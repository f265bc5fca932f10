"""What a root-mean-square error cannot see: spectra, semivariograms, distributions, gradients."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import xarray as xr
from jaxtyping import Bool, Float
from numpy.typing import NDArray
from scipy.stats import wasserstein_distance
from torch import Tensor

from etesian.core.channels import Channel
from etesian.core.constants import EARTH_RADIUS
from etesian.core.errors import GridError
from etesian.core.grid import Grid
from etesian.core.sphere import SphericalHarmonics, inverse_laplacian, power, spherical_harmonics
from etesian.scores.locations import inside, nearest_points
from etesian.scores.pairs import Chunk, Pairs

Array = NDArray[np.float64]

TRUTH = "truth"

WINDS = ("u_component_of_wind", "v_component_of_wind")

ROTATION = ("vorticity", "divergence")

MOMENTS = ("mean", "standard deviation", "skewness", "excess kurtosis", "mean gradient")

_PAIRS = 60_000
"""Pairs of points of which the semivariogram is made; the same for every field."""


class Structure:
    """Gathers the structure of forecasts and truth from the chunks that are judged, for a few channels and leads.

    A field counts where the truth and all forecasts are complete, so that all are made of the same cases.

    Args:
        pairs: what is judged.
        channels: which of it.
        leads: positions of leads.
        locations: cities or latitude,longitude; by default those of a few cities that lie on the grid.

    Raises:
        RecipeError: if a location is unknown or outside the grid.
    """

    def __init__(
        self, pairs: Pairs, channels: Sequence[Channel], leads: Sequence[int], locations: Sequence[str] | None = None
    ) -> None:
        self.pairs, self.channels, self.leads = pairs, tuple(channels), list(leads)
        grid = pairs.truth.grid
        self.locations = inside(grid) if locations is None else list(locations)
        self.points = nearest_points(self.locations, grid)
        self.names = [TRUTH, *pairs.forecasts]
        self.harmonics = _harmonics(grid)
        self.winds = _wind_channels(pairs.channels) if self.harmonics is not None else {}
        self.first, self.second, self.bin, self.distance = _distant_pairs(grid)
        self.gradients = _Gradients(grid)
        self.area = grid.area_weights[:, None] / grid.area_weights.sum() / grid.shape[1]

        cases = (len(self.names), len(self.leads), len(self.channels))
        self.count = np.zeros(cases[1:])
        self.origin = np.full(cases[1:], np.nan)
        self.powers = np.zeros((*cases, 4))
        self.gradient = np.zeros(cases)
        self.semivariance = np.zeros((*cases, self.distance.size))
        size = 0 if self.harmonics is None else self.harmonics.truncation + 1
        self.spectrum = np.zeros((*cases[:2], len(self.channels) + len(self.winds), size))
        self.energies = np.zeros((len(self.leads), len(self.winds)))
        self.values = np.full((*cases, len(self.locations), pairs.initial.size), np.nan, np.float32)

    def add(self, chunk: Chunk, where: Bool[Tensor, "initial lead channel lat lon"]) -> None:
        """Take a chunk into account."""
        complete = where.all(-1).all(-1).numpy()
        fields = [chunk.truth.values, *(forecast.values for forecast in chunk.forecasts.values())]
        for position, lead in enumerate(self.leads):
            if not chunk.leads.start <= lead < chunk.leads.stop:
                continue
            row = lead - chunk.leads.start
            for number, channel in enumerate(self.channels):
                index = self.pairs.channels.index(channel)
                chosen = complete[:, row, index]
                if chosen.any():
                    values = [field[:, row, index].double().numpy() for field in fields]
                    self._add(position, number, chosen, values, chunk.initial)
            for number, both in enumerate(self.winds.values()):
                layers = [self.pairs.channels.index(channel) for channel in both]
                usable = complete[:, row, layers].all(-1)
                self.energies[position, number] += usable.sum()
                for series, field in enumerate(fields):
                    first, second = (field[:, row, layer].double().numpy()[usable] for layer in layers)
                    energy = self._energy(first, second, rotational=both[0].name == ROTATION[0])
                    self.spectrum[series, position, len(self.channels) + number] += energy

    def _add(self, lead: int, channel: int, chosen: NDArray[np.bool_], values: Sequence[Array], initial: slice) -> None:
        here = (lead, channel)
        if np.isnan(self.origin[here]):  # Powers are taken about a value close to the mean, to lose no digits.
            self.origin[here] = (values[0][chosen][0] * self.area).sum()
        self.count[here] += chosen.sum()
        for series, everything in enumerate(values):
            fields = everything[chosen]
            cell = (series, *here)
            departure = fields - self.origin[here]
            self.powers[cell] += [(departure**order * self.area).sum() for order in (1, 2, 3, 4)]
            self.gradient[cell] += (self.gradients(fields) * self.area).sum()
            flat = fields.reshape(len(fields), -1)
            squares = ((flat[:, self.first] - flat[:, self.second]) ** 2).sum(0)
            self.semivariance[cell] += np.bincount(self.bin, squares, self.distance.size) / 2
            if self.harmonics is not None:
                self.spectrum[cell] += power(self.harmonics.analyse(fields)).sum(0)
            at_locations = np.where(chosen[:, None], everything[:, *self.points], np.nan)
            self.values[cell][:, initial] = at_locations.T

    def _energy(self, first: Array, second: Array, *, rotational: bool) -> Array:
        """Return kinetic energy by wavenumber, summed over cases (Lambert 1984, Atmos.-Ocean 22, 411)."""
        assert self.harmonics is not None
        if rotational:
            parts = (self.harmonics.analyse(first), self.harmonics.analyse(second))
        else:
            parts = self.harmonics.analyse_winds(first, second)
        total = power(parts[0]).sum(0) + power(parts[1]).sum(0)
        return np.asarray(-inverse_laplacian(self.harmonics.truncation) / 2 * total)

    def result(self) -> xr.Dataset:
        """Return what was gathered, with its coordinates."""
        cases = ("series", "map_lead_time", "map_channel")
        names = [*map(str, self.channels), *self.winds]
        counts = np.concatenate([self.count, self.energies], axis=1)
        with np.errstate(divide="ignore", invalid="ignore"):
            pairs = np.bincount(self.bin, minlength=self.distance.size)
            data: dict[str, Any] = {
                "moment": ((*cases, "statistic"), self._moments()),
                "semivariance": ((*cases, "distance"), self.semivariance / self.count[:, :, None] / pairs),
                "value_at_location": ((*cases, "location", "initial_time"), self.values),
                "wasserstein": (("forecast", *cases[1:], "location"), self._wasserstein()),
                "complete_fields": (cases[1:], self.count.astype(np.int64)),
            }
            if self.harmonics is not None:
                spectrum = self.spectrum / counts[:, :, None]
                data["spectrum"] = (("series", "map_lead_time", "spectrum_of", "wavenumber"), spectrum)
        grid = self.pairs.truth.grid
        coords: dict[str, Any] = {
            "series": self.names,
            "statistic": list(MOMENTS),
            "distance": ("distance", self.distance, {"units": "km"}),
            "location": self.locations,
            "location_latitude": ("location", grid.latitude[self.points[0]]),
            "location_longitude": ("location", grid.longitude[self.points[1]] % 360),
        }
        if self.harmonics is not None:
            coords |= {"spectrum_of": names, "wavenumber": np.arange(self.spectrum.shape[-1])}
        return xr.Dataset(data, coords)

    def _moments(self) -> Array:
        first, *raw = np.moveaxis(self.powers / self.count[:, :, None], -1, 0)
        variance = raw[0] - first**2
        third = raw[1] - 3 * first * raw[0] + 2 * first**3
        fourth = raw[2] - 4 * first * raw[1] + 6 * first**2 * raw[0] - 3 * first**4
        deviation = np.sqrt(variance)
        parts = (
            self.origin + first,
            deviation,
            third / deviation**3,
            fourth / variance**2 - 3,
            self.gradient / self.count,
        )
        return np.stack(parts, axis=-1)

    def _wasserstein(self) -> Array:
        truth, *forecasts = self.values
        distances = np.full((len(forecasts), *truth.shape[:-1]), np.nan)
        for where in np.ndindex(*distances.shape):
            expected, made = truth[where[1:]], forecasts[where[0]][where[1:]]
            there = np.isfinite(expected)
            if there.any():
                distances[where] = wasserstein_distance(made[there], expected[there])
        return distances


class _Gradients:
    """Magnitude of horizontal gradients by central differences, in units per 100 km."""

    def __init__(self, grid: Grid) -> None:
        self.periodic = grid.is_periodic
        metres = np.pi / 180 * EARTH_RADIUS / 1e5
        self.y = grid.latitude * metres
        longitude = grid.longitude
        if self.periodic:
            longitude = np.concatenate([longitude[-1:] - 360, longitude, longitude[:1] + 360])
        self.x = longitude * metres
        self.narrowing = np.cos(np.radians(grid.latitude)).clip(min=1e-6)[:, None]

    def __call__(self, fields: Float[np.ndarray, "case lat lon"]) -> Float[np.ndarray, "case lat lon"]:
        padded = np.concatenate([fields[..., -1:], fields, fields[..., :1]], axis=-1) if self.periodic else fields
        eastward = np.gradient(padded, self.x, axis=-1) / self.narrowing
        eastward = eastward[..., 1:-1] if self.periodic else eastward
        # On a pole itself every meridian meets, and the difference along the row has no meaning.
        eastward = np.where(self.narrowing > 1e-5, eastward, 0.0)
        return np.asarray(np.hypot(eastward, np.gradient(fields, self.y, axis=-2)))


def _harmonics(grid: Grid) -> SphericalHarmonics | None:
    """Return the transform on a globe; on a region there is none."""
    try:
        return spherical_harmonics(grid)
    except GridError:
        return None


def _wind_channels(channels: Sequence[Channel]) -> dict[str, tuple[Channel, Channel]]:
    """Return the pairs of channels that kinetic energy is made of, by its name."""
    there = set(channels)
    found: dict[str, tuple[Channel, Channel]] = {}
    for names in (WINDS, ROTATION):
        for channel in channels:
            both = (Channel(names[0], channel.level), Channel(names[1], channel.level))
            if channel == both[0] and both[1] in there:
                found.setdefault(str(Channel("kinetic_energy", channel.level)), both)
    return found


def _distant_pairs(grid: Grid) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64], Array]:
    """Draw pairs of grid points, evenly over the area, in 12 bins of distance from 25 to 1000 km.

    Grids too coarse for 25 km begin at their spacing and reach to eight times that, if it is more than 1000 km.

    Returns:
        Numbers of the first and of the second points, the bin of each pair, and each bin's mean distance in km.
    """
    generator = np.random.default_rng(0)
    spacing = np.radians(np.diff(grid.latitude).mean()) * EARTH_RADIUS / 1e3
    edges = np.geomspace(max(25.0, spacing), max(1000.0, 8 * spacing), 13)
    share = np.repeat(grid.area_weights, grid.shape[1])
    start = generator.choice(share.size, _PAIRS, p=share / share.sum())
    latitude = np.radians(grid.latitude)[start // grid.shape[1]]
    longitude = np.radians(grid.longitude)[start % grid.shape[1]]
    bearing = generator.uniform(0, 2 * np.pi, _PAIRS)
    arc = np.exp(generator.uniform(np.log(edges[0]), np.log(edges[-1]), _PAIRS)) * 1e3 / EARTH_RADIUS
    sine = np.sin(latitude) * np.cos(arc) + np.cos(latitude) * np.sin(arc) * np.cos(bearing)
    east = np.arctan2(np.sin(bearing) * np.sin(arc) * np.cos(latitude), np.cos(arc) - np.sin(latitude) * sine)
    aim = np.degrees(np.arcsin(sine.clip(-1, 1))), np.degrees(longitude + east)
    row, column = _nearest(grid, *aim)
    end = row * grid.shape[1] + column
    there = np.radians(grid.latitude[row]), np.radians(grid.longitude[column])
    haversine = np.sin((there[0] - latitude) / 2) ** 2
    haversine += np.cos(latitude) * np.cos(there[0]) * np.sin((there[1] - longitude) / 2) ** 2
    apart = 2 * EARTH_RADIUS / 1e3 * np.arcsin(np.sqrt(haversine.clip(0, 1)))
    bins = np.digitize(apart, edges) - 1
    usable = (bins >= 0) & (bins < 12)
    bins = bins[usable]
    occupied, bins = np.unique(bins, return_inverse=True)
    distance = np.bincount(bins, apart[usable]) / np.bincount(bins)
    assert distance.size == occupied.size
    return start[usable], end[usable], bins, distance


def _nearest(grid: Grid, latitude: Array, longitude: Array) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the rows and columns of the closest points; on a region those of its edge where a location lies beyond."""
    rows = np.searchsorted((grid.latitude[1:] + grid.latitude[:-1]) / 2, latitude)
    offset = longitude - grid.longitude[0]
    if grid.is_periodic:
        columns = np.rint(offset % 360 / (360 / grid.longitude.size)).astype(np.int64) % grid.longitude.size
    else:
        middle = (grid.longitude[1:] + grid.longitude[:-1]) / 2
        columns = np.searchsorted(middle, (offset + 180) % 360 - 180 + grid.longitude[0])
    return rows, columns
