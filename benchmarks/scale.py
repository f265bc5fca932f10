"""What preparing, forecasting and evaluating take by the bytes of fields: the rates behind docs/scale.md.

Writes random fields of a year on two grids, the finer with four times the points, as a compressed Zarr store, and runs
the commands on one core. Prints, for each, the fields that go through it, what it writes, processor seconds, peak
memory, and the fields for each second that the finer grid takes longer, which leaves out what every start costs.

    OMP_NUM_THREADS=1 python benchmarks/scale.py [--degrees 5.625 2.8125] [--channels 8] [--out runs/scale]
"""

import argparse
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import xarray as xr

from etesian.core import Grid


def write(path: Path, degrees: float, channels: int) -> None:
    """Write the fields of a year, four a day, in chunks of one time."""
    grid, random = Grid.equiangular(degrees), np.random.default_rng(0)
    time = np.arange("2001-01-01", "2002-01-01", np.timedelta64(6, "h"), dtype="datetime64[ns]")
    levels = 1000 - 50 * np.arange(channels)
    values = 280 + random.standard_normal((time.size, channels, *grid.shape), dtype=np.float32).round(2)
    coordinates = {"time": time, "level": levels, "latitude": grid.latitude, "longitude": grid.longitude}
    dataset = xr.Dataset({"temperature": (tuple(coordinates), values, {"units": "K"})}, coordinates)
    dataset.to_zarr(path, mode="w", encoding={"temperature": {"chunks": (1, channels, *grid.shape)}})


def run(*words: object) -> tuple[float, float]:
    """Run a command; return its processor seconds and its peak memory in MiB."""
    command = [sys.executable, "-m", "etesian", *map(str, words)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, env=os.environ | {"OMP_NUM_THREADS": "1"})
    _, status, used = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{' '.join(command)} failed")
    return used.ru_utime + used.ru_stime, used.ru_maxrss / 1024


def size(folder: Path) -> float:
    """Return the MB of all files of a folder."""
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) / 1e6


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--degrees", type=float, nargs=2, default=[5.625, 2.8125])
    parser.add_argument("--channels", type=int, default=8)
    parser.add_argument("--out", type=Path, default=Path("runs/scale"))
    options = parser.parse_args()
    shutil.rmtree(options.out, ignore_errors=True)
    print("| command | grid | MB of fields | MB written | s | peak MiB | MB/s |\n|---|---|---:|---:|---:|---:|---:|")
    before: dict[str, tuple[float, float]] = {}
    for degrees in options.degrees:
        folder = options.out / str(degrees)
        source, store, made, scores = (folder / name for name in ("source", "store.zarr", "made.zarr", "scores"))
        write(source, degrees, options.channels)
        times = ("2001-07-01", "2001-09-30")
        for target, *words in (
            (store, "prepare", source, store, "--train-end", "2001-12-31"),
            (made, "forecast", "baseline:persistence", store, made, "--init", *times, "--leads", 24, 48, 72, 96),
            (scores, "evaluate", made, store, "--baselines", "none", "--out", scores),
        ):
            seconds, peak = run(*words)
            fields = xr.open_zarr(source if target == store else made, decode_timedelta=False).nbytes / 1e6
            name, rate = str(words[0]), ""
            if name in before:
                rate = f"{(fields - before[name][0]) / max(seconds - before[name][1], 1e-3):.0f}"
            before[name] = fields, seconds
            grid = "×".join(map(str, Grid.equiangular(degrees).shape))
            print(f"| {name} | {grid} | {fields:.0f} | {size(target):.0f} | {seconds:.1f} | {peak:.0f} | {rate} |")


if __name__ == "__main__":
    main()
