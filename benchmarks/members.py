"""An ensemble of the embedded planet, 1 to 5 days ahead, beside the network that makes one forecast.

Simulates the planet, trains the recipes `planet_climax` and `planet_members` with several seeds, forecasts 134 held-out
initial times with one forecast and with 8 members, and prints fair CRPS (of one forecast the mean absolute
error), root-mean-square errors (of 8 members that of their mean), spread over error, and how lively one member is.

    python benchmarks/members.py [--seeds 3] [--out runs/members]
"""

import argparse
import time
from pathlib import Path

import numpy as np
import xarray as xr

import etesian as et

LEADS = (24, 48, 72, 96, 120)
CHANNELS = ("geopotential_500", "temperature_850")
MEMBERS, INFLATION = 8, 1.06
TEST = ("2001-07-01", "2001-09-05")


def main() -> None:
    """Make what is not there yet, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("runs/members"))
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    et.simulate("atmosphere", options.out / "planet.zarr", days=620)
    store = et.prepare(options.out / "planet.zarr", options.out / "store.zarr", train=(None, "2001-05-15"))
    found = []
    for seed in range(options.seeds):
        forecasts: dict[str, xr.Dataset] = {}
        for name, recipe, members in (("single", "planet_climax", None), ("members", "planet_members", MEMBERS)):
            begun, seeded = time.process_time(), {"seed_everything": seed, "data.seed": seed}
            run = et.fit(recipe, run=options.out / f"{name}{seed}", stores=[store], options=seeded)
            print(f"{name}, seed {seed}: {time.process_time() - begun:.0f} s of processor time")
            chosen = {} if members is None else {"members": members, "inflation": INFLATION}
            out = options.out / f"{name}{seed}.zarr"
            forecasts[name] = run.forecast(store, TEST, LEADS, every=12, out=out, **chosen)
        forecasts["one member"] = forecasts["members"].isel(number=0, drop=True)
        found.append(et.evaluate(forecasts, store, baselines=[], channels=CHANNELS).isel(region=0))
    report(xr.concat(found, "seed", data_vars="all", coords="minimal", compat="override", join="override"))


def report(scores: xr.Dataset) -> None:
    """Print the means of the seeds and their spread, one row per score and forecast."""
    rows = [
        ("crps", "members", "CRPS of members"),
        ("mae", "single", "MAE of one forecast"),
        ("rmse", "members", "RMSE of members' mean"),
        ("rmse", "single", "RMSE of one forecast"),
        ("spread_skill", "members", "spread over error"),
        ("activity", "one member", "activity of a member"),
        ("activity", "single", "activity of one forecast"),
    ]
    for channel in CHANNELS:
        print(f"{channel:26}" + "".join(f"{lead:>18} h" for lead in LEADS))
        for score, forecast, title in rows:
            values = scores[score].sel(channel=channel, forecast=forecast).transpose("seed", "lead_time").values
            spread = np.std(values, axis=0, ddof=1) if len(values) > 1 else np.full(len(LEADS), np.nan)
            shown = (f"{mean:.4g} ± {std:.2g}" for mean, std in zip(values.mean(0), spread, strict=True))
            print(f"  {title:24}" + "".join(f"{text:>20}" for text in shown))


if __name__ == "__main__":
    main()
