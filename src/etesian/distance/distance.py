"""A distance between states of the atmosphere from the features of a trained encoder (AtmoDist, arXiv 2109.09076).

It compares two datasets, is a part of any loss (`Content`), and a score of forecasts beside RMSE and ACC
(`LearnedDistance`).
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray as xr
from jaxtyping import Bool, Float
from numpy.typing import NDArray
from torch import Tensor, nn

from etesian.core import Channel, Fields, Frame, Grid
from etesian.core.dataset import from_dataset
from etesian.core.device import positions
from etesian.core.errors import ChannelError, CheckpointError, GridError, RecipeError, suggest
from etesian.distance.task import InpaintTask, TimeLagTask
from etesian.networks.atmodist import StateEncoder
from etesian.nn.normalizer import Normalizer
from etesian.scores.pairs import ByInitialTime, Chunk, Pairs
from etesian.scores.registry import estimates, register_score
from etesian.scores.tables import DISTANCE
from etesian.training.checkpoint import load_task
from etesian.training.field_task import Penalty, check_weights, met_where_missing

Distances = Float[Tensor, "batch time"]


class AtmoDistance(nn.Module):
    """α times the mean squared difference of features, with α so that it is as large as that of normalised states.

    Differentiable in both states; the encoder itself is never trained. Fields larger than the patches that the encoder
    was trained on are covered with tiles of that size, evenly spread, round the globe where the grid goes round it; the
    distance is their mean, weighted by area. It is measured in single precision whatever the precision around it, on a
    GPU without TF32.

    Args:
        network: trained encoder.
        normalizer: of the states, as in the encoder's training.
        scale: α, see `LagCurves.scale`.
        layer: whose features are compared, such as `3.6`; None is the last.
    """

    def __init__(
        self, network: StateEncoder, normalizer: Normalizer, *, scale: float, layer: str | None = None
    ) -> None:
        super().__init__()
        known = network.encoder.layers()
        if layer is not None and layer not in known:
            raise RecipeError(f"the encoder has no layer '{layer}'{suggest(layer, known)}")
        self.network, self.normalizer = network.eval().requires_grad_(False), normalizer
        self.scale, self.layer = scale, layer

    @classmethod
    def load(cls, run: str | Path, layer: str | None = None) -> "AtmoDistance":
        """Build the distance of a run of `TimeLagTask` or `InpaintTask`, scaled over the lags of its validation.

        Raises:
            CheckpointError: if the run is of another task.
            RecipeError: if there is no such layer.
        """
        task = load_task(run)
        if not isinstance(task, TimeLagTask | InpaintTask):
            raise CheckpointError(
                f"{run} is a run of {type(task).__name__}; a distance comes from one of TimeLagTask or InpaintTask"
            )
        return cls(task.network, task.normalizer, scale=task.curves.scale(layer), layer=layer)

    @property
    def channels(self) -> tuple[Channel, ...]:
        """What states have to hold."""
        return self.network.layout.inputs

    @property
    def device(self) -> torch.device:
        """Where the encoder is."""
        return self.normalizer.scale.device

    def train(self, mode: bool = True) -> "AtmoDistance":
        """Stay in evaluation mode: batch normalisation keeps the statistics of the encoder's own training."""
        del mode
        return super().train(False)

    def forward(self, first: Fields, second: Fields) -> Distances:
        """Return the distance of states in physical units, one for each sample and time; NaN where a value is missing.

        Raises:
            ChannelError: if a channel is missing.
            GridError: if the two are on different grids.
        """
        grid = first.frame.grid
        if second.frame.grid != grid:
            raise GridError(f"states on different grids have no distance: {grid} and {second.frame.grid}")
        one, other = (self._states(fields) for fields in (first, second))
        missing = ~(one.isfinite() & other.isfinite()).flatten(1).all(dim=1)
        one, other = (states.masked_fill(missing[:, None, None, None], 0.0) for states in (one, other))
        total, weights = one.new_zeros(len(one)), 0.0
        for rows, columns in tiles(grid, self.network.layout.grid.shape):
            weight = float(grid.area_weights[rows].mean())
            row, column = (positions(index, one.device) for index in (rows, columns))
            parts = torch.cat([states.index_select(2, row).index_select(3, column) for states in (one, other)])
            # Small differences of large numbers: half precision would lose them, and so would TF32, a GPU's default.
            with torch.autocast(parts.device.type, enabled=False), _exact_convolutions():
                here, there = self.network.features(parts, self.layer).chunk(2)
            total = total + weight * (here - there).square().mean(dim=(1, 2, 3))
            weights += weight
        distance = (self.scale / weights * total).masked_fill(missing, torch.nan)
        return distance.unflatten(0, first.frame.time.shape)  # type: ignore[no-untyped-call, no-any-return]

    def _states(self, fields: Fields) -> Float[Tensor, "sample channel lat lon"]:
        absent = [channel for channel in self.channels if channel not in fields.frame.channels]
        if absent:
            raise ChannelError(
                f"the distance needs '{absent[0]}', which the fields do not have"
                f"{suggest(str(absent[0]), map(str, fields.frame.channels))}"
            )
        chosen = fields.select(self.channels)
        normalized = self.normalizer.normalize(replace(chosen, values=chosen.values.float()))
        return normalized.filled(torch.nan).flatten(0, 1)


@contextmanager
def _exact_convolutions() -> Iterator[None]:
    """Let convolutions in single precision keep all digits on a GPU too, where TF32 has ten bits by default."""
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = before


def tiles(grid: Grid, size: tuple[int, int]) -> list[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Return rows and columns of as few tiles of a size as cover a grid, evenly spread; smaller axes are taken whole.

    >>> [columns.tolist() for _, columns in tiles(Grid([0, 1], [0, 90, 180, 270]), (2, 3))]
    [[0, 1, 2], [2, 3, 0]]
    """
    (height, width), (rows, columns) = grid.shape, size
    down = _spread(height, min(rows, height), periodic=False)
    across = _spread(width, min(columns, width), periodic=grid.is_periodic)
    return [(row, column) for row in down for column in across]


def _spread(count: int, size: int, *, periodic: bool) -> list[NDArray[np.int64]]:
    number = -(-count // size)
    starts = np.arange(number) * count / number if periodic else np.linspace(0, count - size, number)
    return [(int(start) + np.arange(size)) % count for start in np.floor(starts)]


def atmodistance(
    run: str | Path | AtmoDistance, first: xr.Dataset, second: xr.Dataset, layer: str | None = None
) -> xr.DataArray:
    """Return the distance of canonical datasets over the dimensions beside level and the horizontal ones.

    Args:
        run: run directory of `TimeLagTask` or `InpaintTask`, or its distance.
        first: states with `latitude`, `longitude` and, where the distance needs levels, `level` in hPa.
        second: states on the same grid; further dimensions are broadcast against those of `first`.
        layer: whose features are compared; None is the last. A distance that is given has its own.

    Raises:
        ChannelError: if a variable or a level is missing.
        GridError: if the grids differ.
    """
    distance = run if isinstance(run, AtmoDistance) else AtmoDistance.load(run, layer)
    one, other = (from_dataset(dataset, distance.channels) for dataset in (first, second))
    grids = [Grid(states.latitude.values, states.longitude.values) for states in (one, other)]
    if grids[0] != grids[1]:
        raise GridError(f"states on different grids have no distance: {grids[0]} and {grids[1]}")
    other = other.assign_coords(latitude=one.latitude, longitude=one.longitude)
    one, other = xr.broadcast(*xr.align(one, other, join="inner"))
    horizontal = ("channel", "latitude", "longitude")
    one, other = (states.transpose(..., *horizontal) for states in (one, other))
    leading = one.isel(dict.fromkeys(horizontal, 0), drop=True)
    result = np.empty(leading.size, dtype=np.float32)
    time = torch.zeros(1, 1, dtype=torch.int64)
    frame = Frame(distance.channels, time, grids[0])
    shape = (leading.size, 1, 1, len(distance.channels), *grids[0].shape)
    pairs = zip(one.values.reshape(shape), other.values.reshape(shape), strict=True)
    with torch.no_grad():
        for place, states in enumerate(pairs):
            fields = [Fields(torch.from_numpy(np.array(state, dtype=np.float32)), frame) for state in states]
            result[place] = distance(*(each.to(distance.device) for each in fields)).item()
    name = {"long_name": "AtmoDist distance", "units": "1"}
    return xr.DataArray(result.reshape(leading.shape), leading.coords, leading.dims, "atmodistance", name)


@dataclass(frozen=True)
class Content:
    """What of an AtmoDistance a loss holds.

    Attributes:
        run: run directory of `TimeLagTask` or `InpaintTask`.
        weight: of the distance, which is about as large as a mean squared error of normalised fields.
        error_weight: of the task's own error beside it; 0 leaves the distance alone.
        layer: whose features are compared; None is the last.
    """

    run: str
    weight: float = 1.0
    error_weight: float = 1.0
    layer: str | None = None

    def over(self, channels: Sequence[Channel]) -> Penalty:
        """Return the weighted mean distance of states in physical units; truth that is missing counts as met.

        What is returned is no module, so that the encoder is no part of the weights of the task that it helps to train.

        Args:
            channels: that the task predicts.

        Raises:
            ChannelError: if the distance needs channels that the task does not predict.
            RecipeError: if the weight is not greater than 0, or that of the error less than 0.
        """
        check_weights(self.weight, self.error_weight)
        distance = AtmoDistance.load(self.run, self.layer)
        for channel in distance.channels:
            if channel not in channels:
                raise ChannelError(
                    f"content: {self.run} compares '{channel}', which is not predicted"
                    f"{suggest(str(channel), map(str, channels))}"
                )

        def penalty(predicted: Fields, truth: Fields) -> Tensor:
            distance.to(predicted.values.device)
            mean: Tensor = distance(predicted, Fields(met_where_missing(truth, predicted), truth.frame)).mean()
            return self.weight * mean

        return penalty


@register_score("complete_cases", units="1", name=DISTANCE)
def _mean_distance(distance: Tensor, complete_cases: Tensor) -> Tensor:
    """Return the mean learned distance over complete cases."""
    return distance / complete_cases


class LearnedDistance(ByInitialTime):
    """Mean AtmoDistance of every forecast at every lead, over the cases that are complete in all of them.

    Args:
        pairs: what is compared.
        run: run directory of `TimeLagTask` or `InpaintTask`.

    Raises:
        ChannelError: if the distance needs a channel that is not scored.
    """

    def __init__(self, pairs: Pairs, run: str | Path) -> None:
        self.pairs, self.run, self.distance = pairs, str(run), AtmoDistance.load(run)
        if missing := [channel for channel in self.distance.channels if channel not in pairs.channels]:
            raise ChannelError(
                f"the distance of {run} needs '{missing[0]}', which is not scored; there are "
                f"{', '.join(map(str, pairs.channels))}"
            )
        self.index = [pairs.channels.index(channel) for channel in self.distance.channels]
        self.values = np.full((len(pairs.forecasts), *pairs.position.shape), np.nan)

    def add(self, chunk: Chunk, where: Bool[Tensor, "initial lead channel lat lon"]) -> None:
        """Take a chunk into account, where all forecasts and the truth are complete."""
        complete = where[:, :, self.index].flatten(2).all(dim=2) & chunk.verified
        with torch.no_grad():
            for number, forecast in enumerate(chunk.forecasts.values()):
                apart = self.distance(forecast, chunk.truth).masked_fill(~complete, torch.nan)
                self.values[number, chunk.initial, chunk.leads] = apart.double().numpy()

    def kept(self) -> list[tuple[NDArray[Any], int]]:
        """Return arrays, each with the number of its axis of initial times."""
        return [(self.values, 1)]

    def result(self) -> xr.Dataset:
        """Return mean distances with 95 % intervals, and each case's."""
        cases = np.moveaxis(self.values, 1, 0)
        complete = np.isfinite(cases)
        sums = {"distance": np.where(complete, cases, 0.0), "complete_cases": complete.astype(np.float64)}
        dims = ("forecast", "lead_time")
        result = xr.Dataset(estimates(sums, [DISTANCE], dims))
        result[f"{DISTANCE}_by_initial_time"] = ("initial_time", *dims), cases
        channels = ", ".join(map(str, self.distance.channels))
        result[DISTANCE].attrs = {"units": "1", "long_name": "AtmoDist distance", "run": self.run, "channels": channels}
        return result
