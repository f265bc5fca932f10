"""Super-resolution of real winds: PhIRE's pairs (×10) and ERA-Interim's climatology (vorticity and divergence, ×4).

PhIRE: from each of five 100×100 fields of wind the 10×10 block means are sharpened by a generator that learned from
three of the others; the fourth chooses its epoch and how much of what it learned is added. ERA-Interim: learned from
270° of January's longitudes, chosen on the other 90°, judged on July, over latitudes up to 60°. Prints root-mean-square
errors beside interpolation, and the share of the truth's gradients that is left (1 is right, less is too smooth), for
the generator the mean ± standard deviation over seeds.

    python benchmarks/superres_real.py wind_LR-MR.npz eraint_uvz.nc [--seeds 3] [--out runs/superres_real]
"""

import argparse
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import xarray as xr
from torch import Tensor
from torch.nn.functional import interpolate

import etesian as et
from etesian.core import Batch, Fields, Frame, Grid
from etesian.downscale.task import SuperResolutionTask
from etesian.networks.srgan import SRGenerator
from etesian.samples.patches import block_mean, coarse_grid
from etesian.store.derive import derive

WINDS = ("u_component_of_wind", "v_component_of_wind")
SPINS = ("vorticity", "divergence")
WAYS = ("bilinear", "bicubic", "conservative", "generator")
SECTORS = 4
"""Parts of the circle that January is cut into; the last one chooses."""

Judged = dict[str, list[tuple[Tensor, Tensor]]]
"""By channel, prediction and truth of each way to sharpen."""


def main() -> None:
    """Train, judge, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("phire", type=Path)
    parser.add_argument("eraint", type=Path)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("runs/superres_real"))
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    rows: dict[str, list[np.ndarray]] = {}
    for seed in range(options.seeds):
        for source, cases in (("PhIRE wind", phire(options, seed)), ("ERA-Interim", eraint(options, seed))):
            for channel in cases[0]:
                rows.setdefault(f"{source}, {channel}", []).append(_pooled([case[channel] for case in cases]))
    print("| | " + " | ".join(f"{what} {way}" for what in ("RMSE", "gradients") for way in WAYS) + " |")
    print("|---" * (1 + 2 * len(WAYS)) + "|")
    for name, seeds in rows.items():
        mean, spread = np.mean(seeds, axis=0), np.std(seeds, axis=0, ddof=1)
        cells = [f"{value:.4g}" for value in mean.flatten()]
        for last in (len(WAYS) - 1, 2 * len(WAYS) - 1):
            cells[last] += f" ± {spread.flatten()[last]:.1g}"
        print(f"| {name} | " + " | ".join(cells) + " |")


def phire(options: argparse.Namespace, seed: int) -> list[Judged]:
    """Leave one field out after the other."""
    fields = np.load(options.phire)["HR"].transpose(0, 3, 1, 2)
    grid = Grid(30 + 0.1 * np.arange(100), 250 + 0.1 * np.arange(100))
    judged = []
    for held_out in range(len(fields)):
        # The field that is judged comes last, in a year of its own; the one before it chooses.
        order = [*(number for number in range(len(fields)) if number != held_out), held_out]
        dataset = _dataset(fields[order], WINDS, grid, pd.to_datetime([f"{2001 + i}-01-01" for i in range(5)]))
        run = _train(
            options.out, f"phire{held_out}", dataset, ("2001", "2003"), ("2004", "2004"), seed, epochs=20, factor=10,
            patch_size=(50, 50), patches=8, batch_size=8, width=16,
        )  # fmt: skip
        judged.append(_judge(run, dataset.isel(time=[4]), grid))
    return judged


def eraint(options: argparse.Namespace, seed: int) -> list[Judged]:
    """Learn from January, judge July."""
    with xr.open_dataset(options.eraint) as source:
        winds = source[["u", "v"]].rename(u=WINDS[0], v=WINDS[1], month="time").sortby("latitude").load()
    winds = winds.assign_coords(longitude=winds.longitude % 360).sortby("longitude")
    winds["time"] = pd.to_datetime(["2001-01-15", "2001-07-15"])
    for name in WINDS:
        winds[name].attrs = {"units": "m s-1", "levels": winds.level.values.tolist()}
    spins = derive(winds, SPINS)[list(SPINS)].isel(latitude=slice(0, 240)).load()
    # A generator knows no places: sectors of longitude are as good as times, and one can be held out.
    breadth = spins.longitude.size // SECTORS
    parts = [spins.isel(time=0, longitude=slice(i * breadth, (i + 1) * breadth)) for i in range(SECTORS)]
    january = xr.concat([part.assign_coords(longitude=parts[0].longitude) for part in parts], "time")
    days = pd.date_range("2001-01-01", periods=SECTORS)
    first, before, last = (str(days[number].date()) for number in (0, -2, -1))
    run = _train(
        options.out, "eraint", january.assign_coords(time=days), (first, before), (last, last), seed, epochs=60,
        factor=4, patch_size=(48, 48), patches=16, batch_size=16, width=32,
    )  # fmt: skip
    return [_judge(run, spins.isel(time=[1]), Grid(spins.latitude.values, spins.longitude.values))]


def _dataset(values: np.ndarray, names: tuple[str, str], grid: Grid, time: pd.DatetimeIndex) -> xr.Dataset:
    data = {
        name: (("time", "latitude", "longitude"), values[:, place], {"units": "m s-1"})
        for place, name in enumerate(names)
    }
    return xr.Dataset(data, {"time": time, "latitude": grid.latitude, "longitude": grid.longitude})


def _train(
    out: Path, name: str, dataset: xr.Dataset, train: tuple[str, str], validate: tuple[str, str], seed: int, *,
    epochs: int, width: int, **data: object,
) -> et.Run:  # fmt: skip
    store = et.prepare(dataset, out / f"{name}.zarr", train=(None, train[1]))
    chosen = {
        "data.store": store.path, "data.channels": None, "data.train": train, "data.validate": validate,
        "data.test": None, "model.network.width": width, "model.network.blocks": 4,
        "model.network.residual": "conservative", "model.network.shrink": True, "model.warmup_steps": 20,
        "trainer.check_val_every_n_epoch": 5, "seed_everything": seed, "data.seed": seed,
    }  # fmt: skip
    chosen |= {f"data.{option}": value for option, value in data.items()}
    return et.fit("superres_planet", run=out / f"{name}_{seed}", epochs=epochs, options=chosen)


def _judge(run: et.Run, dataset: xr.Dataset, grid: Grid) -> Judged:
    """Return prediction and truth, away from the poles, by channel, of each way to sharpen."""
    task = run.task
    assert isinstance(task, SuperResolutionTask)
    channels = task.layout.targets
    stacked = [
        dataset[c.name].values if c.level is None else dataset[c.name].sel(level=c.level).values for c in channels
    ]
    time = torch.zeros(1, 1, dtype=torch.int64)
    truth = Fields(torch.from_numpy(np.stack(stacked, axis=1)).float()[:, None], Frame(channels, time, grid))
    factor = task.factor
    coarse = block_mean(truth, factor)
    spread = task.between(coarse_grid(grid, factor), grid)
    made = spread.predict(Batch(coarse), truth.frame).values[:, 0]
    simple = [interpolate(coarse.values[:, 0], scale_factor=factor, mode=mode) for mode in WAYS[:2]]
    begun = SRGenerator(spread.network.layout, width=2, blocks=1, residual="conservative").eval()
    with torch.no_grad():
        simple.append(begun(coarse, truth.frame)[:, 0])
    rows = abs(grid.latitude) < 60
    return {
        str(channel): [(way[0, place][rows], truth.values[0, 0, place][rows]) for way in (*simple, made)]
        for place, channel in enumerate(channels)
    }


def _pooled(cases: list[list[tuple[Tensor, Tensor]]]) -> np.ndarray:
    """Return errors and shares of gradients (2, way) over all cases."""
    errors, gradients = [], []
    for way in zip(*cases, strict=True):
        errors.append(float(torch.stack([(made - true).square().mean() for made, true in way]).mean().sqrt()))
        steep = [[sum(part.diff(dim=axis).abs().mean() for axis in (0, 1)) for part in pair] for pair in way]
        gradients.append(float(sum(made for made, _ in steep) / sum(true for _, true in steep)))
    return np.array([errors, gradients])


if __name__ == "__main__":
    main()
