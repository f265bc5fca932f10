"""Whatever moment a run is killed at, the next one gives the bytes of an undisturbed run and never half a store."""

import subprocess
import sys
from pathlib import Path

# Children are forked before any thread exists; an audit hook kills one at its N-th change of the file system.
SCRIPT = """
import hashlib, os, shutil, signal, sys
from pathlib import Path
import numpy as np, pandas as pd, xarray as xr
from etesian.store import format as layout, write as passes, prepare as module

folder, limits = Path(sys.argv[1]), (6_000, 2_000_000)
layout.SHARD_BYTES, passes.BAND_BYTES = limits

def source(seed):
    random = np.random.default_rng(seed)
    values = random.standard_normal((120, 4, 5)).astype(np.float32)
    coordinates = {"time": pd.date_range("2001", periods=120), "latitude": np.arange(4.0), "longitude": np.arange(5.0)}
    fields = {"temperature": (("time", "latitude", "longitude"), values)}
    return xr.Dataset(fields | {"orography": (("latitude", "longitude"), values[0])}, coordinates).chunk(time=15)

def contents(path):
    files = sorted(file for file in path.rglob("*") if file.is_file())
    return hashlib.sha256(b"".join(str(f.relative_to(path)).encode() + f.read_bytes() for f in files)).hexdigest()

def run(seed, target, kill_at=None, **options):
    # Returns how many changes were made, or -1 if it was killed.
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        changes = 0
        def count(event, arguments):
            nonlocal changes
            is_write = event == "open" and arguments[2] & (os.O_WRONLY | os.O_RDWR)
            if is_write or event in ("os.rename", "os.remove", "os.rmdir", "os.mkdir"):
                changes += 1
                if changes == kill_at:
                    os.kill(os.getpid(), signal.SIGKILL)
        sys.addaudithook(count)
        module.prepare_dataset(source(seed), target, **options)
        os.write(write, str(changes).encode())
        os._exit(0)
    os.close(write)
    text = os.read(read, 100)
    os.close(read)
    os.waitpid(child, 0)
    return int(text) if text else -1

changes = run(1, folder / "undisturbed.zarr")
expected = contents(folder / "undisturbed.zarr")
run(2, folder / "old.zarr")
old = contents(folder / "old.zarr")
target = folder / "store.zarr"
moments = sorted({2, 4, *np.linspace(40, changes - 20, 4).astype(int).tolist(), *range(changes - 10, changes, 4)})
killed = 0
for number, moment in enumerate(moments):
    replaced = number % 2 == 0
    if replaced:
        shutil.copytree(folder / "old.zarr", target)
    killed += run(1, target, moment, overwrite=replaced) == -1
    assert not target.exists() or contents(target) in (old, expected), moment
    run(1, target, overwrite=replaced)
    assert contents(target) == expected, moment
    assert not (folder / "store.zarr.partial").exists(), moment
    shutil.rmtree(target)
assert killed >= 6, killed
"""


def test_a_run_killed_at_any_moment_and_repeated_gives_the_bytes_of_an_undisturbed_one(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT, str(tmp_path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
