"""One latent for several grids: a new one begins with what is known of the network's own and learns what it lacks."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from etesian.core import Channel, Fields, Frame, Grid, Layout
from etesian.core.errors import CheckpointError, GridError, RecipeError
from etesian.core.recorded import rebuild
from etesian.networks.weathermesh import WeatherMesh
from etesian.networks.weathermesh_parts import Regridding

OWN, FINE = Grid.equiangular(22.5), Grid.equiangular(11.25)
ALOFT = tuple(Channel("temperature", level) for level in (300, 500, 850))
CHANNELS = (*ALOFT, Channel("surface_pressure"))
LAYOUT = Layout(CHANNELS, CHANNELS, OWN, statics=(Channel("orography"),), other_grids=(FINE,))
SMALL: dict[str, Any] = {
    "patch": (2, 2, 2), "dim": 16, "heads": 2, "window": (2, 3, 3), "encoder_depth": 1, "decoder_depth": 1,
    "processors": {6: 1}, "surface_width": 4,
}  # fmt: skip


def network(layout: Layout = LAYOUT, *, details: bool = False, seed: int = 0, **options: Any) -> WeatherMesh:
    """Return a small network whose weights are drawn, those of its other grids only if it is to have learned them."""
    made = WeatherMesh(layout, **(SMALL | options))
    torch.manual_seed(seed)
    with torch.no_grad():
        for name, parameter in sorted(made.named_parameters(), key=lambda named: "details" in named[0]):
            if details or "details" not in name:
                parameter.normal_(std=0.3 if parameter.ndim < 2 else 1 / math.sqrt(parameter[0].numel()))
    return made.eval()


def fields(grid: Grid, channels: tuple[Channel, ...] = CHANNELS, seed: int = 0) -> Fields:
    values = torch.randn(2, 1, len(channels), *grid.shape, generator=torch.Generator().manual_seed(seed))
    return Fields(values, Frame(channels, torch.zeros(2, 1, dtype=torch.int64), grid))


def statics(grid: Grid) -> Fields:
    return fields(grid, LAYOUT.statics, seed=1)


def ask(grid: Grid) -> Frame:
    return Frame(CHANNELS, torch.full((2, 1), 6 * 3600), grid)


@torch.no_grad()
def test_another_grid_changes_nothing_on_the_networks_own() -> None:
    alone, both = network(replace(LAYOUT, other_grids=())), network(details=True)
    state, fixed = fields(OWN), statics(OWN)
    assert torch.equal(both(state, ask(OWN), statics=fixed), alone(state, ask(OWN), statics=fixed))


@torch.no_grad()
def test_a_new_grid_begins_with_what_the_network_knows_of_its_own() -> None:
    model = network()
    fine, fixed = fields(FINE), statics(FINE)
    to_own, to_fine = Regridding(FINE, OWN), Regridding(OWN, FINE)
    state, ground = (Fields(to_own(part.values), replace(part.frame, grid=OWN)) for part in (fine, fixed))
    # The sun and the hour are told on the grid of the fields, so that they differ by the curvature of the sun's angle.
    known = model(state, ask(OWN), statics=ground)
    torch.testing.assert_close(model(fine, ask(FINE), statics=fixed), to_fine(known), rtol=0, atol=0.05)
    # Any grid leads to any other.
    torch.testing.assert_close(model(fine, ask(OWN), statics=fixed), known, rtol=0, atol=0.05)
    assert torch.equal(model(state, ask(FINE), statics=ground), to_fine(known))


@torch.no_grad()
def test_what_the_own_grid_cannot_show_enters_and_leaves_by_the_details() -> None:
    without, trained = network(), network(details=True)
    fixed = statics(FINE)
    smooth = fields(FINE)
    # Alternating points have no mean over any of the network's own cells.
    checkers = torch.from_numpy((-1.0) ** np.add.outer(np.arange(16), np.arange(32))).float()
    rough = Fields(smooth.values + checkers, smooth.frame)
    latents = [[model.encode(state, fixed) for state in (smooth, rough)] for model in (without, trained)]
    changes = [float((a - b).abs().max()) for a, b in latents]
    assert changes[0] < 0.1 < changes[1]
    decoded = [model.decode(latents[0][0], FINE) for model in (without, trained)]
    back = Regridding(OWN, FINE)(Regridding(FINE, OWN)(decoded[1] - decoded[0]))
    assert float((decoded[1] - decoded[0] - back).std()) > 0.1


def test_every_part_of_every_grid_learns() -> None:
    model = network(details=True)
    model(fields(FINE), ask(FINE), statics=statics(FINE)).square().sum().backward()
    assert [n for n, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0] == []
    parts = model.parts()
    assert list(parts) == ["all", "encoder/analysis", "processors", "decoder", "details/16x32"]
    every = [name for part, names in parts.items() if part != "all" for name in names]
    assert sorted(every) == sorted(parts["all"])
    # From nothing, too: zeros that get no gradient would stay zeros.
    begun = network()
    begun(fields(FINE), ask(FINE), statics=statics(FINE)).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for n, p in begun.named_parameters() if "details" in n)


@torch.no_grad()
def test_a_network_of_one_grid_goes_on_with_a_finer_one_and_back() -> None:
    trained = network(replace(LAYOUT, other_grids=()), seed=1)
    model = network()
    transfer = model.adopt(trained)
    assert transfer.new == model.parts()["details/16x32"]
    state, fixed = fields(OWN), statics(OWN)
    assert torch.equal(model(state, ask(OWN), statics=fixed), trained(state, ask(OWN), statics=fixed))
    both = network(details=True, seed=2)
    assert model.adopt(both).new == frozenset()
    assert torch.equal(
        model(fields(FINE), ask(FINE), statics=statics(FINE)), both(fields(FINE), ask(FINE), statics=statics(FINE))
    )
    assert set(trained.adopt(both).outcomes.values()) == {"loaded", "dropped"}
    # As many points elsewhere are another grid.
    shifted = network(replace(LAYOUT, other_grids=(Grid.gaussian(16),)), details=True)
    assert model.adopt(shifted).new == model.parts()["details/16x32"]
    with pytest.raises(CheckpointError, match="is of another size"):
        model.adopt(network(dim=32))


def test_a_network_says_its_grids_when_it_is_described() -> None:
    model = network()
    again = rebuild(model.describe())
    assert again.layout.other_grids == (FINE,)
    assert again.state_dict().keys() == model.state_dict().keys()


def test_a_grid_that_the_network_does_not_know_or_cannot_have_is_refused() -> None:
    model, other = network(), Grid.gaussian(8)
    message = r"the network was built for 8×16 from .* and 16×32 from .*, not for 8×16 from -73.8.*; bring the fields"
    with pytest.raises(GridError, match=message):
        model(fields(other), ask(OWN), statics=statics(other))
    with pytest.raises(GridError, match=message):
        model(fields(OWN), ask(other), statics=statics(OWN))
    with pytest.raises(GridError, match=r"the inputs are on 8×16 .*, but the statics on 16×32"):
        model(fields(OWN), ask(OWN), statics=statics(FINE))
    moved = Grid(FINE.latitude, np.arange(32) * 11.25 - 90)
    for grids, expected in (
        ((Grid(np.linspace(-80, 80, 9), FINE.longitude),), "cannot be made of patches of 9×32"),
        ((moved,), "of latitude and 84.4° of longitude from those of the network's own grid"),
        ((FINE, Grid.gaussian(16)), "have as many points"),
        ((Grid(FINE.latitude, np.arange(32) * 5.0),), "WeatherMesh needs a whole globe"),
    ):
        with pytest.raises(RecipeError, match=expected):
            network(replace(LAYOUT, other_grids=grids))
