"""Interpolation by regression: what a fine field is on average, given all coarse fields around."""

from collections.abc import Iterable
from dataclasses import replace
from itertools import pairwise

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Float64
from torch import Tensor, nn

from etesian.core.device import positions
from etesian.core.errors import DataError, GridError, RecipeError
from etesian.core.fields import Batch, Fields, Layout
from etesian.networks.interpolation import ConservativeInterpolation

REACH = 3
"""Coarse points that are looked at to each side of a fine one."""

PENALTIES = tuple(10.0**power for power in range(-6, 1))
"""Penalties to choose from, in units of the mean square of the predictors."""

MOST_NUMBERS = 2**28
"""Most numbers that are held while fitting."""

_WIDTH = 2 * REACH + 1

_INSTEAD = "set interpolation: conservative"

Answers = Float64[Tensor, "row one_more answer"]


class RegressionInterpolation(nn.Module):
    """Interpolates by conservative splines, and adds to targets what a ridge regression says that these miss.

    It looks at all inputs at 7 × 7 coarse points, in each fine row by itself. So what one field tells of another goes
    into it, such as a geopotential's slope of the wind, as the latitude has it. Fine points that lie alike among the
    coarse ones of their row share their weights. Fitted when training begins, and kept in the checkpoint.

    Args:
        layout: with a `target_grid`; both grids go round the globe.

    Raises:
        GridError: if the grids do not go round the globe, there is no whole number of fine columns for each coarse one,
            or the coarse grid has fewer than seven rows.
        RecipeError: if the regression would not fit into memory.
    """

    weights: Tensor
    offsets: Tensor

    def __init__(self, layout: Layout) -> None:
        super().__init__()
        self.source, self.target, self.inputs = layout.grid, layout.output_grid, layout.inputs
        self.targets = tuple(channel for channel in layout.targets if channel in layout.inputs)
        (rows, columns), self.fine_rows = self.source.shape, self.target.shape[0]
        self.factor, odd = divmod(self.target.shape[1], columns)
        if odd or not (self.source.is_periodic and self.target.is_periodic) or rows < _WIDTH:
            raise GridError(
                f"a regression needs grids round the globe, with {_WIDTH} coarse rows or more and a whole number of "
                f"fine columns for each coarse one, not {self.source} and {self.target}; {_INSTEAD}"
            )
        nearest = np.abs(self.target.latitude[:, None] - self.source.latitude).argmin(1)
        first = np.clip(nearest - REACH, 0, rows - _WIDTH)
        ends = np.flatnonzero(np.diff(first, append=-1)) + 1
        # Fine rows that look at the same coarse ones, by the first of these.
        self.groups = [(int(first[end - 1]), slice(start, end)) for start, end in pairwise([0, *ends.tolist()])]
        predictors, answers = len(self.inputs) * _WIDTH**2, len(self.targets) * self.factor
        if 2 * predictors * (len(self.groups) * predictors + self.fine_rows * answers) > MOST_NUMBERS:
            raise RecipeError(
                f"a regression on {len(self.inputs)} inputs at {_WIDTH**2} points for {self.fine_rows} rows is out of "
                f"reach; {_INSTEAD}"
            )
        centre = self.target.longitude[: self.factor].mean() - self.source.longitude[0]
        self.shift = round(float(centre / (360 / columns)))
        self.register_buffer("weights", torch.zeros(self.fine_rows, predictors, answers))
        self.register_buffer("offsets", torch.zeros(self.fine_rows, answers))
        self.others = ConservativeInterpolation(self.source, self.target)

    def forward(self, fields: Fields) -> Fields:
        """Return normalised fields on the target grid.

        Raises:
            GridError: if they do not lie on the source grid.
            DataError: if they have holes.
        """
        fine: Fields = self.others(fields)
        values = fields.select(self.inputs).values.flatten(0, 1)
        parts = []
        with torch.autocast(values.device.type, enabled=False):
            for start, rows in self.groups:
                weights = self.weights[rows].transpose(0, 1).flatten(1)
                found = self._around(values.float(), start) @ weights + self.offsets[rows].flatten()
                parts.append(found.view(len(values), found.shape[1], -1, len(self.targets), self.factor))
        missed = torch.cat(parts, dim=2).permute(0, 3, 2, 1, 4).flatten(3)
        index = positions([fine.frame.channels.index(channel) for channel in self.targets], values.device)
        missed = missed.view(*fine.values.shape[:2], *missed.shape[1:])
        return replace(fine, values=fine.values.index_add(2, index, missed.to(fine.values.dtype)))

    @torch.no_grad()
    def fit(self, batches: Iterable[Batch], count: int) -> None:
        """Fit to normalised samples in the order of time; the last fifth of them chooses each target's penalty.

        Args:
            batches: of samples.
            count: number of samples.

        Raises:
            DataError: if a target has missing values, or there are fewer than five samples.
        """
        if count < 5:
            raise DataError(f"a regression needs 5 samples to train on or more, not {count}; {_INSTEAD}")
        size, answers, seen = self.weights.shape[1] + 1, self.offsets.shape[1], 0
        gram = torch.zeros(2, len(self.groups), size, size, dtype=torch.float64)
        cross = torch.zeros(2, self.fine_rows, size, answers, dtype=torch.float64)
        square = torch.zeros(2, self.fine_rows, answers, dtype=torch.float64)
        for batch in batches:
            assert batch.targets is not None
            wanted = batch.targets.select(self.targets)
            if wanted.valid is not None and not bool(wanted.valid.all()):
                raise DataError(f"a regression needs complete fields, but targets have missing values; {_INSTEAD}")
            given = batch.inputs.select(self.inputs).values[:, -1]
            missed = wanted.values - self.others(batch.inputs.at(-1)).select(self.targets).values
            cells = missed.view(len(given), len(self.targets), self.fine_rows, -1, self.factor)
            truth = cells.permute(2, 0, 3, 1, 4).flatten(3)
            part_of = (torch.arange(seen, seen + len(given)) >= count - count // 5).long()
            seen += len(given)
            for part in set(part_of.tolist()):
                own = part_of == part
                for number, (start, rows) in enumerate(self.groups):
                    x = F.pad(self._around(given[own], start).flatten(0, 1), (0, 1), value=1.0)
                    y = truth[rows, own].flatten(1, 2)
                    gram[part, number] += (x.T @ x).double()
                    cross[part, rows] += (x.T @ y).double()
                    square[part, rows] += y.double().square().sum(1)
        for number, (_, rows) in enumerate(self.groups):
            fitted = self._fitted(gram[:, number], cross[:, rows], square[:, rows])
            self.weights[rows], self.offsets[rows] = fitted[:, :-1].to(self.weights), fitted[:, -1].to(self.offsets)

    def _around(
        self, values: Float[Tensor, "sample channel lat lon"], start: int
    ) -> Float[Tensor, "sample column predictor"]:
        """Return what is seen from each coarse column in the rows from one on."""
        rows = values[:, :, start : start + _WIDTH]
        turned = [rows.roll(-self.shift - step, -1) for step in range(-REACH, REACH + 1)]
        return torch.stack(turned, dim=-1).permute(0, 3, 1, 2, 4).flatten(2)

    def _fitted(
        self,
        gram: Float64[Tensor, "part one_more one_more"],
        cross: Float64[Tensor, "part row one_more answer"],
        square: Float64[Tensor, "part row answer"],
    ) -> Answers:
        """Return the regressions of some rows, with the penalty of each target that errs least on the last part."""
        errors, ridges = [], []
        for penalty in PENALTIES:
            first = _ridge(gram[0], cross[0], penalty)
            missed = square[1] - 2 * (first * cross[1]).sum(1) + (first * (gram[1] @ first)).sum(1)
            errors.append(missed.sum(0).view(-1, self.factor).sum(1))
            ridges.append(_ridge(gram.sum(0), cross.sum(0), penalty))
        best = torch.stack(errors).argmin(0).repeat_interleave(self.factor)
        return torch.stack([ridges[which][:, :, answer] for answer, which in enumerate(best.tolist())], dim=2)


def _ridge(
    gram: Float64[Tensor, "one_more one_more"], cross: Float64[Tensor, "row one_more answer"], penalty: float
) -> Answers:
    """Solve the normal equations; the last predictor is 1, and what it adds costs nothing."""
    cost = torch.full((len(gram),), penalty * float(gram.diagonal()[:-1].mean()), dtype=gram.dtype)
    cost[-1] = 0
    return torch.linalg.solve(gram + cost.diag(), cross)  # type: ignore[no-any-return]
