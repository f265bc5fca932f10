"""Downscaling: fields interpolated to the fine grid, masks included, then any network built for that grid."""

from collections.abc import Callable
from dataclasses import replace
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from etesian.core.device import positions
from etesian.core.errors import GridError, RecipeError
from etesian.core.fields import Fields, Frame, Layout
from etesian.core.grid import Grid
from etesian.networks.interpolation import INTERPOLATIONS, BilinearInterpolation
from etesian.networks.network import Network, Normals
from etesian.networks.regression import RegressionInterpolation


class Downscaler(Network):
    """Interpolates inputs to the target grid and runs a network there, as ClimaX downscales (arXiv 2301.10343, 4.4).

    Missing inputs stay missing on the way: an interpolated point is valid where every point it is made of is.

    Args:
        layout: with a `target_grid`, on which targets and statics lie.
        network: builds the network for the fine grid.
        residual: the network gives the difference from the interpolated field (from the mean where it is not valid),
            which must then be among the inputs; otherwise the field itself.
        interpolation: `bilinear`; or, of fields without holes, by cubic splines through values at points (`bicubic`),
            or with the means over the coarse cells that are given (`conservative`), which is right where the coarse
            fields are such means; or what a `regression` on all inputs around makes of them, which is fitted to the
            data to train on and needs globes (`RegressionInterpolation`).
        shrink: whether the network begins by giving nothing, and a share of what it gives is added, by channel: that
            with the least squared error over the validation data, none if it does not help there.

    Raises:
        RecipeError: if the layout has no target grid, a residual has nothing to be added to, a share of none is
            to be chosen, or a regression is out of reach.
        GridError: if the target grid reaches beyond that of the inputs, or a regression has no place on them.
    """

    share: Tensor | None

    def __init__(
        self,
        layout: Layout,
        network: Callable[[Layout], Network],
        *,
        residual: bool = True,
        interpolation: Literal["bilinear", "bicubic", "conservative", "regression"] = "bilinear",
        shrink: bool = False,
    ) -> None:
        super().__init__()
        if layout.target_grid is None:
            raise RecipeError("Downscaler needs data on two grids; use etesian.downscale.data.DownscalingData")
        if residual and (missing := [c for c in layout.targets if c not in layout.inputs]):
            raise RecipeError(
                f"a residual needs the interpolated field, but the target '{missing[0]}' is not among the inputs; "
                "set residual: false"
            )
        if shrink and not residual:
            raise RecipeError("shrink needs an interpolated field that the network adds to; set residual: true")
        self.register_buffer("share", torch.ones(len(layout.targets), 1, 1) if shrink else None)
        self.layout, self.residual = layout, residual
        self.interpolation: BilinearInterpolation | RegressionInterpolation
        if interpolation == "regression":
            self.interpolation = RegressionInterpolation(layout)
        else:
            self.interpolation = INTERPOLATIONS[interpolation](layout.grid, layout.target_grid)
        # A checkpoint describes the network itself, since a factory cannot be written down.
        fine = replace(layout, grid=layout.target_grid, target_grid=None)
        self.network = network if isinstance(network, Network) else network(fine)
        self._call["network"] = self.network
        if shrink:
            self.network.begin_with_nothing()

    def accept_noise(self) -> None:
        """Let noise have a say in the network on the fine grid."""
        self.network.accept_noise()

    def noise_shape(self, grid: Grid) -> tuple[int, ...]:
        """Return that of the network on the fine grid."""
        return self.network.noise_shape(grid)

    def forward(
        self,
        inputs: Fields,
        target: Frame,
        *,
        forcings: Fields | None = None,
        statics: Fields | None = None,
        noise: Normals | None = None,
    ) -> Float[Tensor, "batch time channel row column"]:
        """Predict on the target grid; see `Network.forward` and `Network.accept_noise`.

        Raises:
            GridError: if inputs or target lie on other grids than the layout's.
        """
        if target.grid != self.interpolation.target:
            raise GridError(f"this network downscales to {self.interpolation.target}, not to {target.grid}")
        fine = self.interpolation(inputs)
        drawn = {} if noise is None else {"noise": noise}
        answer: Tensor = self.network(fine, target, forcings=forcings, statics=statics, **drawn)
        if self.share is not None and not self.training:
            known = [self.layout.targets.index(c) for c in target.channels]
            answer = self.share.index_select(0, positions(known, answer.device)) * answer
        return answer + fine.at(-1).select(target.channels).filled() if self.residual else answer

    def no_decay(self) -> set[str]:
        """Return what the network on the fine grid leaves alone."""
        return {f"network.{name}" for name in self.network.no_decay()}
