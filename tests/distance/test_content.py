"""A learned distance in the loss of forecasts and downscaling, where it trains the task and never itself."""

import contextlib
import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from etesian.core import Batch, Channel, Fields, Frame, Grid, Layout
from etesian.core.errors import ChannelError, RecipeError
from etesian.core.statistics import Statistics
from etesian.distance.distance import AtmoDistance, Content
from etesian.downscale.task import DownscaleTask
from etesian.forecast.task import ForecastTask
from etesian.networks.atmodist import AtmoDist
from etesian.networks.downscaler import Downscaler
from etesian.networks.unet import UNet
from etesian.nn.normalizer import Normalizer
from etesian.training.field_task import LossTerm, Penalty
from etesian.training.recipes import train

CHANNELS = (Channel("vorticity", 850), Channel("temperature", 850))
FINE, COARSE = Grid.equiangular(11.25), Grid.equiangular(22.5)
STATISTICS = Statistics(CHANNELS, np.array([0, 280.0]), np.array([2e-5, 5.0]))
OWN = Statistics(CHANNELS[:1], np.zeros(1), np.full(1, 4e-5))


@pytest.fixture(autouse=True)
def metric(monkeypatch: pytest.MonkeyPatch) -> AtmoDistance:
    """What every run gives: a distance of vorticity alone, in another normalisation than the task's."""
    torch.manual_seed(0)
    network = AtmoDist(Layout(CHANNELS[:1], (), FINE), lags=2)
    made = AtmoDistance(network, Normalizer(OWN), scale=2.0, layer="1.1")
    monkeypatch.setattr(AtmoDistance, "load", classmethod(lambda cls, run, layer=None: made))
    return made


def unet(layout: Layout) -> UNet:
    torch.manual_seed(1)
    return UNet(layout, leads=(24,), width=8, noise=0.0, dropout=0.0)


def fields(hours: int, grid: Grid = FINE) -> Fields:
    values = np.random.default_rng(hours).standard_normal((2, 1, 2, *grid.shape)) * STATISTICS.std[:, None, None]
    time = torch.full((2, 1), hours * 3600)
    return Fields(torch.from_numpy(values + STATISTICS.mean[:, None, None]).float(), Frame(CHANNELS, time, grid))


def forecast(content: LossTerm | None) -> ForecastTask:
    return ForecastTask(unet, Layout(CHANNELS, CHANNELS, FINE), STATISTICS, content=content).eval()


def test_the_loss_is_the_weighted_error_and_the_weighted_distance_in_physical_units(metric: AtmoDistance) -> None:
    batch = Batch(fields(0), fields(24))
    alone = forecast(None)
    error = alone.loss(batch)[0]
    distance = metric(alone.predict(batch, fields(24).frame), fields(24)).mean()
    assert distance > 0
    for weight, error_weight in ((3.0, 1.0), (1.0, 0.0), (0.5, 2.0)):
        loss = forecast(Content("run", weight, error_weight)).loss(batch)[0]
        torch.testing.assert_close(loss, error_weight * error + weight * distance)


def test_the_distance_trains_the_network_and_is_no_part_of_the_task() -> None:
    task = forecast(Content("run", error_weight=0.0)).train()
    task.loss(Batch(fields(0), fields(24)))[0].backward()
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in task.network.parameters())
    assert task.state_dict().keys() == forecast(None).state_dict().keys()
    assert "content" not in task.options()


def test_downscaling_takes_it_too(metric: AtmoDistance) -> None:
    layout = Layout(CHANNELS, CHANNELS, COARSE, target_grid=FINE)
    losses, batch = [], Batch(fields(0, COARSE), fields(0))

    def network(layout: Layout) -> Downscaler:
        return Downscaler(layout, lambda inner: UNet(inner, leads=(0,), width=8, noise=0.0, dropout=0.0))

    for content in (None, Content("run")):
        torch.manual_seed(1)
        task = DownscaleTask(network, layout, STATISTICS, content=content).eval()
        losses.append(task.loss(batch)[0])
    distance = metric(task.predict(batch, fields(0).frame), fields(0)).mean()
    torch.testing.assert_close(losses[1] - losses[0], distance)


def test_a_distance_of_what_is_not_predicted_and_weights_without_sense_are_refused() -> None:
    with pytest.raises(ChannelError, match="compares 'vorticity_850', which is not predicted"):
        ForecastTask(unet, Layout(CHANNELS, CHANNELS[1:], FINE), STATISTICS, content=Content("run"))
    with pytest.raises(RecipeError, match="error_weight = -1 must not be less than 0"):
        forecast(Content("run", error_weight=-1))


class Offset:
    """A term of one's own: the difference of the means, in physical units."""

    error_weight = 0.25

    def over(self, channels: Sequence[Channel]) -> Penalty:
        assert tuple(channels) == CHANNELS
        return lambda predicted, truth: (predicted.values - truth.values).mean(dim=(0, 1, 3, 4))[1]


def test_a_term_of_ones_own_takes_the_place_of_the_distance() -> None:
    batch = Batch(fields(0), fields(24))
    alone = forecast(None)
    bias = (alone.predict(batch, fields(24).frame).values - fields(24).values).mean(dim=(0, 1, 3, 4))[1]
    torch.testing.assert_close(forecast(Offset()).loss(batch)[0], 0.25 * alone.loss(batch)[0] + bias)


@pytest.mark.parametrize(
    "written",
    [
        "{class_path: etesian.Content, init_args: {run: encoder, layer: '1.2', error_weight: 0.5}}",
        "{class_path: Content, init_args: {run: encoder, layer: '1.2', error_weight: 0.5}}",
        "{run: encoder, layer: '1.2', error_weight: 0.5}",
    ],
)
def test_a_recipe_names_it_by_its_class_or_as_version_0_1_did(written: str, tmp_path: Path) -> None:
    model = {
        "class_path": "SuperResolutionTask",
        "init_args": {"network": {"class_path": "SRGenerator"}, "content": yaml.safe_load(written)},
    }
    data = {
        "class_path": "SuperResolutionData",
        "init_args": {"store": "s", "train": ["a", "b"], "validate": ["c", "d"]},
    }
    recipe, said = tmp_path / "recipe.yaml", io.StringIO()
    recipe.write_text(yaml.safe_dump({"data": data, "model": model}))
    words = ["fit", "-c", str(recipe), "--model.init_args.content.weight=2", "--print_config"]
    with contextlib.redirect_stdout(said), pytest.raises(SystemExit):
        train(words)
    content = yaml.safe_load(said.getvalue())["model"]["init_args"]["content"]
    assert content["class_path"] == "etesian.distance.distance.Content"
    assert content["init_args"] == {"run": "encoder", "layer": "1.2", "weight": 2.0, "error_weight": 0.5}
