"""Two processes train and score as one does."""

import json
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import json, sys
from pathlib import Path
import lightning as L, torch
from etesian.forecast.data import ForecastData
from etesian.networks.climax import ClimaX
from etesian.forecast.task import ForecastTask

def network(layout):
    # Embeds missing values, of which there are none, so that these weights have no part in the loss.
    return ClimaX(layout, dim=16, depth=1, heads=2, dropout=0.0, drop_path=0.0, validity=True)

class Course(L.Callback):
    losses = []

    def on_train_batch_end(self, trainer, task, outputs, batch, index):
        self.losses.append(trainer.strategy.reduce(outputs["loss"].detach().clone(), reduce_op="mean").item())

if __name__ == "__main__":
    torch.set_num_threads(1)
    store, out, processes = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
    data = ForecastData(
        [store], ("2001-01-01", "2001-01-08"), ("2001-01-09", "2001-01-12"), [12], batch_size=10 // processes,
        region="-50,50,0,315",
    )
    torch.manual_seed(0)
    sgd = lambda parameters: torch.optim.SGD(parameters, lr=0.1)
    task = ForecastTask(network, data.layout, data.statistics, optimizer=sgd)
    trainer = L.Trainer(
        accelerator="cpu", devices=processes, strategy="ddp" if processes > 1 else "auto", max_epochs=2, logger=False,
        enable_progress_bar=False, enable_checkpointing=False, enable_model_summary=False,
        use_distributed_sampler=False, num_sanity_val_steps=0, callbacks=[Course()],
    )
    trainer.fit(task, datamodule=data)
    if trainer.is_global_zero:
        metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
        out.write_text(json.dumps(metrics | {"course": Course.losses}))
"""


@pytest.mark.filterwarnings("ignore")
def test_two_processes_train_and_score_as_one_does(store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = tmp_path / "run.py"
    script.write_text(SCRIPT)
    command = [str(script), store, str(tmp_path / "two.json"), "2"]
    together = subprocess.Popen([sys.executable, *command], stderr=subprocess.PIPE, text=True, cwd=tmp_path)
    monkeypatch.setattr(sys, "argv", [str(script), store, str(tmp_path / "one.json"), "1"])
    monkeypatch.chdir(tmp_path)
    runpy.run_path(str(script), run_name="__main__")
    _, errors = together.communicate(timeout=300)
    assert together.returncode == 0, errors
    one, two = (json.loads((tmp_path / name).read_text()) for name in ("one.json", "two.json"))
    assert len(one["course"]) == 6
    assert two["course"] == pytest.approx(one["course"], rel=1e-5)
    assert len(set(one["course"])) == 6
    names = {name for name in one if name.startswith("val_")}
    assert {"val_loss", "val_rmse/temperature_850/12h"} <= names
    assert {name: two[name] for name in names} == pytest.approx({name: one[name] for name in names}, rel=1e-5)
