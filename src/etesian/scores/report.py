"""The page that tells how good the forecasts are."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import xarray as xr
from matplotlib.figure import Figure

from etesian.core.outputs import complete_or_absent
from etesian.scores.ensemble_plots import ensemble_figures, ensembles
from etesian.scores.page import by_lead, named, page, picture, provenance, save_pictures, table, text, verdict_list
from etesian.scores.plots import distance_curves, error_maps, example_maps, score_curves
from etesian.scores.station_report import station_figures, station_section
from etesian.scores.structure_plots import structure_figures
from etesian.scores.tables import (
    DISTANCE,
    days,
    headline,
    models,
    number,
    references,
    smoothness,
    tidy,
    title,
    verdicts,
    with_best,
)

_CURVES = {
    "rmse": "Root-mean-square error",
    "acc": "Anomaly correlation",
    "bias": "Bias (forecast − truth)",
    "activity": "Activity: root-mean-square anomaly of the forecasts over that of the truth",
}


def write_report(scores: xr.Dataset, out: str | Path, plan: str | None = None) -> Path:
    """Write scores.nc, scores.csv, report.html and the pictures as PNG files into a folder, all at once or not at all.

    An earlier evaluation in that folder is replaced when the new one is complete.

    Returns:
        The path of report.html.

    Raises:
        DataError: if the folder exists and holds something else.
    """
    with complete_or_absent(out, "evaluation", plan=plan) as folder:
        scores.to_netcdf(folder / "scores.nc")
        tidy(scores).to_csv(folder / "scores.csv", index=False)
        pictures = save_pictures(_figures(scores), folder)
        (folder / "report.html").write_text(render(scores, pictures), encoding="utf-8")
    return Path(out) / "report.html"


def render(scores: xr.Dataset, pictures: dict[str, bytes]) -> str:
    """Return the page; pictures are PNG data by the names that `_figures` gives."""
    model = models(scores)[0]
    parts = [
        f"<h1>How good is {text(model)}?</h1>",
        f"<p class='lead'>{_period(scores)}</p>",
        verdict_list(verdicts(scores)),
        "<h2>RMSE by lead time</h2>",
        f"<p class='note'>{text(_where(scores))}. The lowest of each column is bold.</p>",
        _rmse_table(scores),
    ]
    for score, heading in _CURVES.items():
        if f"{score}_curves" in pictures:
            parts += [f"<h2>{heading}</h2>", picture(pictures[f"{score}_curves"], heading)]
            if score == "rmse":
                parts.append(
                    "<p class='note'>Bands: 95 % intervals of the mean over initial times, allowing for the "
                    "correlation of successive forecasts.</p>"
                )
    if DISTANCE in scores:
        parts += _distance(scores, pictures)
    if ensembles(scores):
        parts += _ensembles(scores, pictures)
    if "brier_score" in scores:
        parts += _events(scores, pictures)
    if "station_channel" in scores.dims:
        parts += station_section(scores, pictures)
    for reference in references(scores):
        parts += [f"<h2>Skill against {text(reference)}</h2>", _skill_table(scores, reference)]
    if references(scores):
        parts.append(
            "<p class='note'>Skill is 1 − RMSE / RMSE of the reference, over the same cases: blue is better, red "
            "worse. Entries in brackets do not differ from 0 with 95 % confidence.</p>"
        )
    if scores.region.size > 1:
        parts += ["<h2>Regions</h2>", _region_table(scores, model)]
    if "semivariance" in scores:
        parts += _structure(scores, pictures)
    parts.append("<h2>One forecast beside the truth</h2>")
    for channel in headline(scores):
        parts.append(picture(pictures[f"forecast_{channel}"], f"{title(channel)}: forecast, truth and error"))
    parts.append("<h2>Where the errors are</h2>")
    for channel in headline(scores):
        for quantity, name in (("bias", "Mean error"), ("rmse", "RMSE")):
            parts.append(picture(pictures[f"{quantity}_map_{channel}"], f"{name} of {title(channel)}"))
    parts += ["<h2>Missing values</h2>", _missing_table(scores), "<h2>What was compared</h2>", _provenance(scores)]
    return page(f"Scores of {model}", parts)


def _figures(scores: xr.Dataset) -> Iterator[tuple[str, Figure]]:
    region = str(scores.region.values[0])
    for score in _CURVES:
        channels = [name for name in headline(scores) if np.isfinite(scores[score].sel(channel=name)).any()]
        if channels:
            yield f"{score}_curves", score_curves(scores, score, channels, region)
    if DISTANCE in scores:
        yield f"{DISTANCE}_curves", distance_curves(scores)
    for channel in headline(scores):
        yield f"forecast_{channel}", example_maps(scores, models(scores)[0], channel)
        yield f"bias_map_{channel}", error_maps(scores, channel, "bias_map")
        yield f"rmse_map_{channel}", error_maps(scores, channel, "rmse_map")
    yield from ensemble_figures(scores)
    if "station_channel" in scores.dims:
        yield from station_figures(scores)
    if "semivariance" in scores:
        yield from structure_figures(scores)


def _distance(scores: xr.Dataset, pictures: dict[str, bytes]) -> list[str]:
    learned = scores[DISTANCE]
    best = learned.min("forecast").values
    rows = [
        [text(name), *with_best(learned.sel(forecast=name).values, best, "<b>{}</b>")]
        for name in scores.forecast.values.tolist()
    ]
    return [
        "<h2>Learned distance (AtmoDist)</h2>",
        f"<p class='note'>Mean squared difference of the features of {text(learned.attrs['run'])}, scaled to that of "
        f"normalised fields, from {text(learned.attrs['channels'])}. The lowest is bold.</p>",
        table(["", *(days(lead) for lead in scores.lead_time.values)], rows, 1),
        picture(pictures[f"{DISTANCE}_curves"], "Learned distance by lead time"),
    ]


def _ensembles(scores: xr.Dataset, pictures: dict[str, bytes]) -> list[str]:
    """Lay out how far members are apart, and whether the truth is one of them."""
    names = [name for name in scores.forecast.values.tolist() if scores.crps.sel(forecast=name).notnull().any()]
    crps = scores.crps.isel(region=0)
    groups = [
        (named(scores, name), (part := crps.sel(channel=name)), part.min("forecast")) for name in headline(scores)
    ]
    parts = [
        "<h2>CRPS by lead time</h2>",
        "<p class='note'>Of members the fair score, of a single forecast its mean absolute error. The lowest is bold."
        "</p>",
        by_lead(scores, groups, names),
        "<h2>Spread and error</h2>",
        picture(pictures["spread_and_error"], "RMSE of the mean of the members, and their spread"),
        "<p class='note'>The error of the mean is as large as the spread where members are as likely as the truth.</p>",
        "<h2>Ranks of the truth among the members</h2>",
        picture(pictures["rank_histograms"], "Rank histograms"),
        "<p class='note'>Flat where members are as likely as the truth; full at both ends where they are too close "
        "together. p: how likely such a departure from flat is by chance.</p>",
        "<h2>Plumes</h2>",
    ]
    parts += [picture(pictures[f"plumes_{name}"], f"{title(name)} at a few places") for name in headline(scores)]
    return [*parts, "<h2>Stamps</h2>", picture(pictures["stamps"], "Members of one case")]


def _events(scores: xr.Dataset, pictures: dict[str, bytes]) -> list[str]:
    """Lay out how well probabilities of events fit what happened."""
    skill = scores.brier_skill_score.isel(region=0)
    groups = [
        (text(event), (part := skill.sel(event=event)), part.max("forecast")) for event in scores.event.values.tolist()
    ]
    parts = [
        "<h2>Events: Brier skill score by lead time</h2>",
        "<p class='note'>Against always giving the frequency of the event. The highest is bold.</p>",
        by_lead(scores, groups, scores.forecast.values.tolist()),
        "<h3>Reliability</h3>",
        picture(pictures["reliability"], "Reliability diagrams"),
        "<p class='note'>Dashed: how often each probability is given; dotted: how often the event happens.</p>",
        "<h3>Hits and false alarms</h3>",
        picture(pictures["roc"], "ROC curves"),
        "<h3>Relative economic value</h3>",
        picture(pictures["economic_value"], "Relative economic value"),
    ]
    if "event_probability" in pictures:
        parts += ["<h3>One case</h3>", picture(pictures["event_probability"], "Probability of events")]
    return parts


def _date(value: xr.DataArray) -> str:
    return str(value.dt.strftime("%Y-%m-%d %H").values) + " UTC"


def _where(scores: xr.Dataset) -> str:
    region = str(scores.region.values[0])
    return {"global": "Global mean", "domain": "Mean over the domain"}.get(region, f"Mean over {region}")


def _period(scores: xr.Dataset) -> str:
    times = scores.initial_time
    others = [name for name in scores.forecast.values.tolist() if name != models(scores)[0]]
    against = f", compared with {', '.join(others)}" if others else ""
    return text(
        f"{times.size} forecasts from {_date(times[0])} to {_date(times[-1])}, to {days(scores.lead_time.values[-1])}"
        f"{against}."
    )


def _rmse_table(scores: xr.Dataset) -> str:
    rmse = scores.rmse.isel(region=0)
    groups = [
        (named(scores, name), (part := rmse.sel(channel=name)), part.min("forecast")) for name in headline(scores)
    ]
    return by_lead(scores, groups, scores.forecast.values.tolist())


def _skill_table(scores: xr.Dataset, reference: str) -> str:
    rows = []
    for model in [name for name in models(scores) if name != reference]:
        part = scores.isel(region=0).sel(forecast=model, reference=reference)
        for channel in scores.channel.values.tolist():
            here = part.sel(channel=channel)
            bounds = zip(here.skill.values, here.skill_low.values, here.skill_high.values, strict=True)
            rows.append([text(title(channel)), text(model), *(_skill_cell(*values) for values in bounds)])
    return table(["", "", *(days(lead) for lead in scores.lead_time.values)], rows, 2)


def _skill_cell(skill: float, low: float, high: float) -> str:
    if not np.isfinite(skill):
        return "<td>–</td>"
    strength = min(abs(skill) / 0.6, 1) ** 0.7
    full = np.array([86, 160, 211] if skill > 0 else [224, 122, 95])
    red, green, blue = (255 - strength * (255 - full)).astype(int)
    shown = f"{100 * skill:+.0f} %" if low > 0 or high < 0 else f"({100 * skill:+.0f} %)"
    interval = f"95 %: {100 * low:+.1f} to {100 * high:+.1f} %"
    return f"<td class='coloured' style='background:rgb({red},{green},{blue})' title='{interval}'>{shown}</td>"


def _region_table(scores: xr.Dataset, model: str) -> str:
    rows = []
    for channel in headline(scores):
        for row, region in enumerate(scores.region.values.tolist()):
            part = scores.rmse.sel(forecast=model, channel=channel, region=region).values
            rows.append(
                [named(scores, channel) if row == 0 else "", text(region.replace("_", " ")), *map(number, part)]
            )
    head = [f"RMSE of {text(model)}", "", *(days(lead) for lead in scores.lead_time.values)]
    return table(head, rows, 2)


def _missing_table(scores: xr.Dataset) -> str:
    part = scores[["points", "missing_forecast", "missing_truth"]].isel(region=0).sum("lead_time")
    rows = []
    for name in scores.forecast.values.tolist():
        for channel in scores.channel.values.tolist():
            here = part.sel(forecast=name, channel=channel)
            forecast, truth = int(here.missing_forecast), int(here.missing_truth)
            if forecast or truth:
                bad = f"<td class='bad'>{forecast:,}</td>" if forecast else "0"
                rows.append([text(name), text(title(channel)), f"{int(here.points):,}", bad, f"{truth:,}"])
    if not rows:
        return "<p>None: every forecast and the truth have a value at every point.</p>"
    note = (
        "<p class='note'>Points, summed over initial times and leads. All forecasts are scored where every one of them "
        "and the truth have a value; what a forecast lacks although the truth is there is marked.</p>"
    )
    return note + table(["", "", "scored", "missing in the forecast", "missing in the truth"], rows, 2)


def _structure(scores: xr.Dataset, pictures: dict[str, bytes]) -> list[str]:
    """Lay out what the root-mean-square error cannot see."""
    first = text(days(scores.map_lead_time.values[0]))
    parts = ["<h2>Spectra</h2>"]
    if "spectra" in pictures:
        parts.append(picture(pictures["spectra"], f"Power by total wavenumber at {first}"))
        parts += [f"<p class='note'>{text(sentence)}</p>" for sentence in smoothness(scores)]
    else:
        parts.append("<p class='note'>Spectra by spherical harmonics need a grid of the whole globe.</p>")
    parts += ["<h2>Semivariograms</h2>", picture(pictures["semivariograms"], f"Semivariance at {first}")]
    parts += ["<h2>Moments and gradients</h2>", _moment_table(scores)]
    if scores.location.size:
        parts.append("<h2>Distributions at locations</h2>")
        parts += [picture(pictures[f"distribution_{name}"], f"Values of {title(name)}") for name in headline(scores)]
    parts += ["<h2>Error in time</h2>", picture(pictures["error_in_time"], f"RMSE of each case at {first}")]
    parts.append("<h2>Close views</h2>")
    parts += [picture(pictures[f"views_{name}"], f"{title(name)}, truth and forecasts") for name in headline(scores)]
    return parts


def _moment_table(scores: xr.Dataset) -> str:
    ends = [scores[f"moment{end}"].isel(map_lead_time=0) for end in ("", "_low", "_high")]
    rows = []
    for channel in headline(scores):
        for row, series in enumerate(scores.series.values.tolist()):
            values = (part.sel(map_channel=channel, series=series).values for part in ends)
            cells = [_with_interval(*cell) for cell in zip(*values, strict=True)]
            rows.append([named(scores, channel) if row == 0 else "", text(series), *cells])
    note = (
        "<p class='note'>Over area and all complete cases, with their 95 % intervals; the mean gradient is "
        "per 100 km.</p>"
    )
    return note + table(["", "", *scores.statistic.values.tolist()], rows, 2)


def _with_interval(value: float, low: float, high: float) -> str:
    interval = f"<br><small>{number(low)} … {number(high)}</small>" if np.isfinite(low) else ""
    return f"<td>{number(value)}{interval}</td>"


def _provenance(scores: xr.Dataset) -> str:
    unverified = [
        f"{count} at {days(lead)}"
        for lead, count in zip(scores.lead_time.values, scores.unverified_initial_times.values, strict=True)
        if count
    ]
    weighting = {
        "area": "area of the grid cells, as in WeatherBench 2",
        "cosine": "cosine of latitude, as in WeatherBench 1",
    }[scores.attrs["weighting"]]
    climatology = (
        "given; anomalies are taken from it at the valid time"
        if scores.attrs["climatology"] == "given"
        else "none was given, so that anomaly correlation and activity are not computed"
    )
    first, last = (_date(scores.initial_time[end]) for end in (0, -1))
    entries = {
        "Forecasts": ", ".join(scores.forecast.values.tolist()),
        "Initial times": f"{scores.initial_time.size}, {first} to {last}",
        "Left out": scores.attrs["dropped_initial_times"] or "no initial time",
        "Leads beyond the truth": ", ".join(unverified) or "none",
        "Channels left out": scores.attrs["channels_left_out"] or "none",
        "Grid": scores.attrs["grid"],
        "Weights": weighting,
        "Climatology": climatology,
        "RMSE": "root after the mean over points and initial times",
        "Intervals": "95 %, Student's t, allowing for the likeness of successive initial times, paired for skill",
        "Made with": f"Etesian {scores.attrs['etesian_version']}",
    }
    return provenance(entries)
