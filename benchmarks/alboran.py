"""Real clouds over the Alboran Sea: gaps filled by kriging, by every baseline and by trained runs, at withheld pixels.

Takes the ten days of AVHRR sea surface temperature that come with DINEOF and, once for each seed, hides a tenth of what
was observed under the clouds of other days (the same holes for all), fills the rest, and prints errors at the withheld
pixels and how many of these lie in the stated 90 % intervals. `--fit` fits the covariance of GapFiller's kriging for
each seed first, which takes about two minutes of one core; with --epochs beyond 1 its layers learn, too.

    python benchmarks/alboran.py alboranSST_small.nc --seeds 0 1 2 3 4 --fit [--runs NAME=RUN_{seed} ...]
"""

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

import etesian as et
from etesian.fill.dineof import withhold
from etesian.fill.interpolate import Gappy

NAME = "sea_surface_temperature"
KELVIN = 273.15


def read(path: str) -> xr.Dataset:
    """Return the days in kelvin, with land where the file's mask has it; what lies on land is left out."""
    raw = xr.open_dataset(path)
    sea = raw["mask"].values > 0.5
    values = np.where(sea, raw["SST"].values + KELVIN, np.nan).astype(np.float32)
    return xr.Dataset(
        {
            NAME: (("time", "latitude", "longitude"), values, {"units": "K"}),
            "land_sea_mask": (("latitude", "longitude"), (~sea).astype(np.float32), {"units": "1"}),
        },
        {"time": raw.time.values, "latitude": raw.lat.values, "longitude": raw.lon.values},
    )


def hide(days: xr.Dataset, share: float, seed: int) -> xr.Dataset:
    """Return the days without a share of their observations, hidden under the clouds of other days."""
    seconds = days.time.values.astype("datetime64[s]").astype(np.int64)
    grid = et.Grid(days.latitude.values, days.longitude.values)
    values = days[NAME].values.astype(np.float64)
    data = Gappy(values, days.land_sea_mask.values < 0.5, seconds / 86400, grid)
    hidden = withhold(data, share, "clouds", seed)
    return days.assign({NAME: days[NAME].where(~hidden)})


def options(observed: Path, days: xr.Dataset) -> dict[str, Any]:
    """Return how the recipe is changed: days of half of the period to learn on, whole fields, kriging."""
    dates = [str(time)[:10] for time in days.time.values]
    half = len(dates) // 2
    data = {
        "observed": str(observed), "truth": None, "target": "daily", "train": [dates[0], dates[half - 1]],
        "validate": [dates[half], dates[-1]], "test": None, "margin": 0, "hide": 0.5,
    }  # fmt: skip
    # Patches that 201 × 301 points are multiples of.
    network = {"patch": [3, 7], "daily": True, "dim": 32, "hidden": 16, "residual": "kriging"}
    return {
        **{f"data.init_args.{key}": value for key, value in data.items()},
        **{f"model.init_args.network.init_args.{key}": value for key, value in network.items()},
        "model.init_args.anomalies": False,
        "trainer.num_sanity_val_steps": 0,
    }


def judge(settings: argparse.Namespace, days: xr.Dataset, seed: int) -> pd.DataFrame:
    """Return the scores of one seed, by name."""
    folder = settings.out / str(seed)
    truth = et.prepare(days, settings.out / "all.zarr")
    observed = et.prepare(hide(days, settings.share, seed), folder / "observed.zarr")
    first, last = (str(end)[:10] for end in days.time.values[[0, -1]])
    months = first[:7], last[:7]
    filled = {}
    if settings.fit:
        chosen = options(folder / "observed.zarr", days)
        run = et.fit("gapfill_sst", run=folder / "run", epochs=settings.epochs, options=chosen)
        filled["kriging"] = run.fill(observed, months)
    for text in settings.runs:
        name, _, path = text.partition("=")
        filled[name] = et.load(path.format(seed=seed)).fill(observed, months)
    rest = list(settings.baselines)
    if not filled:
        name = rest.pop()
        filled[name] = et.baseline(name).fill(observed, (first, last), target="daily")
    scores = et.evaluate(filled, truth, observed=observed, baselines=rest)
    wanted = ["rmse", "bias", "crps", "coverage_90"]
    return scores[wanted].isel(channel=0).sel(region="gaps").to_dataframe()[wanted]


def main() -> None:
    """Make what is not there yet, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source")
    parser.add_argument("--fit", action="store_true")
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--runs", nargs="*", default=[])
    parser.add_argument("--baselines", nargs="*", default=["linear", "optimal_interpolation", "dineof"])
    parser.add_argument("--share", type=float, default=0.1)
    parser.add_argument("--seeds", nargs="*", type=int, default=[0])
    parser.add_argument("--out", type=Path, default=Path("runs/alboran"))
    settings = parser.parse_args()
    settings.out.mkdir(parents=True, exist_ok=True)
    days = read(settings.source)
    tables = {}
    for seed in settings.seeds:
        tables[seed] = judge(settings, days, seed)
        print(f"seed {seed}\n{tables[seed].round(3)}", flush=True)
    every = pd.concat(tables, names=["seed"]).groupby("forecast")
    print(f"mean over seeds\n{every.mean().round(3)}\nstandard deviation\n{every.std().round(3)}")


if __name__ == "__main__":
    main()
