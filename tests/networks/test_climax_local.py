"""Laws of the local path of ClimaX: neighbours count, places are alike, holes do not, leads share a trunk."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from etesian.core import Channel, Fields, Frame, Grid, Layout
from etesian.core.errors import CheckpointError, RecipeError
from etesian.networks.climax import ClimaX

CHANNELS, STATICS = (Channel("temperature", 850), Channel("geopotential", 500)), (Channel("orography"),)
GRID = Grid.equiangular(22.5)
LAYOUT = Layout(CHANNELS, CHANNELS, GRID, statics=STATICS)

SIZES: dict[str, Any] = {"patch": 2, "dim": 16, "depth": 2, "heads": 2, "local_width": 8, "head_depth": 1}


@pytest.fixture(autouse=True, params=[False, True], ids=["one level", "two levels"])
def levels(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SIZES, "local_half", request.param)


def new(layout: Layout = LAYOUT, **options: Any) -> ClimaX:
    torch.manual_seed(0)
    return ClimaX(layout, **SIZES | {"dropout": 0.0, "drop_path": 0.0} | options)


def drawn(layout: Layout = LAYOUT, **options: Any) -> ClimaX:
    """Return a network whose weights are all drawn, so that nothing is zero by chance of initialisation."""
    made = new(layout, **options).eval()
    for parameter in made.parameters():
        nn.init.normal_(parameter, std=0.2)
    return made


def state(grid: Grid = GRID, hours: tuple[int, ...] = (0,), valid: Tensor | None = None) -> Fields:
    values = torch.randn(2, len(hours), 2, *grid.shape, generator=torch.Generator().manual_seed(1))
    return Fields(values, Frame(CHANNELS, 3600 * torch.tensor(hours).expand(2, -1), grid), valid)


def statics() -> Fields:
    values = torch.randn(1, 1, 1, *GRID.shape, generator=torch.Generator().manual_seed(2))
    return Fields(values, Frame(STATICS, torch.zeros(1, 1, dtype=torch.int64), GRID))


def ask(model: ClimaX, inputs: Fields, ground: Fields | None = None, leads: tuple[int, ...] = (24, 72)) -> Tensor:
    later = inputs.frame.time[:, -1:] + 3600 * torch.tensor(leads)
    answer: Tensor = model(inputs, replace(inputs.frame, time=later), statics=ground)
    return answer


def without_transformer(model: ClimaX) -> ClimaX:
    assert model.local is not None
    nn.init.zeros_(model.local.from_tokens.weight)
    nn.init.zeros_(model.local.from_tokens.bias)
    return model


@torch.no_grad()
def test_without_positions_a_turn_by_whole_patches_turns_the_forecast() -> None:
    model, inputs = drawn(), state()
    model.position.zero_()
    turned = replace(inputs, values=inputs.values.roll(6, dims=-1))
    expected = ask(model, inputs).roll(6, dims=-1)
    torch.testing.assert_close(ask(model, turned), expected, rtol=0, atol=1e-6 * float(expected.abs().max()))


@torch.no_grad()
def test_a_point_tells_its_neighbours_in_other_patches_and_round_the_globe_and_none_beyond_six() -> None:
    model, inputs = without_transformer(drawn()), state()
    changed = replace(inputs, values=inputs.values.clone())
    changed.values[..., 4, 0] += 1
    touched = (ask(model, changed) != ask(model, inputs)).any(dim=0).any(dim=0).any(dim=0)
    reach = torch.tensor([min(column, 16 - column) <= 6 for column in range(16)])
    assert torch.equal(touched, reach.expand(8, -1))


@torch.no_grad()
def test_a_new_network_is_linear_in_the_state_and_gives_nothing() -> None:
    model, inputs = new(), state()
    assert not ask(model, inputs).any()
    nn.init.normal_(model.to_pixels.weight)
    one, two, none = (ask(model, replace(inputs, values=factor * inputs.values)) for factor in (1, 2, 0))
    torch.testing.assert_close(two - none, 2 * (one - none), rtol=1e-4, atol=1e-4)
    assert float((one - none).std(dim=0).mean()) > 0.1
    assert not torch.allclose(one[:, 0], one[:, 1], atol=0.1)


@torch.no_grad()
def test_all_leads_share_what_comes_before_the_head() -> None:
    model, sizes = drawn(), []
    model.blocks[0].register_forward_pre_hook(lambda _, given: sizes.append(len(given[0])))
    together = ask(model, state(), leads=(6, 24, 72))
    assert sizes == [2]
    for number, lead in enumerate((6, 24, 72)):
        torch.testing.assert_close(ask(model, state(), leads=(lead,))[:, 0], together[:, number])


def test_every_parameter_that_is_used_gets_a_gradient() -> None:
    model = drawn()
    wanted = Frame((*CHANNELS, *STATICS), torch.tensor([[86400], [172800]]), GRID)
    model(state(), wanted, statics=statics()).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())


def holes() -> Tensor:
    """Points missing here and there, and two places where nothing is seen: a whole patch and a single point."""
    valid = torch.rand(2, 1, 2, *GRID.shape, generator=torch.Generator().manual_seed(3)) > 0.2
    valid[..., 4:6, 6:8] = False
    valid[..., 2, 3] = False
    return valid


@torch.no_grad()
def test_what_lies_under_a_hole_has_no_influence() -> None:
    model, valid = drawn(validity=True), holes()
    inputs = state(valid=valid)
    wild = replace(inputs, values=inputs.values.masked_fill(~valid, float("nan")))
    answer = ask(model, inputs, statics())
    assert torch.equal(answer, ask(model, wild, statics()))
    assert answer.isfinite().all()


@torch.no_grad()
@pytest.mark.parametrize("there", [(slice(4, 6), slice(6, 8)), (2, 3)])
def test_where_nothing_is_seen_static_fields_have_no_influence(there: tuple[Any, Any]) -> None:
    model, inputs, ground = drawn(validity=True), state(valid=holes()), statics()
    changed = ground.values.clone()
    changed[..., there[0], there[1]] += 5
    answer = ask(model, inputs, ground)
    assert torch.equal(ask(model, inputs, replace(ground, values=changed)), answer)
    assert not torch.equal(ask(model, state(), replace(ground, values=changed)), ask(model, state(), ground))


@torch.no_grad()
def test_a_mask_that_hides_nothing_changes_nothing() -> None:
    model, inputs = drawn(validity=True), state()
    everything = replace(inputs, valid=torch.ones_like(inputs.values, dtype=torch.bool))
    torch.testing.assert_close(ask(model, everything, statics()), ask(model, inputs, statics()))


@torch.no_grad()
@pytest.mark.parametrize("options", [{"patch": 4}, {"validity": True}, {"history": "attention"}, {"lora_rank": 2}])
def test_grids_that_patches_do_not_divide_histories_and_additions_work_with_it(options: dict[str, Any]) -> None:
    grid = Grid(20 + 2.5 * np.arange(9), 280 + 2.5 * np.arange(13))
    model = drawn(Layout(CHANNELS, CHANNELS, grid, history=(-24, 0)), **options)
    valid = torch.rand(2, 2, 2, 9, 13) > 0.3 if "validity" in options else None
    answer = ask(model, state(grid, (-24, 0), valid))
    assert answer.shape == (2, 2, 2, 9, 13)
    assert answer.isfinite().all()


@torch.no_grad()
def test_a_part_of_the_grid_is_computed_alone() -> None:
    model, inputs, counts = drawn(), state(), []
    model.blocks[0].register_forward_pre_hook(lambda _, given: counts.append(given[0].shape[1]))
    box = Grid(GRID.latitude[2:6], GRID.longitude[4:10])
    part = Fields(inputs.values[..., 2:6, 4:10], replace(inputs.frame, grid=box))
    assert ask(model, part).shape == (2, 2, 2, 4, 6)
    assert counts == [6]


def test_checkpointed_blocks_give_the_same_gradients() -> None:
    gradients = []
    for again in (False, True):
        model = drawn(checkpoint_blocks=again).train()
        ask(model, state(), statics()).square().sum().backward()
        gradients.append([parameter.grad for parameter in model.parameters()])
    for first, second in zip(*gradients, strict=True):
        torch.testing.assert_close(first, second)


@torch.no_grad()
def test_weights_go_from_variable_to_variable_and_to_another_local_path_not_at_all() -> None:
    trained, fresh = drawn(), drawn(Layout(CHANNELS[::-1], CHANNELS[::-1], GRID))
    nn.init.normal_(fresh.to_pixels.weight)
    transfer = fresh.adopt(trained)
    assert transfer.outcomes["to_pixels.weight"] == transfer.outcomes["local.enter.weight"] == "loaded"
    torch.testing.assert_close(ask(fresh, state().select(CHANNELS)), ask(trained, state()))
    for width in (0, 4):
        with pytest.raises(CheckpointError, match=f"has local_width: 8, this one {width}"):
            new(local_width=width, local_half=False).adopt(trained)
    half = SIZES["local_half"]
    with pytest.raises(CheckpointError, match=f"has local_half: {half}, this one {not half}; make them equal"):
        new(local_half=not half).adopt(trained)


def test_what_is_local_can_be_tuned_alone() -> None:
    parts = new().parts()
    rest = parts["head"] | parts["embeddings"] | parts["norms"] | parts["attention"]
    assert {"local.enter.weight", "blocks.1.convolution.second.bias"} <= parts["local"]
    assert not parts["local"] & rest
    assert all(".mlp." in name for name in parts["all"] - rest - parts["local"])


def test_a_width_that_the_heads_do_not_divide_is_refused() -> None:
    with pytest.raises(RecipeError, match="local_width=7 must be a multiple of heads=2"):
        new(local_width=7, local_half=False)


@pytest.mark.parametrize("options", [{"patch": 3}, {"local_width": 0}])
def test_half_a_resolution_needs_an_even_patch_and_a_local_path(options: dict[str, Any]) -> None:
    with pytest.raises(RecipeError, match="local_half needs a local_width and a patch of even sides"):
        new(**{"local_half": True} | options)
