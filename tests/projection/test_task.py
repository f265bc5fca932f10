"""The projection task: starting from a forecast, and what is refused."""

import numpy as np
import pytest
import torch

from etesian.core import Batch, Channel, Fields, Frame, Grid, Layout
from etesian.core.errors import RecipeError
from etesian.core.statistics import Statistics
from etesian.networks.climax import ClimaX
from etesian.networks.climax_projection import ClimaXProjection
from etesian.projection.data import middle
from etesian.projection.emulators import PatternScaling
from etesian.projection.task import ProjectionTask

GRID = Grid.equiangular(30)
LAYOUT = Layout((Channel("CO2"),), (Channel("tas"),), GRID, history=(-8760, 0))
FORECAST = Layout((Channel("temperature", 500),), (Channel("temperature", 500),), GRID)


def projection(layout: Layout, depth: int = 2) -> ClimaXProjection:
    return ClimaXProjection(layout, patch=2, dim=16, depth=depth, heads=2)


def test_the_transformer_of_a_forecast_is_taken_over_and_nothing_else() -> None:
    source, network = ClimaX(FORECAST, patch=2, dim=16, depth=2, heads=2), projection(LAYOUT)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    torch.nn.init.normal_(source.norm.weight)
    network.adopt_encoder(source)
    theirs = source.state_dict()
    for name, value in network.state_dict().items():
        adopted = name.split(".")[0] in ("blocks", "norm", "lead_time")
        assert torch.equal(value, theirs[name] if adopted else before[name]), name


def test_a_forecast_of_another_depth_cannot_be_started_from() -> None:
    with pytest.raises(RecipeError, match="has 2 blocks of width 16, this one 3 of 16"):
        projection(LAYOUT, depth=3).adopt_encoder(ClimaX(FORECAST, patch=2, dim=16, depth=2, heads=2))


def test_a_frozen_transformer_still_tunes_its_norms() -> None:
    statistics = Statistics((*LAYOUT.inputs, *LAYOUT.targets), np.zeros(2), np.ones(2))
    task = ProjectionTask(projection, LAYOUT, statistics, frozen=True)
    trained = {name for name, p in task.network.named_parameters() if p.requires_grad}
    assert {n for n in trained if n.startswith("blocks.0")} == {
        f"blocks.0.norm{i}.{kind}" for i in (1, 2) for kind in ("weight", "bias")
    }
    assert {"head.weight", "position", "time_query"} <= trained


def test_static_fields_have_no_place_in_the_network() -> None:
    layout = Layout(LAYOUT.inputs, LAYOUT.targets, GRID, statics=(Channel("orography"),))
    with pytest.raises(RecipeError, match="make 'orography' one of them"):
        projection(layout)


@pytest.mark.parametrize("trend", [False, True])
def test_a_departure_is_from_the_lines_of_pattern_scaling_which_a_checkpoint_keeps(trend: bool) -> None:
    random = np.random.default_rng(0)
    layout = Layout(
        (Channel("CO2"), Channel("SO2")), (Channel("tas"), Channel("pr")), GRID, history=(-8760 * 2, -8760, 0)
    )
    inputs = random.normal(300.0, 40.0, (20, 2, *GRID.shape)).astype(np.float32)
    targets = random.normal(2.0, 1.0, (20, 2, *GRID.shape)).astype(np.float32)
    seen = np.concatenate([inputs[2:], inputs[2:] - inputs[:-2]], 1) if trend else inputs[2:]
    lines = PatternScaling(seen, targets[2:], GRID)
    statistics = Statistics((*layout.inputs, *layout.targets), np.array([300.0, 290, 1, 2]), np.array([40.0, 30, 2, 3]))
    task = ProjectionTask(projection, layout, statistics, predict="departure", trend=trend)
    task.slope.copy_(torch.from_numpy(lines.slope))
    task.maps.copy_(torch.from_numpy(lines.maps))
    again = ProjectionTask(projection, layout, statistics, **task.options())
    again.load_state_dict(task.state_dict())
    history = torch.from_numpy(np.stack([inputs[:18], inputs[1:19], inputs[2:]], 1))
    time = torch.from_numpy(middle(np.arange(2000, 2018)[:, None] + np.arange(3)))
    batch = Batch(Fields(history, Frame(layout.inputs, time, GRID, "noleap")))
    # The network has not learned anything yet: what comes out is pattern scaling, of the last year and of the change.
    for channels, index in ((layout.targets, [0, 1]), (layout.targets[1:], [1])):
        found = again.predict(batch, Frame(channels, time[:, -1:], GRID, "noleap")).values[:, 0]
        np.testing.assert_allclose(found, lines.predict(seen)[:, index], rtol=1e-4, atol=1e-4)


def test_departures_are_for_the_network_that_can_start_from_nothing() -> None:
    statistics = Statistics((*LAYOUT.inputs, *LAYOUT.targets), np.zeros(2), np.ones(2))
    with pytest.raises(RecipeError, match="trend is of the lines that departures are from; set predict: departure"):
        ProjectionTask(projection, LAYOUT, statistics, trend=True)
    with pytest.raises(RecipeError, match="departures are for ClimaXProjection, not ClimaX"):
        ProjectionTask(
            lambda _: ClimaX(FORECAST, patch=2, dim=16, depth=2, heads=2), LAYOUT, statistics, predict="departure"
        )
