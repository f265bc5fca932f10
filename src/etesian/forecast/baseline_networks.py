"""Baselines behind the same interface as every network: what a learned model has to beat."""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from etesian.core import Fields, Frame, Layout
from etesian.core.errors import DataError
from etesian.networks.network import Network, lead_hours

Values = Float[Tensor, "batch time channel lat lon"]


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
