"""Inpainting hides the centre and is judged there; without a hole it is an autoencoder."""

import numpy as np
import pytest
import torch

from etesian.core import Batch, Channel, Fields, Frame, Grid, Layout
from etesian.core.errors import RecipeError
from etesian.core.statistics import Statistics
from etesian.distance.task import InpaintTask
from etesian.networks.atmodist import AtmoDist, Autoencoder

CHANNELS = (Channel("vorticity", 850),)
GRID = Grid(np.linspace(-31, 31, 40), np.arange(36.0) * 2)
LAYOUT = Layout(CHANNELS, (), GRID)
STATISTICS = Statistics(CHANNELS, np.zeros(1), np.ones(1), log1p_mean=np.zeros(1), log1p_std=np.full(1, 0.2))


def task(hole: float, log1p: bool = True) -> InpaintTask:
    torch.manual_seed(0)
    return InpaintTask(Autoencoder, LAYOUT, STATISTICS, step_hours=6, lags=2, hole=hole, log1p=log1p)


def batch(values: torch.Tensor | None = None) -> Batch:
    torch.manual_seed(1)
    values = torch.randn(3, 2, 1, 40, 36) if values is None else values
    return Batch(Fields(values, Frame(CHANNELS, torch.tensor([[0, 6]] * 3) * 3600, GRID)))


def centre(values: torch.Tensor) -> torch.Tensor:
    """The central half of each side, written out."""
    return values[..., 10:30, 9:27]


def test_what_is_hidden_does_not_reach_the_network_but_alone_is_judged() -> None:
    inpainting = task(0.5, log1p=False).eval()
    given = batch()
    changed = given.inputs.values.clone()
    centre(changed).add_(7.0)
    assert torch.equal(inpainting(given.inputs), inpainting(batch(changed).inputs))
    error = (centre(inpainting(given.inputs)) - centre(given.inputs.values)).square().mean()
    torch.testing.assert_close(inpainting.loss(given)[0], error)


def test_without_a_hole_everything_is_seen_and_judged() -> None:
    autoencoder = task(0.0, log1p=False).eval()
    given = batch()
    error = (autoencoder(given.inputs) - given.inputs.values).square().mean()
    torch.testing.assert_close(autoencoder.loss(given)[0], error)


def test_an_autoencoder_learns_to_reproduce_its_states() -> None:
    autoencoder = task(0.0)
    optimizer = torch.optim.Adam(autoencoder.parameters(), lr=3e-3)
    smooth = torch.linspace(-2, 2, 36).sin().expand(3, 2, 1, 40, 36) * torch.tensor([1.0, 2, 3]).view(3, 1, 1, 1, 1)
    losses = []
    for _ in range(25):
        loss, _parts = autoencoder.loss(batch(smooth))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.4 * losses[0]


def test_a_prediction_is_in_physical_units() -> None:
    autoencoder = task(0.0).eval()
    given = batch()
    with torch.no_grad():
        normalized = autoencoder(autoencoder.normalizer.normalize(given.inputs))
    expected = torch.copysign(torch.expm1(0.2 * normalized.abs()) / 0.2, normalized)
    torch.testing.assert_close(autoencoder.predict(given, given.inputs.frame).values, expected)


def test_holes_that_hide_all_or_nothing_and_other_networks_are_refused() -> None:
    with pytest.raises(RecipeError, match="hole = 1 must be a share"):
        task(1.0)
    with pytest.raises(RecipeError, match=r"hole = 0.01 hides no point"):
        task(0.01)
    with pytest.raises(RecipeError, match="trains an Autoencoder, not AtmoDist"):
        InpaintTask(lambda layout: AtmoDist(layout, lags=2), LAYOUT, STATISTICS, step_hours=6, lags=2)
