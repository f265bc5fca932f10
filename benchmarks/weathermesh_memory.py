"""Peak memory of a training step of WeatherMesh against its horizon, with and without recomputing its steps.

    python benchmarks/weathermesh_memory.py

A step is made to the horizon and verified there: forward and backward pass, without the optimiser. Each case runs in a
process of its own. On CUDA memory is what PyTorch has allocated there at most, and `off-loaded` moves what enters each
step to the memory of the CPU; on a CPU it is the process's peak above what it had with the network in it, and there is
nothing to move. Seconds are those of the CPU there, on one thread.
"""

import json
import os
import resource
import subprocess
import sys
import time

import torch

from etesian.core import Channel, Fields, Frame, Grid, Layout
from etesian.forecast.latent import recomputed
from etesian.networks.weathermesh import WeatherMesh

LEVELS = (100, 250, 500, 700, 850)
NAMES = ("geopotential", "temperature", "u_component_of_wind", "v_component_of_wind")
HORIZONS = (6, 24, 72, 144)
KEPT = ("everything", "recomputed", "off-loaded")


def measure(horizon: int, kept: str) -> dict[str, float]:
    """Return the peak memory in MiB and the seconds of a forward and backward pass."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    channels = (*(Channel(name, level) for name in NAMES for level in LEVELS), Channel("2m_temperature"))
    layout = Layout(channels, channels, Grid.equiangular(5.625))
    network = WeatherMesh(
        layout, patch=(2, 2, 2), dim=128, heads=4, window=(3, 5, 5), encoder_depth=1, decoder_depth=1,
        processors={6: 2}, surface_width=16,
    ).to(device)  # fmt: skip
    for parameter in network.parameters():
        parameter.grad = torch.zeros_like(parameter)
    frame = Frame(channels, torch.zeros(2, 1, dtype=torch.int64), layout.grid)
    state = Fields(torch.randn(2, 1, len(channels), *layout.grid.shape, device=device), frame)
    step = network.step if kept == "everything" else recomputed(network.step, offload=kept == "off-loaded")
    before = _now(device)
    clock = time.perf_counter if device == "cuda" else time.process_time
    start = clock()
    latent = network.encode(state)
    for _ in range(horizon // 6):
        latent = step(latent, 6)
    network.decode(latent).square().mean().backward()
    peak = _peak(device)
    return {"memory": (peak - before) / 2**20, "seconds": clock() - start}


def _now(device: str) -> int:
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        return torch.cuda.memory_allocated()
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize()


def _peak(device: str) -> int:
    if device == "cuda":
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def main() -> None:
    kinds = KEPT if torch.cuda.is_available() else KEPT[:2]
    # Freed tensors go back to the system at once; otherwise the heap's luck decides.
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "0"}
    print("| horizon | steps |", " | ".join(f"{kind}, MiB | s" for kind in kinds), "|")
    print("|---:|---:|" + "---:|---:|" * len(kinds))
    for horizon in HORIZONS:
        row = []
        for kept in kinds:
            command = [sys.executable, __file__, str(horizon), kept]
            found = json.loads(subprocess.run(command, env=environment, capture_output=True, check=True).stdout)
            row.append(f"{found['memory']:.0f} | {found['seconds']:.1f}")
        print(f"| {horizon} h | {horizon // 6} |", " | ".join(row), "|", flush=True)


if __name__ == "__main__":
    if len(sys.argv) == 3:
        print(json.dumps(measure(int(sys.argv[1]), sys.argv[2])))
    else:
        main()
