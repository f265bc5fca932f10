"""Downscaling and super-resolution: the fine fields at the time of the coarse ones, or from their own block means."""

from copy import deepcopy
from dataclasses import replace
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, softplus

from etesian.core import Batch, Fields, Frame, Grid, Layout
from etesian.core.errors import DataError, GridError, RecipeError
from etesian.core.statistics import Statistics
from etesian.downscale.data import DownscalingData, SuperResolutionData
from etesian.downscale.power import PowerLimit
from etesian.networks.regression import RegressionInterpolation
from etesian.networks.srgan import SRDiscriminator, resolution_factor
from etesian.nn.normalizer import Normalizer
from etesian.samples.batches import in_chunks
from etesian.training.checkpoint import load_network
from etesian.training.ensemble_task import EnsembleTask
from etesian.training.field_task import LossTerm, Values, WeightedError
from etesian.training.members import Noise, fresh
from etesian.training.task import NetworkFactory, OptimizerFactory, over_processes

LIMIT_FROM = 200
"""Most times of training whose fields say how much power there may be."""

BALANCED = (0.46, 0.6)
"""Losses of the discriminator below which the generator, above which the discriminator takes one more step (PhIRE)."""


class SharpeningTask(EnsembleTask):
    """Predicts fine fields by a network that may add no more to interpolated ones than has proved right (`shrink`)."""

    def _accept_members(self, members: int) -> None:
        """Let the network make fields that differ, all of what it gives added."""
        if isinstance(getattr(self.network, "share", None), Tensor):
            raise RecipeError("shrink adds less of what a network gives, and so of its members' scatter; leave it out")
        super()._accept_members(members)

    def on_validation_epoch_start(self) -> None:
        """Choose how much of what the network gives is added, if it leaves that open."""
        super().on_validation_epoch_start()
        share = getattr(self.network, "share", None)
        if isinstance(share, Tensor):
            self._choose(share)

    @torch.no_grad()
    def _choose(self, share: Float[Tensor, "channel 1 1"]) -> None:
        """Set the share, between 0 and 1, that has the least squared error over the validation data.

        In normalised units it is the sum of what was added times what was lacking, over that of the former's squares.
        """
        sums = torch.zeros(2, len(share), device=self.device)
        for given in self.trainer.val_dataloaders or ():
            batch = self._prepared(given.to(self.device))
            assert batch.targets is not None
            target = batch.targets
            share.fill_(0.0)
            interpolated = self(batch, target.frame).float()
            share.fill_(1.0)
            added = self(batch, target.frame).float() - interpolated
            weight = self.loss_weight(target.frame) * torch.ones_like(added)
            if target.valid is not None:
                weight = weight * target.valid
            products = torch.stack([added * (target.filled() - interpolated), added.square()])
            sums += (weight * products).sum(dim=(1, 2, 4, 5))
        agreement, size = self.trainer.strategy.reduce(sums, reduce_op="sum")
        share.copy_((agreement / size.clamp(min=torch.finfo(size.dtype).tiny)).clamp(0, 1)[:, None, None])


class DownscaleTask(SharpeningTask):
    """Predicts fields on the target grid from coarse ones at the same time.

    Keeps the static fields that it was trained with, so that a prediction needs nothing but coarse fields.

    Args:
        network: builds the network for a layout, such as `Downscaler`.
        layout: what goes in and what comes out, with a `target_grid`.
        statistics: of every channel of the layout.
        loss: mean squared (`mse`) or absolute (`l1`) error in normalised units.
        latitude_weights: weigh rows by cell `area`, by `cosine` of latitude, or all the same (`uniform`).
        channel_weights: weight of a channel in the loss, by name; a bare variable means all its levels; default 1.
        members: train so many fine fields of each sample, at least 2, which differ by noise, by their almost fair CRPS
            instead of `loss`; a prediction may have any number. None trains one.
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
        members: int | None = None,
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
        if members is not None:
            self._accept_members(members)
        unknown = torch.full((len(layout.statics), *layout.target_grid.shape), torch.nan)
        self.register_buffer("kept_statics", unknown)

    def options(self) -> dict[str, Any]:
        """Return the constructor's arguments that a checkpoint keeps, as plain data."""
        return super().options() | {"members": self.members}

    def on_fit_start(self) -> None:
        """Fit the regression that the network interpolates by, if there is one, to the times to train on."""
        super().on_fit_start()
        interpolation = getattr(self.network, "interpolation", None)
        if not isinstance(interpolation, RegressionInterpolation):
            return
        dataset = self.fitted_to(DownscalingData, "a regression is fitted to the times to train on").dataset("train")
        interpolation.fit(map(self.normalized, in_chunks(dataset, dataset.picks)), len(dataset))

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


class SuperResolutionTask(SharpeningTask):
    """Learns fine fields from their means over blocks, alone or against a discriminator (SRGAN; arXiv 2109.09076).

    Without `adversarial` the generator minimises the content loss: the error of normalised fields, the distance
    of their features, or both. With it, generator and discriminator take turns on every batch; whichever falls behind
    takes one more step. Then both have the optimiser of the recipe with a constant learning rate, every step of either
    counts in `max_steps`, and there is no best checkpoint, since no error tells how real a field looks: predictions
    take the last.

    Args:
        network: builds the generator for a layout, such as `SRGenerator`.
        layout: what goes in and what comes out, with a `target_grid`.
        statistics: of every channel of the layout.
        loss: mean squared (`mse`) or absolute (`l1`) error in normalised units.
        channel_weights: weight of a channel in the loss, by name; a bare variable means all its levels; default 1.
        members: train so many fine fields of each sample, at least 2, which differ by noise; their content loss is
            their almost fair CRPS, and the discriminator judges each of them. None trains one.
        log1p: draw in the long tails of the data before the network sees them.
        content: a further term of the loss, such as the learned distance of AtmoDist, or the only one; see `Content`.
        consistent: add to each block what its mean lacks, so that block means of the output are the input.
        limit_power: take from whole globes, at each total wavenumber, the power beyond the most that true fields had on
            any of some days of training. Fields of a region, such as the patches of validation, stay as they are.
        adversarial: weight of the discriminator's verdict beside the content loss; 0 trains without one.
        discriminator_width: channels behind the discriminator's first convolution.
        start: run or checkpoint whose generator training begins with.
        optimizer: builds the optimisers; default AdamW as ClimaX was trained with.
        warmup_steps: without a discriminator, optimiser steps over which the learning rate rises; afterwards it falls
            along a cosine.

    Raises:
        RecipeError: if the fine grid is no whole multiple of the coarse one, or a target is not among the inputs.
        ChannelError: if the content needs channels that are not predicted.
        CheckpointError: if `start` holds no generator of this kind and size, or `content` no encoder.
    """

    job = "downscale"

    def __init__(
        self,
        network: NetworkFactory,
        layout: Layout,
        statistics: Statistics,
        loss: Literal["mse", "l1"] = "mse",
        channel_weights: dict[str, float] | None = None,
        members: int | None = None,
        log1p: bool = True,
        content: LossTerm | None = None,
        consistent: bool = False,
        limit_power: bool = False,
        adversarial: float = 0.0,
        discriminator_width: int = 32,
        start: str | None = None,
        optimizer: OptimizerFactory | None = None,
        warmup_steps: int = 100,
    ) -> None:
        self.factor = resolution_factor(layout)
        if missing := [channel for channel in layout.targets if channel not in layout.inputs]:
            raise RecipeError(f"the target '{missing[0]}' is not among the inputs whose finer version it is")
        if adversarial < 0:
            raise RecipeError(f"adversarial = {adversarial:g} is a weight and cannot be negative")
        super().__init__(
            network,
            layout,
            statistics,
            error=WeightedError(loss, "uniform", channel_weights or {}),
            bounds={},
            content=content,
            optimizer=optimizer,
            warmup_steps=warmup_steps,
        )
        self.normalizer = Normalizer(statistics.select(layout.inputs), log1p=log1p)
        self.consistent, self.adversarial, self.discriminator_width = consistent, adversarial, discriminator_width
        self.limit = PowerLimit(layout.targets, layout.output_grid) if limit_power else None
        self.discriminator: SRDiscriminator | None = None
        self.has_best = not adversarial
        if adversarial:
            self.discriminator = SRDiscriminator(len(layout.targets), width=discriminator_width)
            self.automatic_optimization, self.trains_in_parts = False, True
        if members is not None:
            self._accept_members(members)
        if start is not None:
            self.transfer = self.network.adopt(load_network(start))

    def options(self) -> dict[str, Any]:
        """Return the constructor's arguments that a checkpoint keeps, as plain data."""
        shared = super().options()
        return {
            "loss": shared["loss"],
            "channel_weights": shared["channel_weights"],
            "members": self.members,
            "log1p": self.normalizer.log1p,
            "consistent": self.consistent,
            "limit_power": self.limit is not None,
            "adversarial": self.adversarial,
            "discriminator_width": self.discriminator_width,
        }

    def on_fit_start(self) -> None:
        """Learn the largest power of true fields, where it is a limit, from whole fields of the training period."""
        super().on_fit_start()
        if self.limit is None:
            return
        data = self.fitted_to(SuperResolutionData, "limit_power learns from whole fields of the training period")
        try:
            self.limit.fit(data.dataset("train").whole(LIMIT_FROM))
        except (GridError, DataError) as error:
            raise RecipeError(f"limit_power: {error}; or set limit_power: false") from None

    def configure_optimizers(self) -> Any:
        """Build the optimiser with its schedule, or one each for generator and discriminator."""
        if self.discriminator is None:
            return super().configure_optimizers()
        return [self.make_optimizer(part.parameters()) for part in (self.network, self.discriminator)]

    def forward(self, batch: Batch, target: Frame, noise: Noise | None = None) -> Values:
        """Return normalised fine fields from a normalised batch; of noise see `EnsembleTask.forward`."""
        values = super().forward(batch, target, noise)
        if not self.consistent:
            return values
        coarse = replace(batch.inputs, values=self.normalizer.denormalize(batch.inputs.values, batch.inputs.frame))
        fine = self.normalizer.denormalize(values, target)
        return self.normalizer.normalize(with_block_means(Fields(fine, target), coarse)).values

    @torch.no_grad()
    def predict(self, batch: Batch, target: Frame, noise: Noise | None = None) -> Fields:
        """Return fine fields in physical units on the frame that is asked for; of noise see `EnsembleTask.forward`."""
        fields = super().predict(batch, target, noise)
        if self.limit is not None and target.grid.is_periodic:
            fields = self.limit(fields)
        return with_block_means(fields, batch.inputs) if self.consistent else fields

    def between(self, coarse: Grid, fine: Grid) -> "SuperResolutionTask":
        """Return the task for predictions from another coarse grid to another fine one, such as of the whole globe.

        Raises:
            GridError: if the fine grid has not as many points for each coarse one as were learned, around it.
        """
        shape = (coarse.shape[0] * self.factor, coarse.shape[1] * self.factor)
        fits = fine.shape == shape and all(
            abs(of_fine.reshape(-1, self.factor).mean(axis=1) - of_coarse).max() < 1e-3
            for of_fine, of_coarse in ((fine.latitude, coarse.latitude), (fine.longitude, coarse.longitude))
        )
        if not fits:
            raise GridError(
                f"the run makes fields {self.factor} times finer, whose blocks lie around the coarse points, but "
                f"{fine} has no such blocks around {coarse}"
            )
        other = deepcopy(self)
        other.layout = other.network.layout = replace(self.layout, grid=coarse, target_grid=fine)
        return other

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor | None:  # type: ignore[override]
        """Train generator and discriminator in turns, or the generator alone."""
        if self.discriminator is None:
            return super().training_step(batch, batch_idx)
        batch = self._prepared(batch)
        assert batch.targets is not None
        true = batch.targets.filled()[:, 0]
        losses = self._generator_step(batch)
        # All processes make the same steps.
        loss = over_processes(self._discriminator_step(batch, true))
        if loss > BALANCED[1]:
            self._discriminator_step(batch, true)
        elif loss < BALANCED[0]:
            self._generator_step(batch)
        losses["train_discriminator"] = loss
        self.log_dict(losses, on_step=True, prog_bar=True, batch_size=len(batch))
        return None

    def _generator_step(self, batch: Batch) -> dict[str, Tensor]:
        assert batch.targets is not None
        assert self.discriminator is not None
        if self.members is None:
            made = self(batch, batch.targets.frame).float()
            content = self._error(made, batch)
        else:
            each = self._ensemble(batch, self.members, fresh(self.members * len(batch)))
            made, content = each.flatten(0, 1), self._members_error(each, batch)
        self.discriminator.requires_grad_(False)
        verdict = softplus(-self.discriminator(made[:, 0])).mean()
        self._step(0, content + self.adversarial * verdict)
        self.discriminator.requires_grad_(True)
        return {"train_content": content.detach(), "train_adversarial": verdict.detach()}

    def _discriminator_step(self, batch: Batch, true: Float[Tensor, "batch channel lat lon"]) -> Tensor:
        assert batch.targets is not None
        assert self.discriminator is not None
        with torch.no_grad():
            noise = None if self.members is None else fresh(len(batch))
            made = self(batch, batch.targets.frame, noise).float()[:, 0]
        logits = self.discriminator(torch.cat([true, made]))
        truth = torch.cat([logits.new_ones(len(true)), logits.new_zeros(len(made))])
        loss = binary_cross_entropy_with_logits(logits, truth)
        self._step(1, loss)
        return loss.detach()

    def _step(self, number: int, loss: Tensor) -> None:
        """Take one step of the generator's (0) or the discriminator's (1) optimiser."""
        optimizer = self.optimizers()[number]  # type: ignore[index]
        optimizer.zero_grad()
        self.check_loss(loss)
        self.manual_backward(loss)
        optimizer.step()


def with_block_means(fine: Fields, coarse: Fields) -> Fields:
    """Return fine fields with a constant added in every block, so that block means are the coarse fields.

    Args:
        fine: fields, in physical units.
        coarse: the same channels, time and place; as many times fewer rows as columns.
    """
    means = coarse.select(fine.frame.channels).values
    factor = fine.values.shape[-1] // means.shape[-1]
    rows, columns = means.shape[-2:]
    blocks = fine.values.reshape(*fine.values.shape[:-2], rows, factor, columns, factor)
    lacking = means - blocks.mean(dim=(-3, -1))
    return replace(fine, values=(blocks + lacking[..., :, None, :, None]).reshape(fine.values.shape))
