"""Long work beside its result, so that it can be killed, resumed and swapped in whole; stores before their values."""

import hashlib
import json
import shutil
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
import zarr
from filelock import FileLock, Timeout
from numpy.typing import NDArray

from etesian.core.clock import encode_time
from etesian.core.errors import DataError, EtesianError
from etesian.core.outputs import Kind, claim, mark, marker, put_in_place, unfinished

LOCK = "lock"

_PLAN, _DONE = "etesian-plan.txt", "etesian-done.txt"


def plan_text(plan: Mapping[str, Any]) -> str:
    """Return a plan as the text that a finished store carries in its root attribute `plan`, any other in its marker."""
    return json.dumps(dict(plan), sort_keys=True)


def is_finished(path: Path, plan: Mapping[str, Any], *, overwrite: bool) -> bool:
    """Say whether the finished result of a plan is at a path that is claimed, so that nothing is left to do.

    Raises:
        DataError: if the result of another plan is there that is not to be overwritten.
    """
    if overwrite or not path.exists() or not any(path.iterdir()):
        return False
    is_zarr = (path / "zarr.json").exists()
    text = zarr.open_group(path, mode="r").attrs.asdict().get("plan") if is_zarr else marker(path).get("plan")
    refuse_another(path, text, plan)
    print(f"{path} is already there")
    return True


def refuse_another(path: Path, text: object, plan: Mapping[str, Any]) -> None:
    """See that what is at a path follows from a plan.

    Args:
        path: of the result.
        text: its own plan, as `plan_text` wrote it.
        plan: that is asked for.

    Raises:
        DataError: naming the first setting in which they differ.
    """
    if text != plan_text(plan):
        raise DataError(f"{path} exists{_difference(text, plan)}; use --overwrite to replace it")


def _difference(text: object, plan: Mapping[str, Any]) -> str:
    """Return words for the first setting in which the result at hand differs from a plan."""
    if not isinstance(text, str):
        return " and was made otherwise"
    theirs = json.loads(text)
    for name, value in json.loads(json.dumps(dict(plan))).items():
        if theirs.get(name) != value:
            return f", made with {name} = {_short(theirs.get(name))} instead of {_short(value)}"
    return " and was made otherwise"


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 80 else f"{text[:60]} …"


class WorkFolder:
    """`NAME.partial` beside a result NAME, made by `work_folder`.

    Attributes:
        result: what is being made, inside the work folder until it is complete.
    """

    def __init__(self, target: Path, kind: Kind) -> None:
        self.target, self.kind = target, kind
        self.folder = unfinished(target).absolute()  # workers of a cluster may work in another folder
        self.result = self.folder / "result"
        self.old = self.folder / "old"
        self.begun = False
        self._note, self._complete = self.folder / "plan.json", self.folder / "complete"

    def recover(self) -> None:
        """Finish a swap that was interrupted."""
        if self._complete.exists():
            self._swap()
            self.clear()

    def begin(self, plan: Mapping[str, Any]) -> bool:
        """Note the plan; return whether work on the same plan is there to be continued, else clear the folder."""
        text = json.dumps(plan, indent=1, sort_keys=True)
        self.begun = True
        if self._note.exists() and self._note.read_text() == text:
            return True
        self.clear()
        temporary = self._note.with_suffix(".tmp")
        temporary.write_text(text)
        temporary.replace(self._note)
        return False

    def save(self, name: str, **arrays: NDArray[Any]) -> None:
        """Keep the outcome of one block of work; its existence says that the block is done."""
        temporary = self.folder / f"{name}.tmp.npz"
        np.savez(temporary, allow_pickle=False, **arrays)
        temporary.replace(self.folder / f"{name}.npz")

    def load(self, name: str) -> dict[str, NDArray[Any]] | None:
        """Return the outcome of a block of work, None if it is not done."""
        path = self.folder / f"{name}.npz"
        if not path.exists():
            return None
        with np.load(path) as file:
            return dict(file)

    def finish(self) -> None:
        """Put the result in its place and remove everything else."""
        for leftover in self.result.rglob("*.partial"):
            leftover.unlink()
        self._complete.touch()
        self._swap()
        self.clear()

    def clear(self) -> None:
        """Remove everything but the lock."""
        # At whatever file it is interrupted: what is left is no work of that plan, and a swap is still to be finished.
        order = {self._note: 0, self._complete: 2}
        for entry in sorted(self.folder.iterdir(), key=lambda entry: order.get(entry, 1)):
            if entry.name != LOCK:
                shutil.rmtree(entry) if entry.is_dir() else entry.unlink()

    def _swap(self) -> None:
        if self.result.exists():
            # What was there when the work began may have made room for something else.
            claim(self.target, self.kind)
            mark(self.result, self.kind)
            if self.target.exists():
                self.target.rename(self.old)
            self.result.rename(self.target)


@contextmanager
def work_folder(target: Path, kind: Kind) -> Iterator[WorkFolder]:
    """Hold the work folder of a result; work that the user must mend leaves nothing behind.

    Raises:
        DataError: if another run is making the same result, or something else is in its place.
    """
    place = WorkFolder(claim(target, kind, overwrite=False), kind)
    lock = FileLock(place.folder / LOCK, blocking=False)
    try:
        place.folder.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Timeout:
        raise DataError(f"{target} is being made by another run; wait for it or end it") from None
    except OSError as error:
        raise DataError(f"{target} cannot be written: {error.strerror}; choose another place") from None
    try:
        place.recover()
        yield place
    except EtesianError:
        if place.begun:
            with suppress(OSError):
                place.clear()
        raise
    finally:
        _leave(place.folder, lock)


def _leave(folder: Path, lock: FileLock) -> None:
    """Let go of the lock, and remove the folder if nothing else is in it."""
    try:
        if [entry.name for entry in folder.iterdir()] == [LOCK]:
            # While it is held: another run must not come to hold a file that is gone. Windows, which cannot remove
            # an open file, does it on release.
            with suppress(PermissionError):
                (folder / LOCK).unlink()
    finally:
        lock.release()
    # Not empty: work to be continued, or another run that has come since.
    with suppress(OSError):
        folder.rmdir()


class ResumableStore:
    """A Zarr store written block by block, which goes on where an earlier attempt stopped.

    Until `finish` everything lies beside the final path, under `PATH.partial`.

    Args:
        path: of the store to make.
        kind: of what it will hold.
        plan: all that its contents follow from, as plain data; an unfinished attempt of another plan is discarded.
        describe: returns the store without its values.
        overwrite: replace an existing store when the new one is complete.

    Attributes:
        is_complete: whether the store is there already, made from the same; nothing is left to do then.

    Raises:
        DataError: if a store that was made from something else exists and may not be replaced.
    """

    def __init__(
        self,
        path: str,
        kind: Kind,
        plan: dict[str, Any],
        describe: Callable[[], xr.Dataset],
        *,
        overwrite: bool = False,
    ) -> None:
        self.path, self.kind = claim(path, kind, overwrite=overwrite), kind
        self.partial = unfinished(self.path)
        self.is_complete = is_finished(self.path, plan, overwrite=overwrite)
        if self.is_complete:
            return
        self.plan = hashlib.sha256(plan_text(plan).encode()).hexdigest()
        known = self.partial / _PLAN
        if not known.exists() or known.read_text() != self.plan:
            known.unlink(missing_ok=True)  # First: half of another plan's blocks must not count as all of them.
            shutil.rmtree(self.partial, ignore_errors=True)
            self.partial.mkdir(parents=True)
            mark(self.partial, "unfinished")
            described = describe().assign_attrs(plan=plan_text(plan))
            write_store(described, self.partial, compute=False)
            known.write_text(self.plan)

    @cached_property
    def group(self) -> zarr.Group:
        """The store in the making."""
        return zarr.open_group(self.partial, mode="r+")

    def __getstate__(self) -> dict[str, Any]:
        # Another process, which may work elsewhere, opens it anew.
        kept = {name: value for name, value in self.__dict__.items() if name != "group"}
        return kept | {"partial": self.partial.absolute()}

    def done(self) -> set[int]:
        """Return the numbers of the blocks that an earlier attempt has written."""
        marks = self.partial / _DONE
        return {int(line) for line in marks.read_text().split()} if marks.exists() else set()

    def mark(self, blocks: Iterable[int]) -> None:
        """Note that some blocks are written."""
        with (self.partial / _DONE).open("a") as marks:
            marks.write("".join(f"{block}\n" for block in blocks))

    def finish(self) -> None:
        """Give the complete store its name."""
        for name in (_PLAN, _DONE):
            (self.partial / name).unlink(missing_ok=True)
        put_in_place(self.partial, self.path, self.kind)


def consolidate(path: Path) -> None:
    """Gather the metadata of all arrays in the group's, so that opening takes one read."""
    with _no_zarr_warnings():
        zarr.consolidate_metadata(path)


def write_store(dataset: xr.Dataset, folder: Path, **options: Any) -> None:
    """Write a dataset into a new or marked folder, with the metadata of all arrays in the group's.

    Args:
        dataset: what to write.
        folder: where.
        options: further ones of `xarray.Dataset.to_zarr`, such as `compute` and `encoding`.
    """
    with _no_zarr_warnings():
        dataset.to_zarr(folder, mode="a", zarr_format=3, consolidated=True, **options)


@contextmanager
def _no_zarr_warnings() -> Iterator[None]:
    """Keep from users that a store has consolidated metadata and a marker: readers that know neither ignore them."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", zarr.errors.ZarrUserWarning)
        yield


def create_empty_store(
    store: Path, fixed: xr.Dataset, moving: Mapping[str, xr.DataArray], *, steps_per_chunk: Mapping[str, int]
) -> None:
    """Write a store whose fields are still missing.

    Args:
        store: where, replacing what is there.
        fixed: coordinates (`time` among them, unless nothing moves), static fields and attributes, written as they are.
        moving: one time of each field that changes in time, without its time dimension, for its dimensions,
            shape, type and attributes.
        steps_per_chunk: times in one chunk, for each of `moving`.
    """
    encoding = {}
    if "time" in fixed.coords:
        _, calendar = encode_time(fixed["time"].values)
        encoding["time"] = {"units": "seconds since 1970-01-01", "dtype": "int64", "calendar": calendar}
    fixed.to_zarr(store, mode="w", zarr_format=3, consolidated=False, encoding=encoding)
    group = zarr.open_group(store, mode="r+")
    for name, field in moving.items():
        steps = fixed.sizes["time"]
        group.create_array(
            name,
            shape=(steps, *field.shape),
            chunks=(min(steps_per_chunk[name], steps), *field.shape),
            dtype=field.dtype,
            fill_value=np.nan,
            dimension_names=("time", *map(str, field.dims)),
            attributes=field.attrs,
        )
    consolidate(store)
