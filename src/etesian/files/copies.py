"""Whole files from an address, so that what was interrupted goes on where it stopped."""

import time
from collections.abc import Mapping
from pathlib import Path

import aiohttp
import fsspec
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

from etesian.core.errors import DataError, first_line
from etesian.files import zarrs

BLOCK_BYTES = 16 * 2**20
"""Asked for at once."""

RETRIES = 5
"""Repetitions of a failing request, each after twice the pause of the one before."""


def size_of(url: str) -> int | None:
    """Return the bytes of a file at an address, None where there is none.

    Raises:
        DataError: if the server does not answer, or does not tell the size.
    """
    system, path = _system(url)
    for attempt in range(RETRIES + 1):
        try:
            size = system.info(path)["size"]
        except FileNotFoundError:
            return None
        except (OSError, aiohttp.ClientError, TimeoutError) as error:
            if attempt == RETRIES:
                raise DataError(f"{url} cannot be reached ({first_line(error)}); try again later") from None
            time.sleep(zarrs.FIRST_PAUSE * 2**attempt)
        else:
            if size is None:
                raise DataError(f"{url} does not tell its size; copy it by hand")
            return int(size)
    raise AssertionError


def copy_files(files: Mapping[str, Path]) -> None:
    """Copy files that are not there yet; what has arrived of one stays in `NAME.part` and is not asked for again.

    Args:
        files: where each address is to be copied to.

    Raises:
        DataError: if a file is not there, or the server does not answer any more.
    """
    missing = {url: place for url, place in files.items() if not place.exists()}
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Progress(*columns, disable=not missing) as progress:
        for count, (url, place) in enumerate(missing.items(), 1):
            size = size_of(url)
            if size is None:
                raise DataError(f"there is no {url}")
            bar = progress.add_task(f"Copying {place.name} ({count} of {len(missing)})", total=size)
            part = place.with_name(f"{place.name}.part")
            if part.exists() and part.stat().st_size > size:
                part.unlink()
            with part.open("ab") as file:
                while file.tell() < size:
                    file.write(_block(url, file.tell(), size))
                    progress.update(bar, completed=file.tell())
            part.replace(place)
            progress.remove_task(bar)


def _block(url: str, begin: int, size: int) -> bytes:
    """Return the next bytes of a file."""
    system, path = _system(url)
    end = min(size, begin + BLOCK_BYTES)
    for attempt in range(RETRIES + 1):
        try:
            block = bytes(system.cat_file(path, start=begin, end=end))
            if len(block) != end - begin:
                raise OSError(f"{len(block)} bytes came instead of {end - begin}")
            return block
        except (OSError, aiohttp.ClientError, TimeoutError) as error:
            if attempt == RETRIES:
                raise DataError(
                    f"{url} stopped answering ({first_line(error)}); run the same command again to continue"
                ) from None
        time.sleep(zarrs.FIRST_PAUSE * 2**attempt)
    raise AssertionError


def _system(url: str) -> tuple[fsspec.AbstractFileSystem, str]:
    try:
        system, path = fsspec.core.url_to_fs(url, **zarrs.access(url, anonymous=True))
    except ImportError as error:
        raise DataError(f"{url} needs a package that is missing ({error}): pip install 'etesian[cloud]'") from None
    except ValueError as error:
        raise DataError(f"{url} is no address: {first_line(error)}") from None
    return system, path
