import io
import sys
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

import etesian as et
from etesian.cli.main import app, main, simulate


def run(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    return int(stop.value.code or 0), capsys.readouterr().err.strip()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["prepare", "a.nc", "a.zarr", "--region", "-9,9,0,9"], "joined to its option, as in --region=-9,9,0,9"),
        (["forcast"], 'Unknown command "forcast". Did you mean "forecast"?'),
        (["prepare"], "name the sources and then the training store to make"),
        (["prepare", "--gird", "5"], "Unknown option: --gird. Did you mean --grid?"),
        (["forecast", "run", "store", "out", "--init", "2001", "2001", "--leads", "x"], '"x"'),
        (["forecast", "run", "store", "out", "--init", "2001", "--leads", "24"], "--init"),
        (["fit", "planet_climx"], "did you mean 'planet_climax'?"),
        (["recipes", "planet_climx"], "did you mean 'planet_climax'?"),
        (["evaluate", "a.zarr", "b.zarr", "--thresholds", "2m_temperature=cold"], "takes CHANNEL=VALUE,VALUE, such as"),
    ],
)
def test_a_mistake_is_answered_with_one_sentence(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    status, text = run(arguments, capsys)
    assert status in (1, 2)
    assert message in text
    assert "Traceback" not in text


COMMANDS = [(command,) for command in app if not command.startswith("-") and command != "simulate"]
COMMANDS += [("simulate", command) for command in simulate if not command.startswith("-")]


@pytest.mark.parametrize("words", COMMANDS)
def test_every_command_explains_every_argument(words: tuple[str, ...]) -> None:
    _, resolved, _ = app.parse_commands(words)
    arguments = resolved[-1].assemble_argument_collection(parse_docstring=True)
    assert resolved[-1].help
    assert not [argument.name for argument in arguments if not argument.parameter.help]


def test_recipes_that_ship_are_listed_and_printed(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["recipes"])
    listed = capsys.readouterr().out.splitlines()
    assert any(line.startswith("planet_climax ") and "forecasts the embedded planet" in line for line in listed)
    with pytest.raises(SystemExit):
        main(["recipes", "planet_climax"])
    assert "class_path: etesian.ClimaX" in capsys.readouterr().out


def test_the_doctor_says_what_the_user_must_mend(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["doctor", "nothing.nc"])
    assert stop.value.code == 1
    assert "nothing.nc" in capsys.readouterr().out


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
    said = {"help": "Usage: etesian COMMAND", "doctor": "2m_temperature", "mistake": 'Unknown command "doct'}
    assert status == (2 if command == "mistake" else 0)
    assert said[command] in (err if command == "mistake" else out)


def test_words_of_an_argument_are_those_of_the_verb_in_python() -> None:
    _, resolved, _ = app.parse_commands(("prepare",))
    said = {a.name: a.parameter.help for a in resolved[-1].assemble_argument_collection(parse_docstring=True)}
    assert said["--method"] == "how to regrid; conservative keeps area means, bilinear suits finer grids."
    assert said["--method"] in " ".join(str(et.prepare.__doc__).split())
    assert said["--train-end"].startswith("last date of the statistics")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_shell_completes_commands_and_their_options(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["completion", shell])
    assert stop.value.code == 0
    script = capsys.readouterr().out
    for words, *_ in COMMANDS:
        assert words in script
    for option in ("train-end", "batch-size", "spinup-days"):
        assert option in script
