"""Scores as tables and as plain sentences."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray
from rich.table import Table

import etesian.scores.definitions  # noqa: F401  makes the scores known
from etesian.core.channels import Channel
from etesian.scores.registry import SCORES

DISTANCE = "atmodistance"
"""Name of the learned distance among the scores."""


def days(hours: float | np.integer) -> str:
    """Write a lead in days, or in hours below one day.

    >>> days(6), days(24), days(36), days(120)
    ('6 h', '1 day', '1.5 days', '5 days')
    """
    if hours < 24:
        return f"{hours:g} h"
    return f"{hours / 24:g} day" + ("" if hours == 24 else "s")


def title(channel: str) -> str:
    """Write a channel as a meteorologist would.

    >>> title("geopotential_500"), title("2m_temperature"), title("wind_vector_850")
    ('Geopotential at 500 hPa', '2 m temperature', 'Wind vector at 850 hPa')
    """
    name, level = Channel.parse(channel)
    words = name.replace("u_component_of", "eastward").replace("v_component_of", "northward").replace("_", " ")
    for height in ("2m", "10m"):
        words = words.replace(f"{height} ", f"{height[:-1]} m ")
    words = words[0].upper() + words[1:]
    return words if level is None else f"{words} at {level} hPa"


def pretty_units(units: str) -> str:
    """Write units with raised exponents.

    >>> pretty_units("m2 s-2"), pretty_units("1")
    ('m² s⁻²', '')
    """
    if units == "1":
        return ""
    raised = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
    return " ".join(
        part.rstrip("-0123456789") + part[len(part.rstrip("-0123456789")) :].translate(raised) for part in units.split()
    )


def power_of(score: str) -> int:
    """Return the power of the channel's units that a score is in; 0 where it has none.

    >>> power_of("crps"), power_of("mse"), power_of("acc")
    (1, 2, 0)
    """
    return {"channel": 1, "squared": 2, "1": 0}[SCORES[score].units] if score in SCORES else 0


def with_units(name: str, score: str, units: str) -> str:
    """Write what a score is called with its units, from those of the channel.

    >>> with_units("RMSE", "rmse", "Pa"), with_units("MSE", "mse", "Pa"), with_units("ACC", "acc", "Pa")
    ('RMSE (Pa)', 'MSE (Pa)²', 'ACC')
    """
    power, units = power_of(score), pretty_units(units)
    return f"{name} ({units}){'²' if power == 2 else ''}" if power and units else name


def squared(units: str) -> str:
    """Return the units of a square.

    >>> squared("s-1"), squared("m2 s-2"), squared("K"), squared("1")
    ('s-2', 'm4 s-4', 'K2', '1')
    """
    parts = [(part.rstrip("-0123456789"), part) for part in units.split()]
    return " ".join(f"{name}{2 * int(part[len(name) :] or 1)}" if name else part for name, part in parts)


def with_best(values: NDArray[np.floating], best: NDArray[np.floating], mark: str) -> list[str]:
    """Write numbers, those that are the best of their column within a mark such as `<b>{}</b>`."""
    return [mark.format(number(v)) if v == least else number(v) for v, least in zip(values, best, strict=True)]


def models(scores: xr.Dataset) -> list[str]:
    """Return the names of the forecasts that are not references."""
    names: list[str] = scores.forecast.values.tolist()
    return [name for name in names if name not in references(scores)] or names[:1]


def references(scores: xr.Dataset) -> list[str]:
    """Return the names of the forecasts that others are measured by."""
    return [str(name) for name in scores.reference.values] if "reference" in scores else []


def headline(scores: xr.Dataset) -> list[str]:
    """Return the channels that come first."""
    return [str(name) for name in scores.map_channel.values]


def verdict(scores: xr.Dataset, model: str, reference: str, channel: str) -> str:
    """Say in one sentence whether a forecast beats a reference, in the first region, and how certain that is.

    `beats` means a lower RMSE (of projections NRMSE) over the same cases; with 95 % confidence, that the interval of
    skill lies above 0 (below 0 where the reference is better). Where there are no leads the errors are told as well.
    """
    chosen = scores.isel(region=0).sel(forecast=model, reference=reference, channel=channel)
    scored = np.isfinite(chosen.skill.values)
    subject = f"{title(channel)}: {model}"
    if not scored.any():
        return f"{subject} cannot be compared with {reference}: nothing was scored."
    if "lead_time" not in chosen.dims:
        score = "rmse" if "rmse" in scores else "nrmse"
        errors = scores[score].isel(region=0).sel(channel=channel)
        ours, theirs = (number(float(errors.sel(forecast=name))) for name in (model, reference))
        told = f"{score.upper()} {ours} against {theirs}, {scores.attrs['points']}, "
        return _plain_verdict(chosen, subject, reference, told)
    if _downscaled(scores):
        return _plain_verdict(chosen.isel(lead_time=0), subject, reference)
    leads = scores.lead_time.values
    better, certain, worse = chosen.skill.values > 0, chosen.skill_low.values > 0, chosen.skill_high.values < 0
    confidence = f"with 95 % confidence at {_at(certain, leads)}"
    upto = _prefix(better)
    if not better.any():
        return f"{subject} does not beat {reference} at any lead (worse with 95 % confidence at {_at(worse, leads)})."
    if upto == 0:
        return f"{subject} beats {reference} only at {_listed(better, leads)} ({confidence})."
    if upto == leads.size:
        return f"{subject} beats {reference} at every lead to {days(leads[-1])} ({confidence})."
    later = better & (np.arange(leads.size) > upto)
    again = f", and again at {_listed(later, leads)}" if later.any() else ""
    lost = days(leads[upto])
    return f"{subject} beats {reference} to {days(leads[upto - 1])}, not at {lost}{again} ({confidence})."


def _plain_verdict(chosen: xr.Dataset, subject: str, reference: str, errors: str = "") -> str:
    """Return the sentence where there is one number for each forecast."""
    skill, low, high = (float(chosen[name]) for name in ("skill", "skill_low", "skill_high"))
    certainty = "too few times to tell how certain" if np.isnan(low) else "without 95 % confidence"
    if skill > 0:
        return f"{subject} beats {reference} ({errors}{'with 95 % confidence' if low > 0 else certainty})."
    if not np.isnan(low):
        certainty = "worse with 95 % confidence" if high < 0 else "no different with 95 % confidence"
    return f"{subject} does not beat {reference} ({errors}{certainty})."


def smoothness(scores: xr.Dataset) -> list[str]:
    """Say from which wavenumber on forecasts have less power than the truth with 95 % confidence, at the first lead."""
    sentences = []
    part = scores.isel(map_lead_time=0, wavenumber=slice(1, None))
    for name in scores.spectrum_of.values.tolist():
        for model in models(scores):
            high = part.spectral_ratio_high.sel(spectrum_of=name, series=model).values
            known = np.isfinite(high)
            short = _prefix((high < 1)[known][::-1])
            if short:
                first = int(part.wavenumber.values[known][-short])
                sentences.append(f"{title(name)}: {model} has less power than the truth from wavenumber {first} on.")
    return sentences


def is_win(sentence: str) -> bool:
    """Whether a verdict says that a forecast beats its reference, at some lead at least."""
    return "beats" in sentence


def verdicts(scores: xr.Dataset, channels: Sequence[str] | None = None) -> list[str]:
    """Return a verdict for every model, headline channel and reference."""
    return [
        verdict(scores, model, reference, channel)
        for model in models(scores)
        for channel in (channels or headline(scores))
        for reference in references(scores)
        if reference != model
    ]


def summary(scores: xr.Dataset, channels: Sequence[str] | None = None) -> Table:
    """Return a table for the terminal: RMSE of every forecast by lead, and verdicts below it.

    Where the only lead is 0 (downscaling) it holds RMSE, Pearson correlation and mean bias instead.

    Args:
        scores: what `evaluate` returned.
        channels: by default the headline channels.
    """
    chosen = list(channels or headline(scores))
    table = Table(
        title=f"RMSE, {scores.region.values[0]}, {scores.initial_time.size} initial times",
        caption="\n".join(verdicts(scores, chosen)) or None,
        caption_justify="left",
        header_style="bold",
    )
    table.add_column("channel")
    table.add_column("forecast")
    rmse, pearson, bias = (scores[name].isel(region=0) for name in ("rmse", "pearson", "bias"))
    # Each column with what is smallest for the best forecast.
    columns = {days(lead): 2 * (rmse.sel(lead_time=lead),) for lead in scores.lead_time.values}
    if _downscaled(scores):
        at = {"lead_time": 0}
        columns = {"RMSE": 2 * (rmse.sel(at),), "Pearson": (pearson.sel(at), -pearson.sel(at))}
        columns["bias"] = bias.sel(at), abs(bias.sel(at))
        table.title = str(table.title).removeprefix("RMSE, ")
    for name in columns:
        table.add_column(name, justify="right")
    for channel in chosen:
        head = with_units(channel, "rmse", str(scores.units.sel(channel=channel).values))
        for row, name in enumerate(scores.forecast.values.tolist()):
            cells = []
            for values, order in columns.values():
                text = number(values.sel(channel=channel, forecast=name).item())
                best = order.sel(channel=channel)
                cells.append(f"[bold]{text}[/]" if best.sel(forecast=name) == best.min() else text)
            table.add_row(head if row == 0 else "", name, *cells)
        table.add_section()
    if "station_channel" in scores.dims and not _downscaled(scores):
        part = at_stations(scores).isel(region=0)
        for channel in part.channel.values.tolist():
            errors, best = (
                each.sel(channel=channel) for each in (part.rmse, part.rmse.drop_sel(forecast="truth").min("forecast"))
            )
            head = with_units(f"{channel} at stations", "rmse", str(part.units.sel(channel=channel).values))
            for row, name in enumerate(part.forecast.values.tolist()):
                cells = with_best(errors.sel(forecast=name).values, best.values, "[bold]{}[/]")
                table.add_row(head if row == 0 else "", name, *cells)
            table.add_section()
    if DISTANCE in scores and not _downscaled(scores):
        learned = scores[DISTANCE]
        for row, name in enumerate(scores.forecast.values.tolist()):
            cells = with_best(learned.sel(forecast=name).values, learned.min("forecast").values, "[bold]{}[/]")
            table.add_row("AtmoDist distance" if row == 0 else "", name, *cells)
    return table


def number(value: float, digits: int = 3) -> str:
    """Write a number with some significant digits, without exponents where it can be helped.

    >>> number(637.94), number(1.2345), number(0.0456), number(float("nan"))
    ('638', '1.23', '0.0456', '–')
    """
    if not np.isfinite(value):
        return "–"
    if value == 0 or not 1e-4 <= abs(value) < 1e7:
        return f"{value:.{digits - 1}e}" if value else "0"
    decimals = max(0, digits - 1 - int(np.floor(np.log10(abs(value)))))
    return f"{value:.{decimals}f}"


_BINS = {
    "moment": "statistic",
    "semivariance": "distance",
    "spectrum": "wavenumber",
    "spectral_ratio": "wavenumber",
    "wasserstein": "location",
}
"""What tells of structure, and the axis of its own that each has."""


def structure_rows(scores: xr.Dataset) -> pd.DataFrame:
    """Return one row for each number that tells of the structure of the truth or of a forecast, with its interval."""
    whole = "global" if "spectrum" in scores else "domain"
    frames = []
    for name, binning in _BINS.items():
        if name not in scores:
            continue
        part = xr.Dataset({"value": scores[name], "low": scores[f"{name}_low"], "high": scores[f"{name}_high"]})
        renamed = {"series": "forecast", "map_lead_time": "lead_time", "map_channel": "channel"}
        table = part.drop_vars("units", errors="ignore").to_dataframe().reset_index()
        table = table.rename(columns=renamed | {"spectrum_of": "channel", binning: "bin"})
        table = table.assign(score=name, binning=binning, region=whole)
        if name == "moment":
            table = table.assign(score=table["bin"].str.replace(" ", "_"), binning="", bin="")
        frames.append(table)
    rows = pd.concat(frames, ignore_index=True).dropna(subset="value")
    units = dict(zip(scores.channel.values.tolist(), scores.units.values.tolist(), strict=True))
    rows["units"] = [units.get(name, "m s-1") for name in rows["channel"]]
    gradient = rows["score"] == "mean_gradient"
    rows.loc[gradient, "units"] = rows["units"] + " (100 km)-1"
    counts = [scores[name].to_series() for name in ("complete_fields", "complete_spectra") if name in scores]
    counted = pd.concat([part.rename_axis(["lead_time", "channel"]) for part in counts]).rename("initial_times")
    counted = counted.reset_index().drop_duplicates(["lead_time", "channel"])
    return rows.merge(counted, on=["lead_time", "channel"], how="left")


def event_rows(scores: xr.Dataset) -> pd.DataFrame:
    """Return one row for each score of an event, with its interval; `bin` names the event, and the window or ratio."""
    frames = []
    for name in scores.data_vars:
        if "event" not in scores[name].dims or f"{name}_low" not in scores:
            continue
        part = xr.Dataset({"value": scores[name], "low": scores[f"{name}_low"], "high": scores[f"{name}_high"]})
        table = part.to_dataframe().reset_index().assign(score=name, binning="event", bin=lambda rows: rows["event"])
        for further in ("window", "cost_loss_ratio"):
            if further in table:
                words = further.replace("_", " ")
                table["bin"] += f", {words} " + table[further].map("{:g}".format)
        frames.append(table)
    rows = pd.concat(frames, ignore_index=True).dropna(subset="value")
    return rows.assign(channel=rows["event"].str.split(" ").str[0])


def at_stations(scores: xr.Dataset) -> xr.Dataset:
    """Return the scores at stations under the names that those on the grid have; the truth is one of the references."""
    named = {
        name: name.removeprefix("station_")
        for name in map(str, scores.data_vars)
        if "station_channel" in scores[name].dims
    }
    part = scores[list(named)].rename(named | {"series": "forecast", "station_channel": "channel"})
    part = part.drop_vars("units", errors="ignore").rename(station_units="units")
    known = [*references(scores), "truth"]
    return part.reindex(reference=known) if "reference" in part.dims else part.assign_coords(reference=known)


def station_rows(scores: xr.Dataset) -> pd.DataFrame:
    """Return one row for each score at stations, with its interval and its counts."""
    part = at_stations(scores)
    frames = []
    for name in (each for each in part.data_vars if f"{each}_low" in part):
        ends = xr.Dataset({"value": part[name], "low": part[f"{name}_low"], "high": part[f"{name}_high"]})
        counts = part[["points", "missing_forecast", "missing_report"]].rename(missing_report="missing_truth")
        table = xr.merge([ends, counts]).to_dataframe().reset_index()
        frames.append(table.assign(score=name, binning="stations", bin=""))
    return pd.concat(frames, ignore_index=True).dropna(subset="value")


def tidy(scores: xr.Dataset) -> pd.DataFrame:
    """Return one row per forecast, channel, region, lead, score and reference, with its interval and its counts.

    What tells of structure has a `bin` of its own as well: a wavenumber, a distance in km or a location.
    """
    keys = ["forecast", "channel", "region", "lead_time"]
    counts = scores[["points", "missing_forecast", "missing_truth"]].to_dataframe().reset_index()
    verified = scores.initial_time.size - scores.unverified_initial_times.to_series()
    frames = []
    for name in (*SCORES, "skill"):
        if name not in scores or not set(keys) <= set(scores[name].dims):
            continue
        part = xr.Dataset({"value": scores[name], "low": scores[f"{name}_low"], "high": scores[f"{name}_high"]})
        frames.append(part.to_dataframe().reset_index().assign(score=name))
    table = pd.concat(frames, ignore_index=True).dropna(subset="value")
    table = table.merge(counts.drop(columns="units"), on=keys, how="left")
    table["initial_times"] = table["lead_time"].map(verified)
    table = table.assign(binning="", bin="")
    if "complete_fields" in scores:
        table = pd.concat([table, structure_rows(scores)], ignore_index=True)
    if "event" in scores.dims:
        table = pd.concat([table, event_rows(scores)], ignore_index=True)
    if "station_channel" in scores.dims:
        table = pd.concat([table, station_rows(scores)], ignore_index=True)
    table = table.rename(columns={"lead_time": "lead_hours"})
    columns = ["forecast", "channel", "units", "region", "lead_hours", "score", "reference", "binning", "bin"]
    columns += ["value", "low", "high", "initial_times", "points", "missing_forecast", "missing_truth"]
    units = table["score"].map({name: score.units for name, score in SCORES.items()}).fillna("1")
    table.loc[units == "1", "units"] = "1"
    squared = units == "squared"
    table.loc[squared, "units"] = "(" + table.loc[squared, "units"] + ")2"
    # Within a score, bins stay in their own order.
    return table.reindex(columns=columns).sort_values(
        ["forecast", "channel", "region", "score", "reference", "lead_hours"], ignore_index=True, kind="stable"
    )


def _downscaled(scores: xr.Dataset) -> bool:
    return bool((scores.lead_time == 0).all())


def _prefix(wins: NDArray[np.bool_]) -> int:
    """Return how many leads from the first are won without a break."""
    return int(wins.size if wins.all() else np.argmin(wins))


def _at(chosen: NDArray[np.bool_], leads: NDArray[np.integer]) -> str:
    """Name some leads in words."""
    if chosen.all() or not chosen.any():
        return "every lead" if chosen.all() else "no lead"
    together = _prefix(chosen)
    return f"leads to {days(leads[together - 1])}" if together == chosen.sum() else _listed(chosen, leads)


def _listed(chosen: NDArray[np.bool_], leads: NDArray[np.integer]) -> str:
    return ", ".join(days(lead) for lead in leads[chosen])
