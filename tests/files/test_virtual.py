"""Zarr whose chunks lie elsewhere: what is there is read, and what is lost is never taken for missing values."""

import json
import os
import sys
from base64 import b64decode, b64encode
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
import pytest
import xarray as xr
import zarr
from pretended_s3 import bucket_of
from slow_server import Server, serving

import etesian as et
from etesian.core.errors import DataError
from etesian.files import zarrs

LATITUDE, LONGITUDE = np.linspace(-75, 75, 6), np.arange(8) * 45.0


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with days.nc, of which each of four days is a chunk of its own, uncompressed."""
    monkeypatch.setattr(zarrs, "FIRST_PAUSE", 0.001)
    values = np.random.default_rng(0).standard_normal((4, 6, 8)).astype("f4") + 280
    days = xr.Dataset(
        {"t2m": (("time", "lat", "lon"), values, {"units": "K"})},
        {
            "time": pd.date_range("2001-01-01", periods=4),
            "lat": ("lat", LATITUDE, {"units": "degrees_north"}),
            "lon": ("lon", LONGITUDE, {"units": "degrees_east"}),
        },
    )
    (tmp_path / "data").mkdir()
    days.to_netcdf(tmp_path / "data/days.nc", engine="h5netcdf", encoding={"t2m": {"chunksizes": (1, 6, 8)}})
    return tmp_path


def references(folder: Path, url: str) -> dict[str, Any]:
    """Refer to the chunks of days.nc as kerchunk does, under an address; coordinates stand in the file itself."""

    def array(values: np.ndarray, chunks: tuple[int, ...]) -> str:
        return json.dumps(
            {
                "zarr_format": 2, "shape": values.shape, "chunks": chunks, "dtype": values.dtype.str, "order": "C",
                "fill_value": None, "compressor": None, "filters": None,
            }
        )  # fmt: skip

    with h5py.File(folder / "data/days.nc") as file:
        places = [file["t2m"].id.get_chunk_info(i) for i in range(4)]
    axes = {
        "time": (np.arange(4), {"units": "days since 2001-01-01"}),
        "lat": (LATITUDE, {"units": "degrees_north"}),
        "lon": (LONGITUDE, {"units": "degrees_east"}),
    }
    found: dict[str, Any] = {".zgroup": json.dumps({"zarr_format": 2})}
    for name, (values, attributes) in axes.items():
        found[f"{name}/.zarray"] = array(values, values.shape)
        found[f"{name}/.zattrs"] = {"_ARRAY_DIMENSIONS": [name], **attributes}
        found[f"{name}/0"] = f"base64:{b64encode(values.tobytes()).decode()}"
    found["t2m/.zarray"] = array(np.zeros((4, 6, 8), "<f4"), (1, 6, 8))
    found["t2m/.zattrs"] = {"_ARRAY_DIMENSIONS": ["time", "lat", "lon"], "units": "K"}
    return found | {f"t2m/{i}.0.0": [url, place.byte_offset, place.size] for i, place in enumerate(places)}


def written(folder: Path, refs: dict[str, Any], name: str = "refs.json", **more: Any) -> Path:
    (folder / name).write_text(json.dumps({"version": 1, "refs": refs, **more}))
    return folder / name


def truth(folder: Path) -> np.ndarray:
    return np.asarray(et.open(folder / "data/days.nc")["2m_temperature"].values)


def read(path: Path | str) -> np.ndarray:
    return np.asarray(et.open(path)["2m_temperature"].values)


@pytest.fixture
def server(folder: Path) -> Iterator[Server]:
    with serving(folder) as running:
        yield running


def test_references_in_json_are_read_from_files_beside_them(folder: Path) -> None:
    for url, more in (
        ("data/days.nc", {}),
        (str(folder / "data/days.nc"), {}),
        (f"file://{folder}/data/days.nc", {}),
        ("{{ u }}/days.nc", {"templates": {"u": "data"}}),
    ):
        np.testing.assert_array_equal(read(written(folder, references(folder, url), **more)), truth(folder))
    plain = folder / "plain.json"
    plain.write_text(json.dumps(references(folder, "data/days.nc")))
    np.testing.assert_array_equal(read(plain), truth(folder))


def test_what_a_reference_names_and_is_not_there_is_no_fill_value(folder: Path) -> None:
    path = written(folder, references(folder, "data/days.nc"))
    content = (folder / "data/days.nc").read_bytes()
    with h5py.File(folder / "data/days.nc") as file:
        last = file["t2m"].id.get_chunk_info(3).byte_offset
    (folder / "data/days.nc").write_bytes(content[: last + 100])
    with pytest.raises(DataError, match=r"refs.json refers to 192 bytes at \d+ of .*days.nc, of which 100 are there"):
        read(path)
    (folder / "data/days.nc").unlink()
    with pytest.raises(DataError, match=r"refs.json refers to .*data/days.nc, which is not there; put it there, or"):
        read(path)


@pytest.mark.parametrize(
    ("url", "more", "words"),
    [
        ("{{ f(1) }}/days.nc", {"templates": {"f": "data/{{ c }}"}}, r"an expression, which is not run"),
        ("{{u.__class__}}", {"templates": {"u": "data"}}, r"'{{u.__class__}}', an expression, which is not run"),
        ("{{ u }}/days.nc", {"templates": {"u": "{% for x in y %}"}}, "an expression, which is not run"),
        ("data/days.nc", {"gen": [{"key": "t2m/{{i}}", "url": "{{i}}", "dimensions": {"i": {"stop": 4}}}]}, "'gen'"),
        ("data/days.nc", {"version": 2}, "of a version that is not read"),
        ("ssh://somebody@host/days.nc", {}, "an address of a kind that is not read through references"),
        ("simplecache::file:///days.nc", {}, "an address of a kind that is not read through references"),
        ([1], {}, r"which is no reference"),
    ],
)
def test_references_run_nothing(folder: Path, url: Any, more: dict[str, Any], words: str) -> None:
    path = written(folder, references(folder, url), **more)
    with pytest.raises(DataError, match=words) as caught:
        read(path)
    assert "\n" not in str(caught.value)


def test_what_is_no_address_or_needs_a_package_is_one_sentence(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "s3fs", None)
    for path, words in (
        ("nothing://x/refs.json", "nothing://x/refs.json is no address"),
        (written(folder, references(folder, "s3://x/days.nc")), "s3://x/days.nc needs a package that is missing"),
    ):
        with pytest.raises(DataError, match=f"^{words}"):
            read(path)


def test_references_behind_an_address(folder: Path, server: Server) -> None:
    for number, url in enumerate(("data/days.nc", f"{server.url}/data/days.nc")):
        written(folder, references(folder, url), f"{number}.json")
        server.faults["data/days.nc"] = 3
        server.faults[f"{number}.json"] = 1
        np.testing.assert_array_equal(read(f"{server.url}/{number}.json"), truth(folder))
    for url in (str(folder / "data/days.nc"), f"file://{folder}/data/days.nc"):
        written(folder, references(folder, url))
        with pytest.raises(DataError, match=r"comes from an address and refers to .* on this machine, which"):
            read(f"{server.url}/refs.json")
    written(folder, references(folder, "data/other.nc"))
    with pytest.raises(DataError, match=r"refs.json refers to http.*/data/other.nc, which is not there"):
        read(f"{server.url}/refs.json")
    server.ranges = False
    with pytest.raises(DataError, match="its server cannot serve parts of files"):
        read(f"{server.url}/1.json")


def parquet(folder: Path, url: str) -> Path:
    """Write references as kerchunk writes them in Parquet, three in a file."""
    pytest.importorskip("pyarrow")
    refs = references(folder, url)
    metadata = {key: json.loads(ref) if isinstance(ref, str) else ref for key, ref in refs.items() if "/.z" in key}
    metadata[".zgroup"] = {"zarr_format": 2}
    place = folder / "refs.parq"
    for name in ("time", "lat", "lon", "t2m"):
        (place / name).mkdir(parents=True, exist_ok=True)
        rows = [ref for key, ref in refs.items() if key.startswith(f"{name}/") and "/.z" not in key]
        for record in range(0, len(rows), 3):
            some = rows[record : record + 3]
            raw = [b64decode(ref.removeprefix("base64:")) if isinstance(ref, str) else None for ref in some]
            places = [(None, 0, 0) if isinstance(ref, str) else tuple(ref) for ref in some]
            table = pd.DataFrame(places, columns=["path", "offset", "size"]).assign(raw=raw)
            table.to_parquet(place / name / f"refs.{record // 3}.parq", engine="pyarrow")
    (place / ".zmetadata").write_text(json.dumps({"metadata": metadata, "record_size": 3}))
    return place


def test_references_in_parquet(folder: Path, server: Server) -> None:
    path = parquet(folder, str(folder / "data/days.nc"))
    np.testing.assert_array_equal(read(path), truth(folder))
    with pytest.raises(DataError, match="comes from an address and refers to"):
        read(f"{server.url}/refs.parq")
    # fsspec itself takes what a lost file referred to for chunks that were never written.
    (path / "t2m" / "refs.1.parq").unlink()
    with pytest.raises(DataError, match=r"refs.parq lacks t2m/refs.1.parq, or it cannot be read"):
        read(path)
    path = parquet(folder, f"{server.url}/data/days.nc")
    np.testing.assert_array_equal(read(f"{server.url}/refs.parq"), truth(folder))
    path.rename(folder / "days.zarr")
    server.faults["days.zarr/.zmetadata"] = 2
    np.testing.assert_array_equal(read(f"{server.url}/days.zarr"), truth(folder))


def four_days(folder: Path) -> tuple[np.ndarray, str]:
    """Make an Icechunk repository in a folder; return its temperatures and its snapshot."""
    icechunk = pytest.importorskip("icechunk", reason="icechunk, a package of 19 MB, is not installed")
    values = np.random.default_rng(0).standard_normal((4, 30, 8)) + 280
    days = xr.Dataset(
        {"t2m": (("time", "lat", "lon"), values, {"units": "K"})},
        {"time": pd.date_range("2001-01-01", periods=4), "lat": np.linspace(-87, 87, 30), "lon": LONGITUDE},
    )
    for name in ("lat", "lon"):
        days[name].attrs["units"] = f"degrees_{'north' if name == 'lat' else 'east'}"
    repository = icechunk.Repository.create(icechunk.local_filesystem_storage(str(folder)))
    session = repository.writable_session("main")
    days.to_zarr(session.store, zarr_format=3, consolidated=False, encoding={"t2m": {"chunks": (1, 30, 8)}})
    return values, session.commit("four days")


@pytest.mark.parametrize("signed", [True, False])
def test_an_icechunk_repository_in_a_bucket(signed: bool, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    values, snapshot = four_days(folder / "climate" / "day" / "repository")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "key") if signed else monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    with bucket_of(folder) as server:
        monkeypatch.setenv("AWS_ENDPOINT_URL", server.url)
        np.testing.assert_array_equal(et.open("s3://climate/day/repository")["2m_temperature"].values, values)
        assert server.signed[-1] == signed
        et.prepare("s3://climate/day/repository", folder / "store.zarr", train=("2001-01-01", "2001-01-04"))
    assert snapshot in json.dumps(dict(et.Store(folder / "store.zarr").dataset.attrs))


def test_icechunk_is_not_asked_for_a_bucket_whose_server_is_not_there(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    icechunk = pytest.importorskip("icechunk", reason="icechunk, a package of 19 MB, is not installed")
    monkeypatch.setattr(icechunk.Repository, "exists", None)  # It would be asked for most of a minute.
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(
        DataError, match=r"s3://climate/repository.* cannot be reached \(Cannot connect to 127.0.0.1:9: "
    ):
        read("s3://climate/repository")


@pytest.mark.parametrize("where", ["folder", "bucket"])
def test_an_icechunk_repository_in_a_bucket_reads_no_file_of_this_machine(
    where: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    icechunk = pytest.importorskip("icechunk", reason="icechunk, a package of 19 MB, is not installed")
    four_days(folder / "climate" / "repository")
    secret = np.full((1, 30, 8), 300.0)
    (folder / "secret").write_bytes(secret.tobytes())
    config, inside = icechunk.RepositoryConfig.default(), f"file://{folder}/"
    config.set_virtual_chunk_container(
        icechunk.VirtualChunkContainer(inside, icechunk.local_filesystem_store(str(folder)))
    )
    storage = icechunk.local_filesystem_storage(str(folder / "climate" / "repository"))
    repository = icechunk.Repository.open(storage, config, authorize_virtual_chunk_access={inside: None})
    repository.save_config()
    session = repository.writable_session("main")
    zarr.create_array(session.store, name="t2m", shape=(4, 30, 8), chunks=(1, 30, 8), dtype="f8", compressors=None,
                      dimension_names=("time", "lat", "lon"), attributes={"units": "K"}, overwrite=True)  # fmt: skip
    session.store.set_virtual_ref("t2m/c/0/0/0", f"{inside}secret", offset=0, length=secret.nbytes)
    session.commit("a file of this machine")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "key")
    with bucket_of(folder) as server:
        monkeypatch.setenv("AWS_ENDPOINT_URL", server.url)
        if where == "folder":
            np.testing.assert_array_equal(read(folder / "climate" / "repository")[0], secret[0])
        else:
            with pytest.raises(DataError, match=r"s3://climate/repository cannot be read"):
                read("s3://climate/repository")


def test_an_icechunk_repository(folder: Path) -> None:
    values, snapshot = four_days(folder / "repository")
    opened = et.open(folder / "repository")
    np.testing.assert_array_equal(opened["2m_temperature"].values, values)
    et.prepare(folder / "repository", folder / "store.zarr", train=("2001-01-01", "2001-01-04"))
    assert snapshot in json.dumps(dict(et.Store(folder / "store.zarr").dataset.attrs))
    for chunk in (folder / "repository" / "chunks").iterdir():
        os.rename(chunk, folder / chunk.name)
    with pytest.raises(DataError, match=r"repository cannot be read at 't2m'"):
        read(folder / "repository")
    (folder / "repository" / "refs" / "branch.main" / "ref.json").unlink()
    with pytest.raises(DataError, match="repository cannot be read as an Icechunk repository"):
        read(folder / "repository")
