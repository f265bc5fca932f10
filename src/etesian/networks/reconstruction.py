"""What networks that fill gaps have in common: an answer with its variance, for months or for each time."""

from abc import abstractmethod
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from etesian.core.clock import month_start
from etesian.core.constants import SECONDS_PER_DAY
from etesian.core.errors import DataError
from etesian.core.fields import Fields, Frame
from etesian.networks.network import Network

Maps = Float[Tensor, "batch time channel lat lon"]


class Distribution(NamedTuple):
    """A Gaussian at every point.

    Attributes:
        mean: what is expected.
        variance: of the error; None where the network gives none.
    """

    mean: Maps
    variance: Maps | None


class Reconstruction(Network):
    """A network that completes gappy fields of months.

    It is asked for the means of months by a target frame whose times are their first moments, and for the fields of
    each time by one whose times are the inputs'. Times at which nothing was observed change nothing.

    Attributes:
        gives_variance: whether its distributions have a variance.
    """

    gives_variance: bool
    takes_holes = True

    @abstractmethod
    def distribution(self, inputs: Fields, target: Frame, *, statics: Fields | None = None) -> Distribution:
        """Return normalised means and variances on the target frame from normalised inputs."""

    def forward(
        self, inputs: Fields, target: Frame, *, forcings: Fields | None = None, statics: Fields | None = None
    ) -> Maps:
        """Return the means; see `Network.forward`."""
        return self.distribution(inputs, target, statics=statics).mean


class Months(NamedTuple):
    """The months of the inputs.

    Attributes:
        start: their first moments, in seconds since 1970-01-01.
        member: which input times lie in which month; a time may lie in none.
        days: of each input time since its month began.
    """

    start: Int64[Tensor, "batch month"]
    member: Bool[Tensor, "batch time month"]
    days: Float[Tensor, "batch time"]


def asks_for_each_time(inputs: Frame, target: Frame) -> bool:
    """Return whether the target's times are the inputs', rather than the beginnings of months.

    Raises:
        DataError: if they are neither, or the two count time in different calendars.
    """
    if inputs.calendar != target.calendar:
        raise DataError(f"inputs are in the {inputs.calendar} calendar, the target in {target.calendar}")
    if torch.equal(inputs.time, target.time):
        return True
    if not torch.equal(_month_start(target.time, target.calendar), target.time):
        raise DataError("a target's times must be those of the inputs, or 00:00 of the first days of months")
    return False


def find_months(inputs: Frame, target: Frame) -> Months:
    """Return the months of a target, or where each input time is asked for, those in which these lie."""
    begun = _month_start(inputs.time, inputs.calendar)
    start = target.time
    if asks_for_each_time(inputs, target):
        each = [row.unique() for row in begun]
        # Samples of fewer months than others are given months to which no time belongs.
        start = torch.nn.utils.rnn.pad_sequence(each, batch_first=True, padding_value=torch.iinfo(torch.int64).max)
    member = begun[:, :, None] == start[:, None, :]
    return Months(start, member, (inputs.time - begun).float() / SECONDS_PER_DAY)


def _month_start(time: Int64[Tensor, "batch time"], calendar: str) -> Int64[Tensor, "batch time"]:
    return torch.from_numpy(np.asarray(month_start(time.cpu().numpy(), calendar))).to(time.device)
