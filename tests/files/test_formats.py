"""Every kind of file comes through the one door with the same content."""

import functools
import http.server
import threading
from collections.abc import Iterator
from pathlib import Path

import eccodes
import numpy as np
import pytest
import xarray as xr

from etesian.core import Grid
from etesian.core.channels import Channel
from etesian.core.dataset import channels_of
from etesian.core.errors import ChannelError, DataError
from etesian.files.open import field, open_store
from etesian.store.select import unchanging

LATITUDE = np.array([60.0, 20.0, -20.0, -60.0])
LONGITUDE = np.arange(6) * 60.0


@pytest.fixture
def weather() -> xr.Dataset:
    """Four days of temperature on two levels and of pressure, north to south."""
    generator = np.random.default_rng(1)
    times = np.arange("2001-01-01", "2001-01-05", dtype="datetime64[D]").astype("datetime64[ns]")
    coords = {
        "time": times,
        "level": ("level", [850, 500], {"units": "hPa"}),
        "lat": ("lat", LATITUDE, {"units": "degrees_north"}),
        "lon": ("lon", LONGITUDE, {"units": "degrees_east"}),
    }
    temperature = generator.normal(270, 10, (4, 2, 4, 6)).astype(np.float32)
    pressure = generator.normal(1010, 5, (4, 4, 6)).astype(np.float32)
    return xr.Dataset(
        {
            "t": (("time", "level", "lat", "lon"), temperature, {"units": "K"}),
            "msl": (("time", "lat", "lon"), pressure, {"units": "hPa"}),
        },
        coords,
    )


def assert_is_weather(opened: xr.Dataset, weather: xr.Dataset) -> None:
    assert set(opened.data_vars) == {"temperature", "mean_sea_level_pressure"}
    assert opened.temperature.dims == ("time", "level", "latitude", "longitude")
    assert opened.level.values.tolist() == [500, 850]
    assert opened.latitude.values.tolist() == [-60, -20, 20, 60]
    np.testing.assert_array_equal(opened.temperature, weather.t.isel(level=[1, 0], lat=slice(None, None, -1)))
    np.testing.assert_allclose(opened.mean_sea_level_pressure, weather.msl[:, ::-1] * 100, rtol=1e-6)
    np.testing.assert_array_equal(opened.time, weather.time)


@pytest.mark.parametrize("kind", ["NETCDF3_CLASSIC", "NETCDF3_64BIT", "NETCDF4", "NETCDF4_CLASSIC", "zarr2", "zarr3"])
def test_netcdf_and_zarr_of_every_age_open_alike(weather: xr.Dataset, tmp_path: Path, kind: str) -> None:
    path = tmp_path / "weather"
    if kind.startswith("zarr"):
        weather.to_zarr(path, zarr_format=int(kind[-1]), consolidated=kind == "zarr2")
    else:
        weather.to_netcdf(path, format=kind)
    assert_is_weather(open_store(path), weather)


def test_values_stay_on_disk_in_chunks_of_whole_chunks_along_time(
    weather: xr.Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weather.to_netcdf(tmp_path / "weather.nc")
    weather.chunk(time=2, lat=2).to_zarr(tmp_path / "weather.zarr")
    monkeypatch.setattr("etesian.files.decoding.CHUNK_BYTES", 3 * weather.t[0].nbytes)
    assert open_store(tmp_path / "weather.nc").temperature.data.chunks == ((3, 1), (2,), (4,), (6,))
    assert open_store(tmp_path / "weather.zarr").temperature.data.chunks == ((2, 2), (2,), (4,), (6,))


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[str, list[str]]]:
    """A web server over `tmp_path`, and the paths that were asked of it."""
    asked: list[str] = []

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:
            asked.append(str(args[0]))

    handler = functools.partial(Handler, directory=str(tmp_path))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}", asked
        server.shutdown()


def test_a_remote_zarr_opens_without_reading_its_fields(
    weather: xr.Dataset, tmp_path: Path, served: tuple[str, list[str]]
) -> None:
    address, asked = served
    weather.chunk(time=1).to_zarr(tmp_path / "remote.zarr", zarr_format=2, consolidated=True)
    opened = open_store(f"{address}/remote.zarr")
    assert not any("/t/0" in line or "/msl/0" in line for line in asked)
    assert_is_weather(opened, weather)


def test_a_file_url_opens(weather: xr.Dataset, tmp_path: Path) -> None:
    weather.to_zarr(tmp_path / "local.zarr", zarr_format=2)
    assert_is_weather(open_store(f"file://{tmp_path}/local.zarr"), weather)


def test_a_remote_store_that_is_not_there_is_refused_by_name(served: tuple[str, list[str]]) -> None:
    with pytest.raises(DataError, match=r"nothing\.zarr cannot be read as a Zarr store"):
        open_store(f"{served[0]}/nothing.zarr")


def spectral_message(truncation: int, coefficients: np.ndarray, **keys: object) -> object:
    """A GRIB message of coefficients (n, m), written out as the World Meteorological Organization orders them."""
    handle = eccodes.codes_grib_new_from_samples("sh_pl_grib2")
    for key, value in {**dict.fromkeys("JKM", truncation), "packingType": "spectral_simple", **keys}.items():
        eccodes.codes_set(handle, key, value)
    eccodes.codes_set(handle, "bitsPerValue", 24)
    parts = [part for m in range(truncation + 1) for n in range(m, truncation + 1) for part in (n, m)]
    n, m = np.array(parts).reshape(-1, 2).T
    eccodes.codes_set_values(handle, np.stack([coefficients[n, m].real, coefficients[n, m].imag], axis=1).ravel())
    return handle


def test_spectral_grib_becomes_fields_on_the_gaussian_grid_of_its_truncation(tmp_path: Path) -> None:
    coefficients = np.zeros((11, 11), dtype=complex)
    coefficients[0, 0], coefficients[1, 0], coefficients[2, 1] = 3e-5, 2e-5, 1e-5 - 2e-5j
    with open(tmp_path / "spectral.grib2", "wb") as file:
        for level in (850, 500):
            eccodes.codes_write(spectral_message(10, coefficients * level, shortName="vo", level=level), file)
    opened = open_store(tmp_path / "spectral.grib2")["vorticity"]
    assert opened.chunks is not None
    grid = Grid.gaussian(11)
    assert Grid(opened.latitude.values, opened.longitude.values) == grid
    mu, lon = np.sin(np.radians(grid.latitude))[:, None], np.radians(grid.longitude)
    # √3 μ and √15/√2 μ cos φ are the harmonics of degree 1, order 0 and degree 2, order 1.
    wave = np.sqrt(7.5) * mu * np.sqrt(1 - mu**2) * 2 * (1e-5 * np.cos(lon) + 2e-5 * np.sin(lon))
    expected = 3e-5 + 2e-5 * np.sqrt(3) * mu + wave
    for level in (500, 850):
        np.testing.assert_allclose(opened.sel(level=level).squeeze(), level * expected, atol=level * 1e-9)


def test_spectral_grib_that_is_not_triangular_is_refused_with_the_remedy(tmp_path: Path) -> None:
    handle = eccodes.codes_grib_new_from_samples("sh_pl_grib2")
    eccodes.codes_set(handle, "K", 70)
    with open(tmp_path / "spectral.grib2", "wb") as file:
        eccodes.codes_write(handle, file)
    with pytest.raises(DataError, match=r"J, K, M = \[63, 70, 63\], not a triangular one: transform them first"):
        open_store(tmp_path / "spectral.grib2")


@pytest.mark.parametrize("kind", ["NETCDF3_CLASSIC", "NETCDF4"])
def test_truncated_files_are_refused(weather: xr.Dataset, tmp_path: Path, kind: str) -> None:
    path = tmp_path / "cut"
    weather.to_netcdf(path, format=kind)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * 0.8)])
    with pytest.raises(DataError, match="truncated"):
        open_store(path)


def test_hdf5_with_dimension_scales_opens(weather: xr.Dataset, tmp_path: Path) -> None:
    weather.to_netcdf(tmp_path / "weather.h5", engine="h5netcdf")
    assert_is_weather(open_store(tmp_path / "weather.h5"), weather)


def test_a_training_store_is_recognised(weather: xr.Dataset, tmp_path: Path) -> None:
    weather.assign_attrs(etesian_store=1).to_zarr(tmp_path / "store.zarr")
    with pytest.raises(DataError, match="is a training store already"):
        open_store(tmp_path / "store.zarr")


def write_shards(folder: Path) -> None:
    """Write shards as ClimaX's preparation does: two for each year, the last year for testing."""
    np.save(folder / "lat.npy", LATITUDE[::-1])
    np.save(folder / "lon.npy", LONGITUDE)
    for split in ("train", "test"):
        (folder / split).mkdir()
    for year in (1979, 1980):
        for shard in range(2):
            shape = (730, 1, 4, 6)
            arrays = {
                "land_sea_mask": np.ones(shape, np.float32),
                "2m_temperature": np.full(shape, 280.0 + shard, np.float32),
                "geopotential_500": np.full(shape, 5e4 + year, np.float32),
                "geopotential_850": np.full(shape, 1e4 + year, np.float32),
            }
            np.savez(folder / ("test" if year == 1980 else "train") / f"{year}_{shard}.npz", **arrays)


def test_climax_shards_become_variables_with_levels_and_times(tmp_path: Path) -> None:
    write_shards(tmp_path)
    opened = open_store(tmp_path)
    assert [str(c) for c in channels_of(opened)] == [
        "land_sea_mask", "2m_temperature", "geopotential_500", "geopotential_850",
    ]  # fmt: skip
    assert unchanging(opened).land_sea_mask.dims == ("latitude", "longitude")
    assert opened.sizes["time"] == 2920
    assert str(opened.time.values[730])[:13] == "1979-07-02T12"
    assert str(opened.time.values[1460])[:13] == "1980-01-01T00"
    assert float(opened["2m_temperature"][730].mean()) == 281
    assert float(field(opened, Channel("geopotential", 850))[-1].mean()) == 1e4 + 1980
    assert opened["2m_temperature"].attrs["units_missing"] == 1
    assert open_store(tmp_path / "test").sizes["time"] == 1460


def test_a_channel_that_is_not_there_is_refused_with_the_closest(weather: xr.Dataset, tmp_path: Path) -> None:
    weather.to_netcdf(tmp_path / "weather.nc")
    with pytest.raises(ChannelError, match="no channel 'temprature_850'; did you mean 'temperature_850'"):
        field(open_store(tmp_path / "weather.nc"), Channel("temprature", 850))
