"""Holes in the inputs of ClimaX have no influence; what is left does not depend on them. Histories and regions."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from etesian.core import Batch, Channel, Fields, Frame, Grid, Layout
from etesian.core.errors import DataError
from etesian.core.grid import Region
from etesian.core.statistics import Statistics
from etesian.forecast.task import ForecastTask
from etesian.networks.climax import ClimaX

CHANNELS = (Channel("temperature", 850), Channel("geopotential", 500))
STATICS = (Channel("orography"),)
GRID = Grid.equiangular(22.5)


def network(hours: tuple[int, ...] = (0,), statics: tuple[Channel, ...] = STATICS, **options: Any) -> ClimaX:
    torch.manual_seed(0)
    sizes = {"patch": 2, "dim": 16, "depth": 2, "heads": 2, "validity": True} | options
    made = ClimaX(Layout(CHANNELS, CHANNELS, GRID, history=hours, statics=statics), **sizes).eval()
    for name, parameter in made.named_parameters():
        torch.nn.init.normal_(parameter, std=0.3)
        assert parameter.requires_grad, name
    return made


def fields(batch: int = 3, hours: tuple[int, ...] = (0,), valid: Tensor | None = None, seed: int = 1) -> Fields:
    random = torch.Generator().manual_seed(seed)
    time = 3600 * torch.tensor(hours).expand(batch, -1)
    values = torch.randn(batch, len(hours), 2, *GRID.shape, generator=random)
    return Fields(values, Frame(CHANNELS, time, GRID), valid)


def statics(batch: int = 3, seed: int = 2) -> Fields:
    values = torch.randn(1, 1, 1, *GRID.shape, generator=torch.Generator().manual_seed(seed))
    frame = Frame(STATICS, torch.zeros(batch, 1, dtype=torch.int64), GRID)
    return Fields(values.expand(batch, -1, -1, -1, -1), frame)


def ask(model: ClimaX, inputs: Fields, ground: Fields | None = None, leads: tuple[int, ...] = (24, 72)) -> Tensor:
    later = inputs.frame.time[:, -1:] + 3600 * torch.tensor(leads)
    return model(inputs, replace(inputs.frame, time=later), statics=ground)


def holes(batch: int = 3, seed: int = 3) -> Tensor:
    """Points missing here and there, in each sample others; a patch of the first channel, and a whole place."""
    valid = torch.rand(batch, 1, 2, *GRID.shape, generator=torch.Generator().manual_seed(seed)) > 0.2
    valid[0, :, 0, 2:4, 4:6] = False
    valid[:, :, :, 4:6, 6:8] = False
    return valid


def test_what_lies_under_a_hole_has_no_influence() -> None:
    model, valid = network(), holes()
    inputs = fields(valid=valid)
    wild = replace(inputs, values=inputs.values.masked_fill(~valid, float("nan")))
    assert torch.equal(ask(model, inputs, statics()), ask(model, wild, statics()))


def test_a_place_without_any_input_has_no_influence_on_the_others() -> None:
    model = network()
    inputs, ground = fields(valid=holes()), statics()
    changed = ground.values.clone()
    changed[..., 4:6, 6:8] += 5
    first, second = ask(model, inputs, ground), ask(model, inputs, replace(ground, values=changed))
    there = torch.zeros(GRID.shape, dtype=torch.bool)
    there[4:6, 6:8] = True
    assert torch.equal(first[..., ~there], second[..., ~there])
    assert not torch.equal(first[..., there], second[..., there])
    assert first.isfinite().all()


def test_a_mask_that_hides_nothing_changes_nothing() -> None:
    model, inputs = network(), fields()
    everything = replace(inputs, valid=torch.ones_like(inputs.values, dtype=torch.bool))
    assert torch.equal(ask(model, everything, statics()), ask(model, inputs, statics()))


def test_samples_of_different_holes_forecast_as_if_each_were_alone() -> None:
    model, inputs = network(), fields(valid=holes())
    together = ask(model, inputs, statics())
    for number in range(3):
        own = slice(number, number + 1)
        frame = replace(inputs.frame, time=inputs.frame.time[own])
        one = Fields(inputs.values[own], frame, inputs.valid[own])  # type: ignore[index]
        torch.testing.assert_close(ask(model, one, statics(1)), together[own], rtol=1e-4, atol=1e-5)


def test_a_variable_missing_in_a_patch_counts_there_as_if_it_were_not_given() -> None:
    model = network(statics=())
    valid = torch.ones(1, 1, 2, *GRID.shape, dtype=torch.bool)
    valid[:, :, 1] = False
    alone = fields(1).select(CHANNELS[:1])
    later = replace(alone.frame, time=alone.frame.time + 86400)
    torch.testing.assert_close(model(fields(1, valid=valid), later), model(alone, later))


def test_gradients_are_finite_beside_places_with_nothing_at_all() -> None:
    model = network(statics=())
    ask(model, fields(valid=holes())).square().mean().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name


def test_a_sample_without_any_value_is_refused() -> None:
    valid = holes()
    valid[1] = False
    with pytest.raises(DataError, match="a sample has no valid value at all among temperature_850"):
        ask(network(), fields(valid=valid), statics())


@pytest.mark.parametrize("masked", [False, True])
def test_times_are_told_apart_by_their_hours_and_not_by_their_order(masked: bool) -> None:
    hours = (-48, -18, -6, 0)
    model = network(hours, history="attention")
    valid = torch.cat([holes(seed=seed) for seed in range(4)], dim=1) if masked else None
    inputs = fields(hours=hours, valid=valid)
    order = [2, 0, 1, 3]
    frame = replace(inputs.frame, time=inputs.frame.time[:, order])
    shuffled = Fields(inputs.values[:, order], frame, None if valid is None else valid[:, order])
    expected = ask(model, inputs, statics())
    torch.testing.assert_close(ask(model, shuffled, statics()), expected, rtol=1e-4, atol=1e-5)
    moved = replace(inputs.frame, time=inputs.frame.time - torch.tensor([7200, 0, 0, 0]))
    assert not torch.allclose(ask(model, replace(inputs, frame=moved), statics()), expected, atol=1e-3)


def test_a_history_by_attention_has_parameters_of_one_time_and_begins_as_their_mean() -> None:
    few, many = (network(hours, history="attention") for hours in ((-6, 0), (-18, -12, -6, 0)))
    assert {n: p.shape for n, p in few.named_parameters()} == {n: p.shape for n, p in many.named_parameters()}
    assert few.neck is not None
    torch.nn.init.zeros_(few.neck.query)
    few.neck.attention.in_proj_bias.data.zero_()
    tokens = torch.randn(2, 5, 3, 16)
    hours = torch.tensor([[0.0, 0.0, 0.0]]).expand(2, -1)
    together = few.neck(tokens, hours)
    apart = torch.stack([few.neck(tokens[:, :, [i]], hours[:, [i]]) for i in range(3)]).mean(0)
    torch.testing.assert_close(together, apart, rtol=1e-4, atol=1e-5)


def test_more_times_than_the_layout_has_are_refused() -> None:
    with pytest.raises(DataError, match="the inputs have 3 times, but the layout's history"):
        ask(network((-6, 0), history="attention"), fields(hours=(-12, -6, 0)), statics())


def test_an_iterated_forecast_looks_back_by_attention() -> None:
    hours = (-6, 0)
    layout = Layout(CHANNELS, CHANNELS, GRID, history=hours)
    statistics = Statistics(CHANNELS, np.zeros(2), np.ones(2))

    def build(layout: Layout) -> ClimaX:
        return network(hours, (), history="attention")

    inputs = fields(hours=hours)
    later = replace(inputs.frame, time=inputs.frame.time[:, -1:] + 3600 * torch.tensor([6, 12]))
    single, steps = (
        ForecastTask(build, layout, statistics).eval(),
        ForecastTask(build, layout, statistics, step_hours=6).eval(),
    )
    found = steps.predict(Batch(inputs), later).values
    first = single.predict(Batch(inputs), replace(later, time=later.time[:, :1]))
    time = torch.cat([inputs.frame.time[:, -1:], first.frame.time], dim=1)
    again = Fields(torch.cat([inputs.values[:, -1:], first.values], dim=1), replace(inputs.frame, time=time))
    expected = single.predict(Batch(again), replace(later, time=later.time[:, 1:])).values
    torch.testing.assert_close(found[:, 1:], expected, rtol=1e-4, atol=1e-4)


def cut(inputs: Fields, box: Region) -> Fields:
    rows, columns = inputs.frame.grid.region(box)
    values = inputs.values[..., rows, :][..., columns]
    return Fields(values, replace(inputs.frame, grid=inputs.frame.grid.crop(box)))


@pytest.mark.parametrize("box", [Region(-45, 45, 90, 160), Region(0, 90, 315, 25)])
def test_a_region_computes_its_own_tokens_alone(box: Region) -> None:
    model, inputs, counts = network(statics=()), fields(1), []
    model.blocks[0].register_forward_pre_hook(lambda _, given: counts.append(given[0].shape[1]))
    part = cut(inputs, box)
    ask(model, inputs)
    ask(model, part)
    assert counts == [4 * 8, part.values.shape[-2] * part.values.shape[-1] // 4]
    assert counts[1] < counts[0] / 3


@pytest.mark.parametrize("box", [Region(-45, 45, 90, 160), Region(0, 90, 315, 25)])
def test_a_region_alone_is_the_cut_of_the_globe_where_nothing_else_is_attended_to(box: Region) -> None:
    model, inputs = network(statics=()), fields(1)

    def both() -> tuple[Tensor, Tensor]:
        globe = ask(model, inputs)
        rows, columns = GRID.region(box)
        return globe[..., rows, :][..., columns], ask(model, cut(inputs, box))

    assert not torch.allclose(*both(), atol=1e-2)
    for block in model.blocks:
        torch.nn.init.zeros_(block.attention.out.weight)
    torch.testing.assert_close(*both(), rtol=1e-4, atol=1e-5)
