"""Checkpoints and recipes of version 0.1 (`tests/stored`) load, and predict what they predicted then."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from etesian import Batch, Channel, Fields, Frame, Grid
from etesian.training.checkpoint import load_task
from etesian.training.trusted import by_public_names, read

CHANNELS = tuple(Channel("temperature", level) for level in (500, 850))
COARSE = Grid(-82.5 + 15 * np.arange(12.0), 15 * np.arange(24.0))
FINE = Grid(COARSE.latitude[0] - 3.75 + 7.5 * np.arange(24.0), -3.75 + 7.5 * np.arange(48.0))


def hours(*numbers: int) -> torch.Tensor:
    return torch.tensor([[number * 3600 for number in numbers]])


def fields(time: torch.Tensor, *, gaps: bool = False) -> Fields:
    shape = (1, time.shape[1], len(CHANNELS), *COARSE.shape)
    values = torch.from_numpy(np.random.default_rng(0).standard_normal(shape).astype("f4")) * 3 + 282
    if not gaps:
        return Fields(values, Frame(CHANNELS, time, COARSE))
    valid = torch.from_numpy(np.random.default_rng(1).random(shape) > 0.3)
    return Fields(values.masked_fill(~valid, 0.0), Frame(CHANNELS, time, COARSE), valid)


ASKED = {
    "forecast_climax": (fields(hours(0)), Frame(CHANNELS, hours(24, 48), COARSE)),
    "forecast_unet": (fields(hours(0)), Frame(CHANNELS, hours(24, 48), COARSE)),
    "forecast_weathermesh": (fields(hours(0)), Frame(CHANNELS, hours(24, 48), COARSE)),
    "fill": (fields(torch.arange(31)[None] * 86400, gaps=True), Frame(CHANNELS, hours(0), COARSE)),
    "downscale": (fields(hours(0)), Frame(CHANNELS, hours(0), FINE)),
    "superresolution": (fields(hours(0)), Frame(CHANNELS, hours(0), FINE)),
}


@pytest.mark.parametrize("name", ASKED)
def test_a_checkpoint_of_version_0_1_predicts_what_it_predicted(stored: Path, name: str) -> None:
    inputs, target = ASKED[name]
    task = load_task(stored / name)
    answer = np.load(stored / name / "answer.npz")["answer"]
    predicted = task.predict(Batch(inputs), target)
    np.testing.assert_allclose(predicted.values.numpy(), answer, rtol=2e-6, atol=2e-4)


def test_a_checkpoint_written_now_names_its_classes_publicly(stored: Path) -> None:
    task = load_task(stored / "forecast_climax")
    checkpoint: dict[str, object] = {}
    task.on_save_checkpoint(checkpoint)
    described = checkpoint["etesian"]
    assert isinstance(described, dict)
    assert described["task"] == "etesian.ForecastTask"
    assert described["network"]["class"] == "etesian.ClimaX"
    assert (
        "etesian.models"
        in json.loads((stored / "forecast_climax" / "description.json").read_text())["network"]["class"]
    )


def test_the_recipe_of_a_run_of_version_0_1_is_read_and_kept_under_public_names() -> None:
    recipe = read(Path(__file__).parents[1] / "stored" / "recipe.yaml")
    assert recipe["model"]["class_path"] == "etesian.forecast.task.ForecastTask"
    assert recipe["model"]["init_args"]["network"]["class_path"] == "etesian.networks.unet.UNet"
    assert recipe["data"]["class_path"] == "etesian.forecast.data.ForecastData"
    text = by_public_names(
        "model:\n  class_path: etesian.forecast.task.ForecastTask\n  x: {class_path: torch.optim.Adam}"
    )
    assert text == "model:\n  class_path: etesian.ForecastTask\n  x: {class_path: torch.optim.Adam}"
