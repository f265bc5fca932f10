"""WeatherMesh: an encoder, processors that step through time in latent space, a decoder (arXiv 2503.22235)."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Literal, get_args

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor, nn

from etesian.core.device import positions
from etesian.core.errors import DataError, GridError, RecipeError, suggest
from etesian.core.fields import Fields, Frame, Layout
from etesian.core.grid import Grid
from etesian.networks.network import Network, Normals, Transfer, lead_hours, shares
from etesian.networks.weathermesh_encoder import (
    Encoder,
    ForcingEncoder,
    adopt,
    check_layout,
    check_same,
    forcings_of,
    known_grid,
    part_of,
    resolve,
    source_of,
)
from etesian.networks.weathermesh_parts import (
    DecoderDetail,
    GridPadding,
    LevelInterpolation,
    SurfaceDecoder,
    fitting_patch,
    name_of,
    overlapping,
    profiles,
    start_at_zero,
)
from etesian.networks.weathermesh_steps import Latent, Step, plan, walk
from etesian.nn.attention import initialise_linear
from etesian.nn.convolution import GlobeConvTranspose
from etesian.nn.neighborhood_block import NeighborhoodBlock, NeighborhoodBlocks
from etesian.nn.noise import NORMALS, Modulation, NoiseEmbedding, Places
from etesian.nn.tokens import patch_counts

Position = Literal["rotary", "sincos"]

Patch = tuple[int, int, int]


class WeatherMesh(Network):
    """Fields to a latent of the whole atmosphere, steps of some hours there, and back to fields.

    The latent has the axes depth, latitude and longitude; its last layer in depth is the surface, the others are made
    of pressure levels. Each token is normalised, after the encoder and after each step, so that a forecast of any
    length stays bounded. A lead is reached by the longest steps that fit into it, one after the other; leads share the
    steps that they begin with.

    Levels and grids that patches do not divide are padded: with the highest level, round the circle and across the
    poles.

    The layout may have other grids as well. Fields on one of them are taken to the network's own grid, whose points
    patches are made of, and a forecast is taken back; what the other grid shows beyond goes past that, into the tokens
    and out of them, by convolutions of its own. So all grids share encoders, processors and decoder, and a network that
    was trained on one grid meets a finer one with all that it knows.

    Forcings are known at the target times alone. Those of a lead's valid time are added to the latent that is decoded
    there, at all depths, and no step sees any: a lead does not depend on which others are asked for.

    Args:
        layout: what goes in and what comes out.
        levels: the network's own pressure levels in hPa, between which and the layout's profiles are interpolated; by
            default those of the layout's inputs.
        continue_levels: where a variable's profile ends before the network's levels do, go on with its outermost
            level; by default such a profile is refused.
        sources: channels of each source of analyses by its name, such as ERA5 and GFS; a bare variable means all levels
            in the inputs. Each source has an encoder of its own, and the data name their source. Default: one encoder,
            called `analysis`, for all inputs.
        patch: levels, rows and columns that make up a token.
        dim: width of a token.
        heads: number of attention heads.
        window: neighbours in depth, latitude and longitude that a token attends to.
        encoder_depth: number of transformer blocks behind the encoder's convolutions.
        decoder_depth: number of transformer blocks before the decoder's.
        processors: number of transformer blocks by hours of a step; by default 10 each for 1 h and 6 h.
        mlp_ratio: hidden width of the blocks' MLPs over `dim`.
        surface_width: channels of the surface path at the full resolution; twice as many after each halving.
        position: how attention knows places: `rotary` turns queries and keys, `sincos` is added to the latent.
        dropout: share of activations dropped in training.
        seamless: whether the decoder's patches overlap and add up evenly, so that forecasts show no edges of patches.

    Raises:
        RecipeError: if the layout has another target grid, part of a globe, another grid that has no patches
            where the own grid has, or no variable on levels, or sizes do not fit one another.
    """

    steps_in_time = True

    takes_steps = True

    def __init__(
        self,
        layout: Layout,
        *,
        levels: tuple[int, ...] | None = None,
        continue_levels: bool = False,
        sources: dict[str, tuple[str, ...]] | None = None,
        patch: tuple[int, int, int] = (4, 8, 8),
        dim: int = 768,
        heads: int = 24,
        window: tuple[int, int, int] = (5, 7, 7),
        encoder_depth: int = 2,
        decoder_depth: int = 2,
        processors: dict[int, int] | None = None,
        mlp_ratio: float = 4.0,
        surface_width: int = 32,
        position: Position = "rotary",
        dropout: float = 0.0,
        seamless: bool = False,
    ) -> None:
        super().__init__()
        self.sources = {"analysis": layout.inputs} if sources is None else resolve(sources, layout)
        if position not in get_args(Position):
            raise RecipeError(f"there is no position '{position}'{suggest(position, get_args(Position))}")
        check_layout(layout, dim, heads, self.sources)
        self.layout = layout
        steps = {1: 10, 6: 10} if processors is None else processors
        self.steps = sorted(steps, reverse=True)
        if not steps or self.steps[-1] < 1:
            raise RecipeError(f"WeatherMesh needs processors of whole hours, not of {sorted(steps)} h")

        on_levels = [c for c in layout.inputs if c.level is not None]
        self.levels = tuple(sorted(levels or {c.level for c in on_levels if c.level is not None}))
        self.padding = GridPadding(layout.grid.shape, patch[1:], poles=layout.grid.has_poles)
        self.levels_above = -len(self.levels) % patch[0]
        slots = (len(self.levels) + self.levels_above) // patch[0] + 1
        self.latent_shape = (slots, *patch_counts(layout.grid.shape, patch[1:]))
        patches = {grid: (patch[0], *fitting_patch(grid, layout.grid, patch[1:])) for grid in layout.other_grids}

        def blocks(depth: int) -> NeighborhoodBlocks:
            rotary = position == "rotary"
            made = (
                NeighborhoodBlock(dim, heads, window, mlp_ratio, rotary=rotary, dropout=dropout) for _ in range(depth)
            )
            return NeighborhoodBlocks(*made)

        encoders = {
            source: Encoder(
                replace(layout, inputs=channels),
                self.levels,
                continue_levels=continue_levels,
                patch=patch,
                dim=dim,
                surface_width=surface_width,
                blocks=blocks(encoder_depth),
                sincos=position == "sincos",
                padding=self.padding,
                patches=patches,
            )
            for source, channels in self.sources.items()
        }
        self.encoders = nn.ModuleDict(encoders)
        self.processors = nn.ModuleDict({str(hours): blocks(depth) for hours, depth in sorted(steps.items())})
        self.decoder = blocks(decoder_depth)
        self.norm = nn.LayerNorm(dim)
        self._build_output(dim, surface_width, patch, patches, seamless=seamless)
        self.forcing_encoder: ForcingEncoder | None = None
        if layout.forcings:
            self.forcing_encoder = ForcingEncoder(layout, slots, dim, surface_width, patch[1:], self.padding)
        self.noise_embed: NoiseEmbedding | None = None
        self.last_modulation: Modulation | None = None
        self.apply(initialise_linear)

    def _build_output(
        self, dim: int, surface_width: int, patch: Patch, patches: dict[Grid, Patch], *, seamless: bool
    ) -> None:
        targets = self.layout.targets
        on_levels = [c for c in targets if c.level is not None]
        surface = [c for c in targets if c.level is None]
        names = list(dict.fromkeys(c.name for c in on_levels))
        self.output_index = [(on_levels + surface).index(c) for c in targets]
        self.pressure_decoder = self.from_levels = self.surface_decoder = None
        if on_levels:
            kernel = (patch[0], *overlapping(patch[1:])) if seamless else patch
            self.pressure_decoder = GlobeConvTranspose(dim, len(names), kernel, patch, seamless=seamless)
            start_at_zero(self.pressure_decoder.convolution)
            self.from_levels = LevelInterpolation(profiles(names, self.levels), on_levels)
        if surface:
            self.surface_decoder = SurfaceDecoder(dim, len(surface), surface_width, patch[1:], seamless=seamless)
        self.details = nn.ModuleDict(
            {
                name_of(grid): DecoderDetail(self.layout.grid, grid, len(names), len(surface), dim, own)
                for grid, own in patches.items()
            }
        )

    def accept_noise(self) -> None:
        """Let noise scale and shift what comes out of every norm of the blocks, and of the one behind them."""
        self.noise_embed, self.last_modulation = NoiseEmbedding(), Modulation(self.norm.normalized_shape[0])
        for module in self.modules():
            if isinstance(module, NeighborhoodBlock):
                module.accept_noise()

    def noise_shape(self, grid: Grid) -> tuple[int, ...]:
        """Return that of some normals for each place of the latent, on any grid; one draw for all of its depth."""
        return (*self.latent_shape[1:], NORMALS)

    def embedded(self, noise: Normals | None, number: int) -> Places | None:
        """Return what is made of the noise of a step; 0 before the first, which the encoder is given."""
        return None if noise is None or self.noise_embed is None else self.noise_embed(noise(number))

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
            ChannelError: if a channel is missing from the inputs, or the network does not predict one asked for.
            GridError: if the fields or the target are on none of the layout's grids, or the statics on another one than
                the inputs.
            DataError: if a lead is no sum of steps, or the statics, forcings or part of the history are missing.
        """
        known, ahead = self._wanted(target), forcings_of(target, forcings, self.layout)
        done: list[int] = []
        answers = []
        begin = self.encode(inputs, statics, self.embedded(noise, 0))
        for arrived, latent, drawn in self.walk(begin, lead_hours(inputs, target).tolist(), noise=noise):
            done += arrived
            answers.append(self.decode(latent, target.grid, drawn, ahead(arrived)).index_select(1, known))
        order = positions(np.argsort(done), answers[0].device)
        return torch.cat(answers).index_select(0, order).unflatten(0, target.time.shape)  # type: ignore[no-untyped-call, no-any-return]

    def stream(
        self,
        inputs: Fields,
        target: Frame,
        *,
        forcings: Fields | None = None,
        statics: Fields | None = None,
        others: Sequence[Fields] = (),
        weights: Sequence[float] = (),
        noise: Normals | None = None,
    ) -> Iterator[tuple[list[int], Float[Tensor, "batch time channel lat lon"]]]:
        """Predict lead by lead, where the samples have their leads in common; see `Network.stream`."""
        hours = lead_hours(inputs, target)
        if bool((hours != hours[:1]).any()):
            yield from super().stream(inputs, target, forcings=forcings, statics=statics, others=others, noise=noise)
            return
        known, ahead = self._wanted(target), forcings_of(target, forcings, self.layout)
        leads, first = hours[0].tolist(), self.embedded(noise, 0)
        apart = sorted(set(leads))
        begin = self.blend([inputs, *others], weights or [1.0] * (1 + len(others)), statics, first)
        for arrived, latent, drawn in self.walk(begin, [apart] * len(hours), noise=noise):
            places = [place for place, lead in enumerate(leads) if lead == apart[arrived[0]]]
            numbers = range(places[0], hours.numel(), len(leads))
            values = self.decode(latent, target.grid, drawn, ahead(numbers))
            yield places, values[:, None].index_select(2, known).expand(-1, len(places), -1, -1, -1)

    def encode(self, inputs: Fields, statics: Fields | None = None, noise: Places | None = None) -> Latent:
        """Turn fields into the latent, with embedded noise where the network accepts it.

        Raises:
            ChannelError: if a channel of the source is missing.
            GridError: if the fields are on none of the layout's grids, or the statics on another one than the inputs.
            DataError: if the statics or part of the history are missing, or the fields do not say which source they
                come from.
        """
        source = source_of(self.sources, inputs.frame.source)
        grid = known_grid(self.layout, inputs.frame.grid)
        if statics is not None and known_grid(self.layout, statics.frame.grid) != grid:
            raise GridError(f"the inputs are on {grid}, but the statics on {statics.frame.grid}; give them on one grid")
        return _normalised(self.encoders[source](inputs, statics, noise))

    def blend(
        self,
        analyses: Sequence[Fields],
        weights: Sequence[float],
        statics: Fields | None = None,
        noise: Places | None = None,
    ) -> Latent:
        """Turn several analyses of one time into one latent: the weighted mean of theirs, normalised again.

        Args:
            analyses: of the same times, each from a source of its own.
            weights: of the analyses, of any sum; those without weight are not encoded.
            statics: normalised fields that do not change.
            noise: embedded, the same for all of them.
        """
        parts = [(share, fields) for share, fields in zip(shares(weights), analyses, strict=True) if share]
        if len(parts) == 1:
            return self.encode(parts[0][1], statics, noise)
        return _normalised(torch.stack([share * self.encode(fields, statics, noise) for share, fields in parts]).sum(0))

    def layout_of(self, source: str | None) -> Layout:
        """Return the layout with the inputs of one source; see `Network.layout_of`."""
        chosen = source_of(self.sources, source)
        return replace(self.layout, inputs=self.sources[chosen], source=chosen)

    def parts(self) -> dict[str, set[str]]:
        """Return the names of parameters by part: all, encoder/SOURCE, processors, decoder and those of `_more`."""
        names = [*(f"encoder/{source}" for source in self.sources), "processors", "decoder", *self._more()]
        found: dict[str, set[str]] = {name: set() for name in names}
        for name, _ in self.named_parameters():
            found[part_of(name)].add(name)
        return super().parts() | found

    def _more(self) -> dict[str, object]:
        """Return the parts that a network may have or not, forcings, noise, details/GRID, and what two must share."""
        own = {"forcings": self.forcing_encoder, "noise": self.noise_embed}
        found: dict[str, object] = {name: True for name, part in own.items() if part is not None}
        return found | {f"details/{name_of(grid)}": grid for grid in self.layout.other_grids}

    def adopt(self, source: Network) -> Transfer:
        """Take over what a trained WeatherMesh shares with this one; see `weathermesh_encoder.adopt`."""
        if not isinstance(source, WeatherMesh):
            return super().adopt(source)
        check_same("targets", self.layout.targets, source.layout.targets)
        check_same("levels", self.levels, source.levels)
        shared = self.sources.keys() & source.sources.keys()
        for name in sorted(shared):
            check_same(f"inputs of {name}", self.sources[name], source.sources[name])
            check_same(f"static fields of {name}", self.layout.statics, source.layout.statics)
        if self.layout.forcings and source.layout.forcings:
            check_same("forcings", self.layout.forcings, source.layout.forcings)
        theirs = source._more()
        both = {name for name, of in self._more().items() if theirs.get(name) == of}
        return adopt(self, source, {f"encoder/{name}" for name in shared} | both)

    def step(self, latent: Latent, hours: int, noise: Places | None = None) -> Latent:
        """Advance the latent by the hours of one processor, with embedded noise where the network accepts it.

        Raises:
            DataError: if there is no such processor.
        """
        if hours not in self.steps:
            raise DataError(f"there is no processor of {hours} h; there are {self.steps} h")
        return _normalised(self.processors[str(hours)](latent, noise))

    def decode(
        self, latent: Latent, grid: Grid | None = None, noise: Places | None = None, forcings: Fields | None = None
    ) -> Float[Tensor, "batch channel lat lon"]:
        """Turn the latent into all targets of the layout.

        Args:
            latent: to decode.
            grid: of the layout to decode to; by default the network's own.
            noise: of the step that has led to the latent, embedded.
            forcings: normalised, at the one time of each latent, where the network takes any.

        Raises:
            GridError: if the layout has no such grid.
            DataError: if forcings are missing.
        """
        if self.forcing_encoder is not None:
            latent = latent + self.forcing_encoder(forcings)
        tokens = self.norm(self.decoder(latent, noise))
        if self.last_modulation is not None:
            tokens = self.last_modulation(tokens, None if noise is None else noise.unsqueeze(1))
        tokens = tokens.movedim(-1, 1)
        fields = self._fields(tokens, self.pressure_decoder, self.surface_decoder, self.padding)
        if grid is not None and known_grid(self.layout, grid) != self.layout.grid:
            detail = self.details[name_of(grid)]
            assert isinstance(detail, DecoderDetail)
            fine = self._fields(tokens, detail.pressure, detail.surface, detail.padding)
            fields = detail.to_grid(fields) + fine
        return fields.index_select(1, positions(self.output_index, fields.device))

    def _fields(
        self,
        tokens: Float[Tensor, "batch dim depth row column"],
        aloft: nn.Module | None,
        surface: nn.Module | None,
        padding: GridPadding,
    ) -> Float[Tensor, "batch channel lat lon"]:
        """Return what the last layers make of tokens: the channels on levels, then the others."""
        parts = []
        if aloft is not None and self.from_levels is not None:
            profiles = padding.crop(aloft(tokens[:, :, :-1]))[:, :, self.levels_above :]
            parts.append(self.from_levels(profiles.flatten(1, 2)))
        if surface is not None:
            parts.append(padding.crop(surface(tokens[:, :, -1])))
        return torch.cat(parts, dim=1)

    def plan(self, lead: float) -> tuple[int, ...]:
        """Return the steps to a lead in hours, the longest first.

        Raises:
            DataError: if they do not reach it.
        """
        return plan(lead, self.steps)

    def no_decay(self) -> set[str]:
        """Return biases and the scales of normalisations."""
        return {name for name, parameter in self.named_parameters() if parameter.ndim < 2}

    def _wanted(self, target: Frame) -> Int64[Tensor, " channel"]:
        """Return which of the layout's targets a frame asks for."""
        known_grid(self.layout, target.grid)
        wanted = replace(target, channels=self.layout.targets).index(target.channels)
        return positions(wanted, self.norm.weight.device)

    def walk(
        self,
        latent: Latent,
        leads: Sequence[Sequence[float]],
        step: Step | None = None,
        noise: Normals | None = None,
    ) -> Iterator[tuple[list[int], Latent, Places | None]]:
        """Reach the leads of each sample from its latent, by this network's steps or another; see `walk`."""
        return walk(latent, leads, self.steps, step or self.step, partial(self.embedded, noise))


def _normalised(latent: Tensor) -> Tensor:
    return F.layer_norm(latent, latent.shape[-1:])
