"""Judge filled fields: errors where nothing was observed, by distance, cloud and observations, and their own errors."""

from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from rich.progress import track
from scipy.special import ndtr

from etesian.core.clock import decode_time
from etesian.core.constants import EARTH_RADIUS
from etesian.core.errors import DataError, RecipeError
from etesian.fill.pairs import FilledCase, FilledPairs
from etesian.fill.report import write_gapfill_report
from etesian.scores.gaussian import LEVELS, crps, inside, log_score
from etesian.scores.spectrum import isotropic_spectrum, largest_rectangle
from etesian.scores.uncertainty import half_width, ratio_influence

Array = NDArray[np.float64]

WHERE = ("gaps", "observed", "all")
"""Points without an observation (withheld ones included), with one, and both."""

_OBSERVATIONS = (0, 1, 2, 3, 5, 8, 12, 20)

_SPACINGS = (0, 1.5, 3.5, 6.5, 12.5, 24.5, 48.5)
"""Edges of bins of distance between rows of the grid, none of which lies on a row."""

_SHARES = tuple(range(0, 100, 10))

_STEPS = np.concatenate([[0.0], 2.0 ** np.arange(-7, 2.5, 0.5)])
"""Edges of bins of the standard deviation, in units of the spread of the truth."""

_SUMS = (
    "weight", "points", "error", "squared", "absolute", "filled", "truth", "filled2", "truth2", "product",
    "known", "crps", "log_score", "variance", "squared_known", *(f"inside_{level}" for level in LEVELS),
)  # fmt: skip

_SMALLEST_SIDE, _LARGEST_SIDE = 16, 512


def score_filled(
    filled: Mapping[str, str | Path | xr.Dataset],
    truth: str | Path | xr.Dataset,
    observed: str | Path | xr.Dataset,
    *,
    channels: Sequence[str] | None = None,
    out: str | Path | None = None,
    progress: bool = True,
) -> xr.Dataset:
    """Score filled fields against the truth, or against observations that were withheld from them.

    All of them are scored over the same times and points: those at sea where the truth and every one has a value. What
    one lacks is counted. Scores are made of sums over area, points and times, never of other scores.

    Args:
        filled: by name; the first is what the report is about.
        truth: complete fields, or the observations of which some were withheld. Means over months are judged by those
            of the truth over the times observed.
        observed: what they were filled from.
        channels: all that are shared by default.
        out: folder for scores.nc, scores.csv, report.html, pictures and a film of the days.
        progress: show a progress bar.

    Returns:
        Scores over (model, channel, …); docs/gapfill.md defines them.

    Raises:
        DataError: if files cannot be read, are not filled fields, or nothing can be judged.
        GridError: if grids differ.
        ChannelError: if a channel is missing.
    """
    if not filled:
        raise RecipeError("there are no filled fields to score; name at least one")
    pairs = FilledPairs(filled, truth, observed, channels)
    sums = GapSums(pairs)
    cases = track(pairs.cases(), "Scoring filled fields", pairs.time.size * len(pairs.channels), transient=True,
                    disable=not progress)  # fmt: skip
    for number, channel, case in cases:
        sums.add(number, pairs.channels.index(channel), case)
    scores = sums.result()
    scores.attrs = {
        "title": f"Scores of {next(iter(filled))}",
        "etesian_version": version("etesian"),
        "target": "monthly means" if pairs.monthly else "single times",
        "grid": str(pairs.grid),
        "left_out": ", ".join(f"{count} not in {name}" for name, count in pairs.dropped.items() if count),
    }
    if out is not None:
        write_gapfill_report(scores, pairs, out)
    return scores


class GapSums:
    """Sums of errors, as one pass over the times makes them.

    Bins by observations, cloud share and standard deviation hold the points without an observation where single times
    are judged, and all points where means over months are; bins of distance hold all.

    Args:
        pairs: what is judged.
    """

    def __init__(self, pairs: FilledPairs) -> None:
        self.pairs, self.names = pairs, list(pairs.filled)
        self.spacing = float(np.radians(np.diff(pairs.grid.latitude).mean()) * EARTH_RADIUS / 1000)
        self.edges: dict[str, Array] = {
            "where": np.arange(2.0),
            "observations": np.array(_OBSERVATIONS, dtype=np.float64),
            "distance": np.array(_SPACINGS) * self.spacing,
            "cloud_share": np.array(_SHARES) / 100,
            "deviation": _STEPS,
        }
        lead = (len(self.names), len(pairs.channels))
        self.sums = {name: np.zeros((*lead, edges.size, len(_SUMS))) for name, edges in self.edges.items()}
        self.by_time = np.zeros((pairs.time.size, *lead, 2, 2))
        self.cloud_shares = np.zeros(pairs.time.size)
        self.missing = np.zeros(lead, dtype=np.int64)
        self.pit = np.zeros((*lead, 20))
        shape = (*lead, *pairs.grid.shape)
        self.map_error, self.map_squared = np.zeros(shape), np.zeros(shape)
        self.map_count = np.zeros((lead[1], *pairs.grid.shape), dtype=np.int64)
        self.area = np.broadcast_to(pairs.grid.area_weights[:, None], pairs.grid.shape)
        self.centre, self.spread = np.full(lead[1], np.nan), np.ones(lead[1])
        self.box: tuple[slice, slice] | None = None
        self.power: dict[str, Array] = {}

    def add(self, number: int, channel: int, case: FilledCase) -> None:
        """Take one time of one channel into account."""
        self.cloud_shares[number] = case.cloud_share
        known = np.isfinite(case.truth) & case.sea
        use = known.copy()
        for i, name in enumerate(self.names):
            has = np.isfinite(case.filled[name])
            self.missing[i, channel] += int((known & ~has).sum())
            use &= has
        self._add_spectra(case)
        if not use.any():
            return
        truth = case.truth[use]
        if np.isnan(self.centre[channel]):
            self.centre[channel], self.spread[channel] = truth.mean(), max(float(truth.std()), 1e-12)
        gap = ~case.observed[use]
        counted = np.ones_like(gap) if self.pairs.monthly else gap
        labels = {
            "where": (~gap).astype(np.int64),
            "observations": _bins(case.count[use], self.edges["observations"]),
            "distance": np.where(gap, np.maximum(_bins(case.distance[use], self.edges["distance"]), 1), 0),
            "cloud_share": np.full(gap.shape, _bins(np.array(case.cloud_share), self.edges["cloud_share"])),
        }
        self.map_count[channel] += use
        for i, name in enumerate(self.names):
            error = case.filled[name][use] - truth
            self.map_error[i, channel][use] += error
            self.map_squared[i, channel][use] += error**2
            deviation = case.deviation[name][use] if name in case.deviation else None
            terms = self._terms(self.area[use], error, truth - self.centre[channel], deviation)
            for binning, label in labels.items():
                chosen = counted if binning in ("observations", "cloud_share") else slice(None)
                part = _binned(label[chosen], terms[:, chosen], self.edges[binning].size)
                self.sums[binning][i, channel] += part
                if binning == "where":
                    self.by_time[number, i, channel] = part[:, [_SUMS.index("squared"), _SUMS.index("weight")]]
            if deviation is not None:
                label = _bins(deviation / self.spread[channel], _STEPS)
                self.sums["deviation"][i, channel] += _binned(label[counted], terms[:, counted], _STEPS.size)
                self._add_pit(i, channel, -error[counted] / deviation[counted], self.area[use][counted])

    def _terms(self, weight: Array, error: Array, truth: Array, deviation: Array | None) -> Array:
        filled = truth + error
        rows: dict[str, Array | float] = {
            "weight": 1.0, "error": error, "squared": error**2, "absolute": np.abs(error), "filled": filled,
            "truth": truth, "filled2": filled**2, "truth2": truth**2, "product": filled * truth,
        }  # fmt: skip
        if deviation is not None:
            rows |= {
                "known": 1.0, "crps": crps(error, deviation), "log_score": log_score(error, deviation),
                "variance": deviation**2, "squared_known": error**2,
            }  # fmt: skip
            rows |= {f"inside_{level}": inside(error, deviation, level).astype(np.float64) for level in LEVELS}
        terms = np.stack([rows.get(name, 0.0) * weight for name in _SUMS])
        terms[_SUMS.index("points")] = 1.0
        return terms

    def _add_pit(self, model: int, channel: int, standard: Array, weight: Array) -> None:
        label = np.minimum((ndtr(standard) * 20).astype(np.int64), 19)
        self.pit[model, channel] += np.bincount(label, weight, 20)

    def _add_spectra(self, case: FilledCase) -> None:
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
        for name, power in zip(maps, found.power, strict=True):
            self.power[name] = self.power.get(name, 0.0) + power
        self.power["wavenumber"], self.power["number"] = found.wavenumber, self.power.get("number", 0.0) + np.ones(1)

    def result(self) -> xr.Dataset:
        """Return the scores.

        Raises:
            DataError: if there was no point to judge.
        """
        where = self.sums["where"]
        if not where[..., _SUMS.index("points")].any():
            raise DataError(
                "no point could be judged: nowhere have the truth and all filled fields a value at the same time"
                + ("; a truth with gaps has no means over months, so judge single times" if self.pairs.monthly else "")
            )
        self.sums["where"] = np.concatenate([where, where.sum(2, keepdims=True)], axis=2)
        data: dict[str, tuple[tuple[str, ...], Any]] = {}
        for binning, values in self.sums.items():
            dims = ("model", "channel", binning)
            suffix = "" if binning == "where" else f"_by_{binning}"
            for score, scored in _scores(values).items():
                data[f"{score}{suffix}"] = dims, scored
        data |= self._intervals()
        data["pit"] = ("model", "channel", "pit_bin"), _share(self.pit, self.pit.sum(-1, keepdims=True))
        data["missing"] = ("model", "channel"), self.missing
        data["cloud_share_of_time"] = ("time",), self.cloud_shares
        for name, values in (("bias_map", self.map_error), ("mse_map", self.map_squared)):
            data[name] = (
                ("model", "channel", "latitude", "longitude"),
                _share(values, self.map_count).astype(np.float32),
            )
        if self.power:
            names = [name for name in self.power if name not in ("wavenumber", "number")]
            power = np.stack([self.power[name] for name in names]) / self.power["number"]
            data["power"] = ("spectrum_of", "wavenumber"), power
        coordinates: dict[str, Any] = {
            "model": self.names,
            "channel": [str(channel) for channel in self.pairs.channels],
            "where": list(WHERE),
            "observations": ("observations", _labels(self.edges["observations"], "", whole=True)),
            "distance": ("distance", ["observed", *_labels(np.append(0, self.edges["distance"][2:]), " km")]),
            "cloud_share": ("cloud_share", _labels(100 * self.edges["cloud_share"], " %", end="100")),
            "deviation": ("deviation", _STEPS, {"long_name": "lower edge, in standard deviations of the truth"}),
            "pit_bin": (np.arange(20) + 0.5) / 20,
            "time": decode_time(self.pairs.time, self.pairs.calendar),
            "latitude": self.pairs.grid.latitude,
            "longitude": self.pairs.grid.longitude,
            "units": ("channel", [self.pairs.truth.units(channel) for channel in self.pairs.channels]),
        }
        if self.power:
            coordinates |= {"spectrum_of": names, "wavenumber": self.power["wavenumber"]}
        result = xr.Dataset(data, coordinates)
        result["wavenumber"] = result["wavenumber"].assign_attrs(units="km-1") if self.power else ("wavenumber", [])
        return result

    def _intervals(self) -> dict[str, tuple[tuple[str, ...], Array]]:
        """Return 95 % intervals of RMSE, which allow for the likeness of successive times."""
        by_time = np.concatenate([self.by_time, self.by_time.sum(3, keepdims=True)], axis=3)
        mse, influence = ratio_influence(by_time[..., 0], by_time[..., 1])
        with np.errstate(divide="ignore", invalid="ignore"):
            half = half_width(influence / (2 * mse), by_time[..., 1] > 0)
            low, high = np.sqrt(mse) * np.exp(-half), np.sqrt(mse) * np.exp(half)
            each = by_time[..., 0] / by_time[..., 1]
        dims = ("model", "channel", "where")
        return {"rmse_low": (dims, low), "rmse_high": (dims, high), "mse_by_time": (("time", *dims), each)}


def _scores(sums: Array) -> dict[str, Array]:
    """Return scores of sums (…, statistic); NaN where nothing was summed."""

    def of(name: str) -> Array:
        return np.asarray(sums[..., _SUMS.index(name)])

    def mean(name: str, over: str = "weight") -> Array:
        return _share(of(name), of(over))

    covariance = mean("product") - mean("filled") * mean("truth")
    variances = (mean("filled2") - mean("filled") ** 2) * (mean("truth2") - mean("truth") ** 2)
    with np.errstate(divide="ignore", invalid="ignore"):
        correlation = np.where(variances > 0, covariance / np.sqrt(variances), np.nan)
    scores = {
        "rmse": np.sqrt(mean("squared")),
        "mae": mean("absolute"),
        "bias": mean("error"),
        "correlation": correlation,
        "crps": mean("crps", "known"),
        "log_score": mean("log_score", "known"),
        "spread": np.sqrt(mean("variance", "known")),
        "rmse_where_spread": np.sqrt(mean("squared_known", "known")),
    }
    scores |= {f"coverage_{round(100 * level)}": mean(f"inside_{level}", "known") for level in LEVELS}
    return scores | {"points": of("points").astype(np.int64)}


def _share(part: Array, whole: Any) -> Array:
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(part / np.where(whole > 0, whole, np.nan))


def _bins(values: NDArray[Any], edges: Array) -> NDArray[np.int64]:
    return np.asarray(np.clip(np.searchsorted(edges, values, side="right") - 1, 0, edges.size - 1), dtype=np.int64)


def _binned(label: NDArray[np.int64], terms: Array, bins: int) -> Array:
    return np.stack([np.bincount(label, term, bins).astype(np.float64) for term in terms], axis=-1)


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
