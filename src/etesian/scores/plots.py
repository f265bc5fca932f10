"""Pictures: maps, colours and scales of all of them, score curves, and forecasts beside the truth."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter
from numpy.typing import NDArray

from etesian.core.channels import Channel, parse_channels
from etesian.core.clock import parse_time
from etesian.core.constants import SECONDS_PER_HOUR
from etesian.core.dataset import LEAD, MEMBER
from etesian.core.errors import DataError, RecipeError
from etesian.files.open import open_store
from etesian.scores.series import FieldSeries, find_lead, open_any, open_forecast, open_truth
from etesian.scores.tables import DISTANCE, days, headline, number, pretty_units, references, title
from etesian.store.reader import is_training_store

DIVERGING = "RdBu_r"

_SEQUENTIAL = {
    "geopotential": "viridis",
    "mean_sea_level_pressure": "viridis",
    "surface_pressure": "viridis",
    "specific_humidity": "YlGnBu",
    "total_precipitation": "YlGnBu",
}

_SIGNED = ("u_component", "v_component", "vorticity", "divergence", "vertical_velocity", "anomaly")

STYLE = {"spines": "#9aa3a8", "grid": "#e3e7ea", "text": "#22292e"}


def draw_map(panel: Axes, field: NDArray[np.floating], grid: xr.Dataset, colours: str, low: float, high: float) -> Any:
    """Draw one field on latitudes and longitudes, with the outline of land where it is known; missing is grey."""
    longitude, latitude = grid.longitude.values, grid.latitude.values
    panel.set_facecolor("#d5d9dc")
    image = panel.pcolormesh(
        longitude, latitude, field, cmap=colours, vmin=low, vmax=high, shading="nearest", rasterized=True
    )
    land = grid.get("land_sea_mask")
    if land is not None and float(land.min()) < 0.5 and float(land.max()) > 0.5:
        panel.contour(longitude, latitude, land.values, levels=[0.5], colors="#222222", linewidths=0.7)
    middle = np.radians(np.abs(latitude).min() if latitude[0] < 0 < latitude[-1] else latitude.mean())
    panel.set_aspect(1 / max(float(np.cos(middle)), 0.3))
    panel.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 1.5, 3, 6, 9]))
    panel.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 1.5, 3, 6, 9]))
    panel.xaxis.set_major_formatter(lambda value, _: _east(value))
    panel.yaxis.set_major_formatter(lambda value, _: f"{abs(value):g}°{'N' if value > 0 else 'S' if value < 0 else ''}")
    panel.label_outer()
    panel.tick_params(labelsize=8, color=STYLE["spines"], labelcolor=STYLE["text"])
    for spine in panel.spines.values():
        spine.set_color(STYLE["spines"])
    return image


def value_range(channel: str, fields: Sequence[NDArray[np.floating]]) -> tuple[str, float, float]:
    """Return a colour map and its limits: symmetric where the sign matters."""
    if any(part in channel for part in _SIGNED):
        largest = largest_value(fields)
        return DIVERGING, -largest, largest
    finite = np.concatenate([field[np.isfinite(field)] for field in fields])
    low, high = np.percentile(finite, [0.5, 99.5]) if finite.size else (0.0, 1.0)
    name = Channel.parse(channel).name
    return _SEQUENTIAL.get(name, "Spectral_r" if "temperature" in name else "viridis"), float(low), float(high)


def largest_value(fields: Sequence[NDArray[np.floating]]) -> float:
    """Return the amount that all but one in 200 values stay below."""
    finite = np.concatenate([np.abs(field[np.isfinite(field)]).ravel() for field in fields])
    return float(np.percentile(finite, 99.5)) or 1.0 if finite.size else 1.0


def map_height(grid: xr.Dataset, width: float) -> float:
    """Return the height in inches of a map with its title."""
    latitude, longitude = grid.latitude.values, grid.longitude.values
    middle = 0.0 if latitude[0] < 0 < latitude[-1] else np.radians(latitude.mean())
    return float(width * np.ptp(latitude) / max(np.ptp(longitude) * max(np.cos(middle), 0.3), 1e-6)) + 0.35


def _east(value: float) -> str:
    degrees = (value + 180) % 360 - 180
    return f"{abs(degrees):g}°{'E' if 0 < degrees < 180 else 'W' if -180 < degrees < 0 else ''}"


def dress(panel: Axes) -> None:
    """Give a panel of curves a quiet frame and a grid."""
    panel.grid(color=STYLE["grid"], linewidth=0.8)
    panel.set_axisbelow(True)
    for side in ("top", "right"):
        panel.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        panel.spines[side].set_color(STYLE["spines"])
    panel.tick_params(color=STYLE["spines"], labelcolor=STYLE["text"])


def plain_logarithm(axis: Axis) -> None:
    """Label a logarithmic axis at 1, 2 and 5 of each power of ten, without exponents."""
    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter(lambda value, _: number(value, 1))
    axis.set_minor_formatter(NullFormatter())


def band(panel: Axes, x: xr.DataArray | NDArray[np.floating], scores: xr.Dataset, score: str, colour: str) -> None:
    """Shade the 95 % interval of a score that has one."""
    if f"{score}_low" not in scores:
        return
    panel.fill_between(x, scores[f"{score}_low"], scores[f"{score}_high"], color=colour, alpha=0.14, linewidth=0)


def colour_bar(
    figure: Figure,
    image: Any,
    panels: NDArray[Any],
    label: str,
    units: str,
    *,
    shrink: float = 0.6,
    extend: str = "both",
) -> None:
    """Put one bar of colours under some panels."""
    bar = figure.colorbar(image, ax=panels, orientation="horizontal", shrink=shrink, aspect=40, pad=0.03, extend=extend)
    bar.set_label(f"{label} ({pretty_units(units)})" if label and pretty_units(units) else label or pretty_units(units))
    bar.ax.xaxis.set_major_locator(MaxNLocator(5))
    bar.outline.set_visible(False)


_DRAWN_BY = "drawn by etesian plot"

_NOTED = {
    ".png": {"Software": _DRAWN_BY},
    **{ending: {"Creator": _DRAWN_BY} for ending in (".pdf", ".svg", ".ps", ".eps")},
}
"""Where each format of pictures says who drew it."""

MODEL_COLOURS = (
    "#0b6e99", "#c8553d", "#6a4c93", "#2a9d6f", "#b5179e", "#e09f3e",
    "#1b1f3b", "#8c564b", "#7cb518", "#00a6d6", "#ff8fab", "#9a031e",
)  # fmt: skip

REFERENCE_COLOURS = ("#5f6b73", "#a3a9ad", "#8a7b66", "#7f8fa6")


def score_curves(scores: xr.Dataset, score: str, channels: Sequence[str], region: str) -> Figure:
    """Draw a score against lead time, one panel per channel, with 95 % bands.

    Args:
        scores: what `evaluate` returned.
        score: `rmse`, `mae`, `bias`, `acc` or `activity`.
        channels: one panel each.
        region: by name.
    """
    columns = min(2, len(channels))
    rows = -(-len(channels) // columns)
    figure = Figure(figsize=(5.4 * columns, 3.5 * rows + 0.5), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    for panel in panels[len(channels) :]:
        panel.set_visible(False)
    for panel, channel in zip(panels, channels, strict=False):
        _curve(panel, scores.sel(channel=channel, region=region), score)
        units = pretty_units(str(scores.units.sel(channel=channel).values))
        name = {"acc": "Anomaly correlation", "activity": "Activity (forecast / truth)"}.get(score, score.upper())
        name = "Bias" if score == "bias" else name
        has_units = units and score not in ("acc", "activity")
        panel.set_ylabel(f"{name} ({units})" if has_units else name)
        panel.set_title(title(channel), loc="left", fontsize=11, fontweight="bold", color=STYLE["text"])
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper left", ncols=min(5, len(labels)), frameon=False)
    return figure


def distance_curves(scores: xr.Dataset) -> Figure:
    """Draw the learned distance against lead time, with 95 % bands."""
    figure = Figure(figsize=(5.4, 4.0), layout="constrained")
    panel = figure.subplots()
    _curve(panel, scores, DISTANCE)
    panel.set_ylabel("AtmoDist distance")
    handles, labels = panel.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper left", ncols=min(3, len(labels)), frameon=False)
    return figure


def _curve(panel: Axes, scores: xr.Dataset, score: str) -> None:
    lead = scores.lead_time.values / 24
    baselines = references(scores)
    for name, colour in colours(scores).items():
        part = scores.sel(forecast=name)
        is_reference = name in baselines
        values = part[score].values
        panel.plot(
            lead, values, color=colour, label=name, linestyle=line_style(scores, name),
            linewidth=1.6 if is_reference else 2.2, marker="o", markersize=3 if is_reference else 4.5,
            zorder=2 if is_reference else 3,
        )  # fmt: skip
        band(panel, lead, part, score, colour)
    if score in ("rmse", DISTANCE):
        panel.set_ylim(bottom=0)
    elif score == "acc":
        panel.axhline(0.6, color="#9aa3a8", linewidth=0.8, linestyle=":")
        panel.set_ylim(top=1.02)
    else:
        panel.axhline(1 if score == "activity" else 0, color="#9aa3a8", linewidth=0.8)
    panel.set_xlabel("Lead time (days)")
    panel.set_xlim(0, lead.max() * 1.03 or 1)
    panel.xaxis.set_major_locator(MaxNLocator(integer=bool(lead.max() > 2), nbins=10))
    dress(panel)


def colours(scores: xr.Dataset) -> dict[str, str]:
    """Return a colour for every forecast; references are grey."""
    baselines = references(scores)
    names = scores.forecast.values.tolist()
    ours = [name for name in names if name not in baselines]
    return {
        name: REFERENCE_COLOURS[baselines.index(name) % len(REFERENCE_COLOURS)]
        if name in baselines
        else MODEL_COLOURS[ours.index(name) % len(MODEL_COLOURS)]
        for name in names
    }


def line_style(scores: xr.Dataset, name: str) -> Any:
    """Return how the line of a forecast is drawn; references are dashed."""
    return (0, (5, 2)) if name in references(scores) else "-"


def example_maps(scores: xr.Dataset, model: str, channel: str) -> Figure:
    """Draw forecast, truth and error of one initial time, one row per lead."""
    chosen = scores.sel(map_channel=channel)
    rows = []
    for lead in chosen.map_lead_time.values:
        forecast = chosen.example_forecast.sel(forecast=model, map_lead_time=lead).values
        rows.append((f"+{days(lead)}", forecast, chosen.example_truth.sel(map_lead_time=lead).values))
    initial = str(scores.example_initial_time.dt.strftime("%Y-%m-%d %H").values)
    units = str(scores.units.sel(channel=channel).values)
    figure = forecast_and_truth(rows, channel, units, scores)
    figure.suptitle(
        f"{title(channel)}: {model} from {initial} UTC", fontsize=12, fontweight="bold", color=STYLE["text"]
    )
    return figure


def forecast_and_truth(
    rows: Sequence[tuple[str, NDArray[np.floating], NDArray[np.floating]]], channel: str, units: str, grid: xr.Dataset
) -> Figure:
    """Draw rows of forecast, truth and their difference; all rows share their colours.

    Args:
        rows: label, forecast (lat, lon), truth (lat, lon).
        channel: what is drawn.
        units: of it.
        grid: holds `latitude`, `longitude` and perhaps `land_sea_mask`.
    """
    height = map_height(grid, 3.9)
    figure = Figure(figsize=(13, len(rows) * height + 1.3), layout="constrained")
    panels = figure.subplots(len(rows), 3, squeeze=False, sharex=True, sharey=True)
    colour_map, lowest, highest = value_range(channel, [field for row in rows for field in row[1:]])
    error = largest_value([forecast - truth for _, forecast, truth in rows])
    for line, (label, forecast, truth) in zip(panels, rows, strict=True):
        for panel, field, name in zip(
            line, (forecast, truth, forecast - truth), ("Forecast", "Truth", "Error"), strict=True
        ):
            if name == "Error":
                errors = draw_map(panel, field, grid, DIVERGING, -error, error)
            else:
                shown = draw_map(panel, field, grid, colour_map, lowest, highest)
            panel.set_title(f"{name}, {label}", loc="left", fontsize=10, color=STYLE["text"])
    colour_bar(figure, shown, panels[:, :2], title(channel), units)
    colour_bar(figure, errors, panels[:, 2:], "Forecast − truth", units, shrink=0.9)
    return figure


def error_maps(scores: xr.Dataset, channel: str, quantity: str) -> Figure:
    """Draw `bias_map` or `rmse_map`: one row per forecast, one column per lead, one scale for all."""
    fields = scores[quantity].sel(map_channel=channel)
    names, leads = fields.forecast.values.tolist(), fields.map_lead_time.values
    height = map_height(scores, 3.9)
    figure = Figure(figsize=(4.3 * len(leads) + 0.6, len(names) * height + 1.3), layout="constrained")
    panels = figure.subplots(len(names), len(leads), squeeze=False, sharex=True, sharey=True)
    largest = largest_value([fields.values])
    is_bias = quantity == "bias_map"
    for line, name in zip(panels, names, strict=True):
        for panel, lead in zip(line, leads, strict=True):
            field = fields.sel(forecast=name, map_lead_time=lead).values
            image = draw_map(
                panel, field, scores, DIVERGING if is_bias else "magma_r", -largest if is_bias else 0, largest
            )
            panel.set_title(f"{name}, +{days(lead)}", loc="left", fontsize=10, color=STYLE["text"])
    units = str(scores.units.sel(channel=channel).values)
    colour_bar(figure, image, panels, "Mean error" if is_bias else "RMSE", units, extend="both" if is_bias else "max")
    figure.suptitle(title(channel), fontsize=12, fontweight="bold", color=STYLE["text"])
    return figure


def plot(
    path: str,
    out: str,
    *,
    channel: str | None = None,
    time: str | None = None,
    lead: list[int] | None = None,
    member: int | None = None,
    truth: str | None = None,
    score: str = "rmse",
    region: str | None = None,
) -> None:
    """Draw a picture of data, forecasts or scores.

    Scores (a scores.nc) give curves over lead time; forecasts give maps, beside the truth and their error if a truth is
    given; anything else gives a map at one time.

    `etesian.plot` says what the options mean.

    Raises:
        DataError: if the path cannot be read or has no such time or lead, or the picture would replace something
            that was not drawn by this command.
        ChannelError: if there is no such channel.
    """
    target = Path(out)
    if target.exists() and not _is_drawn_here(target):
        raise DataError(f"{out} exists and is no picture that etesian drew: choose another name, or remove it yourself")
    dataset = open_any(path)
    if "mse_by_initial_time" in dataset:
        figure = _score_figure(dataset, score, channel, region)
    elif find_lead(dataset) is not None:
        figure = _forecast_figure(dataset, channel, time, lead, member, truth)
    else:
        series, told = _states(path, member)
        what = _channel(series, channel)
        index = _time_index(series, time)
        field = series.read([what], time=np.array([index]))[0, 0]
        when = str(series.dataset.time.values[index])[:16]
        figure = _single(field, str(what), series.units(what), series.dataset, f"{when} UTC{told}")
    temporary = target.with_name(f".{target.stem}.partial{target.suffix}")
    try:
        figure.savefig(temporary, dpi=150, metadata=_NOTED.get(target.suffix.lower()))
    except (ValueError, OSError) as error:
        temporary.unlink(missing_ok=True)
        raise DataError(f"cannot write '{out}': {error}") from None
    temporary.replace(target)


def _is_drawn_here(picture: Path) -> bool:
    """Whether a picture says that `plot` drew it; formats without a place for that are never replaced."""
    return picture.is_file() and _DRAWN_BY.encode() in picture.read_bytes()


def _score_figure(scores: xr.Dataset, score: str, channel: str | None, region: str | None) -> Figure:
    names = [Channel.parse(name) for name in scores.channel.values.tolist()]
    channels = [str(c) for c in parse_channels([channel], names)] if channel else headline(scores)
    where = region or str(scores.region.values[0])
    if where not in scores.region.values:
        raise RecipeError(f"the scores have no region '{where}'; they have {', '.join(scores.region.values)}")
    if score not in scores or f"{score}_by_initial_time" == score:
        raise RecipeError(f"there is no score '{score}'; draw rmse, mae, bias, acc or activity")
    return score_curves(scores, score, channels, where)


def _forecast_figure(
    dataset: xr.Dataset,
    channel: str | None,
    time: str | None,
    leads: list[int] | None,
    member: int | None,
    truth: str | None,
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
    units, initial = series.units(what), str(series.dataset.time.values[start])[:16]
    if truth is None:
        figure = _panels(
            [(f"+{days(h)}", f) for h, f in zip(chosen, fields, strict=True)], str(what), units, series.dataset
        )
    else:
        verification = open_truth(truth)
        rows = []
        for hours, field in zip(chosen, fields, strict=True):
            position = np.flatnonzero(verification.times[0] == series.times[0][start] + hours * SECONDS_PER_HOUR)
            if position.size == 0:
                raise DataError(f"'{truth}' has no time {hours} h after {initial}; choose an earlier time or lead")
            rows.append((f"+{days(hours)}", field, verification.read([what], time=position)[0, 0]))
        figure = forecast_and_truth(rows, str(what), units, verification.dataset)
    figure.suptitle(
        f"{title(str(what))}, from {initial} UTC{told}", fontsize=12, fontweight="bold", color=STYLE["text"]
    )
    return figure


def _states(path: str, member: int | None) -> tuple[FieldSeries, str]:
    """Open fields by time, of an ensemble one member or the mean of all, with words that say which."""
    if is_training_store(path) or "member" not in (data := open_store(path)).dims:
        series = open_truth(path)
        return series, _which_member(series.dataset, "member", member, path)[1]
    which, told = _which_member(data, "member", member, path)
    return open_truth(
        data.mean("member", keep_attrs=True) if which is None else data.isel(member=which, drop=True)
    ), told


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


def _single(field: NDArray[np.floating], channel: str, units: str, grid: xr.Dataset, when: str) -> Figure:
    figure = _panels([(when, field)], channel, units, grid, width=8.5)
    figure.suptitle(title(channel), fontsize=12, fontweight="bold", color=STYLE["text"])
    return figure


def _panels(
    fields: Sequence[tuple[str, NDArray[np.floating]]], channel: str, units: str, grid: xr.Dataset, width: float = 4.5
) -> Figure:
    figure = Figure(figsize=(width * len(fields), map_height(grid, width - 0.6) + 1.2), layout="constrained")
    panels = figure.subplots(1, len(fields), squeeze=False, sharey=True)[0]
    colour_map, lowest, highest = value_range(channel, [field for _, field in fields])
    for panel, (label, field) in zip(panels, fields, strict=True):
        image = draw_map(panel, field, grid, colour_map, lowest, highest)
        panel.set_title(label, loc="left", fontsize=10, color=STYLE["text"])
    colour_bar(figure, image, panels, "", units)
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
        raise DataError(f"{series.name} has no time {text}; it runs from {str(first)[:16]} to {str(last)[:16]}")
    return int(found[0])
