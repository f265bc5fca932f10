"""One training step of every recipe at the original's size, and of every way to fine-tune, on random fields.

Writes synthetic stores (48 variables at 5.625° and at 1.40625°; five sources that differ in variables), runs
`etesian fit` for one step and for nine, and prints processor seconds of the first command, those of a further step,
and the peak memory. Fine-tuning begins with the weights that the recipe's own step has left.

    python benchmarks/full_size.py [--out runs/full_size] [--batch 1] [--recipes climax_5.625 …] [--tune climax_5.625]
"""

import argparse
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import xarray as xr

from etesian.core.grid import Grid
from etesian.store.prepare import prepare_dataset

LEVELS = (50, 250, 500, 600, 700, 850, 925)
SURFACE = {"2m_temperature": "K", "10m_u_component_of_wind": "m s-1", "10m_v_component_of_wind": "m s-1"}
UPPER = {
    "geopotential": "m2 s-2",
    "u_component_of_wind": "m s-1",
    "v_component_of_wind": "m s-1",
    "temperature": "K",
    "relative_humidity": "%",
    "specific_humidity": "kg kg-1",
}
STATICS = {"land_sea_mask": "1", "orography": "m", "latitude_field": "degrees"}
PERIODS = ("[2000-01-01,2000-01-10]", "[2000-01-11,2000-01-14T18]")
CASES = {
    "climax_5.625": {"era5_5.625": (5.625, tuple(UPPER), 6)},
    "climax_1.40625": {"era5_1.40625": (1.40625, tuple(UPPER), 6)},
    "climax_pretrain_cmip6": {
        name: (5.625, tuple(UPPER)[:count], 6)
        for name, count in (("mpi-esm", 6), ("taiesm", 6), ("awi-esm", 5), ("hammoz", 6), ("cmcc", 4))
    },
}
WAYS = {
    "all": [],
    "embeddings, norms, head": ["--model.init_args.start.train=[embeddings, norms, head]"],
    "head": ["--model.init_args.start.train=[head]"],
    "lora, head": ["--model.init_args.start.train=[lora, head]", "--model.init_args.network.init_args.lora_rank=8"],
}


def random_store(path: Path, resolution: float, upper: tuple[str, ...], step_hours: int) -> None:
    """Write two weeks of random fields."""
    if path.exists():
        return
    grid, random = Grid.equiangular(resolution), np.random.default_rng(0)
    steps = 14 * 24 // step_hours
    time_axis = np.datetime64("2000-01-01", "ns") + np.arange(steps) * np.timedelta64(step_hours, "h")
    flat = ("time", "latitude", "longitude")
    fields = {
        n: (flat, random.standard_normal((steps, *grid.shape), np.float32), {"units": u}) for n, u in SURFACE.items()
    }
    for name in upper:
        values = random.standard_normal((steps, len(LEVELS), *grid.shape), np.float32)
        fields[name] = (("time", "level", *flat[1:]), values, {"units": UPPER[name]})
    for name, units in STATICS.items():
        fields[name] = (flat[1:], random.standard_normal(grid.shape, np.float32), {"units": units})
    axes = {"time": time_axis, "level": list(LEVELS), "latitude": grid.latitude, "longitude": grid.longitude}
    prepare_dataset(xr.Dataset(fields, axes), path, train_end="2000-01-10")


def measured(command: list[str], log: Path) -> tuple[float, float]:
    """Run a command and return its processor seconds and its peak memory in GiB."""
    with log.open("w") as said:
        process = subprocess.Popen(command, stdout=said, stderr=said)
        _, status, used = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{' '.join(command)} failed; see {log}")
    return used.ru_utime + used.ru_stime, used.ru_maxrss / 1024**2


def main() -> None:
    """Run one step of each recipe, and of each way to fine-tune."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/full_size"))
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--recipes", nargs="*", choices=list(CASES), default=list(CASES))
    parser.add_argument("--tune", choices=list(CASES), help="recipe whose network is fine-tuned in every way")
    options = parser.parse_args()
    cases = [(name, name, ["--model.init_args.start=null"]) for name in options.recipes]
    if options.tune:
        begin = f"--model.init_args.start.checkpoint={options.out / options.tune}-1"
        cases += [(f"fine-tuning {way}", options.tune, [begin, *words]) for way, words in WAYS.items()]
    print(f"{'':36}  start and step, s  a step, s  peak, GiB")
    for label, name, words in cases:
        stores = []
        for store, content in CASES[name].items():
            random_store(options.out / f"{store}.zarr", *content)
            stores.append(str(options.out / f"{store}.zarr"))
        command = [sys.executable, "-m", "etesian", "fit", name, "--stores", *stores, "--epochs", "1"]
        command += [f"--data.init_args.train={PERIODS[0]}", f"--data.init_args.validate={PERIODS[1]}"]
        command += ["--data.init_args.test=null", "--data.init_args.leads=[72,168]", "--trainer.callbacks=null"]
        command += [f"--data.init_args.batch_size={options.batch}", "--data.init_args.workers=0"]
        command += ["--trainer.limit_val_batches=0", *words]
        results = []
        for steps in (1, 9):
            run = options.out / f"{label.replace(', ', '-').replace(' ', '-')}-{steps}"
            log = options.out / "log.txt"
            results.append(measured([*command, "--run", str(run), f"--trainer.max_steps={steps}"], log))
        (first, _), (ninth, peak) = results
        print(f"{label:36}  {first:17.1f}  {(ninth - first) / 8:9.1f}  {peak:9.1f}", flush=True)


if __name__ == "__main__":
    main()
