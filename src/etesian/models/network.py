"""What every network is: fields in, values on a target frame out."""

from abc import abstractmethod

from jaxtyping import Float
from torch import Tensor, nn

from etesian.core.constants import SECONDS_PER_HOUR
from etesian.core.errors import DataError
from etesian.core.fields import Fields, Frame, Layout
from etesian.core.recorded import Recorded


class Network(nn.Module, Recorded):
    """A learned map from fields to fields; knows no loss and no units.

    Attributes:
        layout: what goes in and what comes out.
    """

    layout: Layout

    @abstractmethod
    def forward(
        self, inputs: Fields, target: Frame, *, forcings: Fields | None = None, statics: Fields | None = None
    ) -> Float[Tensor, "batch time channel lat lon"]:
        """Predict.

        Args:
            inputs: normalised state at one time or a history of times, the last one the initial time.
            target: the channels, times and grid that are asked for.
            forcings: normalised fields known at the target times.
            statics: normalised fields that do not change, with a time axis of length 1.

        Returns:
            Normalised values on the target frame.
        """

    def no_decay(self) -> set[str]:
        """Return the names of parameters that weight decay should leave alone."""
        return set()


def lead_hours(inputs: Fields, target: Frame) -> Float[Tensor, "batch target"]:
    """Return the hours from the initial time, the last of the inputs, to each target time.

    Raises:
        DataError: if the two count time in different calendars.
    """
    if inputs.frame.calendar != target.calendar:
        raise DataError(f"inputs are in the {inputs.frame.calendar} calendar, the target in {target.calendar}")
    return (target.time - inputs.frame.time[:, -1:]).float() / SECONDS_PER_HOUR
