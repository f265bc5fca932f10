"""Sea-level pressure over the North Atlantic, 1 to 5 days ahead: the table in the README.

Prepares the store, trains `recipes/slp_north_atlantic.yaml` with several seeds, forecasts every day of 2008 whose five
days lie in 2008, and prints root-mean-square errors in Pa, weighted by the cosine of latitude, of every seed, of their
mean and spread, and of the baselines. Also prints the ridge regression that sees the same three days as the network.

    python benchmarks/slp.py slp_2001_2008.nc [--seeds 3] [--out runs/slp]
"""

import argparse
import subprocess
import sys
from pathlib import Path

import numpy as np
import xarray as xr

from etesian.forecast.baselines import BASELINES

LEADS = ("24", "48", "72", "96", "120")
REFERENCES = tuple(name for name in BASELINES if name != "climatology")
RECIPE = Path(__file__).parent.parent / "recipes" / "slp_north_atlantic.yaml"


def call(*words: object) -> None:
    """Run one command of `etesian`."""
    subprocess.run([sys.executable, "-m", "etesian", *map(str, words)], check=True)


def main() -> None:
    """Make what is not there yet, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("runs/slp"))
    options = parser.parse_args()
    store = options.out / "slp.zarr"
    call("prepare", options.source, store, "--train_start", 2001, "--train_end", 2006)
    forecasts = []
    for seed in range(options.seeds):
        run, forecast = options.out / f"seed{seed}", options.out / f"seed{seed}.zarr"
        call("fit", "-c", RECIPE, "--run", run, "--data.init_args.stores", f"[{store}]",
             "--seed_everything", seed, "--data.init_args.seed", seed)  # fmt: skip
        call("predict", run, store, forecast, "--init", "2008-01-01", "2008-12-26", "--leads", *LEADS)
        forecasts.append(forecast)
    scores = options.out / "scores"
    call(
        "evaluate",
        forecasts[0],
        store,
        "--others",
        *forecasts[1:],
        "--out",
        scores,
        "--weights",
        "cosine",
        "--baselines",
        *REFERENCES,
    )
    report(xr.open_dataset(scores / "scores.nc"), options.seeds)


def report(scores: xr.Dataset, seeds: int) -> None:
    """Print root-mean-square errors, one row per forecast."""
    rmse = scores["rmse"].squeeze()
    rows = {name: rmse.sel(forecast=name).values for name in (*REFERENCES, *(f"seed{seed}" for seed in range(seeds)))}
    trained = np.array([rows[f"seed{seed}"] for seed in range(seeds)])
    print(f"{'RMSE, Pa':20}" + "".join(f"{lead:>9} h" for lead in LEADS))
    for name, values in rows.items():
        print(f"{name:20}" + "".join(f"{value:11.1f}" for value in values))
    print(f"{'mean of seeds':20}" + "".join(f"{value:11.1f}" for value in trained.mean(0)))
    print(f"{'spread (std)':20}" + "".join(f"{value:11.1f}" for value in trained.std(0, ddof=1)))


if __name__ == "__main__":
    main()
