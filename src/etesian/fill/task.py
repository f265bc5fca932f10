"""Gap filling: gap-free fields of months or days, with their uncertainty, from gappy ones."""

import math
from dataclasses import replace
from itertools import islice
from typing import Any, Literal, cast

import torch
from jaxtyping import Bool
from torch import Tensor

from etesian.core import Batch, Fields, Frame, Layout
from etesian.core.device import sent
from etesian.core.errors import DataError, RecipeError
from etesian.core.statistics import Statistics
from etesian.fill.months import LAND
from etesian.networks.kriging import kriging_only
from etesian.networks.network import Distribution, Reconstruction, asks_for_each_time, find_months
from etesian.nn.normalizer import Normalizer
from etesian.scores.sums import RunningSums, accumulate
from etesian.scores.weights import WHOLE_DOMAIN
from etesian.training.finetune import Start, begin
from etesian.training.task import NetworkFactory, OptimizerFactory, Task, masked_mean

WITHIN_ONE_DEVIATION = math.erf(math.sqrt(0.5))
"""Share of a Gaussian's values within one standard deviation."""

_FIT_BATCHES = 8
"""Of the training data, to which what a network begins with is fitted."""

_FINEST, _LARGEST = 0.005, 50.0


class GapFillTask(Task):
    """Completes gappy fields: the means of months, or the fields of each time, and their standard deviation.

    A month's seasonal cycle is the mean of the cycle over the month's own times. Land, where a static `land_sea_mask`
    tells it, never counts as observed. The standard deviation is multiplied by one number, found anew in each
    validation and kept with the weights, such that the share of validation points within it is that of a Gaussian.

    Args:
        network: builds the network for a layout, such as `GapFiller`.
        layout: what goes in and what comes out; its grid is the one the statistics are on, fields may be tiles of it.
        statistics: of every channel of the layout.
        loss: absolute (`l1`) or squared (`mse`) error, or the negative log-likelihood of a Gaussian (`nll`), for which
            the network must give a variance; in normalised units, over the points where the truth is known.
        balance: power of the variance that weighs each point's likelihood (Seitzer et al. 2022, arXiv 2203.09168): 0 is
            the likelihood itself, in which points of small errors count most; with 1 the mean is learned as by `mse`.
            Validation is by the likelihood itself.
        anomalies: normalise about the seasonal cycle of each grid point instead of about one mean per channel.
        start: trained weights to begin with, and which parameters to train; see `Start`.
        optimizer: builds the optimiser; default AdamW as ClimaX was trained with.
        warmup_steps: optimiser steps over which the learning rate rises; afterwards it falls along a cosine.

    Raises:
        RecipeError: if the network fills no gaps, gives no variance for `nll`, or `start` has statistics: trained.
    """

    job = "fill"
    trains_in_parts = True
    network: Reconstruction
    spread_factor: Tensor

    def __init__(
        self,
        network: NetworkFactory,
        layout: Layout,
        statistics: Statistics,
        loss: Literal["l1", "mse", "nll"] = "l1",
        balance: float = 0.5,
        anomalies: bool = True,
        start: Start | None = None,
        optimizer: OptimizerFactory | None = None,
        warmup_steps: int = 100,
    ) -> None:
        super().__init__(
            network, layout, statistics, anomalies=anomalies, optimizer=optimizer, warmup_steps=warmup_steps
        )
        if not isinstance(self.network, Reconstruction):
            raise RecipeError(
                f"GapFillTask needs a network such as GapFiller; {type(self.network).__name__} fills no gaps"
            )
        if loss == "nll" and not self.network.gives_variance:
            raise RecipeError(f"loss: nll needs a variance; give {type(self.network).__name__} variance: true")
        if start is not None and start.statistics == "trained":
            raise RecipeError(
                "start has statistics: trained, but GapFillTask normalises by those of its data; leave that out"
            )
        self.normalizer = Normalizer(statistics, anomalies=anomalies, grid=layout.grid)
        # Static fields have no season.
        self.constant = Normalizer(statistics.without_seasons())
        self.loss_name, self.balance = loss, balance
        if start is not None:
            self.transfer, self.new_rate = begin(self.network, start), start.new_rate
        self.register_buffer("spread_factor", torch.ones(()))
        self.first_loss: float | None = None
        self.sums = RunningSums()
        self.deviations = torch.zeros(round(_LARGEST / _FINEST))

    def options(self) -> dict[str, Any]:
        """Return the constructor's arguments that a checkpoint keeps, as plain data."""
        return {"loss": self.loss_name, "balance": self.balance, "anomalies": self.normalizer.anomalies}

    def loss(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the error over the points where the truth is known, in normalised units."""
        targets = _targets(batch)
        answer, truth = self._ask(batch, targets.frame, targets.valid), self._normalized_truth(batch)
        return self._error(answer, truth, self.balance), {}

    def on_train_epoch_start(self) -> None:
        """Fit what the network begins with, before its layers learn."""
        super().on_train_epoch_start()
        self.first_loss = None
        if self.network.wants_fit:
            loader = self.trainer.train_dataloader
            assert loader is not None
            some = (self.normalizer.normalize(at_sea(batch.to(self.device))) for batch in islice(loader, _FIT_BATCHES))
            loss = self.network.fit_guess(some)
            # All processes go on with the first one's.
            self.network.load_state_dict(self.trainer.strategy.broadcast(self.network.state_dict()))
            self.first_loss = loss

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Return the loss of a batch and log it.

        In the epoch in which the first guess was fitted nothing else learns, so that it is validated by itself, and is
        what the best weights have to be better than.
        """
        if self.first_loss is None:
            return super().training_step(batch, batch_idx)
        still = sum((p.sum() * 0.0 for p in self.parameters() if p.requires_grad), torch.zeros((), device=self.device))
        loss = still + self.first_loss
        self.log_training(loss, {}, batch)
        return loss

    @torch.no_grad()
    def predict(self, batch: Batch, target: Frame) -> Fields:
        """Return fields in physical units on the frame that is asked for."""
        return self.distribution(batch, target)[0]

    @torch.no_grad()
    def distribution(self, batch: Batch, target: Frame, wanted: Tensor | None = None) -> tuple[Fields, Fields | None]:
        """Return fields and their standard deviation in physical units; None if the network gives no variance.

        Args:
            batch: what was observed.
            target: the channels and times that are asked for, on the grid of the inputs.
            wanted: where, broadcast to the target; elsewhere, and on land, values mean nothing. Everywhere by default.
        """
        answer = self._ask(batch, target, wanted)
        mean = Fields(self._denormalized(answer.mean, batch.inputs.frame, target), target)
        if answer.variance is None:
            return mean, None
        deviation = self.spread_factor * answer.variance.sqrt()
        return mean, Fields(self.normalizer.denormalize_spread(deviation, target), target)

    def _ask(self, batch: Batch, target: Frame, wanted: Tensor | None = None) -> Distribution:
        inputs, statics = at_sea(batch), batch.statics
        if statics is not None:
            statics = self.constant.normalize(statics)
        given = self.normalizer.normalize(inputs)
        with kriging_only(self.network, lambda: _wanted(batch, target, wanted)):
            answer = self.network.distribution(given, target, statics=statics)
        variance = None if answer.variance is None else answer.variance.float()
        return Distribution(answer.mean.float(), variance)

    def _denormalized(self, values: Tensor, inputs: Frame, target: Frame) -> Tensor:
        if not self.normalizer.anomalies or asks_for_each_time(inputs, target):
            return self.normalizer.denormalize(values, target)
        return self.normalizer.denormalize_spread(values, target) + self._monthly_cycle(inputs, target)

    def _normalized_truth(self, batch: Batch) -> Fields:
        inputs, targets = batch.inputs.frame, _targets(batch)
        if not self.normalizer.anomalies or asks_for_each_time(inputs, targets.frame):
            return self.normalizer.normalize(targets)
        one = self.normalizer.denormalize_spread(torch.ones_like(targets.values), targets.frame)
        values = (targets.values - self._monthly_cycle(inputs, targets.frame)) / one
        if targets.valid is not None:
            values = values.masked_fill(~targets.valid, 0.0)
        return replace(targets, values=values)

    def _monthly_cycle(self, inputs: Frame, target: Frame) -> Tensor:
        """Return the mean seasonal cycle over the times of each month.

        Raises:
            DataError: if none of the inputs lies in a month that is asked for.
        """
        member = find_months(inputs, target).member
        count = member.sum(1)
        if (count == 0).any():
            raise DataError("a month is asked for in which no time of the inputs lies")
        each = replace(inputs, channels=target.channels)
        nothing = torch.zeros(*each.time.shape, len(each.channels), *each.grid.shape, device=self.device)
        cycle = self.normalizer.denormalize(nothing, each)
        return torch.einsum("btm,btchw->bmchw", sent(member.to(cycle.dtype) / count[:, None], cycle), cycle)

    def _error(self, answer: Distribution, truth: Fields, balance: float) -> Tensor:
        difference = answer.mean - truth.values
        if self.loss_name == "l1":
            error = difference.abs()
        elif self.loss_name == "mse":
            error = difference.square()
        else:
            assert answer.variance is not None
            error = 0.5 * (answer.variance.log() + difference.square() / answer.variance)
            error = error * answer.variance.detach() ** balance
        return masked_mean(error, torch.ones_like(error[:1]), truth.valid)

    def on_validation_epoch_start(self) -> None:
        """Begin to sum the scores anew."""
        self._begin_scores()

    def on_test_epoch_start(self) -> None:
        """Begin to sum the scores anew."""
        self._begin_scores()

    def validation_step(self, batch: Batch, _: int) -> None:
        """Log the loss, and add up squared errors in physical units and how large errors are beside their deviation."""
        self._score(batch, "val")

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """Log the loss, and add up squared errors in physical units and how large errors are beside their deviation."""
        self._score(batch, "test")

    def on_validation_epoch_end(self) -> None:
        """Log root-mean-square errors, and set what the standard deviations are multiplied by."""
        if self.network.gives_variance:
            counts = self._over_processes(self.deviations)
            if counts.sum() > 0:
                passed = int(torch.searchsorted(counts.cumsum(0), WITHIN_ONE_DEVIATION * counts.sum()))
                self.spread_factor.fill_((passed + 0.5) * _FINEST)
            self.log("val_spread_factor", self.spread_factor.clone())
        self._log_scores("val")

    def on_test_epoch_end(self) -> None:
        """Log root-mean-square errors, and which share lies within one calibrated standard deviation."""
        if self.network.gives_variance:
            counts = self._over_processes(self.deviations)
            within = counts[: round(float(self.spread_factor) / _FINEST)].sum() / counts.sum().clamp(min=1)
            self.log("test_within_one_deviation", within.float())
        self._log_scores("test")

    def _begin_scores(self) -> None:
        self.sums.clear()
        self.deviations = torch.zeros_like(self.deviations, dtype=torch.float64)

    def _score(self, batch: Batch, part: str) -> None:
        targets, truth = _targets(batch), self._normalized_truth(batch)
        answer = self._ask(batch, targets.frame, targets.valid)
        valid = torch.ones_like(truth.values, dtype=torch.bool) if truth.valid is None else truth.valid
        if not valid.any():
            return
        # A balanced likelihood is no score: it prefers large variances, and the best epoch would be the first.
        loss = self._error(answer, truth, balance=0.0)
        self.log(f"{part}_loss", loss, prog_bar=True, batch_size=int(valid.sum()), sync_dist=True)
        filled = Fields(self._denormalized(answer.mean, batch.inputs.frame, targets.frame), targets.frame)
        self.sums.add(accumulate(filled, targets, regions=(WHOLE_DOMAIN,)).total().over_leads())
        if answer.variance is not None:
            error = (answer.mean - truth.values).abs()
            ratio = (error / answer.variance.sqrt())[valid].clamp(max=_LARGEST * (1 - 1e-6))
            counts = torch.histc(ratio.cpu().float(), len(self.deviations), 0, _LARGEST)
            self.deviations = self.deviations + counts

    def _over_processes(self, sums: Tensor) -> Tensor:
        return cast(Tensor, self.trainer.strategy.reduce(sums.to(self.device), reduce_op="sum")).cpu()

    def _log_scores(self, part: str) -> None:
        for channel, rmse in self.sums.score("rmse", self._over_processes).items():
            self.log(f"{part}_rmse/{channel}", rmse.squeeze().float(), rank_zero_only=True)


def at_sea(batch: Batch) -> Fields:
    """Return the inputs of a batch without what lies on land, where a static field tells it."""
    inputs, statics = batch.inputs, batch.statics
    if statics is None or LAND not in statics.frame.channels:
        return inputs
    sea = statics.select((LAND,)).filled(1.0) < 0.5
    seen = sea.expand_as(inputs.values) if inputs.valid is None else inputs.valid & sea
    return replace(inputs, valid=seen)


def _wanted(batch: Batch, target: Frame, wanted: Tensor | None) -> Bool[Tensor, "batch time lat lon"]:
    """Return where and at which of the inputs' times there is sea of which an answer is wanted."""
    frame, device = batch.inputs.frame, batch.inputs.values.device
    asked = torch.ones((*frame.time.shape, *frame.grid.shape), dtype=torch.bool, device=device)
    if batch.statics is not None and LAND in batch.statics.frame.channels:
        asked = asked & (batch.statics.select((LAND,)).filled(1.0)[:, :, 0] < 0.5)
    if wanted is not None:
        each = wanted.expand(*target.time.shape, len(target.channels), *target.grid.shape).any(2)
        # The mean of a month is made of all of its times.
        asked = asked & (each if asks_for_each_time(frame, target) else each.any(1, keepdim=True))
    return asked


def _targets(batch: Batch) -> Fields:
    assert batch.targets is not None
    return batch.targets
