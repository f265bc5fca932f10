"""Ensembles of the quickstart's network by perturbed initial states, beside its single forecast.

Simulates the embedded planet, trains the recipe `planet_climax` with several seeds, and forecasts ten held-out initial
times with 8 members for each way of perturbing, all with the same amplitude. Nothing is chosen.

    python benchmarks/perturbations.py [--seeds 3] [--out runs/perturbations]
"""

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

import etesian as et

LEADS = (24, 72)
CHANNELS = ("geopotential_500", "temperature_850")
TEST = ("2001-07-08", "2001-09-05")
WAYS: dict[str, dict[str, Any]] = {
    "gaussian": {"amplitude": 0.2},
    "correlated": {"amplitude": 0.2, "length": 1500.0},
    "bred": {"amplitude": 0.2, "cycles": 2},
    "lagged": {"interval": 6},
}


def main() -> None:
    """Make what is not there yet, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("runs/perturbations"))
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    et.simulate("atmosphere", options.out / "planet.zarr", days=620)
    store = et.prepare(options.out / "planet.zarr", options.out / "store.zarr", train=(None, "2001-05-15"))
    runs = [
        et.fit("planet_climax", run=options.out / f"single{seed}", stores=[store],
               options={"seed_everything": seed, "data.seed": seed})
        for seed in range(options.seeds)
    ]  # fmt: skip
    every = []
    for seed, run in enumerate(runs):

        def forecast(run: et.Run = run, **options: Any) -> xr.Dataset:
            return run.forecast(store, TEST, LEADS, every=144, batch_size=64, **options)

        forecasts = {"single": forecast()}
        for way, chosen in WAYS.items():
            forecasts[way] = forecast(members=8, seed=seed, perturb=way, **chosen)
        every.append(et.evaluate(forecasts, store, baselines=[], channels=CHANNELS).isel(region=0))
    scores = xr.concat(every, "seed", data_vars="all", coords="minimal", compat="override", join="override")
    for channel in CHANNELS:
        for name in ("single", *WAYS):
            print(f"{channel:18}{name:12}", end="")
            for score in ("crps", "rmse", "spread_skill"):
                values = scores[score].sel(channel=channel, forecast=name).transpose("seed", "lead_time").values
                spread = np.std(values, axis=0, ddof=1) if len(values) > 1 else np.full(len(LEADS), np.nan)
                shown = (f"{mean:.4g} ± {std:.2g}" for mean, std in zip(values.mean(0), spread, strict=True))
                print(f"  {score}", *shown, end="")
            print()


if __name__ == "__main__":
    main()
