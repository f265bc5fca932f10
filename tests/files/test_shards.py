"""Shards that do not fit each other, their coordinates or the folder they lie in."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

from etesian.core.errors import DataError
from etesian.files.open import open_store

LATITUDE, LONGITUDE = np.array([-30.0, 0, 30]), np.arange(4) * 90.0


def write(folder: Path, second: Any = None, **axes: Any) -> Path:
    (folder / "train").mkdir()
    np.save(folder / "lat.npy", axes.get("lat", LATITUDE), allow_pickle=True)
    np.save(folder / "lon.npy", axes.get("lon", LONGITUDE), allow_pickle=True)
    steps = np.ones((730, 1, 3, 4), "f4")
    np.savez(folder / "train/1979_0.npz", **{"2m_temperature": steps})
    second = steps if second is None else second
    np.savez(folder / "train/1979_1.npz", allow_pickle=True, **{"2m_temperature": second})
    return folder


@pytest.mark.parametrize(
    ("second", "words"),
    [
        (np.ones((730, 1, 3, 5), "f4"), r"float32 of shape \(730, 1, 3, 5\)"),
        (np.ones((730, 3, 4), "f4"), r"float32 of shape \(730, 3, 4\)"),
        (np.array([{}], dtype=object), r"object of shape \(1,\)"),
    ],
)
def test_a_shard_of_another_shape_or_kind_is_named(tmp_path: Path, second: Any, words: str) -> None:
    sentence = rf"1979_1\.npz holds '2m_temperature' as {words}, but steps × 1 × 3 latitudes in lat\.npy × 4 longitudes"
    with pytest.raises(DataError, match=sentence):
        open_store(write(tmp_path, second))


@pytest.mark.parametrize(
    ("axes", "words"),
    [
        ({"lat": LATITUDE[:2]}, r"1979_0\.npz holds .* × 1 × 2 latitudes in lat\.npy"),
        ({"lat": np.array([{}] * 3, dtype=object)}, r"lat\.npy holds no plain numbers \(.*\): write it with np\.save"),
        ({"lon": np.ones((2, 2))}, r"lon\.npy holds float64 of shape \(2, 2\), where a row of numbers is needed"),
    ],
)
def test_coordinates_that_do_not_fit_are_named(tmp_path: Path, axes: dict[str, Any], words: str) -> None:
    with pytest.raises(DataError, match=words):
        open_store(write(tmp_path, **axes))


def test_other_npz_files_do_not_make_a_folder_one_of_shards(tmp_path: Path) -> None:
    np.savez(tmp_path / "normalize_mean.npz", tas=280.0)
    values = np.zeros((3, 4), "f4")
    axes = {"lat": ("lat", LATITUDE, {"units": "degrees_north"}), "lon": ("lon", LONGITUDE, {"units": "degrees_east"})}
    xr.Dataset({"q": (("lat", "lon"), values, {"units": "furlong"})}, axes).to_netcdf(tmp_path / "a.nc")
    assert list(open_store(tmp_path)) == ["q"]
