"""Looking back: the tokens of several times become one."""

import torch
from jaxtyping import Bool, Float
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
