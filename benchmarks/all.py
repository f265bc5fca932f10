"""What fits into 20 minutes of the benchmarks, by their short settings, as one Markdown table.

Runs one after the other, each as a command of its own, for as long as there is time, and picks a few figures out of
what it prints. What needs files that are not here, a GPU, or hours of training is named with its reason.

    OMP_NUM_THREADS=1 python benchmarks/all.py [--only scores loading …] [--minutes 20] [--out benchmarks.md]
"""

import argparse
import os
import platform
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch

HERE = Path(__file__).parent


class Short(NamedTuple):
    """A benchmark of minutes: options, how lines begin with which of their numbers in which units, what it needs."""

    options: str
    figures: tuple[tuple[str, int, str], ...]
    needs: str = ""


SHORT = {
    "scores": Short(
        "--degrees 2 --repeats 2",
        (("etesian: fair and plain CRPS, spread", 0, "µs a point"), ("scoringrules, pwm (fair)", 0, "µs a point")),
    ),
    "loading": Short(
        "--steps 400 --repeat 2",
        (("training store", 0, "samples/s"), ("npz shards with a shuffle buffer", 0, "samples/s")),
    ),
    "patches": Short("--pairs 64 --repeat 2", (("cut, 4 places at each pair of times", 0, "pairs/s"),)),
    "atmodist": Short("", (("float32: plain", 2, "times as fast"), ("bfloat16: plain", 2, "times as fast"))),
    "spectral": Short("", (("128×256 Gaussian", 1, "ms to coefficients"), ("128×256 Gaussian", 2, "ms back"))),
    "reading": Short("--files 1 100", (("100 open_store", 0, "s"), ("100 doctor", 0, "s"))),
    "scale": Short("", (("prepare 64×128", 4, "MB/s"), ("evaluate 64×128", 4, "MB/s"))),
    "weathermesh": Short("--degrees 3", (("3 960", 1, "s a step of 6 h"), ("3 960", 3, "GiB at most"))),
    "gapfill": Short("--points 96 --repeat 2", (("recipe training", 0, "s"), ("recipe inference", 0, "s"))),
    "member_cost": Short("--runs 2", (("UNet", 2, "ms a field"), ("UNet", 3, "ms a member"))),
    "neighborhood": Short("--threads 1 --repeat 1", (("8×90×180 tiled", 1, "ms forward and backward"),)),
    "climax": Short("--precisions bfloat16 --repeat 1 --rounds 1", (("bfloat16 fused", 0, "s a step"),)),
    "climax_modes": Short("--repeat 1", (("training step", 0, "ms"), ("forecast", 0, "ms"))),
    "weathermesh_memory": Short("", (("72 h 12", 0, "MiB"), ("72 h 12", 2, "MiB with recompute"))),
    "full_size": Short("--recipes climax_5.625", (("climax_5.625", 1, "s a step"), ("climax_5.625", 2, "GiB at most"))),
    "intervals": Short("", (("independent", 1, "% of equal pairs told apart"),)),
    "alboran": Short("alboranSST_small.nc", (), "alboranSST_small.nc"),
    "gpu": Short("", (), "cuda"),
}

LONG = (
    "downscaling, forcings, gapfill_boxes, gapfill_clouds, gapfill_members, gapfill_peers, jet_stream, lag_distance, "
    "members, perturbations, planet, pretraining, projection, slp, slp_members, superres_real, "
    "superresolution, superresolution_diffusion, ten_years, weathermesh_edges, weathermesh_grids"
)


def pick(printed: str, figures: Sequence[tuple[str, int, str]]) -> str:
    """Return figures out of what a benchmark printed, by the beginnings of its lines.

    Raises:
        ValueError: if it printed no such number.
    """
    lines = [" ".join(re.sub("[|│┃]", " ", line).split()) for line in printed.splitlines()]
    found = []
    for begin, place, units in figures:
        behind = [line[len(begin) :] for line in lines if re.match(re.escape(begin) + r"\s+-?\d", line)]
        numbers = re.findall(r"-?\d[\d,]*(?:\.\d+)?(?:e[-+]?\d+)?", behind[0]) if behind else []
        if place >= len(numbers):
            raise ValueError(f"no figure {place} behind '{begin}'")
        found.append(f"{begin}: {numbers[place]} {units}")
    return "; ".join(found)


def row(name: str, short: Short) -> str:
    """Run one benchmark and return its row."""
    words = [f"benchmarks/{name}.py", *short.options.split()]
    command = f"`python {' '.join(words)}`"
    begin = time.perf_counter()
    ran = subprocess.run(
        [sys.executable, *words], cwd=HERE.parent, capture_output=True, text=True, env=os.environ | {"COLUMNS": "120"}
    )
    seconds = time.perf_counter() - begin
    try:
        said = ran.stderr if ran.returncode else ran.stdout
        figures = "" if ran.returncode else pick(said, short.figures)
        figures = figures or (said.splitlines() or ["nothing printed"])[-1]
    except ValueError as error:
        figures = str(error)
    return f"| {name} | {command} | {figures} | {seconds:.0f} |"


def missing(short: Short) -> str:
    """Return what a benchmark needs that is not here."""
    if short.needs == "cuda":
        return "" if torch.cuda.is_available() else "needs a GPU"
    return f"needs {short.needs}" if short.needs and not (HERE.parent / short.needs).exists() else ""


def main() -> None:
    """Write the table, row by row."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=list(SHORT), default=list(SHORT))
    parser.add_argument("--minutes", type=float, default=20)
    parser.add_argument("--out", type=Path, default=Path("benchmarks.md"))
    options = parser.parse_args()
    asked = ["git", "-C", str(HERE), "rev-parse", "--short", "HEAD"]
    commit = subprocess.run(asked, capture_output=True, text=True).stdout.strip() or "unknown"
    cpu = re.findall(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text()) if sys.platform == "linux" else []
    processor = cpu[0] if cpu else platform.processor()
    lines = [
        f"{processor}, {os.cpu_count()} cores, torch {torch.__version__}, commit {commit}",
        "",
        "| benchmark | command | figures | s |",
        "|---|---|---|---:|",
    ]
    end = time.monotonic() + 60 * options.minutes
    for name in options.only:
        reason = missing(SHORT[name]) or ("no time was left" if time.monotonic() > end else "")
        lines.append(f"| {name} | | not run: {reason} | |" if reason else row(name, SHORT[name]))
        print(lines[-1], flush=True)
        options.out.write_text("\n".join(lines) + "\n", encoding="utf-8")
    lines += ["", f"Left out, since they train for hours: {LONG}."]
    options.out.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
