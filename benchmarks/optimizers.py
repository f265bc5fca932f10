"""AdamW, Shampoo and SOAP on a small WeatherMesh at equal steps and at equal time.

    python benchmarks/optimizers.py quickstart/planet.store.zarr optimizers.png

Each trains from the same weights on the same batches of the embedded planet's days, 24 and 48 h ahead, with each of
several learning rates, constant after a warm-up, so that the curves can be compared anywhere. What is shown is the
error on the validation period at the best of the rates. Time is that of the CPU, on one thread, without validation.
"""

import argparse
import json
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import torch
from pytorch_optimizer import SOAP
from torch.optim import AdamW, Optimizer

from etesian.core import Layout
from etesian.forecast.data import ForecastData
from etesian.forecast.latent import LatentForecastTask
from etesian.networks.weathermesh import WeatherMesh
from etesian.training.optimizers import Shampoo

DECAY = 0.05


def adamw(parameters: Iterable[Any], lr: float) -> Optimizer:
    return AdamW(parameters, lr=lr, betas=(0.9, 0.95), weight_decay=DECAY)


def shampoo(parameters: Iterable[Any], lr: float) -> Optimizer:
    return Shampoo(parameters, lr=lr, betas=(0.9, 0.95), weight_decay=DECAY, every=10, start=10)


def soap(parameters: Iterable[Any], lr: float) -> Optimizer:
    return SOAP(parameters, lr=lr, betas=(0.9, 0.95), weight_decay=DECAY, precondition_frequency=10)


MAKERS = {"AdamW": adamw, "Shampoo": shampoo, "SOAP": soap}


def network(layout: Layout) -> WeatherMesh:
    return WeatherMesh(
        layout, patch=(5, 4, 4), dim=64, heads=2, window=(2, 5, 7), encoder_depth=1, decoder_depth=1,
        processors={24: 1}, surface_width=8,
    )  # fmt: skip


def course(store: str, name: str, lr: float, steps: int, every: int) -> list[tuple[int, float, float]]:
    """Train; return step, seconds and validation error from time to time."""
    torch.manual_seed(0)
    periods = ("2000-01-01", "2001-05-15"), ("2001-05-16", "2001-06-30")
    variables = ["geopotential", "temperature", "u_component_of_wind", "v_component_of_wind"]
    data = ForecastData(
        [store], *periods, [24, 48], inputs=[*variables, "2m_temperature", "surface_pressure"], leads_per_sample=2,
        batch_size=8, every=24,
    )  # fmt: skip
    task = LatentForecastTask(network, data.layout, data.statistics, anomalies=True)
    optimizer = MAKERS[name](task.parameter_groups(), lr)
    loader, judged = data.train_dataloader(), list(data.val_dataloader())
    found, spent, step = [], 0.0, 0
    while step < steps:
        loader.sampler.set_epoch(step // len(loader))
        for batch in loader:
            start = time.process_time()
            for group in optimizer.param_groups:
                group["lr"] = lr * min((step + 1) / 20, 1)
            loss = task.loss(batch)[0]
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(task.parameters(), 1.0)
            optimizer.step()
            spent, step = spent + time.process_time() - start, step + 1
            if step % every == 0:
                task.eval()
                with torch.no_grad():
                    error = float(np.mean([float(task.loss(batch)[0]) for batch in judged]))
                task.train()
                found.append((step, spent, error))
            if step == steps:
                break
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("store")
    parser.add_argument("picture", type=Path)
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--rates", type=float, nargs="+", default=[1e-3, 3e-3])
    parser.add_argument("--cache", type=Path, default=Path("optimizers.json"), help="what was computed already")
    options = parser.parse_args()
    torch.set_num_threads(1)
    known = json.loads(options.cache.read_text()) if options.cache.exists() else {}
    best = {}
    for name in MAKERS:
        for rate in options.rates:
            key = f"{name} {rate:g} {options.steps}"
            if key not in known:
                known[key] = course(options.store, name, rate, options.steps, 25)
                options.cache.write_text(json.dumps(known))
            last = known[key][-1]
            print(f"{name:8s} lr {rate:g}: {last[0]} steps, {last[1]:.0f} s, error {last[2]:.4f}", flush=True)
        curves = [known[f"{name} {rate:g} {options.steps}"] for rate in options.rates]
        best[name] = min(curves, key=lambda curve: curve[-1][2] if np.isfinite(curve[-1][2]) else np.inf)
    budget = min(curve[-1][1] for curve in best.values())
    print(f"| optimiser | ms/step | after {options.steps} steps | after {budget:.0f} s |\n|---|---:|---:|---:|")
    figure, axes = plt.subplots(1, 2, figsize=(7, 2.6), sharey=True, layout="constrained")
    for name, curve in best.items():
        steps, seconds, errors = (np.array(column) for column in zip(*curve, strict=True))
        there = np.interp(budget, seconds, errors)
        print(f"| {name} | {1e3 * seconds[-1] / steps[-1]:.0f} | {errors[-1]:.3f} | {there:.3f} |")
        axes[0].plot(steps, errors, label=name)
        axes[1].plot(seconds, errors)
    axes[0].set(xlabel="steps", ylabel="validation error")
    axes[1].set(xlabel="CPU seconds")
    axes[0].legend()
    figure.savefig(options.picture, dpi=90)


if __name__ == "__main__":
    main()
