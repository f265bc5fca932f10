"""Errors of filled days where only a box of the sea is known, so that what is near counts and nothing else does.

Blanks a simulated sea but for some days of some boxes, fills these with the runs and baselines, and prints
root-mean-square errors at points of the boxes at sea without an observation, over all boxes. SST and SST_TRUTH are as
`etesian simulate ocean` writes them.

    python benchmarks/gapfill_boxes.py SST SST_TRUTH --runs NAME=RUN ... [--month 2002-06] [--boxes 3] [--points 28]
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np
import xarray as xr

import etesian as et

NAME = "sea_surface_temperature"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source")
    parser.add_argument("truth")
    parser.add_argument("--runs", nargs="*", default=[])
    parser.add_argument("--baselines", nargs="*", default=["linear", "optimal_interpolation"])
    parser.add_argument("--month", default="2002-06")
    parser.add_argument("--boxes", type=int, default=3)
    parser.add_argument("--points", type=int, default=28)
    parser.add_argument("--days", type=int, default=25)
    parser.add_argument("--seed", type=int, default=0)
    settings = parser.parse_args()
    days, truth = (xr.open_zarr(path).load() for path in (settings.source, settings.truth))
    models = {name: et.baseline(name) for name in settings.baselines}
    models |= {name: et.load(run) for name, _, run in (text.partition("=") for text in settings.runs)}
    squares: dict[str, list[np.ndarray]] = {name: [] for name in models}
    random = np.random.default_rng(settings.seed)
    month = settings.month, settings.month
    for number in range(settings.boxes):
        row, column = (random.integers(days.sizes[axis] - settings.points + 1) for axis in ("latitude", "longitude"))
        box = {
            "time": slice(*[int(i) for i in np.searchsorted(days.time, days.time.sel(time=settings.month)[[0, -1]])]),
            "latitude": slice(row, row + settings.points), "longitude": slice(column, column + settings.points),
        }  # fmt: skip
        first = box["time"].start + 2
        box["time"] = slice(first, first + settings.days)
        inside = xr.zeros_like(days[NAME], dtype=bool)
        inside[box] = True
        with tempfile.TemporaryDirectory() as folder:
            store = et.prepare(days.assign({NAME: days[NAME].where(inside)}), Path(folder) / "box.zarr")
            for name, model in models.items():
                options = {"target": "daily"} if name in settings.baselines else {}
                filled = model.fill(store, month, **options)[NAME].squeeze(drop=True)
                gaps = (days[NAME].isnull() & truth[NAME].notnull())[box]
                error = filled.sel(time=gaps.time, latitude=gaps.latitude, longitude=gaps.longitude) - truth[NAME]
                squares[name].append(error.transpose(*gaps.dims).values[gaps.values] ** 2)
        text = "  ".join(f"{name} {np.sqrt(found[-1].mean()):.4f}" for name, found in squares.items())
        print(f"box {number} at row {row}, column {column}, {squares[name][-1].size} points: {text}", flush=True)
    for name, found in squares.items():
        print(f"{name:24}{np.sqrt(np.concatenate(found).mean()):8.4f} K")


if __name__ == "__main__":
    main()
