"""ClimaX: one transformer for any variables and any lead time (Nguyen et al. 2023, arXiv 2301.10343)."""

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from etesian.core.channels import Channel
from etesian.core.constants import SECONDS_PER_HOUR
from etesian.core.device import positions, sent
from etesian.core.errors import ChannelError, CheckpointError, DataError, GridError, RecipeError, suggest
from etesian.core.fields import Fields, Frame, Layout
from etesian.core.grid import Grid
from etesian.networks.climax_local import LocalPath
from etesian.networks.climax_transfer import Tokens, adopt
from etesian.networks.network import Network, Normals, Transfer, by_lead, known_at, lead_hours
from etesian.nn.attention import LowRank, TimeAggregation, TransformerBlock, VariableAggregation, initialise_linear
from etesian.nn.convolution import Plane
from etesian.nn.dropout import Dropout
from etesian.nn.noise import NORMALS, Modulation, NoiseEmbedding, Places, between, is_for_noise
from etesian.nn.tokens import interpolate_position, locate_patches, patch_counts, patchify, sincos_2d, unpatchify

EMBEDDING_SIZE = 0.5
"""What sines and cosines of positions and variables begin with a multiple of, beside tokens of size near one."""

LEAD_SIZE = 0.4
"""Size of the lead's embedding at 100 h to begin with."""


class ClimaX(Network):
    """Patches of every variable, aggregated over variables, a vision transformer, and a head of all variables.

    Any subset of `variables` may come in and any may be asked for. Each sample has its own lead times; where several
    target times are asked for, the aggregated tokens are repeated along the batch, so that time and memory of the
    transformer grow with their number. Several input times enter the aggregation as further streams, with patch and
    variable embeddings of their own, or share these and are aggregated by attention over times (`history`).

    With `validity`, a variable without any value in a patch is left out of the aggregation there, a patch with some
    values carries an embedding of where they are missing, and places without any value of the inputs (static fields do
    not count) are attended to by none; they attend to the others, so that there is a prediction for them too.

    Fields may be on the layout's grid or on a part of it that is made of whole patches: then only those are processed,
    with their own slice of the position embedding. Grids that the patch does not divide are padded (`patchify`). With
    `any_grid` they may be on any other grid too, with the position embedding interpolated to its patches: a network
    can then be trained on sources of several resolutions.

    With `local_width` convolutions stand before and after the transformer, at the resolution of the grid, and in its
    blocks (`LocalPath`): what the neighbours of a point are is known from the start, where patches have to find it out.
    Everything but the last layer then runs once for all target times, of which the head alone knows.

    A new network's weights are drawn so that its input counts from the first step on; in the original's, where it is
    drowned by the positions, hundreds of steps go by before it does.

    Args:
        layout: what goes in and what comes out.
        variables: everything the network can embed and predict, in order; by default what the layout names. Forcings
            are variables of their own, with `_ahead` behind their name.
        patch: rows and columns of a patch, or one number for both.
        dim: width of a token.
        depth: number of transformer blocks.
        heads: number of attention heads, in the aggregation and in the blocks.
        mlp_ratio: hidden width of the blocks' MLPs over `dim`.
        head_depth: number of hidden layers between the last block and what comes behind it.
        dropout: share of activations dropped in training.
        drop_path: share of samples that skip the last block's branches in training; earlier blocks skip less.
        validity: whether missing values, which enter as 0, have an embedding of their own as well.
        history: several input times enter as `streams` of their own, or by `attention` over times.
        any_grid: whether fields may be on a grid that is no part of the layout's.
        checkpoint_blocks: in training keep only what enters each transformer block, and compute the rest again in the
            backward pass: less memory, more time.
        lora_rank: rank of an addition to the attention's weights that can be tuned alone (Hu et al. 2021, arXiv
            2106.09685); 0 for none.
        local_width: features of each point of the grid that 3×3 convolutions pass on, a multiple of `heads`; 0, as in
            the original, for none. On the embedded planet (32×64 points, depth 4, width 128) a training step of one
            lead takes one and a half times as long with 32 of them, and one of five leads less than half as long.
        local_half: convolve at half the grid's resolution as well, with twice as many features.

    Raises:
        RecipeError: if the layout asks for another target grid, sizes do not fit one another, or there
            is no such way to take a history.
        ChannelError: if the layout names a channel that is not among `variables`.
    """

    def __init__(
        self,
        layout: Layout,
        *,
        variables: tuple[Channel, ...] | None = None,
        patch: int | tuple[int, int] = 2,
        dim: int = 1024,
        depth: int = 8,
        heads: int = 16,
        mlp_ratio: float = 4.0,
        head_depth: int = 2,
        dropout: float = 0.1,
        drop_path: float = 0.1,
        validity: bool = False,
        history: Literal["streams", "attention"] = "streams",
        any_grid: bool = False,
        checkpoint_blocks: bool = False,
        lora_rank: int = 0,
        local_width: int = 0,
        local_half: bool = False,
    ) -> None:
        super().__init__()
        if layout.target_grid is not None and layout.target_grid != layout.grid:
            raise RecipeError("ClimaX predicts on the grid of its inputs; interpolate them to the target grid first")
        if history not in (ways := ("streams", "attention")):
            raise RecipeError(f"ClimaX has no history: {history}{suggest(history, ways)}")
        if dim % heads or dim % 4:
            raise RecipeError(f"dim={dim} must be a multiple of heads={heads} and of 4")
        if local_width % heads or local_width % 2:
            raise RecipeError(f"local_width={local_width} must be a multiple of heads={heads} and of 2")
        self.patch = (patch, patch) if isinstance(patch, int) else patch
        if local_half and (not local_width or any(size % 2 for size in self.patch)):
            raise RecipeError(
                f"local_half needs a local_width and a patch of even sides, not {local_width} and {patch}"
            )
        named = tuple(dict.fromkeys((*layout.inputs, *layout.statics, *layout.targets)))
        named += tuple(map(ahead, layout.forcings))
        self.layout = layout
        self.variables = named if variables is None else variables
        self.validity, self.any_grid, self.checkpoint_blocks = validity, any_grid, checkpoint_blocks
        self.takes_holes = validity
        self._number = {channel: i for i, channel in enumerate(self.variables)}
        self._numbers(named)

        streams = len(self.variables) * (len(layout.history) if history == "streams" else 1)
        pixels, width = (1, local_width) if local_width else (self.patch[0] * self.patch[1], dim)
        rows, columns = patch_counts(layout.grid.shape, self.patch)
        self.aggregation = VariableAggregation(streams, pixels, width, heads, validity=validity)
        self.neck = TimeAggregation(width, heads) if history == "attention" else None
        self.position = nn.Parameter(torch.from_numpy(sincos_2d(dim, rows, columns)).float())
        self.lead_time = nn.Linear(1, dim)
        self.dropout = Dropout(dropout)
        shares, convolution = np.linspace(0, drop_path, depth).tolist(), local_width > 0
        self.blocks = nn.ModuleList(
            TransformerBlock(dim, heads, mlp_ratio, dropout, share, lora_rank, convolution=convolution)
            for share in shares
        )
        self.norm = nn.LayerNorm(dim)
        hidden = [layer for _ in range(head_depth) for layer in (nn.Linear(dim, dim), nn.GELU())]
        self.head = nn.Sequential(*hidden)
        self.local = LocalPath(local_width, self.patch, dim, dropout, halfway=local_half) if local_width else None
        self.to_pixels = nn.Linear(2 * local_width or dim, len(self.variables) * pixels)
        self.noise_embed: NoiseEmbedding | None = None
        self.last_modulation: Modulation | None = None
        self.apply(initialise_linear)
        for module in self.modules():
            if isinstance(module, LowRank):
                module.reset()
        self._let_the_input_count()

    @torch.no_grad()
    def _let_the_input_count(self) -> None:
        """Draw weights that make tokens of variance ½ from inputs of variance one, beside positions that are no larger.

        Drawn as in the original, the input is one part in ten thousand of their variance, the rest is position.
        """
        streams, width, pixels = self.aggregation.token_weight.shape
        # The aggregation begins as the mean over streams, and its values have half the variance of their tokens.
        nn.init.normal_(self.aggregation.token_weight, std=(streams / pixels) ** 0.5)
        nn.init.normal_(self.aggregation.out_proj.weight, std=width**-0.5)
        if self.neck is not None:
            nn.init.normal_(self.neck.attention.out_proj.weight, std=width**-0.5)
        nn.init.normal_(self.lead_time.weight, std=LEAD_SIZE)
        for embedding in (self.position, self.aggregation.variable_embed):
            embedding.mul_(EMBEDDING_SIZE)
        if self.local is not None:
            self.local.begin(self.lead_time)
            self.begin_with_nothing()

    def accept_noise(self) -> None:
        """Let noise scale and shift what comes out of every norm, and the features of points."""
        self.noise_embed, self.last_modulation = NoiseEmbedding(), Modulation(self.norm.normalized_shape[0])
        for block in self.blocks:
            block.accept_noise()  # type: ignore[operator]
        if self.local is not None:
            self.local.accept_noise()

    def noise_shape(self, grid: Grid) -> tuple[int, ...]:
        """Return that of some normals for each patch."""
        return (*patch_counts(grid.shape, self.patch), NORMALS)

    def forward(
        self,
        inputs: Fields,
        target: Frame,
        *,
        forcings: Fields | None = None,
        statics: Fields | None = None,
        noise: Normals | None = None,
    ) -> Float[Tensor, "batch time channel lat lon"]:
        """Predict; see `Network.forward` and `Network.accept_noise`.

        Raises:
            ChannelError: if a channel is unknown to the network or given twice.
            GridError: if the fields are on no part of the layout's grid that is made of whole patches.
            DataError: if the number of input times is not that of the layout's history, a sample has no valid value, or
                forcings are missing.
        """
        known = known_at(target, forcings, self.layout)
        if known is not None and target.time.shape[1] > 1:
            return by_lead(self.forward, inputs, target, known, statics, noise)
        grid = inputs.frame.grid
        for name, other in (("target", target), ("statics", statics.frame if statics is not None else target)):
            if other.grid != grid:
                raise GridError(f"the inputs are on {grid}, but the {name} on {other.grid}; all must be on one grid")
        hours = sent(lead_hours(inputs, target), self.position)
        lead = self.lead_time(hours.unsqueeze(-1) / 100)
        beside = [] if statics is None else [statics]
        if known is not None:
            beside.append(replace(known, frame=replace(known.frame, channels=tuple(map(ahead, known.frame.channels)))))
        features, keys = self._aggregate(inputs, beside)
        embedded = None if noise is None or self.noise_embed is None else self.noise_embed(noise(0))
        if self.local is None:
            return self._by_patch(features, keys, lead, target, embedded)
        return self._by_point(self.local, features, keys, lead, target, embedded)

    def _by_patch(
        self,
        tokens: Float[Tensor, "batch patch dim"],
        keys: Bool[Tensor, "batch patch"] | None,
        lead: Float[Tensor, "batch time dim"],
        target: Frame,
        noise: Places | None,
    ) -> Float[Tensor, "batch time channel lat lon"]:
        """Predict patches from their tokens, which know the lead from the start."""
        position = self._position(target.grid)
        tokens = (tokens + position.flatten(0, 1)).unsqueeze(1) + lead.unsqueeze(2)
        if keys is not None:
            keys = keys.repeat_interleave(target.time.shape[1], dim=0)
        if noise is not None:
            noise = noise.repeat_interleave(target.time.shape[1], dim=0)
        tokens = self._transformed(tokens.flatten(0, 1), keys, position, target.grid, noise)
        weight, bias = self._last_layer(target.channels)
        pixels = F.linear(tokens, weight.flatten(0, 1), bias.flatten())
        patches = pixels.view(*tokens.shape[:2], *bias.shape).transpose(2, 3)
        values = unpatchify(patches, self.patch, target.grid.shape)
        return values.reshape(*target.time.shape, -1, *target.grid.shape)

    def _by_point(
        self,
        local: LocalPath,
        features: Float[Tensor, "batch point width"],
        keys: Bool[Tensor, "batch point"] | None,
        lead: Float[Tensor, "batch time dim"],
        target: Frame,
        noise: Places | None,
    ) -> Float[Tensor, "batch time channel lat lon"]:
        """Predict points from their features, of which only the last layer knows the lead."""
        position, plane = self._position(target.grid), Plane(*target.grid.shape, target.grid.is_periodic)
        fine = None if noise is None else between(noise, target.grid.shape, periodic=plane.periodic).flatten(1, 2)
        levels, tokens, seen = local.down(features, plane, keys, fine)
        tokens = self._transformed(tokens + position.flatten(0, 1), seen, position, target.grid, noise)
        hidden = local.up(levels, tokens, fine)
        weight, bias = self._last_layer(target.channels)
        weight = local.gain(lead).unsqueeze(-1) * weight[0].T
        values = torch.einsum("bph,bthc->btcp", hidden, weight) + bias[0].unsqueeze(-1)
        return values.view(*values.shape[:3], *target.grid.shape)

    def _transformed(
        self,
        tokens: Float[Tensor, "batch patch dim"],
        keys: Bool[Tensor, "batch patch"] | None,
        position: Float[Tensor, "row column dim"],
        grid: Grid,
        noise: Places | None,
    ) -> Float[Tensor, "batch patch dim"]:
        """Return what the transformer makes of tokens, with the head's hidden layers behind it."""
        plane = Plane(position.shape[0], position.shape[1], grid.is_periodic)
        tokens = self.dropout(tokens)
        drawn = None if noise is None else noise.flatten(1, 2)
        for block in self.blocks:
            if self.checkpoint_blocks and torch.is_grad_enabled():
                tokens = checkpoint(block, tokens, keys, plane, drawn, use_reentrant=False)
            else:
                tokens = block(tokens, keys, plane, drawn)
        tokens = self.norm(tokens)
        return self.head(tokens if self.last_modulation is None else self.last_modulation(tokens, drawn))  # type: ignore[no-any-return]

    def no_decay(self) -> set[str]:
        """Return the position and variable embeddings, which the original does not decay."""
        return {"position", "aggregation.variable_embed"} | ({"neck.query"} if self.neck is not None else set())

    def begin_with_nothing(self) -> None:
        """Make the last layer zero."""
        nn.init.zeros_(self.to_pixels.weight)
        nn.init.zeros_(self.to_pixels.bias)

    def shards(self) -> list[nn.Module]:
        """Return the transformer blocks."""
        return list(self.blocks)

    def parts(self) -> dict[str, set[str]]:
        """Return parameters by plain name: head, embeddings, norms, attention, lora, local, noise, all."""
        names = [name for name, _ in self.named_parameters()]
        lora = {name for name in names if "lora" in name}
        return {
            "all": set(names),
            "head": {name for name in names if name.startswith(("head.", "to_pixels."))},
            "embeddings": {
                name for name in names if name.startswith(("aggregation.", "neck.", "position", "lead_time."))
            },
            "norms": {name for name in names if re.match(r"(blocks\.\d+\.)?norm\d?\.", name)},
            "attention": {name for name in names if re.match(r"blocks\.\d+\.attention\.", name)} - lora,
            "lora": lora,
            "local": {name for name in names if name.startswith("local.") or ".convolution." in name},
            "noise": {name for name in names if is_for_noise(name)},
        }

    def adopt(self, source: Network) -> Transfer:
        """Take over the weights of a trained ClimaX of other variables, grid or patch; see `climax_transfer.adopt`.

        Raises:
            CheckpointError: if the source is no ClimaX, or its transformer is of another size.
        """
        if not isinstance(source, ClimaX):
            raise CheckpointError(f"a ClimaX cannot begin with the weights of a {type(source).__name__}")
        return adopt(self, self._tokens(), source, source._tokens())

    def _tokens(self) -> Tokens:
        """Return what the tokens stand for."""
        ages = self.aggregation.token_bias.shape[0] // len(self.variables)
        width = 0 if self.local is None else self.aggregation.query.shape[0]
        half = self.local is not None and self.local.middle is not None
        return Tokens(self.variables, ages, self.layout.grid, self.patch, width, half)

    def _position(self, grid: Grid) -> Float[Tensor, "row column dim"]:
        """Return the position embedding of a grid's patches."""
        if self.any_grid and grid != self.layout.grid:
            return interpolate_position(self.position, self.layout.grid, grid, self.patch, self.patch)
        rows, columns = locate_patches(grid, self.layout.grid, self.patch)
        return self.position.index_select(0, self._index(rows)).index_select(1, self._index(columns))

    def _index(self, numbers: list[int] | NDArray[np.int64]) -> Int64[Tensor, " index"]:
        return positions(numbers, self.position.device)

    def _numbers(self, channels: tuple[Channel, ...]) -> list[int]:
        unknown = [c for c in channels if c not in self._number]
        if unknown:
            raise ChannelError(
                f"the network has no variable '{unknown[0]}'{suggest(str(unknown[0]), map(str, self.variables))}"
            )
        return [self._number[c] for c in channels]

    def _aggregate(
        self, inputs: Fields, beside: Sequence[Fields]
    ) -> tuple[Float[Tensor, "batch patch dim"], Bool[Tensor, "batch patch"] | None]:
        """Turn inputs and what is given beside them into one token per patch, or features of points.

        Also return which of them others may see.
        """
        names = [channel for fields in (inputs, *beside) for channel in fields.frame.channels]
        if len(set(names)) < len(names):
            raise ChannelError(f"'{next(c for c in names if names.count(c) > 1)}' is given twice")
        times = inputs.values.shape[1]
        if times != len(self.layout.history):
            raise DataError(f"the inputs have {times} times, but the layout's history {self.layout.history}")
        if self.neck is None:
            tokens, keys = self._embed(inputs, beside)
        else:
            embedded = [self._embed(inputs.at(number), beside) for number in range(times)]
            present = [torch.ones_like(tokens[..., 0], dtype=torch.bool) if p is None else p for tokens, p in embedded]
            kept = None if all(p is None for _, p in embedded) else torch.stack(present, dim=2)
            hours = (inputs.frame.time[:, -1:] - inputs.frame.time).float() / SECONDS_PER_HOUR
            tokens = self.neck(torch.stack([tokens for tokens, _ in embedded], dim=2), hours, kept)
            keys = None if kept is None else kept.any(dim=2)
        # In training on a GPU nobody waits for the answer: a loss that is no number tells as well.
        looks = (
            not torch.compiler.is_compiling()
            and keys is not None
            and (keys.device.type == "cpu" or not torch.is_grad_enabled())
        )
        if looks and keys is not None and not keys.any(dim=1).all():
            raise DataError(
                f"a sample has no valid value at all among {', '.join(map(str, inputs.frame.channels[:3]))}…"
            )
        return tokens, keys

    def _embed(
        self, inputs: Fields, beside: Sequence[Fields]
    ) -> tuple[Float[Tensor, "batch patch dim"], Bool[Tensor, "batch patch"] | None]:
        """Turn some times, newest first, and more into one token per patch; also return which hold valid inputs."""
        numbers, count = self._numbers(inputs.frame.channels), len(self.variables)
        streams = [age * count + number for age in range(inputs.values.shape[1]) for number in numbers]
        own, given = len(streams), [inputs, *beside]
        for fields in beside:
            streams += self._numbers(fields.frame.channels)
        pixels, index = self._cut(inputs.frame.grid, [fields.filled() for fields in given]), self._index(streams)
        if not self.validity or all(_complete(fields) for fields in given):
            return self.aggregation(pixels, index), None
        known = [torch.ones_like(f.values) if f.valid is None else f.valid.to(f.values.dtype) for f in given]
        valid = self._cut(inputs.frame.grid, known)
        return self.aggregation(pixels, index, 1 - valid), (valid[:, :, :own] > 0).any(dim=-1).any(dim=-1)

    def _cut(self, grid: Grid, values: list[Tensor]) -> Float[Tensor, "batch patch stream pixel"]:
        """Cut values into patches, all times and channels behind one another, the newest time first."""
        batch = values[0].shape[0]
        streams = [v.flip(1).flatten(1, 2).expand(batch, -1, -1, -1) for v in values]
        patch = self.patch if self.local is None else (1, 1)
        return patchify(torch.cat(streams, dim=1), patch, periodic=grid.is_periodic)

    def _last_layer(
        self, channels: tuple[Channel, ...]
    ) -> tuple[Float[Tensor, "pixel channel width"], Float[Tensor, "pixel channel"]]:
        """Return weight and bias of the last layer, only for the channels that are asked for."""
        numbers, count = self._index(self._numbers(channels)), len(self.variables)
        weight = self.to_pixels.weight.view(-1, count, self.to_pixels.in_features).index_select(1, numbers)
        return weight, self.to_pixels.bias.view(-1, count).index_select(1, numbers)

    def on_grid(self, grid: Grid) -> "ClimaX":
        """Return a copy for another grid, its position embedding interpolated (`interpolate_position`).

        A new position embedding is a starting point for training: the patches must mean much the same.
        """
        arguments = {name: value for name, value in self._call.items() if name != "layout"}
        copy = ClimaX(replace(self.layout, grid=grid, target_grid=None), **arguments)
        if self.noise_embed is not None:
            copy.accept_noise()
        weights = self.state_dict()
        weights["position"] = interpolate_position(weights["position"], self.layout.grid, grid, self.patch, self.patch)
        copy.load_state_dict(weights)
        return copy


def ahead(channel: Channel) -> Channel:
    """Return the variable that a channel is at the target time, where it is known beforehand."""
    return Channel(f"{channel.name}_ahead", channel.level)


def _complete(fields: Fields) -> bool:
    """Return whether fields are known to have no holes; on a GPU, which the host would wait for, a mask is one."""
    if fields.valid is None or fields.valid.device.type != "cpu" or torch.compiler.is_compiling():
        return fields.valid is None
    return bool(fields.valid.all())
