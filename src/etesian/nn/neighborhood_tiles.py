"""Attention in dense tiles: nearby queries share the union of their windows as keys.

A tile is a box of queries over (depth, latitude, longitude). Gathering the window of every query would copy each key
hundreds of times; gathering the union once per tile copies it a few times, and leaves plain matrix products.
"""

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

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


def tiled_attention(query: Heads, key: Heads, value: Heads, along: Along) -> Heads:
    """Attend in dense tiles: the queries of a tile share the union of their windows as keys, with a mask.

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

    def mask(self, queries: Box, keys: Box, device: torch.device) -> Tensor | None:
        """Return which keys of a tile each of its queries sees, None if all, the same for all tiles of a row."""
        parts = [
            axis.contains(torch.arange(asked.start, asked.stop)[:, None], torch.arange(seen.start, seen.stop)[None])
            for axis, asked, seen in zip((self.depth, self.lat), queries[1:], keys[1:], strict=True)
        ]
        parts.append(self.lon.contains(torch.arange(self.tile[2])[:, None], torch.arange(self.keys) - self.before))
        if all(bool(part.all()) for part in parts):
            return None
        depth, lat, lon = parts
        whole = depth[:, None, None, :, None, None] & lat[:, None, None, :, None] & lon[:, None, None, :]
        return whole.flatten(3).flatten(0, 2).to(device)

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
            mixed = F.scaled_dot_product_attention(*parts, attn_mask=rows.mask(here, seen, query.device))
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
                mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=rows.mask(here, seen, query.device))
            found = torch.autograd.grad(mixed, leaves, rows.cut_queries(gradient[here]))
            to_query[here] = rows.join_queries(found[0], query[here])
            rows.add_keys(found[1], to_key[seen])
            rows.add_keys(found[2], to_value[seen])
        return to_query, to_key.to(key.dtype), to_value.to(value.dtype), None
