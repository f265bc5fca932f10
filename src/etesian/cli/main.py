"""The `etesian` command: finds the function behind a command, builds its arguments from its signature, runs it."""

import errno
import importlib
import inspect
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

from etesian import __version__
from etesian.core.errors import EtesianError, suggest


class Command(NamedTuple):
    """Where a command's function is, and which of its arguments are positional (`*` takes several)."""

    function: str
    positional: tuple[str, ...]
    summary: str


COMMANDS: dict[str, Command] = {
    "quickstart": Command("etesian.cli.quickstart:quickstart", (), "the whole path on the embedded planet"),
    "simulate": Command("etesian.data.simulate:simulate", ("path",), "a planet with weather, no download"),
    "fetch": Command("etesian.data.fetch:fetch", ("source", "path"), "a part of a remote Zarr store → a local one"),
    "doctor": Command("etesian.data.doctor:doctor", ("paths*",), "what a file holds, what is wrong, how to mend it"),
    "prepare": Command("etesian.data.prepare:prepare", ("sources*", "store"), "files → training store"),
    "fit": Command("", (), "train from a recipe; run again, it goes on"),
    "validate": Command("", (), "score the best checkpoint on the validation period"),
    "test": Command("", (), "score the best checkpoint on the test period"),
    "predict": Command("etesian.cli.commands:predict", ("run", "store", "out"), "forecasts from a run or a baseline"),
    "evaluate": Command("etesian.cli.commands:evaluate", ("forecast", "truth"), "scores, baselines, report"),
    "plot": Command("etesian.cli.commands:plot", ("path", "out"), "maps and score curves"),
    "import": Command("etesian.cli.commands:import_checkpoint", ("path", "out"), "an original ClimaX checkpoint"),
}
TRAINING = ("fit", "validate", "test")


def main(arguments: list[str] | None = None) -> None:
    """Run the command line; errors that the user can mend are one sentence and exit status 1."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_usage())
        return
    if arguments[0] in ("-V", "--version"):
        print(f"etesian {__version__}")
        return
    name, rest = arguments[0], arguments[1:]
    try:
        if name not in COMMANDS:
            raise EtesianError(f"there is no command '{name}'{suggest(name, COMMANDS)}")
        if name in TRAINING:
            from etesian.cli.training import train

            train(arguments)
            return
        status = _run(name, COMMANDS[name], rest)
    except EtesianError as error:
        _fail(str(error))
    except KeyboardInterrupt:
        _fail("interrupted; run the same command again to go on", status=130)
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        _fail("the disk is full; free some space and run the same command again to go on")
    else:
        sys.exit(status)


def _run(name: str, command: Command, arguments: list[str]) -> int:
    module_name, _, function_name = command.function.partition(":")
    function = getattr(importlib.import_module(module_name), function_name)
    parser = build_parser(name, function, command.positional)
    result = function(**vars(parser.parse_args(arguments)))
    return result if isinstance(result, int) else 0


def build_parser(name: str, function: Callable[..., Any], positional: tuple[str, ...]) -> Any:
    """Build the parser of a command from its function's signature and docstring."""
    import docstring_parser
    from jsonargparse import ArgumentParser

    documented = docstring_parser.parse(inspect.getdoc(function) or "")
    helps = {parameter.arg_name: parameter.description for parameter in documented.params}
    parser = ArgumentParser(prog=f"etesian {name}", description=_description(documented), exit_on_error=True)
    for item in positional:
        argument = item.rstrip("*")
        parser.add_argument(argument, nargs="+" if item.endswith("*") else None, help=helps.get(argument))
    parser.add_function_arguments(
        function, as_group=False, skip={item.rstrip("*") for item in positional}, fail_untyped=True
    )
    return parser


def _description(documented: Any) -> str:
    parts = [documented.short_description, documented.long_description]
    return "\n\n".join(part for part in parts if part)


def _usage() -> str:
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {command.summary}" for name, command in COMMANDS.items()]
    return "\n".join(
        [
            "usage: etesian COMMAND …",
            "",
            "Train, run and judge learned models of the atmosphere and ocean.",
            "",
            *lines,
            "",
            "etesian COMMAND --help tells what a command takes; every long one can be interrupted and run again.",
        ]
    )


def _fail(message: str, status: int = 1) -> None:
    print(f"etesian: {message}", file=sys.stderr)
    sys.exit(status)
