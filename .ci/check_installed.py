"""Try what is installed beside this Python: every module, the recipes, and commands on a tiny file."""

import importlib
import importlib.resources
import pkgutil
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import xarray as xr

import etesian

TRAINING = """
--data.init_args.inputs [2m_temperature] --data.init_args.leads [24]
--data.init_args.train [2001-01,2001-02] --data.init_args.validate [2001-03-01,2001-03-15]
--data.init_args.test [2001-03-16,2001-03-31]
"""
COMMANDS = [
    "--help",
    "doctor weather.nc",
    "prepare weather.nc store.zarr --train-end 2001-02",
    f"fit planet_direct --run run --stores store.zarr --epochs 1 {TRAINING}",
    "forecast run store.zarr forecast.zarr --init 2001-03 2001-03 --leads 24",
    "evaluate forecast.zarr store.zarr --baselines persistence ridge",
]


def main() -> None:
    """Import everything, then run the commands where nothing of the source tree is."""
    names = [module.name for module in pkgutil.walk_packages(etesian.__path__, "etesian.")]
    for name in names:
        # The viewer's modules need its extra.
        if not name.endswith("__main__") and not name.startswith("etesian.viewer."):
            importlib.import_module(name)
    recipes = [file for file in (importlib.resources.files("etesian") / "recipes").iterdir() if file.suffix == ".yaml"]
    if len(names) < 100 or len(recipes) < 10:
        sys.exit(f"{len(names)} modules and {len(recipes)} recipes are too few")
    command = shutil.which("etesian", path=str(Path(sys.executable).parent))
    with tempfile.TemporaryDirectory() as folder:
        weather(90).to_netcdf(Path(folder) / "weather.nc")
        for line in COMMANDS:
            words = [str(command), *line.split()]
            done = subprocess.run(words, cwd=folder, capture_output=True, text=True, check=False)
            if done.returncode != 0:
                sys.exit(f"etesian {line}\n{done.stdout}\n{done.stderr}")
    print(f"{len(names)} modules, {len(recipes)} recipes and the commands work on Python {sys.version.split()[0]}")


def weather(days: int) -> xr.Dataset:
    """Return daily temperatures of a small globe."""
    latitude, longitude = np.linspace(-78.75, 78.75, 8), np.arange(16) * 22.5
    noise = np.random.default_rng(0).standard_normal((days, 8, 16)).cumsum(axis=0)
    time = np.datetime64("2001-01-01", "ns") + np.arange(days) * np.timedelta64(1, "D")
    field = (("time", "latitude", "longitude"), (280 + noise).astype(np.float32), {"units": "K"})
    return xr.Dataset({"t2m": field}, {"time": time, "latitude": latitude, "longitude": longitude})


if __name__ == "__main__":
    main()
