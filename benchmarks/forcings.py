"""A region of the embedded planet with and without what is known at its edges: the table in docs/regions.md.

Simulates the planet, trains the recipe `planet_climax`, whose global forecasts are to drive the region, and U-Nets on a
region of 8 × 16 points with two rows and columns around it: which see nothing of what lies outside and answer every
lead at once or step by step, and step by step with the state in the frame known. All begin with the same fields. Prints
root-mean-square errors in the region over held-out initial times, and the processor time of training.

    python benchmarks/forcings.py [--seeds 3] [--out runs/forcings]
"""

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
import yaml

import etesian as et
from etesian.core import Grid
from etesian.store.format import to_dataset

LEADS, STEP = (24, 72, 120), 24
CHANNELS = (("geopotential", 500), ("temperature", 850))
INIT = ("2001-07-01", "2001-09-05")
ALONE, STEPS = {"region": "19,81,258,366"}, {"leads": [24, 48]}
KINDS: dict[str, tuple[dict[str, Any], int]] = {
    "alone, every lead at once": (ALONE | {"leads": list(LEADS)}, 6),
    "boundary known": (STEPS | {"region": "30,70,270,359", "boundary": 2}, 3),
    "alone, step by step": (ALONE | STEPS, 3),
}
"""What the data of each kind are, and how many epochs take the same time."""


def main() -> None:
    """Make what is not there yet, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("runs/forcings"))
    options = parser.parse_args()
    out = options.out
    out.mkdir(parents=True, exist_ok=True)
    et.simulate("atmosphere", out / "planet.zarr", days=620)
    store = et.prepare(out / "planet.zarr", out / "store.zarr", train=(None, "2001-05-15"))
    globe = et.fit("planet_climax", run=out / "globe", stores=[store])
    driving = globe.forecast(store, INIT, range(STEP, LEADS[-1] + 1, STEP), every=12, out=out / "globe.zarr")
    experiment(store, driving, out, options.seeds)


def experiment(store: str | Path, driving: xr.Dataset, out: Path, seeds: int) -> None:
    """Train what is not there yet, forecast, and print the table."""
    truth = to_dataset(store)
    rows = {"the global forecast": [rmse(driving, truth)]}
    for name in ("persistence", "seasonal_cycle"):
        rows[name] = [rmse(et.baseline(name).forecast(store, INIT, LEADS, every=12), truth)]
    for kind, (data, epochs) in KINDS.items():
        for seed in range(seeds):
            folder, begun = out / f"{kind.replace(',', '').replace(' ', '_')}_{seed}", time.process_time()
            run = et.fit(recipe(out, data, epochs, seed), run=folder, stores=[store])
            print(f"{kind}, seed {seed}: {time.process_time() - begun:.0f} s, {run.best:.4f}", flush=True)
            forecasts = run.forecast(store, INIT, LEADS, every=12)
            name = "boundary of the truth" if "boundary" in data else kind
            rows.setdefault(name, []).append(rmse(forecasts, truth))
            if "boundary" in data:
                driven = run.forecast(store, INIT, LEADS, every=12, forcings=driving)
                rows.setdefault("boundary of the global forecast", []).append(rmse(driven, truth))
        report(rows)


def recipe(out: Path, data: dict[str, Any], epochs: int, seed: int) -> Path:
    """Write the recipe of a regional U-Net: that of the planet's direct ClimaX with another network."""
    made = yaml.safe_load(et.recipes()["planet_direct"])
    made["seed_everything"] = seed
    made["data"]["init_args"] |= data | {"seed": seed}
    steps = STEP if data["leads"] == STEPS["leads"] else None
    network = {"class_path": "etesian.UNet", "init_args": {"leads": [steps] if steps else data["leads"], "width": 24}}
    made["model"]["init_args"] |= {
        "network": network, "step_hours": steps, "roll_longitude": False, "predict": "state",
        "optimizer": {"class_path": "torch.optim.AdamW", "init_args": {"lr": 2e-3, "weight_decay": 0.05}},
    }  # fmt: skip
    made["trainer"] |= {"max_epochs": epochs, "precision": "32-true"}
    path = out / "recipe.yaml"
    path.write_text(yaml.safe_dump(made))
    return path


def rmse(forecasts: xr.Dataset, truth: xr.Dataset) -> list[float]:
    """Return root-mean-square errors by channel and lead in the region, weighted by area."""
    there = truth.sel(latitude=slice(30, 70), longitude=slice(270, 359))
    place = {"latitude": there.latitude, "longitude": there.longitude}
    weights = Grid(truth.latitude.values, truth.longitude.values).area_weights[truth.latitude.isin(there.latitude)]
    found = []
    for name, level in CHANNELS:
        for lead in LEADS:
            ours = forecasts[name].sel(level=level, prediction_timedelta=np.timedelta64(lead, "h"))
            now = there[name].sel(level=level, time=ours.time + np.timedelta64(lead, "h"))
            error = ours.sel(place, method="nearest", tolerance=1e-3).values.astype(np.float64) - now.values
            found.append(float(((error**2).mean(axis=(0, 2)) @ weights / weights.sum()) ** 0.5))
    return found


def report(rows: dict[str, list[list[float]]]) -> None:
    """Print mean and sample standard deviation over seeds."""
    print(f"{'':34}" + "".join(f"{f'{name} {level}, {lead} h':>24}" for name, level in CHANNELS for lead in LEADS))
    for name, several in rows.items():
        each = np.array(several)
        spread = each.std(0, ddof=min(len(each) - 1, 1))
        print(f"{name:34}" + "".join(f"{f'{m:.4g} ± {s:.2g}':>24}" for m, s in zip(each.mean(0), spread, strict=True)))


if __name__ == "__main__":
    main()
