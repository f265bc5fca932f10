"""The verb `plot`: maps of data and forecasts, and curves of scores, as one figure."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import xarray as xr
from matplotlib.figure import Figure
from numpy.typing import NDArray

from etesian.core.channels import Channel, parse_channels
from etesian.core.clock import parse_time
from etesian.core.constants import SECONDS_PER_HOUR
from etesian.core.dataset import LEAD, MEMBER, planet_of
from etesian.core.errors import DataError, RecipeError
from etesian.files.open import open_store
from etesian.scores.maps import STYLE, draw_map, grid_of, map_height, value_range
from etesian.scores.plots import Picture, colour_bar, forecast_and_truth, score_curves
from etesian.scores.projections import Projection
from etesian.scores.readers_units import Spoken, spoken
from etesian.scores.region import part_of
from etesian.scores.series import FieldSeries, check_match, find_lead, open_any, open_forecast, open_truth
from etesian.scores.tables import days, headline, power_of, title
from etesian.store.reader import is_training_store
from etesian.store.select import select_region

Units = Literal["data", "reader"]
Array = NDArray[np.floating]

_DRAWN_BY = "drawn by etesian plot"

_NOTED = {
    ".png": {"Software": _DRAWN_BY},
    **{ending: {"Creator": _DRAWN_BY} for ending in (".pdf", ".svg", ".ps", ".eps")},
}
"""Where each format of pictures says who drew it."""


class _Look(NamedTuple):
    """How maps are drawn; see `etesian.plot`."""

    projection: str | None
    region: str | None
    coastlines: bool | None
    units: Units


def plot(
    path: str,
    out: str | None = None,
    *,
    channel: str | None = None,
    time: str | None = None,
    lead: Sequence[int] | None = None,
    member: int | None = None,
    truth: str | None = None,
    score: str = "rmse",
    region: str | None = None,
    projection: str | None = None,
    units: Units = "data",
    coastlines: bool | None = None,
) -> Figure:
    """Draw a picture of data, forecasts or scores, and write it if it is to be written.

    Scores (a scores.nc) give curves over lead time; forecasts give maps, beside the truth and their error if a truth is
    given; anything else gives a map at one time.

    `etesian.plot` says what the options mean.

    Raises:
        DataError: if the path cannot be read or has no such time or lead, or the picture would replace something
            that was not drawn by this command.
        ChannelError: if there is no such channel.
        GridError: if the region holds no point, or the truth is on another grid than the forecasts.
        RecipeError: if there is no such projection, score or region.
    """
    if out is not None and Path(out).exists() and not _is_drawn_here(Path(out)):
        raise DataError(f"{out} exists and is no picture that etesian drew: choose another name, or remove it yourself")
    look = _Look(projection, region, coastlines, units)
    dataset = open_any(path)
    if "mse_by_initial_time" in dataset:
        figure = _score_figure(dataset, score, channel, look)
    elif find_lead(dataset) is not None:
        figure = _forecast_figure(dataset, channel, time, lead, member, truth, look)
    else:
        series, told = _states(path, member)
        what = _channel(series, channel)
        index = _time_index(series, time)
        field = series.read([what], time=np.array([index]))[0, 0]
        when = _written(series.dataset.time.values[index])
        figure = _maps([(f"{when} UTC{told}", field)], what, series, look, width=8.5)
        _entitle(figure, title(str(what)))
    if out is not None:
        _save(figure, Path(out))
    return figure


def _save(figure: Figure, target: Path) -> None:
    temporary = target.with_name(f".{target.stem}.partial{target.suffix}")
    try:
        figure.savefig(temporary, dpi=150, metadata=_NOTED.get(target.suffix.lower()))
    except (ValueError, OSError) as error:
        temporary.unlink(missing_ok=True)
        raise DataError(f"cannot write '{target}': {error}") from None
    temporary.replace(target)


def _is_drawn_here(picture: Path) -> bool:
    """Whether a picture says that `plot` drew it; formats without a place for that are never replaced."""
    return picture.is_file() and _DRAWN_BY.encode() in picture.read_bytes()


def _score_figure(scores: xr.Dataset, score: str, channel: str | None, look: _Look) -> Figure:
    names = [Channel.parse(name) for name in scores.channel.values.tolist()]
    channels = [str(c) for c in parse_channels([channel], names)] if channel else headline(scores)
    where = look.region or str(scores.region.values[0])
    if where not in scores.region.values:
        raise RecipeError(f"the scores have no region '{where}'; they have {', '.join(scores.region.values)}")
    if score not in scores or set(scores[score].dims) - {"channel", "region"} != {"forecast", "lead_time"}:
        raise RecipeError(f"there is no score '{score}'; draw rmse, mae, bias, acc or activity")
    if look.units == "reader":
        scores = _told_in_readers_units(scores, score)
    return score_curves(scores, score, channels, where)


def _told_in_readers_units(scores: xr.Dataset, score: str) -> xr.Dataset:
    told = [spoken(str(c), str(u)) for c, u in zip(scores.channel.values, scores.units.values, strict=True)]
    changed = {"units": scores.units.copy(data=np.array([each.units for each in told], dtype=object))}
    if power := power_of(score):
        factor = xr.DataArray([each.factor**power for each in told], {"channel": scores.channel.values})
        names = [name for name in (score, f"{score}_low", f"{score}_high") if name in scores]
        changed |= {name: scores[name] * factor for name in names}
    return scores.assign(changed)


def _forecast_figure(
    dataset: xr.Dataset,
    channel: str | None,
    time: str | None,
    leads: Sequence[int] | None,
    member: int | None,
    truth: str | None,
    look: _Look,
) -> Figure:
    series = open_forecast("the forecast", dataset)
    chosen_member, told = _which_member(series.dataset, MEMBER, member, series.name)
    what = _channel(series, channel)
    start = _time_index(series, time)
    known = (series.dataset[LEAD].values / np.timedelta64(1, "h")).astype(int).tolist()
    chosen = leads or [known[i] for i in sorted({0, len(known) // 2, len(known) - 1})]
    if missing := [hours for hours in chosen if hours not in known]:
        raise DataError(f"the forecast has no lead of {missing[0]} h; its leads are {', '.join(map(str, known))} h")
    fields = series.read([what], time=np.array([start]), prediction_timedelta=[known.index(h) for h in chosen])
    if MEMBER in series.dims:
        fields = fields.mean(0) if chosen_member is None else fields[chosen_member]
    fields = fields[0, :, 0]
    initial = _written(series.dataset.time.values[start])
    if truth is None:
        figure = _maps([(f"+{days(h)}", field) for h, field in zip(chosen, fields, strict=True)], what, series, look)
    else:
        verification = part_of(open_truth(truth), series.grid)
        parse_channels([str(what)], verification.channels)
        check_match(series, verification, [what])
        true = []
        for hours in chosen:
            position = np.flatnonzero(verification.times[0] == series.times[0][start] + hours * SECONDS_PER_HOUR)
            if position.size == 0:
                raise DataError(f"'{truth}' has no time {hours} h after {initial}; choose an earlier time or lead")
            true.append(verification.read([what], time=position)[0, 0])
        drawn, grid, reading = _shown([*fields, *true], what, verification, look)
        rows = [(f"+{days(h)}", drawn[i], drawn[len(chosen) + i]) for i, h in enumerate(chosen)]
        figure = forecast_and_truth(rows, str(what), reading.units, grid, **_drawn(grid, look))
    return _entitle(figure, f"{title(str(what))}, from {initial} UTC{told}")


def _states(path: str, member: int | None) -> tuple[FieldSeries, str]:
    """Open fields by time, of an ensemble one member or the mean of all, with words that say which."""
    series = open_truth(path) if is_training_store(path) else None
    data = open_store(path) if series is None else series.dataset
    which, told = _which_member(data, "member", member, path)
    if which is not None:
        data = data.isel(member=which, drop=True)
    elif "member" in data.dims:
        data = data.mean("member", keep_attrs=True)
    return series or open_truth(data), told


def _which_member(data: xr.Dataset, dim: str, member: int | None, name: str) -> tuple[int | None, str]:
    """Return the position of a member, None for the mean of all, and words that say which it is.

    Raises:
        DataError: if there is no such member.
    """
    if dim not in data.dims:
        if member is not None:
            raise DataError(f"{name} has no members; leave member {member} out")
        return None, ""
    numbers = data[dim].values.tolist() if dim in data.coords else list(range(data.sizes[dim]))
    if member is None:
        return None, f", mean of {len(numbers)} members"
    if member not in numbers:
        raise DataError(f"{name} has no member {member}; its members are {', '.join(map(str, numbers))}")
    return numbers.index(member), f", member {member}"


def _shown(
    fields: Sequence[Array], channel: Channel, series: FieldSeries, look: _Look
) -> tuple[list[Array], xr.Dataset, Spoken]:
    """Return the part of fields that is asked for, in the units that are asked for, and their grid."""
    reading = Spoken(series.units(channel))
    if look.units == "reader":
        reading = spoken(str(channel), reading.units)
    horizontal = ("latitude", "longitude")
    axes = {name: series.dataset[name].values for name in horizontal}
    dataset = xr.Dataset({"field": (("number", *horizontal), np.stack(fields))}, axes, planet_of(series.dataset))
    land = series.dataset.get("land_sea_mask")
    if land is not None and set(land.dims) == set(horizontal):
        dataset["land_sea_mask"] = horizontal, land.transpose(*horizontal).values
    if look.region is not None:
        dataset = select_region(dataset, look.region)
    return [reading(field) for field in dataset.field.values], dataset.drop_vars("field"), reading


def _drawn(grid: xr.Dataset, look: _Look) -> dict[str, Any]:
    """Return what `draw_map` is told."""
    return {"projection": Projection.of(grid_of(grid), look.projection), "coasts": look.coastlines}


def _maps(
    fields: Sequence[tuple[str, Array]], channel: Channel, series: FieldSeries, look: _Look, width: float = 4.5
) -> Figure:
    """Draw fields side by side on one scale."""
    drawn, grid, reading = _shown([field for _, field in fields], channel, series, look)
    how = _drawn(grid, look)
    height = map_height(grid, width - 0.6, how["projection"])
    figure = Picture(figsize=(width * len(fields), height + 1.2), layout="compressed")
    panels = figure.subplots(1, len(fields), squeeze=False, sharey=True)[0]
    colour_map, lowest, highest = value_range(str(channel), drawn)
    for panel, (label, _), field in zip(panels, fields, drawn, strict=True):
        image = draw_map(panel, field, grid, colour_map, lowest, highest, **how)
        panel.set_title(label, loc="left", fontsize=10, color=STYLE["text"])
    colour_bar(figure, image, panels, "", reading.units, extend="max" if lowest == 0 else "both")
    return figure


def _written(time: Any) -> str:
    return f"{time!s:.16}".replace("T", " ")


def _entitle(figure: Figure, text: str) -> Figure:
    figure.suptitle(text, fontsize=12, fontweight="bold", color=STYLE["text"])
    return figure


def _channel(series: FieldSeries, name: str | None) -> Channel:
    return series.channels[0] if name is None else parse_channels([name], series.channels)[0]


def _time_index(series: FieldSeries, text: str | None) -> int:
    if text is None:
        return 0
    seconds, calendar = series.times
    found = np.flatnonzero(seconds == parse_time(text, calendar))
    if found.size == 0:
        first, last = series.dataset.time.values[[0, -1]]
        raise DataError(f"{series.name} has no time {text}; it runs from {_written(first)} to {_written(last)}")
    return int(found[0])
