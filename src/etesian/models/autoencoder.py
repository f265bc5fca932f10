"""An encoder of states with a decoder, for pretexts that reconstruct: autoencoding and inpainting."""

from jaxtyping import Float
from torch import Tensor, nn

from etesian.core.fields import Fields, Frame, Layout
from etesian.models.atmodist import StateEncoder
from etesian.models.residual import Kind, SameConv


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
