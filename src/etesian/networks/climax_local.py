"""What ClimaX sees at the resolution of its grid: convolutions before and after the transformer."""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from etesian.nn.convolution import ConvolutionBranch, Plane, TokenConvolution
from etesian.nn.noise import Modulation
from etesian.nn.tokens import Patch, patchify, unpatchify

Pixels = Float[Tensor, "batch pixel width"]

Keys = Bool[Tensor, "batch pixel"]

LEAD_SIZE = 4.0
"""Size of the lead's embedding at 100 h to begin with: that gains are made of many different functions of the lead."""


class LocalPath(nn.Module):
    """Convolutions over the points of a grid, around a transformer of patches, as a U-Net has them around its middle.

    Features of all points are convolved, cut into patches for the transformer, and meet again what it makes of
    them. No norm stands between what goes in and what comes out, so that a forecast linear in the state, which is
    most of a forecast of a day, is there from the first step on. The head is linear too, with gains that depend on
    the lead: everything before it runs once for all leads.

    Args:
        width: features of a point.
        patch: rows and columns of a patch.
        dim: width of a token.
        dropout: share of activations dropped in training.
    """

    def __init__(self, width: int, patch: Patch, dim: int, dropout: float) -> None:
        super().__init__()
        self.patch, pixels = patch, patch[0] * patch[1]
        self.enter = TokenConvolution(width, width)
        self.before, self.after = ConvolutionBranch(width, dropout), ConvolutionBranch(width, dropout)
        self.to_tokens = nn.Linear(pixels * width, dim)
        self.from_tokens = nn.Linear(dim, pixels * width)
        self.leave = TokenConvolution(width, 2 * width)
        self.of_lead = nn.Linear(dim, 2 * width)
        self.modulations: nn.ModuleList | None = None

    def accept_noise(self) -> None:
        """Let noise shift what enters both branches and the last layer."""
        width = self.enter.out_channels
        self.modulations = nn.ModuleList(Modulation(features, normed=False) for features in (width, width, 2 * width))

    def _modulated(self, number: int, features: Pixels, noise: Tensor | None) -> Pixels:
        return features if self.modulations is None else self.modulations[number](features, noise)

    @torch.no_grad()
    def reset(self, lead_time: nn.Linear) -> None:
        """Draw weights that keep the size of what they are given, and let the transformer begin as nothing.

        Args:
            lead_time: the layer that embeds leads.
        """
        nn.init.normal_(self.to_tokens.weight, std=self.to_tokens.in_features**-0.5)
        nn.init.zeros_(self.from_tokens.weight)
        nn.init.normal_(lead_time.weight, std=LEAD_SIZE)
        nn.init.uniform_(lead_time.bias, -LEAD_SIZE, LEAD_SIZE)
        nn.init.normal_(self.of_lead.weight, std=self.of_lead.in_features**-0.5)

    def gain(self, lead: Float[Tensor, "batch time dim"]) -> Float[Tensor, "batch time hidden"]:
        """Return by how much the last layer's weights are multiplied at leads, from their embeddings."""
        return 1 + self.of_lead(F.gelu(lead))  # type: ignore[no-any-return]

    def down(
        self, features: Pixels, plane: Plane, keys: Keys | None, noise: Tensor | None = None
    ) -> tuple[Pixels, Float[Tensor, "batch patch dim"], Bool[Tensor, "batch patch"] | None]:
        """Return features that know their neighbours, tokens of them, and which of these may be attended to.

        Args:
            features: of every point of a grid.
            plane: how the points lie.
            keys: which points hold anything that others may see; None for all.
            noise: embedded noise of each point.
        """
        features = self.enter(features, plane, keys)
        features = features + self.before(self._modulated(0, features, noise), plane, keys)
        if keys is None:
            return features, self.to_tokens(self._cut(features, plane)), None
        seen = self._cut(keys.unsqueeze(-1).to(features.dtype), plane)
        return features, self.to_tokens(self._cut(features * keys.unsqueeze(-1), plane)), seen.any(dim=-1)

    def up(
        self,
        features: Pixels,
        tokens: Float[Tensor, "batch patch dim"],
        plane: Plane,
        keys: Keys | None,
        noise: Tensor | None = None,
    ) -> Float[Tensor, "batch pixel hidden"]:
        """Return what the head takes, from features and what the transformer has made of their tokens."""
        patches = self.from_tokens(tokens).view(*tokens.shape[:2], features.shape[-1], -1)
        features = features + unpatchify(patches, self.patch, plane[:2]).flatten(2).transpose(1, 2)
        features = features + self.after(self._modulated(1, features, noise), plane, keys)
        return self._modulated(2, self.leave(features, plane, keys), noise)

    def _cut(self, features: Pixels, plane: Plane) -> Float[Tensor, "batch patch feature"]:
        maps = features.reshape(len(features), *plane[:2], -1).permute(0, 3, 1, 2)
        return patchify(maps, self.patch, periodic=plane.periodic).flatten(2)
