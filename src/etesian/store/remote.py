"""The fields of a training store behind an address: many times asked for at once, and kept in a folder if one is named.

Caches of Zarr and fsspec were looked at first: Zarr's keeps parts of files in memory only, fsspec's is not for several
processes at once, and neither sees that a file has changed on the server.
"""

import asyncio
import json
import os
import warnings
from collections.abc import Awaitable, Callable, Iterable
from hashlib import sha256
from pathlib import Path
from typing import Any, TypeVar
from uuid import uuid4

import fsspec
import numpy as np
from fsspec.implementations.asyn_wrapper import AsyncFileSystemWrapper
from numpy.typing import NDArray

from etesian.core.errors import DataError, RecipeError
from etesian.files.decoding import UnreachableError
from etesian.files.zarrs import RETRIES, persistently, system_of

T = TypeVar("T")

IN_FLIGHT = 32
"""Requests under way at most: at 50 ms of latency, enough for 100 MB/s of states of 160 kB."""

CACHE, CACHE_GB = "ETESIAN_CACHE", "ETESIAN_CACHE_GB"
"""Environment variables: the folder that keeps what was read, and what it may hold at most."""

_TAGS = ("ETag", "etag", "generation", "Last-Modified", "LastModified", "mtime", "created")


class RemoteSteps:
    """Reads times of `fields`, which lie in shards with an index at their end, one uncompressed chunk for each time.

    Every file is told apart from later ones of its name by its size and its tag (or time of change): when it is first
    needed in a process, and again after anything was read from it, before that is used.

    Args:
        url: of the store.
        fingerprint: of the store.
        times: in the store.
        per_shard: times in a shard.
        length: bytes of a time.

    Attributes:
        requests: made so far.
    """

    requests = 0

    def __init__(self, url: str, fingerprint: str, times: int, per_shard: int, length: int) -> None:
        self._url, self._times, self._per_shard, self._length = url, times, per_shard, length
        self._cache = _cache_of(url, fingerprint)
        self._shards: dict[int, asyncio.Task[dict[str, Any]]] = {}
        self._pending: dict[int, asyncio.Task[bytes]] = {}
        self._known: set[int] = set()
        files, self._path = system_of(url.rstrip("/"), anonymous=False)
        # One that can be asked for several things at once.
        self._files = files if files.async_impl else AsyncFileSystemWrapper(files)
        self._slots = asyncio.Semaphore(IN_FLIGHT)

    def read(self, steps: Iterable[int]) -> dict[int, NDArray[np.float32]]:
        """Return some times, flat, of which those that the cache has are left out.

        Raises:
            DataError: if the server stops answering, lacks a part of them, or has replaced the store meanwhile.
        """
        wanted = [step for step in dict.fromkeys(steps) if not self._is_kept(step)]
        if not wanted:
            return {}
        try:
            found = fsspec.asyn.sync(self._files.loop, self._read, wanted)
        except UnreachableError as error:
            raise DataError(
                f"{self._url} stopped answering ({error}); run the same command again to continue"
            ) from None
        return {step: np.frombuffer(content, "<f4") for step, content in found.items()}

    def step(self, step: int, buffer: NDArray[np.float32]) -> NDArray[np.float32] | None:
        """Read one time into a buffer where the cache has it, and return it, flat, otherwise."""
        if self._is_kept(step) and self._cache is not None and self._cache.load(step, buffer):
            return None
        self._known.discard(step)
        # Another thread may have kept it meanwhile.
        return found[step] if (found := self.read([step])) else self.step(step, buffer)

    def _is_kept(self, step: int) -> bool:
        """Whether the cache has a time, of a shard that was found unchanged."""
        if step in self._known:
            return True
        shard = self._shards.get(step // self._per_shard)
        if self._cache is None or shard is None or not shard.done() or _failed(shard):
            return False
        if not self._cache.holds(step, self._length):
            return False
        self._known.add(step)
        return True

    async def _read(self, steps: list[int]) -> dict[int, bytes]:
        shards = sorted({step // self._per_shard for step in steps})
        await _all(self._shard(shard) for shard in shards)
        # Of a shard that was not known yet, the cache may have some.
        steps = [step for step in steps if not self._is_kept(step)]
        try:
            contents = await _all(self._step(step) for step in steps)
            await _all(self._check(shard) for shard in sorted({step // self._per_shard for step in steps}))
            if self._cache is not None:
                for step, content in zip(steps, contents, strict=True):
                    if step not in self._known and self._cache.save(step, content):
                        self._known.add(step)
        finally:
            for step in steps:
                self._pending.pop(step, None)
        return dict(zip(steps, contents, strict=True))

    def _shard(self, shard: int) -> asyncio.Task[dict[str, Any]]:
        """Return what is known of a shard, which is found out once."""
        if shard not in self._shards or _failed(self._shards[shard]):
            self._shards[shard] = asyncio.ensure_future(self._describe(shard))
        return self._shards[shard]

    def _step(self, step: int) -> asyncio.Task[bytes]:
        """Return the bytes of a time, which others may have asked for as well."""
        if step not in self._pending:
            self._pending[step] = asyncio.ensure_future(self._content(step))
        return self._pending[step]

    async def _describe(self, shard: int) -> dict[str, Any]:
        """Return identity and index of a shard, from the cache if it is the same there.

        Raises:
            DataError: if the cache was filled from another one, or it lacks a part.
        """
        identity = await self._identity(shard)
        kept = self._cache.describe(shard) if self._cache is not None else None
        if kept is not None and self._cache is not None:
            if kept["identity"] != identity:
                raise DataError(
                    f"{self._url} has changed since {self._cache.folder} was filled from it; remove that folder to "
                    "read it anew"
                )
            return kept
        size, held = identity["size"], min(self._per_shard, self._times - shard * self._per_shard)
        begin = size - 16 * self._per_shard - 4
        index = np.zeros((1, 2), dtype="<u8")
        if begin >= 0:
            content = await self._bytes(shard, begin, size - 4)
            index = np.frombuffer(content, "<u8").reshape(-1, 2)[:held]
        if (index[:, 1] != self._length).any() or (index[:, 0] > size - self._length).any():
            raise self._lacking()
        found = {"identity": identity, "offsets": index[:, 0].tolist()}
        if self._cache is not None:
            self._cache.note(shard, found)
        return found

    async def _content(self, step: int) -> bytes:
        shard, within = divmod(step, self._per_shard)
        begin = (await self._shard(shard))["offsets"][within]
        return await self._bytes(shard, begin, begin + self._length)

    async def _check(self, shard: int) -> None:
        """See that a shard is still what it was when it was first needed.

        Raises:
            DataError: if it is not.
        """
        if await self._identity(shard) != (await self._shard(shard))["identity"]:
            raise DataError(f"{self._url} has changed while it was read; begin again once it is complete")

    async def _identity(self, shard: int) -> dict[str, Any]:
        """Return size and tag of a shard."""
        told = await self._ask(shard, lambda file: self._files._info(file))
        if told.get("size") is None:
            raise DataError(f"the server of {self._url} does not tell the size of its files; copy the store here")
        return {"size": int(told["size"]), **{name: str(told[name]) for name in _TAGS if name in told}}

    async def _bytes(self, shard: int, begin: int, end: int) -> bytes:
        """Return some bytes of a shard.

        Raises:
            DataError: if the shard has gone, or the server sends other parts than it is asked for.
        """
        found = bytes(await self._ask(shard, lambda file: self._files._cat_file(file, start=begin, end=end)))
        if len(found) != end - begin:
            raise DataError(
                f"the server of {self._url} sends {len(found)} bytes where it is asked for {end - begin}: it cannot "
                "serve parts of files; copy the store here"
            )
        return found

    async def _ask(self, shard: int, request: Callable[[str], Awaitable[T]]) -> T:
        """Ask for something of a shard when it is its turn.

        Raises:
            DataError: if there is no such shard.
        """
        file = f"{self._path}/fields/c/{shard}/0/0/0"
        async with self._slots:
            self.requests += 1
            try:
                return await persistently(lambda: request(file), file, RETRIES)
            except UnreachableError as error:
                if isinstance(error.__cause__, FileNotFoundError):
                    raise self._lacking() from None
                raise

    def _lacking(self) -> DataError:
        return DataError(f"{self._url} lacks a part of its fields; copy or make it again")


class _Cache:
    """Times in files of their own, each of which is complete or absent, for any number of processes.

    Once it is full it takes no more: of a random order anew in every epoch, what stays is found more often than what
    makes room for the latest.

    Args:
        folder: of this store, in that of all.
        limit: bytes that the folder of all may hold; None means any.

    Raises:
        DataError: if the folder cannot be made.
    """

    def __init__(self, folder: Path, limit: float | None) -> None:
        self.folder, self._limit = folder, limit
        self._room, self._is_full = 0.0, False
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise DataError(f"{folder} cannot be made ({error.strerror}); set {CACHE} to another folder") from None

    def load(self, step: int, buffer: NDArray[np.float32]) -> bool:
        """Read a time into a buffer, and return whether it was there."""
        try:
            file = os.open(self._file(step), os.O_RDONLY)
        except FileNotFoundError:
            return False
        try:
            return os.readv(file, [buffer.data]) == buffer.nbytes
        finally:
            os.close(file)

    def holds(self, step: int, length: int) -> bool:
        """Whether a time is there. A file whose bytes a loss of power has kept from the disk is none."""
        return _size(self._file(step)) == length

    def save(self, step: int, content: bytes) -> bool:
        """Keep a time, if there is room."""
        if self._limit is not None and self._room < len(content):
            # Others may fill the folder as well.
            left = 0 if self._is_full else self._limit - _used(self.folder.parent)
            if left < len(content):
                if not self._is_full:
                    warnings.warn(
                        f"{self.folder.parent} is full: the rest is read from the address each time", stacklevel=2
                    )
                self._is_full = True
                return False
            self._room = min(left, max(self._limit / 50, len(content)))
        self._write(self._file(step), content)
        self._room -= len(content)
        return True

    def describe(self, shard: int) -> dict[str, Any] | None:
        """Return what was noted of a shard, None if it was not."""
        try:
            return dict(json.loads((self.folder / f"{shard}.json").read_text()))
        except (FileNotFoundError, ValueError):
            return None

    def note(self, shard: int, found: dict[str, Any]) -> None:
        """Note what is known of a shard."""
        self._write(self.folder / f"{shard}.json", json.dumps(found).encode())

    def _file(self, step: int) -> str:
        return f"{self.folder}/{step // 1000}/{step}"

    def _write(self, file: str | Path, content: bytes) -> None:
        place = Path(file)
        partial = place.with_name(f"{place.name}.{uuid4().hex}.partial")
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
            partial.write_bytes(content)
            partial.replace(place)
        except OSError as error:
            partial.unlink(missing_ok=True)
            raise DataError(f"{self.folder} takes no more ({error.strerror}); make room, or set {CACHE_GB}") from None


def _cache_of(url: str, fingerprint: str) -> _Cache | None:
    """Return where the environment says that a store is kept.

    Raises:
        RecipeError: if its limit is no number.
    """
    if not (folder := os.environ.get(CACHE)):
        return None
    told = os.environ.get(CACHE_GB)
    try:
        limit = float(told) * 1e9 if told else None
    except ValueError:
        raise RecipeError(f"{CACHE_GB} = '{told}' is no number of gigabytes") from None
    name = sha256(f"{url} {fingerprint}".encode()).hexdigest()[:12]
    return _Cache(Path(folder).expanduser().absolute() / f"{url.rstrip('/').rsplit('/', 1)[-1]}-{name}", limit)


def _size(file: str) -> int:
    try:
        return os.stat(file).st_size
    except FileNotFoundError:
        return 0


def _used(folder: Path) -> int:
    return sum(_size(os.path.join(place, name)) for place, _, names in os.walk(folder) for name in names)


def _failed(task: "asyncio.Task[Any]") -> bool:
    return task.done() and (task.cancelled() or task.exception() is not None)


async def _all(requests: Iterable[Any]) -> list[Any]:
    """Wait for all requests, so that none is left behind, and raise what went wrong first."""
    found = await asyncio.gather(*requests, return_exceptions=True)
    for each in found:
        if isinstance(each, BaseException):
            raise each
    return found
