"""Where a result may go: nothing is replaced that this library did not write, nor what the result is made from."""

import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from etesian.core.errors import DataError

Kind = Literal[
    "training store",
    "fields",
    "forecasts",
    "filled fields",
    "evaluation",
    "network",
    "scenarios",
    "tuning",
    "shared run",
]
"""What a folder holds, as its marker says it."""

MARKER = ".etesian.json"
"""Lies in every folder that this library has written, and tells what it put there."""

BY_THE_SYSTEM = {".DS_Store", "Thumbs.db", "desktop.ini"}
"""What file managers put into folders that they show."""

_ZARR = re.compile(r"\.etesian\.json|(.*/)?(zarr\.json|c(/\d+)*)")

_WORK = re.compile(r"lock|plan\.(json|tmp)|complete|result|old|.*\.npz")


def claim(path: str | Path, kind: Kind, inputs: Iterable[str | Path] = (), *, overwrite: bool = True) -> Path:
    """Return the place of a result, if it is free or holds an earlier result of the same kind and nothing else.

    Args:
        path: of the folder or store to make.
        kind: of the result.
        inputs: what it is made from; addresses are left alone.
        overwrite: an earlier result is to be replaced; otherwise it may hold what somebody put into it.

    Raises:
        DataError: if something is there that this library did not write, or the place is, holds or lies in an input.
    """
    if "://" in str(path):
        raise DataError(f"{path} is an address, and results are written to this machine's disks: give a path")
    place = keep_apart(path, inputs)
    partial = unfinished(place)
    if place.is_symlink():
        raise DataError(f"{path} is a symbolic link to {os.readlink(place)}: give the place that it points to")
    if place.exists() and not (place.is_dir() and not any(place.iterdir())):
        found = _foreign(place, kind)
        if found == place:
            raise DataError(
                f"{path} exists and holds no {kind} that etesian wrote: choose another place, or remove it yourself"
            )
        if found is not None and overwrite:
            raise DataError(
                f"{path} would be replaced, but holds {found.relative_to(place)}, which etesian did not write: "
                f"move that elsewhere, or choose another place"
            )
    if (partial.exists() or partial.is_symlink()) and not _is_work(partial):
        raise DataError(f"{partial} is needed for the work on {path} and holds something else: move it elsewhere")
    return place


def claim_run(folder: Path) -> None:
    """See that a run directory is free or one already; what else is in it is left alone.

    Raises:
        DataError: if training would replace a recipe that it did not write.
    """
    if folder.exists() and not folder.is_dir():
        raise DataError(f"{folder} is a file: name another run directory")
    recipe = folder / "recipe.yaml"
    if recipe.exists() and not any((folder / name).exists() for name in (MARKER, "checkpoints", "log", "tensorboard")):
        raise DataError(f"training would replace {recipe}, not one of its own: rename it, or name another run")


def keep_apart(path: str | Path, inputs: Iterable[str | Path]) -> Path:
    """Return the place of a result that is none of what it is made from.

    Raises:
        DataError: if it is an input, holds one, or lies in a store that is one.
    """
    place = Path(path)
    # Names such as '.' and 'folder/..' have no sibling; a link in the place of the result stays one to be refused.
    place = place.resolve() if place.name in ("", "..") else place
    for name in map(str, inputs):
        source = Path(name.removeprefix("file://"))
        if "://" not in str(source) and source.exists():
            for part in (place, unfinished(place)):
                _refuse_input(path, part.resolve(), source.resolve(), name)
    return place


def unfinished(place: Path) -> Path:
    """Return where a result is made until it is complete."""
    return place.with_name(f"{place.name}.partial")


def mark(
    folder: Path,
    kind: Kind | Literal["run", "unfinished"],
    plan: str | None = None,
    entries: Iterable[str] | None = None,
) -> None:
    """Note in a folder that this library wrote `entries`, or what is in it now, and what that follows from."""
    names = {entry.name for entry in folder.iterdir()} if entries is None else set(entries)
    told: dict[str, Any] = {"written_by": "etesian", "kind": kind, "entries": sorted(names - {MARKER})}
    told |= {} if plan is None else {"plan": plan}
    (folder / MARKER).write_text(json.dumps(told, indent=1), encoding="utf-8")


@contextmanager
def arriving(folder: Path, files: Iterable[str], coming: Iterable[str], plan: str | None = None) -> Iterator[None]:
    """Note files beside those noted before, and while they come the names under which they do.

    What else has come into the folder is its owner's.
    """
    coming = set(coming)
    own = {*marker(folder)["entries"], *files} - coming
    mark(folder, "fields", plan, own | coming)
    yield
    mark(folder, "fields", plan, own)


def marker(folder: Path) -> dict[str, Any]:
    """Return what `mark` noted in a folder; nothing where it did not."""
    try:
        told = json.loads((folder / MARKER).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return told if isinstance(told, dict) else {}


def put_in_place(new: Path, place: Path, kind: Kind, plan: str | None = None) -> None:
    """Give a complete folder its name, in place of an earlier result of the same kind.

    Raises:
        DataError: if something else has come there meanwhile.
    """
    mark(new, kind, plan)
    claim(place, kind)
    if not place.exists():
        new.rename(place)
        return
    aside = Path(tempfile.mkdtemp(prefix=f".{place.name}.", dir=place.parent))
    place.rename(aside / "old")
    try:
        new.rename(place)
    except OSError:
        (aside / "old").rename(place)
        raise
    finally:
        shutil.rmtree(aside)


@contextmanager
def complete_or_absent(
    path: str | Path, kind: Kind, inputs: Iterable[str | Path] = (), plan: str | None = None
) -> Iterator[Path]:
    """Give a folder to write a result into, which gets its name when all is written, or vanishes.

    Args:
        path: of the folder.
        kind: of the result.
        inputs: what it is made from.
        plan: all that the result follows from, by which `resumable.is_finished` knows it; a Zarr store says it itself.

    Raises:
        DataError: as `claim` does.
    """
    place = claim(path, kind, inputs)
    partial = unfinished(place)
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    mark(partial, "unfinished")
    try:
        yield partial
        put_in_place(partial, place, kind, plan)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def first_beside(folder: Path, own: re.Pattern[str]) -> Path | None:
    """Return the first file or link in a folder whose path below it is not of a pattern, that of a link with an @."""
    for entry in folder.rglob("*"):
        inside = entry.relative_to(folder).as_posix() + "@" * entry.is_symlink()
        is_own = entry.name in BY_THE_SYSTEM or own.fullmatch(inside)
        if not is_own and (entry.is_symlink() or not entry.is_dir()):
            return entry
    return None


def _refuse_input(path: str | Path, place: Path, source: Path, name: str) -> None:
    if place.exists() and any(place.samefile(each) for each in (source, *source.parents)):
        relation = "is" if place.samefile(source) else "holds"
        raise DataError(f"{path} {relation} a source, {name}: choose another place for the result")
    is_zarr = any((source / each).exists() for each in ("zarr.json", ".zgroup", ".zmetadata", ".zarray"))
    if is_zarr and any(each.exists() and each.samefile(source) for each in place.parents):
        raise DataError(f"{path} lies in a source, {name}: choose another place for the result")


def _foreign(folder: Path, kind: Kind) -> Path | None:
    """Return the first thing in a folder that is not of an earlier result; the folder itself where none is there."""
    if not folder.is_dir():
        return folder
    told = marker(folder)
    if not told:
        if _of_an_earlier_version(folder) != kind:
            return folder
        entries = {entry.name for entry in folder.iterdir()}
    elif told.get("written_by") != "etesian" or told.get("kind") != kind:
        return folder
    else:
        entries = {MARKER, *told["entries"]}
    entries |= BY_THE_SYSTEM
    for entry in sorted(folder.iterdir()):
        if entry.name not in entries or entry.is_symlink():
            return entry
    return first_beside(folder, _ZARR) if (folder / "zarr.json").exists() else None


def _of_an_earlier_version(folder: Path) -> Kind | None:
    """Recognise what versions before the marker wrote, by what they put into it."""
    names = {entry.name for entry in folder.iterdir()}
    if {"scores.nc", "scores.csv", "report.html"} <= names and all(
        name.endswith((".nc", ".csv", ".html", ".png", ".gif")) for name in names
    ):
        return "evaluation"
    if names == {"weights.safetensors", "network.json"}:
        return "network"
    try:
        root = json.loads((folder / "zarr.json").read_text(encoding="utf-8"))
        arrays = root["consolidated_metadata"]["metadata"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    attributes: dict[str, Any] = root.get("attributes", {})
    if "etesian_store" in attributes:
        return "training store" if {"fields", "channel", "mean", "std"} <= arrays.keys() else None
    if "prediction_timedelta" in arrays:
        return "forecasts" if str(attributes.get("source", "")).startswith("{") else None
    if str(attributes.get("plan", "")).startswith("{"):
        return "fields"
    flags = (array for name, array in arrays.items() if name.endswith("_flag"))
    return "filled fields" if any("flag_meanings" in array.get("attributes", {}) for array in flags) else None


def _is_work(partial: Path) -> bool:
    """Whether a folder is the work on a result that was interrupted."""
    if not partial.is_dir() or partial.is_symlink():
        return False
    names = {entry.name for entry in partial.iterdir()}
    begun = bool(names & {MARKER, "etesian-plan.txt"}) or {"plan.json", "lock"} <= names
    return begun or all(_WORK.fullmatch(name) for name in names)
