"""One training step of a recipe of the published size, on synthetic stores of full spatial size and a few times.

python benchmarks/full_size.py climax_5.625 --folder /tmp/full_size
"""

import argparse
import resource
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import xarray as xr
import yaml

from etesian.core.channels import CATALOGUE
from etesian.core.grid import Grid
from etesian.data.prepare import prepare_dataset

LEVELS = (50, 250, 500, 600, 700, 850, 925)
SURFACE = ("2m_temperature", "10m_u_component_of_wind", "10m_v_component_of_wind")
UPPER = (
    "geopotential",
    "u_component_of_wind",
    "v_component_of_wind",
    "temperature",
    "relative_humidity",
    "specific_humidity",
)
STATICS = ("land_sea_mask", "orography")


def synthetic(path: Path, grid: Grid, seed: int) -> None:
    """Write eight days of noise, 6-hourly, with the 45 fields in time and two static ones."""
    if path.exists():
        return
    random, moments = np.random.default_rng(seed), pd.date_range("2001-01-01", periods=64, freq="6h")

    def noise(*shape: int) -> np.ndarray:
        return random.standard_normal((*shape, *grid.shape), dtype=np.float32)

    def units(name: str) -> dict[str, str]:
        return {"units": CATALOGUE[name].units}

    horizontal = ("latitude", "longitude")
    fields = {n: (("time", "level", *horizontal), noise(len(moments), len(LEVELS)), units(n)) for n in UPPER}
    fields |= {n: (("time", *horizontal), noise(len(moments)), units(n)) for n in SURFACE}
    fields |= {n: (horizontal, noise(), units(n)) for n in STATICS}
    axes = {"time": moments, "level": list(LEVELS), "latitude": grid.latitude, "longitude": grid.longitude}
    prepare_dataset(xr.Dataset(fields, axes), path, train_end="2001-01-08")


def main() -> None:
    """Run one step and print its time and the peak memory of the process."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("recipe")
    parser.add_argument("--folder", type=Path, default=Path("runs/full_size"))
    chosen = parser.parse_args()
    recipe = Path(__file__).parents[1] / "recipes" / f"{chosen.recipe}.yaml"
    named = yaml.safe_load(recipe.read_text())["data"]["init_args"]["stores"]
    grid = Grid.equiangular(1.40625 if "1.40625" in chosen.recipe else 5.625)
    stores = [chosen.folder / f"{grid.shape[0]}_{number}.zarr" for number in range(len(named))]
    chosen.folder.mkdir(parents=True, exist_ok=True)
    for number, store in enumerate(stores):
        synthetic(store, grid, number)
    command = [
        sys.executable, "-m", "etesian", "fit", "-c", str(recipe), "--run", str(chosen.folder / chosen.recipe),
        f"--data.init_args.stores=[{','.join(map(str, stores))}]", "--data.init_args.batch_size=1",
        '--data.init_args.train=["2001-01-01","2001-01-08"]', '--data.init_args.validate=["2001-01-09","2001-01-16"]',
        "--data.init_args.test=null", "--data.init_args.workers=0", "--trainer.max_steps=1",
        "--trainer.limit_val_batches=0", "--trainer.enable_progress_bar=false",
    ]  # fmt: skip
    start = time.perf_counter()
    subprocess.run(command, check=True)
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20
    print(f"{chosen.recipe}: one step, start and checkpoint in {seconds:.0f} s, peak memory {peak:.1f} GiB")


if __name__ == "__main__":
    main()
