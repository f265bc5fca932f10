"""Weights divided between two processes train, are kept, and go on as those of one process do."""

import json
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import EMAWeightAveraging
from running import train_together
from safetensors.torch import load_file
from torch.multiprocessing.spawn import ProcessExitedException

from etesian.core import Layout
from etesian.core.errors import RecipeError
from etesian.forecast.data import ForecastData
from etesian.forecast.task import ForecastTask
from etesian.networks.climax import ClimaX
from etesian.training.checkpoint import SafeCheckpoints, best_and_last, load_task
from etesian.training.sharding import Sharded


def network(layout: Layout) -> ClimaX:
    return ClimaX(layout, dim=16, depth=2, heads=2, dropout=0.0, drop_path=0.0)


class Course(L.Callback):
    """Writes down losses, and how much of weights and moments a process holds; may kill one of them."""

    def __init__(self, run: Path, killed: bool) -> None:
        self.run, self.killed = run, killed
        self.losses: list[float] = []
        self.sizes: list[int] = []

    def on_train_epoch_start(self, trainer: L.Trainer, task: L.LightningModule) -> None:
        if trainer.current_epoch == 2 and trainer.is_global_zero:
            shutil.copytree(self.run / "last", self.run / "halfway" / "last")

    def on_train_batch_end(
        self, trainer: L.Trainer, task: L.LightningModule, outputs: Any, batch: object, number: int
    ) -> None:
        self.losses.append(trainer.strategy.reduce(outputs["loss"].detach().clone(), reduce_op="mean").item())
        moments = [state["exp_avg"] for state in trainer.optimizers[0].state.values()]
        self.sizes = [
            sum((t.to_local() if hasattr(t, "to_local") else t).numel() for t in tensors)
            for tensors in (task.parameters(), moments)
        ]
        if self.killed and trainer.global_rank == 1 and trainer.current_epoch == 2 and number == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    def on_train_epoch_end(self, trainer: L.Trainer, task: L.LightningModule) -> None:
        if trainer.is_global_zero:
            self.run.mkdir(parents=True, exist_ok=True)
            (self.run / "course.json").write_text(json.dumps({"losses": self.losses, "sizes": self.sizes}))


def _data(store: str, batch_size: int) -> ForecastData:
    periods = ("2001-01-01", "2001-01-08"), ("2001-01-09", "2001-01-12")
    return ForecastData([store], *periods, [12], batch_size=batch_size, region="-50,50,0,315")


def train(processes: int, store: str, run: Path, killed: bool = False) -> None:
    data = _data(store, 10 // processes)
    torch.manual_seed(int(os.environ.get("RANK", 0)))
    task = ForecastTask(network, data.layout, data.statistics, warmup_steps=3)
    trainer = L.Trainer(
        accelerator="cpu", devices=processes, strategy="sharded" if processes > 1 else "auto", max_epochs=4,
        logger=False, enable_progress_bar=False, enable_model_summary=False, use_distributed_sampler=False,
        num_sanity_val_steps=0, plugins=[SafeCheckpoints()], gradient_clip_val=0.2,
        callbacks=[Course(run, killed), *best_and_last(run)],
    )  # fmt: skip
    last = run / "last"
    trainer.fit(task, datamodule=data, ckpt_path=str(last) if last.exists() else None)


def course(run: Path) -> Any:
    return json.loads((run / "course.json").read_text())


@pytest.mark.filterwarnings("ignore")
def test_divided_weights_train_are_kept_and_go_on_as_those_of_one_process(store: str, tmp_path: Path) -> None:
    with pytest.raises(ProcessExitedException, match="SIGKILL"):
        train_together(2, train, 2, store, tmp_path / "two", True)
    train(1, store, tmp_path / "one")
    one, two = course(tmp_path / "one"), course(tmp_path / "two")
    assert len(set(one["losses"])) == 12
    assert two["losses"] == pytest.approx(one["losses"][:6], rel=1e-5)
    assert two["sizes"] == [size // 2 for size in one["sizes"]]

    shutil.copytree(tmp_path / "two" / "last", tmp_path / "two-then-one" / "last")
    shutil.copytree(tmp_path / "one" / "halfway" / "last", tmp_path / "one-then-two" / "last")
    shutil.rmtree(tmp_path / "two" / "halfway")
    train_together(2, train, 2, store, tmp_path / "two")
    train_together(2, train, 2, store, tmp_path / "one-then-two")
    train(1, store, tmp_path / "two-then-one")
    expected = load_file(tmp_path / "one" / "last" / "weights.safetensors")
    for run in ("two", "two-then-one", "one-then-two"):
        assert course(tmp_path / run)["losses"] == pytest.approx(one["losses"][6:], rel=1e-5), run
        found = load_file(tmp_path / run / "last" / "weights.safetensors")
        assert found.keys() == expected.keys()
        for name, tensor in expected.items():
            torch.testing.assert_close(found[name], tensor, rtol=1e-4, atol=1e-5, msg=f"{run}: {name}")
    tasks = [load_task(tmp_path / run / "last") for run in ("one", "two")]
    assert type(tasks[1].network).__name__ == "ClimaX"
    batch = next(iter(_data(store, 4).val_dataloader()))
    ahead, other = (next(task.eval().forecast(batch, [12])).values for task in tasks)
    torch.testing.assert_close(other, ahead, rtol=1e-5, atol=0.0)


def sharded(
    *, shards: int = 1, names: tuple[str, ...] = ("network.a",), callbacks: tuple[Any, ...] = (), precision: str = "32"
) -> Sharded:
    """Return a strategy about to divide a task of these properties."""
    strategy = Sharded()
    network = type("UNet", (), {"shards": lambda self: [torch.nn.Linear(1, 1)] * shards})()
    strategy._lightning_module = cast(
        Any,
        SimpleNamespace(
            network=network,
            trainer=SimpleNamespace(callbacks=list(callbacks)),
            named_parameters=lambda: ((name, torch.zeros(1)) for name in names),
        ),
    )
    strategy._precision_plugin = cast(Any, SimpleNamespace(precision=precision))
    return strategy


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: sharded(shards=0), "UNet cannot be divided among processes; use strategy: ddp"),
        (lambda: sharded(names=("network.a", "decay_rate")), "the task learns decay_rate; use strategy: ddp"),
        (lambda: sharded(callbacks=(EMAWeightAveraging(),)), "EMAWeightAveraging averages whole weights, not shards"),
        (lambda: sharded(precision="16-mixed"), "use precision: bf16-mixed"),
    ],
)
def test_what_cannot_work_on_shards_is_refused_before_training(make: Callable[[], Sharded], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        make().configure_ddp()


def test_an_option_of_another_strategy_is_refused() -> None:
    with pytest.raises(RecipeError, match="no option 'find_unused_parameters'"):
        Sharded(find_unused_parameters=True)
