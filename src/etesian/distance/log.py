"""Accuracy, top-3 accuracy and confusion matrix of lags by epoch, as CSV and pictures in the run directory."""

import csv
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int64
from numpy.typing import NDArray
from torch import Tensor


def accuracy(confusion: Int64[np.ndarray, "true predicted"]) -> float:
    """Return the share of pairs whose lag was told exactly."""
    return float(np.trace(confusion) / confusion.sum())


def top_hits(scores: Float[Tensor, "batch lag"], classes: Int64[Tensor, " batch"], count: int = 3) -> Tensor:
    """Return in how many samples the class is among the `count` highest scores."""
    best = scores.topk(min(count, scores.shape[1]), dim=1).indices
    return (best == classes[:, None]).any(dim=1).sum()


def write_epoch(
    folder: Path, epoch: int, scores: dict[str, float], confusion: Int64[np.ndarray, "true predicted"], step: int
) -> None:
    """Write the scores of an epoch into scores.csv and its confusion matrix into a file of its own, and draw both.

    Args:
        folder: where to write; made if it is not there.
        epoch: number of the epoch; rows of this and later epochs, from an interrupted run, are replaced.
        scores: by name.
        confusion: number of pairs by true and by predicted class.
        step: hours of a lag of one class.
    """
    folder.mkdir(parents=True, exist_ok=True)
    table = folder / "scores.csv"
    rows: list[dict[str, str]] = []
    if table.exists():
        with table.open(newline="") as file:
            rows = [row for row in csv.DictReader(file) if int(row["epoch"]) < epoch]
    rows.append({"epoch": str(epoch), **{name: f"{value:.6g}" for name, value in scores.items()}})
    with table.open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=["epoch", *scores], restval="", extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)
    hours = step * np.arange(1, len(confusion) + 1)
    with (folder / f"confusion_{epoch:03}.csv").open("w", newline="") as file:
        plain = csv.writer(file)
        plain.writerow(["true_lag_hours", *(f"predicted_{hour}" for hour in hours)])
        plain.writerows([hour, *row] for hour, row in zip(hours.tolist(), confusion.tolist(), strict=True))
    _draw_confusion(folder / f"confusion_{epoch:03}.png", confusion, hours, epoch)
    _draw_scores(folder / "scores.png", rows, len(confusion))


def _draw_confusion(
    path: Path, confusion: Int64[np.ndarray, "true predicted"], hours: NDArray[np.int64], epoch: int
) -> None:
    from matplotlib.figure import Figure

    share = confusion / np.maximum(confusion.sum(axis=1, keepdims=True), 1)
    figure = Figure(figsize=(5.2, 4.6), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(share, origin="lower", cmap="viridis", vmin=0, vmax=max(float(share.max()), 1e-6))
    ticks = np.unique(np.linspace(0, len(hours) - 1, min(len(hours), 8)).round().astype(int))
    axes.set_xticks(ticks, [str(hours[i]) for i in ticks])
    axes.set_yticks(ticks, [str(hours[i]) for i in ticks])
    axes.set(xlabel="predicted lag (h)", ylabel="true lag (h)", title=f"Epoch {epoch}: {accuracy(confusion):.0%} right")
    figure.colorbar(image, label="share of the true lag")
    figure.savefig(path, dpi=110)


def _draw_scores(path: Path, rows: list[dict[str, str]], lags: int) -> None:
    from matplotlib.figure import Figure

    from etesian.scores.drawing import dress

    epochs = [int(row["epoch"]) for row in rows]

    def column(name: str) -> list[float]:
        return [float(row.get(name) or "nan") for row in rows]

    figure = Figure(figsize=(8.4, 3.4), layout="constrained")
    left, right = figure.subplots(1, 2)
    for name, label in (("train_loss", "training"), ("val_loss", "validation")):
        left.plot(epochs, column(name), marker=".", label=label)
    left.axhline(np.log(lags), color="0.6", linestyle=":", label="chance")
    left.set(xlabel="epoch", ylabel="cross-entropy")
    for name, label in (("val_accuracy", "exact"), ("val_top3", "among the first three")):
        right.plot(epochs, column(name), marker=".", label=label)
    right.axhline(1 / lags, color="0.6", linestyle=":", label="chance, exact")
    right.set(xlabel="epoch", ylabel="share of the validation pairs", ylim=(0, 1))
    for axes in (left, right):
        dress(axes)
        axes.legend(frameon=False)
    figure.savefig(path, dpi=110)
