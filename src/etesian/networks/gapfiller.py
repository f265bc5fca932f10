"""Gap filling: daily or hourly fields of months with holes in them become gap-free fields."""

import math
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from etesian.core.clock import hour_of_day, year_phase
from etesian.core.constants import EARTH_RADIUS, SECONDS_PER_DAY
from etesian.core.device import positions, sent
from etesian.core.errors import DataError, GridError, RecipeError
from etesian.core.fields import Fields, Frame, Layout
from etesian.core.grid import Grid
from etesian.networks.gapfiller_parts import (
    SMALL,
    DailyRefinement,
    DayPooling,
    Guess,
    MapDecoder,
    MonthMixing,
    SuccessiveCorrections,
    observed_mean,
)
from etesian.networks.kriging import LocalKriging
from etesian.networks.kriging_fit import Sample, fit_covariance
from etesian.networks.network import Distribution, Months, Reconstruction, asks_for_each_time, find_months
from etesian.nn.attention import TransformerBlock
from etesian.nn.neighborhood_block import NeighborhoodBlock
from etesian.nn.tokens import patchify, sincos, sincos_2d, spherical_harmonics

_YEAR_WAVES, _DAY_WAVES = 4, 2

_FIRST_LOG_VARIANCE = -3.0
"""Of the error that an untrained network expects, in normalised units."""

_CERTAINTY = 20.0
"""Observations that the variances of kriging count as, before it is fitted."""

_SCALES = ((1.4, 5.2, 0.8), (2.0, 2.5, 0.14), (0.5, 2.6, 1.1), (0.7, 2.7, 0.004), (0.54, 2.0, 0.01), (0.46, 0.9, 0.01))


class GapFiller(Reconstruction):
    """The spatio-temporal model of the ESO4CLIMA prototype, extended.

    Patches of each day become tokens, which are pooled over the days of each month at every place, mixed over months
    and over places, and decoded into maps. Only patches of which something was observed become tokens, so that cost
    grows with what was observed. Until the places are mixed, no place learns of another but through the analysis that
    the answer is added to.

    Args:
        layout: what goes in and what comes out; the grid may be one tile, and fields may come on any other grid that
            whole patches cover.
        patch: rows and columns of a patch, or one number for both.
        dim: width of a token.
        depth: number of transformer blocks that mix the places.
        heads: number of attention heads.
        mlp_ratio: hidden width of the blocks' MLPs over `dim`.
        pooling_heads: means over the days of a month that are formed at every place, each with weights of its own.
        window: patches to each of which a patch attends in latitude and in longitude, for large grids; None attends to
            all.
        calendar: tell the day of the year and the hour, beside the day of the month.
        harmonics: degree of the spherical harmonics that tell where on the globe a place is; 0 tells only where in the
            tile.
        month_attention: mix the months of a sample at every place.
        residual: what the network adds to: `kriging` of the observations, with its variance; an `analysis` of them by
            successive corrections; the `mean` of what was observed in the month (all 0, in normalised units, where
            nothing was); or `nothing`.
        kernels: the covariance of kriging to begin with, before it is fitted: s², L in km and τ in days of each part;
            by default 2½, 10 and 35 rows of the grid and 0.7, 2 and 5 days.
        scales: the analysis to begin with, by pass: widths of the kernel in grid points and in days, and the number of
            observations that would halve a correction.
        refine: channels of the convolutions over neighbouring times and points that refine kriging or the analysis, at
            half the resolution; 0 for none.
        variance: give the variance of the error, too.
        daily: decode the fields of each input time, too.
        hidden: channels of the decoder; half as many at full resolution.
        overlap: points by which the decoder's kernels reach into neighbouring patches.
        dropout: share of activations dropped in training.

    Raises:
        RecipeError: if the sizes do not fit, the layout has forcings or another target grid, or a residual has nothing
            to be added to.
    """

    analysis: SuccessiveCorrections | None
    kriging: LocalKriging | None
    refinement: DailyRefinement | None

    def __init__(
        self,
        layout: Layout,
        *,
        patch: int | tuple[int, int] = 4,
        dim: int = 128,
        depth: int = 2,
        heads: int = 4,
        mlp_ratio: float = 4.0,
        pooling_heads: int = 4,
        window: int | None = None,
        calendar: bool = True,
        harmonics: int = 6,
        month_attention: bool = True,
        residual: Literal["kriging", "analysis", "mean", "nothing"] = "analysis",
        kernels: Sequence[tuple[float, float, float]] | None = None,
        scales: Sequence[tuple[float, float, float]] = _SCALES,
        refine: int = 16,
        variance: bool = False,
        daily: bool = False,
        hidden: int = 128,
        overlap: int = 1,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.layout = layout
        self.patch = (patch, patch) if isinstance(patch, int) else (patch[0], patch[1])
        self.dim, self.window, self.residual = dim, window, residual
        _check(layout, self.patch, dim, heads, residual)
        pixels = self.patch[0] * self.patch[1]
        self.embed = nn.Linear(2 * len(layout.inputs) * pixels, dim)
        self.embed_norm = nn.LayerNorm(dim)
        self.pooling = DayPooling(dim, pooling_heads)
        self.nothing_seen = nn.Parameter(torch.zeros(dim))
        self.season = nn.Linear(2 * (_YEAR_WAVES + _DAY_WAVES), dim) if calendar else None
        self.months = MonthMixing(dim, heads, mlp_ratio) if month_attention else None
        self.sphere = nn.Linear((harmonics + 1) ** 2 - 1, dim, bias=False) if harmonics else None
        self.harmonics = harmonics
        self.statics = nn.Linear(2 * len(layout.statics) * pixels, dim) if layout.statics else None
        self.blocks = self.make_blocks(depth, heads, mlp_ratio, dropout)
        self.norm = self.make_norm()
        self.analysis = SuccessiveCorrections(scales) if residual == "analysis" else None
        self.kriging = None
        if residual == "kriging":
            begin = _kernels(layout.grid) if kernels is None else kernels
            self.kriging = LocalKriging(len(layout.inputs), begin, certainty=_CERTAINTY)
            # The layers above learn what the fitted covariance leaves; both at once would have to krige for gradients.
            self.kriging.requires_grad_(False)
        maps = {"kriging": 2, "analysis": 1 + 2 * len(scales), "mean": 2, "nothing": 0}
        known = len(layout.inputs) * maps[residual]
        by_time = self.analysis is not None or self.kriging is not None
        self.refinement = DailyRefinement(len(layout.inputs), known, refine) if refine and by_time else None
        self.gives_variance = variance
        outputs = len(layout.targets) * (1 + int(variance))
        self.decoder = self.make_decoder(hidden, overlap, known, outputs)
        self.day = nn.ModuleDict()
        if daily:
            own = 2 * len(layout.inputs)
            self.day["month"] = nn.Linear(dim, dim)
            self.day["token"] = nn.Linear(dim, dim)
            self.day["norm"] = nn.LayerNorm(dim)
            self.day["decoder"] = MapDecoder(dim, self.patch, hidden, overlap, known + own, outputs)

    def make_blocks(self, depth: int, heads: int, mlp_ratio: float, dropout: float) -> nn.ModuleList:
        """Return the transformer that mixes places."""
        if self.window is None:
            return nn.ModuleList(TransformerBlock(self.dim, heads, mlp_ratio, dropout) for _ in range(depth))
        window = (1, self.window, self.window)
        return nn.ModuleList(
            NeighborhoodBlock(self.dim, heads, window, mlp_ratio, rotary=False, dropout=dropout) for _ in range(depth)
        )

    def make_norm(self) -> nn.Module:
        """Return what follows the blocks."""
        return nn.LayerNorm(self.dim)

    def make_decoder(self, hidden: int, overlap: int, known: int, outputs: int) -> MapDecoder:
        """Return what makes maps of months from tokens."""
        return MapDecoder(self.dim, self.patch, hidden, overlap, known, outputs)

    def distribution(self, inputs: Fields, target: Frame, *, statics: Fields | None = None) -> Distribution:
        """Return normalised means and variances; see `Reconstruction`.

        Raises:
            DataError: if the target's times are none that the network can answer.
            GridError: if whole patches do not cover the grid, or the target is on another one.
        """
        inputs = inputs.select(self.layout.inputs)
        frame = inputs.frame
        self._check_grid(frame.grid, target.grid)
        months = find_months(frame, target)
        each_time = asks_for_each_time(frame, target)
        if each_time and not self.day:
            raise DataError("this network was built for monthly means only; set daily: true for the fields of each day")
        values, valid = inputs.filled(), inputs.valid
        if valid is None:
            valid = torch.ones_like(values, dtype=torch.bool)
        when = self.time_position(frame, months)
        tokens, seen, days = self.pool_days(values, valid, when, months)
        if self.season is not None:
            tokens = tokens + self.season(sent(season_waves(months.start, frame.calendar), tokens))[:, :, None]
        if self.months is not None:
            sequence, present = (x.transpose(1, 2).flatten(0, 1) for x in (tokens, seen))
            tokens = torch.unflatten(self.months(sequence, present), 0, (len(values), -1)).transpose(1, 2)
        tokens = self.mix_places(tokens, frame.grid, statics)
        if each_time:
            return self._decode_days(tokens, days, when, months, inputs, target)
        guess = self._guess(inputs, valid, months, each_time=False)
        maps = self.decoder(tokens.flatten(0, 1), guess.known.flatten(0, 1), periodic=frame.grid.is_periodic)
        return self._answer(torch.unflatten(maps, 0, tokens.shape[:2]), guess, target)

    def time_position(self, frame: Frame, months: Months) -> Float[Tensor, "batch time dim"]:
        """Return what tells times apart: sines and cosines of the day of the month, day of the year and hour."""
        position = sincos(self.dim, months.days.flatten().numpy())
        # Sines and cosines alternate, as in the original.
        pairs = np.stack([position[:, : self.dim // 2], position[:, self.dim // 2 :]], axis=-1)
        when = sent(pairs.reshape(*months.days.shape, self.dim), self.embed.weight)
        if self.season is not None:
            when = when + self.season(sent(season_waves(frame.time, frame.calendar), when))
        return when

    def to_tokens(
        self, values: Tensor, valid: Tensor
    ) -> tuple[Bool[Tensor, "batch time place"], tuple[Tensor, Tensor, Tensor], Tensor]:
        """Return which patches become tokens, where they are, and their pixels and masks as one list."""
        batch, time = values.shape[:2]
        maps = torch.cat([values, valid.to(values.dtype)], dim=2).flatten(0, 1)
        pixels = torch.unflatten(patchify(maps, self.patch, periodic=False), 0, (batch, time))
        present = self.present(pixels[:, :, :, values.shape[2] :].flatten(3) > 0)
        b, t, p = present.nonzero(as_tuple=True)
        return present, (b, t, p), pixels[b, t, p].flatten(1)

    def present(self, valid: Bool[Tensor, "batch time place pixel"]) -> Bool[Tensor, "batch time place"]:
        """Return which patches become tokens: those of which anything was observed."""
        return valid.any(-1)

    def pool_days(
        self, values: Tensor, valid: Tensor, when: Float[Tensor, "batch time dim"], months: Months
    ) -> tuple[Float[Tensor, "batch month place dim"], Bool[Tensor, "batch month place"], tuple[Tensor, Tensor]]:
        """Return a token for each month and place, whether anything was seen, and days' tokens and where they are.

        Until here no place has learnt of another.
        """
        present, (b, t, p), pixels = self.to_tokens(values, valid)
        count, places = months.start.shape[1], present.shape[2]
        tokens = self.embed_norm(self.embed(pixels))
        slot = (b * count + sent(months.member.int().argmax(-1), values)[b, t]) * places + p
        slots = len(values) * count * places
        pooling = tokens + when[b, t]
        if not bool((inside := months.member.any(-1)).all()):
            kept = sent(inside, values)[b, t].nonzero()[:, 0]
            pooling, slot = pooling.index_select(0, kept), slot.index_select(0, kept)
        pooled = self.pooling(pooling, slot, slots)
        seen = torch.zeros(slots, dtype=torch.bool, device=values.device).index_fill(0, slot, True)
        pooled = torch.where(seen[:, None], pooled, self.nothing_seen.to(pooled.dtype))
        shape = (len(values), count, places)
        return pooled.view(*shape, self.dim), seen.view(shape), (present, tokens)

    def mix_places(
        self, tokens: Float[Tensor, "batch month place dim"], grid: Grid, statics: Fields | None
    ) -> Float[Tensor, "batch month row column dim"]:
        """Let places attend to one another, each with its position and static fields."""
        rows, columns = grid.shape[0] // self.patch[0], grid.shape[1] // self.patch[1]
        tokens = tokens + self.place_position(grid).to(tokens).flatten(0, 1)
        if self.statics is not None:
            if statics is None:
                raise DataError(f"the network needs the static field '{self.layout.statics[0]}'")
            fixed = statics.select(self.layout.statics)
            known = torch.ones_like(fixed.values) if fixed.valid is None else fixed.valid.to(fixed.values)
            maps = torch.cat([fixed.filled(), known], dim=2)[:, 0]
            pixels = patchify(maps, self.patch, periodic=False).flatten(2)
            tokens = tokens + self.statics(pixels)[:, None]
        batch, months = tokens.shape[:2]
        mixed = tokens.flatten(0, 1)
        if self.window is not None:
            mixed = torch.unflatten(mixed, 1, (1, rows, columns) if grid.is_periodic else (rows, columns, 1))
        for block in self.blocks:
            if isinstance(block, NeighborhoodBlock):
                # The last axis of neighbourhood attention closes the circle; bounded longitudes take the one before it.
                side = block.attention.window[1]
                block.attention.window = (1, side, side) if grid.is_periodic else (side, side, 1)
            mixed = block(mixed)
        return self.norm(mixed).view(batch, months, rows, columns, self.dim)  # type: ignore[no-any-return]

    def place_position(self, grid: Grid) -> Float[Tensor, "row column dim"]:
        """Return what tells places apart: row and column in the tile, and where on the globe."""
        rows, columns = grid.shape[0] // self.patch[0], grid.shape[1] // self.patch[1]
        position = sent(sincos_2d(self.dim, rows, columns), self.embed.weight)
        if self.sphere is not None:
            position = position + self.sphere(sent(_harmonics(grid, self.patch, self.harmonics), position))
        return position

    def _guess(self, inputs: Fields, valid: Tensor, months: Months, *, each_time: bool) -> Guess:
        """Return what the network adds to, and what it is told of it."""
        values, grid = inputs.filled(), inputs.frame.grid
        daily: Guess | None = None
        if self.kriging is not None:
            daily = self._krige(inputs, valid)
        elif self.analysis is not None:
            days = sent((inputs.frame.time - inputs.frame.time[:, :1]).to(values.dtype) / SECONDS_PER_DAY, values)
            daily = self.analysis(values, valid, days, periodic=grid.is_periodic)
        if daily is not None:
            if self.refinement is not None:
                missed = self.refinement(daily, values, valid, periodic=grid.is_periodic)
                daily = daily._replace(values=daily.values + missed)
            share = sent(months.member.to(values.dtype) / months.member.sum(1, keepdim=True).clamp(min=1), values)
            return daily if each_time else daily.over(share)
        monthly = observed_mean(values, valid, sent(months.member, values))
        if self.residual == "nothing":
            monthly = Guess(torch.zeros_like(monthly.values), monthly.known[:, :, :0])
        return Guess(*(_of_each_time(x, months) for x in monthly[:2])) if each_time else monthly

    def _krige(self, inputs: Fields, valid: Tensor) -> Guess:
        assert self.kriging is not None
        # In days since 1970, so that times without observations, before or after, do not change which are taken.
        days = inputs.frame.time.double() / SECONDS_PER_DAY
        values, variance = self.kriging(inputs.filled(), valid, days, inputs.frame.grid)
        prior = self.kriging.kernels()[:, :, 0].sum(1)[:, None, None].to(variance)
        return Guess(values, torch.cat([values, (variance / prior).log() / 4 + 1], dim=2), variance)

    @property
    def wants_fit(self) -> bool:
        """Whether kriging waits for its covariance."""
        return self.kriging is not None and not self.kriging.fitted

    def fit_guess(self, samples: Iterable[Fields]) -> float:
        """Fit the covariance of kriging to normalised inputs; return the mean negative log-likelihood."""
        assert self.kriging is not None
        known = []
        for fields in samples:
            inputs = fields.select(self.layout.inputs)
            valid = torch.ones_like(inputs.values, dtype=torch.bool) if inputs.valid is None else inputs.valid
            days = inputs.frame.time.double() / SECONDS_PER_DAY
            known.append(Sample(inputs.filled(), valid, days, inputs.frame.grid))
        return fit_covariance(self.kriging, known)

    def _decode_days(
        self,
        tokens: Float[Tensor, "batch month row column dim"],
        days: tuple[Tensor, Tensor],
        when: Tensor,
        months: Months,
        inputs: Fields,
        target: Frame,
    ) -> Distribution:
        values = inputs.filled()
        valid = torch.ones_like(values, dtype=torch.bool) if inputs.valid is None else inputs.valid
        present, own = days
        context = _of_each_time(self.day["month"](tokens), months)
        own = self.day["token"](own)
        of_day = own.new_zeros(*present.shape, self.dim).masked_scatter(present[..., None], own)
        latent = context + of_day.view(context.shape) + when[:, :, None, None]
        latent = self.day["norm"](F.gelu(latent))
        guess = self._guess(inputs, valid, months, each_time=True)
        known = torch.cat([guess.known, values, valid.to(values)], dim=2)
        periodic = inputs.frame.grid.is_periodic
        maps = self.day["decoder"](latent.flatten(0, 1), known.flatten(0, 1), periodic=periodic)
        return self._answer(torch.unflatten(maps, 0, months.days.shape), guess, target)

    def _answer(self, maps: Float[Tensor, "batch time output lat lon"], guess: Guess, target: Frame) -> Distribution:
        """Add what the decoder gives to the first guess, for the channels that are asked for."""
        targets = self.layout.targets
        asked = positions([targets.index(c) for c in target.channels], maps.device)
        parts = torch.unflatten(maps, 2, (len(targets), -1)).index_select(2, asked)
        mean = parts[:, :, :, 0]
        inputs = self.layout.inputs
        own = positions([inputs.index(c) for c in target.channels if self.residual != "nothing"], maps.device)
        if self.residual != "nothing":
            unit = 1.0 if self.residual == "mean" else SMALL
            mean = unit * mean + guess.values.index_select(2, own)
        variance = None
        if self.gives_variance:
            first = math.exp(_FIRST_LOG_VARIANCE) if guess.variance is None else guess.variance.index_select(2, own)
            variance = first * parts[:, :, :, 1].clamp(-9, 15).exp()
        return Distribution(mean, variance)

    def _check_grid(self, grid: Grid, target: Grid) -> None:
        if grid != target:
            raise GridError(f"gaps are filled on the grid of the inputs, {grid}, not on {target}")
        for size, step, axis in zip(grid.shape, self.patch, ("latitudes", "longitudes"), strict=True):
            if size % step:
                raise GridError(f"{size} {axis} are no multiple of the patch of {step}; choose tiles that are")

    def no_decay(self) -> set[str]:
        """Return what is no matrix, and the widths of the kernels."""
        return {name for name, parameter in self.named_parameters() if parameter.ndim < 2}

    def parts(self) -> dict[str, set[str]]:
        """Return parameters by plain names: all, encoder, pooling, attention, norms, decoder."""
        names = {name for name, _ in self.named_parameters()}

        def of(*beginnings: str) -> set[str]:
            return {name for name in names if name.startswith(beginnings)}

        return {
            "all": names,
            "encoder": of("embed", "season", "sphere", "statics", "nothing_seen"),
            "pooling": of("pooling"),
            "attention": of("months", "blocks"),
            "norms": {name for name in names if "norm" in name},
            "decoder": of("decoder", "day.", "analysis", "kriging", "refinement"),
        }


def _of_each_time(monthly: Float[Tensor, "batch month *axes"], months: Months) -> Float[Tensor, "batch time *axes"]:
    """Return what belongs to the month of each time."""
    count, month = monthly.shape[1], months.member.int().argmax(-1)
    rows = count * torch.arange(len(month))[:, None] + month
    chosen = monthly.flatten(0, 1).index_select(0, sent(rows.flatten(), monthly))
    return torch.unflatten(chosen, 0, month.shape)


def season_waves(time: Tensor, calendar: str) -> Float[Tensor, "batch time wave"]:
    """Return sines and cosines of the day of the year and of the hour of the day."""
    seconds = time.numpy()
    # Months without a time are given as the last moment there is, which no calendar knows.
    seconds = np.where(seconds == np.iinfo(np.int64).max, 0, seconds)
    year = 2 * np.pi * year_phase(seconds, calendar)[..., None] * np.arange(1, _YEAR_WAVES + 1)
    day = 2 * np.pi * hour_of_day(seconds)[..., None] / 24 * np.arange(1, _DAY_WAVES + 1)
    return torch.from_numpy(np.concatenate([f(angle) for angle in (year, day) for f in (np.sin, np.cos)], axis=-1))


@lru_cache(maxsize=64)
def _harmonics(grid: Grid, patch: tuple[int, int], degree: int) -> Float[Tensor, "row column harmonic"]:
    """Return spherical harmonics at the centres of patches, without the constant one."""
    latitude = grid.latitude.reshape(-1, patch[0]).mean(1)
    longitude = grid.longitude.reshape(-1, patch[1]).mean(1)
    with torch.inference_mode(False):
        return torch.from_numpy(spherical_harmonics(latitude, longitude, degree)[..., 1:])


def _kernels(grid: Grid) -> list[tuple[float, float, float]]:
    """Return a covariance to begin with, of fields of variance 1."""
    rows = np.diff(grid.latitude) if grid.latitude.size > 1 else np.diff(grid.longitude)
    step = float(np.radians(np.median(rows) if rows.size else 1.0)) * EARTH_RADIUS / 1000
    return [(0.1, 2.5 * step, 0.7), (0.3, 10 * step, 2.0), (0.8, 35 * step, 5.0)]


def _check(layout: Layout, patch: tuple[int, int], dim: int, heads: int, residual: str) -> None:
    if dim % heads or dim % 4:
        raise RecipeError(f"dim={dim} must be a multiple of heads={heads} and of 4")
    if layout.forcings:
        raise RecipeError(f"GapFiller takes no forcings, but the layout has '{layout.forcings[0]}'; make it an input")
    if layout.target_grid is not None and layout.target_grid != layout.grid:
        raise RecipeError("GapFiller fills gaps on the grid of its inputs; regrid the truth to it")
    if residual != "nothing" and (missing := [c for c in layout.targets if c not in layout.inputs]):
        raise RecipeError(
            f"a residual needs what was observed of '{missing[0]}', not among the inputs; set residual: nothing"
        )
