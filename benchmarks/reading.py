"""Opening and examining a year's file, 100 and 1000 of them, against xarray's open_mfdataset.

Makes small daily files (365 × 16 × 32) in a temporary folder. Each measurement has a process of its own, started when
the files are in the system's cache; memory is the peak of that process. `read` adds up the values once with
open_mfdataset, the least that the doctor can do. Usage: python benchmarks/reading.py [--files 1 100 1000]
"""

import argparse
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import netCDF4
import numpy as np
import xarray as xr
from rich.console import Console
from rich.table import Table

WAYS = ("open_mfdataset", "open_store", "open_mfdataset, read", "doctor")


def make(folder: Path, files: int) -> None:
    """Write years of one variable, copies of the first one but for their dates."""
    values = np.random.default_rng(0).normal(280, 5, (365, 16, 32)).astype(np.float32)
    coordinates = {
        "time": ("time", np.arange(365.0), {"units": "days since 1000-01-01", "calendar": "noleap"}),
        "lat": ("lat", np.linspace(-84.375, 84.375, 16), {"units": "degrees_north"}),
        "lon": ("lon", np.arange(0, 360, 11.25), {"units": "degrees_east"}),
    }
    first = folder / "1000.nc"
    xr.Dataset({"tas": (("time", "lat", "lon"), values, {"units": "K"})}, coordinates).to_netcdf(first)
    for year in range(1001, 1000 + files):
        copy = shutil.copy(first, folder / f"{year}.nc")
        with netCDF4.Dataset(copy, "r+") as file:
            file["time"].units = f"days since {year}-01-01"


def measure(way: str, folder: str) -> None:
    """Print seconds and MiB that one way takes in this process, without the imports."""
    paths = sorted(str(path) for path in Path(folder).glob("*.nc"))
    if way.startswith("open_mfdataset"):
        begun = time.perf_counter()
        dataset = xr.open_mfdataset(paths)
        if way.endswith("read"):
            dataset.tas.sum().compute()
    else:
        from etesian.files.doctor import examine
        from etesian.files.open import open_store

        begun = time.perf_counter()
        if way == "open_store":
            open_store(paths)
        else:
            examine(paths)
    seconds = time.perf_counter() - begun
    print(seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


def main() -> None:
    """Print a table of all measurements."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", type=int, nargs="+", default=[1, 100, 1000])
    parser.add_argument("--measure", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        return measure(*options.measure)
    table = Table("files", "way", "seconds", "of open_mfdataset's", "peak MiB")
    for files in options.files:
        with tempfile.TemporaryDirectory() as folder:
            make(Path(folder), files)
            first = 0.0
            for way in WAYS:
                command = [sys.executable, __file__, "--measure", way, folder]
                words = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
                seconds, memory = float(words[-2]), float(words[-1])
                first = first or seconds
                table.add_row(str(files), way, f"{seconds:.2f}", f"{seconds / first:.2f}", f"{memory:.0f}")
    Console().print(table)
    return None


if __name__ == "__main__":
    main()
