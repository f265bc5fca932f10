"""What a check says of training is what training then takes."""

import mmap
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import xarray as xr
from running import measured_here

import etesian as et
from etesian.core.errors import RecipeError
from etesian.training import preflight
from etesian.training.measuring import _Measured, refuse_no_number, resident, total_steps
from etesian.training.preflight import Preflight, measure

RECIPE: dict[str, Any] = {
    "data": {
        "class_path": "etesian.ForecastData",
        "init_args": {
            "stores": [],
            "leads": [24],
            "batch_size": 4,
            "train": ["2001-01-01", "2001-01-20"],
            "validate": ["2001-01-25", "2001-02-05"],
        },
    },
    "model": {
        "class_path": "etesian.ForecastTask",
        "init_args": {
            "network": {"class_path": "ClimaX", "init_args": {"patch": 2, "dim": 16, "depth": 1, "heads": 2}},
            "warmup_steps": 2,
        },
    },
    "trainer": {
        "accelerator": "cpu",
        "max_epochs": 3,
        "enable_model_summary": False,
        "logger": False,
        "callbacks": [{"class_path": "lightning.pytorch.callbacks.EMAWeightAveraging"}],
    },
}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder, time = tmp_path_factory.mktemp("check"), pd.date_range("2001-01-01", periods=40)
    values = 280 + np.random.default_rng(0).standard_normal((40, 6, 8)).astype("f4")
    axes = {"time": time, "latitude": np.linspace(-75, 75, 6), "longitude": np.arange(8) * 45.0}
    source = xr.Dataset({"2m_temperature": (tuple(axes), values, {"units": "K"})}, axes)
    et.prepare(source, folder / "store.zarr", train=("2001-01-01", "2001-01-20"))
    return str(folder / "store.zarr")


@pytest.fixture(scope="module")
def checked(store: str, tmp_path_factory: pytest.TempPathFactory) -> Preflight:
    before = torch.get_rng_state()
    found = et.check(RECIPE, run=tmp_path_factory.getbasetemp() / "kept", stores=[store], epochs=2)
    assert torch.equal(torch.get_rng_state(), before)
    return found


def test_the_numbers_are_those_of_training(checked: Preflight, store: str, tmp_path: Path) -> None:
    run = et.fit(RECIPE, run=tmp_path / "run", stores=[store], epochs=2)
    assert isinstance(run, et.Run)
    assert checked.parameters == (sum(p.numel() for p in run.task.network.parameters()), 0)
    steps = run.log["step"].max() + 1  # The log counts from 0.
    assert checked.steps == (steps / 2, steps)
    assert (checked.samples, checked.batch_size, checked.measured) == (19, 4, 4)
    last = tmp_path / "run" / "checkpoints" / "last"
    size = sum(file.stat().st_size for file in last.iterdir())
    # Files have headers, which weigh where the network is this small.
    assert size / 3 < checked.checkpoint < size


def test_memory_holds_the_network_and_its_optimiser(checked: Preflight) -> None:
    assert checked.memory > 4 * 4 * checked.parameters[0]
    assert checked.memory < 4e9
    assert 0 <= checked.sample_memory < checked.memory
    assert checked.fits
    assert checked.loss is not None
    assert 0 < checked.loss < 10
    assert 0 < checked.step_seconds < 30


def test_nothing_is_kept(checked: Preflight, tmp_path_factory: pytest.TempPathFactory) -> None:
    assert not (tmp_path_factory.getbasetemp() / "kept").exists()


def test_what_is_said_tells_what_was_measured(checked: Preflight) -> None:
    facts = checked.facts()
    assert facts["samples per epoch"] == "19 in 5 steps of 4 in each process"
    assert "at the peak (measured)" in facts["memory"]
    assert "pages mapped from stores come on top" in facts["memory"]
    assert "by a line through steps of 1 and 2" in replace(checked, measured=2).facts()["memory"]
    assert "19 in 5 steps" in checked._repr_html_()


def test_a_batch_that_does_not_fit_is_answered_by_one_that_does(checked: Preflight) -> None:
    tight = replace(
        checked, memory=1000, sample_memory=100, batch_size=8, at_hand=700, saving=("--model.init_args.recompute true",)
    )
    assert not tight.fits
    assert tight.largest_batch == 5
    assert tight.suggestions == [
        "--data.init_args.batch_size 5 --trainer.accumulate_grad_batches 2, which fits and steps as far",
        "--model.init_args.recompute true, which keeps less and computes it again",
    ]
    assert replace(tight, at_hand=150).suggestions[0] == "a smaller network or grid: not even one sample fits"
    assert not replace(checked, free=checked.checkpoint).fits


def test_what_fit_refuses_is_refused_in_its_words(store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("subprocess.run", measured_here)
    data = RECIPE["data"]["init_args"] | {"validate": ["2001-01-15", "2001-02-05"]}
    wrong = RECIPE | {"data": RECIPE["data"] | {"init_args": data}}
    with pytest.raises(et.EtesianError) as refused:
        et.fit(wrong, run=tmp_path / "run", stores=[store])
    with pytest.raises(type(refused.value)) as told:
        et.check(wrong, stores=[store])
    assert str(told.value) == str(refused.value)
    assert "overlap" in str(told.value)
    with pytest.raises(RecipeError, match="planet_climax"):
        et.check("planet_climx")


@pytest.mark.parametrize(
    ("epochs", "limit", "steps"),
    [(3, -1, 15), (3, 7, 7), (None, 7, 7), (-1, 7000, 7000), (None, -1, 5000), (-1, -1, 5000)],
)
def test_steps_end_with_the_epochs_or_at_the_limit(epochs: int | None, limit: int, steps: int) -> None:
    assert total_steps(5, epochs, limit) == steps


def test_a_loss_that_is_no_number_is_refused() -> None:
    refuse_no_number(None, 1)
    refuse_no_number(0.5, 1)
    with pytest.raises(RecipeError, match="the loss of step 2 is nan; look at the data with `etesian doctor`"):
        refuse_no_number(float("nan"), 2)


def test_batches_that_would_not_fit_are_not_tried() -> None:
    measured = _Measured(64, 10_000)
    measured._before, measured._one, measured.times = 1000, 2000, {1: 0.01}
    assert measured.choose() == 6  # 0.8 · 8000 bytes that are left, 1000 for each sample
    measured.times = {1: 10.0}
    assert measured.choose() == 2  # 20 seconds
    measured.peak = 7000
    assert measured.sample_memory == 5000
    measured.stop()


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="only Linux tells a process's own memory")
def test_a_mapped_file_is_no_memory_of_the_process_and_an_array_is(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(bytes(64_000_000))
    before = resident()
    mapped = np.memmap(tmp_path / "file", dtype=np.uint8, mode="r")
    assert int(mapped.sum()) == 0
    assert abs(resident() - before) < 8_000_000
    # Asked of the system: an array may be given what an earlier test has let go of.
    with mmap.mmap(-1, 64_000_000, flags=mmap.MAP_PRIVATE) as memory:
        memory.write(bytes(64_000_000))
        assert resident() - before > 60_000_000


def test_a_process_that_the_system_ends_is_told_of(monkeypatch: pytest.MonkeyPatch) -> None:
    ended = SimpleNamespace(stdout="", stderr="", returncode=-9)
    monkeypatch.setattr(preflight.subprocess, "run", lambda *_, **__: ended)
    with pytest.raises(RecipeError, match=r"mine was ended by the system .* smaller --data.init_args.batch_size"):
        measure(["fit"], [], "mine")
