"""Zarr 2 and 3, here or behind an address that may fail → one decoded, lazily loaded dataset."""

import asyncio
import base64
import json
import math
import multiprocessing
import os
import re
import struct
import time
import urllib.request
import warnings
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from functools import cache, partial
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit
from urllib.request import url2pathname

import aiohttp
import fsspec
import numpy as np
import xarray as xr
import zarr
from zarr.storage import FsspecStore, LocalStore, WrapperStore

from etesian.core.clock import decode_time
from etesian.core.errors import DataError, first_line
from etesian.core.outputs import MARKER
from etesian.files import diagnosis
from etesian.files.anemoi import fields_of, holds_anemoi, read_anemoi
from etesian.files.dates import holds_dates, read_dates
from etesian.files.decoding import UnreachableError, decoded

T = TypeVar("T")

_CHUNK = re.compile(r"c|(c\.)?\d+(\.\d+)*")

RETRIES = 5
"""Repetitions of a failing request, each after twice the pause of the one before."""

FIRST_PAUSE = 1.0
"""Seconds before the first repetition of a failed request."""

_GREETING = 5.0
"""Seconds within which a server takes a connection; what it is then asked for may take long."""

_TIMEOUT = aiohttp.ClientTimeout(total=None, sock_connect=30, sock_read=60)

_WORTH_REPEATING = (408, 425, 429)

FAILURES = (OSError, aiohttp.ClientError, EOFError)
"""What a request raises that fails."""


def is_zarr(path: Path) -> bool:
    """Whether a folder is a Zarr group or array."""
    return any((path / name).exists() for name in ("zarr.json", ".zgroup", ".zmetadata", ".zarray"))


def read_zarr(path: str, store: Any = None) -> list[xr.Dataset]:
    """Open the arrays of a Zarr group, as one dataset, or each variable of an anemoi dataset as one.

    Args:
        path: a folder, a zip file that holds a group, or an address that fsspec knows.
        store: of the zarr package, if the path is only its name.

    Raises:
        DataError: if it cannot be read, or holds no arrays at its top.
    """
    is_local = "://" not in path and store is None
    if is_local and Path(path).is_dir():
        _check_metadata(Path(path))
    try:
        if store is None:
            store = zarr.storage.ZipStore(path, mode="r") if is_local and Path(path).is_file() else at(path)
        dataset = open_zarr(store, path)
    except DataError:
        raise
    except Exception as error:
        raise DataError(f"{path} cannot be read as a Zarr store: {first_line(error)}") from None
    if "etesian_store" in dataset.attrs:
        raise DataError(f"{path} is a training store already: train on it, or give the data that it was made from")
    return fields_of(dataset, path) if "data" in dataset and "dates" in dataset else [dataset]


def open_zarr(store: Any, path: str) -> xr.Dataset:
    """Open a Zarr group, reading its metadata and coordinates only; without Dask, so that size does not matter.

    Args:
        store: a path, an address or a store of the zarr package.
        path: what to call it.

    Raises:
        DataError: if it holds no arrays at its top, or they do not say how to decode them.
    """
    folder = Path(path) if isinstance(store, str) and "://" not in path else None
    with warnings.catch_warnings():
        # Without consolidated metadata, opening only takes longer.
        warnings.filterwarnings("ignore", "Failed to open Zarr store with consolidated", RuntimeWarning)
        # The marker of what this library wrote lies beside the arrays.
        warnings.filterwarnings("ignore", f"Object at {re.escape(MARKER)}", zarr.errors.ZarrUserWarning)
        # Consolidated metadata may be older than the store, and save nothing where requests cost nothing.
        # Otherwise xarray reads no `_FillValue` of Zarr 3 but in its own spelling.
        backend = xr.backends.ZarrStore.open_group(
            store, mode="r", consolidated=None if folder is None else False, use_zarr_fill_value_as_mask=True
        )
        group = backend.zarr_group
        is_listed = holds_anemoi(group)
        raw = read_anemoi(group) if is_listed else xr.open_dataset(backend, decode_cf=False)
        arrays = {name: array for name, array in group.arrays() if name in raw.variables or not is_listed}
        inner = [] if folder is None or is_listed else list(_groups(group))
    # A group lists its arrays in the order in which their metadata happened to be read.
    raw = raw[sorted(raw.variables, key=str)]
    if folder is not None:
        if inner and not arrays:
            named = ", ".join(f"'{name}' ({', '.join(names)})" for name, names in inner)
            raise DataError(f"{path} holds no arrays at its top, only in groups: {named}; open {path}/{inner[0][0]}")
        for name, names in inner:
            diagnosis.look(raw, f"the group '{name}' ({', '.join(names)}) is left out: its folder opens by itself")
    if not arrays:
        raise DataError(f"{path} is a Zarr group without arrays")
    for name, array in arrays.items():
        _heed_fill_value(raw, name, array)
    dataset = decoded(raw, path)
    if folder is not None:
        diagnosis.look(dataset, partial(_lost_chunks, raw, folder, arrays))
    return dataset


def _heed_fill_value(raw: xr.Dataset, name: str, array: Any) -> None:
    """Put `_FillValue` where the attributes, or the `fill_value` of Zarr 2 as xarray writes it, mean missing."""
    attributes = raw.variables[name].attrs
    if "_FillValue" in array.attrs:
        attributes["_FillValue"] = _fill_value(array.attrs["_FillValue"])
    elif array.metadata.zarr_format == 3:
        attributes.pop("_FillValue", None)
    elif array.dtype.kind in "iufb" and array.fill_value == 0:
        is_packed = "scale_factor" in attributes or "add_offset" in attributes
        if np.size(attributes.get("add_offset", 0)) == 1 and attributes.get("add_offset", 0) not in (0, "0"):
            diagnosis.look(raw, f"'{name}' is packed and has a fill_value of 0: stored zeros are taken for missing")
            return
        if is_packed:
            text = f"'{name}' is packed and has a fill_value of 0: stored zeros are taken for zeros"
            diagnosis.look(raw, f"{text}; set the attribute _FillValue to 0 if they are missing")
        attributes.pop("_FillValue", None)


def _fill_value(told: Any) -> Any:
    """Read xarray's spelling of a number in Zarr 3, its eight bytes in base 64; leave others alone."""
    try:
        return struct.unpack("<d", base64.b64decode(told, validate=True))[0]
    except (TypeError, ValueError, struct.error):
        return told


def _lost_chunks(raw: xr.Dataset, folder: Path, arrays: dict[str, Any]) -> Iterator[str]:
    """Count the chunks that are not there; the values there are never read."""
    for name, array in arrays.items():
        sizes = array.shards or array.chunks
        expected = math.prod(-(-length // size) for length, size in zip(array.shape, sizes, strict=True))
        found = sum(_CHUNK.fullmatch(file) is not None for _, _, files in os.walk(folder / name) for file in files)
        if found < expected:
            fill = array.fill_value
            declared = raw.variables[name].attrs.get("missing_value", [])
            is_missing = fill is not None and (fill != fill or fill in np.atleast_1d(declared))
            meaning = "count as missing" if is_missing else f"read as the fill_value {0 if fill is None else fill}"
            yield f"{expected - found} of {expected} chunks of '{name}' are not there: their values {meaning}"


def _groups(group: Any, above: str = "") -> Iterator[tuple[str, list[str]]]:
    """List the groups that hold arrays, at any depth, by their path."""
    for name, inner in group.groups():
        if names := [key for key, _ in inner.arrays()]:
            yield f"{above}{name}", names
        yield from _groups(inner, f"{above}{name}/")


def _check_metadata(folder: Path) -> None:
    """Refuse a folder that is a bare array, or whose description is damaged."""
    is_array = (folder / ".zarray").exists()
    for name in ("zarr.json", ".zgroup"):
        if (folder / name).exists():
            try:
                told = json.loads((folder / name).read_text())
            except (OSError, ValueError) as error:
                raise DataError(
                    f"{folder} cannot be read, its {name} is damaged ({first_line(error)}); copy or download it again"
                ) from None
            is_array = is_array or (isinstance(told, dict) and told.get("node_type") == "array")
    if is_array:
        raise DataError(
            f"{folder} is a single Zarr array: open the group that holds it with its coordinates: {folder.parent}"
        )


class PersistentStore(WrapperStore):
    """A store that repeats what fails, waiting longer each time.

    Args:
        store: whose keys are asked for.
        retries: repetitions of each failing request.
        name: of the store, for messages that name it; None names the key alone.

    Raises:
        UnreachableError: after the last repetition, or where the server's answer is final.
    """

    def __init__(self, store: Any, retries: int, name: str | None = None) -> None:
        super().__init__(store)
        self._retries, self._name = retries, name

    async def get(self, key: str, prototype: Any, byte_range: Any = None) -> Any:
        """Return the bytes of a key, None if there is no such key."""
        try:
            return await persistently(lambda: self._store.get(key, prototype, byte_range), key, self._retries)
        except UnreachableError as error:
            if self._name is None:
                raise
            raise UnreachableError(
                f"{self._name} cannot be reached ({error}); try again, or check the address"
            ) from error


async def persistently(ask: Callable[[], Awaitable[T]], what: str, retries: int) -> T:
    """Repeat a request that fails, waiting longer each time.

    Args:
        ask: makes the request.
        what: is asked for, for messages.
        retries: repetitions at most.

    Raises:
        UnreachableError: after the last repetition, or where the server's answer is final.
    """
    for attempt in range(retries + 1):
        try:
            return await ask()
        except Exception as failure:
            if not is_failure(failure):
                raise
            error = reason(failure)
            if attempt == retries or is_final(error):
                raise UnreachableError(f"{what}: {str(error) or type(error).__name__}") from error
        await asyncio.sleep(FIRST_PAUSE * 2**attempt)
    raise AssertionError


def is_failure(error: Exception) -> bool:
    """Whether an error is one of requests; those of S3's client are no kind of Python's own."""
    return isinstance(error, FAILURES) or "BotoCoreError" in _kinds(error)


def _kinds(error: BaseException | None) -> set[str]:
    return {kind.__name__ for kind in type(error).__mro__}


def reason(failure: Exception) -> Exception:
    """Return why a request failed: of an address of HTTP, fsspec says that no file is there whatever went wrong."""
    why = failure.__cause__
    if isinstance(failure, FileNotFoundError) and isinstance(why, FAILURES) and getattr(why, "status", 0) != 404:
        return why
    return failure


def is_final(error: BaseException | None) -> bool:
    """Whether a server's answer would be the same if it were asked again."""
    status = getattr(error, "status", 500)
    refused = 400 <= status < 500 and status not in _WORTH_REPEATING
    refused |= "BotoCoreError" in _kinds(error) and not {"HTTPClientError", "ConnectionError"} & _kinds(error)
    return refused or isinstance(error, FileNotFoundError | PermissionError)


def access(url: str, *, anonymous: bool) -> dict[str, Any]:
    """Return fsspec's options for an address.

    Args:
        url: gs://, s3://, http(s)://, file://, anything else that fsspec knows, or a local path.
        anonymous: whether to ask public buckets without credentials.
    """
    options: dict[str, dict[str, Any]] = {
        "gs": {"token": "anon"} if anonymous else {},
        "gcs": {"token": "anon"} if anonymous else {},
        "s3": {"anon": True} if anonymous else {},
        "http": {"client_kwargs": {"timeout": _TIMEOUT}},
        "https": {"client_kwargs": {"timeout": _TIMEOUT}},
    }
    return options.get(_scheme(url), {})


@contextmanager
def addressed(url: str) -> Iterator[None]:
    """Raise a DataError for what is no address, or needs a package that is not installed."""
    try:
        yield
    except ImportError as error:
        raise DataError(f"{url} needs a package that is missing ({error}): pip install 'etesian[cloud]'") from None
    except ValueError as error:
        raise DataError(f"{url} is no address: {first_line(error)}") from None


def system_of(url: str, *, anonymous: bool = True, **options: Any) -> tuple[Any, str]:
    """Return the file system of an address, made with further options, and its path there, `addressed`."""
    with addressed(url):
        system, path = fsspec.core.url_to_fs(url, **access(url, anonymous=anonymous), **options)
        if not options:
            _greet(url, system)
        return system, path


def _greet(url: str, system: Any) -> None:
    """See that the server of an address is there, before each request to it is repeated for long.

    Processes that others have started, such as those that load samples, go on where a network fails for a while.
    """
    if multiprocessing.parent_process() is None:
        if _scheme(url) in ("http", "https"):
            greet(url, url)
        elif _scheme(url) == "s3":
            greet(url, system.connect().meta.endpoint_url)


def greet(url: str, server: str) -> None:
    """Connect to the server of an address, unless that is a proxy's to do.

    Raises:
        DataError: if it does not exist, or takes no connection.
    """
    parts = urlsplit(server)
    if {parts.scheme, "all"} & urllib.request.getproxies().keys():
        return
    try:
        _connect(parts.hostname or "", parts.port or (80 if parts.scheme == "http" else 443))
    except OSError as error:
        silent = f"no answer in {_GREETING:g} s" if isinstance(error, TimeoutError) else ""
        why = f"Cannot connect to {parts.netloc.rpartition('@')[2]}: {error.strerror or silent or first_line(error)}"
        raise DataError(f"{url} cannot be reached ({why}); try again later, or check the address") from error


@cache
def _connect(host: str, port: int) -> None:
    for attempt in range(3):
        try:
            fsspec.asyn.sync(fsspec.asyn.get_loop(), _connected, host, port)
            return
        except TimeoutError:
            raise
        except OSError:
            if attempt == 2:
                raise
        time.sleep(FIRST_PAUSE * 2**attempt)


async def _connected(host: str, port: int) -> None:
    hello = asyncio.open_connection(host, port, happy_eyeballs_delay=0.25)
    _, writer = await asyncio.wait_for(hello, _GREETING)
    writer.close()


def _store_of(url: str, *, anonymous: bool) -> FsspecStore:
    system_of(url, anonymous=anonymous)
    with addressed(url):
        return FsspecStore.from_url(url, storage_options=access(url, anonymous=anonymous), read_only=True)


def _scheme(url: str) -> str:
    return urlsplit(url).scheme if "://" in url else "file"


def at(path: str) -> Any:
    """Return what Zarr opens: a path itself, and for an address a store whose failing requests are repeated."""
    if _scheme(path) == "file":
        return path
    return PersistentStore(_store_of(path, anonymous=False), RETRIES, path)


def open_remote(url: str, *, retries: int, anonymous: bool) -> xr.Dataset:
    """Open a Zarr store, reading its metadata and coordinates only; without Dask, so that size does not matter.

    Args:
        url: gs://, s3://, http(s)://, file://, anything else that fsspec knows, or a local path.
        retries: repetitions of each failing request.
        anonymous: whether to ask public buckets without credentials.

    Raises:
        DataError: if the store cannot be reached or read.
    """
    try:
        if _scheme(url) == "file":
            inner: Any = LocalStore(url2pathname(urlsplit(url).path) if "://" in url else url, read_only=True)
        else:
            inner = _store_of(url, anonymous=anonymous)
        dataset = open_zarr(PersistentStore(inner, retries), url)
    except UnreachableError as error:
        raise DataError(f"{url} cannot be reached ({error}); try again, or check the address") from None
    except (OSError, ValueError, KeyError, zarr.errors.BaseZarrError) as error:
        raise DataError(f"{url} cannot be read as a Zarr store: {first_line(error)}; check the address") from None
    if "time" in dataset.coords and holds_dates(dataset["time"]):
        attributes = {key: text for key, text in dataset["time"].attrs.items() if key not in ("units", "calendar")}
        dates = decode_time(*read_dates(dataset["time"], url, []))
        dataset = dataset.assign_coords(time=("time", dates, attributes))
    return dataset
