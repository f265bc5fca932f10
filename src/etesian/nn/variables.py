"""Looking back: the tokens of several times become one."""

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from etesian.nn.position import sincos


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
        age = torch.from_numpy(sincos(self.dim, hours.flatten().cpu().numpy())).to(tokens)
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
            attention, features, value_map = self._fold(pixels, streams, missing)
            weighted = (attention.unsqueeze(-1) * features).flatten(2)
        mixed = weighted @ value_map
        value_bias = self.in_proj_bias.chunk(3)[2]
        if missing is None and self.missing_weight is not None:
            # Every parameter has a gradient whatever a process's samples hold, or processes would wait for one another.
            value_bias = value_bias + 0 * self.missing_weight.sum()
        tokens = self.out_proj(mixed.transpose(0, 1).flatten(1) + value_bias)
        return tokens.reshape(*pixels.shape[:2], -1)  # type: ignore[no-any-return]

    def _fold(
        self, pixels: Tensor, streams: Tensor, missing: Tensor | None
    ) -> tuple[
        Float[Tensor, "head place stream"],
        Float[Tensor, "place stream feature"],
        Float[Tensor, "head stream_feature dim_head"],
    ]:
        """Return attention weights, the pixels with a constant 1 behind them, and the map from those to values."""
        pixels = pixels.to(self.token_weight.dtype)
        bias = (self.token_bias + self.variable_embed).unsqueeze(-1)
        embedding, parts = [self.token_weight, bias], [pixels, torch.ones_like(pixels[..., :1])]
        if missing is not None and self.missing_weight is not None:
            embedding.append(self.missing_weight)
            parts.append(missing.to(pixels.dtype))
        token_map = torch.cat(embedding, dim=-1).index_select(0, streams)
        features = torch.cat(parts, dim=-1).flatten(0, 1)

        query_weight, key_weight, value_weight = self.in_proj_weight.view(3, self.heads, -1, self.query.shape[0])
        query_bias = self.in_proj_bias.chunk(3)[0].view(self.heads, -1)
        query = (query_weight @ self.query + query_bias) * query_bias.shape[-1] ** -0.5
        score_map = torch.einsum("hk,hkd,sdf->sfh", query, key_weight, token_map)
        scores = torch.einsum("nsf,sfh->hns", features, score_map)
        if missing is not None and self.missing_weight is not None:
            absent = missing.flatten(0, 1).amin(dim=-1) > 0
            # Scores stay finite, so that a place with nothing at all has no NaN in its gradient.
            attention = scores.masked_fill(absent, torch.finfo(scores.dtype).min).softmax(dim=-1) * ~absent
        else:
            attention = scores.softmax(dim=-1)
        value_map = torch.einsum("hkd,sdf->hsfk", value_weight, token_map).flatten(1, 2)
        return attention, features, value_map
