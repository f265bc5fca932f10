"""The `etesian` command: runs what was asked for, and says what went wrong in one sentence.

Commands call one verb of the library each, and print what it returns. Nothing but their signatures is needed to parse
and to help, so the library is imported inside them.
"""

import errno
import importlib
import io
import itertools
import logging
import os
import re
import sys
from argparse import ArgumentError

from cyclopts import CycloptsError

from etesian.cli import results, sharing  # noqa: F401, for they add their commands to the application
from etesian.cli.app import app
from etesian.cli.data import simulate
from etesian.cli.training import TRUSTED
from etesian.core.errors import EtesianError, RecipeError

for group in (app, simulate):
    for name in group:
        if not name.startswith("-"):
            # Completion does not inherit it, as help does, and reads every word as Markdown, which takes as long again.
            group[name].help_format = "plaintext"


def main(arguments: list[str] | None = None) -> None:
    """Run the command line; errors that the user can mend are one sentence and exit status 1, wrong options 2."""
    arguments = sys.argv[1:] if arguments is None else arguments
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # A pipe may be of a code page without arrows and superscripts; a question mark is better than a traceback.
            stream.reconfigure(errors="replace")
    # Where one chunk is damaged, the reads that were under way are given up; each would be reported at the end.
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)
    try:
        status = app(trust(arguments), exit_on_error=False, print_error=False, result_action="return_value")
    except CycloptsError as error:
        command = " ".join(error.command_chain or ())
        for option, value in itertools.pairwise(arguments):
            if re.match(r"--[a-z-]+ -[\d.]+,", f"{option} {value}"):
                _fail(f"what begins with a minus is joined to its option, as in {option}={value}", status=2)
        _fail(f"{_one_sentence(str(error))} (see `etesian {command} --help`)".replace("  ", " "), status=2)
    except EtesianError as error:
        _fail(str(error))
    except ArgumentError as error:
        _fail(f"{error.message} (see `etesian {arguments[0]} --help`)", status=2)
    except KeyboardInterrupt:
        _fail("interrupted; run the same command again to go on", status=130)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            _fail("the disk is full; free some space and run the same command again to go on")
        if error.filename is None:
            raise
        _fail(f"{error.filename}: {(error.strerror or str(error)).lower()}")
    else:
        sys.exit(status if isinstance(status, int) else 0)


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


def _one_sentence(message: str) -> str:
    return " ".join(message.split()).rstrip(".")


def _fail(message: str, status: int = 1) -> None:
    print(f"etesian: {message}", file=sys.stderr)
    sys.exit(status)
