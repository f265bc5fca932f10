"""Public data by name, copied from local stores and servers that are laid out as the public ones."""

import io
import shutil
import tarfile
from pathlib import Path

import cftime
import numpy as np
import pytest
import xarray as xr
from slow_server import serving

import etesian as et
from etesian.cli.main import main
from etesian.core.outputs import claim, marker
from etesian.files import copies, zarrs
from etesian.files.public import PUBLIC

LATITUDE, LONGITUDE = np.linspace(-78.75, 78.75, 8), np.arange(0, 360, 22.5)

TAS = {"channels": ["tas"], "resolution": 5.625}

GRID = {"lat": ("lat", LATITUDE, {"units": "degrees_north"}), "lon": ("lon", LONGITUDE, {"units": "degrees_east"})}


def era5(place: Path) -> xr.Dataset:
    """Write three days of 1959 as WeatherBench 2 lays them out."""
    random = np.random.default_rng(0)
    dims, shape = ("time", "level", "longitude", "latitude"), (12, 3, 16, 8)
    dataset = xr.Dataset(
        {
            "temperature": (dims, random.normal(250, 9, shape).astype("f4"), {"units": "K"}),
            "geopotential": (dims, random.normal(5e4, 9, shape).astype("f4"), {"units": "m**2 s**-2"}),
            "land_sea_mask": (dims[2:], np.ones((16, 8), "f4"), {"units": "1"}),
            "2m_temperature": (("time", *dims[2:]), random.normal(280, 9, (12, 16, 8)).astype("f4"), {"units": "K"}),
        },
        {
            "time": np.datetime64("1959-01-01", "ns") + np.arange(12) * np.timedelta64(6, "h"),
            "level": [500, 850, 1000],
            "longitude": LONGITUDE,
            "latitude": LATITUDE,
        },
    )
    dataset.to_zarr(place / PUBLIC["era5"].places[5.625], zarr_format=2, consolidated=True)
    return dataset


@pytest.fixture(scope="module")
def mirror(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("mirror")
    era5(place)
    return place


@pytest.fixture
def server(tmp_path, monkeypatch):
    monkeypatch.setattr(zarrs, "FIRST_PAUSE", 0.001)
    (tmp_path / "served").mkdir()
    with serving(tmp_path / "served") as running:
        yield running


def test_the_list_says_of_all_what_they_are_and_on_what_terms(capsys) -> None:
    assert list(et.data()) == [
        "era5",
        "arco-era5",
        "cmip6",
        "oisst",
        "mur",
        "climatebench",
        "era5-cds",
        "ostia",
        "ostia-nrt",
    ]
    with pytest.raises(SystemExit, match="0"):
        main(["data"])
    said = capsys.readouterr().out
    assert said == f"{et.data()!r}\n"
    assert "1959-01-01 to 2023-01-10" in said
    for public in et.data().values():
        text = str(public)
        assert all(word in text for word in ("licence", "cite", "size", "period", public.base, public.page))
        assert "doi 10." in public.citation


def test_era5_is_copied_at_a_resolution_with_channels_on_their_levels(mirror, tmp_path, capsys, monkeypatch) -> None:
    there = xr.open_zarr(mirror / PUBLIC["era5"].places[5.625])
    monkeypatch.setenv("ETESIAN_DATA_ERA5", str(mirror))
    with pytest.raises(SystemExit, match="0"):
        main(
            ["data", "era5", str(tmp_path / "part.zarr"), "--years", "1959", "1959-01-02", "--resolution", "5.625",
             "--channels", "temperature_850", "geopotential_500", "2m_temperature", "land_sea_mask", "--region",
             "0,60,0,90", "--every", "12"]
        )  # fmt: skip
    part = et.open(tmp_path / "part.zarr")
    assert dict(part.sizes) == {"time": 4, "level": 2, "latitude": 3, "longitude": 5}
    ours = there["temperature"].sel(level=[500, 850], time=part.time, latitude=part.latitude, longitude=part.longitude)
    np.testing.assert_array_equal(part["temperature"], ours.transpose(*part["temperature"].dims))
    said = capsys.readouterr().out
    # 4 times × (2 variables × 2 levels + 1) × 15 points × 4 bytes, and the mask once.
    assert "1.3 kB to copy" in said
    assert said.index("Licence to Use Copernicus Products") < said.index("to copy")
    assert "doi 10.1029/2023MS004019" in said
    assert "every variable with levels is copied at 500, 850 hPa" in said


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("erra5", {}, "no public data 'erra5'; did you mean 'era5'"),
        ("era5", {"channels": ["tas"]}, "era5 is at 5.625°, 1.5°, 0.25°; name its resolution"),
        ("era5", {**TAS, "years": (1940, 1960)}, "has 1959-01-01 to 2023-01-10, not from 1940"),
        ("era5", {**TAS, "years": (2020, 2024)}, "not up to 2024"),
        ("era5", {**TAS, "years": (1980, 1970)}, "end before they begin"),
        ("era5", {"channels": ["temperture_850"], "resolution": 5.625}, "'temperture'; did you mean 'temperature'"),
        ("era5", {"channels": ["temperature_700"], "resolution": 5.625}, "no level 700 hPa; it has 500, 850, 1000"),
        ("era5", {"channels": ["tas"], "model": "x"}, "model does not suit era5, which takes years, resolution"),
        ("oisst", {}, "name the years to copy of oisst, which has from 1981-09-01 on"),
        ("oisst", {"region": "Europe"}, "region does not suit oisst, which takes years"),
        ("climatebench", {"years": (1990, 2000)}, "no options: it is copied as a whole"),
    ],
)  # fmt: skip
def test_what_is_not_there_is_refused_by_what_is(mirror, tmp_path, name, options, message) -> None:
    with pytest.raises(et.EtesianError, match=message):
        et.data(name, tmp_path / "out", base=str(mirror), **options)
    assert list(tmp_path.iterdir()) == []


def oisst(folder: Path, *days: str) -> None:
    """Write days as NOAA lays them out."""
    for day in days:
        place = folder / day[:6] / f"oisst-avhrr-v02r01.{day}.nc"
        place.parent.mkdir(exist_ok=True)
        shape = (1, 1, 8, 16)
        xr.Dataset(
            {"sst": (("time", "zlev", "lat", "lon"), np.full(shape, float(day[-2:]), "f4"), {"units": "Celsius"})},
            {
                "time": np.array([f"{day[:4]}-{day[4:6]}-{day[6:]}T12"], "datetime64[ns]"),
                "zlev": ("zlev", [0.0], {"units": "meters", "long_name": "Sea surface height"}),
                **GRID,
            },
        ).to_netcdf(place)


def test_daily_files_are_copied_in_parts_go_on_and_are_not_copied_twice(server, tmp_path, monkeypatch, capsys) -> None:
    oisst(server.folder, "19810930", "19811001", "19811002")
    monkeypatch.setattr(copies, "BLOCK_BYTES", 4000)
    options = {"base": server.url}
    server.dead_after = 2
    with pytest.raises(et.DataError, match=r"stopped answering .* run the same command again to continue"):
        et.data("oisst", tmp_path / "sst", years=("1981-09-30", "1981-10-01"), **options)
    assert (tmp_path / "sst" / "oisst-avhrr-v02r01.19810930.nc.part").stat().st_size == 8000
    shutil.copytree(tmp_path / "sst", tmp_path / "stopped")
    claim(tmp_path / "stopped", "fields")
    (tmp_path / "stopped" / "mine.nc.part").touch()
    with pytest.raises(et.DataError, match=r"holds mine\.nc\.part, which etesian did not write"):
        claim(tmp_path / "stopped", "fields")
    server.dead_after = 10**9
    et.data("oisst", tmp_path / "sst", years=("1981-09-30", "1981-10-01"), **options)
    size = (server.folder / "198109" / "oisst-avhrr-v02r01.19810930.nc").stat().st_size
    assert server.sent["198109/oisst-avhrr-v02r01.19810930.nc"] == -(-size // 4000)
    server.sent.clear()
    place = et.data("oisst", tmp_path / "sst", years=("1981-09-30", "1981-10-02"), **options)
    assert {path[-11:] for path in server.sent} == {"19811002.nc"}
    assert "1 of 3 files to copy, about " in capsys.readouterr().out
    sst = et.open(place)["sea_surface_temperature"]
    np.testing.assert_allclose(sst.mean(("latitude", "longitude")), np.array([30, 1, 2]) + 273.15, rtol=1e-6)
    with pytest.raises(et.DataError, match=r"oisst has no file of 1981-10-03 .*two weeks"):
        et.data("oisst", tmp_path / "sst", years=("1981-09-30", "1981-10-03"), **options)


def test_a_folder_of_somebody_else_is_left_alone(server, tmp_path) -> None:
    oisst(server.folder, "19810930")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("")
    with pytest.raises(et.DataError, match="holds no fields that etesian wrote"):
        et.data("oisst", tmp_path / "mine", years=("1981-09-30", "1981-09-30"), base=server.url)
    assert [file.name for file in (tmp_path / "mine").iterdir()] == ["thesis.tex"]


def test_what_its_owner_puts_beside_copies_is_never_taken_for_them(server, tmp_path) -> None:
    oisst(server.folder, "19810930", "19811001")
    for end in ("1981-09-30", "1981-10-01"):
        place = et.data("oisst", tmp_path / "sst", years=("1981-09-30", end), base=server.url)
        (place / "thesis.tex").write_text("")
    archive(tmp_path / "record" / "train_val.tar.gz", "a.nc")
    options = {"out": tmp_path / "cb", "base": f"file://{tmp_path}/record"}
    with pytest.raises(et.DataError, match=r"there is no .*test\.tar\.gz"):
        et.data("climatebench", **options)
    (tmp_path / "cb" / "thesis.tex").write_text("")
    archive(tmp_path / "record" / "test.tar.gz", "b.nc")
    for folder, kind in ((place, "fields"), (et.data("climatebench", **options), "scenarios")):
        assert len(marker(folder)["entries"]) == 2
        with pytest.raises(et.DataError, match=r"holds thesis\.tex, which etesian did not write"):
            claim(folder, kind)


def test_a_final_answer_is_not_asked_for_again(server, tmp_path, monkeypatch) -> None:
    oisst(server.folder, "19810930")
    server.dead_after, server.fault = 0, 403
    monkeypatch.setattr(zarrs, "FIRST_PAUSE", "no repetition waits for it")
    with pytest.raises(et.DataError, match=r"stopped answering \(403"):
        et.data("oisst", tmp_path / "sst", years=("1981-09-30", "1981-09-30"), base=server.url)
    with pytest.raises(et.DataError, match="stopped answering"):
        copies._block(f"{server.url}/nothing.nc", 0, 4)


def test_a_server_that_does_not_answer_is_not_one_without_files(server, tmp_path) -> None:
    options = {"years": ("1981-09-30", "1981-09-30"), "base": "http://127.0.0.1:9"}
    with pytest.raises(et.DataError, match=r"19810930\.nc cannot be reached \(Cannot connect .*; try again later"):
        et.data("oisst", tmp_path / "sst", **options)


def archive(place: Path, *names: str) -> None:
    place.parent.mkdir(exist_ok=True)
    with tarfile.open(place, "w:gz") as file:
        for name in names:
            member = tarfile.TarInfo(name)
            member.size = 4
            file.addfile(member, io.BytesIO(b"here"))


def test_climatebenchs_archives_are_unpacked_side_by_side_and_nowhere_else(tmp_path, capsys) -> None:
    archive(tmp_path / "record" / "train_val.tar.gz", "train_val/inputs_ssp585.nc", "../../evil.nc")
    archive(tmp_path / "record" / "test.tar.gz", "test/a.nc")
    first, second = (et.data("climatebench", tmp_path / "cb", base=f"file://{tmp_path}/record") for _ in range(2))
    assert first == second
    names = {file.name for file in first.iterdir()} - {".etesian.json"}
    assert names == {"inputs_ssp585.nc", "a.nc", "evil.nc"}
    assert {file.name for file in tmp_path.iterdir()} == {"record", "cb"}
    assert capsys.readouterr().out.count("is already there") == 2


def test_cmip6_is_found_in_the_list_and_copied_in_its_calendar(tmp_path, capsys) -> None:
    root = tmp_path / "cmip6"
    lines = ["activity_id,institution_id,source_id,experiment_id,member_id,table_id,variable_id,grid_label,zstore,"
             "dcpp_init_year,version"]  # fmt: skip
    for variable, version in (("tas", "20190815"), ("ta", "20190815"), ("tas", "20180101"), ("pr", "20190815")):
        path = f"CMIP6/CMIP/NCC/NorESM2-LM/historical/r1i1p1f1/Amon/{variable}/gn/v{version}"
        facets = f"CMIP,NCC,NorESM2-LM,historical,r1i1p1f1,Amon,{variable},gn"
        lines.append(f"{facets},gs://cmip6/{path}/,,{version}")
        months = [cftime.DatetimeNoLeap(2000 + month // 12, month % 12 + 1, 15) for month in range(24)]
        dims = ("time", "lat", "lon") if variable != "ta" else ("time", "plev", "lat", "lon")
        shape = tuple({"time": 24, "plev": 2, "lat": 8, "lon": 16}[dim] for dim in dims)
        units = {"tas": "K", "ta": "K", "pr": "kg m-2 s-1"}[variable]
        xr.Dataset(
            {variable: (dims, np.random.default_rng(1).normal(250, 5, shape).astype("f4"), {"units": units})},
            {"time": months, **GRID, "height": ((), 2.0, {"units": "m"})}
            | ({"plev": ("plev", [85000.0, 50000.0], {"units": "Pa", "positive": "down"})} if "plev" in dims else {}),
            {"license": "CC BY-SA 4.0 it is", "version": version},
        ).to_zarr(root / path, zarr_format=2, consolidated=True)
    lines.append("CMIP,NCC,NorESM2-LM,historical,r1i1p1f1,Amon,pr,gr,gs://cmip6/elsewhere/,,20190815")
    (root / "pangeo-cmip6.csv").write_text("\n".join(lines) + "\n")
    options = {"model": "NorESM2-LM", "experiment": "historical", "years": (2001, 2001), "base": str(root)}
    place = et.data("cmip6", tmp_path / "nor", channels=["2m_temperature", "ta_850"], **options)
    fields = et.open(place)
    assert dict(fields.sizes) == {"time": 12, "level": 1, "latitude": 8, "longitude": 16}
    assert fields["time"].dt.calendar == "noleap"
    assert fields["level"].values.tolist() == [850]
    there = xr.open_zarr(root / "CMIP6/CMIP/NCC/NorESM2-LM/historical/r1i1p1f1/Amon/ta/gn/v20190815")
    np.testing.assert_array_equal(fields["temperature"][:, 0], there["ta"][12:, 0])
    said = capsys.readouterr().out
    assert "CC BY-SA 4.0 it is" in said
    assert "v20180101" not in said
    for wrong, message in (
        ({"model": "NorESM2-ML"}, "no model 'NorESM2-ML'; did you mean 'NorESM2-LM'"),
        ({"experiment": "ssp245"}, "no experiment 'ssp245' of what was asked for; known are historical"),
        ({"channels": ["huss"]}, "no 'huss' of what was asked for; known are 2m_temperature"),
        ({"channels": ["pr"]}, "on the grids gn, gr: name one of them as grid"),
        ({"years": (1990, 1991), "channels": ["tas"], "overwrite": True}, "is written from 2000-01-15"),
    ):
        with pytest.raises(et.EtesianError, match=message):
            et.data("cmip6", place, **{"channels": ["tas"], **options, **wrong})


def test_ghrssts_names_are_read_and_only_the_region_is_copied(tmp_path) -> None:
    sst = np.random.default_rng(2).normal(290, 3, (3, 8, 16)).astype("f4")
    xr.Dataset(
        {"analysed_sst": (("time", "lat", "lon"), sst, {"units": "kelvin"})},
        {
            "time": np.array(["2002-06-01T09", "2002-06-02T09", "2002-06-03T09"], "datetime64[ns]"),
            "lat": ("lat", LATITUDE, {"units": "degrees_north"}),
            "lon": ("lon", LONGITUDE - 180, {"units": "degrees_east"}),
        },
    ).to_zarr(tmp_path / "mur" / "zarr-v1", zarr_format=2, consolidated=True)
    place = et.data(
        "mur", tmp_path / "bay.zarr", channels=["sea_surface_temperature"], region="0,50,-60,0",
        base=str(tmp_path / "mur"), years=(2002, "2002-06-02"),
    )  # fmt: skip
    bay = et.open(place)["sea_surface_temperature"]
    assert bay.shape == (2, 2, 3)
    np.testing.assert_array_equal(bay, sst[:2, 4:6, 6:9])
