"""What is predicted beside the state keeps within its bounds, in physical units, in training as in forecasts."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from etesian.core import Batch, Channel, Fields, Frame, Grid, Layout
from etesian.core.channels import CATALOGUE
from etesian.core.errors import RecipeError
from etesian.core.statistics import Statistics
from etesian.forecast.task import ForecastTask
from etesian.networks.climax import ClimaX
from etesian.networks.network import Network
from etesian.networks.weathermesh import WeatherMesh

GRID = Grid.equiangular(45)
STATE = (Channel("temperature", 500), Channel("temperature", 850))
RAIN, CLOUD, SUN = (
    Channel(name) for name in ("total_precipitation_6hr", "total_cloud_cover", "surface_solar_radiation_downwards")
)
DIAGNOSED = (RAIN, CLOUD, SUN)
LAYOUT = Layout(STATE, (RAIN, STATE[0], CLOUD, STATE[1], SUN), GRID)
MEAN = {STATE[0]: 250.0, STATE[1]: 280.0, RAIN: 6e-4, CLOUD: 0.6, SUN: 180.0}
STD = {STATE[0]: 12.0, STATE[1]: 14.0, RAIN: 2e-3, CLOUD: 0.37, SUN: 240.0}
STATISTICS = Statistics(tuple(MEAN), np.array(list(MEAN.values())), np.array(list(STD.values())))


class Anything(Network):
    """Gives numbers that it keeps as parameters, whatever it is given."""

    def __init__(self, layout: Layout, spread: float) -> None:
        super().__init__()
        self.layout = layout
        generator = torch.Generator().manual_seed(0)
        numbers = spread * torch.randn(len(layout.targets), *layout.grid.shape, generator=generator)
        self.numbers = nn.Parameter(numbers)

    def forward(self, inputs: Fields, target: Frame, *, forcings: Any = None, statics: Any = None) -> torch.Tensor:
        index = [self.layout.targets.index(c) for c in target.channels]
        return self.numbers[index].expand(*target.time.shape, -1, -1, -1)


def task(spread: float = 30.0, layout: Layout = LAYOUT, statistics: Statistics = STATISTICS, **options: Any) -> Any:
    return ForecastTask(lambda layout: Anything(layout, spread), layout, statistics, **options)


def sample(layout: Layout = LAYOUT, seed: int = 0) -> Batch:
    random = torch.Generator().manual_seed(seed)

    def draw(channels: tuple[Channel, ...], time: list[list[int]]) -> Fields:
        centre, spread = (torch.tensor([of[c] for c in channels])[:, None, None] for of in (MEAN, STD))
        values = centre + spread * torch.randn(2, 1, len(channels), *GRID.shape, generator=random)
        return Fields(values, Frame(channels, torch.tensor(time), GRID))

    return Batch(draw(layout.inputs, [[0], [0]]), draw(layout.targets, [[21600], [21600]]))


def of(fields: Fields, channel: Channel) -> torch.Tensor:
    return fields.select([channel]).values


@pytest.mark.parametrize("options", [{}, {"predict": "change"}, {"predict": "departure"}])
def test_what_cannot_be_negative_never_is_and_shares_stay_between_nothing_and_all(options: dict[str, Any]) -> None:
    made = task(**options)
    (fields,) = made.forecast(sample(), [6])
    for given in (made.predict(sample(), made.target_frame(sample(), [6])), fields):
        assert of(given, RAIN).min() == 0
        assert of(given, SUN).min() >= 0
        assert of(given, CLOUD).min() == 0
        assert of(given, CLOUD).max() == 1
        # What is fed in, or has no limits, is as the network gives it.
        assert of(given, STATE[0]).std() > 20 * STD[STATE[0]]
    assert len(made.bounds.limits) == 3


def test_well_within_the_bounds_nothing_changes() -> None:
    made = task(spread=0.0)
    (fields,) = made.forecast(sample(), [6])
    assert float(of(fields, CLOUD).mean()) == pytest.approx(MEAN[CLOUD], abs=0.002)
    free = task(spread=0.2, bounds={})
    bound = task(spread=0.2, bounds={"total_precipitation_6hr": (-1.0, None), "total_cloud_cover": (None, 9.0)})
    assert free.bounds.limits == {}
    target = free.target_frame(sample(), [6])
    torch.testing.assert_close(bound.predict(sample(), target).values, free.predict(sample(), target).values)


def test_a_limit_on_either_side_alone_holds_and_may_be_given_to_any_target() -> None:
    made = task(bounds={"temperature": (None, 300.0), "surface_solar_radiation_downwards": (-5.0, None)})
    (fields,) = made.forecast(sample(), [6])
    assert of(fields, STATE[0]).max() == 300
    assert of(fields, STATE[1]).max() == 300
    assert of(fields, SUN).min() == -5
    assert of(fields, RAIN).min() < 0


def test_the_loss_sees_the_bounded_values_and_its_gradient_reaches_the_network_everywhere() -> None:
    made, batch = task(spread=1.0), sample()
    assert batch.targets is not None
    loss, _ = made.loss(batch)
    loss.backward()
    assert (made.network.numbers.grad != 0).all()

    frame = batch.targets.frame
    predicted = made.predict(batch, frame)
    weight = made.loss_weight(frame)
    difference = made.normalizer.normalize(predicted).values - made.normalizer.normalize(batch.targets).values
    expected = (weight * difference.square()).sum() / weight.expand_as(difference).sum()
    torch.testing.assert_close(loss, expected, rtol=1e-4, atol=0)


def test_about_the_seasonal_cycle_the_bounds_are_still_those_of_the_physical_values() -> None:
    cycle = np.zeros((5, 5, *GRID.shape), dtype=np.float32)
    cycle[0] = STATISTICS.mean[:, None, None]
    cycle[1] = 0.5 * STATISTICS.std[:, None, None] * np.linspace(-1, 1, GRID.shape[1])
    seasonal = Statistics(STATISTICS.channels, STATISTICS.mean, STATISTICS.std, cycle, 0.8 * STATISTICS.std)
    (fields,) = task(statistics=seasonal, anomalies=True).forecast(sample(), [6])
    assert of(fields, RAIN).min() == 0
    assert of(fields, CLOUD).min() == 0
    assert of(fields, CLOUD).max() == 1


@pytest.mark.parametrize(
    ("network", "options"),
    [
        (lambda layout: ClimaX(layout, patch=2, dim=16, depth=1, heads=2, head_depth=1), {}),
        (
            lambda layout: WeatherMesh(
                layout, patch=(2, 1, 2), dim=16, heads=2, window=(2, 3, 3), processors={6: 1}, surface_width=4
            ),
            {"predict": "change"},
        ),
    ],
)
def test_any_network_learns_diagnostic_targets_that_it_is_never_fed(network: Any, options: dict[str, Any]) -> None:
    torch.manual_seed(0)
    made = ForecastTask(network, LAYOUT, STATISTICS, **options)
    optimizer = torch.optim.Adam(made.parameters(), lr=1e-2)
    batch = sample()
    first = float(made.loss(batch)[0].detach())
    for _ in range(30):
        optimizer.zero_grad()
        loss = made.loss(batch)[0]
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    assert float(loss.detach()) < 0.8 * first
    for fields in made.forecast(batch, [6, 12]):
        assert of(fields, RAIN).min() >= 0
        assert 0 <= of(fields, CLOUD).min() <= of(fields, CLOUD).max() <= 1


def test_an_iterated_forecast_gives_diagnostic_targets_at_every_step() -> None:
    made = task(step_hours=6)
    given = list(made.forecast(sample(), [6, 18]))
    assert len(given) == 2
    assert all(of(fields, RAIN).min() == 0 for fields in given)


@pytest.mark.parametrize(
    ("bounds", "message"),
    [
        ({"total_precipitation": (0, None)}, "bounds names 'total_precipitation', which is not among the targets"),
        ({"total_cloud_cover": (1.0, 0.0)}, "the bounds of total_cloud_cover, 1 and 0, leave nothing between them"),
    ],
)
def test_bounds_that_cannot_be_are_refused(bounds: Any, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        task(bounds=bounds)


def test_the_catalogue_says_what_is_summed_and_what_cannot_be() -> None:
    assert CATALOGUE["total_precipitation_6hr"].accumulation_hours == 6
    assert CATALOGUE["total_precipitation"].accumulation_hours is None
    assert CATALOGUE["total_precipitation_24hr"].limits == (0, None)
    assert CATALOGUE["total_cloud_cover"].limits == (0, 1)
    assert CATALOGUE["temperature"].limits == CATALOGUE["sea_surface_temperature_anomaly"].limits == (None, None)
    for variable in CATALOGUE.values():
        low, high = variable.limits
        assert low is None or variable.minimum <= low
        assert high is None or variable.maximum >= high
