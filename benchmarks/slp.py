"""Sea-level pressure over the North Atlantic, 1 to 5 days ahead: the tables in the README and docs/regions.md.

Prepares the store, trains a recipe with several seeds, by default `slp_north_atlantic`, forecasts every day of 2008
whose five days lie in 2008, and prints root-mean-square errors in Pa, weighted by the cosine of latitude, of every
seed, of their mean and spread, and of the baselines, among them the ridge regression that sees the same three days.

    python benchmarks/slp.py slp_2001_2008.nc [--recipe slp_climax] [--seeds 3] [--out runs/slp]
"""

import argparse
from pathlib import Path

import numpy as np
import xarray as xr

import etesian as et
from etesian.forecast.baselines import BASELINES

LEADS = (24, 48, 72, 96, 120)
REFERENCES = tuple(name for name in BASELINES if name != "climatology")


def main() -> None:
    """Make what is not there yet, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source")
    parser.add_argument("--recipe", default="slp_north_atlantic")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("runs/slp"))
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    store = et.prepare(options.source, options.out / "slp.zarr", train=("2001", "2006"))
    forecasts, folder = {}, options.out / options.recipe
    for seed in range(options.seeds):
        name, seeded = f"seed{seed}", {"seed_everything": seed, "data.seed": seed}
        run = et.fit(options.recipe, run=folder / name, stores=[store], options=seeded)
        forecasts[name] = folder / f"{name}.zarr"
        run.forecast(store, ("2008-01-01", "2008-12-26"), LEADS, out=forecasts[name])
    scores = et.evaluate(
        forecasts, store, baselines=REFERENCES, weights="cosine", out=folder / "scores", overwrite=True
    )
    report(scores, options.seeds)


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
