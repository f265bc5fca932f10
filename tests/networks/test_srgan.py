import numpy as np
import pytest
import torch
from torch.nn.functional import avg_pool2d, interpolate

from etesian.core import Channel, Fields, Frame, Grid, Layout
from etesian.core.errors import DataError, GridError, RecipeError
from etesian.networks.srgan import SRDiscriminator, SRGenerator, prime_factors, resolution_factor

VORTICITY, DIVERGENCE = Channel("vorticity", 500), Channel("divergence", 500)
CHANNELS = (VORTICITY, DIVERGENCE)


def globe(rows: int) -> Grid:
    return Grid.equiangular(180 / rows)


def patch(rows: int, columns: int, spacing: float = 1.0) -> Grid:
    return Grid(np.arange(rows) * spacing, 20 + np.arange(columns) * spacing)


def generator(coarse: Grid, fine: Grid, **sizes: object) -> SRGenerator:
    torch.manual_seed(0)
    sizes = {"width": 8, "blocks": 1, **sizes}
    network = SRGenerator(Layout(CHANNELS, CHANNELS, coarse, target_grid=fine), **sizes).eval()
    torch.nn.init.normal_(network.leave.convolution.weight, std=0.05)
    return network


def make(network: SRGenerator, values: torch.Tensor, coarse: Grid, fine: Grid) -> torch.Tensor:
    time = torch.zeros(len(values), 1, dtype=torch.int64)
    with torch.no_grad():
        return network(Fields(values[:, None], Frame(CHANNELS, time, coarse)), Frame(CHANNELS, time, fine))[:, 0]


@pytest.mark.parametrize("factor", [2, 4, 5, 8, 10])
def test_fields_become_finer_by_prime_factors(factor: int) -> None:
    coarse, fine = patch(4, 6), patch(4 * factor, 6 * factor, 1 / factor)
    network = generator(coarse, fine)
    assert network.factor == factor
    assert np.prod([stage.factor for stage in network.up]) == factor
    assert make(network, torch.randn(2, 2, 4, 6), coarse, fine).shape == (2, 2, 4 * factor, 6 * factor)


def test_prime_factors_of_100_ascend() -> None:
    assert prime_factors(100) == [2, 2, 5, 5]


def test_the_generator_has_the_size_of_the_original() -> None:
    network = generator(patch(4, 4), patch(16, 16, 0.25), width=64, blocks=16)
    within = 64 * 64 * 9 + 64
    expected = (2 * 81 * 64 + 64) + 33 * within + 2 * (64 * 256 * 9 + 256) + (64 * 81 * 2 + 2)
    assert sum(p.numel() for p in network.parameters()) == expected


def test_turning_the_globe_turns_the_fine_field() -> None:
    coarse, fine = globe(8), globe(32)
    network = generator(coarse, fine)
    values = torch.randn(1, 2, 8, 16)
    turned = make(network, values.roll(5, -1), coarse, fine)
    assert torch.allclose(turned, make(network, values, coarse, fine).roll(20, -1), atol=1e-5)


def test_a_field_made_in_tiles_is_the_field_made_at_once() -> None:
    coarse, fine = patch(40, 56), patch(80, 112, 0.5)
    values = torch.randn(1, 2, 40, 56)
    whole = make(generator(coarse, fine, tile=64), values, coarse, fine)
    tiled = make(generator(coarse, fine, tile=12), values, coarse, fine)
    assert torch.allclose(whole, tiled, atol=1e-6)


@pytest.mark.parametrize("factor", [2, 5, 8])
def test_nothing_beyond_the_reach_is_seen(factor: int) -> None:
    coarse, fine = patch(1, 61), patch(factor, 61 * factor, 1 / factor)
    network = generator(coarse, fine).double()
    values = torch.randn(1, 2, 1, 61, dtype=torch.float64, requires_grad=True)
    time = torch.zeros(1, 1, dtype=torch.int64)
    out = network(Fields(values[:, None], Frame(CHANNELS, time, coarse)), Frame(CHANNELS, time, fine))
    out[..., 30 * factor : 31 * factor].sum().backward()
    seen = values.grad[0, :, 0].abs().sum(0).nonzero().flatten()
    assert 30 - network.reach <= seen.min()
    assert seen.max() <= 30 + network.reach
    assert seen.max() - 30 >= network.reach - 2


def test_grids_in_no_whole_proportion_are_refused() -> None:
    with pytest.raises(RecipeError, match=r"18×24 points for 4×6"):
        resolution_factor(Layout(CHANNELS, CHANNELS, patch(4, 6), target_grid=patch(18, 24, 0.25)))
    with pytest.raises(RecipeError, match="one field at a time"):
        resolution_factor(
            Layout(CHANNELS, CHANNELS, patch(4, 6), target_grid=patch(8, 12, 0.5), statics=(Channel("orography"),))
        )


def test_a_target_of_another_resolution_is_refused() -> None:
    coarse, fine = patch(4, 6), patch(8, 12, 0.5)
    with pytest.raises(GridError, match="2 times finer"):
        make(generator(coarse, fine), torch.randn(1, 2, 4, 6), coarse, patch(16, 24, 0.25))


def test_the_discriminator_judges_patches_of_any_size() -> None:
    torch.manual_seed(0)
    discriminator = SRDiscriminator(2)
    convolutions = [layer for layer in discriminator.features if isinstance(layer, torch.nn.Conv2d)]
    assert [layer.out_channels for layer in convolutions] == [32, 32, 64, 64, 128, 128, 256, 256]
    assert [layer.stride[0] for layer in convolutions] == [1, 2] * 4
    for size in (32, 96):
        assert discriminator(torch.randn(3, 2, size, size)).shape == (3,)


def test_the_discriminator_learns_to_tell_rough_from_smooth() -> None:
    torch.manual_seed(0)
    discriminator = SRDiscriminator(1, width=4, hidden=16)
    optimizer = torch.optim.Adam(discriminator.parameters(), lr=2e-3)
    for _ in range(60):
        rough = torch.randn(8, 1, 32, 32)
        smooth = torch.nn.functional.avg_pool2d(torch.randn(8, 1, 34, 34), 3, 1)
        logits = torch.cat([discriminator(rough), discriminator(smooth)])
        truth = torch.cat([torch.ones(8), torch.zeros(8)])
        loss = torch.nn.functional.binary_cross_entropy_with_logits(logits, truth)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.1


def test_holes_are_refused() -> None:
    coarse, fine = patch(4, 6), patch(8, 12, 0.5)
    time = torch.zeros(1, 1, dtype=torch.int64)
    valid = torch.ones(1, 1, 2, 4, 6, dtype=torch.bool)
    valid[..., 2, 3] = False
    holed = Fields(torch.zeros(1, 1, 2, 4, 6), Frame(CHANNELS, time, coarse), valid)
    with pytest.raises(DataError, match="part of the coarse field is missing"):
        generator(coarse, fine)(holed, Frame(CHANNELS, time, fine))


def test_a_residual_is_the_difference_from_the_interpolated_field() -> None:
    coarse, fine = patch(4, 6), patch(8, 12, 0.5)
    layout = Layout(CHANNELS, CHANNELS, coarse, target_grid=fine)
    values = torch.randn(1, 2, 4, 6)
    # Before it has learned anything, the network is that interpolation.
    for residual, mode in (("bicubic", "bicubic"), ("bilinear", "bilinear"), (True, "bilinear")):
        begun = SRGenerator(layout, width=8, blocks=1, residual=residual).eval()
        expected = interpolate(values, scale_factor=2, mode=mode)
        assert torch.allclose(make(begun, values, coarse, fine), expected, atol=1e-6)
    network, bare = generator(coarse, fine), generator(coarse, fine, residual=False)
    bare.load_state_dict(network.state_dict())
    correction = make(network, values, coarse, fine) - interpolate(values, scale_factor=2, mode="bicubic")
    assert correction.abs().max() > 0.01
    assert torch.allclose(make(bare, values, coarse, fine), correction, atol=1e-6)
    with pytest.raises(RecipeError, match="set residual: false"):
        SRGenerator(Layout(CHANNELS[:1], CHANNELS, coarse, target_grid=fine))


def test_the_conservative_interpolation_nearly_keeps_block_means_and_lies_beneath_what_is_learned() -> None:
    coarse, fine = patch(8, 12), patch(40, 60, 0.2)
    layout, values = Layout(CHANNELS, CHANNELS, coarse, target_grid=fine), torch.randn(1, 2, 8, 12)
    begun = make(SRGenerator(layout, width=8, blocks=1, residual="conservative").eval(), values, coarse, fine)
    plain = interpolate(values, scale_factor=5, mode="bicubic")
    lacking, before = (float((avg_pool2d(each, 5) - values).std()) for each in (begun, plain))
    assert lacking < 0.2 * before
    network = generator(coarse, fine, residual="conservative", shrink=True)
    assert network.share is not None
    network.share[0] = 0.25
    learned = make(network, values, coarse, fine) - begun
    network.share.fill_(1.0)
    whole = make(network, values, coarse, fine) - begun
    torch.testing.assert_close(learned, whole * torch.tensor([0.25, 1.0])[:, None, None], rtol=0, atol=1e-5)
    with pytest.raises(RecipeError, match="shrink needs an interpolation that the network adds to"):
        generator(coarse, fine, residual=False, shrink=True)
