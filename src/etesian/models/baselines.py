"""Baselines behind the same interface as every network: what a learned model has to beat."""

from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from etesian.core import Fields, Frame, Layout
from etesian.core.errors import DataError, GridError
from etesian.core.interpolation import linear_weights, longitude_weights
from etesian.models.network import Network, lead_hours

Values = Float[Tensor, "batch time channel lat lon"]


class Persistence(Network):
    """Tomorrow is like today: the last input state, at every lead."""

    def __init__(self, layout: Layout) -> None:
        super().__init__()
        self.layout = layout

    def forward(
        self, inputs: Fields, target: Frame, *, forcings: Fields | None = None, statics: Fields | None = None
    ) -> Values:
        """Return the last input state, NaN where it is not valid."""
        latest = inputs.at(-1).select(target.channels)
        return latest.filled(float("nan")).expand(-1, target.time.shape[1], -1, -1, -1)


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


def apply_linear(
    coefficients: Tensor, states: Float[Tensor, "batch time channel lat lon"]
) -> Float[Tensor, "batch channel lat lon"]:
    """Apply coefficients per grid point to the last state, or between all points (see `LinearForecast`) to all."""
    last = states[:, -1]
    if coefficients.shape[-2:] == last.shape[-2:]:
        return coefficients * last
    predictors = states.transpose(1, 2).flatten(2)
    return torch.einsum("bcp,cpq->bcq", predictors, coefficients).view_as(last)


class Interpolation(Network):
    """The input state interpolated bilinearly to the target grid: what downscaling has to beat.

    Raises:
        GridError: if the layout has no target grid, or one that reaches beyond the longitudes of the inputs.
    """

    def __init__(self, layout: Layout) -> None:
        super().__init__()
        self.layout = layout
        target = layout.target_grid
        if target is None:
            raise GridError("interpolation needs a layout with a target_grid")
        # Beyond the outermost rows the nearest one is kept.
        latitude = np.clip(target.latitude, *layout.grid.latitude[[0, -1]])
        rows, columns = linear_weights(layout.grid.latitude, latitude), longitude_weights(layout.grid, target)
        if (columns.sum(axis=1) < 0.5).any():
            raise GridError(f"the target grid {target} reaches beyond the longitudes of the inputs, {layout.grid}")
        self.register_buffer("rows", torch.from_numpy(rows).float(), persistent=False)
        self.register_buffer("columns", torch.from_numpy(columns).float(), persistent=False)

    rows: Tensor
    columns: Tensor

    def forward(
        self, inputs: Fields, target: Frame, *, forcings: Fields | None = None, statics: Fields | None = None
    ) -> Values:
        """Return the last input state on the target grid, NaN where it depends on missing values."""
        state = inputs.at(-1).select(target.channels)
        values = self._on_target(state.filled())
        if state.valid is not None:
            # A point is missing where any of the points that it is made of is, and only there.
            values = values.masked_fill(self._on_target((~state.valid).float()) > 0, float("nan"))
        return values.expand(-1, target.time.shape[1], -1, -1, -1)

    def _on_target(
        self, values: Float[Tensor, "batch one channel lat lon"]
    ) -> Float[Tensor, "batch one channel row column"]:
        return torch.einsum("btchw,ih,jw->btcij", values, self.rows, self.columns)
