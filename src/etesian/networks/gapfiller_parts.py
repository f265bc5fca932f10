"""The stages of the gap-filling network: pooling over days, attention over months, maps from tokens."""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from etesian.nn.attention import Mlp


class DayPooling(nn.Module):
    """Weighted means of the tokens of each place over the days of a month, with learned scores of a token.

    Works on a list of tokens rather than on all days at all places, so that days on which nothing was seen of a place
    cost nothing and have no weight.

    Args:
        dim: width of a token.
        heads: number of scores; each gives a mean, which a linear map joins if there are several.
    """

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.scorer = nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, dim), nn.GELU(), nn.Linear(dim, heads))
        self.join = nn.Linear(heads * dim, dim) if heads > 1 else nn.Identity()

    def forward(
        self, tokens: Float[Tensor, "token dim"], slot: Int64[Tensor, " token"], slots: int
    ) -> Float[Tensor, "slot dim"]:
        """Pool the tokens that share a slot; a slot without tokens gives what zeros give.

        Args:
            tokens: of a place on a day.
            slot: number of its place and month.
            slots: how many there are.
        """
        scores = self.scorer(tokens).float()
        where = slot[:, None].expand_as(scores)
        highest = scores.new_zeros(slots, scores.shape[1]).scatter_reduce(0, where, scores.detach(), "amax")
        weight = (scores - highest[slot]).exp()
        total = weight.new_zeros(highest.shape).index_add(0, slot, weight)
        weight = weight / total[slot]
        means = [
            tokens.new_zeros(slots, tokens.shape[1]).index_add(0, slot, (one[:, None] * tokens).to(tokens.dtype))
            for one in weight.unbind(1)
        ]
        return self.join(torch.cat(means, dim=1))  # type: ignore[no-any-return]


class MonthMixing(nn.Module):
    """Pre-norm transformer block over the months of each place; months in which nothing was seen of it are no keys.

    Args:
        dim: width of a token.
        heads: number of attention heads.
        mlp_ratio: hidden width of the MLP over `dim`.
    """

    def __init__(self, dim: int, heads: int, mlp_ratio: float) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.qkv, self.out = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.mlp = Mlp(dim, int(dim * mlp_ratio))

    def forward(
        self, tokens: Float[Tensor, "place month dim"], seen: Bool[Tensor, "place month"]
    ) -> Float[Tensor, "place month dim"]:
        """Let the months of a place attend to one another, each also to itself."""
        query, key, value = self.qkv(self.norm1(tokens)).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        itself = torch.eye(tokens.shape[1], dtype=torch.bool, device=tokens.device)
        mask = (seen[:, None, :] | itself)[:, None]
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=mask).transpose(1, 2).flatten(2)
        tokens = tokens + self.out(mixed)
        return tokens + self.mlp(self.norm2(tokens))  # type: ignore[no-any-return]


class MapDecoder(nn.Module):
    """Maps from tokens: a linear map, an up-convolution whose kernels overlap, and convolutions at full resolution.

    Args:
        dim: width of a token.
        patch: rows and columns that a token stands for.
        hidden: channels behind the linear map; half as many at full resolution.
        overlap: points by which a kernel reaches into the neighbouring patches.
        given: maps that are known at full resolution and enter the convolutions.
        outputs: maps that come out.
    """

    def __init__(self, dim: int, patch: tuple[int, int], hidden: int, overlap: int, given: int, outputs: int) -> None:
        super().__init__()
        self.patch, self.overlap = patch, overlap
        self.project = nn.Linear(dim, hidden)
        kernel = (patch[0] + 2 * overlap, patch[1] + 2 * overlap)
        self.spread = nn.ConvTranspose2d(hidden, hidden // 2, kernel, stride=patch)
        self.refine = self.make_refine(hidden // 2, given, outputs)

    def make_refine(self, width: int, given: int, outputs: int) -> nn.Module:
        """Return what follows the up-convolution."""
        return Refine(width, given, outputs)

    def forward(
        self,
        tokens: Float[Tensor, "map row column dim"],
        known: Float[Tensor, "map known lat lon"],
        *,
        periodic: bool,
    ) -> Float[Tensor, "map output lat lon"]:
        """Decode; on a grid that goes round the globe without a seam."""
        latent = self.project(tokens).permute(0, 3, 1, 2)
        rows, columns = (n * p for n, p in zip(latent.shape[2:], self.patch, strict=True))
        reach = -(-self.overlap // self.patch[1]) if periodic else 0
        if reach:
            latent = F.pad(latent, (reach, reach, 0, 0), mode="circular")
        left = self.overlap + reach * self.patch[1]
        fine = self.spread(latent)[:, :, self.overlap : self.overlap + rows, left : left + columns]
        return self.refine(torch.cat([fine, known.to(fine.dtype)], dim=1), periodic)  # type: ignore[no-any-return]


class Refine(nn.Module):
    """Two 3×3 convolutions on a residual branch, then a linear map that begins as zero."""

    def __init__(self, width: int, given: int, outputs: int) -> None:
        super().__init__()
        self.enter = nn.Conv2d(width + given, width, 3)
        self.again = nn.Conv2d(width, width, 3)
        self.leave = nn.Conv2d(width + given, outputs, 1)
        nn.init.zeros_(self.leave.weight)
        nn.init.zeros_(self.leave.bias)  # type: ignore[arg-type]

    def forward(self, maps: Tensor, periodic: bool) -> Tensor:
        """Convolve."""
        hidden = F.gelu(self.enter(_padded(maps, periodic)))
        hidden = hidden + F.gelu(self.again(_padded(hidden, periodic)))
        return self.leave(torch.cat([hidden, maps[:, hidden.shape[1] :]], dim=1))  # type: ignore[no-any-return]


def _padded(maps: Tensor, periodic: bool) -> Tensor:
    if not periodic:
        return F.pad(maps, (1, 1, 1, 1), mode="replicate")
    return F.pad(F.pad(maps, (1, 1, 0, 0), mode="circular"), (0, 0, 1, 1), mode="replicate")
