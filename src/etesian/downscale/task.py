"""Downscaling: the fine fields at the time of the coarse ones."""

from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor

from etesian.core import Batch, Fields, Frame, Layout
from etesian.core.errors import RecipeError
from etesian.core.statistics import Statistics
from etesian.training.field_task import FieldTask, LossTerm, WeightedError
from etesian.training.task import NetworkFactory, OptimizerFactory


class DownscaleTask(FieldTask):
    """Predicts fields on the target grid from coarse ones at the same time.

    Keeps the static fields that it was trained with, so that a prediction needs nothing but coarse fields.

    Args:
        network: builds the network for a layout, such as `Downscaler`.
        layout: what goes in and what comes out, with a `target_grid`.
        statistics: of every channel of the layout.
        loss: mean squared (`mse`) or absolute (`l1`) error in normalised units.
        latitude_weights: weigh rows by cell `area`, by `cosine` of latitude, or all the same (`uniform`).
        channel_weights: weight of a channel in the loss, by name; a bare variable means all its levels; default 1.
        content: a further term of the loss, such as the learned distance of AtmoDist; see `Content`.
        optimizer: builds the optimiser; default AdamW as ClimaX was trained with.
        warmup_steps: optimiser steps over which the learning rate rises; afterwards it falls along a cosine.

    Raises:
        RecipeError: if the layout has no target grid.
    """

    job = "downscale"
    kept_statics: Tensor

    def __init__(
        self,
        network: NetworkFactory,
        layout: Layout,
        statistics: Statistics,
        loss: Literal["mse", "l1"] = "mse",
        latitude_weights: Literal["area", "cosine", "uniform"] = "area",
        channel_weights: dict[str, float] | None = None,
        content: LossTerm | None = None,
        optimizer: OptimizerFactory | None = None,
        warmup_steps: int = 100,
    ) -> None:
        if layout.target_grid is None:
            raise RecipeError("DownscaleTask needs data on two grids; use etesian.downscale.data.DownscalingData")
        super().__init__(
            network,
            layout,
            statistics,
            error=WeightedError(loss, latitude_weights, channel_weights or {}),
            bounds=None,
            content=content,
            optimizer=optimizer,
            warmup_steps=warmup_steps,
        )
        unknown = torch.full((len(layout.statics), *layout.target_grid.shape), torch.nan)
        self.register_buffer("kept_statics", unknown)

    def on_train_batch_start(self, batch: Batch, _: int) -> None:
        """Keep the static fields for predictions."""
        if batch.statics is not None:
            self.kept_statics.copy_(batch.statics.values[0, 0])

    def normalized(self, batch: Batch) -> Batch:
        """Return the batch in normalised units, with the static fields that training saw where it has none."""
        if batch.statics is None and self.layout.statics:
            time = batch.inputs.frame.time[:, -1:]
            frame = Frame(self.layout.statics, time, self.layout.output_grid, batch.inputs.frame.calendar)
            values = self.kept_statics.expand(len(batch), 1, -1, -1, -1)
            batch = replace(batch, statics=Fields(values, frame))
        return super().normalized(batch)
