"""What is known at a lead's valid time enters the latent that is decoded there, and nothing else."""

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from etesian.core import Channel, Fields, Frame, Grid, Layout
from etesian.core.errors import ChannelError, CheckpointError, DataError, EtesianError, GridError
from etesian.networks.weathermesh import WeatherMesh
from etesian.networks.weathermesh_parts import Regridding

HOUR = 3600
OWN, FINE = Grid.equiangular(22.5), Grid.equiangular(11.25)
ALOFT = tuple(Channel("temperature", level) for level in (50, 100, 200, 300, 500, 700, 850, 1000))
TARGETS = (*ALOFT, Channel("surface_pressure"))
SUN, SEA = Channel("toa_incident_solar_radiation"), Channel("sea_surface_temperature")
LAYOUT = Layout((*TARGETS, SEA), TARGETS, OWN, forcings=(SUN, SEA), other_grids=(FINE,))
FREE = replace(LAYOUT, forcings=())
SMALL: dict[str, Any] = {
    "patch": (2, 2, 2), "dim": 16, "heads": 2, "window": (3, 3, 3), "encoder_depth": 1, "decoder_depth": 1,
    "processors": {1: 1, 6: 1}, "surface_width": 4, "sources": {"ERA5": ("temperature",), "GFS": ("temperature",)},
}  # fmt: skip
LEADS = (12, 0, 7, 12)


def network(layout: Layout = LAYOUT, *, seed: int = 0, noise: bool = False, **options: Any) -> WeatherMesh:
    made = WeatherMesh(layout, **(SMALL | options))
    if noise:
        made.accept_noise()
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.normal_(std=0.3 if parameter.ndim < 2 else 1 / math.sqrt(parameter[0].numel()))
    return made.eval()


def fields(channels: tuple[Channel, ...], grid: Grid = OWN, hours: tuple[int, ...] = (0,), seed: int = 0) -> Fields:
    values = torch.randn(2, len(hours), len(channels), *grid.shape, generator=torch.Generator().manual_seed(seed))
    return Fields(values, Frame(channels, HOUR * torch.tensor([hours, hours]), grid, source="ERA5"))


def known(grid: Grid = OWN, hours: tuple[int, ...] = LEADS) -> Fields:
    return fields((SEA, Channel("nothing"), SUN), grid, hours, seed=1)


def ask(grid: Grid = OWN, hours: tuple[int, ...] = LEADS) -> Frame:
    return Frame(TARGETS, HOUR * torch.tensor([hours, hours]), grid)


def normals(model: WeatherMesh) -> Any:
    generator = torch.Generator()
    return lambda number: torch.randn(2, *model.noise_shape(OWN), generator=generator.manual_seed(number))


STATE = fields(LAYOUT.inputs)


def ways(model: WeatherMesh, grid: Grid, forcings: Fields) -> list[Tensor]:
    """The answer, lead by lead, in every way in which a network is asked."""
    target, drawn = ask(grid), {"forcings": forcings, "noise": normals(model)}
    found = [model(STATE, target, **drawn)]
    other = replace(STATE, frame=replace(STATE.frame, source="GFS"))
    for others in ((), (other,)):
        parts: list[Any] = [None] * len(LEADS)
        streamed = list(model.stream(STATE, target, **drawn, others=others))
        assert [LEADS[places[0]] for places, _ in streamed] == [0, 7, 12]
        for places, values in streamed:
            for place, each in zip(places, values.unbind(1), strict=True):
                parts[place] = each
        found.append(torch.stack(parts, 1))
    # Leads that differ between the samples come all at once.
    late = replace(target, time=target.time + HOUR * torch.tensor([[0], [6]]))
    given = replace(forcings, frame=replace(forcings.frame, time=late.time))
    ((places, values),) = model.stream(STATE, late, **drawn | {"forcings": given})
    assert places == [0, 1, 2, 3]
    return [*found, values]


@torch.no_grad()
@pytest.mark.parametrize("grid", [OWN, FINE], ids=str)
def test_a_lead_is_answered_from_the_forcings_of_its_own_time_at_all_levels(grid: Grid) -> None:
    model = network(noise=True)
    given = known(grid)
    warmer = Fields(given.values.clone(), given.frame)
    warmer.values[0, 2, 0] += 1
    for before, after in zip(ways(model, grid, given), ways(model, grid, warmer), strict=True):
        changed = (after - before).abs().amax((3, 4))
        assert (changed[0, 2] > 1e-3).all()
        changed[0, 2] = 0
        assert (changed == 0).all()
    # Nor does it matter which others are asked for.
    together = ways(model, grid, given)[0]
    for place, lead in enumerate(LEADS):
        alone = model(STATE, ask(grid, (lead,)), forcings=given.at(place), noise=normals(model))
        torch.testing.assert_close(alone[:, 0], together[:, place], rtol=1e-4, atol=1e-5)
    holes = torch.rand(given.values.shape, generator=torch.Generator().manual_seed(2)) < 0.3
    gappy = Fields(given.values.masked_fill(holes, torch.nan), given.frame, ~holes)
    filled = Fields(given.values.masked_fill(holes, 0.0), given.frame)
    assert torch.equal(ways(model, grid, gappy)[0], ways(model, grid, filled)[0])


@torch.no_grad()
def test_forcings_on_another_grid_are_taken_to_the_networks_own() -> None:
    model, fine = network(), known(FINE)
    coarse = Fields(Regridding(FINE, OWN)(fine.values), replace(fine.frame, grid=OWN))
    for grid in (OWN, FINE):
        assert torch.equal(model(STATE, ask(grid), forcings=fine), model(STATE, ask(grid), forcings=coarse))


def test_every_layer_of_forcings_learns_also_from_nothing() -> None:
    last = {f"forcing_encoder.surface.leave.1.convolution.{name}" for name in ("weight", "bias")}
    for model, expected in ((network(), None), (WeatherMesh(LAYOUT, **SMALL), last)):
        part = model.parts()["forcings"]
        assert part == {name for name, _ in model.named_parameters() if name.startswith("forcing_encoder.")}
        with torch.no_grad():
            model.surface_decoder.leave.convolution.weight.normal_()
        model(STATE, ask(), forcings=known()).square().sum().backward()
        learning = {name for name, p in model.named_parameters() if name in part and p.grad.abs().sum() > 0}
        assert learning == (expected or part)


@torch.no_grad()
def test_a_network_without_forcings_is_gone_on_with_to_the_same_bits() -> None:
    trained, model = network(FREE, seed=1), WeatherMesh(LAYOUT, **SMALL).eval()
    transfer = model.adopt(trained)
    assert transfer.new == model.parts()["forcings"]
    assert torch.equal(model(STATE, ask(), forcings=known()), trained(STATE, ask()))
    both = network()
    assert model.adopt(both).new == frozenset()
    assert torch.equal(model(STATE, ask(), forcings=known()), both(STATE, ask(), forcings=known()))
    assert set(trained.adopt(both).outcomes.values()) == {"loaded", "dropped"}
    other = network(replace(LAYOUT, forcings=(SUN,)))
    with pytest.raises(CheckpointError, match=f"has other forcings: {SEA} is not in both"):
        other.adopt(both)


@torch.no_grad()
@pytest.mark.parametrize(
    ("forcings", "error", "message"),
    [
        (None, DataError, f"built with '{SUN}', but is given no forcings"),
        (known(hours=(1, 2, 3, 4)), DataError, "are of other times than the target"),
        (known(Grid.gaussian(8)), GridError, r"was built for 8×16 .*, not for 8×16"),
        (known().select((SUN,)), ChannelError, f"no channel '{SEA}'"),
    ],
)
def test_forcings_that_are_missing_or_others_are_refused(
    forcings: Fields | None, error: type[EtesianError], message: str
) -> None:
    model = network()
    with pytest.raises(error, match=message):
        model(STATE, ask(), forcings=forcings)
    with pytest.raises(error, match=message):
        next(model.stream(STATE, ask(), forcings=forcings))
    if forcings is None:
        with pytest.raises(error, match=message):
            model.decode(model.encode(STATE))
