"""A folder beside the result in which long work is done, so that it can be killed, resumed and swapped in whole."""

import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout
from numpy.typing import NDArray

from etesian.core.errors import DataError, EtesianError
from etesian.core.outputs import Kind, claim, mark, unfinished

LOCK = "lock"


class Workplace:
    """`NAME.partial` beside a result NAME, made by `workplace`.

    Attributes:
        result: what is being made, inside the work folder until it is complete.
    """

    def __init__(self, target: Path, kind: Kind) -> None:
        self.target, self.kind = target, kind
        self.folder = unfinished(target)
        self.result = self.folder / "result"
        self.old = self.folder / "old"
        self.begun = False
        self._complete = self.folder / "complete"

    def recover(self) -> None:
        """Finish a swap that was interrupted."""
        if self._complete.exists():
            self._swap()
            self.clear()

    def begin(self, plan: Mapping[str, Any]) -> bool:
        """Note the plan; return whether work on the same plan is there to be continued, else clear the folder."""
        note, text = self.folder / "plan.json", json.dumps(plan, indent=1, sort_keys=True)
        self.begun = True
        if note.exists() and note.read_text() == text:
            return True
        self.clear()
        temporary = note.with_suffix(".tmp")
        temporary.write_text(text)
        temporary.replace(note)
        return False

    def save(self, name: str, **arrays: NDArray[Any]) -> None:
        """Keep the outcome of one piece of work; its existence says that the piece is done."""
        temporary = self.folder / f"{name}.tmp.npz"
        np.savez(temporary, allow_pickle=False, **arrays)
        temporary.replace(self.folder / f"{name}.npz")

    def load(self, name: str) -> dict[str, NDArray[Any]] | None:
        """Return the outcome of a piece of work, None if it is not done."""
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
        for entry in self.folder.iterdir():
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
def workplace(target: Path, kind: Kind) -> Iterator[Workplace]:
    """Hold the work folder of a result; work that the user must mend leaves nothing behind.

    Raises:
        DataError: if another run is making the same result, or something else is in its place.
    """
    place = Workplace(claim(target, kind, overwrite=False), kind)
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
