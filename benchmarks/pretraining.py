"""What pretraining on other planets is worth to a planet of which sixty days are known: the table in the README.

Simulates three planets that differ in their climate, pretrains ClimaX on two of them, and learns the third from sixty
days, once from scratch and once from the pretrained weights, for the same number of steps, with several seeds each. The
learning rate of each was chosen on the validation period with seed 0. Prints root-mean-square errors on held-out days.

    python benchmarks/pretraining.py [--seeds 3] [--out runs/pretraining]
"""

import argparse
from contextlib import chdir
from pathlib import Path

import numpy as np
import xarray as xr

import etesian as et

LEADS = (24, 48, 72, 96, 120)
CHANNELS = ("geopotential_500", "temperature_850")
REFERENCES = ("persistence", "seasonal_cycle")
PLANETS = {
    "warm": ({"days": 500, "seed": 1, "contrast": 50.0}, (None, "2001-03-31")),
    "cold": ({"days": 500, "seed": 2, "contrast": 70.0, "levels": [100, 500, 850]}, (None, "2001-03-31")),
    "target": ({"days": 620}, ("2001-03-17", "2001-05-15")),
}
RATES = {"scratch": 2.0e-3, "pretrained": 5.0e-4}


def main() -> None:
    """Make what is not there yet, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("runs/pretraining"))
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    with chdir(options.out):  # where the recipes look for their stores
        report(trained(options.seeds), options.seeds)


def trained(seeds: int) -> xr.Dataset:
    """Train whatever is not trained yet, and return the scores of all."""
    for name, (simulated, period) in PLANETS.items():
        et.simulate("atmosphere", f"{name}.raw.zarr", **simulated)
        et.prepare(f"{name}.raw.zarr", f"runs/planets/{name}.zarr", train=period)
    runs = {"untuned": et.fit("pretrain_planets")}
    for way, rate in RATES.items():
        for seed in range(seeds):
            chosen = {"seed_everything": seed, "data.seed": seed, "model.optimizer.lr": rate}
            start = {"model.start": None} if way == "scratch" else {}
            name = f"{way}{seed}"
            runs[name] = et.fit("finetune_planet", run=f"runs/{name}", options=chosen | start)
    target, period = "runs/planets/target.zarr", ("2001-07-01", "2001-09-05")
    forecasts = {name: Path(f"{name}.zarr") for name in runs}
    for name, run in runs.items():
        run.forecast(target, period, LEADS, out=forecasts[name])
    return et.evaluate(forecasts, target, baselines=REFERENCES, channels=CHANNELS, out="scores", overwrite=True)


def report(scores: xr.Dataset, seeds: int) -> None:
    """Print root-mean-square errors: mean and standard deviation over seeds."""
    rmse = scores["rmse"].isel(region=0)
    for channel in CHANNELS:
        print(f"{channel:28}" + "".join(f"{lead:>12} h" for lead in LEADS))
        for name in (*REFERENCES, "untuned"):
            print(f"  {name:26}" + "".join(f"{v:14.4g}" for v in rmse.sel(forecast=name, channel=channel).values))
        for way in RATES:
            own = rmse.sel(forecast=[f"{way}{seed}" for seed in range(seeds)], channel=channel).values
            cells = [f"{m:.4g} ± {s:.2g}" for m, s in zip(own.mean(0), np.std(own, axis=0, ddof=1), strict=True)]
            print(f"  {way:26}" + "".join(f"{cell:>14}" for cell in cells))


if __name__ == "__main__":
    main()
