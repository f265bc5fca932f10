"""Training step of ClimaX at its default size: as it is here, and in the straightforward formulation.

Prints one table: processor seconds per step, peak memory, and memory per sample (the slope from a batch to twice that),
each case in a process of its own. The straightforward formulation builds every token of every variable, uses PyTorch's
dropout and computes nothing twice; with `--original` it is ClimaX's own code from a checkout
(https://github.com/microsoft/ClimaX), which needs timm 0.6 (`pip install --no-deps timm==0.6.13`; what that wants of
torchvision is never called, and need not be there). Both are timed in turns, and the fastest step of each counts.

    python benchmarks/climax.py [--original CHECKOUT] [--threads 1] [--batch 4] [--repeat 2]
        [--rounds 2] [--precisions float32 bfloat16]
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from unittest.mock import MagicMock

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from etesian.core import Channel, Fields, Frame, Grid, Layout
from etesian.networks.climax import ClimaX

VARIABLES = tuple(Channel(f"variable_{i}") for i in range(48))
GRID = Grid.equiangular(5.625)


class MaterialisedAggregation(nn.Module):
    """The same step as the original writes it: one convolution per variable, all tokens, multi-head attention."""

    def __init__(self, streams: int, pixels: int, dim: int, heads: int) -> None:
        super().__init__()
        side = round(pixels**0.5)
        self.embeds = nn.ModuleList(nn.Conv2d(1, dim, side, side) for _ in range(streams))
        self.variable_embed = nn.Parameter(torch.zeros(1, streams, dim))
        self.query = nn.Parameter(torch.zeros(1, 1, dim))
        self.attention = nn.MultiheadAttention(dim, heads, batch_first=True)
        self.side = side

    def forward(  # noqa: D102
        self, pixels: Float[Tensor, "batch patch stream pixel"], streams: Tensor, missing: Tensor | None = None
    ) -> Float[Tensor, "batch patch dim"]:
        batch, patches = pixels.shape[:2]
        rows, columns = GRID.shape[0] // self.side, GRID.shape[1] // self.side
        fields = pixels.view(batch, rows, columns, -1, self.side, self.side).permute(0, 3, 1, 4, 2, 5)
        fields = fields.reshape(batch, -1, *GRID.shape)
        tokens = torch.stack(
            [embed(fields[:, i : i + 1]).flatten(2).transpose(1, 2) for i, embed in enumerate(self.embeds)], dim=1
        )
        tokens = tokens + self.variable_embed.unsqueeze(2)
        tokens = tokens.transpose(1, 2).flatten(0, 1)
        mixed, _ = self.attention(self.query.expand(tokens.shape[0], -1, -1), tokens, tokens)
        return mixed.view(batch, patches, -1)


def make_straightforward(network: ClimaX) -> None:
    """Put the original's formulation in place: built tokens, PyTorch's dropout, nothing computed twice."""
    network.aggregation = MaterialisedAggregation(len(VARIABLES), 4, 1024, 16)  # type: ignore[assignment]
    network.dropout = nn.Dropout(0.1)  # type: ignore[assignment]
    for block in network.blocks:
        block.attention.dropout = nn.Dropout(0.1)
        layers = (block.mlp.expand, nn.GELU(), nn.Dropout(0.1), block.mlp.contract, nn.Dropout(0.1))
        block.mlp = nn.Sequential(*layers)


def original(checkout: str, batch: int) -> tuple[nn.Module, Callable[[Tensor], Tensor]]:
    """Return ClimaX of a checkout with its defaults, and what predicts from inputs."""
    unused = "datasets models models.feature_extraction ops ops.misc transforms transforms.functional"
    for name in ("torchvision", *(f"torchvision.{part}" for part in unused.split())):
        sys.modules[name] = MagicMock()
    # Which it uses, and NumPy has no more.
    vars(np)["float"] = float
    sys.path.insert(0, os.path.join(checkout, "src"))
    from climax.arch import ClimaX as Original

    names = [str(channel) for channel in VARIABLES]
    network = Original(names, img_size=list(GRID.shape))
    lead = torch.full((batch,), 0.72)
    return network, lambda values: network(values, None, lead, tuple(names), tuple(names), None, None)[1]


def ours(formulation: str, batch: int) -> tuple[nn.Module, Callable[[Tensor], Tensor]]:
    """Return ClimaX with its defaults, and what predicts from inputs."""
    network = ClimaX(Layout(VARIABLES, VARIABLES, GRID))
    if formulation == "straightforward":
        make_straightforward(network)
    start = torch.zeros(batch, 1, dtype=torch.int64)
    frame, target = Frame(VARIABLES, start, GRID), Frame(VARIABLES, start + 72 * 3600, GRID)
    return network, lambda values: network(Fields(values.unsqueeze(1), frame), target)[:, 0]


def measure(formulation: str, precision: str, batch: int, repeat: int, threads: int) -> dict[str, float]:
    """Run training steps in this process; return the fastest in processor seconds and the peak memory in MiB."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    checkout = os.path.isdir(formulation)
    network, predict = original(formulation, batch) if checkout else ours(formulation, batch)
    network.train()
    optimizer = torch.optim.AdamW(network.parameters(), lr=5e-4, betas=(0.9, 0.95), weight_decay=1e-5, fused=True)
    inputs, truth = (torch.randn(batch, len(VARIABLES), *GRID.shape) for _ in range(2))
    seconds = []
    for _ in range(repeat + 1):
        begin = time.process_time()
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16"):
            loss = (predict(inputs).float() - truth).square().mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        seconds.append(time.process_time() - begin)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"seconds": min(seconds[1:]), "peak": peak}


def case(*arguments: str | int, **environment: str) -> dict[str, float]:
    command = [sys.executable, __file__, "--case", *map(str, arguments)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=os.environ | environment)
    return json.loads(done.stdout.splitlines()[-1])


def memory(formulation: str, precision: str, batch: int, threads: int) -> float:
    """Return the peak memory in MiB where freed tensors go back to the system at once, not into the heap's holes."""
    return case(formulation, precision, batch, 1, threads, MALLOC_MMAP_THRESHOLD_="65536")["peak"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--original", metavar="CHECKOUT", help="of ClimaX's own code")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--repeat", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--precisions", nargs="*", default=["float32", "bfloat16"])
    parser.add_argument("--case", nargs=5, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.case:
        formulation, precision, *numbers = options.case
        print(json.dumps(measure(formulation, precision, *map(int, numbers))))
        return
    size = f"48 variables, 32×64, patch 2, dim 1024, depth 8, batch {options.batch}"
    print(f"{size}; {options.threads} thread(s), {torch.__version__}")
    print(f"{'precision':10} {'formulation':16} {'s/step':>8} {'peak MiB':>9} {'MiB/sample':>11}")
    formulations = (options.original or "straightforward", "fused")
    for precision in options.precisions:
        rounds = [
            {name: case(name, precision, options.batch, options.repeat, options.threads) for name in formulations}
            for _ in range(options.rounds)
        ]
        rows = []
        for name in formulations:
            seconds = min(r[name]["seconds"] for r in rounds)
            peak = memory(name, precision, options.batch, options.threads)
            slope = (memory(name, precision, 2 * options.batch, options.threads) - peak) / options.batch
            rows.append((seconds, peak, slope))
            label = "original" if os.path.isdir(name) else name
            print(f"{precision:10} {label:16} {seconds:8.2f} {peak:9.0f} {slope:11.0f}", flush=True)
        slower, peak, slope = rows[0][0] / rows[1][0], rows[1][1] / rows[0][1], rows[1][2] / rows[0][2]
        print(f"{precision:10} {'ratio':16} {slower:7.2f}× {peak:8.2f}× {slope:10.2f}×", flush=True)


if __name__ == "__main__":
    main()
