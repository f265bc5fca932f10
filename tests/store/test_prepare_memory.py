"""Memory stays bounded on inputs several times larger than what is allowed."""

import subprocess
import sys
from pathlib import Path

SCRIPT = """
import resource, sys
import dask.array as da, numpy as np, pandas as pd, xarray as xr
from etesian.store import format as layout, write as passes, prepare as module

layout.SHARD_BYTES = passes.BAND_BYTES = 2**23
values = da.random.default_rng(0).random((1600, 20, 40, 80), dtype="f4", chunks=(10, 20, 40, 80))
coordinates = {"time": pd.date_range("2001", periods=1600), "level": np.arange(20) + 1}
coordinates |= {"latitude": np.arange(40.0), "longitude": np.arange(80.0)}
dataset = xr.Dataset({"temperature": (("time", "level", "latitude", "longitude"), values)}, coordinates)
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
before = peak()
module.prepare_dataset(dataset, sys.argv[1], sources=["random"], memory_limit="500MB")
print("MB", dataset.nbytes / 2**20, peak() - before)
"""


def test_an_input_is_prepared_in_a_fraction_of_its_size(tmp_path: Path) -> None:
    command = [sys.executable, "-c", SCRIPT, str(tmp_path / "store.zarr")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    size, growth = (float(word) for word in done.stdout.split("MB")[-1].split())
    assert size > 390
    assert growth < size / 3
