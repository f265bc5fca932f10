"""AtmoDist's pretexts: tell the time between two states, or reconstruct one of them, whole or its centre."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.optim import SGD, Optimizer
from torch.optim.lr_scheduler import ReduceLROnPlateau

from etesian.core import Batch, Fields, Frame, Layout
from etesian.core.device import sent
from etesian.core.errors import RecipeError
from etesian.core.statistics import Statistics
from etesian.distance.curves import LagCurves, accuracy, lag_classes, top_hits, write_epoch
from etesian.networks.atmodist import AtmoDist, Autoencoder
from etesian.nn.normalizer import Normalizer
from etesian.training.task import NetworkFactory, OptimizerFactory, Task, masked_mean

Values = Float[Tensor, "batch time channel lat lon"]


class TimeLagTask(Task):
    """Classifies the lag between two patches of one place by cross-entropy (arXiv 2109.09076).

    After every epoch the folder `lags` of the run directory has loss, accuracy, top-3 accuracy and confusion matrix as
    CSV and as pictures. The curves of distance against lag, to which the scale of an `AtmoDistance` is fitted, come
    from the validation period and are kept in the checkpoint.

    Args:
        network: builds the network for a layout: `AtmoDist`.
        layout: what goes in.
        statistics: of every channel of the layout.
        step_hours: lag of one class, the common step of the store.
        log1p: draw in the long tails of the data before the network sees them.
        optimizer: builds the optimiser; default SGD as AtmoDist was trained with, whose L2 penalty of 1e-4·w² is a
            weight decay of 2e-4.
        patience: epochs without a lower validation loss after which the learning rate falls to a tenth.
        plateau_from: first epoch that counts for that, behind those on a fixed subset (`fixed_epochs` of the data).

    Raises:
        RecipeError: if the network is no `AtmoDist`, or data and network differ in their lags.
    """

    job = "distance"
    network: AtmoDist
    confusion: Tensor
    hits: Tensor
    seen: Tensor

    def __init__(
        self,
        network: Callable[[Layout], AtmoDist],
        layout: Layout,
        statistics: Statistics,
        step_hours: int,
        log1p: bool = True,
        optimizer: OptimizerFactory | None = None,
        patience: int = 5,
        plateau_from: int = 0,
    ) -> None:
        super().__init__(
            network, layout, statistics, anomalies=False, optimizer=optimizer or paper_optimizer, warmup_steps=0
        )
        if not isinstance(self.network, AtmoDist):
            raise RecipeError(f"TimeLagTask trains AtmoDist, not {type(self.network).__name__}")
        self.normalizer = Normalizer(statistics.select(layout.inputs), log1p=log1p)
        self.step_hours, self.log1p, self.patience, self.plateau_from = step_hours, log1p, patience, plateau_from
        lags = self.network.lags
        self.curves = LagCurves(lags, self.network.encoder.layers())
        self.register_buffer("confusion", torch.zeros(lags, lags, dtype=torch.int64), persistent=False)
        self.register_buffer("seen", torch.zeros(3), persistent=False)
        self.register_buffer("hits", torch.zeros((), dtype=torch.int64), persistent=False)

    def options(self) -> dict[str, Any]:
        """Return the constructor's arguments that a checkpoint keeps, as plain data."""
        return {"step_hours": self.step_hours, "log1p": self.log1p}

    def configure_optimizers(self) -> Any:
        """Build the optimiser, whose learning rate falls where the validation loss no longer does."""
        optimizer = self.make_optimizer(self.parameter_groups())
        plateau = ReduceLROnPlateau(optimizer, factor=0.1, patience=self.patience)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": plateau, "monitor": "val_loss"}}

    def lr_scheduler_step(self, scheduler: Any, metric: Any) -> None:
        """Look at the validation loss once the epochs on the fixed subset are over."""
        if self.current_epoch >= self.plateau_from:
            scheduler.step(metric)

    def forward(self, batch: Batch) -> Float[Tensor, "batch lag"]:
        """Return the score of every lag from a batch in physical units."""
        scores: Tensor = self.network(self.normalizer.normalize(batch.inputs))
        return scores

    def loss(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the cross-entropy and the accuracy."""
        classes = self._classes(batch)
        scores = self(batch).float()
        return cross_entropy(scores, classes), {"accuracy": (scores.argmax(dim=1) == classes).float().mean()}

    def on_train_epoch_start(self) -> None:
        """Begin to sum the loss of the epoch anew."""
        super().on_train_epoch_start()
        self.seen.zero_()

    def training_step(self, batch: Batch, _: int) -> Tensor:
        """Return the loss of a batch, log it and add it to that of the epoch."""
        loss, parts = self.loss(batch)
        self.seen += torch.stack([loss.detach(), parts["accuracy"], torch.ones_like(loss)]) * len(batch)
        self.log_training(loss, parts, batch)
        return loss

    def _classes(self, batch: Batch) -> Tensor:
        return sent(lag_classes(batch.inputs.frame, self.step_hours, self.network.lags), self.confusion)

    def predict(self, batch: Batch, target: Frame) -> Fields:
        """Refuse: the network tells lags.

        Raises:
            RecipeError: always.
        """
        raise RecipeError(
            "a run of TimeLagTask tells lags and predicts no fields; give it to `etesian evaluate --distance`"
        )

    def on_validation_epoch_start(self) -> None:
        """Begin to count anew."""
        self._reset()

    def on_test_epoch_start(self) -> None:
        """Begin to count anew."""
        self._reset()

    def validation_step(self, batch: Batch, _: int) -> None:
        """Log the loss and count pairs."""
        self._count(batch, "val")

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """Log the loss and count pairs."""
        self._count(batch, "test")

    def on_validation_epoch_end(self) -> None:
        """Log the scores and write them into the run directory."""
        scores = self._log_scores("val")
        if self.trainer.sanity_checking or not self.trainer.is_global_zero:
            return
        loss, right, pairs = self.seen.tolist()
        training = {"train_loss": loss / pairs, "train_accuracy": right / pairs} if pairs else {}
        scores = training | {"val_loss": float(self.trainer.callback_metrics["val_loss"])} | scores
        scores["learning_rate"] = (
            float(self.trainer.optimizers[0].param_groups[0]["lr"]) if self.trainer.optimizers else 0.0
        )
        write_epoch(self._folder, self.current_epoch, scores, self.confusion.cpu().numpy(), self.step_hours)

    def on_test_epoch_end(self) -> None:
        """Log the scores."""
        self._log_scores("test")

    @property
    def _folder(self) -> Path:
        return Path(self.trainer.default_root_dir) / "lags"

    def _reset(self) -> None:
        self.curves.reset()
        self.confusion.zero_()
        self.hits.zero_()

    def _count(self, batch: Batch, part: str) -> None:
        classes = self._classes(batch)
        first, second = self.normalizer.normalize(batch.inputs).filled().unbind(dim=1)
        scores = self.network.score(*self.curves.add(classes, first, second, self.network.encoder)).float()
        pairs = classes * self.network.lags + scores.argmax(dim=1)
        self.confusion += torch.bincount(pairs, minlength=self.confusion.numel()).view_as(self.confusion)
        self.hits += top_hits(scores, classes)
        loss = cross_entropy(scores, classes)
        self.log(f"{part}_loss", loss, prog_bar=True, batch_size=len(batch), sync_dist=True)

    def _log_scores(self, part: str) -> dict[str, float]:
        """Add up what all processes counted, log the scores and return them by name."""
        self.curves.gather(self.trainer.strategy)
        for buffer in (self.confusion, self.hits):
            buffer.copy_(self.trainer.strategy.reduce(buffer, reduce_op="sum"))
        confusion = self.confusion.cpu().numpy()
        scores = {
            f"{part}_accuracy": accuracy(confusion),
            f"{part}_top3": float(self.hits.item() / confusion.sum()),
        }
        self.log_dict(scores, rank_zero_only=True)
        return scores


def paper_optimizer(parameters: Iterable[Any]) -> Optimizer:
    """Return stochastic gradient descent as AtmoDist was trained with (arXiv 2109.09076)."""
    return SGD(parameters, lr=0.1, momentum=0.9, weight_decay=2e-4)


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
        classes = sent(lag_classes(batch.inputs.frame, self.step_hours, self.lags), first)
        self.curves.add(classes, first, second, self.network.encoder)
        self.log("val_loss", loss, prog_bar=True, batch_size=len(batch), sync_dist=True)

    def on_validation_epoch_end(self) -> None:
        """Add up what all processes counted."""
        self.curves.gather(self.trainer.strategy)

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """Log the loss."""
        self.log("test_loss", self.loss(batch)[0], batch_size=len(batch), sync_dist=True)
