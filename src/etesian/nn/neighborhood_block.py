"""Attention to neighbours as layers of a network, and transformer blocks of it that noise may have a say in."""

from jaxtyping import Float
from torch import Tensor, nn

from etesian.nn.attention import Mlp
from etesian.nn.dropout import Dropout
from etesian.nn.neighborhood import Window, neighborhood_attention
from etesian.nn.noise import Modulation, Places
from etesian.nn.tokens import rotate


class NeighborhoodAttention(nn.Module):
    """Multi-head self-attention of every token to the window around it.

    Args:
        dim: width of a token.
        heads: number of heads, a divisor of `dim`.
        window: keys in depth, latitude and longitude.
        rotary: whether queries and keys are turned by their position (`rotate`), so that scores know distances.
        dropout: share of the output that is dropped in training.

    Raises:
        ValueError: if the heads do not divide the width.
    """

    def __init__(self, dim: int, heads: int, window: Window, *, rotary: bool = True, dropout: float = 0.0) -> None:
        super().__init__()
        if dim % heads:
            raise ValueError(f"{heads} heads do not divide a width of {dim}")
        self.heads, self.window, self.rotary = heads, window, rotary
        self.qkv = nn.Linear(dim, 3 * dim)
        self.out = nn.Linear(dim, dim)
        self.dropout = Dropout(dropout)

    def forward(self, tokens: Float[Tensor, "batch depth lat lon dim"]) -> Float[Tensor, "batch depth lat lon dim"]:
        """Let every token attend to its neighbours."""
        query, key, value = self.qkv(tokens).unflatten(-1, (3, self.heads, -1)).unbind(-3)
        if self.rotary:
            query, key = rotate(query), rotate(key)
        return self.dropout(self.out(neighborhood_attention(query, key, value, self.window).flatten(-2)))  # type: ignore[no-any-return]


class NeighborhoodBlock(nn.Module):
    """Pre-norm transformer block: neighbourhood attention, then an MLP, each on a residual branch.

    Args:
        dim: width of a token.
        heads: number of attention heads.
        window: keys in depth, latitude and longitude.
        mlp_ratio: hidden width of the MLP over `dim`.
        rotary: whether attention knows distances.
        dropout: share dropped behind the attention and inside and behind the MLP.
    """

    def __init__(
        self,
        dim: int,
        heads: int,
        window: Window,
        mlp_ratio: float = 4.0,
        *,
        rotary: bool = True,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim)
        self.attention = NeighborhoodAttention(dim, heads, window, rotary=rotary, dropout=dropout)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = Mlp(dim, int(dim * mlp_ratio), dropout)
        self.modulations: nn.ModuleList | None = None

    def accept_noise(self) -> None:
        """Let noise scale and shift what comes out of both norms."""
        self.modulations = nn.ModuleList(Modulation(norm.normalized_shape[0]) for norm in (self.norm1, self.norm2))

    def forward(
        self, tokens: Float[Tensor, "batch depth lat lon dim"], noise: Places | None = None
    ) -> Float[Tensor, "batch depth lat lon dim"]:
        """Transform tokens.

        Args:
            tokens: of all places.
            noise: embedded noise of each place, the same at all depths, for a block that accepts it.
        """
        noise = None if noise is None else noise.unsqueeze(1)
        tokens = tokens + self.attention(self._normed(0, tokens, noise))
        return tokens + self.mlp(self._normed(1, tokens, noise).flatten(1, 3)).view_as(tokens)  # type: ignore[no-any-return]

    def _normed(self, number: int, tokens: Tensor, noise: Tensor | None) -> Tensor:
        """Return what one of the norms makes of tokens."""
        normed: Tensor = (self.norm1, self.norm2)[number](tokens)
        return normed if self.modulations is None else self.modulations[number](normed, noise)


class NeighborhoodBlocks(nn.Sequential):
    """Transformer blocks one behind the other, of which each is given the noise."""

    def forward(
        self, tokens: Float[Tensor, "batch depth lat lon dim"], noise: Places | None = None
    ) -> Float[Tensor, "batch depth lat lon dim"]:
        """Transform tokens; see `NeighborhoodBlock.forward`."""
        for block in self:
            tokens = block(tokens, noise)
        return tokens
