"""WeatherMesh at the size of WeatherMesh-2: encode, one step of 6 h, decode; what 14 days at 0.25° would take.

Prints the parameters of WeatherMesh-2 and -3, built without memory, and then one line for each grid, each measured in a
process of its own with random weights and fields: seconds of each part (the faster of --repeat passes) and the peak
memory of the process. On a GPU the weights and the arithmetic are bfloat16, the peak is the device's, and 0.25° itself
is measured. On a CPU seconds are processor time over the number of threads, which other work on the machine hardly
prolongs, and the last lines extrapolate to 0.25° in proportion to the number of tokens, and say so.

    python benchmarks/weathermesh.py [--size WM-2] [--degrees 2 1 0.5] [--threads 1] [--repeat 1]
"""

import argparse
import json
import math
import resource
import subprocess
import sys
import time
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from etesian.core import Channel, Fields, Frame, Grid, Layout
from etesian.networks.weathermesh import WeatherMesh
from etesian.networks.weathermesh_sizes import SIZES, WM2_LEVELS

ALOFT = ("geopotential", "temperature", "u_component_of_wind", "v_component_of_wind", "specific_humidity")
SURFACE = (
    "2m_temperature", "2m_dewpoint_temperature", "10m_u_component_of_wind", "10m_v_component_of_wind",
    "mean_sea_level_pressure",
)  # fmt: skip
DIAGNOSED = ("total_cloud_cover", "total_precipitation_6hr", "surface_solar_radiation_downwards")
STEPS, FULL = 56, 0.25


def layout(degrees: float, levels: tuple[int, ...] = WM2_LEVELS) -> Layout:
    state = tuple(Channel(name, level) for name in ALOFT for level in levels) + tuple(map(Channel, SURFACE))
    return Layout(state, state + tuple(map(Channel, DIAGNOSED)), Grid.equiangular(degrees))


def parameters(size: str) -> str:
    levels = tuple(np.linspace(10, 1000, 28).astype(int).tolist()) if size == "WM-3" else WM2_LEVELS
    with torch.device("meta"):
        network = WeatherMesh(layout(FULL, levels), **SIZES[size])
    count = sum(p.numel() for p in network.parameters())
    each = {
        name: sum(p.numel() for n, p in network.named_parameters() if n in names)
        for name, names in network.parts().items()
        if name != "all"
    }
    shape = "×".join(map(str, network.latent_shape))
    parts = ", ".join(f"{name} {number / 1e6:.1f}" for name, number in each.items())
    return f"{size}: {count / 1e6:.1f} M parameters ({parts}); {len(levels)} levels, latent {shape} at {FULL}°"


def measure(size: str, degrees: float, threads: int, repeat: int) -> dict[str, float]:
    """Return the seconds of each part, the peak memory in GiB and the number of tokens."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    with device:
        network = WeatherMesh(layout(degrees), **SIZES[size]).eval()
    network.to(device, dtype)
    own = network.layout
    values = torch.randn(1, 1, len(own.inputs), *own.grid.shape, device=device, dtype=dtype)
    state = Fields(values, Frame(own.inputs, torch.zeros(1, 1, dtype=torch.int64), own.grid))

    def clock() -> float:
        return time.perf_counter() if device.type == "cuda" else time.process_time() / threads

    def timed(work: Callable[[], Tensor]) -> tuple[Tensor, float]:
        best = math.inf
        for _ in range(repeat + (device.type == "cuda")):
            begin = clock()
            out = work()
            if device.type == "cuda":
                torch.cuda.synchronize()
            best = min(best, clock() - begin)
        return out, best

    with torch.inference_mode():
        latent, encode = timed(lambda: network.encode(state))
        latent, step = timed(lambda: network.step(latent, 6))
        _, decode = timed(lambda: network.decode(latent))
    if device.type == "cuda":
        peak = torch.cuda.max_memory_allocated() / 2**30
    else:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    tokens = math.prod(network.latent_shape)
    return {"encode": encode, "step": step, "decode": decode, "peak": peak, "tokens": tokens}


def fortnight(of: dict[str, float], factor: float = 1.0) -> str:
    every, last = (factor * (of["encode"] + STEPS * of["step"] + times * of["decode"]) for times in (STEPS, 1))
    return f"14 days = {STEPS} steps: {every:.0f} s with every step decoded, {last:.0f} s with the last one"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", default="WM-2", choices=SIZES)
    parser.add_argument(
        "--degrees", type=float, nargs="+", default=[0.25] if torch.cuda.is_available() else [2, 1, 0.5]
    )
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeat", type=int, default=1)
    parser.add_argument("--case", type=float, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.case:
        print(json.dumps(measure(options.size, options.case, options.threads, options.repeat)))
        return
    for size in ("WM-2", "WM-3"):
        print(parameters(size), flush=True)
    where = torch.cuda.get_device_name() + ", bfloat16" if torch.cuda.is_available() else "CPU, float32"
    print(f"{options.size} on {where}, {options.threads} threads")
    heads = f"{'degrees':>8} {'tokens':>8} {'encode s':>9} {'step s':>8} {'decode s':>9} {'peak GiB':>9}"
    print(f"{heads}  µs of a step per token")
    found = []
    for degrees in options.degrees:
        command = [sys.executable, __file__, *sys.argv[1:], "--case", str(degrees)]
        one = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        found.append(one)
        times = f"{one['encode']:9.2f} {one['step']:8.2f} {one['decode']:9.2f} {one['peak']:9.2f}"
        print(f"{degrees:8g} {one['tokens']:8.0f} {times}  {1e6 * one['step'] / one['tokens']:.0f}", flush=True)
    largest = found[-1]
    if options.degrees[-1] == FULL:
        print(fortnight(largest))
        return
    with torch.device("meta"):
        tokens = math.prod(WeatherMesh(layout(FULL), **SIZES[options.size]).latent_shape)
    factor = tokens / largest["tokens"]
    print(f"EXTRAPOLATED to {FULL}° from {options.degrees[-1]:g}°, {factor:.1f}× the tokens, not measured:")
    print(fortnight(largest, factor))
    if len(found) > 1:
        per_token = (largest["peak"] - found[-2]["peak"]) / (largest["tokens"] - found[-2]["tokens"])
        print(f"peak memory {largest['peak'] + per_token * (tokens - largest['tokens']):.1f} GiB")


if __name__ == "__main__":
    main()
