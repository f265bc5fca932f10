"""Limits of what is predicted, such as precipitation that is never negative."""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from etesian.core.channels import CATALOGUE, Channel
from etesian.core.errors import RecipeError
from etesian.core.fields import Fields, Frame, Layout
from etesian.nn.normalizer import Normalizer

Values = Float[Tensor, "batch time channel lat lon"]

Limits = tuple[float | None, float | None]

SHARPNESS = 5.0
"""Inverse of the width, in normalised units, over which a bound turns what would pass it."""


class Bounds:
    """Keeps channels within limits in physical units, with a gradient everywhere.

    Args:
        limits: smallest and largest value of each channel, None where there is no limit.
        normalizer: between physical and normalised units.
    """

    def __init__(self, limits: Mapping[Channel, Limits], normalizer: Normalizer) -> None:
        self.limits, self.normalizer = dict(limits), normalizer

    def bend(self, values: Values, frame: Frame) -> Values:
        """Return normalised values that approach the limits smoothly where they would pass them."""
        places = [place for place, channel in enumerate(frame.channels) if channel in self.limits]
        if not places:
            return values
        chosen = Frame(tuple(frame.channels[i] for i in places), frame.time, frame.grid, frame.calendar)
        free = values[:, :, places]
        lower, upper = (
            self.normalizer.normalize(Fields(limit.expand_as(free), chosen)).values
            for limit in self._limits(chosen, values)
        )
        above = lower + F.softplus(free - lower, SHARPNESS)
        bent = torch.where(lower.isfinite(), above, free) - F.softplus(free - upper, SHARPNESS)
        return values.index_copy(2, torch.tensor(places, device=values.device), bent)

    def cut(self, values: Values, frame: Frame) -> Values:
        """Return physical values without what rounding has carried beyond the limits."""
        if not any(channel in self.limits for channel in frame.channels):
            return values
        lower, upper = self._limits(frame, values)
        return values.clamp(lower, upper)

    def _limits(self, frame: Frame, like: Tensor) -> tuple[Tensor, Tensor]:
        each = [self.limits.get(channel, (None, None)) for channel in frame.channels]
        lower = like.new_tensor([-torch.inf if low is None else low for low, _ in each])
        upper = like.new_tensor([torch.inf if high is None else high for _, high in each])
        return lower[:, None, None], upper[:, None, None]


def natural_limits(layout: Layout) -> dict[Channel, Limits]:
    """Return what the nature of the targets that are not fed in forbids."""
    known = {c: CATALOGUE[c.name].limits for c in layout.targets if c.name in CATALOGUE and c not in layout.inputs}
    return {channel: limits for channel, limits in known.items() if limits != (None, None)}


def named_limits(bounds: dict[str, Limits], layout: Layout) -> dict[Channel, Limits]:
    """Return the bounds of the targets that they name, by channel or variable.

    Raises:
        RecipeError: if two leave nothing between them.
    """
    for name, (low, high) in bounds.items():
        if low is not None and high is not None and low >= high:
            raise RecipeError(f"the bounds of {name}, {low:g} and {high:g}, leave nothing between them")
    each = {c: bounds.get(str(c), bounds.get(c.name)) for c in layout.targets}
    return {channel: (limits[0], limits[1]) for channel, limits in each.items() if limits is not None}
