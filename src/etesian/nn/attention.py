"""Attention: the block that transformers are stacked from, and the aggregation of several tokens into one."""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from etesian.core.device import sent
from etesian.nn.convolution import ConvolutionBranch, Plane
from etesian.nn.dropout import Dropout, DropPath
from etesian.nn.noise import Modulation
from etesian.nn.tokens import sincos

_WIDE_HEAD, _MANY_TOKENS = 64, 192
"""From which on a CPU's attention takes no longer in half precision than in single, backward pass included."""


class LowRank(nn.Module):
    """A linear map of low rank without bias that begins as zero (Hu et al. 2021, arXiv 2106.09685)."""

    def __init__(self, given: int, width: int, rank: int) -> None:
        super().__init__()
        self.down = nn.Linear(given, rank, bias=False)
        self.up = nn.Linear(rank, width, bias=False)
        self.reset()

    def reset(self) -> None:
        """Begin as zero."""
        nn.init.kaiming_uniform_(self.down.weight, a=5**0.5)
        nn.init.zeros_(self.up.weight)

    def forward(self, tokens: Float[Tensor, "*token given"]) -> Float[Tensor, "*token width"]:
        """Map tokens."""
        return self.up(self.down(tokens))  # type: ignore[no-any-return]


class SelfAttention(nn.Module):
    """Multi-head self-attention over tokens.

    Args:
        dim: width of a token.
        heads: number of heads, a divisor of `dim`.
        dropout: share of the output that is dropped in training.
        lora_rank: rank of an addition to both linear maps; 0 for none.

    Raises:
        ValueError: if the heads do not divide the width.
    """

    def __init__(self, dim: int, heads: int, dropout: float = 0.0, lora_rank: int = 0) -> None:
        super().__init__()
        if dim % heads:
            raise ValueError(f"{heads} heads do not divide a width of {dim}")
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.out = nn.Linear(dim, dim)
        self.lora_qkv = LowRank(dim, 3 * dim, lora_rank) if lora_rank else None
        self.lora_out = LowRank(dim, dim, lora_rank) if lora_rank else None
        self.dropout = Dropout(dropout)

    def forward(
        self, tokens: Float[Tensor, "batch token dim"], keys: Bool[Tensor, "batch token"] | None = None
    ) -> Float[Tensor, "batch token dim"]:
        """Let every token attend to every other, or to those that are keys."""
        projected = self.qkv(tokens)
        if self.lora_qkv is not None:
            projected = projected + self.lora_qkv(tokens)
        query, key, value = projected.unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        mask = None if keys is None else keys[:, None, None, :]
        if self._computes_wide(query):
            with torch.autocast("cpu", enabled=False):
                wide = F.scaled_dot_product_attention(query.float(), key.float(), value.float(), attn_mask=mask)
                mixed = wide.to(projected.dtype)
        else:
            mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        mixed = mixed.transpose(1, 2).flatten(2)
        answer = self.out(mixed)
        if self.lora_out is not None:
            answer = answer + self.lora_out(mixed)
        return self.dropout(answer)  # type: ignore[no-any-return]

    @staticmethod
    def _computes_wide(query: Float[Tensor, "batch head token width"]) -> bool:
        """Return whether single precision is faster: on a CPU, for the backward pass of narrow heads or few tokens."""
        if query.device.type != "cpu" or query.dtype != torch.bfloat16 or not torch.is_grad_enabled():
            return False
        return query.shape[-1] < _WIDE_HEAD or query.shape[-2] < _MANY_TOKENS


class Mlp(nn.Module):
    """Two linear layers with a GELU between them.

    Args:
        dim: width of a token.
        hidden: width between the layers.
        dropout: share of activations dropped behind each layer in training.
    """

    def __init__(self, dim: int, hidden: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.expand = nn.Linear(dim, hidden)
        self.contract = nn.Linear(hidden, dim)
        self.dropout = Dropout(dropout)

    def forward(self, tokens: Float[Tensor, "batch token dim"]) -> Float[Tensor, "batch token dim"]:
        """Transform each token by itself."""
        hidden = self.expand(tokens)
        if torch.is_grad_enabled():
            # The activated hidden layer is computed twice rather than kept: it is the largest tensor of a block, and
            # the recomputation stops before the matrix product.
            return self.dropout(checkpoint(self._activate_and_contract, hidden, use_reentrant=False))  # type: ignore[no-any-return]
        return self.dropout(self._activate_and_contract(hidden))  # type: ignore[no-any-return]

    def _activate_and_contract(self, hidden: Tensor) -> Tensor:
        return self.contract(self.dropout(F.gelu(hidden)))  # type: ignore[no-any-return]


class TransformerBlock(nn.Module):
    """Pre-norm transformer block: attention, then an MLP, each on a residual branch.

    Args:
        dim: width of a token.
        heads: number of attention heads.
        mlp_ratio: hidden width of the MLP over `dim`.
        dropout: share dropped behind the attention and inside and behind the MLP.
        drop_path: share of samples that skip a branch.
        lora_rank: rank of an addition to the attention's linear maps; 0 for none.
        convolution: whether tokens are convolved with their neighbours first, on a residual branch of its own.
    """

    def __init__(
        self,
        dim: int,
        heads: int,
        mlp_ratio: float = 4.0,
        dropout: float = 0.0,
        drop_path: float = 0.0,
        lora_rank: int = 0,
        *,
        convolution: bool = False,
    ) -> None:
        super().__init__()
        self.norm0 = nn.LayerNorm(dim) if convolution else None
        self.convolution = ConvolutionBranch(dim, dropout) if convolution else None
        self.norm1 = nn.LayerNorm(dim)
        self.attention = SelfAttention(dim, heads, dropout, lora_rank)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = Mlp(dim, int(dim * mlp_ratio), dropout)
        self.drop_path = DropPath(drop_path)
        self.modulations: nn.ModuleList | None = None

    def accept_noise(self) -> None:
        """Let noise scale and shift what comes out of each norm."""
        self.modulations = nn.ModuleList(
            Modulation(norm.normalized_shape[0]) for norm in (self.norm0, self.norm1, self.norm2) if norm is not None
        )

    def forward(
        self,
        tokens: Float[Tensor, "batch token dim"],
        keys: Bool[Tensor, "batch token"] | None = None,
        plane: Plane | None = None,
        noise: Float[Tensor, "batch token embedding"] | None = None,
    ) -> Float[Tensor, "batch token dim"]:
        """Transform tokens; they attend to all, or to those that are keys.

        Args:
            tokens: of all places.
            keys: which of them others may see; None for all.
            plane: how they lie, for the convolution.
            noise: embedded noise of each token, for a block that accepts it.
        """
        if self.norm0 is not None and self.convolution is not None:
            if plane is None:
                raise ValueError("a block with a convolution must be told how its tokens lie")
            tokens = tokens + self.drop_path(self.convolution(self._normed(0, tokens, noise), plane, keys))
        tokens = tokens + self.drop_path(self.attention(self._normed(-2, tokens, noise), keys))
        return tokens + self.drop_path(self.mlp(self._normed(-1, tokens, noise)))  # type: ignore[no-any-return]

    def _normed(self, number: int, tokens: Tensor, noise: Tensor | None) -> Tensor:
        """Return what one of the norms makes of tokens, counted as their modulations are."""
        norm = (self.norm0, self.norm1, self.norm2)[number]
        assert norm is not None
        normed: Tensor = norm(tokens)
        return normed if self.modulations is None else self.modulations[number](normed, noise)


def initialise_linear(module: nn.Module) -> None:
    """Draw the weights of linear layers from a normal distribution of deviation 0.02, with zero bias."""
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


class TimeAggregation(nn.Module):
    """Aggregates the tokens of each place over times by cross-attention with one learned query.

    Times are told apart by sines and cosines of their hours, so that their number and spacing may vary and the number
    of parameters does not depend on them (the neck of ClimaX's projection variant, arXiv 2301.10343).

    Args:
        dim: width of a token.
        heads: number of attention heads, a divisor of `dim`.
    """

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.dim = dim
        self.query = nn.Parameter(torch.zeros(dim))
        self.attention = nn.MultiheadAttention(dim, heads, batch_first=True)

    def forward(
        self,
        tokens: Float[Tensor, "batch patch time dim"],
        hours: Float[Tensor, "batch time"],
        present: Bool[Tensor, "batch patch time"] | None = None,
    ) -> Float[Tensor, "batch patch dim"]:
        """Return one token per place.

        Args:
            tokens: of each place at each time.
            hours: of each time before the latest one, counted up from 0.
            present: which tokens hold anything; others are left out, unless a place has no other.
        """
        batch, patches, times, _ = tokens.shape
        age = sent(sincos(self.dim, hours.flatten().cpu().numpy()), tokens)
        tokens = (tokens + age.view(batch, 1, times, -1)).flatten(0, 1)
        absent = None
        if present is not None:
            absent = (~present & present.any(dim=-1, keepdim=True)).flatten(0, 1)
        query = self.query.expand(batch * patches, 1, -1)
        mixed, _ = self.attention(query, tokens, tokens, key_padding_mask=absent, need_weights=False)
        return mixed.view(batch, patches, -1)  # type: ignore[no-any-return]


class VariableAggregation(nn.Module):
    """Embeds the patch of each variable and aggregates over variables by cross-attention with one learned query.

    ClimaX's first step (arXiv 2301.10343, section 3): patches of every variable pass their own linear map, a variable
    embedding is added, and at each place a learned query attends to the variables. The result is the same, but the
    tokens are never built. The query does not depend on the input and a token is linear in its pixels, so both the
    key projection and the query fold into one vector per variable and head that is applied to pixels; the value
    projection commutes with the sum over variables and folds into the patch embedding. The key's bias shifts all
    scores alike and cancels in the softmax.

    A stream is one input of the aggregation: a variable, or a variable at one of several input times.

    Args:
        streams: how many there are to choose from.
        pixels: points in a patch.
        dim: width of a token.
        heads: number of attention heads, a divisor of `dim`.
        validity: whether missing pixels, which enter as 0, have an embedding of their own as well.

    Raises:
        ValueError: if the heads do not divide the width.
    """

    def __init__(self, streams: int, pixels: int, dim: int, heads: int, *, validity: bool = False) -> None:
        super().__init__()
        if dim % heads:
            raise ValueError(f"{heads} heads do not divide a width of {dim}")
        self.heads = heads
        self.token_weight = nn.Parameter(nn.init.trunc_normal_(torch.empty(streams, dim, pixels), std=0.02))
        self.token_bias = nn.Parameter(torch.empty(streams, dim).uniform_(-(pixels**-0.5), pixels**-0.5))
        self.variable_embed = nn.Parameter(torch.from_numpy(sincos(dim, range(streams))).float())
        self.query = nn.Parameter(torch.zeros(dim))
        self.in_proj_weight = nn.Parameter(nn.init.xavier_uniform_(torch.empty(3 * dim, dim)))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * dim))
        self.out_proj = nn.Linear(dim, dim)
        self.missing_weight = (
            nn.Parameter(nn.init.trunc_normal_(torch.empty(streams, dim, pixels), std=0.02)) if validity else None
        )

    def forward(
        self,
        pixels: Float[Tensor, "batch patch stream pixel"],
        streams: Int64[Tensor, " stream"],
        missing: Float[Tensor, "batch patch stream pixel"] | None = None,
    ) -> Float[Tensor, "batch patch dim"]:
        """Return one token per patch.

        Args:
            pixels: values in patches, 0 where missing.
            streams: number of each given stream.
            missing: 1 where a value is missing; without an embedding for that it has no effect. Streams of which a
                patch has no value at all are left out there; where none is left, the token is the last layer's bias.
        """
        with torch.autocast(pixels.device.type, enabled=False):
            score_map, value_map = self._fold(streams, with_missing=missing is not None)
            pixels, absent = pixels.to(self.token_weight.dtype), None
            parts = [pixels, torch.ones_like(pixels[..., :1])]
            if missing is not None and self.missing_weight is not None:
                parts.append(missing.to(pixels.dtype))
                absent = missing.amin(dim=-1) > 0
        weigh = self._weigh_points if pixels.shape[-1] == 1 else self._weigh_patches
        mixed = weigh(parts, absent, score_map, value_map)
        value_bias = self.in_proj_bias.chunk(3)[2]
        if missing is None and self.missing_weight is not None:
            # Every parameter has a gradient whatever a process's samples hold, or processes would wait for one another.
            value_bias = value_bias + 0 * self.missing_weight.sum()
        return self.out_proj(mixed + value_bias)  # type: ignore[no-any-return]

    def _fold(
        self, streams: Int64[Tensor, " stream"], *, with_missing: bool
    ) -> tuple[Float[Tensor, "stream feature head"], Float[Tensor, "head stream feature dim_head"]]:
        """Return the maps to scores and to values, from pixels with a constant 1 and what is missing behind them."""
        bias = (self.token_bias + self.variable_embed).unsqueeze(-1)
        embedding = [self.token_weight, bias]
        if with_missing and self.missing_weight is not None:
            embedding.append(self.missing_weight)
        token_map = torch.cat(embedding, dim=-1).index_select(0, streams)
        query_weight, key_weight, value_weight = self.in_proj_weight.view(3, self.heads, -1, self.query.shape[0])
        query_bias = self.in_proj_bias.chunk(3)[0].view(self.heads, -1)
        query = (query_weight @ self.query + query_bias) * query_bias.shape[-1] ** -0.5
        score_map = torch.einsum("hk,hkd,sdf->sfh", query, key_weight, token_map)
        return score_map, torch.einsum("hkd,sdf->hsfk", value_weight, token_map)

    def _weigh_patches(
        self, parts: list[Tensor], absent: Bool[Tensor, "batch place stream"] | None, score: Tensor, value: Tensor
    ) -> Float[Tensor, "batch place dim"]:
        """Return the sum over streams of the values of patches, weighted by attention.

        Args:
            parts: pixels, a constant 1, and where they are missing.
            absent: streams that are left out.
            score: map of the parts to scores, see `_fold`.
            value: map of the parts to values.
        """
        batch = len(parts[0])
        with torch.autocast(parts[0].device.type, enabled=False):
            features = torch.cat(parts, dim=-1).flatten(0, 1)
            scores = torch.einsum("nsf,sfh->hns", features, score)
            attention = _attention(scores, None if absent is None else absent.flatten(0, 1), -1)
            weighted = (attention.unsqueeze(-1) * features).flatten(2)
        mixed = weighted @ value.flatten(1, 2)
        return mixed.transpose(0, 1).flatten(1).view(batch, -1, self.query.shape[0])

    def _weigh_points(
        self, parts: list[Tensor], absent: Bool[Tensor, "batch place stream"] | None, score: Tensor, value: Tensor
    ) -> Float[Tensor, "batch place dim"]:
        """Return the same for patches of one point; there are many, so places lie beside one another in memory."""
        with torch.autocast(parts[0].device.type, enabled=False):
            pixels, _, *missing = (part.squeeze(-1).transpose(1, 2).unsqueeze(1) for part in parts)
            weights = score.permute(1, 2, 0).unsqueeze(-1)
            scores = torch.addcmul(weights[1], weights[0], pixels.contiguous())
            for part in missing:
                scores = scores + weights[2] * part
            attention = _attention(scores, None if absent is None else absent.transpose(1, 2).unsqueeze(1), 2)
            weighted = torch.cat([attention * pixels, attention, *(attention * part for part in missing)], dim=2)
        mixed = value.permute(0, 3, 2, 1).flatten(2) @ weighted
        return mixed.flatten(1, 2).transpose(1, 2)


def _attention(scores: Tensor, absent: Bool[Tensor, "*shape"] | None, axis: int) -> Tensor:
    """Return weights that add up to one along an axis, none where a stream is absent."""
    if absent is None:
        return scores.softmax(dim=axis)
    # Scores stay finite, so that a place with nothing at all has no NaN in its gradient.
    return scores.masked_fill(absent, torch.finfo(scores.dtype).min).softmax(dim=axis) * ~absent
