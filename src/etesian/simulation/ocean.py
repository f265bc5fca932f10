"""Daily sea surface temperature of an idealised sea, with its clouds and without."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
import xarray as xr
from jaxtyping import Bool, Float
from numpy.typing import NDArray
from rich.progress import track
from scipy import fft, ndimage

from etesian.core.channels import CATALOGUE
from etesian.core.clock import decode_time, parse_time, year_phase
from etesian.core.constants import EARTH_RADIUS, SECONDS_PER_DAY
from etesian.core.dataset import PLANET, channels_of
from etesian.core.errors import RecipeError
from etesian.core.grid import Grid
from etesian.core.outputs import claim
from etesian.core.resumable import is_finished, plan_text, work_folder, write_store
from etesian.files.open import field, open_store
from etesian.simulation.clouds import CloudLibrary, Map, Mask, RandomField, moving_clouds

SST = "sea_surface_temperature"

START_YEAR = 2001

SPINUP_DAYS = 180

_KM_PER_DAY = 86.4
"""One metre per second."""

_EDDY = 2 * np.pi / 300
"""Wavenumber of the most energetic eddies, rad km⁻¹."""

_EDDY_SPEED, _JET_SPEED, _DRIFT = 0.15 * _KM_PER_DAY, 0.35 * _KM_PER_DAY, 0.04 * _KM_PER_DAY

_RELAXATION_DAYS = 60.0

_HEATING = 0.06
"""Root mean square of the heating by weather, K a day."""

_DIFFUSIVITY = 5.0
"""km² a day (58 m² s⁻¹)."""

Calendar = Literal["standard", "360_day", "noleap"]


def simulate_ocean(
    path: str,
    *,
    truth: str | None = None,
    years: int = 6,
    points: int = 96,
    resolution: float = 0.25,
    cloud: float = 0.7,
    clouds: str | None = None,
    noise: float = 0.1,
    land: float = 0.2,
    calendar: Calendar = "standard",
    seed: int = 0,
    overwrite: bool = False,
) -> None:
    """Simulate daily sea surface temperature as a satellite sees it, with clouds and noise, and the truth beside it.

    Eddies (a random streamfunction with the spectrum of geostrophic turbulence, drifting westward, living for days to
    weeks) and a jet stir the temperature of a sea that is warm in the south and relaxes to its mean, which makes
    fronts and filaments; weather heats and cools it; on top comes a seasonal cycle that varies in space. Currents do
    not feel the coast. Both stores hold `sea_surface_temperature` in K and `land_sea_mask`, missing values are NaN,
    and `etesian prepare` takes both. The same seed gives the same stores. Years begin with 2001.

    Args:
        path: the Zarr store to write what is observed to.
        truth: the Zarr store to write the gap-free truth to; default beside the other, its name ending in `_truth`.
        years: whole years of daily fields.
        points: rows and columns of the grid.
        resolution: of the grid, degrees.
        cloud: mean share of the sea under clouds; it varies from day to day, from clear to overcast.
        clouds: take the shapes of clouds from the gaps of this data set instead, each day's drawn at random.
        noise: standard deviation of the measurements' error, K; the truth has none.
        land: share of the region that is land.
        calendar: of the dates.
        seed: of everything that is random.
        overwrite: replace stores of other settings that are there already.

    Raises:
        RecipeError: if a setting is impossible.
        DataError: if something else is at the paths and not to be overwritten, or the clouds cannot be taken.
    """
    if years < 1 or not 8 <= points <= 1024 or not 0 < resolution * points <= 60:
        raise RecipeError(
            f"years = {years} must be at least 1, points = {points} from 8 to 1024 and resolution = {resolution:g}° "
            "such that the region is at most 60° wide"
        )
    if not 0 <= land < 1 or noise < 0:
        raise RecipeError(f"land = {land:g} must be a share from 0 to below 1 and noise = {noise:g} at least 0")
    seen_through = [] if clouds is None else [clouds]
    observed = claim(path, "fields", seen_through, overwrite=overwrite)
    beside = observed.with_name(f"{observed.stem}_truth{observed.suffix}")
    complete = claim(truth or beside, "fields", seen_through, overwrite=overwrite)
    if complete.resolve() == observed.resolve():
        raise RecipeError(f"truth = {truth} is where the observations go; name another place")
    plan: dict[str, Any] = {
        "years": years,
        "points": points,
        "resolution": resolution,
        "land": land,
        "calendar": calendar,
        "seed": seed,
    }
    seen_plan = plan | {"cloud": cloud if clouds is None else None, "clouds": clouds, "noise": noise}
    finished = [
        is_finished(complete, plan, overwrite=overwrite),
        is_finished(observed, seen_plan, overwrite=overwrite),
    ]
    if all(finished):
        return
    sea = Sea(points, resolution, land, seed)
    first, last = (parse_time(str(START_YEAR + year), calendar) for year in (0, years))
    seconds = np.arange(first, last, SECONDS_PER_DAY)
    masks = _masks(sea, cloud, clouds, seed)
    error = np.random.default_rng((seed, 2))
    values = np.empty((len(seconds), *sea.grid.shape), dtype=np.float32)
    gappy = np.empty_like(values)
    for day, temperature in enumerate(
        track(sea.days(seconds, calendar), "Simulating the sea", total=len(seconds), transient=True)
    ):
        values[day] = temperature
        measured = temperature + noise * error.standard_normal(temperature.shape)
        gappy[day] = np.where(next(masks), np.nan, measured)
    times = decode_time(seconds, calendar)
    if not finished[0]:
        _write(complete, sea, times, values, plan, "Temperature of a simulated sea, complete")
    if not finished[1]:
        _write(observed, sea, times, gappy, seen_plan, "Temperature of a simulated sea, as seen between clouds")


def _masks(sea: "Sea", cloud: float, clouds: str | None, seed: int) -> Iterator[Mask]:
    random = np.random.default_rng((seed, 1))
    if clouds is None:
        yield from moving_clouds(random, sea.grid.shape, sea.spacing, cloud)
        return
    dataset = open_store(clouds)
    library = CloudLibrary.of(field(dataset, channels_of(dataset)[0]).load())
    while True:
        yield library.draw(random, sea.grid.shape)


class Sea:
    """A square of sea, with some land, whose surface temperature is stirred.

    Args:
        points: rows and columns.
        resolution: degrees.
        land: share that is land.
        seed: of the coast and of all motion.

    Attributes:
        grid: centred on 38°N.
        spacing: of rows and columns, km.
        land: where there is land.
    """

    def __init__(self, points: int, resolution: float, land: float, seed: int) -> None:
        offset = (np.arange(points) - (points - 1) / 2) * resolution
        self.grid = Grid(38 + offset, 312 + offset)
        degree = np.radians(1) * EARTH_RADIUS / 1000
        self.spacing = resolution * degree, resolution * degree * float(np.cos(np.radians(38)))
        self.random = np.random.default_rng((seed, 0))
        self.land = self._coast(land)

    def _coast(self, share: float) -> Bool[np.ndarray, "lat lon"]:
        rough = self._smooth(800, 2.5)
        height = rough - 3 * np.linspace(0, 1, self.grid.shape[1]) ** 0.7
        if share == 0:
            return np.zeros(self.grid.shape, dtype=bool)
        return np.asarray(height > np.quantile(height, 1 - share))

    def _smooth(self, scale: float, slope: float) -> Map:
        """Return a random field of the region without waves much longer than a scale in km."""
        outer = 2 * np.pi / scale
        shape = (2 * self.grid.shape[0], 2 * self.grid.shape[1])
        whole = RandomField(
            self.random, shape, self.spacing, power=lambda k: (1 + (k / outer) ** 2) ** -slope, memory=np.ones_like
        )
        return whole.values()[: self.grid.shape[0], : self.grid.shape[1]]

    def days(self, seconds: NDArray[np.int64], calendar: str) -> Iterator[Float[np.ndarray, "lat lon"]]:
        """Yield the temperature of one day after another in K, NaN on land."""
        rows, columns = self.grid.shape
        north = (self.grid.latitude - self.grid.latitude[0]) / np.ptp(self.grid.latitude)
        amplitude = 3.0 + 2.0 * north[:, None] + 0.7 * self._smooth(1500, 2)
        lag = 2 * np.pi * (220 + 12 * self._smooth(1500, 2)) / 365
        phase = 2 * np.pi * year_phase(seconds, calendar)
        stirred = self._stirred()
        for _ in range(SPINUP_DAYS):
            next(stirred)
        for angle in phase:
            season = amplitude * (np.cos(angle - lag) + 0.15 * np.cos(2 * (angle - lag)))
            temperature = 291 + next(stirred)[:rows, :columns] + season
            yield np.where(self.land, np.nan, temperature)

    def _stirred(self) -> Iterator[Map]:
        """Yield the temperature without its seasonal cycle, about its mean, on a plane wider than the region."""
        shape = tuple(fft.next_fast_len(size * 4 // 3, real=True) for size in self.grid.shape)
        wide = (shape[0], shape[1])
        eddies = RandomField(
            self.random,
            wide,
            self.spacing,
            power=lambda k: (1 + (k / _EDDY) ** 2) ** -3,
            memory=lambda k: 40 * (1 + (k / _EDDY) ** 2) ** (-1 / 3),
        )
        speed = np.sqrt(sum(np.mean(eddies.of(1j * k * eddies.waves) ** 2) for k in (eddies.north, eddies.east)))
        heating = RandomField(
            self.random,
            wide,
            self.spacing,
            power=lambda k: (1 + (k * 600 / 2 / np.pi) ** 2) ** -3,
            memory=lambda k: np.full_like(k, 5.0),
        )
        place = np.indices(wide, dtype=np.float64)
        background, jet = self._mean_state(wide[0])
        wavenumber = np.hypot(eddies.north, eddies.east)
        smooth = np.exp(-(_DIFFUSIVITY * wavenumber**2) - 1 / _RELAXATION_DAYS)
        anomaly = np.zeros(wide)
        while True:
            eddies.advance(1.0, (0.0, -_DRIFT))
            flow = np.stack(
                [
                    eddies.of(1j * eddies.east * eddies.waves) * _EDDY_SPEED / speed,
                    eddies.of(-1j * eddies.north * eddies.waves) * _EDDY_SPEED / speed + jet[:, None],
                ]
            )
            shift = flow / np.array(self.spacing)[:, None, None]
            halfway = place - shift / 2
            shift = np.stack([ndimage.map_coordinates(part, halfway, order=1, mode="grid-wrap") for part in shift])
            source = place - shift
            carried = ndimage.map_coordinates(anomaly, source, order=3, mode="grid-wrap")
            # The mean state has a gradient across the plane, which does not close on itself.
            carried += np.interp(source[0], np.arange(-8, wide[0] + 8), background) - background[8:-8, None]
            heating.advance(1.0)
            anomaly = fft.irfft2(fft.rfft2(carried) * smooth, wide) + _HEATING * heating.values()
            yield anomaly + background[8:-8, None]

    def _mean_state(self, rows: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return the mean temperature about the region's, with eight rows beyond each end, and the jet's speed."""
        kilometres = (np.arange(-8, rows + 8) - self.grid.shape[0] / 2) * self.spacing[0]
        front = -2.0 * np.tanh(kilometres / 110)
        jet = _JET_SPEED / np.cosh(kilometres[8:-8] / 80) ** 2
        return -0.0032 * kilometres + front, jet


def _write(
    target: Path, sea: Sea, times: NDArray[Any], values: NDArray[np.float32], plan: dict[str, Any], title: str
) -> None:
    known = CATALOGUE[SST]
    dataset = xr.Dataset(
        {
            SST: (
                ("time", "latitude", "longitude"),
                values,
                {"units": known.units, "standard_name": known.standard_name},
            ),
            "land_sea_mask": (
                ("latitude", "longitude"),
                sea.land.astype(np.float32),
                {"units": "1", "standard_name": "land_binary_mask"},
            ),
        },
        {
            "time": ("time", times, {"standard_name": "time"}),
            "latitude": ("latitude", sea.grid.latitude, {"standard_name": "latitude", "units": "degrees_north"}),
            "longitude": ("longitude", sea.grid.longitude, {"standard_name": "longitude", "units": "degrees_east"}),
        },
        {"Conventions": "CF-1.11", "title": title, PLANET: "simulated", "plan": plan_text(plan)},
    )
    encoding = {"time": {"units": "seconds since 1970-01-01", "dtype": "int64"}, SST: {"chunks": (32, *sea.grid.shape)}}
    with work_folder(target, "fields") as place:
        place.begin(plan)
        write_store(dataset, place.result, encoding=encoding)
        place.finish()
