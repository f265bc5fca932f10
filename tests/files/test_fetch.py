"""Copying from a store behind a bad connection: nothing lost, nothing twice, nothing half."""

import hashlib
import http.server
import itertools
import random
import sys
import threading
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from etesian.core.dataset import planet_of
from etesian.core.errors import ChannelError, DataError, GridError, RecipeError
from etesian.files import fetch as module
from etesian.files import zarrs
from etesian.files.fetch import fetch
from etesian.files.open import open_store

STEPS, CHUNK = 40, 4


def weather(zarr_format: int, path: Path, **attributes: str) -> Path:
    """A small store as WeatherBench 2 lays it out: north to south, longitude before latitude."""
    random_ = np.random.default_rng(0)
    latitude, longitude = np.linspace(78.75, -78.75, 8), np.arange(0, 360, 22.5)
    coordinates = {
        "time": np.datetime64("2000-01-01", "ns") + np.arange(STEPS) * np.timedelta64(6, "h"),
        "level": np.array([500, 850]),
        "longitude": longitude,
        "latitude": latitude,
    }
    column = ("time", "level", "longitude", "latitude")
    dataset = xr.Dataset(
        {
            "geopotential": (column, random_.normal(5e4, 1e3, (STEPS, 2, 16, 8)), {"units": "m**2 s**-2"}),
            "temperature": (column, random_.normal(0, 20, (STEPS, 2, 16, 8)), {"units": "degC"}),
            "t2m": (("time", "longitude", "latitude"), random_.normal(280, 20, (STEPS, 16, 8)), {"units": "K"}),
            "land_sea_mask": (("longitude", "latitude"), random_.random((16, 8)), {"units": "1"}),
        },
        coordinates,
        attributes,
    ).astype(np.float32)
    chunks = {name: {"chunks": (CHUNK, *array.shape[1:])} for name, array in dataset.items() if "time" in array.dims}
    dataset.to_zarr(path, zarr_format=zarr_format, consolidated=True, encoding=chunks)
    return path


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    return weather(2, tmp_path_factory.mktemp("source") / "weather.zarr", valid_time_stop="2000-01-09")


class Server(http.server.ThreadingHTTPServer):
    """Serves a folder; each key's first requests may fail: 503, no answer, a body shorter than announced, or cut."""

    daemon_threads = True

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.folder, self.seed, self.faults = folder, 0, 0
        self.kinds, self.prefix = ["busy", "drop", "short", "none"], ""
        self.dead_after: int | None = None
        self.requests: Counter[str] = Counter()
        self.lock = threading.Lock()
        self.url = f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, request, client_address) -> None:
        pass


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def log_message(self, format, *args) -> None:
        pass

    def do_GET(self) -> None:
        server, path = self.server, self.path.lstrip("/")
        with server.lock:
            server.requests[path] += 1
            attempt = server.requests[path]
            served = sum(count for key, count in server.requests.items() if is_chunk(key))
        file = server.folder / path
        if not file.is_file():
            self.send_error(404)
            return
        body = file.read_bytes()
        fault = "none"
        if attempt <= server.faults and path.startswith(server.prefix):
            fault = random.Random(f"{server.seed} {path} {attempt}").choice(server.kinds)
        if server.dead_after is not None and is_chunk(path) and served > server.dead_after:
            fault = "busy"
        if fault == "busy":
            self.send_error(503)
        elif fault != "drop":
            self.send_response(200)
            if fault != "cut":
                self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body[: len(body) // 2] if fault in ("short", "cut") else body)


def is_chunk(path: str) -> bool:
    return "/." not in path and not path.endswith("zarr.json")


@pytest.fixture
def server(source, monkeypatch):
    monkeypatch.setattr(zarrs, "FIRST_PAUSE", 0.001)
    with Server(source.parent) as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield running
        running.shutdown()
        thread.join()


def tree(path: Path) -> dict[str, str]:
    files = sorted(file for file in path.rglob("*") if file.is_file())
    return {str(file.relative_to(path)): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def test_what_is_of_no_place_on_earth_stays_so(tmp_path):
    source = weather(3, tmp_path / "weather.zarr", planet="simulated")
    fetch(str(source), str(tmp_path / "copy.zarr"), variables=["land_sea_mask"])
    assert planet_of(open_store(tmp_path / "copy.zarr")) == {"planet": "simulated"}


EVERYTHING = ["geopotential", "temperature", "2m_temperature", "land_sea_mask"]


def test_the_copy_is_canonical_and_its_values_are_the_sources(tmp_path, source):
    fetch(str(source), str(tmp_path / "copy.zarr"), variables=EVERYTHING, end="2000-01-09")
    copy, original = xr.open_zarr(tmp_path / "copy.zarr", consolidated=True), xr.open_zarr(source)
    assert copy["temperature"].dims == ("time", "level", "latitude", "longitude")
    assert copy["temperature"].attrs == {"units": "K", "standard_name": "air_temperature"}
    assert copy["2m_temperature"].dims == ("time", "latitude", "longitude")
    assert copy["land_sea_mask"].dims == ("latitude", "longitude")
    assert (np.diff(copy["latitude"]) > 0).all()
    there = original.sortby("latitude").transpose("time", "level", "latitude", "longitude").isel(time=slice(36))
    np.testing.assert_array_equal(copy["geopotential"], there["geopotential"])
    np.testing.assert_allclose(copy["temperature"], there["temperature"] + 273.15, rtol=1e-6)
    np.testing.assert_array_equal(copy["2m_temperature"], there["t2m"])
    np.testing.assert_array_equal(copy["land_sea_mask"], there["land_sea_mask"])
    xr.testing.assert_equal(open_store(tmp_path / "copy.zarr").drop_attrs(), copy.drop_attrs())


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_a_part_is_chosen_by_coordinates(tmp_path, zarr_format):
    source = weather(zarr_format, tmp_path / "weather.zarr")
    fetch(
        f"file://{source}",
        str(tmp_path / "part.zarr"),
        variables=["geopotential"],
        levels=[500],
        start="2000-01-02T12",
        end="2000-01-05",
        region="20,60,330,50",
        every=12,
    )
    part = xr.open_zarr(tmp_path / "part.zarr")["geopotential"]
    assert part["latitude"].values.tolist() == [33.75, 56.25]
    assert part["longitude"].values.tolist() == [337.5, 360, 382.5, 405]
    assert str(part["time"].values[[0, -1]].astype("M8[h]")) == "['2000-01-02T12' '2000-01-05T12']"
    there = xr.open_zarr(source)["geopotential"].sel(
        time=part["time"], level=[500], latitude=part["latitude"], longitude=[337.5, 0, 22.5, 45]
    )
    np.testing.assert_array_equal(part, there.transpose(*part.dims))


@pytest.mark.parametrize("seed", range(4))
def test_dropped_connections_errors_and_truncated_bodies_change_nothing(tmp_path, source, server, monkeypatch, seed):
    monkeypatch.setattr(module, "BLOCK_BYTES", 2 * CHUNK * 2 * 16 * 8 * 4)
    fetch(str(source), str(tmp_path / "clean.zarr"), variables=EVERYTHING, end="2000-01-09")
    server.seed, server.faults = seed, 2
    url = f"{server.url}/weather.zarr"
    fetch(url, str(tmp_path / "copy.zarr"), variables=EVERYTHING, end="2000-01-09", retries=6)
    clean, copy = xr.open_zarr(tmp_path / "clean.zarr"), xr.open_zarr(tmp_path / "copy.zarr")
    xr.testing.assert_equal(clean, copy)
    assert any(count > 1 for count in server.requests.values())
    assert max(server.requests.values()) <= 16


def test_what_arrives_damaged_is_asked_for_again(tmp_path, source, server):
    if not (source.parent / "third.zarr").exists():
        weather(3, source.parent / "third.zarr")
    server.kinds, server.faults, server.prefix = ["cut"], 1, "third.zarr/geopotential/c/3"
    fetch(f"{server.url}/third.zarr", str(tmp_path / "copy.zarr"), variables=["geopotential"])
    there = xr.open_zarr(source.parent / "third.zarr")["geopotential"].sortby("latitude")
    copy = xr.open_zarr(tmp_path / "copy.zarr")["geopotential"]
    np.testing.assert_array_equal(copy, there.transpose(*copy.dims))
    assert server.requests["third.zarr/geopotential/c/3/0/0/0"] == 2


def test_a_broken_off_copy_continues_without_downloading_again(tmp_path, server, monkeypatch):
    monkeypatch.setattr(module, "BLOCK_BYTES", 1)
    url, variables = f"{server.url}/weather.zarr", ["geopotential", "temperature"]
    options = {"variables": variables, "end": "2000-01-09", "retries": 1}
    fetch(url, str(tmp_path / "whole.zarr"), **options)
    once = {path: count for path, count in server.requests.items() if is_chunk(path)}
    blocks = {path for path in once if path.startswith(("weather.zarr/geopotential", "weather.zarr/temperature"))}
    assert {once[path] for path in blocks if not path.endswith("/0.0.0.0")} == {1}
    assert len(blocks) == 18

    server.requests.clear()
    server.dead_after = sum(once.values()) - len(blocks) + 13
    with pytest.raises(DataError, match=r"stopped answering .* run the same command again to continue"):
        fetch(url, str(tmp_path / "copy.zarr"), **options)
    assert not (tmp_path / "copy.zarr").exists()
    assert (tmp_path / "copy.zarr.partial").is_dir()
    first = {path for path in blocks if server.requests[path]}
    assert 9 <= len(first) < 18

    server.requests.clear()
    server.dead_after = None
    fetch(url, str(tmp_path / "copy.zarr"), **options)
    again = {path for path in blocks if server.requests[path]} - {f"weather.zarr/{name}/0.0.0.0" for name in variables}
    assert len(again & first) <= 1
    assert tree(tmp_path / "copy.zarr") == tree(tmp_path / "whole.zarr")
    assert not (tmp_path / "copy.zarr.partial").exists()


def test_a_copy_stopped_in_the_middle_of_a_block_continues_to_the_same_bytes(tmp_path, source, monkeypatch):
    monkeypatch.setattr(module, "BLOCK_BYTES", 1)
    options = {"variables": EVERYTHING, "end": "2000-01-09"}
    fetch(str(source), str(tmp_path / "whole.zarr"), **options)
    load, calls = module._load, itertools.count()

    def stopped(block, retries):
        if next(calls) == 11:
            raise KeyboardInterrupt
        return load(block, retries)

    with monkeypatch.context() as context:
        context.setattr(module, "_load", stopped)
        with pytest.raises(KeyboardInterrupt):
            fetch(str(source), str(tmp_path / "copy.zarr"), **options)
    fetch(str(source), str(tmp_path / "copy.zarr"), **options)
    assert tree(tmp_path / "copy.zarr") == tree(tmp_path / "whole.zarr")


def test_a_finished_copy_is_left_as_it_is_and_another_is_not_replaced_unasked(tmp_path, source, server):
    url, path = f"{server.url}/weather.zarr", str(tmp_path / "copy.zarr")
    fetch(url, path, variables=["geopotential"], end="2000-01-02")
    server.requests.clear()
    fetch(url, path, variables=["geopotential"], end="2000-01-02")
    assert not server.requests
    with pytest.raises(DataError, match=r"made with end = 2000-01-02 instead of 2000-01-03; use --overwrite"):
        fetch(url, path, variables=["geopotential"], end="2000-01-03")
    fetch(url, path, variables=["geopotential"], end="2000-01-03", overwrite=True)
    assert xr.open_zarr(path).sizes["time"] == 12


def test_without_an_end_only_written_times_are_copied(tmp_path, source):
    fetch(str(source), str(tmp_path / "copy.zarr"), variables=["tas"], start="2000-01-09")
    assert xr.open_zarr(tmp_path / "copy.zarr").sizes["time"] == 4


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"variables": ["geopotentail"]}, ChannelError, "no variable 'geopotentail'; did you mean 'geopotential'"),
        ({"levels": [700]}, ChannelError, "no level 700 hPa; it has 500, 850"),
        ({"end": "2000-01-10"}, DataError, "written from 2000-01-01T00.* to 2000-01-09T18"),
        ({"start": "1999"}, DataError, "ask for a start and an end within it instead of 1999 and None"),
        ({"start": "2000-01-05", "end": "2000-01-02"}, RecipeError, "start = 2000-01-05 lies after end = 2000-01-02"),
        ({"every": 4}, RecipeError, "every = 4 hours is not possible .* it has a time every 6 hours"),
        ({"region": "5,6,5,6"}, GridError, "region '5,6,5,6' holds no point"),
        ({"variables": []}, RecipeError, "variables is empty"),
        ({"start": "2000-13-01"}, DataError, "'2000-13-01' is no date"),
    ],
)
def test_what_cannot_be_is_named_and_leaves_nothing_behind(tmp_path, source, options, error, message):
    with pytest.raises(error, match=message):
        fetch(str(source), str(tmp_path / "copy.zarr"), **{"variables": ["geopotential"], **options})
    assert list(tmp_path.iterdir()) == []


def test_wrong_addresses_are_named_at_once(tmp_path, server, monkeypatch):
    path = str(tmp_path / "copy.zarr")
    with pytest.raises(DataError, match="did you mean 'weatherbench2/64x32'"):
        fetch("weatherbench/64x32", path, variables=["geopotential"])
    with pytest.raises(DataError, match=r"nowhere\.zarr cannot be read as a Zarr store"):
        fetch(f"{server.url}/nowhere.zarr", path, variables=["geopotential"])
    assert max(server.requests.values()) <= 2
    with pytest.raises(DataError, match="cannot be reached"):
        fetch("http://127.0.0.1:9/weather.zarr", path, variables=["geopotential"], retries=1)
    monkeypatch.setitem(sys.modules, "gcsfs", None)
    with pytest.raises(DataError, match=r"pip install 'etesian\[cloud\]'"):
        fetch("weatherbench2/64x32", path, variables=["geopotential"])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("leads", [[6], [6, 12]])
def test_forecasts_are_not_copied_under_their_initial_times(tmp_path: Path, source: Path, leads: list[int]) -> None:
    lead = ("prediction_timedelta", leads, {"units": "hours"})
    states = xr.open_zarr(source)[["t2m"]].isel(time=slice(4)).drop_encoding()
    forecasts = states.expand_dims(prediction_timedelta=len(leads)).assign_coords(prediction_timedelta=lead)
    forecasts.to_zarr(tmp_path / "forecasts.zarr", zarr_format=2)
    with pytest.raises(DataError, match="holds forecasts, whose fields are valid later than their times"):
        fetch(str(tmp_path / "forecasts.zarr"), str(tmp_path / "copy.zarr"), variables=["2m_temperature"])
    assert not (tmp_path / "copy.zarr").exists()
