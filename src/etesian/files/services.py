"""Public data behind an account, by the services' own clients: a request for each variable and month, read back."""

import importlib
import json
from collections.abc import Callable, Sequence
from datetime import date, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from etesian.core.channels import CATALOGUE, Channel, canonical_name
from etesian.core.clock import encode_time, end_of, parse_time
from etesian.core.constants import SECONDS_PER_DAY, SECONDS_PER_HOUR
from etesian.core.errors import ChannelError, DataError, RecipeError, first_line, suggest
from etesian.core.grid import Region
from etesian.core.outputs import arriving, marker
from etesian.files.open import open_store
from etesian.files.public import PublicData

_OSTIA = {"sea_surface_temperature": "analysed_sst", "sea_ice_cover": "sea_ice_fraction"}


class Part(NamedTuple):
    """What one request asks for: a variable, on its levels or none, on days of one month."""

    variable: str
    levels: tuple[int, ...]
    days: tuple[date, ...]
    region: Region | None
    resolution: float | None
    every: int


def copy_months(
    public: PublicData, period: tuple[str | None, str | None], folder: Path, channels: Sequence[str],
    region: str | None, resolution: float | None, every: int | None,
) -> None:  # fmt: skip
    """Ask a service for one file after the other; those that are there and hold what is asked for are kept.

    Raises:
        EtesianError: if an option does not suit, a client or an account is missing, or what comes is not as asked.
    """
    start, end = period
    if start is None or end is None:
        raise RecipeError(f"name the years to copy of {public.name}, which has {public.period}")
    if every is not None and (every < 1 or 24 % every):
        raise RecipeError(f"every = {every} hours is no part of a day: give 1, 2, 3, 4, 6, 8, 12 or 24")
    if resolution is not None and resolution < min(public.places):
        raise RecipeError(f"resolution = {resolution:g}° is finer than {public.name}, which is at {public.resolutions}")
    settings = json.dumps({"region": region, "resolution": resolution, "every": every})
    if (noted := marker(folder).get("plan") or settings) != settings:
        raise DataError(f"{folder} holds parts with {noted}, not {settings}: choose another place")
    first, last = parse_time(start, "standard") // SECONDS_PER_DAY, end_of(end, "standard") // SECONDS_PER_DAY
    months: dict[str, list[date]] = {}
    for day in (date(1970, 1, 1) + timedelta(days=number) for number in range(first, last + 1)):
        months.setdefault(f"{day:%Y-%m}", []).append(day)
    daily, box = public.interval == "daily", None if region is None else Region.parse(region)
    parts = {
        "_".join([variable, *map(str, levels), f"{month}.nc"]): Part(
            variable, levels, tuple(days), box, resolution, 24 if daily else every or 1
        )
        for variable, levels in _variables(public, channels).items()
        for month, days in months.items()
    }
    ask = (_marine if daily else _climate)(public)
    coming_as = {name: f".coming-{name}" for name in parts}
    with arriving(folder, parts, coming_as.values(), settings):
        for name, part in parts.items():
            if (folder / name).exists():
                _check(folder / name, part)
                continue
            print(f"  {name}", flush=True)
            coming = folder / coming_as[name]
            coming.unlink(missing_ok=True)
            try:
                ask(part, coming)
            except Exception as error:  # the clients raise many kinds
                why = f"{public.base} did not give {name} ({first_line(error)})"
                raise DataError(f"{why}; run the same command again to go on") from None
            _check(coming, part)
            coming.replace(folder / name)


def _variables(public: PublicData, channels: Sequence[str]) -> dict[str, tuple[int, ...]]:
    """Return variables under their canonical names with the levels that are asked for."""
    found: dict[str, set[int]] = {}
    # The surface's geopotential would be read as one of the air.
    known = _OSTIA.keys() if public.interval == "daily" else CATALOGUE.keys() - {"geopotential_at_surface"}
    for text in channels:
        name, level = Channel.parse(text)
        variable = canonical_name(name) or name
        if variable not in known:
            raise ChannelError(f"{public.name} has no '{text}'{suggest(text, known)}")
        found.setdefault(variable, set()).update([] if level is None else [level])
    return {variable: tuple(sorted(levels)) for variable, levels in found.items()}


def _client(module: str, extra: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError:
        raise RecipeError(f"{module} is not installed: pip install 'etesian[{extra}]'") from None


def _climate(public: PublicData) -> Callable[[Part, Path], object]:
    """Return what asks the Climate Data Store."""
    module = _client("cdsapi", "cds")
    try:
        client = module.Client()
    except Exception as error:
        why = f"the Climate Data Store wants your key ({first_line(error)})"
        raise DataError(f"{why}; see {public.base}/how-to-api") from None

    def ask(part: Part, file: Path) -> object:
        request: dict[str, Any] = {
            "product_type": ["reanalysis"], "variable": [part.variable], "year": [f"{part.days[0]:%Y}"],
            "month": [f"{part.days[0]:%m}"], "day": [f"{day:%d}" for day in part.days],
            "time": [f"{hour:02}:00" for hour in range(0, 24, part.every)],
            "data_format": "netcdf", "download_format": "unarchived",
        }  # fmt: skip
        if part.levels:
            request["pressure_level"] = [str(level) for level in part.levels]
        if part.region is not None:
            south, north, west, _ = part.region
            request["area"] = [north, west, south, west + part.region.width]
        if part.resolution is not None:
            request["grid"] = [part.resolution, part.resolution]
        kind = "pressure-levels" if part.levels else "single-levels"
        return client.retrieve(f"reanalysis-era5-{kind}", request, str(file))

    return ask


def _marine(public: PublicData) -> Callable[[Part, Path], object]:
    """Return what asks Copernicus Marine."""
    client = _client("copernicusmarine", "marine")
    # Without an account the client would ask for one at the keyboard, where scripts wait for ever.
    if not client.login(check_credentials_valid=True):
        raise DataError(f"Copernicus Marine wants your account: run `copernicusmarine login`; see {public.page}")

    def ask(part: Part, file: Path) -> object:
        box: dict[str, float] = {}
        if part.region is not None:
            south, north, west, _ = part.region
            box = {"minimum_latitude": south, "maximum_latitude": north}
            if part.region.width < 360:
                box |= {"minimum_longitude": west, "maximum_longitude": west + part.region.width}
        return client.subset(
            dataset_id=next(iter(public.places.values())), variables=[_OSTIA[part.variable]],
            start_datetime=f"{part.days[0]}T00:00:00", end_datetime=f"{part.days[-1]}T23:59:59",
            output_directory=str(file.parent), output_filename=file.name, file_format="netcdf", overwrite=True, **box,
        )  # fmt: skip

    return ask


def _check(file: Path, part: Part) -> None:
    """See that a file holds the variable in its units, on the levels and at all times that were asked for."""
    with open_store(file) as opened:
        found = [opened[name] for name in opened.data_vars if str(name).startswith(part.variable)]
        field = found[0] if found else None
        units, levels = (
            CATALOGUE[part.variable].units,
            () if field is None or "level" not in field.dims else field.level,
        )
        if field is None:
            wrong = f"{', '.join(map(str, opened.data_vars))}, not {part.variable}"
        elif field.attrs.get("units") != units:
            wrong = f"{part.variable} in {field.attrs.get('units')}, not {units}"
        elif tuple(map(int, levels)) != part.levels:
            wrong = f"levels {', '.join(f'{int(level)}' for level in levels)}, not {part.levels}"
        else:
            step = part.every * SECONDS_PER_HOUR
            begin = [(day - date(1970, 1, 1)).days * SECONDS_PER_DAY for day in part.days]
            wanted = np.add.outer(begin, np.arange(0, SECONDS_PER_DAY, step)).ravel()
            # What holds for a day is dated at noon by some.
            seconds = encode_time(np.atleast_1d(field.time.values))[0] // step * step
            if np.array_equal(seconds, wanted):
                return
            lost = np.setdiff1d(wanted, seconds)
            wrong = f"nothing at {np.datetime64(int(lost[0]), 's')}" if lost.size else "other times than are asked for"
    raise DataError(f"{file} has {wrong}; remove it and run the same command again")
