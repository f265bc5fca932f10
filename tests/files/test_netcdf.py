"""The header of classic files, and what a NetCDF file holds beside its variables."""

import subprocess
from pathlib import Path

import h5py
import netCDF4
import numpy as np
import pytest
import xarray as xr

from etesian.core.errors import DataError
from etesian.files.diagnosis import Severity
from etesian.files.doctor import examine
from etesian.files.open import open_store

CLASSIC = ["NETCDF3_CLASSIC", "NETCDF3_64BIT_OFFSET", "NETCDF3_64BIT_DATA"]


def weather(times: int = 5) -> xr.Dataset:
    random = np.random.default_rng(3)
    shape = (times, 3, 5)
    return xr.Dataset(
        {
            "u10": (("time", "lat", "lon"), random.normal(size=shape).astype("f4"), {"units": "m s-1"}),
            # Bytes and an odd number of them: records are padded.
            "kind": (("time", "lat", "lon"), random.integers(0, 9, shape).astype("i1"), {"units": "1"}),
            "height": (("lat", "lon"), random.normal(size=shape[1:]), {"units": "furlong"}),
        },
        {
            "time": np.datetime64("2001-01-01", "ns") + np.arange(times) * np.timedelta64(1, "D"),
            "lat": ("lat", [-10.0, 0, 10], {"units": "degrees_north"}),
            "lon": ("lon", [0.0, 72, 144, 216, 288], {"units": "degrees_east"}),
        },
        {"note": "of three letters"},
    )


def write(path: Path, dataset: xr.Dataset, form: str, unlimited: bool = True) -> Path:
    if form == "NETCDF3_64BIT_DATA":
        whole = write(path.with_suffix(".4"), dataset, "NETCDF4", unlimited)
        with netCDF4.Dataset(whole) as old, netCDF4.Dataset(path, "w", format=form) as new:
            for name, dimension in old.dimensions.items():
                new.createDimension(name, None if dimension.isunlimited() else dimension.size)
            for name, variable in old.variables.items():
                attributes = {key: variable.getncattr(key) for key in variable.ncattrs() if key != "_FillValue"}
                new.createVariable(name, variable.dtype, variable.dimensions).setncatts(attributes)
                new[name][:] = variable[:]
    else:
        dataset.to_netcdf(
            path, format=form.replace("_OFFSET", ""), unlimited_dims=["time"] if unlimited else [], engine="netcdf4"
        )
    return path


@pytest.mark.parametrize("form", CLASSIC)
@pytest.mark.parametrize("names", [["u10", "kind", "height"], ["kind"]])
@pytest.mark.parametrize("unlimited", [True, False])
def test_a_classic_file_opens_whole_and_is_refused_when_one_value_lacks(
    tmp_path: Path, form: str, names: list[str], unlimited: bool
) -> None:
    dataset = weather()[names]
    dataset = dataset if unlimited else dataset.drop_vars("time")
    path = write(tmp_path / "a.nc", dataset if unlimited else dataset.isel(time=0), form, unlimited)
    opened = open_store(path)
    np.testing.assert_array_equal(opened["kind"][0] if unlimited else opened["kind"], dataset["kind"][0])
    data = path.read_bytes()
    # The last values may be padded to four bytes.
    path.write_bytes(data[:-8])
    with pytest.raises(DataError, match=r"a\.nc is truncated: it is \d+ bytes long, less than the \d+"):
        open_store(path)
    path.write_bytes(data[:60])
    with pytest.raises(DataError, match=r"a\.nc is truncated or its header is damaged"):
        open_store(path)


@pytest.mark.parametrize("form", CLASSIC)
def test_records_of_a_streamed_file_are_counted_by_its_length(tmp_path: Path, form: str) -> None:
    dataset = weather()
    path = write(tmp_path / "a.nc", dataset, form)
    data = bytearray(path.read_bytes())
    count = 8 if form == "NETCDF3_64BIT_DATA" else 4
    data[4 : 4 + count] = b"\xff" * count
    path.write_bytes(data)
    if form == "NETCDF3_64BIT_DATA":
        with pytest.raises(DataError, match="leaves open how many records it holds, by its length 5: write") as refused:
            open_store(path)
        subprocess.run(str(refused.value).split("`")[1], shell=True, check=True, capture_output=True)
    opened = open_store(path)
    np.testing.assert_array_equal(opened["10m_u_component_of_wind"], dataset.u10)
    np.testing.assert_array_equal(opened.time, dataset.time)
    texts = [finding.text for finding in examine(path).findings]
    assert any("5 times by the length of the file" in text for text in texts) is (form != "NETCDF3_64BIT_DATA")


def looks(path: Path) -> list[str]:
    return [finding.text for finding in examine(path).findings if finding.severity is Severity.LOOK]


def test_groups_that_are_left_out_are_named_with_a_command_that_makes_a_file_of_them(tmp_path: Path) -> None:
    path = write(tmp_path / "a.nc", weather()[["u10"]], "NETCDF4")
    with netCDF4.Dataset(path, "a") as file:
        file.createGroup("sea/surface").createVariable("sst", "f4", ("time", "lat", "lon"))
        file.createGroup("about").createVariable("version", "i4")
    (text,) = looks(path)
    assert text == ("the group 'sea/surface' (sst) is left out: `ncks -G : -g sea/surface IN OUT` makes a file of it")
    assert list(open_store(path)) == ["10m_u_component_of_wind"]


def test_a_file_of_groups_alone_names_them(tmp_path: Path) -> None:
    weather()[["u10"]].to_netcdf(tmp_path / "a.nc", group="wind")
    weather()[["time", "lat", "lon"]].to_netcdf(tmp_path / "b.nc")
    weather()[["u10"]].drop_vars(["lat", "lon"]).to_netcdf(tmp_path / "b.nc", group="wind", mode="a")
    with h5py.File(tmp_path / "c.h5", "w") as file:
        file["wind/u10"] = np.zeros((2, 3))
    for name, words in (("a.nc", "top"), ("b.nc", "top but coordinates"), ("c.h5", "top")):
        with pytest.raises(
            DataError, match=rf"no variables at its {words}, only in groups: 'wind' \(.*u10.*`ncks -G : -g wind IN OUT`"
        ):
            open_store(tmp_path / name)


def test_variables_that_hold_no_plain_numbers_are_left_out_by_name(tmp_path: Path) -> None:
    path = write(tmp_path / "a.nc", weather()[["u10"]], "NETCDF4")
    with netCDF4.Dataset(path, "a") as file:
        ragged = file.createVLType(np.float32, "ragged")
        pair = file.createCompoundType(np.dtype([("a", "f4"), ("b", "f4")]), "pair")
        file.createVariable("profile", ragged, ("lat", "lon"))[0, 0] = np.ones(3, "f4")
        file.createVariable("pairs", pair, ("lat", "lon"))
        file.createVariable("words", str, ("lat", "lon"))[0, 0] = "sea"
    with h5py.File(path, "a") as file:
        file["opaque"] = np.array([b"ab"], dtype="V4")
    assert sorted(looks(path)) == [
        "'opaque' is left out: it is of a type that NetCDF does not read",
        "'pairs' is left out: it holds several numbers at each point",
        "'profile' is left out: it holds rows of different length",
    ]
    assert list(open_store(path)) == ["10m_u_component_of_wind"]


def test_damaged_values_are_named_by_file_and_variable(tmp_path: Path) -> None:
    dataset = weather(60)[["u10"]]
    path = tmp_path / "a.nc"
    dataset.to_netcdf(path, encoding={"u10": {"zlib": True, "chunksizes": (20, 3, 5)}})
    with h5py.File(path) as file:
        chunk = file["u10"].id.get_chunk_info(1)
    data = bytearray(path.read_bytes())
    data[chunk.byte_offset : chunk.byte_offset + chunk.size] = bytes(chunk.size)
    path.write_bytes(data)
    with pytest.raises(DataError, match=r"a\.nc cannot be read at 'u10', it is damaged \(.*\); copy or download it"):
        open_store(path).compute()


def test_final_and_preliminary_reanalysis_become_one(tmp_path: Path) -> None:
    whole = weather(4)[["u10"]].assign(height=weather().height)
    parts = [whole.u10.where(whole.time < whole.time[2]), whole.u10.where(whole.time >= whole.time[1]) + 100]
    for order, versions in (((0, 1), [1, 5]), ((1, 0), [5, 1])):
        both = xr.concat([parts[i] for i in order], dim=xr.DataArray(versions, dims="expver", name="expver"))
        whole.assign(u10=both.assign_attrs(units="m s-1").transpose("time", ...)).to_netcdf(tmp_path / f"{order}.nc")
        opened = open_store(tmp_path / f"{order}.nc")["10m_u_component_of_wind"]
        assert opened.chunks is not None
        np.testing.assert_allclose(opened[:2], whole.u10[:2])
        np.testing.assert_allclose(opened[2:], whole.u10[2:] + 100)
    for i, versions in enumerate(([1, 7], ["0001", "iekm"])):
        xr.open_dataset(tmp_path / "(0, 1).nc").assign_coords(expver=versions).to_netcdf(tmp_path / f"{i}.nc")
        with pytest.raises(DataError, match=r"'expver' of 2 that are not the versions 1 \(ERA5\) and 5 \(ERA5T\)"):
            open_store(tmp_path / f"{i}.nc")


@pytest.mark.skipif(not Path("/usr/bin/ncks").exists(), reason="NCO is not installed")
def test_the_command_for_groups_works(tmp_path: Path) -> None:
    path = write(tmp_path / "a.nc", weather()[["kind"]], "NETCDF4")
    with netCDF4.Dataset(path, "a") as file:
        wind = file.createGroup("wind").createVariable("u10", "f4", ("time", "lat", "lon"))
        wind.units, wind[:] = "m s-1", weather().u10.values
    subprocess.run(["ncks", "-G", ":", "-g", "wind", str(path), str(tmp_path / "out.nc")], check=True)
    np.testing.assert_array_equal(open_store(tmp_path / "out.nc")["10m_u_component_of_wind"], weather().u10)
