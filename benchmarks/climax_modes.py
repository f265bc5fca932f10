"""What ClimaX costs beyond a plain training step: fine-tuning, inference, compilation, variables, tokens, regions.

Prints one table: milliseconds per step or forecast and peak memory above the start of the process, each case in a
process of its own. Width 256, depth 4, patches of 2×2 on 32×64, batch 4, unless the case says otherwise.

    python benchmarks/climax_modes.py [--threads 1] [--repeat 5]
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import time

import torch

from etesian.core import Channel, Fields, Frame, Grid, Layout
from etesian.core.grid import REGIONS
from etesian.networks.climax import ClimaX

GLOBE = Grid.equiangular(5.625)
CASES = {
    "training step": {},
    "training step, blocks checkpointed": {"checkpoint_blocks": True},
    "fine-tuning: norms and head": {"train": ("norms", "head")},
    "fine-tuning: head alone": {"train": ("head",)},
    "fine-tuning: low rank 8 in attention": {"train": ("lora",), "lora_rank": 8},
    "forecast": {"train": None},
    "forecast, bfloat16": {"train": None, "bfloat16": True},
    "forecast, compiled": {"train": None, "compiled": True},
    "forecast, 4 leads at once": {"train": None, "leads": 4},
    "training step, 12 variables": {"variables": 12},
    "training step, 24 variables": {"variables": 24},
    "training step, 96 variables": {"variables": 96},
    "training step, 16×32 (a quarter of the tokens)": {"resolution": 11.25},
    "training step, North America alone": {"region": "NorthAmerica"},
    "forecast, North America alone": {"region": "NorthAmerica", "train": None},
}


def measure(name: str, repeat: int, threads: int) -> dict[str, float]:
    """Run a case in this process; return the fastest time in seconds and the peak memory in MiB."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    case = CASES[name]
    variables = tuple(Channel(f"variable_{i}") for i in range(case.get("variables", 48)))
    grid = Grid.equiangular(case.get("resolution", 5.625))
    layout = Layout(variables, variables, grid)
    chosen = {name: case[name] for name in ("lora_rank", "checkpoint_blocks") if name in case}
    network = ClimaX(layout, dim=256, depth=4, heads=8, dropout=0.0, drop_path=0.0, **chosen)
    train = case.get("train", ("all",))
    parts = network.parts()
    for parameter_name, parameter in network.named_parameters():
        parameter.requires_grad_(train is not None and any(parameter_name in parts[part] for part in train))
    if "region" in case:
        grid = whole_patches(grid, case["region"])
    start = torch.zeros(4, 1, dtype=torch.int64)
    inputs = Fields(torch.randn(4, 1, len(variables), *grid.shape), Frame(variables, start, grid))
    hours = 24 * torch.arange(1, 1 + case.get("leads", 1))
    target = Frame(variables, start + 3600 * hours, grid)
    forward = torch.compile(network) if case.get("compiled") else network
    network.train(train is not None)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    seconds = []
    for _ in range(repeat + 1):
        begin = time.perf_counter()
        with torch.autocast("cpu", torch.bfloat16, enabled=case.get("bfloat16", False)):
            if train is None:
                with torch.no_grad():
                    forward(inputs, target)
            else:
                forward(inputs, target).square().mean().backward()
        seconds.append(time.perf_counter() - begin)
        network.zero_grad(set_to_none=True)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    return {"seconds": min(seconds[1:]), "peak": peak / 1024}


def whole_patches(grid: Grid, region: str) -> Grid:
    """Return the part of a grid that lies in a region, widened to whole patches of 2×2."""
    part = grid.crop(REGIONS[region])
    rows = (grid.latitude >= part.latitude[0] - 1e-6) & (grid.latitude <= part.latitude[-1] + 1e-6)
    columns = (grid.longitude >= part.longitude[0] - 1e-6) & (grid.longitude <= part.longitude[-1] + 1e-6)
    for chosen in (rows, columns):
        chosen |= chosen.reshape(-1, 2).any(axis=1).repeat(2)
    return Grid(grid.latitude[rows], grid.longitude[columns])


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--case", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.case:
        print(json.dumps(measure(options.case, options.repeat, options.threads)))
        return
    print(f"{options.threads} threads, torch {torch.__version__}")
    print(f"{'case':50} {'ms':>8} {'MiB':>8} {'time':>8}")
    whole = None
    for name in CASES:
        command = [sys.executable, __file__, "--case", name, "--repeat", str(options.repeat)]
        environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536"}
        done = subprocess.run(
            [*command, "--threads", str(options.threads)], capture_output=True, text=True, env=environment, check=False
        )
        if done.returncode:
            print(f"{name:50} {done.stderr.strip().splitlines()[-1][:60]}", flush=True)
            continue
        found = json.loads(done.stdout.splitlines()[-1])
        whole = whole or found["seconds"]
        print(
            f"{name:50} {1000 * found['seconds']:8.0f} {found['peak']:8.0f} {found['seconds'] / whole:7.2f}×",
            flush=True,
        )


if __name__ == "__main__":
    main()
