"""Downscaling: the embedded planet from 11.25° to 5.625°, and ERA-Interim from 3° to 0.75°; docs/downscaling.md.

Planet: simulates it, trains the recipe `downscale_planet` with several seeds, the regression that it begins with alone,
a U-Net in place of its ClimaX for the same processor time, and the recipe for members, of which it makes 8, and judges
all beside interpolation on 89 days that no run saw. ERA-Interim, if its file is named: a U-Net learns from January's
map, all but bands of longitude, which choose its epoch and how much of what it learned is added; judged on July's.
Prints root-mean-square errors (of members that of their mean), biases, CRPS (of one field the mean absolute error) and
spread over error, for networks mean ± standard deviation over seeds, and the processor time of each training.

    python benchmarks/downscaling.py [--eraint eraint_uvz.nc] [--seeds 3] [--out runs/downscaling]
"""

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

import etesian as et

WAYS = ("interpolation", "bicubic", "conservative")
TEST = ("2001-06-15", "2001-09-11")
UNET: dict[str, Any] = {
    "model.network.residual": False,
    "model.network.network": {
        "class_path": "etesian.UNet",
        "init_args": {"leads": [0], "width": 32, "maps": 0, "noise": 0.0, "dropout": 0.0},
    },
}
REGRESSION: dict[str, Any] = {
    "model.network.shrink": True, "model.optimizer.lr": 0.0, "trainer.max_epochs": 1, "trainer.limit_train_batches": 1,
}  # fmt: skip
"""The regression alone: a network that gives nothing, and learns nothing."""
ERAINT: dict[str, Any] = {
    "data.inputs": None, "data.train": ["2000-01-15"] * 2, "data.validate": ["2000-01-16"] * 2,
    "data.test": ["2000-07-16"] * 2, "model.network.interpolation": "conservative", "model.network.shrink": True,
    "model.network.network": {
        "class_path": "etesian.UNet",
        "init_args": {"leads": [0], "width": 16, "maps": 0, "noise": 0.0, "dropout": 0.0},
    },
    "model.optimizer": {
        "class_path": "torch.optim.AdamW", "init_args": {"lr": 1e-3, "betas": [0.9, 0.98], "weight_decay": 0.05},
    },
    "model.warmup_steps": 10,
    "trainer.max_epochs": 20, "trainer.check_val_every_n_epoch": 5,
}  # fmt: skip
JANUARY, BANDS, JULY = "2000-01-15", "2000-01-16", "2000-07-16"
"""Days that the climatology's maps are given: January but for bands of longitude, these bands alone, and July."""


def main() -> None:
    """Make what is not there yet, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--eraint", type=Path)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("runs/downscaling"))
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    planet(options.out, options.seeds)
    if options.eraint is not None:
        eraint(options.eraint, options.out, options.seeds)


def planet(out: Path, seeds: int) -> None:
    """Train ClimaX and a U-Net on the embedded planet, and print their errors."""
    et.simulate("atmosphere", out / "planet.zarr", days=620)
    train = (None, "2001-03-31")
    fine = et.prepare(out / "planet.zarr", out / "fine.zarr", every=12, train=train)
    coarse = et.prepare(out / "planet.zarr", out / "coarse.zarr", every=12, train=train, grid="11.25")
    networks: dict[str, dict[str, Any]] = {
        "regression": REGRESSION, "climax": {}, "unet": UNET, "members": {"model.members": 2}
    }  # fmt: skip
    report(judged(out, "planet", coarse, fine, networks, seeds, TEST))


def eraint(source: Path, out: Path, seeds: int) -> None:
    """Train a U-Net on one map of ERA-Interim's climatology, and print its errors on another."""
    complete, parts = out / "eraint_complete.nc", out / "eraint_parts.nc"
    if not parts.exists():
        with xr.open_dataset(source) as opened:
            maps = opened.rename(month="time").load()
        held = maps.longitude % 60 < 15
        days = [np.datetime64(day, "ns") for day in (JANUARY, BANDS, JULY)]
        three = maps.isel(time=[0, 0, 1]).assign_coords(time=days)
        three.to_netcdf(complete)
        wanted = xr.concat([~held, held, held | True], "time").assign_coords(time=days)
        three.where(wanted).to_netcdf(parts)
    train = (None, BANDS)
    fine = et.prepare(parts, out / "eraint_fine.zarr", train=train)
    coarse = et.prepare(complete, out / "eraint_coarse.zarr", train=train, grid="3+poles")
    report(judged(out, "eraint", coarse, fine, {"unet": ERAINT}, seeds, (JULY, JULY)))


def judged(
    out: Path, name: str, coarse: et.Store, fine: et.Store, networks: dict[str, dict[str, Any]], seeds: int,
    days: tuple[str, str],
) -> xr.Dataset:  # fmt: skip
    """Return the scores of all networks with all seeds, and of interpolations."""
    made = {way: out / f"{name}_{way}.zarr" for way in WAYS}
    for way, path in made.items():
        et.baseline(way).downscale(coarse, fine.path, days, every=24, out=path)
    for seed in range(seeds):
        for network, chosen in networks.items():
            run = f"{name}_{network}{seed}"
            seeded = {"data.coarse": coarse.path, "data.fine": fine.path, "seed_everything": seed, "data.seed": seed}
            begun = time.process_time()
            trained = et.fit("downscale_planet", run=out / run, options=seeded | chosen)
            print(f"{run}: {time.process_time() - begun:.0f} s of processor time", flush=True)
            made[f"{network}{seed}"] = out / f"{run}.zarr"
            trained.downscale(coarse, days, every=24, out=made[f"{network}{seed}"])
    return et.evaluate(made, fine, out=out / f"{name}_scores", overwrite=True)


def report(scores: xr.Dataset) -> None:
    """Print errors and biases by channel, a column for each interpolation and network."""
    names = [str(name) for name in scores["forecast"].values]
    columns = {way: [way] for way in WAYS} | {
        network: [name for name in names if name.rstrip("0123456789") == network]
        for network in dict.fromkeys(name.rstrip("0123456789") for name in names if name not in WAYS)
    }
    print(f"{'':40}" + "".join(f"{column:>22}" for column in columns))
    for channel in scores["channel"].values:
        for score in ("rmse", "bias", "crps", "spread_skill") if not channel.startswith("wind_vector") else ("rmse",):
            own = scores[score].isel(region=0).squeeze(drop=True).sel(channel=channel)
            cells = []
            for members in columns.values():
                values = own.sel(forecast=members).values
                spread = f" ± {values.std(ddof=1):.2g}" if len(values) > 1 else ""
                cells.append(f"{values.mean():.4g}{spread}")
            print(f"{channel:32}{score:8}" + "".join(f"{cell:>22}" for cell in cells))


if __name__ == "__main__":
    main()
