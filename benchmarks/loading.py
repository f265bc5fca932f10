"""Samples per second, shuffled, of an input and a target 24 h later: the training store against two other readers.

- `.npz` shards, as ClimaX stores them: a whole shard is loaded, its samples go through a shuffle buffer into batches.
- plain xarray: `ds[variable].isel(time=i)` for every variable of a Zarr store with one chunk per variable and time.

The same random float32 fields, 48 channels on 32×64 points, lie in all three, uncompressed; files are in the page
cache, everything runs in one process. A sample counts when it is in a batch of 32. Prints one table of medians.

    OMP_NUM_THREADS=1 python benchmarks/loading.py [--steps 1000] [--repeat 5]

With `--remote 50 20` it reads the training store from a server 50 ms away behind 20 MB/s, a process of its own, with
training's loader, and prints epochs against the bytes of all states through that line, and a local store.
"""

import argparse
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
import xarray as xr
from numpy.typing import NDArray

from etesian.core import Channel, Grid, Layout
from etesian.samples.batches import GroupedBatchSampler
from etesian.samples.loading import Loader
from etesian.samples.windows import Period, WindowDataset
from etesian.store.prepare import prepare_dataset
from etesian.store.reader import Store

BATCH, LEAD_STEPS, SHARDS, BUFFER = 32, 4, 4, 10_000
ON_LEVELS = ("geopotential", "temperature", "u_component_of_wind", "v_component_of_wind", "specific_humidity")
SURFACE = ("2m_temperature", "10m_u_component_of_wind", "10m_v_component_of_wind")
LEVELS = [50, 150, 250, 300, 500, 600, 700, 850, 925]

Sample = tuple[torch.Tensor, torch.Tensor]


def synthetic(steps: int) -> xr.Dataset:
    grid, rng = Grid.equiangular(5.625), np.random.default_rng(0)
    variables = {}
    for name in (*ON_LEVELS, *SURFACE):
        levels = (len(LEVELS),) if name in ON_LEVELS else ()
        dims = ("time", *(("level",) if levels else ()), "latitude", "longitude")
        variables[name] = (dims, rng.standard_normal((steps, *levels, *grid.shape), dtype=np.float32))
    times = np.datetime64("2001-01-01", "ns") + np.arange(steps) * np.timedelta64(6, "h")
    return xr.Dataset(
        variables, {"time": times, "level": LEVELS, "latitude": grid.latitude, "longitude": grid.longitude}
    )


def write_shards(dataset: xr.Dataset, folder: Path) -> None:
    folder.mkdir()
    for number, steps in enumerate(np.array_split(np.arange(dataset.sizes["time"]), SHARDS)):
        arrays = {}
        for name, variable in dataset.data_vars.items():
            values = variable.values[steps].reshape(len(steps), -1, 32, 64)
            arrays |= {f"{name}_{i}": values[:, i : i + 1] for i in range(values.shape[1])}
        np.savez(folder / f"2001_{number}.npz", **arrays)


def write_variables(dataset: xr.Dataset, path: Path) -> None:
    encoding = {n: {"chunks": (1, *v.shape[1:]), "compressors": None} for n, v in dataset.data_vars.items()}
    dataset.to_zarr(path, zarr_format=2, encoding=encoding)


def from_training_store(sampler: GroupedBatchSampler) -> Iterator[int]:
    for picks in sampler:
        batch = sampler.dataset[picks]
        assert batch.targets is not None
        yield len(batch)


def from_shards(folder: Path) -> Iterator[int]:
    yield from batches(shuffled(samples_of_shards(folder)))


def samples_of_shards(folder: Path) -> Iterator[Sample]:
    files = sorted(folder.iterdir())
    random.shuffle(files)
    for file in files:
        with np.load(file) as shard:
            fields = torch.from_numpy(np.concatenate([shard[name].astype(np.float32) for name in shard.files], axis=1))
        for i in range(len(fields) - LEAD_STEPS):
            yield fields[i], fields[i + LEAD_STEPS]


def shuffled(samples: Iterator[Sample]) -> Iterator[Sample]:
    buffer: list[Sample] = []
    for sample in samples:
        if len(buffer) < BUFFER:
            buffer.append(sample)
        else:
            i = random.randrange(BUFFER)
            yield buffer[i]
            buffer[i] = sample
    random.shuffle(buffer)
    yield from buffer


def from_variables(dataset: xr.Dataset, order: NDArray[np.int64]) -> Iterator[int]:
    def state(i: int) -> torch.Tensor:
        fields = [dataset[name].isel(time=i).values.reshape(-1, 32, 64) for name in dataset.data_vars]
        return torch.from_numpy(np.concatenate(fields))

    yield from batches((state(int(i)), state(int(i) + LEAD_STEPS)) for i in order)


def batches(samples: Iterator[Sample]) -> Iterator[int]:
    waiting: list[Sample] = []
    for sample in samples:
        waiting.append(sample)
        if len(waiting) == BATCH:
            inputs, _ = (torch.stack(part) for part in zip(*waiting, strict=True))
            yield len(inputs)
            waiting = []


def measure(epoch: Iterator[int]) -> float:
    start = time.perf_counter()
    samples = sum(epoch)
    return samples / (time.perf_counter() - start)


def remote(folder: Path, latency: float, bandwidth: float) -> None:
    """Print what epochs take from a server, without and with a cache."""
    far = Path(__file__).parents[1] / "tests" / "slow_server.py"
    command = [sys.executable, str(far), str(folder), str(latency), str(bandwidth)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            address = f"{server.stdout.readline().strip()}/store.zarr"
            local = Store(folder / "store.zarr")
            size = 4 * len(local.time) * len(local.channels) * 2048
            near = min(epoch(local) for _ in range(5))
            print(f"{'epoch':42}{'s':>8}{'× line':>9}{'× local':>9}{'requests':>10}")

            def row(name: str, store: Store, took: float, before: int) -> None:
                asked = store.requests - before
                print(f"{name:42}{took:8.2f}{took / (size / bandwidth):9.2f}{took / near:9.1f}{asked:10}", flush=True)

            row("local", local, near, 0)
            store = Store(address)
            row("no cache", store, epoch(store), 0)
            os.environ["ETESIAN_CACHE"] = str(folder / "cache")
            store = Store(address)
            row("with a cache, the first", store, epoch(store), 0)
            loader, asked = loader_of(store), store.requests
            epochs = [epoch(store, loader) for _ in range(6)]
            row("the second", store, epochs[0], asked)
            row("later ones, the fastest of five", store, min(epochs[1:]), asked)
            store = Store(address)
            row("of another process, the first", store, epoch(store), 0)
        finally:
            server.terminate()


def sampler(store: Store, channels: tuple[Channel, ...]) -> GroupedBatchSampler:
    windows = WindowDataset([store], Layout(channels, channels, store.grid), (6 * LEAD_STEPS,), Period("2001", "2100"))
    return GroupedBatchSampler(windows, BATCH, shuffle=True)


def loader_of(store: Store) -> Loader:
    batches = sampler(store, store.channels)
    loader = Loader(batches.dataset, sampler=batches, batch_size=None)
    loader.far = [store] if "://" in store.path else []
    return loader


def epoch(store: Store, loader: Loader | None = None) -> float:
    start = time.perf_counter()
    for _ in loader or loader_of(store):
        pass
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--remote", type=float, nargs=2, metavar=("MS", "MB/S"))
    arguments = parser.parse_args()
    random.seed(0)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        dataset = synthetic(arguments.steps)
        prepare_dataset(dataset, folder / "store.zarr", sources=[])
        if arguments.remote:
            remote(folder, arguments.remote[0] / 1e3, arguments.remote[1] * 1e6)
            return
        write_shards(dataset, folder / "shards")
        write_variables(dataset, folder / "variables.zarr")
        del dataset
        store = Store(folder / "store.zarr")
        variables = xr.open_zarr(folder / "variables.zarr", chunks=None)
        some = store.channels[::2]
        everything, half, rng = sampler(store, store.channels), sampler(store, some), np.random.default_rng(0)
        order = rng.permutation(arguments.steps - LEAD_STEPS)[: 4 * BATCH]
        readers = {
            "training store": lambda: from_training_store(everything),
            "training store, every other channel": lambda: from_training_store(half),
            "npz shards with a shuffle buffer": lambda: from_shards(folder / "shards"),
            "xarray, variable by variable": lambda: from_variables(variables, order),
        }
        # In turns, so that whatever else the machine does falls on all of them; the first round only warms up.
        rounds = [{name: measure(read()) for name, read in readers.items()} for _ in range(arguments.repeat + 1)]
    medians = {name: statistics.median(one[name] for one in rounds[1:]) for name in readers}
    ours = medians["training store"]
    print(f"{'reader':38}{'samples/s':>10}{'MB/s':>8}{'training store is':>20}")
    for name, rate in medians.items():
        share = 0.5 if name.endswith("other channel") else 1.0
        megabytes = rate * share * 2 * 4 * 48 * 32 * 64 / 1e6
        print(f"{name:38}{rate:10.0f}{megabytes:8.0f}{ours / rate:17.1f} ×")


if __name__ == "__main__":
    main()
