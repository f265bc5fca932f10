"""Training step of ClimaX at its default size: as it is here, and in the straightforward formulation.

Prints one table: seconds per step, peak memory, and memory per sample (the slope between batches of 4 and 8), each case
in a process of its own. The straightforward formulation builds every token of every variable, uses PyTorch's dropout
and computes nothing twice. Both are timed in turns, and the fastest step of each counts.

    python benchmarks/climax.py [--threads 2] [--repeat 2]
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import time

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


def measure(formulation: str, precision: str, batch: int, repeat: int, threads: int) -> dict[str, float]:
    """Run training steps in this process; return the fastest step in seconds and the peak memory in MiB."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    network = ClimaX(Layout(VARIABLES, VARIABLES, GRID)).train()
    if formulation == "straightforward":
        make_straightforward(network)
    optimizer = torch.optim.AdamW(network.parameters(), lr=5e-4, betas=(0.9, 0.95), weight_decay=1e-5, fused=True)
    start = torch.zeros(batch, 1, dtype=torch.int64)
    inputs = Fields(torch.randn(batch, 1, len(VARIABLES), *GRID.shape), Frame(VARIABLES, start, GRID))
    target = Frame(VARIABLES, start + 72 * 3600, GRID)
    truth = torch.randn(batch, 1, len(VARIABLES), *GRID.shape)
    seconds = []
    for _ in range(repeat + 1):
        begin = time.perf_counter()
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16"):
            loss = (network(inputs, target).float() - truth).square().mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        seconds.append(time.perf_counter() - begin)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"seconds": min(seconds[1:]), "peak": peak}


def case(*arguments: str | int, **environment: str) -> dict[str, float]:
    command = [sys.executable, __file__, "--case", *map(str, arguments)]
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=os.environ | environment)
    return json.loads(done.stdout)


def memory(formulation: str, precision: str, batch: int, threads: int) -> float:
    """Return the peak memory in MiB where freed tensors go back to the system at once, not into the heap's holes."""
    return case(formulation, precision, batch, 1, threads, MALLOC_MMAP_THRESHOLD_="65536")["peak"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeat", type=int, default=2)
    parser.add_argument("--case", nargs=5, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.case:
        formulation, precision, *numbers = options.case
        print(json.dumps(measure(formulation, precision, *map(int, numbers))))
        return
    print(f"48 variables, 32×64, patch 2, dim 1024, depth 8, batch 4; {options.threads} threads, {torch.__version__}")
    print(f"{'precision':10} {'formulation':16} {'s/step':>8} {'peak MiB':>9} {'MiB/sample':>11}")
    formulations = ("straightforward", "fused")
    for precision in ("float32", "bfloat16"):
        rounds = [
            {name: case(name, precision, 4, options.repeat, options.threads) for name in formulations} for _ in range(2)
        ]
        rows = []
        for name in formulations:
            seconds = min(r[name]["seconds"] for r in rounds)
            peak = memory(name, precision, 4, options.threads)
            slope = (memory(name, precision, 8, options.threads) - peak) / 4
            rows.append((seconds, peak, slope))
            print(f"{precision:10} {name:16} {seconds:8.2f} {peak:9.0f} {slope:11.0f}", flush=True)
        slower, peak, slope = rows[0][0] / rows[1][0], rows[1][1] / rows[0][1], rows[1][2] / rows[0][2]
        print(f"{precision:10} {'ratio':16} {slower:7.2f}× {peak:8.2f}× {slope:10.2f}×", flush=True)


if __name__ == "__main__":
    main()
