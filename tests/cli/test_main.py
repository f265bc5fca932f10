import io
import sys
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from etesian.cli.main import COMMANDS, TRAINING, build_parser, main, sentence


def run(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    return int(stop.value.code or 0), capsys.readouterr().err.strip()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["predikt"], "there is no command 'predikt'; did you mean 'predict'?"),
        (["prepare"], "the following arguments are required: sources, store"),
        (["predict", "run", "store", "out", "--init", "2001", "2001", "--leads", "x"], 'Parser key "leads" element 1'),
        (["evaluate", "nothing.zarr", "nowhere.zarr"], "there is no 'nothing.zarr'"),
        (
            ["predict", "persistence", "nothing.zarr", "out", "--init", "2001", "2001", "--leads", "0"],
            "must be hours greater than 0",
        ),
    ],
)
def test_a_mistake_is_answered_with_one_sentence(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    status, text = run(arguments, capsys)
    assert status in (1, 2)
    assert message in text
    assert "Traceback" not in text


@pytest.mark.parametrize("name", sorted(set(COMMANDS) - set(TRAINING)))
def test_every_command_explains_every_argument(name: str) -> None:
    import importlib

    module, _, function = COMMANDS[name].function.partition(":")
    parser = build_parser(name, getattr(importlib.import_module(module), function), COMMANDS[name].positional)
    undocumented = [action.dest for action in parser._actions if not action.help]
    assert not undocumented


def test_the_doctor_says_what_the_user_must_mend(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["doctor", "nothing.nc"])
    assert stop.value.code == 1
    assert "nothing.nc" in capsys.readouterr().out


def test_a_misspelt_key_names_the_closest_one() -> None:
    message = (
        "Problem with given class_path 'etesian.forecast.data.ForecastData':\n        Option 'leeds' is not accepted\n"
    )
    assert sentence(message) == "ForecastData has no option 'leeds'; did you mean 'leads'?"


@pytest.mark.parametrize("encoding", ["cp1252", "latin-1", "ascii"])
@pytest.mark.parametrize("command", ["help", "doctor", "mistake"])
def test_what_a_pipe_cannot_encode_is_replaced(
    encoding: str, command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    days = np.arange("2001-01-01", "2001-01-05", dtype="datetime64[D]").astype("datetime64[ns]")
    axes = {"time": days, "latitude": [-30.0, 0.0, 30.0], "longitude": [0.0, 120.0, 240.0]}
    field = np.arange(36, dtype=np.float32).reshape(4, 3, 3) + 270
    file = tmp_path / "températures–été.nc"
    xr.Dataset({"t2m": (tuple(axes), field, {"units": "K"})}, axes).to_netcdf(file)
    arguments = {"help": ["--help"], "doctor": ["doctor", str(file)], "mistake": ["doctör → file"]}
    streams = [io.TextIOWrapper(io.BytesIO(), encoding=encoding) for _ in range(2)]
    monkeypatch.setattr(sys, "stdout", streams[0])
    monkeypatch.setattr(sys, "stderr", streams[1])
    try:
        main(arguments[command])
        status = 0
    except SystemExit as end:
        status = end.code
    for stream in streams:
        stream.flush()
    out, err = (stream.buffer.getvalue().decode(encoding) for stream in streams)
    said = {"help": "usage: etesian COMMAND", "doctor": "2m_temperature", "mistake": "there is no command 'doct"}
    assert status == (1 if command == "mistake" else 0)
    assert said[command] in (err if command == "mistake" else out)
