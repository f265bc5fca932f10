"""Learning fields by their weighted error and what a recipe adds to it, whatever they are predicted from."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from etesian.core import Batch, Channel, Fields, Frame, Grid, Layout
from etesian.core.constants import SECONDS_PER_HOUR
from etesian.core.device import positions
from etesian.core.errors import RecipeError
from etesian.core.statistics import Statistics
from etesian.nn.normalizer import Bounds, Limits, named_limits, natural_limits
from etesian.scores.registry import statistics_of
from etesian.scores.sums import MISSING, RunningSums, accumulate
from etesian.scores.weights import WHOLE_DOMAIN
from etesian.training.task import NetworkFactory, OptimizerFactory, Task, masked_mean

Values = Float[Tensor, "batch time channel lat lon"]

Penalty = Callable[[Fields, Fields], Tensor]
"""From predicted and true fields in physical units to what is added to the loss, a weighted scalar."""


@runtime_checkable
class LossTerm(Protocol):
    """A part of a loss beside the task's own error. A recipe names the class, such as `etesian.Content`."""

    @property
    def error_weight(self) -> float:
        """Weight of the task's own error beside it; 0 leaves the term alone."""

    def over(self, channels: Sequence[Channel]) -> Penalty:
        """Return the term for what a task predicts.

        Raises:
            EtesianError: if it has no sense for these channels.
        """


def check_weights(weight: float, error_weight: float) -> None:
    """Refuse weights of a term, and of the task's own error beside it, that mean nothing.

    Raises:
        RecipeError: if the weight is not greater than 0, or that of the error less than 0.
    """
    if weight <= 0:
        raise RecipeError(f"content: weight = {weight:g} must be greater than 0; leave content out instead")
    if error_weight < 0:
        raise RecipeError(f"content: error_weight = {error_weight:g} must not be less than 0")


def met_where_missing(truth: Fields, predicted: Fields) -> Values:
    """Return true values, and where they are missing what is predicted, which learns nothing there."""
    if truth.valid is None:
        return truth.values
    return torch.where(truth.valid, truth.values, predicted.values.detach())


@dataclass(frozen=True)
class WeightedError:
    """How much an error of normalised fields counts, by its size, channel and latitude.

    Attributes:
        loss: mean squared (`mse`) or absolute (`l1`) error.
        latitude_weights: weigh rows by cell `area`, by `cosine` of latitude, or all the same (`uniform`).
        channel_weights: weight of a channel, by name; a bare variable means all its levels; default 1.
    """

    loss: Literal["mse", "l1"] = "mse"
    latitude_weights: Literal["area", "cosine", "uniform"] = "area"
    channel_weights: Mapping[str, float] = field(default_factory=dict)

    def of(self, predicted: Values, truth: Values) -> Values:
        """Return the square or the amount of the difference at every point."""
        difference = predicted - truth
        return difference.square() if self.loss == "mse" else difference.abs()

    def weight(self, frame: Frame) -> Float[Tensor, "channel lat 1"]:
        """Return the weight of each channel and latitude of a frame."""
        grid, named = frame.grid, self.channel_weights
        rows = {"area": grid.area_weights, "cosine": grid.cosine_weights}.get(self.latitude_weights)
        latitude = torch.ones(grid.shape[0]) if rows is None else torch.from_numpy(rows).float()
        channel = torch.tensor([named.get(str(c), named.get(c.name, 1.0)) for c in frame.channels])
        return channel[:, None, None] * latitude[:, None]


class FieldTask(Task):
    """Predicts fields and learns by their weighted error at the points where the truth is known.

    Validation and testing log root-mean-square errors in physical units by channel and lead, over all stores that have
    the channel. Points count by cell area, as in `evaluate`, however the loss weighs them.

    Args:
        network: builds the network for a layout.
        layout: what goes in and what comes out.
        statistics: of every channel of the layout.
        error: how errors are counted.
        bounds: smallest and largest value of targets in physical units, by channel or variable, null for none; None
            takes what their nature forbids for targets that are not fed in.
        content: a further term of the loss.
        anomalies: normalise about the seasonal cycle of each grid point instead of about one mean per channel.
        optimizer: builds the optimiser; default AdamW as ClimaX was trained with.
        warmup_steps: optimiser steps over which the learning rate rises; afterwards it falls along a cosine.

    Raises:
        RecipeError: if weights or bounds name what is not predicted.
    """

    observed: Tensor | None
    logged_scores: tuple[str, ...] = ("rmse",)
    """Scores in physical units that validation and testing log."""

    def __init__(
        self,
        network: NetworkFactory,
        layout: Layout,
        statistics: Statistics,
        *,
        error: WeightedError,
        bounds: dict[str, Limits] | None,
        content: LossTerm | None,
        anomalies: bool = False,
        optimizer: OptimizerFactory | None,
        warmup_steps: int,
    ) -> None:
        super().__init__(
            network, layout, statistics, anomalies=anomalies, optimizer=optimizer, warmup_steps=warmup_steps
        )
        for argument, names in (("channel_weights", error.channel_weights), ("bounds", bounds or {})):
            for name in names:
                if not any(name in (str(c), c.name) for c in layout.targets):
                    raise RecipeError(f"{argument} names '{name}', which is not among the targets")
        limits = natural_limits(layout) if bounds is None else named_limits(bounds, layout)
        self.error, self.given_bounds, self.bounds = error, bounds, Bounds(limits, self.normalizer)
        self.error_weight = 1.0 if content is None else content.error_weight
        self.content = None if content is None else content.over(layout.targets)
        self.know_observed(None if statistics.observed is None else statistics.select(layout.targets).observed)
        self._weights: dict[tuple[tuple[Channel, ...], Grid, torch.device], Tensor] = {}
        self.scored_leads: list[int] = []
        self.sums = RunningSums()

    def know_observed(self, observed: Bool[np.ndarray, "channel lat lon"] | None) -> None:
        """Take to heart where targets were ever observed: predictions are missing elsewhere, as of the sea on land.

        Args:
            observed: of the targets, on their grid; None if that is everywhere, or is not known.
        """
        known = None if observed is None else torch.from_numpy(observed)
        # Rebuilt from the statistics that a checkpoint holds.
        self.register_buffer("observed", known, persistent=False)

    def options(self) -> dict[str, Any]:
        """Return the constructor's arguments that a checkpoint keeps, as plain data."""
        return {
            "loss": self.error.loss,
            "latitude_weights": self.error.latitude_weights,
            "channel_weights": dict(self.error.channel_weights),
        }

    def forward(self, batch: Batch, target: Frame) -> Values:
        """Return normalised predictions on the target frame from a normalised batch."""
        values = self.network(batch.inputs, target, forcings=batch.forcings, statics=batch.statics)
        return self.bounds.bend(values, target)

    def normalized(self, batch: Batch) -> Batch:
        """Return the batch in normalised units."""
        parts = (None if part is None else self.normalizer.normalize(part) for part in batch.parts())
        return Batch(*parts)  # type: ignore[arg-type]

    @torch.no_grad()
    def predict(self, batch: Batch, target: Frame) -> Fields:
        """Return fields in physical units on the frame that is asked for."""
        return self._physical(self(self.normalized(batch), target), target)

    def _physical(self, values: Values, frame: Frame) -> Fields:
        """Return normalised predictions in physical units, missing where the channel was never observed."""
        physical = self.bounds.cut(self.normalizer.denormalize(values.float(), frame), frame)
        if self.observed is None or frame.grid != self.layout.output_grid:
            return Fields(physical, frame)
        seen = self.observed[positions([self.layout.targets.index(c) for c in frame.channels], physical.device)]
        return Fields(physical, frame, seen.expand_as(physical))

    def loss(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the weighted error over valid points, in normalised units, with the further term."""
        return self._prediction_error(self._prepared(batch)), {}

    def _prepared(self, batch: Batch) -> Batch:
        """Return what the loss of a batch is made of, in normalised units."""
        return self.normalized(batch)

    def _prediction_error(self, batch: Batch) -> Tensor:
        """Return the weighted error of the prediction from a normalised batch."""
        assert batch.targets is not None
        return self._error(self(batch, batch.targets.frame).float(), batch)

    def _error(self, predicted: Values, batch: Batch) -> Tensor:
        """Return the weighted error of a normalised prediction of a normalised batch."""
        targets = batch.targets
        assert targets is not None
        error = masked_mean(self.error.of(predicted, targets.values), self._sample_weight(batch), targets.valid)
        if self.content is None:
            return error
        physical = [self.normalizer.denormalize(values, targets.frame) for values in (predicted, targets.values)]
        content = self.content(*(Fields(values, targets.frame, targets.valid) for values in physical))
        return self.error_weight * error + content

    def loss_weight(self, frame: Frame) -> Float[Tensor, "channel lat 1"]:
        """Return the weight of each channel and latitude of a frame in the loss."""
        key = (frame.channels, frame.grid, self.device)
        if key not in self._weights:
            self._weights[key] = self.error.weight(frame).to(self.device)
        return self._weights[key]

    def _sample_weight(self, batch: Batch) -> Tensor:
        """Return the weight of the targets of a batch in the loss, as far as their values differ in it."""
        assert batch.targets is not None
        return self.loss_weight(batch.targets.frame)

    def _score(self, batch: Batch) -> dict[str, Tensor]:
        """Add the errors in physical units to the sums and return the losses to log."""
        assert batch.targets is not None
        normalized, frame = self.normalized(batch), batch.targets.frame
        values = self(normalized, frame).float()
        self._add_scores(self._physical(values, frame), batch)
        return {"loss": self._error(values, normalized)}

    def _add_scores(
        self,
        predicted: Fields,
        batch: Batch,
        members: Float[Tensor, "member batch time channel lat lon"] | None = None,
    ) -> None:
        """Add the errors of a prediction of a batch, both in physical units, to the sums.

        Args:
            predicted: of an ensemble the mean of its members.
            batch: with the truth.
            members: of an ensemble, in physical units.
        """
        assert batch.targets is not None
        leads = batch.targets.frame.time[0] - batch.inputs.frame.time[0, -1]
        self.scored_leads = (leads // SECONDS_PER_HOUR).tolist()
        statistics = (*statistics_of(self.logged_scores), "points", *MISSING)
        sums = accumulate(predicted, batch.targets, regions=(WHOLE_DOMAIN,), members=members, statistics=statistics)
        self.sums.add(sums.total())

    def on_validation_epoch_start(self) -> None:
        """Begin to sum the scores anew."""
        self.sums.clear()

    def validation_step(self, batch: Batch, _: int) -> None:
        """Log the loss and add the errors in physical units to the sums."""
        self._log_losses("val", batch)

    def on_validation_epoch_end(self) -> None:
        """Log the root-mean-square errors over the whole period."""
        self._log_scores("val")

    def on_test_epoch_start(self) -> None:
        """Begin to sum the scores anew."""
        self.sums.clear()

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """Log the loss and add the errors in physical units to the sums."""
        self._log_losses("test", batch)

    def on_test_epoch_end(self) -> None:
        """Log the root-mean-square errors over the whole period."""
        self._log_scores("test")

    def _log_losses(self, part: str, batch: Batch) -> None:
        for name, loss in self._score(batch).items():
            self.log(f"{part}_{name}", loss, prog_bar=name == "loss", batch_size=len(batch), sync_dist=True)

    def _log_scores(self, part: str) -> None:
        """Log errors by channel and lead, over all stores that have the channel."""
        reduce = partial(self.trainer.strategy.reduce, reduce_op="sum")
        for name in self.logged_scores:
            for channel, scores in self.sums.score(name, reduce).items():
                if name != "rmse" and channel not in self.layout.targets:
                    continue  # Of a wind vector there is an error alone.
                for lead, score in zip(self.scored_leads, scores.flatten(), strict=True):
                    self.log(f"{part}_{name}/{channel}/{lead}h", score.float(), rank_zero_only=True)
