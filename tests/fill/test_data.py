"""Months as samples: every time in its place, land never observed, hidden points the same whoever reads them."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import xarray as xr

from etesian.core import Batch, Channel, Grid
from etesian.core.clock import parse_time
from etesian.core.errors import DataError, GridError, RecipeError
from etesian.files.open import open_store
from etesian.fill.data import GapFillData
from etesian.fill.months import LAND, MonthAxis, Tiling, month_starts
from etesian.samples.batches import GroupedBatchSampler
from etesian.samples.windows import Period
from etesian.simulation.clouds import CloudLibrary
from etesian.store.prepare import prepare_dataset
from etesian.store.reader import Store

pytestmark = pytest.mark.filterwarnings("ignore::zarr.errors.ZarrUserWarning")
SST = "sea_surface_temperature"
GRID = Grid(np.arange(30, 38.0), np.arange(10, 22.0))
PERIODS: dict[str, Any] = {"train": ("2001-01", "2001-06"), "validate": ("2001-07", "2001-09")}


def sea(
    time: Any = None, *, cloud: float = 0.0, land: bool = True, mask: bool = True, grid: Grid = GRID, seed: int = 0
) -> xr.Dataset:
    """A sea that warms by 0.1 K a time, under clouds in blocks; the first column is land."""
    time = pd.date_range("2001-01-01", "2001-12-31") if time is None else time
    random = np.random.default_rng(seed)
    rows, columns = grid.shape
    values = 280 + 0.1 * np.arange(len(time))[:, None, None] + random.random((len(time), rows, columns))
    blocks = random.random((len(time), -(-rows // 2), -(-columns // 2))) < cloud
    values[np.repeat(np.repeat(blocks, 2, axis=1), 2, axis=2)[:, :rows, :columns]] = np.nan
    lsm = np.zeros(grid.shape)
    if land:
        lsm[:, 0] = 1
        values[:, :, 0] = np.nan
    dims = ("time", "latitude", "longitude")
    fields: dict[str, Any] = {SST: (dims, values.astype(np.float32), {"units": "K"})}
    if mask:
        fields["land_sea_mask"] = (dims[1:], lsm.astype(np.float32), {"units": "1"})
    return xr.Dataset(fields, {"time": time, "latitude": grid.latitude, "longitude": grid.longitude})


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """Cloudy, with a day without any observation, and complete."""
    folder = tmp_path_factory.mktemp("sea")
    cloudy = sea(cloud=0.5)
    cloudy[SST][9] = np.nan
    prepare_dataset(cloudy, folder / "seen.zarr")
    prepare_dataset(sea(), folder / "truth.zarr")
    return str(folder / "seen.zarr"), str(folder / "truth.zarr")


def batches(data: GapFillData, part: str = "train", seed: int = 0, epoch: int = 0, size: int = 2) -> list[Batch]:
    dataset = data.dataset(part)
    sampler = GroupedBatchSampler(dataset, size, shuffle=part == "train", seed=seed)
    sampler.set_epoch(epoch)
    return [dataset[picks] for picks in sampler]


def by_month(data: GapFillData, part: str = "train") -> dict[str, tuple[Batch, int]]:
    found = {}
    for batch in batches(data, part):
        for i, time in enumerate(batch.inputs.frame.time[:, 0].tolist()):
            found[str(np.datetime64(time, "s"))[:7]] = batch, i
    return found


def same(a: Batch, b: Batch) -> bool:
    pairs = zip(a.parts(), b.parts(), strict=True)
    return all(
        x is None or (torch.equal(x.values, y.values) and torch.equal(x.frame.time, y.frame.time)) for x, y in pairs
    )


def test_a_month_is_in_its_place_and_what_follows_it_is_not_of_it(stores: tuple[str, str]) -> None:
    data = GapFillData(stores[0], **PERIODS, truth=stores[1])
    samples = by_month(data)
    assert sorted(samples) == [f"2001-{month:02d}" for month in range(1, 7)]
    seen, truth = (xr.open_zarr(path).fields[:, 0] for path in stores)
    batch, i = samples["2001-02"]
    assert batch.inputs.values.shape[1] == 31
    assert (np.diff(batch.inputs.frame.time) == 86400).all()
    assert batch.inputs.valid is not None
    assert not batch.inputs.valid[i, 28:].any()
    assert (batch.inputs.values[i, 28:] == 0).all()
    february = seen.sel(time="2001-02").values
    np.testing.assert_array_equal(batch.inputs.valid[i, :28, 0], np.isfinite(february))
    np.testing.assert_array_equal(batch.inputs.values[i, :28, 0], np.nan_to_num(february))
    assert batch.targets is not None
    assert batch.targets.frame.time[i].tolist() == [parse_time("2001-02", "standard")]
    mean = truth.sel(time="2001-02").mean("time").values
    np.testing.assert_allclose(batch.targets.values[i, 0, 0], np.nan_to_num(mean), rtol=1e-6)


def test_a_day_without_observation_and_a_day_past_the_months_end_say_the_same(stores: tuple[str, str]) -> None:
    batch, i = by_month(GapFillData(stores[0], **PERIODS, truth=stores[1]))["2001-01"]
    assert batch.inputs.valid is not None
    assert not batch.inputs.valid[i, 9].any()
    assert (batch.inputs.values[i, 9] == 0).all()


def test_land_never_counts_as_observed_even_where_the_file_has_values_on_it(tmp_path: Path) -> None:
    wrong = sea(cloud=0.3, land=False)
    wrong["land_sea_mask"][:, :3] = 1
    prepare_dataset(wrong, tmp_path / "seen.zarr")
    for target in ("monthly", "daily"):
        for batch in batches(GapFillData(str(tmp_path / "seen.zarr"), **PERIODS, target=target)):  # type: ignore[arg-type]
            assert batch.targets is not None
            assert batch.targets.valid is not None
            assert batch.inputs.valid is not None
            for valid in (batch.inputs.valid, batch.targets.valid):
                assert not valid[..., :3].any()
                assert valid[..., 3:].any()


@pytest.mark.parametrize("truth", [True, False])
def test_where_no_mask_is_given_land_is_what_was_never_seen(tmp_path: Path, truth: bool) -> None:
    prepare_dataset(sea(cloud=0.5, mask=False), tmp_path / "seen.zarr")
    prepare_dataset(sea(mask=False), tmp_path / "truth.zarr")
    data = GapFillData(str(tmp_path / "seen.zarr"), **PERIODS, truth=str(tmp_path / "truth.zarr") if truth else None)
    assert data.layout.statics == (LAND,)
    batch = batches(data)[0]
    assert batch.statics is not None
    expected = np.zeros(GRID.shape)
    expected[:, 0] = 1
    np.testing.assert_array_equal(batch.statics.values[0, 0, 0], expected)


def test_daily_targets_are_the_truth_at_the_times_of_the_inputs(stores: tuple[str, str]) -> None:
    batch, i = by_month(GapFillData(stores[0], **PERIODS, truth=stores[1], target="daily"))["2001-04"]
    assert batch.targets is not None
    assert batch.targets.valid is not None
    assert torch.equal(batch.targets.frame.time, batch.inputs.frame.time)
    assert not batch.targets.valid[i, 30:].any()
    np.testing.assert_array_equal(
        batch.targets.values[i, :30, 0], np.nan_to_num(xr.open_zarr(stores[1]).fields[90:120, 0].values)
    )
    assert batch.targets.valid[i, :30, 0, :, 1:].all()


def test_without_a_truth_hidden_points_are_what_counts_and_the_network_does_not_see_them(
    stores: tuple[str, str],
) -> None:
    seen = xr.open_zarr(stores[0]).fields[:, 0]
    shares = []
    for batch in batches(GapFillData(stores[0], **PERIODS, target="daily")):
        assert batch.targets is not None
        assert batch.targets.valid is not None
        assert batch.inputs.valid is not None
        assert not (batch.targets.valid & batch.inputs.valid).any()
        for i, time in enumerate(batch.inputs.frame.time[:, 0].tolist()):
            month = seen.sel(time=str(np.datetime64(time, "s"))[:7]).values
            known = np.isfinite(month)
            either = (batch.targets.valid | batch.inputs.valid)[i, : len(month), 0]
            np.testing.assert_array_equal(either, known)
            hidden = batch.targets.valid[i, : len(month), 0].numpy()
            np.testing.assert_array_equal(batch.targets.values[i, : len(month), 0][hidden], month[hidden])
            shares.append(hidden.sum() / known.sum())
    # Half of the days, under clouds that cover half: a quarter.
    assert np.mean(shares) == pytest.approx(0.25, abs=0.06)


def test_hidden_points_have_the_shape_of_other_days_clouds(stores: tuple[str, str]) -> None:
    """Clouds come in blocks of 2x2, so that of a block all that is seen is hidden or nothing."""
    for batch in batches(GapFillData(stores[0], **PERIODS, target="daily")):
        assert batch.targets is not None
        assert batch.targets.valid is not None
        blocks = batch.targets.valid[..., 2:].unflatten(-1, (-1, 2)).unflatten(-3, (-1, 2)).float().mean(dim=(-1, -3))
        assert set(blocks.unique().tolist()) <= {0.0, 1.0}


def test_a_month_without_truth_is_the_mean_of_the_days_observed_freed_of_the_season_between_them(
    tmp_path: Path,
) -> None:
    time = pd.date_range("2001-01-01", "2004-12-31")
    cycle = 10 * np.cos(2 * np.pi * (np.arange(len(time)) % 365) / 365)
    fields = sea(time, land=False)
    fields[SST][:] = 290 + cycle[:, None, None]
    whole = fields[SST].sel(time="2003-04").mean("time").values
    # Of April, only the first third is seen.
    fields[SST].loc["2003-04-11":"2003-04-30"] = np.nan
    fields[SST].loc["2003-05-04":"2003-05-31"] = np.nan
    prepare_dataset(fields, tmp_path / "seen.zarr")
    data = GapFillData(
        str(tmp_path / "seen.zarr"), train=("2001-01", "2002-12"), validate=("2003-01", "2004-12"), min_days=5
    )
    samples = by_month(data, "validate")
    batch, i = samples["2003-04"]
    assert batch.targets is not None
    assert batch.targets.valid is not None
    first = float(fields[SST].sel(time="2003-04").mean())
    assert abs(first - whole).min() > 1
    np.testing.assert_allclose(batch.targets.values[i, 0, 0], whole, atol=0.2)
    batch, i = samples["2003-05"]
    assert batch.targets is not None
    assert batch.targets.valid is not None
    assert not batch.targets.valid[i].any()


def test_what_is_hidden_depends_on_seed_epoch_and_sample_alone(stores: tuple[str, str]) -> None:
    data = GapFillData(stores[0], **PERIODS, tile=(4, 6))
    dataset = data.dataset("train")

    def read(rank: int, world: int, epoch: int, seed: int = 0) -> dict[tuple[Any, ...], Batch]:
        sampler = GroupedBatchSampler(dataset, 1, shuffle=True, seed=seed, rank=rank, world=world)
        sampler.set_epoch(epoch)
        return {(picks[0].tile, picks[0].start): dataset[picks] for picks in sampler}

    alone = read(0, 1, 3)
    shared = read(0, 2, 3) | read(1, 2, 3)
    assert alone.keys() == shared.keys()
    assert all(same(alone[key], shared[key]) for key in alone)
    later = read(0, 1, 4)
    assert not any(same(alone[key], later[key]) for key in alone)
    assert not any(same(alone[key], batch) for key, batch in read(0, 1, 3, seed=1).items())


def test_workers_read_the_same_batches(stores: tuple[str, str]) -> None:
    options = {**PERIODS, "target": "daily", "batch_size": 3}
    alone = list(GapFillData(stores[0], **options).train_dataloader())
    helped = list(GapFillData(stores[0], **options, workers=2).train_dataloader())
    assert len(alone) == 2
    assert all(same(a, b) for a, b in zip(alone, helped, strict=True))


def test_validation_hides_the_same_in_every_epoch_and_nothing_where_there_is_a_truth(stores: tuple[str, str]) -> None:
    data = GapFillData(stores[0], **PERIODS, target="daily")
    assert all(same(a, b) for a, b in zip(batches(data, "validate"), batches(data, "validate", epoch=5), strict=True))
    data = GapFillData(stores[0], **PERIODS, truth=stores[1], hide=0.5)
    seen = int(np.isfinite(xr.open_zarr(stores[0]).fields.sel(time=slice("2001-07", "2001-09"))).sum())
    assert sum(int(b.inputs.valid.sum()) for b in batches(data, "validate") if b.inputs.valid is not None) == seen
    seen = int(np.isfinite(xr.open_zarr(stores[0]).fields.sel(time=slice("2001-01", "2001-06"))).sum())
    assert sum(int(b.inputs.valid.sum()) for b in batches(data) if b.inputs.valid is not None) < 0.9 * seen


def test_several_months_follow_one_another_without_a_gap(stores: tuple[str, str]) -> None:
    data = GapFillData(stores[0], **PERIODS, truth=stores[1], months=2)
    samples = by_month(data)
    assert sorted(samples) == [f"2001-{month:02d}" for month in range(1, 6)]
    batch, i = samples["2001-02"]
    assert batch.inputs.values.shape[1] == 62
    assert batch.inputs.valid is not None
    assert batch.inputs.valid[i, 58].any()
    assert not batch.inputs.valid[i, 59:].any()
    assert batch.targets is not None
    assert batch.targets.frame.time[i].tolist() == [parse_time(f"2001-{month:02d}", "standard") for month in (2, 3)]
    means = xr.open_zarr(stores[1]).fields[:, 0].sel(time=slice("2001-02", "2001-03")).groupby("time.month").mean()
    np.testing.assert_allclose(batch.targets.values[i, :, 0, :, 1:], means[:, :, 1:], rtol=1e-6)
    # The three months to validate on are two stretches of two, which share one.
    assert sorted(by_month(data, "validate")) == ["2001-07", "2001-08"]


@pytest.mark.parametrize("target", ["monthly", "daily"])
def test_a_margin_gives_the_days_around_a_month_but_asks_for_none_of_them(stores: tuple[str, str], target: Any) -> None:
    wide, narrow = (
        by_month(GapFillData(stores[0], **PERIODS, truth=stores[1], target=target, margin=margin)) for margin in (4, 0)
    )
    batch, i = wide["2001-01"]  # named by its first day, 28 January
    alone, j = narrow["2001-02"]
    assert batch.inputs.values.shape[1] == 31 + 8
    assert batch.inputs.valid is not None
    assert not batch.inputs.valid[i, 36:].any()
    seen = xr.open_zarr(stores[0]).fields[:, 0].sel(time=slice("2001-01-28", "2001-03-04")).values
    np.testing.assert_array_equal(batch.inputs.values[i, :36, 0], np.nan_to_num(seen))
    assert batch.targets is not None
    assert batch.targets.valid is not None
    assert alone.targets is not None
    own = slice(4, 35) if target == "daily" else slice(None)
    assert torch.equal(batch.targets.values[i, own], alone.targets.values[j])
    if target == "daily":
        assert np.flatnonzero(batch.targets.valid[i].any(dim=(1, 2, 3))).tolist() == list(range(4, 32))
    # The first month of a period has nothing before it, the last nothing after it.
    first, last = wide["2000-12"], wide["2001-05"]
    for (sample, k), days in ((first, slice(4)), (last, slice(34, None))):
        assert sample.inputs.valid is not None
        assert not sample.inputs.valid[k, days].any()


def test_months_of_a_model_calendar_have_30_days_and_hours_fill_744_times(tmp_path: Path) -> None:
    time = xr.date_range("2001-01-01", periods=360, calendar="360_day", use_cftime=True)
    prepare_dataset(sea(time, cloud=0.3), tmp_path / "model.zarr")
    for batch in batches(GapFillData(str(tmp_path / "model.zarr"), **PERIODS)):
        assert batch.inputs.values.shape[1] == 30
        assert batch.inputs.valid is not None
        assert batch.inputs.valid.any(dim=(2, 3, 4)).all()
    hours = pd.date_range("2001-02-01", "2001-04-30T23", freq="h")
    prepare_dataset(sea(hours, cloud=0.3), tmp_path / "hours.zarr")
    periods: dict[str, Any] = {"train": ("2001-02", "2001-03"), "validate": ("2001-04", "2001-04")}
    samples = by_month(GapFillData(str(tmp_path / "hours.zarr"), **periods))
    for month, count in (("2001-02", 672), ("2001-03", 744)):
        batch, i = samples[month]
        assert batch.inputs.valid is not None
        assert batch.inputs.valid[i].any(dim=(1, 2, 3)).tolist() == [True] * count + [False] * (744 - count)


def test_times_that_a_store_lacks_are_times_without_observation(tmp_path: Path) -> None:
    time = pd.date_range("2001-01-01", "2001-04-30", freq="1D") + pd.Timedelta("12h")
    time = time.delete([4, *range(59, 90)])
    prepare_dataset(sea(time), tmp_path / "seen.zarr")
    periods: dict[str, Any] = {"train": ("2001-01", "2001-03"), "validate": ("2001-04", "2001-04")}
    data = GapFillData(str(tmp_path / "seen.zarr"), **periods, target="daily")
    samples = by_month(data)
    assert sorted(samples) == ["2001-01", "2001-02"]  # of March there is nothing
    batch, i = samples["2001-01"]
    assert batch.inputs.frame.time[i, 4].item() == parse_time("2001-01-05T12", "standard")
    assert batch.inputs.valid is not None
    assert not batch.inputs.valid[i, 4].any()
    with pytest.raises(DataError, match="no 1 whole month with data in 2001-03 to 2001-03"):
        MonthAxis(Store(tmp_path / "seen.zarr")).windows(Period("2001-03", "2001-03"), 1, 1)


def test_times_that_do_not_fit_into_days_are_refused(tmp_path: Path) -> None:
    prepare_dataset(sea(pd.date_range("2001-01-01", periods=50, freq="7h")), tmp_path / "odd.zarr")
    with pytest.raises(
        DataError, match=r"odd.zarr are not 7 h apart or multiples of it that fill a day; .* --every 24"
    ):
        MonthAxis(Store(tmp_path / "odd.zarr"))


def test_a_period_counts_the_months_that_lie_in_it_whole() -> None:
    first, last = Period("2000-12-15", "2001-03-30").seconds("standard")
    assert month_starts(first, last, "standard").tolist() == [
        parse_time(f"2001-{month:02d}", "standard") for month in (1, 2)
    ]
    assert len(month_starts(*Period("2001-01", "2002-12").seconds("360_day"), "360_day")) == 24


def test_days_belong_to_the_period_that_they_lie_in_and_are_hidden_from_the_other(stores: tuple[str, str]) -> None:
    periods: dict[str, Any] = {"train": ("2001-01-05", "2001-02-20"), "validate": ("2001-02-21", "2001-02-25")}
    data = GapFillData(stores[0], **periods, truth=stores[1], target="daily")
    samples = by_month(data)
    assert sorted(samples) == ["2001-01", "2001-02"]
    for month, days in (("2001-01", range(4, 31)), ("2001-02", range(20))):
        batch, i = samples[month]
        assert batch.targets is not None
        assert batch.targets.valid is not None
        assert np.flatnonzero(batch.targets.valid[i].any(dim=(1, 2, 3))).tolist() == list(days)
        assert batch.inputs.valid is not None
        assert set(np.flatnonzero(batch.inputs.valid[i].any(dim=(1, 2, 3)))) <= set(days)
    batch, i = by_month(data, "validate")["2001-02"]
    assert batch.inputs.valid is not None
    assert np.flatnonzero(batch.inputs.valid[i].any(dim=(1, 2, 3))).tolist() == [20, 21, 22, 23, 24]
    # The means of months are learned of whole months only.
    with pytest.raises(DataError, match="no 1 whole month with data in 2001-02-21 to 2001-02-25"):
        GapFillData(stores[0], **periods, truth=stores[1]).dataset("validate")


def test_tiles_overlap_cover_the_grid_and_those_without_sea_are_left_out(
    stores: tuple[str, str], tmp_path: Path
) -> None:
    data = GapFillData(stores[0], **PERIODS, truth=stores[1], tile=(4, 5), overlap=2)
    assert len(data.tiling.tiles) == 3 * 4
    found = batches(data)
    assert {batch.inputs.frame.grid.shape for batch in found} == {(4, 5)}
    truth = xr.open_zarr(stores[1])
    for batch in found:
        grid = batch.inputs.frame.grid
        assert batch.targets is not None
        assert batch.statics is not None
        month = str(np.datetime64(int(batch.targets.frame.time[0, 0]), "s"))[:7]
        own = truth.fields[:, 0].sel(latitude=grid.latitude, longitude=grid.longitude)
        np.testing.assert_allclose(
            batch.targets.values[0, 0, 0], np.nan_to_num(own.sel(time=month).mean("time")), rtol=1e-6
        )
        assert batch.statics.frame.grid == grid
    ashore = sea(cloud=0.2)
    ashore["land_sea_mask"][:, :6] = 1
    prepare_dataset(ashore, tmp_path / "coast.zarr")
    halves = GapFillData(str(tmp_path / "coast.zarr"), **PERIODS, tile=(8, 6))
    assert len(halves.tiling.tiles) == 2
    assert {batch.inputs.frame.grid.longitude[0] for batch in batches(halves)} == {16}


def test_tiles_reach_across_the_date_line_and_every_longitude_counts_the_same() -> None:
    tiling = Tiling(Grid.equiangular(15), (12, 10), 2)
    assert len(tiling.tiles) == 3
    last = tiling.tiles[-1]
    assert last.columns.tolist() == [16, 17, 18, 19, 20, 21, 22, 23, 0, 1]
    assert last.grid.longitude.tolist() == list(np.arange(16, 26) * 15.0)
    covered = np.zeros(24)
    for tile in tiling.tiles:
        covered[tile.columns] += 1
    assert (covered >= 1).all()
    assert covered.sum() == 30
    assert (tiling.coverage > 0).all()


@pytest.mark.parametrize("shape", [(31, 47), (16, 16), (17, 40)])
def test_tiles_cover_every_point_share_at_least_the_overlap_and_weigh_little_at_their_edges(
    shape: tuple[int, int],
) -> None:
    grid = Grid(np.arange(shape[0]), np.arange(shape[1]))
    tiling = Tiling(grid, (16, 16), 6)
    assert (tiling.coverage > 0).all()
    starts = sorted({int(tile.columns[0]) for tile in tiling.tiles})
    assert starts[0] == 0
    assert starts[-1] == shape[1] - 16
    assert (np.diff(starts) <= 10).all()
    for tile in tiling.tiles:
        share = tile.weights / tiling.coverage[np.ix_(tile.rows, tile.columns)]
        if tile.columns[0] > 0:
            assert share[8, 0] < 0.05
        if tile.rows[-1] < shape[0] - 1:
            assert share[-1, 8] < 0.05


def test_clouds_of_another_data_set_can_be_laid(stores: tuple[str, str], tmp_path: Path) -> None:
    gaps = sea(pd.date_range("2010-01-01", periods=4), land=False, mask=False, grid=Grid(np.arange(5), np.arange(4)))
    gaps[SST][:2, :, :2] = np.nan
    gaps.to_netcdf(tmp_path / "clouds.nc")
    data = GapFillData(stores[0], **PERIODS, target="daily", clouds=str(tmp_path / "clouds.nc"), hide=1.0)
    assert isinstance(data.library, CloudLibrary)
    assert len(data.library.masks) == 2
    batch = batches(data)[0]
    assert batch.targets is not None
    assert batch.targets.valid is not None
    assert batch.inputs.valid is not None
    hidden = batch.targets.valid.any(dim=3)
    visible = batch.inputs.valid.any(dim=3)
    # The stripes run through: of a column, all that is seen is hidden, or nothing.
    assert not (hidden & visible).any()
    assert hidden.any()


def test_a_region_is_cut_into_tiles_of_its_own(stores: tuple[str, str]) -> None:
    data = GapFillData(stores[0], **PERIODS, truth=stores[1], region="32,35,14,19", tile=(4, 3))
    assert data.layout.grid.shape == (4, 6)
    assert {tuple(b.inputs.frame.grid.longitude) for b in batches(data)} == {(14, 15, 16), (17, 18, 19)}
    assert data.statistics.harmonics is not None
    assert data.statistics.harmonics.shape == (5, 2, 4, 6)


def test_statistics_are_the_observations_own_and_a_sea_without_land_has_some_too(tmp_path: Path) -> None:
    prepare_dataset(sea(cloud=0.4, land=False), tmp_path / "seen.zarr")
    statistics = GapFillData(str(tmp_path / "seen.zarr"), **PERIODS).statistics
    store = xr.open_zarr(tmp_path / "seen.zarr")
    assert statistics.channels == (Channel(SST), LAND)
    np.testing.assert_array_equal(statistics.mean, [store["mean"][0], 0])
    np.testing.assert_array_equal(statistics.std, [store["std"][0], 1])
    assert statistics.harmonics is not None
    np.testing.assert_array_equal(statistics.harmonics[:, :1], store.harmonics)


def test_what_does_not_fit_together_is_said(stores: tuple[str, str], tmp_path: Path) -> None:
    small = Grid(np.arange(30, 34.0), np.arange(10, 16.0))
    prepare_dataset(sea(grid=small), tmp_path / "small.zarr")
    with pytest.raises(RecipeError, match=r"seen.zarr lies on 8×12 .* regrid one"):
        GapFillData(stores[0], **PERIODS, truth=str(tmp_path / "small.zarr"))
    with pytest.raises(GridError, match=r"tiles of 9×4 do not fit on the 8 rows"):
        GapFillData(stores[0], **PERIODS, tile=(9, 4))
    with pytest.raises(GridError, match=r"an overlap of 3 is more than half of the 4 rows"):
        GapFillData(stores[0], **PERIODS, tile=(4, 6), overlap=3)
    with pytest.raises(RecipeError, match=r"hide = 0 must be a share .* no truth"):
        GapFillData(stores[0], **PERIODS, hide=0.0)
    wrong = sea(cloud=0.3)
    wrong["land_sea_mask"][:] = 1
    prepare_dataset(wrong, tmp_path / "wrong.zarr")
    with pytest.raises(DataError, match=r"has no sea .* 1 on land and 0 at sea"):
        GapFillData(str(tmp_path / "wrong.zarr"), **PERIODS)


def test_monthly_means_of_41_years_are_xarrays(shared: Path, tmp_path: Path) -> None:
    source = open_store(shared / "data" / "oisst_daily_westaus_41yr" / "oisst_short.nc")
    name = next(str(n) for n in source.data_vars if "oisst" in str(n) or n == SST)
    daily = source[[name]].load()
    if daily[name].attrs.get("units") != "K":
        daily = daily.rename({name: SST}) if name != SST else daily
        daily[SST] = (daily[SST] + 273.15).assign_attrs(units="K")
    prepare_dataset(daily, tmp_path / "oisst.zarr")
    path = str(tmp_path / "oisst.zarr")
    data = GapFillData(path, train=("1982", "2021"), validate=("2022", "2022"), truth=path)
    expected = daily[SST].astype(np.float64).resample(time="MS").mean()
    compared = 0
    for part in ("train", "validate"):
        for batch in batches(data, part, size=40):
            assert batch.targets is not None
            for i, time in enumerate(batch.targets.frame.time[:, 0].tolist()):
                month = expected.sel(time=np.datetime64(time, "s")).transpose("latitude", "longitude")
                np.testing.assert_allclose(batch.targets.values[i, 0, 0], month, rtol=0, atol=2e-4)
                compared += 1
    assert compared == 492


def test_alboran_clouds_leave_land_and_the_missing_day_unobserved(shared: Path, tmp_path: Path) -> None:
    source = shared / "data" / "alboran_sst_gappy_daily" / "alboranSST_small.nc"
    original = open_store(source).load()
    prepare_dataset(original, tmp_path / "alboran.zarr")
    periods: dict[str, Any] = {"train": ("2017-05-14", "2017-05-20"), "validate": ("2017-05-21", "2017-05-24")}
    store, name = str(tmp_path / "alboran.zarr"), original[SST]
    assert 280 < float(name.mean()) < 300
    land = original["mask"].values == 0
    assert int(name.notnull().values[:, land].sum()) == 19
    data = GapFillData(store, **periods, sea="mask", target="daily", tile=(96, 96), overlap=16)
    np.testing.assert_array_equal(~data.sea, land)
    assert data.provenance["gap_filling"]["sea"] == "mask"  # type: ignore[index]
    lacking = set(range(14, 25)) - set(original.time.dt.day.values.tolist())
    assert len(lacking) == 1
    visible, hidden = 0, 0
    for batch in batches(data) + batches(data, "validate"):
        grid = batch.inputs.frame.grid
        own = name.sel(latitude=grid.latitude, longitude=grid.longitude, method="nearest")
        ashore = torch.from_numpy(original["mask"].sel(latitude=own.latitude, longitude=own.longitude).values == 0)
        assert batch.targets is not None
        assert batch.targets.valid is not None
        assert batch.inputs.valid is not None
        assert not (batch.inputs.valid | batch.targets.valid)[..., ashore].any()
        assert not batch.inputs.valid[0, [day - 1 for day in lacking]].any()
        visible += int(batch.inputs.valid.sum())
        hidden += int(batch.targets.valid.sum())
    assert 0.05 < hidden / (visible + hidden) < 0.6
