"""On a full disk a command says so in one sentence, leaves no half result, and goes on when there is space again."""

import errno
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import xarray as xr
import zarr.storage._local as local

from etesian.cli.main import main


def run(*words: object) -> int:
    status: Any = 0
    try:
        main([str(word) for word in words])
    except SystemExit as stop:
        status = stop.code or 0
    return int(status)


def fill_the_disk(patch: pytest.MonkeyPatch, after: int) -> None:
    """Let so many chunks of fields be written, and none after them."""
    put, written = local._put, []

    def failing(path: Path, *arguments: Any, **options: Any) -> Any:
        if "c" in path.parts:
            written.append(path)
            if len(written) > after:
                raise OSError(errno.ENOSPC, "No space left on device", str(path))
        return put(path, *arguments, **options)

    patch.setattr(local, "_put", failing)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    time = pd.date_range("2001-01-01", periods=40, freq="6h")
    values = np.random.default_rng(0).normal(280, 5, (40, 6, 8)).astype(np.float32)
    fields = {"2m_temperature": (("time", "latitude", "longitude"), values, {"units": "K"})}
    coordinates = {"time": time, "latitude": np.linspace(-75, 75, 6), "longitude": np.arange(8) * 45.0}
    xr.Dataset(fields, coordinates).chunk(time=1).to_zarr(tmp_path / "source.zarr")
    return tmp_path / "source.zarr"


@pytest.mark.parametrize("command", ["forecast", "fetch"])
@pytest.mark.parametrize("after", [0, 2])
def test_a_full_disk_is_one_sentence_and_no_half_result(
    command: str, after: int, store: str, source: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    out, undisturbed = source.with_name("out.zarr"), source.with_name("undisturbed.zarr")
    words = {
        "forecast": (("baseline:persistence", store), ("--init", "2001-01-02", "2001-01-12", "--leads", 6, 24)),
        "fetch": ((source,), ("--variables", "2m_temperature")),
    }
    before, behind = words[command]
    assert run(command, *before, undisturbed, *behind) == 0
    with monkeypatch.context() as patch:
        fill_the_disk(patch, after)
        assert run(command, *before, out, *behind) == 1
    message = " ".join(capsys.readouterr().err.split())
    assert "the disk is full; free some space and run the same command again to go on" in message
    assert "Traceback" not in message
    assert not out.exists()
    assert run(command, *before, out, *behind) == 0
    xr.testing.assert_identical(xr.open_zarr(out).load(), xr.open_zarr(undisturbed).load())
