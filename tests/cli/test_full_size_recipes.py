"""Recipes at the original's size: they parse, name every option rightly, and build the original's network."""

import importlib
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from etesian.cli.main import main
from etesian.core import Grid, Layout
from etesian.interop.climax import ORIGINAL_VARIABLES
from etesian.training.optimizers import warmup_cosine

RECIPES = Path(__file__).parents[2] / "recipes"
NAMES = ("climax_5.625", "climax_1.40625", "climax_pretrain_cmip6")


def parsed(name: str, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    with pytest.raises(SystemExit) as stop:
        main(["fit", "-c", str(RECIPES / f"{name}.yaml"), "--print_config"])
    assert not stop.value.code
    return yaml.safe_load(capsys.readouterr().out)  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("name", "resolution", "rate", "megabytes"),
    [
        ("climax_5.625", 5.625, 5e-7, 432),
        ("climax_1.40625", 1.40625, 5e-7, 443),
        ("climax_pretrain_cmip6", 5.625, 5e-4, 432),
    ],
)
def test_the_network_is_as_large_as_the_originals_checkpoint(
    name: str, resolution: float, rate: float, megabytes: float, capsys: pytest.CaptureFixture[str]
) -> None:
    model = parsed(name, capsys)["model"]["init_args"]
    assert (model["optimizer"]["init_args"]["lr"], model["warmup_steps"]) == (rate, 10_000)
    chosen = model["network"]
    module, _, network = chosen["class_path"].rpartition(".")
    arguments = {key: value for key, value in chosen["init_args"].items() if key != "layout"}
    layout = Layout(ORIGINAL_VARIABLES, ORIGINAL_VARIABLES, Grid.equiangular(resolution))
    with torch.device("meta"):
        made = getattr(importlib.import_module(module), network)(layout, **arguments)
    size = sum(parameter.numel() for parameter in made.parameters()) * 4 / 1e6
    assert size == pytest.approx(megabytes, rel=0.02)
    assert {"position", "aggregation.variable_embed"} <= made.no_decay()


def test_pretraining_draws_every_lead_from_6_to_168_hours(capsys: pytest.CaptureFixture[str]) -> None:
    recipe = parsed("climax_pretrain_cmip6", capsys)
    data = recipe["data"]["init_args"]
    assert data["leads"] == list(range(6, 169, 6))
    assert data["draw"] == "random"
    assert len(data["stores"]) == 5
    model = recipe["model"]["init_args"]
    assert model["optimizer"]["init_args"]["lr"] == 5e-4
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=model["optimizer"]["init_args"]["lr"])
    schedule = warmup_cosine(optimizer, model["warmup_steps"], recipe["trainer"]["max_steps"])
    rate = schedule.lr_lambdas[0]
    assert rate(10_000) == pytest.approx(1.0)
    assert rate(105_000) == pytest.approx(0.5)
    assert rate(200_000) == pytest.approx(0.0)
