"""The embedded planet, 1 to 5 days ahead: the table of `etesian quickstart` in the README, with several seeds.

Simulates the planet, trains the recipe `planet_climax` with several seeds, forecasts 134 held-out initial times, and
prints root-mean-square errors of every seed, of their mean and spread, and of the baselines, with the processor time of
training.

    python benchmarks/planet.py [--seeds 3] [--out runs/planet]
"""

import argparse
import time
from pathlib import Path

import numpy as np
import xarray as xr

import etesian as et

LEADS = (24, 48, 72, 96, 120)
CHANNELS = ("geopotential_500", "temperature_850")
REFERENCES = ("persistence", "climatology", "seasonal_cycle")


def main() -> None:
    """Make what is not there yet, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("runs/planet"))
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    et.simulate("atmosphere", options.out / "planet.zarr", days=620)
    store = et.prepare(options.out / "planet.zarr", options.out / "store.zarr", train=(None, "2001-05-15"))
    forecasts = {}
    for seed in range(options.seeds):
        name, begun = f"seed{seed}", time.process_time()
        seeded = {"seed_everything": seed, "data.seed": seed}
        run = et.fit("planet_climax", run=options.out / name, stores=[store], options=seeded)
        print(f"{name}: {time.process_time() - begun:.0f} s of processor time")
        forecasts[name] = options.out / f"{name}.zarr"
        run.forecast(store, ("2001-07-01", "2001-09-05"), LEADS, every=12, out=forecasts[name])
    scores = et.evaluate(
        forecasts, store, baselines=REFERENCES, channels=CHANNELS, out=options.out / "scores", overwrite=True
    )
    report(scores, list(forecasts))


def report(scores: xr.Dataset, seeds: list[str]) -> None:
    """Print root-mean-square errors, one row per forecast."""
    rmse = scores["rmse"].isel(region=0)
    for channel in CHANNELS:
        print(f"{channel:20}" + "".join(f"{lead:>9} h" for lead in LEADS))
        own = rmse.sel(channel=channel)
        for name in (*REFERENCES, *seeds):
            print(f"  {name:18}" + "".join(f"{value:11.4g}" for value in own.sel(forecast=name).values))
        trained = own.sel(forecast=seeds).values
        print(f"  {'mean of seeds':18}" + "".join(f"{value:11.4g}" for value in trained.mean(0)))
        print(f"  {'spread (std)':18}" + "".join(f"{value:11.2g}" for value in np.std(trained, axis=0, ddof=1)))


if __name__ == "__main__":
    main()
