"""Distances between states as functions of the time between them: learned, absolute, squared, PSNR and SSIM.

    python benchmarks/lag_distance.py runs/atmodist_planet runs/data/planet42.store.zarr 2000-12-25 2001-02-03

The same patches at the same initial times are compared at every lag, on time that the encoder was not trained on. With
`--beside`, the distances of further runs on the same channels and patches are compared with them, such as other seeds.
"""

import argparse
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from rich.progress import track
from torchmetrics.functional.image import structural_similarity_index_measure as ssim

from etesian.core import Fields, Frame
from etesian.distance.data import LagDataset
from etesian.distance.distance import AtmoDistance
from etesian.samples.patches import Cutter, PatchPick
from etesian.samples.windows import Period
from etesian.store.reader import Store

LEARNED = "atmodist"
LABELS = {LEARNED: "AtmoDist", "l1": "ℓ1", "l2": "ℓ2", "psnr": "−PSNR", "ssim": "1 − SSIM"}
RANGE = 10.0
"""Of normalised values, for PSNR and SSIM."""


def curves(
    learned: dict[str, AtmoDistance], store: Store, period: Period, lags: int, times: int, patches: int
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the means of every distance by lag in hours, and their standard errors over initial times."""
    distance = learned[LEARNED]
    layout = distance.network.layout
    cutter = Cutter(store.grid, layout.grid.shape, 60.0)
    leads = [store.step_hours * lag for lag in range(1, lags + 1)]
    dataset = LagDataset(store, layout, cutter, leads, period, patches=patches)
    random = np.random.default_rng(0)
    initial = dataset.initial[np.linspace(0, len(dataset.initial) - 1, min(times, len(dataset.initial))).astype(int)]
    rows = []
    for start in track(initial, "Comparing"):
        places = [(int(random.choice(cutter.rows)), int(random.integers(0, cutter.columns))) for _ in range(patches)]
        picks = [PatchPick(int(start), lead, *place) for lead in leads for place in places]
        inputs = dataset[picks].inputs
        states = [inputs.at(0), inputs.at(1)]
        first, second = (distance.normalizer.normalize(each).values[:, 0] for each in states)
        frame = Frame(layout.inputs, states[0].frame.time, layout.grid)
        fields = [Fields(each.values, frame) for each in states]
        with torch.no_grad():
            values = {name: each(*fields)[:, 0] for name, each in learned.items()}
        difference = first - second
        squared = difference.square().mean((1, 2, 3))
        values |= {
            "l1": difference.abs().mean((1, 2, 3)),
            "l2": squared,
            "psnr": 10 * torch.log10(squared / RANGE**2),
            "ssim": 1 - ssim(first, second, data_range=RANGE, reduction="none"),
        }
        means = {name: value.view(lags, patches).mean(1).numpy() for name, value in values.items()}
        rows.append(pd.DataFrame(means, index=pd.Index(leads, name="lag_hours")))
    everything = np.stack([row.to_numpy() for row in rows])
    tables = (everything.mean(0), everything.std(0, ddof=1) / np.sqrt(len(everything)))
    mean, error = (pd.DataFrame(table, index=rows[0].index, columns=rows[0].columns) for table in tables)
    return mean, error


def monotone_until(curve: pd.Series) -> int:
    """Return the last lag in hours to which a curve rises without a break."""
    falls = np.flatnonzero(np.diff(curve) <= 0)
    return int(curve.index[falls[0]] if falls.size else curve.index[-1])


def rise(curve: pd.Series) -> float:
    """Return the share of a curve's rise that comes in the second half of its lags."""
    half = curve.iloc[len(curve) // 2 - 1]
    return float((curve.iloc[-1] - half) / (curve.iloc[-1] - curve.iloc[0]))


def draw(mean: pd.DataFrame, error: pd.DataFrame, path: Path) -> None:
    """Draw every distance against lag, from 0 at the shortest to 1 at its largest value."""
    figure = Figure(figsize=(6.4, 4.2), layout="constrained")
    axes = figure.subplots()
    for name, label in LABELS.items():
        low, span = mean[name].iloc[0], mean[name].max() - mean[name].iloc[0]
        axes.errorbar(
            mean.index, (mean[name] - low) / span, error[name] / span, label=label, marker=".",
            linewidth=2.4 if name == "atmodist" else 1.3,
        )  # fmt: skip
    axes.set(xlabel="lag (h)", ylabel="distance, from the shortest lag to its largest value")
    axes.legend(frameon=False)
    figure.savefig(path, dpi=120)


def main() -> None:
    """Print the table and write it beside the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run")
    parser.add_argument("store")
    parser.add_argument("start")
    parser.add_argument("end")
    parser.add_argument("--beside", nargs="+", default=[], help="further runs")
    parser.add_argument("--lags", type=int, default=16, help="steps of the store")
    parser.add_argument("--times", type=int, default=60, help="initial times")
    parser.add_argument("--patches", type=int, default=4, help="at each of them")
    parser.add_argument("--layer", default=None, help="of the encoder; default the last")
    parser.add_argument("--out", type=Path, default=Path("lag_distance"), help="path without suffix")
    given = parser.parse_args()
    learned = {LEARNED: AtmoDistance.load(given.run, given.layer)}
    learned |= {run: AtmoDistance.load(run, given.layer) for run in given.beside}
    mean, error = curves(
        learned, Store(given.store), Period(given.start, given.end), given.lags, given.times, given.patches
    )
    mean.to_csv(given.out.with_suffix(".csv"), float_format="%.6g")
    draw(mean, error, given.out.with_suffix(".png"))
    print(mean.to_string(float_format="%.4f"))
    for name in mean.columns:
        until, late = monotone_until(mean[name]), rise(mean[name])
        print(f"{LABELS.get(name, name):9} rises to {until} h; {late:.0%} of its rise in the second half")


if __name__ == "__main__":
    main()
