"""Pairs of patches per second: cut from a training store when they are asked for, against samples written beforehand.

AtmoDist samples patches into TFRecord files first and reads them in order through a shuffle buffer. Here the same is
done by hand, without TensorFlow: records of two 160×160 patches of two channels and their lag, a length and a checksum
before each, plain or gzip'ed as a whole file. Both sides end with batches of float32 tensors. Records hold normalised
values (z-score, sign(z)·log1p(0.2·|z|), z-score); what is cut is normalised in the batch, here or by the training
device, so that it is shown without and with that.

Smooth random vorticity and divergence, 3-hourly, on 640×1280 points; files are in the page cache; everything runs in
one process, and processor time is counted. Prints one table of medians, and what 60 epochs cost in all.

    OMP_NUM_THREADS=1 python benchmarks/patches.py [--pairs 256] [--repeat 5]
"""

import argparse
import gzip
import random
import statistics
import struct
import tempfile
import time
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO

import numpy as np
import torch
import xarray as xr

from etesian.core import Grid
from etesian.core.sphere import SphericalHarmonics
from etesian.distance.data import LagData
from etesian.nn.normalizer import Normalizer
from etesian.samples.batches import GroupedBatchSampler
from etesian.store.prepare import prepare_dataset
from etesian.store.reader import Store

BATCH, LAGS, SIZE, STEPS, BUFFER, EPOCHS = 32, 23, (160, 160), 60, 128, 60
PERIODS = {"train": ("2001-01-01", "2001-01-08"), "validate": ("2002", "2002")}
RECORD = struct.Struct("<QI")


def synthetic() -> xr.Dataset:
    grid, rng = Grid.equiangular(180 / 640), np.random.default_rng(0)
    harmonics = SphericalHarmonics(grid, 213)
    n = np.arange(214)
    fields = {}
    for name in ("vorticity", "divergence"):
        values = np.empty((STEPS, *grid.shape), dtype=np.float32)
        for i in range(STEPS):
            parts = rng.standard_normal((2, 214, 214)) * 1e-5 / (n[:, None] + 1)
            values[i] = harmonics.synthesise(np.tril(parts[0] + 1j * parts[1]))
        fields[name] = (("time", "latitude", "longitude"), values, {"units": "s-1"})
    times = np.datetime64("2001-01-01", "ns") + np.arange(STEPS) * np.timedelta64(3, "h")
    return xr.Dataset(fields, {"time": times, "latitude": grid.latitude, "longitude": grid.longitude})


def lag_data(store: Path, pairs: int, patches: int) -> LagData:
    return LagData(
        str(store), **PERIODS, lags=LAGS, patch_size=SIZE, patches=patches, times=pairs // patches, batch_size=BATCH
    )


def cut(data: LagData, normalizer: Normalizer | None) -> Iterator[int]:
    dataset = data.dataset("train")
    for picks in GroupedBatchSampler(dataset, BATCH, shuffle=True):
        inputs = dataset[picks].inputs
        yield len((normalizer.normalize(inputs) if normalizer else inputs).values)


def write_records(file: IO[bytes], data: LagData, normalizer: Normalizer) -> Iterator[int]:
    dataset = data.dataset("train")
    for picks in GroupedBatchSampler(dataset, BATCH, shuffle=True):
        batch = dataset[picks].inputs
        lags = (batch.frame.time[:, 1] - batch.frame.time[:, 0]) // 10800
        for pair, lag in zip(normalizer.normalize(batch).values.numpy(), lags.tolist(), strict=True):
            body = struct.pack("<q", lag) + pair.tobytes()
            file.write(RECORD.pack(len(body), zlib.crc32(body)) + body)
        yield len(picks)
    file.flush()


def read_records(file: IO[bytes]) -> Iterator[int]:
    buffer: list[torch.Tensor] = []
    waiting: list[torch.Tensor] = []
    for pair in (*records(file), *[None] * BUFFER):
        if pair is not None:
            buffer.append(pair)
        if buffer and (pair is None or len(buffer) > BUFFER):
            waiting.append(buffer.pop(random.randrange(len(buffer))))
        if len(waiting) == BATCH:
            yield len(torch.stack(waiting))
            waiting = []


def records(file: IO[bytes]) -> Iterator[torch.Tensor]:
    while head := file.read(RECORD.size):
        length, checksum = RECORD.unpack(head)
        body = bytearray(file.read(length))
        assert zlib.crc32(body) == checksum
        yield torch.frombuffer(body, dtype=torch.float32, offset=8).reshape(2, 2, *SIZE)


def measure(epoch: Iterable[int]) -> float:
    start = time.process_time()
    pairs = sum(epoch)
    return pairs / (time.process_time() - start)


def written(path: Path, data: LagData, normalizer: Normalizer) -> float:
    with gzip.open(path, "wb", compresslevel=6) if path.suffix == ".gz" else path.open("wb") as file:
        return measure(write_records(file, data, normalizer))


def read(path: Path) -> float:
    with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as file:
        return measure(read_records(file))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=256)
    parser.add_argument("--repeat", type=int, default=5)
    arguments = parser.parse_args()
    random.seed(0)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        store = Path(scratch) / "store.zarr"
        prepare_dataset(synthetic(), store, sources=[])
        normalizer = Normalizer(Store(store).statistics, log1p=True)
        plain, zipped = Path(scratch) / "records", Path(scratch) / "records.gz"
        one, four = (lag_data(store, arguments.pairs, patches) for patches in (1, 4))
        writing = {path: written(path, four, normalizer) for path in (plain, zipped)}
        readers = {
            "cut, 4 places at each pair of times": lambda: measure(cut(four, None)),
            "cut, 1 place at each pair of times": lambda: measure(cut(one, None)),
            "cut (4 places) and normalised": lambda: measure(cut(four, normalizer)),
            "records, normalised": lambda: read(plain),
            "records, normalised, gzip": lambda: read(zipped),
        }
        # In turns, so that whatever else the machine does falls on all of them; the first round only warms up.
        rounds = [{name: each() for name, each in readers.items()} for _ in range(arguments.repeat + 1)]
        size = {path: path.stat().st_size / arguments.pairs / 1e3 for path in writing}
    medians = {name: statistics.median(one[name] for one in rounds[1:]) for name in readers}
    print(f"{'samples':38}{'pairs/s read':>13}{'written':>9}{'kB/pair':>9}{f'ms/pair, {EPOCHS} epochs':>21}")
    for name, path in zip(readers, (None, None, None, plain, zipped), strict=True):
        rate = medians[name]
        total = EPOCHS * 1e3 / rate + (1e3 / writing[path] if path else 0)
        disk = f"{writing[path]:9.0f}{size[path]:9.0f}" if path else f"{'–':>9}{0:9}"
        print(f"{name:38}{rate:13.0f}{disk}{total:21.0f}")


if __name__ == "__main__":
    main()
