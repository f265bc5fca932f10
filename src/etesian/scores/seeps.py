"""SEEPS: dry, light and heavy precipitation, told apart by the climatology of each place."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import xarray as xr
from jaxtyping import Bool, Int64
from numpy.typing import NDArray
from torch import Tensor

from etesian.core.channels import Channel
from etesian.scores.pairs import ByInitialTime, Chunk, Pairs
from etesian.scores.registry import estimates, register_score
from etesian.scores.weights import Weighting, point_weights

DRY = 0.25e-3
"""Precipitation up to which it is dry, in m."""

DRY_FRACTIONS = (0.1, 0.85)
"""How often it is dry where SEEPS is taken; elsewhere one of its classes is too rare."""


@register_score("classed_weight", relative=True, units="1")
def seeps(class_errors: Tensor, classed_weight: Tensor) -> Tensor:
    """Return the stable equitable error in probability space; 0 is perfect, 1 what knows nothing."""
    return class_errors / classed_weight


class Seeps(ByInitialTime):
    """Compares dry, light and heavy precipitation (Rodwell et al. 2010, doi 10.1002/qj.656), as WeatherBench-X does.

    A climatology in WeatherBench 2's layout says how often it is dry, `…_seeps_dry_fraction`, whose mean over the year
    counts, and from where on precipitation is heavy, `…_seeps_threshold`, at the valid time.

    Args:
        pairs: what is scored, with a climatology that has both for the channels.
        channels: precipitation in m.
        regions: names.
        weighting: of the latitudes.
    """

    def __init__(self, pairs: Pairs, channels: Sequence[Channel], regions: Sequence[str], weighting: Weighting) -> None:
        assert pairs.climatology is not None
        self.pairs, self.channels, self.normals = pairs, tuple(channels), pairs.climatology
        self.weights, _ = point_weights(pairs.truth.grid, regions, weighting)
        often = [pairs.climatology.mean(Channel(f"{channel.name}_seeps_dry_fraction")) for channel in channels]
        self.dry = torch.from_numpy(np.stack(often)).double()
        shape = (len(pairs.initial), len(pairs.leads), len(channels), len(regions))
        self.errors, self.weight = ({name: np.zeros(shape) for name in pairs.forecasts} for _ in range(2))

    def add(self, chunk: Chunk, where: Bool[Tensor, "initial lead channel lat lon"]) -> None:
        """Take a chunk into account, at the points where all forecasts and the truth are there."""
        valid = chunk.truth.frame.time.numpy()
        for number, channel in enumerate(self.channels):
            at, dry = self.pairs.channels.index(channel), self.dry[number]
            wanted = [Channel(f"{channel.name}_seeps_threshold")]
            heavy = torch.from_numpy(self.normals.at(valid, self.pairs.calendar, wanted))[:, :, 0]
            use = where[:, :, at] & heavy.isfinite() & (dry >= DRY_FRACTIONS[0]) & (dry <= DRY_FRACTIONS[1])
            penalties = _penalties(dry.clamp(*DRY_FRACTIONS))
            theirs = _wetness(chunk.truth.values[:, :, at], heavy)
            for name, forecast in chunk.forecasts.items():
                ours = _wetness(forecast.values[:, :, at], heavy)
                found = torch.zeros(use.shape, dtype=torch.float64)
                for (said, was), penalty in penalties.items():
                    found += torch.where((ours == said) & (theirs == was), penalty, 0.0)
                for sums, values in ((self.errors, torch.where(use, found, 0.0)), (self.weight, use.double())):
                    sums[name][chunk.initial, chunk.leads, number] = (values.flatten(2) @ self.weights).numpy()

    def kept(self) -> list[tuple[NDArray[Any], int]]:
        """Return arrays, each with the number of its axis of initial times."""
        return [(sums, 0) for part in (self.errors, self.weight) for sums in part.values()]

    def result(self) -> xr.Dataset:
        """Return the score with its interval, for the channels that have one."""
        sums = {
            name: np.stack(list(parts.values()), 1)
            for name, parts in (("class_errors", self.errors), ("classed_weight", self.weight))
        }
        found = estimates(sums, ["seeps"], ("forecast", "lead_time", "channel", "region"))
        return xr.Dataset(found, {"channel": [*map(str, self.channels)]})


def _wetness(values: Tensor, heavy: Tensor) -> Int64[Tensor, "*axes"]:
    """Return 0 where it is dry, 1 where precipitation is light, 2 where it is heavy."""
    return (values > DRY).long() + ((values > DRY) & (values >= heavy)).long()


def _penalties(dry: Tensor) -> dict[tuple[int, int], Tensor]:
    """Return the errors of a forecast class where another happens, from how often it is dry."""
    wet = 1 / (1 - dry)
    both = 3 / (2 + dry)
    return {
        (0, 1): wet / 2, (0, 2): 2 * wet, (1, 0): 1 / dry / 2, (1, 2): 1.5 * wet,
        (2, 0): (1 / dry + both) / 2, (2, 1): both / 2,
    }  # fmt: skip


def rain_classes(pairs: Pairs) -> tuple[Channel, ...]:
    """Return the channels for which the climatology tells dry, light and heavy precipitation apart."""
    known = set() if pairs.climatology is None else {channel.name for channel in pairs.climatology.channels}
    needed = ("seeps_dry_fraction", "seeps_threshold")
    return tuple(c for c in pairs.channels if all(f"{c.name}_{each}" in known for each in needed))
