"""Pictures of ensembles: spread and error, ranks, probabilities of events, plumes and stamps."""

from collections.abc import Iterator

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from etesian.scores.maps import STYLE, draw_map, draw_outline, earths_coasts, grid_of, map_height, value_range
from etesian.scores.plots import band, colour_bar, colours, dress, legend
from etesian.scores.projections import Projection
from etesian.scores.tables import days, headline, number, pretty_units, references, title

_MOST_EVENTS = 6
"""Events that are drawn."""

_MEMBER = "#6fb1cf"

_LEAD_COLOURS = ("#0b6e99", "#e09f3e", "#9a031e")


def ensembles(scores: xr.Dataset) -> list[str]:
    """Return the names of the forecasts that have members."""
    if "spread" not in scores:
        return []
    return [name for name in scores.forecast.values.tolist() if scores.spread.sel(forecast=name).notnull().any()]


def ensemble_figures(scores: xr.Dataset) -> Iterator[tuple[str, Figure]]:
    """Draw what there is to see of ensembles and of events, by the names of the pictures."""
    region = str(scores.region.values[0])
    if ensembles(scores):
        yield "spread_and_error", spread_curves(scores, region)
        yield "rank_histograms", rank_histograms(scores, region)
        for channel in scores.plume_channel.values.tolist():
            yield f"plumes_{channel}", plumes(scores, channel)
        yield "stamps", stamps(scores)
    if "brier_score" in scores:
        yield "reliability", reliability_diagrams(scores, region)
        yield "roc", roc_curves(scores, region)
        yield "economic_value", value_curves(scores, region)
    if "event_probability" in scores:
        yield "event_probability", probability_maps(scores)


def _panels(count: int, columns: int, size: tuple[float, float], top: float = 0.5) -> tuple[Figure, list[Axes]]:
    columns = min(columns, count)
    rows = -(-count // columns)
    figure = Figure(figsize=(size[0] * columns, size[1] * rows + top), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False).ravel().tolist()
    for panel in panels[count:]:
        panel.set_visible(False)
    return figure, panels[:count]


def _heading(panel: Axes, text: str) -> None:
    panel.set_title(text, loc="left", fontsize=10, fontweight="bold", color=STYLE["text"])


def spread_curves(scores: xr.Dataset, region: str) -> Figure:
    """Draw the RMSE of the mean of the members and their spread against lead time, one panel per channel."""
    channels = headline(scores)
    figure, panels = _panels(len(channels), 2, (5.4, 3.5))
    lead = scores.lead_time.values / 24
    for panel, channel in zip(panels, channels, strict=True):
        for name in ensembles(scores):
            part, colour = scores.sel(forecast=name, channel=channel, region=region), colours(scores)[name]
            panel.plot(lead, part.rmse, color=colour, linewidth=2.2, marker="o", markersize=4, label=f"{name}: RMSE")
            band(panel, lead, part, "rmse", colour)
            panel.plot(
                lead,
                part.spread,
                color=colour,
                linewidth=1.8,
                linestyle=(0, (4, 2)),
                marker="s",
                markersize=3,
                label=f"{name}: spread",
            )
        _heading(panel, title(channel))
        units = pretty_units(str(scores.units.sel(channel=channel).values))
        panel.set_ylabel(units or "RMSE and spread")
        panel.set_xlabel("Lead time (days)")
        panel.set_ylim(bottom=0)
        panel.set_xlim(0, lead.max() * 1.03 or 1)
        dress(panel)
    legend(figure, panels[0])
    return figure


def rank_histograms(scores: xr.Dataset, region: str) -> Figure:
    """Draw how often the truth has each rank, for the first ensemble: a row per channel, a column per lead."""
    name = ensembles(scores)[0]
    channels, leads = headline(scores), scores.map_lead_time.values
    figure = Figure(figsize=(4.2 * len(leads), 2.4 * len(channels) + 0.4), layout="constrained")
    panels = figure.subplots(len(channels), len(leads), squeeze=False, sharex=True, sharey="row")
    for line, channel in zip(panels, channels, strict=True):
        for panel, lead in zip(line, leads, strict=True):
            part = scores.sel(forecast=name, map_channel=channel, lead_time=lead, region=region)
            share = part.rank_frequency.dropna("rank")
            rank = share["rank"].values
            ends = np.stack(
                [share - part.rank_frequency_low[: rank.size], part.rank_frequency_high[: rank.size] - share]
            )
            panel.bar(rank, share, width=0.9, color=colours(scores)[name], alpha=0.85)
            if np.isfinite(ends).all():
                panel.errorbar(rank, share, yerr=ends.clip(min=0), fmt="none", ecolor=STYLE["text"], elinewidth=0.8)
            panel.axhline(1 / rank.size, color=STYLE["text"], linewidth=0.9, linestyle=":")
            chance = float(part.rank_p_value)
            told = f", p = {number(chance, 2)}" if chance >= 0.001 else ", p < 0.001" if np.isfinite(chance) else ""
            panel.set_title(f"{title(channel)}, +{days(lead)}{told}", loc="left", fontsize=9, color=STYLE["text"])
            panel.xaxis.set_major_locator(MaxNLocator(integer=True))
            dress(panel)
            panel.label_outer()
        line[0].set_ylabel("Share of the truth")
    for panel in panels[-1]:
        panel.set_xlabel(f"Members of {name} below the truth")
    return figure


def _event_panels(scores: xr.Dataset) -> tuple[Figure, list[tuple[Axes, str]]]:
    events = scores.event.values.tolist()[:_MOST_EVENTS]
    figure, panels = _panels(len(events), 3, (4.2, 3.9))
    for panel, event in zip(panels, events, strict=True):
        _heading(panel, _told(event, scores))
        dress(panel)
    return figure, list(zip(panels, events, strict=True))


def _told(event: str, scores: xr.Dataset) -> str:
    """Write an event as a meteorologist would."""
    channel, sign, limit = event.split(" ")
    if limit.startswith("q"):
        return f"{title(channel)} {sign} {100 * float(limit[1:]):g} % quantile"
    return f"{title(channel)} {sign} {limit} {pretty_units(str(scores.units.sel(channel=channel).values))}".rstrip()


def _first(scores: xr.Dataset) -> str:
    """Return the forecast that diagrams of events are about: the first ensemble, or the first forecast."""
    return (ensembles(scores) or scores.forecast.values.tolist())[0]


def reliability_diagrams(scores: xr.Dataset, region: str) -> Figure:
    """Draw how often events happen where each probability is given, by lead, and how often it is given."""
    name = _first(scores)
    figure, panels = _event_panels(scores)
    for panel, event in panels:
        part = scores.sel(forecast=name, event=event, region=region)
        panel.plot([0, 1], [0, 1], color=STYLE["spines"], linewidth=1)
        first = part.sel(lead_time=scores.map_lead_time.values[0])
        panel.axhline(float(first.event_frequency), color=STYLE["spines"], linewidth=0.8, linestyle=":")
        for lead, colour in zip(scores.map_lead_time.values, _LEAD_COLOURS, strict=False):
            here = part.sel(lead_time=lead)
            some = np.flatnonzero(here.issued_share.values > 1e-4)
            panel.plot(
                here.probability[some], here.observed_frequency[some], color=colour, marker="o", markersize=3.5,
                linewidth=1.8, label=f"+{days(lead)}",
            )  # fmt: skip
            panel.plot(
                here.probability[some], here.issued_share[some], color=colour, linewidth=0.9, linestyle=(0, (2, 2))
            )
        panel.set_xlim(-0.02, 1.02)
        panel.set_ylim(-0.02, 1.02)
        panel.set_xlabel("Forecast probability")
        panel.set_ylabel("Observed frequency")
    legend(figure, panels[0][0])
    return figure


def roc_curves(scores: xr.Dataset, region: str) -> Figure:
    """Draw hit rate over false alarm rate, by lead."""
    name = _first(scores)
    figure, panels = _event_panels(scores)
    for panel, event in panels:
        panel.plot([0, 1], [0, 1], color=STYLE["spines"], linewidth=1)
        for lead, colour in zip(scores.map_lead_time.values, _LEAD_COLOURS, strict=False):
            here = scores.sel(forecast=name, event=event, region=region, lead_time=lead)
            some = here.hit_rate.notnull().values
            alarms, hits = (np.append(here[rate].values[some], 0) for rate in ("false_alarm_rate", "hit_rate"))
            told = f"+{days(lead)}: area {number(float(here.roc_area))}"
            panel.plot(alarms, hits, color=colour, marker="o", markersize=3, linewidth=1.8, label=told)
        panel.legend(loc="lower right", fontsize=8, frameon=False)
        panel.set_xlim(-0.02, 1.02)
        panel.set_ylim(-0.02, 1.02)
        panel.set_xlabel("False alarm rate")
        panel.set_ylabel("Hit rate")
    return figure


def value_curves(scores: xr.Dataset, region: str) -> Figure:
    """Draw the relative economic value over the ratio of cost to loss, of every forecast at the first lead drawn."""
    lead = scores.map_lead_time.values[len(scores.map_lead_time) // 2]
    figure, panels = _event_panels(scores)
    for panel, event in panels:
        for name, colour in colours(scores).items():
            part = scores.sel(forecast=name, event=event, region=region, lead_time=lead)
            dashed = (0, (5, 2)) if name in references(scores) else "-"
            panel.plot(part.cost_loss_ratio, part.relative_economic_value, color=colour, linestyle=dashed, label=name)
            band(panel, part.cost_loss_ratio, part, "relative_economic_value", colour)
        panel.axhline(0, color=STYLE["spines"], linewidth=0.8)
        panel.set_ylim(-0.25, 1)
        panel.set_xlim(0, 1)
        panel.set_xlabel("Cost / loss")
        panel.set_ylabel(f"Relative value, +{days(lead)}")
    legend(figure, panels[0][0])
    return figure


def plumes(scores: xr.Dataset, channel: str) -> Figure:
    """Draw members, their mean and the truth at a few places against lead time, of one initial time."""
    part = scores.sel(plume_channel=channel)
    places = scores.place.values.tolist()
    figure, panels = _panels(len(places), 2, (5.6, 2.9))
    lead = scores.lead_time.values / 24
    units = pretty_units(str(scores.units.sel(channel=channel).values))
    for panel, place in zip(panels, places, strict=True):
        members = part.plume.sel(place=place)
        dots = "o" if lead.size == 1 else ""
        panel.plot(lead, members.transpose("lead_time", "number"), color=_MEMBER, linewidth=0.8, alpha=0.7, marker=dots)
        panel.plot([], [], color=_MEMBER, linewidth=0.8, label="members")
        mean = members.mean("number")
        panel.plot(lead, mean, color="#9a031e", linewidth=2.2, marker=dots, label="mean of the members")
        truth = part.plume_truth.sel(place=place)
        panel.plot(lead, truth, color=STYLE["text"], marker="o", markersize=4, linewidth=1.4, label="truth")
        _heading(panel, place)
        panel.set_ylabel(units)
        panel.set_xlabel("Lead time (days)")
        dress(panel)
    legend(figure, panels[0], "outside lower center")
    figure.suptitle(_case(scores, channel), fontsize=12, fontweight="bold", color=STYLE["text"])
    return figure


def _case(scores: xr.Dataset, channel: str, lead: float | None = None) -> str:
    initial = str(scores.example_initial_time.dt.strftime("%Y-%m-%d %H").values)
    after = "" if lead is None else f", +{days(lead)}"
    return f"{title(channel)}: {_first(scores)} from {initial} UTC{after}"


def stamps(scores: xr.Dataset) -> Figure:
    """Draw the truth, the mean of the members and each of them as small maps on one scale, of one case."""
    fields = [("Truth", scores.stamp_truth), ("Mean of the members", scores.stamp_mean)]
    fields += [(f"Member {value}", scores.stamp.sel(stamp_number=value)) for value in scores.stamp_number.values]
    channel, lead = str(scores.stamp.attrs["channel"]), float(scores.stamp.attrs["lead_time"])
    columns = min(4, len(fields))
    rows = -(-len(fields) // columns)
    figure = Figure(figsize=(3.4 * columns, rows * map_height(scores, 3.0) + 1.3), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
    colour_map, low, high = value_range(channel, [field.values for _, field in fields])
    for panel, (label, field) in zip(panels.ravel(), fields, strict=False):
        image = draw_map(panel, field.values, scores, colour_map, low, high)
        panel.set_title(label, loc="left", fontsize=9, color=STYLE["text"])
    for panel in panels.ravel()[len(fields) :]:
        panel.set_visible(False)
    colour_bar(figure, image, panels, title(channel), str(scores.units.sel(channel=channel).values))
    figure.suptitle(_case(scores, channel, lead), fontsize=12, fontweight="bold", color=STYLE["text"])
    return figure


def probability_maps(scores: xr.Dataset) -> Figure:
    """Draw the probability of each event in one case, outlined where it happened."""
    events = scores.event.values.tolist()[:_MOST_EVENTS]
    lead = float(scores.event_probability.attrs["lead_time"])
    columns = min(2, len(events))
    rows = -(-len(events) // columns)
    figure = Figure(figsize=(5.6 * columns, rows * map_height(scores, 5.2) + 1.3), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
    # Coasts are easily told from the red lines, the outline of a mask is not.
    coasts = earths_coasts(scores)
    for panel, event in zip(panels.ravel(), events, strict=False):
        part = scores.sel(event=event)
        image = draw_map(panel, 100 * part.event_probability.values, scores, "Blues", 0, 100, coasts=coasts)
        grid = grid_of(scores)
        happened = {"color": "#9a031e", "linewidth": 1.2}
        draw_outline(panel, part.event_happened.values, grid, Projection.of(grid), **happened)
        panel.set_title(_told(event, scores), loc="left", fontsize=10, color=STYLE["text"])
    for panel in panels.ravel()[len(events) :]:
        panel.set_visible(False)
    colour_bar(figure, image, panels, "Probability in %; red: where it happened", "1", extend="neither")
    initial = str(scores.example_initial_time.dt.strftime("%Y-%m-%d %H").values)
    figure.suptitle(
        f"{_first(scores)} from {initial} UTC, +{days(lead)}", fontsize=12, fontweight="bold", color=STYLE["text"]
    )
    return figure
