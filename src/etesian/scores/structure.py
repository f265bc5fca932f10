"""What a root-mean-square error cannot see: spectra, semivariograms, distributions at cities, gradients."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import xarray as xr
from jaxtyping import Bool
from numpy.typing import NDArray
from torch import Tensor

from etesian.core.channels import Channel
from etesian.core.errors import RecipeError, suggest
from etesian.core.grid import Grid
from etesian.scores.pairs import ByInitialTime, Chunk, Pairs
from etesian.scores.registry import MapPair, collect, estimates, register_score, statistics_of
from etesian.scores.views import PAIRS, DistantPoints, Gradients, Values, View, Waves, WindWaves, waves

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
"""Locations by name, at which distributions are compared: latitude and longitude in degrees."""

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


def cities_inside(grid: Grid) -> list[str]:
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


Array = NDArray[np.float64]

TRUTH = "truth"

WINDS = ("u_component_of_wind", "v_component_of_wind")

ROTATION = ("vorticity", "divergence")

MOMENT_SCORES = ("mean", "standard_deviation", "skewness", "excess_kurtosis")

MOMENTS = tuple(name.replace("_", " ") for name in (*MOMENT_SCORES, "mean_gradient"))

_AT_ONCE = 2**21
"""Points that a view shows at once, about; it bounds the memory that it takes."""

SPECTRAL_SCORES = ("spectrum", "spectral_ratio")


@register_score("complete_fields", relative=True)
def wasserstein(transport: Tensor, complete_fields: Tensor) -> Tensor:
    """Return the distance of the distribution of a forecast's values from that of the truth's, at one point."""
    return transport / complete_fields


class Structure(ByInitialTime):
    """Gathers the structure of forecasts and truth from the chunks that are scored, for a few channels and leads.

    A field counts where the truth and all forecasts are complete, so that all are made of the same cases. The truth is
    one of the series, since a spectrum or a moment is that of one field. What is kept grows with the number of times,
    not with that of points.

    Args:
        pairs: what is scored.
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
        self.locations = cities_inside(grid) if locations is None else list(locations)
        self.points = nearest_points(self.locations, grid)
        self.names = [TRUTH, *pairs.forecasts]
        self.waves = waves(grid)
        self.winds = {} if self.waves is None else _wind_channels(pairs.channels, self.waves)
        self.distant = DistantPoints(grid)
        self.area = Values(grid)
        cases = (pairs.initial.size, len(self.names), len(self.leads))
        self.complete = np.zeros((cases[0], len(self.leads), len(self.channels)), dtype=bool)
        self.origin = self._origins()
        self.moments = _Seen(self.area, MOMENT_SCORES, (*cases, len(self.channels)))
        self.gradients = _Seen(Gradients(grid), ("mean_gradient",), (*cases, len(self.channels)))
        self.semivariance = _Seen(self.distant, ("semivariance",), (*cases, len(self.channels)))
        of = len(self.channels) + len(self.winds)
        self.spectra = None if self.waves is None else _Seen(self.waves, SPECTRAL_SCORES, (*cases, of))
        shape = (*cases[1:], len(self.channels), len(self.locations), pairs.initial.size)
        self.values = np.full(shape, np.nan, np.float32)

    def _origins(self) -> Array:
        """Return a number near the mean for each lead and channel, so that sums of powers lose no digits."""
        found = np.zeros(self.complete.shape[1:])
        for number, lead in enumerate(self.leads):
            position = self.pairs.position[:, lead]
            truth = self.pairs.truth.read(self.channels, time=position[position >= 0][:1]).astype(np.float64)
            for channel in range(len(self.channels) if truth.size else 0):
                values = self.area(truth[:, channel])
                there = values.isfinite()
                if there.any():
                    total = self.area.total(torch.where(there, values, 0.0)) / self.area.total(there.double())
                    found[number, channel] = float(total)
        return found

    def kept(self) -> list[tuple[NDArray[Any], int]]:
        """Return arrays, each with the number of its axis of initial times."""
        seen = (self.moments, self.gradients, self.semivariance, self.spectra)
        sums = [part for each in seen if each is not None for part in each.sums.values()]
        return [(self.complete, 0), (self.values, self.values.ndim - 1), *((part, 0) for part in sums)]

    def add(self, chunk: Chunk, where: Bool[Tensor, "initial lead channel lat lon"]) -> None:
        """Take a chunk into account."""
        complete = where.all(-1).all(-1).numpy()
        series = [chunk.truth.values, *(forecast.values for forecast in chunk.forecasts.values())]
        times = np.arange(self.pairs.initial.size)[chunk.initial]
        for position, lead in enumerate(self.leads):
            if not chunk.leads.start <= lead < chunk.leads.stop:
                continue
            row = lead - chunk.leads.start
            for number, channel in enumerate(self.channels):
                index = self.pairs.channels.index(channel)
                chosen = complete[:, row, index]
                if chosen.any():
                    fields = [(values[:, row, index].double().numpy()[chosen],) for values in series]
                    self._add((times[chosen], position, number), fields)
            for number, (view, both) in enumerate(self.winds.values(), start=len(self.channels)):
                layers = [self.pairs.channels.index(channel) for channel in both]
                chosen = np.asarray(complete[:, row, layers].all(-1))
                if chosen.any():
                    wind = [tuple(values[:, row, k].double().numpy()[chosen] for k in layers) for values in series]
                    assert self.spectra is not None
                    self.spectra.add((times[chosen], position, number), wind, view=view)

    def _add(self, at: "_Place", fields: Sequence[tuple[Array, ...]]) -> None:
        times, lead, channel = at
        self.complete[times, lead, channel] = True
        self.moments.add(at, fields, origin=self.origin[lead, channel])
        for seen in (self.gradients, self.semivariance, self.spectra):
            if seen is not None:
                seen.add(at, fields)
        for number, (values,) in enumerate(fields):
            self.values[number, lead, channel][:, times] = values[:, *self.points].T

    def result(self) -> xr.Dataset:
        """Return what was gathered with 95 % intervals, and its coordinates."""
        cases = ("series", "map_lead_time", "map_channel")
        data: dict[str, Any] = {"value_at_location": ((*cases, "location", "initial_time"), self.values)}
        data["complete_fields"] = cases[1:], self.complete.sum(0)
        moments, gradients = self.moments.estimates(), self.gradients.estimates()
        for end in ("", "_low", "_high"):
            parts = [*(moments[f"{name}{end}"] for name in MOMENT_SCORES), gradients[f"mean_gradient{end}"]]
            data[f"moment{end}"] = (*cases, "statistic"), np.concatenate(parts, axis=-1)
        data |= {name: ((*cases, "distance"), part) for name, part in self.semivariance.estimates().items()}
        dims = ("forecast", *cases[1:], "location")
        data |= {name: (dims, part) for name, part in self._distributions().items()}
        grid = self.pairs.truth.grid
        coords: dict[str, Any] = {
            "series": self.names,
            "statistic": list(MOMENTS),
            "distance": ("distance", self.distant.distance, {"units": "km"}),
            "location": self.locations,
            "location_latitude": ("location", grid.latitude[self.points[0]]),
            "location_longitude": ("location", grid.longitude[self.points[1]] % 360),
        }
        if self.spectra is not None:
            dims = (*cases[:2], "spectrum_of", "wavenumber")
            data |= {name: (dims, part) for name, part in self.spectra.estimates().items()}
            data["complete_spectra"] = (*cases[1:2], "spectrum_of"), self.spectra.count()
            coords |= {"spectrum_of": [*map(str, self.channels), *self.winds]}
            coords |= {"wavenumber": np.arange(self.spectra.view.size)}
        return xr.Dataset(data, coords)

    def _distributions(self) -> dict[str, Array]:
        """Return Wasserstein distances of the values at each location, and their intervals."""
        truth, *forecasts = self.values
        complete = np.broadcast_to(np.moveaxis(self.complete, 0, -1)[:, :, None], truth.shape)
        moved = np.stack([_transport(made, truth, complete) for made in forecasts])
        sums = {"transport": moved, "complete_fields": np.broadcast_to(complete, moved.shape).astype(np.float64)}
        found = estimates({name: np.moveaxis(part, -1, 0) for name, part in sums.items()}, ["wasserstein"], ())
        return {name: values for name, (_, values) in found.items()}


_Place = tuple[NDArray[np.int64], int, int]
"""Times, position of the lead, and number of the channel, or of what has a spectrum."""


class _Seen:
    """Sums of what a view shows, of every series by time: (time, series, lead, channel, group).

    Args:
        view: what is summed.
        names: of the scores that the sums are for.
        cases: the first four sizes.
    """

    def __init__(self, view: View, names: Sequence[str], cases: tuple[int, int, int, int]) -> None:
        self.view, self.names = view, names
        self.sums = {name: np.zeros((*cases, view.size)) for name in statistics_of(names)}

    def add(
        self, at: _Place, fields: Sequence[tuple[Array, ...]], *, origin: float = 0.0, view: View | None = None
    ) -> None:
        """Add the fields of every series, the truth first, at some times."""
        step = max(1, _AT_ONCE // max(fields[0][0][0].size, PAIRS))
        for first in range(0, len(at[0]), step):
            cases = slice(first, first + step)
            part = [tuple(values[cases] for values in own) for own in fields]
            self._add((at[0][cases], *at[1:]), part, origin, view or self.view)

    def _add(self, at: _Place, fields: Sequence[tuple[Array, ...]], origin: float, view: View) -> None:
        times, lead, channel = at
        truth = view(*fields[0])
        for series, own in enumerate(fields):
            made = view(*own) if series else truth
            use = torch.ones_like(made, dtype=torch.bool)
            pair = MapPair(made, truth, use, view, (made - truth).square(), origin=origin)
            for name, part in collect(pair, self.sums).items():
                self.sums[name][times, series, lead, channel] = part.numpy()

    def count(self) -> NDArray[np.int64]:
        """Return how many maps of each series were added, (lead, channel)."""
        return np.asarray(self.sums["maps"][:, 0, ..., 0].sum(0).astype(np.int64))

    def estimates(self) -> dict[str, Array]:
        """Return scores and the ends of their intervals, (series, lead, channel, group)."""
        found: dict[str, Array] = {}
        shape = next(iter(self.sums.values())).shape[1:]
        # One by one, so that what is worked out on the way stays small.
        for lead, channel in np.ndindex(*shape[1:3]):
            sums = {name: part[:, :, lead, channel] for name, part in self.sums.items()}
            for name, (_, values) in estimates(sums, self.names, ()).items():
                found.setdefault(name, np.empty(shape))[:, lead, channel] = values
        return found


def _wind_channels(channels: Sequence[Channel], view: Waves) -> dict[str, tuple[WindWaves, tuple[Channel, Channel]]]:
    """Return the pairs of channels that kinetic energy is made of, by its name, with their view."""
    there = set(channels)
    found: dict[str, tuple[WindWaves, tuple[Channel, Channel]]] = {}
    for names in (WINDS, ROTATION):
        winds = WindWaves(view.harmonics, rotational=names == ROTATION)
        for channel in channels:
            both = (Channel(names[0], channel.level), Channel(names[1], channel.level))
            if channel == both[0] and both[1] in there:
                found.setdefault(str(Channel("kinetic_energy", channel.level)), (winds, both))
    return found


def _transport(made: NDArray[np.float32], truth: NDArray[np.float32], complete: NDArray[np.bool_]) -> Array:
    """Return what each time adds to the distance of two distributions: h(truth) − h(forecast) (Kantorovich's duality).

    The slope of h is 1 where more of the forecasts than of the truth lie below, −1 where fewer do; the mean over times
    is then the integral of the difference of both distributions. The last axis is time.
    """
    moved = np.zeros(made.shape)
    for at in np.ndindex(*made.shape[:-1]):
        there = complete[at]
        if not there.any():
            continue
        ours, theirs = made[at][there].astype(np.float64), truth[at][there].astype(np.float64)
        levels = np.unique(np.concatenate([ours, theirs]))
        below = [np.searchsorted(np.sort(part), levels[:-1], side="right") for part in (ours, theirs)]
        rise = np.concatenate([[0.0], np.cumsum(np.sign(below[0] - below[1]) * np.diff(levels))])
        moved[at][there] = rise[np.searchsorted(levels, theirs)] - rise[np.searchsorted(levels, ours)]
    return moved
