"""Data behind an account, by clients of the services' interface that write files as the services do."""

import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import xarray as xr

import etesian as et
from etesian.cli.main import main
from etesian.core.outputs import claim


class Service:
    """Both clients: `cdsapi` and `copernicusmarine`. Keeps what it was asked for; stops at a request if told to."""

    def __init__(self) -> None:
        self.asked: list[dict] = []
        self.stop_at, self.units, self.lost, self.account = 99, "K", 0, True

    def Client(self) -> "Service":
        if not self.account:
            raise Exception("Missing/incomplete configuration file: ~/.cdsapirc")
        return self

    def login(self, *, check_credentials_valid: bool) -> bool:
        assert check_credentials_valid
        return self.account

    def _note(self, request: dict) -> None:
        if len(self.asked) == self.stop_at:
            raise ConnectionError("the queue is full\nand more")
        self.asked.append(request)

    def retrieve(self, name: str, request: dict, target: str) -> None:
        self._note(request | {"dataset": name})
        hours = [
            f"{request['year'][0]}-{request['month'][0]}-{day}T{hour}"
            for day in request["day"]
            for hour in request["time"]
        ]
        time = pd.to_datetime(hours)[self.lost :]
        levels = [float(level) for level in request.get("pressure_level", [])][::-1]
        dims = ("valid_time", *(["pressure_level"] if levels else []), "latitude", "longitude")
        coords = {"valid_time": time, "latitude": [50.0, 45, 40], "longitude": [0.0, 5], "number": 0}
        coords |= {"expver": ("valid_time", ["0001"] * len(time))}
        coords |= {"pressure_level": ("pressure_level", levels, {"units": "hPa"})} if levels else {}
        shape = [len(np.atleast_1d(coords[dim][1] if isinstance(coords[dim], tuple) else coords[dim])) for dim in dims]
        short = {"temperature": "t", "2m_temperature": "t2m", "total_precipitation": "tp"}
        variable = short[request["variable"][0]]
        units, kind = ("m", "accum") if variable == "tp" else (self.units, "instant")
        field = (dims, np.full(shape, 0.1, "f4"), {"units": units, "GRIB_stepType": kind})
        xr.Dataset({variable: field}, coords).to_netcdf(target)

    def subset(
        self, *, dataset_id, variables, start_datetime, end_datetime, output_directory, output_filename, **rest
    ) -> None:
        self._note({"dataset": dataset_id, "from": start_datetime, "to": end_datetime} | rest)
        time = pd.date_range(start_datetime, end_datetime) + pd.Timedelta(hours=12)
        field = (("time", "latitude", "longitude"), np.full((len(time), 2, 3), 290.0), {"units": "kelvin"})
        grid = {"time": time, "latitude": [35.0, 36], "longitude": [-1.0, 0, 1]}
        xr.Dataset({variables[0]: field}, grid).to_netcdf(Path(output_directory, output_filename))


@pytest.fixture
def service(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Service:
    monkeypatch.chdir(tmp_path)
    made = Service()
    for module in ("cdsapi", "copernicusmarine"):
        monkeypatch.setitem(sys.modules, module, made)
    return made


ERA5 = {
    "channels": ["temperature_850", "temperature_500", "2m_temperature"],
    "years": ("2024-01-30", "2024-02"),
    "every": 6,
}


def test_era5_is_asked_for_month_by_month_and_goes_on_after_an_interruption(service: Service, capsys) -> None:
    service.stop_at = 3
    with pytest.raises(
        et.DataError, match=r"did not give 2m_temperature_2024-02\.nc \(the queue is full\); run the same"
    ):
        et.data("era5-cds", "era5", region="40,50,-10,5", resolution=5, **ERA5)
    names = ["2m_temperature_2024-01.nc", "temperature_500_850_2024-01.nc", "temperature_500_850_2024-02.nc"]
    assert sorted(file.name for file in Path("era5").glob("[!.]*.nc")) == names
    Path("era5/.coming-2m_temperature_2024-02.nc").touch()
    claim("era5", "fields")
    service.stop_at = 99
    et.data("era5-cds", "era5", region="40,50,-10,5", resolution=5, **ERA5)
    assert len(service.asked) == 4
    assert service.asked[0] == {
        "dataset": "reanalysis-era5-pressure-levels", "product_type": ["reanalysis"], "variable": ["temperature"],
        "pressure_level": ["500", "850"], "year": ["2024"], "month": ["01"], "day": ["30", "31"],
        "time": ["00:00", "06:00", "12:00", "18:00"], "area": [50, -10, 40, 5], "grid": [5, 5],
        "data_format": "netcdf", "download_format": "unarchived",
    }  # fmt: skip
    assert service.asked[3]["dataset"] == "reanalysis-era5-single-levels"
    assert len(service.asked[3]["day"]) == 29
    opened = et.open("era5/*.nc")
    assert opened.temperature.sizes == {"time": 124, "level": 2, "latitude": 3, "longitude": 2}
    assert "Licence to Use Copernicus Products" in capsys.readouterr().out
    et.data("era5-cds", "era5", region="40,50,-10,5", resolution=5, **ERA5)
    assert len(service.asked) == 4
    with pytest.raises(et.DataError, match=r"holds parts with .*40,50.* choose another place"):
        et.data("era5-cds", "era5", **ERA5)
    with pytest.raises(et.DataError, match="has other times than are asked for"):
        et.data(
            "era5-cds", "era5", region="40,50,-10,5", resolution=5, **ERA5 | {"years": ("2024-02-02", "2024-02-03")}
        )


def test_what_its_owner_puts_beside_months_is_never_taken_for_them(service: Service) -> None:
    for channel in ("temperature_850", "temperature_500"):
        place = et.data("era5-cds", "era5", years=("2024-01-30", "2024-01-30"), channels=[channel])
        (place / "thesis.tex").write_text("")
    with pytest.raises(et.DataError, match=r"holds thesis\.tex, which etesian did not write"):
        claim(place, "fields")


def test_a_mirror_that_no_client_asks_is_refused(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ETESIAN_DATA_ERA5_CDS", "/mirror/")
    with pytest.raises(et.RecipeError, match="ETESIAN_DATA_ERA5_CDS = /mirror does not suit era5-cds"):
        et.data("era5-cds", "era5", **ERA5)


def test_hourly_sums_are_found_by_their_name(service: Service) -> None:
    et.data("era5-cds", "era5", years=("2024-01-01", "2024-01-01"), channels=["tp"])
    assert service.asked[0]["variable"] == ["total_precipitation"]


def test_ostia_is_asked_for_by_subsets(service: Service) -> None:
    with pytest.raises(SystemExit, match="0"):
        main(
            ["data", "ostia", "sea", "--years", "2020-02", "2020-03-02", "--region", "35,36,-1,1", "--channels", "sst"]
        )
    assert [(each["from"], each["to"]) for each in service.asked] == [
        ("2020-02-01T00:00:00", "2020-02-29T23:59:59"), ("2020-03-01T00:00:00", "2020-03-02T23:59:59"),
    ]  # fmt: skip
    assert service.asked[0]["dataset"] == "METOFFICE-GLO-SST-L4-REP-OBS-SST"
    assert (service.asked[0]["minimum_longitude"], service.asked[0]["maximum_longitude"]) == (-1, 1)
    assert et.open("sea").sea_surface_temperature.sizes["time"] == 31


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        ({"units": "m"}, {}, "temperature_500_850_2024-01.nc has t, not temperature; remove it"),
        ({"units": ""}, {}, "temperature_500_850_2024-01.nc has temperature in (None|), not K"),
        ({"lost": 1}, {}, "2024-01.nc has nothing at 2024-01-30T00:00:00"),
        ({"account": False}, {}, r"wants your key \(Missing/incomplete .*; see https://cds.climate.*/how-to-api"),
        ({}, {"channels": ["geopotential_at_surface"]}, "era5-cds has no 'geopotential_at_surface'"),
        ({}, {"channels": ["temprature_500"]}, "era5-cds has no 'temprature_500'; did you mean 'temperature'"),
        ({}, {"every": 5}, "every = 5 hours is no part of a day"),
        ({}, {"resolution": 0.1}, "resolution = 0.1° is finer than era5-cds"),
        ({}, {"years": ("1930", "1931")}, "era5-cds has from 1940-01-01 on"),
        ({}, {"years": None}, "name the years to copy"),
    ],
)
def test_what_is_missing_or_wrong_is_one_sentence_and_no_file(service: Service, change, options, message: str) -> None:
    vars(service).update(change)
    with pytest.raises(et.EtesianError, match=message):
        et.data("era5-cds", "era5", **ERA5 | options)
    assert not list(Path().rglob("[!.]*.nc"))


@pytest.mark.parametrize(("name", "extra"), [("era5-cds", "cds"), ("ostia-nrt", "marine")])
def test_a_client_and_an_account_are_needed(service: Service, name: str, extra: str, monkeypatch) -> None:
    service.account = False
    asked = {"years": ("2020", "2020"), "channels": ["sea_surface_temperature"]}
    with pytest.raises(et.DataError, match=r"wants your (key|account)"):
        et.data(name, "out", **asked)
    for module in ("cdsapi", "copernicusmarine"):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(et.RecipeError, match=rf"is not installed: pip install 'etesian\[{extra}\]'"):
        et.data(name, "out", **asked)
