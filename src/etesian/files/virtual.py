"""Zarr whose chunks lie elsewhere: snapshots of Icechunk repositories, kerchunk's references to parts of other files.

What a reference names and is not there is an error, and never the fill value of chunks that were not written. Nothing
that a file of references says is run: `gen` and templates with expressions, which fsspec leaves to jinja2 or passes
over, are refused, and so are references that come from an address and name files of this machine.
"""

import asyncio
import importlib.util
import json
import os
import posixpath
import re
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any
from urllib.parse import urljoin, urlsplit
from urllib.request import url2pathname

import fsspec
import numpy as np
import xarray as xr
from fsspec.implementations.reference import LazyReferenceMapper, ReferenceFileSystem
from zarr.storage import FsspecStore

from etesian.core.errors import DataError, first_line
from etesian.files.copies import repeated
from etesian.files.decoding import UnreachableError
from etesian.files.zarrs import RETRIES, greet, is_final, persistently, read_zarr, system_of

_REMOTE = ("http", "https", "s3", "gs", "gcs", "az", "abfs")

_TEMPLATE = re.compile(r"\{\{\s*(\w+)\s*\}\}")

_PARQUET = (".parq", ".parquet")

BRANCH = "main"
"""Of an Icechunk repository, what is read."""


def is_virtual(path: str) -> bool:
    """Whether a path or an address holds references, or is an Icechunk repository."""
    if "://" in path:
        named = urlsplit(path).path.rstrip("/").lower().endswith((".json", *_PARQUET))
        return named or _bucket(path) is not None or _holds_parquet(path)
    place = Path(path)
    if place.is_dir():
        return _is_repository(place) or _holds_parquet(path)
    try:
        head = _part(path, 0, 2**16).lstrip() if place.is_file() else b""
    except OSError:
        return False
    return head.startswith(b"{") and any(key in head for key in (b'"refs"', b'.zgroup"', b'.zattrs"', b'zarr.json"'))


def read_virtual(path: str) -> list[xr.Dataset]:
    """Open references of kerchunk, JSON or Parquet, or the last snapshot of an Icechunk repository's branch main.

    Raises:
        DataError: if it cannot be read, asks for something to be run, or refers to what it may not.
    """
    is_json = urlsplit(path).path.rstrip("/").lower().endswith(".json") if "://" in path else Path(path).is_file()
    if not is_json and (session := _session(path)) is not None:
        return read_zarr(path, session.store)
    references = _resolved(path) if is_json else _Parquet(path)
    return read_zarr(path, FsspecStore(_References(references, path), read_only=True, path=""))


def snapshot_of(path: str) -> str | None:
    """Return what identifies the snapshot of an Icechunk repository that is read; None for anything else."""
    session = _session(path)
    return None if session is None else str(session.snapshot_id)


def _is_repository(folder: Path) -> bool:
    return (folder / "refs").is_dir() and (folder / "snapshots").is_dir() and not (folder / "zarr.json").exists()


def _bucket(path: str) -> Any | None:
    """Return an Icechunk repository's place in a bucket of S3 or Google; None where there is none or no Icechunk.

    The environment's credentials are tried first, and then none, as for public buckets. `AWS_ENDPOINT_URL` names
    another server than Amazon's.
    """
    address = urlsplit(path)
    if address.scheme not in ("s3", "gs", "gcs") or importlib.util.find_spec("icechunk") is None:
        return None
    import icechunk

    place: dict[str, Any] = {"bucket": address.netloc, "prefix": address.path.strip("/")}
    make, server = icechunk.gcs_storage, "https://storage.googleapis.com"
    if address.scheme == "s3":
        make, endpoint = icechunk.s3_storage, os.environ.get("AWS_ENDPOINT_URL")
        place["region"] = os.environ.get("AWS_REGION", os.environ.get("AWS_DEFAULT_REGION", "us-east-1"))
        if endpoint is not None:
            place |= {"endpoint_url": endpoint, "allow_http": True, "force_path_style": True}
        server = endpoint or f"https://s3.{place['region']}.amazonaws.com"
    # Icechunk asks a server that is not there for most of a minute; the other client may know of another one.
    has_client = importlib.util.find_spec("s3fs" if address.scheme == "s3" else "gcsfs") is not None
    if has_client:
        system_of(path, anonymous=False)
    try:
        greet(path, server)
    except DataError:
        if has_client:
            return None
        raise
    for storage in (make(**place, from_env=True), make(**place, anonymous=True)):
        try:
            if icechunk.Repository.exists(storage):
                return storage
        except icechunk.IcechunkError:
            continue  # Whoever opens it otherwise will say what is wrong.
    return None


def _holds_parquet(path: str) -> bool:
    """Whether a folder or an address has references for chunks, which would all seem to be lost."""
    try:
        files, place = system_of(f"{path.rstrip('/')}/.zmetadata", anonymous=False)
        told = repeated(lambda: files.cat_file(place), f"{path} cannot be reached", "try again later")
        return "record_size" in json.loads(told)
    except Exception as error:
        if "://" in path and isinstance(error, DataError) and not is_final(error.__cause__):
            raise
        return False  # Whoever opens it will say what is wrong.


def _session(path: str) -> Any | None:
    """Return the last snapshot of a repository's branch, to read from; None where there is no repository.

    One behind an address reads no files of this machine.

    Raises:
        DataError: if Icechunk is not installed, or cannot read it.
    """
    storage = _bucket(path) if "://" in path else None
    if storage is None and ("://" in path or not _is_repository(Path(path))):
        return None
    try:
        import icechunk
    except ImportError:
        raise DataError(f"{path} is an Icechunk repository: pip install 'etesian[icechunk]'") from None
    try:
        storage = storage or icechunk.local_filesystem_storage(path)
        config = icechunk.Repository.fetch_config(storage)
        containers = {} if config is None else config.virtual_chunk_containers or {}
        trusted = [each for each in containers if "://" not in path or not each.startswith("file")]
        repository = icechunk.Repository.open(storage, authorize_virtual_chunk_access=dict.fromkeys(trusted))
        return repository.readonly_session(BRANCH)
    except (icechunk.IcechunkError, ValueError) as error:
        raise DataError(f"{path} cannot be read as an Icechunk repository: {first_line(error)}") from None


def _resolved(path: str) -> dict[str, Any]:
    """Read references in JSON, with their templates filled in.

    Raises:
        DataError: if they cannot be read, or ask for more than that.
    """
    files, place = system_of(path, anonymous=False)
    try:
        told = json.loads(repeated(lambda: files.cat_file(place), f"{path} cannot be read", "check the address"))
    except ValueError as error:
        raise DataError(f"{path} is no JSON ({first_line(error)}); copy or make it again") from None
    if not isinstance(told, dict) or told.get("version", 1) not in (0, 1):
        raise DataError(f"{path} holds references of a version that is not read; make them again with kerchunk")
    if told.get("gen"):
        raise DataError(
            f"{path} has references that are to be generated by expressions ('gen'), which are not run: expand them"
        )
    templates = told.get("templates", {})
    found = {}
    for key, reference in told.get("refs", told).items():
        if isinstance(reference, dict):
            reference = json.dumps(reference)
        elif isinstance(reference, list) and len(reference) in (1, 3) and isinstance(reference[0], str):
            url = _TEMPLATE.sub(lambda name: str(templates.get(name[1], name[0])), reference[0])
            if "{{" in url or "{%" in url:
                raise DataError(
                    f"{path} refers to '{url}', an expression, which is not run: write the addresses themselves, or "
                    "templates that are names"
                )
            reference = [url, *reference[1:]]
        elif not isinstance(reference, str):
            raise DataError(f"{path} has '{reference!s:.40}' for {key}, which is no reference; make it again")
        found[key] = reference
    return found


class _Parquet(LazyReferenceMapper):
    """References in Parquet, of which a file that is not there is an error: fsspec takes its chunks for not written."""

    def __init__(self, path: str) -> None:
        files, place = system_of(path.rstrip("/"), anonymous=False)
        self._name = path
        try:
            super().__init__(place, files, engine="pyarrow")
        except ImportError:
            raise DataError(f"{path} holds references in Parquet: pip install 'etesian[parquet]'") from None

    def setup(self) -> None:
        try:
            super().setup()
        except (OSError, ValueError, KeyError) as error:
            raise DataError(f"{self._name} cannot be read as references: {first_line(error)}") from None
        read: Callable[[str, int], dict[str, Any]] = self.open_refs  # type: ignore[has-type]

        @lru_cache(self.cache_size)
        def open_refs(field: str, record: int) -> dict[str, Any]:
            try:
                found = read(field, record)
                paths = [each if isinstance(each, str) else None for each in found["path"]]
            except Exception as error:
                raise DataError(
                    f"{self._name} lacks {field}/refs.{record}.parq, or it cannot be read ({first_line(error)}); copy "
                    "or make it again"
                ) from None
            raw = found.get("raw", [None] * len(paths))
            kept = [each if isinstance(each, bytes) else None for each in raw]
            return found | {"path": np.array(paths, dtype=object), "raw": np.array([*kept, None], dtype=object)[:-1]}

        self.open_refs = open_refs


class _References(ReferenceFileSystem):
    """Reads what references name: files beside them or behind addresses."""

    cachable = False

    def __init__(self, references: Any, path: str) -> None:
        super().__init__(references, fs={None: fsspec.filesystem("file")}, asynchronous=True)
        self.references, self._path = references, path

    async def _cat_file(self, path: str, start: Any = None, end: Any = None, **_: Any) -> bytes:
        part, begin, stop = self._cat_common(path, start=start, end=end)
        if isinstance(part, bytes):
            return part[start:end]
        url = self._target(str(part))
        # Parquet gives NumPy's numbers.
        begin, stop = (None if place is None else int(place) for place in (begin, stop))
        try:
            content = await self._bytes(url, begin, stop)
        except (UnreachableError, OSError) as error:
            why = error.__cause__ or error
            if isinstance(why, FileNotFoundError):
                raise DataError(
                    f"{self._path} refers to {url}, which is not there; put it there, or make the references again"
                ) from None
            raise DataError(f"{self._path} refers to {url}, which cannot be read ({first_line(why)})") from None
        if begin is not None and stop is not None and len(content) != stop - begin:
            raise DataError(
                f"{self._path} refers to {stop - begin} bytes at {begin} of {url}, of which {len(content)} are there: "
                "the file is cut short or another one, or its server cannot serve parts of files"
            )
        return content

    async def _bytes(self, url: str, begin: int | None, stop: int | None) -> bytes:
        if "://" not in url:
            return await asyncio.to_thread(_part, url, begin, stop)
        files, place = system_of(url, anonymous=False, asynchronous=True)
        return bytes(await persistently(lambda: files._cat_file(place, start=begin, end=stop), url, RETRIES))

    def _target(self, url: str) -> str:
        """Return the address, or the path on this machine, that a reference means.

        Raises:
            DataError: if it is of a kind that is not read, or an address names a file of this machine.
        """
        scheme, is_far = urlsplit(url).scheme if "://" in url else "", "://" in self._path
        if scheme in _REMOTE:
            return url
        if scheme not in ("", "file") or "::" in url:
            raise DataError(f"{self._path} refers to {url}, an address of a kind that is not read through references")
        if is_far and (scheme or posixpath.isabs(url)):
            raise DataError(
                f"{self._path} comes from an address and refers to {url} on this machine, which is not read"
            )
        if is_far:
            return urljoin(self._path, url)
        return str(Path(self._path).parent / (url2pathname(urlsplit(url).path) if scheme else url))


def _part(path: str, begin: int | None, stop: int | None) -> bytes:
    with open(path, "rb") as file:
        file.seek(begin or 0)
        return file.read(-1 if stop is None else stop - (begin or 0))
