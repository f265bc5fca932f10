"""One page about filled fields: opens offline, in any browser."""

from pathlib import Path

import numpy as np
import pandas as pd
import xarray as xr
from rich.table import Table

from etesian.core.outputs import complete_or_absent
from etesian.fill.means import MEAN_SCORES, MEANS
from etesian.fill.pairs import FilledPairs
from etesian.fill.plots import example, film, gapfill_figures, strip
from etesian.scores.definitions import FILLED_SCORES
from etesian.scores.page import page, picture, provenance, save_pictures, table, text, verdict_list
from etesian.scores.tables import number as digits
from etesian.scores.tables import title, verdicts, with_best, with_units

_BINNINGS = ("region", "observations", "distance", "cloud_share", "deviation")

_SCORES = tuple(name for name in FILLED_SCORES if name != "rmse_where_spread")

_ABOUT = {
    "bins": "RMSE by distance, observations and cloud",
    "reliability": "Does the standard deviation tell the error?",
    "errors": "Where the errors are",
}

_NOTES = {
    "bins": "Distance bins hold all points of the sea; where single times are scored, the other two hold those without "
    "an observation.",
    "reliability": "Left: intervals should hold as much truth as their probability says. Middle: the error found "
    "should equal the deviation stated. Right: flat is calibrated, a hump is too wide, a trough too narrow; of members "
    "it is the rank of the truth among them.",
}


def write_gapfill_report(scores: xr.Dataset, pairs: FilledPairs, out: str | Path, plan: str | None = None) -> Path:
    """Write scores.nc, scores.csv, report.html, pictures and a film of the days, all at once or not at all.

    Returns:
        The path of report.html.

    Raises:
        DataError: if the folder exists and holds something else.
    """
    with complete_or_absent(out, "evaluation", plan=plan) as folder:
        scores.to_netcdf(folder / "scores.nc")
        tidy(scores).to_csv(folder / "scores.csv", index=False)
        pictures = save_pictures(gapfill_figures(scores, pairs), folder)
        position, channel = example(scores), pairs.channels[0]
        pictures |= save_pictures([("days", strip(pairs, position, channel))], folder)
        film(pairs, position, channel, folder / "film.gif")
        pictures["film"] = (folder / "film.gif").read_bytes()
        (folder / "report.html").write_text(render(scores, pictures), encoding="utf-8")
    return Path(out) / "report.html"


def render(scores: xr.Dataset, pictures: dict[str, bytes]) -> str:
    """Return the page."""
    first = str(scores.forecast.values[0])
    parts = [f"<h1>How well are the gaps filled by {text(first)}?</h1>", f"<p class='lead'>{_about(scores)}</p>"]
    parts.append(verdict_list(verdicts(scores, _channels(scores))))
    for channel in scores.channel.values.tolist():
        part = scores.sel(channel=channel)
        heading = with_units(title(channel), "rmse", str(part.units.values))
        parts += [f"<h2>{text(heading)}</h2>", _score_table(part)]
        parts.append(picture(pictures[f"fields_{channel}"], f"{title(channel)}: observed, filled, truth and error"))
        if f"models_{channel}" in pictures:
            parts.append(picture(pictures[f"models_{channel}"], "Every model beside the truth"))
        if f"members_{channel}" in pictures:
            parts.append(picture(pictures[f"members_{channel}"], "Members beside their mean and the truth"))
        for kind, heading in _ABOUT.items():
            if f"{kind}_{channel}" in pictures:
                parts += [f"<h3>{heading}</h3>", picture(pictures[f"{kind}_{channel}"], heading)]
                parts += [f"<p class='note'>{_NOTES[kind]}</p>"] if kind in _NOTES else []
        parts.append(_bin_table(part))
        if f"rmse_of_{MEANS[0]}" in part:
            parts += ["<h3>Means over the area and over months</h3>", _mean_table(part)]
            parts.append(
                "<p class='note'>Over all points of the sea that are scored. Members tell the error of a mean; what "
                "states deviations only is taken to err independently from point to point.</p>"
            )
    parts.append("<h2>Spectra</h2>")
    if "spectra" in pictures:
        parts.append(picture(pictures["spectra"], "Spectra of truth, filled fields and errors"))
        parts.append(
            "<p class='note'>Of the largest rectangle without land or missing values, a plane taken off, Hann window, "
            "with 95 % intervals; a filled field below the truth is too smooth at that scale.</p>"
        )
    else:
        parts.append(
            "<p class='note'>None: no rectangle of 16 points each way is free of land and of missing truth.</p>"
        )
    parts += ["<h2>The days</h2>", picture(pictures["days"], "Days of the month")]
    parts.append(picture(pictures["film"], "Film of the days", "gif"))
    parts += ["<h2>What was compared</h2>", _compared(scores)]
    return page(f"Gaps filled by {first}", parts)


def filled_summary(scores: xr.Dataset) -> Table:
    """Return a table for the terminal, with verdicts below it.

    Args:
        scores: what `score_filled` returned.
    """
    result = Table(
        title=f"{scores.attrs['points'].replace('points', 'points of the sea')}, "
        f"{scores.time.size} {scores.attrs['target']}",
        caption="\n".join(verdicts(scores, _channels(scores))) or None,
        caption_justify="left",
    )
    result.add_column("channel")
    result.add_column("forecast", no_wrap=True)
    shown = ("rmse", "bias", "correlation", "crps", "coverage_90")
    for heading in ("RMSE", "bias", "correlation", "CRPS", "in 90 %"):
        result.add_column(heading, justify="right")
    for channel in scores.channel.values.tolist():
        part = scores.isel(region=0).sel(channel=channel)
        best = part.rmse.min(keepdims=True).values
        head = with_units(channel, "rmse", str(part.units.values))
        for row, name in enumerate(scores.forecast.values.tolist()):
            cells = [digits(float(part[score].sel(forecast=name))) for score in shown]
            cells[:1] = with_best(part.rmse.sel(forecast=[name]).values, best, "[bold]{}[/]")
            result.add_row(head if row == 0 else "", name, *cells)
        result.add_section()
    return result


def tidy(scores: xr.Dataset) -> pd.DataFrame:
    """Return one row per forecast, channel, binning, bin and score, with the number of points and its interval.

    Bins of wavenumber (km⁻¹) hold the spectra of the truth, of the forecasts and of their errors; `area_mean` and
    `month_mean` scores of means.
    """
    frames = []
    for binning in _BINNINGS:
        suffix = "" if binning == "region" else f"_by_{binning}"
        points = scores[f"points{suffix}"].to_series()
        for score in _SCORES:
            columns = {"value": scores[f"{score}{suffix}"].to_series(), "points": points}
            if binning == "region":
                columns |= {end: scores[f"{score}_{end}"].to_series() for end in ("low", "high")}
            part = pd.DataFrame(columns).reset_index().rename(columns={binning: "bin"})
            frames.append(part.assign(score=score, binning=binning, bin=part["bin"].astype(str)))
    for mean in MEANS if f"rmse_of_{MEANS[0]}" in scores else ():
        for score in MEAN_SCORES:
            columns = {"value": scores[f"{score}_of_{mean}"].to_series()}
            columns |= {end: scores[f"{score}_of_{mean}_{end}"].to_series() for end in ("low", "high")}
            frames.append(pd.DataFrame(columns).reset_index().assign(score=score, binning=mean, bin=mean))
    for score, name in (("spectrum", "power"), ("spectral_ratio", "spectral_ratio")):
        if name in scores:
            columns = {"value": scores[name].to_series()}
            columns |= {end: scores[f"{name}_{end}"].to_series() for end in ("low", "high")}
            part = pd.DataFrame(columns).reset_index().rename(columns={"wavenumber": "bin", "spectrum_of": "forecast"})
            frames.append(part.assign(score=score, binning="wavenumber"))
    together = pd.concat(frames, ignore_index=True).dropna(subset="value")
    return together[["forecast", "channel", "binning", "bin", "score", "value", "low", "high", "points"]]


def _about(scores: xr.Dataset) -> str:
    times = scores.time.values
    others = ", ".join(scores.forecast.values.tolist()[1:])
    against = f", compared with {others}" if others else ""
    share = scores.cloud_share_of_time.values
    return text(
        f"{times.size} {scores.attrs['target']} from {str(times[0])[:10]} to {str(times[-1])[:10]}, "
        f"{100 * share.min():.0f} to {100 * share.max():.0f} % of the sea unobserved{against}."
    )


def _channels(scores: xr.Dataset) -> list[str]:
    names: list[str] = scores.channel.values.tolist()
    return names


def _score_table(scores: xr.Dataset) -> str:
    head = ["", "points", "RMSE", "95 %", "MAE", "bias", "correlation", "CRPS", "log score", "spread / RMSE",
            "in 90 %"]  # fmt: skip
    rows = []
    for region in scores.region.values.tolist():
        part = scores.sel(region=region)
        best = part.rmse.min(keepdims=True).values
        for row, name in enumerate(scores.forecast.values.tolist()):
            here = part.sel(forecast=name)
            interval = (
                f"{digits(float(here.rmse_low))}–{digits(float(here.rmse_high))}" if np.isfinite(here.rmse_low) else "–"
            )
            rows.append(
                [
                    region if row == 0 else "",
                    text(name),
                    f"{int(here.points):,}",
                    *with_best(here.rmse.values[None], best, "<b>{}</b>"),
                    interval,
                    *(digits(float(here[score])) for score in ("mae", "bias", "correlation", "crps", "log_score")),
                    digits(float(here.spread / here.rmse_where_spread)),
                    f"{100 * float(here.coverage_90):.0f} %" if np.isfinite(here.coverage_90) else "–",
                ]
            )
    return table(["", *head], rows, 2)


def _mean_table(scores: xr.Dataset) -> str:
    rows = []
    for name in scores.forecast.values.tolist():
        here = scores.sel(forecast=name)
        rows.append(
            [text(name), *(digits(float(here[f"{score}_of_{mean}"])) for mean in MEANS for score in MEAN_SCORES)]
        )
    head = [f"{score} of {mean.replace('_', ' ')}s" for mean in MEANS for score in ("RMSE", "spread", "spread / RMSE")]
    return table(["", *head], rows, 1)


def _bin_table(scores: xr.Dataset) -> str:
    parts = []
    for binning, heading in (
        ("distance", "Distance from the nearest observation"),
        ("observations", "Times in the month observed at the point"),
        ("cloud_share", "Share of the sea under cloud"),
    ):
        points = scores[f"points_by_{binning}"].isel(forecast=0)
        there = np.flatnonzero(points.values)
        rows = [["points", *(f"{int(count):,}" for count in points.values[there])]]
        for name in scores.forecast.values.tolist():
            rmse = scores[f"rmse_by_{binning}"].sel(forecast=name).values[there]
            rows.append([text(name), *map(digits, rmse)])
        rows_head = [f"RMSE: {heading}", *(text(label) for label in points[binning].values[there])]
        parts.append(table(rows_head, rows, 1))
    return "".join(parts)


def _compared(scores: xr.Dataset) -> str:
    missing = [
        f"{int(scores.missing_forecast.sel(forecast=name, channel=channel)):,} of {channel} in {name}"
        for name in scores.forecast.values.tolist()
        for channel in scores.channel.values.tolist()
        if int(scores.missing_forecast.sel(forecast=name, channel=channel))
    ]
    entries = {
        "Models": ", ".join(scores.forecast.values.tolist()),
        "Times": f"{scores.time.size} {scores.attrs['target']}",
        "Left out": scores.attrs["left_out"] or "no time",
        "Missing": ", ".join(missing) or "no point of the sea at which the truth is known",
        "Points": "at sea, where the truth and every model have a value",
        "Grid": scores.attrs["grid"],
        "Weights": "area of the grid cells",
        "Correlation": "over all points and times together, of the fields themselves",
        "Intervals": "95 %, Student's t, allowing for the likeness of successive times, paired in verdicts",
        "Made with": f"Etesian {scores.attrs['etesian_version']}",
    }
    return provenance(entries)
