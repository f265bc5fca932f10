"""Scores of ensembles: members that are equally likely, against what happened."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64
from numpy.typing import NDArray
from torch import Tensor

_FEW = 8
"""Members up to which all pairs of them are compared one by one."""

_BLOCK = 2**16
"""Values of members that are sorted at once, about: as many as stay in the processor's cache."""


def ensemble_crps(
    members: Float[Tensor, "member *axes"], truth: Float[Tensor, "*axes"], fairness: float = 1.0
) -> Float[Tensor, "*axes"]:
    """Return the continuous ranked probability score of members, in their units.

    The mean distance of members from the truth, less half their mean distance from each other. A fair score (Ferro
    2014, doi 10.1002/qj.2270) takes the latter over pairs of different members, so that its mean does not depend on
    their number; the usual one, of their empirical distribution, over all pairs, each with itself as well. A mean of
    both with the weights α and 1 − α is almost fair (Lang et al. 2024, arXiv 2412.15832). Of one member it is the
    absolute error.

    Args:
        members: forecasts.
        truth: what happened.
        fairness: α: 1 is fair, 0 the score of the empirical distribution.
    """
    count = len(members)
    error = (members - truth).abs().mean(0)
    if count == 1:
        return error
    # Over ordered pairs of different members.
    between = _distances(members) / (count * (count - 1))
    return error - _share(count, fairness) * between / 2


def _share(count: int, fairness: float) -> float:
    """Return how much of the mean distance of different members counts."""
    return 1 - (1 - fairness) / count


def _distances(members: Float[Tensor, "member *axes"]) -> Float[Tensor, "*axes"]:
    """Return the sum of the distances between the members of all ordered pairs."""
    count = len(members)
    if count <= _FEW:
        return torch.stack([(members - members.roll(turn, 0)).abs().sum(0) for turn in range(1, count)]).sum(0)
    # Of sorted members, the i-th is the larger one in i pairs and the smaller one in n − 1 − i.
    often = 2 * torch.arange(count, dtype=members.dtype, device=members.device) - count + 1
    total: Tensor = 2 * torch.tensordot(often, members.sort(0).values, dims=1)
    return total


@dataclass(frozen=True)
class MemberFacts:
    """What scores need to know of members at each point, made in one pass over them.

    Attributes:
        count: of members.
        error: their mean distance from the truth.
        between: mean distance of pairs of different members; 0 of one member.
        variance: their unbiased variance; NaN of one member.
        inside: 1 where the truth lies in the central interval of each probability, 0 where it does not, between them
            where the interval ends between two members; None where members are too few.
    """

    count: int
    error: Float64[Tensor, "*axes"]
    between: Float64[Tensor, "*axes"]
    variance: Float64[Tensor, "*axes"]
    inside: dict[float, Float64[Tensor, "*axes"] | None]

    def crps(self, fairness: float = 1.0) -> Float64[Tensor, "*axes"]:
        """Return the continuous ranked probability score; see `ensemble_crps`."""
        return self.error - _share(self.count, fairness) * self.between / 2

    def predictive_variance(self) -> Float64[Tensor, "*axes"]:
        """Return the squared error that the mean of the members should have, if they are as likely as the truth.

        Their unbiased variance times (M + 1) / M (Fortin et al. 2014, doi 10.1175/JHM-D-14-0008.1): the mean of a few
        members errs by more than that of many.
        """
        return self.variance * (self.count + 1) / self.count


def member_facts(
    members: Float[Tensor, "member *axes"], truth: Float64[Tensor, "*axes"], levels: Sequence[float] = ()
) -> MemberFacts:
    """Describe members at each point, block by block, so that nothing as large as the members is made.

    If M members are as likely as the truth, it lies between the k-th smallest and the k-th largest in (M + 1 − 2k) of
    M + 1 cases. For probabilities between two of these, both intervals count in proportion. The widest holds
    (M − 1)/(M + 1); members that are too few have no interval of a larger probability.

    Args:
        members: forecasts; those in float32 have their departures from the truth sorted in it.
        truth: what happened.
        levels: probabilities of central intervals.
    """
    count = len(members)
    known, given = (part.detach().cpu().numpy().reshape(rows, -1) for part, rows in ((truth, 1), (members, count)))
    points = known.size
    error, between, variance = np.empty((3, points))
    places = {level: place for level in levels if (place := _outermost(count, level)) is not None}
    inside = {level: np.empty(points) for level in places}
    # Of sorted members, the i-th is the larger one in i pairs and the smaller one in n − 1 − i.
    sums = np.stack([2.0 * np.arange(count) - count + 1, np.ones(count)], 1)
    step = max(1, _BLOCK // count)
    known = known[0]
    if (exact := known.astype(given.dtype)).dtype != known.dtype and np.array_equal(exact, known, equal_nan=True):
        # Differences in single precision are then those in double precision, rounded.
        known = exact
    # Memory that is used again for each block stays in the cache.
    apart, ordered, departure = (
        np.empty(shape, kind)
        for shape, kind in (((count, step), given.dtype), ((step, count), given.dtype), ((step, count), np.float64))
    )
    with np.errstate(invalid="ignore", divide="ignore"):
        for first in range(0, points, step):
            block = slice(first, min(first + step, points))
            here = slice(0, block.stop - first)
            np.subtract(given[:, block], known[block], out=apart[:, here], casting="same_kind")
            np.copyto(ordered[here], apart[:, here].T)
            ordered[here].sort(axis=1)
            np.copyto(departure[here], ordered[here])
            distance, total = (departure[here] @ sums).T
            squares = np.einsum("pm,pm->p", departure[here], departure[here])
            variance[block] = (squares - total**2 / count).clip(min=0) / (count - 1) if count > 1 else np.nan
            between[block] = 2 * distance / max(count * (count - 1), 1)
            error[block] = np.abs(departure[here], out=departure[here]) @ sums[:, 1] / count
            for level, place in places.items():
                outer, rest = int(place), place % 1
                held = (1 - rest) * _holds(ordered[here], outer)
                inside[level][block] = held + rest * _holds(ordered[here], outer + 1) if rest else held

    def shaped(values: NDArray[Any]) -> Tensor:
        return torch.from_numpy(values.reshape(truth.shape)).to(truth.device)

    return MemberFacts(
        count,
        shaped(error),
        shaped(between),
        shaped(variance),
        {level: shaped(inside[level]) if level in inside else None for level in levels},
    )


def _outermost(count: int, level: float) -> float | None:
    """Return which member, counted from 1 inwards, bounds the central interval of a probability, if one does."""
    place = round((1 - level) / 2 * (count + 1), 9)
    return place if place >= 1 and count > 1 else None


def _holds(ordered: NDArray[Any], outer: int) -> NDArray[np.bool_]:
    """Whether 0 lies between the k-th smallest and the k-th largest of sorted values."""
    low, high = outer - 1, ordered.shape[1] - outer
    return np.asarray((ordered[:, low] <= 0) & (ordered[:, high] >= 0) if low <= high else np.zeros(len(ordered), bool))


def energy_score(
    members: Float[Tensor, "member *maps point"],
    truth: Float64[Tensor, "*maps point"],
    use: Bool[Tensor, "*maps point"],
    weights: Float64[Tensor, "point region"],
) -> Float64[Tensor, "*maps region"]:
    """Return the fair energy score of maps over each region, in the units of the members; NaN where no point counts.

    The mean distance of the members' maps from the truth's, less half the mean distance of pairs of different members
    (Gneiting and Raftery 2007, doi 10.1198/016214506000001437), as WeatherBench 2 takes it: the distance of two maps is
    the root of the mean over points of their squared difference. Of one member it is the root-mean-square error of each
    map.

    Args:
        members: forecasts.
        truth: what happened.
        use: which points count.
        weights: of the points in each region.
    """
    count, regions, points = len(members), weights.shape[1], truth.shape[-1]
    given, known, counts = (
        part.reshape(*part.shape[: part.ndim - truth.ndim], -1, points) for part in (members, truth, use)
    )
    maps = known.shape[0]
    product = torch.zeros(maps, regions, count, count, dtype=torch.float64, device=truth.device)
    step = max(1, _BLOCK * 16 // count)
    for number in range(maps):
        for first in range(0, points, step):
            block = slice(first, first + step)
            departure = torch.where(counts[number, block], given[:, number, block] - known[number, block], 0.0)
            for region in range(regions):
                weight = weights[block, region]
                if weight.any():
                    product[number, region] += (departure * weight) @ departure.T
    area = counts.double() @ weights
    own = product.diagonal(dim1=-2, dim2=-1)
    error = own.sqrt().mean(-1)
    if count > 1:
        apart = (own[..., :, None] + own[..., None, :] - 2 * product).clamp(min=0).sqrt()
        error = error - apart.sum((-2, -1)) / (count * (count - 1)) / 2
    found: Tensor = (error / area.sqrt()).reshape(*truth.shape[:-1], regions)
    return found
