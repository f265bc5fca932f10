"""Noise as a condition: what tells the members of an ensemble apart inside a network.

As in AIFS-CRPS (Lang et al. 2024, arXiv 2412.15832) the normalised features of a layer are scaled and shifted by what
is made of a few standard normals. They are drawn for each place: with one draw for the whole globe a network would make
it warmer everywhere or nowhere, which a score point by point cannot tell from weather, and in a roll-out that adds up.
"""

from typing import Literal

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from etesian.nn.convolution import wrapped

NORMALS = 8
"""Standard normals of each place that a member is drawn by, at each step of an iterated forecast anew."""

WIDTH = 32
"""Of what is made of them."""

_HALVED = 1.5
"""One over the root-mean-square of a GELU of standard normals, about."""

Places = Float[Tensor, "batch row column embedding"]


class NoiseEmbedding(nn.Module):
    """What is made of normals before the layers see it: two linear maps with a GELU between them."""

    def __init__(self) -> None:
        super().__init__()
        self.expand, self.contract = nn.Linear(NORMALS, WIDTH), nn.Linear(WIDTH, WIDTH)
        nn.init.normal_(self.expand.weight, std=NORMALS**-0.5)
        nn.init.normal_(self.contract.weight, std=_HALVED * WIDTH**-0.5)

    def forward(self, normals: Float[Tensor, "batch row column normal"]) -> Places:
        """Embed normals; variances stay about one."""
        return self.contract(F.gelu(self.expand(normals)))  # type: ignore[no-any-return]


def is_for_noise(name: str) -> bool:
    """Return whether a parameter of a network has a meaning for noise alone, by its name."""
    return "noise_embed" in name or "noise_enter" in name or "modulation" in name


def between(noise: Places, shape: tuple[int, int], *, periodic: bool) -> Float[Tensor, "batch lat lon embedding"]:
    """Return noise on a finer grid, interpolated linearly; round the circle where the columns close it."""
    maps = noise.movedim(-1, 1)
    if not periodic:
        return F.interpolate(maps, shape, mode="bilinear", align_corners=False).movedim(1, -1)
    times = shape[1] // maps.shape[-1]
    wider = F.interpolate(wrapped(maps), (shape[0], shape[1] + 2 * times), mode="bilinear", align_corners=False)
    return wider[..., times : times + shape[1]].movedim(1, -1)


class Modulation(nn.Module):
    """Scales and shifts features by what is made of noise at their place; begins by changing nothing.

    Args:
        features: how many.
        axis: of the features: the last one of tokens, the one behind the batch of maps.
        normed: whether the features come out of a norm. Others are only shifted: where nothing bounds them, a factor
            that is drawn anew at each step of a roll-out lets them grow without end.
    """

    def __init__(self, features: int, axis: Literal[1, -1] = -1, *, normed: bool = True) -> None:
        super().__init__()
        self.axis, self.normed = axis, normed
        self.project = nn.Linear(WIDTH, 2 * features if normed else features)
        nn.init.zeros_(self.project.weight)
        nn.init.zeros_(self.project.bias)

    def forward(
        self, values: Float[Tensor, "batch *axes"], noise: Float[Tensor, "batch *place embedding"] | None
    ) -> Float[Tensor, "batch *axes"]:
        """Return values scaled and shifted; as they are where there is no noise."""
        if noise is None:
            return values
        parts = self.project(noise).movedim(-1, self.axis)
        if not self.normed:
            return values + parts  # type: ignore[no-any-return]
        scale, shift = parts.chunk(2, dim=self.axis)
        return values * (1 + scale) + shift  # type: ignore[no-any-return]
