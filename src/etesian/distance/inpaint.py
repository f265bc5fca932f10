"""Pretexts that reconstruct single states: autoencoding, and inpainting of the centre."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from etesian.core import Batch, Fields, Frame, Layout
from etesian.core.errors import RecipeError
from etesian.core.statistics import Statistics
from etesian.distance.curves import LagCurves, lag_classes
from etesian.networks.atmodist import Autoencoder
from etesian.nn.normalizer import Normalizer
from etesian.training.task import NetworkFactory, OptimizerFactory, Task, masked_mean

Values = Float[Tensor, "batch time channel lat lon"]


class InpaintTask(Task):
    """Reconstructs both states of a pair by squared error: where the centre was hidden, or, with no hole, everywhere.

    It reads the same pairs as `TimeLagTask`, whose lags it does not tell, but which give the scale of an
    `AtmoDistance` over this encoder.

    Args:
        network: builds the network for a layout: `Autoencoder`.
        layout: what goes in.
        statistics: of every channel of the layout.
        step_hours: hours of one lag, the common step of the store.
        lags: number of lags in the data.
        hole: side of the hidden centre over that of the patch; 0 makes an autoencoder.
        log1p: draw in the long tails of the data before the network sees them.
        optimizer: builds the optimiser; default AdamW with a learning rate of 5e-4.
        warmup_steps: optimiser steps over which the learning rate rises; afterwards it falls along a cosine.

    Raises:
        RecipeError: if the network is no `Autoencoder`, or the hole no share from 0 up to, but not including, 1.
    """

    job = "distance"
    network: Autoencoder
    hidden: Tensor

    def __init__(
        self,
        network: NetworkFactory,
        layout: Layout,
        statistics: Statistics,
        step_hours: int,
        lags: int,
        hole: float = 0.0,
        log1p: bool = True,
        optimizer: OptimizerFactory | None = None,
        warmup_steps: int = 100,
    ) -> None:
        super().__init__(network, layout, statistics, anomalies=False, optimizer=optimizer, warmup_steps=warmup_steps)
        if not isinstance(self.network, Autoencoder):
            raise RecipeError(f"InpaintTask trains an Autoencoder, not {type(self.network).__name__}")
        if not 0 <= hole < 1:
            raise RecipeError(f"hole = {hole:g} must be a share of the patch from 0 up to, but not including, 1")
        self.normalizer = Normalizer(statistics.select(layout.inputs), log1p=log1p)
        self.step_hours, self.lags, self.hole, self.log1p = step_hours, lags, hole, log1p
        self.curves = LagCurves(lags, self.network.encoder.layers())
        rows, columns = layout.grid.shape
        height, width = round(hole * rows), round(hole * columns)
        if hole and not (height and width):
            raise RecipeError(f"hole = {hole:g} hides no point of a patch of {rows}×{columns}; make it larger")
        self.register_buffer("hidden", torch.zeros(rows, columns, dtype=torch.bool), persistent=False)
        top, left = (rows - height) // 2, (columns - width) // 2
        self.hidden[top : top + height, left : left + width] = True

    def options(self) -> dict[str, Any]:
        """Return the constructor's arguments that a checkpoint keeps, as plain data."""
        return {"step_hours": self.step_hours, "lags": self.lags, "hole": self.hole, "log1p": self.log1p}

    def forward(self, states: Fields) -> Values:
        """Return normalised reconstructions of normalised states, of which the network does not see the hole."""
        seen = Fields(states.filled().masked_fill(self.hidden, 0.0), states.frame)
        values: Tensor = self.network(seen, states.frame)
        return values

    def loss(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the mean squared error of the hole, or of everything where there is none."""
        states = self.normalizer.normalize(batch.inputs)
        error = (self(states).float() - states.filled()).square()
        scored = states.valid
        if self.hole:
            hole = self.hidden.expand_as(error)
            scored = hole if scored is None else hole & scored
        return masked_mean(error, torch.ones((), device=error.device), scored), {}

    @torch.no_grad()
    def predict(self, batch: Batch, target: Frame) -> Fields:
        """Return the reconstructed states in physical units; the target is the frame of the inputs."""
        values = self(self.normalizer.normalize(batch.inputs)).float()
        return Fields(self.normalizer.denormalize(values, target), target)

    def on_validation_epoch_start(self) -> None:
        """Begin to count pairs anew."""
        self.curves.reset()

    def validation_step(self, batch: Batch, _: int) -> None:
        """Log the loss and count pairs."""
        loss, _parts = self.loss(batch)
        first, second = self.normalizer.normalize(batch.inputs).filled().unbind(dim=1)
        self.curves.add(
            lag_classes(batch.inputs.frame, self.step_hours, self.lags), first, second, self.network.encoder
        )
        self.log("val_loss", loss, prog_bar=True, batch_size=len(batch), sync_dist=True)

    def on_validation_epoch_end(self) -> None:
        """Add up what all processes counted."""
        self.curves.gather(self.trainer.strategy)

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """Log the loss."""
        self.log("test_loss", self.loss(batch)[0], batch_size=len(batch), sync_dist=True)
