"""A training store is read back bit by bit, in part or whole, and never silently wrong."""

import pickle
import shutil
from pathlib import Path

import cftime
import numpy as np
import pytest
import xarray as xr

from etesian.core import Channel, Grid, Region
from etesian.core.errors import ChannelError, DataError, GridError
from etesian.store.reader import Store, compact, positions

CHANNELS = (Channel("temperature", 500), Channel("temperature", 850), Channel("surface_pressure"))


@pytest.mark.parametrize("name", ["store", "gappy_store", "sharded_store"])
def test_mapped_reading_equals_xarray_bit_by_bit(name: str, request: pytest.FixtureRequest) -> None:
    reader = Store(request.getfixturevalue(name))
    assert reader._steps_per_shard == (7 if name == "sharded_store" else 60)
    order = np.random.default_rng(0).permutation(60)
    plain = xr.open_zarr(reader.path)["fields"].values
    assert reader.read(order).tobytes() == plain[order].tobytes()
    assert reader.channels == CHANNELS
    assert reader.has_gaps == (name != "store")


def test_any_choice_of_channels_rows_and_columns_is_read(sharded_store: str) -> None:
    reader = Store(sharded_store)
    plain = xr.open_zarr(sharded_store)["fields"].values
    for channels in ([2, 0], [1], [0, 1, 2]):
        for rows, columns in (([0, 1], [7, 0, 1]), ([2, 3, 4], [3]), ([5], [6, 7, 0, 1])):
            read = reader.read([58, 3, 58], compact(channels), compact(rows), compact(columns))
            np.testing.assert_array_equal(read, plain[[58, 3, 58]][:, channels][:, :, rows][..., columns])


def test_a_time_at_which_all_is_missing_is_read_as_missing(sharded_store: str) -> None:
    read = Store(sharded_store).read([9, 10, 11])
    assert np.isnan(read).all(axis=(1, 2, 3)).tolist() == [False, True, False]


def test_a_store_that_cannot_be_mapped_is_read_all_the_same(gappy_store: str) -> None:
    reader, other = Store(gappy_store), Store(f"file://{gappy_store}")
    assert other._steps_per_shard is None
    np.testing.assert_array_equal(other.read([5, 1]), reader.read([5, 1]))


def test_a_region_across_greenwich_is_located_and_read_from_west_to_east(store: str) -> None:
    reader = Store(store)
    grid = reader.grid.crop(Region(-50, 50, 300, 60))
    np.testing.assert_array_equal(grid.longitude, [315, 360, 405])
    rows, columns = reader.locate(grid)
    plain = xr.open_zarr(store)["fields"].sel(latitude=slice(-50, 50)).isel(longitude=[7, 0, 1])
    np.testing.assert_array_equal(reader.read([4], rows=rows, columns=columns)[0], plain[4])


def test_a_grid_that_is_no_part_of_the_store_is_refused_with_the_remedy(store: str) -> None:
    reader = Store(store)
    assert reader.locate(Grid(reader.grid.latitude, reader.grid.longitude)) == (slice(None), slice(None))
    for grid in (Grid.equiangular(30), Grid(reader.grid.latitude[::2], reader.grid.longitude)):
        with pytest.raises(GridError, match=r"the run on .*; regrid it with `etesian prepare --grid`"):
            reader.locate(grid)


def test_what_is_no_training_store_is_refused(tmp_path: Path, store: str) -> None:
    with pytest.raises(DataError, match=r"there is no training store at .*nothing.zarr; make one"):
        Store(tmp_path / "nothing.zarr")
    xr.Dataset({"a": ("x", [1.0])}).to_zarr(tmp_path / "other.zarr")
    with pytest.raises(DataError, match=r"other.zarr is no training store; make one from it"):
        Store(tmp_path / "other.zarr")
    (tmp_path / "folder").mkdir()
    (tmp_path / "file.nc").write_bytes(b"CDF\x01")
    shutil.copytree(store, tmp_path / "torn.zarr")
    (tmp_path / "torn.zarr" / "zarr.json").write_text("{")
    for name in ("folder", "file.nc", "torn.zarr"):
        with pytest.raises(DataError, match=f"{name} cannot be read as a training store"):
            Store(tmp_path / name)


@pytest.mark.parametrize("size", [None, 0, 100, 5 * 576])
def test_a_missing_or_truncated_file_of_fields_is_named(tmp_path: Path, sharded_store: str, size: int | None) -> None:
    shutil.copytree(sharded_store, tmp_path / "store.zarr")
    file = tmp_path / "store.zarr" / "fields" / "c" / "3" / "0" / "0" / "0"
    if size is None:
        file.unlink()
    else:
        file.write_bytes(file.read_bytes()[:size])
    reader = Store(tmp_path / "store.zarr")
    assert np.isfinite(reader.read([20])).all()
    with pytest.raises(DataError, match=r"fields/c/3/0/0/0 is missing or cut short; remake .*store.zarr with"):
        reader.read([21])


def test_a_lost_part_of_a_store_that_is_not_mapped_is_noticed(tmp_path: Path, store: str) -> None:
    shutil.copytree(store, tmp_path / "store.zarr")
    shutil.rmtree(tmp_path / "store.zarr" / "fields" / "c")
    with pytest.raises(DataError, match="lacks a part of its fields"):
        Store(f"file://{tmp_path}/store.zarr").read([0])


def test_a_reader_can_be_sent_to_another_process(gappy_store: str) -> None:
    reader = Store(gappy_store)
    expected = reader.read([7])
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(reader)).read([7]), expected)


def test_calendars_are_kept(make_store) -> None:  # type: ignore[no-untyped-def]
    time = xr.date_range("2001-02-28", periods=8, freq="1D", calendar="360_day", use_cftime=True)
    reader = Store(make_store(time))
    assert reader.calendar == "360_day"
    assert reader.times([2])[0] == cftime.Datetime360Day(2001, 2, 30)
    assert reader.step_hours == 24


def test_names_are_resolved_and_misspelt_ones_named_with_the_closest(store: str) -> None:
    reader = Store(store)
    assert reader.resolve(["temperature"]) == CHANNELS[:2]
    assert reader.resolve_statics(None) == (Channel("orography"),)
    with pytest.raises(ChannelError, match="no channel 'temperatur_850'; did you mean 'temperature_850'"):
        reader.resolve(["temperatur_850"])
    with pytest.raises(ChannelError, match=r"store.*\.zarr has no channel 'temperature_700'; did you mean"):
        positions([Channel("temperature", 700)], reader.channels, reader.path)


def test_neighbouring_positions_become_slices() -> None:
    assert compact([2, 3, 4]) == slice(2, 5)
    assert compact([6]) == slice(6, 7)
    np.testing.assert_array_equal(compact([3, 2]), [3, 2])
