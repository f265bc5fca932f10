"""The latitude of the jet stream from a trained encoder's features, against raw fields, by ridge regression.

    python benchmarks/jet_stream.py runs/atmodist_planet runs/data/planet42.store.zarr \
        --train 2000-01-01 2000-11-15 --validate 2000-11-20 2000-12-20 --test 2000-12-25 2001-02-03

The jet is that of the 850 hPa wind of the northern hemisphere (`etesian.scores.views.jet_latitude`), now and days
later. The penalty of every regression is chosen on the validation period; scores are of the test period.
"""

import argparse

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from rich.progress import track
from sklearn.linear_model import Ridge

from etesian.core import Channel, Fields, Frame
from etesian.core.constants import SECONDS_PER_HOUR
from etesian.distance.distance import AtmoDistance, tiles
from etesian.samples.windows import Period
from etesian.scores.views import jet_latitude
from etesian.store.reader import Store

WIND = Channel("u_component_of_wind", 850)
PENALTIES = 10.0 ** np.arange(0, 8)
Array = NDArray[np.float64]


def predictors(distance: AtmoDistance, store: Store, layers: list[str]) -> dict[str, Array]:
    """Return what the regressions are given at every time of the store: the northern half of fields and features."""
    channels, network = list(distance.channels), distance.network
    wanted = [store.channels.index(channel) for channel in channels]
    size = network.layout.grid.shape
    north = store.grid.latitude > 0
    half = [(rows, columns) for rows, columns in tiles(store.grid, size) if north[rows].mean() >= 0.5]
    found: dict[str, list[Array]] = {}
    for first in track(range(0, len(store.time), 16), "Encoding"):
        values = torch.from_numpy(np.asarray(store.read(range(first, min(first + 16, len(store.time))))))[:, wanted]
        parts = {
            "raw fields": values[:, :, north],
            "raw fields, zonal mean": values[:, :, north].mean(-1),
        }
        time = torch.from_numpy(store.time[first : first + 16])[:, None]
        frame = Frame(distance.channels, time, store.grid, store.calendar)
        states = distance.normalizer.normalize(Fields(values[:, None], frame)).values[:, 0]
        parts["normalised fields, zonal mean"] = states[:, :, north].mean(-1)
        with torch.no_grad():
            for layer in layers:
                features = [network.features(states[:, :, rows][..., columns], layer) for rows, columns in half]
                parts[f"features {layer}"] = torch.stack([each.mean(-1) for each in features]).mean(0)
                parts[f"features {layer}, no mean"] = torch.stack(features, 1)
        for name, part in parts.items():
            found.setdefault(name, []).append(part.flatten(1).double().numpy())
    return {name: np.concatenate(part) for name, part in found.items()}


def fitted(x: Array, y: Array, parts: dict[str, NDArray[np.bool_]]) -> Array:
    """Return the prediction for the test period by ridge regression with the penalty that validates best."""
    train = parts["train"]
    mean, std = x[train].mean(0), x[train].std(0)
    x = (x - mean) / np.where(std > 0, std, 1)

    def error(penalty: float) -> float:
        made = Ridge(penalty).fit(x[train], y[train]).predict(x[parts["validate"]])
        return float(((made - y[parts["validate"]]) ** 2).mean())

    best = min(PENALTIES, key=error)
    return np.asarray(Ridge(best).fit(x[train], y[train]).predict(x[parts["test"]]))


def scores(store: Store, given: dict[str, Array], periods: dict[str, Period], days: list[int]) -> pd.DataFrame:
    """Return RMSE in degrees and R² over the test period, by predictor and days ahead."""
    wind = np.asarray(store.read(range(len(store.time))))[:, store.channels.index(WIND)]
    jet = jet_latitude(wind, store.grid)
    rows = []
    for ahead in days:
        shift = ahead * 24 * SECONDS_PER_HOUR
        later = np.searchsorted(store.time, store.time + shift)
        known = (later < len(store.time)) & (store.time.take(later, mode="clip") == store.time + shift)
        parts = {}
        for name, period in periods.items():
            first, last = period.seconds(store.calendar)
            parts[name] = known & (store.time >= first) & (store.time + shift <= last)
        y = jet.take(later, mode="clip")
        truth = y[parts["test"]]
        made = {
            "mean of the training period": np.full(truth.shape, y[parts["train"]].mean()),
            "the jet's latitude now": fitted(jet[:, None], y, parts),
        }
        for name, x in track(given.items(), f"{ahead} days ahead"):
            made[name] = fitted(x, y, parts)
        for name, predicted in made.items():
            error = predicted - truth
            size = given[name].shape[1] if name in given else 1
            r2 = 1 - (error**2).sum() / ((truth - truth.mean()) ** 2).sum()
            rows.append({"from": name, "numbers": size, "days": ahead, "rmse": np.sqrt((error**2).mean()), "r2": r2})
    return pd.DataFrame(rows)


def main() -> None:
    """Print RMSE and R² by predictor and days ahead."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run")
    parser.add_argument("store")
    for name in ("train", "validate", "test"):
        parser.add_argument(f"--{name}", nargs=2, required=True)
    parser.add_argument("--days", type=int, nargs="+", default=[0, 1, 3, 5])
    parser.add_argument("--layers", nargs="+", default=["1.6", "2.6", "3.6", "4.6"])
    parser.add_argument("--out", help="CSV of the scores")
    given = parser.parse_args()
    store = Store(given.store)
    periods = {name: Period(*getattr(given, name)) for name in ("train", "validate", "test")}
    distance = AtmoDistance.load(given.run)
    table = scores(store, predictors(distance, store, given.layers), periods, given.days)
    if given.out:
        table.to_csv(given.out, index=False, float_format="%.4g")
    for score in ("rmse", "r2"):
        print(score)
        print(table.pivot(index=["from", "numbers"], columns="days", values=score).to_string(float_format="%.2f"))


if __name__ == "__main__":
    main()
