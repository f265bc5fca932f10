"""The page of a shared run: what it predicts, from what data, how good it is, on what terms, and how to use it."""

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
import yaml
from packaging.licenses import InvalidLicenseExpression, canonicalize_license_expression

import etesian
from etesian.core.channels import Channel
from etesian.core.clock import encode_time, end_of, parse_time
from etesian.core.errors import DataError, RecipeError, suggest
from etesian.files.public import PUBLIC
from etesian.run import Run
from etesian.scores.tables import days, headline, models, number, references, title, verdicts, with_units

_USES = {
    "forecast": 'forecast = run.forecast("store.zarr", ("{day}", "{day}"), {leads})',
    "fill": 'filled = run.fill("store.zarr", ("{month}", "{month}"))',
    "downscale": 'fine = run.downscale("store.zarr", ("{day}", "{day}"))',
    "project": 'maps = run.project("FOLDER", "ssp245")',
    "distance": 'distance = run.distance("one.nc", "other.nc")',
}


_ON_HUGGING_FACE = re.compile(
    r"(apache|artistic|etalab|mpl)-2\.0|mit|isc|zlib|unlicense|bsd-[23]-clause|cc0-1\.0|cc-by-(2\.5|[2-4]\.0)"
    r"|cc-by-sa-[34]\.0|cc-by-nc(-sa)?-[2-4]\.0|cc-by-(nc-)?nd-4\.0|cdla-(sharing-1|permissive-[12])\.0|epl-[12]\.0"
    r"|[al]?gpl-3\.0|gpl-2\.0|lgpl-2\.1"
)
"""Licences of SPDX that huggingface.co/docs/hub/repositories-licenses has; others are `other`."""


def licence_id(text: str) -> str:
    """Return a licence as SPDX spells it.

    Raises:
        RecipeError: if SPDX knows no such licence.
    """
    try:
        return str(canonicalize_license_expression(text))
    except InvalidLicenseExpression:
        common = ("Apache-2.0", "MIT", "BSD-3-Clause", "CC-BY-4.0", "CC-BY-SA-4.0", "CC0-1.0")
        raise RecipeError(f"'{text}' is no identifier of SPDX, spdx.org/licenses{suggest(text, common)}") from None


def run_folder(run: Run) -> Path:
    """Return the directory of a run, also where it was given as the folder of a checkpoint."""
    return run.checkpoint.parent.parent if run.checkpoint.parent.name == "checkpoints" else run.checkpoint


def model_card(
    run: Run, name: str, address: str, licence: str, data: Sequence[str] = (), scores: Path | None = None
) -> str:
    """Return the page in Markdown, headed by what Hugging Face reads of it; arguments are those of `push`."""
    header: dict[str, Any] = {"license": re.sub("-(only|or-later)$", "", licence.lower())}
    if not _ON_HUGGING_FACE.fullmatch(header["license"]):
        header = {"license": "other", "license_name": re.sub("[^a-z0-9.]+", "-", licence.lower())}
    header |= {
        "library_name": "etesian",
        "tags": [run.job, type(run.task.network).__name__],
        "datasets": [each for each in data if each in PUBLIC],
    }
    parts = [
        f"---\n{yaml.safe_dump(header, sort_keys=False)}---",
        f"# {name}",
        _table(("a run of etesian", run.description["version"]), _facts(run).items()),
        "## Data",
        *(_origin(each) for each in data),
        _periods(run.description["provenance"]),
        *([] if scores is None else ["## Scores", _scores(scores, run, (name, run_folder(run).resolve().name))]),
        "## Use",
        _use(run, name, address),
        "## Licence",
        f"The weights: {licence}. The data have their own, told above where it is known.",
    ]
    return "\n\n".join(parts)


def _facts(run: Run) -> dict[str, str]:
    known, layout, network = run.description, run.task.layout, run.task.network
    seen, units = known["provenance"], known["provenance"].get("units", {})
    units = dict(zip(map(str, layout.targets), units, strict=False)) if isinstance(units, list) else units
    home = type(network).__module__.partition(".")[0]
    facts = {
        "job": run.job,
        "predicts": _channels(layout.targets, units),
        "from": "the same" if layout.inputs == layout.targets else _channels(layout.inputs, units),
        "at": f"{_listed(layout.history)} h" if len(layout.history) > 1 else "",
        "static fields": _channels(layout.statics, units),
        "known ahead": _channels(layout.forcings, units),
        "grid": ("" if layout.grid == layout.predicted_grid else f"{layout.grid!r} → ")
        + _listed(map(repr, (layout.predicted_grid, *layout.other_grids))),
        "leads": f"{_listed(seen['leads'])} h" if seen.get("leads") else "",
        "network": f"{type(network).__name__}, {sum(each.numel() for each in network.parameters()):,} weights",
        "needs": "" if home == "etesian" else f"the module {home} of its makers, to be trusted: --trust {home}",
        "trained": f"{known['epoch'] + 1} epochs, {known['step']} steps",
    }
    return {name: fact for name, fact in facts.items() if fact}


def _channels(channels: Iterable[Channel], units: Mapping[str, str]) -> str:
    """Write channels by variable, with their levels and units."""
    levels: dict[str, list[int]] = {}
    for name, level in channels:
        unit = units.get(str(Channel(name, level)))
        levels.setdefault(f"{name} ({unit})" if unit else name, []).extend([] if level is None else [level])
    return _listed(name + (f" at {_listed(own)} hPa" if own else "") for name, own in levels.items())


def _origin(data: str) -> str:
    if data not in PUBLIC:
        return f"Trained on {data}."
    public = PUBLIC[data]
    return f"Trained on {data}, [{public.title}]({public.page}). Licence: {public.licence}. Cite: {public.citation}."


def _periods(seen: Mapping[str, Any]) -> str:
    """Write which periods or scenarios the run has seen, and whether any were held out."""
    calendar, spans = seen.get("calendar", "standard"), seen.get("periods") or seen.get("scenarios", {})
    names = {"train": "training", "validate": "validation, by which the weights were chosen"}
    between = " to " if seen.get("periods") else ", "
    told = {part: [span] if isinstance(span, str) else list(dict.fromkeys(span)) for part, span in spans.items()}
    rows = [
        f"- {names.get(part, part).replace('_', ' ')}: {between.join(map(str, span))}" for part, span in told.items()
    ]
    if "test" not in told:
        return "\n".join([*rows, "", "No test period is noted."]).strip()

    def share(one: Sequence[str], other: Sequence[str]) -> bool:
        if not seen.get("periods"):
            return bool({*one} & {*other})
        begins, ends = ([of(s[at], calendar) for s in (one, other)] for of, at in ((parse_time, 0), (end_of, -1)))
        return max(begins) <= min(ends)

    held = "What is for the test was held out: neither training nor the choice of weights saw it."
    if shared := [part for part in ("train", "validate") if part in told and share(told[part], told["test"])]:
        held = f"What is for the test was NOT held out: {_listed(shared)} saw a part of it."
    return "\n".join([*rows, "", held])


def _scores(folder: Path, run: Run, names: Sequence[str]) -> str:
    """Write verdicts and the errors of the first channels, with 95 % intervals."""
    try:
        with xr.open_dataset(folder / "scores.nc", decode_timedelta=False) as file:
            scores = file.load()
    except (OSError, ValueError):
        raise DataError(f"{folder} holds no scores.nc that can be read: give the folder of an evaluation") from None
    scored, predicted = models(scores), set(map(str, run.task.layout.targets))
    own = scored[0] if len(scored) == 1 else next((name for name in names if name in scored), None)
    first = headline(scores) if "map_channel" in scores else scores.channel.values[:4].tolist()
    channels = [channel for channel in first if channel in predicted]
    if own is None or not channels:
        raise DataError(f"{folder} scores {_listed(scored)} in {_listed(first)}: evaluate the run by its name")
    score, kept = "rmse" if "rmse" in scores else "nrmse", [own, *references(scores)]
    found, rows = scores.isel(region=0), []
    for channel in channels:
        part = found.sel(channel=channel)
        head = with_units(title(channel), score, str(part.units.item()) if "units" in part else "1")
        for lead in part.lead_time.values if "lead_time" in part.dims else [None]:
            here = part if lead is None else part.sel(lead_time=lead)
            rows.append([head, "" if lead is None else days(lead), *(_interval(here, score, each) for each in kept)])
    about = f"{score.upper()}, {scores.region.values[0]}, with 95 % intervals"
    if "initial_time" in scores:
        times = scores.initial_time.values
        seconds, calendar = encode_time(times)
        begin, end = run.description["provenance"].get("periods", {}).get("train", ("9999", "9999"))
        seen = int(((seconds >= parse_time(begin, calendar)) & (seconds <= end_of(end, calendar))).sum())
        about += f"; {times.size} initial times, {str(times[0])[:10]} to {str(times[-1])[:10]}"
        about += f", of which {seen} lie in the TRAINING period" if seen else ""
    lines = "\n".join(f"- {line}" for line in verdicts(scores.sel(forecast=kept), channels))
    return f"{about}. All are in `scores.csv`.\n\n{_table(['', 'lead', *kept], rows)}\n\n{lines}".strip()


def _interval(found: xr.Dataset, score: str, forecast: str) -> str:
    names = [name for name in (score, f"{score}_low", f"{score}_high") if name in found]
    value, *ends = (float(found[name].sel(forecast=forecast)) for name in names)
    return number(value) + (f" ({' – '.join(map(number, ends))})" if ends and np.isfinite(ends).all() else "")


def _use(run: Run, name: str, address: str) -> str:
    seen = run.description["provenance"]
    periods = seen.get("periods", {})
    first = str((periods.get("test") or periods.get("validate") or ["2020"])[0])
    year, month, day = ([*first.partition("T")[0].split("-"), "01", "01"])[:3]
    leads = list(seen.get("leads", ())) or [24]
    verb = _USES[run.job].format(day=f"{year}-{month}-{day}", month=f"{year}-{month}", leads=leads)
    extra = "[hub]" if address.startswith("hf:") else "[cloud]" if "://" in address else ""
    return (
        f"```\npip install 'etesian{extra}>={etesian.__version__}'\n```\n\n"
        f'```python\nimport etesian as et\n\nrun = et.pull("{address}", "{name}")\n{verb}\n```\n\n'
        f"On the command line: `etesian pull {address} {name}`."
    )


def _table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    lines = [list(head)]
    lines += [["---"] * len(lines[0]), *(list(row) for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _listed(items: Iterable[Any]) -> str:
    return ", ".join(map(str, items))
