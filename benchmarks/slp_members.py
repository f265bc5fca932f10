"""Members of sea-level pressure over the North Atlantic, beside a ridge regression with errors of its own.

Trains the recipe `slp_north_atlantic` with `members: 2` and several seeds, without what would make members differ in
training alone, takes the inflation of their noise whose CRPS is least in 2007, the year of validation, forecasts every
day of 2008 whose five days lie in 2008 with 16 members, and prints their fair CRPS in Pa, weighted by the cosine of
latitude, spread over error, and the root-mean-square error of their mean. The reference is the ridge of three days with
what it missed in 2007, which neither was fitted to: forecasts plus the errors of every fourth day of that year within
60 days of the season, 29 members.

    python benchmarks/slp_members.py slp_2001_2008.nc [--recipe slp_north_atlantic] [--seeds 3] [--out runs/slp_members]
"""

import argparse
import time
from pathlib import Path

import numpy as np
import xarray as xr

import etesian as et

LEADS = (24, 48, 72, 96, 120)
MEMBERS = 16
INFLATIONS = (1.0, 1.1, 1.2, 1.3, 1.4, 1.5)
YEAR, TEST = ("2007-01-01", "2007-12-26"), ("2008-01-01", "2008-12-26")
SEASON, APART = 60, 4
"""Days from the day of the year within which errors are taken, and between two of them."""


def main() -> None:
    """Make what is not there yet, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source")
    parser.add_argument("--recipe", default="slp_north_atlantic")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("runs/slp_members"))
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    store = et.prepare(options.source, options.out / "slp.zarr", train=("2001", "2006"))
    runs = []
    for seed in range(options.seeds):
        chosen = {"model.members": 2, "model.network.dropout": 0.0, "model.network.noise": 0.0}
        chosen |= {"seed_everything": seed, "data.seed": seed}
        begun, name = time.process_time(), f"{options.recipe}{seed}"
        run = et.fit(options.recipe, run=options.out / name, stores=[store], options=chosen)
        print(f"seed {seed}: {time.process_time() - begun:.0f} s of processor time", flush=True)
        runs.append(run)
    inflation = chosen_inflation(runs, store)
    made = {"ridge": dressed(store, et.open(options.source))}
    for seed, run in enumerate(runs):
        made[f"seed{seed}"] = run.forecast(store, TEST, LEADS, members=MEMBERS, inflation=inflation)
    report(et.evaluate(made, store, baselines=[], weights="cosine"), options.seeds)


def chosen_inflation(runs: list[et.Run], store: et.Store) -> float:
    """Return the inflation of least CRPS over every third day of 2007 and all leads; print what each gives."""
    found = {}
    for inflation in INFLATIONS:
        made = {
            f"seed{seed}": run.forecast(store, YEAR, LEADS, every=72, members=MEMBERS, inflation=inflation)
            for seed, run in enumerate(runs)
        }
        crps = et.evaluate(made, store, baselines=[], weights="cosine")["crps"].squeeze(drop=True).mean("forecast")
        print(f"2007, inflation {inflation}:" + "".join(f"{value:8.4g}" for value in crps.values), flush=True)
        found[inflation] = float(crps.mean())
    return min(found, key=found.__getitem__)


def dressed(store: et.Store, truth: xr.Dataset) -> xr.Dataset:
    """Return forecasts of the ridge for the test days with members that differ by errors of the year before."""
    ridge = et.baseline("ridge_3_days")
    known, wanted = (ridge.forecast(store, days, LEADS)["mean_sea_level_pressure"] for days in (YEAR, TEST))
    valid = known.time + known.prediction_timedelta
    errors = truth["mean_sea_level_pressure"].sel(time=valid.drop_vars("time")).drop_vars("time").load() - known.load()
    members = []
    for forecast in wanted.load().transpose("time", ...):
        apart = (forecast.time.dt.dayofyear - errors.time.dt.dayofyear + 183) % 366 - 183
        chosen = errors.isel(time=np.flatnonzero(np.abs(apart.values) <= SEASON)[::APART])
        members.append(forecast + chosen.rename(time="number").drop_vars("number"))
    fewest = min(each.sizes["number"] for each in members)
    same = [each.isel(number=slice(fewest)).assign_coords(number=range(fewest)) for each in members]
    return xr.concat(same, "time").to_dataset(name="mean_sea_level_pressure").assign_attrs(wanted.attrs)


def report(scores: xr.Dataset, seeds: int) -> None:
    """Print the scores of the ridge, of every seed, and of the seeds' mean with their standard deviation."""
    rows = ["ridge", *(f"seed{seed}" for seed in range(seeds))]
    for name in ("crps", "spread_skill", "rmse"):
        found = scores[name].squeeze(drop=True).sel(forecast=rows)
        print(f"{name:20}" + "".join(f"{lead:>11} h" for lead in LEADS))
        for row in rows:
            print(f"  {row:18}" + "".join(f"{value:13.4g}" for value in found.sel(forecast=row).values))
        seeded = found.sel(forecast=rows[1:])
        for title, values in (("mean of seeds", seeded.mean("forecast")), ("spread", seeded.std("forecast", ddof=1))):
            print(f"  {title:18}" + "".join(f"{value:13.4g}" for value in values.values))


if __name__ == "__main__":
    main()
