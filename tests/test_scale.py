"""The scripts of docs/scale.md run: SLURM is two commands, whose tasks are processes here."""

import os
import re
import runpy
import shutil
import subprocess
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from running import etesian, train_together

ROOT = Path(__file__).parents[1]
SCRIPTS = re.findall(r"^```bash\n(.*?)^```", (ROOT / "docs" / "scale.md").read_text(encoding="utf-8"), re.M | re.S)
TRAIN, DASK = SCRIPTS

# Whoever is called notes it, and the process of the test, which has imported the library already, does it.
CALLED = """
    call=$(basename "$0").$1.${SLURM_PROCID:-0}
    env -0 | grep -z ^SLURM > env.$call; printf '%s\\0' "$@" > part.$call; mv part.$call asked.$call
    until [ -e done ]; do sleep 0.05; done"""
SLURM = {
    "sbatch": """
        export SLURM_NNODES=2 SLURM_NTASKS_PER_NODE=1 SLURM_NTASKS=2 SLURM_NODELIST=localhost SLURM_JOB_ID=$$
        exec bash "$@" """,
    "srun": """
        for i in 0 1; do SLURM_PROCID=$i SLURM_LOCALID=0 SLURM_NODEID=$i "$@" & done
        wait""",
    "etesian": CALLED,
    "dask": CALLED,
}


def hand_in(folder: Path, script: str, calls: int, *words: str) -> "subprocess.Popen[bytes]":
    """Give a script to what stands for SLURM, and wait until it has called for all of its work."""
    for name, content in SLURM.items():
        (folder / name).write_text(f"#!/bin/bash\n{content}\n")
        (folder / name).chmod(0o755)
    (folder / "script.sh").write_text(script)
    paths = os.pathsep.join([str(folder), os.environ["PATH"]])
    job = subprocess.Popen(["sbatch", "script.sh", *words], cwd=folder, env=os.environ | {"PATH": paths})
    while len(list(folder.glob("asked.*"))) < calls:
        assert job.poll() is None
        time.sleep(0.02)
    return job


def noted(folder: Path, call: str) -> list[str]:
    return (folder / call).read_text().split("\0")[:-1]


def finish(folder: Path, job: "subprocess.Popen[bytes]") -> None:
    (folder / "done").touch()
    assert job.wait(60) == 0


def fit(folder: Path) -> None:
    """One task of `srun etesian fit`, which knows no more of the others than SLURM says."""
    rank = os.environ["RANK"]
    for name in ("TORCHELASTIC_RUN_ID", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "RANK", "LOCAL_RANK"):
        del os.environ[name]
    os.environ |= dict(line.split("=", 1) for line in noted(folder, f"env.etesian.fit.{rank}"))
    os.chdir(folder)
    etesian(*noted(folder, f"asked.etesian.fit.{rank}"))


pytestmark = pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")


@pytest.mark.parametrize("script", SCRIPTS)
def test_bash_reads_the_scripts(script: str) -> None:
    assert subprocess.run(["bash", "-n"], input=script, text=True).returncode == 0
    assert script.startswith("#!/bin/bash\n#SBATCH")


RECIPE = """
data:
  class_path: etesian.ForecastData
  init_args: {stores: [%s], leads: [6], train: [2001-01-01, 2001-01-08], validate: [2001-01-09, 2001-01-12]}
model:
  class_path: etesian.ForecastTask
  init_args: {network: {class_path: etesian.ClimaX, init_args: {patch: 4, dim: 16, depth: 1, heads: 2}}}
trainer: {max_epochs: 1, accelerator: cpu, limit_train_batches: 2, enable_progress_bar: false}
"""


@pytest.mark.filterwarnings("ignore")
def test_training_runs_as_tasks_of_slurm(store: str, tmp_path: Path) -> None:
    (tmp_path / "small.yaml").write_text(RECIPE % store)
    job = hand_in(tmp_path, TRAIN, 2, "-c", "small.yaml", "--run", "run")
    train_together(2, fit, tmp_path)
    finish(tmp_path, job)
    assert re.search(r"num_nodes: 2\n", (tmp_path / "run" / "recipe.yaml").read_text())
    assert (tmp_path / "run" / "checkpoints" / "last" / "weights.safetensors").exists()


def test_a_store_is_prepared_by_workers_of_slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    distributed = pytest.importorskip("distributed")
    from distributed.cli import dask_scheduler, dask_worker

    days = pd.date_range("2001-01-01", periods=20)
    grid = {"latitude": -78.75 + 22.5 * np.arange(8.0), "longitude": 22.5 * np.arange(16.0)}
    values = np.full((20, 8, 16), 280.0) + np.arange(20.0)[:, None, None]
    xr.Dataset({"t2m": (("time", *grid), values, {"units": "K"})}, {"time": days, **grid}).to_netcdf(tmp_path / "t.nc")
    monkeypatch.chdir(tmp_path)
    job = hand_in(tmp_path, DASK, 4, "prepare", "t.nc", "store.zarr")
    given = dask_scheduler.main.make_context("scheduler", noted(tmp_path, "asked.dask.scheduler.0")[1:]).params
    workers = [dask_worker.main.make_context("worker", noted(tmp_path, f"asked.dask.worker.{i}")[1:]) for i in (0, 1)]
    words = noted(tmp_path, "asked.etesian.prepare.0")
    assert {worker.params["scheduler"] for worker in workers} == {words[-1]}
    assert words[-1].endswith(f":{given['port']}")
    host = words[-1].removeprefix("tcp://").partition(":")[0]
    ours = {"processes": False, "protocol": "tcp", "dashboard_address": None}
    with distributed.LocalCluster(2, host=host, scheduler_port=given["port"], threads_per_worker=1, **ours):
        etesian(*words)
    finish(tmp_path, job)
    assert float(xr.open_zarr("store.zarr")["mean"][0]) == pytest.approx(289.5)


def test_the_benchmarks_that_run_together_exist_and_give_numbers(tmp_path: Path) -> None:
    together = runpy.run_path(str(ROOT / "benchmarks" / "all.py"))
    files = {path.stem for path in (ROOT / "benchmarks").glob("*.py")} - {"all"}
    assert {*together["SHORT"], *together["LONG"].split(", ")} == files
    printed = "header one │ 1 │\n│ one, two  │ 3 │ 4.5 ms │ 1e-03 ×\n| one, two and more | 7 |\n"
    found = together["pick"](printed, (("one, two", 1, "ms"), ("one, two", 2, "×"), ("one, two and more", 0, "s")))
    assert found == "one, two: 4.5 ms; one, two: 1e-03 ×; one, two and more: 7 s"
    with pytest.raises(ValueError, match="no figure 3 behind 'one, two'"):
        together["pick"](printed, (("one, two", 3, "ms"),))
    row = together["row"]
    row.__globals__["HERE"] = tmp_path / "benchmarks"
    (tmp_path / "benchmarks").mkdir()
    (tmp_path / "benchmarks" / "fast.py").write_text("import sys; print('reads', 12.5, sys.argv[1])")
    short = together["Short"]("--twice", (("reads", 0, "MB/s"),), "no_such.nc")
    assert re.fullmatch(
        r"\| fast \| `python benchmarks/fast.py --twice` \| reads: 12.5 MB/s \| \d+ \|", row("fast", short)
    )
    assert together["missing"](short) == "needs no_such.nc"
