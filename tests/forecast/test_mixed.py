"""Stores that differ in channels, levels, grid and calendar give one run its samples, in the shares asked for."""

from collections import Counter
from typing import Any

import lightning as L
import numpy as np
import pandas as pd
import pytest
import torch
import xarray as xr
from scipy.stats import norm

from etesian.core import Channel
from etesian.core.errors import DataError, GridError, RecipeError
from etesian.core.grid import Grid
from etesian.forecast.data import ForecastData
from etesian.forecast.task import ForecastTask
from etesian.networks.climax import ClimaX
from etesian.samples.batches import GroupedBatchSampler
from etesian.store.prepare import prepare_dataset
from etesian.store.reader import Store

PERIODS = {"train": ("2001-01-01", "2001-01-18"), "validate": ("2001-01-19", "2001-01-30")}

TINY: dict[str, Any] = {"patch": 2, "dim": 32, "depth": 1, "heads": 2, "dropout": 0.0, "drop_path": 0.0}


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Thirty days: a standard calendar on 6×12 with two levels, and 360-day years on 12×24 without the upper level."""
    made = []
    for number, (resolution, levels, calendar) in enumerate([(30.0, [500, 850], "standard"), (15.0, [850], "360_day")]):
        random, grid = np.random.default_rng(number), Grid.equiangular(resolution)
        time = xr.date_range("2001-01-01", periods=120, freq="6h", calendar=calendar, use_cftime=calendar != "standard")
        pattern = random.normal(270 + 10 * number, 5, (len(levels), *grid.shape))
        temperature = (pattern + random.normal(0, 1, (120, *pattern.shape))).astype(np.float32)
        fields = {"temperature": (("time", "level", "latitude", "longitude"), temperature, {"units": "K"})}
        flat = (temperature[:, 0] + random.normal(0, 1, (120, *grid.shape))).astype(np.float32)
        name = ("2m_temperature", "sea_surface_temperature")[number]
        fields[name] = (("time", "latitude", "longitude"), flat, {"units": "K"})
        coordinates = {"time": time, "level": levels, "latitude": grid.latitude, "longitude": grid.longitude}
        path = tmp_path_factory.mktemp("mixed") / "store.zarr"
        prepare_dataset(xr.Dataset(fields, coordinates), path, train_end="2001-01-18")
        made.append(str(path))
    return made


def data(stores: list[str], **options: object) -> ForecastData:
    chosen = {**PERIODS, "leads": [6, 24], "batch_size": 5, "history": [-6, 0]} | options
    return ForecastData(stores, **chosen)  # type: ignore[arg-type]


def test_each_store_gives_what_it_has_of_the_union(stores: list[str]) -> None:
    module = data(stores)
    names = [str(c) for c in module.layout.inputs]
    assert names == ["temperature_500", "temperature_850", "2m_temperature", "sea_surface_temperature"]
    seen = {}
    for batch in module.train_dataloader():
        frame = batch.inputs.frame
        seen[frame.calendar] = ([str(c) for c in frame.channels], frame.grid.shape)
        assert batch.targets.frame.channels == frame.channels
    assert seen == {
        "proleptic_gregorian": (["temperature_500", "temperature_850", "2m_temperature"], (6, 12)),
        "360_day": (["temperature_850", "sea_surface_temperature"], (12, 24)),
    }


def test_statistics_pool_the_values_of_all_holders(stores: list[str]) -> None:
    statistics = data(stores).statistics
    each = [Store(path) for path in stores]
    values = []
    for store in each:
        period = store.dataset.fields.sel(channel="temperature_850").isel(time=slice(72))
        values.append(period.values.astype(np.float64).ravel())
    pooled = np.concatenate(values)
    number = statistics.channels.index(Channel("temperature", 850))
    assert statistics.mean[number] == pytest.approx(pooled.mean(), rel=1e-6)
    assert statistics.std[number] == pytest.approx(pooled.std(), rel=1e-5)
    # Each grid has the cycle of the stores on it, and the mean of a channel that none of them holds.
    assert statistics.other_harmonics is not None
    for cycle, store, other in ((statistics.harmonics, *each), (statistics.other_harmonics[0], *each[::-1])):
        own = [statistics.channels.index(channel) for channel in store.channels]
        np.testing.assert_array_equal(cycle[:, own], store.statistics.harmonics)
        missing = next(channel for channel in other.channels if channel not in store.channels)
        absent = cycle[:, statistics.channels.index(missing)]
        assert absent[0] == pytest.approx(statistics.mean[statistics.channels.index(missing)])
        assert not absent[1:].any()


@pytest.mark.parametrize("weights", [[1.0, 1.0], [3.0, 1.0], [1.0, 9.0]])
def test_an_epoch_mixes_the_stores_by_weight_and_walks_through_all_samples(
    stores: list[str], weights: list[float]
) -> None:
    dataset = data(stores, weights=weights, draw="all").dataset("train")
    available = Counter(pick.store for pick in dataset.picks)
    total, seen = len(dataset.picks), Counter[tuple[int, int]]()
    for epoch in range(12):
        picks = dataset.epoch(3, epoch, shuffle=True)
        count = Counter(pick.store for pick in picks)
        assert count[0] == round(total * weights[0] / sum(weights))
        assert len(picks) == len(dataset)
        seen.update((pick.store, pick.initial) for pick in picks)
    for store in (0, 1):
        times = [seen[pick.store, pick.initial] for pick in dataset.picks if pick.store == store]
        walked = 12 * int(dataset.groups[store].samples)
        assert sum(times) == walked
        assert {*times} <= {walked // available[store], walked // available[store] + 1}


def test_every_rank_reads_only_its_share_and_all_shares_are_the_epoch(stores: list[str]) -> None:
    dataset = data(stores, weights=[2.0, 1.0]).dataset("train")
    whole = Counter((p.store, p.initial, p.leads) for p in dataset.epoch(0, 4, shuffle=True))
    shares: Counter[tuple[int, int, tuple[int, ...]]] = Counter()
    batches = []
    for rank in (0, 1, 2):
        sampler = GroupedBatchSampler(dataset, 4, shuffle=True, rank=rank, world=3)
        sampler.set_epoch(4)
        own = list(sampler)
        assert len(own) == len(sampler)
        batches.append([batch[0].store for batch in own])
        shares.update((p.store, p.initial, p.leads) for batch in own for p in batch)
    assert shares == whole
    assert batches[0] == batches[1] == batches[2]


def test_leads_are_drawn_evenly_with_the_largest_among_them(stores: list[str]) -> None:
    leads = list(range(6, 169, 6))
    dataset = data(stores[:1], leads=leads, history=[0]).dataset("train")
    early = {i for i, pick in enumerate(dataset.picks) if pick.leads == tuple(leads)}
    initial = {dataset.picks[i].initial for i in early}
    drawn = Counter[int]()
    for epoch in range(400):
        drawn.update(p.leads[0] for p in dataset.epoch(0, epoch, shuffle=True) if p.initial in initial)
    total = drawn.total()
    expected, limit = total / len(leads), norm.isf(1e-6)
    assert sorted(drawn) == leads
    for lead in leads:
        assert abs(drawn[lead] - expected) < limit * np.sqrt(expected), lead


def test_options_that_do_not_fit_the_stores_are_refused(stores: list[str]) -> None:
    with pytest.raises(RecipeError, match=r"weights \[1.0\] must be 2 numbers, one for each store, 0 or greater"):
        data(stores, weights=[1.0])
    with pytest.raises(RecipeError, match=r"store.zarr has none of the inputs; leave it out"):
        data(stores, inputs=["2m_temperature"])
    with pytest.raises(RecipeError, match="validate_leads names 12 h, which is not among the leads"):
        data(stores, validate_leads=[12])
    with pytest.raises(RecipeError, match="average_hours = 48 must be greater than 0 and within the first lead, 6"):
        data(stores, average_hours=48)


def test_averaged_targets_are_means_over_the_hours_up_to_the_lead(stores: list[str]) -> None:
    module = data(stores[:1], leads=[24, 48], average_hours=24, history=[0], draw="all")
    dataset = module.dataset("train")
    batch = dataset[dataset.picks[3:5]]
    fields = Store(stores[0]).dataset.fields.values
    for sample in (0, 1):
        start = 3 + sample
        for number, last in enumerate((4, 8)):
            expected = fields[start + last - 3 : start + last + 1].astype(np.float64).mean(0)
            np.testing.assert_allclose(batch.targets.values[sample, number], expected, rtol=1e-6)
    assert dataset.picks[-1].initial + 8 == 71
    assert module.provenance["average_hours"] == 24


def test_averages_count_only_what_is_valid_and_need_half_of_it(make_store) -> None:  # type: ignore[no-untyped-def]
    path = make_store(pd.date_range("2001-01-01", periods=120, freq="6h"), gaps=0.5)
    dataset = data([path], leads=[24], average_hours=24, history=[0]).dataset("train")
    batch = dataset[dataset.picks[:6]]
    fields = Store(path).dataset.fields.values.astype(np.float64)
    for sample in range(6):
        window = fields[sample + 1 : sample + 5]
        valid = np.isfinite(window).sum(0) >= 2
        np.testing.assert_array_equal(batch.targets.valid[sample, 0], valid)
        with np.errstate(invalid="ignore"):
            mean = np.nansum(window, axis=0) / np.isfinite(window).sum(0)
        np.testing.assert_allclose(batch.targets.values[sample, 0].numpy()[valid], mean[valid], rtol=1e-6)


def test_one_network_trains_on_both_and_both_losses_fall(stores: list[str], tmp_path) -> None:  # type: ignore[no-untyped-def]
    L.seed_everything(0)
    module = data(stores, history=[0], weights=[1.0, 1.0])

    def task(**options: object) -> ForecastTask:
        def network(layout):  # type: ignore[no-untyped-def]
            return ClimaX(layout, **TINY, **options)

        def optimizer(parameters):  # type: ignore[no-untyped-def]
            return torch.optim.AdamW(parameters, lr=5e-3)

        return ForecastTask(network, module.layout, module.statistics, optimizer=optimizer, warmup_steps=5)

    def losses(task: ForecastTask) -> dict[str, float]:
        found: dict[str, list[float]] = {}
        for batch in module.val_dataloader():
            found.setdefault(batch.inputs.frame.calendar, []).append(task.eval().loss(batch)[0].item())
        return {name: float(np.mean(values)) for name, values in found.items()}

    learner = task(any_grid=True)
    before = losses(learner)
    trainer = L.Trainer(
        max_epochs=5, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, use_distributed_sampler=False, default_root_dir=tmp_path,
    )  # fmt: skip
    trainer.fit(learner.train(), module)
    after = losses(learner)
    assert set(before) == {"proleptic_gregorian", "360_day"}
    for name, loss in before.items():
        assert after[name] < loss, name
    assert f"val_rmse/{Channel('sea_surface_temperature')}/24h" in trainer.callback_metrics
    with pytest.raises(GridError, match="no part of the network's grid"):
        losses(task())


def test_anomalies_are_about_the_cycle_of_the_grid_that_fields_are_on(stores: list[str]) -> None:
    module = data(stores)
    task = ForecastTask(lambda layout: ClimaX(layout, **TINY), module.layout, module.statistics, anomalies=True)
    seen = set()
    for batch in module.train_dataloader():
        assert batch.targets is not None
        known = task.normalized(batch).targets
        assert known is not None
        # Patterns of 5 K that stay are gone, changes of 1 K from day to day are left.
        assert float(known.values.std()) == pytest.approx(1, abs=0.2)
        back = task.normalizer.denormalize(known.values, known.frame)
        torch.testing.assert_close(back, batch.targets.values, rtol=1e-5, atol=0)
        seen.add(known.frame.grid.shape)
    assert seen == {(6, 12), (12, 24)}


def test_a_store_that_gives_nothing_to_train_on_is_refused(stores: list[str], make_store) -> None:  # type: ignore[no-untyped-def]
    later = make_store(pd.date_range("2005-01-01", periods=60, freq="6h"))
    with pytest.raises(DataError, match=r"store\d+.zarr has no window to train on; leave it out"):
        data([stores[0], later]).train_dataloader()
