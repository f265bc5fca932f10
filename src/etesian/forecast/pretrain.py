"""Pretraining: hidden parts of the state are reconstructed, alone or beside forecasting."""

from collections.abc import Iterator, Sequence
from typing import Any, cast

import torch
from jaxtyping import Bool
from torch import Tensor

from etesian.core import Batch, Fields, Frame, Layout
from etesian.core.device import sent
from etesian.core.errors import RecipeError
from etesian.core.statistics import Statistics
from etesian.forecast.task import ForecastTask
from etesian.networks.climax import ClimaX
from etesian.nn.tokens import patch_counts
from etesian.training.members import Noise
from etesian.training.task import NetworkFactory, masked_mean


class PretrainTask(ForecastTask):
    """Reconstructs what is hidden of the state, as ClimaX's second stage of pretraining, and may forecast as well.

    Whole patches are hidden in all variables at once, since the other variables at a place would give it away, so that
    the network must learn how fields continue in space; whole variables are hidden everywhere, so that it must learn
    how variables depend on one another. Both are hidden at all times of the history, and anew for each sample. What is
    hidden enters the network as missing. The network is asked for the inputs' own time, lead 0, and its error there is
    averaged over the hidden points that are known, weighted by latitude and channel as forecasts are. Forecasts start
    from the whole state.

    Args:
        network: builds the network for a layout; it must take missing values, as ClimaX does with `validity`.
        layout: what goes in and what comes out.
        statistics: of every channel of the layout.
        forecast_weight: of the forecasts' error in the loss; 0 makes no forecasts.
        reconstruct_weight: of the reconstructions' error in the loss; 0 makes none.
        mask_patches: share of the patches that is hidden.
        mask_variables: share of the variables that is hidden.
        options: of `ForecastTask`; the network gives the state, so `predict` stays as it is.

    Raises:
        RecipeError: if the network cannot take missing values, or weights or shares are out of range.
    """

    def __init__(
        self,
        network: NetworkFactory,
        layout: Layout,
        statistics: Statistics,
        forecast_weight: float = 1.0,
        reconstruct_weight: float = 1.0,
        mask_patches: float = 0.5,
        mask_variables: float = 0.0,
        **options: Any,
    ) -> None:
        super().__init__(network, layout, statistics, **options)
        if self.members is not None:
            raise RecipeError(
                "PretrainTask trains one forecast; fine-tune members with ForecastTask and start: {checkpoint: RUN}"
            )
        if min(forecast_weight, reconstruct_weight) < 0 or forecast_weight == reconstruct_weight == 0:
            raise RecipeError(
                f"forecast_weight = {forecast_weight:g} and reconstruct_weight = {reconstruct_weight:g} must be 0 or "
                "more, one of them greater than 0"
            )
        for name, share in (("mask_patches", mask_patches), ("mask_variables", mask_variables)):
            if not 0 <= share < 1:
                raise RecipeError(f"{name} = {share:g} must be a share from 0 up to, but not including, 1")
        if reconstruct_weight and not (mask_patches or mask_variables):
            raise RecipeError("nothing is hidden to be reconstructed; give mask_patches or mask_variables")
        if reconstruct_weight and not getattr(self.network, "validity", False):
            raise RecipeError(
                f"{type(self.network).__name__} cannot tell hidden values from zeros; give ClimaX validity: true"
            )
        if reconstruct_weight and self.layout.forcings:
            raise RecipeError("forcings are known ahead of forecasts, not of what is reconstructed; leave out forcings")
        if reconstruct_weight and self.predicts != "state":
            raise RecipeError(f"a {self.predicts} says nothing at lead 0, where PretrainTask asks; use predict: state")
        self.forecast_weight, self.reconstruct_weight = forecast_weight, reconstruct_weight
        self.mask_patches, self.mask_variables = mask_patches, mask_variables

    def options(self) -> dict[str, Any]:
        """Return the constructor's arguments that a checkpoint keeps, as plain data."""
        return super().options() | {
            "forecast_weight": self.forecast_weight,
            "reconstruct_weight": self.reconstruct_weight,
            "mask_patches": self.mask_patches,
            "mask_variables": self.mask_variables,
        }

    def loss(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the weighted sum of both errors, and each of them."""
        batch = self._prepared(batch)
        parts = {}
        if self.forecast_weight:
            parts["forecast_loss"] = self._prediction_error(batch)
        if self.reconstruct_weight:
            parts["reconstruct_loss"] = self._reconstruction_error(batch)
        return self._total(parts), parts

    def predict(self, batch: Batch, target: Frame, noise: Noise | None = None) -> Fields:
        """Return fields in physical units on the frame that is asked for.

        Raises:
            RecipeError: if no forecasts were trained.
        """
        self._forecasts_were_trained()
        return super().predict(batch, target, noise)

    def forecast(self, batch: Batch, leads: Sequence[int], *others: Any, **more: Any) -> Iterator[Fields]:
        """Return fields in physical units, one part of the leads after the other; see `Task.forecast`.

        Raises:
            RecipeError: if no forecasts were trained.
        """
        self._forecasts_were_trained()
        return super().forecast(batch, leads, *others, **more)

    def _forecasts_were_trained(self) -> None:
        if not self.forecast_weight:
            raise RecipeError(
                "forecast_weight was 0, so this network was never trained to forecast; fine-tune it first, with start: "
                "{checkpoint: RUN} in a recipe of ForecastTask"
            )

    def on_validation_epoch_start(self) -> None:
        """Begin to sum the scores anew, and hide the same as in every epoch, so that losses can be compared."""
        super().on_validation_epoch_start()
        self.generator = torch.Generator().manual_seed(0)

    def on_test_epoch_start(self) -> None:
        """Begin as a validation does."""
        super().on_test_epoch_start()
        self.generator = torch.Generator().manual_seed(0)

    def _score(self, batch: Batch) -> dict[str, Tensor]:
        parts = {}
        if self.forecast_weight:
            parts["forecast_loss"] = super()._score(batch)["loss"]
        if self.reconstruct_weight:
            parts["reconstruct_loss"] = self._reconstruction_error(self.normalized(batch), self.generator)
        return {"loss": self._total(parts)} | parts

    def _total(self, parts: dict[str, Tensor]) -> Tensor:
        weights = {"forecast_loss": self.forecast_weight, "reconstruct_loss": self.reconstruct_weight}
        return torch.stack([weights[name] * error for name, error in parts.items()]).sum()

    def _reconstruction_error(self, batch: Batch, generator: torch.Generator | None = None) -> Tensor:
        """Return the weighted error at hidden points of a normalised batch."""
        now = batch.inputs.at(-1)
        hidden = self.hidden(now, generator)
        given = _without(batch.inputs, hidden)
        predicted = self.network(given, now.frame, forcings=batch.forcings, statics=batch.statics).float()
        scored = hidden if now.valid is None else hidden & now.valid
        return masked_mean(self.error.of(predicted, now.values), self.loss_weight(now.frame), scored)

    def hidden(self, now: Fields, generator: torch.Generator | None = None) -> Bool[Tensor, "batch 1 channel lat lon"]:
        """Draw what is hidden of fields at one time, with PyTorch's own random numbers unless others are given."""
        batch, (height, width) = len(now.values), now.frame.grid.shape
        patch = cast(ClimaX, self.network).patch
        rows, columns = patch_counts((height, width), patch)
        patches = _draw(batch, rows * columns, self.mask_patches, generator).view(batch, 1, 1, rows, columns)
        points = patches.repeat_interleave(patch[0], dim=-2).repeat_interleave(patch[1], dim=-1)[..., :height, :width]
        variables = _draw(batch, len(now.frame.channels), self.mask_variables, generator)
        return sent(points | variables[:, None, :, None, None], now.values)


def _without(fields: Fields, hidden: Bool[Tensor, "batch 1 channel lat lon"]) -> Fields:
    """Return fields in which some points are missing at every time."""
    valid = (~hidden).expand_as(fields.values) if fields.valid is None else fields.valid & ~hidden
    return Fields(fields.values.masked_fill(hidden, 0.0), fields.frame, valid)


def _draw(batch: int, count: int, share: float, generator: torch.Generator | None) -> Bool[Tensor, "batch item"]:
    """Draw which of several are hidden in each sample: the share in the mean, but never all of them."""
    number = (share * count + torch.rand(batch, 1, generator=generator)).floor().clamp(max=count - 1)
    rank = torch.rand(batch, count, generator=generator).argsort(dim=1).argsort(dim=1)
    return rank < number
