"""What members cost: time and memory of a member, and of a step of training two, for each network that takes noise.

On one thread, in single precision, on a grid of 32×64 points with the quickstart's 22 channels; the generator of
super-resolution makes two fields of 64×128 points from 16×32. Times are of the processor, the least of some runs.
Memory is what a step of training keeps for its backward pass, which on a GPU is nearly all of it.

    python benchmarks/member_cost.py [--runs 5]
"""

import argparse
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

import etesian as et
from etesian.core import Batch, Channel, Fields, Frame, Grid, Layout
from etesian.core.statistics import Statistics

GRID = Grid.equiangular(5.625)
STATE = (
    *(Channel(n, level) for n in ("geopotential", "temperature", "u_component_of_wind", "v_component_of_wind")
      for level in (200, 300, 500, 700, 850)),
    Channel("2m_temperature"), Channel("surface_pressure"),
)  # fmt: skip
SAMPLES = 4


def tasks(members: int | None) -> dict[str, Any]:
    """Return a task for each network, with the sizes of the recipes for the embedded planet."""
    torch.manual_seed(0)
    layout, known = Layout(STATE, STATE, GRID), Statistics(STATE, np.zeros(len(STATE)), np.ones(len(STATE)))
    climax = {"patch": 4, "dim": 128, "depth": 2, "heads": 4, "head_depth": 0, "dropout": 0.0, "drop_path": 0.0}
    mesh = {
        "patch": (5, 4, 4), "dim": 128, "heads": 4, "window": (2, 5, 7), "encoder_depth": 1, "decoder_depth": 1,
        "processors": {24: 1}, "surface_width": 8,
    }  # fmt: skip
    pair = STATE[:2]
    coarse = Grid.equiangular(11.25)
    fine = Layout(pair, pair, coarse, target_grid=coarse.refined(4))
    narrow = known.select(pair)
    return {
        "ClimaX, patches": et.ForecastTask(lambda own: et.ClimaX(own, **climax), layout, known, members=members),
        "ClimaX, local_width 32": et.ForecastTask(
            lambda own: et.ClimaX(own, local_width=32, **climax), layout, known, members=members
        ),
        "UNet": et.ForecastTask(lambda own: et.UNet(own, leads=(24,)), layout, known, members=members),
        "WeatherMesh": et.LatentForecastTask(lambda own: et.WeatherMesh(own, **mesh), layout, known, members=members),
        "SRGenerator": et.SuperResolutionTask(
            lambda own: et.SRGenerator(own, width=32, blocks=6), fine, narrow, log1p=False, members=members
        ),
    }


def batch_of(task: Any) -> Batch:
    """Return random weather, a day ahead or four times finer."""
    layout, hours = task.layout, 0 if isinstance(task, et.SuperResolutionTask) else 24
    time_ = torch.zeros(SAMPLES, 1, dtype=torch.int64)

    def fields(channels: tuple[Channel, ...], grid: Grid, hours: int) -> Fields:
        values = torch.randn(SAMPLES, 1, len(channels), *grid.shape)
        return Fields(values, Frame(channels, time_ + 3600 * hours, grid))

    return Batch(fields(layout.inputs, layout.grid, 0), fields(layout.targets, layout.output_grid, hours))


def least(work: Callable[[], Any], runs: int) -> float:
    """Return the least processor time of some runs, in seconds."""
    took = []
    for _ in range(runs):
        begun = time.process_time()
        work()
        took.append(time.process_time() - begun)
    return min(took)


def kept(task: Any, batch: Batch) -> int:
    """Return the bytes that a step of training keeps for its backward pass, without the weights."""
    weights = {p.untyped_storage().data_ptr() for p in task.parameters()}
    found: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            found[storage.data_ptr()] = storage.nbytes()
        return tensor

    with saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = task.loss(batch)[0]
    del loss
    return sum(found.values())


def main() -> None:
    """Print a row for each network."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5)
    runs = parser.parse_args().runs
    torch.set_num_threads(1)
    print(f"{'':24}{'weights':>22}{'a field, ms':>16}{'a step, ms':>18}{'kept, MB':>16}")
    for (name, single), members in zip(tasks(None).items(), tasks(2).values(), strict=True):
        row = []
        for task in (single, members):
            batch = batch_of(task)

            def step(task: Any = task, batch: Batch = batch) -> None:
                task.zero_grad()
                task.loss(batch)[0].backward()

            def predict(task: Any = task, batch: Batch = batch) -> None:
                assert batch.targets is not None
                task.predict(Batch(batch.inputs), batch.targets.frame)

            weights = sum(p.numel() for p in task.network.parameters())
            memory = kept(task, batch) / 2**20
            row.append((weights, 1000 * least(predict, runs) / SAMPLES, 1000 * least(step, runs), memory))
        one, two = row
        print(
            f"{name:24}{one[0]:>11,}{two[0]:>11,}{one[1]:>8.1f}{two[1]:>8.1f}{one[2]:>9.0f}{two[2]:>9.0f}"
            f"{one[3]:>8.1f}{two[3]:>8.1f}"
        )


if __name__ == "__main__":
    main()
