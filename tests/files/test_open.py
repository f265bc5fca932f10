"""What a file says and how it becomes canonical: names, units, coordinates, times, and what is refused."""

import bz2
import gzip
import lzma
import os
from pathlib import Path
from typing import Any

import cftime
import numpy as np
import pytest
import xarray as xr

from etesian.core.constants import STANDARD_GRAVITY
from etesian.core.errors import DataError, GridError
from etesian.files.open import open_store

NORTH = {"units": "degrees_north"}
EAST = {"units": "degrees_east"}


def days(count: int, start: str = "2001-01-01") -> np.ndarray:
    return (np.datetime64(start, "D") + np.arange(count)).astype("datetime64[ns]")


def maps(
    name: str = "t2m",
    units: str | None = "K",
    *,
    latitude: Any = (-10.0, 0.0, 10.0),
    longitude: Any = (0.0, 90.0, 180.0, 270.0),
    times: Any = 2,
    values: Any = None,
    **attrs: str,
) -> xr.Dataset:
    """Make a data set of one variable on a small grid."""
    times = days(times) if isinstance(times, int) else times
    latitude, longitude = np.asarray(latitude, float), np.asarray(longitude, float)
    shape = (len(times), latitude.size, longitude.size)
    array = 280 + np.arange(np.prod(shape), dtype=np.float32).reshape(shape) if values is None else values
    attrs |= {"units": units} if units is not None else {}
    return xr.Dataset(
        {name: (("time", "lat", "lon"), np.broadcast_to(array, shape).copy(), attrs)},
        {"time": times, "lat": ("lat", latitude, NORTH), "lon": ("lon", longitude, EAST)},
    )


@pytest.fixture
def opened(tmp_path: Path) -> Any:
    """Write data sets into files and open them together."""

    def write_and_open(*datasets: xr.Dataset, **encoding: Any) -> xr.Dataset:
        paths = [tmp_path / f"{chr(97 + i)}.nc" for i in range(len(datasets))]
        for path, dataset in zip(paths, datasets, strict=True):
            dataset.to_netcdf(path, encoding=encoding or None)
        return open_store(paths if len(paths) > 1 else paths[0])

    return write_and_open


@pytest.mark.parametrize(
    ("name", "attrs", "expected"),
    [
        ("T2M", {"units": "K"}, "2m_temperature"),
        ("x", {"units": "Pa", "standard_name": "surface_air_pressure"}, "surface_pressure"),
        ("d", {"units": "days"}, "d"),
        ("z", {}, "z"),
        ("t", {}, "temperature"),
        ("absv", {"units": "s-1"}, "absv"),
    ],
)
def test_names_come_from_the_catalogue_only_where_name_and_units_agree(
    opened: Any, name: str, attrs: dict[str, str], expected: str
) -> None:
    dataset = maps(name, None)
    dataset[name].attrs = attrs
    assert list(opened(dataset).data_vars) == [expected]


@pytest.mark.parametrize(
    ("name", "units", "stored", "canonical", "expected"),
    [
        ("tas", "degC", 0.0, "K", 273.15),
        ("tas", "degF", 32.0, "K", 273.15),
        ("sst_anomaly", "degC", 2.0, "K", 2.0),
        ("msl", "hPa", 1013.0, "Pa", 101300.0),
        ("tcc", "%", 50.0, "1", 0.5),
        ("siconc", "(0 - 1)", 0.5, "1", 0.5),
        ("tp", "mm", 5.0, "m", 0.005),
        ("tp", "kg m**-2", 5.0, "m", 0.005),
        ("pr", "mm/day", 86.4, "kg m-2 s-1", 1e-3),
        ("u10", "m/s", 3.0, "m s-1", 3.0),
        ("u10", "knots", 1.0, "m s-1", 0.514444),
    ],
)
def test_units_are_converted(
    opened: Any, name: str, units: str, stored: float, canonical: str, expected: float
) -> None:
    (array,) = opened(maps(name, units, values=stored)).data_vars.values()
    np.testing.assert_allclose(array, expected, rtol=1e-5)
    assert (array.attrs["units"], array.attrs["source_units"], array.attrs["source_name"]) == (canonical, units, name)


def test_missing_units_are_marked_and_values_left_alone(opened: Any) -> None:
    array = opened(maps("tas", None, values=20.0))["2m_temperature"]
    assert array.attrs["units_missing"] == 1
    assert array.attrs["units"] == ""
    assert float(array.max()) == 20


def on_levels(name: str, units: str, levels: Any, level_attrs: dict[str, str], dimension: str = "plev") -> xr.Dataset:
    base = maps(name, units, values=100.0)
    stacked = base[name].expand_dims({dimension: len(levels)}, axis=1) * np.arange(1, len(levels) + 1).reshape(-1, 1, 1)
    stacked = stacked.assign_coords({dimension: (dimension, levels, level_attrs)})
    return stacked.assign_attrs(base[name].attrs).to_dataset(name=name)


@pytest.mark.parametrize(
    ("dimension", "levels", "attrs"),
    [
        ("plev", [85000.0, 50000.0], {"units": "Pa"}),
        ("plev", [85000.0, 50000.0], {}),
        ("level", [850, 500], {"units": "millibars"}),
        ("level", [850, 500], {}),
        ("isobaricInhPa", [850.0, 500.0], {"units": "hPa"}),
        ("height_above", [85.0, 50.0], {"units": "kPa"}),
        ("level", [0.85, 0.5], {"units": "bar"}),
        ("plev", [84999.9, 50000.02], {"units": "Pa"}),
        ("level", np.array([850, 500.00003], "f4"), {"units": "mbars"}),
    ],
)
def test_levels_become_ascending_hectopascals(
    opened: Any, dimension: str, levels: list[float], attrs: dict[str, str]
) -> None:
    dataset = opened(on_levels("ta", "K", levels, attrs, dimension))
    assert dataset.level.values.tolist() == [500, 850]
    assert dataset.level.dtype == np.int64
    assert dataset.temperature.isel(time=0, latitude=0, longitude=0).values.tolist() == [200, 100]


@pytest.mark.parametrize(("name", "units"), [("z", "m"), ("zg", "m"), ("gh", "gpm"), ("hgt", "m"), ("z", "m2 s-2")])
def test_geopotential_height_becomes_geopotential_by_its_units(opened: Any, name: str, units: str) -> None:
    array = opened(on_levels(name, units, [500.0], {"units": "hPa"})).geopotential
    factor = 1 if "2" in units else STANDARD_GRAVITY
    np.testing.assert_allclose(array, 100 * factor, rtol=1e-6)


def test_a_static_z_in_metres_is_orography_not_geopotential(opened: Any) -> None:
    dataset = opened(maps("z", "m").isel(time=0, drop=True))
    assert list(dataset.data_vars) == ["orography"]


def test_a_level_without_a_dimension_is_kept(opened: Any) -> None:
    dataset = on_levels("z", "m2 s-2", [500.0], {"units": "hPa"}, "level").isel(level=0)
    assert opened(dataset).geopotential.dims == ("time", "level", "latitude", "longitude")


@pytest.mark.parametrize(("dimension", "value"), [("height", 2.0), ("heightAboveGround", 2.0), ("height", 1.5)])
@pytest.mark.parametrize("as_dimension", [True, False])
def test_a_single_height_is_dropped_and_makes_two_metre_temperature(
    opened: Any, dimension: str, value: float, as_dimension: bool
) -> None:
    dataset = maps("x", "K", standard_name="air_temperature")
    height = (dimension, [value], {"units": "m"}) if as_dimension else ((), value, {"units": "m"})
    if as_dimension:
        dataset = dataset.expand_dims(dimension, axis=1)
    dataset = dataset.assign_coords({"height" if not as_dimension else dimension: height})
    assert opened(dataset)["2m_temperature"].dims == ("time", "latitude", "longitude")


def test_levels_between_whole_hectopascals_become_variables(opened: Any) -> None:
    dataset = opened(on_levels("ta", "K", [40.0, 100.0], {"units": "Pa"}))
    assert list(dataset.data_vars) == ["temperature", "ta_0.4hPa"]


def test_the_copernicus_layout_of_era5_opens(opened: Any) -> None:
    dataset = on_levels("z", "m**2 s**-2", [1000.0, 500.0], {"units": "hPa"}, "pressure_level")
    dataset = dataset.rename(time="valid_time").assign_coords(number=0, expver=("valid_time", ["0001", "0005"]))
    dataset.valid_time.attrs["standard_name"] = "time"
    assert opened(dataset).geopotential.dims == ("time", "level", "latitude", "longitude")


def test_fields_of_latitude_beside_a_rectilinear_grid_are_fields(opened: Any) -> None:
    dataset = maps("lsm", "1").isel(time=0, drop=True)
    dataset["lat2d"] = dataset.lat.broadcast_like(dataset.lsm).assign_attrs(units="degrees_north")
    assert list(opened(dataset).data_vars) == ["land_sea_mask", "latitude_field"]


def test_a_dimension_without_meaning_is_refused_by_name(opened: Any) -> None:
    dataset = maps().expand_dims(month=[1, 7])
    with pytest.raises(DataError, match=r"'t2m' in .* has a dimension 'month' of length 2 that is neither time"):
        opened(dataset)


@pytest.mark.parametrize("name", ["number", "ensemble", "realization", "member_id"])
def test_member_dimensions_are_recognised(opened: Any, name: str) -> None:
    dataset = opened(maps().expand_dims({name: [3, 4, 5]}, axis=0))
    assert dataset["2m_temperature"].dims == ("time", "member", "latitude", "longitude")
    assert dataset.member.values.tolist() == [3, 4, 5]


def test_transposed_and_descending_fields_are_turned(opened: Any) -> None:
    dataset = maps(latitude=(10.0, 0.0, -10.0)).transpose("lon", "lat", "time")
    array = opened(dataset)["2m_temperature"]
    assert array.dims == ("time", "latitude", "longitude")
    np.testing.assert_array_equal(array, dataset.t2m.transpose("time", "lat", "lon").values[:, ::-1])


@pytest.mark.parametrize(
    ("stored", "expected"),
    [
        ([-180, -90, 0, 90], [0, 90, 180, 270]),
        ([0, 90, 180, 270], [0, 90, 180, 270]),
        ([270, 180, 90, 0], [0, 90, 180, 270]),
        ([0, 90, 180, 270, 360], [0, 90, 180, 270]),
        ([110, 200, 290, 380], [20, 110, 200, 290]),
        ([-280, -190, -100, -10], [80, 170, 260, 350]),
        ([-70, -40, -10, 10], [290, 320, 350, 370]),
        ([-140, -100], [220, 260]),
        ([350, 355, 0, 5], [350, 355, 360, 365]),
        ([0, 5, 350, 355], [350, 355, 360, 365]),
        ([-10, -5], [350, 355]),
        ([30], [30]),
        ([-1e-14, 90, 180, 270], [0, 90, 180, 270]),
    ],
)
def test_longitudes_ascend_within_the_circle_or_on_past_greenwich(
    opened: Any, stored: list[float], expected: list[float]
) -> None:
    meridians = np.mod(np.asarray(stored) + 1e-9, 360).astype(np.float32)
    array = opened(maps(longitude=stored, values=meridians))["2m_temperature"]
    np.testing.assert_allclose(array.longitude, expected, atol=1e-9)
    np.testing.assert_allclose(array[0, 0], np.mod(expected, 360), atol=1e-4)


def test_coordinates_are_found_by_units_and_axis_not_only_by_name(opened: Any) -> None:
    dataset = maps().rename(lat="ETOPO60Y", lon="ETOPO60X", time="when")
    dataset.when.attrs["axis"] = "T"
    assert opened(dataset)["2m_temperature"].dims == ("time", "latitude", "longitude")


def test_packed_integers_and_fill_values_become_floats_and_nan(opened: Any) -> None:
    dataset = maps(values=np.array([250.0, 260.0, np.nan, 270.0], np.float32))
    packing = {"dtype": "int16", "scale_factor": -0.01, "add_offset": 260.0, "_FillValue": -32767}
    array = opened(dataset, t2m=packing)["2m_temperature"]
    np.testing.assert_allclose(array[0, 0], [250, 260, np.nan, 270], atol=0.006)


@pytest.mark.parametrize("calendar", ["360_day", "noleap"])
def test_calendars_are_kept(opened: Any, calendar: str) -> None:
    times = xr.date_range("2001-02-27", periods=3, freq="D", calendar=calendar, use_cftime=True)
    opened_times = opened(maps(times=times)).time.values
    assert isinstance(opened_times[0], cftime.datetime)
    assert opened_times[0].calendar == calendar
    assert [t.strftime("%m-%d") for t in opened_times][2] == {"360_day": "02-29", "noleap": "03-01"}[calendar]


def test_one_moment_for_all_becomes_a_time_axis_and_statics_have_none(opened: Any) -> None:
    moment = maps().isel(time=0).assign(lsm=lambda ds: ds.t2m.assign_attrs(units="1"))
    dataset = opened(moment)
    assert dataset["2m_temperature"].dims == ("time", "latitude", "longitude")
    assert dataset.land_sea_mask.dims == ("latitude", "longitude")


def test_hours_counted_from_a_reference_date_in_text_are_dated(opened: Any) -> None:
    dataset = maps("p", None).rename(time="timestep").assign_coords(timestep=np.array([0, 6], np.int32))
    dataset = dataset.assign(reftime=((), b"1996 01 05 00:00"))
    assert opened(dataset).time.values.astype("datetime64[h]").astype(str).tolist() == [
        "1996-01-05T00",
        "1996-01-05T06",
    ]


def curvilinear(*moving: str) -> xr.Dataset:
    places = [each[(None,) * len(moving)] for each in np.meshgrid([0.0, 1.0], [0.0, 1.0, 2.0], indexing="ij")]
    dims = (*moving, "y", "x")
    coords = {"lat": (dims, places[0], NORTH), "lon": (dims, places[1], EAST), "time": days(1)}
    return xr.Dataset({"tos": (("time", "y", "x"), np.zeros((1, 2, 3)), {"units": "K"})}, coords)


def unstructured() -> xr.Dataset:
    coords = {"lat": ("cell", [0.0, 1, 2], NORTH), "lon": ("cell", [0.0, 1, 2], EAST), "time": days(1)}
    return xr.Dataset({"tas": (("time", "cell"), np.zeros((1, 3)), {"units": "K"})}, coords)


@pytest.mark.parametrize(
    ("dataset", "message"),
    [
        (curvilinear(), "curvilinear grid .y, x.: regrid it first, for example with `cdo remapcon,r360x180 IN OUT`"),
        (curvilinear("time"), r"curvilinear grid .time, y, x.: regrid it first"),
        (unstructured(), "unstructured grid of 3 points along 'cell': regrid it first, .* `cdo remapcon"),
        (maps(latitude=(0.0, np.nan, 2.0)), "has 1 missing values in its latitude; write the coordinate anew"),
        (maps().drop_vars(["lat", "lon"]), "has no latitude; its dimensions are time, lat, lon: add coordinates"),
    ],
)
def test_grids_that_cannot_be_used_are_refused_with_the_remedy(opened: Any, dataset: xr.Dataset, message: str) -> None:
    with pytest.raises(GridError, match=message):
        opened(dataset)


@pytest.mark.parametrize(
    ("order", "message"),
    [
        ([0, 1, 1], r"holds the time 2001-01-02 00:00:00 twice: drop one with xarray's drop_duplicates"),
        ([1, 2, 0], r"has 2001-01-01 00:00:00 after 2001-01-03 00:00:00: sort it, .* `cdo sorttimestamp"),
    ],
)
def test_repeated_and_disordered_times_are_refused(opened: Any, order: list[int], message: str) -> None:
    with pytest.raises(DataError, match=message):
        opened(maps(times=days(3)[order]))


def test_several_files_stand_side_by_side_and_one_after_the_other(opened: Any) -> None:
    early, late = maps(times=days(2)), maps(times=days(2, "2001-01-03"))
    wind = maps("u10", "m/s", times=days(4))
    dataset = opened(late, wind, early)
    assert set(dataset.data_vars) == {"2m_temperature", "10m_u_component_of_wind"}
    np.testing.assert_array_equal(dataset.time, days(4))


def test_files_with_one_level_each_are_stacked(opened: Any) -> None:
    files = [on_levels("t", "K", [level], {"units": "hPa"}, "level") for level in (850.0, 500.0)]
    assert opened(*files).temperature.level.values.tolist() == [500, 850]
    later = files[1].assign_coords(time=days(2, "2001-01-03"))
    message = r"'temperature' in .*b\.nc has other levels \(500\) than in .*a\.nc \(500, 850\): give files of the same"
    with pytest.raises(DataError, match=message):
        opened(xr.concat(files, "level"), later)


def test_a_level_that_one_variable_lacks_is_not_listed_as_its_channel(opened: Any) -> None:
    hectopascals = {"units": "hPa"}
    dataset = opened(
        on_levels("t", "K", [500.0, 850.0], hectopascals), on_levels("q", "kg kg-1", [850.0], hectopascals)
    )
    assert dataset.specific_humidity.attrs["levels"] == [850]
    assert bool(dataset.specific_humidity.sel(level=500).isnull().all())


def test_other_grids_are_refused_by_name(opened: Any) -> None:
    with pytest.raises(GridError, match=r"b\.nc is on another grid .3×3 .* than .*a\.nc .3×4 .*: open them apart or"):
        opened(maps(), maps("u10", "m/s", longitude=(0, 120, 240)))


def test_grids_that_differ_by_rounding_are_one(opened: Any) -> None:
    nearly = maps("u10", "m/s", longitude=np.array([0, 90, 180, 270]) + 1e-5)
    assert opened(maps(), nearly).sizes["longitude"] == 4


def test_overlapping_times_are_refused_by_name(opened: Any) -> None:
    message = (
        r"b\.nc and .*a\.nc both hold '2m_temperature' for 2001-01-02 .*1 in all: cut .*`cdo seltimestep,2/2 .*b\.nc"
    )
    with pytest.raises(DataError, match=message):
        opened(maps(), maps(times=days(2, "2001-01-02")))
    with pytest.raises(DataError, match=r"b\.nc and .*a\.nc both hold '2m_temperature' for 2001-01-02 .*: leave one"):
        opened(maps(times=3), maps(times=days(2, "2001-01-02")))


def test_a_file_of_several_without_units_or_in_others_is_named(opened: Any) -> None:
    later = maps("swell", None, times=days(2, "2001-01-03"))
    with pytest.raises(
        DataError, match=r"'swell' has no units in .*b\.nc, but furlong in .*: .*ncatted -a units,swell"
    ):
        opened(maps("swell", "furlong"), later)
    later.swell.attrs["units"] = "ell"
    with pytest.raises(DataError, match=r"'swell' is in ell in .*b\.nc but in furlong in .*a\.nc: convert one"):
        opened(maps("swell", "furlong"), later)


def test_what_is_no_data_is_refused_for_what_it_is(tmp_path: Path) -> None:
    os.symlink("gone.nc", tmp_path / "link.nc")
    os.mkfifo(tmp_path / "pipe.nc")
    for name, content, message in (
        ("table.csv", b"a,b\n1,2\n", r"csv is neither NetCDF, GRIB, HDF5 nor Zarr .it begins with b'a,b"),
        ("empty.nc", b"", "is empty: copy or download it again"),
        ("login.nc", b"\n<!DOCTYPE html>", "is a web page, perhaps one that asks to log in"),
        ("a.nc.gz", gzip.compress(b"CDF"), r"is compressed with gzip: unpack it with `gunzip < .* > OUT`"),
        ("a.nc.bz2", bz2.compress(b"CDF"), "is compressed with bzip2: unpack it with `bunzip2 <"),
        ("a.nc.xz", lzma.compress(b"CDF"), "is compressed with xz: unpack it with `unxz <"),
        ("link.nc", None, "link.nc is a link to gone.nc, which is not there"),
        ("pipe.nc", None, "is no file but a device or pipe"),
    ):
        if content is not None:
            (tmp_path / name).write_bytes(content)
        with pytest.raises(DataError, match=message):
            open_store(tmp_path / name)
    with pytest.raises(
        DataError, match=r"nothing else is read from an address: .* `curl -O http://example\.org/a\.nc`"
    ):
        open_store("http://example.org/a.nc")


def test_other_calendars_are_refused_by_name(opened: Any) -> None:
    noleap = xr.date_range("2001-01-01", periods=2, freq="D", calendar="noleap", use_cftime=True)
    with pytest.raises(DataError, match=r"b\.nc counts its times in the noleap calendar, .*a\.nc in proleptic"):
        opened(maps(), maps("u10", "m/s", times=noleap))


def test_variables_with_other_members_are_refused_by_name(opened: Any) -> None:
    files = [maps(name, units).expand_dims(number=[0, i], axis=1) for i, (name, units) in
             enumerate([("t2m", "K"), ("u10", "m/s")], 1)]  # fmt: skip
    with pytest.raises(DataError, match=r"has other members .0 … 2, 2 in all. than '2m_temperature'"):
        opened(*files)


def test_files_with_one_member_each_are_joined(opened: Any) -> None:
    assert opened(*(maps().expand_dims(number=[i], axis=1) for i in (2, 1))).member.values.tolist() == [1, 2]


def test_variables_with_other_times_are_refused_by_name(opened: Any) -> None:
    message = r"'10m_u_component_of_wind' in .*b\.nc has other times .*3 in all.* than '2m_temperature' in .*a\.nc"
    with pytest.raises(DataError, match=message):
        opened(maps(), maps("u10", "m/s", times=3))


def test_statics_that_agree_are_taken_once_and_others_refused(opened: Any) -> None:
    static = maps("lsm", "1").isel(time=0, drop=True)
    assert list(opened(static, static).data_vars) == ["land_sea_mask"]
    with pytest.raises(DataError, match="both hold 'land_sea_mask' in different versions"):
        opened(static, static + 1)


def test_two_variables_that_mean_the_same_are_refused(opened: Any) -> None:
    with pytest.raises(DataError, match="holds '2m_temperature' twice, as 't2m' and 'tas'; delete one of them"):
        opened(maps().assign(tas=lambda ds: ds.t2m.assign_attrs(units="K")))


def test_folders_patterns_and_lists_of_files_open(tmp_path: Path) -> None:
    for i in range(3):
        maps(times=days(1, f"2001-01-0{i + 1}")).to_netcdf(tmp_path / f"day{i}.nc")
    (tmp_path / "notes.txt").write_text("no data")
    assert open_store(tmp_path).sizes["time"] == 3
    assert open_store(f"{tmp_path}/day[01].nc").sizes["time"] == 2
    assert open_store([tmp_path / "day2.nc", str(tmp_path / "day0.nc")]).sizes["time"] == 2


def test_wrong_paths_name_the_closest(tmp_path: Path) -> None:
    maps().to_netcdf(tmp_path / "temperature.nc")
    with pytest.raises(DataError, match=r"there is no '.*temprature\.nc'; did you mean 'temperature\.nc'"):
        open_store(tmp_path / "temprature.nc")
    with pytest.raises(DataError, match=r"the pattern '.*\*\.grib' matches no file"):
        open_store(f"{tmp_path}/*.grib")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"the folder .*empty holds no files ending in"):
        open_store(tmp_path / "empty")
    with pytest.raises(DataError, match="no files were given"):
        open_store([])


def test_a_file_without_fields_is_refused(opened: Any) -> None:
    with pytest.raises(DataError, match="holds no numbers on its latitude–longitude grid"):
        opened(maps().drop_vars("t2m"))


def test_a_folder_without_permission_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path) -> bool:
        raise PermissionError(13, "Permission denied", f"{path}/zarr.json")

    monkeypatch.setattr("etesian.files.open.is_store", refuse)
    with pytest.raises(DataError, match=r"zarr\.json cannot be read, you lack the permission"):
        open_store(tmp_path)
