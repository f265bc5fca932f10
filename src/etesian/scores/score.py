"""Score forecasts: the same initial times, leads and points for all of them, with intervals and skill."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray as xr
from numpy.typing import NDArray
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from etesian.core.channels import AVERAGING_HOURS, CATALOGUE, Channel, parse_channels
from etesian.core.clock import decode_time
from etesian.core.dataset import planet_of
from etesian.core.errors import DataError, GridError, RecipeError, suggest
from etesian.core.workers import Workers
from etesian.scores.climatology import Climatology
from etesian.scores.definitions import ENSEMBLE_SCORES, FORECAST_SCORES
from etesian.scores.events import Events, events_of
from etesian.scores.members import MemberExample, RankHistograms
from etesian.scores.pairs import Chunk, PairedScore, Pairs
from etesian.scores.region import on_one_grid
from etesian.scores.registry import estimates, skill, statistics_of
from etesian.scores.report import write_report
from etesian.scores.seeps import Seeps, rain_classes
from etesian.scores.series import (
    FieldSeries,
    MeanSeries,
    StoreSeries,
    averaging_hours,
    common_channels,
    open_forecast,
    open_truth,
)
from etesian.scores.structure import Structure
from etesian.scores.sums import MISSING, WIND_PAIRS, Sums, accumulate
from etesian.scores.weights import Weighting, default_regions
from etesian.store.reader import is_training_store

Array = NDArray[np.float64]

DIMS = ("forecast", "lead_time", "channel", "region")

HEADLINE = (
    "geopotential_500",
    "temperature_850",
    "2m_temperature",
    "mean_sea_level_pressure",
    "surface_pressure",
    "sea_surface_temperature",
)
"""Channels that come first in tables and maps where they are there."""


def score(
    forecasts: Mapping[str, str | Path | xr.Dataset],
    truth: str | Path | xr.Dataset,
    *,
    climatology: str | Path | xr.Dataset | None = None,
    references: Sequence[str] = (),
    channels: Sequence[str] | None = None,
    leads: Sequence[int] | None = None,
    regions: Sequence[str] | None = None,
    weights: Weighting = "area",
    headline: Sequence[str] | None = None,
    structure: bool = False,
    locations: Sequence[str] | None = None,
    thresholds: Mapping[str, Sequence[float]] | None = None,
    quantiles: Sequence[float] | None = None,
    windows: Sequence[int] | None = None,
    further: Sequence[str | Callable[[Pairs], PairedScore]] = (),
    out: str | Path | None = None,
    progress: bool = True,
    workers: Workers | None = None,
) -> xr.Dataset:
    """Score forecasts against the truth, and against each other.

    Every forecast is scored over the same initial times, leads and points: those where the truth and all forecasts are
    there. What any of them lacks is counted. Of ensembles the mean of the members is scored as a single forecast is,
    and the members by `ENSEMBLE_SCORES`. Forecasts of means, which say so in `averaging_hours`, are scored against
    means of the truth. Reads a chunk at a time, so that memory does not grow with the period.

    Args:
        forecasts: by name, in WeatherBench 2's layout; the first one is what the report is about.
        truth: a training store, any file that `open_store` reads, or a dataset in canonical form.
        climatology: a training store or a dataset with `hour` and `dayofyear`; by default that of the truth if it is
            a training store. Without one there is no ACC.
        references: names among the forecasts; skill is 1 − RMSE / RMSE of each of them.
        channels: such as `geopotential_500`, or `geopotential` for all its levels; all that are shared by default.
        leads: hours; all that are shared by default.
        regions: names or `south,north,west,east`; by default the globe, the tropics and both extratropics, or
            `domain` where the grid does not cover the globe.
        weights: of latitudes: `area` (WeatherBench 2) or `cosine` (WeatherBench 1, ClimaX).
        headline: channels of the report's first tables and its maps; at most four.
        structure: compare spectra, semivariograms, distributions and gradients of the headline channels too.
        locations: cities or `latitude,longitude` whose distributions are compared; a few cities by default.
        thresholds: events by channel: that values exceed these, in its units.
        quantiles: climatological quantiles, beyond which the values of the headline channels are events as well.
        windows: rows and columns of the neighbourhoods in which the fractions skill score counts events.
        further: scores beside `FORECAST_SCORES`: names of registered ones, or what makes one of another layer for what
            is compared, such as `partial(LearnedDistance, run=RUN)`.
        out: folder for scores.nc, scores.csv, report.html and pictures.
        progress: show a progress bar.
        workers: who reads and sums up; this process by default. The scores are the same.

    Returns:
        Scores over (forecast, lead_time [h], channel, region) with 95 % intervals (`…_low`, `…_high`), skill, counts,
        scores by initial time, and maps; docs/scores.md defines them.

    Raises:
        DataError: if files cannot be read, or nothing can be scored.
        GridError: if grids differ.
        ChannelError: if a channel is missing.
        RecipeError: if a reference is no forecast, a location is unknown, or there can be no such event.
    """
    options: dict[str, Any] = {
        "references": references, "channels": channels, "leads": leads, "regions": regions, "weights": weights,
        "headline": headline, "structure": structure, "locations": locations, "thresholds": thresholds,
        "quantiles": quantiles, "windows": windows, "further": further,
    }  # fmt: skip
    found = _gather(forecasts, truth, climatology, **options)
    everywhere = {name: _travelling(forecast) for name, forecast in forecasts.items()}
    options["further"] = [each if isinstance(each, str) else _travelling(each) for each in further]
    again = partial(_gather, everywhere, _travelling(truth), _travelling(climatology), **options)
    _accumulate(found, again, workers or Workers(), progress)
    _refuse_nothing(found.sums)
    scores = _scores(found.sums, found.names, found.pairs, references)
    notes: dict[str, Any] = {}
    for each in found.gathered:
        variables = each.result()
        notes |= variables.attrs
        # What only some channels have is missing for the others.
        scores.update(variables.reindex(channel=scores.channel.values) if "channel" in variables.dims else variables)
    _describe(scores, found.pairs, weights)
    scores.attrs |= notes
    if found.hours is not None:
        scores.attrs[AVERAGING_HOURS] = found.hours
    if out is not None:
        write_report(scores, out)
    return scores


@dataclass
class _Gathered:
    """What is compared and what is summed of it."""

    pairs: Pairs
    gathered: list[PairedScore]
    names: tuple[str, ...]
    regions: tuple[str, ...]
    weights: Weighting
    hours: int | None
    sums: dict[str, Sums] = field(default_factory=dict)


def _travelling(data: Any) -> Any:
    """Return data, or what makes a score of a `Path`, as processes find them that work in another folder."""
    if isinstance(data, partial):
        paths = {name: each.absolute() for name, each in data.keywords.items() if isinstance(each, Path)}
        return partial(data, **paths)
    is_local = isinstance(data, str | Path) and "://" not in str(data)
    return Path(data).absolute() if is_local else data


def _gather(
    forecasts: Mapping[str, str | Path | xr.Dataset],
    truth: str | Path | xr.Dataset,
    climatology: str | Path | xr.Dataset | None,
    *,
    references: Sequence[str],
    channels: Sequence[str] | None,
    leads: Sequence[int] | None,
    regions: Sequence[str] | None,
    weights: Weighting,
    headline: Sequence[str] | None,
    structure: bool,
    locations: Sequence[str] | None,
    thresholds: Mapping[str, Sequence[float]] | None,
    quantiles: Sequence[float] | None,
    windows: Sequence[int] | None,
    further: Sequence[str | Callable[[Pairs], PairedScore]],
) -> _Gathered:
    """Open what is compared, and prepare what is summed; see `score`."""
    if windows and not thresholds and not quantiles:
        raise RecipeError("windows are the neighbourhoods of events; give thresholds or quantiles as well")
    if locations is not None and not structure:
        raise RecipeError("locations are where distributions are compared; ask for the structure as well")
    if not forecasts:
        raise RecipeError("there is no forecast to score; name at least one")
    if unknown := [name for name in references if name not in forecasts]:
        raise RecipeError(f"there is no forecast '{unknown[0]}' to refer to{suggest(unknown[0], forecasts)}")
    opened = {name: open_forecast(name, series) for name, series in forecasts.items()}
    verification = open_truth(truth)
    if climatology is None and isinstance(verification, StoreSeries) and verification.has_climatology:
        climatology = truth
    normal = None if climatology is None else Climatology(climatology)
    if normal is not None and normal.grid != verification.grid:
        raise GridError(f"the climatology is on the grid {normal.grid}, the truth on {verification.grid}")
    opened, verification, normal = on_one_grid(opened, verification, normal)
    if (hours := averaging_hours(opened)) is not None:
        verification = MeanSeries(verification, hours)
        if normal is not None:
            normal.window = verification.window
    compared = common_channels(opened, verification, channels)
    pairs = Pairs(opened, verification, normal, compared, leads)
    boxes = tuple(regions) if regions else default_regions(verification.grid)
    shown = _headline(compared, headline)
    maps = Maps(pairs, shown)
    gathered: list[PairedScore] = [maps]
    if structure:
        gathered.append(Structure(pairs, shown, maps.leads, locations))
    events = None
    if asked := events_of(compared, shown, thresholds or {}, quantiles or ()):
        if hours is not None and quantiles:
            raise RecipeError(
                f"quantiles are those of states, and the forecasts are means over {hours} h; give thresholds"
            )
        store = climatology if isinstance(climatology, str | Path) and is_training_store(climatology) else None
        events = Events(pairs, asked, boxes, weights, windows or (), store)
        gathered.append(events)
    if rain := rain_classes(pairs):
        gathered.append(Seeps(pairs, rain, boxes, weights))
    if has_members := any(series.members > 1 for series in opened.values()):
        gathered.append(RankHistograms(pairs, shown, boxes, weights))
        gathered.append(MemberExample(pairs, shown, maps.example, maps.leads[len(maps.leads) // 2], events))
    gathered += [build(pairs) for build in further if not isinstance(build, str)]
    own = FORECAST_SCORES + (ENSEMBLE_SCORES if has_members else ())
    names = tuple(dict.fromkeys((*own, *(name for name in further if isinstance(name, str)))))
    return _Gathered(pairs, gathered, names, boxes, weights, hours)


class Maps:
    """Mean errors point by point, and one forecast beside the truth, for a few channels and leads."""

    def __init__(self, pairs: Pairs, channels: Sequence[Channel]) -> None:
        self.pairs, self.channels = pairs, tuple(channels)
        last = len(pairs.leads) - 1
        self.leads = sorted({0, last // 2, last})
        complete = np.flatnonzero((pairs.position[:, self.leads] >= 0).all(1))
        self.example = int(complete[complete.size // 2]) if complete.size else 0
        shape = (len(pairs.forecasts), len(self.leads), len(self.channels), *pairs.truth.grid.shape)
        self.error, self.squared, self.count = np.zeros(shape), np.zeros(shape), np.zeros(shape[1:])
        self.forecast = np.full(shape, np.nan, np.float32)
        self.truth = np.full(shape[1:], np.nan, np.float32)

    def add(self, chunk: Chunk, where: torch.Tensor) -> None:
        """Take a chunk into account, at the points where all forecasts and the truth are there."""
        first, stop = chunk.leads.start, chunk.leads.stop
        index = [self.pairs.channels.index(channel) for channel in self.channels]
        example = self.example - chunk.initial.start if self.example in range(*chunk.initial.indices(10**9)) else None
        for position, lead in enumerate(self.leads):
            if not first <= lead < stop:
                continue
            here = where[:, lead - first, index].numpy()
            truth = chunk.truth.values[:, lead - first, index].double().numpy()
            self.count[position] += here.sum(0)
            if example is not None:
                self.truth[position] = truth[example]
            for number, forecast in enumerate(chunk.forecasts.values()):
                values = forecast.values[:, lead - first, index].double().numpy()
                error = np.where(here, values - truth, 0.0)
                self.error[number, position] += error.sum(0)
                self.squared[number, position] += (error**2).sum(0)
                if example is not None:
                    self.forecast[number, position] = values[example]

    def part(self, block: slice) -> list[Any]:
        """Return the sums over a block, which begin anew, and the example if the block holds it."""
        sums = [self.error.copy(), self.squared.copy(), self.count.copy()]
        for each in (self.error, self.squared, self.count):
            each[...] = 0
        return [*sums, *((self.forecast, self.truth) if block.start <= self.example < block.stop else ())]

    def take(self, block: slice, part: list[Any]) -> None:
        """Add the sums over a block; one after the other, as if they had been made here."""
        for total, own in zip((self.error, self.squared, self.count), part[:3], strict=True):
            total += own
        for example, own in zip((self.forecast, self.truth), part[3:], strict=False):
            example[...] = own

    def result(self) -> xr.Dataset:
        """Return the maps with their coordinates."""
        dims = ("map_lead_time", "map_channel", "latitude", "longitude")
        with np.errstate(divide="ignore", invalid="ignore"):
            data = {
                "bias_map": (("forecast", *dims), (self.error / self.count).astype(np.float32)),
                "rmse_map": (("forecast", *dims), np.sqrt(self.squared / self.count).astype(np.float32)),
                "example_forecast": (("forecast", *dims), self.forecast),
                "example_truth": (dims, self.truth),
            }
        grid = self.pairs.truth.grid
        result = xr.Dataset(
            data,
            {
                "map_lead_time": [self.pairs.leads[lead] for lead in self.leads],
                "map_channel": [str(channel) for channel in self.channels],
                "latitude": grid.latitude,
                "longitude": grid.longitude,
            },
        )
        result["example_initial_time"] = decode_time([self.pairs.initial[self.example]], self.pairs.calendar)[0]
        if (land := self.pairs.truth.dataset.get("land_sea_mask")) is not None and land.ndim == 2:
            result["land_sea_mask"] = (("latitude", "longitude"), land.transpose("latitude", "longitude").values)
        return result


def _accumulate(found: _Gathered, again: Callable[[], _Gathered], workers: Workers, progress: bool) -> None:
    """Sum up all blocks, here or by workers that open the same."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    pairs, blocks = found.pairs, found.pairs.blocks()
    with Progress(*columns, disable=not progress, transient=True) as bar:
        task = bar.add_task("Scoring forecasts", total=pairs.position.size)
        if not workers.elsewhere:
            for block in blocks:
                for done in _add(found, block):
                    bar.advance(task, done)
            return
        for block, (sums, parts) in zip(blocks, workers.each(again, _part, blocks), strict=True):
            for name, part in sums.items():
                _placed(found, name, part)[block] = part.values
            for each, own in zip(found.gathered, parts, strict=True):
                each.take(block, own)
            bar.advance(task, (block.stop - block.start) * len(pairs.leads))


def _part(found: _Gathered, block: slice) -> tuple[dict[str, Sums], list[Any]]:
    """Return what another process needs of a block."""
    for _ in _add(found, block):
        pass
    sums = {name: replace(part, values=part.values[block].clone()) for name, part in found.sums.items()}
    return sums, [each.part(block) for each in found.gathered]


def _add(found: _Gathered, block: slice) -> Iterator[int]:
    """Sum up the chunks of a block, and yield how many fields each held."""
    options: dict[str, Any] = {
        "regions": found.regions,
        "weighting": found.weights,
        "statistics": tuple(dict.fromkeys((*statistics_of(found.names), "points", *MISSING))),
    }
    for chunk in found.pairs.chunks(block):
        where = torch.isfinite(chunk.truth.values)
        for forecast in chunk.forecasts.values():
            where &= torch.isfinite(forecast.values)
        for name, forecast in chunk.forecasts.items():
            members = chunk.members.get(name)
            part = accumulate(forecast, chunk.truth, chunk.climatology, where=where, members=members, **options)
            part.values[~chunk.verified] = 0
            _placed(found, name, part)[chunk.initial, chunk.leads] = part.values
        for each in found.gathered:
            each.add(chunk, where)
        yield chunk.verified.numel()


def _placed(found: _Gathered, name: str, like: Sums) -> torch.Tensor:
    """Return the sums of a forecast by initial time: (initial, lead, channel, region, statistic)."""
    if name not in found.sums:
        shape = (*found.pairs.position.shape, *like.values.shape[2:])
        found.sums[name] = replace(like, values=torch.zeros(shape, dtype=torch.float64))
    return found.sums[name].values


def _refuse_nothing(sums: Mapping[str, Sums]) -> None:
    """Refuse to score where not a single point of any channel, lead and initial time counts.

    Raises:
        DataError: naming the forecast that holds no numbers.
    """

    def total(part: Sums, name: str) -> float:
        return float(part.sum_of(name).sum())

    if any(total(part, "points") for part in sums.values()):
        return
    missing = {name: total(part, "missing_forecast") for name, part in sums.items()}
    worst = max(missing, key=lambda name: missing[name])
    if missing[worst]:
        raise DataError(
            f"forecast '{worst}' holds no number where the truth has one and the others do, so there is nothing to "
            "score; look at it with `etesian plot`, or leave it out"
        )
    raise DataError("the truth holds no number at the times and points of the forecasts, so there is nothing to score")


def _scores(sums: Mapping[str, Sums], names: Sequence[str], pairs: Pairs, references: Sequence[str]) -> xr.Dataset:
    """Return scores, intervals, skill and counts from the sums by initial time."""
    first = next(iter(sums.values()))
    everything = np.stack([part.values.numpy() for part in sums.values()], axis=1)
    by_time = {name: everything[..., position] for position, name in enumerate(first.statistics)}
    result = xr.Dataset(
        coords={
            "forecast": list(sums),
            "lead_time": ("lead_time", pairs.leads, {"units": "h", "long_name": "lead time"}),
            "channel": [str(channel) for channel in first.channels],
            "region": list(first.regions),
            "initial_time": decode_time(pairs.initial, pairs.calendar),
            "units": ("channel", [_units(pairs.truth, channel) for channel in first.channels]),
        }
    )
    found = estimates(by_time, names, DIMS)
    if references:
        result["reference"] = list(references)
        found |= skill(by_time, list(sums), references, DIMS)
    for name in ("mse", "acc"):
        each = np.stack([part.score(name).numpy() for part in sums.values()], axis=1)
        found[f"{name}_by_initial_time"] = ("initial_time", *DIMS), each
    for name in ("points", *MISSING):
        found[name] = DIMS, by_time[name].sum(0).round().astype(np.int64)
    result = result.assign(found)
    result["unverified_initial_times"] = "lead_time", pairs.unverified()
    return result


def _describe(scores: xr.Dataset, pairs: Pairs, weights: Weighting) -> None:
    """Note what was compared, in attributes that survive a file."""
    scores.attrs = {
        "title": f"Scores of {next(iter(pairs.forecasts))}",
        "etesian_version": version("etesian"),
        "weighting": weights,
        "grid": str(pairs.truth.grid),
        "dropped_initial_times": ", ".join(f"{count} of {name}" for name, count in pairs.dropped.items() if count),
        "climatology": "none" if pairs.climatology is None else "given",
        "channels_left_out": ", ".join(
            {str(c): None for series in pairs.forecasts.values() for c in series.channels if c not in pairs.channels}
        ),
    } | planet_of(pairs.truth.dataset)


def _units(truth: FieldSeries, channel: Channel) -> str:
    for eastward, (_, vector) in WIND_PAIRS.items():
        if channel.name == vector:
            return CATALOGUE[eastward].units
    return truth.units(channel)


def _headline(channels: tuple[Channel, ...], names: Sequence[str] | None) -> tuple[Channel, ...]:
    if names is not None:
        return parse_channels(names, channels)[:4]
    known = {str(channel): channel for channel in channels}
    first = [known[name] for name in HEADLINE if name in known]
    return (*first, *(channel for channel in channels if channel not in first))[:4]
