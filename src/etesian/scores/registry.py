"""What can be summed over points, how sums become scores, and how certain these are; all by name.

A statistic is summed over the points of each pair of maps, and its sums are added up over times, parts and processes. A
score is a function of such totals. Its arguments are named as the statistics that it is made of; from them follows what
has to be summed, and how certain it is: by the influence of each time on it (the delta method). Thereby two forecasts
of the same initial times are compared in pairs.
"""

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, TypeVar, runtime_checkable

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64
from numpy.typing import NDArray
from scipy import stats
from torch import Tensor

from etesian.core.errors import RecipeError, suggest

Array = NDArray[np.float64]

Variables = dict[str, tuple[tuple[str, ...], Array]]

T = TypeVar("T")


@runtime_checkable
class Groups(Protocol):
    """Sets of points that are summed separately, such as regions or bins of the distance to an observation."""

    def total(self, values: Float64[Tensor, "*maps point"]) -> Float64[Tensor, "*maps group"]:
        """Return sums over the points of each group, every point weighted by its area."""

    def count(self, values: Float64[Tensor, "*maps point"]) -> Float64[Tensor, "*maps group"]:
        """Return sums over the points of each group without weights."""


@dataclass(frozen=True)
class MapPair:
    """Maps that are scored beside the true ones, in physical units.

    Attributes:
        forecast: what is scored: forecasts, filled fields or projections.
        truth: at the same points.
        use: where a point counts; elsewhere values have no meaning.
        groups: over which points sums go.
        squared: squared error; of vectors, of the length of the difference.
        climatology: NaN where it is not known; None if there is none.
        deviation: standard deviation that is stated for the error; None if there is none.
        members: of the ensemble whose mean the forecast is; None where uncertainty is not stated by members.
        origin: about which the sums of `correlation` are taken, so that no digits are lost.
    """

    forecast: Float64[Tensor, "*maps point"]
    truth: Float64[Tensor, "*maps point"]
    use: Bool[Tensor, "*maps point"]
    groups: Groups
    squared: Float64[Tensor, "*maps point"]
    climatology: Float64[Tensor, "*maps point"] | None = None
    deviation: Float64[Tensor, "*maps point"] | None = None
    members: Float[Tensor, "member *maps point"] | None = None
    origin: float = 0.0
    found: dict[Callable[..., Any], Any] = field(default_factory=dict, repr=False)

    @property
    def error(self) -> Float64[Tensor, "*maps point"]:
        """Forecast − truth."""
        return self.forecast - self.truth

    def total(
        self, values: Float64[Tensor, "*maps point"], where: Bool[Tensor, "*maps point"] | None = None
    ) -> Float64[Tensor, "*maps group"]:
        """Return area-weighted sums over the points that count, and of these only some where `where` is given."""
        return self.groups.total(torch.where(self.use if where is None else self.use & where, values, 0.0))

    def once(self, function: Callable[["MapPair"], T]) -> T:
        """Return what a function makes of this pair, which is worked out only once."""
        if function not in self.found:
            self.found[function] = function(self)
        return self.found[function]  # type: ignore[no-any-return]


StatisticFunction = Callable[[MapPair], Tensor]

ScoreFunction = Callable[..., Tensor]

STATISTICS: dict[str, StatisticFunction] = {}
"""What is summed: functions of a `MapPair` that return (…, group)."""

SCORES: dict[str, "Score"] = {}
"""Functions of totals, by name."""


@dataclass(frozen=True)
class Score:
    """How totals become a number.

    Attributes:
        name: in tables and files.
        function: of the totals of the statistics, in their order.
        statistics: what it is made of.
        over: the statistic that is greater than 0 where a time took part.
        relative: its intervals are those of its logarithm, as for what is never below 0.
        units: those of the channel, their square, or none.
    """

    name: str
    function: ScoreFunction
    statistics: tuple[str, ...]
    over: str
    relative: bool
    units: Literal["channel", "squared", "1"]

    def value(self, totals: Mapping[str, Tensor]) -> Tensor:
        """Return the score of totals; NaN where nothing was summed."""
        return self.function(*(totals[name] for name in self.statistics))

    @torch.inference_mode(False)
    @torch.enable_grad()
    def influence(self, sums: Mapping[str, Array]) -> tuple[Array, Array, NDArray[np.bool_]]:
        """Return the score, what each time adds to n times its deviation, and which times took part.

        Args:
            sums: by statistic; the first axis is time. A statistic may have further axes behind those of the score.
        """
        # Trainers call this where gradients are switched off.
        over = torch.from_numpy(np.ascontiguousarray(sums[self.over]))
        present = over > 0
        parts: dict[str, Tensor] = {}
        for name in self.statistics:
            part = torch.from_numpy(np.ascontiguousarray(sums[name]))
            shown = present.reshape(present.shape + (1,) * (part.ndim - present.ndim))
            parts[name] = torch.where(shown, part, 0.0)
        totals = {name: part.sum(0).requires_grad_() for name, part in parts.items()}
        value = self.value(totals)
        # A statistic that only tells where there is a score has no slope.
        slopes = torch.autograd.grad(value.sum(), list(totals.values()), materialize_grads=True)
        effect = torch.zeros_like(over)
        for slope, part in zip(slopes, parts.values(), strict=True):
            product = slope * part
            effect += product if product.ndim == over.ndim else product.flatten(over.ndim).sum(-1)
        effect *= present.sum(0)
        if self.relative:
            effect = effect / value.detach()
        return value.detach().numpy(), effect.numpy(), present.numpy()

    def interval(self, sums: Mapping[str, Array]) -> tuple[Array, Array]:
        """Return the ends of the 95 % interval of a score from sums by time, in order."""
        value, effect, present = self.influence(sums)
        half = half_width(effect, present)
        if self.relative:
            return value * np.exp(-half), value * np.exp(half)
        return value - half, value + half


def register_statistic(function: StatisticFunction) -> StatisticFunction:
    """Make a function a statistic under its own name.

    Raises:
        RecipeError: if another module has given that name to a statistic.
    """
    if function.__name__ in STATISTICS:
        _refuse_another("statistic", function, STATISTICS[function.__name__])
    STATISTICS[function.__name__] = function
    return function


def register_score(
    over: str = "weight",
    *,
    relative: bool = False,
    units: Literal["channel", "squared", "1"] = "channel",
    name: str | None = None,
) -> Callable[[ScoreFunction], ScoreFunction]:
    """Make a function a score under its own name, of the statistics that its arguments are called after.

    Args:
        over: the statistic that is greater than 0 where a time took part; one of the arguments.
        relative: take intervals of the logarithm, for scores that are never below 0.
        units: those of the channel, their square, or none.
        name: under which it is known, where that is not the function's own.

    Raises:
        RecipeError: if `over` is no argument, or another module has given the function's name to a score.
    """

    def register(function: ScoreFunction) -> ScoreFunction:
        arguments = tuple(inspect.signature(function).parameters)
        if over not in arguments:
            raise RecipeError(f"the score {function.__name__} counts over '{over}', which is none of its arguments")
        known = name or function.__name__
        if known in SCORES:
            _refuse_another("score", function, SCORES[known].function)
        SCORES[known] = Score(known, function, arguments, over, relative, units)
        return function

    return register


def _refuse_another(kind: str, function: Callable[..., Any], known: Callable[..., Any]) -> None:
    """Let a module define its own again, as a notebook does, but nothing of another module."""
    if function.__module__ != known.__module__:
        raise RecipeError(
            f"there is a {kind} '{function.__name__}' in {known.__module__} already; give the new one another name"
        )


def score_named(name: str) -> Score:
    """Return a registered score.

    Raises:
        RecipeError: if there is none of that name.
    """
    if name not in SCORES:
        raise RecipeError(f"there is no score '{name}'{suggest(name, SCORES)}")
    return SCORES[name]


def statistics_of(names: Iterable[str]) -> tuple[str, ...]:
    """Return the statistics that some scores are made of, each once.

    Raises:
        RecipeError: if there is no such score.
    """
    return tuple(dict.fromkeys(statistic for name in names for statistic in score_named(name).statistics))


def collect(pair: MapPair, statistics: Iterable[str]) -> dict[str, Tensor]:
    """Return the sums of some statistics over the points of each pair of maps.

    Raises:
        RecipeError: if there is no such statistic.
    """
    sums: dict[str, Tensor] = {}
    for name in statistics:
        if name not in STATISTICS:
            raise RecipeError(f"there is no statistic '{name}'{suggest(name, STATISTICS)}")
        sums[name] = pair.once(STATISTICS[name])
    return sums


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
    sums: Mapping[str, Array],
    forecasts: Sequence[str],
    references: Sequence[str],
    dims: tuple[str, ...],
    score: str = "rmse",
) -> Variables:
    """Return 1 − RMSE / RMSE of each reference over the same times and points, with its paired 95 % interval.

    Args:
        sums: by statistic, (time, forecast, …).
        forecasts: names along the second axis.
        references: which of them are measured by.
        dims: names of the axes behind the first; `forecast` comes first.
        score: of which the ratio is taken; one whose intervals are those of its logarithm.
    """
    index = [list(forecasts).index(name) for name in references]
    value, effect, present = score_named(score).influence(sums)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = value[:, None] / value[None, index]
        half = half_width(effect[:, :, None] - effect[:, None, index], present[:, :, None] & present[:, None, index])
        low, high = 1 - ratio * np.exp(half), 1 - ratio * np.exp(-half)
    axes = (dims[0], "reference", *dims[1:])
    return {"skill": (axes, 1 - ratio), "skill_low": (axes, low), "skill_high": (axes, high)}


LEVEL = 0.95
"""Probability that an interval covers the true mean."""

COSINES = (4, 8)
"""How many cosines are used; the larger one rules where the memory is short, the smaller one where it is long."""

FEWEST = 3
"""Number of initial times below which no interval is given."""


def half_width(influence: Array, present: NDArray[np.bool_]) -> Array:
    """Return half the width of the 95 % interval of a mean, when successive forecasts err alike.

    Scores of consecutive initial times are correlated, some of them over weeks, so that n of them tell less than n
    independent ones. What counts for the mean is how strongly a series varies at the lowest frequencies. As in Müller
    (2007, Journal of Econometrics 141, 1331–1352) and Lazarus, Lewis, Stock and Watson (2018, Journal of Business &
    Economic Statistics 36, 541–559), that is measured by the first few cosines of the series, each of which is one
    independent number whatever the shorter memory, so that the mean follows Student's t with as many degrees of freedom
    as there are cosines. Few of them hold where the memory is long, and more make the intervals steadier; the longest
    interval counts, that of independent values included. Initial times are taken as evenly spaced in their order, which
    Datta and Du (2012, Board of Governors of the Federal Reserve System, International Finance Discussion Papers 1060)
    show to be valid where some are missing.

    Args:
        influence: what each initial time, in order, adds to n times the deviation of the estimate; first axis time.
        present: which of them took part.

    Returns:
        As the influence without its first axis; NaN where fewer than 3 initial times took part.
    """
    count = len(influence)
    series, shown = influence.reshape(count, -1), np.broadcast_to(present, influence.shape).reshape(count, -1)
    width = np.full(series.shape[1], np.nan)
    # Nearly all series lack the same initial times, if any.
    patterns, pattern = np.unique(shown, axis=1, return_inverse=True)
    for number, taken in enumerate(patterns.T):
        if np.count_nonzero(taken) >= FEWEST:
            own = np.flatnonzero(pattern.ravel() == number)
            width[own] = _half_width(series[np.ix_(taken, own)])
    return width.reshape(influence.shape[1:])


def _half_width(series: Array) -> Array:
    count = len(series)
    centred = series - series.mean(0)
    width = _quantile(count - 1) * np.sqrt((centred**2).sum(0) / (count - 1))
    for degrees in {min(number, count - 1) for number in COSINES}:
        phase = np.pi / count * np.outer(np.arange(1, degrees + 1), np.arange(count) + 0.5)
        size = np.sqrt(2 / count) * np.cos(phase) @ centred
        width = np.maximum(width, _quantile(degrees) * np.sqrt((size**2).mean(0)))
    return np.asarray(width / np.sqrt(count))


def _quantile(degrees: int) -> float:
    return float(stats.t.ppf((1 + LEVEL) / 2, degrees))
