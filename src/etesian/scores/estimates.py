"""Scores with their intervals, and skill, from sums by time: the same for forecasts, filled gaps and projections."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from etesian.scores.registry import score_named
from etesian.scores.uncertainty import half_width

Array = NDArray[np.float64]

Variables = dict[str, tuple[tuple[str, ...], Array]]


def estimates(sums: Mapping[str, Array], names: Sequence[str], dims: tuple[str, ...]) -> Variables:
    """Return scores of all times together, each with the ends of its 95 % interval, `…_low` and `…_high`.

    Args:
        sums: by statistic, (time, *dims).
        names: of registered scores.
        dims: names of the axes behind the first.

    Raises:
        RecipeError: if there is no such score.
    """
    totals = {name: torch.from_numpy(np.ascontiguousarray(part.sum(0))) for name, part in sums.items()}
    found: Variables = {}
    for name in names:
        chosen = score_named(name)
        low, high = chosen.interval(sums)
        found |= {name: (dims, chosen.value(totals).numpy()), f"{name}_low": (dims, low), f"{name}_high": (dims, high)}
    return found


def skill(
    sums: Mapping[str, Array], forecasts: Sequence[str], references: Sequence[str], dims: tuple[str, ...]
) -> Variables:
    """Return 1 − RMSE / RMSE of each reference over the same times and points, with its paired 95 % interval.

    Args:
        sums: by statistic, (time, forecast, …).
        forecasts: names along the second axis.
        references: which of them are measured by.
        dims: names of the axes behind the first; `forecast` comes first.
    """
    index = [list(forecasts).index(name) for name in references]
    rmse, effect, present = score_named("rmse").influence(sums)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = rmse[:, None] / rmse[None, index]
        half = half_width(effect[:, :, None] - effect[:, None, index], present[:, :, None] & present[:, None, index])
        low, high = 1 - ratio * np.exp(half), 1 - ratio * np.exp(-half)
    axes = (dims[0], "reference", *dims[1:])
    return {"skill": (axes, 1 - ratio), "skill_low": (axes, low), "skill_high": (axes, high)}
