"""Random fields in space and time, the same wherever they are evaluated, and what kriging of them leaves unknown.

By Matheron's rule (Journel and Huijbregts, Mining Geostatistics, 1978, ch. VII) what kriging misses of a random field
has the distribution of what it misses of the truth: the values that were observed do not enter.
"""

import math
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Int64
from scipy.special import ellipeinc
from scipy.stats import chi2
from torch import Tensor

from etesian.core.constants import EARTH_RADIUS
from etesian.core.grid import Grid
from etesian.networks.kriging import CHUNK, LocalKriging, Observations

WAVES = 512
"""Of which each part of a random field is made."""

_AT_ONCE = 64

_FIELD, _NOISE = 1, 2
"""What random numbers are for, by the beginning of their seed."""


class Draw(NamedTuple):
    """Which random field is meant: a member of an ensemble with a seed, and a channel of it."""

    seed: int
    member: int
    channel: int


def random_field(
    draw: Draw,
    kernels: Float[np.ndarray, "kernel 4"],
    grid: Grid,
    days: Float[np.ndarray, " time"],
    points: Int64[np.ndarray, " point"],
    *,
    freedom: float = 3.0,
) -> Float32[Tensor, "time point"]:
    """Return a Gaussian random field of mean 0 whose covariance is a sum of kernels, at some points and times.

    A sum of waves with normal amplitudes, whose wave vectors are drawn from the kernel's spectrum: for a Matérn
    function of order ν in any number of dimensions that is Student's t with 2ν degrees of freedom, for a Gaussian a
    Gaussian. Sizes of wave vectors are stratified, so that every field has small and large structures in proportion.

    Args:
        draw: two fields of the same draw are the same field, whatever their points and times.
        kernels: s², L in km, τ in days, and how many times L the length is from south to north; see `LocalKriging`.
        grid: of the points.
        days: when.
        points: their numbers in the grid, row by row.
        freedom: 2ν; infinite for Gaussian kernels.
    """
    field = torch.zeros(len(days), len(points))
    for number, (variance, length, duration, stretch) in enumerate(kernels):
        random = np.random.default_rng((_FIELD, *draw, number))
        rank = (np.arange(WAVES) + random.random(WAVES)) / WAVES
        waves = random.standard_normal((WAVES, 6))
        if math.isfinite(freedom):
            waves *= np.sqrt(freedom / chi2.ppf(rank, freedom))[:, None]
        a, b = random.standard_normal((2, WAVES)) * np.sqrt(variance / WAVES)
        phase = np.outer(days / duration, waves[:, 5])
        cos, sin = np.cos(phase), np.sin(phase)
        in_time = torch.from_numpy(np.stack([a * cos + b * sin, b * cos - a * sin])).float()
        places = embedded(grid, stretch)[points] / length
        for first in range(0, WAVES, _AT_ONCE):
            some = slice(first, first + _AT_ONCE)
            # Whole turns are taken away while there are digits.
            angle = torch.from_numpy((places @ waves[some, :5].T) % (2 * np.pi)).float().T
            field.addmm_(in_time[0, :, some], angle.cos()).addmm_(in_time[1, :, some], angle.sin())
    return field


def embedded(grid: Grid, stretch: float) -> Float[np.ndarray, "point 5"]:
    """Return points in a space, km, in which near ones are as far apart as counts: northward divided by `stretch`.

    With latitude φ and longitude λ it is the surface (r cos λ, r sin λ, q cos kλ, q sin kλ, z)(φ). Up to a stretch of
    1, q is 0 and z'² = 1/s² − sin² φ, whose integral is elliptic; beyond it the circles of latitude are wound, k times
    for a part of their length, so that r' and q' are small enough to leave room for a z.
    """
    east, north = np.radians(grid.longitude), np.radians(grid.latitude)
    turns = math.ceil(2 * stretch)
    share = max(0.0, (1 - stretch**-2) / (1 - turns**-2)) if stretch > 1 else 0.0
    height = np.sin(north) / stretch if stretch > 1 else ellipeinc(north, stretch**2) / stretch
    axes = []
    for often, size in ((1, math.sqrt(1 - share)), (turns, math.sqrt(share) / turns)):
        axes += [size * np.outer(np.cos(north), wave(often * east)) for wave in (np.cos, np.sin)]
    axes.append(np.broadcast_to(height[:, None], grid.shape))
    return EARTH_RADIUS / 1000 * np.stack(axes, axis=-1).reshape(-1, 5)


def white_noise(draw: Draw, time: int, shape: tuple[int, int]) -> Float[np.ndarray, "lat lon"]:
    """Return normals of a time on a whole grid."""
    return np.random.default_rng((_NOISE, *draw, time % 2**64)).standard_normal(shape)


@torch.no_grad()
def standard_departures(
    kriging: LocalKriging,
    channel: int,
    fields: Float[Tensor, "time lat lon member"],
    noise: Float[Tensor, "time lat lon member"],
    valid: Bool[Tensor, "time lat lon"],
    days: Float[Tensor, " time"],
    grid: Grid,
    asked: Bool[np.ndarray, "time lat lon"],
) -> Float[Tensor, "time lat lon member"]:
    """Return what kriging misses of random fields, over the standard deviation that it states for a factor of 1.

    Args:
        kriging: that estimates the fields from their observations.
        channel: whose covariance the fields have.
        fields: the random fields.
        noise: of their observations.
        valid: where there is an observation.
        days: when, in days.
        grid: of the fields.
        asked: points that are wanted; what lies far from them is 0.
    """
    observations = Observations(fields + noise, valid, days, grid)
    blocks = observations.blocks(kriging.block, asked)
    found = torch.zeros_like(fields).flatten(0, 2)
    if observations.count == 0:
        return fields / kriging.kernels()[channel, :, 0].sum().sqrt().to(fields)
    for first in range(0, len(blocks), CHUNK):
        some = blocks[first : first + CHUNK]
        place = torch.from_numpy(some).to(fields.device)
        problem = observations.problem(some, kriging.neighbors, kriging.paces()[channel])
        truth = fields.flatten(0, 2)[place].double()
        found[place.flatten()] = kriging.departures(problem, channel, truth).flatten(0, 1).to(found)
    return found.view_as(fields)
