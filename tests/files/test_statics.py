"""Static fields that a file keeps at every time: none loses a change, and none is refused for standing still."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

from etesian.core.errors import DataError
from etesian.files.diagnosis import Severity
from etesian.files.doctor import examine
from etesian.files.open import open_store
from etesian.store.prepare import prepare


def days(first: int, count: int, name: str, units: str, values: Any) -> xr.Dataset:
    times = (np.datetime64("2001-01-01", "D") + np.arange(first, first + count)).astype("datetime64[ns]")
    array = np.broadcast_to(values, (count, 3, 4)).astype(np.float32)
    return xr.Dataset(
        {name: (("time", "lat", "lon"), array, {"units": units})},
        {
            "time": times,
            "lat": ("lat", [-10.0, 0.0, 10.0], {"units": "degrees_north"}),
            "lon": ("lon", [0.0, 90.0, 180.0, 270.0], {"units": "degrees_east"}),
        },
    )


def written(path: Path, *datasets: xr.Dataset) -> list[str]:
    for i, dataset in enumerate(datasets):
        dataset.to_netcdf(path / f"{i}.nc")
    return [str(path / f"{i}.nc") for i in range(len(datasets))]


MASK = np.array([[1, 0, 0, 1], [0, 1, np.nan, 0], [1, 1, 1, 0]])


def test_a_static_field_that_changes_keeps_its_time_and_prepare_refuses_it(tmp_path: Path) -> None:
    mask = days(0, 3, "lsm", "1", MASK)
    mask.lsm[1, 0, 0] = 0.5  # the first and the last time agree
    files = written(tmp_path, mask, days(0, 3, "t2m", "K", np.arange(280.0, 284)))
    assert float(open_store(files).land_sea_mask[1, 0, 0]) == 0.5
    with pytest.raises(DataError, match=r"'land_sea_mask' should not change .*: leave it out with --exclude"):
        prepare(files, str(tmp_path / "a.zarr"))
    prepare(files, str(tmp_path / "a.zarr"), exclude=["land_sea_mask"])


def test_a_static_field_that_stands_still_is_kept_by_prepare_whether_listed_or_not(tmp_path: Path) -> None:
    files = written(tmp_path, days(0, 3, "lsm", "1", MASK), days(0, 3, "t2m", "K", np.arange(280.0, 284)))
    prepare(files, str(tmp_path / "a.zarr"), variables=["t2m"])
    statics = xr.open_zarr(tmp_path / "a.zarr")["statics"]
    np.testing.assert_array_equal(statics[0], MASK)


@pytest.mark.parametrize(("first", "count"), [(0, 2), (9, 1)])
def test_a_static_field_kept_at_other_times_than_the_rest_loses_them(tmp_path: Path, first: int, count: int) -> None:
    files = written(tmp_path, days(0, 5, "t2m", "K", 280.0), days(first, count, "lsm", "1", MASK))
    opened = open_store(files)
    assert opened.land_sea_mask.dims == ("latitude", "longitude")
    assert opened.sizes["time"] == 5


def test_files_of_one_and_of_several_times_join_their_static_fields(tmp_path: Path) -> None:
    files = written(tmp_path, days(0, 4, "lsm", "1", MASK), days(4, 1, "lsm", "1", MASK))
    assert open_store(files).land_sea_mask.sizes["time"] == 5


def test_the_doctor_says_so_too(tmp_path: Path) -> None:
    mask = days(0, 3, "lsm", "1", MASK)
    mask.lsm[1, 0, 0] = 0.5
    diagnosis = examine(written(tmp_path, mask))
    assert [f.text for f in diagnosis.findings if f.severity is Severity.BROKEN] == [
        "'land_sea_mask' should not change in time but does: leave it out with --exclude land_sea_mask, or rename it"
    ]
