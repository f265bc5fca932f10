"""The gap-filling network: what may reach where, what must change nothing, and its first guesses."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from small_tasks import stirred
from torch import Tensor, nn

from etesian.core import Channel, Fields, Frame, Grid, Layout
from etesian.core.clock import month_start, parse_time
from etesian.core.errors import DataError, GridError, RecipeError
from etesian.networks.gapfiller import GapFiller
from etesian.networks.gapfiller_parts import DailyRefinement, Guess, SuccessiveCorrections, _gaussian
from etesian.networks.network import find_months

SST, COLOUR = Channel("sea_surface_temperature"), Channel("chlorophyll")
LAND = Channel("land_sea_mask")
GRID = Grid(30 + 0.25 * np.arange(12), 10 + 0.25 * np.arange(16))
DAY = 86400


def build(channels: tuple[Channel, ...] = (SST,), grid: Grid = GRID, **options: Any) -> GapFiller:
    torch.manual_seed(0)
    layout = Layout(channels, channels, grid, statics=(LAND,))
    network = GapFiller(layout, **({"dim": 16, "heads": 2, "depth": 1, "hidden": 16, "pooling_heads": 2} | options))
    # What begins as zero would hide what does not reach the answer.
    stirred(network, 0.1)
    return network.eval()


def month(
    days: int = 30,
    first: str = "2001-04-01",
    channels: tuple[Channel, ...] = (SST,),
    grid: Grid = GRID,
    step: int = DAY,
) -> Fields:
    random = torch.Generator().manual_seed(1)
    shape = (2, days, len(channels), *grid.shape)
    values, valid = torch.randn(shape, generator=random), torch.rand(shape, generator=random) < 0.1
    start = parse_time(first, "proleptic_gregorian")
    time = start + step * torch.arange(days).expand(2, -1)
    return Fields(values, Frame(channels, time.clone(), grid), valid)


def monthly(inputs: Fields) -> Frame:
    starts = np.unique(month_start(inputs.frame.time[0].numpy(), inputs.frame.calendar))
    return replace(inputs.frame, time=torch.from_numpy(starts).expand(2, -1).clone())


def land(grid: Grid = GRID) -> Fields:
    frame = Frame((LAND,), torch.zeros(2, 1, dtype=torch.int64), grid)
    return Fields((torch.arange(grid.shape[1]) < 3).float().expand(2, 1, 1, *grid.shape).clone(), frame)


def answer(network: GapFiller, inputs: Fields, target: Frame | None = None) -> Tensor:
    with torch.no_grad():
        return network(inputs, monthly(inputs) if target is None else target, statics=land(inputs.frame.grid))


def test_until_places_are_mixed_a_patch_changes_its_own_token_only() -> None:
    network, inputs = build(), month()
    changed = inputs.values.clone()
    changed[:, :, :, 4:8, 8:12] += 1

    def pooled(values: Tensor) -> Tensor:
        months = find_months(inputs.frame, monthly(inputs))
        assert inputs.valid is not None
        when = network.time_position(inputs.frame, months)
        return network.pool_days(values.masked_fill(~inputs.valid, 0), inputs.valid, when, months)[0]

    difference = (pooled(changed) - pooled(inputs.values)).abs().amax(dim=(0, 1, 3)).view(3, 4)
    assert difference[1, 2] > 1e-3
    difference[1, 2] = 0
    assert torch.equal(difference, torch.zeros(3, 4))


def test_places_are_mixed_afterwards() -> None:
    network, inputs = build(residual="nothing"), month()
    changed = inputs.values.clone()
    changed[:, :, :, 0:4, 0:4] += 1
    difference = (answer(network, replace(inputs, values=changed)) - answer(network, inputs)).abs()
    assert difference[..., -2:, -2:].max() > 1e-5


def without_day(inputs: Fields, day: int) -> Fields:
    keep = [i for i in range(inputs.values.shape[1]) if i != day]
    assert inputs.valid is not None
    frame = replace(inputs.frame, time=inputs.frame.time[:, keep])
    return Fields(inputs.values[:, keep], frame, inputs.valid[:, keep])


@pytest.mark.parametrize("residual", ["analysis", "mean", "nothing"])
@pytest.mark.parametrize("daily", [False, True])
def test_padding_days_change_nothing(residual: str, daily: bool) -> None:
    network, april = build(residual=residual, daily=True, variance=True), month()
    padded = month(31)
    assert april.valid is not None
    valid = torch.cat([april.valid, torch.zeros_like(april.valid[:, :1])], 1)
    values = torch.cat([april.values, torch.full_like(april.values[:, :1], torch.nan)], 1)
    padded = Fields(values, padded.frame, valid)
    target = (april.frame, padded.frame) if daily else (monthly(april), monthly(april))
    expected, found = answer(network, april, target[0]), answer(network, padded, target[1])
    if residual == "analysis" or daily:
        # Matrix products of another size sum in another order.
        torch.testing.assert_close(found[:, : expected.shape[1]], expected, rtol=1e-5, atol=1e-6)
    else:
        assert torch.equal(found[:, : expected.shape[1]], expected)


@pytest.mark.parametrize("residual", ["analysis", "mean", "nothing"])
def test_a_cloudy_day_changes_nothing_whatever_lies_beneath_the_clouds(residual: str) -> None:
    network, inputs = build(residual=residual), month()
    assert inputs.valid is not None
    inputs.valid[:, 7] = False
    cloudy = answer(network, inputs)
    below = inputs.values.clone()
    below[~inputs.valid] = 1e6
    assert torch.equal(answer(network, replace(inputs, values=below)), cloudy)
    if residual != "analysis":
        torch.testing.assert_close(answer(network, without_day(inputs, 7)), cloudy, rtol=0, atol=1e-6)


def test_a_month_without_observations_changes_no_other() -> None:
    network, inputs = build(daily=True), month(61)
    assert inputs.valid is not None
    inputs.valid[:, 30:] = False
    alone = Fields(inputs.values[:, :30], replace(inputs.frame, time=inputs.frame.time[:, :30]), inputs.valid[:, :30])
    both, april = answer(network, inputs), answer(network, alone)
    torch.testing.assert_close(both[:, :1], april, rtol=1e-5, atol=1e-6)


def test_months_tell_each_other_by_attention_only() -> None:
    inputs = month(61)
    changed = inputs.values.clone()
    changed[:, 30:] += 1
    for attention in (True, False):
        network = build(month_attention=attention, residual="mean")
        april = [answer(network, replace(inputs, values=v))[:, 0] for v in (inputs.values, changed)]
        assert torch.equal(*april) != attention


def test_with_a_residual_an_untrained_network_gives_the_mean_of_the_observed_days() -> None:
    inputs = month()
    network = GapFiller(Layout((SST,), (SST,), GRID), dim=16, depth=1, heads=2, residual="mean").eval()
    assert inputs.valid is not None
    number = inputs.valid.sum(1, keepdim=True)
    mean = inputs.filled().sum(1, keepdim=True) / number.clamp(min=1)
    found = network(inputs, monthly(inputs))
    torch.testing.assert_close(found, mean)
    assert (found[number == 0] == 0).all()


def test_several_channels_are_filled_in_the_order_asked_for() -> None:
    network, inputs = build((SST, COLOUR)), month(channels=(SST, COLOUR))
    both = answer(network, inputs)
    swapped = answer(network, inputs, replace(monthly(inputs), channels=(COLOUR,)))
    torch.testing.assert_close(swapped, both[:, :, 1:])
    assert inputs.valid is not None
    hidden = inputs.valid.clone()
    hidden[:, :, 1] = False
    assert not torch.allclose(answer(network, replace(inputs, valid=hidden))[:, :, 0], both[:, :, 0])


def test_hourly_fields_of_a_month_become_its_mean() -> None:
    inputs = month(744, "2001-03-01", step=3600)
    found = answer(build(), inputs)
    assert found.shape == (2, 1, 1, *GRID.shape)
    assert torch.isfinite(found).all()


def test_on_the_globe_windows_go_round_and_on_a_tile_they_do_not() -> None:
    globe, tile = Grid(np.arange(8) * 1.0, np.arange(40) * 9.0), Grid(np.arange(8) * 1.0, np.arange(40) * 1.0)
    for grid, round_it in ((globe, True), (tile, False)):
        network, inputs = build(grid=grid, window=3, residual="mean"), month(grid=grid)
        assert inputs.valid is not None
        inputs.valid[..., :4] = True
        changed = inputs.values.clone()
        changed[..., :4] += 1
        difference = (answer(network, replace(inputs, values=changed)) - answer(network, inputs)).abs()
        assert (difference[..., 36:].max() > 1e-6) == round_it
        assert difference[..., 16:24].max() == 0


def test_times_are_told_apart_by_season() -> None:
    april, october = month(), month(first="2001-10-01")
    for calendar in (True, False):
        network = build(calendar=calendar)
        assert torch.allclose(answer(network, april), answer(network, october)) != calendar


def test_places_are_told_apart_on_the_globe() -> None:
    here, there = month(), month(grid=Grid(GRID.latitude - 60, GRID.longitude + 100))
    for harmonics in (3, 0):
        network = build(harmonics=harmonics)
        assert torch.allclose(answer(network, here), answer(network, there)) == (harmonics == 0)


def shapes_and_values(**options: Any) -> tuple[list[tuple[int, ...]], Tensor]:
    # Drawn alike for every option, so that only what an option does tells two networks apart.
    network = build(**options)
    inputs = month(61)
    network.train()
    return [tuple(p.shape) for p in network.parameters()], answer(network, inputs)


@pytest.mark.parametrize(
    "option",
    [
        {"patch": 2}, {"dim": 32}, {"depth": 2}, {"heads": 4}, {"mlp_ratio": 2.0}, {"pooling_heads": 3}, {"window": 1},
        {"calendar": False}, {"harmonics": 2}, {"month_attention": False}, {"residual": "mean"},
        {"scales": [(2.0, 2.0, 1.0)]}, {"refine": 0}, {"variance": True}, {"daily": True}, {"hidden": 32},
        {"overlap": 2}, {"dropout": 0.5},
    ],
    ids=lambda option: next(iter(option)),
)  # fmt: skip
def test_every_option_has_an_effect(option: dict[str, Any]) -> None:
    before, after = shapes_and_values(), shapes_and_values(**option)
    assert before[0] != after[0] or not torch.allclose(before[1], after[1])


def test_variances_are_positive_and_differ_where_less_is_seen() -> None:
    network, inputs = build(variance=True, daily=True), month()
    for target in (monthly(inputs), inputs.frame):
        with torch.no_grad():
            variance = network.distribution(inputs, target, statics=land()).variance
        assert variance is not None
        assert (variance > 0).all()
        assert variance.std() > 0
    assert build().distribution(inputs, monthly(inputs), statics=land()).variance is None


def test_what_cannot_be_answered_is_refused() -> None:
    inputs = month()
    with pytest.raises(DataError, match="monthly means only"):
        answer(build(), inputs, inputs.frame)
    with pytest.raises(DataError, match="first days of months"):
        answer(build(), inputs, replace(monthly(inputs), time=monthly(inputs).time + DAY))
    ragged = Grid(GRID.latitude[:-1], GRID.longitude)
    with pytest.raises(GridError, match="11 latitudes are no multiple of the patch of 4"):
        answer(build(), month(grid=ragged))
    with pytest.raises(RecipeError, match="set residual: nothing"):
        GapFiller(Layout((SST,), (COLOUR,), GRID))
    with pytest.raises(DataError, match="static field 'land_sea_mask'"):
        build()(inputs, monthly(inputs))


def test_each_pass_adds_the_smoothed_difference_of_the_observations_from_the_guess() -> None:
    torch.manual_seed(0)
    values, valid = torch.randn(1, 4, 1, 5, 6), torch.rand(1, 4, 1, 5, 6) < 0.4
    analysis = SuccessiveCorrections([(1.3, 2.0, 0.3), (0.7, 1.0, 0.1)])
    days = [0.0, 1.0, 2.5, 6.0]
    for periodic in (False, True):
        guess = torch.zeros(4, 5, 6)
        for space, time, prior in ((1.3, 2.0, 0.3), (0.7, 1.0, 0.1)):
            correction = torch.zeros(4, 5, 6)
            for t, i, j in torch.ones(4, 5, 6).nonzero().tolist():
                total = count = 0.0
                for s, k, m in valid[0, :, 0].nonzero().tolist():
                    east = min(abs(m - j), 6 - abs(m - j)) if periodic else abs(m - j)
                    distance = ((k - i) ** 2 + east**2) / (2 * space**2) + (days[s] - days[t]) ** 2 / (2 * time**2)
                    weight = float(torch.exp(torch.tensor(-distance)))
                    total += weight * float(values[0, s, 0, k, m] - guess[s, k, m])
                    count += weight
                correction[t, i, j] = total / (count + prior)
            guess = guess + correction
        found = analysis(values.masked_fill(~valid, 0), valid, torch.tensor([days]), periodic=periodic)
        torch.testing.assert_close(found.values[0, :, 0], guess, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(found.known[:, :, 0:1], found.values)


def test_a_kernel_is_exact_and_so_are_products_of_three_for_no_number_is_below_the_normal_ones() -> None:
    distance = torch.arange(200.0)
    for width in (0.46, 1.0, 5.2, 40.0):
        kernel = _gaussian(distance, torch.tensor(width))
        exact = torch.exp(-0.5 * (distance.double() / width).square())
        torch.testing.assert_close(kernel.double(), exact, rtol=1e-5, atol=1e-12)
        assert kernel[kernel > 0].min().double() ** 3 > torch.finfo(torch.float32).tiny


def test_iterations_draw_the_guess_to_what_is_observed_everywhere() -> None:
    torch.manual_seed(0)
    values = torch.randn(1, 1, 1, 8, 8)
    seen = torch.ones_like(values, dtype=torch.bool)
    errors = []
    for passes in (1, 4, 16):
        analysis = SuccessiveCorrections([(0.6, 1.0, 0.2)] * passes)
        errors.append(
            float((analysis(values, seen, torch.zeros(1, 1), periodic=False).values - values).square().mean())
        )
    assert errors[0] > 2 * errors[1] > 4 * errors[2]


def test_a_refinement_adds_nothing_at_first_and_goes_round_the_globe_without_a_seam() -> None:
    torch.manual_seed(0)
    refine = DailyRefinement(1, 3, 4)
    values, known, valid = torch.randn(2, 5, 1, 7, 12), torch.randn(2, 5, 3, 7, 12), torch.rand(2, 5, 1, 7, 12) < 0.5
    guess = Guess(known[:, :, :1], known)
    assert torch.equal(refine(guess, values, valid, periodic=True), torch.zeros_like(values))
    nn.init.normal_(refine.leave.weight)
    answer = refine(guess, values, valid, periodic=True)
    turned = Guess(*(x.roll(4, -1) for x in guess[:2]))
    moved = refine(turned, values.roll(4, -1), valid.roll(4, -1), periodic=True)
    assert answer.std() > 1e-3
    torch.testing.assert_close(moved, answer.roll(4, -1))
    assert not torch.allclose(refine(guess, values, valid, periodic=False)[..., 0], answer[..., 0])


def test_times_without_observation_enter_a_refinement_as_if_there_were_none() -> None:
    torch.manual_seed(0)
    refine = DailyRefinement(1, 3, 4)
    nn.init.normal_(refine.leave.weight)
    values, known, valid = torch.randn(1, 5, 1, 8, 8), torch.randn(1, 5, 3, 8, 8), torch.rand(1, 5, 1, 8, 8) < 0.5
    valid[:, 3:] = False
    whole = refine(Guess(known[:, :, :1], known), values, valid, periodic=False)[:, :3]
    cut = [x[:, :3] for x in (known, values, valid)]
    torch.testing.assert_close(refine(Guess(cut[0][:, :, :1], cut[0]), *cut[1:], periodic=False), whole)
