"""Reading the weights of the ESO4CLIMA prototype, the spatio-temporal model (github.com/ESMValGroup)."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from etesian.core.channels import Channel
from etesian.core.errors import CheckpointError
from etesian.core.fields import Layout
from etesian.core.grid import Grid
from etesian.interop.climax import fitting, read_tensors
from etesian.networks.gapfiller import GapFiller
from etesian.networks.gapfiller_parts import MapDecoder
from etesian.nn.tokens import sincos
from etesian.training.checkpoint import load_strictly

_RENAMED = {
    "encoder.proj": "embed",
    "encoder.norm": "embed_norm",
    "temporal.scorer": "pooling.scorer",
    "spatial_tr.enc.layers": "blocks",
    "decoder.proj": "decoder.project",
    "decoder.deconv": "decoder.spread",
    "decoder.head": "decoder.refine.layers",
    "decoder.scale": "decoder.refine.scale",
    "decoder.bias": "decoder.refine.bias",
}


class Prototype(GapFiller):
    """The prototype's network, for its weights; for training anew take `GapFiller`.

    Differs from `GapFiller` in what is kept only for the weights' sake: days on which nothing was seen have a weight,
    the transformer normalises behind its branches, rows and columns share one position (the place in row 3 and column
    5 has that of row 5 and column 3), and the decoder normalises over the batch. The original gives land as observed
    zeros; a caller who wants its numbers has to do the same.

    Args:
        layout: one channel in, the same one out.
        patch: rows and columns of a patch.
        dim: width of a token.
        depth: number of transformer layers.
        heads: number of attention heads.
        mlp_ratio: hidden width of the layers' MLPs over `dim`.
        hidden: channels of the decoder.
        overlap: points by which the decoder's kernels reach into neighbouring patches.
    """

    def __init__(
        self,
        layout: Layout,
        *,
        patch: tuple[int, int],
        dim: int,
        depth: int,
        heads: int,
        mlp_ratio: float,
        hidden: int,
        overlap: int,
    ) -> None:
        super().__init__(
            layout,
            patch=patch,
            dim=dim,
            depth=depth,
            heads=heads,
            mlp_ratio=mlp_ratio,
            pooling_heads=1,
            calendar=False,
            harmonics=0,
            month_attention=False,
            residual="nothing",
            hidden=hidden,
            overlap=overlap,
        )
        del self.nothing_seen
        self.register_buffer("nothing_seen", torch.zeros(dim), persistent=False)

    def make_blocks(self, depth: int, heads: int, mlp_ratio: float, dropout: float) -> nn.ModuleList:
        """Return layers that normalise behind their branches."""
        width = int(self.dim * mlp_ratio)
        return nn.ModuleList(
            nn.TransformerEncoderLayer(self.dim, heads, width, dropout, activation="gelu", batch_first=True)
            for _ in range(depth)
        )

    def make_norm(self) -> nn.Module:
        """Return nothing: the last layer has normalised."""
        return nn.Identity()

    def make_decoder(self, hidden: int, overlap: int, known: int, outputs: int) -> MapDecoder:
        """Return a decoder that normalises over the batch."""
        return _PrototypeDecoder(self.dim, self.patch, hidden, overlap, known, outputs)

    def present(self, valid: Bool[Tensor, "batch time place pixel"]) -> Bool[Tensor, "batch time place"]:
        """Return every patch of every day."""
        return torch.ones_like(valid[..., 0])

    def place_position(self, grid: Grid) -> Float[Tensor, "row column dim"]:
        """Return the sum of one embedding of the row and the same of the column, twice."""
        rows, columns = (
            torch.unflatten(torch.from_numpy(sincos(self.dim // 2, range(size // step))), 1, (2, -1)).mT.flatten(1)
            for size, step in zip(grid.shape, self.patch, strict=True)
        )
        position: Tensor = rows[:, None] + columns
        return position.repeat(1, 1, 2)


class _PrototypeDecoder(MapDecoder):
    def make_refine(self, width: int, given: int, outputs: int) -> nn.Module:
        return _PrototypeRefine(width, outputs)


class _PrototypeRefine(nn.Module):
    def __init__(self, width: int, outputs: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.GELU(),
            nn.Conv2d(width, outputs, 1),
        )
        self.scale, self.bias = nn.Parameter(torch.ones(1)), nn.Parameter(torch.zeros(1))

    def forward(self, maps: Tensor, periodic: bool) -> Tensor:
        return self.layers(maps) * self.scale + self.bias  # type: ignore[no-any-return]


def load(source: str | Path | Mapping[str, Any], *, channel: str, grid: Grid, num_heads: int = 4) -> Prototype:
    """Build the network from the prototype's weights, strictly: every key has its place.

    The network gives what the original gives where `Fields.valid` is the complement of the original's mask; the
    original sets land to 0 afterwards. Values are in whatever units the weights were trained with.

    Args:
        source: path of the checkpoint, or its content.
        channel: what it fills, such as `sea_surface_temperature`.
        grid: of a tile; whole patches must cover it.
        num_heads: attention heads, which the weights do not tell.

    Raises:
        CheckpointError: if the file cannot be read without running code, or keys are missing, unknown or misshapen.
    """
    named: dict[str, Tensor] = {}
    for key, value in read_tensors(source).items():
        if key in ("temporal.pos.pe", "spatial_pe.pe"):
            continue  # Sines and cosines, which the network computes.
        stem = re.match(r"encoder\.(?:proj|norm)|temporal\.scorer|spatial_tr\.enc\.layers|decoder\.[a-z]+", key)
        if stem is None or stem[0] not in _RENAMED:
            raise CheckpointError(f"the checkpoint has '{key}', which is no part of the prototype")
        named[_RENAMED[stem[0]] + key[stem.end() :]] = value
    sizes = {
        name: named[name].shape
        for name in ("embed.weight", "decoder.project.weight", "decoder.spread.weight")
        if name in named
    }
    if len(sizes) < 3 or "blocks.0.linear1.weight" not in named:
        raise CheckpointError("the checkpoint lacks the weights of an encoder, a transformer or a decoder")
    with fitting():
        dim, inputs, days, *patch = sizes["embed.weight"]
        if inputs != 2 or days != 1:
            raise CheckpointError(f"the checkpoint has patches of {days} days and {inputs} channels; 1 and 2 are known")
        named["embed.weight"] = named["embed.weight"].flatten(1)
        named["decoder.project.weight"] = named["decoder.project.weight"].flatten(1)
        network = Prototype(
            Layout((Channel.parse(channel),), (Channel.parse(channel),), grid),
            patch=(patch[0], patch[1]),
            dim=dim,
            depth=len({name.split(".")[1] for name in named if name.startswith("blocks.")}),
            heads=num_heads,
            mlp_ratio=named["blocks.0.linear1.weight"].shape[0] / dim,
            hidden=sizes["decoder.project.weight"][0],
            overlap=(sizes["decoder.spread.weight"][2] - patch[0]) // 2,
        )
    load_strictly(network, named, "the checkpoint")
    return network
