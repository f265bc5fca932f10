"""Members of filled days beside the Gaussians of the same run: CRPS, coverage, and the error of means with its spread.

Simulates a small sea and trains kriging on its first year; or takes the ten days of benchmarks/alboran.py, withholds
clouds as it does, and takes the runs that it left in the same folder. Fills with members of several draws, and prints
scores at points without an observation, and of means over the sea and over months.

    python benchmarks/gapfill_members.py [--months 2002-06 2002-07] [--members 24] [--draws 0 1 2]
    python benchmarks/gapfill_members.py --alboran alboranSST_small.nc [--seeds 2 3 4] [--out runs/alboran]
"""

import argparse
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import torch
import xarray as xr
from alboran import NAME, hide, options, read

import etesian as et
from etesian.fill.members import Scatter
from etesian.fill.run import Filler
from etesian.fill.scores import score_filled
from etesian.samples.windows import Period

SCORES = ("rmse", "crps", "spread", "rmse_where_spread", "coverage_50", "coverage_90")
MEANS = tuple(
    f"{score}_of_{mean}" for mean in ("area_mean", "month_mean") for score in ("rmse", "spread", "spread_skill")
)
HEAD = {
    "data.init_args.target": "daily",
    "model.init_args.network.init_args.daily": True,
    "model.init_args.network.init_args.dim": 32,
    "model.init_args.network.init_args.hidden": 16,
    "model.init_args.network.init_args.residual": "kriging",
    "trainer.num_sanity_val_steps": 0,
}


def sea(settings: argparse.Namespace) -> Iterator[tuple[str, Mapping[str, xr.Dataset], Path, Path]]:
    """Yield what was filled of the simulated sea, its truth and what was observed."""
    out = settings.out
    paths = {name: out / f"{name}.zarr" for name in ("sea", "sea_truth", "observed", "truth")}
    et.simulate("ocean", paths["sea"], years=2, points=48)
    for given, store in (("sea", "observed"), ("sea_truth", "truth")):
        et.prepare(paths[given], paths[store], train=(None, "2001-12-31"))
    data = {"observed": str(paths["observed"]), "truth": str(paths["truth"])}
    data |= {"train": ["2001-01", "2001-12"], "validate": ["2002-01", "2002-04"], "test": None}
    changed = HEAD | {f"data.init_args.{key}": value for key, value in data.items()}
    run = et.fit("gapfill_sst", run=out / "run", epochs=1, options=changed)
    filled = {"analysis": run.fill(paths["observed"], settings.months, out=out / "analysis.zarr")}
    for draw in settings.draws:
        filled[f"members {draw}"] = run.fill(
            paths["observed"], settings.months, members=settings.members, seed=draw, out=out / f"members_{draw}.zarr"
        )
    yield "sea", filled, paths["truth"], paths["observed"]


def alboran(settings: argparse.Namespace) -> Iterator[tuple[str, Mapping[str, xr.Dataset], xr.Dataset, xr.Dataset]]:
    """Yield what was filled of the Alboran Sea, all observations and those that were left, for each draw of clouds.

    A month of days of the whole sea would be filled for a tenth of ten days, so only the withheld points are.
    """
    days = read(settings.alboran)
    month = [str(time)[:7] for time in days.time.values[[0, -1]]]
    for seed in settings.seeds:
        given, folder = hide(days, 0.1, seed), settings.out / str(seed)
        store = et.prepare(given, folder / "observed.zarr")
        run = et.fit("gapfill_sst", run=folder / "run", epochs=1, options=options(folder / "observed.zarr", days))
        filler = Filler(run.task, store, "missing")
        (stretch,) = filler.stretches(Period(*month))
        (tile,), (times, own) = filler.tiling.tiles, filler.axis.times(int(stretch.months[0]), 1)
        values, valid = filler._read(tile, filler.axis.given(times, own))
        at, wanted = np.searchsorted(times, store.time), np.zeros(valid[:, 0].shape, bool)
        wanted[at] = days[NAME].notnull() & given[NAME].isnull()
        mean, deviation = filler._ask(tile, stretch, times, values, valid, torch.from_numpy(wanted[None, :, None]))
        mean, deviation = (np.where(wanted, maps[:, 0], np.nan)[at] for maps in (mean, deviation))
        filled = {"analysis": given.assign({NAME: days[NAME].copy(data=mean)})}
        filled["analysis"][f"{NAME}_standard_deviation"] = days[NAME].copy(data=deviation)
        for draw in settings.draws:
            scatter = Scatter(run.task, daily=True, count=settings.members, seed=draw)
            parts = [scatter.of_tile(numbers, tile, times, valid, wanted) for numbers in scatter.parts(1)]
            maps = xr.DataArray(np.concatenate(parts)[:, at, 0], dims=("number", *days[NAME].dims))
            members = (filled["analysis"][NAME] + deviation * maps).assign_attrs(units="K")
            filled[f"members {draw}"] = members.transpose("time", "number", ...).to_dataset(name=NAME)
        yield f"clouds {seed}", filled, days, given


def main() -> None:
    """Make what is not there yet, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--alboran")
    parser.add_argument("--months", nargs=2, default=["2002-06", "2002-07"])
    parser.add_argument("--members", type=int, default=24)
    parser.add_argument("--seeds", nargs="*", type=int, default=[2, 3, 4], help="of withheld clouds")
    parser.add_argument("--draws", nargs="*", type=int, default=[0, 1, 2], help="seeds of the members")
    parser.add_argument("--out", type=Path, default=Path("runs/gapfill_members"))
    settings = parser.parse_args()
    settings.out.mkdir(parents=True, exist_ok=True)
    for name, filled, truth, observed in (alboran if settings.alboran else sea)(settings):
        scores = score_filled(filled, truth, observed, progress=False).isel(channel=0).sel(region="gaps")
        table = scores[[*SCORES, *MEANS]].to_dataframe()[[*SCORES, *MEANS]]
        members = table.drop("analysis")
        table = table.T.assign(mean=members.mean(), deviation=members.std())
        print(f"{name}, {settings.members} members\n{table.round(4).to_string()}", flush=True)


if __name__ == "__main__":
    main()
