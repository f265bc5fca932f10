"""Interpolation to a finer grid, the baseline of downscaling."""

from collections.abc import Sequence
from functools import partial

from jaxtyping import Float
from torch import Tensor

from etesian.core import Channel, Fields, Frame, Grid, Layout
from etesian.core.errors import GridError
from etesian.core.statistics import unscaled
from etesian.downscale.task import DownscaleTask
from etesian.networks.interpolation import INTERPOLATIONS as WAYS
from etesian.networks.network import Network
from etesian.store.states import States

INTERPOLATIONS = {"interpolation": "bilinear", "bicubic": "bicubic", "conservative": "conservative"}
"""What downscaling is judged against: the coarse field, interpolated in one of the ways that `Downscaler` knows."""


class Interpolation(Network):
    """The input state interpolated to the target grid: what downscaling has to beat.

    Args:
        layout: with a target grid.
        way: to interpolate, see `Downscaler`.

    Raises:
        GridError: if the layout has no target grid, or one that reaches beyond that of the inputs.
    """

    def __init__(self, layout: Layout, *, way: str = "bilinear") -> None:
        super().__init__()
        self.layout = layout
        if layout.target_grid is None:
            raise GridError("interpolation needs a layout with a target_grid")
        self.interpolation = WAYS[way](layout.grid, layout.target_grid)

    def forward(
        self, inputs: Fields, target: Frame, *, forcings: Fields | None = None, statics: Fields | None = None
    ) -> Float[Tensor, "batch time channel lat lon"]:
        """Return the last input state on the target grid, NaN where it depends on missing values."""
        fine: Fields = self.interpolation(inputs.at(-1).select(target.channels))
        return fine.filled(float("nan")).expand(-1, target.time.shape[1], -1, -1, -1)


def interpolation_task(name: str, store: States, channels: Sequence[Channel], grid: Grid) -> DownscaleTask:
    """Return one of `INTERPOLATIONS` as a task that predicts like any other, at lead 0.

    Raises:
        GridError: if the grid reaches beyond the store's.
    """
    layout = Layout(inputs=tuple(channels), targets=tuple(channels), grid=store.grid, target_grid=grid)
    return DownscaleTask(partial(Interpolation, way=INTERPOLATIONS[name]), layout, unscaled(channels))
