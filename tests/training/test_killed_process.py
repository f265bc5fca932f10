"""A run of two processes of which one is killed goes on to what it would have been."""

import os
import signal
from pathlib import Path

import lightning as L
import pytest
import torch
from running import train_together
from safetensors.torch import load_file
from torch.multiprocessing.spawn import ProcessExitedException

from etesian.core import Layout
from etesian.forecast.data import ForecastData
from etesian.forecast.task import ForecastTask
from etesian.networks.climax import ClimaX
from etesian.training.checkpoint import SafeCheckpoints, best_and_last


def network(layout: Layout) -> ClimaX:
    return ClimaX(layout, dim=16, depth=1, heads=2, dropout=0.0, drop_path=0.0)


class Plug(L.Callback):
    """Kills one of the processes in the middle of a run."""

    def on_train_batch_end(self, trainer: L.Trainer, *_: object) -> None:
        if trainer.global_rank == 1 and trainer.current_epoch == 2:
            os.kill(os.getpid(), signal.SIGKILL)


def train(store: str, run: Path, killed: bool = False) -> None:
    torch.manual_seed(0)
    data = ForecastData([store], ("2001-01-01", "2001-01-08"), ("2001-01-09", "2001-01-12"), [6, 12], batch_size=5)
    task = ForecastTask(network, data.layout, data.statistics, warmup_steps=3)
    trainer = L.Trainer(
        accelerator="cpu", devices=2, strategy="ddp", max_epochs=4, logger=False, enable_progress_bar=False,
        enable_model_summary=False, use_distributed_sampler=False, plugins=[SafeCheckpoints()],
        callbacks=[*best_and_last(run), *([Plug()] if killed else [])],
    )  # fmt: skip
    last = run / "last"
    trainer.fit(task, datamodule=data, ckpt_path=str(last) if last.exists() else None)


def test_a_run_of_which_one_process_was_killed_goes_on_to_the_same_weights(store: str, tmp_path: Path) -> None:
    train_together(2, train, store, tmp_path / "undisturbed")
    with pytest.raises(ProcessExitedException, match="SIGKILL"):
        train_together(2, train, store, tmp_path / "broken", True)
    train_together(2, train, store, tmp_path / "broken")
    expected, found = (load_file(tmp_path / run / "last" / "weights.safetensors") for run in ("undisturbed", "broken"))
    assert expected.keys() == found.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=1e-6, atol=1e-7, msg=name)
