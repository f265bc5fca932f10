"""Every kind of bad input through every command that can meet it: one sentence, status 1 or 2, and nothing left."""

import gzip
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from etesian.cli.main import main

Make = Callable[[Path], None]


def fields(**changes: object) -> xr.Dataset:
    """Make four days of temperature on a small globe, with changes to its coordinates or the field."""
    coordinates = {
        "time": np.datetime64("2001-01-01", "ns") + np.arange(4) * np.timedelta64(1, "D"),
        "lat": ("lat", [-60.0, -20.0, 20.0, 60.0], {"units": "degrees_north"}),
        "lon": ("lon", np.arange(0.0, 360, 60), {"units": "degrees_east"}),
    }
    values = np.random.default_rng(0).uniform(270, 300, (4, 4, 6)).astype(np.float32)
    field = (("time", "lat", "lon"), values, {"units": "K"})
    return xr.Dataset({"tas": changes.pop("tas", field)}, {**coordinates, **changes})


def empty(path: Path) -> None:
    path.write_bytes(b"")


def words(path: Path) -> None:
    path.write_text("years of work")


def html(path: Path) -> None:
    path.write_text("<!DOCTYPE html><html><body>Please log in</body></html>")


def zipped(path: Path) -> None:
    fields().to_netcdf(path.with_suffix(".tmp"))
    path.write_bytes(gzip.compress(path.with_suffix(".tmp").read_bytes()))
    path.with_suffix(".tmp").unlink()


def truncated(path: Path) -> None:
    fields().to_netcdf(path)
    path.write_bytes(path.read_bytes()[:-400])


def truncated_classic(path: Path) -> None:
    fields().to_netcdf(path, format="NETCDF3_CLASSIC", engine="netcdf4")
    path.write_bytes(path.read_bytes()[:-400])


def damaged(path: Path) -> None:
    fields().to_netcdf(path, encoding={"tas": {"zlib": True, "chunksizes": (4, 4, 6)}})
    data = bytearray(path.read_bytes())
    start = data.index(b"x\x5e") if b"x\x5e" in data else data.index(b"x\x9c")
    data[start + 4 : start + 60] = bytes(56)
    path.write_bytes(data)


def damaged_zarr(path: Path) -> None:
    fields().to_zarr(path)
    (chunk,) = (path / "tas" / "c").rglob("0/0/0")
    chunk.write_bytes(chunk.read_bytes()[:20])


def broken_zarr(path: Path) -> None:
    path.mkdir()
    (path / "zarr.json").write_text("{")


def dangling(path: Path) -> None:
    path.symlink_to("nowhere.nc")


def no_dates(path: Path) -> None:
    fields(time=("time", np.arange(4.0))).to_netcdf(path)


def repeated_times(path: Path) -> None:
    fields().isel(time=[0, 1, 1, 2]).to_netcdf(path)


def nothing_on_the_grid(path: Path) -> None:
    fields().isel(lat=0, drop=True).to_netcdf(path)


def celsius(path: Path) -> None:
    (fields() - 273.15).map(lambda array: array.assign_attrs(units="K")).to_netcdf(path)


def undeclared_fill(path: Path) -> None:
    dataset = fields()
    dataset.tas[:, 0, 0] = -9999
    dataset.to_netcdf(path, encoding={"tas": {"_FillValue": None}})


UNREADABLE: dict[str, Make] = {
    "empty.nc": empty, "words.nc": words, "page.nc": html, "short.nc": truncated, "short3.nc": truncated_classic,
    "broken.zarr": broken_zarr, "link.nc": dangling, "undated.nc": no_dates, "twice.nc": repeated_times,
    "beside.nc": nothing_on_the_grid, "packed.nc": zipped,
}  # fmt: skip
"""What no command can open."""

DAMAGED: dict[str, Make] = {
    "damaged.nc": damaged, "damaged.zarr": damaged_zarr, "celsius.nc": celsius, "fill.nc": undeclared_fill,
}  # fmt: skip
"""What only shows where values are read and judged."""

READERS = {
    "doctor": ["doctor", "INPUT"],
    "prepare": ["prepare", "INPUT", "out.zarr"],
    "plot": ["plot", "INPUT", "out.png"],
    "evaluate": ["evaluate", "INPUT", "INPUT", "--out", "out"],
    "forecast": ["forecast", "baseline:persistence", "INPUT", "out.zarr", "--init", "2001", "2001", "--leads", "24"],
    "import": ["import", "INPUT", "out"],
}
CASES = [
    *((name, make, command) for name, make in UNREADABLE.items() for command in READERS),
    *((name, make, command) for name, make in DAMAGED.items() for command in ("doctor", "prepare")),
]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "400")
    return tmp_path


def everything(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def run(command: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[object, str, str]:
    """Return exit status, output and error of a command run in this process."""
    with pytest.raises(SystemExit) as stop:
        main(command)
    said = capsys.readouterr()
    return stop.value.code, said.out, said.err


def check(command: list[str], folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = everything(folder)
    status, out, err = run(command, capsys)
    assert status in (1, 2)
    assert "Traceback" not in out + err
    if command[0] == "doctor":
        assert "you must fix this" in out
        assert err == ""
    else:
        (sentence,) = [line for line in err.splitlines() if line.strip()]
        assert sentence.startswith("etesian: ")
    assert everything(folder) == before


@pytest.mark.parametrize(("name", "make", "command"), CASES)
def test_a_bad_input_is_one_sentence_and_leaves_nothing(
    name: str, make: Make, command: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make(folder / name)
    check([word.replace("INPUT", name) for word in READERS[command]], folder, capsys)


SAME = {
    "prepare": ["prepare", "INPUT", "INPUT", "--overwrite"],
    "prepare, from inside": ["prepare", "INPUT", "INPUT/new.zarr", "--overwrite"],
    "prepare, another name": ["prepare", "INPUT", "../FOLDER/./INPUT", "--overwrite"],
    "fetch": ["fetch", "INPUT", "INPUT", "--variables", "tas", "--overwrite"],
    "forecast": [*READERS["forecast"][:3], "INPUT", *READERS["forecast"][4:], "--overwrite"],
    "fill": ["fill", "baseline:linear", "INPUT", "INPUT", "--months", "2001", "2001", "--overwrite"],
    "evaluate": ["evaluate", "INPUT", "INPUT", "--out", "INPUT"],
    "plot": ["plot", "INPUT", "INPUT"],
    "import": ["import", "INPUT", "INPUT"],
    "simulate": ["simulate", "INPUT", "--days", "1", "--overwrite"],
    "simulate --sst": ["simulate", "ocean", "INPUT", "--overwrite"],
    "simulate --sst, truth": ["simulate", "ocean", "new.zarr", "--truth", "INPUT", "--overwrite"],
}


@pytest.mark.parametrize("command", SAME)
def test_no_command_removes_a_source_or_what_somebody_else_wrote(
    command: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fields().to_zarr(folder / "mine.zarr")
    given = [word.replace("INPUT", "mine.zarr").replace("FOLDER", folder.name) for word in SAME[command]]
    check(given, folder, capsys)


OUTPUTS = {
    "prepare": ["prepare", "mine.nc", "home", "--overwrite"],
    "fetch": ["fetch", "mine.zarr", "home", "--variables", "tas", "--overwrite"],
    "evaluate": ["evaluate", "mine.nc", "mine.nc", "--out", "home"],
    "import": ["import", "mine.nc", "home"],
    "simulate": ["simulate", "home", "--days", "1", "--overwrite"],
    "here": ["prepare", "mine.nc", ".", "--overwrite"],
    "above": ["prepare", "mine.nc", "home/..", "--overwrite"],
    "picture": ["plot", "mine.nc", "home/thesis.pdf"],
}


@pytest.mark.parametrize("command", OUTPUTS)
def test_no_command_removes_a_home(command: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fields().to_netcdf(folder / "mine.nc")
    fields().to_zarr(folder / "mine.zarr")
    os.mkdir("home")
    (folder / "home" / "thesis.pdf").write_text("years of work")
    check(OUTPUTS[command], folder, capsys)


def test_a_picture_that_was_drawn_here_is_drawn_again(folder: Path) -> None:
    fields().to_netcdf(folder / "mine.nc")
    for ending in ("png", "pdf", "svg"):
        for _ in range(2):
            with pytest.raises(SystemExit) as stop:
                main(["plot", "mine.nc", f"map.{ending}"])
            assert stop.value.code == 0
