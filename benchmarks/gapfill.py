"""What filling the gaps of a month costs, beside a straightforward formulation of the original network.

The straightforward one makes a token of every patch of every day by one convolution over all days, keeps all of them,
and lets all places attend to one another; `same parts` is GapFiller without what the original has not, `recipe` the
network of recipes/gapfill_sst.yaml. Each case runs in a process of its own, whose peak memory beyond the imports is
printed; one thread, processor time. `--globe` fills a month of 0.25° (31×720×1440) tile by tile instead.

    python benchmarks/gapfill.py [--points 128] [--clear 0.3] [--repeat 3] [--globe]
"""

import argparse
import json
import multiprocessing
import resource
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import xarray as xr
from torch import Tensor, nn

from etesian.core import Channel, Fields, Frame, Grid, Layout
from etesian.networks.gapfiller import GapFiller

SST = Channel("sea_surface_temperature")
MONTH = torch.from_numpy(np.arange("2001-01-01", "2001-02-01", dtype="M8[D]").astype("M8[s]").astype(np.int64))[None]


class Straightforward(nn.Module):
    """Conv3d patches of all days, softmax over days, a dense transformer, and the original's decoder."""

    def __init__(self, dim: int = 128, hidden: int = 128) -> None:
        super().__init__()
        self.embed, self.norm = nn.Conv3d(2, dim, (1, 4, 4), (1, 4, 4)), nn.LayerNorm(dim)
        self.scorer = nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, dim), nn.GELU(), nn.Linear(dim, 1))
        layer = nn.TransformerEncoderLayer(dim, 4, 4 * dim, 0.0, "gelu", batch_first=True)
        self.blocks = nn.TransformerEncoder(layer, 2)
        self.project, self.spread = nn.Conv2d(dim, hidden, 1), nn.ConvTranspose2d(hidden, hidden // 2, 6, 4, 1)
        self.head = nn.Sequential(
            nn.Conv2d(hidden // 2, hidden // 2, 3, padding=1, bias=False), nn.BatchNorm2d(hidden // 2), nn.GELU(),
            nn.Conv2d(hidden // 2, 1, 1),
        )  # fmt: skip

    def forward(self, inputs: Fields) -> Tensor:
        """Return the map of the month."""
        assert inputs.valid is not None
        both = torch.stack([inputs.filled()[:, :, 0], inputs.valid[:, :, 0].float()], dim=1)
        tokens = self.embed(both)
        batch, _, _, rows, columns = tokens.shape
        tokens = self.norm(tokens.flatten(3).permute(0, 3, 2, 1))
        pooled = (tokens * self.scorer(tokens).softmax(2)).sum(2)
        latent = self.blocks(pooled).transpose(1, 2).view(batch, -1, rows, columns)
        return self.head(self.spread(self.project(latent)))  # type: ignore[no-any-return]


def month(points: int, clear: float) -> tuple[Fields, Frame]:
    """Return a month of noise under clouds in blocks of 16 points, and the frame of its mean."""
    random = torch.Generator().manual_seed(0)
    blocks = torch.rand(1, 31, 1, points // 16, points // 16, generator=random) < clear
    valid = blocks.repeat_interleave(16, 3).repeat_interleave(16, 4)
    grid = Grid(np.linspace(0, 30, points), np.linspace(0, 30, points))
    frame = Frame((SST,), MONTH, grid)
    values = torch.randn(valid.shape, generator=random)
    return Fields(values, frame, valid), Frame((SST,), MONTH[:, :1], grid)


def networks(grid: Grid) -> dict[str, Callable[[], nn.Module]]:
    """Return how each network is built."""
    layout = Layout((SST,), (SST,), grid)
    return {
        "straightforward": Straightforward,
        "same parts": lambda: GapFiller(
            layout, residual="nothing", pooling_heads=1, calendar=False, harmonics=0, month_attention=False
        ),
        "same parts, window 9": lambda: GapFiller(
            layout, residual="nothing", pooling_heads=1, calendar=False, harmonics=0, month_attention=False, window=9
        ),
        "recipe": lambda: GapFiller(layout, dim=64, hidden=64, variance=True),
    }


def run(name: str, points: int, clear: float, repeat: int, train: bool) -> tuple[float, float]:
    """Return the median processor seconds of a step and the peak memory beyond what was there before it, MiB."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    inputs, target = month(points, clear)
    network = networks(inputs.frame.grid)[name]().train(train)

    def step() -> None:
        with torch.set_grad_enabled(train):
            answer = network(inputs) if name == "straightforward" else network(inputs, target)
        if train:
            answer.square().mean().backward()

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    step()
    seconds = []
    for _ in range(repeat):
        begin = time.process_time()
        step()
        seconds.append(time.process_time() - begin)
    return statistics.median(seconds), (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024


def globe() -> None:
    """Fill a month of 0.25° round the globe with the recipe's network, untrained, and print time and memory."""
    from etesian.fill.run import fill_to
    from etesian.fill.task import GapFillTask
    from etesian.samples.windows import Period
    from etesian.store.prepare import prepare_dataset
    from etesian.store.reader import Store

    grid = Grid(np.arange(720) * 0.25 - 89.875, np.arange(1440) * 0.25)
    random = np.random.default_rng(0)
    values = random.standard_normal((31, *grid.shape), dtype=np.float32) + 290
    values[np.repeat(np.repeat(random.random((31, 45, 90)) < 0.7, 16, 1), 16, 2)] = np.nan
    time_axis = pd.date_range("2001-01-01", periods=31)
    source = xr.Dataset(
        {str(SST): (("time", "latitude", "longitude"), values, {"units": "K"})},
        {"time": time_axis, "latitude": grid.latitude, "longitude": grid.longitude},
    )
    with tempfile.TemporaryDirectory() as folder:
        prepare_dataset(source, Path(folder) / "store.zarr")
        del source, values
        store = Store(str(Path(folder) / "store.zarr"))
        land = Channel("land_sea_mask")
        layout = Layout((SST,), (SST,), store.grid, statics=(land,))
        known = store.statistics.without_seasons()
        statistics_ = type(known)((SST, land), np.append(known.mean, 0.0), np.append(known.std, 1.0))
        task = GapFillTask(
            lambda given: GapFiller(given, dim=64, hidden=64, variance=True), layout, statistics_, anomalies=False
        ).eval()
        task.provenance = {"gap_filling": {"target": "monthly", "months": 1, "tile": [144, 144], "overlap": 16}}
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        begin = time.process_time()
        out = str(Path(folder) / "filled.zarr")
        fill_to(task, store, out, Period("2001-01", "2001-01"), source={})
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        print(f"{time.process_time() - begin:.0f} s, peak {peak / 1024:.0f} MiB, {before / 1024:.0f} before it")


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--points", type=int, default=128)
    parser.add_argument("--clear", type=float, default=0.3)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--globe", action="store_true")
    options = parser.parse_args()
    if options.globe:
        globe()
        return
    rows = []
    for name in networks(Grid([0.0], [0.0])):
        for train in (False, True):
            with multiprocessing.get_context("spawn").Pool(1) as pool:
                found = pool.apply(run, (name, options.points, options.clear, options.repeat, train))
            rows.append((name, "training" if train else "inference", *found))
            print(f"{name:22s} {rows[-1][1]:10s} {found[0]:8.3f} s {found[1]:8.0f} MiB", flush=True)
    print(json.dumps(rows))


if __name__ == "__main__":
    main()
