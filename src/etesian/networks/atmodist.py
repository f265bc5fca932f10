"""AtmoDist: how far apart in time are two states of the atmosphere (arXiv 2109.09076)?"""

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import logsigmoid, softplus

from etesian.core.errors import RecipeError
from etesian.core.fields import Fields, Frame, Layout
from etesian.networks.network import Network
from etesian.networks.residual import PLANS, Features, Kind, Maps, ResidualEncoder, SameConv

HEAD_WIDTH = 128


class StateEncoder(Network):
    """What has an encoder of single states, whose features make a distance.

    Args:
        layout: channels of the states and the grid of a patch.
        encoder: AtmoDist's own (`small`), `resnet18`, `resnet50` or `resnet101`.
    """

    def __init__(self, layout: Layout, encoder: Kind) -> None:
        super().__init__()
        self.layout = layout
        self.encoder = ResidualEncoder(len(layout.inputs), encoder)

    def features(self, states: Maps, layer: str | None = None) -> Features:
        """Return what a layer of the encoder makes of normalised states; see `ResidualEncoder.forward`."""
        features: Tensor = self.encoder(states, layer)
        return features

    def no_decay(self) -> set[str]:
        """Return the names of biases and of batch normalisation's weights, which the original leaves alone."""
        return {name for name, parameter in self.named_parameters() if parameter.ndim < 2}

    def parts(self) -> dict[str, set[str]]:
        """Return the names of parameters by the plain names under which fine-tuning chooses what to train."""
        everything = super().parts()["all"]
        encoder = {name for name in everything if name.startswith("encoder.")}
        return {"encoder": encoder, "head": everything - encoder, "all": everything}


class AtmoDist(StateEncoder):
    """Scores every lag between two times at one place: an encoder for each state, a head for both encodings.

    Answers no fields, so that only tasks made for it can train it.

    Args:
        layout: channels of the states and the grid of a patch.
        lags: number of classes; class 0 is a lag of one step.
        encoder: AtmoDist's own (`small`), `resnet18`, `resnet50` or `resnet101`.
        order: the head scores every class for itself (`none`), or places the pair on one axis that rising thresholds
            part into lags (`ordinal`; proportional odds, McCullagh 1980).

    Raises:
        RecipeError: if there are fewer than two lags.
    """

    def __init__(
        self, layout: Layout, *, lags: int, encoder: Kind = "small", order: Literal["none", "ordinal"] = "none"
    ) -> None:
        super().__init__(layout, encoder)
        if lags < 2:
            raise RecipeError(f"AtmoDist tells lags apart and needs two at least, not lags: {lags}")
        self.lags = lags
        epsilon = PLANS[encoder].epsilon
        self.combine = nn.Sequential(
            SameConv(2 * self.encoder.width, HEAD_WIDTH, 3, stride=2, bias=True),
            nn.BatchNorm2d(HEAD_WIDTH, epsilon),
            nn.ReLU(),
            SameConv(HEAD_WIDTH, HEAD_WIDTH, 3, bias=True),
            nn.BatchNorm2d(HEAD_WIDTH, epsilon),
            nn.ReLU(),
        )
        rows, columns = (-(-size // 64) for size in layout.grid.shape)
        size = rows * columns * HEAD_WIDTH
        self.answer: nn.Module = nn.Linear(size, lags, bias=False) if order == "none" else ProportionalOdds(size, lags)

    def forward(
        self,
        inputs: Fields,
        target: Frame | None = None,
        *,
        forcings: Fields | None = None,
        statics: Fields | None = None,
    ) -> Float[Tensor, "batch lag"]:
        """Return the score of every lag, of which a softmax makes probabilities.

        Args:
            inputs: normalised states at the two times.
            target: not looked at.
            forcings: not looked at.
            statics: not looked at.
        """
        first, second = inputs.filled().unbind(dim=1)
        return self.score(self.features(first), self.features(second))

    def score(self, first: Features, second: Features) -> Float[Tensor, "batch lag"]:
        """Return the score of every lag from the features of the last layer at both times."""
        combined = self.combine(torch.cat([first, second], dim=1))
        # By row, column, channel: the order of the original's weights.
        scores: Tensor = self.answer(combined.permute(0, 2, 3, 1).flatten(1))
        return scores


class ProportionalOdds(nn.Module):
    """Scores of ordered classes: log P(class ≤ k) − log P(class > k) = threshold k − position."""

    def __init__(self, inputs: int, classes: int) -> None:
        super().__init__()
        self.position = nn.Linear(inputs, 1, bias=False)
        self.first = nn.Parameter(torch.tensor(1.0 - classes / 2))
        # softplus(0.541) = 1
        self.gaps = nn.Parameter(torch.full((classes - 2,), 0.5413))

    def forward(self, features: Float[Tensor, "batch feature"]) -> Float[Tensor, "batch class"]:
        """Return the logarithm of every class's probability."""
        thresholds = self.first + torch.cat([self.gaps.new_zeros(1), softplus(self.gaps).cumsum(0)])
        upper = thresholds - self.position(features)
        # σ(a) − σ(b) = σ(a) σ(−b) (1 − exp(b − a)), which does not cancel.
        between = torch.log1p(-torch.exp(upper[:, :-1] - upper[:, 1:]))
        middle = logsigmoid(upper[:, 1:]) + logsigmoid(-upper[:, :-1]) + between
        return torch.cat([logsigmoid(upper[:, :1]), middle, logsigmoid(-upper[:, -1:])], dim=1)


class Autoencoder(StateEncoder):
    """Reconstructs states at any number of times from the features of the encoder's last layer.

    The decoder doubles the resolution five times, each time by repeating points and a 3×3 convolution.

    Args:
        layout: channels of the states and the grid of a patch.
        encoder: AtmoDist's own (`small`), `resnet18`, `resnet50` or `resnet101`.
    """

    def __init__(self, layout: Layout, *, encoder: Kind = "small") -> None:
        super().__init__(layout, encoder)
        width = self.encoder.width
        layers: list[nn.Module] = []
        for _ in range(5):
            half = max(width // 2, 16)
            layers += [nn.Upsample(scale_factor=2), SameConv(width, half, 3), nn.BatchNorm2d(half), nn.ReLU()]
            width = half
        self.decoder = nn.Sequential(*layers, SameConv(width, len(layout.inputs), 3, bias=True))

    def forward(
        self, inputs: Fields, target: Frame, *, forcings: Fields | None = None, statics: Fields | None = None
    ) -> Float[Tensor, "batch time channel lat lon"]:
        """Reconstruct.

        Args:
            inputs: normalised states.
            target: the frame of the inputs.
            forcings: not looked at.
            statics: not looked at.
        """
        features = self.features(inputs.filled().flatten(0, 1))
        rows, columns = target.grid.shape
        values: Tensor = self.decoder(features)[..., :rows, :columns]
        return values.unflatten(0, target.time.shape)  # type: ignore[no-untyped-call, no-any-return]
