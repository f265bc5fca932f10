"""The spectral error is the squared error where amplitudes agree, and gains nothing from flattening the uncertain."""

import numpy as np
import pytest
import torch
from scipy.fft import dctn, idctn
from torch import Tensor

import etesian as et
from etesian.core import Channel, Fields, Frame, Grid
from etesian.core.errors import RecipeError

CHANNELS = (Channel("vorticity", 850), Channel("2m_temperature"))
GRID = Grid(np.arange(-20, 20, 2.5), np.arange(0, 60, 2.5))


def fields(seed: int, valid: Tensor | None = None) -> Fields:
    values = torch.randn(3, 1, 2, *GRID.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    values = values * torch.tensor([2e-5, 10.0])[:, None, None] + torch.tensor([0.0, 280.0])[:, None, None]
    return Fields(values.float(), Frame(CHANNELS, torch.arange(3)[:, None] * 86400, GRID), valid)


def like(truth: Fields, values: Tensor) -> Fields:
    return Fields(values, truth.frame)


def error(predicted: Fields, truth: Fields, weight: float = 1.0) -> float:
    return float(et.SpectralError(weight).over(CHANNELS)(predicted, truth))


def normalised_squared_error(predicted: Fields, truth: Fields) -> float:
    squared = (predicted.values - truth.values).double().square().mean(dim=(0, 1, 3, 4))
    return float((squared / truth.values.double().flatten(3).var(3).mean((0, 1))).mean())


def test_the_truth_is_met_and_a_weaker_or_stronger_one_errs_by_its_squares() -> None:
    truth = fields(0)
    assert error(truth, truth) == pytest.approx(0, abs=1e-3)
    mean = truth.values.mean((-2, -1), keepdim=True)
    for gain in (0.5, 1.3):
        scaled = like(truth, mean + gain * (truth.values - mean))
        assert error(scaled, truth) == pytest.approx((gain - 1) ** 2, rel=2e-2)
        assert error(scaled, truth, weight=3) == pytest.approx(3 * error(scaled, truth))


def test_with_the_truths_amplitudes_it_is_the_squared_error() -> None:
    truth = fields(0)
    signs = np.random.default_rng(0).choice([-1.0, 1.0], truth.values.shape)
    signs[..., 0, 0] = 1
    turned = idctn(signs * dctn(truth.values.double(), axes=(-2, -1)), axes=(-2, -1))
    other = like(truth, torch.from_numpy(turned).float())
    assert normalised_squared_error(other, truth) > 1.5
    assert error(other, truth) == pytest.approx(normalised_squared_error(other, truth), rel=1e-3)


def test_of_a_noisy_truth_the_best_gain_of_its_signal_is_that_with_the_truths_power() -> None:
    grid = Grid(np.arange(-60, 60, 0.5), np.arange(0, 120, 0.5))
    signal, noise = torch.randn(2, 1, 1, 1, *grid.shape, generator=torch.Generator().manual_seed(0))
    frame = Frame(CHANNELS[:1], torch.zeros(1, 1, dtype=torch.int64), grid)
    truth = Fields(signal + noise, frame)
    gains = np.arange(0.8, 1.7, 0.02)
    spectral = [error(Fields(gain * signal, frame), truth) for gain in gains.tolist()]
    squared = [normalised_squared_error(Fields(gain * signal, frame), truth) for gain in gains.tolist()]
    # The truth has twice the power of its signal; the squared error wants the signal alone.
    assert gains[np.argmin(spectral)] == pytest.approx(np.sqrt(2), abs=0.08)
    assert gains[np.argmin(squared)] == pytest.approx(1, abs=0.04)


def test_truth_that_is_missing_counts_as_met_and_has_no_gradient() -> None:
    valid = torch.ones(3, 1, 2, *GRID.shape, dtype=torch.bool)
    valid[..., 3:, :] = False
    predicted = fields(0).values.requires_grad_()
    met = Fields(predicted.detach().masked_fill(~valid, 0.0), fields(0).frame, valid)
    assert error(like(met, predicted.detach()), met) == pytest.approx(0, abs=1e-3)
    other = Fields(fields(5).values.masked_fill(~valid, 0.0), met.frame, valid)
    et.SpectralError().over(CHANNELS)(like(met, predicted), other).backward()
    assert predicted.grad is not None
    assert torch.isfinite(predicted.grad).all()
    assert predicted.grad.abs().max() > 0


@pytest.mark.parametrize(
    ("weights", "message"),
    [((0.0, 1.0), "weight = 0 must be greater than 0"), ((1.0, -1.0), "must not be less than 0")],
)
def test_weights_that_make_no_sense_are_refused(weights: tuple[float, float], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        et.SpectralError(*weights).over(CHANNELS)
