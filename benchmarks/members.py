"""An ensemble of the embedded planet, 1 to 5 days ahead, beside the network that makes one forecast.

Simulates the planet, trains the recipes `planet_climax` and `planet_members` with several seeds, forecasts 134 held-out
initial times with one forecast and with 8 members, and prints fair CRPS (of one forecast the mean absolute
error), root-mean-square errors (of 8 members that of their mean), spread over error, and how lively one member is; then
the same for 5 to 14 days beside the climatology, from 29 initial times.

    python benchmarks/members.py [--seeds 3] [--out runs/members]
"""

import argparse
import time
from pathlib import Path

import numpy as np
import xarray as xr

import etesian as et

LEADS = (24, 48, 72, 96, 120)
WEEKS = (120, 240, 336)
CHANNELS = ("geopotential_500", "temperature_850")
MEMBERS, INFLATION = 8, 1.06
TEST, EARLIER = ("2001-07-01", "2001-09-05"), ("2001-07-01", "2001-08-27")


def main() -> None:
    """Make what is not there yet, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("runs/members"))
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    et.simulate("atmosphere", options.out / "planet.zarr", days=620)
    store = et.prepare(options.out / "planet.zarr", options.out / "store.zarr", train=(None, "2001-05-15"))
    found, later = [], []
    for seed in range(options.seeds):
        runs: dict[str, et.Run] = {}
        for name, recipe in (("single", "planet_climax"), ("members", "planet_members")):
            begun, seeded = time.process_time(), {"seed_everything": seed, "data.seed": seed}
            runs[name] = et.fit(recipe, run=options.out / f"{name}{seed}", stores=[store], options=seeded)
            print(f"{name}, seed {seed}: {time.process_time() - begun:.0f} s of processor time")
        single = runs["single"].forecast(store, TEST, LEADS, every=12, out=options.out / f"single{seed}.zarr")
        members, weeks = (
            runs["members"].forecast(
                store,
                times,
                leads,
                every=every,
                members=MEMBERS,
                inflation=INFLATION,
                out=options.out / f"{name}{seed}.zarr",
            )
            for name, times, leads, every in (("members", TEST, LEADS, 12), ("weeks", EARLIER, WEEKS, 48))
        )
        found.append(judged(store, members, {"single": single}, []))
        later.append(judged(store, weeks, {}, ["climatology"]))
    for scores, beside in ((found, "single"), (later, "climatology")):
        report(xr.concat(scores, "seed", data_vars="all", coords="minimal", compat="override", join="override"), beside)


def judged(store: et.Store, members: xr.Dataset, beside: dict[str, xr.Dataset], baselines: list[str]) -> xr.Dataset:
    """Return the scores of an ensemble, of one of its members, and of what stands beside it."""
    forecasts = beside | {"members": members, "one member": members.isel(number=0, drop=True)}
    return et.evaluate(forecasts, store, baselines=baselines, channels=CHANNELS).isel(region=0)


def report(scores: xr.Dataset, beside: str) -> None:
    """Print the means of the seeds and their spread, one row per score and forecast."""
    rows = [
        ("crps", "members", "CRPS of members"),
        ("crps", beside, f"CRPS, {beside}"),
        ("rmse", "members", "RMSE of members' mean"),
        ("rmse", beside, f"RMSE, {beside}"),
        ("spread_skill", "members", "spread over error"),
        ("activity", "one member", "activity of a member"),
        ("activity", beside, f"activity, {beside}"),
    ]
    leads = scores["lead_time"].values
    for channel in CHANNELS:
        print(f"{channel:26}" + "".join(f"{lead:>18} h" for lead in leads))
        for score, forecast, title in rows:
            values = scores[score].sel(channel=channel, forecast=forecast).transpose("seed", "lead_time").values
            spread = np.std(values, axis=0, ddof=1) if len(values) > 1 else np.full(len(leads), np.nan)
            shown = (f"{mean:.4g} ± {std:.2g}" for mean, std in zip(values.mean(0), spread, strict=True))
            print(f"  {title:24}" + "".join(f"{text:>20}" for text in shown))


if __name__ == "__main__":
    main()
