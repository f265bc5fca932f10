"""The ridge regression that departures may be from: fitted to a run's training windows and kept in its checkpoint."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from etesian.core import Batch, Fields, Frame, Layout
from etesian.core.device import positions, sent
from etesian.core.errors import DataError, RecipeError
from etesian.core.recorded import plain
from etesian.forecast.data import ForecastData
from etesian.networks.network import lead_hours
from etesian.samples.batches import in_chunks
from etesian.samples.windows import WindowDataset, WindowPick

Values = Float[Tensor, "batch time channel lat lon"]

PENALTIES = tuple(10.0**power for power in range(-4, 4))
"""Penalties to choose from, in units of the mean variance of the predictors."""

PARTS = 5
"""Parts of the training period, each forecast in training by a regression that is fitted to the others."""

PATTERN_NUMBERS, MOST_NUMBERS = 2**26, 2**27
"""Most values of the states that patterns are found from, and most coefficients that are held while fitting."""

WITHOUT = "leave ridge out, and departures are from damped persistence"


@plain
@dataclass(frozen=True)
class Ridge:
    """A ridge regression of every target on the leading patterns (EOFs) of all inputs at the times of the history.

    Attributes:
        leads: hours to fit, ascending; between two of them forecasts are interpolated.
        patterns: most patterns that a state is told by.
    """

    leads: Sequence[int]
    patterns: int = 80


class PatternRidge(nn.Module):
    """Forecasts normalised anomalies by a ridge regression on the leading patterns of the inputs.

    What is fitted to a sample forecasts it better than any other, so what the regression misses in its own training
    period is no example of what it will miss. In training, each part of the period is therefore forecast by a
    regression on the other parts.

    Args:
        layout: what goes in and what comes out.
        options: leads and number of patterns.

    Raises:
        RecipeError: if the leads do not ascend, or the regression would not fit into memory.
    """

    patterns: Tensor
    weights: Tensor

    def __init__(self, layout: Layout, options: Ridge) -> None:
        super().__init__()
        leads, count = list(options.leads), options.patterns
        if not leads or leads != sorted(set(leads)) or leads[0] <= 0 or count < 1:
            raise RecipeError(f"ridge needs ascending leads and patterns, not leads {leads} and {count} patterns")
        points = int(np.prod(layout.grid.shape))
        by_pattern = (PARTS + 1) * len(leads) * len(layout.history) * len(layout.targets) * points
        if count * by_pattern > MOST_NUMBERS:
            most = MOST_NUMBERS // by_pattern
            remedy = f"set patterns to {most} or less" if most else WITHOUT
            raise RecipeError(
                f"a ridge on {count} patterns at {len(layout.history)} times for {len(leads)} leads of "
                f"{len(layout.targets)} targets on {layout.grid} is out of reach; {remedy}"
            )
        self.layout, self.options, self.leads = layout, options, tuple(leads)
        self.register_buffer("patterns", torch.zeros(count, len(layout.inputs), *layout.grid.shape))
        predictors = count * len(layout.history)
        self.register_buffer("weights", torch.zeros(len(leads), predictors, len(layout.targets), *layout.grid.shape))
        # Needed in training only, and made anew whenever it begins: neither saved nor averaged.
        self.borders, self.without = torch.zeros(0, dtype=torch.int64), []  # type: Tensor, list[Tensor]

    def forward(self, inputs: Fields, target: Frame) -> Values:
        """Return the regression's forecast on a target frame from normalised inputs.

        Raises:
            DataError: if a lead lies outside those that were fitted.
        """
        with torch.autocast(inputs.values.device.type, enabled=False):
            return self._forecast(inputs, target)

    def _forecast(self, inputs: Fields, target: Frame) -> Values:
        state = self._amplitudes(inputs)
        shares = self._shares(lead_hours(inputs, target))
        index = positions([self.layout.targets.index(channel) for channel in target.channels], state.device)
        if not (self.training and self.without):
            return _applied(state, self.weights.index_select(2, index), sent(shares, state))
        self.without = [weights.to(state.device) for weights in self.without]
        part = self._part(inputs)
        answers = state.new_zeros(*target.time.shape, len(index), *target.grid.shape)
        for number in set(part.tolist()):
            rows = (part == number).nonzero()[:, 0]
            here = sent(rows, state)
            weights = self.without[number].index_select(2, index)
            own = _applied(state.index_select(0, here), weights, sent(shares[rows], state))
            answers = answers.index_copy(0, here, own.to(answers.dtype))
        return answers

    @torch.no_grad()
    def fit(self, data: ForecastData, normalized: Callable[[Batch], Batch]) -> None:
        """Fit to the windows to train on, in two passes.

        The penalty is chosen for each lead and target by forecasting each part of the period from the others.

        Args:
            data: whose training windows are read.
            normalized: from physical to normalised units.

        Raises:
            RecipeError: if the sources differ in channels or grid, or the data have other leads.
        """
        self._check(data)
        dataset = data.dataset("train")
        picks = [replace(pick, leads=self.leads) for pick in dataset.picks if set(self.leads) <= set(pick.leads)]
        if len(picks) < 2 * PARTS:
            raise RecipeError(f"a ridge needs more than {len(picks)} windows to train on; {WITHOUT}")
        self._find_patterns(dataset, picks, normalized)
        initial = np.sort([dataset.stores[pick.store].time[pick.initial] for pick in picks])
        self.borders = torch.from_numpy(initial[[part * len(initial) // PARTS for part in range(1, PARTS)]])
        predictors, values = self.weights.shape[1], int(np.prod(self.weights.shape[2:]))
        gram = torch.zeros(PARTS, predictors, predictors, dtype=torch.float64)
        cross = torch.zeros(PARTS, len(self.leads), predictors, values)
        square = torch.zeros(PARTS, len(self.leads), values, dtype=torch.float64)
        for batch in _batches(dataset, picks, normalized):
            assert batch.targets is not None
            states, truth = self._amplitudes(batch.inputs), batch.targets.filled().flatten(2)
            part = self._part(batch.inputs)
            for number in set(part.tolist()):
                x, y = states[part == number], truth[part == number]
                gram[number] += x.double().T @ x.double()
                cross[number] += torch.einsum("bp,blv->lpv", x, y)
                square[number] += y.double().square().sum(0)
        self._solve(gram, cross, square)

    def _check(self, data: ForecastData) -> None:
        for store, part in zip(data.stores, data.layouts, strict=True):
            if (part.inputs, part.targets, part.grid) != (self.layout.inputs, self.layout.targets, self.layout.grid):
                raise RecipeError(
                    f"a ridge needs sources that all have the same channels on one grid, but {store.path} has others "
                    f"than the first; {WITHOUT}"
                )
        if not set(self.leads) <= set(data.leads):
            raise RecipeError(f"ridge names leads {list(self.leads)}, but the data have {list(data.leads)}")

    def _find_patterns(
        self, dataset: WindowDataset, picks: list[WindowPick], normalized: Callable[[Batch], Batch]
    ) -> None:
        """Find the leading patterns of the inputs at some initial times, evenly spread."""
        size = int(np.prod(self.patterns.shape[1:]))
        most = max(min(len(picks), 10 * len(self.patterns), PATTERN_NUMBERS // size), 1)
        some = [picks[i] for i in np.unique(np.linspace(0, len(picks) - 1, most).round().astype(int))]
        states = torch.cat([b.inputs.at(-1).filled().flatten(1) for b in _batches(dataset, some, normalized)])
        found = torch.linalg.svd(states, full_matrices=False).Vh[: len(self.patterns)]
        self.patterns.zero_()
        self.patterns[: len(found)] = found.view(-1, *self.patterns.shape[1:])

    def _part(self, inputs: Fields) -> Int64[Tensor, " batch"]:
        """Return in which part of the training period each sample begins."""
        initial = inputs.frame.time[:, -1].contiguous()
        return torch.bucketize(initial, self.borders, right=True)

    def _amplitudes(self, inputs: Fields) -> Float[Tensor, "batch predictor"]:
        """Return how much of each pattern there is at each time of the history."""
        states = inputs.select(self.layout.inputs).filled().flatten(2)
        return (states @ self.patterns.to(states).flatten(1).T).flatten(1)

    def _shares(self, hours: Float[Tensor, "batch time"]) -> Float[Tensor, "batch time lead"]:
        """Return how much each fitted lead counts at each lead that is asked for."""
        fitted = hours.new_tensor(self.leads)
        if bool((hours < fitted[0]).any()) or bool((hours > fitted[-1]).any()):
            raise DataError(f"the ridge was fitted to leads of {self.leads[0]} to {self.leads[-1]} h, not beyond them")
        above = torch.bucketize(hours, fitted).clamp(1 if len(fitted) > 1 else 0)
        below = (above - 1).clamp(0)
        part = (hours - fitted[below]) / (fitted[above] - fitted[below]).clamp(min=1)
        shares = torch.zeros(*hours.shape, len(fitted), device=hours.device)
        return shares.scatter_add(2, below[..., None], 1 - part[..., None]).scatter_add(
            2, above[..., None], part[..., None]
        )

    def _solve(
        self,
        gram: Float[Tensor, "part predictor predictor"],
        cross: Float[Tensor, "part lead predictor value"],
        square: Float[Tensor, "part lead value"],
    ) -> None:
        """Choose the penalties, and keep the regression on the whole period and those that leave a part out."""
        rows = torch.from_numpy(self.layout.grid.area_weights).float()
        weight = rows.repeat_interleave(self.layout.grid.shape[1])
        targets, predictors, shape = len(self.layout.targets), self.weights.shape[1], self.layout.grid.shape
        whole, others = _Solver(gram.sum(0)), [_Solver(gram.sum(0) - gram[part]) for part in range(PARTS)]
        without = [torch.zeros_like(self.weights) for _ in range(PARTS)]
        for lead in range(len(self.leads)):
            everything = cross[:, lead].sum(0)
            errors = torch.zeros(len(PENALTIES), targets)
            for number, penalty in enumerate(PENALTIES):
                for part, solver in enumerate(others):
                    fitted = solver(everything - cross[part, lead], penalty)
                    missed = square[part, lead].float() - 2 * (fitted * cross[part, lead]).sum(0)
                    missed += (fitted * (gram[part].float() @ fitted)).sum(0)
                    errors[number] += (missed.view(targets, -1) * weight).sum(1)
            chosen = [PENALTIES[best] for best in errors.argmin(0).tolist()]
            for target, penalty in enumerate(chosen):
                own = cross[:, lead].view(PARTS, predictors, targets, *shape)[:, :, target].flatten(2)
                self.weights[lead, :, target] = whole(own.sum(0), penalty).view(-1, *shape)
                for part, solver in enumerate(others):
                    without[part][lead, :, target] = solver(own.sum(0) - own[part], penalty).view(-1, *shape)
        self.without = without


class _Solver:
    """Solves the normal equations of one set of predictors for any penalty."""

    def __init__(self, gram: Float[Tensor, "predictor predictor"]) -> None:
        self._size, vectors = torch.linalg.eigh(gram)
        self._vectors = vectors.float()

    def __call__(self, cross: Float[Tensor, "predictor value"], penalty: float) -> Float[Tensor, "predictor value"]:
        scale = (self._size.clamp(min=0) + penalty * self._size.mean()).float()
        fitted: Tensor = self._vectors @ ((self._vectors.T @ cross) / scale[:, None])
        return fitted


def _applied(
    state: Float[Tensor, "batch predictor"],
    weights: Float[Tensor, "lead predictor channel lat lon"],
    shares: Float[Tensor, "batch time lead"],
) -> Values:
    fitted = torch.einsum("bp,lpcyx->blcyx", state, weights.to(state))
    return torch.einsum("btl,blcyx->btcyx", shares.to(state), fitted)


def _batches(
    dataset: WindowDataset, picks: Sequence[WindowPick], normalized: Callable[[Batch], Batch]
) -> Iterator[Batch]:
    """Read windows in normalised units, one source after the other, neighbouring times together."""
    for number in range(len(dataset.stores)):
        own = [pick for pick in picks if pick.store == number]
        yield from map(normalized, in_chunks(dataset, own))
