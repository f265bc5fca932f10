"""What has to be seen once on a real GPU, in one run of under ten minutes; every part is saved as soon as it is there.

    python benchmarks/gpu.py [--device cuda] [--out gpu] [--parts …] [--tiny]

Parts: the machine; every network and task of tests/small_tasks.py with loss and gradients against the CPU's, and how
often the host waited; neighbourhood attention by each backend; WeatherMesh-2 at 0.25° with a forecast of 14 days; steps
of training of each family at a size of use; a run that is trained, gone on with and asked for forecasts through the
verbs. OUT/gpu.json holds the figures with the commit, OUT/gpu.md the same as a table. A part that fails is written down
and the others go on. `--device cpu --tiny` is a dry run.
"""

import argparse
import copy
import json
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
import xarray as xr
from torch import Tensor

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent / "tests")]

import small_tasks  # noqa: E402
import weathermesh  # noqa: E402

import etesian as et  # noqa: E402
from etesian.core import Batch, Channel, Fields, Frame, Grid, Layout  # noqa: E402
from etesian.core.statistics import Statistics  # noqa: E402
from etesian.networks.weathermesh_sizes import SIZES  # noqa: E402
from etesian.nn import neighborhood  # noqa: E402
from etesian.store.prepare import prepare_dataset  # noqa: E402
from etesian.training.task import Task  # noqa: E402

STEPS = 56


class Report:
    """Figures, written down one by one.

    Args:
        out: folder to write into.
        device: that is measured.
        tiny: whether this is a dry run.
    """

    def __init__(self, out: Path, device: torch.device, tiny: bool) -> None:
        out.mkdir(parents=True, exist_ok=True)
        self.out, self.device, self.tiny, self.begin = out, device, tiny, time.perf_counter()
        self.gpu = device.type == "cuda"
        self.found: dict[str, Any] = {"commit": commit(), "dry run": tiny or not self.gpu}

    def say(self, name: str, value: Any) -> None:
        """Print a figure and write all that there are."""
        self.found[name] = value
        print(f"[{self.seconds:4.0f} s] {name}: {value}", flush=True)
        (self.out / "gpu.json").write_text(json.dumps(self.found, indent=1, default=str))
        rows = [f"| {name} | {value} |" for name, value in self.found.items()]
        (self.out / "gpu.md").write_text("\n".join(["| what | figure |", "|---|---|", *rows]) + "\n")

    def attempt(self, name: str, work: Callable[[], Any]) -> None:
        """Say what some work returns, or where it failed."""
        try:
            self.say(name, work())
        except Exception as error:
            frames = [f for f in traceback.extract_tb(error.__traceback__) if "etesian" in f.filename]
            where = f" at {Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else ""
            self.say(name, f"FAILED{where}: {type(error).__name__}: {str(error)[:300]}")
        if self.gpu:
            torch.cuda.empty_cache()

    @property
    def seconds(self) -> float:
        """Since the beginning."""
        return time.perf_counter() - self.begin

    def wait(self) -> None:
        """Let the device come to an end."""
        if self.gpu:
            torch.cuda.synchronize()

    def ms(self, work: Callable[[], Any], repeat: int = 5, before: int = 2) -> float:
        """Return the fastest of some runs."""
        for _ in range(1 if self.tiny else before):
            work()
        times = []
        for _ in range(1 if self.tiny else repeat):
            self.wait()
            begin = time.perf_counter()
            work()
            self.wait()
            times.append(time.perf_counter() - begin)
        return round(1e3 * min(times), 3)

    def peak(self) -> float:
        """Return the most memory that was taken since the last call, in GiB; on a CPU nothing is known."""
        if not self.gpu:
            return float("nan")
        peak = torch.cuda.max_memory_allocated() / 2**30
        torch.cuda.reset_peak_memory_stats()
        return round(peak, 2)


def commit() -> str:
    command = ["git", "-C", str(HERE), "describe", "--always", "--dirty"]
    return subprocess.run(command, capture_output=True, text=True).stdout.strip() or "unknown"


def machine(report: Report) -> None:
    report.say("torch", torch.__version__)
    report.say("device", torch.cuda.get_device_name(report.device) if report.gpu else "cpu")
    size = 256 if report.tiny else 8192
    for dtype in (torch.bfloat16, torch.float32):
        square = torch.randn(size, size, device=report.device, dtype=dtype)
        report.say(f"{dtype} TFLOP/s", round(2e-9 * size**3 / report.ms(lambda one=square: one @ one), 2))
    big = torch.empty((1 if report.tiny else 512) * 2**20, dtype=torch.uint8, device=report.device)
    report.say("copy on the device, GB/s", round(2e-6 * big.numel() / report.ms(big.clone)))
    report.say("to pageable memory, GB/s", round(1e-6 * big.numel() / report.ms(big.cpu, 3), 1))
    if report.gpu:
        pinned = torch.empty(big.shape, dtype=big.dtype, pin_memory=True)
        report.say(
            "to pinned memory, GB/s", round(1e-6 * big.numel() / report.ms(lambda: pinned.copy_(big, True), 3), 1)
        )


def agreement(report: Report) -> None:
    """Compare every task with the CPU, in single precision without TF32, and count what the host waits for."""
    torch.backends.cudnn.allow_tf32 = False
    for case in small_tasks.CASES[: 2 if report.tiny else None]:
        if report.seconds > 240:
            report.say("agreement", "stopped for time")
            break
        report.attempt(f"agreement: {case.__name__}", lambda case=case: _agreement(report, case))
    torch.backends.cudnn.allow_tf32 = True


def _agreement(report: Report, case: Callable[[], small_tasks.Case]) -> dict[str, float]:
    torch.manual_seed(0)
    task, batch = case()
    here, there = (small_tasks.quiet(each) for each in (task, copy.deepcopy(task).to(report.device)))
    moved = batch.to(report.device)
    loss = small_tasks.trained(here, batch)
    found = {"loss": small_tasks.apart(small_tasks.trained(there, moved), loss)}
    pairs = [(a.grad, b.grad) for a, b in zip(there.parameters(), here.parameters(), strict=True) if b.grad is not None]
    largest = max(float(own.abs().max()) for _, own in pairs)
    found["gradient"] = max(float((a.cpu() - own).abs().max()) / largest for a, own in pairs)
    found["prediction"] = small_tasks.apart(small_tasks.predicted(there, moved), small_tasks.predicted(here, batch))
    small_tasks.validated(there, moved)
    if report.gpu:
        torch.cuda.set_sync_debug_mode("warn")
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always")
            small_tasks.trained(there, moved)
        torch.cuda.set_sync_debug_mode("default")
        found["waits"] = sum("synchroniz" in str(each.message) for each in seen)
    for name, dtype in (("bf16", torch.bfloat16), ("fp16", torch.float16)):
        with torch.autocast(report.device.type, dtype):
            found[f"{name} loss"] = small_tasks.apart(small_tasks.trained(there, moved), loss)
    return {name: round(value, 7) for name, value in found.items()}


def attention(report: Report) -> None:
    shape, window, heads = ((4, 12, 24), (3, 5, 5), 2) if report.tiny else ((8, 90, 180), (5, 7, 7), 24)
    along = neighborhood.axes(shape, window)
    torch.manual_seed(0)
    wide = [torch.randn(1, *shape, heads, 32, device=report.device) for _ in range(4)]
    *given, ahead = (each.bfloat16() for each in wide)
    exact = neighborhood.tiled_attention(*wide[:3], along)
    ways: dict[str, Any] = {"tiled": neighborhood.tiled_attention, "flex": neighborhood.flex_attention}
    if neighborhood.natten_has_kernels():
        ways["natten"] = neighborhood.natten_attention

    def measured(way: Callable[..., Tensor]) -> dict[str, float]:
        begin = time.perf_counter()
        off = small_tasks.apart(way(*given, along), exact)
        first = time.perf_counter() - begin
        found = {"ms": report.ms(lambda: way(*given, along), 3), "error": round(off, 5), "first s": round(first, 1)}
        if not report.gpu and way is neighborhood.flex_attention:
            # Has no gradient on a CPU.
            return found
        leaves = [each.clone().requires_grad_() for each in given]
        both = report.ms(lambda: torch.autograd.grad(way(*leaves, along), leaves, ahead), 3)
        return found | {"ms with gradient": both}

    for name, way in ways.items():
        report.attempt(f"attention {shape} window {window}: {name}", lambda way=way: measured(way))
    if report.gpu:

        def batches() -> float:
            small = neighborhood.axes((3, 8, 16), (3, 5, 5))
            begin = time.perf_counter()
            for count in range(1, 13):
                tokens = torch.randn(count, 3, 8, 16, 2, 32, device=report.device)
                neighborhood.flex_attention(tokens, tokens, tokens, small)
            return round(time.perf_counter() - begin, 1)

        report.attempt("attention: seconds for twelve sizes of batches", batches)


def weathermesh_2(report: Report) -> None:
    degrees, steps = (6.0, 2) if report.tiny else (0.25, STEPS)
    size = {**SIZES["tiny"], "patch": (4, 5, 5)} if report.tiny else SIZES["WM-2"]
    torch.manual_seed(0)
    network = et.WeatherMesh(weathermesh.layout(degrees), **size).eval().to(report.device, torch.bfloat16)
    own = network.layout
    values = torch.randn(1, 1, len(own.inputs), *own.grid.shape, device=report.device, dtype=torch.bfloat16)
    state = Fields(values, Frame(own.inputs, torch.zeros(1, 1, dtype=torch.int64), own.grid))
    report.peak()
    with torch.inference_mode():
        latent = network.encode(state)
        parts = {
            "encode": lambda: network.encode(state),
            "step": lambda: network.step(latent, 6),
            "decode": lambda: network.decode(latent),
        }
        report.say(f"WeatherMesh-2, {degrees}°, ms", {name: report.ms(part, 3, 1) for name, part in parts.items()})

        def fortnight(kept: bool) -> float:
            report.wait()
            begin, now = time.perf_counter(), network.encode(state)
            for _ in range(steps):
                now = network.step(now, 6)
                fields = network.decode(now)
                if kept:
                    fields.float().cpu()
            report.wait()
            return round(time.perf_counter() - begin, 2)

        for kept in (False, True):
            where = "brought to the host" if kept else "on the device"
            report.attempt(
                f"WeatherMesh-2, {steps} steps of 6 h, every one decoded, {where}, s", lambda k=kept: fortnight(k)
            )
    report.say("WeatherMesh-2, peak GiB", report.peak())


def training(report: Report) -> None:
    """Measure steps of training of networks on 1.40625°, 45 channels, at the size that recipes have."""
    state = tuple(Channel(f"field {number}") for number in range(9 if report.tiny else 45))
    grid = Grid.equiangular(22.5 if report.tiny else 1.40625)
    layout = Layout(state, state, grid)
    count = len(state)
    known = Statistics(state, np.zeros(count), np.ones(count))
    small = {"dim": 16, "depth": 1, "heads": 2} if report.tiny else {}
    networks: dict[str, tuple[Callable[[Layout], Any], int]] = {
        "ClimaX, patch 4": (lambda own: et.ClimaX(own, patch=4, **small), 16),
        "ClimaX, patch 4, local_width 32": (lambda own: et.ClimaX(own, patch=4, local_width=32, **small), 4),
        "U-Net": (lambda own: et.UNet(own, (24,), width=8 if report.tiny else 64), 16),
    }
    for name, (network, size) in networks.items():
        for precision in ("bf16-mixed", "32-true"):
            report.attempt(
                f"training, {name}, batch {size}, {precision}",
                lambda network=network, size=size, precision=precision: _step(
                    report, et.ForecastTask(network, layout, known), 2 if report.tiny else size, precision
                ),
            )


def _step(report: Report, task: Task, size: int, precision: str) -> dict[str, float]:
    layout = task.layout
    report.peak()
    time_ = torch.zeros(size, 1, dtype=torch.int64)
    hour = 24 * 3600
    values = torch.randn(size, 1, len(layout.inputs), *layout.grid.shape)
    host = Batch(
        Fields(values, Frame(layout.inputs, time_, layout.grid)),
        Fields(values, Frame(layout.targets, time_ + hour, layout.grid)),
    )
    host = host.pin_memory() if report.gpu else host
    small_tasks.quiet(task).to(report.device).train()
    optimizer = torch.optim.AdamW(task.parameters(), fused=report.gpu)
    torch.set_float32_matmul_precision("high" if report.gpu else "highest")

    def step() -> None:
        batch = host.to(report.device)
        with torch.autocast(report.device.type, torch.bfloat16, enabled=precision == "bf16-mixed"):
            loss, _ = task.loss(batch)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    found = {"ms": report.ms(step, 4), "peak GiB": report.peak()}
    torch.set_float32_matmul_precision("highest")
    return found


def verbs(report: Report) -> None:
    """Train a run, go on with it, and forecast with it on the device and on the CPU."""
    with tempfile.TemporaryDirectory() as folder:
        store, run = Path(folder) / "store.zarr", Path(folder) / "run"
        prepare_dataset(_weather(), store)
        network = {"patch": 2, "dim": 32, "depth": 2, "heads": 2}
        periods = {"train": ["2001-01-01", "2001-02-05"], "validate": ["2001-02-06", "2001-02-20"]}
        recipe = {
            "data": {"class_path": "ForecastData", "init_args": {"stores": [str(store)], "leads": [24], **periods}},
            "model": {
                "class_path": "ForecastTask",
                "init_args": {"network": {"class_path": "ClimaX", "init_args": network}},
            },
            "trainer": {
                "accelerator": "gpu" if report.gpu else "cpu", "devices": 1, "precision": "bf16-mixed", "logger": False,
                "max_epochs": 1, "enable_model_summary": False,
            },
        }  # fmt: skip

        def fitted(epochs: int) -> float:
            begin = time.perf_counter()
            et.fit(recipe, run=run, epochs=epochs)
            return round(time.perf_counter() - begin, 1)

        report.attempt("verbs: seconds of fit", lambda: fitted(1))
        report.attempt("verbs: seconds of going on", lambda: fitted(2))

        def forecast() -> dict[str, Any]:
            asked = (str(store), ("2001-02-10", "2001-02-16"), [24])
            exact, single, default = (
                et.load(run, device=device, precision=precision).forecast(*asked).to_array().values
                for device, precision in (("cpu", None), (str(report.device), "32-true"), (str(report.device), None))
            )
            scale = float(np.abs(exact - exact.mean()).max())
            answers = et.load(run, device=str(report.device))
            return {
                "answers on": f"{answers.device}, {answers.precision}",
                "32-true from the CPU's": round(float(np.abs(single - exact).max()) / scale, 6),
                "as trained from the CPU's": round(float(np.abs(default - exact).max()) / scale, 6),
            }

        report.attempt("verbs: forecasts", forecast)


def _weather() -> xr.Dataset:
    latitude, longitude = np.linspace(-75, 75, 6), np.arange(8) * 45.0
    time_ = pd.date_range("2001-01-01", periods=60, freq="D")
    wave = np.sin(np.radians(longitude) - 0.4 * np.arange(60)[:, None])[:, None] * np.cos(np.radians(latitude))[:, None]
    values = 280 + 10 * wave + np.random.default_rng(0).standard_normal((60, 6, 8))
    known = {"time": time_, "latitude": latitude, "longitude": longitude}
    return xr.Dataset(
        {"2m_temperature": (("time", "latitude", "longitude"), values.astype(np.float32), {"units": "K"})}, known
    )


PARTS: dict[str, Callable[[Report], None]] = {
    "machine": machine,
    "verbs": verbs,
    "attention": attention,
    "weathermesh": weathermesh_2,
    "training": training,
    "agreement": agreement,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--out", type=Path, default=Path("gpu"))
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--tiny", action="store_true")
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    report = Report(options.out, torch.device(options.device), options.tiny)
    for name in options.parts:
        report.attempt(name, lambda name=name: PARTS[name](report) or "done")
    report.say("seconds", round(report.seconds))


if __name__ == "__main__":
    main()
