"""A small U-Net for forecasts from few data."""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from etesian.core import Fields, Frame, Layout
from etesian.core.device import positions
from etesian.core.errors import DataError, RecipeError
from etesian.core.grid import Grid
from etesian.networks.network import Network, Normals, by_lead, known_at, lead_hours
from etesian.nn.convolution import MapNorm, wrapped
from etesian.nn.moment import seasons
from etesian.nn.noise import NORMALS, Modulation, NoiseEmbedding, Places, between

_STRIDE = 4


class UNet(Network):
    """Residual blocks at three resolutions, one output per lead, beside a learned damped persistence.

    Sees the latest state, its changes over the history, the season, the static fields, and a few learned maps. Meant
    for anomalies: what it begins with is their damped persistence. On a grid that goes round the globe every layer is
    periodic in longitude: without the learned maps, turning the inputs by four columns turns the answer. With forcings
    it answers one lead after the other, each from what is known at its time.

    Args:
        layout: what goes in and what comes out.
        leads: hours that can be asked for; the network answers all of them at once.
        width: channels at the full resolution; twice as many below.
        dropout: share of feature maps dropped in training.
        maps: learned static fields among the inputs, which tell places apart.
        noise: standard deviation of what is added to the normalised inputs in training.

    Raises:
        RecipeError: if the layout has another target grid, targets that are not among the inputs, or a
            periodic grid whose longitudes are no multiple of 4.
    """

    def __init__(
        self,
        layout: Layout,
        leads: tuple[int, ...],
        *,
        width: int = 24,
        dropout: float = 0.1,
        maps: int = 8,
        noise: float = 0.1,
    ) -> None:
        super().__init__()
        _check(layout)
        self.layout, self.leads, self.noise = layout, tuple(leads), noise
        self.periodic = periodic = layout.grid.is_periodic
        states = len(layout.inputs) * len(layout.history)
        given = states + len(layout.statics) + 2 + maps + len(layout.forcings)
        self.maps = nn.Parameter(0.1 * torch.randn(maps, *layout.grid.shape))
        days = torch.tensor(self.leads) / 24
        self.persistence = nn.Parameter(torch.exp(-days / 3)[:, None].repeat(1, len(layout.targets)))
        below = 2 * width
        self.enter = _Convolution(given, width, periodic)
        self.fine = _Block(width, dropout, periodic)
        self.down = nn.Conv2d(width, below, 2, stride=2)
        self.middle = _Block(below, dropout, periodic)
        self.down_again = nn.Conv2d(below, below, 2, stride=2)
        self.coarse = nn.Sequential(_Block(below, dropout, periodic), _Block(below, dropout, periodic))
        self.up = nn.Conv2d(below, below, 1)
        self.middle_again = _Block(below, dropout, periodic)
        self.up_again = nn.Conv2d(below, width, 1)
        self.fine_again = _Block(width, dropout, periodic)
        self.leave = _Convolution(width, len(self.leads) * len(layout.targets), periodic, bias=False)
        nn.init.zeros_(self.leave.weight)
        self.noise_embed: NoiseEmbedding | None = None
        self.last_modulation: Modulation | None = None

    def accept_noise(self) -> None:
        """Let noise scale and shift what comes out of every norm, and shift what enters the last layer."""
        self.noise_embed, self.last_modulation = (
            NoiseEmbedding(),
            Modulation(self.leave.in_channels, axis=1, normed=False),
        )
        for module in self.modules():
            if isinstance(module, _Block):
                module.modulation = Modulation(module.first.in_channels, axis=1)

    def noise_shape(self, grid: Grid) -> tuple[int, ...]:
        """Return that of some normals for each point at the coarsest resolution."""
        height, breadth = self._padded(grid)
        return (height // _STRIDE, breadth // _STRIDE, NORMALS)

    def _padded(self, grid: Grid) -> tuple[int, int]:
        """Return the rows and columns of features, which have a margin beyond edges."""
        rows, columns = (math.ceil((points + 2) / _STRIDE) * _STRIDE for points in grid.shape)
        return rows, grid.shape[1] if self.periodic else columns

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
            DataError: if a lead is asked for that the network was not built for, or forcings are missing.
        """
        known = known_at(target, forcings, self.layout)
        if known is not None and target.time.shape[1] > 1:
            return by_lead(self.forward, inputs, target, known, statics, noise)
        embedded = None if noise is None or self.noise_embed is None else self.noise_embed(noise(0))
        answers = self._answers(self._features(inputs, statics, known), embedded)
        asked = positions([self.layout.targets.index(c) for c in target.channels], answers.device)
        initial = inputs.at(-1).select(self.layout.targets).filled()
        answers = answers + self.persistence[:, :, None, None] * initial
        hours = lead_hours(inputs, target)
        rows = [
            sample * len(self.leads) + self._place(lead) for sample, row in enumerate(hours) for lead in row.tolist()
        ]
        chosen = answers.flatten(0, 1).index_select(0, positions(rows, answers.device))
        return torch.unflatten(chosen, 0, hours.shape).index_select(2, asked)

    def no_decay(self) -> set[str]:
        """Return everything but the kernels of the convolutions."""
        return {name for name, parameter in self.named_parameters() if parameter.ndim != 4}

    def begin_with_nothing(self) -> None:
        """Take away the damped persistence; the last layer begins as zero anyway."""
        nn.init.zeros_(self.persistence)
        nn.init.zeros_(self.leave.weight)

    def _place(self, lead: float) -> int:
        if lead not in self.leads:
            raise DataError(f"this U-Net was built for leads of {list(self.leads)} h, not {lead:g} h")
        return self.leads.index(int(lead))

    def _features(
        self, inputs: Fields, statics: Fields | None, known: Fields | None
    ) -> Float[Tensor, "batch feature lat lon"]:
        states = inputs.filled()
        changes = states[:, 1:] - states[:, :-1]
        parts = [torch.cat([states[:, -1:], changes.flip(1)], dim=1).flatten(1, 2)]
        if self.training and self.noise:
            parts[0] = parts[0] + self.noise * torch.randn_like(parts[0])
        batch, grid = len(states), self.layout.grid.shape
        season = seasons(inputs.frame.time[:, -1:], inputs.frame.calendar, states)[:, 0, 1:3]
        parts.append(season[:, :, None, None].expand(-1, -1, *grid))
        if statics is not None:
            parts.append(statics.filled()[:, 0])
        if known is not None:
            parts.append(known.select(self.layout.forcings).filled()[:, 0])
        parts.append(self.maps.expand(batch, -1, -1, -1))
        return torch.cat(parts, dim=1)

    def _answers(self, features: Tensor, noise: Places | None) -> Float[Tensor, "batch lead channel lat lon"]:
        rows, columns = self.layout.grid.shape
        height, breadth = self._padded(self.layout.grid)
        above, left = (height - rows) // 2, (breadth - columns) // 2
        sides = (left, breadth - columns - left, above, height - rows - above)
        features = F.pad(features, sides, mode="replicate")
        whole, half = (
            None if noise is None else between(noise, (height // part, breadth // part), periodic=self.periodic)
            for part in (1, 2)
        )
        fine = self.fine(self.enter(features), whole)
        middle = self.middle(self.down(fine), half)
        coarse = self.down_again(middle)
        for block in self.coarse:
            coarse = block(coarse, noise)
        middle = self.middle_again(middle + self.up(self._doubled(coarse)), half)
        fine = self.fine_again(fine + self.up_again(self._doubled(middle)), whole)
        if self.last_modulation is not None:
            fine = self.last_modulation(fine, whole)
        answers: Tensor = self.leave(fine)[:, :, above : above + rows, left : left + columns]
        return answers.reshape(len(answers), len(self.leads), len(self.layout.targets), rows, columns)

    def _doubled(self, values: Tensor) -> Tensor:
        if not self.periodic:
            return F.interpolate(values, scale_factor=2, mode="bilinear", align_corners=False)
        return F.interpolate(wrapped(values), scale_factor=2, mode="bilinear", align_corners=False)[..., 2:-2]


class _Convolution(nn.Conv2d):
    """3×3, of the same size; periodic in longitude or not."""

    def __init__(self, given: int, width: int, periodic: bool, *, bias: bool = True) -> None:
        super().__init__(given, width, 3, padding=(1, 0 if periodic else 1), bias=bias)
        self.periodic = periodic

    def forward(self, values: Tensor) -> Tensor:
        return super().forward(wrapped(values) if self.periodic else values)


class _Block(nn.Module):
    """A residual block that begins as the identity."""

    def __init__(self, width: int, dropout: float, periodic: bool) -> None:
        super().__init__()
        self.norm = MapNorm(width)
        self.first = _Convolution(width, width, periodic)
        self.dropout = nn.Dropout2d(dropout)
        self.second = _Convolution(width, width, periodic)
        nn.init.zeros_(self.second.weight)
        self.modulation: Modulation | None = None

    def forward(self, values: Tensor, noise: Tensor | None) -> Tensor:
        normed = self.norm(values)
        if self.modulation is not None:
            normed = self.modulation(normed, noise)
        change: Tensor = self.second(self.dropout(F.gelu(self.first(normed))))
        return values + change


def _check(layout: Layout) -> None:
    if layout.target_grid is not None and layout.target_grid != layout.grid:
        raise RecipeError("UNet predicts on the grid of its inputs; interpolate them to the target grid first")
    if missing := [c for c in layout.targets if c not in layout.inputs]:
        raise RecipeError(f"UNet begins from persistence, but its target '{missing[0]}' is not among the inputs")
    columns = layout.grid.shape[1]
    if layout.grid.is_periodic and columns % _STRIDE:
        raise RecipeError(
            f"UNet on a grid round the globe needs a multiple of {_STRIDE} longitudes, not {columns}; "
            "regrid with `etesian prepare --grid`"
        )
