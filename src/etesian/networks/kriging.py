"""Ordinary kriging in space and time from near and far observations, with a covariance that is learned."""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from numpy.typing import NDArray
from scipy.ndimage import maximum_filter
from scipy.spatial import KDTree
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from etesian.core.constants import EARTH_RADIUS
from etesian.core.device import sent
from etesian.core.grid import Grid

Maps = Float[Tensor, "batch time channel lat lon"]

GAIN = 10.0
"""By which the logarithms of kernels' sizes learn faster than other parameters at the same learning rate."""

_SCATTER = np.array([0.5497004779, 0.8191725134, 0.6710436067])
"""Irrational steps by day, row and column that scatter evenly whatever share of the observations is taken."""

CHUNK = 32
"""Blocks that are estimated at once."""

REACH = (3, 12)
"""Times, one by each convolution of a network, and points each way by which what is kriged reaches its answers."""

_TRACE = 1e-6
"""Of noise, beside the variance: it keeps what is smooth and dense solvable."""


class Kriged(NamedTuple):
    """Fields with the variance of their error."""

    values: Maps
    variance: Maps


class Problem(NamedTuple):
    """Blocks of points and what each is to be estimated from.

    Places are (kilometres east, north and up, days) from the block's middle, along straight lines.

    Attributes:
        observed: places of the observations.
        values: of the observations, 0 where there are fewer; of several fields, with an axis for them.
        present: where there is an observation at all.
        points: places that are asked for.
    """

    observed: Float[Tensor, "block near 4"]
    values: Float[Tensor, "block near *field"]
    present: Bool[Tensor, "block near"]
    points: Float[Tensor, "block point 4"]


class Estimates(NamedTuple):
    """What is expected at the points of blocks, the variance of its error, and the factor in the variances there."""

    mean: Float[Tensor, "block point"]
    variance: Float[Tensor, "block point"]
    scale: Float[Tensor, " block"]


class _White(NamedTuple):
    """The local means of fields, and what observations and points come to where observations are independent.

    Attributes:
        mean: of each field around a block.
        departure: of the observations from it.
        points: covariances of points with the observations.
        variance: of the estimates' errors, for a factor of 1.
    """

    mean: Float[Tensor, "block field"]
    departure: Float[Tensor, "block near field"]
    points: Float[Tensor, "block near point"]
    variance: Float[Tensor, "block point"]


class LocalKriging(nn.Module):
    """The best linear unbiased estimate of every point from the observations around it.

    The covariance between places a distance d and a time t apart is a sum of Matérn functions of order 3/2,
    Σ s² (1 + √3 h) exp(−√3 h) with h² = d²/L² + t²/τ²; distances are chords of the sphere, and what lies north or south
    counts as if it were 1/`stretch` times as far. Observations have uncorrelated noise, and the mean around a block of
    points is unknown, so that its error counts, too (ordinary kriging). The points of a block share their observations:
    the nearest ones, and the nearest ones among ever smaller shares of all, which reach further out. What is near
    depends on the covariance.

    Some regions and days vary more than others. The covariance and the noise are therefore known but for a factor, to
    which the n observations around a block add what they tell: variances are multiplied by
    (certainty + yᵀK⁻¹y) / (certainty + n − 1), those of a Student-t process (Shah et al. 2014, arXiv 1402.4306), where
    yᵀK⁻¹y is what the observations' departures from their mean would on average sum up to n − 1 in. What is expected
    does not depend on the factor.

    Args:
        channels: of the fields, each with a covariance of its own.
        kernels: to begin with: s², L in km and τ in days of each function, of normalised fields.
        noise: standard deviation of an observation's error to begin with.
        certainty: how many observations the variances count as that are known beforehand, to begin with; infinitely
            many where all regions and days vary alike.
        neighbors: share of the observations to look among, and how many are taken, for each reach.
        block: rows and columns of a block.

    Attributes:
        asked: points that are wanted, None for all; blocks that reach none are left out, as if nothing were observed.

    Raises:
        ValueError: if a parameter of the covariance is not positive.
    """

    fitted: Tensor
    asked: Bool[Tensor, "batch time lat lon"] | None = None

    def __init__(
        self,
        channels: int,
        kernels: Sequence[tuple[float, float, float]],
        *,
        noise: float = 0.1,
        certainty: float = math.inf,
        neighbors: Sequence[tuple[float, int]] = ((1.0, 80), (0.15, 16), (0.02, 12)),
        block: int = 4,
    ) -> None:
        super().__init__()
        if min(noise, certainty, *(value for kernel in kernels for value in kernel)) <= 0:
            raise ValueError(
                "variances, lengths, times, noise and certainty must be positive, unlike "
                f"{list(kernels)}, {noise:g}, {certainty:g}"
            )
        start = torch.tensor([tuple(kernel) for kernel in kernels], dtype=torch.float32).log() / GAIN
        self.logarithms = nn.Parameter(start.repeat(channels, 1, 1))
        self.noise_logarithm = nn.Parameter(torch.full((channels,), float(np.log(noise))) / GAIN)
        self.stretch_logarithms = nn.Parameter(torch.zeros(channels, len(start)))
        self.doubt = nn.Parameter(torch.full((channels,), certainty**-0.5))
        self.neighbors, self.block = tuple((float(share), int(count)) for share, count in neighbors), block
        self.register_buffer("fitted", torch.tensor(False))

    def kernels(self) -> Float[Tensor, "channel kernel 3"]:
        """Return s², L (km) and τ (days), as they were given."""
        return (GAIN * self.logarithms.double()).exp()

    def noise(self) -> Float[Tensor, " channel"]:
        """Return the standard deviations of the observations' errors."""
        return (GAIN * self.noise_logarithm.double()).exp()

    def stretch(self) -> Float[Tensor, "channel kernel"]:
        """Return how many times as long as from west to east each function is from south to north."""
        return (GAIN * self.stretch_logarithms.double()).exp()

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        """Load weights; those of earlier versions were the same north and east, and had variances without a factor."""
        for name, parameter in (("stretch_logarithms", self.stretch_logarithms), ("doubt", self.doubt)):
            state_dict.setdefault(prefix + name, torch.zeros_like(parameter))
        super()._load_from_state_dict(state_dict, prefix, *args)

    def forward(
        self,
        values: Maps,
        valid: Bool[Tensor, "batch time channel lat lon"],
        days: Float[Tensor, "batch time"],
        grid: Grid,
    ) -> Kriged:
        """Estimate the fields of all times; 0 with the whole variance where nothing was observed in all of them.

        Args:
            values: anything where they are not valid.
            valid: where there is an observation.
            days: when, in days.
            grid: of the fields.
        """
        # What is near is looked for by the host, which waits once for all masks.
        masks = valid if self.asked is None else torch.cat([valid, self.asked.unsqueeze(2)], dim=2)
        seen, paces = masks.cpu(), self.paces()
        asked = None if self.asked is None else _reached(seen[:, :, -1].numpy(), periodic=grid.is_periodic)
        with torch.autocast(values.device.type, enabled=False):
            parts = [
                self._complete(
                    Observations(values[sample, :, channel], seen[sample, :, channel], days[sample], grid),
                    channel,
                    paces[channel],
                    None if asked is None else asked[sample],
                )
                for sample in range(values.shape[0])
                for channel in range(values.shape[2])
            ]
        shape = values.shape[0], values.shape[2], *values.shape[1:2], *values.shape[3:]
        return Kriged(*(torch.stack(maps).view(shape).transpose(1, 2).to(values) for maps in zip(*parts, strict=True)))

    def _complete(
        self, observations: "Observations", channel: int, pace: float, asked: Bool[np.ndarray, "time lat lon"] | None
    ) -> tuple[Float[Tensor, "time lat lon"], Float[Tensor, "time lat lon"]]:
        blocks = observations.blocks(self.block, asked)
        prior = self.kernels()[channel, :, 0].sum()
        nothing = prior.new_zeros(observations.shape), prior.expand(observations.shape)
        if observations.count == 0 or not len(blocks):
            return nothing
        learns = torch.is_grad_enabled() and any(parameter.requires_grad for parameter in self.parameters())
        found = []
        for first in range(0, len(blocks), CHUNK):
            problem = observations.problem(blocks[first : first + CHUNK], self.neighbors, pace)
            # What a chunk holds for the gradient is more than can be held of all.
            found.append(
                Estimates(*checkpoint(self.estimate, problem, channel, use_reentrant=False))
                if learns
                else self.estimate(problem, channel)
            )
        # Points that come twice are taken once.
        points, first_of = np.unique(blocks, return_index=True)
        place, chosen = sent(points, observations.values), sent(first_of, observations.values)
        mean, variance, _ = (torch.cat(parts).flatten() for parts in zip(*found, strict=True))
        return (
            nothing[0].flatten().index_copy(0, place, mean[chosen]).view(observations.shape),
            nothing[1].flatten().index_copy(0, place, variance[chosen]).view(observations.shape),
        )

    def paces(self) -> list[float]:
        """Return how many km count as a day, where observations of each channel are looked for."""
        with torch.no_grad():
            _, length, time = self.kernels().log().mean(1).unbind(-1)
            stretch = self.stretch().log().mean(1)
        each: list[float] = (length + stretch / 2 - time).exp().tolist()
        return each

    def estimate(self, problem: Problem, channel: int) -> Estimates:
        """Estimate the points of some blocks."""
        doubt = self.doubt[channel].double().square()
        mean, departure, points, variance = self._whitened(problem, problem.values[:, :, None], channel)
        estimate = (points * departure).sum(1) + mean
        scale = (1 + doubt * departure.square().sum(1)) / (1 + doubt * (problem.present.sum(1, keepdim=True) - 1))
        return Estimates(estimate, scale * variance, scale[:, 0])

    def departures(
        self, problem: Problem, channel: int, truth: Float[Tensor, "block point field"]
    ) -> Float[Tensor, "block point field"]:
        """Return by how much the estimates of several fields miss them, over the deviation stated for a factor of 1."""
        mean, departure, points, variance = self._whitened(problem, problem.values, channel)
        return (truth - points.mT @ departure - mean[:, None]) / variance.sqrt()[:, :, None]

    def _whitened(self, problem: Problem, values: Float[Tensor, "block near field"], channel: int) -> _White:
        kernels, noise = self.kernels()[channel], self.noise()[channel]
        variances, scales = kernels[:, 0], self._scales(channel)
        prior = variances.sum()
        own = _covariance(problem.observed, problem.observed, variances, scales)
        both = problem.present[:, :, None] & problem.present[:, None]
        # An observation that is not there has nothing to do with the others.
        own = own * both + torch.diag_embed(torch.where(problem.present, noise**2 + _TRACE * prior, 1.0))
        cross = _covariance(problem.observed, problem.points, variances, scales) * problem.present[:, :, None]
        sides = torch.cat([values, problem.present[:, :, None].to(cross), cross], dim=-1)
        white = torch.linalg.solve_triangular(_root(own), sides, upper=False)
        observed, one, points = white.split([values.shape[2], 1, cross.shape[2]], dim=-1)
        information = one.square().sum(1)
        mean = (observed * one).sum(1) / information
        lack = 1 - (points * one).sum(1)
        variance = prior - points.square().sum(1) + lack.square() / information
        return _White(mean, observed - mean[:, None] * one, points, torch.maximum(variance, _TRACE * prior))

    def _scales(self, channel: int) -> Float[Tensor, "kernel 4"]:
        """Return by what distances east, north and up and times are divided."""
        _, length, time = self.kernels()[channel].unbind(-1)
        return torch.stack([length, length * self.stretch()[channel], length, time], dim=-1)


def _reached(
    asked: Bool[np.ndarray, "batch time lat lon"], *, periodic: bool
) -> Bool[np.ndarray, "batch time lat lon"]:
    """Return the points that answers at some points depend on, by what follows kriging."""
    size = (1, *(2 * reach + 1 for reach in (*REACH, REACH[1])))
    beyond = ["constant", "constant", "constant", "wrap" if periodic else "constant"]
    return np.asarray(maximum_filter(asked, size, mode=beyond))


@contextmanager
def kriging_only(network: nn.Module, asked: Callable[[], Bool[Tensor, "batch time lat lon"]]) -> Iterator[None]:
    """Let kriging within a network leave out what cannot reach the answers that are wanted; these stay the same.

    Args:
        network: may hold no kriging.
        asked: returns the points whose answers are wanted.
    """
    parts = [part for part in network.modules() if isinstance(part, LocalKriging)]
    for part in parts:
        part.asked = asked()
    try:
        yield
    finally:
        for part in parts:
            part.asked = None


def _root(matrix: Float[Tensor, "block m m"]) -> Float[Tensor, "block m m"]:
    """Return the Cholesky factors; on a GPU, where looking for a failure makes the host wait, it gives NaN."""
    if matrix.device.type == "cpu":
        return torch.linalg.cholesky(matrix)  # type: ignore[no-any-return]
    factor, failed = torch.linalg.cholesky_ex(matrix)
    return factor.masked_fill((failed > 0)[..., None, None], torch.nan)  # type: ignore[no-any-return]


def _covariance(
    ours: Float[Tensor, "block m 4"],
    theirs: Float[Tensor, "block n 4"],
    variances: Float[Tensor, " kernel"],
    scales: Float[Tensor, "kernel 4"],
) -> Float[Tensor, "block m n"]:
    total: Tensor | None = None
    for variance, scale in zip(variances, scales, strict=True):
        far = _squares(ours * 3**0.5 / scale, theirs * 3**0.5 / scale).clamp(min=1e-12).sqrt()
        fall = (-far).exp()
        part = variance * torch.addcmul(fall, far, fall)
        total = part if total is None else total + part
    assert total is not None
    return total


def _squares(ours: Float[Tensor, "block m 4"], theirs: Float[Tensor, "block n 4"]) -> Float[Tensor, "block m n"]:
    """Return squared distances, as one matrix product."""
    left = torch.cat([-2 * ours, ours.square().sum(-1, keepdim=True), torch.ones_like(ours[..., :1])], dim=-1)
    right = torch.cat([theirs, torch.ones_like(theirs[..., :1]), theirs.square().sum(-1, keepdim=True)], dim=-1)
    return left @ right.mT


class Observations:
    """The observations of some times, to be looked up by place.

    Args:
        values: fields, several of them along a further axis.
        valid: where there is an observation.
        days: when, in days.
        grid: of the fields.
    """

    def __init__(
        self,
        values: Float[Tensor, "time lat lon *field"],
        valid: Bool[Tensor, "time lat lon"],
        days: Float[Tensor, " time"],
        grid: Grid,
    ) -> None:
        self.shape = valid.shape
        self.days = days.double().numpy()
        self.places = EARTH_RADIUS / 1000 * grid.unit_vectors
        index = valid.detach().cpu().numpy().nonzero()
        self.count = len(index[0])
        self.observed = np.column_stack([self.places[index[1:]], self.days[index[0]]])
        number = np.ravel_multi_index(index, self.shape)
        self.values = values.flatten(0, 2).index_select(0, sent(number, values)).double()
        self.order = np.stack([self.days[index[0]], *index[1:]], axis=-1) @ _SCATTER % 1
        self.trees: dict[tuple[float, int, float], tuple[NDArray[np.int64], KDTree]] = {}

    def blocks(self, size: int, asked: Bool[np.ndarray, "time lat lon"] | None) -> NDArray[np.int64]:
        """Return the numbers of the points of each block in which any is asked for.

        Points come twice in a block where the grid is no multiple of it.
        """
        rows, columns = (np.minimum(np.arange(-(-n // size) * size), n - 1).reshape(-1, size) for n in self.shape[1:])
        number = rows[:, None, :, None] * self.shape[2] + columns[None, :, None, :]
        each = np.arange(self.shape[0])[:, None, None] * self.shape[1] * self.shape[2]
        blocks = (each + number.reshape(1, -1, size * size)).reshape(-1, size * size)
        return np.asarray(blocks if asked is None else blocks[asked.ravel()[blocks].any(1)])

    def problem(
        self,
        blocks: Int64[np.ndarray, "block point"],
        neighbors: Sequence[tuple[float, int]],
        pace: float,
    ) -> Problem:
        """Return what blocks of points are estimated from.

        Args:
            blocks: numbers of their points.
            neighbors: share of the observations to look among, and how many are taken, for each reach.
            pace: km that count as a day.
        """
        time, place = np.divmod(blocks, self.shape[1] * self.shape[2])
        points = np.concatenate([self.places.reshape(-1, 3)[place], self.days[time][..., None]], axis=-1)
        middle = points.mean(1)
        scale = np.array([1.0, 1.0, 1.0, pace])
        found = []
        for share, count in neighbors:
            among, tree = self._tree(share, count, pace)
            near = tree.query(middle * scale, k=np.arange(1, min(count, len(among)) + 1))[1]
            found.append(among[near])
        index = np.sort(np.concatenate(found, axis=1), axis=1)
        present = np.pad(np.diff(index) > 0, ((0, 0), (1, 0)), constant_values=True)
        # The same observation, found twice, counts once.
        axes = _axes(middle)
        observed = np.where(present[:, :, None], (self.observed[index] - middle[:, None]) @ axes, 0.0)
        chosen, there = sent(index, self.values), sent(present, self.values)
        values = self.values[chosen]
        values = values.masked_fill(~there.view(*there.shape, *(1,) * (values.ndim - 2)), 0.0)
        told = (sent(x, self.values) for x in (observed, (points - middle[:, None]) @ axes))
        return Problem(next(told), values, there, next(told))

    def _tree(self, share: float, count: int, pace: float) -> tuple[NDArray[np.int64], KDTree]:
        """Return the observations to look among, and where they are."""
        key = share, count, pace
        if key not in self.trees:
            # Few observations are not thinned below what is to be found among them.
            among = np.flatnonzero(self.order <= max(share, 3 * count / self.count))
            among = among if among.size else np.arange(1)
            self.trees[key] = among, KDTree(self.observed[among] * np.array([1.0, 1.0, 1.0, pace]))
        return self.trees[key]


def _axes(middle: Float[np.ndarray, "block 4"]) -> Float[np.ndarray, "block 4 4"]:
    """Return what turns (x, y, z, days) into (east, north, up, days) as they are at the middles."""
    east = np.arctan2(middle[:, 1], middle[:, 0])
    north = np.arctan2(middle[:, 2], np.hypot(middle[:, 0], middle[:, 1]))
    (sin, cos), (rise, run), nothing = (np.sin(east), np.cos(east)), (np.sin(north), np.cos(north)), np.zeros_like(east)
    axes = [
        [-sin, -rise * cos, run * cos, nothing],
        [cos, -rise * sin, run * sin, nothing],
        [nothing, run, rise, nothing],
        [nothing, nothing, nothing, nothing + 1],
    ]
    return np.moveaxis(np.array(axes), -1, 0)
