"""How far states are from one another as a function of the time between them: in the data, and in every layer."""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int64
from lightning.pytorch.strategies import Strategy
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
