"""Means over months of a simulated sea by runs of one's own, by baselines, and by ClimaNet, the prototype's successor.

ClimaNet is trained by its own code from a checkout (https://github.com/ESMValGroup/ClimaNet), with the network,
patches and options of its example of daily data, for a given time of one thread and from several seeds. Of the packages
that it imports, `ray` and `tbparse` are not called and need not be there. Prints errors against the truth.

    python benchmarks/gapfill_peers.py OBSERVED TRUTH --climanet CHECKOUT [--minutes 10] [--seeds 3]
        [--runs NAME=RUN ...] [--train 2001-01 2001-12] [--validate 2002-01 2002-04] [--test 2002-06 2002-07]
"""

import argparse
import sys
import tempfile
import time
import types
from copy import deepcopy
from typing import Any

import numpy as np
import torch
import xarray as xr

import etesian as et

PATCH, PATCHES, STRIDE = (1, 4, 4), 10, 8


def observed_mean(observed: et.Store, months: tuple[str, str]) -> xr.Dataset:
    """Return what ClimaNet adds to, the mean of the days observed, without gaps and in the layout of filled fields."""
    return et.baseline("observed_mean").fill(observed, months, target="monthly")


def dataset(modules: dict[str, Any], observed: et.Store, truth: et.Store, months: tuple[str, str]) -> Any:
    """Return the months as ClimaNet's data set: what is missing of the mean of the observed days is to be learned."""
    names = {"latitude": "lat", "longitude": "lon"}
    gappy, whole = (
        xr.open_zarr(store.path).fields[:, 0].sel(time=slice(*months)).drop_vars("channel").rename(names).load()
        for store in (observed, truth)
    )
    land = whole.isnull().all("time")
    prepared = modules["utils"].data_preparation(gappy, whole.resample(time="MS").mean())
    size = PATCHES * PATCH[1]
    return modules["dataset"].STDataset(*prepared, land_mask=land, patch_size=(1, size, size), stride=(STRIDE, STRIDE))


def climanet(settings: argparse.Namespace, observed: et.Store, truth: et.Store, seed: int) -> xr.Dataset:
    """Train ClimaNet for the time that is given and return its means over the months of the test."""
    for absent in ("ray", "ray.tune", "tbparse"):
        sys.modules.setdefault(absent, types.ModuleType(absent))
    sys.modules["ray"].tune = sys.modules["ray.tune"]  # type: ignore[attr-defined]
    sys.modules["tbparse"].SummaryReader = None  # type: ignore[attr-defined]
    sys.path.insert(0, settings.climanet)
    import climanet.dataset
    import climanet.predict
    import climanet.st_encoder_decoder
    import climanet.train
    import climanet.utils

    modules = {"utils": climanet.utils, "dataset": climanet.dataset}
    climanet.utils.set_seed(seed)
    network = climanet.st_encoder_decoder.SpatioTemporalModel(
        patch_size=PATCH, overlap=2, embed_dim=64, dropout=0.2, hidden=64
    )
    train, validate, test = (
        dataset(modules, observed, truth, getattr(settings, p)) for p in ("train", "validate", "test")
    )
    loader = climanet.dataset.DataLoaderConfig(
        batch_size=10, num_workers=0, persistent_workers=False, multiprocessing_context=None
    )

    def fit(model: Any, epochs: int, folder: str) -> Any:
        config = climanet.train.TrainConfig(num_epoch=epochs, accumulation_steps=2, verbose=True, store_model=False)
        return climanet.train.train_monthly_model(model, train, loader, config, validate, folder)

    with tempfile.TemporaryDirectory() as folder:
        begin = time.process_time()
        fit(deepcopy(network), 1, folder)
        epochs = max(1, int(60 * settings.minutes / (time.process_time() - begin)))
        print(f"ClimaNet: {epochs} epochs", flush=True)
        network = fit(network, epochs, folder)
        config = climanet.predict.PredictionConfig(save_predictions=False, store_logs=False)
        loader.shuffle = False
        patches = climanet.predict.predict_monthly_var(network, test, loader, config, folder)
    filled = observed_mean(observed, settings.test)
    name = str(next(iter(filled.data_vars)))
    total, count = np.zeros(filled[name].shape), np.zeros(filled[name].shape)
    for (month, row, column), patch in zip(test.patch_indices, patches, strict=True):
        place = month, slice(row, row + patch.shape[1]), slice(column, column + patch.shape[2])
        total[place] += patch[0]
        count[place] += 1
    return filled.assign({name: filled[name] + (total / np.maximum(count, 1)).astype(np.float32)})


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("observed")
    parser.add_argument("truth")
    parser.add_argument("--climanet")
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--runs", nargs="*", default=[])
    parser.add_argument("--baselines", nargs="*", default=["linear", "optimal_interpolation"])
    parser.add_argument("--train", nargs=2, default=["2001-01", "2001-12"])
    parser.add_argument("--validate", nargs=2, default=["2002-01", "2002-04"])
    parser.add_argument("--test", nargs=2, default=["2002-06", "2002-07"])
    settings = parser.parse_args()
    torch.set_num_threads(1)
    observed, truth = et.Store(settings.observed), et.Store(settings.truth)
    filled = {"observed_mean": observed_mean(observed, tuple(settings.test))}
    if settings.climanet:
        for seed in range(settings.seeds):
            filled[f"climanet, seed {seed}"] = climanet(settings, observed, truth, seed)
    for text in settings.runs:
        name, _, run = text.partition("=")
        filled[name] = et.load(run).fill(observed, tuple(settings.test))
    scores = et.evaluate(filled, truth, observed=observed, baselines=settings.baselines)
    wanted = ["rmse", "bias", "coverage_90"]
    print(scores[wanted].isel(channel=0).sel(region="all").to_dataframe()[wanted].round(3))


if __name__ == "__main__":
    main()
