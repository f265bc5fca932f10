"""Self-attention and the transformer block that the networks are stacked from."""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from etesian.nn.dropout import Dropout, DropPath


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
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=mask).transpose(1, 2).flatten(2)
        answer = self.out(mixed)
        if self.lora_out is not None:
            answer = answer + self.lora_out(mixed)
        return self.dropout(answer)  # type: ignore[no-any-return]


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
    """

    def __init__(
        self,
        dim: int,
        heads: int,
        mlp_ratio: float = 4.0,
        dropout: float = 0.0,
        drop_path: float = 0.0,
        lora_rank: int = 0,
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim)
        self.attention = SelfAttention(dim, heads, dropout, lora_rank)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = Mlp(dim, int(dim * mlp_ratio), dropout)
        self.drop_path = DropPath(drop_path)

    def forward(
        self, tokens: Float[Tensor, "batch token dim"], keys: Bool[Tensor, "batch token"] | None = None
    ) -> Float[Tensor, "batch token dim"]:
        """Transform tokens; they attend to all, or to those that are keys."""
        tokens = tokens + self.drop_path(self.attention(self.norm1(tokens), keys))
        return tokens + self.drop_path(self.mlp(self.norm2(tokens)))  # type: ignore[no-any-return]


def initialise_linear(module: nn.Module) -> None:
    """Draw the weights of linear layers from a normal distribution of deviation 0.02, with zero bias."""
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
