"""The encoder of WeatherMesh for one source of analyses, and what a network takes over from one with other sources."""

from collections.abc import Callable, Collection, Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from etesian.core.channels import Channel, parse_channels
from etesian.core.device import positions, sent
from etesian.core.errors import CheckpointError, DataError, GridError, RecipeError, suggest
from etesian.core.fields import Fields, Frame, Layout
from etesian.core.grid import Grid
from etesian.networks.network import Network, Transfer, known_at, needed
from etesian.networks.weathermesh_parts import (
    CLOCK_FEATURES,
    EncoderDetail,
    GridPadding,
    LevelInterpolation,
    Regridding,
    SurfaceEncoder,
    clock_features,
    name_of,
    profiles,
    start_at_zero,
)
from etesian.nn.convolution import GlobeConv
from etesian.nn.neighborhood_block import NeighborhoodBlocks
from etesian.nn.noise import Places, is_for_noise
from etesian.nn.tokens import sincos_3d


class Encoder(nn.Module):
    """Takes fields of one source to the latent.

    Args:
        layout: with the channels of the source as inputs.
        levels: the network's own pressure levels in hPa, ascending.
        continue_levels: beyond a variable's outermost levels, take the outermost one.
        patch: levels, rows and columns that make up a token.
        dim: width of a token.
        surface_width: channels of the surface path at the full resolution.
        blocks: transformer blocks behind the convolutions.
        sincos: whether sines and cosines of the position are added to the latent.
        padding: of the grid.
        patches: levels, rows and columns that make up a token on each of the layout's other grids.
    """

    def __init__(
        self,
        layout: Layout,
        levels: tuple[int, ...],
        *,
        continue_levels: bool,
        patch: tuple[int, int, int],
        dim: int,
        surface_width: int,
        blocks: NeighborhoodBlocks,
        sincos: bool,
        padding: GridPadding,
        patches: dict[Grid, tuple[int, int, int]],
    ) -> None:
        super().__init__()
        self.layout, self.padding, self.sincos, self.depth = layout, padding, sincos, len(levels)
        on_levels = [c for c in layout.inputs if c.level is not None]
        self.profile_index = [layout.inputs.index(c) for c in on_levels]
        self.surface_index = [i for i, c in enumerate(layout.inputs) if c.level is None]
        self.levels_above = -len(levels) % patch[0]
        names = list(dict.fromkeys(c.name for c in on_levels))
        times = len(layout.history)
        self.to_levels = LevelInterpolation(on_levels, profiles(names, levels), continued=continue_levels)
        self.pressure = GlobeConv(len(names) * times, dim, patch, patch)
        surface = len(self.surface_index) * times + len(layout.statics) + CLOCK_FEATURES
        self.surface = SurfaceEncoder(surface, dim, surface_width, patch[1:])
        self.blocks = blocks
        self.details = nn.ModuleDict(
            {
                name_of(grid): EncoderDetail(layout.grid, grid, len(names) * times, surface, dim, own)
                for grid, own in patches.items()
            }
        )

    def forward(
        self, inputs: Fields, statics: Fields | None, noise: Places | None = None
    ) -> Float[Tensor, "batch depth row column dim"]:
        """Encode, with embedded noise where the blocks accept it.

        Raises:
            ChannelError: if a channel of the source is missing.
            DataError: if the statics or part of the history are missing.
        """
        times = inputs.values.shape[1]
        if times != len(self.layout.history):
            raise DataError(f"the inputs have {times} times, but the layout's history {self.layout.history}")
        state = inputs.select(self.layout.inputs).filled()
        aloft = self.to_levels(state.index_select(2, positions(self.profile_index, state.device)).flatten(0, 1))
        aloft = aloft.view(*state.shape[:2], -1, self.depth, *state.shape[3:]).flatten(1, 2)
        top = aloft[:, :, :1].expand(-1, -1, self.levels_above, -1, -1)
        aloft = torch.cat([top, aloft], dim=2)
        parts = [
            state.index_select(2, positions(self.surface_index, state.device)).flatten(1, 2),
            clock_features(inputs.frame, state),
        ]
        if self.layout.statics:
            if statics is None:
                raise DataError(f"the network was built with '{self.layout.statics[0]}', but is given no static fields")
            parts.append(statics.select(self.layout.statics).filled()[:, 0].expand(len(state), -1, -1, -1))
        tokens = self._tokens(aloft, torch.cat(parts, dim=1), inputs.frame.grid)
        latent = torch.cat([tokens[0], tokens[1].unsqueeze(2)], dim=2).movedim(1, -1)
        if self.sincos:
            depth, row, column, dim = latent.shape[1:]
            latent = latent + sent(sincos_3d(dim, (depth, row, column)), latent)
        return self.blocks(latent, noise)  # type: ignore[no-any-return]

    def _tokens(
        self,
        aloft: Float[Tensor, "batch profile level lat lon"],
        surface: Float[Tensor, "batch channel lat lon"],
        grid: Grid,
    ) -> tuple[Float[Tensor, "batch dim depth row column"], Float[Tensor, "batch dim row column"]]:
        """Return the tokens of fields on levels and of the others, on whichever grid they are."""
        if grid == self.layout.grid:
            return self.pressure(self.padding.pad(aloft)), self.surface(self.padding.pad(surface))
        detail = self.details[name_of(grid)]
        assert isinstance(detail, EncoderDetail)
        (aloft, fine_aloft), (surface, fine_surface) = detail.split(aloft), detail.split(surface)
        own = self._tokens(aloft, surface, self.layout.grid)
        return own[0] + detail.pressure(fine_aloft), own[1] + detail.surface(fine_surface)


class ForcingEncoder(nn.Module):
    """Makes of what is known at a time an addition to the latent that is decoded there: nothing to begin with.

    Args:
        layout: with the forcings.
        slots: layers of the latent in depth.
        dim: width of a token.
        width: channels at the full resolution.
        patch: rows and columns that make up a token.
        padding: of the grid.
    """

    def __init__(
        self, layout: Layout, slots: int, dim: int, width: int, patch: tuple[int, int], padding: GridPadding
    ) -> None:
        super().__init__()
        self.layout, self.slots, self.padding = layout, slots, padding
        self.surface = SurfaceEncoder(len(layout.forcings), slots * dim, width, patch)
        start_at_zero(self.surface.leave[-1])
        self.to_own = nn.ModuleDict({name_of(grid): Regridding(grid, layout.grid) for grid in layout.other_grids})

    def forward(self, forcings: Fields | None) -> Float[Tensor, "batch depth row column dim"]:
        """Encode normalised fields of one time each, on any of the layout's grids.

        Raises:
            ChannelError: if one of the layout's forcings is not among them.
            DataError: if there are none.
            GridError: if they are on none of the layout's grids.
        """
        known = needed(forcings, self.layout)
        grid = known_grid(self.layout, known.frame.grid)
        values = known.select(self.layout.forcings).filled()[:, 0]
        if grid != self.layout.grid:
            values = self.to_own[name_of(grid)](values)
        tokens: Tensor = self.surface(self.padding.pad(values))
        return torch.unflatten(tokens, 1, (self.slots, -1)).permute(0, 1, 3, 4, 2)


def adopt(network: Network, trained_network: Network, shared: set[str]) -> Transfer:
    """Take over encoders by the name of their source, details by their grid, and everything else as a whole.

    Those of sources and grids that the trained network does not know stay new, and what takes forcings or noise where
    it took none; those that the network does not know are dropped.

    Args:
        network: to give weights to.
        trained_network: where they are from.
        shared: parts that both know, of those that only one of two networks may have.

    Raises:
        CheckpointError: if the two differ in anything but their sources, further grids, forcings and noise.
    """
    own, theirs = network.state_dict(), trained_network.state_dict()
    outcomes: dict[str, str] = {}
    for key, tensor in own.items():
        if not _parts_of(key) <= shared:
            outcomes[key] = "new"
            continue
        trained = theirs.get(key)
        if trained is None or trained.shape != tensor.shape:
            there = "missing" if trained is None else tuple(trained.shape)
            raise CheckpointError(
                f"the trained WeatherMesh is of another size: {key} is {there} there and {tuple(tensor.shape)} here"
            )
        own[key], outcomes[key] = trained, "loaded"
    for key in theirs.keys() - own.keys():
        if _parts_of(key) <= shared:
            raise CheckpointError(f"the trained WeatherMesh has {key}, which this one has not; give it the same size")
        outcomes[key] = "dropped"
    network.load_state_dict(own)
    return Transfer(outcomes, frozenset(key for key, outcome in outcomes.items() if outcome == "new"))


def check_layout(layout: Layout, dim: int, heads: int, sources: dict[str, tuple[Channel, ...]]) -> None:
    """Make sure that a network can be built for a layout.

    Raises:
        RecipeError: if it cannot.
    """
    if layout.target_grid is not None and layout.target_grid != layout.grid:
        raise RecipeError("WeatherMesh predicts on the grid of its inputs; interpolate them to the target grid first")
    for grid in (layout.grid, *layout.other_grids):
        reaches_poles = np.abs(grid.latitude_bounds[[0, -1]]).min() > 90 - 1e-3
        if not (grid.is_periodic and reaches_poles):
            raise RecipeError(f"WeatherMesh needs a whole globe, but the grid is {grid}")
    if len({name_of(grid) for grid in layout.other_grids}) < len(layout.other_grids):
        raise RecipeError(
            f"two of the grids {', '.join(map(str, layout.other_grids))} have as many points; bring one to the other "
            "with `etesian prepare --grid`"
        )
    for source, channels in sources.items():
        if "." in source or not source:
            raise RecipeError(f"'{source}' cannot name a source; take letters, digits, - and _")
        if all(c.level is None for c in channels):
            where = "the layout has none among its inputs" if len(sources) == 1 else f"{source} gives none"
            raise RecipeError(f"WeatherMesh needs variables on pressure levels, but {where}")
    if dim % heads or dim % 2:
        raise RecipeError(f"dim={dim} must be a multiple of heads={heads} and of 2")


def forcings_of(target: Frame, forcings: Fields | None, layout: Layout) -> Callable[[Sequence[int]], Fields | None]:
    """Return what gives the forcings of target times, numbered sample by sample; None where a layout has none.

    Raises:
        DataError: if they are missing or of other times.
    """
    known = known_at(target, forcings, layout)
    return (lambda _: None) if known is None else known.one_by_one().take


def known_grid(layout: Layout, grid: Grid) -> Grid:
    """Return a grid of a layout.

    Raises:
        GridError: if it is none.
    """
    known = layout.grid, *layout.other_grids
    if grid not in known:
        raise GridError(
            f"the network was built for {' and '.join(map(str, known))}, not for {grid}; bring the fields to "
            f"{'one of these' if len(known) > 1 else 'this'} with `etesian prepare --grid`"
        )
    return grid


def source_of(sources: Collection[str], name: str | None) -> str:
    """Return the source of a name, the only one where there is no name.

    Raises:
        DataError: if there is no such source, or no name among several.
    """
    names = list(sources)
    if name is None and len(names) > 1:
        raise DataError(f"the network has encoders for {', '.join(names)}; say which source the inputs come from")
    if name is not None and name not in names:
        raise DataError(f"the network has no encoder for '{name}'{suggest(name, names)}")
    return names[0] if name is None else name


def resolve(sources: dict[str, tuple[str, ...]], layout: Layout) -> dict[str, tuple[Channel, ...]]:
    """Return the channels of each source, among the layout's inputs."""
    if not sources:
        raise RecipeError("sources must name at least one source of analyses, or be left out")
    return {name: parse_channels(channels, layout.inputs) for name, channels in sources.items()}


def part_of(key: str) -> str:
    """Return the plain name of the part that a parameter or a buffer belongs to."""
    names = key.split(".")
    if is_for_noise(key):
        return "noise"
    if "details" in names:
        return f"details/{names[names.index('details') + 1]}"
    own = {"encoders": f"encoder/{names[1]}", "processors": "processors", "forcing_encoder": "forcings"}
    return own.get(names[0], "decoder")


def _parts_of(key: str) -> set[str]:
    """Return the parts that a network must have to have a tensor, of those that it may lack."""
    names = key.split(".")
    source = {f"encoder/{names[1]}"} if names[0] == "encoders" else set()
    return source | {part for part in (part_of(key),) if part in ("forcings", "noise") or part.startswith("details/")}


def check_same(what: str, here: tuple[object, ...], there: tuple[object, ...]) -> None:
    """Make sure that a trained network has the same as the one that is to begin with its weights.

    Raises:
        CheckpointError: if not, naming what differs.
    """
    if here != there:
        differs = next(iter([str(x) for x in (*here, *there) if x not in here or x not in there]), "the order")
        raise CheckpointError(f"the trained WeatherMesh has other {what}: {differs} is not in both")
