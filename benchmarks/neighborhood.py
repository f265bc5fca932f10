"""Neighbourhood attention on a CPU: in dense tiles, by gathering every window, and as dense attention with a mask.

Prints one table: milliseconds of a forward pass and of one with its backward pass, and the peak memory of the latter
beyond queries, keys, values and their gradients, each case in a process of its own. The size grows in longitude and
latitude; what grows linearly keeps the same time and memory per token. Ratios are to the tiled attention of the same
round; the fastest of a few passes counts.

    python benchmarks/neighborhood.py [--threads 2] [--repeat 3] [--precision float32]
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from etesian.nn.neighborhood import Axis, axes, neighborhood_attention

WINDOW = (5, 7, 7)
HEADS, HEAD_DIM = 8, 32
SHAPES = [(5, 12, 24), (5, 24, 48), (5, 48, 96), (8, 90, 180)]
LARGEST_COMPARED = 6000
"""Tokens beyond which only the tiled attention runs: the others need too much memory or time."""


def places(axis: Axis) -> Tensor:
    """Return the keys of every query along an axis."""
    seen = axis.contains(torch.arange(axis.size)[:, None], torch.arange(axis.size)[None])
    return seen.nonzero()[:, 1].view(axis.size, -1)


def gathered(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Copy the window of every query."""
    depth, lat, lon = (places(axis) for axis in axes(tuple(query.shape[1:4]), WINDOW))
    index = (depth[:, None, None, :, None, None], lat[None, :, None, None, :, None], lon[None, None, :, None, None])
    keys, values = (x[:, *index].flatten(4, 6).transpose(4, 5).flatten(0, 3) for x in (key, value))
    mixed = F.scaled_dot_product_attention(query.flatten(0, 3).unsqueeze(2), keys, values)
    return mixed.view_as(query)


def dense(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Attend to all tokens, with a mask."""
    depth, lat, lon = (
        axis.contains(torch.arange(axis.size)[:, None], torch.arange(axis.size)[None])
        for axis in axes(tuple(query.shape[1:4]), WINDOW)
    )
    mask = depth[:, None, None, :, None, None] & lat[:, None, None, :, None] & lon[:, None, None, :]
    flat = (x.flatten(1, 3).transpose(1, 2) for x in (query, key, value))
    mixed = F.scaled_dot_product_attention(*flat, attn_mask=mask.flatten(3).flatten(0, 2))
    return mixed.transpose(1, 2).reshape(query.shape)


def tiled(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    return neighborhood_attention(query, key, value, WINDOW)


METHODS: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {"tiled": tiled, "gathered": gathered, "dense": dense}


def measure(method: str, shape: tuple[int, ...], precision: str, repeat: int, threads: int) -> dict[str, float]:
    """Run passes in this process; return the fastest in seconds, and the peak memory in MiB that they added."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    dtype = getattr(torch, precision)
    parts = [torch.randn(1, *shape, HEADS, HEAD_DIM, dtype=dtype, requires_grad=True) for _ in range(3)]
    sensitivity = torch.randn_like(parts[0])
    held = [torch.ones_like(part) for part in parts]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    del held
    forward, both = [], []
    for _ in range(repeat + 1):
        begin = time.perf_counter()
        out = METHODS[method](*parts)
        forward.append(time.perf_counter() - begin)
        torch.autograd.grad(out, parts, sensitivity)
        both.append(time.perf_counter() - begin)
    added = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    return {"forward": min(forward[1:]), "both": min(both[1:]), "added": added}


def case(*arguments: str | int, **environment: str) -> dict[str, float]:
    command = [sys.executable, __file__, "--case", *map(str, arguments)]
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=os.environ | environment)
    return json.loads(done.stdout)


def figures(method: str, shape: tuple[int, ...], precision: str, repeat: int, threads: int) -> dict[str, float]:
    """Return times, and the memory of a run where freed tensors go back to the system, not into the heap's holes."""
    found = case(method, *shape, precision, repeat, threads)
    return found | {"added": case(method, *shape, precision, 1, threads, MALLOC_MMAP_THRESHOLD_="65536")["added"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--precision", default="float32", choices=("float32", "bfloat16"))
    parser.add_argument("--case", nargs=7, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.case:
        method, *size, precision, repeat, threads = options.case
        print(json.dumps(measure(method, tuple(map(int, size)), precision, int(repeat), int(threads))))
        return
    print(f"{HEADS} heads × {HEAD_DIM}, window {WINDOW}, {options.precision}; {options.threads} threads")
    names = (f"{'forward ms':>11} {'both ms':>9} {'MiB':>7}", f"{'µs/token':>9} {'kiB/token':>10}  ratios")
    print(f"{'shape':>10} {'method':>9}", *names)
    for shape in SHAPES:
        tokens = shape[0] * shape[1] * shape[2]
        base: dict[str, float] = {}
        for method in METHODS:
            if method != "tiled" and tokens > LARGEST_COMPARED:
                continue
            repeat = options.repeat if tokens <= LARGEST_COMPARED else 1
            found = figures(method, shape, options.precision, repeat, options.threads)
            base = base or found
            ratios = [f"{found[name] / base[name]:.1f}×" for name in ("forward", "both", "added")]
            size = "×".join(map(str, shape))
            print(
                f"{size:>10} {method:>9} {1e3 * found['forward']:11.1f} {1e3 * found['both']:9.1f}",
                f"{found['added']:7.0f}",
                f"{1e6 * found['both'] / tokens:9.2f} {1024 * found['added'] / tokens:10.2f} ",
                *ratios,
                flush=True,
            )


if __name__ == "__main__":
    main()
