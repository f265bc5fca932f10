"""What pretraining on other planets is worth to one of which a few months are known: the tables in README and recipes.

Simulates three planets that differ in their climate and learns the third from its last 30, 60 or 120 days before the
validation period: from scratch; from a ClimaX that was trained to forecast the other two for three epochs; and from
one that was first trained to reconstruct what is hidden of them for one epoch, and then to forecast them for two. Every
seed has pretrainings of its own, and fine-tuning takes as many steps each time. The learning rates were chosen on the
validation period with seed 0 and 60 days. Prints root-mean-square errors on held-out days, mean ± standard deviation
over seeds, and processor seconds of training.

    python benchmarks/pretraining.py [--days 30 60 120] [--seeds 3] [--part test] [--out runs/pretraining]
"""

import argparse
import time
from contextlib import chdir
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

import etesian as et

LEADS = (24, 72, 120)
CHANNELS = ("geopotential_500", "temperature_850")
REFERENCES = ("persistence", "seasonal_cycle")
PLANETS = {
    "warm": {"days": 500, "seed": 1, "contrast": 50.0},
    "cold": {"days": 500, "seed": 2, "contrast": 70.0, "levels": [100, 500, 850]},
    "target": {"days": 620},
}
LAST_DAY = "2001-05-15"
PERIODS = {"validate": ("2001-05-16", "2001-06-25"), "test": ("2001-07-01", "2001-09-05")}
RATES = {"scratch": 2.0e-3, "pretrained": 2.0e-4, "masked first": 2.0e-4}
EPOCH_DAYS = 240
"""Epochs times days of the target planet: about 110 steps."""


def main() -> None:
    """Make what is not there yet, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--days", type=int, nargs="+", default=[30, 60, 120])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--part", choices=tuple(PERIODS), default="test")
    parser.add_argument("--out", type=Path, default=Path("runs/pretraining"))
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    with chdir(options.out):  # where the recipes look for their stores
        for name, simulated in PLANETS.items():
            et.simulate("atmosphere", f"{name}.raw.zarr", **simulated)
        for name in ("warm", "cold"):
            et.prepare(f"{name}.raw.zarr", f"runs/planets/{name}.zarr", train=(None, "2001-03-31"))
        others = {seed: pretrained(seed) for seed in range(options.seeds)}
        for days in options.days:
            report(days, fine_tuned(days, others, options.part), options.seeds)


def train(recipe: str, name: str, seed: int, **options: Any) -> et.Run:
    """Return a run, and print the processor time of its training."""
    begun = time.process_time()
    seeded = {"seed_everything": seed, "data.seed": seed, "trainer.enable_progress_bar": False}
    run = et.fit(recipe, run=f"runs/{name}_{seed}", options=seeded | options)
    print(f"{name} {seed}: {time.process_time() - begun:.0f} s", flush=True)
    return run


def pretrained(seed: int) -> dict[str, et.Run]:
    """Return the network that forecasts the other planets, from scratch and from what reconstructs them."""
    masked = train("pretrain_masked_planets", "masked", seed)
    onward = {"model.start.checkpoint": str(masked.path), "trainer.max_epochs": 2}
    return {
        "pretrained": train("pretrain_planets", "pretrained", seed),
        "masked first": train("pretrain_planets", "masked_first", seed, **onward),
    }


def fine_tuned(days: int, others: dict[int, dict[str, et.Run]], part: str) -> xr.Dataset:
    """Train all ways on the last days of the target planet, and return their scores in a period."""
    first = str(np.datetime64(LAST_DAY) - np.timedelta64(days - 1, "D"))
    store = et.prepare("target.raw.zarr", f"runs/planets/target_{days}.zarr", train=(first, LAST_DAY))
    epochs = EPOCH_DAYS // days
    known = {
        "data.stores": [str(store.path)], "data.train": [first, LAST_DAY],
        "trainer.max_epochs": epochs, "trainer.check_val_every_n_epoch": max(1, epochs // 2),
    }  # fmt: skip
    runs = {}
    for seed, begun in others.items():
        for way, rate in RATES.items():
            start = {"model.start": None} if way == "scratch" else {"model.start.checkpoint": str(begun[way].path)}
            chosen = known | start | {"model.optimizer.lr": rate}
            runs[f"{way} {seed}"] = train("finetune_planet", f"{way.replace(' ', '_')}_{days}", seed, **chosen)
        runs |= {f"{way} alone {seed}": run for way, run in begun.items()}
    forecasts = {name: Path(f"forecasts/{name.replace(' ', '_')}_{days}_{part}.zarr") for name in runs}
    for name, run in runs.items():
        run.forecast(store, PERIODS[part], LEADS, out=forecasts[name])
    out = f"scores_{days}_{part}"
    return et.evaluate(forecasts, store, baselines=REFERENCES, channels=CHANNELS, out=out, overwrite=True)


def report(days: int, scores: xr.Dataset, seeds: int) -> None:
    """Print root-mean-square errors: mean and standard deviation over seeds."""
    rmse = scores["rmse"].isel(region=0)
    for channel in CHANNELS:
        print(f"{days} days: {channel:28}" + "".join(f"{lead:>14} h" for lead in LEADS))
        for name in REFERENCES:
            print(f"  {name:36}" + "".join(f"{v:16.4g}" for v in rmse.sel(forecast=name, channel=channel).values))
        for way in ("pretrained alone", "masked first alone", *RATES):
            own = rmse.sel(forecast=[f"{way} {seed}" for seed in range(seeds)], channel=channel).values
            cells = [f"{m:.4g} ± {s:.2g}" for m, s in zip(own.mean(0), own.std(0, ddof=seeds > 1), strict=True)]
            print(f"  {way:36}" + "".join(f"{cell:>16}" for cell in cells))


if __name__ == "__main__":
    main()
