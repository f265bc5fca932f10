"""Baselines fitted to the training period of a store: what every learned forecast has to beat."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from etesian.core import Channel, Fields, Frame, Layout
from etesian.core.clock import decode_time, parse_time, seasonal_terms
from etesian.core.constants import SECONDS_PER_HOUR
from etesian.core.errors import DataError, RecipeError, suggest
from etesian.core.statistics import unscaled
from etesian.forecast.task import ForecastTask
from etesian.networks.network import Network, lead_hours
from etesian.nn.normalizer import Normalizer
from etesian.samples.windows import WindowReader
from etesian.store.reader import Store, positions

Values = Float[Tensor, "batch time channel lat lon"]

BASELINES = (
    "persistence",
    "climatology",
    "seasonal_cycle",
    "damped_persistence",
    "ridge",
    "ridge_3_days",
    "ridge_all_channels",
)
"""`climatology` is the store's table by hour and day of the year (WeatherBench 2), `seasonal_cycle` two harmonics of
the year at every grid point, `damped_persistence` an anomaly times a coefficient for each grid point and lead, and
`ridge` a regression of every grid point of a channel on all of them, and `ridge_3_days` on all of them today,
yesterday and the day before; `ridge_all_channels` regresses every grid point of every channel on the leading patterns
of all channels together."""

HISTORIES = {"ridge": (0,), "ridge_3_days": (-48, -24, 0)}

RIDGE_PREDICTORS = 2000

PATTERNS, PATTERN_TIMES = 500, 2000
"""Most patterns that `ridge_all_channels` is fitted to, and most times, evenly spread, that they are found from."""

PENALTIES = 10.0 ** np.arange(-3, 4)
"""Penalties that `ridge` chooses from, in units of the mean variance of its predictors."""


class Persistence(Network):
    """Tomorrow is like today: the last input state, or the mean of several where half of them are valid."""

    def __init__(self, layout: Layout) -> None:
        super().__init__()
        self.layout = layout

    def forward(
        self, inputs: Fields, target: Frame, *, forcings: Fields | None = None, statics: Fields | None = None
    ) -> Values:
        """Return the mean of the input states at every target time, NaN where fewer than half are valid."""
        states = inputs.select(target.channels)
        mean = states.filled(float("nan")).nanmean(dim=1, keepdim=True)
        if states.valid is not None:
            enough = 2 * states.valid.sum(dim=1, keepdim=True) >= states.valid.shape[1]
            mean = mean.masked_fill(~enough, float("nan"))
        return mean.expand(-1, target.time.shape[1], -1, -1, -1)


class Climatology(Network):
    """Every year is like the mean year.

    Args:
        layout: what is asked for.
        table: gives the climatology on a frame.
    """

    def __init__(self, layout: Layout, table: Callable[[Frame], Values]) -> None:
        super().__init__()
        self.layout, self.table = layout, table

    def forward(
        self, inputs: Fields, target: Frame, *, forcings: Fields | None = None, statics: Fields | None = None
    ) -> Values:
        """Return the climatology at the target times."""
        return self.table(target).to(inputs.values.device)


class LinearForecast(Network):
    """A linear map of the initial state for each lead: damped persistence or ridge regression.

    Args:
        layout: what goes in and what comes out.
        coefficients: by lead in hours; per grid point (channel, lat, lon), or from every point of a channel at all
            times of the history, one after another, to every point of it (channel, predictor, point).
    """

    def __init__(self, layout: Layout, coefficients: dict[int, Tensor]) -> None:
        super().__init__()
        self.layout = layout
        self.leads = tuple(coefficients)
        for lead, tensor in coefficients.items():
            self.register_buffer(f"coefficients_{lead}", tensor)

    def forward(
        self, inputs: Fields, target: Frame, *, forcings: Fields | None = None, statics: Fields | None = None
    ) -> Values:
        """Return the map of the input states.

        Raises:
            DataError: if a lead was not fitted.
        """
        states = inputs.select(self.layout.targets).filled()
        wanted = [self.layout.targets.index(c) for c in target.channels]
        leads = lead_hours(inputs, target)
        answers = []
        for lead in leads[0].tolist():
            if lead not in self.leads:
                raise DataError(f"no regression was fitted for a lead of {lead:g} h; fitted were {list(self.leads)}")
            coefficients = self.get_buffer(f"coefficients_{int(lead)}")
            answers.append(apply_linear(coefficients, states)[:, wanted])
        return torch.stack(answers, dim=1)


class PatternForecast(Network):
    """All channels at each lead from the leading patterns of all channels at the initial time.

    Args:
        layout: what goes in and what comes out.
        patterns: what each value of the state, channel by channel, gives to each pattern.
        weights: what each pattern gives to each value of the state at a lead in hours.
    """

    patterns: Tensor

    def __init__(
        self,
        layout: Layout,
        patterns: Float[Tensor, "predictor pattern"],
        weights: dict[int, Float[Tensor, "pattern predictor"]],
    ) -> None:
        super().__init__()
        self.layout, self.leads = layout, tuple(weights)
        self.register_buffer("patterns", patterns)
        for lead, tensor in weights.items():
            self.register_buffer(f"weights_{lead}", tensor)

    def forward(
        self, inputs: Fields, target: Frame, *, forcings: Fields | None = None, statics: Fields | None = None
    ) -> Values:
        """Return the map of the last input state.

        Raises:
            DataError: if a lead was not fitted.
        """
        state = inputs.select(self.layout.targets).at(-1).filled()[:, 0]
        wanted = [self.layout.targets.index(c) for c in target.channels]
        amplitudes = state.flatten(1) @ self.patterns
        answers = []
        for lead in lead_hours(inputs, target)[0].tolist():
            if lead not in self.leads:
                raise DataError(f"no regression was fitted for a lead of {lead:g} h; fitted were {list(self.leads)}")
            answers.append((amplitudes @ self.get_buffer(f"weights_{int(lead)}")).view_as(state)[:, wanted])
        return torch.stack(answers, dim=1)


def apply_linear(
    coefficients: Tensor, states: Float[Tensor, "batch time channel lat lon"]
) -> Float[Tensor, "batch channel lat lon"]:
    """Apply coefficients per grid point to the last state, or between all points (see `LinearForecast`) to all."""
    last = states[:, -1]
    if coefficients.shape[-2:] == last.shape[-2:]:
        return coefficients * last
    predictors = states.transpose(1, 2).flatten(2)
    return torch.einsum("bcp,cpq->bcq", predictors, coefficients).view_as(last)


def baseline_task(
    name: str,
    store: Store,
    channels: Sequence[Channel],
    leads: Sequence[int],
    average_hours: int | None = None,
) -> ForecastTask:
    """Return a baseline as a task that predicts like any other.

    Args:
        name: one of `BASELINES`.
        store: whose training period it is fitted to.
        channels: to predict, each from itself.
        leads: hours.
        average_hours: predict means over so many hours up to each lead, the lead included. Persistence is then the mean
            over as many hours up to the initial time, and the seasonal cycle and the climatology are averaged.

    Raises:
        RecipeError: if there is no such baseline, or it predicts no averages.
        DataError: if the store lacks what it needs.
    """
    if name not in BASELINES:
        raise RecipeError(f"there is no baseline '{name}'{suggest(name, BASELINES)}")
    history = HISTORIES.get(name, (0,))
    layout = Layout(inputs=tuple(channels), targets=tuple(channels), grid=store.grid, history=history)
    if average_hours is not None:
        return _averaged_baseline(name, store, layout, average_hours)
    statistics = store.statistics.select(channels)
    if name == "damped_persistence" or name in HISTORIES:
        damped = name == "damped_persistence"
        coefficients = (
            fit_damped_persistence(store, channels, leads) if damped else fit_ridge(store, channels, leads, history)
        )
        return ForecastTask(lambda layout: LinearForecast(layout, coefficients), layout, statistics, anomalies=True)
    if name == "ridge_all_channels":
        patterns, weights = fit_ridge_on_patterns(store, channels, leads)
        return ForecastTask(
            lambda layout: PatternForecast(layout, patterns, weights), layout, statistics, anomalies=True
        )
    if name == "seasonal_cycle":
        return ForecastTask(lambda layout: Climatology(layout, _no_anomaly), layout, statistics, anomalies=True)
    physical = unscaled(channels)
    if name == "persistence":
        return ForecastTask(Persistence, layout, physical)
    table = _climatology_table(store)
    return ForecastTask(lambda layout: Climatology(layout, table), layout, physical)


def _averaged_baseline(name: str, store: Store, layout: Layout, hours: int) -> ForecastTask:
    window, channels = WindowReader(store, layout, hours).before, layout.targets
    physical = unscaled(channels)
    if name == "persistence":
        task = ForecastTask(Persistence, replace(layout, history=window), physical)
    elif name in ("seasonal_cycle", "climatology"):
        statistics = store.statistics.select(channels)
        seasonal, physical = Normalizer(statistics, anomalies=True), replace(physical, observed=statistics.observed)

        def cycle(target: Frame) -> Tensor:
            return seasonal.denormalize(_no_anomaly(target), target)

        table = cycle if name == "seasonal_cycle" else _climatology_table(store)

        def mean(target: Frame) -> Tensor:
            times = (target.time + hour * SECONDS_PER_HOUR for hour in window)
            return torch.stack([table(replace(target, time=time)) for time in times]).mean(0)

        task = ForecastTask(lambda layout: Climatology(layout, mean), layout, physical)
    else:
        raise RecipeError(
            f"{name} is fitted to states, not to means over {hours} h; compare averages with persistence, "
            "seasonal_cycle or climatology"
        )
    task.provenance["average_hours"] = hours
    return task


def fit_damped_persistence(
    store: Store, channels: Sequence[Channel], leads: Sequence[int]
) -> dict[int, Float[Tensor, "channel lat lon"]]:
    """Regress the anomaly at each lead on the initial one, by least squares at every grid point."""
    coefficients = {lead: [] for lead in leads}  # type: dict[int, list[NDArray[np.float64]]]
    for channel in channels:
        anomaly, time = training_anomalies(store, channel)
        for lead in leads:
            now, later = _pairs(time, lead, store.path)
            product = (anomaly[now] * anomaly[later]).sum(0)
            coefficients[lead].append(product / np.maximum((anomaly[now] ** 2).sum(0), 1e-300))
    shape = (len(channels), *store.grid.shape)
    return {lead: torch.from_numpy(np.stack(rows).reshape(shape)).float() for lead, rows in coefficients.items()}


def fit_ridge(
    store: Store, channels: Sequence[Channel], leads: Sequence[int], history: Sequence[int] = (0,)
) -> dict[int, Float[Tensor, "channel predictor point"]]:
    """Regress the anomalies of a channel at each lead on all its anomalies at the hours of the history.

    The penalty is chosen for each channel and lead among `PENALTIES` by leaving out one year after another of the
    training period (one fifth of it after another if it is shorter than three years).

    Raises:
        DataError: if the grid has too many points.
    """
    predictors = len(history) * int(np.prod(store.grid.shape))
    if predictors > RIDGE_PREDICTORS:
        raise DataError(
            f"ridge regression on {predictors} predictors from {store.path} is out of reach; "
            f"it takes up to {RIDGE_PREDICTORS}, so evaluate without it or on a coarser grid"
        )
    weight = np.repeat(store.grid.area_weights, store.grid.shape[1])
    coefficients = {lead: [] for lead in leads}  # type: dict[int, list[NDArray[np.float64]]]
    for channel in channels:
        anomaly, time = training_anomalies(store, channel)
        for lead in leads:
            now, later = _pairs(time, lead, store.path)
            earlier = np.searchsorted(time, time[now] + SECONDS_PER_HOUR * np.asarray(history)[:, None])
            complete = (time[earlier] == time[now] + SECONDS_PER_HOUR * np.asarray(history)[:, None]).all(axis=0)
            now, later, earlier = now[complete], later[complete], earlier[:, complete]
            states = np.concatenate([anomaly[index] for index in earlier], axis=1)
            folds = _folds(time[now], store.calendar)
            coefficients[lead].append(_ridge(states, anomaly[later], folds, weight))
    return {lead: torch.from_numpy(np.stack(rows)).float() for lead, rows in coefficients.items()}


def fit_ridge_on_patterns(
    store: Store, channels: Sequence[Channel], leads: Sequence[int]
) -> tuple[Float[Tensor, "predictor pattern"], dict[int, Float[Tensor, "pattern predictor"]]]:
    """Regress all channels at each lead on the leading patterns (EOFs) of all their standardised anomalies together.

    One channel is in memory at a time. Penalties are chosen for each channel and lead as in `fit_ridge`.

    Returns:
        What each value, channel by channel, gives to each pattern, and what each pattern gives to each value.
    """
    spread = store.statistics.select(channels).anomaly_std
    assert spread is not None
    _, time = training_anomalies(store, channels[0])
    some = np.unique(np.linspace(0, len(time) - 1, min(len(time), PATTERN_TIMES)).round().astype(np.int64))

    def standardised(number: int) -> NDArray[np.float64]:
        return np.asarray(training_anomalies(store, channels[number])[0] / spread[number])

    gram = np.zeros((len(some), len(some)))
    for number in range(len(channels)):
        values = standardised(number)[some]
        gram += values @ values.T
    size, vectors = np.linalg.eigh(gram)
    kept = np.flatnonzero(size > 1e-9 * size[-1])[-PATTERNS:]
    mixed = vectors[:, kept] / np.sqrt(size[kept])
    states, patterns = np.zeros((len(time), len(kept))), []
    for number in range(len(channels)):
        values = standardised(number)
        patterns.append(values[some].T @ mixed)
        states += values @ patterns[-1]
    weight = np.repeat(store.grid.area_weights, store.grid.shape[1])
    fitted: dict[int, list[NDArray[np.float64]]] = {lead: [] for lead in leads}
    for number in range(len(channels)):
        values = standardised(number)
        for lead in leads:
            now, later = _pairs(time, lead, store.path)
            fitted[lead].append(_ridge(states[now], values[later], _folds(time[now], store.calendar), weight))
    weights = {lead: torch.from_numpy(np.concatenate(parts, axis=1)).float() for lead, parts in fitted.items()}
    return torch.from_numpy(np.concatenate(patterns)).float(), weights


def training_anomalies(store: Store, channel: Channel) -> tuple[Float[np.ndarray, "time point"], NDArray[np.int64]]:
    """Return deviations from the seasonal cycle over the training period, zero where missing, and their times."""
    first, last = (parse_time(store.dataset.attrs[name], store.calendar) for name in ("train_start", "train_end"))
    index = np.flatnonzero((store.time >= first) & (store.time <= last))
    number = positions([channel], store.channels, store.path)
    values = store.read(index, np.array(number))[:, 0].reshape(len(index), -1).astype(np.float64)
    harmonics = store.statistics.harmonics
    assert harmonics is not None
    basis = seasonal_terms(store.time[index], store.calendar)
    return np.nan_to_num(values - basis @ harmonics[:, number[0]].reshape(len(basis.T), -1)), store.time[index]


def _ridge(
    x: NDArray[np.float64], y: NDArray[np.float64], folds: list[NDArray[np.int64]], weight: NDArray[np.float64]
) -> NDArray[np.float64]:
    gram, cross = x.T @ x, x.T @ y
    errors = np.zeros(len(PENALTIES))
    for fold in folds:
        values, vectors = np.linalg.eigh(gram - x[fold].T @ x[fold])
        # On the axes of the predictors, where a penalty is a division, and no coefficients need be formed.
        seen, rotated = x[fold] @ vectors, vectors.T @ (cross - x[fold].T @ y[fold])
        for i, penalty in enumerate(PENALTIES):
            fitted = seen @ (rotated / (values + penalty * values.mean())[:, None])
            errors[i] += (weight * (y[fold] - fitted) ** 2).sum()
    penalty = PENALTIES[errors.argmin()] * np.trace(gram) / len(gram)
    return np.linalg.solve(gram + penalty * np.eye(len(gram)), cross)


def _folds(time: NDArray[np.int64], calendar: str) -> list[NDArray[np.int64]]:
    years = np.array([int(str(date)[:4]) for date in decode_time(time, calendar)])
    found = np.unique(years)
    if len(found) >= 3:
        return [np.flatnonzero(years == year) for year in found]
    return np.array_split(np.arange(len(time)), 5)


def _pairs(time: NDArray[np.int64], lead: int, path: str) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    later = np.searchsorted(time, time + lead * SECONDS_PER_HOUR)
    now = np.flatnonzero(later < len(time))
    now = now[time[later[now]] == time[now] + lead * SECONDS_PER_HOUR]
    if not len(now):
        raise DataError(f"the training period of {path} has no two times that lie {lead} h apart")
    return now, later[now]


def _no_anomaly(target: Frame) -> Tensor:
    return torch.zeros(*target.time.shape, len(target.channels), *target.grid.shape)


def _climatology_table(store: Store) -> Callable[[Frame], Tensor]:
    if "climatology" not in store.dataset:
        why = store.dataset.attrs.get("climatology_omitted", "it was not computed")
        raise DataError(f"{store.path} holds no climatology ({why}); score against seasonal_cycle instead")

    def lookup(target: Frame) -> Tensor:
        fields = store.climatology_at(target.time.numpy().ravel(), target.channels)
        return torch.from_numpy(fields.reshape(*target.time.shape, *fields.shape[1:]))

    return lookup
