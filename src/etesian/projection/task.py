"""Climate projection: the maps of a year from the emissions of the years up to it."""

from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from etesian.core import Batch, Fields, Frame, Layout
from etesian.core.errors import CheckpointError, RecipeError
from etesian.core.statistics import Statistics
from etesian.networks.climax import ClimaX
from etesian.networks.climax_projection import ClimaXProjection
from etesian.projection.data import YearData
from etesian.projection.emulators import PatternScaling
from etesian.projection.scores import climatebench_scores
from etesian.training.checkpoint import load_task
from etesian.training.task import NetworkFactory, OptimizerFactory, Task, masked_mean


class ProjectionTask(Task):
    """Learns maps of a year by the squared error in normalised units, rows weighted by cos φ as in ClimaX.

    Validation and testing score physical units as ClimateBench does.

    Args:
        network: builds the network for a layout, such as `ClimaXProjection`.
        layout: what goes in and what comes out.
        statistics: of every channel of the layout.
        start: run or checkpoint of a ClimaX forecast whose transformer training begins with; None draws it at random.
        predict: the `state`, or its `departure` from pattern scaling: two least-squares lines that are fitted to the
            years to train on when training begins (`PatternScaling`). The network starts by adding nothing to it.
        trend: whether these lines see the inputs' change over the window beside the inputs of its last year.
        frozen: keep the attention and the MLPs of the transformer as they are and tune only its LayerNorms, with the
            embeddings and the head; makes sense with `start`.
        optimizer: builds the optimiser; default AdamW with a learning rate of 5e-4, as ClimaX was tuned with.
        warmup_steps: optimiser steps over which the learning rate rises; afterwards it falls along a cosine.

    Raises:
        RecipeError: if `start`, `frozen` or `predict` do not go with the network.
        CheckpointError: if `start` is no run of ClimaX.
    """

    job = "project"
    loss_weight: Tensor
    slope: Tensor
    maps: Tensor

    def __init__(
        self,
        network: NetworkFactory,
        layout: Layout,
        statistics: Statistics,
        start: str | None = None,
        frozen: bool = False,
        predict: Literal["state", "departure"] = "state",
        trend: bool = False,
        optimizer: OptimizerFactory | None = None,
        warmup_steps: int = 100,
    ) -> None:
        super().__init__(network, layout, statistics, anomalies=False, optimizer=optimizer, warmup_steps=warmup_steps)
        if start is not None or frozen or predict == "departure":
            if not isinstance(self.network, ClimaXProjection):
                raise RecipeError(
                    f"start, frozen and departures are for ClimaXProjection, not {type(self.network).__name__}"
                )
            if start is not None:
                source = load_task(start).network
                if not isinstance(source, ClimaX):
                    raise CheckpointError(f"{start} holds a {type(source).__name__}, not a ClimaX to start from")
                self.network.adopt_encoder(source)
            for name, parameter in self.network.blocks.named_parameters():
                parameter.requires_grad_(not frozen or ".norm" in name)
            if predict == "departure":
                self.network.begin_with_nothing()
        if trend and predict == "state":
            raise RecipeError("trend is of the lines that departures are from; set predict: departure, or leave it out")
        self.start, self.frozen, self.predicts, self.trend = start, frozen, predict, trend
        if predict == "departure":
            self.register_buffer("slope", torch.zeros(1 + (1 + trend) * len(layout.inputs)))
            self.register_buffer("maps", torch.zeros(2, len(layout.targets), *layout.grid.shape))
        rows = torch.from_numpy(layout.grid.cosine_weights).float()[:, None]
        self.register_buffer("loss_weight", rows, persistent=False)
        self.scored: list[tuple[Tensor, Tensor]] = []

    def options(self) -> dict[str, Any]:
        """Return the constructor's arguments that a checkpoint keeps, as plain data."""
        return {"frozen": self.frozen, "predict": self.predicts, "trend": self.trend}

    def on_fit_start(self) -> None:
        """Fit the lines of pattern scaling to the years to train on, where departures from it are learned."""
        super().on_fit_start()
        if self.predicts == "departure":
            data = self.fitted_to(YearData, "departures are from what is fitted to the training years")
            years = data.dataset("train")
            inputs, targets = years.arrays()
            seen = np.concatenate([inputs, years.changes()], axis=1) if self.trend else inputs
            lines = PatternScaling(seen, targets, self.layout.grid)
            self.slope.copy_(torch.from_numpy(lines.slope))
            self.maps.copy_(torch.from_numpy(lines.maps))

    def forward(self, batch: Batch, target: Frame) -> Float[Tensor, "batch 1 channel lat lon"]:
        """Return normalised maps on the target frame from physical inputs."""
        values = self.network(self.normalizer.normalize(batch.inputs), target)
        if self.predicts == "departure":
            window = batch.inputs.select(self.layout.inputs).values
            seen = torch.cat([window[:, -1], window[:, -1] - window[:, 0]], dim=1) if self.trend else window[:, -1]
            means = (seen.mean(-1) * self.loss_weight[:, 0]).mean(-1)
            level = self.slope[0] + means @ self.slope[1:]
            index = [self.layout.targets.index(channel) for channel in target.channels]
            scaled = (self.maps[0] + level[:, None, None, None] * self.maps[1])[:, None, index]
            values = values + self.normalizer.normalize(Fields(scaled, target)).values
        return values  # type: ignore[no-any-return]

    def loss(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the weighted mean squared error in normalised units."""
        return self._error(batch, self(batch, _targets(batch).frame).float()), {}

    def _error(self, batch: Batch, values: Tensor) -> Tensor:
        truth = self.normalizer.normalize(_targets(batch))
        return masked_mean((values - truth.values).square(), self.loss_weight, truth.valid)

    @torch.no_grad()
    def predict(self, batch: Batch, target: Frame) -> Fields:
        """Return maps in physical units on the frame that is asked for."""
        return Fields(self.normalizer.denormalize(self(batch, target).float(), target), target)

    def validation_step(self, batch: Batch, _: int) -> None:
        """Log the loss and keep the maps to be scored."""
        self._step(batch, "val")

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """Log the loss and keep the maps to be scored."""
        self._step(batch, "test")

    def on_validation_epoch_end(self) -> None:
        """Log ClimateBench's scores of the years to choose on."""
        self._log_scores("val")

    def on_test_epoch_end(self) -> None:
        """Log ClimateBench's scores of the years to test on."""
        self._log_scores("test")

    def _step(self, batch: Batch, part: str) -> None:
        targets = _targets(batch)
        values = self(batch, targets.frame).float()
        self.log(f"{part}_loss", self._error(batch, values), prog_bar=True, batch_size=len(batch), sync_dist=True)
        self.scored.append((self.normalizer.denormalize(values, targets.frame)[:, 0], targets.values[:, 0]))

    def _log_scores(self, part: str) -> None:
        predicted, truth = (torch.cat(maps).double().cpu().numpy() for maps in zip(*self.scored, strict=True))
        self.scored = []
        if self.trainer.world_size > 1:
            return  # The scores are not sums over years; only the loss is shared among processes.
        for number, channel in enumerate(self.layout.targets):
            scores = climatebench_scores(predicted[:, number], truth[:, number], self.layout.grid)
            for name, score in scores._asdict().items():
                self.log(f"{part}_nrmse/{channel}/{name}", score)


def _targets(batch: Batch) -> Fields:
    assert batch.targets is not None
    return batch.targets
