"""Neighbourhood attention on a globe: every place attends to a full window around it.

The windows of Hassani et al. (arXiv 2204.07143): near an edge a window is shifted inward rather than cut. Here the
axes are depth, latitude and longitude, of which the last one closes the circle.
"""

import importlib
import importlib.util
import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int, Num
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.attention import flex_attention as flex

from etesian.core.device import at_once, sent

Heads = Float[Tensor, "batch depth lat lon head dim"]

Box = tuple[slice, slice, slice]

_TILE_LENGTHS = (1, 2, 3, 4, 6, 8, 12, 16)

_TILE_OVERHEAD = 48
"""Work of a tile beside its products, in queries: most of it is copying keys."""


@dataclass(frozen=True)
class Axis:
    """One axis of the tokens and the window along it.

    Attributes:
        size: number of tokens.
        window: number of keys that a query sees, at most `size`.
        periodic: whether the last token is followed by the first.
    """

    size: int
    window: int
    periodic: bool

    def contains(self, query: Int[Tensor, "*shape"], key: Int[Tensor, "*other"]) -> Bool[Tensor, "*together"]:
        """Return whether keys lie in the windows of queries, given by position.

        A window begins `window // 2` before its query, but on a bounded axis never outside.
        """
        if self.periodic:
            return (key - query + self.window // 2) % self.size < self.window
        start = (query - self.window // 2).clamp(0, self.size - self.window)
        return (key >= start) & (key < start + self.window)

    def span(self, first: int, last: int) -> tuple[int, int]:
        """Return from where to where the windows of a run of queries reach on a bounded axis."""
        start, stop = (min(max(i - self.window // 2, 0), self.size - self.window) for i in (first, last))
        return start, stop + self.window

    def fit(self, tile: int) -> int:
        """Return the length of a tile, the whole axis where the windows of a tile would cover it anyway."""
        return tile if tile + self.window - 1 < self.size else self.size

    def union(self, tile: int) -> int:
        """Return how many keys the windows of a tile of queries cover."""
        return min(tile + self.window - 1, self.size)


Along = tuple[Axis, Axis, Axis]

Shape = tuple[int, int, int]

Window = tuple[int, int, int]

Backend = Literal["tiled", "flex", "natten"]

_FLEX_BLOCK = 128

_CODE_BITS, _CODE_BITS_SHORT = 62, 31
"""Of a long and of a short integer, without one for what is padded."""

_FLEX_HEADS = (16, 32, 64, 128, 256)

_MOST_WINDOWS = 64
"""Kernels that a process may compile: one for each shape of the tokens with its window, in training and out of it."""


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
    return "natten" if within and natten_has_kernels() else "flex"


@lru_cache
def natten_has_kernels() -> bool:
    """Return whether NATTEN is there with its kernels for GPUs: its plain package comes without them."""
    if importlib.util.find_spec("natten") is None:
        return False
    return bool(getattr(importlib.import_module("natten"), "HAS_LIBNATTEN", False))


def tiled_attention(query: Heads, key: Heads, value: Heads, along: Along) -> Heads:
    """Attend in dense tiles: the queries of a tile share the union of their windows as keys, with a mask.

    A tile is a box of queries over (depth, latitude, longitude). Gathering the window of every query would copy each
    key hundreds of times; gathering the union once per tile copies it a few times, and leaves plain matrix products.
    Keys are gathered for one row of tiles at a time, and gathered again in the backward pass instead of being kept, so
    that the memory beyond inputs and outputs is that of one row.
    """
    return _Tiled.apply(query, key, value, along)  # type: ignore[no-any-return, no-untyped-call]


@lru_cache
def choose_tile(along: Along) -> tuple[int, int, int]:
    """Return the tile with the least work: products of queries with keys, and copies of the keys of every tile."""

    def work(tile: tuple[int, ...]) -> float:
        counts = [math.ceil(axis.size / length) for axis, length in zip(along, tile, strict=True)]
        keys = math.prod(axis.union(length) for axis, length in zip(along, tile, strict=True))
        queries = along[0].size * along[1].size * counts[2] * tile[2]
        return keys * (queries + _TILE_OVERHEAD * math.prod(counts))

    lengths = [sorted({axis.fit(length) for length in _TILE_LENGTHS}) for axis in along]
    depth, lat, lon = min(itertools.product(*lengths), key=work)
    return depth, lat, lon


class _Rows:
    """The rows of tiles, in depth and latitude, and how longitudes are cut into tiles within each."""

    def __init__(self, along: Along) -> None:
        self.depth, self.lat, self.lon = along
        self.tile = choose_tile(along)
        self.count = math.ceil(self.lon.size / self.tile[2])
        self.keys = self.lon.union(self.tile[2])
        self.before = 0 if self.keys == self.lon.size else self.lon.window // 2

    def __iter__(self) -> Iterator[tuple[Box, Box]]:
        """Give the slices of queries and of keys of each row."""
        for first, top in itertools.product(
            range(0, self.depth.size, self.tile[0]), range(0, self.lat.size, self.tile[1])
        ):
            deepest, bottom = min(first + self.tile[0], self.depth.size), min(top + self.tile[1], self.lat.size)
            seen = slice(*self.depth.span(first, deepest - 1)), slice(*self.lat.span(top, bottom - 1))
            yield (slice(None), slice(first, deepest), slice(top, bottom)), (slice(None), *seen)

    def mask(self, queries: Box, keys: Box, like: Tensor) -> Tensor | None:
        """Return which keys of a tile each of its queries sees, None if all, the same for all tiles of a row."""
        with at_once():
            parts = [
                axis.contains(torch.arange(asked.start, asked.stop)[:, None], torch.arange(seen.start, seen.stop)[None])
                for axis, asked, seen in zip((self.depth, self.lat), queries[1:], keys[1:], strict=True)
            ]
            parts.append(self.lon.contains(torch.arange(self.tile[2])[:, None], torch.arange(self.keys) - self.before))
            if all(bool(part.all()) for part in parts):
                return None
            depth, lat, lon = parts
            whole = depth[:, None, None, :, None, None] & lat[:, None, None, :, None] & lon[:, None, None, :]
        return sent(whole.flatten(3).flatten(0, 2), like)

    def cut_queries(self, row: Tensor) -> Float[Tensor, "tile head query dim"]:
        """Cut a row into tiles, padded with zeros behind the last longitude."""
        padded = F.pad(row, (0, 0, 0, 0, 0, self.count * self.tile[2] - self.lon.size))
        tiles = torch.unflatten(padded, 3, (self.count, self.tile[2])).permute(0, 3, 5, 1, 2, 4, 6)
        return tiles.reshape(-1, tiles.shape[2], math.prod(tiles.shape[3:6]), tiles.shape[6])

    def join_queries(self, tiles: Float[Tensor, "tile head query dim"], like: Tensor) -> Tensor:
        """Put tiles together into a row of the shape of another, without what was padded."""
        batch, depth, lat, _, heads, dim = like.shape
        whole = tiles.reshape(batch, self.count, heads, depth, lat, self.tile[2], dim).permute(0, 3, 4, 1, 5, 2, 6)
        return whole.flatten(3, 4)[:, :, :, : self.lon.size]

    def cut_keys(self, row: Tensor) -> Float[Tensor, "tile head key dim"]:
        """Gather the keys of every tile of a row."""
        if self.count > 1:
            positions = torch.arange((self.count - 1) * self.tile[2] + self.keys, device=row.device) - self.before
            row = row.index_select(3, positions % self.lon.size)
        tiles = row.unfold(3, self.keys, self.tile[2]).permute(0, 3, 4, 1, 2, 6, 5)
        return tiles.reshape(-1, tiles.shape[2], math.prod(tiles.shape[3:6]), tiles.shape[6])

    def add_keys(self, tiles: Float[Tensor, "tile head key dim"], row: Tensor) -> None:
        """Add the gradient of gathered keys to that of the row they came from."""
        batch, depth, lat, size, heads, dim = row.shape
        cells = tiles.reshape(batch, self.count, heads, depth, lat, self.keys, dim).permute(0, 3, 4, 1, 5, 2, 6)
        if self.count == 1:
            row += cells[:, :, :, 0]
            return
        # The same stretch of all tiles together is one contiguous run of longitudes.
        step = self.tile[2]
        length = self.count * step + math.ceil(self.keys / step) * step
        turns = math.ceil(length / size)
        unrolled = row.new_zeros(batch, depth, lat, turns * size, heads, dim)
        for start in range(0, self.keys, step):
            part = cells[:, :, :, :, start : start + step]
            run = torch.unflatten(unrolled[:, :, :, start : start + self.count * step], 3, (self.count, step))
            run[:, :, :, :, : part.shape[4]] += part
        row += torch.unflatten(unrolled, 3, (turns, size)).sum(3).roll(-self.before, 3)


class _Tiled(torch.autograd.Function):
    """Attention over rows of tiles; only queries, keys and values are kept for the backward pass."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, along: Along) -> Tensor:
        ctx.save_for_backward(query, key, value)
        ctx.rows = rows = _Rows(along)
        answer = torch.empty_like(query)
        for here, seen in rows:
            parts = rows.cut_queries(query[here]), rows.cut_keys(key[seen]), rows.cut_keys(value[seen])
            mixed = F.scaled_dot_product_attention(*parts, attn_mask=rows.mask(here, seen, query))
            answer[here] = rows.join_queries(mixed, query[here])
        return answer

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        query, key, value = ctx.saved_tensors
        rows: _Rows = ctx.rows
        wide = torch.float64 if query.dtype == torch.float64 else torch.float32
        to_query = torch.empty_like(query)
        to_key, to_value = (torch.zeros_like(x, dtype=wide) for x in (key, value))
        for here, seen in rows:
            parts = [rows.cut_queries(query[here]), rows.cut_keys(key[seen]), rows.cut_keys(value[seen])]
            with torch.enable_grad():
                q, k, v = leaves = [part.detach().requires_grad_() for part in parts]
                mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=rows.mask(here, seen, query))
            found = torch.autograd.grad(mixed, leaves, rows.cut_queries(gradient[here]))
            to_query[here] = rows.join_queries(found[0], query[here])
            rows.add_keys(found[1], to_key[seen])
            rows.add_keys(found[2], to_value[seen])
        return to_query, to_key.to(key.dtype), to_value.to(value.dtype), None


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
    sorted_ = [order.sort(x) for x in (query, key, value)]
    if not query.is_cuda or torch.compiler.is_compiling():
        attend: Any = flex.flex_attention
        return order.restore(attend(*sorted_, block_mask=order.mask))
    for tensor in sorted_:
        # Batches differ in size, above all in a forecast's first and last; each size would be compiled for itself.
        torch._dynamo.maybe_mark_dynamic(tensor, 0)
    with torch._dynamo.config.patch(recompile_limit=_MOST_WINDOWS):
        return order.restore(_compiled_flex()(*sorted_, block_mask=order.mask))


@lru_cache
def _compiled_flex() -> Any:
    # Whole or not at all: what is not compiled falls back to scores of every query with every key, without a word.
    return torch.compile(flex.flex_attention, fullgraph=True)


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
        self.codes = self._codes() if device.type == "cuda" else None
        sees = self.sees if self.codes is None else self.sees_by_codes
        self.mask = flex.BlockMask.from_kv_blocks(number, index, BLOCK_SIZE=_FLEX_BLOCK, mask_mod=sees)

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

    def sees_by_codes(self, batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        """Return the same as `sees` where a block of keys is visited at all, by one comparison."""
        assert self.codes is not None
        needs, lacks = self.codes
        return (needs[key] & lacks[query]) == 0

    def _codes(self) -> tuple[Int[Tensor, " token"], Int[Tensor, " token"]] | None:
        """Return a bit that each key needs for its place on each axis, and those that each query lacks.

        A place has the bit of its residue, by as few residues as tell the keys in a window from the others in the
        blocks that are visited. None where they are more than a number has bits.
        """
        needs = torch.zeros_like(self.positions[0])
        has, used = torch.zeros_like(needs), 0
        for axis, place, length in zip(self.along, self.positions, self.box, strict=True):
            residues = residues_needed(axis, length)
            if used + residues > _CODE_BITS:
                return None
            needs |= torch.where(place < axis.size, 1 << (used + place % residues), 0)
            start = place - axis.window // 2
            if not axis.periodic:
                start = start.clamp(0, axis.size - axis.window)
            for step in range(axis.window):
                key = (start + step) % axis.size if axis.periodic else start + step
                has |= 1 << (used + key % residues)
            used += residues
        # Nobody has what a padded key needs.
        needs = torch.where(self.inside, needs, 1 << used)
        return (needs.int(), (~has).int()) if used <= _CODE_BITS_SHORT else (needs, ~has)


def residues_needed(axis: Axis, length: int) -> int:
    """Return the least number of residues by which keys in a window are told from others in the blocks visited.

    Args:
        axis: along which.
        length: of a block on it.
    """
    blocks = blocks_seen(axis, length)
    place = torch.arange(len(blocks) * length)
    inside = place < axis.size
    within = axis.contains(place[:, None], place[None]) & inside[:, None] & inside
    visited = blocks.repeat_interleave(length, 0).repeat_interleave(length, 1)
    outside = visited & ~within & inside[:, None] & inside
    for residues in range(1, axis.size):
        if axis.periodic and axis.size % residues:
            continue
        own = F.one_hot(place % residues, residues).float()
        held = (within.float() @ own > 0).float()
        if not bool((held @ own.T > 0)[outside].any()):
            return residues
    return axis.size


def blocks_seen(axis: Axis, length: int) -> Bool[Tensor, "query_block key_block"]:
    """Return which stretches of an axis hold a key that a query of another stretch attends to."""
    count = math.ceil(axis.size / length)
    place = torch.arange(count * length)
    inside = place < axis.size
    seen = axis.contains(place[:, None], place[None]) & inside[:, None] & inside
    return seen.view(count, length, count, length).any(3).any(1)
