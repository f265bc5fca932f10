"""The learned distance between prediction and truth as a part of a task's loss."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from etesian.core import Channel, Fields
from etesian.core.errors import ChannelError, RecipeError, suggest
from etesian.distance.distance import AtmoDistance
from etesian.training.field_task import Penalty


@dataclass(frozen=True)
class Content:
    """What of an AtmoDistance a loss holds.

    Attributes:
        run: run directory of `TimeLagTask` or `InpaintTask`.
        weight: of the distance, which is about as large as a mean squared error of normalised fields.
        error_weight: of the task's own error beside it; 0 leaves the distance alone.
        layer: whose features are compared; None is the last.
    """

    run: str
    weight: float = 1.0
    error_weight: float = 1.0
    layer: str | None = None

    def over(self, channels: Sequence[Channel]) -> Penalty:
        """Return the weighted mean distance of states in physical units; truth that is missing counts as met.

        What is returned is no module, so that the encoder is no part of the weights of the task that it helps to train.

        Args:
            channels: that the task predicts.

        Raises:
            ChannelError: if the distance needs channels that the task does not predict.
            RecipeError: if the weight is not greater than 0, or that of the error less than 0.
        """
        if self.weight <= 0:
            raise RecipeError(f"content: weight = {self.weight:g} must be greater than 0; leave content out instead")
        if self.error_weight < 0:
            raise RecipeError(f"content: error_weight = {self.error_weight:g} must not be less than 0")
        distance = AtmoDistance.load(self.run, self.layer)
        for channel in distance.channels:
            if channel not in channels:
                raise ChannelError(
                    f"content: {self.run} compares '{channel}', which is not predicted"
                    f"{suggest(str(channel), map(str, channels))}"
                )

        def penalty(predicted: Fields, truth: Fields) -> Tensor:
            distance.to(predicted.values.device)
            known = truth.values
            if truth.valid is not None:
                known = torch.where(truth.valid, known, predicted.values.detach())
            mean: Tensor = distance(predicted, Fields(known, truth.frame)).mean()
            return self.weight * mean

        return penalty
