"""Plain arrays: HDF5 described by a JSON file beside it, and ClimaX's shards."""

import json
import re
from pathlib import Path
from typing import Any

import dask
import h5py
import hdf5plugin
import numpy as np
import pytest
import xarray as xr

from etesian.core import Grid
from etesian.core.errors import DataError
from etesian.files.doctor import examine
from etesian.files.open import open_store
from etesian.store.format import to_dataset
from etesian.store.prepare import identity, prepare

TOLD: dict[str, Any] = {
    "channels": ["divergence", "vorticity"],
    "units": ["s-1", "s-1"],
    "start": "1979-01-01",
    "step_hours": 3,
    "latitude": [78.75, -78.75],
    "longitude": [0, 337.5],
}


def values(steps: int = 10, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((2, steps, 8, 16)).astype(np.float32) * 1e-5


def write(folder: Path, name: str = "train", array: np.ndarray | None = None, **changes: Any) -> Path:
    with h5py.File(folder / f"{name}.h5", "w") as file:
        file["data"] = values() if array is None else array
    told = {key: value for key, value in (TOLD | changes).items() if value is not None}
    (folder / f"{name}.json").write_text(json.dumps(told))
    return folder / f"{name}.h5"


def test_channels_times_and_coordinates_are_as_described(tmp_path: Path) -> None:
    opened = open_store(write(tmp_path))
    assert list(opened) == ["divergence", "vorticity"]
    assert opened["vorticity"].chunks is not None
    assert opened["vorticity"].attrs["units"] == "s-1"
    assert str(opened.time.values[-1])[:13] == "1979-01-02T03"
    assert Grid(opened.latitude.values, opened.longitude.values) == Grid.equiangular(22.5)
    np.testing.assert_array_equal(opened["vorticity"], values()[1, :, ::-1])


def test_levels_calendars_and_fill_values_can_be_told(tmp_path: Path) -> None:
    array = values()
    array[0, 3, 2, 5] = -999
    told = {
        "channels": ["vorticity_850", "vorticity_500"],
        "calendar": "360_day",
        "start": "1979-02-30",
        "missing": -999,
    }
    path = write(tmp_path, array=array, **told, latitude=np.linspace(78.75, -78.75, 8).tolist(), units=None)
    opened = open_store(path)
    assert opened["vorticity"].dims == ("time", "level", "latitude", "longitude")
    assert opened.time.values[0].strftime("%Y-%m-%d") == "1979-02-30"
    np.testing.assert_array_equal(opened["vorticity"].sel(level=500), array[1, :, ::-1])
    assert np.argwhere(np.isnan(opened["vorticity"].values)).tolist() == [[3, 1, 5, 5]]
    assert opened["vorticity"].attrs["units_missing"] == 1


def test_yearly_files_behind_a_virtual_data_set_and_compressed_ones_are_read(tmp_path: Path) -> None:
    layout = h5py.VirtualLayout((2, 10, 8, 16), "f4")
    for i, filters in enumerate((hdf5plugin.Blosc2(), hdf5plugin.Zstd())):
        with h5py.File(tmp_path / f"{1979 + i}.h5", "w") as file:
            file.create_dataset("data", data=values()[:, 5 * i : 5 * i + 5], chunks=(1, 2, 8, 16), **filters)
        layout[:, 5 * i : 5 * i + 5] = h5py.VirtualSource(f"{1979 + i}.h5", "data", (2, 5, 8, 16))
    with h5py.File(tmp_path / "train.h5", "w") as file:
        file.create_virtual_dataset("data", layout)
    (tmp_path / "train.json").write_text(json.dumps(TOLD))
    opened = open_store(tmp_path / "train.h5")
    for scheduler in ("threads", "sync"):
        with dask.config.set(scheduler=scheduler):
            np.testing.assert_array_equal(opened["divergence"], values()[0, :, ::-1])
    names = [Path(name).name for name, *_ in identity([str(tmp_path / "train.h5")])]
    assert names == ["train.h5", "train.json", "1979.h5", "1980.h5"]
    (tmp_path / "1980.h5").unlink()
    with pytest.raises(DataError, match=r"put together from other files, of which .*1980.h5 is not there; bring it"):
        open_store(tmp_path / "train.h5")


def test_files_of_two_years_follow_each_other_into_a_training_store(tmp_path: Path) -> None:
    write(tmp_path, "1979", start="1979-01-01")
    write(tmp_path, "1980", values(seed=1), start="1979-01-02T06")
    prepare([str(tmp_path / "*.h5")], str(tmp_path / "store.zarr"), derive=["u_component_of_wind"])
    made = to_dataset(tmp_path / "store.zarr")
    assert list(made) == ["divergence", "vorticity", "u_component_of_wind"]
    np.testing.assert_array_equal(made["vorticity"], np.concatenate([values()[1], values(seed=1)[1]])[:, ::-1])


def test_what_the_description_lacks_is_said_by_the_doctor_too(tmp_path: Path) -> None:
    path = write(tmp_path)
    (tmp_path / "train.json").unlink()
    sentence = (
        "train.h5 is plain HDF5 without coordinates (it holds data): describe an array of channels × times × rows × "
        "columns in train.json beside it, with channels, start, step_hours, latitude and longitude"
    )
    with pytest.raises(DataError, match=re.escape(sentence)):
        open_store(path)
    assert any(sentence in finding.text for finding in examine(path).findings)
    for key in ("channels", "start"):
        with pytest.raises(DataError, match=rf"train.json lacks {key}, without which .*train.h5 cannot be understood"):
            open_store(write(tmp_path, **{key: None}))
    for changes, message in (
        ({"channels": ["vorticity"]}, "train.json gives 1 channels, but 'data' in .* has 2 of them"),
        ({"units": ["s-1"]}, "gives 1 units, but"),
        ({"latitude": [0, 1, 2]}, "'latitude' in .* must be 8 numbers, or the first and the last"),
        ({"longitude": "gaussian"}, "'longitude' in .* must be 16 numbers"),
        ({"step_hours": "3"}, "'step_hours' in .* must be a number of hours greater than 0, not '3'"),
        ({"start": "1979-13-01"}, "'1979-13-01' is no date"),
        ({"steps_hour": 3}, "holds 'steps_hour', which means nothing; did you mean 'step_hours'"),
        ({"dataset": "date"}, "holds no array 'date' of channels × times × rows × columns; did you mean 'data'"),
    ):
        with pytest.raises(DataError, match=message):
            open_store(write(tmp_path, **changes))
    (tmp_path / "train.json").write_text("{")
    with pytest.raises(DataError, match=r"train.json, which should describe .*, is no valid JSON"):
        open_store(path)
    with pytest.raises(DataError, match="holds no array 'data' of channels"):
        open_store(write(tmp_path, array=np.zeros((3, 4, 5))))


def test_damaged_values_are_named_by_file_and_array(tmp_path: Path) -> None:
    path = write(tmp_path)
    with h5py.File(path, "w") as file:
        file.create_dataset("data", data=values(), chunks=(1, 10, 8, 16), compression="gzip")
        chunk = file["data"].id.get_chunk_info(1)
    data = bytearray(path.read_bytes())
    data[chunk.byte_offset : chunk.byte_offset + chunk.size] = bytes(chunk.size)
    path.write_bytes(data)
    opened = open_store(path)
    np.testing.assert_array_equal(opened["divergence"], values()[0, :, ::-1])
    with pytest.raises(DataError, match=r"train\.h5 cannot be read at 'data', it is damaged \(.*\); copy or download"):
        opened["vorticity"].compute()


LATITUDE, LONGITUDE = np.array([-30.0, 0, 30]), np.arange(4) * 90.0


def write_shards(folder: Path, second: Any = None, **axes: Any) -> Path:
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
        open_store(write_shards(tmp_path, second))


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
        open_store(write_shards(tmp_path, **axes))


def test_shards_that_are_cut_or_do_not_divide_the_year_are_refused(tmp_path: Path) -> None:
    path = write_shards(tmp_path, np.ones((7, 1, 3, 4), "f4")) / "train/1979_1.npz"
    with pytest.raises(DataError, match=r"shards of 1979 in .* hold 737 steps, which do not divide the hours"):
        open_store(tmp_path)
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(DataError, match=r"1979_1\.npz is truncated"):
        open_store(tmp_path)


def test_other_npz_files_do_not_make_a_folder_one_of_shards(tmp_path: Path) -> None:
    np.savez(tmp_path / "normalize_mean.npz", tas=280.0)
    values = np.zeros((3, 4), "f4")
    axes = {"lat": ("lat", LATITUDE, {"units": "degrees_north"}), "lon": ("lon", LONGITUDE, {"units": "degrees_east"})}
    xr.Dataset({"q": (("lat", "lon"), values, {"units": "furlong"})}, axes).to_netcdf(tmp_path / "a.nc")
    assert list(open_store(tmp_path)) == ["q"]
