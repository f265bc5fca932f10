"""The clock inside of a network: computed by the host, or, where a network is exported, by the network itself.

An exported network is given its initial time as a tensor. The frames that it is traced with count from 0, and what the
clock says follows from both.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from etesian.core.clock import YEAR_DAYS, seasonal_terms, sun_angles
from etesian.core.constants import SECONDS_PER_DAY
from etesian.core.device import sent
from etesian.core.errors import RecipeError
from etesian.core.grid import Grid

_ERA, _BEFORE_1970 = 146_097, 719_468
"""Days of 400 Gregorian years, and days from 0000-03-01, when years are best counted from, to 1970-01-01."""


_ANGLES = 2 * np.pi * np.arange(7) / 7

_SUN = np.linalg.solve(
    np.stack([np.ones(7), *(f(n * _ANGLES) for n in (1, 2, 3) for f in (np.cos, np.sin))], axis=-1),
    np.stack(sun_angles(_ANGLES), axis=-1),
)
"""The Fourier series of `core.clock.sun_angles`, whose three waves seven of its values tell."""


@dataclass
class Initial:
    """The initial time of each sample of an exported network.

    Attributes:
        time: seconds since 1970-01-01.
        asked: whether the clock has been looked at.
    """

    time: Int64[Tensor, " batch"]
    asked: bool = False


_INITIAL: ContextVar[Initial | None] = ContextVar("initial", default=None)


@contextmanager
def counted_from(initial: Initial) -> Iterator[None]:
    """Let the times of frames count from an initial time that a tensor holds."""
    token = _INITIAL.set(initial)
    try:
        yield
    finally:
        _INITIAL.reset(token)


def seasons(time: Int64[Tensor, "batch time"], calendar: str, like: Tensor) -> Float[Tensor, "batch time 5"]:
    """Return the terms of a seasonal cycle (`seasonal_terms`) where another tensor is, in its type."""
    if (seconds := _traced(time)) is None:
        return sent(seasonal_terms(time.numpy(), calendar), like)
    return _terms(_year_angle(seconds, calendar)).to(like.dtype)


def clock_inside(time: Int64[Tensor, " batch"], grid: Grid, calendar: str) -> Float[Tensor, "batch 7 lat lon"] | None:
    """Return what the clock tells in an exported network, as WeatherMesh takes it; None anywhere else.

    Cosine of the solar zenith angle (`core.clock.cosine_solar_zenith`), cosine and sine of the time of day, two
    harmonics of the year.
    """
    if (seconds := _traced(time[:, None])) is None:
        return None
    year = _year_angle(seconds[:, 0], calendar)
    day = 2 * torch.pi * (seconds[:, 0] % SECONDS_PER_DAY).float() / SECONDS_PER_DAY
    declination, equation_of_time = (_waves(year) @ torch.tensor(_SUN, dtype=torch.float32)).unbind(-1)
    latitude, longitude = (
        torch.tensor(np.radians(axis), dtype=torch.float32) for axis in (grid.latitude, grid.longitude)
    )
    hour_angle = (day - torch.pi + equation_of_time)[:, None, None] + longitude
    tilt, north = declination[:, None, None], latitude[:, None]
    sun = north.sin() * tilt.sin() + north.cos() * tilt.cos() * hour_angle.cos()
    terms = torch.cat([torch.stack([day.cos(), day.sin()], dim=-1), _terms(year)[:, 1:]], dim=-1)
    return torch.cat([sun[:, None], terms[:, :, None, None].expand(-1, -1, *grid.shape)], dim=1)


def _traced(time: Int64[Tensor, "batch time"]) -> Int64[Tensor, "batch time"] | None:
    if (initial := _INITIAL.get()) is None:
        return None
    initial.asked = True
    return initial.time[:, None] + torch.from_numpy(time.numpy())


def _terms(angle: Tensor) -> Tensor:
    return _waves(angle)[..., :5]


def _waves(angle: Tensor) -> Tensor:
    waves = [f(n * angle) for n in (1, 2, 3) for f in (torch.cos, torch.sin)]
    return torch.stack([torch.ones_like(angle), *waves], dim=-1)


def _year_angle(seconds: Tensor, calendar: str) -> Tensor:
    """Return the phase of the year as an angle; see `core.clock.year_phase`."""
    days, part = torch.div(seconds, SECONDS_PER_DAY, rounding_mode="floor"), seconds % SECONDS_PER_DAY
    if calendar in YEAR_DAYS:
        day, length = days % YEAR_DAYS[calendar], YEAR_DAYS[calendar]
    elif calendar == "proleptic_gregorian":
        day, length = _gregorian_day(days), 366
    else:
        raise RecipeError(f"an exported network knows years of the Gregorian calendar or of one length, not {calendar}")
    return 2 * torch.pi * (day.float() + part.float() / SECONDS_PER_DAY) / length


def _gregorian_day(days: Tensor) -> Tensor:
    """Return the day of the year, from 0, by whole numbers alone, from days since 1970-01-01."""

    def whole(number: Tensor, by: int) -> Tensor:
        return torch.div(number, by, rounding_mode="floor")

    within = (days + _BEFORE_1970) % _ERA
    year = whole(within - whole(within, 1460) + whole(within, 36524) - whole(within, _ERA - 1), 365)
    since_march = within - (365 * year + whole(year, 4) - whole(year, 100))
    is_leap = (year % 4 == 0) & ((year % 100 != 0) | (year == 0))
    return torch.where(since_march >= 306, since_march - 306, since_march + 59 + is_leap.long())
