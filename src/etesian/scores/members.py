"""What is seen of the members of an ensemble: the ranks of the truth among them, and one case closely."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
import xarray as xr
from jaxtyping import Bool, Float, Float64
from numpy.typing import NDArray
from scipy import stats
from torch import Tensor

from etesian.core.channels import Channel
from etesian.core.dataset import MEMBER
from etesian.scores.events import Events, beyond
from etesian.scores.pairs import ByInitialTime, Chunk, Pairs
from etesian.scores.registry import Variables, estimates, register_score
from etesian.scores.structure import cities_inside, nearest_points
from etesian.scores.sums import sums_by_bin
from etesian.scores.weights import Weighting, point_weights

PLACES = 4
"""Places at which members are kept, at most."""

STAMPS = 14
"""Members that are kept as maps, at most."""


@register_score("ranked_weight", units="1")
def rank_frequency(ranks: Tensor, ranked_weight: Tensor) -> Tensor:
    """Return the share of the truth that has each rank among the members."""
    return ranks / ranked_weight


class RankHistograms(ByInitialTime):
    """Counts how many members lie below the truth, for a few channels, every lead and region.

    Where the truth equals some of the members, it counts in equal parts for each rank that it may have.

    Args:
        pairs: what is scored.
        channels: which of it.
        regions: names.
        weighting: of the latitudes.
    """

    def __init__(self, pairs: Pairs, channels: Sequence[Channel], regions: Sequence[str], weighting: Weighting) -> None:
        self.pairs, self.channels, self.regions = pairs, tuple(channels), tuple(regions)
        self.index = [pairs.channels.index(channel) for channel in channels]
        self.weights, _ = point_weights(pairs.truth.grid, regions, weighting)
        shape = (*pairs.position.shape, len(channels), len(regions))
        self.ranks = {
            name: np.zeros((*shape, series.members + 1))
            for name, series in pairs.forecasts.items()
            if series.members > 1
        }

    def add(self, chunk: Chunk, where: Bool[Tensor, "initial lead channel lat lon"]) -> None:
        """Take a chunk into account, at the points where all forecasts and the truth are there."""
        for name, members in chunk.members.items():
            for number, channel in enumerate(self.index):
                truth, use = (part[:, :, channel].flatten(2) for part in (chunk.truth.values, where))
                several = (member[:, :, channel].flatten(2) for member in members)
                self.ranks[name][chunk.initial, chunk.leads, number] = ranked(several, truth, use, self.weights)

    def kept(self) -> list[tuple[NDArray[Any], int]]:
        """Return arrays, each with the number of its axis of initial times."""
        return [(ranks, 0) for ranks in self.ranks.values()]

    def result(self) -> xr.Dataset:
        """Return the frequencies of ranks; see `rank_scores`."""
        found = rank_scores(list(self.pairs.forecasts), self.ranks, ("lead_time", "map_channel", "region"))
        ranks = np.arange(found["rank_frequency"][1].shape[-1])
        return xr.Dataset(found, {"map_channel": [*map(str, self.channels)], "rank": ranks})


def rank_scores(
    forecasts: Sequence[str], counts: Mapping[str, NDArray[np.float64]], dims: tuple[str, ...]
) -> Variables:
    """Return the frequencies of ranks with their intervals, and χ² of their departure from even ones.

    χ² compares the squared departures with the variances of the frequencies, which those of initial times tell, as
    Rao and Scott (1981, doi 10.1080/01621459.1981.10477633) do for samples that are alike; with evenly likely
    ranks it follows the χ² distribution with as many degrees of freedom as there are members.

    Args:
        forecasts: names; those without members get NaN.
        counts: by name of an ensemble, (time, *dims, rank).
        dims: names of the axes between.
    """
    most, shape = max(each.shape[-1] for each in counts.values()), next(iter(counts.values())).shape[1:-1]
    data = {name: np.full((len(forecasts), *shape, most), np.nan) for name in ("", "_low", "_high")}
    square, probability = np.full((2, len(forecasts), *shape), np.nan)
    for name, ranks in counts.items():
        at, count = forecasts.index(name), ranks.shape[-1]
        total = np.broadcast_to(ranks.sum(-1, keepdims=True), ranks.shape)
        found = estimates({"ranks": ranks, "ranked_weight": total}, ["rank_frequency"], ())
        share, low, high = (found[f"rank_frequency{end}"][1] for end in data)
        for part, values in zip(data.values(), (share, low, high), strict=True):
            part[at, ..., :count] = values
        variance = np.square((high - low) / 2 / stats.norm.ppf(0.975)).sum(-1)
        with np.errstate(divide="ignore", invalid="ignore"):
            square[at] = (count - 1) * np.square(share - 1 / count).sum(-1) / variance
        probability[at] = stats.chi2.sf(square[at], count - 1)
    dims = ("forecast", *dims)
    result: Variables = {f"rank_frequency{end}": ((*dims, "rank"), values) for end, values in data.items()}
    return result | {"rank_chi_square": (dims, square), "rank_p_value": (dims, probability)}


def ranked(
    members: Iterable[Tensor],
    truth: Float[Tensor, "initial lead point"],
    use: Bool[Tensor, "initial lead point"],
    weights: Float64[Tensor, "point region"],
) -> NDArray[np.float64]:
    """Return how much of each map of the truth has each rank among the members, (initial, lead, region, rank)."""
    below, equal = torch.zeros_like(use, dtype=torch.int64), torch.zeros_like(use, dtype=torch.int64)
    count = 0
    for member in members:
        count += 1
        below += member < truth
        equal += member == truth
    share = use.double() / (equal + 1)
    ends = [sums_by_bin(edge, share, weights, count + 2) for edge in (below, below + equal + 1)]
    return np.cumsum(ends[0] - ends[1], -1)[..., :-1]


class MemberExample:
    """Keeps one case of the first ensemble: members at a few places and as maps, and probabilities of events.

    Args:
        pairs: what is scored.
        channels: whose members are kept at places; maps are kept of the first one.
        initial: position of the initial time.
        lead: position of the lead of maps.
        events: whose probabilities are kept as maps.
    """

    def __init__(
        self, pairs: Pairs, channels: Sequence[Channel], initial: int, lead: int, events: Events | None
    ) -> None:
        self.pairs, self.channels, self.initial, self.lead, self.events = pairs, channels, initial, lead, events
        self.name = next(name for name, series in pairs.forecasts.items() if series.members > 1)
        grid, count = pairs.truth.grid, pairs.forecasts[self.name].members
        self.places = cities_inside(grid)[:PLACES]
        if not self.places:
            middle = [float(axis[axis.size // 2]) for axis in (grid.latitude, grid.longitude)]
            self.places = ["{:g},{:g}".format(*middle)]
        self.rows, self.columns = nearest_points(self.places, grid)
        self.plume = np.full((count, len(pairs.leads), len(channels), len(self.places)), np.nan, np.float32)
        self.plume_truth = np.full(self.plume.shape[1:], np.nan, np.float32)
        self.stamps = np.full((min(count, STAMPS), *grid.shape), np.nan, np.float32)
        self.mean, self.truth = np.full((2, *grid.shape), np.nan, np.float32)
        self.probability, self.happened = np.full((2, len(events.events) if events else 0, *grid.shape), np.nan)

    def add(self, chunk: Chunk, _: Bool[Tensor, "initial lead channel lat lon"]) -> None:
        """Keep what a chunk holds of the case."""
        row = self.initial - chunk.initial.start
        if not 0 <= row < chunk.verified.shape[0]:
            return
        index = [self.pairs.channels.index(channel) for channel in self.channels]
        members, truth = chunk.members[self.name][:, row].numpy(), chunk.truth.values[row].numpy()
        self.plume[:, chunk.leads] = members[:, :, index][..., self.rows, self.columns]
        self.plume_truth[chunk.leads] = truth[:, index][..., self.rows, self.columns]
        if not 0 <= (lead := self.lead - chunk.leads.start) < chunk.verified.shape[1]:
            return
        self.stamps[:] = members[: len(self.stamps), lead, index[0]]
        self.mean[:], self.truth[:] = members[:, lead, index[0]].mean(0), truth[lead, index[0]]
        for number, event in enumerate(self.events.events if self.events else ()):
            assert self.events is not None
            limit = self.events.limit(event, chunk)
            own = limit if isinstance(limit, float) else limit[row, lead]
            channel = self.pairs.channels.index(event.channel)
            said = chunk.members[self.name][:, row, lead, channel]
            for maps, values in (
                (self.probability, said),
                (self.happened, chunk.truth.values[row, lead, channel][None]),
            ):
                share = beyond(values, own, event.below).double().mean(0)
                maps[number] = torch.where(values.isfinite().all(0), share, torch.nan).numpy()

    def _arrays(self) -> list[NDArray[Any]]:
        return [self.plume, self.plume_truth, self.stamps, self.mean, self.truth, self.probability, self.happened]

    def part(self, block: slice) -> list[NDArray[Any]] | None:
        """Return what the chunks of a block hold of the case, None if they do not hold it."""
        return self._arrays() if block.start <= self.initial < block.stop else None

    def take(self, block: slice, part: list[NDArray[Any]] | None) -> None:
        """Keep what another process has found in a block."""
        for array, values in zip(self._arrays(), part or (), strict=part is not None):
            array[...] = values

    def result(self) -> xr.Dataset:
        """Return the case with its coordinates."""
        about = {"channel": str(self.channels[0]), "lead_time": self.pairs.leads[self.lead], "forecast": self.name}
        maps = ("latitude", "longitude")
        data: dict[str, Any] = {
            "plume": (("number", "lead_time", "plume_channel", "place"), self.plume, about),
            "plume_truth": (("lead_time", "plume_channel", "place"), self.plume_truth),
            "stamp": (("stamp_number", *maps), self.stamps, about),
            "stamp_mean": (maps, self.mean),
            "stamp_truth": (maps, self.truth),
        }
        if self.events:
            data["event_probability"] = ("event", *maps), self.probability.astype(np.float32), about
            data["event_happened"] = ("event", *maps), self.happened.astype(np.float32)
        numbers = self.pairs.forecasts[self.name].dataset[MEMBER].values
        coords = {
            "number": numbers,
            "stamp_number": numbers[: len(self.stamps)],
            "place": self.places,
            "plume_channel": [*map(str, self.channels)],
        }
        return xr.Dataset(data, coords)
