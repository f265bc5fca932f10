"""Super-resolution of real winds: PhIRE's pairs (×10) and ERA-Interim's climatology (vorticity and divergence, ×4).

PhIRE: from each of five 100×100 fields of wind the 10×10 block means are sharpened by a generator that learned from
the other four. ERA-Interim: learned from January, judged on July, over latitudes up to 60°. Prints root-mean-square
errors beside interpolation, and the share of the truth's gradients that is left (1 is right, less is too smooth).

    python benchmarks/superres_real.py wind_LR-MR.npz eraint_uvz.nc [--steps 600] [--out runs/superres_real]
"""

import argparse
from pathlib import Path

import lightning as L
import numpy as np
import pandas as pd
import torch
import xarray as xr
from torch import Tensor
from torch.nn.functional import interpolate

from etesian.core import Batch, Fields, Frame, Grid
from etesian.downscale.data import SuperResolutionData
from etesian.downscale.task import SuperResolutionTask
from etesian.networks.srgan import SRGenerator
from etesian.samples.patches import block_mean, coarse_grid
from etesian.store.derive import derive
from etesian.store.prepare import prepare_dataset

WINDS = ("u_component_of_wind", "v_component_of_wind")
SPINS = ("vorticity", "divergence")


def main() -> None:
    """Train, judge, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("phire", type=Path)
    parser.add_argument("eraint", type=Path)
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--out", type=Path, default=Path("runs/superres_real"))
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    rows = [(f"PhIRE wind, {name}", *scores) for name, scores in phire(options).items()]
    rows += [(f"ERA-Interim, {name}", *scores) for name, scores in eraint(options).items()]
    print("| | RMSE bilinear | bicubic | generator | gradients bilinear | bicubic | generator |")
    print("|---|---|---|---|---|---|---|")
    for name, errors, gradients in rows:
        print(f"| {name} | " + " | ".join(f"{value:.3g}" for value in (*errors, *gradients)) + " |")


def phire(options: argparse.Namespace) -> dict[str, tuple[list[float], list[float]]]:
    """Leave one field out after the other."""
    fields = np.load(options.phire)["HR"].transpose(0, 3, 1, 2)
    grid = Grid(30 + 0.1 * np.arange(100), 250 + 0.1 * np.arange(100))
    judged = []
    for held_out in range(len(fields)):
        # The field that is judged comes last, in a year of its own; another one chooses.
        order = [*(number for number in range(len(fields)) if number != held_out), held_out]
        dataset = _dataset(fields[order], WINDS, grid, pd.to_datetime([f"{2001 + i}-01-01" for i in range(5)]))
        path = options.out / f"phire{held_out}.zarr"
        prepare_dataset(dataset, path, train_end="2004", overwrite=True)
        task = _train(path, ("2001", "2003"), ("2004", "2004"), 10, (50, 50), options.steps)
        judged.append(_judge(task, dataset.isel(time=[4]), grid))
    return {name: _pooled([each[name] for each in judged]) for name in judged[0]}


def eraint(options: argparse.Namespace) -> dict[str, tuple[list[float], list[float]]]:
    """Learn from January, judge July."""
    with xr.open_dataset(options.eraint) as source:
        winds = source[["u", "v"]].rename(u=WINDS[0], v=WINDS[1], month="time").sortby("latitude").load()
    winds = winds.assign_coords(longitude=winds.longitude % 360).sortby("longitude")
    winds["time"] = pd.to_datetime(["2001-01-15", "2001-07-15"])
    for name in WINDS:
        winds[name].attrs = {"units": "m s-1", "levels": winds.level.values.tolist()}
    spins = derive(winds, SPINS)[list(SPINS)].isel(latitude=slice(0, 240))
    grid = Grid(spins.latitude.values, spins.longitude.values)
    path = options.out / "eraint.zarr"
    prepare_dataset(spins, path, train_end="2001-01-31", overwrite=True)
    task = _train(path, ("2001-01-01", "2001-01-31"), ("2001-07-01", "2001-07-31"), 4, (48, 48), options.steps)
    return {name: _pooled([scores]) for name, scores in _judge(task, spins.isel(time=[1]), grid).items()}


def _dataset(values: np.ndarray, names: tuple[str, str], grid: Grid, time: pd.DatetimeIndex) -> xr.Dataset:
    data = {
        name: (("time", "latitude", "longitude"), values[:, place], {"units": "m s-1"})
        for place, name in enumerate(names)
    }
    return xr.Dataset(data, {"time": time, "latitude": grid.latitude, "longitude": grid.longitude})


def _train(
    path: Path, train: tuple[str, str], validate: tuple[str, str], factor: int, size: tuple[int, int], steps: int
) -> SuperResolutionTask:
    L.seed_everything(0, verbose=False)
    data = SuperResolutionData(str(path), train, validate, factor=factor, patch_size=size, patches=16, batch_size=16)
    task = SuperResolutionTask(
        lambda layout: SRGenerator(layout, width=32, blocks=4),
        data.layout,
        data.statistics,
        optimizer=lambda parameters: torch.optim.Adam(parameters, lr=1e-3),
        warmup_steps=50,
    )
    trainer = L.Trainer(
        max_steps=steps, accelerator="cpu", logger=False, enable_checkpointing=False, use_distributed_sampler=False,
        enable_model_summary=False, limit_val_batches=0, enable_progress_bar=False,
    )  # fmt: skip
    trainer.fit(task, data)
    return task.eval()


def _judge(task: SuperResolutionTask, dataset: xr.Dataset, grid: Grid) -> dict[str, list[tuple[Tensor, Tensor]]]:
    """Return prediction and truth, away from the poles, by channel, of each way to sharpen."""
    channels = task.layout.targets
    stacked = [
        dataset[c.name].values if c.level is None else dataset[c.name].sel(level=c.level).values for c in channels
    ]
    time = torch.zeros(1, 1, dtype=torch.int64)
    truth = Fields(torch.from_numpy(np.stack(stacked, axis=1)).float()[:, None], Frame(channels, time, grid))
    factor = task.factor
    coarse = block_mean(truth, factor)
    made = task.between(coarse_grid(grid, factor), grid).predict(Batch(coarse), truth.frame).values[:, 0]
    ways = [interpolate(coarse.values[:, 0], scale_factor=factor, mode=mode) for mode in ("bilinear", "bicubic")]
    rows = abs(grid.latitude) < 60
    return {
        str(channel): [(way[0, place][rows], truth.values[0, 0, place][rows]) for way in (*ways, made)]
        for place, channel in enumerate(channels)
    }


def _pooled(cases: list[list[tuple[Tensor, Tensor]]]) -> tuple[list[float], list[float]]:
    errors, gradients = [], []
    for way in zip(*cases, strict=True):
        errors.append(float(torch.stack([(made - true).square().mean() for made, true in way]).mean().sqrt()))
        steep = [[sum(part.diff(dim=axis).abs().mean() for axis in (0, 1)) for part in pair] for pair in way]
        gradients.append(float(sum(made for made, _ in steep) / sum(true for _, true in steep)))
    return errors, gradients


if __name__ == "__main__":
    main()
