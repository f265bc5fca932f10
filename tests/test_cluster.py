"""What the workers of a cluster make is, byte for byte, what one process makes."""

import os
import signal
from collections.abc import Iterator
from copy import deepcopy
from functools import partial
from pathlib import Path
from threading import Timer
from typing import Any

import dask
import numpy as np
import pandas as pd
import pytest
import xarray as xr
from conftest import MakeStore, weather
from small_tasks import gappy_sea, stirred
from threadpoolctl import threadpool_limits

import etesian as et
from etesian import ClimaX, ForecastTask, Layout
from etesian.core import workers
from etesian.core.errors import EtesianError, RecipeError
from etesian.core.workers import Workers
from etesian.fill.run import fill_to
from etesian.forecast.run import predict_to
from etesian.samples.windows import Period
from etesian.store.prepare import prepare_dataset
from etesian.training.prediction import PredictionWriter

distributed = pytest.importorskip("distributed")


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    """The address of two workers, threads of this process, which start at once."""
    with distributed.LocalCluster(2, threads_per_worker=1, processes=False, dashboard_address=None) as made:
        yield made.scheduler_address


def files(folder: Path) -> dict[str, bytes]:
    """Return the contents of all files, without the note of when a folder was made."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


GRID = {"latitude": -82.5 + 15 * np.arange(12.0), "longitude": 15 * np.arange(24.0)}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> et.Store:
    """Temperatures with gaps on the grid of the stored runs, for three months."""
    time = pd.date_range("2001-01-01", "2001-03-31")
    random = np.random.default_rng(0)
    values = random.standard_normal((len(time), 2, 12, 24)).astype("f4") * 3 + 282
    values[random.random(values.shape) < 0.2] = np.nan
    dims = ("time", "level", "latitude", "longitude")
    data = xr.Dataset({"temperature": (dims, values, {"units": "K"})}, {"time": time, "level": [500, 850], **GRID})
    folder = tmp_path_factory.mktemp("store")
    return et.prepare(data, folder / "store.zarr")


def test_prepare_is_the_same_on_threads_and_on_a_cluster_and_for_other_chunks(cluster: str, tmp_path: Path) -> None:
    year = weather(pd.date_range("2001-01-01", periods=370, freq="D"), gaps=0.1)
    with threadpool_limits(2, "blas"):
        prepare_dataset(year, tmp_path / "threads.zarr", sources=["the same"])
    prepare_dataset(year.chunk(time=7), tmp_path / "cluster.zarr", sources=["the same"], scheduler=cluster)
    assert files(tmp_path / "cluster.zarr") == files(tmp_path / "threads.zarr")


STATIONS = pd.DataFrame({"station": ["a", "b"], "latitude": [3.0, -40.0], "longitude": [17.0, 200.0]})


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"perturb": "gaussian", "members": 3, "at": STATIONS},
        {"perturb": "lagged", "members": 2, "interval": 24, "leads": [24]},
    ],
    ids=["maps", "members_at_stations", "lagged_members"],
)
def test_forecasts_are_the_same(
    cluster: str,
    store: et.Store,
    stored: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    options: dict[str, Any],
) -> None:
    monkeypatch.chdir(tmp_path)
    asked = {"init": ("2001-01-05", "2001-01-11"), "leads": [24, 48], "batch_size": 2} | options
    run = et.load(stored / "forecast_climax")
    run.forecast(store, **asked, out="here.zarr")
    run.forecast(store, **asked, out="cluster.zarr", scheduler=cluster)
    assert files(tmp_path / "cluster.zarr") == files(tmp_path / "here.zarr")


def test_members_of_a_network_that_draws_noise_are_the_same(cluster: str, store: et.Store, tmp_path: Path) -> None:
    layout = Layout(store.channels, store.channels, store.grid)
    network = partial(ClimaX, patch=2, dim=16, depth=1, heads=2, head_depth=0)
    task = ForecastTask(network, layout, store.statistics, members=2, anomalies=True, predict="change").eval()
    stirred(task, 0.1)
    given: dict[str, Any] = {"source": {}, "members": 3, "batch_size": 2}
    predict_to(task, store, str(tmp_path / "here.zarr"), store.time[3:7], (24,), **given)
    with Workers(cluster) as workers:
        given |= {"workers": workers, "again": partial(deepcopy, task)}
        predict_to(task, store, str(tmp_path / "cluster.zarr"), store.time[3:7], (24,), **given)
    assert files(tmp_path / "cluster.zarr") == files(tmp_path / "here.zarr")
    made = xr.open_zarr(tmp_path / "here.zarr", decode_timedelta=False)["temperature"]
    assert float(made.std("number").mean()) > 0


def test_forecasts_of_a_baseline_are_the_same_and_go_on_after_an_interruption(
    cluster: str, store: et.Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: dict[str, Any] = {"init": ("2001-01-05", "2001-01-13"), "leads": [24, 72], "batch_size": 2}
    baseline = et.baseline("damped_persistence")
    baseline.forecast(store, **asked, out=tmp_path / "here.zarr")
    real, blocks = PredictionWriter.mark, []

    def mark(self: PredictionWriter, some: list[int]) -> None:
        real(self, some)
        blocks.extend(some)
        if len(blocks) == 4:
            raise KeyboardInterrupt

    monkeypatch.setattr(PredictionWriter, "mark", mark)
    with pytest.raises(KeyboardInterrupt):
        baseline.forecast(store, **asked, out=tmp_path / "cluster.zarr", scheduler=cluster)
    assert not (tmp_path / "cluster.zarr").exists()
    baseline.forecast(store, **asked, out=tmp_path / "cluster.zarr", scheduler=cluster)
    assert blocks == list(range(9))
    assert files(tmp_path / "cluster.zarr") == files(tmp_path / "here.zarr")


def test_filled_months_are_the_same(cluster: str, store: et.Store, stored: Path, tmp_path: Path) -> None:
    run = et.load(stored / "fill")
    run.fill(store, ("2001-01", "2001-03"), out=tmp_path / "here.zarr")
    run.fill(store, ("2001-01", "2001-03"), out=tmp_path / "cluster.zarr", scheduler=cluster)
    assert files(tmp_path / "cluster.zarr") == files(tmp_path / "here.zarr")
    # Where nothing is left to do, no cluster is asked.
    run.fill(store, ("2001-01", "2001-03"), out=tmp_path / "cluster.zarr", scheduler="nowhere://there")


def test_members_of_filled_days_are_the_same(cluster: str, tmp_path: Path) -> None:
    task, sea = gappy_sea(tmp_path / "sea.zarr")
    given: dict[str, Any] = {"period": Period("2001-03", "2001-03"), "source": {}, "members": 2}
    fill_to(task.eval(), sea, str(tmp_path / "here.zarr"), **given)
    with Workers(cluster) as workers:
        given |= {"workers": workers, "again": partial(deepcopy, task)}
        fill_to(task, sea, str(tmp_path / "cluster.zarr"), **given)
    assert files(tmp_path / "cluster.zarr") == files(tmp_path / "here.zarr")


def test_scores_are_the_same(
    cluster: str, tmp_path: Path, make_store: MakeStore, monkeypatch: pytest.MonkeyPatch, no_pictures: None
) -> None:
    monkeypatch.setattr("etesian.scores.pairs.CHUNK_BYTES", 2**15)
    monkeypatch.setattr("etesian.scores.events.SAMPLED", 40)
    truth = et.Store(make_store(pd.date_range("2001-01-01", periods=380, freq="D")))
    et.baseline("persistence").forecast(truth, ("2001-01-01", "2001-01-24"), [24, 48], out=tmp_path / "made.zarr")
    asked: dict[str, Any] = {"structure": True, "thresholds": {"temperature_500": [272.0]}, "quantiles": [0.9],
                             "windows": [3], "baselines": ["seasonal_cycle"]}  # fmt: skip
    here = et.evaluate(tmp_path / "made.zarr", truth, **asked)
    there = et.evaluate(tmp_path / "made.zarr", truth, **asked, out=tmp_path / "scores", scheduler=cluster)
    assert len(here.initial_time) == 24
    xr.testing.assert_identical(here, there)
    assert all(
        here[name].values.tobytes() == there[name].values.tobytes() for name in here.data_vars if name != "units"
    )


def test_what_no_cluster_can_do_is_said(
    cluster: str, store: et.Store, stored: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(RecipeError, match="no Dask cluster answers at 'nowhere://there'"):
        assert Workers("nowhere://there").at_once
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    with pytest.raises(RecipeError, match="there is no GPU here; say local"):
        assert Workers("gpus").at_once
    with pytest.raises(RecipeError, match="needs a place that all of its machines reach; give out"):
        et.load(stored / "fill").fill(store, "2001-01", scheduler=cluster)
    with pytest.raises(RecipeError, match="needs a place that all of its machines reach; give out"):
        et.baseline("persistence").forecast(store, "2001-01", [24], scheduler=cluster)
    with pytest.raises(RecipeError, match="filled gaps are scored without it"):
        et.evaluate("a.zarr", store, observed=store, scheduler="local")


def test_each_gpu_has_a_process_that_sees_it_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    made: dict[str, Any] = {}
    monkeypatch.setattr("distributed.SpecCluster", lambda workers, scheduler: made.update(workers=workers))
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    for visible, expected in (("4,7", ["4", "7"]), (None, ["0", "1"])):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible) if visible else monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
        workers._processes("gpus", 16)
        seen = [each["options"]["env"]["CUDA_VISIBLE_DEVICES"] for each in made["workers"].values()]
        assert seen == expected


def test_work_outlives_a_worker_and_what_ends_every_worker_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def work(flag: Path, block: int) -> int:
        # Block 2 ends its worker the first time, block 9 each time.
        if block == 9 or (block == 2 and not flag.exists()):
            flag.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return block**2

    monkeypatch.setattr("os.cpu_count", lambda: 1)
    monkeypatch.setattr(workers, "LOOK_EVERY", 0.2)
    # The only worker takes longer to start again than Dask is told to wait for it.
    impatient = "distributed.deploy.lost-worker-timeout"
    with dask.config.set({impatient: "50 ms"}):
        with Workers("local") as made:
            build = partial(Path, tmp_path / "ended")
            assert list(made.each(build, work, range(4))) == [0, 1, 4, 9]
            assert (tmp_path / "ended").exists()
            made._cluster.scheduler.allowed_failures = 0
            with pytest.raises(EtesianError, match=r"ended 1 of the workers, .* give each worker more"):
                list(made.each(build, work, [9]))
        assert dask.config.get(impatient) == "50 ms"


def test_a_cluster_that_does_nothing_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "LOOK_EVERY", 0.05)
    alone = {"cls": distributed.Scheduler, "options": {"protocol": "inproc://", "dashboard": False}}
    with distributed.SpecCluster(scheduler=alone) as made, Workers(made.scheduler_address) as waiting:
        with dask.config.set({"distributed.scheduler.no-workers-timeout": "200ms"}):
            message = r"at 'inproc://.*' has had no worker for 0.2 s that takes work; .* repeat the command"
            with pytest.raises(EtesianError, match=message):
                list(waiting.each(dict, lambda job, block: block, [1, 2]))
            with pytest.raises(EtesianError, match=message):
                waiting.compute([dask.delayed(sum)([1])])
        Timer(0.3, made.close).start()
        with pytest.raises(EtesianError, match=r"the scheduler of the cluster at 'inproc://.*' is gone; start it"):
            list(waiting.each(dict, lambda job, block: block, [1, 2]))
