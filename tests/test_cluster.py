"""What the workers of a cluster make is, byte for byte, what one process makes."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from conftest import MakeStore, weather
from threadpoolctl import threadpool_limits

import etesian as et
from etesian.core import workers
from etesian.core.errors import RecipeError
from etesian.core.workers import Workers
from etesian.store.prepare import prepare_dataset

STORED = Path(__file__).parent / "stored"

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


def test_filled_months_are_the_same(cluster: str, store: et.Store, tmp_path: Path) -> None:
    run = et.load(STORED / "fill")
    run.fill(store, ("2001-01", "2001-03"), out=tmp_path / "here.zarr")
    run.fill(store, ("2001-01", "2001-03"), out=tmp_path / "cluster.zarr", scheduler=cluster)
    assert files(tmp_path / "cluster.zarr") == files(tmp_path / "here.zarr")


def test_scores_are_the_same(
    cluster: str, tmp_path: Path, make_store: MakeStore, monkeypatch: pytest.MonkeyPatch, no_rendering: None
) -> None:
    monkeypatch.setattr("etesian.scores.pairs.CHUNK_BYTES", 2**15)
    truth = et.Store(make_store(pd.date_range("2001-01-01", periods=380, freq="D")))
    et.baseline("persistence").forecast(truth, ("2001-01-01", "2001-02-28"), [24, 48], out=tmp_path / "made.zarr")
    asked: dict[str, Any] = {"structure": True, "thresholds": {"temperature_500": [272.0]}, "quantiles": [0.9],
                             "windows": [3], "baselines": ["seasonal_cycle"]}  # fmt: skip
    here = et.evaluate(tmp_path / "made.zarr", truth, **asked)
    there = et.evaluate(tmp_path / "made.zarr", truth, **asked, out=tmp_path / "scores", scheduler=cluster)
    assert len(here.initial_time) == 59
    xr.testing.assert_identical(here, there)
    assert all(
        here[name].values.tobytes() == there[name].values.tobytes() for name in here.data_vars if name != "units"
    )


def test_what_no_cluster_can_do_is_said(cluster: str, store: et.Store, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="no Dask cluster answers at 'nowhere://there'"):
        Workers("nowhere://there")
    with pytest.raises(RecipeError, match="there is no GPU here; say local"):
        Workers("gpus")
    with pytest.raises(RecipeError, match="needs a place that all of its machines reach; give out"):
        et.load(STORED / "fill").fill(store, "2001-01", scheduler=cluster)
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
