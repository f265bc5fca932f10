"""Solar radiation at the top of the atmosphere, from the clock and the grid alone."""

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike

from etesian.core.channels import Channel
from etesian.core.clock import day_of_year, days_in_year, hour_of_day, sun_angles
from etesian.core.constants import SECONDS_PER_DAY, SECONDS_PER_HOUR, SOLAR_CONSTANT
from etesian.core.grid import Grid

SOLAR_RADIATION = Channel("toa_incident_solar_radiation")


def incident_solar_radiation(
    seconds: ArrayLike, grid: Grid, calendar: str = "proleptic_gregorian"
) -> Float[np.ndarray, "... lat lon"]:
    """Return the solar radiation that falls on the top of the atmosphere in the hour up to some times, in J m⁻².

    It is WeatherBench 2's and ERA5's `toa_incident_solar_radiation`: divided by 3600 s, the mean flux of the hour. The
    sun's declination, equation of time and distance are Spencer's Fourier series (Spencer 1971, Search 2 (5), 172),
    taken in the middle of the hour. Over the hour the cosine of the zenith angle is integrated exactly, from sunrise
    or to sunset where they fall into it. The solar constant is Kopp and Lean's (2011, Geophys. Res. Lett. 38, L01706).

    In every calendar the sun follows the data's own year: the first of January is the first of January, and the part of
    the year that has gone is counted in the calendar's mean length. So a year of 360 days has its four seasons, each a
    little shorter.

    Args:
        seconds: ends of the hours, of any shape, as `encode_time` gives them.
        grid: where.
        calendar: of the times.
    """
    middle = np.asarray(seconds, dtype=np.int64) - SECONDS_PER_HOUR // 2
    hour = hour_of_day(middle)
    angle = 2 * np.pi * (day_of_year(middle, calendar) - 1 + hour / 24) / days_in_year(calendar)
    declination, equation_of_time = (value[..., None] for value in sun_angles(angle))
    distance = (
        1.000110 + 0.034221 * np.cos(angle) + 0.001280 * np.sin(angle)
        + 0.000719 * np.cos(2 * angle) + 0.000077 * np.sin(2 * angle)
    )  # fmt: skip
    latitude = np.radians(grid.latitude)
    constant = np.sin(latitude) * np.sin(declination)
    varying = np.maximum(np.cos(latitude) * np.cos(declination), 1e-12)
    # Between minus and plus this hour angle the sun is up: all day or never where its cosine is beyond one.
    up = np.arccos(np.clip(-constant / varying, -1, 1))[..., None]
    noon = (hour * np.pi / 12 - np.pi)[..., None] + equation_of_time + np.radians(grid.longitude)
    noon = ((noon + np.pi) % (2 * np.pi) - np.pi)[..., None, :]
    light = np.zeros(np.broadcast_shapes(up.shape, noon.shape))
    for turn in (-2 * np.pi, 0.0, 2 * np.pi):
        begin, end = (np.clip(noon + turn + half, -up, up) for half in (-np.pi / 24, np.pi / 24))
        light += constant[..., None] * (end - begin) + varying[..., None] * (np.sin(end) - np.sin(begin))
    joules = SOLAR_CONSTANT * distance * SECONDS_PER_HOUR * 12 / np.pi
    return np.asarray(np.maximum(light, 0) * joules[..., None, None])


def radiation_moments(grid: Grid, calendar: str) -> tuple[float, float]:
    """Return mean and standard deviation of the incident solar radiation over a year of hours, in J m⁻².

    Every point counts the same, as in the statistics of a store. Over all hours longitudes see the same sun.
    """
    hours = np.arange(24) * SECONDS_PER_HOUR + np.arange(0, 360, 10)[:, None] * SECONDS_PER_DAY
    values = incident_solar_radiation(hours, Grid(grid.latitude, [0.0]), calendar)
    return float(values.mean()), float(values.std())
