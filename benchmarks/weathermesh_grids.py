r"""One WeatherMesh for two resolutions of a planet, beside one for each, and one that goes on from coarse to fine.

The two stores hold the same weather; the tokens of all networks are the same 8×16 places. Trains on each store alone;
on both together for as many batches of each, which takes as long as the two alone; on each alone for twice as long, as
many steps as both together; and from the coarse store's network on for as many batches of the fine one. Prints
root-mean-square errors of forecasts from the validation period, or, with --part test, from the test period, on the grid
of each store: mean ± standard deviation over seeds.

    etesian prepare planet.zarr fine.store.zarr --train-end 2001-05-15
    etesian prepare planet.zarr coarse.store.zarr --grid gaussian16 --train-end 2001-05-15
    python benchmarks/weathermesh_grids.py coarse.store.zarr fine.store.zarr [--seeds 3] [--epochs 1] [--part validate]

T21 and T42, on 110 days:

    etesian simulate atmosphere t42.zarr --truncation T42 --days 160 --spinup-days 60
    etesian prepare t42.zarr t42.store.zarr --train-end 2000-04-20
    etesian prepare t42.zarr t21.store.zarr --grid gaussian32 --train-end 2000-04-20
    python benchmarks/weathermesh_grids.py t21.store.zarr t42.store.zarr --epochs 2 --batch-size 8 \
        --train 2000-01-01 2000-04-20 --validate 2000-04-21 2000-05-10 --test 2000-05-11 2000-06-08 --part test
"""

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

import etesian as et

CHANNELS = ("geopotential_500", "temperature_850", "u_component_of_wind_250", "2m_temperature")
LEADS = (24, 72, 120)
TOKENS = (8, 16)
SMALL: dict[str, Any] = {
    "data.leads": [24, 48, 72], "data.validate_leads": [24, 72], "data.leads_per_sample": 1, "data.horizon": None,
    "model.network.dim": 64, "model.network.heads": 2, "model.consistency": 0.0, "model.spread": 0.0,
    "model.warmup_steps": 20, "trainer.enable_progress_bar": False,
    "model.optimizer": {
        "class_path": "torch.optim.AdamW", "init_args": {"lr": 2.0e-3, "betas": [0.9, 0.95], "weight_decay": 0.05}
    },
}  # fmt: skip


def train(
    name: str, stores: list[et.Store], seed: int, epochs: int, options: argparse.Namespace, **further: Any
) -> tuple[et.Run, float]:
    """Return a run, and the seconds of processor time that it took; the first store's grid is the network's own."""
    patch = [5, *(points // tokens for points, tokens in zip(stores[0].grid.shape, TOKENS, strict=True))]
    periods = {f"data.{part}": getattr(options, part) for part in ("train", "validate", "test")}
    chosen = (
        SMALL
        | periods
        | {"data.batch_size": options.batch_size}
        | {"model.network.patch": patch, "seed_everything": seed, "data.seed": seed}
        | further
    )
    begin = time.process_time()
    run = et.fit("planet_weathermesh", run=options.out / f"{name}_{seed}", stores=stores, epochs=epochs, options=chosen)
    return run, time.process_time() - begin


def main() -> None:
    """Train what is not trained yet, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("coarse")
    parser.add_argument("fine")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--train", nargs=2, default=["2000-01-01", "2001-05-15"])
    parser.add_argument("--validate", nargs=2, default=["2001-05-16", "2001-06-30"])
    parser.add_argument("--test", nargs=2, default=["2001-07-01", "2001-09-11"])
    parser.add_argument("--part", choices=("validate", "test"), default="validate")
    parser.add_argument("--out", type=Path, default=Path("runs/grids"))
    options = parser.parse_args()
    coarse, fine = et.Store(options.coarse), et.Store(options.fine)
    first, last = (np.datetime64(date) for date in getattr(options, options.part))
    span = str(first), str(last - np.timedelta64(max(LEADS), "h"))
    errors: dict[tuple[str, str], list[xr.DataArray]] = {}
    for seed in range(options.seeds):
        runs = {
            "coarse": train("coarse", [coarse], seed, options.epochs, options),
            "fine": train("fine", [fine], seed, options.epochs, options),
            "both": train("both", [coarse, fine], seed, options.epochs, options),
            "coarse twice": train("coarse_twice", [coarse], seed, 2 * options.epochs, options),
            "fine twice": train("fine_twice", [fine], seed, 2 * options.epochs, options),
        }
        start = {"checkpoint": str(runs["coarse"][0].path), "statistics": "trained"}
        onward = {"data.weights": [0, 1], "model.start": start}
        runs["onward"] = train("onward", [coarse, fine], seed, options.epochs, options, **onward)
        print(f"seed {seed}: " + ", ".join(f"{name} {taken:.0f} s" for name, (_, taken) in runs.items()), flush=True)
        for on, store, able in (
            ("coarse", coarse, ("coarse", "coarse twice", "both", "onward")),
            ("fine", fine, ("fine", "fine twice", "both", "onward")),
        ):
            outs = {name: options.out / f"{name.replace(' ', '_')}_{seed}_{options.part}_{on}.zarr" for name in able}
            for name, out in outs.items():
                runs[name][0].forecast(store, span, LEADS, every=12, out=out)
            scores = et.evaluate(
                outs, store, baselines=["persistence"], channels=CHANNELS,
                out=options.out / f"scores_{seed}_{options.part}_{on}", overwrite=True,
            )  # fmt: skip
            for name in (*able, "persistence"):
                errors.setdefault((on, name), []).append(scores["rmse"].isel(region=0).sel(forecast=name))
    for (on, name), seeds in errors.items():
        for channel in CHANNELS:
            values = np.stack([each.sel(channel=channel).values for each in seeds])
            spread = values.std(axis=0, ddof=len(values) > 1)
            cells = [f"{mean:.4g} ± {one:.2g}" for mean, one in zip(values.mean(0), spread, strict=True)]
            print(f"{on:8}{name:15}{channel:26}" + "".join(f"{cell:>18}" for cell in cells))


if __name__ == "__main__":
    main()
