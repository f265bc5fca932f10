"""Downscaling begins as bilinear interpolation, keeps masks and the circle, and is rebuilt from its description."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from etesian.core import Channel, Fields, Frame, Grid, Layout
from etesian.core.errors import DataError, GridError, RecipeError
from etesian.core.grid import overlap_weights
from etesian.core.recorded import rebuild
from etesian.downscale.baselines import Interpolation
from etesian.networks.climax import ClimaX
from etesian.networks.downscaler import Downscaler
from etesian.networks.interpolation import BicubicInterpolation, BilinearInterpolation, ConservativeInterpolation
from etesian.networks.unet import UNet

CHANNELS = (Channel("temperature", 500), Channel("2m_temperature"))
STATIC = (Channel("orography"),)
COARSE, FINE = Grid.equiangular(22.5), Grid.equiangular(11.25)
LAYOUT = Layout(CHANNELS, CHANNELS, COARSE, STATIC, target_grid=FINE)


def fields(grid: Grid, channels: tuple[Channel, ...] = CHANNELS, valid: Tensor | None = None) -> Fields:
    values = torch.randn(3, 1, len(channels), *grid.shape, generator=torch.Generator().manual_seed(0))
    return Fields(values, Frame(channels, torch.arange(3)[:, None] * 86400, grid), valid)


def climax(layout: Layout) -> ClimaX:
    return ClimaX(layout, patch=2, dim=16, depth=1, heads=2, dropout=0.0, drop_path=0.0, validity=True)


def unet(layout: Layout) -> UNet:
    return UNet(layout, leads=(0,), width=4, dropout=0.0, maps=0)


def ask(network: Any, inputs: Fields) -> Tensor:
    target = Frame(CHANNELS, inputs.frame.time, FINE)
    answer: Tensor = network(inputs, target, statics=fields(FINE, STATIC))
    return answer


def test_a_residual_network_of_zeros_is_bilinear_interpolation() -> None:
    network, inputs = Downscaler(LAYOUT, climax).eval(), fields(COARSE)
    assert isinstance(network.network, ClimaX)
    assert not torch.allclose(ask(network, inputs), ask(Interpolation(LAYOUT), inputs))
    nn.init.zeros_(network.network.to_pixels.weight)
    nn.init.zeros_(network.network.to_pixels.bias)
    assert torch.equal(ask(network, inputs), ask(Interpolation(LAYOUT), inputs))


def test_the_u_net_begins_as_bilinear_interpolation_without_a_residual() -> None:
    network, inputs = Downscaler(LAYOUT, unet, residual=False).eval(), fields(COARSE)
    torch.testing.assert_close(ask(network, inputs), ask(Interpolation(LAYOUT), inputs))


def test_turning_the_coarse_field_turns_the_interpolated_one() -> None:
    interpolation, inputs = BilinearInterpolation(COARSE, FINE), fields(COARSE)
    turned = Fields(inputs.values.roll(3, -1), inputs.frame)
    torch.testing.assert_close(interpolation(turned).values, interpolation(inputs).values.roll(6, -1))


def test_a_field_linear_in_both_coordinates_is_interpolated_exactly_inside_a_region_across_greenwich() -> None:
    source, target = Grid([30, 40, 55], [340, 350, 362, 375]), Grid(np.arange(30, 56, 2.5), np.arange(341, 375, 1.5))

    def plane(grid: Grid) -> Tensor:
        return torch.from_numpy(2 * grid.latitude[:, None] - 0.3 * grid.longitude + 1).float()[None, None, None]

    frame = Frame(CHANNELS[:1], torch.zeros(1, 1, dtype=torch.int64), source)
    torch.testing.assert_close(
        BilinearInterpolation(source, target)(Fields(plane(source), frame)).values, plane(target)
    )


def test_missing_inputs_reach_the_network_as_a_mask_and_their_values_do_not_matter() -> None:
    valid = torch.ones(3, 1, 2, *COARSE.shape, dtype=torch.bool)
    valid[:, :, 1, 3, 0] = False
    inputs = fields(COARSE, valid=valid)
    fine = BilinearInterpolation(COARSE, FINE)(inputs)
    assert fine.valid is not None
    missing = (~fine.valid[0, 0, 1]).nonzero()
    assert sorted(set(missing[:, 0].tolist())) == [5, 6, 7, 8]
    assert sorted(set(missing[:, 1].tolist())) == [0, 1, 31]
    network = Downscaler(LAYOUT, climax).eval()
    spoilt = Fields(inputs.values.masked_fill(~valid, float("nan")), inputs.frame, valid)
    assert torch.equal(ask(network, spoilt), ask(network, inputs))
    assert ask(network, spoilt).isfinite().all()
    whole = Fields(inputs.filled(), inputs.frame)
    assert not torch.allclose(ask(network, whole), ask(network, inputs))


@pytest.mark.parametrize(("inner", "residual"), [(climax, True), (unet, False)])
def test_a_downscaler_is_rebuilt_from_its_description(inner: Any, residual: bool) -> None:
    network = Downscaler(LAYOUT, inner, residual=residual).eval()
    again = rebuild(network.describe()).eval()
    again.load_state_dict(network.state_dict())
    assert again.residual == residual
    assert again.describe() == network.describe()
    assert torch.equal(ask(again, fields(COARSE)), ask(network, fields(COARSE)))
    assert {name.removeprefix("network.") for name in network.no_decay()} == network.network.no_decay()


def test_what_cannot_be_downscaled_is_said() -> None:
    with pytest.raises(RecipeError, match="Downscaler needs data on two grids"):
        Downscaler(Layout(CHANNELS, CHANNELS, COARSE), climax)
    with pytest.raises(RecipeError, match=r"'temperature_500' is not among the inputs; set residual: false"):
        Downscaler(Layout(CHANNELS[1:], CHANNELS, COARSE, target_grid=FINE), climax)
    with pytest.raises(GridError, match=r"reaches beyond the inputs' grid .*; choose a region inside"):
        BilinearInterpolation(Grid([10, 20, 30], [0, 10, 20]), Grid([5, 15], [5, 15]))
    network = Downscaler(LAYOUT, climax)
    with pytest.raises(GridError, match="this network downscales to"):
        network(fields(COARSE), Frame(CHANNELS, fields(COARSE).frame.time, COARSE))
    with pytest.raises(GridError, match=r"the inputs are on .*, but were to be on"):
        network(fields(FINE), Frame(CHANNELS, fields(COARSE).frame.time, FINE))


def test_cubic_splines_are_exact_for_cubics_and_close_the_circle() -> None:
    source, target = Grid.equiangular(11.25), Grid.equiangular(2.25)
    frame = Frame(CHANNELS[:1], torch.zeros(1, 1, dtype=torch.int64), source)
    inner = abs(target.latitude) < source.latitude[-1]

    def cubic(grid: Grid) -> torch.Tensor:
        rows = (grid.latitude / 90) ** 3 - grid.latitude / 90
        return torch.from_numpy(np.broadcast_to(rows[:, None], grid.shape).copy()).float()[None, None, None]

    fine = BicubicInterpolation(source, target)(Fields(cubic(source), frame))
    torch.testing.assert_close(fine.values[..., inner, :], cubic(target)[..., inner, :], rtol=0, atol=1e-5)

    def wave(grid: Grid) -> torch.Tensor:
        columns = np.sin(3 * np.radians(grid.longitude))
        return torch.from_numpy(np.broadcast_to(columns, grid.shape).copy()).float()[None, None, None]

    errors = [
        (interpolation(source, target)(Fields(wave(source), frame)).values - wave(target)).abs().max().item()
        for interpolation in (BicubicInterpolation, BilinearInterpolation)
    ]
    assert errors[0] < 3e-3 < errors[1]
    with pytest.raises(DataError, match="interpolation by cubic splines needs complete fields"):
        BicubicInterpolation(source, target)(Fields(wave(source), frame, wave(source) > 0))


def averaged(fine: Tensor, source: Grid, target: Grid) -> Tensor:
    rows, columns = (torch.from_numpy(shares).float() for shares in overlap_weights(source, target))
    return torch.einsum("btchw,ih,jw->btcij", fine, rows, columns)


@pytest.mark.parametrize("poles", [False, True])
def test_conservative_interpolation_keeps_the_means_over_coarse_cells(poles: bool) -> None:
    coarse, fine = Grid.equiangular(22.5, poles=poles), Grid.equiangular(4.5, poles=poles)
    inputs = fields(coarse)
    made = ConservativeInterpolation(coarse, fine)(inputs).values
    torch.testing.assert_close(averaged(made, fine, coarse), inputs.values, rtol=0, atol=2e-5)
    plain = BicubicInterpolation(coarse, fine)(inputs).values
    assert (averaged(plain, fine, coarse) - inputs.values).std() > 0.1


def test_means_of_a_smooth_field_give_it_back_with_a_sixth_of_the_error_of_taking_them_for_values() -> None:
    coarse, fine = Grid.equiangular(11.25), Grid.equiangular(2.25)
    angles = np.radians(fine.latitude)[:, None], np.radians(fine.longitude)
    truth = torch.from_numpy(np.cos(angles[0]) ** 3 * np.sin(4 * angles[1])).float()[None, None, None]
    means = Fields(averaged(truth, fine, coarse), Frame(CHANNELS[:1], torch.zeros(1, 1, dtype=torch.int64), coarse))
    errors = [
        (interpolation(coarse, fine)(means).values - truth).square().mean().sqrt().item()
        for interpolation in (ConservativeInterpolation, BicubicInterpolation, BilinearInterpolation)
    ]
    assert 6 * errors[0] < errors[1] < errors[2]


def test_conservative_interpolation_of_a_region_takes_cells_that_it_does_not_cover_for_values() -> None:
    coarse, fine = Grid(np.arange(0, 50, 10), np.arange(0, 50, 10)), Grid(np.arange(5, 36, 2.0), np.arange(5, 36, 2.0))
    inputs = fields(coarse)
    made = ConservativeInterpolation(coarse, fine)(inputs).values
    torch.testing.assert_close(averaged(made, fine, coarse)[..., 1:3, 1:3], inputs.values[..., 1:3, 1:3])
    everywhere = ConservativeInterpolation(coarse, fine)(Fields(torch.ones_like(inputs.values), inputs.frame))
    torch.testing.assert_close(everywhere.values, torch.ones_like(everywhere.values))


def test_a_downscaler_begins_with_the_interpolation_that_it_names_and_is_rebuilt_with_it() -> None:
    network = Downscaler(LAYOUT, unet, interpolation="conservative").eval()
    nn.init.zeros_(network.network.persistence)  # type: ignore[arg-type]
    inputs = fields(COARSE)
    wanted = ask(Interpolation(LAYOUT, way="conservative"), inputs)
    assert torch.equal(ask(network, inputs), wanted)
    copy: Any = rebuild(network.describe())
    copy.load_state_dict(network.state_dict())
    assert torch.equal(ask(copy.eval(), inputs), wanted)
