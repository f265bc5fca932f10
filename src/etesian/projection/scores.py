"""ClimateBench's scores of projected maps (Watson-Parris et al. 2022, doi 10.1029/2021MS002954)."""

from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import NamedTuple

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float
from torch import Tensor

from etesian.core.errors import DataError
from etesian.core.grid import Grid
from etesian.scores import definitions  # noqa: F401  (registers what is summed)
from etesian.scores.registry import (
    MapPair,
    collect,
    estimates,
    register_score,
    register_statistic,
    score_named,
    skill,
    statistics_of,
)
from etesian.scores.weights import WHOLE_DOMAIN, RegionGroups, point_weights

Maps = Float[np.ndarray, "year lat lon"]

GLOBAL_WEIGHT = 5.0

PROJECTION_SCORES = ("nrmse_s", "nrmse_g", "nrmse")


class NRMSE(NamedTuple):
    """Normalised errors of maps of several years.

    Attributes:
        spatial: NRMSE_s, of the map of the mean over years.
        mean: NRMSE_g, of the mean over the domain in each year.
        total: NRMSE_s + 5 NRMSE_g.
    """

    spatial: float
    mean: float
    total: float


@register_statistic
def error_map(pair: MapPair) -> Tensor:
    """Sum the error at each point, times the root of the point's share of the area: (…, group, point)."""
    assert isinstance(pair.groups, RegionGroups)
    share = (pair.groups.weights / pair.groups.weights.sum(0)).sqrt()
    return torch.where(pair.use, pair.error, 0.0)[..., None, :] * share.T


@register_statistic
def mean_error_squared(pair: MapPair) -> Tensor:
    """Return the square of the mean error over the area."""
    return (pair.total(pair.error) / pair.groups.total(pair.use.double())).square()


@register_statistic
def truth_mean(pair: MapPair) -> Tensor:
    """Return the mean of the truth over the area."""
    return pair.total(pair.truth) / pair.groups.total(pair.use.double())


@register_score("maps", relative=True, units="1")
def nrmse_s(error_map: Tensor, truth_mean: Tensor, maps: Tensor) -> Tensor:
    """Return the error of the map of the mean over years, over the mean of the truth."""
    return (error_map / maps[..., None]).square().sum(-1).sqrt() / (truth_mean / maps).abs()


@register_score("maps", relative=True, units="1")
def nrmse_g(mean_error_squared: Tensor, truth_mean: Tensor, maps: Tensor) -> Tensor:
    """Return the error of the mean over the domain in each year, over the mean of the truth."""
    return (mean_error_squared / maps).sqrt() / (truth_mean / maps).abs()


@register_score("maps", relative=True, units="1")
def nrmse(error_map: Tensor, mean_error_squared: Tensor, truth_mean: Tensor, maps: Tensor) -> Tensor:
    """Return NRMSE_s + 5 NRMSE_g."""
    return nrmse_s(error_map, truth_mean, maps) + GLOBAL_WEIGHT * nrmse_g(mean_error_squared, truth_mean, maps)


def domain_mean(maps: Float[np.ndarray, "*axes lat lon"], grid: Grid) -> Float[np.ndarray, "*axes"]:
    """Return means over the grid, rows weighted by cos φ as in ClimateBench."""
    return np.asarray((maps.mean(-1, dtype=np.float64) * grid.cosine_weights).mean(-1))


def climatebench_scores(predicted: Maps, truth: Maps, grid: Grid, normalization: float | None = None) -> NRMSE:
    """Score maps of the same years; all means over the domain are weighted by cos φ.

    Args:
        predicted: maps in any units.
        truth: maps in the same units.
        grid: of both.
        normalization: what errors are divided by; by default the absolute mean of the truth over domain and years.

    Raises:
        DataError: if the truth's mean, to divide by, is 0.
    """
    totals = {name: part.sum(0) for name, part in _sums(predicted[:, None], truth[:, None], grid).items()}
    if normalization is not None:
        totals["truth_mean"] = normalization * totals["maps"]
    return NRMSE(*(score_named(name).value(totals).item() for name in PROJECTION_SCORES))


def score_projections(
    maps: Mapping[str, Float[np.ndarray, "year channel lat lon"]],
    truth: Float[np.ndarray, "year channel lat lon"],
    channels: Sequence[str],
    grid: Grid,
) -> xr.Dataset:
    """Return ClimateBench's scores of several projections over (forecast, channel, region), with 95 % intervals.

    The skill of the total against all but the first, which are references, is paired: 1 − NRMSE / NRMSE of each.

    Raises:
        DataError: if the truth's mean, to divide by, is 0.
    """
    each = [_sums(predicted, truth, grid) for predicted in maps.values()]
    sums = {name: np.stack([part[name].numpy() for part in each], axis=1) for name in each[0]}
    names, dims = list(maps), ("forecast", "channel", "region")
    found = estimates(sums, PROJECTION_SCORES, dims) | skill(sums, names, names[1:], dims, "nrmse")
    coordinates = {"forecast": names, "channel": list(channels), "region": [WHOLE_DOMAIN], "reference": names[1:]}
    attributes = {
        "weighting": "cosine",
        "grid": str(grid),
        "points": f"{len(truth)} years",
        "etesian_version": version("etesian"),
    }
    return xr.Dataset(found, coordinates, attributes)


def _sums(
    predicted: Float[np.ndarray, "year channel lat lon"], truth: Float[np.ndarray, "year channel lat lon"], grid: Grid
) -> dict[str, Tensor]:
    """Return the sums of each year: (year, channel, region) and, of `error_map`, (…, point)."""
    ours, theirs = (torch.from_numpy(maps.astype(np.float64)).flatten(2) for maps in (predicted, truth))
    groups = RegionGroups(*point_weights(grid, (WHOLE_DOMAIN,), "cosine"))
    pair = MapPair(ours, theirs, torch.ones_like(ours, dtype=torch.bool), groups, (ours - theirs).square())
    sums = collect(pair, statistics_of(PROJECTION_SCORES))
    if (sums["truth_mean"].sum(0) == 0).any():
        raise DataError("the truth is 0 in the mean over years and domain, by which ClimateBench's scores are divided")
    return sums
