"""Seed, epoch and rank tell every batch of every job, in later versions too: so an interrupted run goes on.

The numbers are checksums of what a few epochs read, in order. Where one changes, runs of earlier versions do not go on
as they would have.
"""

from collections.abc import Callable
from typing import Any
from zlib import crc32

import numpy as np
import pandas as pd
import pytest
import xarray as xr

from etesian.core import Batch, Grid
from etesian.core.errors import RecipeError
from etesian.distance.data import LagData
from etesian.downscale.data import DownscalingData, SuperResolutionData
from etesian.fill.data import GapFillData
from etesian.forecast.data import ForecastData
from etesian.samples.batches import GroupedBatchSampler, Samples
from etesian.samples.windows import Horizon
from etesian.store.prepare import prepare_dataset

PERIODS: dict[str, Any] = {"train": ("2001-01", "2001-03"), "validate": ("2001-04", "2001-05")}


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """Two grids; a value is a whole number that tells its time and place; one in five is missing on the coarser one."""
    folder, found = tmp_path_factory.mktemp("order"), []
    for resolution, holes, start in ((30.0, 0.2, "2001-01-01"), (15.0, 0.0, "2001-01-05")):
        grid, time = Grid.equiangular(resolution), pd.date_range(start, "2001-05-31", freq="D")
        t, row, column = np.indices((len(time), *grid.shape))
        values = (t * 1000 + row * 30 + column).astype(np.float32)
        values[np.random.default_rng(0).random(values.shape) < holes] = np.nan
        dims = ("time", "latitude", "longitude")
        field = {"sea_surface_temperature": (dims, values, {"units": "K"})}
        coordinates = {"time": time, "latitude": grid.latitude, "longitude": grid.longitude}
        path = folder / f"{resolution:g}.zarr"
        prepare_dataset(xr.Dataset(field, coordinates), path)
        found.append(str(path))
    return found[0], found[1]


def checksum(batch: Batch, before: int) -> int:
    """Of times, places and holes; values are left out where they are averaged, for they may be rounded elsewhere."""
    for fields in (batch.targets or batch.inputs, batch.inputs):
        before = crc32(fields.frame.time.numpy().astype("<i8").tobytes(), before)
        before = crc32(fields.frame.grid.latitude.astype("<f8").tobytes(), before)
        before = crc32(fields.frame.grid.longitude.astype("<f8").tobytes(), before)
        if fields.valid is not None:
            before = crc32(fields.valid.numpy().tobytes(), before)
        if (fields.values == fields.values.round()).all():
            before = crc32(fields.values.numpy().astype("<f4").tobytes(), before)
    return before


def order(data: Any, part: str) -> list[int]:
    """Checksums of three epochs, read by one process and by two."""
    found = []
    for world in (1, 2):
        for epoch in (0, 1, 5):
            value = 0
            for rank in range(world):
                dataset = data.dataset(part)
                sampler = GroupedBatchSampler(dataset, 5, shuffle=part == "train", seed=3, rank=rank, world=world)
                sampler.set_epoch(epoch)
                for picks in sampler:
                    value = checksum(dataset[picks], value)
            found.append(value)
    return found


def forecasts(stores: tuple[str, str], **options: Any) -> ForecastData:
    return ForecastData(list(stores), **PERIODS, leads=[24, 48, 96], history=[-24, 0], **options)


CASES: dict[str, Callable[[tuple[str, str]], Any]] = {
    "windows": lambda stores: forecasts(stores, draw="all", every=48),
    "windows, leads at random": lambda stores: forecasts(
        stores, weights=[3.0, 1.0], leads_per_sample=2, horizon=Horizon(24, 60, "quadratic")
    ),
    "months": lambda stores: GapFillData(stores[0], **PERIODS, target="daily", tile=(3, 5), overlap=1, margin=2),
    "pairs of grids": lambda stores: DownscalingData(*stores, **PERIODS, history=[-24, 0], every=48),
    "pairs of patches": lambda stores: LagData(
        stores[1], **PERIODS, lags=3, patch_size=(4, 6), patches=2, times=40, fixed_epochs=1
    ),
    "patches and their means": lambda stores: SuperResolutionData(stores[1], **PERIODS, factor=2, patch_size=(4, 6)),
}

EXPECTED: dict[str, dict[str, list[int]]] = {
    "windows": {
        "train": [2724156209, 4041521916, 3732794301, 588810910, 3230854731, 3316755541],
        "validate": [23500859, 23500859, 23500859, 2511170663, 2511170663, 2511170663],
    },
    "windows, leads at random": {
        "train": [1596994515, 3348975491, 94255075, 33669701, 1497935789, 1980739712],
        "validate": [2072619276, 2072619276, 2072619276, 508607409, 508607409, 508607409],
    },
    "months": {
        "train": [53012430, 2078032678, 4103406629, 3098291714, 2417257247, 4025026048],
        "validate": [1123894216, 1123894216, 1123894216, 3322033965, 3322033965, 3322033965],
    },
    "pairs of grids": {
        "train": [115329591, 1329339807, 3946008454, 1588317762, 869760192, 2179863852],
        "validate": [3888743677, 3888743677, 3888743677, 1434081213, 1434081213, 1434081213],
    },
    "pairs of patches": {
        "train": [824750655, 4112631857, 2181347214, 3872598364, 2773313423, 640012466],
        "validate": [3377574843, 3377574843, 3377574843, 2708841203, 2708841203, 2708841203],
    },
    "patches and their means": {
        "train": [76852829, 2442982772, 2964874098, 1478991228, 2460401661, 2194827096],
        "validate": [1926472967, 1926472967, 1926472967, 3200259104, 3200259104, 3200259104],
    },
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("part", ["train", "validate"])
def test_seed_epoch_and_rank_tell_every_batch(stores: tuple[str, str], name: str, part: str) -> None:
    assert order(CASES[name](stores), part) == EXPECTED[name][part]


@pytest.mark.parametrize("name", CASES)
def test_groups_count_the_samples_of_an_epoch_and_their_picks_tell_the_group(
    stores: tuple[str, str], name: str
) -> None:
    dataset = CASES[name](stores).dataset("train")
    assert isinstance(dataset, Samples)
    picks = dataset.epoch(0, 0, shuffle=True)
    counts = np.bincount([pick.group for pick in picks], minlength=len(dataset.groups))
    assert counts.tolist() == [group.samples for group in dataset.groups]
    assert len(GroupedBatchSampler(dataset, 5, shuffle=True)) == len(
        list(GroupedBatchSampler(dataset, 5, shuffle=True))
    )
    if len(dataset.groups) > 1:
        one_of_each = [next(pick for pick in picks if pick.group == group) for group in (0, 1)]
        with pytest.raises(ValueError, match="a batch comes from one group of samples, not from 2"):
            dataset[one_of_each]


@pytest.mark.parametrize("options", [{"batch_size": 0}, {"workers": -1}])
def test_batches_without_samples_and_fewer_workers_than_none_are_refused(
    stores: tuple[str, str], options: dict[str, int]
) -> None:
    with pytest.raises(RecipeError, match=r"batch_size = \d+ must be at least 1 and workers = -?\d at least 0"):
        forecasts(stores, **options)
