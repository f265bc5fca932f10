"""Noise in WeatherMesh: drawn at the places of the latent, anew for each step, by all sources and on all grids."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from etesian.core import Channel, Fields, Frame, Grid, Layout
from etesian.networks.weathermesh import WeatherMesh
from etesian.nn.noise import NORMALS

OWN, FINE = Grid.equiangular(22.5), Grid.equiangular(11.25)
CHANNELS = (*(Channel("temperature", level) for level in (300, 500, 850)), Channel("surface_pressure"))
LAYOUT = Layout(CHANNELS, CHANNELS, OWN, other_grids=(FINE,))
SMALL: dict[str, Any] = {
    "patch": (2, 2, 2), "dim": 16, "heads": 2, "window": (2, 3, 3), "encoder_depth": 1, "decoder_depth": 1,
    "processors": {6: 1, 1: 1}, "surface_width": 4,
    "sources": dict.fromkeys(("ERA5", "GFS"), tuple(map(str, CHANNELS))),
}  # fmt: skip


def network(*, noise: bool = True, learned: bool = True, **options: Any) -> WeatherMesh:
    made = WeatherMesh(LAYOUT, **(SMALL | options))
    torch.manual_seed(0)
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter, std=0.3 if parameter.ndim < 2 else 1 / math.sqrt(parameter[0].numel()))
    if noise:
        made.accept_noise()
    if learned:
        for name, parameter in made.named_parameters():
            if "modulation" in name:
                torch.nn.init.normal_(parameter, std=0.2)
    return made.eval()


def fields(source: str = "ERA5", grid: Grid = OWN) -> Fields:
    values = torch.randn(2, 1, len(CHANNELS), *grid.shape, generator=torch.Generator().manual_seed(0))
    return Fields(values, Frame(CHANNELS, torch.zeros(2, 1, dtype=torch.int64), grid, source=source))


def ask(*hours: int, grid: Grid = OWN) -> Frame:
    return Frame(CHANNELS, 3600 * torch.tensor([hours, hours]), grid)


def normals(model: WeatherMesh, seed: int = 0) -> Any:
    def draw(number: int) -> Tensor:
        generator = torch.Generator().manual_seed(1000 * seed + number)
        return torch.randn(2, *model.noise_shape(OWN), generator=generator)

    return draw


@torch.no_grad()
def test_noise_begins_without_a_say_to_the_last_bit() -> None:
    alone, model = network(noise=False), network(learned=False)
    assert model.noise_shape(FINE) == (4, 8, NORMALS)
    target = ask(6, 7, 12)
    assert torch.equal(model(fields(), target, noise=normals(model)), alone(fields(), target))


@torch.no_grad()
@pytest.mark.parametrize("grid", [OWN, FINE], ids=str)
@pytest.mark.parametrize("source", ["ERA5", "GFS"])
def test_each_step_is_given_its_own_noise_and_leads_share_those_in_common(grid: Grid, source: str) -> None:
    model = network()
    draw, given = normals(model), fields(source, grid)
    found = model(given, ask(12, 0, 7, grid=grid), noise=draw)
    drawn = [model.embedded(draw, number) for number in range(3)]
    begin = model.encode(given, None, drawn[0])
    first = model.step(begin, 6, drawn[1])
    for place, latent, number in ((1, begin, 0), (2, model.step(first, 1, drawn[2]), 2),
                                  (0, model.step(first, 6, drawn[2]), 2)):  # fmt: skip
        torch.testing.assert_close(found[:, place], model.decode(latent, grid, drawn[number]), rtol=1e-4, atol=1e-5)
    other = model(given, ask(12, 0, 7, grid=grid), noise=normals(model, 1))
    assert (other - found).std(dim=(0, 2, 3, 4)).min() > 0.05
    streamed = list(model.stream(given, ask(12, 0, 7, grid=grid), noise=draw))
    assert [places for places, _ in streamed] == [[1], [2], [0]]
    for places, values in streamed:
        torch.testing.assert_close(values, found[:, places], rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_noise_acts_where_it_is_drawn() -> None:
    model = network(window=(1, 1, 1), seamless=False)
    draw = normals(model)

    def elsewhere(number: int) -> Tensor:
        changed = draw(number).clone()
        changed[:, 1, 2] += 3
        return changed

    latent = model.encode(fields())
    changes = model.step(latent, 6, model.embedded(elsewhere, 1)) - model.step(latent, 6, model.embedded(draw, 1))
    moved = (changes != 0).any(dim=-1)
    assert moved[:, :, 1, 2].all()
    moved[:, :, 1, 2] = False
    assert not moved.any()


@torch.no_grad()
def test_analyses_are_blended_with_the_noise_of_one_member() -> None:
    model = network()
    analyses, draw = [fields("ERA5"), fields("GFS")], normals(model)
    ((_, alone),) = model.stream(analyses[0], ask(6), noise=draw)
    ((_, blended),) = model.stream(analyses[0], ask(6), others=analyses[1:], weights=[1, 0], noise=draw)
    assert torch.equal(blended, alone)
    ((_, both),) = model.stream(analyses[0], ask(6), others=analyses[1:], noise=draw)
    assert not torch.allclose(both, blended)


def test_a_network_without_noise_gives_its_weights_to_one_that_takes_it() -> None:
    alone, model = network(noise=False), network(learned=False)
    transfer = model.adopt(alone)
    assert transfer.new == model.parts()["noise"]
    assert "encoders.ERA5.blocks.0.modulations.0.project.weight" in transfer.new
    assert alone.adopt(model).outcomes["noise_embed.expand.weight"] == "dropped"
    again = network()
    assert set(again.adopt(model).outcomes.values()) == {"loaded"}
    parts = model.parts()
    every = [name for part, names in parts.items() if part != "all" for name in names]
    assert sorted(every) == sorted(parts["all"])
