"""Where a trained run answers, and in which precision: chosen by name, refused in a sentence."""

from pathlib import Path

import pytest
import torch
from running import etesian

import etesian as et
from etesian.core.errors import RecipeError
from etesian.training.device import choose_device, choose_precision

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let PyTorch say that there are two GPUs."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: torch.device("cuda"))
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: 2)


@pytest.mark.usefixtures("gpus")
def test_the_gpu_is_the_default_where_there_is_one() -> None:
    assert choose_device(None) == torch.device("cuda")
    assert choose_device("cuda:1") == torch.device("cuda:1")
    assert choose_device("cpu") == torch.device("cpu")
    with pytest.raises(RecipeError, match=r"no device 'cuda:2' here; take one of cpu, cuda:0, cuda:1, or leave it out"):
        choose_device("cuda:2")


def test_what_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
    assert choose_device(None) == torch.device("cpu")
    with pytest.raises(RecipeError, match=r"finds no device 'cuda' here; take one of cpu"):
        choose_device("cuda")
    with pytest.raises(RecipeError, match=r"'gpu0' names no device; take one of cpu"):
        choose_device("gpu0")


def test_a_gpu_answers_as_it_was_trained_and_a_cpu_in_single_precision() -> None:
    gpu, cpu = torch.device("cuda"), torch.device("cpu")
    assert choose_precision(None, gpu, "bf16-mixed") == "bf16-mixed"
    assert choose_precision("32-true", gpu, "bf16-mixed") == "32-true"
    assert choose_precision(None, cpu, "bf16-mixed") == "32-true"
    with pytest.raises(RecipeError, match="there is no precision 'bf16'; take 32-true, 16-mixed, bf16-mixed"):
        choose_precision("bf16", cpu, "32-true")


def test_a_run_answers_in_the_precision_that_is_asked_for(store: str, tmp_path: Path) -> None:
    run = tmp_path / "run"
    recipe = {
        "data": {
            "class_path": "ForecastData",
            "init_args": {"stores": [store], "leads": [24], "train": ["2001-01-01", "2001-01-10"],
                          "validate": ["2001-01-11", "2001-01-15"]},
        },
        "model": {
            "class_path": "ForecastTask",
            "init_args": {
                "network": {"class_path": "ClimaX", "init_args": {"patch": 2, "dim": 16, "depth": 1, "heads": 2}},
            },
        },
        "trainer": {"accelerator": "cpu", "max_epochs": 1, "logger": False, "precision": "bf16-mixed"},
    }  # fmt: skip
    et.fit(recipe, run=run)
    loaded = et.load(run, device="cpu")
    assert loaded.description["precision"] == "bf16-mixed"
    assert "cpu, 32-true" in repr(loaded)
    half = et.load(run, precision="bf16-mixed", device="cpu")
    exact, rounded = (
        each.forecast(store, ("2001-01-12", "2001-01-14"), [24])["temperature"].values for each in (loaded, half)
    )
    apart = abs(exact - rounded).max()
    assert 0 < apart < 0.05 * exact.std()
    # Forecasts in half precision are others, and do not go on with those in single precision.
    assert "precision" not in loaded.identity
    assert half.identity["precision"] == "bf16-mixed"
    etesian("forecast", run, store, tmp_path / "out.zarr", "--init", "2001-01-12", "2001-01-14", "--leads", "24",
            "--device", "cpu", "--precision", "bf16-mixed")  # fmt: skip
