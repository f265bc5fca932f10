"""Patches are cut where and when the seed says, whoever cuts them, and hold what the store holds there."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import xarray as xr
from torch.utils.data import DataLoader

from etesian.core import Fields, Frame, Grid
from etesian.core.channels import Channel
from etesian.core.errors import DataError, GridError, RecipeError
from etesian.distance.data import LagData
from etesian.downscale.data import SuperResolutionData
from etesian.samples.batches import GroupedBatchSampler
from etesian.samples.patches import PatchPick, block_mean, coarse_grid
from etesian.store.prepare import prepare_dataset

GRID = Grid.equiangular(15, poles=True)
PERIODS: dict[str, Any] = {"train": ("2001-01-01", "2001-01-10"), "validate": ("2001-01-11", "2001-01-15")}
HOUR = 3600


def prepared(path: Path, *, gaps: float = 0.0, grid: Grid = GRID) -> str:
    """Sixty 6-hourly times; a value tells its time, channel, row and column."""
    time = pd.date_range("2001-01-01", periods=60, freq="6h")
    t, c, row, column = np.indices((60, 2, *grid.shape))
    values = (t * 1e4 + c * 5e3 + row * 1e2 + column).astype(np.float32)
    values[np.random.default_rng(0).random(values.shape) < gaps] = np.nan
    dims = ("time", "latitude", "longitude")
    coordinates = {"time": time, "latitude": grid.latitude, "longitude": grid.longitude}
    names = ("vorticity", "divergence")
    fields = {name: (dims, values[:, i], {"units": "s-1"}) for i, name in enumerate(names)}
    prepare_dataset(xr.Dataset(fields, coordinates), path)
    return str(path)


@pytest.fixture(scope="module")
def globe(tmp_path_factory: pytest.TempPathFactory) -> str:
    return prepared(tmp_path_factory.mktemp("globe") / "store.zarr")


@pytest.fixture(scope="module")
def gappy(tmp_path_factory: pytest.TempPathFactory) -> str:
    return prepared(tmp_path_factory.mktemp("gappy") / "store.zarr", gaps=0.2)


def lag_data(store: str, **options: Any) -> LagData:
    return LagData(store, **{**PERIODS, "lags": 5, "patch_size": (4, 6), "patches": 3, "batch_size": 8, **options})


def test_a_sample_is_one_place_at_two_times(globe: str) -> None:
    data = lag_data(globe)
    dataset = data.dataset("train")
    picks = dataset.epoch(1, 0, shuffle=True)
    batch = dataset[picks]
    fields = xr.open_zarr(globe).fields.values
    columns = np.arange(6)
    for pick, values, seconds in zip(picks, batch.inputs.values.numpy(), batch.inputs.frame.time.tolist(), strict=True):
        later = pick.initial + pick.lead // 6
        rows, around = np.arange(pick.row, pick.row + 4)[:, None], (pick.column + columns) % 24
        np.testing.assert_array_equal(values, fields[[pick.initial, later]][:, :, rows, around])
        assert seconds[1] - seconds[0] == pick.lead * HOUR
    assert batch.targets is None
    assert batch.inputs.frame.grid == data.layout.grid
    assert data.layout.grid.shape == (4, 6)
    assert data.layout.inputs == (Channel("vorticity"), Channel("divergence"))


def test_patches_reach_across_the_date_line_but_not_out_of_a_region(globe: str, tmp_path: Path) -> None:
    dataset = lag_data(globe, channels=["divergence"]).dataset("train")
    values = dataset[[PatchPick(7, 6, 2, 21)]].inputs.values[0, 0, 0]
    np.testing.assert_array_equal(values[0], [75221, 75222, 75223, 75200, 75201, 75202])
    drawn = {pick.column for epoch in range(5) for pick in dataset.epoch(0, epoch, shuffle=True)}
    assert drawn == set(range(24))
    region = Grid(np.linspace(-20, 20, 6), np.arange(330, 370, 5.0))
    inside = lag_data(prepared(tmp_path / "region.zarr", grid=region)).dataset("train")
    picks = [pick for epoch in range(5) for pick in inside.epoch(0, epoch, shuffle=True)]
    assert {pick.column for pick in picks} == {0, 1, 2}
    assert {pick.row for pick in picks} == {0, 1, 2}


def test_centres_lie_in_the_band_of_latitude(globe: str) -> None:
    dataset = lag_data(globe, band=45).dataset("train")
    rows = {pick.row for epoch in range(5) for pick in dataset.epoch(0, epoch, shuffle=True)}
    centres = {float(GRID.latitude[row : row + 4].mean()) for row in rows}
    assert centres == {-37.5, -22.5, -7.5, 7.5, 22.5, 37.5}


def test_every_lag_is_equally_likely_and_within_the_period(globe: str) -> None:
    dataset = lag_data(globe).dataset("train")
    for epoch in range(3):
        picks = dataset.epoch(4, epoch, shuffle=True)
        counts = Counter(pick.lead for pick in picks[::3])
        assert set(counts) == {6, 12, 18, 24, 30}
        assert max(counts.values()) - min(counts.values()) <= 1
        assert max(pick.initial + pick.lead // 6 for pick in picks) < 40
    # A lag is told by nothing else that is drawn: early and late times have the same ones.
    pairs = [(pick.initial, pick.lead) for epoch in range(200) for pick in dataset.epoch(0, epoch, shuffle=True)]
    assert abs(np.corrcoef(np.array(pairs).T)[0, 1]) < 0.03


def test_patches_of_one_pair_of_times_come_together(globe: str) -> None:
    picks = lag_data(globe).dataset("train").epoch(0, 0, shuffle=True)
    groups = [picks[i : i + 3] for i in range(0, len(picks), 3)]
    assert all(len({(pick.initial, pick.lead) for pick in group}) == 1 for group in groups)
    assert len({group[0].initial for group in groups}) == len(groups) == 35
    assert len({(pick.row, pick.column) for group in groups for pick in group}) > 60


def test_an_epoch_depends_on_seed_and_number_alone_and_validation_on_neither_number(globe: str) -> None:
    data = lag_data(globe)
    train, validate = data.dataset("train"), data.dataset("validate")
    first = train.epoch(1, 0, shuffle=True)
    assert first == lag_data(globe).dataset("train").epoch(1, 0, shuffle=True)
    assert first != train.epoch(1, 1, shuffle=True)
    assert first != train.epoch(2, 0, shuffle=True)
    fixed = validate.epoch(1, 0, shuffle=False)
    assert fixed == validate.epoch(1, 7, shuffle=False)
    assert [pick.initial for pick in fixed] == sorted(pick.initial for pick in fixed)
    assert len(fixed) == 3 * 15


def test_the_first_epochs_can_see_the_same_samples_in_new_orders(globe: str) -> None:
    dataset = lag_data(globe, times=10, fixed_epochs=2).dataset("train")
    epochs = [dataset.epoch(0, epoch, shuffle=True) for epoch in range(4)]
    assert [len(epoch) for epoch in epochs] == [30] * 4 == [len(dataset)] * 4
    assert epochs[0] != epochs[1]
    assert set(epochs[0]) == set(epochs[1])
    assert set(epochs[0]) != set(epochs[2]) != set(epochs[3])
    more = lag_data(globe, times=80).dataset("train").epoch(0, 0, shuffle=True)
    assert Counter(Counter(pick.initial for pick in more[::3]).values()) == {2: 25, 3: 10}


@pytest.mark.parametrize("world", [1, 2, 3])
def test_all_ranks_together_see_every_patch_once(globe: str, world: int) -> None:
    dataset = lag_data(globe).dataset("train")
    samplers = [GroupedBatchSampler(dataset, 8, shuffle=True, seed=3, rank=rank, world=world) for rank in range(world)]
    for sampler in samplers:
        sampler.set_epoch(5)
    seen = [pick for sampler in samplers for batch in sampler for pick in batch]
    assert Counter(seen) == Counter(dataset.epoch(3, 5, shuffle=True))
    assert len({len(sampler) for sampler in samplers}) == 1


def test_the_number_of_workers_changes_nothing(gappy: str) -> None:
    def epoch(workers: int) -> list[torch.Tensor]:
        dataset = lag_data(gappy).dataset("train")
        loader = DataLoader(
            dataset, sampler=GroupedBatchSampler(dataset, 16, shuffle=True), batch_size=None, num_workers=workers
        )
        return [part for batch in loader for part in (batch.inputs.values, batch.inputs.frame.time)]

    alone, shared = epoch(0), epoch(2)
    assert len(alone) == len(shared) == 14
    assert all(torch.equal(a, b) for a, b in zip(alone, shared, strict=True))


def test_holes_are_masked(gappy: str) -> None:
    dataset = lag_data(gappy).dataset("train")
    pick = PatchPick(3, 12, 1, 2)
    inputs = dataset[[pick]].inputs
    expected = xr.open_zarr(gappy).fields.values[[3, 5], :, 1:5, 2:8]
    assert inputs.valid is not None
    np.testing.assert_array_equal(inputs.valid[0], np.isfinite(expected))
    np.testing.assert_array_equal(inputs.filled(float("nan"))[0], expected)


def test_coarse_patches_are_block_means_of_fine_ones(globe: str) -> None:
    data = SuperResolutionData(globe, **PERIODS, factor=2, patch_size=(4, 6), patches=2)
    dataset = data.dataset("train")
    picks = dataset.epoch(0, 0, shuffle=True)
    batch = dataset[picks]
    assert len(picks) == 80
    assert batch.targets is not None
    fine = batch.targets.values.numpy().astype(np.float64)
    fields = xr.open_zarr(globe).fields.values
    for pick, values in zip(picks, fine, strict=True):
        rows, columns = np.arange(pick.row, pick.row + 4)[:, None], (pick.column + np.arange(6)) % 24
        np.testing.assert_array_equal(values[0], fields[pick.initial][:, rows, columns])
    expected = (fine[..., ::2, ::2] + fine[..., 1::2, ::2] + fine[..., ::2, 1::2] + fine[..., 1::2, 1::2]) / 4
    np.testing.assert_allclose(batch.inputs.values, expected, rtol=1e-7)
    assert batch.inputs.frame.time.tolist() == batch.targets.frame.time.tolist()
    assert batch.inputs.frame.grid == data.layout.grid
    assert batch.targets.frame.grid == data.layout.target_grid
    np.testing.assert_allclose(data.layout.grid.longitude, [7.5, 37.5, 67.5])
    assert np.diff(data.layout.grid.latitude).tolist() == [30]


def test_a_block_is_valid_where_half_of_it_is(gappy: str) -> None:
    values = torch.arange(16.0).reshape(1, 1, 1, 4, 4)
    valid = torch.ones_like(values, dtype=torch.bool)
    valid[..., 0, :2] = False
    valid[..., 0, 2:] = valid[..., 1, 2] = False
    grid = Grid([-30, -10, 10, 30], [0, 90, 180, 270])
    frame = Frame((Channel("vorticity"),), torch.zeros(1, 1, dtype=torch.int64), grid)
    mean = block_mean(Fields(values, frame, valid), 2)
    assert mean.valid is not None
    assert mean.valid.flatten().tolist() == [True, False, True, True]
    assert mean.values.flatten().tolist() == [4.5, 0, 10.5, 12.5]
    assert mean.frame.grid == coarse_grid(grid, 2) == Grid([-20, 20], [45, 225])
    with pytest.raises(GridError, match="a factor of 3 does not divide the 4×4 points"):
        coarse_grid(grid, 3)


def test_patches_that_cannot_be_are_refused(globe: str, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="patches of 14×6 do not fit on the grid 13×24"):
        lag_data(globe, patch_size=(14, 6))
    with pytest.raises(RecipeError, match=r"has its centre within 5° of the equator on the grid .* nearest is at 7.5°"):
        lag_data(globe, band=5)
    with pytest.raises(RecipeError, match="a factor of 4 does not divide patches of 4×6"):
        SuperResolutionData(globe, **PERIODS, factor=4, patch_size=(4, 6))
    with pytest.raises(RecipeError, match="lags = 1 must be at least 2"):
        lag_data(globe, lags=1)
    with pytest.raises(RecipeError, match="patches = 0 must be at least 1"):
        lag_data(globe, patches=0)
    with pytest.raises(DataError, match="no window with inputs"):
        lag_data(globe, lags=30).dataset("validate")
    uneven = xr.open_zarr(globe).fields[[0, 1, 3, 4], 0].drop_vars("channel").rename("vorticity")
    prepare_dataset(uneven.to_dataset(), tmp_path / "uneven.zarr")
    with pytest.raises(RecipeError, match="have no common step; prepare it with --every"):
        lag_data(str(tmp_path / "uneven.zarr"))


def test_statistics_and_provenance_are_the_stores(globe: str) -> None:
    data = lag_data(globe)
    store = xr.open_zarr(globe)
    np.testing.assert_array_equal(data.statistics.std, store["std"])
    np.testing.assert_array_equal(data.statistics.log1p_std, store["log1p_std"])
    assert data.statistics.harmonics is None
    assert data.provenance["stores"] == {globe: store.attrs["fingerprint"]}
    assert (data.provenance["lags"], data.provenance["step_hours"]) == (5, 6)
