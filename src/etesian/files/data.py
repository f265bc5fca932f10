"""The verb that copies public data by name: which addresses and options a name stands for."""

import csv
import json
import os
import tarfile
from collections.abc import Sequence
from datetime import date, timedelta
from pathlib import Path, PurePosixPath
from typing import overload

from etesian.core.channels import Channel, canonical_name
from etesian.core.clock import end_of, parse_time
from etesian.core.errors import ChannelError, DataError, RecipeError, suggest
from etesian.core.outputs import arriving, claim, mark, marker
from etesian.files.copies import copy_files, part_of, size_of
from etesian.files.fetch import fetch, in_words
from etesian.files.public import PUBLIC, PublicData, PublicList
from etesian.files.services import copy_months

Years = tuple[int | str, int | str]

_FACETS = {"model": "source_id", "experiment": "experiment_id", "member": "member_id", "table": "table_id"}
"""Columns of the list of CMIP6's stores, by the option that chooses in them."""


@overload
def data() -> PublicList: ...
@overload
def data(name: str) -> PublicData: ...
@overload
def data(
    name: str,
    out: str | Path,
    *,
    years: Years | None = None,
    resolution: float | None = None,
    channels: Sequence[str] | None = None,
    region: str | None = None,
    every: int | None = None,
    model: str | None = None,
    experiment: str | None = None,
    member: str | None = None,
    table: str | None = None,
    grid: str | None = None,
    base: str | None = None,
    overwrite: bool = False,
) -> Path: ...


def data(
    name: str | None = None,
    out: str | Path | None = None,
    *,
    years: Years | None = None,
    resolution: float | None = None,
    channels: Sequence[str] | None = None,
    region: str | None = None,
    every: int | None = None,
    model: str | None = None,
    experiment: str | None = None,
    member: str | None = None,
    table: str | None = None,
    grid: str | None = None,
    base: str | None = None,
    overwrite: bool = False,
) -> PublicList | PublicData | Path:
    """List public data, describe some by their name, or copy a part of them.

    Licence, citation and size are printed before anything is copied. An interrupted copy goes on where it stopped when
    the same call comes again.

    Args:
        name: era5, arco-era5, era5-cds, cmip6, oisst, ostia, ostia-nrt, mur or climatebench; all are listed if none
            is given.
        out: where to copy to: a Zarr store of era5, arco-era5 and mur, a folder of the others; nothing is copied if it
            is not given.
        years: first and last year, both included, or dates such as 2000-07-01.
        resolution: degrees between grid points, where there are several.
        channels: variables (2m_temperature) or channels (temperature_850). All variables with levels are copied on all
            the levels that are named, which lie in one chunk anyway.
        region: a named region such as Europe, or south,north,west,east in degrees; everything if not given.
        every: hours between two kept times, counted from 00 UTC; all times if not given.
        model: of cmip6, such as MPI-ESM1-2-HR.
        experiment: of cmip6, such as historical or ssp245.
        member: of cmip6; r1i1p1f1 if not given.
        table: of cmip6, such as 6hrPlevPt or day; the monthly Amon if not given.
        grid: of cmip6, gn or gr, where a model has several.
        base: address or folder in place of the one that is listed, such as a mirror; the environment variable
            ETESIAN_DATA_ERA5 (or _ARCO_ERA5, …) says it once for all calls.
        overwrite: replace another store that is there already.

    Returns:
        All data as a table, one of them, or where the copy lies.

    Raises:
        EtesianError: if an option does not suit the data, what is asked for is not there, or cannot be reached.
    """
    asked = {
        "years": years, "resolution": resolution, "channels": channels, "region": region, "every": every,
        "model": model, "experiment": experiment, "member": member, "table": table, "grid": grid,
    }  # fmt: skip
    given = [option for option, value in asked.items() if value is not None]
    if name is None:
        return PUBLIC
    if name not in PUBLIC:
        raise RecipeError(f"there are no public data '{name}'{suggest(name, PUBLIC)}")
    public = PUBLIC[name]
    if out is None:
        if given:
            raise RecipeError(f"{given[0]} chooses what of {name} is copied: say where to, too")
        return public
    if wrong := [option for option in given if option not in public.options]:
        choices = ", ".join(public.options) or "no options: it is copied as a whole"
        raise RecipeError(f"{wrong[0]} does not suit {name}, which takes {choices}")
    if "channels" in public.options and not channels:
        raise RecipeError(f"name the channels to copy of {name}, such as sea_surface_temperature or temperature_850")
    variable = f"ETESIAN_DATA_{name.upper().replace('-', '_')}"
    root = (base or os.environ.get(variable) or public.base).rstrip("/")
    start, end = _period(public, years)
    place = Path(out)
    print(f"{name}: {public.title}\n  licence: {public.licence}\n  cite: {public.citation}")
    if start:
        print(f"  period: {start} to {end}")
    if public.way == "a file for each day":
        _copy_days(public, root, start, end, place)
    elif public.way == "archives":
        _copy_archives(public, root, place)
    elif public.way == "requests by month":
        if root != public.base:
            where = "base" if base else variable
            raise RecipeError(f"{where} = {root} does not suit {name}, whose client knows where it asks: leave it out")
        copy_months(public, (start, end), _folder(place, public.way), channels or (), region, resolution, every)
    else:
        stores = {place: (f"{root}/{_by_resolution(public, resolution)}", list(channels or []))}
        if public.way == "a store for each variable":
            facets = {"model": model, "experiment": experiment, "member": member, "table": table, "grid": grid}
            stores = _cmip6_stores(root, place, channels or [], facets)
        for store, (url, wanted) in stores.items():
            parsed = [Channel.parse(channel) for channel in wanted]
            levels = sorted({channel.level for channel in parsed if channel.level is not None})
            if levels and any(channel.level is None for channel in parsed):
                print(f"  every variable with levels is copied at {', '.join(map(str, levels))} hPa")
            fetch(
                url, str(store), variables=list(dict.fromkeys(channel.name for channel in parsed)),
                levels=levels or None, start=start, end=end, region=region, every=every,
                overwrite=overwrite,
            )  # fmt: skip
    return place


def _period(public: PublicData, years: Years | None) -> tuple[str | None, str | None]:
    """Return the first and last date to copy; a year that is only partly there begins or ends with the data."""
    if years is None:
        return None, None
    start, end = map(str, years)
    if parse_time(start, "standard") > end_of(end, "standard"):
        raise RecipeError(f"years = {start} to {end} end before they begin")
    for text, ends in ((start, False), (end, True)):
        early = public.first is not None and end_of(text, "standard") < parse_time(public.first, "standard")
        late = public.last is not None and parse_time(text, "standard") > end_of(public.last, "standard")
        if early or late:
            raise DataError(
                f"{public.name} has {public.period}, not {'up to' if ends else 'from'} {text}: ask for years within it"
            )
    if public.first is not None and parse_time(start, "standard") < parse_time(public.first, "standard"):
        start = public.first
    if public.last is not None and end_of(end, "standard") > end_of(public.last, "standard"):
        end = public.last
    return start, end


def _by_resolution(public: PublicData, resolution: float | None) -> str:
    if resolution is None and len(public.places) == 1:
        return next(iter(public.places.values()))
    if resolution is None or resolution not in public.places:
        asked = "name its resolution" if resolution is None else f"not {resolution:g}°"
        raise RecipeError(f"{public.name} is at {public.resolutions}; {asked}")
    return public.places[resolution]


def _folder(out: Path, kind: str) -> Path:
    """Make or claim a folder that more can be copied to."""
    place = claim(out, "scenarios" if kind == "archives" else "fields", overwrite=False)
    place.mkdir(parents=True, exist_ok=True)
    if not marker(place):
        mark(place, "scenarios" if kind == "archives" else "fields")
    return place


def _copy_days(public: PublicData, root: str, start: str | None, end: str | None, out: Path) -> None:
    if start is None or end is None:
        raise RecipeError(f"name the years to copy of {public.name}, which has {public.period}")
    law = next(iter(public.places.values()))
    seconds = parse_time(start, "standard"), end_of(end, "standard")
    first, last = (date(1970, 1, 1) + timedelta(seconds=value) for value in seconds)
    days = [first + timedelta(days=count) for count in range((last - first).days + 1)]
    urls = [f"{root}/{law.format(day, day)}" for day in days]
    for day, url in ((days[-1], urls[-1]), (days[0], urls[0])):
        if (size := size_of(url)) is None:
            raise DataError(
                f"{public.name} has no file of {day} ({url}): it has {public.period}, final files some two weeks "
                f"after their day; ask for years within that"
            )
    folder = _folder(out, public.way)
    files = {url: folder / PurePosixPath(url).name for url in urls}
    missing = sum(not file.exists() for file in files.values())
    print(f"  {missing} of {len(files)} files to copy, about {in_words(missing * (size or 0))}")
    with arriving(folder, [file.name for file in files.values()], [part_of(file).name for file in files.values()]):
        copy_files(files)


def _copy_archives(public: PublicData, root: str, out: Path) -> None:
    """Copy archives and put the files in them side by side; each is noted when its files are there."""
    folder = _folder(out, public.way)
    told = marker(folder)
    names = " ".join(public.places.values()).split()
    done = json.loads(told.get("plan") or "[]")
    written = set(told["entries"]).difference(names, (part_of(folder / name).name for name in names))
    for name in names:
        archive = folder / name
        if name in done:
            print(f"  {name} is already there")
            continue
        unpacked = json.dumps(done)
        mark(folder, "scenarios", unpacked, {*written, name, part_of(archive).name})
        if not archive.exists():
            size = size_of(f"{root}/{name}")
            print(f"  {name}: {in_words(size or 0)} to copy")
            copy_files({f"{root}/{name}": archive})
        try:
            with tarfile.open(archive) as inside:
                for member in inside:
                    file = PurePosixPath(member.name).name
                    if member.isfile() and file.endswith(".nc") and not file.startswith("."):
                        written.add(file)
                        mark(folder, "scenarios", unpacked, {*written, name})
                        inside.extract(member.replace(name=file, deep=False), folder, filter="data")
        except (tarfile.TarError, EOFError, OSError) as error:
            raise DataError(
                f"{archive} cannot be unpacked ({error}); remove it and run the same command again"
            ) from None
        done.append(name)
        archive.unlink()
        mark(folder, "scenarios", json.dumps(done), written)


def _cmip6_stores(
    root: str, out: Path, channels: Sequence[str], facets: dict[str, str | None]
) -> dict[Path, tuple[str, list[str]]]:
    """Find the store of each variable in Pangeo's list; where it is copied to, its address and the channels of it."""
    for needed in ("model", "experiment"):
        if facets[needed] is None:
            raise RecipeError(f"name the {needed} to copy of cmip6")
    folder = _folder(out, "a store for each variable")
    listing = folder / "pangeo-cmip6.csv"
    copy_files({f"{root}/{listing.name}": listing})
    chosen = {**facets, "member": facets["member"] or "r1i1p1f1", "table": facets["table"] or "Amon"}
    with listing.open(newline="", encoding="utf-8") as file:
        models: set[str] = set()
        rows: list[dict[str, str]] = []
        for row in csv.DictReader(file):
            models.add(row["source_id"])
            if row["source_id"] == chosen["model"]:
                rows.append(row)
    again = f" (listed in {listing}; remove it to look anew)"
    if not rows:
        raise DataError(f"cmip6 has no model '{chosen['model']}'{suggest(str(chosen['model']), models)}{again}")
    for option in ("experiment", "member", "table"):
        there = {row[_FACETS[option]] for row in rows}
        rows = [row for row in rows if row[_FACETS[option]] == chosen[option]]
        if not rows:
            known = suggest(str(chosen[option]), there)
            raise DataError(f"cmip6 has no {option} '{chosen[option]}' of what was asked for{known}{again}")
    stores: dict[Path, tuple[str, list[str]]] = {}
    for text in channels:
        channel = Channel.parse(text)
        known_as = canonical_name(channel.name) or channel.name
        own = [row for row in rows if channel.name == row["variable_id"]] or [
            row for row in rows if known_as == canonical_name(row["variable_id"])
        ]
        if not own:
            there = {row["variable_id"] for row in rows} | {canonical_name(row["variable_id"]) or "" for row in rows}
            raise ChannelError(
                f"cmip6 has no '{text}' of what was asked for{suggest(channel.name, there - {''})}{again}"
            )
        grids = sorted({row["grid_label"] for row in own})
        if (grid := chosen["grid"] or (grids[0] if len(grids) == 1 else None)) not in grids:
            raise RecipeError(f"cmip6 has '{text}' on the grids {', '.join(grids)}: name one of them as grid")
        row = max((row for row in own if row["grid_label"] == grid), key=lambda row: int(row["version"] or 0))
        name = "_".join(row[key] for key in ("variable_id", "table_id", "source_id", "experiment_id", "member_id"))
        url = row["zstore"].rstrip("/").replace("gs://cmip6", root, 1)
        level = "" if channel.level is None else f"_{channel.level}"
        stores.setdefault(folder / f"{name}_{grid}.zarr", (url, []))[1].append(f"{row['variable_id']}{level}")
    return stores
