"""Zarr groups as they are found: chunks that are lost, groups in groups, bare arrays, zip files, old metadata."""

import contextlib
import json
import shutil
import socket
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
import zarr
from fsspec.asyn import get_loop, sync

from etesian.core.errors import DataError
from etesian.files import zarrs
from etesian.files.decoding import UnreachableError
from etesian.files.diagnosis import Severity
from etesian.files.doctor import examine
from etesian.files.open import open_store


def field() -> xr.Dataset:
    values = np.random.default_rng(2).normal(size=(6, 4, 8)).astype("f4")
    return xr.Dataset(
        {"u10": (("time", "lat", "lon"), values, {"units": "m s-1"})},
        {
            "time": np.datetime64("2001-01-01", "ns") + np.arange(6) * np.timedelta64(1, "D"),
            "lat": ("lat", [-45.0, -15, 15, 45], {"units": "degrees_north"}),
            "lon": ("lon", np.arange(8) * 45.0, {"units": "degrees_east"}),
        },
    )


def looks(path: Path) -> list[str]:
    return [finding.text for finding in examine(path).findings if finding.severity is Severity.LOOK]


@pytest.mark.parametrize("zarr_format", [2, 3])
@pytest.mark.parametrize("separator", [".", "/"])
def test_lost_chunks_are_counted_without_reading(tmp_path: Path, zarr_format: int, separator: str) -> None:
    path = tmp_path / "a.zarr"
    field().drop_vars("u10").to_zarr(path, zarr_format=zarr_format)
    group = zarr.open_group(path, mode="a")
    named = {"dimension_names": ["time", "lat", "lon"]} if zarr_format == 3 else {}
    array = group.create_array(
        "u10", shape=(6, 4, 8), chunks=(2, 4, 8), dtype="f4", fill_value=0, **named,
        chunk_key_encoding={"name": "v2" if zarr_format == 2 else "default", "separator": separator},
    )  # fmt: skip
    array.attrs.update({"units": "m s-1"} | ({} if named else {"_ARRAY_DIMENSIONS": ["time", "lat", "lon"]}))
    array[:4] = field().u10.values[:4]
    assert looks(path) == ["1 of 3 chunks of 'u10' are not there: their values read as the fill_value 0.0"]
    array[4:] = 1
    assert looks(path) == []


def test_chunks_left_out_as_empty_count_as_missing_where_the_fill_value_does(tmp_path: Path) -> None:
    dataset = field()
    dataset.u10[2:4] = np.nan
    encoding = {"u10": {"chunks": (2, 4, 8)}}
    dataset.to_zarr(tmp_path / "a.zarr", zarr_format=2, encoding=encoding, write_empty_chunks=False)
    assert "1 of 3 chunks of 'u10' are not there: their values count as missing" in looks(tmp_path / "a.zarr")
    assert open_store(tmp_path / "a.zarr")["10m_u_component_of_wind"][2:4].isnull().all()


def test_shards_are_counted_as_one_file_each(tmp_path: Path) -> None:
    encoding = {"u10": {"chunks": (1, 4, 8), "shards": (3, 4, 8)}}
    field().to_zarr(tmp_path / "a.zarr", zarr_format=3, encoding=encoding)
    assert looks(tmp_path / "a.zarr") == []
    np.testing.assert_array_equal(open_store(tmp_path / "a.zarr")["10m_u_component_of_wind"], field().u10)
    (tmp_path / "a.zarr/u10/c/1/0/0").unlink()
    assert looks(tmp_path / "a.zarr")[0].startswith("1 of 2 chunks of 'u10' are not there")


def test_groups_in_groups_are_named_and_open_by_themselves(tmp_path: Path) -> None:
    path = tmp_path / "a.zarr"
    field().to_zarr(path, group="daily/wind", consolidated=False)
    with pytest.raises(DataError, match=rf"only in groups: 'daily/wind' \(.*u10.*\); open {path}/daily/wind"):
        open_store(path)
    assert list(open_store(path / "daily/wind")) == ["10m_u_component_of_wind"]
    field().rename(u10="v10").to_zarr(path, mode="a", consolidated=False)
    assert list(open_store(path)) == ["10m_v_component_of_wind"]
    (text,) = looks(path)
    assert text.startswith("the group 'daily/wind' (")
    assert text.endswith("is left out: its folder opens by itself")


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_a_bare_array_and_a_damaged_description_are_refused(tmp_path: Path, zarr_format: int) -> None:
    path = tmp_path / "a.zarr"
    field().to_zarr(path, zarr_format=zarr_format, consolidated=False)
    with pytest.raises(DataError, match=rf"u10 is a single Zarr array: open the group .*: {path}"):
        open_store(path / "u10")
    name = "zarr.json" if zarr_format == 3 else ".zgroup"
    (path / name).write_text("{")
    with pytest.raises(DataError, match=rf"a\.zarr cannot be read, its {name} is damaged"):
        open_store(path)


def test_consolidated_metadata_that_are_older_than_the_store_are_not_believed(tmp_path: Path) -> None:
    path = tmp_path / "a.zarr"
    field().isel(time=slice(4)).to_zarr(path, zarr_format=2, consolidated=True)
    field().isel(time=slice(4, 6)).to_zarr(path, append_dim="time", consolidated=False)
    np.testing.assert_array_equal(open_store(path)["10m_u_component_of_wind"], field().u10)


def test_variables_come_in_the_same_order_however_the_group_lists_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.zarr"
    names = ["v10", "sp", "u10", "t2m"]
    field().drop_vars("u10").assign({name: field()["u10"].drop_attrs() for name in names}).to_zarr(path)
    listed = zarr.Group.arrays

    def backwards(group: zarr.Group) -> Iterator[tuple[str, zarr.Array]]:
        yield from reversed(list(listed(group)))

    orders = [list(open_store([str(path)]).data_vars)]
    monkeypatch.setattr(zarr.Group, "arrays", backwards)
    orders.append(list(open_store([str(path)]).data_vars))
    assert orders == [["surface_pressure", "2m_temperature", "10m_u_component_of_wind", "10m_v_component_of_wind"]] * 2


def test_a_zipped_store_opens(tmp_path: Path) -> None:
    field().to_zarr(tmp_path / "a", zarr_format=2)
    shutil.make_archive(str(tmp_path / "a.zarr"), "zip", tmp_path / "a")
    np.testing.assert_array_equal(open_store(tmp_path / "a.zarr.zip")["10m_u_component_of_wind"], field().u10)


def test_a_damaged_chunk_is_named_by_store_and_variable(tmp_path: Path) -> None:
    path = tmp_path / "a.zarr"
    field().to_zarr(path, zarr_format=3, encoding={"u10": {"chunks": (2, 4, 8)}})
    chunk = path / "u10/c/1/0/0"
    chunk.write_bytes(chunk.read_bytes()[:20])
    with pytest.raises(DataError, match=r"a\.zarr cannot be read at 'u10', it is damaged"):
        open_store(path).compute()


def test_values_in_memory_and_zip_files_of_other_things_are_told_apart(tmp_path: Path) -> None:
    field().to_zarr("memory://weather.zarr")
    assert open_store("memory://weather.zarr").sizes["time"] == 6
    with zipfile.ZipFile(tmp_path / "era5.nc", "w") as archive:
        archive.writestr("instant.nc", json.dumps({}))
    with pytest.raises(DataError, match=r"zip archive of 1 files \(instant\.nc\): unpack it with `unzip .* -d .*era5`"):
        open_store(tmp_path / "era5.nc")


def test_a_server_that_takes_no_connection_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zarrs, "_GREETING", 0.2)
    with socket.socket() as server, contextlib.ExitStack() as others:
        server.bind(("127.0.0.1", 0))
        server.listen(0)
        for _ in range(3):  # As many as may wait, and more.
            other = others.enter_context(socket.socket())
            other.setblocking(False)
            other.connect_ex(server.getsockname())
        address = f"http://name:secret@127.0.0.1:{server.getsockname()[1]}"
        with pytest.raises(
            DataError, match=r"^s3://b/a cannot be reached \(Cannot connect to 127[^@]*: no answer in 0"
        ):
            zarrs.greet("s3://b/a", address)
        monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
        zarrs.greet("s3://b/a", address)


@pytest.mark.parametrize(("kind", "asked"), [("ConnectionError", 3), ("HTTPClientError", 3), ("NoCredentialsError", 1)])
def test_what_s3s_client_raises_is_repeated_where_that_may_help(
    kind: str, asked: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(zarrs, "FIRST_PAUSE", 0.001)
    error, times = type("SomeError", (type(kind, (type("BotoCoreError", (Exception,), {}),), {}),), {}), []

    async def ask() -> None:
        times.append(1)
        raise error("no way")

    with pytest.raises(UnreachableError, match="a key: no way"):
        sync(get_loop(), zarrs.persistently, ask, "a key", 2)
    assert len(times) == asked
