"""Area means that a forecast keeps, such as the mass of the air."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from etesian.core import Fields, Frame, Layout
from etesian.core.device import positions, sent
from etesian.core.errors import RecipeError
from etesian.nn.normalizer import Normalizer


@dataclass(frozen=True)
class Conservation:
    """Takes back, everywhere alike, what a network adds to area means or takes from them.

    Attributes:
        names: channels or variables whose area mean stays what it was at the initial time.
    """

    names: Sequence[str]

    def check(self, layout: Layout) -> None:
        """Make sure that the means can be kept.

        Raises:
            RecipeError: if a name is not among the inputs and the targets, or the grid is not the whole globe's.
        """
        for name in self.names:
            chosen = [c for c in layout.targets if name in (str(c), c.name)]
            if not chosen or not set(chosen) <= set(layout.inputs):
                raise RecipeError(f"conserve names '{name}', which is not among the inputs and the targets")
        if self.names and (not layout.grid.is_periodic or layout.output_grid != layout.grid or layout.boundary):
            raise RecipeError("an area mean is conserved on the whole globe only; leave out conserve")

    def __call__(
        self, values: Float[Tensor, "batch time channel lat lon"], inputs: Fields, target: Frame, normalizer: Normalizer
    ) -> Float[Tensor, "batch time channel lat lon"]:
        """Return a normalised state without what it adds to the area means that are to be kept.

        Raises:
            RecipeError: if the inputs have holes.
        """
        if inputs.valid is not None:
            raise RecipeError("an area mean is conserved of fields without holes; leave out conserve")
        kept = [c for c in target.channels if str(c) in self.names or c.name in self.names]
        places = positions(target.index(kept), values.device)
        now = values.index_select(2, places)
        before = _area_mean(inputs.at(-1).select(kept), normalizer)
        after = _area_mean(Fields(now, replace(target, channels=tuple(kept))), normalizer)
        return values.index_add(2, places, (before - after).to(values).expand_as(now))


def _area_mean(fields: Fields, normalizer: Normalizer) -> Float[Tensor, "batch time channel 1 1"]:
    """Return the area mean in physical units over the standard deviation, from normalised fields."""
    wide = fields.values.double()
    weight = sent(fields.frame.grid.area_weights, wide)[:, None]
    weight = weight / (weight.sum() * fields.values.shape[-1])
    centre = normalizer.normalize(replace(fields, values=torch.zeros_like(fields.values))).values
    # In double precision: a mean pressure is hundreds of times as large as its anomalies.
    return ((wide - centre.double()) * weight).sum((-2, -1), keepdim=True)
