"""Normalisation goes there and back; what is predicted keeps within its bounds, in training as in forecasts."""

from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from etesian.core import Batch, Channel, Fields, Frame, Layout
from etesian.core.channels import CATALOGUE
from etesian.core.clock import encode_time, seasonal_terms
from etesian.core.errors import ChannelError, RecipeError
from etesian.core.grid import Grid
from etesian.core.statistics import Statistics, anomaly_std
from etesian.forecast.task import ForecastTask
from etesian.networks.climax import ClimaX
from etesian.networks.network import Network
from etesian.networks.weathermesh import WeatherMesh
from etesian.nn.normalizer import Normalizer
from etesian.store.reader import Store

GRID = Grid(np.linspace(-60, 60, 3), np.arange(4) * 90.0)
CHANNELS = (Channel("temperature", 850), Channel("surface_pressure"))


def everything(store: Store) -> Fields:
    values = torch.from_numpy(store.read(range(len(store.time))))[:, None]
    frame = Frame(store.channels, torch.from_numpy(store.time)[:, None], store.grid, store.calendar)
    return Fields(values.nan_to_num(0.0), frame, values.isfinite())


def seasonal(noise: float = 0.0) -> tuple[Fields, Statistics]:
    """Two years of a seasonal cycle of each grid point plus noise, and the statistics of a least-squares fit."""
    random = np.random.default_rng(0)
    time = encode_time(pd.date_range("2001-01-01", "2002-12-31", freq="1D").values)[0]
    terms = seasonal_terms(time, "proleptic_gregorian")
    cycle = random.standard_normal((5, 2, *GRID.shape)) * np.array([3.0, 900.0])[:, None, None]
    cycle[0] += np.array([270.0, 1e5])[:, None, None]
    values = np.einsum("tk,kchw->tchw", terms, cycle)
    values += noise * random.standard_normal(values.shape) * np.array([3.0, 900.0])[:, None, None]
    fitted = np.linalg.lstsq(terms, values.reshape(len(time), -1), rcond=None)[0].reshape(cycle.shape)
    mean, std = values.mean((0, 2, 3)), values.std((0, 2, 3))
    harmonics = fitted.astype(np.float32)
    statistics = Statistics(CHANNELS, mean, std, harmonics, anomaly_std(mean, std, harmonics))
    frame = Frame(CHANNELS, torch.from_numpy(time)[:, None], GRID)
    return Fields(torch.from_numpy(values).float()[:, None], frame), statistics


@pytest.mark.parametrize("anomalies", [False, True])
def test_normalised_values_come_back(gappy_store: str, anomalies: bool) -> None:
    store = Store(gappy_store)
    fields = everything(store).select([store.channels[2], store.channels[0]])
    normalizer = Normalizer(store.statistics, anomalies=anomalies)
    normalized = normalizer.normalize(fields)
    back = normalizer.denormalize(normalized.values, fields.frame)
    torch.testing.assert_close(back[fields.valid], fields.values[fields.valid], rtol=1e-6, atol=0)


def test_the_training_store_has_mean_0_and_spread_1(gappy_store: str) -> None:
    store = Store(gappy_store)
    fields = everything(store)
    normalized = Normalizer(store.statistics).normalize(fields)
    assert fields.valid is not None
    for i in range(len(store.channels)):
        values = normalized.values[:, :, i][fields.valid[:, :, i]].double()
        assert abs(values.mean()) < 1e-4
        assert abs(values.std() - 1) < 1e-3


def test_what_is_not_valid_becomes_zero(gappy_store: str) -> None:
    fields = everything(Store(gappy_store))
    normalized = Normalizer(Store(gappy_store).statistics).normalize(fields)
    assert fields.valid is not None
    assert not fields.valid.all()
    assert not normalized.values[~fields.valid].any()


def test_anomalies_are_free_of_the_seasonal_cycle() -> None:
    fields, statistics = seasonal()
    cycle = (
        Normalizer(statistics, anomalies=True).normalize(fields).values
        * torch.from_numpy(np.asarray(statistics.anomaly_std)).float()[:, None, None]
        / torch.from_numpy(statistics.std).float()[:, None, None]
    )
    assert cycle.abs().max() < 1e-4
    assert Normalizer(statistics).normalize(fields).values.std() > 0.9


def test_anomalies_are_the_same_where_the_network_computes_in_half_precision() -> None:
    fields, statistics = seasonal(noise=1.0)
    normalizer = Normalizer(statistics, anomalies=True)
    exact = normalizer.normalize(fields).values
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(normalizer.normalize(fields).values, exact)
        torch.testing.assert_close(normalizer.denormalize(exact, fields.frame), fields.values, rtol=1e-6, atol=0)


def test_anomalies_have_spread_1() -> None:
    fields, statistics = seasonal(noise=1.0)
    normalized = Normalizer(statistics, anomalies=True).normalize(fields).values
    np.testing.assert_allclose(normalized.std((0, 1, 3, 4)), 1, rtol=5e-3)
    np.testing.assert_allclose(normalized.mean((0, 1, 3, 4)), 0, atol=1e-3)
    assert statistics.anomaly_std is not None
    np.testing.assert_allclose(statistics.anomaly_std, [3, 900], rtol=0.03)


def test_a_least_squares_cycle_and_what_is_left_add_up_to_the_variance() -> None:
    fields, statistics = seasonal(noise=0.5)
    terms = seasonal_terms(fields.frame.time[:, 0].numpy(), "proleptic_gregorian")
    left = fields.values[:, 0].double().numpy() - np.einsum("tk,kchw->tchw", terms, statistics.harmonics)
    np.testing.assert_allclose(statistics.anomaly_std, np.sqrt((left**2).mean((0, 2, 3))), rtol=0.02)


def test_fields_observed_where_training_saw_none_are_normalised_about_the_mean() -> None:
    fields, statistics = seasonal()
    assert statistics.harmonics is not None
    harmonics = statistics.harmonics.copy()
    harmonics[:, :, 1, 2] = np.nan
    gappy = Statistics(CHANNELS, statistics.mean, statistics.std, harmonics, statistics.std)
    normalized = Normalizer(gappy, anomalies=True).normalize(fields).values[..., 1, 2]
    plain = Normalizer(statistics).normalize(fields).values[..., 1, 2]
    torch.testing.assert_close(normalized, plain, rtol=1e-4, atol=1e-4)


def test_a_channel_without_statistics_or_spread_is_named() -> None:
    fields, statistics = seasonal()
    with pytest.raises(ChannelError, match="no statistics for 'surface_pressure'; known are temperature_850"):
        Normalizer(Statistics(CHANNELS[:1], statistics.mean[:1], statistics.std[:1])).normalize(fields)
    with pytest.raises(ChannelError, match="'surface_pressure' has a standard deviation of 0"):
        Normalizer(Statistics(CHANNELS, statistics.mean, statistics.std * [1, 0]))
    with pytest.raises(RecipeError, match="anomalies need the seasonal cycle"):
        Normalizer(statistics.without_seasons(), anomalies=True)


def test_log1p_standardises_the_drawn_in_values_and_comes_back(gappy_store: str) -> None:
    store = Store(gappy_store)
    fields = everything(store).select([store.channels[2], store.channels[0]])
    normalizer = Normalizer(store.statistics, log1p=True)
    normalized = normalizer.normalize(fields)
    for number, channel in enumerate(fields.frame.channels):
        place = store.channels.index(channel)
        known = fields.valid[:, :, number]  # type: ignore[index]
        z = ((fields.values[:, :, number] - store.statistics.mean[place]) / store.statistics.std[place])[known].double()
        drawn_in = z.sign() * torch.log(1 + 0.2 * z.abs())
        expected = (drawn_in - drawn_in.mean()) / drawn_in.std(correction=0)
        torch.testing.assert_close(normalized.values[:, :, number][known].double(), expected, rtol=1e-3, atol=1e-4)
    back = normalizer.denormalize(normalized.values, fields.frame)
    torch.testing.assert_close(back[fields.valid], fields.values[fields.valid], rtol=1e-6, atol=0)


def test_values_a_thousand_deviations_away_come_back_from_log1p() -> None:
    ones = np.ones(2)
    normalizer = Normalizer(
        Statistics(CHANNELS, 0 * ones, ones, log1p_mean=0.1 * ones, log1p_std=0.4 * ones), log1p=True
    )
    frame = Frame(CHANNELS, torch.zeros(1, 1, dtype=torch.int64), GRID)
    values = torch.linspace(-1000, 1000, 24).view(1, 1, 2, 3, 4)
    normalized = normalizer.normalize(Fields(values, frame)).values
    assert normalized.abs().max() < 15
    torch.testing.assert_close(normalizer.denormalize(normalized, frame), values, rtol=2e-6, atol=0)


def test_log1p_without_its_statistics_or_beside_anomalies_is_refused() -> None:
    _, statistics = seasonal()
    with pytest.raises(RecipeError, match="no statistics of log1p"):
        Normalizer(statistics, log1p=True)
    with pytest.raises(RecipeError, match="not about a seasonal cycle"):
        Normalizer(statistics, anomalies=True, log1p=True)


def test_statistics_of_some_channels_are_theirs(store: str) -> None:
    statistics = Store(store).statistics
    part = statistics.select([statistics.channels[2], statistics.channels[0]])
    assert part.channels == (statistics.channels[2], statistics.channels[0])
    for name in ("mean", "std", "anomaly_std", "log1p_mean", "log1p_std"):
        assert getattr(part, name).tolist() == getattr(statistics, name)[[2, 0]].tolist()
    assert np.array_equal(part.harmonics, statistics.harmonics[:, [2, 0]])  # type: ignore[arg-type, index]


SMALL_GRID = Grid.equiangular(45)
STATE = (Channel("temperature", 500), Channel("temperature", 850))
RAIN, CLOUD, SUN = (
    Channel(name) for name in ("total_precipitation_6hr", "total_cloud_cover", "surface_solar_radiation_downwards")
)
DIAGNOSED = (RAIN, CLOUD, SUN)
LAYOUT = Layout(STATE, (RAIN, STATE[0], CLOUD, STATE[1], SUN), SMALL_GRID)
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
        values = centre + spread * torch.randn(2, 1, len(channels), *SMALL_GRID.shape, generator=random)
        return Fields(values, Frame(channels, torch.tensor(time), SMALL_GRID))

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
    cycle = np.zeros((5, 5, *SMALL_GRID.shape), dtype=np.float32)
    cycle[0] = STATISTICS.mean[:, None, None]
    cycle[1] = 0.5 * STATISTICS.std[:, None, None] * np.linspace(-1, 1, SMALL_GRID.shape[1])
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
