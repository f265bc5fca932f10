"""How errors of filled gaps grow with the share of the sea under clouds: one simulated sea, 10 to 95 % of cloud.

Simulates a year of the same sea under more and more cloud, fills some of its months with the baselines and with any
runs given, and prints root-mean-square errors against the truth: at points without an observation for days, at all
points for means over months. The runs must fit the grid; baselines go to the target of the first of them, or to days.

    python benchmarks/gapfill_clouds.py [--runs NAME=RUN ...] [--shares 0.1 0.3 0.5 0.7 0.9 0.95] [--out runs/clouds]
"""

import argparse
from pathlib import Path

import etesian as et
from etesian.fill.baselines import GAP_BASELINES


def main() -> None:
    """Make what is not there yet, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", nargs="*", default=[])
    parser.add_argument("--baselines", nargs="*", default=list(GAP_BASELINES))
    parser.add_argument("--shares", nargs="*", type=float, default=[0.1, 0.3, 0.5, 0.7, 0.9, 0.95])
    parser.add_argument("--months", nargs=2, default=["2001-06", "2001-07"])
    parser.add_argument("--points", type=int, default=64)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("runs/clouds"))
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    truth = options.out / "truth.zarr"
    table: dict[float, dict[str, float]] = {}
    for share in options.shares:
        folder = options.out / f"{share:g}"
        folder.mkdir(exist_ok=True)
        raw = folder / "raw.zarr"
        et.simulate(
            "ocean", raw, truth=str(options.out / "raw_truth.zarr"), years=1, cloud=share, points=options.points,
            seed=options.seed,
        )  # fmt: skip
        observed = et.prepare(raw, folder / "observed.zarr")
        if not truth.exists():
            et.prepare(options.out / "raw_truth.zarr", truth)
        table[share] = judge(options, observed, truth)
    print(f"{'RMSE, K':24}" + "".join(f"{100 * share:7.0f} %" for share in table))
    for name in next(iter(table.values())):
        print(f"{name:24}" + "".join(f"{row[name]:9.3f}" for row in table.values()))


def judge(options: argparse.Namespace, observed: et.Store, truth: Path) -> dict[str, float]:
    """Fill the months under one share of cloud, and return the error of each model."""
    months, baselines = tuple(options.months), list(options.baselines)
    filled = {}
    for text in options.runs:
        name, _, run = text.partition("=")
        filled[name] = et.load(run).fill(observed, months)
    if not filled:
        name = baselines.pop(0)
        filled[name] = et.baseline(name).fill(observed, months, target="daily")
    scores = et.evaluate(filled, truth, observed=observed, baselines=baselines)
    rmse = scores.rmse.isel(channel=0, region=0)
    return {str(name): float(rmse.sel(forecast=name)) for name in rmse.forecast.values}


if __name__ == "__main__":
    main()
