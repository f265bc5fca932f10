"""Years of the embedded planet: an ensemble rolled out free, against the climate that it was trained on.

Trains the recipe `planet_members` with several seeds, forecasts from the first state of the test period without any
further look at the planet, and prints for each seed, over the whole time and the globe: the bias of the mean and the
standard deviation of the years, both beside the planet's, and how the area mean of surface pressure drifts. Means and
standard deviations are by grid point over time; the planet's own are of 620 days, which are known to some per cent
only: the last columns are what its first and second half differ by.

With the folder of `members.py` its ensembles are taken, which are trained in the same way.

    python benchmarks/ten_years.py [--years 10] [--seeds 5] [--out runs/members]
"""

import argparse
import time
from pathlib import Path

import numpy as np
import xarray as xr

import etesian as et

CHANNELS = {"geopotential": 500, "temperature": 850, "u_component_of_wind": 250, "surface_pressure": None}
EVERY = 5
"""Days between the states that are kept."""


def main() -> None:
    """Make what is not there yet, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--years", type=float, default=10)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path("runs/members"))
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    et.simulate("atmosphere", options.out / "planet.zarr", days=620)
    store = et.prepare(options.out / "planet.zarr", options.out / "store.zarr", train=(None, "2001-05-15"))
    truth = et.open(options.out / "planet.zarr")
    leads = range(24 * EVERY, int(365.25 * 24 * options.years) + 1, 24 * EVERY)
    for seed in range(options.seeds):
        seeded = {"seed_everything": seed, "data.seed": seed}
        run = et.fit("planet_members", run=options.out / f"members{seed}", stores=[store], options=seeded)
        begun = time.process_time()
        out = options.out / f"years{seed}.zarr"
        forecast = run.forecast(store, ("2001-07-01", "2001-07-01"), leads, members=1, seed=seed, out=out)
        print(f"seed {seed}: {options.years:g} years in {time.process_time() - begun:.0f} s of processor time")
        report(forecast.isel(time=0, number=0), truth)


def report(years: xr.Dataset, truth: xr.Dataset) -> None:
    """Print how the climate of the years compares with the planet's."""
    weight = np.cos(np.radians(truth.latitude))
    print(f"  {'':24}{'not a number':>14}{'bias / std':>12}{'std / std':>12}{'halves: bias':>14}{'std':>8}")
    for name, level in CHANNELS.items():
        ours, known = (each[name] if level is None else each[name].sel(level=level) for each in (years, truth))
        known = known.transpose("time", "latitude", "longitude").isel(time=slice(0, None, 4)).load()
        ours = ours.rename(prediction_timedelta="step").transpose("step", "latitude", "longitude").load()
        half = known.sizes["time"] // 2
        first, second = known.isel(time=slice(0, half)), known.isel(time=slice(half, None))
        missing = int(ours.isnull().sum())
        numbers = (*_compared(ours, "step", known, weight), *_compared(first, "time", second, weight))
        label = name if level is None else f"{name}_{level}"
        print(f"  {label:24}{missing:14}{numbers[0]:12.3f}{numbers[1]:12.3f}{numbers[2]:14.3f}{numbers[3]:8.3f}")
    mean = years.surface_pressure.weighted(weight).mean(("latitude", "longitude")).values
    elapsed = np.arange(len(mean)) * EVERY / 365.25
    drift = np.polyfit(elapsed, mean, 1)[0] / mean[0]
    ends = f"between {mean.min():.1f} and {mean.max():.1f} Pa"
    print(f"  area mean of surface pressure: {100 * drift:+.4f} % a year, {ends}")


def _compared(ours: xr.DataArray, along: str, known: xr.DataArray, weight: xr.DataArray) -> tuple[float, float]:
    """Return the root-mean-square of the difference of means over the deviation, and the ratio of the deviations."""
    horizontal = ("latitude", "longitude")
    variance = known.var("time").weighted(weight).mean(horizontal)
    bias = ((ours.mean(along) - known.mean("time")) ** 2).weighted(weight).mean(horizontal)
    ratio = ours.var(along).weighted(weight).mean(horizontal) / variance
    return float(np.sqrt(bias / variance)), float(np.sqrt(ratio))


if __name__ == "__main__":
    main()
