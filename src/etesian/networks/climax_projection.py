"""ClimaX's climate projection: maps from a history of years (Nguyen et al. 2023, arXiv 2301.10343, section 4.3)."""

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from etesian.core.device import positions, sent
from etesian.core.errors import ChannelError, DataError, GridError, RecipeError
from etesian.core.fields import Fields, Frame, Layout
from etesian.networks.climax import ClimaX
from etesian.networks.network import Network, lead_hours
from etesian.nn.attention import TransformerBlock, VariableAggregation, initialise_linear
from etesian.nn.dropout import Dropout
from etesian.nn.tokens import patch_counts, patchify, sincos, sincos_2d


class ClimaXProjection(Network):
    """ClimaX's encoder for each year, the globe's average of its tokens, attention over years, and maps of the targets.

    The years of the history are told apart by their place in it, oldest first, not by hours: `layout.history` only
    says how many there are. Calendars, whose years differ in length, make no difference.

    Args:
        layout: inputs, targets, grid, and a history of years.
        patch: rows and columns of a patch, or one number for both.
        dim: width of a token.
        depth: number of transformer blocks.
        heads: number of attention heads, in both aggregations and in the blocks.
        mlp_ratio: hidden width of the blocks' MLPs over `dim`.
        dropout: share of activations dropped in training.
        drop_path: share of samples that skip the last block's branches in training; earlier blocks skip less.

    Raises:
        RecipeError: if the layout has static fields, forcings or another target grid, or sizes do not fit.
    """

    def __init__(
        self,
        layout: Layout,
        *,
        patch: int | tuple[int, int] = 2,
        dim: int = 1024,
        depth: int = 8,
        heads: int = 16,
        mlp_ratio: float = 4.0,
        dropout: float = 0.1,
        drop_path: float = 0.1,
    ) -> None:
        super().__init__()
        others = (*layout.statics, *layout.forcings)
        if others:
            raise RecipeError(f"ClimaXProjection takes inputs of a history only; make '{others[0]}' one of them")
        if layout.target_grid is not None and layout.target_grid != layout.grid:
            raise RecipeError("ClimaXProjection predicts on the grid of its inputs; interpolate them to it first")
        if dim % heads or dim % 4:
            raise RecipeError(f"dim={dim} must be a multiple of heads={heads} and of 4")
        self.layout = layout
        self.patch = (patch, patch) if isinstance(patch, int) else patch
        rows, columns = patch_counts(layout.grid.shape, self.patch)
        self.aggregation = VariableAggregation(len(layout.inputs), self.patch[0] * self.patch[1], dim, heads)
        self.position = nn.Parameter(torch.from_numpy(sincos_2d(dim, rows, columns)).float())
        self.time_position = nn.Parameter(torch.from_numpy(sincos(dim, range(len(layout.history)))).float())
        self.lead_time = nn.Linear(1, dim)
        self.dropout = Dropout(dropout)
        shares = np.linspace(0, drop_path, depth).tolist()
        self.blocks = nn.ModuleList(TransformerBlock(dim, heads, mlp_ratio, dropout, share) for share in shares)
        self.norm = nn.LayerNorm(dim)
        self.time_query = nn.Parameter(torch.zeros(dim))
        self.time_aggregation = nn.MultiheadAttention(dim, heads, batch_first=True)
        self.head = nn.Linear(dim, len(layout.targets) * layout.grid.latitude.size * layout.grid.longitude.size)
        self.apply(initialise_linear)

    def forward(
        self, inputs: Fields, target: Frame, *, forcings: Fields | None = None, statics: Fields | None = None
    ) -> Float[Tensor, "batch time channel lat lon"]:
        """Predict; see `Network.forward`.

        Raises:
            ChannelError: if the inputs or targets are not those of the layout.
            GridError: if the fields are not on the layout's grid.
            DataError: if the history has another length, or several target times are asked for.
        """
        layout = self.layout
        if inputs.frame.grid != layout.grid or target.grid != layout.grid:
            raise GridError(f"the network predicts whole maps on {layout.grid}; the fields are on {inputs.frame.grid}")
        batch, years = inputs.values.shape[:2]
        if years != len(layout.history):
            raise DataError(f"the inputs have {years} years, but the network looks back over {len(layout.history)}")
        if target.time.shape[1] != 1:
            raise DataError(f"the network predicts one year at a time, but {target.time.shape[1]} are asked for")
        if unknown := set(target.channels) - set(layout.targets):
            raise ChannelError(f"the network was not built to predict '{unknown.pop()}'")
        values = inputs.select(layout.inputs).filled().flatten(0, 1)
        pixels = patchify(values, self.patch, periodic=layout.grid.is_periodic)
        streams = torch.arange(len(layout.inputs), device=values.device)
        tokens = self.aggregation(pixels, streams) + self.position.flatten(0, 1)
        lead = self.lead_time(sent(lead_hours(inputs, target), tokens).unsqueeze(-1) / 100)
        tokens = tokens.unflatten(0, (batch, years)) + self.time_position[:, None] + lead.unsqueeze(2)
        tokens = self.dropout(tokens.flatten(0, 1))
        for block in self.blocks:
            tokens = block(tokens)
        globe = self.norm(tokens).mean(1).unflatten(0, (batch, years))
        query = self.time_query.expand(batch, 1, -1)
        state, _ = self.time_aggregation(query, globe, globe, need_weights=False)
        maps = self.head(state).view(batch, 1, len(layout.targets), *layout.grid.shape)
        chosen = [layout.targets.index(channel) for channel in target.channels]
        return maps.index_select(2, positions(chosen, maps.device))  # type: ignore[no-any-return]

    def no_decay(self) -> set[str]:
        """Return the position, time and variable embeddings, which the original does not decay."""
        return {"position", "time_position", "aggregation.variable_embed"}

    def begin_with_nothing(self) -> None:
        """Make the last layer zero."""
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def adopt_encoder(self, source: ClimaX) -> None:
        """Take over the transformer of a forecasting network: its blocks, last norm and lead-time embedding.

        What embeds the inputs and what makes maps is this network's own, for its variables are others.

        Raises:
            RecipeError: if the networks differ in width, depth or the blocks' MLPs.
        """
        own, theirs = (
            {name: value.shape for name, value in network.blocks.state_dict().items()} for network in (self, source)
        )
        if own != theirs:
            raise RecipeError(
                f"the network to start from has {len(source.blocks)} blocks of width {source.norm.weight.shape[0]}, "
                f"this one {len(self.blocks)} of {self.norm.weight.shape[0]}, or their MLPs differ; make them equal"
            )
        for part in ("blocks", "norm", "lead_time"):
            getattr(self, part).load_state_dict(getattr(source, part).state_dict())
