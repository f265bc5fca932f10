"""Noise as a condition: what tells the members of an ensemble apart inside a network.

As in AIFS-CRPS (Lang et al. 2024, arXiv 2412.15832) the normalised features of a layer are scaled and shifted by what
is made of a few standard normals.
"""

from typing import Literal

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

NORMALS = 32
"""Standard normals that a member is drawn by, at each step of an iterated forecast anew."""

WIDTH = 64
"""Of what is made of them."""

_HALVED = 1.5
"""One over the root-mean-square of a GELU of standard normals, about."""


class NoiseEmbedding(nn.Module):
    """What is made of a member's normals before the layers see it: two linear maps with a GELU between them."""

    def __init__(self) -> None:
        super().__init__()
        self.expand, self.contract = nn.Linear(NORMALS, WIDTH), nn.Linear(WIDTH, WIDTH)
        nn.init.normal_(self.expand.weight, std=NORMALS**-0.5)
        nn.init.normal_(self.contract.weight, std=_HALVED * WIDTH**-0.5)

    def forward(self, normals: Float[Tensor, "batch normal"]) -> Float[Tensor, "batch width"]:
        """Embed normals; variances stay about one."""
        return self.contract(F.gelu(self.expand(normals)))  # type: ignore[no-any-return]


class Modulation(nn.Module):
    """Scales and shifts features by what is made of noise; begins by changing nothing.

    Args:
        features: how many.
        axis: of the features: the last one of tokens, the one behind the batch of maps.
    """

    def __init__(self, features: int, axis: Literal[1, -1] = -1) -> None:
        super().__init__()
        self.axis = axis
        self.project = nn.Linear(WIDTH, 2 * features)
        nn.init.zeros_(self.project.weight)
        nn.init.zeros_(self.project.bias)

    def forward(
        self, values: Float[Tensor, "batch *axes"], noise: Float[Tensor, "batch embedding"] | None
    ) -> Float[Tensor, "batch *axes"]:
        """Return values scaled and shifted; as they are where there is no noise."""
        if noise is None:
            return values
        shape = [1] * values.ndim
        shape[0], shape[self.axis] = len(values), values.shape[self.axis]
        scale, shift = (part.view(shape) for part in self.project(noise).chunk(2, dim=-1))
        modulated: Tensor = values * (1 + scale) + shift
        return modulated
