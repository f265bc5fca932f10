"""How far forecasts are from the truth by a learned distance, beside RMSE and ACC."""

from pathlib import Path

import numpy as np
import torch
import xarray as xr
from jaxtyping import Bool
from torch import Tensor

from etesian.core.errors import ChannelError
from etesian.distance.distance import AtmoDistance
from etesian.scores.pairs import Chunk, Pairs
from etesian.scores.registry import estimates, register_score
from etesian.scores.tables import DISTANCE


@register_score("complete_cases", units="1")
def atmodistance(distance: Tensor, complete_cases: Tensor) -> Tensor:
    """Return the mean learned distance over complete cases."""
    return distance / complete_cases


class LearnedDistance:
    """Mean AtmoDistance of every forecast at every lead, over the cases that are complete in all of them.

    Args:
        pairs: what is compared.
        run: run directory of `TimeLagTask` or `InpaintTask`.

    Raises:
        ChannelError: if the distance needs a channel that is not judged.
    """

    def __init__(self, pairs: Pairs, run: str | Path) -> None:
        self.pairs, self.run, self.distance = pairs, str(run), AtmoDistance.load(run)
        if missing := [channel for channel in self.distance.channels if channel not in pairs.channels]:
            raise ChannelError(
                f"the distance of {run} needs '{missing[0]}', which is not judged; there are "
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
