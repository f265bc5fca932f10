"""What ClimaX sees at the resolution of its grid: convolutions before and after the transformer."""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from etesian.nn.convolution import ConvolutionBranch, Plane, TokenConvolution
from etesian.nn.noise import Modulation
from etesian.nn.tokens import Patch, patch_counts, patchify, unpatchify

Pixels = Float[Tensor, "batch pixel width"]

Keys = Bool[Tensor, "batch pixel"]

Level = tuple[Tensor, Plane, Tensor | None]
"""Features of a plane's points, how these lie, and which hold anything that others may see."""

LEAD_SIZE = 4.0
"""Size of the lead's embedding at 100 h to begin with: that gains are made of many different functions of the lead."""


class LocalLevel(nn.Module):
    """Convolutions over the points of a plane, before and after what is made of patches of them.

    Args:
        width: features of a point.
        patch: rows and columns of a patch.
        dim: width of a token, which stands for a patch.
        dropout: share of activations dropped in training.
        enter: what points enter through, if anything.
    """

    def __init__(
        self, width: int, patch: Patch, dim: int, dropout: float, enter: TokenConvolution | None = None
    ) -> None:
        super().__init__()
        self.patch, pixels = patch, patch[0] * patch[1]
        self.enter = enter
        self.before, self.after = ConvolutionBranch(width, dropout), ConvolutionBranch(width, dropout)
        self.to_tokens = nn.Linear(pixels * width, dim)
        self.from_tokens = nn.Linear(dim, pixels * width)

    @torch.no_grad()
    def reset(self) -> None:
        """Draw weights that keep the size of what they are given, and let what is made of tokens begin as nothing."""
        nn.init.normal_(self.to_tokens.weight, std=self.to_tokens.in_features**-0.5)
        nn.init.zeros_(self.from_tokens.weight)

    def tokens(
        self, features: Pixels, plane: Plane, keys: Keys | None
    ) -> tuple[Float[Tensor, "batch patch dim"], Bool[Tensor, "batch patch"] | None]:
        """Return tokens of patches, and which of these hold anything that others may see."""
        if keys is None:
            return self.to_tokens(self._cut(features, plane)), None
        seen = self._cut(keys.unsqueeze(-1).to(features.dtype), plane)
        return self.to_tokens(self._cut(features * keys.unsqueeze(-1), plane)), seen.any(dim=-1)

    def points(self, tokens: Float[Tensor, "batch patch dim"], plane: Plane) -> Pixels:
        """Return what tokens say of each point of their patches."""
        patches = self.from_tokens(tokens)
        patches = patches.view(*tokens.shape[:2], -1, self.patch[0] * self.patch[1])
        return unpatchify(patches, self.patch, plane[:2]).flatten(2).transpose(1, 2)

    def _cut(self, features: Pixels, plane: Plane) -> Float[Tensor, "batch patch feature"]:
        maps = features.reshape(len(features), *plane[:2], -1).permute(0, 3, 1, 2)
        return patchify(maps, self.patch, periodic=plane.periodic).flatten(2)


class LocalPath(LocalLevel):
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
        halfway: convolve at half the resolution as well, with twice as many features.
    """

    def __init__(self, width: int, patch: Patch, dim: int, dropout: float, *, halfway: bool = False) -> None:
        self.enter: TokenConvolution
        first, inner = ((2, 2), 2 * width) if halfway else (patch, dim)
        super().__init__(width, first, inner, dropout, TokenConvolution(width, width))
        self.middle = LocalLevel(2 * width, (patch[0] // 2, patch[1] // 2), dim, dropout) if halfway else None
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
    def begin(self, lead_time: nn.Linear) -> None:
        """Reset all levels, and draw weights of leads.

        Args:
            lead_time: the layer that embeds leads.
        """
        self.reset()
        nn.init.normal_(lead_time.weight, std=LEAD_SIZE)
        nn.init.uniform_(lead_time.bias, -LEAD_SIZE, LEAD_SIZE)
        nn.init.normal_(self.of_lead.weight, std=self.of_lead.in_features**-0.5)
        if self.middle is not None:
            self.middle.reset()

    def gain(self, lead: Float[Tensor, "batch time dim"]) -> Float[Tensor, "batch time hidden"]:
        """Return by how much the last layer's weights are multiplied at leads, from their embeddings."""
        return 1 + self.of_lead(F.gelu(lead))  # type: ignore[no-any-return]

    def down(
        self, features: Pixels, plane: Plane, keys: Keys | None, noise: Tensor | None = None
    ) -> tuple[list[Level], Float[Tensor, "batch patch dim"], Bool[Tensor, "batch patch"] | None]:
        """Return features of each level, tokens of the last, and which of these may be attended to.

        Args:
            features: of every point of a grid.
            plane: how the points lie.
            keys: which points hold anything that others may see; None for all.
            noise: embedded noise of each point.
        """
        features = self.enter(features, plane, keys)
        features = features + self.before(self._modulated(0, features, noise), plane, keys)
        levels = [(features, plane, keys)]
        tokens, seen = self.tokens(features, plane, keys)
        if self.middle is not None:
            coarser = Plane(*patch_counts(plane[:2], self.patch), plane.periodic)
            tokens = tokens + self.middle.before(tokens, coarser, seen)
            levels.append((tokens, coarser, seen))
            tokens, seen = self.middle.tokens(tokens, coarser, seen)
        return levels, tokens, seen

    def up(
        self,
        levels: list[Level],
        tokens: Float[Tensor, "batch patch dim"],
        noise: Tensor | None = None,
    ) -> Float[Tensor, "batch pixel hidden"]:
        """Return what the head takes, from the levels and what the transformer has made of their tokens."""
        if self.middle is not None:
            features, plane, keys = levels[1]
            features = features + self.middle.points(tokens, plane)
            tokens = features + self.middle.after(features, plane, keys)
        features, plane, keys = levels[0]
        features = features + self.points(tokens, plane)
        features = features + self.after(self._modulated(1, features, noise), plane, keys)
        return self._modulated(2, self.leave(features, plane, keys), noise)
