"""Whole files from an address, so that what was interrupted goes on where it stopped."""

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

from etesian.core.errors import DataError, first_line
from etesian.files import zarrs

BLOCK_BYTES = 16 * 2**20
"""Asked for at once."""

T = TypeVar("T")


def size_of(url: str, *, anonymous: bool = True) -> int | None:
    """Return the bytes of a file at an address, None where there is none.

    Raises:
        DataError: if the server does not answer, or does not tell the size.
    """
    system, path = zarrs.system_of(url, anonymous=anonymous)

    def told() -> dict[str, Any] | None:
        try:
            return dict(system.info(path))
        except FileNotFoundError as error:
            if isinstance(zarrs.reason(error), FileNotFoundError):
                return None
            raise

    if (found := repeated(told, f"{url} cannot be reached", "try again later")) is None:
        return None
    if found["size"] is None:
        raise DataError(f"{url} does not tell its size; copy it by hand")
    return int(found["size"])


def part_of(place: Path) -> Path:
    """Return where what has arrived of a file stays until it is complete."""
    return place.with_name(f"{place.name}.part")


def copy_files(files: Mapping[str, Path], *, anonymous: bool = True) -> None:
    """Copy files that are not there yet; what has arrived of one stays in its `part_of` and is not asked for again.

    Args:
        files: where each address is to be copied to.
        anonymous: whether to ask public buckets without credentials.

    Raises:
        DataError: if a file is not there, or the server does not answer any more.
    """
    missing = {url: place for url, place in files.items() if not place.exists()}
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Progress(*columns, disable=not missing) as progress:
        for count, (url, place) in enumerate(missing.items(), 1):
            size = size_of(url, anonymous=anonymous)
            if size is None:
                raise DataError(f"there is no {url}")
            bar = progress.add_task(f"Copying {place.name} ({count} of {len(missing)})", total=size)
            part = part_of(place)
            if part.exists() and part.stat().st_size > size:
                part.unlink()
            with part.open("ab") as file:
                while file.tell() < size:
                    file.write(_block(url, file.tell(), size, anonymous=anonymous))
                    progress.update(bar, completed=file.tell())
            part.replace(place)
            progress.remove_task(bar)


def _block(url: str, begin: int, size: int, *, anonymous: bool = True) -> bytes:
    """Return the next bytes of a file."""
    system, path = zarrs.system_of(url, anonymous=anonymous)
    end = min(size, begin + BLOCK_BYTES)

    def block() -> bytes:
        found = bytes(system.cat_file(path, start=begin, end=end))
        if len(found) != end - begin:
            raise OSError(f"{len(found)} bytes came instead of {end - begin}")
        return found

    return repeated(block, f"{url} stopped answering", "run the same command again to continue")


def repeated(ask: Callable[[], T], what: str, remedy: str) -> T:
    """Repeat what fails, waiting longer each time; `what` has happened, and `remedy` helps, where it goes on failing.

    Raises:
        DataError: after the last repetition, or where the server's answer is final.
    """
    for attempt in range(zarrs.RETRIES + 1):
        try:
            return ask()
        except Exception as failure:
            if not zarrs.is_failure(failure):
                raise
            error = zarrs.reason(failure)
            if attempt == zarrs.RETRIES or zarrs.is_final(error):
                raise DataError(f"{what} ({first_line(error)}); {remedy}") from error
        time.sleep(zarrs.FIRST_PAUSE * 2**attempt)
    raise AssertionError
