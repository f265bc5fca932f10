"""Training stores behind an address: the same values, requests that fail or lie, and what a cache keeps."""

import shutil
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from slow_server import Server, serving

from etesian.core import Layout
from etesian.core.errors import DataError, RecipeError
from etesian.files import zarrs
from etesian.samples.batches import GroupedBatchSampler
from etesian.samples.loading import Loader
from etesian.samples.windows import Period, WindowDataset
from etesian.store.format import to_dataset
from etesian.store.reader import Store


@pytest.fixture
def server(sharded_store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """A copy of a store of 60 times in 9 shards, behind an address."""
    monkeypatch.setattr(zarrs, "FIRST_PAUSE", 0.001)
    shutil.copytree(sharded_store, tmp_path / "served" / "store.zarr")
    with serving(tmp_path / "served") as running:
        yield running


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ETESIAN_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def opened(server: Server) -> Store:
    return Store(f"{server.url}/store.zarr")


def fields(server: Server) -> int:
    """Requests for fields so far, each of one byte range or of a file's size and tag."""
    return sum(count for name, count in server.requests.items() if "/fields/c/" in name)


def shard(server: Server, number: int) -> Path:
    return server.folder / "store.zarr" / "fields" / "c" / str(number) / "0" / "0" / "0"


def loader(store: Store) -> Loader:
    windows = WindowDataset([store], Layout(store.channels, store.channels, store.grid), (24,), Period("2001", "2002"))
    made = Loader(windows, sampler=GroupedBatchSampler(windows, 4, shuffle=True), batch_size=None)  # type: ignore[arg-type]
    made.far = [store] if "://" in store.path else []
    return made


def values(batches: Loader) -> list[np.ndarray]:
    return [part.values.numpy() for batch in batches for part in (batch.inputs, batch.targets) if part is not None]


def equal(one: list[np.ndarray], two: list[np.ndarray]) -> bool:
    return len(one) == len(two) and all(np.array_equal(a, b, equal_nan=True) for a, b in zip(one, two, strict=True))


def test_an_epoch_is_that_of_a_local_store_and_the_next_reads_nothing(
    server: Server, sharded_store: str, cache: Path
) -> None:
    far, near = loader(opened(server)), loader(Store(sharded_store))
    assert equal(values(far), values(near))
    # Each of 60 times once, each of 9 shards once for its index and once for its identity, and that after each batch.
    asked, batches = fields(server), len(far)
    assert 60 + 2 * 9 < asked <= 60 + 2 * 9 + 8 * batches
    assert equal(values(far), values(near))
    assert fields(server) == asked
    # Another process looks once at each file, and reads nothing.
    served = server.served
    again = opened(server)
    opening = server.served - served
    assert equal(values(loader(again)), values(near))
    assert fields(server) - asked == 9
    assert server.served - served == opening


def test_without_a_cache_everything_is_read_again(server: Server, sharded_store: str) -> None:
    far, near = opened(server), Store(sharded_store)
    for _ in range(2):
        before = fields(server)
        np.testing.assert_array_equal(far.read([59, 0, 10, 0]), near.read([59, 0, 10, 0]))
        assert fields(server) >= before + 3
    before, asked = fields(server), (np.array([3, 1, 3]), slice(0, 2), [(1, 6), (0, 0), (2, 3)], (2, 4))
    cut = far.patches(*asked)
    assert fields(server) == before + 3
    np.testing.assert_array_equal(cut, near.patches(*asked))
    np.testing.assert_array_equal(cut[1], near.read([1])[0, :2, :2, :4])


def test_many_times_are_asked_for_at_once(server: Server) -> None:
    far = opened(server)
    far.read([0])
    server.latency, under_way, most = 0.1, [0], [0]
    serve = server.turn

    def turn(size: int) -> float:
        with threading.Lock():
            under_way[0] += 1
            most[0] = max(most[0], under_way[0])
        return serve(size)

    server.turn = turn  # type: ignore[method-assign]
    import time

    begin = time.perf_counter()
    far.read(range(7))
    # One after the other they would take 0.7 s, and with their check 0.8 s.
    assert time.perf_counter() - begin < 0.6
    assert most[0] == 7


@pytest.mark.parametrize("fault", [503, 0])
def test_what_fails_is_asked_for_again(server: Server, sharded_store: str, cache: Path, fault: int) -> None:
    server.fault = fault
    for number in range(9):
        server.faults[f"store.zarr/fields/c/{number}/0/0/0"] = 2
    server.faults["store.zarr/mean/c/0"] = 1
    far, near = opened(server), Store(sharded_store)
    np.testing.assert_array_equal(far.read(range(60)), near.read(range(60)))
    np.testing.assert_array_equal(far.statistics.mean, near.statistics.mean)


def test_what_goes_on_failing_is_one_sentence_and_is_continued(server: Server, cache: Path) -> None:
    far = opened(server)
    far.read(range(7))
    server.faults["store.zarr/fields/c/1/0/0/0"] = 1000
    with pytest.raises(DataError, match=r"store.zarr stopped answering \(.*503.*\); run the same command again"):
        far.read(range(14))
    server.faults.clear()
    before = fields(server)
    assert far.read(range(14)).shape[0] == 14
    assert fields(server) - before <= 7 + 3
    shard(server, 3).unlink()
    with pytest.raises(DataError, match=r"store.zarr lacks a part of its fields; copy or make it again"):
        far.read([21])


def test_a_store_that_has_changed_is_never_mixed_with_what_was_there(
    server: Server, sharded_store: str, cache: Path
) -> None:
    far, near = opened(server), Store(sharded_store)
    far.read([0, 1])
    content = bytearray(shard(server, 0).read_bytes())
    content[3 * (3 * 48 * 4) + 3] ^= 1
    shard(server, 0).write_bytes(content)
    with pytest.raises(DataError, match="has changed while it was read; begin again once it is complete"):
        far.read([2, 3])
    # What was read before is what it was, and nothing of the new file was kept.
    np.testing.assert_array_equal(far.read([0, 1]), near.read([0, 1]))
    assert sorted(file.name for file in cache.glob("*/0/*")) == ["0", "1"]
    changed, words = opened(server), r"has changed since .*cache/store.zarr-\w+ was filled from it; remove that f"
    for _ in range(2):
        with pytest.raises(DataError, match=words):
            changed.read([0])
    shutil.rmtree(next(cache.iterdir()))
    assert not np.array_equal(opened(server).read([3]), near.read([3]))


def test_a_torn_file_in_the_cache_is_read_anew(server: Server, sharded_store: str, cache: Path) -> None:
    opened(server).read([5])
    (kept,) = cache.glob("*/0/5")
    kept.write_bytes(kept.read_bytes()[:100])
    np.testing.assert_array_equal(opened(server).read([5]), Store(sharded_store).read([5]))
    assert kept.stat().st_size == 3 * 48 * 4
    far = opened(server)
    far.read([5])
    kept.unlink()
    np.testing.assert_array_equal(far.read([5]), Store(sharded_store).read([5]))
    assert not list(cache.rglob("*.partial"))


def test_several_fill_one_cache(server: Server, sharded_store: str, cache: Path) -> None:
    with ThreadPoolExecutor(3) as pool:
        found = list(pool.map(lambda _: opened(server).read(range(60)), range(3)))
    near = Store(sharded_store).read(range(60))
    assert equal(found, [near] * 3)
    np.testing.assert_array_equal(opened(server).read(range(60)), near)
    assert len(list(cache.glob("*/0/*"))) == 60


def test_a_cache_takes_what_it_may(
    server: Server, sharded_store: str, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ETESIAN_CACHE_GB", "1e-5")
    far, near = opened(server), Store(sharded_store)
    with pytest.warns(UserWarning, match="cache is full: the rest is read from the address each time"):
        far.read(range(30))
    assert 8e3 < sum(file.stat().st_size for file in cache.rglob("*") if file.is_file()) < 1.3e4
    np.testing.assert_array_equal(far.read(range(60)), near.read(range(60)))
    monkeypatch.setenv("ETESIAN_CACHE_GB", "much")
    with pytest.raises(RecipeError, match="ETESIAN_CACHE_GB = 'much' is no number of gigabytes"):
        opened(server)
    monkeypatch.delenv("ETESIAN_CACHE_GB")
    cache.rename(cache.with_name("elsewhere"))
    cache.write_text("a file")
    with pytest.raises(DataError, match=r"cache/store.zarr-\w+ cannot be made .*; set ETESIAN_CACHE to another"):
        opened(server).read([0])


def test_a_server_that_sends_whole_files_is_refused(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    far = opened(server)
    server.ranges = False
    with pytest.raises(DataError, match=r"sends \d+ bytes where it is asked for \d+: it cannot serve parts of files"):
        far.read([0])


def test_nobody_at_the_address(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zarrs, "FIRST_PAUSE", 0.001)
    with pytest.raises(DataError, match=r"^http://127.0.0.1:9/store.zarr cannot be reached"):
        Store("http://127.0.0.1:9/store.zarr")
    for opened in (Store, to_dataset):
        with pytest.raises(DataError, match=r"^nothing://x is no address"):
            opened("nothing://x")
