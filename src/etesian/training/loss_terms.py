"""What a recipe may add to the error that a task minimises, such as a learned distance."""

from collections.abc import Callable, Sequence
from typing import Protocol, runtime_checkable

from torch import Tensor

from etesian.core import Channel, Fields

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
