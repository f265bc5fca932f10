"""Every sample is a true window of its period, drawn exactly once an epoch however the work is shared."""

from collections import Counter

import cftime
import numpy as np
import pandas as pd
import pytest
import torch
import xarray as xr
from torch.utils.data import DataLoader

from etesian.core import Layout, Region
from etesian.core.clock import parse_time
from etesian.core.errors import ChannelError, DataError
from etesian.samples.batches import GroupedBatchSampler
from etesian.samples.windows import Horizon, Period, RandomLeads, WindowDataset, WindowPick, WindowReader
from etesian.store.reader import Store

ALL = Period("2001", "2001")


def layout_of(store: Store, history: tuple[int, ...] = (0,), **options: object) -> Layout:
    chosen = {"inputs": store.channels, "targets": store.channels, "grid": store.grid, "statics": ()} | options
    return Layout(history=history, **chosen)  # type: ignore[arg-type]


def windows(path: str, leads: tuple[int, ...] = (6, 12, 24), history: tuple[int, ...] = (0,), **options: object):  # type: ignore[no-untyped-def]
    store = Store(path)
    period = options.pop("period", ALL)
    return WindowDataset([store], layout_of(store, history), leads, period, **options)  # type: ignore[arg-type]


def key(pick: WindowPick) -> tuple[int, int, tuple[int, ...]]:
    return pick.store, pick.initial, pick.leads


def test_a_batch_holds_the_fields_at_its_times_in_physical_units(gappy_store: str) -> None:
    store = Store(gappy_store)
    inputs, targets = store.resolve(["surface_pressure", "temperature_500"]), store.resolve(["temperature_850"])
    grid = store.grid.crop(Region(-50, 50, 300, 60))
    layout = layout_of(store, (-12, 0), inputs=inputs, targets=targets, grid=grid, statics=store.static_channels)
    batch = WindowDataset([store], layout, (6, 24), ALL)[[WindowPick(0, 9, (6, 24)), WindowPick(0, 2, (6, 24))]]
    plain = xr.open_zarr(gappy_store).sel(latitude=slice(-50, 50)).isel(longitude=[7, 0, 1])
    expected = plain["fields"].values[[[7, 9], [0, 2]]][:, :, [2, 0]]
    assert batch.inputs.valid is not None
    np.testing.assert_array_equal(batch.inputs.filled(float("nan")), expected)
    assert np.isfinite(batch.inputs.values).all()
    np.testing.assert_array_equal(batch.inputs.valid, np.isfinite(expected))
    assert batch.targets is not None
    np.testing.assert_array_equal(
        batch.targets.filled(float("nan")), plain["fields"].values[[[10, 13], [3, 6]]][:, :, [1]]
    )
    assert batch.inputs.frame.time.tolist() == store.time[[[7, 9], [0, 2]]].tolist()
    assert batch.targets.frame.time.tolist() == store.time[[[10, 13], [3, 6]]].tolist()
    assert batch.statics is not None
    np.testing.assert_array_equal(batch.statics.values[1, 0], plain["statics"].values)


def test_a_complete_store_needs_no_mask(store: str) -> None:
    batch = windows(store)[[WindowPick(0, 3, (6,))]]
    assert batch.inputs.valid is None
    assert np.isfinite(batch.inputs.values).all()


@pytest.mark.parametrize("draw", [None, RandomLeads()])
def test_only_windows_whose_every_time_exists_are_used(make_store, draw: RandomLeads | None) -> None:  # type: ignore[no-untyped-def]
    time = pd.date_range("2001-01-01", periods=40, freq="6h").delete([7, 20, 21])
    dataset = windows(make_store(time), (6, 24), (-6, 0), draw=draw)
    known = set(dataset.stores[0].time.tolist())
    hour = 3600
    starts = [t for t in sorted(known) if t - 6 * hour in known]
    wanted = {t: [lead for lead in (6, 24) if t + lead * hour in known] for t in starts}
    wanted = {t: leads for t, leads in wanted.items() if len(leads) == 2 or (draw and leads)}
    assert {int(dataset.stores[0].time[p.initial]): list(p.leads) for p in dataset.picks} == wanted
    dataset[dataset.epoch(0, 0, shuffle=True)]


@pytest.mark.parametrize("draw", [None, RandomLeads()])
def test_no_window_leaves_its_period(store: str, draw: RandomLeads | None) -> None:
    dataset = windows(store, (6, 24), (-12, 0), period=Period("2001-01-04", "2001-01-07"), draw=draw)
    first, last = parse_time("2001-01-04", "proleptic_gregorian"), parse_time("2001-01-08", "proleptic_gregorian")
    used = set()
    for pick in dataset.picks:
        initial = int(dataset.stores[0].time[pick.initial])
        used |= {initial + 3600 * hours for hours in (-12, 0, *pick.leads)}
    assert first == min(used)
    assert max(used) == last - 6 * 3600


def test_every_spaces_initial_times_from_the_first_even_at_noon(make_store) -> None:  # type: ignore[no-untyped-def]
    daily = windows(make_store(pd.date_range("2001-01-01T12", periods=12, freq="1D")), (24,), every=48)
    assert np.unique(np.diff([p.initial for p in daily.picks])).tolist() == [2]
    assert daily.picks[0].initial == 0


def test_random_leads_come_from_the_whole_list_ends_included(store: str) -> None:
    dataset = windows(store, (6, 12, 18, 24), draw=RandomLeads())
    drawn = Counter(pick.leads for epoch in range(40) for pick in dataset.epoch(0, epoch, shuffle=True))
    assert set(drawn) == {(6,), (12,), (18,), (24,)}
    assert max(drawn.values()) / min(drawn.values()) < 1.25
    once = dataset.epoch(0, 0, shuffle=True)
    assert sorted(p.initial for p in once) == [p.initial for p in dataset.picks]


def test_of_several_leads_one_comes_from_each_part_of_the_list(store: str) -> None:
    dataset = windows(store, (6, 12, 18, 24), draw=RandomLeads(2), period=Period("2001", "2001-01-14"))
    drawn = Counter(pick.leads for epoch in range(40) for pick in dataset.epoch(0, epoch, shuffle=True))
    whole = {leads for leads in drawn if leads[0] <= 12 and leads[1] >= 18}
    assert whole == {(6, 18), (6, 24), (12, 18), (12, 24)}
    assert sum(drawn[leads] for leads in whole) / drawn.total() > 0.9
    assert dataset[dataset.epoch(0, 0, shuffle=True)].targets.values.shape[:2] == (len(dataset), 2)


@pytest.mark.parametrize(("growth", "halfway"), [("linear", 18), ("quadratic", 12)])
def test_the_horizon_grows_with_the_batches_and_not_with_the_number_of_processes(
    store: str, growth: str, halfway: int
) -> None:
    leads = tuple(range(6, 36, 6))
    dataset = windows(store, leads, draw=RandomLeads(horizon=Horizon(6, 16, growth)))  # type: ignore[arg-type]
    course: list[dict[int, list[tuple[int, ...]]]] = []
    for world in (1, 2):
        longest: dict[int, list[tuple[int, ...]]] = {}
        for rank in range(world):
            sampler = GroupedBatchSampler(dataset, 8 // world, shuffle=True, rank=rank, world=world)
            for epoch in range(3):
                sampler.set_epoch(epoch)
                for number, batch in enumerate(sampler):
                    longest.setdefault(epoch * len(sampler) + number, []).extend(pick.leads for pick in batch)
        course.append({number: sorted(found) for number, found in longest.items()})
    assert course[0] == course[1]
    assert len(course[0]) == 24
    largest = {number: max(found)[0] for number, found in course[0].items()}
    assert largest[0] == 6
    assert largest[8] == halfway
    assert {found[0] for number in range(16, 24) for found in course[0][number]} == set(leads)
    for number in range(24):
        reach = 6 + 24 * min((number + 1) / 16, 1) ** (2 if growth == "quadratic" else 1)
        assert largest[number] <= reach


def test_an_epoch_depends_on_seed_and_number_alone(store: str) -> None:
    dataset = windows(store, draw=RandomLeads())
    first = dataset.epoch(1, 0, shuffle=True)
    assert first == windows(store, draw=RandomLeads()).epoch(1, 0, shuffle=True)
    for other in (dataset.epoch(1, 1, shuffle=True), dataset.epoch(2, 0, shuffle=True)):
        assert [p.initial for p in other] != [p.initial for p in first]
        assert [p.leads for p in sorted(other, key=key)] != [p.leads for p in sorted(first, key=key)]
    assert [p.initial for p in dataset.epoch(1, 0, shuffle=False)] == [p.initial for p in dataset.picks]


@pytest.mark.parametrize("batch_size", [1, 4, 7, 100])
@pytest.mark.parametrize("world", [1, 2, 3])
@pytest.mark.parametrize("several", [False, True])
def test_all_ranks_together_see_every_sample_once(make_store, world: int, batch_size: int, several: bool) -> None:  # type: ignore[no-untyped-def]
    stores = [Store(make_store())]
    if several:
        stores.append(Store(make_store(pd.date_range("2001-03-01", periods=11, freq="6h"), seed=1)))
    dataset = WindowDataset(stores, layout_of(stores[0]), (6, 12), ALL, draw=RandomLeads())
    samplers = [
        GroupedBatchSampler(dataset, batch_size, shuffle=True, seed=3, rank=rank, world=world) for rank in range(world)
    ]
    for sampler in samplers:
        sampler.set_epoch(5)
    batches = [list(sampler) for sampler in samplers]
    assert [len(share) for share in batches] == [len(sampler) for sampler in samplers] == [len(batches[0])] * world
    seen = [pick for share in batches for batch in share for pick in batch]
    assert sorted(map(key, seen)) == sorted(map(key, dataset.epoch(3, 5, shuffle=True)))
    for together in zip(*batches, strict=True):
        assert len({pick.store for batch in together for pick in batch}) == 1
    for number in range(len(stores)):
        sizes = {len(batch) for share in batches for batch in share if batch[0].store == number}
        assert max(sizes) - min(sizes) <= 1
        assert min(sizes) >= 1
        assert max(sizes) <= batch_size + (batch_size == 1)


def test_a_store_with_fewer_samples_than_processes_is_refused(make_store) -> None:  # type: ignore[no-untyped-def]
    small = make_store(pd.date_range("2001-03-01", periods=3, freq="6h"))
    stores = [Store(make_store()), Store(small)]
    dataset = WindowDataset(stores, layout_of(stores[0]), (6,), ALL)
    with pytest.raises(DataError, match=r"the 2 samples of .* cannot be shared by 3 processes"):
        GroupedBatchSampler(dataset, 4, shuffle=True, world=3)


@pytest.mark.parametrize("workers", [2])
def test_the_number_of_workers_changes_nothing(gappy_store: str, workers: int) -> None:
    def epoch(workers: int) -> list[torch.Tensor]:
        dataset = windows(gappy_store, draw=RandomLeads())
        sampler = GroupedBatchSampler(dataset, 16, shuffle=True, seed=1)
        loader = DataLoader(dataset, sampler=sampler, batch_size=None, num_workers=workers)
        return [tensor for batch in loader for tensor in (batch.targets.values, batch.targets.frame.time)]

    alone, shared = epoch(0), epoch(workers)
    assert len(alone) == len(shared) == 8
    assert all(torch.equal(a, b) for a, b in zip(alone, shared, strict=True))


def test_times_without_leap_days_make_windows(make_store) -> None:  # type: ignore[no-untyped-def]
    time = xr.date_range("2001-02-20", periods=30, freq="1D", calendar="360_day", use_cftime=True)
    dataset = windows(make_store(time), (24, 48), period=Period("2001-02-25", "2001-02"))
    dates = dataset.stores[0].times([pick.initial for pick in dataset.picks])
    assert dates.tolist() == [cftime.Datetime360Day(2001, 2, day) for day in range(25, 29)]
    assert dataset[dataset.picks].inputs.frame.calendar == "360_day"


def test_a_lead_beyond_the_data_is_named(store: str) -> None:
    for draw in (None, RandomLeads()):
        with pytest.raises(
            DataError, match=r"leads of .*480\] h lies within 2001 to 2001; .* 2001-01-01T00:00 to 2001"
        ):
            windows(store, (6, 480), draw=draw)
    with pytest.raises(DataError, match="ends before it starts"):
        windows(store, period=Period("2001-02", "2001-01"))


def test_a_channel_or_time_that_the_store_lacks_is_refused(make_store, store: str) -> None:  # type: ignore[no-untyped-def]
    full = Store(store)
    layout = layout_of(full, inputs=(full.channels[0]._replace(level=700),))
    with pytest.raises(ChannelError, match="no channel 'temperature_700'; did you mean 'temperature_"):
        WindowReader(full, layout)
    for late in (0, 10_000):
        with pytest.raises(DataError, match="does not hold every time that a sample needs"):
            WindowReader(full, layout_of(full)).start(full.time[-1:] + 3600 + late * 3600)
