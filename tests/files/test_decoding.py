"""What a file declares as missing is missing, and nothing else is."""

from pathlib import Path
from typing import Any

import netCDF4
import numpy as np
import pytest
import xarray as xr
import zarr

from etesian.core.errors import DataError
from etesian.files.doctor import examine
from etesian.files.open import open_store

LATITUDE, LONGITUDE = [-40.0, 0.0, 40.0], [0.0, 90.0, 180.0, 270.0]


def netcdf(path: Path, values: Any, dtype: str, form: str = "NETCDF4", fill: Any = None, **attributes: Any) -> Path:
    """Write `values` (row, column) as stored numbers `q`, without any packing or masking on the way."""
    values = np.asarray(values)
    with netCDF4.Dataset(path, "w", format=form) as file:
        for name, axis, units in (("lat", LATITUDE, "degrees_north"), ("lon", LONGITUDE, "degrees_east")):
            file.createDimension(name, len(axis))
            file.createVariable(name, "f8", (name,)).units = units
            file[name][:] = axis
        variable = file.createVariable("q", dtype, ("lat", "lon"), fill_value=fill)
        variable.set_auto_maskandscale(False)
        variable.setncatts({"units": "furlong"} | attributes)
        variable[:] = values.astype(dtype)
    return path


def missing(path: Path) -> list[float]:
    """Return the stored numbers at points that come out missing, given that they count 0, 1, 2, … from the first."""
    return np.flatnonzero(np.isnan(open_store(path)["q"].values)).tolist()


COUNT = np.arange(12).reshape(3, 4)
PACKED = {"scale_factor": 0.5, "add_offset": 100.0}


@pytest.mark.parametrize(
    ("dtype", "attributes", "expected"),
    [
        ("f4", {"missing_value": "3"}, [3]),
        ("f4", {"missing_value": "3, 5.0"}, [3, 5]),
        ("f4", {"missing_value": np.array([3.0, 7.0])}, [3, 7]),
        ("f4", {"missing_value": np.int32(3)}, [3]),
        ("i2", {"missing_value": 3.0}, [3]),
        ("i2", {"missing_value": 3.5}, []),
        ("i2", {"missing_value": 1e20}, []),
        ("f4", {"missing_value": "nothing"}, []),
        ("i2", PACKED | {"valid_range": np.array([2, 9], "i2")}, [0, 1, 10, 11]),
        ("i2", PACKED | {"valid_range": np.array([101.0, 104.5])}, [0, 1, 10, 11]),
        ("i2", {"scale_factor": -0.5, "valid_max": np.int16(9)}, [10, 11]),
        ("f4", {"valid_min": np.float32(2), "valid_max": 9}, [0, 1, 10, 11]),
        ("i2", {"valid_max": "9"}, [10, 11]),
        ("f4", {"valid_range": np.array([-32767, -15767], "i2")}, []),
        ("f4", {"valid_min": 9.0, "valid_max": 2.0}, []),
    ],
)
def test_values_are_missing_as_the_attributes_say(
    tmp_path: Path, dtype: str, attributes: dict[str, Any], expected: list[float]
) -> None:
    assert missing(netcdf(tmp_path / "a.nc", COUNT, dtype, **attributes)) == expected


def test_limits_that_no_float_holds_exactly_are_valid_themselves(tmp_path: Path) -> None:
    values = np.full((3, 4), 0.3)
    assert missing(netcdf(tmp_path / "a.nc", values, "f4", valid_max=0.3, valid_min=0.1)) == []
    packing = {"scale_factor": np.float32(0.01), "add_offset": np.float32(273.15)}
    limits = {"valid_min": np.int16(-300), "valid_max": np.int16(4500)}
    stored = np.tile([-301, -300, 4500, 4501], (3, 1))
    assert missing(netcdf(tmp_path / "b.nc", stored, "i2", **packing, **limits)) == [0, 3, 4, 7, 8, 11]


def test_signed_bytes_that_mean_unsigned_ones_are_compared_as_unsigned(tmp_path: Path) -> None:
    stored = np.tile(np.array([-1, -2, -56, 100], "i1"), (3, 1))
    attributes = {"_Unsigned": "true", "missing_value": np.int8(-1), "valid_range": np.array([0, -6], "i1")}
    opened = open_store(netcdf(tmp_path / "a.nc", stored, "i1", "NETCDF3_CLASSIC", **attributes))["q"]
    np.testing.assert_array_equal(opened[0], [np.nan, np.nan, 200, 100])


@pytest.mark.parametrize("form", ["NETCDF4", "NETCDF3_CLASSIC", "NETCDF3_64BIT_DATA"])
def test_what_was_never_written_is_missing_unless_the_file_fills_otherwise(tmp_path: Path, form: str) -> None:
    stored = COUNT.copy()
    stored[0, 2] = -32767
    assert missing(netcdf(tmp_path / "a.nc", stored, "i2", form)) == [2]
    assert missing(netcdf(tmp_path / "b.nc", stored, "i2", form, fill=5)) == [5]
    assert missing(netcdf(tmp_path / "c.nc", stored * 0 - 127, "i1", form)) == []
    if form == "NETCDF4":
        assert missing(netcdf(tmp_path / "d.nc", stored, "i2", fill=False)) == []


def test_the_doctor_says_what_it_took_and_what_means_nothing(tmp_path: Path) -> None:
    attributes = {"valid_min": np.float32(2), "missing_value": "land"}
    texts = [f.text for f in examine(netcdf(tmp_path / "a.nc", COUNT, "f4", **attributes)).findings]
    assert "'q' is taken for missing where it is outside its valid_min 2" in texts
    assert "'q' has a missing_value 'land' that is no number: it means nothing" in texts
    left_over = netcdf(tmp_path / "b.nc", COUNT, "f4", valid_min=np.int16(20))
    texts = [f.text for f in examine(left_over).findings]
    assert "'q' has valid_min 20 from a packing that it no longer has: they mean nothing" in texts


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("0.01", r"is text \('0.01'\)"),
        (np.array([1.0, 2.0]), "is no single number"),
        (0.0, r"is 0 or not finite \('0.0"),
    ],
)
def test_a_packing_that_is_no_number_is_refused(tmp_path: Path, value: Any, words: str) -> None:
    path = netcdf(tmp_path / "a.nc", COUNT, "i2", scale_factor=value)
    with pytest.raises(DataError, match=rf"'q' in .*a\.nc has a scale_factor that {words}.*: write it as a number"):
        open_store(path)


def zarr2(path: Path, values: np.ndarray, fill: Any, **attributes: Any) -> Path:
    group = zarr.open_group(path, mode="w", zarr_format=2)
    for name, axis, units in (("lat", LATITUDE, "degrees_north"), ("lon", LONGITUDE, "degrees_east")):
        array = group.create_array(name, shape=(len(axis),), dtype="f8", fill_value=0)
        array[:] = axis
        array.attrs.update({"_ARRAY_DIMENSIONS": [name], "units": units})
    array = group.create_array("q", shape=values.shape, dtype=values.dtype, fill_value=fill)
    array[:] = values
    array.attrs.update({"_ARRAY_DIMENSIONS": ["lat", "lon"], "units": "furlong"} | attributes)
    return path


@pytest.mark.parametrize(
    ("dtype", "fill", "attributes", "expected"),
    [
        ("f4", 0, {}, []),
        ("i2", 0, {}, []),
        ("i2", 0, {"scale_factor": 0.5}, []),
        ("i2", 0, {"scale_factor": 0.5, "add_offset": 3.0}, [0]),
        ("i2", 4, {"scale_factor": 0.5}, [4]),
        ("f4", np.nan, {}, []),
        ("f4", 0, {"_FillValue": 0}, [0]),
        ("f4", 4, {"_FillValue": "6"}, [6]),
        ("f4", 0, {"missing_value": 7}, [7]),
    ],
)
def test_zarr_2_says_missing_by_attributes_or_a_fill_value_other_than_zero(
    tmp_path: Path, dtype: str, fill: Any, attributes: dict[str, Any], expected: list[int]
) -> None:
    assert missing(zarr2(tmp_path / "a.zarr", COUNT.astype(dtype), fill, **attributes)) == expected


@pytest.mark.parametrize("zarr_format", [2, 3])
@pytest.mark.parametrize("fill", [-32767, 0])
def test_packed_zarr_as_xarray_writes_it_keeps_its_holes(tmp_path: Path, zarr_format: int, fill: int) -> None:
    values = np.array(COUNT, float)
    values[1, 1] = np.nan
    dataset = xr.Dataset({"q": (("lat", "lon"), values, {"units": "furlong"})}).assign_coords(
        lat=("lat", LATITUDE, {"units": "degrees_north"}), lon=("lon", LONGITUDE, {"units": "degrees_east"})
    )
    packing = {"dtype": "i2", "scale_factor": 0.5, "add_offset": -3.0, "_FillValue": fill}
    dataset.to_zarr(tmp_path / "a.zarr", zarr_format=zarr_format, encoding={"q": packing})
    np.testing.assert_array_equal(open_store(tmp_path / "a.zarr")["q"], values)


@pytest.mark.parametrize("declared", [5, 5.0, "5.0"])
def test_zarr_3_says_missing_by_an_attribute_in_any_spelling(tmp_path: Path, declared: Any) -> None:
    dataset = xr.Dataset({"q": (("lat", "lon"), COUNT.astype("f4"), {"units": "furlong"})}).assign_coords(
        lat=("lat", LATITUDE, {"units": "degrees_north"}), lon=("lon", LONGITUDE, {"units": "degrees_east"})
    )
    dataset.to_zarr(tmp_path / "a.zarr", zarr_format=3, consolidated=False, encoding={"q": {"_FillValue": None}})
    zarr.open_group(tmp_path / "a.zarr")["q"].attrs["_FillValue"] = declared
    assert missing(tmp_path / "a.zarr") == [5]
    dataset.q.attrs["_FillValue"] = np.float32(7)
    dataset.to_zarr(tmp_path / "b.zarr", zarr_format=3, consolidated=False)
    assert missing(tmp_path / "b.zarr") == [7]
