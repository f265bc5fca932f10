"""The verbs that hand trained runs on: push them to where others find them, pull them to where they answer."""

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from etesian.core.errors import DataError, EtesianError, RecipeError
from etesian.core.outputs import keep_apart
from etesian.core.resumable import work_folder
from etesian.files.fetch import in_words
from etesian.run import Run
from etesian.sharing.card import licence_id, model_card, run_folder
from etesian.sharing.hubs import Files, place_of
from etesian.sharing.manifest import FILE, MANIFEST, Content, Listed, listed, read, unlike, write
from etesian.training.checkpoint import DESCRIPTION, WEIGHTS, find_checkpoint, read_description


def push(
    run: str | Path | Run,
    to: str | Path,
    *,
    license: str,
    name: str | None = None,
    checkpoint: str | None = None,
    scores: str | Path | None = None,
    data: Sequence[str] = (),
    overwrite: bool = False,
) -> str:
    """Hand a trained run on: weights, what they mean, recipe, log, and a page that says what it is; nothing else.

    Args:
        run: directory of the run, or a run.
        to: folder or address (s3://, gs://, …) below which the run gets a folder of its name, or a repository of
            Hugging Face, hf://OWNER/NAME, which is made where there is none.
        license: under which others may use the weights, as an SPDX identifier such as CC-BY-4.0 or Apache-2.0.
        name: of the run below `to`; by default that of its directory.
        checkpoint: name of the run's checkpoint, such as `last`; the best by default.
        scores: folder of an evaluation of the run, whose scores go with it and onto its page.
        data: what it was trained on, in words, or by names of `etesian.data`, whose licence then stands on the page.
        overwrite: replace what was pushed to the same place, damaged or not.

    Returns:
        The address that `pull` takes.

    Raises:
        CheckpointError: if there is no run, or it is damaged.
        RecipeError: if the licence is none, or the run's name cannot be that of a folder.
        DataError: if the place cannot be written, or something else is there, or the run itself.
    """
    licence = licence_id(license)
    trained = Run(run, checkpoint) if isinstance(run, str | Path) else run
    called, address = name or run_folder(trained).resolve().name, str(to).rstrip("/")
    if address.startswith("hf:"):
        called = address.rpartition("/")[2].partition("@")[0]
    elif re.fullmatch(r"\w[\w.-]*", called, re.ASCII):
        address = f"{address}/{called}"
    else:
        raise RecipeError(f"'{called}' cannot be the name of a shared run: give one of letters, digits, - and _")
    place = place_of(address)
    folder = None if scores is None else Path(scores)
    keep_apart(place.address, [run_folder(trained), *([] if folder is None else [folder])])
    page = model_card(trained, called, address, licence, data, folder)
    content = {**_travels(trained, folder), "README.md": page.encode()}
    files, there = listed(content), place.sizes()
    sizes, old = {name: size for name, (_, size) in files.items()}, _listed_at(place, there if overwrite else None)
    _refuse_others(place, there, old or {})
    if old == files and there == sizes and not overwrite:
        print(f"{address} is already there")
        return address
    if old not in (None, files) and not overwrite:
        other = next(name for name in sorted({*(old or {}), *files}) if (old or {}).get(name) != files.get(name))
        raise DataError(f"{address} exists with another {other}; use --overwrite to replace it")
    place.put({MANIFEST: write(files), **content}, there)
    print(f"{address}: {in_words(sum(sizes.values()))} in {len(sizes)} files")
    return address


def pull(source: str | Path, out: str | Path, *, overwrite: bool = False) -> Run:
    """Copy a run that somebody has pushed, and return it; nothing is loaded before each file is what it should be.

    Interrupted, the same call goes on.

    Args:
        source: what `push` gave: the run's folder or address, or a repository of Hugging Face, hf://OWNER/NAME or
            hf://OWNER/NAME@REVISION, where a revision is a branch, a tag or a commit.
        out: directory to make, which is then one of a run.
        overwrite: replace another run that was pulled to `out`.

    Raises:
        DataError: if there is no shared run, a file is damaged or none of a run, or something else is at `out`.
        CheckpointError: if this version cannot read it.
    """
    place = place_of(source)
    files = _listed_at(place)
    if files is None:
        private = ", or is private: `hf auth login`" if place.address.startswith("hf:") else ""
        raise DataError(f"{source} holds no shared run{private}; give what `etesian push` printed, such as HUB/NAME")
    there = place.sizes()
    _refuse_others(place, there, files)
    if lost := [name for name, (_, size) in files.items() if there.get(name, size) != size]:
        raise _damaged(source, lost[0])
    target, failure = keep_apart(out, [source]), None
    with work_folder(target, "shared run") as work:
        if _is_there(target, files, overwrite=overwrite):
            print(f"{out} is already there")
            return Run(target)
        work.begin({"files": files})
        work.result.mkdir(exist_ok=True)
        try:
            missing = unlike(files, work.result)
            for name in missing:
                (work.result / name).unlink(missing_ok=True)
            place.copy(missing, work.result)
            for name in unlike(files, work.result):
                (work.result / name).unlink()
                raise _damaged(source, name)
            (work.result / MANIFEST).write_bytes(write(files))
            read_description(find_checkpoint(work.result))
            work.finish()
        except EtesianError as error:
            failure = error  # raised below, so that what has arrived stays
    if failure:
        raise failure
    print(f"{source} is in {out}: see README.md there")
    return Run(target)


def _travels(run: Run, scores: Path | None) -> Content:
    """Return what travels of a run beside its page, by the names that it travels under."""
    folder, at = run_folder(run), f"checkpoints/{'last' if run.checkpoint.name == 'last' else 'best'}"
    files: dict[str, Path | bytes] = {f"{at}/{name}": run.checkpoint / name for name in (WEIGHTS, DESCRIPTION)}
    for file in (folder / "recipe.yaml", *folder.glob("log/version_*/metrics.csv")):
        if FILE.fullmatch(name := file.relative_to(folder).as_posix()) and file.is_file():
            files[name] = file
    return files if scores is None else files | {"scores.csv": scores / "scores.csv"}


def _listed_at(place: Files, replaced: Iterable[str] | None = None) -> Listed | None:
    """Return what is listed at a place; of files to be replaced, those of a run if its list is damaged."""
    text = place.manifest()
    try:
        return None if text is None else read(text, place.address)
    except DataError:
        # One that was cut off begins as they all do.
        if replaced is None or not write({}).startswith((text or b"")[:16]):
            raise
        return {name: ("", 0) for name in replaced if FILE.fullmatch(name)}


def _refuse_others(place: Files, there: dict[str, int], files: Listed) -> None:
    if others := sorted(there.keys() - files.keys()):
        raise DataError(
            f"{place.address} holds {others[0]}, which is no file of the run that was shared there: move it elsewhere, "
            f"or choose another place"
        )


def _is_there(out: Path, files: Listed, *, overwrite: bool) -> bool:
    """Say whether a run has been pulled to a place already; refuse anything else that must not be replaced."""
    if not out.exists() or not any(out.iterdir()):
        return False
    here = place_of(out)
    there = here.sizes()
    own = _listed_at(here, there if overwrite else None)
    _refuse_others(here, there, own or {})
    wrong = unlike(files, out)
    if not overwrite and (own != files or wrong):
        what = f"{wrong[0]} in it is not as it was pulled" if own == files else "holds another run"
        raise DataError(f"{out} exists and {what}; use --overwrite to replace it")
    return own == files and not wrong


def _damaged(source: str | Path, name: str) -> DataError:
    return DataError(f"{source}/{name} is missing or not what {MANIFEST} lists: push the run again with --overwrite")
