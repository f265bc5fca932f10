"""Samples per second, shuffled, of an input and a target 24 h later: the training store against two other readers.

- `.npz` shards, as ClimaX stores them: a whole shard is loaded, its samples go through a shuffle buffer into batches.
- plain xarray: `ds[variable].isel(time=i)` for every variable of a Zarr store with one chunk per variable and time.

The same random float32 fields, 48 channels on 32×64 points, lie in all three, uncompressed; files are in the page
cache, everything runs in one process. A sample counts when it is in a batch of 32. Prints one table of medians.

    OMP_NUM_THREADS=1 python benchmarks/loading.py [--steps 1000] [--repeat 5]
"""

import argparse
import random
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
import xarray as xr
from numpy.typing import NDArray

from etesian.core import Grid, Layout
from etesian.samples.batches import GroupedBatchSampler
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--repeat", type=int, default=5)
    arguments = parser.parse_args()
    random.seed(0)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        dataset = synthetic(arguments.steps)
        prepare_dataset(dataset, folder / "store.zarr", sources=[])
        write_shards(dataset, folder / "shards")
        write_variables(dataset, folder / "variables.zarr")
        del dataset
        store = Store(folder / "store.zarr")
        variables = xr.open_zarr(folder / "variables.zarr", chunks=None)
        some = store.channels[::2]

        def sampler(channels: tuple) -> GroupedBatchSampler:  # type: ignore[type-arg]
            layout = Layout(channels, channels, store.grid)
            windows = WindowDataset([store], layout, (6 * LEAD_STEPS,), Period("2001", "2100"))
            return GroupedBatchSampler(windows, BATCH, shuffle=True)

        everything, half, rng = sampler(store.channels), sampler(some), np.random.default_rng(0)
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
