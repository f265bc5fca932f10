"""Score filled fields: errors where nothing was observed, by distance, cloud and observations, and their own errors."""

from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float64
from numpy.typing import NDArray
from rich.progress import track
from scipy.special import ndtr
from torch import Tensor

from etesian.core.clock import decode_time
from etesian.core.constants import EARTH_RADIUS
from etesian.core.errors import DataError, RecipeError, suggest
from etesian.fill.means import MeanSums
from etesian.fill.pairs import FilledCase, FilledPairs
from etesian.fill.report import write_gapfill_report
from etesian.scores.definitions import FILLED_SCORES
from etesian.scores.members import rank_scores, ranked
from etesian.scores.registry import MapPair, collect, estimates, score_named, skill, statistics_of
from etesian.scores.views import isotropic_spectrum, largest_rectangle
from etesian.scores.weights import WHOLE_DOMAIN, point_weights

Array = NDArray[np.float64]

_OBSERVATIONS = (0, 1, 2, 3, 5, 8, 12, 20)

_SPACINGS = (0, 1.5, 3.5, 6.5, 12.5, 24.5, 48.5)
"""Edges of bins of distance between rows of the grid, none of which lies on a row."""

_SHARES = tuple(range(0, 100, 10))

_DEVIATIONS = np.concatenate([[0.0], 2.0 ** np.arange(-7, 2.5, 0.5)])
"""Edges of bins of the stated standard deviation, in standard deviations of the truth."""

_STATISTICS = (*statistics_of(FILLED_SCORES), "points")

_SMALLEST_SIDE, _LARGEST_SIDE = 16, 512


def score_filled(
    filled: Mapping[str, str | Path | xr.Dataset],
    truth: str | Path | xr.Dataset,
    observed: str | Path | xr.Dataset,
    *,
    references: Sequence[str] | None = None,
    channels: Sequence[str] | None = None,
    out: str | Path | None = None,
    progress: bool = True,
) -> xr.Dataset:
    """Score filled fields against the truth, or against observations that were withheld from them.

    All of them are scored over the same times and points: those at sea where the truth and every one has a value. What
    one lacks is counted. Scores are made of sums over area, points and times, never of other scores.

    Args:
        filled: by name; the first is what the report is about.
        truth: complete fields, or the observations of which some were withheld. Means over months are scored by those
            of the truth over the times observed.
        observed: what they were filled from.
        references: names among them; skill is 1 − RMSE / RMSE of each of them. All but the first by default.
        channels: all that are shared by default.
        out: folder for scores.nc, scores.csv, report.html, pictures and a film of the days.
        progress: show a progress bar.

    Returns:
        Scores over (forecast, channel, region) with 95 % intervals (`…_low`, `…_high`) and skill, where a region is the
        `gaps`, what was `observed`, or `all`; by bins; of single times also those of means over the area and over
        months, and of members the ranks of the truth among them. docs/gapfill.md defines them.

    Raises:
        DataError: if files cannot be read, are not filled fields, or nothing can be scored.
        GridError: if grids differ.
        ChannelError: if a channel is missing.
        RecipeError: if there are no filled fields, or a reference is none of them.
    """
    if not filled:
        raise RecipeError("there are no filled fields to score; name at least one")
    references = list(filled)[1:] if references is None else list(references)
    if unknown := [name for name in references if name not in filled]:
        raise RecipeError(f"there are no filled fields '{unknown[0]}' to refer to{suggest(unknown[0], filled)}")
    pairs = FilledPairs(filled, truth, observed, channels)
    sums = GapSums(pairs)
    cases = track(pairs.cases(), "Scoring filled fields", pairs.time.size * len(pairs.channels), transient=True,
                    disable=not progress)  # fmt: skip
    for number, channel, case in cases:
        sums.add(number, pairs.channels.index(channel), case)
    scores = sums.result(references)
    scores.attrs = {
        "title": f"Scores of {next(iter(filled))}",
        "etesian_version": version("etesian"),
        "target": "monthly means" if pairs.monthly else "single times",
        "points": "all points" if pairs.monthly else "points without an observation",
        "grid": str(pairs.grid),
        "left_out": ", ".join(f"{count} not in {name}" for name, count in pairs.dropped.items() if count),
    }
    if out is not None:
        write_gapfill_report(scores, pairs, out)
    return scores


class GapSums:
    """Sums of errors, as one pass over the times makes them.

    Bins by observations, cloud share and standard deviation hold the points without an observation where single times
    are scored, and all points where means over months are; bins of distance hold all.

    Args:
        pairs: what is scored.
    """

    def __init__(self, pairs: FilledPairs) -> None:
        self.pairs, self.names = pairs, list(pairs.filled)
        self.spacing = float(np.radians(np.diff(pairs.grid.latitude).mean()) * EARTH_RADIUS / 1000)
        self.edges: dict[str, Array] = {
            "observations": np.array(_OBSERVATIONS, dtype=np.float64),
            "distance": np.array(_SPACINGS) * self.spacing,
            "cloud_share": np.array(_SHARES) / 100,
            "deviation": _DEVIATIONS,
        }
        lead = (len(self.names), len(pairs.channels))
        sizes = [edges.size for edges in self.edges.values()]
        self.sums = np.zeros((*lead, sum(sizes), len(_STATISTICS)))
        self.by_time = np.zeros((pairs.time.size, *lead, 2, len(_STATISTICS)))
        self.cloud_shares = np.zeros(pairs.time.size)
        self.missing = np.zeros(lead, dtype=np.int64)
        self.pit = np.zeros((*lead, 20))
        self.ranks = {
            name: np.zeros((pairs.time.size, lead[1], series.members + 1))
            for name, series in pairs.filled.items()
            if series.members > 1
        }
        shape = (*lead, *pairs.grid.shape)
        self.map_error, self.map_squared = np.zeros(shape), np.zeros(shape)
        self.map_count = np.zeros((lead[1], *pairs.grid.shape), dtype=np.int64)
        weights, _ = point_weights(pairs.grid, (WHOLE_DOMAIN,), "area")
        self.area = weights[:, 0].numpy().reshape(pairs.grid.shape)
        self.means = None if pairs.monthly else MeanSums(pairs, self.area)
        self.origin, self.truth_deviation = np.full(lead[1], np.nan), np.ones(lead[1])
        self.box: tuple[slice, slice] | None = None
        self.seen = ["truth", *self.names, *(f"error of {name}" for name in self.names)]
        self.power = np.zeros((pairs.time.size, len(self.seen), 0, lead[1]))
        self.whole = np.zeros((pairs.time.size, lead[1]))
        self.wavenumber = np.zeros(0)

    def add(self, number: int, channel: int, case: FilledCase) -> None:
        """Take one time of one channel into account."""
        self.cloud_shares[number] = case.cloud_share
        known = np.isfinite(case.truth) & case.sea
        use = known.copy()
        for i, name in enumerate(self.names):
            has = np.isfinite(case.filled[name])
            self.missing[i, channel] += int((known & ~has).sum())
            use &= has
        self._add_spectra(number, channel, case)
        if self.means is not None:
            self.means.add(number, channel, case, use)
        if not use.any():
            return
        truth = case.truth[use]
        if np.isnan(self.origin[channel]):
            self.origin[channel], self.truth_deviation[channel] = truth.mean(), max(float(truth.std()), 1e-12)
        gap = ~case.observed[use]
        counted = np.ones_like(gap) if self.pairs.monthly else gap
        distance = np.where(gap, np.maximum(_bins(case.distance[use], self.edges["distance"]), 1), 0)
        labels = {
            "observations": _where(counted, _bins(case.count[use], self.edges["observations"])),
            "distance": distance,
            "cloud_share": _where(counted, _bins(np.array(case.cloud_share), self.edges["cloud_share"])),
        }
        self.map_count[channel] += use
        for i, name in enumerate(self.names):
            filled = case.filled[name][use]
            self.map_error[i, channel][use] += filled - truth
            self.map_squared[i, channel][use] += (filled - truth) ** 2
            members = torch.from_numpy(case.members[name][:, use]) if name in case.members else None
            deviation = case.deviation[name][use] if name in case.deviation else np.full(truth.shape, np.nan)
            stated = counted & np.isfinite(deviation)
            scatter = deviation if members is None else members.double().std(0).numpy()
            label = _bins(scatter / self.truth_deviation[channel], _DEVIATIONS)
            labels["deviation"] = _where(counted & np.isfinite(scatter), label)
            groups = _Bins(
                [(~gap).astype(np.int64), *(labels[binning] for binning in self.edges)],
                [2, *(edges.size for edges in self.edges.values())],
                self.area[use],
            )
            values, true, stated_deviation = (torch.from_numpy(part) for part in (filled, truth, deviation))
            pair = MapPair(
                values, true, torch.ones_like(true, dtype=torch.bool), groups, (values - true).square(),
                deviation=stated_deviation, members=members, origin=float(self.origin[channel]),
            )  # fmt: skip
            sums = np.stack([part.numpy() for part in collect(pair, _STATISTICS).values()], axis=-1)
            self.by_time[number, i, channel] = sums[:2]
            self.sums[i, channel] += sums[2:]
            self._add_pit(i, channel, ((truth - filled) / deviation)[stated], self.area[use][stated])
            if members is not None:
                where, area = torch.from_numpy(counted), torch.from_numpy(self.area[use])
                each = (member[None, None] for member in members)
                found = ranked(each, true[None, None], where[None, None], area[:, None])
                self.ranks[name][number, channel] = found[0, 0, 0]

    def _add_pit(self, number: int, channel: int, standard: Array, weight: Array) -> None:
        label = np.minimum((ndtr(standard) * 20).astype(np.int64), 19)
        self.pit[number, channel] += np.bincount(label, weight, 20)

    def _add_spectra(self, number: int, channel: int, case: FilledCase) -> None:
        """Add the spectra over the largest rectangle without a missing value, found once."""
        maps = {"truth": case.truth, **case.filled}
        whole = np.all([np.isfinite(values) for values in maps.values()], axis=0)
        if self.box is None:
            self.box = tuple(_at_most(side) for side in largest_rectangle(whole))  # type: ignore[assignment]
        assert self.box is not None
        inside_box = whole[self.box]
        if min(inside_box.shape) < _SMALLEST_SIDE or not inside_box.all():
            return
        maps |= {f"error of {name}": values - case.truth for name, values in case.filled.items()}
        grid = self.pairs.grid
        degree = np.radians(1) * EARTH_RADIUS / 1000
        across = degree * np.cos(np.radians(grid.latitude[self.box[0]].mean())) * np.diff(grid.longitude).mean()
        found = isotropic_spectrum(np.stack([values[self.box] for values in maps.values()]), (self.spacing, across))
        if not self.wavenumber.size:
            self.wavenumber = found.wavenumber
            self.power = np.zeros((*self.power.shape[:2], found.wavenumber.size, self.power.shape[3]))
        self.power[number, ..., channel] = found.power
        self.whole[number, channel] = 1

    def result(self, references: Sequence[str] = ()) -> xr.Dataset:
        """Return the scores, and skill against the references.

        Raises:
            DataError: if there was no point to score.
        """
        if not self.by_time[..., _STATISTICS.index("points")].any():
            raise DataError(
                "no point could be scored: nowhere have the truth and all filled fields a value at the same time"
                + ("; a truth with gaps has no means over months, so score single times" if self.pairs.monthly else "")
            )
        parts = {"gaps": self.by_time[..., :1, :], "observed": self.by_time[..., 1:, :]}
        parts["all"] = parts["gaps"] + parts["observed"]
        # What verdicts are about comes first.
        regions = ("all", "gaps", "observed") if self.pairs.monthly else ("gaps", "observed", "all")
        by_time = _by_statistic(np.concatenate([parts[name] for name in regions], axis=3))
        dims = ("forecast", "channel", "region")
        data: dict[str, tuple[tuple[str, ...], Any]] = dict(estimates(by_time, FILLED_SCORES, dims))
        if references:
            data |= skill(by_time, self.names, references, dims)
        data["points"] = dims, by_time["points"].sum(0).astype(np.int64)
        data["mse_by_time"] = ("time", *dims), _share(by_time["squared_error"], by_time["weight"])
        first = 0
        for binning, edges in self.edges.items():
            sums = _by_statistic(self.sums[:, :, first : first + edges.size])
            first += edges.size
            totals = {name: torch.from_numpy(part.copy()) for name, part in sums.items()}
            for name in FILLED_SCORES:
                data[f"{name}_by_{binning}"] = (*dims[:2], binning), score_named(name).value(totals).numpy()
            data[f"points_by_{binning}"] = (*dims[:2], binning), sums["points"].astype(np.int64)
        data["pit"] = (*dims[:2], "pit_bin"), _share(self.pit, self.pit.sum(-1, keepdims=True))
        if self.ranks:
            data |= rank_scores(self.names, self.ranks, ("channel",))
        if self.means is not None:
            data |= self.means.result(dims[:2])
        data["missing_forecast"] = dims[:2], self.missing
        data["cloud_share_of_time"] = ("time",), self.cloud_shares
        maps = {"bias_map": _share(self.map_error, self.map_count)}
        maps["rmse_map"] = np.sqrt(_share(self.map_squared, self.map_count))
        data |= {name: ((*dims[:2], "latitude", "longitude"), part.astype(np.float32)) for name, part in maps.items()}
        if self.wavenumber.size:
            data |= self._spectra()
        coordinates: dict[str, Any] = {
            "forecast": self.names,
            "channel": [str(channel) for channel in self.pairs.channels],
            "region": list(regions),
            "observations": ("observations", _labels(self.edges["observations"], "", whole=True)),
            "distance": ("distance", ["observed", *_labels(np.append(0, self.edges["distance"][2:]), " km")]),
            "cloud_share": ("cloud_share", _labels(100 * self.edges["cloud_share"], " %", end="100")),
            "deviation": ("deviation", _DEVIATIONS, {"long_name": "lower edge, in standard deviations of the truth"}),
            "pit_bin": (np.arange(20) + 0.5) / 20,
            "time": decode_time(self.pairs.time, self.pairs.calendar),
            "latitude": self.pairs.grid.latitude,
            "longitude": self.pairs.grid.longitude,
            "units": ("channel", [self.pairs.truth.units(channel) for channel in self.pairs.channels]),
        }
        if references:
            coordinates["reference"] = list(references)
        if self.ranks:
            coordinates["rank"] = np.arange(max(each.shape[-1] for each in self.ranks.values()))
        coordinates["wavenumber"] = "wavenumber", self.wavenumber, {"units": "km-1"}
        if self.wavenumber.size:
            coordinates["spectrum_of"] = self.seen
        return xr.Dataset(data, coordinates)

    def _spectra(self) -> dict[str, tuple[tuple[str, ...], Any]]:
        """Return the power of truth, filled fields and errors, and its share of the truth's, with 95 % intervals."""
        sums = {
            "forecast_squared": self.power,
            "truth_squared": np.broadcast_to(self.power[:, :1], self.power.shape),
            "maps": np.broadcast_to(self.whole[:, None, None], self.power.shape),
        }
        found = estimates(sums, ("spectrum", "spectral_ratio"), ("spectrum_of", "wavenumber", "channel"))
        return {name.replace("spectrum", "power"): part for name, part in found.items()}


class _Bins:
    """Sums over several sets of bins, one behind the other; a point of a negative label is in none.

    Args:
        labels: bin of each point, by set.
        sizes: number of bins of each set.
        area: of each point.
    """

    def __init__(self, labels: Sequence[NDArray[np.int64]], sizes: Sequence[int], area: Array) -> None:
        self.labels, self.sizes, self.area = labels, sizes, area

    def total(self, values: Float64[Tensor, " point"]) -> Float64[Tensor, " group"]:
        """Return sums over the points of each bin, weighted by area."""
        return self._sums(values.numpy() * self.area)

    def count(self, values: Float64[Tensor, " point"]) -> Float64[Tensor, " group"]:
        """Return sums over the points of each bin without weights."""
        return self._sums(values.numpy())

    def _sums(self, values: Array) -> Tensor:
        parts = [
            np.bincount(label + 1, values, size + 1)[1:] for label, size in zip(self.labels, self.sizes, strict=True)
        ]
        return torch.from_numpy(np.concatenate(parts))


def _by_statistic(sums: Array) -> dict[str, Array]:
    return {name: sums[..., position] for position, name in enumerate(_STATISTICS)}


def _where(counted: NDArray[np.bool_], label: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return labels, negative where a point does not count."""
    return np.asarray(np.where(counted, label, -1))


def _share(part: Array, whole: Any) -> Array:
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(part / np.where(whole > 0, whole, np.nan))


def _bins(values: NDArray[Any], edges: Array) -> NDArray[np.int64]:
    return np.asarray(np.clip(np.searchsorted(edges, values, side="right") - 1, 0, edges.size - 1), dtype=np.int64)


def _labels(edges: Array, unit: str, *, whole: bool = False, end: str = "") -> list[str]:
    """Write the bins that begin at each edge.

    >>> _labels(np.array([0.0, 1, 2, 5]), "", whole=True), _labels(np.array([0.0, 10]), " %", end="20")
    (['0', '1', '2–4', '5+'], ['0–10 %', '10–20 %'])
    """
    texts = []
    for low, high in zip(edges, [*edges[1:], None], strict=True):
        if high is None:
            texts.append(f"{low:.3g}–{end}{unit}" if end else f"{low:.3g}+{unit}")
        elif whole:
            texts.append(f"{low:.0f}" if high - low == 1 else f"{low:.0f}–{high - 1:.0f}")
        else:
            texts.append(f"{low:.3g}–{high:.3g}{unit}")
    return texts


def _at_most(side: slice) -> slice:
    """Return the middle of a side that is longer than spectra are worth their time for."""
    spare = max(side.stop - side.start - _LARGEST_SIDE, 0)
    return slice(side.start + spare // 2, side.stop - (spare - spare // 2))
