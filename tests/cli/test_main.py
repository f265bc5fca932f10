import pytest

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
        "Problem with given class_path 'etesian.data.module.ForecastData':\n        Option 'leeds' is not accepted\n"
    )
    assert sentence(message) == "ForecastData has no option 'leeds'; did you mean 'leads'?"
