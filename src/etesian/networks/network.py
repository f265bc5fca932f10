"""What every network is: fields in, values on a target frame out; with a variance where gaps are filled."""

from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from etesian.core.clock import month_start
from etesian.core.constants import SECONDS_PER_DAY, SECONDS_PER_HOUR
from etesian.core.errors import CheckpointError, DataError, RecipeError
from etesian.core.fields import Fields, Frame, Layout
from etesian.core.grid import Grid
from etesian.core.recorded import Recorded
from etesian.nn.noise import is_for_noise

Maps = Float[Tensor, "batch time channel lat lon"]

Normals = Callable[[int], Float[Tensor, "batch row column normal"]]
"""From the number of a step inside a network, 0 for what comes before the first, to standard normals of each sample."""


class Network(nn.Module, Recorded):
    """A learned map from fields to fields; knows no loss and no units.

    Attributes:
        layout: what goes in and what comes out.
        takes_steps: whether it goes step by step inside, so that it may be asked for longer leads than it learned.
        takes_holes: whether it can tell a missing input from one that is zero, which is the mean.
    """

    layout: Layout
    takes_holes = False
    takes_steps = False
    steps_in_time = False
    """Whether a lead is reached by steps, so that it may be longer than those of training."""

    def accept_noise(self) -> None:
        """Add what makes members of an ensemble differ: layers that noise has a say in, which begin by ignoring it.

        `forward` and `stream` then take `noise` as well: `Normals` in the shape that `noise_shape` tells.

        Raises:
            RecipeError: if the network has no such layers.
        """
        raise RecipeError(
            f"{type(self).__name__} takes no noise, so it has no members; take ClimaX, UNet, WeatherMesh or SRGenerator"
        )

    def noise_shape(self, grid: Grid) -> tuple[int, ...]:
        """Return the shape of the noise of one sample on a grid, of a network that accepts noise."""
        raise NotImplementedError

    @abstractmethod
    def forward(
        self, inputs: Fields, target: Frame, *, forcings: Fields | None = None, statics: Fields | None = None
    ) -> Float[Tensor, "batch time channel lat lon"]:
        """Predict.

        Args:
            inputs: normalised state at one time or a history of times, the last one the initial time.
            target: the channels, times and grid that are asked for.
            forcings: normalised fields known at the target times, one for each of them.
            statics: normalised fields that do not change, with a time axis of length 1.

        Returns:
            Normalised values on the target frame.
        """

    def stream(
        self,
        inputs: Fields,
        target: Frame,
        *,
        forcings: Fields | None = None,
        statics: Fields | None = None,
        others: Sequence[Fields] = (),
        weights: Sequence[float] = (),
        noise: Normals | None = None,
    ) -> Iterator[tuple[list[int], Float[Tensor, "batch time channel lat lon"]]]:
        """Predict for one part of the target times after the other; all of them at once where that saves nothing.

        Args:
            inputs: as in `forward`.
            target: as in `forward`.
            forcings: as in `forward`.
            statics: as in `forward`.
            others: analyses of the same times from other sources, to blend with the inputs.
            weights: of the inputs and the others, of any sum; by default the same.
            noise: of each sample, of a network that accepts it.

        Yields:
            Positions on the target's time axis, and what `forward` gives there.

        Raises:
            RecipeError: if the network cannot blend analyses.
        """
        if others:
            raise RecipeError(f"{type(self).__name__} starts from one analysis; it cannot blend several")
        drawn = {} if noise is None else {"noise": noise}
        yield list(range(target.time.shape[1])), self(inputs, target, forcings=forcings, statics=statics, **drawn)

    def layout_of(self, source: str | None) -> Layout:
        """Return the layout of the inputs from one source of analyses; None where there is one only.

        Raises:
            DataError: if the network does not know the source, or must be told which it is.
        """
        if source is not None:
            raise DataError(f"{type(self).__name__} does not tell sources apart; leave out '{source}'")
        return self.layout

    def no_decay(self) -> set[str]:
        """Return the names of parameters that weight decay should leave alone."""
        return set()

    def begin_with_nothing(self) -> None:
        """Change the last layer so that the answer is 0 whatever the input, to learn what something simple misses.

        Raises:
            RecipeError: if the network has no such layer.
        """
        raise RecipeError(f"{type(self).__name__} cannot begin by adding nothing to a regression; take away `ridge`")

    def shards(self) -> list[nn.Module]:
        """Return the modules whose parameters `Sharded` gathers one after the other; none if it cannot be divided.

        A network that can be is only ever called as a whole, by `forward`.
        """
        return []

    def parts(self) -> dict[str, set[str]]:
        """Return the names of parameters by the plain names under which fine-tuning chooses what to train."""
        return {"all": {name for name, _ in self.named_parameters()}}

    def adopt(self, source: "Network") -> "Transfer":
        """Take over the weights of a trained network as far as they fit; see `Transfer`.

        What takes noise stays new where the trained network took none, and is dropped where this one takes none.

        Raises:
            CheckpointError: if the two are of different kinds or sizes.
        """
        own, theirs = self.state_dict(), source.state_dict()
        differ = own.keys() ^ theirs.keys()
        if type(source) is not type(self) or not all(map(is_for_noise, differ)):
            raise CheckpointError(f"a {type(self).__name__} cannot begin with the weights of a {type(source).__name__}")
        shared = own.keys() & theirs.keys()
        for name in sorted(shared):
            tensor = theirs[name]
            if tensor.shape != own[name].shape:
                shapes = f"{tuple(tensor.shape)} there and {tuple(own[name].shape)} here"
                raise CheckpointError(f"the trained {type(self).__name__} is of another size: {name} is {shapes}")
        self.load_state_dict({name: theirs[name] if name in shared else tensor for name, tensor in own.items()})
        outcomes = dict.fromkeys(own, "loaded") | dict.fromkeys(own.keys() - shared, "new")
        return Transfer(outcomes | dict.fromkeys(theirs.keys() - shared, "dropped"), frozenset(own.keys() - shared))


@dataclass(frozen=True)
class Transfer:
    """What a network took over from a trained one.

    Attributes:
        outcomes: by name of a tensor, or of what was dropped: loaded, interpolated, partly new, new or dropped.
        new: names of tensors that hold anything new.
    """

    outcomes: dict[str, str]
    new: frozenset[str]


def shares(weights: Sequence[float]) -> list[float]:
    """Return weights as parts of one.

    Raises:
        RecipeError: if one is negative, or there is nothing to share.
    """
    if min(weights) < 0 or sum(weights) <= 0:
        raise RecipeError(f"weights {list(weights)} must be 0 or more, and not all 0")
    return [weight / sum(weights) for weight in weights]


def lead_hours(inputs: Fields, target: Frame) -> Float[Tensor, "batch target"]:
    """Return the hours from the initial time, the last of the inputs, to each target time.

    Raises:
        DataError: if the two count time in different calendars.
    """
    if inputs.frame.calendar != target.calendar:
        raise DataError(f"inputs are in the {inputs.frame.calendar} calendar, the target in {target.calendar}")
    return (target.time - inputs.frame.time[:, -1:]).float() / SECONDS_PER_HOUR


def by_lead(
    network: Callable[..., Tensor],
    inputs: Fields,
    target: Frame,
    forcings: Fields,
    statics: Fields | None,
    noise: Normals | None,
) -> Float[Tensor, "batch time channel lat lon"]:
    """Ask a network for each target time as a sample of its own, with what is known of that time alone.

    Args:
        network: gives the answers for samples of one target time.
        inputs: as in `Network.forward`.
        target: as in `Network.forward`.
        forcings: as in `Network.forward`, of the target times.
        statics: as in `Network.forward`.
        noise: of each sample, None where there is none.
    """
    count = target.time.shape[1]
    drawn = {} if noise is None else {"noise": lambda step: noise(step).repeat_interleave(count, dim=0)}
    fixed, known = None if statics is None else statics.each(count), forcings.one_by_one()
    answers = network(
        inputs.each(count), replace(target, time=known.frame.time), forcings=known, statics=fixed, **drawn
    )
    return answers[:, 0].unflatten(0, target.time.shape)  # type: ignore[no-untyped-call, no-any-return]


def needed(forcings: Fields | None, layout: Layout) -> Fields:
    """Return the forcings of a network that takes some.

    Raises:
        DataError: if they are missing.
    """
    if forcings is None:
        raise DataError(f"the network was built with '{layout.forcings[0]}', but is given no forcings")
    return forcings


def known_at(target: Frame, forcings: Fields | None, layout: Layout) -> Fields | None:
    """Return the forcings of a network's target times; None for a network that has none.

    Raises:
        DataError: if they are missing or of other times.
    """
    if not layout.forcings:
        return None
    forcings = needed(forcings, layout)
    if not torch.equal(forcings.frame.time, target.time):
        raise DataError(f"the forcings ('{layout.forcings[0]}', …) are of other times than the target")
    return forcings


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

    @property
    def wants_fit(self) -> bool:
        """Whether something is to be fitted by `fit_guess` before the first step of training."""
        return False

    def fit_guess(self, samples: Iterable[Fields]) -> float:
        """Fit what the network begins with to normalised inputs, and return how well it fits; lower is better."""
        raise NotImplementedError

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
    return torch.from_numpy(np.asarray(month_start(time.numpy(), calendar)))
