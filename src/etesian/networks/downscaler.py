"""Downscaling: a bilinear lift to the fine grid, then any network built for that grid."""

from collections.abc import Callable
from dataclasses import replace

from jaxtyping import Float
from torch import Tensor

from etesian.core.errors import GridError, RecipeError
from etesian.core.fields import Fields, Frame, Layout
from etesian.networks.network import Network
from etesian.nn.upsampling import BilinearLift


class Downscaler(Network):
    """Lifts the inputs to the target grid and runs a network there, as ClimaX downscales (arXiv 2301.10343, 4.4).

    Missing inputs stay missing on the way: a lifted point is valid where every point it is made of is.

    Args:
        layout: with a `target_grid`, on which targets and statics lie.
        network: builds the network for the fine grid.
        residual: the network gives the difference from the lifted field (from the mean where that is not valid), which
            must then be among the inputs; otherwise the field itself.

    Raises:
        RecipeError: if the layout has no target grid, or a residual has nothing to be added to.
        GridError: if the target grid reaches beyond that of the inputs.
    """

    def __init__(self, layout: Layout, network: Callable[[Layout], Network], *, residual: bool = True) -> None:
        super().__init__()
        if layout.target_grid is None:
            raise RecipeError("Downscaler needs data on two grids; use etesian.downscale.data.DownscalingData")
        if residual and (missing := [c for c in layout.targets if c not in layout.inputs]):
            raise RecipeError(
                f"a residual needs the lifted field, but the target '{missing[0]}' is not among the inputs; "
                "set residual: false"
            )
        self.layout, self.residual = layout, residual
        self.lift = BilinearLift(layout.grid, layout.target_grid)
        # A checkpoint describes the network itself, since a factory cannot be written down.
        fine = replace(layout, grid=layout.target_grid, target_grid=None)
        self.network = network if isinstance(network, Network) else network(fine)
        self._call["network"] = self.network

    def forward(
        self, inputs: Fields, target: Frame, *, forcings: Fields | None = None, statics: Fields | None = None
    ) -> Float[Tensor, "batch time channel row column"]:
        """Predict on the target grid; see `Network.forward`.

        Raises:
            GridError: if inputs or target lie on other grids than the layout's.
        """
        if target.grid != self.lift.target:
            raise GridError(f"this network downscales to {self.lift.target}, not to {target.grid}")
        lifted = self.lift(inputs)
        answer: Tensor = self.network(lifted, target, forcings=forcings, statics=statics)
        return answer + lifted.at(-1).select(target.channels).filled() if self.residual else answer

    def no_decay(self) -> set[str]:
        """Return what the network on the fine grid leaves alone."""
        return {f"network.{name}" for name in self.network.no_decay()}
