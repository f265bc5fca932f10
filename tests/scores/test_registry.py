"""Scores of one's own: registered, summed, divided and bounded as the others are."""

from collections.abc import Iterator
from types import ModuleType

import numpy as np
import pytest
import torch
import xarray as xr
from numpy.testing import assert_allclose
from torch import Tensor

from etesian.core.errors import RecipeError
from etesian.scores.registry import (
    SCORES,
    STATISTICS,
    MapPair,
    register_score,
    register_statistic,
    score_named,
)
from etesian.scores.score import score
from etesian.scores.tables import tidy


@pytest.fixture
def biquadratic() -> Iterator[str]:
    """Register the fourth root of the mean fourth power of the error."""

    @register_statistic
    def fourth_power(pair: MapPair) -> Tensor:
        return pair.total(pair.error**4)

    @register_score(relative=True)
    def biquadratic(fourth_power: Tensor, weight: Tensor) -> Tensor:
        return (fourth_power / weight) ** 0.25

    yield "biquadratic"
    del SCORES["biquadratic"], STATISTICS["fourth_power"]


def test_a_score_of_ones_own_stands_beside_the_others(
    biquadratic: str, forecasts: dict[str, xr.Dataset], weather: ModuleType
) -> None:
    model, truth = forecasts["model"].isel(time=slice(0, 8)), weather.truth()
    scores = score({"model": model}, truth, channels=["temperature_500"], further=[biquadratic], progress=False)
    assert (scores.biquadratic > scores.rmse).all()
    assert (scores.biquadratic_low < scores.biquadratic).all()
    assert (scores.biquadratic < scores.biquadratic_high).all()
    lead = scores.lead_time.values[0]
    valid = model.time.values + np.timedelta64(int(lead), "h")
    error = (
        model.temperature.sel(level=500).isel(prediction_timedelta=0).transpose("time", "latitude", "longitude").values
    )
    error = error - truth.temperature.sel(level=500, time=valid).transpose("time", "latitude", "longitude").values
    south, north = np.radians(np.clip(edges(truth.latitude.values), -90, 90)).reshape(2, -1)
    area = np.broadcast_to((np.sin(north) - np.sin(south))[:, None], error.shape)
    expected = np.average(error.astype(np.float64) ** 4, weights=area) ** 0.25
    assert_allclose(scores.biquadratic.sel(lead_time=lead, region="global").item(), expected, rtol=1e-5)
    assert "biquadratic" in set(tidy(scores).score)


def edges(latitude: np.ndarray) -> np.ndarray:
    step = latitude[1] - latitude[0]
    return np.stack([latitude - step / 2, latitude + step / 2])


def test_the_influence_on_a_function_of_several_sums_is_its_derivative() -> None:
    random = np.random.default_rng(2)
    forecast, truth = random.normal(size=(2, 50, 30))
    truth = truth + forecast
    sums = {
        "weight": np.full((50, 1), 30.0),
        "forecast": forecast.sum(1)[:, None],
        "truth": truth.sum(1)[:, None],
        "forecast_squared": (forecast**2).sum(1)[:, None],
        "truth_squared": (truth**2).sum(1)[:, None],
        "product": (forecast * truth).sum(1)[:, None],
    }
    chosen = score_named("correlation")
    value, influence, _ = chosen.influence(sums)
    assert_allclose(value[0], np.corrcoef(forecast.ravel(), truth.ravel())[0, 1], rtol=1e-12)
    assert_allclose(influence.sum(0), 0, atol=1e-10)
    # Counting one time a little more moves the score by its influence over n.
    more = {name: torch.from_numpy(part.sum(0) + 1e-6 * part[7]) for name, part in sums.items()}
    assert_allclose((chosen.value(more).numpy() - value) / 1e-6, influence[7] / 50, rtol=1e-4)


def test_intervals_are_the_same_where_gradients_are_switched_off() -> None:
    sums = {"absolute_error": np.arange(1.0, 9.0)[:, None], "weight": np.full((8, 1), 2.0)}
    expected = score_named("mae").interval(sums)
    with torch.inference_mode():
        found = score_named("mae").interval(sums)
    with torch.no_grad():
        again = score_named("mae").interval(sums)
    assert_allclose(found, expected, rtol=1e-15)
    assert_allclose(again, expected, rtol=1e-15)


def test_names_that_are_unknown_or_taken_are_refused() -> None:
    with pytest.raises(RecipeError, match="there is no score 'rmsee'; did you mean 'rmse'"):
        score_named("rmsee")

    def weight(pair: MapPair) -> Tensor:
        return pair.total(pair.truth)

    with pytest.raises(RecipeError, match=r"a statistic 'weight' in .*definitions already"):
        register_statistic(weight)

    with pytest.raises(RecipeError, match="counts over 'points', which is none of its arguments"):

        @register_score("points")
        def unbounded(error: Tensor) -> Tensor:
            return error
