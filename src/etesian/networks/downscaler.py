"""Downscaling: fields interpolated to the fine grid, masks included, then any network built for that grid."""

from collections.abc import Callable
from dataclasses import replace
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from etesian.core.device import positions
from etesian.core.errors import DataError, GridError, RecipeError
from etesian.core.fields import Fields, Frame, Layout
from etesian.core.grid import (
    Grid,
    cubic_longitude_weights,
    cubic_weights,
    linear_weights,
    longitude_weights,
    mean_keeping,
    overlap_weights,
)
from etesian.networks.network import Network, Normals


class BilinearInterpolation(nn.Module):
    """Interpolates fields linearly in latitude and longitude, round the circle where the source closes it.

    Beyond the outermost rows of the source the nearest one is kept. A point is valid where all
    it is made of is.

    Args:
        source: where the fields lie.
        target: where they are wanted.

    Raises:
        GridError: if the target reaches beyond the longitudes of the source, or beyond a source row that does not
            lie next to a pole.
    """

    rows: Tensor
    columns: Tensor

    def __init__(self, source: Grid, target: Grid) -> None:
        super().__init__()
        self.source, self.target = source, target
        south, north = source.latitude[[0, -1]]
        ends_at_pole = source.latitude_bounds[[0, -1]] == (-90, 90)
        beyond = np.array([target.latitude[0] < south - 1e-4, target.latitude[-1] > north + 1e-4])
        columns = longitude_weights(source, target)
        if (columns.sum(axis=1) < 0.5).any() or (beyond & ~ends_at_pole).any():
            raise GridError(
                f"the target grid {target} reaches beyond the inputs' grid {source}; choose a region inside"
            )
        rows = linear_weights(source.latitude, np.clip(target.latitude, south, north))
        self.register_buffer("rows", torch.from_numpy(rows).float(), persistent=False)
        self.register_buffer("columns", torch.from_numpy(columns).float(), persistent=False)

    def forward(self, fields: Fields) -> Fields:
        """Return the fields on the target grid.

        Raises:
            GridError: if they do not lie on the source grid.
        """
        if fields.frame.grid != self.source:
            raise GridError(f"the inputs are on {fields.frame.grid}, but were to be on {self.source}")
        frame = replace(fields.frame, grid=self.target)
        values = self._interpolated(fields.filled())
        valid = None if fields.valid is None else self._interpolated((~fields.valid).to(values.dtype)) == 0
        return Fields(values, frame, valid)

    def _interpolated(
        self, values: Float[Tensor, "batch time channel lat lon"]
    ) -> Float[Tensor, "batch time channel row column"]:
        with torch.autocast(values.device.type, enabled=False):
            fine: Tensor = torch.einsum("btchw,ih,jw->btcij", values.float(), self.rows, self.columns)
        return fine


class BicubicInterpolation(BilinearInterpolation):
    """Interpolates by cubic splines in latitude and longitude; otherwise as `BilinearInterpolation`, but for holes.

    Raises:
        DataError: later, if fields have holes, which a spline would spread over the whole map.
    """

    def __init__(self, source: Grid, target: Grid) -> None:
        super().__init__(source, target)
        rows, columns = _cubic(source, target)
        self.rows, self.columns = torch.from_numpy(rows).float(), torch.from_numpy(columns).float()

    def forward(self, fields: Fields) -> Fields:
        """Return the fields on the target grid.

        Raises:
            GridError: if they do not lie on the source grid.
            DataError: if they have holes.
        """
        if fields.valid is not None and not bool(fields.valid.all()):
            raise DataError(
                "interpolation by cubic splines needs complete fields, but values are missing; interpolate bilinearly"
            )
        return super().forward(fields)


class ConservativeInterpolation(BicubicInterpolation):
    """Interpolates by cubic splines whose means over the cells of the source are the fields.

    For fields that are means over cells, as of conservative regridding: taken for values at the cells' centres, as by
    the other interpolations, they are smoothed once more. Cells that the target does not cover are taken for that.

    Raises:
        DataError: later, if fields have holes.
    """

    def __init__(self, source: Grid, target: Grid) -> None:
        super().__init__(source, target)
        weights = zip(_cubic(source, target), overlap_weights(target, source), strict=True)
        self.rows, self.columns = (torch.from_numpy(mean_keeping(*pair)).float() for pair in weights)


def _cubic(source: Grid, target: Grid) -> tuple[Float[np.ndarray, "row lat"], Float[np.ndarray, "column lon"]]:
    rows = cubic_weights(source.latitude, np.clip(target.latitude, *source.latitude[[0, -1]]))
    return rows, cubic_longitude_weights(source, target)


INTERPOLATIONS = {
    "bilinear": BilinearInterpolation,
    "bicubic": BicubicInterpolation,
    "conservative": ConservativeInterpolation,
}
"""Ways to bring coarse fields to a fine grid, by name."""


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
            fields are such means.
        shrink: whether the network begins by giving nothing, and a share of what it gives is added, by channel: that
            with the least squared error over the validation data, none if it does not help there.

    Raises:
        RecipeError: if the layout has no target grid, a residual has nothing to be added to, or a share of none is
            to be chosen.
        GridError: if the target grid reaches beyond that of the inputs.
    """

    share: Tensor | None

    def __init__(
        self,
        layout: Layout,
        network: Callable[[Layout], Network],
        *,
        residual: bool = True,
        interpolation: Literal["bilinear", "bicubic", "conservative"] = "bilinear",
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
