"""Laws of the ClimaX network."""

import itertools
from dataclasses import replace

import jaxtyping
import numpy as np
import pytest
import torch
from torch import Tensor

from etesian.core import Channel, Fields, Frame, Grid, Layout
from etesian.core.errors import ChannelError, DataError, EtesianError, GridError, RecipeError
from etesian.core.recorded import rebuild
from etesian.networks.climax import ClimaX
from etesian.nn.tokens import sincos

Z, T, U, OROGRAPHY = Channel("geopotential", 500), Channel("temperature", 850), Channel("u"), Channel("orography")
GLOBE = Grid.equiangular(22.5)
LAYOUT = Layout((Z, T, U), (T, Z), GLOBE, statics=(OROGRAPHY,))


def network(layout: Layout = LAYOUT, **options: object) -> ClimaX:
    """Return a small network whose weights are all drawn, so that nothing is zero by chance of initialisation."""
    torch.manual_seed(1)
    arguments = {"dim": 16, "depth": 2, "heads": 2, "head_depth": 1} | options
    made = ClimaX(layout, **arguments)  # type: ignore[arg-type]
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            if "norm" not in name:
                parameter.normal_(std=0.3)
    return made.eval()


def fields(
    channels: tuple[Channel, ...], grid: Grid = GLOBE, *, batch: int = 2, times: tuple[int, ...] = (0,), seed: int = 0
) -> Fields:
    values = torch.randn(batch, len(times), len(channels), *grid.shape, generator=torch.Generator().manual_seed(seed))
    return Fields(values, Frame(channels, 3600 * torch.tensor(times).expand(batch, -1), grid))


def ask(channels: tuple[Channel, ...], hours: list[list[int]], grid: Grid = GLOBE) -> Frame:
    return Frame(channels, 3600 * torch.tensor(hours), grid)


def close(a: Tensor, b: Tensor, tolerance: float = 1e-5) -> bool:
    return bool(torch.allclose(a, b, rtol=0, atol=tolerance * float(b.detach().abs().max())))


STATE, STATIC = fields((Z, T, U)), fields((OROGRAPHY,), seed=1)


@torch.no_grad()
def test_any_subset_comes_in_and_any_goes_out_in_any_order() -> None:
    model = network()
    every = model(STATE, ask((Z, T, U, OROGRAPHY), [[24], [24]]), statics=STATIC)
    for count in (1, 2, 3):
        for wanted in itertools.permutations((Z, T, U, OROGRAPHY), count):
            asked = model(STATE, ask(wanted, [[24], [24]]), statics=STATIC)
            assert close(asked, every[:, :, ask((Z, T, U, OROGRAPHY), [[0]]).index(wanted)])
    shuffled = model(STATE.select((U, Z, T)), ask((Z,), [[24], [24]]), statics=STATIC)
    assert close(shuffled, every[:, :, :1])
    fewer = model(STATE.select((T,)), ask((Z,), [[24], [24]]))
    assert fewer.shape == (2, 1, 1, 8, 16)
    assert not close(fewer, every[:, :, :1], 1e-2)


@torch.no_grad()
def test_samples_of_a_batch_and_target_times_do_not_influence_one_another() -> None:
    model = network()
    together = model(STATE, ask((T,), [[6, 72], [120, 24]]), statics=STATIC)
    assert together.shape == (2, 2, 1, 8, 16)
    for sample, lead in ((0, 6), (0, 72), (1, 120), (1, 24)):
        alone = Fields(STATE.values[sample : sample + 1], replace(STATE.frame, time=STATE.frame.time[:1]))
        static = Fields(STATIC.values[sample : sample + 1], replace(STATIC.frame, time=STATIC.frame.time[:1]))
        column = [[6, 72], [120, 24]][sample].index(lead)
        assert close(model(alone, ask((T,), [[lead]]), statics=static)[0, 0], together[sample, column])


@torch.no_grad()
def test_statics_may_be_given_once_for_the_whole_batch() -> None:
    model = network()
    once = fields((OROGRAPHY,), batch=1, seed=1)
    twice = Fields(once.values.expand(2, -1, -1, -1, -1), replace(once.frame, time=once.frame.time.expand(2, -1)))
    target = ask((Z,), [[24], [48]])
    assert close(model(STATE, target, statics=once), model(STATE, target, statics=twice))


@torch.no_grad()
def test_only_the_lead_counts_and_not_the_date() -> None:
    model = network()
    later = Fields(STATE.values, replace(STATE.frame, time=STATE.frame.time + 10**9))
    target = ask((Z,), [[24], [48]])
    shifted = replace(target, time=target.time + 10**9)
    assert torch.equal(model(later, shifted), model(STATE, target))
    assert not close(model(STATE, ask((Z,), [[48], [48]])), model(STATE, ask((Z,), [[24], [24]])), 1e-2)


@torch.no_grad()
def test_without_positions_a_roll_by_whole_patches_rolls_the_prediction() -> None:
    model = network(patch=(1, 2))
    model.position.zero_()
    rolled = Fields(STATE.values.roll(6, dims=-1), STATE.frame)
    target = ask((Z, T), [[24], [48]])
    assert close(model(rolled, target), model(STATE, target).roll(6, dims=-1))


@torch.no_grad()
def test_the_same_globe_cut_at_another_meridian_gives_the_same_prediction() -> None:
    model = network()
    moved = Grid(GLOBE.latitude, np.arange(6, 22) * 22.5)
    there = Fields(STATE.values.roll(-6, dims=-1), replace(STATE.frame, grid=moved))
    assert close(model(there, ask((Z,), [[24], [48]], moved)), model(STATE, ask((Z,), [[24], [48]])).roll(-6, dims=-1))


@torch.no_grad()
@pytest.mark.parametrize("patch", [2, (4, 2), (2, 5), (1, 3)])
def test_grids_that_the_patch_does_not_divide_are_padded_and_cropped(patch: int | tuple[int, int]) -> None:
    grid = Grid(20 + 2.5 * np.arange(17), 280 + 2.5 * np.arange(33))
    state = fields((Z, T, U), grid)
    out = network(replace(LAYOUT, grid=grid), patch=patch)(state, ask((Z, T), [[24], [48]], grid))
    assert out.shape == (2, 1, 2, 17, 33)
    assert out.isfinite().all()


@torch.no_grad()
def test_missing_values_enter_as_zero_and_never_as_nan() -> None:
    model = network()
    holes = torch.rand(STATE.values.shape, generator=torch.Generator().manual_seed(2)) < 0.3
    gappy = Fields(STATE.values.masked_fill(holes, torch.nan), STATE.frame, ~holes)
    filled = Fields(STATE.values.masked_fill(holes, 0.0), STATE.frame)
    target = ask((Z,), [[24], [48]])
    assert torch.equal(model(gappy, target), model(filled, target))

    aware = network(validity=True)
    assert not close(aware(gappy, target), aware(filled, target), 1e-2)
    complete = Fields(STATE.values, STATE.frame, torch.ones_like(holes))
    assert close(aware(complete, target, statics=STATIC), aware(STATE, target, statics=STATIC))


@torch.no_grad()
def test_a_history_is_embedded_time_by_time() -> None:
    layout = replace(LAYOUT, history=(-12, -6, 0))
    model = network(layout)
    state = fields((Z, T, U), times=(-12, -6, 0))
    target = ask((Z,), [[24], [48]])
    out = model(state, target, statics=STATIC)
    swapped = Fields(state.values[:, [1, 0, 2]], state.frame)
    assert not close(model(swapped, target, statics=STATIC), out, 1e-2)

    # The newest time uses the first weights: with only that one, the network is one without a history.
    single = network()
    weights = model.state_dict()
    for name in ("token_weight", "token_bias", "variable_embed"):
        weights[f"aggregation.{name}"] = weights[f"aggregation.{name}"][:4]
    single.load_state_dict(weights)
    streams = torch.arange(3)
    pixels = torch.randn(2, 32, 3, 4)
    assert torch.equal(single.aggregation(pixels, streams), model.aggregation(pixels, streams))
    with pytest.raises(DataError, match="the inputs have 1 times"):
        model(STATE, target)


@torch.no_grad()
def test_a_history_of_one_time_passes_the_neck_as_a_linear_map_of_its_tokens() -> None:
    """The only time has all the attention, whatever the query, and its age is 0."""
    model, plain = network(history="attention", validity=True), network(validity=True)
    assert model.neck is not None
    plain.load_state_dict({name: w for name, w in model.state_dict().items() if not name.startswith("neck.")})
    tokens, _ = plain._aggregate(STATE, (STATIC,))
    value_weight, value_bias = model.neck.attention.in_proj_weight[32:], model.neck.attention.in_proj_bias[32:]
    age = torch.from_numpy(sincos(16, np.zeros(1))).float()
    expected = model.neck.attention.out_proj((tokens + age) @ value_weight.T + value_bias)
    found, keys = model._aggregate(STATE, (STATIC,))
    assert close(found, expected)
    assert keys is None
    model.neck.query.normal_()
    assert close(model._aggregate(STATE, (STATIC,))[0], expected)


def test_a_way_to_take_a_history_that_there_is_not_is_refused() -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jaxtyping.config, "jaxtyping_disable", True)
        with pytest.raises(RecipeError, match="no history: atention; did you mean 'attention'"):
            network(history="atention")


def test_embeddings_of_missing_values_have_a_gradient_where_nothing_is_missing() -> None:
    model = network(validity=True)
    model(STATE, ask((Z,), [[24], [48]]), statics=STATIC).square().sum().backward()
    assert model.aggregation.missing_weight is not None
    assert model.aggregation.missing_weight.grad is not None
    assert not model.aggregation.missing_weight.grad.any()


def test_every_parameter_that_is_used_gets_a_gradient() -> None:
    model = network()
    model(STATE, ask((Z, T, U, OROGRAPHY), [[24], [48]]), statics=STATIC).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())


def test_a_network_is_rebuilt_from_its_description_and_its_weights() -> None:
    model = network(patch=(1, 2), variables=(Z, T, U, OROGRAPHY, Channel("extra")), validity=True)
    again = rebuild(model.describe())
    again.load_state_dict(model.state_dict())
    target = ask((Z,), [[24], [48]])
    assert torch.equal(again.eval()(STATE, target), model(STATE, target))
    with pytest.raises(RuntimeError, match="lead_time"):
        again.load_state_dict({k: v for k, v in model.state_dict().items() if k != "lead_time.bias"})


def test_the_embeddings_are_kept_from_weight_decay() -> None:
    model = network()
    assert model.no_decay() == {"position", "aggregation.variable_embed"}
    assert model.no_decay() <= {name for name, _ in model.named_parameters()}


@torch.no_grad()
def test_a_copy_on_another_grid_keeps_its_weights_and_interpolates_its_positions() -> None:
    model = network()
    fine = Grid.equiangular(11.25)
    copy = model.on_grid(fine).eval()
    assert (copy.layout.grid, copy.position.shape) == (fine, (8, 16, 16))
    assert torch.equal(copy.to_pixels.weight, model.to_pixels.weight)
    assert copy(fields((Z, T), fine), ask((Z,), [[24], [48]], fine)).shape == (2, 1, 1, 16, 32)
    same = model.on_grid(GLOBE).eval()
    assert torch.equal(same(STATE, ask((Z,), [[24], [48]])), model(STATE, ask((Z,), [[24], [48]])))


def test_a_variable_that_is_unknown_or_given_twice_is_refused() -> None:
    model, target = network(), ask((Z,), [[24], [48]])
    with pytest.raises(ChannelError, match="no variable 'temperature_800'; did you mean 'temperature_850'"):
        model(STATE, ask((Channel("temperature", 800),), [[24], [48]]))
    with pytest.raises(ChannelError, match="'geopotential_500' is given twice"):
        model(STATE, target, statics=fields((Z,)))
    with pytest.raises(ChannelError, match="no variable 'orography'"):
        network(variables=(Z, T, U))


def test_a_grid_or_calendar_that_does_not_fit_is_refused() -> None:
    model = network()
    fine = Grid.equiangular(11.25)
    with pytest.raises(GridError, match="no part of the network's grid"):
        model(fields((Z,), fine), ask((Z,), [[24], [48]], fine))
    with pytest.raises(GridError, match="but the target on 16×32"):
        model(STATE, ask((Z,), [[24], [48]], fine))
    with pytest.raises(GridError, match="but the statics on 16×32"):
        model(STATE, ask((Z,), [[24], [48]]), statics=fields((OROGRAPHY,), fine))
    with pytest.raises(DataError, match="noleap"):
        model(STATE, replace(ask((Z,), [[24], [48]]), calendar="noleap"))


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        ({"target_grid": Grid.equiangular(11.25)}, {}, "predicts on the grid of its inputs"),
        ({}, {"heads": 3}, "dim=16 must be a multiple of heads=3"),
    ],
)
def test_what_the_network_cannot_do_is_refused_when_it_is_built(
    change: dict[str, object], options: dict[str, object], message: str
) -> None:
    with pytest.raises(EtesianError, match=message) as caught:
        network(replace(LAYOUT, **change), **options)
    assert caught.type is RecipeError


def test_on_any_grid_the_position_embedding_is_interpolated_by_coordinate() -> None:
    layout = Layout((Channel("temperature", 850),), (Channel("temperature", 850),), Grid.equiangular(22.5))
    torch.manual_seed(0)
    network = ClimaX(layout, patch=2, dim=16, depth=1, heads=2, any_grid=True).eval()
    fine = Grid.equiangular(11.25)
    expected = network.on_grid(fine)
    time = torch.zeros(2, 1, dtype=torch.int64)
    inputs = Fields(torch.randn(2, 1, 1, *fine.shape), Frame(layout.inputs, time, fine))
    target = Frame(layout.targets, time + 6 * 3600, fine)
    found = network(inputs, target)
    torch.testing.assert_close(found, expected.eval()(inputs, target))
    found.square().sum().backward()
    assert network.position.grad is not None
    assert (network.position.grad != 0).all()


def test_checkpointed_blocks_give_the_same_gradients_with_less_kept() -> None:
    layout = Layout((Channel("temperature", 850),), (Channel("temperature", 850),), Grid.equiangular(22.5))
    time = torch.zeros(2, 1, dtype=torch.int64)
    inputs = Fields(torch.randn(2, 1, 1, *layout.grid.shape), Frame(layout.inputs, time, layout.grid))
    target = Frame(layout.targets, time + 6 * 3600, layout.grid)
    gradients, kept = [], []
    for again in (False, True):
        torch.manual_seed(0)
        network = ClimaX(layout, patch=2, dim=16, depth=3, heads=2, checkpoint_blocks=again).train()
        saved: list[int] = []

        def pack(tensor: torch.Tensor, saved: list[int] = saved) -> torch.Tensor:
            saved.append(tensor.numel())
            return tensor

        torch.manual_seed(1)
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            loss = network(inputs, target).square().sum()
        kept.append(sum(saved))
        loss.backward()
        gradients.append([parameter.grad for parameter in network.parameters()])
    for first, second in zip(*gradients, strict=True):
        torch.testing.assert_close(first, second)
    assert kept[1] < 0.5 * kept[0]


@torch.no_grad()
@pytest.mark.parametrize("options", [{"patch": 2, "dim": 64}, {"patch": 4, "dim": 32}, {"history": "attention"}])
@pytest.mark.parametrize("times", [(0,), (-48, -24, 0)])
def test_a_new_network_lets_its_input_count_more_than_where_and_when_it_is(
    options: dict[str, object], times: tuple[int, ...]
) -> None:
    torch.manual_seed(0)
    layout = replace(LAYOUT, history=times, statics=())
    model = ClimaX(layout, **({"dim": 64, "depth": 1, "heads": 4} | options))  # type: ignore[arg-type]
    tokens, _ = model._aggregate(fields((Z, T, U), batch=64, times=times), ())
    from_input = float(tokens.var(dim=0).mean())
    # Three independent times, of which attention takes the mean, have a third of the variance of one.
    assert 0.05 < from_input < 1
    from_place = float(model.position.flatten(0, 1).var(dim=0).mean() + tokens.mean(dim=0).var(dim=0).mean())
    assert from_place < 0.2 * from_input
    from_lead = float(model.lead_time(torch.tensor([[0.24], [1.2]])).var(dim=0).mean())
    assert 0.001 * from_input < from_lead < from_input
