"""AtmoDist: how far apart in time are two states of the atmosphere (arXiv 2109.09076)?"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import conv2d, logsigmoid, pad, relu, softplus

from etesian.core.errors import RecipeError, suggest
from etesian.core.fields import Fields, Frame, Layout
from etesian.networks.network import Network

Maps = Float[Tensor, "batch channel lat lon"]

Features = Float[Tensor, "batch feature row column"]

Kind = Literal["small", "resnet18", "resnet50", "resnet101"]

HEAD_WIDTH = 128

TINY_DISTANCE = 1e-6
"""Of equal features, whose logarithm would be infinite."""


@dataclass(frozen=True)
class Plan:
    """What tells one residual encoder from another.

    Attributes:
        kernel: of the first convolution, in grid points.
        width: channels of the first convolution.
        depths: residual blocks of each stage.
        widths: channels of each stage; all but the first halve the resolution.
        bottleneck: blocks of 1×1, 3×3 and 1×1 convolutions, the last one four times as wide, instead of two 3×3.
        norm_shortcut: batch normalisation behind the 1×1 convolution of a shortcut.
        epsilon: added to the variance in batch normalisation.
    """

    kernel: int
    width: int
    depths: tuple[int, ...]
    widths: tuple[int, ...]
    bottleneck: bool = False
    norm_shortcut: bool = True
    epsilon: float = 1e-5


PLANS: dict[str, Plan] = {
    "small": Plan(8, 16, (6, 6, 6, 6), (16, 32, 64, 128), norm_shortcut=False, epsilon=1.001e-5),
    "resnet18": Plan(7, 64, (2, 2, 2, 2), (64, 128, 256, 512)),
    "resnet50": Plan(7, 64, (3, 4, 6, 3), (64, 128, 256, 512), bottleneck=True),
    "resnet101": Plan(7, 64, (3, 4, 23, 3), (64, 128, 256, 512), bottleneck=True),
}
"""AtmoDist's encoder (arXiv 2109.09076) and the residual networks of He et al. (arXiv 1512.03385)."""


def same_padding(size: int, kernel: int, stride: int) -> tuple[int, int]:
    """Return the points before and after an axis that make ⌈size / stride⌉ outputs, as TensorFlow's "SAME" does.

    >>> same_padding(64, 8, 2), same_padding(7, 3, 2), same_padding(8, 3, 2)
    ((3, 3), (1, 1), (0, 1))
    """
    outputs = -(-size // stride)
    total = max((outputs - 1) * stride + kernel - size, 0)
    return total // 2, total - total // 2


def pad_same(maps: Maps, kernel: int, stride: int, value: float = 0.0) -> Features:
    """Pad rows and columns so that ⌈size / stride⌉ outputs come out, the odd point at the end."""
    rows, columns = (same_padding(size, kernel, stride) for size in maps.shape[-2:])
    return pad(maps, (*columns, *rows), value=value)


class SameConv(nn.Conv2d):
    """A convolution with a square kernel whose output has ⌈size / stride⌉ points along each axis."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1, bias: bool = False) -> None:
        super().__init__(inputs, outputs, kernel, stride, bias=bias)

    def forward(self, input: Maps) -> Features:
        """Pad with zeros and convolve; where both sides get as many, the convolution pads, which spares a copy."""
        kernel, stride = self.kernel_size[0], self.stride[0]
        sides = [same_padding(size, kernel, stride) for size in input.shape[-2:]]
        if all(before == after for before, after in sides):
            padding = [before for before, _ in sides]
            return conv2d(input, self.weight, self.bias, self.stride, padding)
        return super().forward(pad_same(input, kernel, stride))


class Block(nn.Module):
    """A residual block: convolutions, the first of them with a stride, beside a shortcut."""

    def __init__(self, plan: Plan, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        kernels = (1, 3, 1) if plan.bottleneck else (3, 3)
        strided = kernels.index(3)
        outputs = block_width(plan, width)
        layers: list[nn.Module] = []
        before = inputs
        for number, kernel in enumerate(kernels):
            after = outputs if number == len(kernels) - 1 else width
            layers += [
                SameConv(before, after, kernel, stride if number == strided else 1),
                nn.BatchNorm2d(after, plan.epsilon),
                nn.ReLU(),
            ]
            before = after
        self.branch = nn.Sequential(*layers[:-1])
        self.shortcut = nn.Sequential()
        if stride > 1 or inputs != outputs:
            self.shortcut.append(SameConv(inputs, outputs, 1, stride))
            if plan.norm_shortcut:
                self.shortcut.append(nn.BatchNorm2d(outputs, plan.epsilon))

    def forward(self, maps: Maps) -> Features:
        """Add the branch to the shortcut."""
        return relu(self.branch(maps) + self.shortcut(maps))


def block_width(plan: Plan, width: int) -> int:
    """Return the channels that a block of a stage gives."""
    return 4 * width if plan.bottleneck else width


class ResidualEncoder(nn.Module):
    """Maps to features on a grid 32 times as coarse.

    Args:
        channels: of the maps.
        kind: the plan: AtmoDist's own (`small`) or a ResNet.

    Attributes:
        width: channels of the last layer.
    """

    def __init__(self, channels: int, kind: Kind = "small") -> None:
        super().__init__()
        plan = PLANS[kind]
        self.stem = nn.Sequential(
            SameConv(channels, plan.width, plan.kernel, stride=2, bias=kind == "small"),
            nn.BatchNorm2d(plan.width, plan.epsilon),
            nn.ReLU(),
        )
        self.stages = nn.ModuleList()
        before = plan.width
        for number, (depth, width) in enumerate(zip(plan.depths, plan.widths, strict=True)):
            stage = nn.Sequential()
            for place in range(depth):
                stage.append(Block(plan, before, width, stride=2 if number > 0 and place == 0 else 1))
                before = block_width(plan, width)
            self.stages.append(stage)
        self.width = before

    def layers(self) -> tuple[str, ...]:
        """Return the names of the layers whose features can be asked for, from the first to the last."""
        return ("stem", *(name for name, _ in self._blocks()))

    def forward(self, maps: Maps, layer: str | None = None) -> Features:
        """Return the features of a layer: `stem`, or `2.5` for the fifth block of the second stage; None is the last.

        Raises:
            RecipeError: if there is no such layer.
        """
        features = maps
        for name, features in self.walk(maps):
            if name == layer:
                return features
        if layer is not None:
            raise RecipeError(f"the encoder has no layer '{layer}'{suggest(layer, self.layers())}")
        return features

    def walk(self, maps: Maps) -> Iterator[tuple[str, Features]]:
        """Yield name and features of one layer after the other."""
        # Convolutions and their gradients are fastest over neighbouring channels.
        maps = maps.contiguous(memory_format=torch.channels_last)
        # What is padded must not win the maximum, whatever sign the values have.
        features = nn.functional.max_pool2d(pad_same(self.stem(maps), 3, 2, value=-torch.inf), 3, 2)
        yield "stem", features
        for name, block in self._blocks():
            features = block(features)
            yield name, features

    def _blocks(self) -> Iterator[tuple[str, nn.Module]]:
        for number, stage in enumerate(self.stages, 1):
            for place, block in enumerate(stage.children(), 1):
                yield f"{number}.{place}", block


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
            part into lags (proportional odds, McCullagh 1980): by a head of its own (`ordinal`), or by nothing but the
            `distance` of the two encodings, so that it is the distance that is trained to grow with the lag.

    Raises:
        RecipeError: if there are fewer than two lags.
    """

    def __init__(
        self,
        layout: Layout,
        *,
        lags: int,
        encoder: Kind = "small",
        order: Literal["none", "ordinal", "distance"] = "none",
    ) -> None:
        super().__init__(layout, encoder)
        if lags < 2:
            raise RecipeError(f"AtmoDist tells lags apart and needs two at least, not lags: {lags}")
        self.lags = lags
        self.combine: nn.Module | None = None
        self.answer: nn.Module
        if order == "distance":
            self.answer = OddsOfDistance(lags)
            return
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
        self.answer = nn.Linear(size, lags, bias=False) if order == "none" else ProportionalOdds(size, lags)

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
        scores: Tensor
        if self.combine is None:
            scores = self.answer((first - second).square().mean(dim=(1, 2, 3)))
            return scores
        combined = self.combine(torch.cat([first, second], dim=1))
        # By row, column, channel: the order of the original's weights.
        scores = self.answer(combined.permute(0, 2, 3, 1).flatten(1))
        return scores


class OrderedClasses(nn.Module):
    """Scores of ordered classes: log P(class ≤ k) − log P(class > k) = threshold k − position.

    Args:
        thresholds: to begin with, rising.
    """

    def __init__(self, thresholds: Float[Tensor, " threshold"]) -> None:
        super().__init__()
        self.first = nn.Parameter(thresholds[0].clone())
        self.gaps = nn.Parameter(thresholds.diff().expm1().log())

    def log_probability(self, position: Float[Tensor, "batch 1"]) -> Float[Tensor, "batch class"]:
        """Return the logarithm of every class's probability."""
        thresholds = self.first + torch.cat([self.gaps.new_zeros(1), softplus(self.gaps).cumsum(0)])
        upper = thresholds - position
        # σ(a) − σ(b) = σ(a) σ(−b) (1 − exp(b − a)), which does not cancel.
        between = torch.log1p(-torch.exp(upper[:, :-1] - upper[:, 1:]))
        middle = logsigmoid(upper[:, 1:]) + logsigmoid(-upper[:, :-1]) + between
        return torch.cat([logsigmoid(upper[:, :1]), middle, logsigmoid(-upper[:, -1:])], dim=1)


class ProportionalOdds(OrderedClasses):
    """Ordered classes whose position is linear in features."""

    def __init__(self, inputs: int, classes: int) -> None:
        super().__init__(torch.arange(classes - 1) + 1.0 - classes / 2)
        self.position = nn.Linear(inputs, 1, bias=False)

    def forward(self, features: Float[Tensor, "batch feature"]) -> Float[Tensor, "batch class"]:
        """Return the logarithm of every class's probability."""
        return self.log_probability(self.position(features))


class OddsOfDistance(OrderedClasses):
    """Ordered classes whose position rises with the logarithm of a squared distance; all as likely to begin with."""

    def __init__(self, classes: int) -> None:
        super().__init__(torch.logit(torch.arange(1, classes) / classes))
        self.norm = nn.BatchNorm1d(1, affine=False)
        self.slope = nn.Parameter(torch.zeros(()))

    def forward(self, distance: Float[Tensor, " batch"]) -> Float[Tensor, "batch class"]:
        """Return the logarithm of every class's probability."""
        # The factor is positive whatever is learned: what is farther apart is never told as nearer in time.
        return self.log_probability(self.slope.exp() * self.norm((distance[:, None] + TINY_DISTANCE).log()))


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
