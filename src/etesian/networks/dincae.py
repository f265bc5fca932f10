"""The learned baseline of gap filling: a U-Net on a few days at a time, after DINCAE (Barth et al. 2020, 2022)."""

from itertools import pairwise

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from etesian.core.clock import year_phase
from etesian.core.device import positions, sent
from etesian.core.errors import DataError, GridError, RecipeError
from etesian.core.fields import Fields, Frame, Layout
from etesian.networks.network import Distribution, Reconstruction, asks_for_each_time, find_months


class GapFillUNet(Reconstruction):
    """Completes each time from itself and its neighbours in time, with a variance; months are means over their times.

    Inputs and architecture follow DINCAE (Barth et al. 2020, doi 10.5194/gmd-13-1609-2020): what was observed and where
    at each of the times, longitude and latitude, cosine and sine of the season; convolutions and poolings to a coarse
    grid and back with skip connections; the inverse variance and the mean weighted with it come out. Errors at the
    times of a month are taken as those of one: the month's standard deviation is the mean of theirs.

    Args:
        layout: what goes in and what comes out.
        times: number of successive times from which the middle one is completed, odd.
        width: channels at full resolution.
        levels: how many times the resolution is halved; channels grow by half of `width` each time.

    Raises:
        RecipeError: if `times` is even, or the layout has forcings or another target grid.
    """

    gives_variance = True

    def __init__(self, layout: Layout, *, times: int = 3, width: int = 16, levels: int = 3) -> None:
        super().__init__()
        if times % 2 == 0:
            raise RecipeError(f"times = {times} must be odd, so that there is one in the middle")
        if layout.forcings or (layout.target_grid is not None and layout.target_grid != layout.grid):
            raise RecipeError("GapFillUNet fills gaps on the grid of its inputs, without forcings")
        self.layout, self.times = layout, times
        given = 2 * len(layout.inputs) * times + 2 * len(layout.statics) + 4
        widths = [width + i * width // 2 for i in range(levels + 1)]
        self.enter = _Convolutions(given, widths[0])
        self.down = nn.ModuleList(_Convolutions(a, b) for a, b in pairwise(widths))
        self.up = nn.ModuleList(_Convolutions(a + b, a) for a, b in pairwise(widths))
        self.leave = nn.Conv2d(widths[0], 2 * len(layout.targets), 1)

    def distribution(self, inputs: Fields, target: Frame, *, statics: Fields | None = None) -> Distribution:
        """Return normalised means and variances; see `Reconstruction`.

        Raises:
            DataError: if the target's times are none that the network can answer.
            GridError: if the target is on another grid.
        """
        inputs = inputs.select(self.layout.inputs)
        if inputs.frame.grid != target.grid:
            raise GridError(f"gaps are filled on the grid of the inputs, {inputs.frame.grid}, not on {target.grid}")
        mean, variance = self._each_time(inputs, target, statics)
        if asks_for_each_time(inputs.frame, target):
            return Distribution(mean, variance)
        member = find_months(inputs.frame, target).member
        share = sent(member.to(mean.dtype) / member.sum(1, keepdim=True).clamp(min=1), mean)
        months = [torch.einsum("btm,btchw->bmchw", share, x) for x in (mean, variance.sqrt())]
        return Distribution(months[0], months[1].square())

    def _each_time(self, inputs: Fields, target: Frame, statics: Fields | None) -> tuple[Tensor, Tensor]:
        values = inputs.filled()
        valid = torch.ones_like(values) if inputs.valid is None else inputs.valid.to(values)
        seen = torch.cat([values, valid], dim=2)
        side = self.times // 2
        padded = F.pad(seen, (0, 0, 0, 0, 0, 0, side, side))
        near = padded.unfold(1, self.times, 1).movedim(-1, 2).flatten(2, 3)
        maps = torch.cat([near, self._surroundings(inputs.frame, statics, near)], dim=2).flatten(0, 1)
        answer = torch.unflatten(self._unet(maps), 0, values.shape[:2])
        chosen = positions([self.layout.targets.index(c) for c in target.channels], answer.device)
        precision, weighted = torch.unflatten(answer, 2, (2, -1)).index_select(3, chosen).unbind(2)
        variance = torch.exp(-precision.clamp(-10, 10))
        return weighted * variance, variance

    def _surroundings(
        self, frame: Frame, statics: Fields | None, like: Tensor
    ) -> Float[Tensor, "batch time feature lat lon"]:
        """Return longitude, latitude, season and static fields at every time."""
        batch, time = frame.time.shape
        grid, whole = frame.grid, self.layout.grid
        north = sent(grid.latitude / 90, like)[:, None].expand(grid.shape)
        east = sent(np.deg2rad(grid.longitude - whole.longitude.mean()), like).expand(grid.shape)
        angle = 2 * np.pi * year_phase(frame.time.numpy(), frame.calendar)
        season = sent(np.stack([np.cos(angle), np.sin(angle)], axis=-1), like)
        parts = [
            torch.stack([north, east]).expand(batch, time, -1, -1, -1),
            season[..., None, None].expand(-1, -1, -1, *grid.shape),
        ]
        if self.layout.statics:
            if statics is None:
                raise DataError(f"the network needs the static field '{self.layout.statics[0]}'")
            fixed = statics.select(self.layout.statics)
            known = torch.ones_like(fixed.values) if fixed.valid is None else fixed.valid.to(fixed.values)
            parts.append(torch.cat([fixed.filled(), known], dim=2).expand(-1, time, -1, -1, -1))
        return torch.cat(parts, dim=2)

    def _unet(self, maps: Float[Tensor, "map feature lat lon"]) -> Float[Tensor, "map output lat lon"]:
        rows, columns = maps.shape[2:]
        step = 2 ** len(self.down)
        maps = F.pad(maps, (0, -columns % step, 0, -rows % step), mode="replicate")
        levels = [self.enter(maps)]
        for block in self.down:
            levels.append(block(F.avg_pool2d(levels[-1], 2)))
        answer = levels.pop()
        for block in reversed(self.up):
            finer = F.interpolate(answer, scale_factor=2, mode="bilinear", align_corners=False)
            answer = block(torch.cat([levels.pop(), finer], dim=1))
        return self.leave(answer)[:, :, :rows, :columns]  # type: ignore[no-any-return]

    def no_decay(self) -> set[str]:
        """Return everything but the kernels of the convolutions."""
        return {name for name, parameter in self.named_parameters() if parameter.ndim != 4}


class _Convolutions(nn.Sequential):
    """Two 3×3 convolutions, each with a rectifier."""

    def __init__(self, given: int, width: int) -> None:
        super().__init__(
            nn.Conv2d(given, width, 3, padding=1, padding_mode="replicate"),
            nn.LeakyReLU(0.2),
            nn.Conv2d(width, width, 3, padding=1, padding_mode="replicate"),
            nn.LeakyReLU(0.2),
        )
