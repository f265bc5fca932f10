"""What is written of a pretext at each validation: how lags are told apart, and distances by lag in every layer."""

import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int64
from lightning.pytorch.strategies import Strategy
from numpy.typing import NDArray
from torch import Tensor, nn

from etesian.core import Frame
from etesian.core.constants import SECONDS_PER_HOUR
from etesian.core.errors import RecipeError, suggest
from etesian.networks.atmodist import Maps, ResidualEncoder


def lag_classes(frame: Frame, step_hours: int, lags: int) -> Int64[Tensor, " batch"]:
    """Return the class of each pair of times: 0 for one step.

    Raises:
        RecipeError: if times do not lie 1 to `lags` whole steps apart.
    """
    if frame.time.shape[1] != 2:
        raise RecipeError(f"lags are between two times, not {frame.time.shape[1]}; use etesian.distance.data.LagData")
    seconds = frame.time[:, 1] - frame.time[:, 0]
    steps = seconds // (step_hours * SECONDS_PER_HOUR)
    wrong = (seconds % (step_hours * SECONDS_PER_HOUR) != 0) | (steps < 1) | (steps > lags)
    if wrong.any():
        hours = seconds[wrong][0].item() / SECONDS_PER_HOUR
        raise RecipeError(
            f"the data have a lag of {hours:g} h, which is not among the {lags} classes of {step_hours} h each; "
            "give data and model the same lags and step_hours"
        )
    return steps - 1


class LagCurves(nn.Module):
    """Mean squared differences at each lag, of normalised states and of the features of every layer.

    They are part of a checkpoint, so that the scale of a distance is fitted once, on the time held out for validation.

    Args:
        lags: number of lags.
        layers: of the encoder.

    Attributes:
        count: pairs at each lag.
        states: sum of the states' mean squared differences.
        features: sum of the features' mean squared differences, by layer.
    """

    count: Tensor
    states: Tensor
    features: Tensor

    def __init__(self, lags: int, layers: Sequence[str]) -> None:
        super().__init__()
        self.layers = tuple(layers)
        self.register_buffer("count", torch.zeros(lags))
        self.register_buffer("states", torch.zeros(lags))
        self.register_buffer("features", torch.zeros(lags, len(self.layers)))

    def reset(self) -> None:
        """Forget all pairs."""
        for buffer in self.buffers():
            buffer.zero_()

    def add(
        self, classes: Int64[Tensor, " batch"], first: Maps, second: Maps, encoder: ResidualEncoder
    ) -> tuple[Tensor, Tensor]:
        """Count pairs of normalised states and return the encodings by the last layer."""
        apart = []
        for (_, one), (_, other) in zip(encoder.walk(first), encoder.walk(second), strict=True):
            apart.append((one - other).float().square().mean(dim=(1, 2, 3)))
        self.count.index_add_(0, classes, torch.ones_like(classes, dtype=self.count.dtype))
        self.states.index_add_(0, classes, (first - second).float().square().mean(dim=(1, 2, 3)))
        self.features.index_add_(0, classes, torch.stack(apart, dim=1))
        return one, other

    def gather(self, strategy: Strategy) -> None:
        """Add up what all processes have counted."""
        for buffer in self.buffers():
            buffer.copy_(strategy.reduce(buffer, reduce_op="sum"))

    def means(self, layer: str | None = None) -> tuple[Float[Tensor, " lag"], Float[Tensor, " lag"]]:
        """Return the mean squared differences at each lag: of states, and of the features of a layer (None: the last).

        Raises:
            RecipeError: if there is no such layer.
        """
        if layer is not None and layer not in self.layers:
            raise RecipeError(f"the encoder has no layer '{layer}'{suggest(layer, self.layers)}")
        place = len(self.layers) - 1 if layer is None else self.layers.index(layer)
        return self.states / self.count, self.features[:, place] / self.count

    def scale(self, layer: str | None = None) -> float:
        """Return α = Σ m·c / Σ c² over the upper half of the lags, which makes features as far apart as states.

        m and c are the mean squared differences of states and of features (arXiv 2109.09076).

        Raises:
            RecipeError: if a lag was never seen, or features do not differ.
        """
        m, c = (curve.double() for curve in self.means(layer))
        upper = slice(len(self.count) // 2, None)
        alpha = float((m[upper] * c[upper]).sum() / c[upper].square().sum())
        if not 0 < alpha < float("inf"):
            raise RecipeError("no scale can be fitted to the lags; train longer, or validate on more times")
        return alpha


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

    from etesian.scores.plots import dress

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
