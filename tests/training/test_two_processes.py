"""Two processes train and score as one does."""

import json
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from running import train_together

from etesian.core import Layout
from etesian.forecast.data import ForecastData
from etesian.forecast.task import ForecastTask
from etesian.networks.climax import ClimaX


def network(layout: Layout) -> ClimaX:
    # Embeds missing values, of which there are none, so that these weights have no part in the loss.
    return ClimaX(layout, dim=16, depth=1, heads=2, dropout=0.0, drop_path=0.0, validity=True)


class Course(L.Callback):
    def __init__(self) -> None:
        self.losses: list[float] = []

    def on_train_batch_end(
        self, trainer: L.Trainer, task: L.LightningModule, outputs: Any, batch: object, number: int
    ) -> None:
        self.losses.append(trainer.strategy.reduce(outputs["loss"].detach().clone(), reduce_op="mean").item())


def train(processes: int, store: str, out: Path) -> None:
    data = ForecastData(
        [store], ("2001-01-01", "2001-01-08"), ("2001-01-09", "2001-01-12"), [12], batch_size=10 // processes,
        region="-50,50,0,315",
    )  # fmt: skip
    torch.manual_seed(0)
    sgd = lambda parameters: torch.optim.SGD(parameters, lr=0.1)  # noqa: E731
    task, course = ForecastTask(network, data.layout, data.statistics, optimizer=sgd), Course()
    trainer = L.Trainer(
        accelerator="cpu", devices=processes, strategy="ddp" if processes > 1 else "auto", max_epochs=2, logger=False,
        enable_progress_bar=False, enable_checkpointing=False, enable_model_summary=False,
        use_distributed_sampler=False, num_sanity_val_steps=0, callbacks=[course],
    )  # fmt: skip
    trainer.fit(task, datamodule=data)
    if trainer.is_global_zero:
        metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
        out.write_text(json.dumps(metrics | {"course": course.losses}))


@pytest.mark.filterwarnings("ignore")
def test_two_processes_train_and_score_as_one_does(store: str, tmp_path: Path) -> None:
    train(1, store, tmp_path / "one.json")
    train_together(2, train, 2, store, tmp_path / "two.json")
    one, two = (json.loads((tmp_path / name).read_text()) for name in ("one.json", "two.json"))
    assert len(one["course"]) == 6
    assert two["course"] == pytest.approx(one["course"], rel=1e-5)
    assert len(set(one["course"])) == 6
    names = {name for name in one if name.startswith("val_")}
    assert {"val_loss", "val_rmse/temperature_850/12h"} <= names
    assert {name: two[name] for name in names} == pytest.approx({name: one[name] for name in names}, rel=1e-5)
