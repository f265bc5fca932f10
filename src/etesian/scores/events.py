"""Scores of events such as frost or a heat wave: probabilities and neighbourhoods against what happened."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray as xr
from jaxtyping import Bool, Float, Float64
from numpy.typing import NDArray
from torch import Tensor

from etesian.core.channels import Channel, parse_channels
from etesian.core.clock import parse_time
from etesian.core.errors import RecipeError
from etesian.scores.pairs import ByInitialTime, Chunk, Pairs
from etesian.scores.registry import Score, Variables, estimates, register_score
from etesian.scores.sums import sums_by_bin
from etesian.scores.weights import Weighting, point_weights
from etesian.store.reader import Store, positions

Array = NDArray[np.float64]

SAMPLED = 1461
"""Times that climatological quantiles are taken from, at most: as many as four years have days."""

COST_LOSS = tuple(round(0.05 * step, 2) for step in range(1, 20))
"""Ratios of cost to loss at which the relative economic value is found."""

_DIMS = ("event", "lead_time", "region")

_QUANTILE_BYTES = 2**27


def _probabilities(issued: Tensor) -> Tensor:
    return torch.linspace(0, 1, issued.shape[-1], dtype=issued.dtype)


@register_score("event_weight", units="1")
def event_frequency(happened: Tensor, event_weight: Tensor) -> Tensor:
    """Return how often the event happened."""
    return happened.sum(-1) / event_weight


@register_score("event_weight", relative=True, units="1")
def brier_score(issued: Tensor, happened: Tensor, event_weight: Tensor) -> Tensor:
    """Return the mean squared difference of the probability and what happened, 1 or 0 (Brier 1950)."""
    said = _probabilities(issued)
    return (issued * said.square() + happened * (1 - 2 * said)).sum(-1) / event_weight


@register_score("event_weight", units="1")
def brier_score_fair(issued: Tensor, happened: Tensor, event_weight: Tensor) -> Tensor:
    """Return the Brier score whose mean does not depend on the number of members (Ferro 2014, doi 10.1002/qj.2270)."""
    said, others = _probabilities(issued), max(issued.shape[-1] - 2, 1)
    scatter = (issued * said * (1 - said)).sum(-1) / event_weight / others
    return brier_score(issued, happened, event_weight) - scatter


@register_score("event_weight", units="1")
def brier_reliability(issued: Tensor, happened: Tensor, event_weight: Tensor) -> Tensor:
    """Return the mean squared difference of each probability and how often the event then happened; 0 is best.

    Murphy (1973): score = reliability − resolution + uncertainty, exactly, as each share of members is a bin.
    """
    some = issued > 0
    often = happened / torch.where(some, issued, 1.0)
    return torch.where(some, issued * (_probabilities(issued) - often).square(), 0.0).sum(-1) / event_weight


@register_score("event_weight", units="1")
def brier_resolution(issued: Tensor, happened: Tensor, event_weight: Tensor) -> Tensor:
    """Return the variance of how often the event happens where a probability is given; more is better."""
    some = issued > 0
    often = happened / torch.where(some, issued, 1.0)
    departure = often - event_frequency(happened, event_weight)[..., None]
    return torch.where(some, issued * departure.square(), 0.0).sum(-1) / event_weight


@register_score("event_weight", units="1")
def brier_uncertainty(happened: Tensor, event_weight: Tensor) -> Tensor:
    """Return the variance of the event itself: the Brier score of its mean frequency."""
    often = event_frequency(happened, event_weight)
    return often * (1 - often)


@register_score("event_weight", units="1")
def brier_skill_score(issued: Tensor, happened: Tensor, event_weight: Tensor) -> Tensor:
    """Return 1 − Brier score / that of the mean frequency of the event over the same cases."""
    return 1 - brier_score(issued, happened, event_weight) / brier_uncertainty(happened, event_weight)


def _rates(issued: Tensor, happened: Tensor) -> tuple[Tensor, Tensor]:
    """Return the false alarm rate and the hit rate of acting from each probability on."""
    quiet = issued - happened
    return tuple(part.flip(-1).cumsum(-1).flip(-1) / part.sum(-1, keepdim=True) for part in (quiet, happened))  # type: ignore[return-value]


@register_score("event_weight", units="1")
def roc_area(issued: Tensor, happened: Tensor, event_weight: Tensor) -> Tensor:
    """Return the area under hit rate over false alarm rate, by trapezoids; 0.5 where nothing is told apart."""
    alarms, hits = (torch.nn.functional.pad(rate, (0, 1)) for rate in _rates(issued, happened))
    area = ((alarms[..., :-1] - alarms[..., 1:]) * (hits[..., :-1] + hits[..., 1:])).sum(-1) / 2
    return torch.where(event_weight > 0, area, torch.nan)


@register_score("event_weight", units="1")
def sedi(contingency: Tensor, event_weight: Tensor) -> Tensor:
    """Return the symmetric extremal dependence index of a single forecast; NaN where nothing was hit or missed.

    Ferro and Stephenson (2011, doi 10.1175/WAF-D-10-05030.1), from the rates of hits and of false alarms.
    """
    nothing, missed, alarmed, hit = contingency.unbind(-1)
    hits, alarms = hit / (hit + missed), alarmed / (alarmed + nothing)
    some = (hits > 0) & (hits < 1) & (alarms > 0) & (alarms < 1) & (event_weight > 0)
    hits, alarms = (torch.where(some, rate, 0.5) for rate in (hits, alarms))
    logarithms = [part.log() for part in (alarms, hits, 1 - alarms, 1 - hits)]
    far, near, quiet, lost = logarithms
    return torch.where(some, (far - near - quiet + lost) / (far + near + quiet + lost), torch.nan)


@register_score("fraction_squares", units="1")
def fss(fraction_errors: Tensor, fraction_squares: Tensor) -> Tensor:
    """Return the fractions skill score (Roberts and Lean 2008, doi 10.1175/2007MWR2123.1).

    1 − mean of (p − q)² / mean of p² + q², the shares of a window in which the event is forecast and happens.
    """
    return 1 - fraction_errors / fraction_squares


def economic_value(ratio: float, issued: Tensor, happened: Tensor) -> Tensor:
    """Return how much of the gain of a perfect forecast is made by those who act at the probability best for them.

    Richardson (2000, doi 10.1002/qj.49712656313): to act costs `ratio` of the loss that it prevents. The gain is over
    acting always or never, whichever is better.
    """
    alarms, hits = (rate[..., 1:] for rate in _rates(issued, happened))
    often = (happened.sum(-1) / issued.sum(-1))[..., None]
    expense = ratio * (alarms * (1 - often) + hits * often) + (1 - hits) * often
    simple = often.clamp(max=ratio)
    best: Tensor = ((simple - expense) / (simple - ratio * often)).max(-1).values
    return best


EVENT_SCORES = (
    "event_frequency", "brier_score", "brier_score_fair", "brier_reliability", "brier_resolution", "brier_uncertainty",
    "brier_skill_score", "roc_area", "sedi",
)  # fmt: skip


@dataclass(frozen=True)
class Event:
    """That a value lies above a threshold, or beyond a climatological quantile: below one that is less than a half.

    Attributes:
        channel: whose values.
        limit: the threshold in the channel's units, or the quantile.
        climatological: whether it is a quantile.
    """

    channel: Channel
    limit: float
    climatological: bool = False

    @property
    def below(self) -> bool:
        """Whether values below it are meant."""
        return self.climatological and self.limit < 0.5

    def __str__(self) -> str:
        return f"{self.channel} {'<' if self.below else '>'} {'q' if self.climatological else ''}{self.limit:g}"


def events_of(
    channels: Sequence[Channel],
    headline: Sequence[Channel],
    thresholds: Mapping[str, Sequence[float]],
    quantiles: Sequence[float],
) -> tuple[Event, ...]:
    """Return the events that are asked for: thresholds of what is scored, and quantiles of the headline channels.

    Raises:
        ChannelError: if a channel is not scored.
        RecipeError: if a quantile is no probability.
    """
    if wrong := [quantile for quantile in quantiles if not 0 < quantile < 1]:
        raise RecipeError(f"the quantile {wrong[0]:g} is no probability between 0 and 1, such as 0.9")
    above = [
        Event(channel, float(limit))
        for name, limits in thresholds.items()
        for channel in parse_channels([name], channels)
        for limit in limits
    ]
    return (*above, *(Event(channel, float(limit), True) for channel in headline for limit in quantiles))


def departure_quantiles(
    store: Store, channel: Channel, quantiles: Sequence[float]
) -> Float[np.ndarray, "quantile lat lon"]:
    """Return quantiles of the departures from the climatology at each point, over the training period of a store.

    They are taken from at most `SAMPLED` times, evenly spread; NaN where there is no value.
    """
    begin, end = (parse_time(store.dataset.attrs[name], store.calendar) for name in ("train_start", "train_end"))
    inside = np.flatnonzero((store.time >= begin) & (store.time <= end))
    index = inside[np.unique(np.linspace(0, inside.size - 1, min(inside.size, SAMPLED)).round().astype(int))]
    rows, columns = store.grid.shape
    at, band = positions([channel], store.channels, store.path), max(1, _QUANTILE_BYTES // (4 * index.size * columns))
    found = np.empty((len(quantiles), rows, columns), np.float32)
    for first in range(0, rows, band):
        part = np.arange(first, min(first + band, rows))
        departures = np.empty((index.size, part.size, columns), np.float32)
        for number in range(index.size):
            time = index[number : number + 1]
            normal = store.climatology_at(store.time[time], [channel])[0, 0, part]
            departures[number] = store.read(time, np.array(at), part)[0, 0] - normal
        departures.sort(axis=0)
        last = np.isfinite(departures).sum(0) - 1
        for number, quantile in enumerate(quantiles):
            place = last.clip(min=0) * quantile
            lower, upper = (
                np.take_along_axis(departures, step(place).astype(int)[None], 0)[0] for step in (np.floor, np.ceil)
            )
            found[number, part] = np.where(last >= 0, lower + (place % 1) * (upper - lower), np.nan)
    return found


class Events(ByInitialTime):
    """Sums what forecasts say of events and whether they happened, for every lead and region.

    An ensemble says the share of its members for which the event happens, a single forecast 0 or 1.

    Args:
        pairs: what is scored.
        events: at least one.
        regions: names.
        weighting: of the latitudes.
        windows: rows and columns of the neighbourhoods whose fractions are compared.
        store: training store whose quantiles are meant.

    Raises:
        RecipeError: if a window is even or larger than the grid, or quantiles are asked for without a training store.
    """

    def __init__(
        self,
        pairs: Pairs,
        events: Sequence[Event],
        regions: Sequence[str],
        weighting: Weighting,
        windows: Sequence[int] = (),
        store: str | Path | None = None,
    ) -> None:
        if wrong := [window for window in windows if window % 2 == 0 or not 0 < window <= min(pairs.truth.grid.shape)]:
            raise RecipeError(
                f"a window of {wrong[0]} points cannot be laid about a point of the grid {pairs.truth.grid}; give odd "
                "numbers of points, such as 5"
            )
        self.pairs, self.events, self.regions, self.windows = pairs, tuple(events), tuple(regions), tuple(windows)
        self.weights, _ = point_weights(pairs.truth.grid, regions, weighting)
        self.departures = self._departures(store)
        shape = (len(pairs.initial), len(events), len(pairs.leads), len(regions))
        self.issued, self.happened = (
            {name: np.zeros((*shape, series.members + 1)) for name, series in pairs.forecasts.items()} for _ in range(2)
        )
        self.single = {name: np.zeros((*shape, 4)) for name in pairs.forecasts}
        self.fractions = {name: np.zeros((*shape, len(windows), 2)) for name in pairs.forecasts}

    def _departures(self, path: str | Path | None) -> dict[Event, Tensor]:
        """Return the quantiles of departures from the climatology, by event."""
        wanted: dict[Channel, list[Event]] = {}
        for event in self.events:
            if event.climatological:
                wanted.setdefault(event.channel, []).append(event)
        if not wanted:
            return {}
        if path is None or self.pairs.climatology is None:
            raise RecipeError(
                "quantiles are those of the training period of a training store with a climatology, and neither the "
                "truth nor the climatology is one; make one with `etesian prepare`, or give thresholds"
            )
        store, found = Store(path), dict[Event, Tensor]()
        rows, columns = store.grid.locate(self.pairs.truth.grid)
        positions([*wanted], self.pairs.climatology.channels, "the climatology")
        for channel, events in wanted.items():
            maps = departure_quantiles(store, channel, [event.limit for event in events])
            found |= {
                event: torch.from_numpy(each[rows[:, None], columns]) for event, each in zip(events, maps, strict=True)
            }
        return found

    def add(self, chunk: Chunk, where: Bool[Tensor, "initial lead channel lat lon"]) -> None:
        """Take a chunk into account, at the points where all forecasts and the truth are there."""
        periodic = self.pairs.truth.grid.is_periodic
        for number, event in enumerate(self.events):
            channel = self.pairs.channels.index(event.channel)
            truth, use = chunk.truth.values[:, :, channel], where[:, :, channel]
            limit = self.limit(event, chunk)
            use = use & torch.as_tensor(limit).isfinite()
            there = beyond(truth, limit, event.below)
            observed = [_window_sums(there, use, window, periodic) / window**2 for window in self.windows]
            for name, forecast in chunk.forecasts.items():
                single = forecast.values[:, :, channel]
                members = chunk.members[name][:, :, :, channel] if name in chunk.members else single[None]
                count = torch.zeros_like(use, dtype=torch.int64)
                for member in members:
                    count += beyond(member, limit, event.below)
                place = (chunk.initial, number, chunk.leads)
                bins = len(members) + 1
                for sums, values in ((self.issued, use), (self.happened, use & there)):
                    sums[name][place] = sums_by_bin(count.flatten(2), values.flatten(2).double(), self.weights, bins)
                cell = 2 * beyond(single, limit, event.below).long() + there.long()
                self.single[name][place] = sums_by_bin(cell.flatten(2), use.flatten(2).double(), self.weights, 4)
                for position, (window, theirs) in enumerate(zip(self.windows, observed, strict=True)):
                    ours = _window_sums(count, use, window, periodic) / (window**2 * len(members))
                    whole = theirs.isfinite()
                    for part, values in enumerate(((ours - theirs).square(), ours.square() + theirs.square())):
                        total = torch.where(whole, values, 0.0).flatten(2) @ self.weights
                        self.fractions[name][place][..., position, part] = total.numpy()

    def limit(self, event: Event, chunk: Chunk) -> Any:
        """Return what values must lie beyond: a number, or one for each point of a chunk, (initial, lead, lat, lon)."""
        if not event.climatological:
            return event.limit
        assert chunk.climatology is not None
        normal = chunk.climatology.frame.channels.index(event.channel)
        return chunk.climatology.values[:, :, normal] + self.departures[event]

    def kept(self) -> list[tuple[NDArray[Any], int]]:
        """Return arrays, each with the number of its axis of initial times."""
        parts = (self.issued, self.happened, self.single, self.fractions)
        return [(sums, 0) for part in parts for sums in part.values()]

    def result(self) -> xr.Dataset:
        """Return scores of events with their intervals, and the curves that diagrams show."""
        parts = [self._scores(name).expand_dims(forecast=[name]) for name in self.pairs.forecasts]
        found = xr.concat(parts, "forecast", join="outer")
        return found.transpose("forecast", *_DIMS, ...).assign_coords(event=[str(event) for event in self.events])

    def _scores(self, name: str) -> xr.Dataset:
        """Return the scores of one forecast over (event, lead_time, region)."""
        issued, happened = self.issued[name], self.happened[name]
        sums = {"issued": issued, "happened": happened, "event_weight": issued.sum(-1)}
        data = estimates(sums | {"contingency": self.single[name]}, EVENT_SCORES, _DIMS)
        values = []
        for ratio in COST_LOSS:
            value = Score("", partial(economic_value, ratio), ("issued", "happened"), "event_weight", False, "1")
            values.append((value.influence(sums)[0], *value.interval(sums)))
        for end, part in zip(("", "_low", "_high"), zip(*values, strict=True), strict=True):
            data[f"relative_economic_value{end}"] = (*_DIMS, "cost_loss_ratio"), np.stack(part, -1)
        coords: dict[str, Any] = {"cost_loss_ratio": list(COST_LOSS)}
        if self.windows:
            errors, squares = np.moveaxis(self.fractions[name], -1, 0)
            data |= estimates({"fraction_errors": errors, "fraction_squares": squares}, ["fss"], (*_DIMS, "window"))
            coords["window"] = list(self.windows)
        data |= self._curves(issued.sum(0), happened.sum(0))
        members = issued.shape[-1] - 1
        data["probability"] = ("probability_bin",), np.arange(members + 1) / members
        return xr.Dataset(data, coords | {"probability_bin": np.arange(members + 1)})

    def _curves(self, issued: Array, happened: Array) -> Variables:
        """Return what reliability and ROC diagrams show, over (event, lead_time, region, probability_bin)."""
        alarms, hits = (rate.numpy() for rate in _rates(torch.from_numpy(issued), torch.from_numpy(happened)))
        with np.errstate(divide="ignore", invalid="ignore"):
            curves = {
                "issued_share": issued / issued.sum(-1, keepdims=True),
                "observed_frequency": happened / issued,
                "hit_rate": hits,
                "false_alarm_rate": alarms,
            }
        return {name: ((*_DIMS, "probability_bin"), values) for name, values in curves.items()}


def beyond(values: Tensor, limit: Any, below: bool) -> Bool[Tensor, "*axes"]:
    """Return where values lie below a limit, or above it."""
    found: Tensor = values < limit if below else values > limit
    return found


def _window_sums(
    values: Tensor, use: Bool[Tensor, "initial lead lat lon"], window: int, periodic: bool
) -> Float64[Tensor, "initial lead lat lon"]:
    """Return sums over square windows about each point; NaN where a point of the window does not count.

    Windows go round the globe, but do not reach across the poles, nor beyond the edge of a region.
    """
    half = window // 2
    both = torch.stack([torch.where(use, values, 0).double(), use.double()])
    if periodic and half:
        both = torch.cat([both[..., -half:], both, both[..., :half]], -1)
    for axis in (-1, -2):
        padding = (1, 0) if axis == -1 else (0, 0, 1, 0)
        total = torch.nn.functional.pad(both.cumsum(axis), padding)
        both = total.narrow(axis, window, total.shape[axis] - window) - total.narrow(
            axis, 0, total.shape[axis] - window
        )
    found = torch.full(use.shape, torch.nan, dtype=torch.float64)
    rows, columns = both.shape[-2:]
    first = 0 if periodic else half
    inner = torch.where(both[1] == window**2, both[0], torch.nan)
    found[..., half : half + rows, first : first + columns] = inner
    return found
