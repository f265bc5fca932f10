"""Convolutions know what lies beyond the seam and the poles."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from etesian.nn.convolution import GlobeConv, GlobeConvTranspose, pad_globe, running_mean, wrapped


def smooth(latitude: np.ndarray, longitude: np.ndarray) -> Tensor:
    """A polynomial of the position on the sphere, which goes on over the poles by itself."""
    north, east = np.radians(latitude)[:, None], np.radians(longitude)
    x, y, z = np.cos(north) * np.cos(east), np.cos(north) * np.sin(east), np.sin(north) + 0 * east
    return torch.from_numpy(x + 2 * y - z + 3 * x * y * z + x**2 * z - y**3)


@pytest.mark.parametrize("poles", [False, True])
def test_a_smooth_field_goes_on_over_the_poles_and_round_the_circle(poles: bool) -> None:
    spacing = 180 / 18
    latitude = np.arange(-90, 91, spacing) if poles else np.arange(-85, 90, spacing)
    longitude = np.arange(24) * 15.0
    wide = latitude[0] + spacing * np.arange(-3, len(latitude) + 2)
    padded = pad_globe(smooth(latitude, longitude), (3, 2), (4, 5), poles=poles)
    torch.testing.assert_close(padded, smooth(wide, 15.0 * np.arange(-4, 29)), rtol=0, atol=1e-13)


def test_with_an_odd_number_of_longitudes_the_error_beyond_the_pole_is_of_second_order() -> None:
    errors = []
    for count in (45, 135):
        latitude, longitude = np.arange(-85, 90, 10.0), np.arange(count) * 360 / count
        padded = pad_globe(smooth(latitude, longitude), (2, 2), (0, 0))
        errors.append(float((padded - smooth(np.arange(-105, 110, 10.0), longitude)).abs().max()))
    assert errors[0] < 0.01
    assert errors[0] / errors[1] == pytest.approx(9, rel=0.05)


def test_more_rows_than_there_are_cannot_be_added() -> None:
    with pytest.raises(ValueError, match="2 rows cannot be padded with 3 rows"):
        pad_globe(torch.zeros(2, 8), (0, 3), (0, 0))


def test_a_gradient_of_a_smooth_field_has_no_error_at_the_poles() -> None:
    convolution = GlobeConv(1, 1, (3, 3), bias=False).double()
    laplacian = torch.tensor([[0.0, 1, 0], [1, -4, 1], [0, 1, 0]]).double()
    convolution.convolution.weight.data.copy_(laplacian)
    latitude, longitude = np.arange(-88.5, 90, 3.0), np.arange(120) * 3.0
    out = convolution(smooth(latitude, longitude)[None, None])[0, 0].detach()
    wide = smooth(np.arange(-91.5, 92, 3.0), np.arange(-1, 121) * 3.0)
    expected = wide[:-2, 1:-1] + wide[2:, 1:-1] + wide[1:-1, :-2] + wide[1:-1, 2:] - 4 * wide[1:-1, 1:-1]
    torch.testing.assert_close(out, expected, rtol=0, atol=1e-13)


@pytest.mark.parametrize(
    ("kernel", "stride", "shape"),
    [((3, 3), (1, 1), (6, 9)), ((4, 4), (2, 2), (6, 8)), ((5, 3), (2, 3), (4, 9)), ((2, 4), (2, 4), (4, 8))],
)
def test_both_convolutions_turn_with_the_globe_and_undo_each_others_sizes(
    kernel: tuple[int, int], stride: tuple[int, int], shape: tuple[int, int]
) -> None:
    torch.manual_seed(0)
    down, up = GlobeConv(2, 3, kernel, stride).double(), GlobeConvTranspose(3, 2, kernel, stride).double()
    fine = torch.randn(2, 2, *shape, dtype=torch.float64)
    coarse = down(fine)
    assert coarse.shape[2:] == (shape[0] // stride[0], shape[1] // stride[1])
    again = up(coarse)
    assert again.shape == fine.shape
    torch.testing.assert_close(down(fine.roll(stride[1], -1)), coarse.roll(1, -1))
    torch.testing.assert_close(up(coarse.roll(1, -1)), again.roll(stride[1], -1))


def turned_over_the_pole(values: Tensor) -> Tensor:
    """Rows beyond the northern pole, as rows of the globe."""
    return values.flip(-2).roll(values.shape[-1] // 2, -1)


@pytest.mark.parametrize(("kernel", "stride"), [((3, 3), (1, 1)), ((4, 4), (2, 2)), ((6, 2), (2, 2))])
def test_turning_the_globe_over_a_pole_with_its_kernels_changes_nothing(
    kernel: tuple[int, int], stride: tuple[int, int]
) -> None:
    for make in (GlobeConv, GlobeConvTranspose):
        layer = make(1, 1, kernel, stride).double()
        mirrored = make(1, 1, kernel, stride).double()
        mirrored.load_state_dict({k: v.flip(-2) if v.ndim == 4 else v for k, v in layer.state_dict().items()})
        values = torch.randn(1, 1, 6, 8, dtype=torch.float64)
        torch.testing.assert_close(mirrored(turned_over_the_pole(values)), turned_over_the_pole(layer(values)))


def test_the_up_convolution_spreads_kernels_where_the_convolution_gathers_them() -> None:
    # One point far from the poles: the two are adjoint there.
    down, up = (
        GlobeConv(1, 1, (4, 6), (2, 2), bias=False).double(),
        GlobeConvTranspose(1, 1, (4, 6), (2, 2), bias=False),
    )
    up = up.double()
    up.load_state_dict(down.state_dict())
    fine = torch.zeros(1, 1, 16, 12, dtype=torch.float64, requires_grad=True)
    sensitivity = torch.zeros(1, 1, 8, 6, dtype=torch.float64)
    sensitivity[0, 0, 4, 0] = 1
    (adjoint,) = torch.autograd.grad(down(fine), fine, sensitivity)
    torch.testing.assert_close(up(sensitivity), adjoint)


def test_patches_of_three_axes_are_cut_and_put_back() -> None:
    cut, put = (
        GlobeConv(1, 16, (2, 2, 4), (2, 2, 4), bias=False),
        GlobeConvTranspose(16, 1, (2, 2, 4), (2, 2, 4), bias=False),
    )
    weight = torch.linalg.qr(torch.randn(16, 16))[0].view(16, 1, 2, 2, 4)
    for layer in (cut, put):
        layer.convolution.weight.data.copy_(weight)
    values = torch.randn(2, 1, 4, 6, 8)
    assert cut(values).shape == (2, 16, 2, 3, 2)
    torch.testing.assert_close(put(cut(values)), values)


@pytest.mark.parametrize("stride", [(2, 4), (3, 5)])
@torch.no_grad()
def test_points_that_are_all_the_same_leave_no_trace_of_their_spacing_where_it_is_seamless(
    stride: tuple[int, int],
) -> None:
    kernel = (2 * stride[0], 2 * stride[1])
    for seamless in (False, True):
        up = GlobeConvTranspose(3, 2, kernel, stride, seamless=seamless).double()
        rows = torch.randn(1, 3, 6, 1, dtype=torch.float64)
        trace = float(up(rows.expand(-1, -1, -1, 8)).std(-1).max())
        assert trace < 1e-14 if seamless else trace > 1e-3
        # Away from the poles, across which kernels are turned, the same holds for columns.
        columns = torch.randn(1, 3, 1, 8, dtype=torch.float64)
        inner = up(columns.expand(-1, -1, 6, -1))[:, :, 2 * stride[0] : -2 * stride[0]]
        assert float(inner.std(-2).max()) < 1e-14 if seamless else float(inner.std(-2).max()) > 1e-3
    with pytest.raises(ValueError, match="must be a multiple of its stride"):
        GlobeConvTranspose(3, 2, (3, 4), (2, 4), seamless=True)


@pytest.mark.parametrize("width", [(1, 4), (3, 5), (2, 1)])
def test_a_running_mean_keeps_what_is_the_same_and_turns_with_the_globe(width: tuple[int, int]) -> None:
    fields = torch.randn(2, 3, 12, 20, dtype=torch.float64)
    mean = running_mean(fields, width)
    torch.testing.assert_close(running_mean(fields + 1, width), mean + 1)
    torch.testing.assert_close(running_mean(fields.roll(3, -1), width), mean.roll(3, -1))
    torch.testing.assert_close(running_mean(fields.flip(-1, -2), width), mean.flip(-1, -2))
    wave = torch.cos(2 * torch.pi * torch.arange(20, dtype=torch.float64) / max(width[1], 2)).expand(12, 20)
    left = float(running_mean(wave, width).abs().max())
    assert left < 1e-14 if width[1] > 1 else left > 0.5


def test_wrapping_is_pytorchs_circular_padding_with_its_gradient() -> None:
    maps = torch.randn(2, 3, 4, 5, requires_grad=True)
    gradients = []
    for around in (wrapped(maps), F.pad(maps, (1, 1, 0, 0), mode="circular")):
        weights = torch.arange(around.numel()).view(around.shape)
        gradients.append((around, *torch.autograd.grad((weights * around).sum(), maps)))
    for ours, theirs in zip(*gradients, strict=True):
        assert torch.equal(ours, theirs)


def test_depth_is_padded_by_its_outermost_layers() -> None:
    layer = GlobeConv(1, 1, (3, 1, 1), bias=False)
    layer.convolution.weight.data.fill_(1.0)
    profile = torch.tensor([1.0, 10, 100]).view(1, 1, 3, 1, 1).expand(1, 1, 3, 2, 4)
    assert layer(profile)[0, 0, :, 0, 0].tolist() == [12, 111, 210]


def test_strides_that_leave_points_out_or_do_not_divide_are_refused() -> None:
    with pytest.raises(ValueError, match="leaves out points"):
        GlobeConv(1, 1, (1, 2), (2, 2))
    with pytest.raises(ValueError, match="does not divide"):
        GlobeConv(1, 1, (2, 2), (2, 2))(torch.zeros(1, 1, 4, 7))
