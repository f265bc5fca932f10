"""Normalisation goes there and back, and takes out what it says."""

import numpy as np
import pandas as pd
import pytest
import torch

from etesian.core import Channel, Fields, Frame
from etesian.core.clock import encode_time, seasonal_terms
from etesian.core.errors import ChannelError, RecipeError
from etesian.core.grid import Grid
from etesian.core.statistics import Statistics, anomaly_std
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
