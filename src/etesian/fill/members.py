"""Members of filled fields: equally likely fields that keep to what was observed, by Matheron's rule."""

from collections.abc import Iterator

import numpy as np
import torch
from jaxtyping import Bool, Float32
from numpy.typing import NDArray

from etesian.core.clock import Seconds
from etesian.core.constants import SECONDS_PER_DAY
from etesian.core.errors import RecipeError
from etesian.core.grid import Grid
from etesian.fill.months import Tile
from etesian.fill.task import GapFillTask
from etesian.networks.kriging import LocalKriging
from etesian.networks.random_fields import Draw, random_field, standard_departures, white_noise

TOGETHER = 8
"""Members that are kriged at once. Always as many, for the last bits of products depend on their sizes."""

_LARGEST = 2**26
"""Values of members that are held at once, about."""


class Scatter:
    """What members differ by: how far kriging misses random fields with its covariance, seen through the same clouds.

    Errors are correlated in space and time as those of kriging are. They are drawn as multiples of the deviation that
    kriging states for a factor of 1, so that times the deviation that the run states they scatter by that, with
    whatever its layers and its calibration made of it. Waves and noise follow from seed, member, place and time alone,
    so members do not depend on tiles, months, or how many there are.

    Args:
        task: a trained run that fills gaps.
        daily: whether it fills days, and no means over months.
        count: of members.
        seed: of all of them.

    Raises:
        RecipeError: if the run has no kriging, no deviations or no days, or there are no members.
    """

    def __init__(self, task: GapFillTask, *, daily: bool, count: int, seed: int) -> None:
        network = type(task.network).__name__
        found = [part for part in task.network.modules() if isinstance(part, LocalKriging)]
        if not found:
            raise RecipeError(
                f"members are drawn from what kriging does not know, and this {network} has no kriging; train one with "
                "residual: kriging, or fill without members"
            )
        if not task.network.gives_variance:
            raise RecipeError(
                f"members scatter by the stated deviation, which this {network} lacks; set variance: true"
            )
        if not daily:
            raise RecipeError(
                "members are of days, and this run fills means over months; train it with target: daily and take means "
                "of its members"
            )
        if count < 1 or seed < 0:
            raise RecipeError(f"members = {count} must be 1 or more and seed = {seed} must be 0 or more")
        self.kriging, self.layout, self.count, self.seed = found[0], task.layout, count, seed

    def parts(self, values: int) -> Iterator[range]:
        """Return the numbers of members that are held at once, where each of them has so many values."""
        size = min(max(_LARGEST // max(values, 1), 1), TOGETHER)
        for first in range(0, self.count, size):
            yield range(first, min(first + size, self.count))

    def of_tile(
        self,
        numbers: range,
        tile: Tile,
        times: Seconds,
        valid: Bool[np.ndarray, "time channel lat lon"],
        wanted: Bool[np.ndarray, "time lat lon"],
    ) -> Float32[np.ndarray, "member time target lat lon"]:
        """Return how many deviations members lie from the mean; 0 far from what is wanted.

        Args:
            numbers: of the members, at most as many as go together.
            tile: of the grid.
            times: of the observations, seconds.
            valid: where there is an observation of each input.
            wanted: where members are.
        """
        days = times / SECONDS_PER_DAY
        found = np.zeros((len(numbers), len(times), len(self.layout.targets), *tile.grid.shape), dtype=np.float32)
        for position, channel in enumerate(self.layout.targets):
            own = self.layout.inputs.index(channel)
            seen = valid[:, own]
            fields, noise = np.zeros((2, *seen.shape, TOGETHER), dtype=np.float32)
            for place, number in enumerate(numbers):
                draw = Draw(self.seed, number, own)
                fields[..., place] = self._field(draw, tile.grid, days, seen, wanted)
                noise[..., place] = self._noise(draw, tile, times, seen)
            device = self.kriging.logarithms.device
            missed = standard_departures(
                self.kriging, own, torch.from_numpy(fields).to(device), torch.from_numpy(noise).to(device),
                torch.from_numpy(seen), torch.from_numpy(days), tile.grid, wanted,
            )  # fmt: skip
            found[:, :, position] = np.moveaxis(missed.cpu().numpy()[..., : len(numbers)], -1, 0)
        return found

    def _field(
        self,
        draw: Draw,
        grid: Grid,
        days: NDArray[np.float64],
        seen: Bool[np.ndarray, "time lat lon"],
        wanted: Bool[np.ndarray, "time lat lon"],
    ) -> NDArray[np.float32]:
        kernels = torch.cat([self.kriging.kernels(), self.kriging.stretch()[:, :, None]], -1)[draw.channel]
        used = (seen | wanted).reshape(len(days), -1)
        when, points = np.flatnonzero(used.any(1)), np.flatnonzero(used.any(0))
        field = np.zeros(used.shape, dtype=np.float32)
        field[np.ix_(when, points)] = random_field(
            draw, kernels.detach().cpu().numpy(), grid, days[when], points
        ).numpy()
        return field.reshape(seen.shape)

    def _noise(
        self, draw: Draw, tile: Tile, times: Seconds, seen: Bool[np.ndarray, "time lat lon"]
    ) -> NDArray[np.float32]:
        size, noise = float(self.kriging.noise()[draw.channel]), np.zeros(seen.shape, dtype=np.float32)
        for position in np.flatnonzero(seen.any((1, 2))).tolist():
            whole = white_noise(draw, int(times[position]), self.layout.grid.shape)
            noise[position] = size * whole[np.ix_(tile.rows, tile.columns)]
        return noise
