"""The `etesian` command: finds the function behind a command, builds its arguments from its signature, runs it."""

import errno
import importlib
import inspect
import io
import logging
import os
import re
import sys
import warnings
from argparse import ArgumentError
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, get_args, get_origin, get_type_hints

from etesian import __version__
from etesian.core.errors import EtesianError, RecipeError, suggest


class Command(NamedTuple):
    """Where a command's function is, and which of its arguments are positional (`*` takes several)."""

    function: str
    positional: tuple[str, ...]
    summary: str


COMMANDS: dict[str, Command] = {
    "quickstart": Command("etesian.cli.quickstart:quickstart", (), "the whole path on the embedded planet"),
    "simulate": Command("etesian.simulation.atmosphere:simulate", ("path",), "a planet with weather, no download"),
    "simulate --sst": Command(
        "etesian.simulation.ocean:simulate_ocean", ("path",), "a sea under moving clouds, and its truth"
    ),
    "scenarios": Command("etesian.simulation.climate:simulate_scenarios", ("folder",), "a climate, no download"),
    "fetch": Command("etesian.files.fetch:fetch", ("source", "path"), "a part of a remote Zarr store → a local one"),
    "doctor": Command("etesian.files.doctor:doctor", ("path*",), "what a file holds, what is wrong, how to mend it"),
    "prepare": Command("etesian.store.prepare:prepare", ("sources*", "store"), "files → training store"),
    "fit": Command("", (), "train from a recipe; run again, it goes on"),
    "validate": Command("", (), "score the best checkpoint on the validation period"),
    "test": Command("", (), "score the best checkpoint on the test period"),
    "predict": Command("etesian.api:predict", ("run", "store", "out"), "forecasts from a run or a baseline"),
    "evaluate": Command("etesian.api:evaluate", ("forecast", "truth"), "scores, baselines, report"),
    "plot": Command("etesian.api:plot", ("path", "out"), "maps and score curves"),
    "import": Command("etesian.api:import_checkpoint", ("path", "out"), "an original ClimaX or AtmoDist checkpoint"),
}

TRAINING = ("fit", "validate", "test")

TRUSTED: list[str] = []
"""Modules that the user has named by `--trust`."""


def main(arguments: list[str] | None = None) -> None:
    """Run the command line; errors that the user can mend are one sentence and exit status 1."""
    arguments = sys.argv[1:] if arguments is None else arguments
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # A pipe may be of a code page without arrows and superscripts; a question mark is better than a traceback.
            stream.reconfigure(errors="replace")
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_usage())
        return
    if arguments[0] in ("-V", "--version"):
        print(f"etesian {__version__}")
        return
    # Every reader that matters understands it, and without it opening a store lists each of its arrays.
    warnings.filterwarnings("ignore", message="Consolidated metadata is currently not part")
    # Where one chunk is damaged, the reads that were under way are given up; each would be reported at the end.
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)
    name = arguments[0]
    try:
        rest = trust(arguments[1:])
        if kind := next((word for word in rest if f"{name} {word}" in COMMANDS), None):
            name, rest = f"{name} {kind}", [word for word in rest if word != kind]
        if name not in COMMANDS:
            raise EtesianError(f"there is no command '{name}'{suggest(name, COMMANDS)}")
        if name in TRAINING:
            from etesian.cli.training import train

            train([name, *rest], TRUSTED)
            return
        status = _run(name, COMMANDS[name], rest)
    except EtesianError as error:
        _fail(str(error))
    except ValueError as error:
        # The recipe's parser wraps what a constructor raises into a list of all it has tried.
        if not isinstance(error.__cause__, EtesianError):
            raise
        _fail(str(error.__cause__))
    except ArgumentError as error:
        _fail(f"{sentence(error.message)} (see `etesian {name} --help`)", status=2)
    except KeyboardInterrupt:
        _fail("interrupted; run the same command again to go on", status=130)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            _fail("the disk is full; free some space and run the same command again to go on")
        if error.filename is None:
            raise
        _fail(f"{error.filename}: {(error.strerror or str(error)).lower()}")
    else:
        sys.exit(status)


def trust(words: list[str]) -> list[str]:
    """Import the modules behind `--trust` and return the other words.

    Recipes and checkpoints then may name what is in them; whatever they name beyond this library and those it is built
    on is otherwise not imported.

    Raises:
        RecipeError: if there is no such module.
    """
    rest: list[str] = []
    given = iter(words)
    for word in given:
        option, equals, value = word.partition("=")
        if option != "--trust":
            rest.append(word)
            continue
        module = value if equals else next(given, "")
        if os.getcwd() not in sys.path:
            sys.path.append(os.getcwd())
        try:
            importlib.import_module(module)
        except (ImportError, ValueError) as error:
            raise RecipeError(f"--trust takes a module that can be imported, not '{module}' ({error})") from None
        TRUSTED.append(module)
    return rest


def _run(name: str, command: Command, arguments: list[str]) -> int:
    module_name, _, function_name = command.function.partition(":")
    function = getattr(importlib.import_module(module_name), function_name)
    parser = build_parser(name, function, command.positional)
    hints = get_type_hints(function)
    given = vars(parser.parse_args(arguments))
    result = function(**{k: tuple(v) if get_origin(hints[k]) is tuple else v for k, v in given.items()})
    return result if isinstance(result, int) else 0


def build_parser(name: str, function: Callable[..., Any], positional: tuple[str, ...]) -> Any:
    """Build the parser of a command from its function's signature and docstring."""
    import docstring_parser
    from jsonargparse import ArgumentParser

    documented = docstring_parser.parse(inspect.getdoc(function) or "")
    helps = {parameter.arg_name: parameter.description for parameter in documented.params}
    hints = get_type_hints(function)
    parser = ArgumentParser(prog=f"etesian {name}", description=_description(documented), exit_on_error=False)
    places = {item.rstrip("*"): "+" if item.endswith("*") else None for item in positional}
    for argument, several in places.items():
        parser.add_argument(argument, nargs=several, help=helps.get(argument))
    special = set()
    for argument, parameter in inspect.signature(function).parameters.items():
        # Lists are written as words behind the option, and what is off by default is a flag.
        item = _item_type(hints[argument])
        required = parameter.default is inspect.Parameter.empty
        if argument in places or (item is None and parameter.default is not False):
            continue
        special.add(argument)
        option = f"--{argument}"
        if item is None:
            parser.add_argument(option, action="store_true", help=helps.get(argument))
        else:
            size = len(get_args(hints[argument])) if get_origin(hints[argument]) is tuple else None
            default = None if required else parameter.default
            parser.add_argument(
                option,
                nargs=size or ("+" if required else "*"),
                type=item,
                required=required,
                default=list(default) if isinstance(default, tuple) else default,
                help=helps.get(argument),
            )
    parser.add_function_arguments(function, as_group=False, skip={*places, *special}, fail_untyped=True)
    return parser


def _item_type(hint: Any) -> type | None:
    """Return what a list or a pair holds, or None for anything else."""
    for option in (hint, *get_args(hint)):
        if get_origin(option) in (list, tuple, Sequence):
            return next((kind for kind in get_args(option) if kind in (str, int, float)), None)
    return None


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
            "--trust MODULE lets recipes and checkpoints of any command name what is in a module of yours.",
        ]
    )


def sentence(message: str) -> str:
    """Turn what the parser says of a wrong recipe or option into one sentence."""
    if denied := re.search(r"Importing '([\w.]+)' is not allowed", message):
        module = denied[1].rpartition(".")[0]
        return (
            f"the recipe names {denied[1]}, but only what is in torch, lightning, pytorch_optimizer, torchmetrics or "
            f"etesian is called; where you trust it, add --trust {module}"
        )
    if "SignatureArguments.add_function_arguments" in message:
        return "a class_path of the recipe names a function; it must name a class, such as torch.optim.AdamW"
    wrong = re.search(r"Option '([\w.]+)' is not accepted", message)
    if wrong:
        before = re.findall(r"class_path[= ]'([\w.]+)'", message[: wrong.end() + 200])
        owner = before[-1] if before else ""
        module_name, _, class_name = owner.rpartition(".")
        try:
            # What a recipe names elsewhere has been loaded by the parser, if it may be.
            own = module_name.startswith("etesian.")
            module = importlib.import_module(module_name) if own else sys.modules[module_name]
            known = list(inspect.signature(vars(module)[class_name]).parameters)
        except (ImportError, KeyError, TypeError, ValueError):
            known = []
        return f"{class_name or 'the recipe'} has no option '{wrong[1]}'{suggest(wrong[1], known) if known else ''}"
    noise = ("Does not validate", "Subtypes:", "Errors:", "- Expected a <class 'NoneType'>", "Given value")
    lines = [line.strip().removeprefix("- ") for line in message.splitlines()]
    return " ".join(line for line in lines if line and not line.startswith(tuple(n.removeprefix("- ") for n in noise)))


def _fail(message: str, status: int = 1) -> None:
    print(f"etesian: {message}", file=sys.stderr)
    sys.exit(status)
