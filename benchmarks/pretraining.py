"""What pretraining on other planets is worth to a planet of which sixty days are known: the table in the README.

Simulates three planets that differ in their climate, pretrains ClimaX on two of them, and learns the third from sixty
days, once from scratch and once from the pretrained weights, for the same number of steps, with several seeds each. The
learning rate of each was chosen on the validation period with seed 0. Prints root-mean-square errors on held-out days.

    python benchmarks/pretraining.py [--seeds 3] [--out runs/pretraining]
"""

import argparse
import subprocess
import sys
from pathlib import Path

import numpy as np
import xarray as xr

RECIPES = Path(__file__).resolve().parent.parent / "recipes"
LEADS = ("24", "48", "72", "96", "120")
CHANNELS = ("geopotential_500", "temperature_850")
REFERENCES = ("persistence", "seasonal_cycle")
PLANETS = {
    "warm": (["--days", "500", "--seed", "1", "--contrast", "50"], ["--train_end", "2001-03-31"]),
    "cold": (
        ["--days", "500", "--seed", "2", "--contrast", "70", "--levels", "100", "500", "850"],
        ["--train_end", "2001-03-31"],
    ),
    "target": (["--days", "620"], ["--train_start", "2001-03-17", "--train_end", "2001-05-15"]),
}
RATES = {"scratch": "2.0e-3", "pretrained": "5.0e-4"}


def main() -> None:
    """Make what is not there yet, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("runs/pretraining"))
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)

    def call(*words: object) -> None:
        subprocess.run([sys.executable, "-m", "etesian", *map(str, words)], check=True, cwd=options.out)

    for name, (simulated, prepared) in PLANETS.items():
        call("simulate", f"{name}.raw.zarr", *simulated)
        call("prepare", f"{name}.raw.zarr", f"runs/planets/{name}.zarr", *prepared)
    call("fit", "-c", RECIPES / "pretrain_planets.yaml", "--run", "runs/pretrain_planets")
    period = ("--init", "2001-07-01", "2001-09-05", "--leads", *LEADS)
    forecasts = []

    def predict(run: str, name: str) -> None:
        if not (options.out / f"{name}.zarr").exists():
            call("predict", run, "runs/planets/target.zarr", f"{name}.zarr", *period)
        forecasts.append(f"{name}.zarr")

    for way, rate in RATES.items():
        for seed in range(options.seeds):
            run = f"runs/{way}{seed}"
            words = ["fit", "-c", RECIPES / "finetune_planet.yaml", "--run", run, "--seed_everything", seed]
            words += ["--data.init_args.seed", seed, "--model.init_args.optimizer.init_args.lr", rate]
            call(*words, *(["--model.init_args.start", "null"] if way == "scratch" else []))
            predict(run, f"{way}{seed}")
    predict("runs/pretrain_planets", "untuned")
    call("evaluate", forecasts[0], "runs/planets/target.zarr", "--others", *forecasts[1:], "--out", "scores",
         "--baselines", *REFERENCES, "--channels", *CHANNELS)  # fmt: skip
    report(xr.open_dataset(options.out / "scores" / "scores.nc"), options.seeds)


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
