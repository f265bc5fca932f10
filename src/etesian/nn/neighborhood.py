"""Neighbourhood attention on a globe: every place attends to a full window around it.

The windows of Hassani et al. (arXiv 2204.07143): near an edge a window is shifted inward rather than cut. Here the
axes are depth, latitude and longitude, of which the last one closes the circle.
"""

import importlib
import importlib.util
import math
from functools import lru_cache
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Num
from torch import Tensor, nn
from torch.nn.attention import flex_attention as flex

from etesian.nn.attention import Mlp
from etesian.nn.dropout import Dropout
from etesian.nn.neighborhood_tiles import Along, Axis, Heads, tiled_attention
from etesian.nn.tokens import rotate

Shape = tuple[int, int, int]

Window = tuple[int, int, int]

Backend = Literal["tiled", "flex", "natten"]

_FLEX_BLOCK = 128

_FLEX_HEADS = (16, 32, 64, 128, 256)


def axes(shape: Shape, window: Window) -> Along:
    """Return the axes of tokens on (depth, latitude, longitude) for a window.

    Raises:
        ValueError: if the window is empty.
    """
    if min(window) < 1:
        raise ValueError(f"a window of {window} holds no key")
    depth, lat, lon = (Axis(n, min(w, n), i == 2) for i, (n, w) in enumerate(zip(shape, window, strict=True)))
    return depth, lat, lon


def neighborhood_attention(query: Heads, key: Heads, value: Heads, window: Window) -> Heads:
    """Let every query attend to the keys in the window around it.

    Windows are shifted inward at the edges of depth and latitude and are periodic in longitude. An even window reaches
    one further to the lower side. A window longer than an axis means the whole axis, each key once.

    Args:
        query: scaled by the inverse root of the head's size, as usual.
        key: of the same shape.
        value: of the same shape.
        window: keys in depth, latitude and longitude.

    Raises:
        ValueError: if the shapes differ or the window is empty.
    """
    if not query.shape == key.shape == value.shape:
        raise ValueError(f"query, key and value differ in shape: {[tuple(x.shape) for x in (query, key, value)]}")
    depth, lat, lon = query.shape[1:4]
    along = axes((depth, lat, lon), window)
    backend = choose_backend(query.device.type, query.dtype, query.shape[-1], (depth, lat, lon), window)
    compute = {"tiled": tiled_attention, "flex": flex_attention, "natten": natten_attention}[backend]
    return compute(query, key, value, along)


def choose_backend(device: str, dtype: torch.dtype, head_dim: int, shape: Shape, window: Window) -> Backend:
    """Return how attention is computed: NATTEN or FlexAttention on CUDA where they are able to, else in dense tiles."""
    if device != "cuda" or dtype == torch.float64 or head_dim not in _FLEX_HEADS:
        return "tiled"
    within = all(1 < w <= n for w, n in zip(window, shape, strict=True))
    return "natten" if within and importlib.util.find_spec("natten") else "flex"


def natten_attention(query: Heads, key: Heads, value: Heads, along: Along) -> Heads:
    """Attend with NATTEN, on a copy that is padded in longitude for the time of the call."""
    na3d: Any = importlib.import_module("natten").na3d
    size, window = along[2].size, along[2].window
    around = (torch.arange(size + window - 1, device=query.device) - window // 2) % size
    padded = (x.index_select(3, around) for x in (query, key, value))
    mixed: Tensor = na3d(*padded, kernel_size=tuple(axis.window for axis in along))
    return mixed[:, :, :, window // 2 : window // 2 + size]


def flex_attention(query: Heads, key: Heads, value: Heads, along: Along) -> Heads:
    """Attend with FlexAttention, compiled on CUDA, over tokens in blocks of nearby ones."""
    order = block_order(along, query.device)
    attend: Any = _compiled_flex() if query.is_cuda else flex.flex_attention
    mixed = attend(*(order.sort(x) for x in (query, key, value)), block_mask=order.mask)
    return order.restore(mixed)


@lru_cache
def _compiled_flex() -> Any:
    return torch.compile(flex.flex_attention, dynamic=False)


@lru_cache(maxsize=32)
def block_order(along: Along, device: torch.device) -> "BlockOrder":
    """Return the order of tokens for FlexAttention, kept because the choice of blocks costs time."""
    # What is kept must serve in training too, also where it is first needed in validation.
    with torch.inference_mode(False):
        return BlockOrder(along, device)


class BlockOrder:
    """An order of tokens in which every 128 of them make up a box, and the mask that goes with it.

    Axes are padded to whole boxes; no window holds a padded key. Among boxes, the one is taken for which the fewest
    pairs of blocks have a query and a key in its window.

    Args:
        along: the axes.
        device: where the mask is needed.
    """

    def __init__(self, along: Along, device: torch.device) -> None:
        powers = [2**i for i in range(_FLEX_BLOCK.bit_length())]
        boxes = [(a, b, _FLEX_BLOCK // (a * b)) for a in powers for b in powers if a * b <= _FLEX_BLOCK]

        def pairs(box: Shape) -> int:
            return math.prod(int(blocks_seen(axis, n).sum()) for axis, n in zip(along, box, strict=True))

        self.along, self.box = along, min(boxes, key=pairs)
        depth, lat, lon = (blocks_seen(axis, n).to(device) for axis, n in zip(along, self.box, strict=True))
        self.counts = (len(depth), len(lat), len(lon))
        seen = depth[:, None, None, :, None, None] & lat[:, None, None, :, None] & lon[:, None, None, :]
        self.blocks = seen.flatten(3).flatten(0, 2)
        sizes = [count * n for count, n in zip(self.counts, self.box, strict=True)]
        positions = torch.meshgrid(*(torch.arange(n, device=device) for n in sizes), indexing="ij")
        self.positions = [self.sort(p[None, ..., None, None]).flatten() for p in positions]
        self.inside = torch.stack([p < a.size for p, a in zip(self.positions, along, strict=True)]).all(0)
        number = self.blocks.sum(-1, dtype=torch.int32)[None, None]
        index = self.blocks.int().argsort(dim=-1, descending=True, stable=True).int()[None, None]
        self.mask = flex.BlockMask.from_kv_blocks(number, index, BLOCK_SIZE=_FLEX_BLOCK, mask_mod=self.sees)

    def sort(self, values: Num[Tensor, "batch depth lat lon head dim"]) -> Num[Tensor, "batch head token dim"]:
        """Pad the axes and put the tokens into blocks."""
        sizes = [count * n for count, n in zip(self.counts, self.box, strict=True)]
        missing = [whole - n for whole, n in zip(sizes, values.shape[1:4], strict=True)]
        padded = F.pad(values, (0, 0, 0, 0, 0, missing[2], 0, missing[1], 0, missing[0]))
        (a, b, c), (x, y, z) = self.counts, self.box
        cells = padded.reshape(len(values), a, x, b, y, c, z, *values.shape[4:])
        return cells.permute(0, 7, 1, 3, 5, 2, 4, 6, 8).flatten(2, 7)

    def restore(self, tokens: Float[Tensor, "batch head token dim"]) -> Heads:
        """Put the tokens back onto the axes, without what was padded."""
        cells = torch.unflatten(tokens, 2, (*self.counts, *self.box)).permute(0, 2, 5, 3, 6, 4, 7, 1, 8)
        depth, lat, lon = (axis.size for axis in self.along)
        return cells.flatten(5, 6).flatten(3, 4).flatten(1, 2)[:, :depth, :lat, :lon]

    def sees(self, batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        """Return whether the key lies in the window of the query, for numbers in this order."""
        seen = self.inside[key]
        for axis, place in zip(self.along, self.positions, strict=True):
            seen = seen & axis.contains(place[query], place[key])
        return seen


def blocks_seen(axis: Axis, length: int) -> Bool[Tensor, "query_block key_block"]:
    """Return which stretches of an axis hold a key that a query of another stretch attends to."""
    count = math.ceil(axis.size / length)
    place = torch.arange(count * length)
    inside = place < axis.size
    seen = axis.contains(place[:, None], place[None]) & inside[:, None] & inside
    return seen.view(count, length, count, length).any(3).any(1)


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

    def forward(self, tokens: Float[Tensor, "batch depth lat lon dim"]) -> Float[Tensor, "batch depth lat lon dim"]:
        """Transform tokens."""
        tokens = tokens + self.attention(self.norm1(tokens))
        return tokens + self.mlp(self.norm2(tokens).flatten(1, 3)).view_as(tokens)  # type: ignore[no-any-return]
