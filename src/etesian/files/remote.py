"""Reading remote Zarr stores over connections that fail."""

import asyncio
from typing import Any
from urllib.parse import urlsplit
from urllib.request import url2pathname

import aiohttp
import xarray as xr
import zarr
from zarr.storage import FsspecStore, LocalStore, WrapperStore

from etesian.core.clock import decode_time
from etesian.core.errors import DataError
from etesian.files.dates import holds_dates, read_dates
from etesian.files.values import UnreachableError
from etesian.files.zarrs import open_zarr

FIRST_PAUSE = 1.0
"""Seconds before the first repetition of a failed request; each further one waits twice as long."""

_TIMEOUT = aiohttp.ClientTimeout(total=None, sock_connect=30, sock_read=60)

_WORTH_REPEATING = (408, 425, 429)


class PersistentStore(WrapperStore):
    """A store that repeats what fails, waiting longer each time.

    Raises:
        UnreachableError: after the last repetition, or where the server's answer is final.
    """

    def __init__(self, store: Any, retries: int) -> None:
        super().__init__(store)
        self._retries = retries

    async def get(self, key: str, prototype: Any, byte_range: Any = None) -> Any:
        """Return the bytes of a key, None if there is no such key."""
        for attempt in range(self._retries + 1):
            try:
                return await self._store.get(key, prototype, byte_range)
            except (OSError, aiohttp.ClientError, EOFError) as error:
                status = getattr(error, "status", 500)
                if attempt == self._retries or (400 <= status < 500 and status not in _WORTH_REPEATING):
                    raise UnreachableError(f"{key}: {str(error) or type(error).__name__}") from error
            await asyncio.sleep(FIRST_PAUSE * 2**attempt)
        raise AssertionError


def open_remote(url: str, *, retries: int, anonymous: bool) -> xr.Dataset:
    """Open a Zarr store, reading its metadata and coordinates only; without Dask, so that size does not matter.

    Args:
        url: gs://, s3://, http(s)://, file://, anything else that fsspec knows, or a local path.
        retries: repetitions of each failing request.
        anonymous: whether to ask public buckets without credentials.

    Raises:
        DataError: if the store cannot be reached or read.
    """
    scheme = urlsplit(url).scheme if "://" in url else "file"
    options: dict[str, dict[str, Any]] = {
        "gs": {"token": "anon"} if anonymous else {},
        "gcs": {"token": "anon"} if anonymous else {},
        "s3": {"anon": anonymous},
        "http": {"client_kwargs": {"timeout": _TIMEOUT}},
        "https": {"client_kwargs": {"timeout": _TIMEOUT}},
    }
    try:
        if scheme == "file":
            inner: Any = LocalStore(url2pathname(urlsplit(url).path) if "://" in url else url, read_only=True)
        else:
            inner = FsspecStore.from_url(url, storage_options=options.get(scheme, {}), read_only=True)
        dataset = open_zarr(PersistentStore(inner, retries), url)
    except ImportError as error:
        raise DataError(f"{url} needs a package that is missing ({error}): pip install 'etesian[cloud]'") from None
    except UnreachableError as error:
        raise DataError(f"{url} cannot be reached ({error}); try again, or check the address") from None
    except (OSError, ValueError, KeyError, zarr.errors.BaseZarrError) as error:
        reason = str(error).strip().splitlines()
        raise DataError(
            f"{url} cannot be read as a Zarr store: {reason[0] if reason else type(error).__name__}; check the address"
        ) from None
    if "time" in dataset.coords and holds_dates(dataset["time"]):
        attributes = {key: text for key, text in dataset["time"].attrs.items() if key not in ("units", "calendar")}
        dates = decode_time(*read_dates(dataset["time"], url, []))
        dataset = dataset.assign_coords(time=("time", dates, attributes))
    return dataset
