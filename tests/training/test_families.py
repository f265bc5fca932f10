"""Networks of every family train in two processes as in one, or say that they cannot."""

import os
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import lightning as L
import pytest
import small_tasks
import torch
from running import train_together
from small_tasks import Case, apart, predicted
from torch.utils.data import DataLoader

from etesian.core import Batch, Fields
from etesian.core.errors import RecipeError
from etesian.training.sharding import Sharded

# WeatherMesh by its whole loss, and of gaps also a network of which a part waits for other samples.
FAMILIES = ("mesh_tiled", "unet_forced", "fill_monthly", "fill_daily", "fill_dincae", "adversarial")


def case(name: str) -> Case:
    torch.manual_seed(0)
    task, batch = getattr(small_tasks, name)()
    task.make_optimizer = partial(torch.optim.SGD, lr=0.1)
    return task, _samples(batch, slice(2))


def _samples(batch: Batch, some: slice) -> Batch:
    def cut(part: Fields | None) -> Fields | None:
        if part is None:
            return None
        valid = None if part.valid is None else part.valid[some]
        return Fields(part.values[some], replace(part.frame, time=part.frame.time[some]), valid)

    return Batch(*map(cut, batch.parts()))  # type: ignore[arg-type]


def train(processes: int, folder: Path) -> None:
    for name in FAMILIES:
        task, batch = case(name)
        rank = int(os.environ.get("RANK", 0)) if processes > 1 else 0
        share = _samples(batch, slice(rank, rank + 1)) if processes > 1 else batch
        trainer = L.Trainer(
            accelerator="cpu", devices=processes, strategy="ddp" if processes > 1 else "auto", max_epochs=1,
            logger=False, enable_progress_bar=False, enable_model_summary=False, enable_checkpointing=False,
            use_distributed_sampler=False,
        )  # fmt: skip
        trainer.fit(task, DataLoader([share, share], batch_size=None))  # type: ignore[arg-type]
        if rank == 0:
            torch.save((task.state_dict(), predicted(task, batch)), folder / f"{name}-{processes}.pt")


@pytest.mark.filterwarnings("ignore")
def test_two_processes_come_to_the_weights_and_predictions_of_one(tmp_path: Path) -> None:
    train_together(2, train, 2, tmp_path)
    train(1, tmp_path)
    for name in FAMILIES:
        (one, ahead), (two, other) = (torch.load(tmp_path / f"{name}-{count}.pt") for count in (1, 2))
        before = case(name)[0].state_dict()
        floats = [each for each, tensor in one.items() if tensor.is_floating_point() and tensor.numel()]
        assert max(apart(one[each], before[each]) for each in floats) > 1e-3, name
        assert max(apart(two[each], one[each]) for each in floats) < 2e-5, name
        assert apart(other, ahead) < 2e-5, name


@pytest.mark.parametrize("name", [*FAMILIES, "downscaled"])
def test_what_cannot_be_divided_says_so(name: str) -> None:
    strategy, (task, _) = Sharded(), case(name)
    strategy._lightning_module = cast(Any, task)
    message = f"{type(task.network).__name__} cannot be divided among processes; use strategy: ddp"
    with pytest.raises(RecipeError, match=message):
        strategy.configure_ddp()
