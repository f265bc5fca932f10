"""Interpolation of fields from a coarse grid to a fine one, as a network's first layer."""

from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from etesian.core.errors import DataError, GridError
from etesian.core.fields import Fields
from etesian.core.grid import (
    Grid,
    cubic_longitude_weights,
    cubic_weights,
    linear_weights,
    longitude_weights,
    mean_keeping,
    overlap_weights,
)


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
