"""Real clouds over the Alboran Sea: gaps filled by every baseline, and by trained runs, judged at withheld pixels.

Takes the ten days of AVHRR sea surface temperature that come with DINEOF, hides a tenth of what was observed under the
clouds of other days (the same holes for all), prepares both, fills the rest with the baselines and with any runs given,
and prints the errors at the withheld pixels. The report is in OUT/scores.

    python benchmarks/alboran.py alboranSST_small.nc [--runs NAME=RUN ...] [--seed 0] [--out runs/alboran]
"""

import argparse
from pathlib import Path

import numpy as np
import xarray as xr
from rich.console import Console

import etesian as et
from etesian.fill.baselines import GAP_BASELINES
from etesian.fill.dineof import withhold
from etesian.fill.interpolate import Gappy

NAME = "sea_surface_temperature"
KELVIN = 273.15


def read(path: str) -> xr.Dataset:
    """Return the days in kelvin, with land where the file's mask has it; what lies on land is left out."""
    raw = xr.open_dataset(path)
    sea = raw["mask"].values > 0.5
    values = np.where(sea, raw["SST"].values + KELVIN, np.nan).astype(np.float32)
    return xr.Dataset(
        {
            NAME: (("time", "latitude", "longitude"), values, {"units": "K"}),
            "land_sea_mask": (("latitude", "longitude"), (~sea).astype(np.float32), {"units": "1"}),
        },
        {"time": raw.time.values, "latitude": raw.lat.values, "longitude": raw.lon.values},
    )


def hide(days: xr.Dataset, share: float, seed: int) -> xr.Dataset:
    """Return the days without a share of their observations, hidden under the clouds of other days."""
    seconds = days.time.values.astype("datetime64[s]").astype(np.int64)
    grid = et.Grid(days.latitude.values, days.longitude.values)
    values = days[NAME].values.astype(np.float64)
    data = Gappy(values, days.land_sea_mask.values < 0.5, seconds / 86400, grid)
    hidden = withhold(data, share, "clouds", seed)
    return days.assign({NAME: days[NAME].where(~hidden)})


def main() -> None:
    """Make what is not there yet, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source")
    parser.add_argument("--runs", nargs="*", default=[])
    parser.add_argument("--baselines", nargs="*", default=list(GAP_BASELINES))
    parser.add_argument("--share", type=float, default=0.1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("runs/alboran"))
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    days = read(options.source)
    truth = et.prepare(days, options.out / "all.zarr", overwrite=True)
    gappy = hide(days, options.share, options.seed)
    observed = et.prepare(gappy, options.out / "observed.zarr", overwrite=True)
    first, last = (str(end)[:10] for end in days.time.values[[0, -1]])
    filled = {}
    for text in options.runs:
        name, _, run = text.partition("=")
        filled[name] = et.load(run).fill(observed, (first[:7], last[:7]))
    rest = list(options.baselines)
    if not filled:
        name = rest.pop()
        filled[name] = et.baseline(name).fill(observed, (first, last), target="daily")
    scores = et.evaluate(filled, truth, observed=observed, baselines=rest, out=options.out / "scores", overwrite=True)
    Console().print(et.summary(scores))


if __name__ == "__main__":
    main()
