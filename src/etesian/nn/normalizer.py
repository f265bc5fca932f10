"""Physical units ↔ numbers of order one, about a constant or the seasonal cycle, and limits of what is predicted."""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor, nn

from etesian.core.channels import CATALOGUE, Channel
from etesian.core.device import positions, sent
from etesian.core.errors import ChannelError, RecipeError
from etesian.core.fields import Fields, Frame, Layout
from etesian.core.grid import Grid
from etesian.core.statistics import LOG1P_SCALE, Statistics
from etesian.nn.moment import seasons
from etesian.nn.tokens import locate_patches

Values = Float[Tensor, "batch time channel lat lon"]

Limits = tuple[float | None, float | None]

SHARPNESS = 5.0
"""Inverse of the width, in normalised units, over which a bound turns what would pass it."""


class Normalizer(nn.Module):
    """Takes fields to zero mean and unit variance and back.

    Args:
        statistics: of every channel that may come.
        anomalies: subtract the seasonal cycle of each grid point instead of one mean per channel.
        log1p: draw in the long tails of vorticity and divergence: standardise, take sign(z)·log1p(0.2·|z|), and
            standardise that (PhIRE, AtmoDist: arXiv 2109.09076).
        grid: where the seasonal cycle is known, for fields on parts of it; without it fields lie on all of it.
        other_grids: further grids on which the statistics hold a seasonal cycle, and fields may lie.

    Raises:
        ChannelError: if a channel does not vary; later, when fields hold a channel without statistics.
        RecipeError: if the statistics have no seasonal cycle that anomalies could be about, or none of log1p.
        GridError: later, if fields are on no part of the grid.
    """

    centre: Tensor
    scale: Tensor
    log1p_centre: Tensor
    log1p_scale: Tensor

    def __init__(
        self,
        statistics: Statistics,
        *,
        anomalies: bool = False,
        grid: Grid | None = None,
        other_grids: tuple[Grid, ...] = (),
        log1p: bool = False,
    ) -> None:
        super().__init__()
        self.grid, self.other_grids = grid, other_grids
        if anomalies and log1p:
            raise RecipeError("log1p standardises about one mean per channel, not about a seasonal cycle; choose one")
        self.statistics = statistics if log1p else statistics.without_log1p()
        self.statistics = self.statistics if anomalies else self.statistics.without_seasons()
        self.anomalies, self.log1p = anomalies, log1p
        for channel, std in zip(statistics.channels, statistics.std, strict=True):
            if not (np.isfinite(std) and std > 0):
                raise ChannelError(
                    f"'{channel}' has a standard deviation of {std:g} over the training period and cannot be learned; "
                    "leave it out of the inputs and targets"
                )
        if anomalies:
            if statistics.harmonics is None or statistics.anomaly_std is None:
                raise RecipeError(
                    "anomalies need the seasonal cycle at every grid point, which these data do not bring; set "
                    "anomalies: false"
                )
            centre, scale = self._complete(statistics.harmonics), statistics.anomaly_std
            for number, cycle in enumerate(statistics.other_harmonics or ()):
                self.register_buffer(f"centre_{number}", self._complete(cycle).float(), persistent=False)
        else:
            centre, scale = torch.from_numpy(statistics.mean)[None, :, None, None], statistics.std
        # Both are rebuilt from the statistics that a checkpoint holds, so they are not part of the weights.
        self.register_buffer("centre", centre.float(), persistent=False)
        self.register_buffer("scale", torch.from_numpy(scale).float(), persistent=False)
        if log1p:
            if statistics.log1p_mean is None or statistics.log1p_std is None:
                raise RecipeError("the data bring no statistics of log1p; set log1p: false")
            for name, numbers in (("log1p_centre", statistics.log1p_mean), ("log1p_scale", statistics.log1p_std)):
                self.register_buffer(name, torch.from_numpy(numbers).float()[:, None, None], persistent=False)

    def _complete(self, harmonics: Float[np.ndarray, "5 channel lat lon"]) -> Float[Tensor, "5 channel lat lon"]:
        """Return a seasonal cycle of which the channel's mean takes the place where training saw no value."""
        cycle = np.nan_to_num(harmonics)
        cycle[0] = np.where(np.isnan(harmonics[0]), self.statistics.mean[:, None, None], cycle[0])
        return torch.from_numpy(cycle)

    def _centre_and_scale(self, frame: Frame) -> tuple[Tensor, Tensor]:
        index = self._index(frame)
        scale = self.scale[index][:, None, None]
        if not self.anomalies:
            return self.centre[0, index], scale
        centre = self._cycle(frame.grid)[:, index]
        basis = seasons(frame.time, frame.calendar, centre)
        # Half precision would round a surface pressure to 512 Pa.
        with torch.autocast(centre.device.type, enabled=False):
            if centre.device.type == "cpu":
                return torch.einsum("btk,kchw->btchw", basis, centre), scale
            # So would a GPU's matrix product where TF32 is allowed; term by term there is none.
            cycle = torch.zeros((), device=centre.device)
            for term, own in zip(basis.unbind(-1), centre, strict=True):
                cycle = torch.addcmul(cycle, term[..., None, None, None], own)
            return cycle, scale

    def _index(self, frame: Frame) -> Int64[Tensor, " channel"]:
        return positions(self.statistics.index(frame.channels), self.scale.device)

    def _cycle(self, grid: Grid) -> Float[Tensor, "5 channel lat lon"]:
        """Return the seasonal cycle of all channels on a grid."""
        if grid in self.other_grids:
            return self.get_buffer(f"centre_{self.other_grids.index(grid)}")
        if self.grid is None or grid == self.grid:
            return self.centre
        rows, columns = (positions(x, self.centre.device) for x in locate_patches(grid, self.grid, (1, 1)))
        return self.centre[:, :, rows[:, None], columns]

    def normalize(self, fields: Fields) -> Fields:
        """Return the fields in normalised units, zero where they are not valid."""
        centre, scale = self._centre_and_scale(fields.frame)
        values = (fields.values - centre) / scale
        if self.log1p:
            index = self._index(fields.frame)
            drawn_in = torch.copysign(torch.log1p(LOG1P_SCALE * values.abs()), values)
            values = (drawn_in - self.log1p_centre[index]) / self.log1p_scale[index]
        if fields.valid is not None:
            values = values.masked_fill(~fields.valid, 0.0)
        return replace(fields, values=values)

    def denormalize(
        self, values: Float[Tensor, "batch time channel lat lon"], frame: Frame
    ) -> Float[Tensor, "batch time channel lat lon"]:
        """Return normalised values in physical units."""
        centre, scale = self._centre_and_scale(frame)
        if self.log1p:
            index = self._index(frame)
            values = values * self.log1p_scale[index] + self.log1p_centre[index]
            values = torch.copysign(torch.expm1(values.abs()) / LOG1P_SCALE, values)
        return values * scale + centre

    def denormalize_spread(
        self, values: Float[Tensor, "batch time channel lat lon"], frame: Frame
    ) -> Float[Tensor, "batch time channel lat lon"]:
        """Return normalised differences, such as standard deviations, in physical units."""
        return values * self.scale[self._index(frame)][:, None, None]


class Bounds:
    """Keeps channels within limits in physical units, with a gradient everywhere.

    Args:
        limits: smallest and largest value of each channel, None where there is no limit.
        normalizer: between physical and normalised units.
    """

    def __init__(self, limits: Mapping[Channel, Limits], normalizer: Normalizer) -> None:
        self.limits, self.normalizer = dict(limits), normalizer

    def bend(self, values: Values, frame: Frame) -> Values:
        """Return normalised values that approach the limits smoothly where they would pass them.

        They come back in single precision at least: in half precision a limit would be rounded to another one.
        """
        places = [place for place, channel in enumerate(frame.channels) if channel in self.limits]
        if not places:
            return values
        values = values.to(torch.promote_types(values.dtype, torch.float32))
        chosen = Frame(tuple(frame.channels[i] for i in places), frame.time, frame.grid, frame.calendar)
        index = positions(places, values.device)
        free = values.index_select(2, index)
        lower, upper = (
            self.normalizer.normalize(Fields(limit.expand_as(free), chosen)).values
            for limit in self._limits(chosen, values)
        )
        above = lower + F.softplus(free - lower, SHARPNESS)
        bent = torch.where(lower.isfinite(), above, free) - F.softplus(free - upper, SHARPNESS)
        return values.index_copy(2, index, bent.to(values.dtype))

    def cut(self, values: Values, frame: Frame) -> Values:
        """Return physical values without what rounding has carried beyond the limits."""
        if not any(channel in self.limits for channel in frame.channels):
            return values
        lower, upper = self._limits(frame, values)
        return values.clamp(lower, upper)

    def _limits(self, frame: Frame, like: Tensor) -> tuple[Tensor, Tensor]:
        each = [self.limits.get(channel, (None, None)) for channel in frame.channels]
        lower = torch.tensor([-torch.inf if low is None else low for low, _ in each])
        upper = torch.tensor([torch.inf if high is None else high for _, high in each])
        return sent(lower, like)[:, None, None], sent(upper, like)[:, None, None]


def natural_limits(layout: Layout) -> dict[Channel, Limits]:
    """Return what the nature of the targets that are not fed in forbids."""
    known = {c: CATALOGUE[c.name].limits for c in layout.targets if c.name in CATALOGUE and c not in layout.inputs}
    return {channel: limits for channel, limits in known.items() if limits != (None, None)}


def named_limits(bounds: dict[str, Limits], layout: Layout) -> dict[Channel, Limits]:
    """Return the bounds of the targets that they name, by channel or variable.

    Raises:
        RecipeError: if two leave nothing between them.
    """
    for name, (low, high) in bounds.items():
        if low is not None and high is not None and low >= high:
            raise RecipeError(f"the bounds of {name}, {low:g} and {high:g}, leave nothing between them")
    each = {c: bounds.get(str(c), bounds.get(c.name)) for c in layout.targets}
    return {channel: (limits[0], limits[1]) for channel, limits in each.items() if limits is not None}
