"""Self-attention and the transformer block that the networks are stacked from."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from etesian.nn.dropout import Dropout, DropPath


class SelfAttention(nn.Module):
    """Multi-head self-attention over tokens.

    Args:
        dim: width of a token.
        heads: number of heads, a divisor of `dim`.
        dropout: share of the output that is dropped in training.

    Raises:
        ValueError: if the heads do not divide the width.
    """

    def __init__(self, dim: int, heads: int, dropout: float = 0.0) -> None:
        super().__init__()
        if dim % heads:
            raise ValueError(f"{heads} heads do not divide a width of {dim}")
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.out = nn.Linear(dim, dim)
        self.dropout = Dropout(dropout)

    def forward(self, tokens: Float[Tensor, "batch token dim"]) -> Float[Tensor, "batch token dim"]:
        """Let every token attend to every other."""
        query, key, value = self.qkv(tokens).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(query, key, value)
        return self.dropout(self.out(mixed.transpose(1, 2).flatten(2)))  # type: ignore[no-any-return]


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
    """

    def __init__(
        self, dim: int, heads: int, mlp_ratio: float = 4.0, dropout: float = 0.0, drop_path: float = 0.0
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim)
        self.attention = SelfAttention(dim, heads, dropout)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = Mlp(dim, int(dim * mlp_ratio), dropout)
        self.drop_path = DropPath(drop_path)

    def forward(self, tokens: Float[Tensor, "batch token dim"]) -> Float[Tensor, "batch token dim"]:
        """Transform tokens."""
        tokens = tokens + self.drop_path(self.attention(self.norm1(tokens)))
        return tokens + self.drop_path(self.mlp(self.norm2(tokens)))  # type: ignore[no-any-return]


def initialise_linear(module: nn.Module) -> None:
    """Draw the weights of linear layers from a normal distribution of deviation 0.02, with zero bias."""
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
