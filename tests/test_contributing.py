"""The example of CONTRIBUTING.md trains and forecasts as it stands there."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from jaxtyping import TypeCheckError

import etesian as et

PAGE = (Path(__file__).parents[1] / "CONTRIBUTING.md").read_text(encoding="utf-8")


def example(language: str) -> str:
    return re.findall(rf"```{language}\n(.*?)```", PAGE, re.S)[0]


@pytest.mark.filterwarnings("ignore")
def test_the_network_of_the_page_learns_how_fast_anomalies_fade(
    store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "damped.py").write_text(example("python"), encoding="utf-8")
    recipe = yaml.safe_load(example("yaml").replace("etesian.Damped", "damped.Damped"))
    recipe["data"]["init_args"] |= {"train": ["2001-01-01", "2001-01-08"], "validate": ["2001-01-09", "2001-01-12"]}
    recipe["model"]["init_args"]["optimizer"] = {"class_path": "torch.optim.AdamW", "init_args": {"lr": 0.05}}
    recipe["trainer"] |= {"accelerator": "cpu", "logger": False}
    run = et.fit(recipe, run="run", stores=[store], trust=["damped"])
    kept = run.task.network.kept.detach().numpy()
    assert (kept < 0.75).all()  # the fields are noise, of which nothing lasts
    forecast = run.forecast(store, ("2001-01-13", "2001-01-14"), [24, 72]).temperature.sel(level=500)
    states = et.Store(store)
    channel = et.Channel("temperature", 500)
    factor = kept[run.task.layout.targets.index(channel)]
    mean = float(states.dataset["mean"][states.channels.index(channel)])
    initial = states.dataset["fields"][48, states.channels.index(channel)].values  # 13 January, 00 UTC
    np.testing.assert_allclose(forecast[0, 1].values, mean + (initial - mean) * factor**3, rtol=1e-5)


def test_a_shape_other_than_the_one_written_is_refused_while_tests_run() -> None:
    from etesian.nn.convolution import opposite
    from etesian.nn.tokens import rotate

    assert opposite(torch.zeros(3, 4, 8)).shape == (3, 4, 8)
    with pytest.raises(TypeCheckError, match="lead lat lon"):
        opposite(torch.zeros(8))
    with pytest.raises(TypeCheckError, match="batch depth lat lon head dim"):
        rotate(torch.zeros(2, 4, 8))
