"""A run of two processes of which one is killed goes on to what it would have been."""

import subprocess
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file

SCRIPT = """
import os, signal, socket, sys
from pathlib import Path
import lightning as L, torch
from torch.multiprocessing.spawn import ProcessException, start_processes
from etesian.forecast.data import ForecastData
from etesian.networks.climax import ClimaX
from etesian.forecast.task import ForecastTask
from etesian.training.checkpoint import SafeCheckpoints, best_and_last

def network(layout):
    return ClimaX(layout, dim=16, depth=1, heads=2, dropout=0.0, drop_path=0.0)

class Plug(L.Callback):
    def on_train_batch_end(self, trainer, task, outputs, batch, number):
        if trainer.global_rank == 1 and trainer.current_epoch == 2 and number == 0:
            os.kill(os.getpid(), signal.SIGKILL)

def work(rank, port, store, run, callbacks):
    os.environ |= {"TORCHELASTIC_RUN_ID": "test", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
                   "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "RANK": str(rank), "LOCAL_RANK": str(rank)}
    torch.manual_seed(0)
    data = ForecastData([store], ("2001-01-01", "2001-01-08"), ("2001-01-09", "2001-01-12"), [6, 12], batch_size=5)
    task = ForecastTask(network, data.layout, data.statistics, warmup_steps=3)
    trainer = L.Trainer(
        accelerator="cpu", devices=2, strategy="ddp", max_epochs=4, logger=False, enable_progress_bar=False,
        enable_model_summary=False, use_distributed_sampler=False, plugins=[SafeCheckpoints()],
        callbacks=[*best_and_last(run), *callbacks],
    )
    last = run / "last"
    trainer.fit(task, datamodule=data, ckpt_path=str(last) if last.exists() else None)

def train(store, run, callbacks=()):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    # As torchrun starts them, but from a process that has imported everything already.
    start_processes(work, (port, store, run, callbacks), nprocs=2, start_method="fork")

if __name__ == "__main__":
    torch.set_num_threads(1)
    store, folder = sys.argv[1], Path(sys.argv[2])
    train(store, folder / "undisturbed")
    try:
        train(store, folder / "broken", [Plug()])
    except ProcessException:
        train(store, folder / "broken")
    else:
        sys.exit("no process was killed")
"""


def test_a_run_of_which_one_process_was_killed_goes_on_to_the_same_weights(store: str, tmp_path: Path) -> None:
    script = tmp_path / "run.py"
    script.write_text(SCRIPT)
    command = [sys.executable, str(script), store, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=240, check=False)
    assert done.returncode == 0, done.stderr
    expected, found = (load_file(tmp_path / run / "last" / "weights.safetensors") for run in ("undisturbed", "broken"))
    assert expected.keys() == found.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=1e-6, atol=1e-7, msg=name)
