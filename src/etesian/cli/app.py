"""The application, and what its commands share: the kinds of options, and the words of the help.

The help says of an argument what the verb says that the command calls, whose text is read without importing it. So each
argument is explained once, in Python and on the command line, and `--help` needs no library for numbers.
"""

import inspect
import re
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Annotated, Literal, TypeVar

from cyclopts import App, Parameter

Words = Annotated[list[str], Parameter(consume_multiple=True, negative=())]
Numbers = Annotated[list[int], Parameter(consume_multiple=True, negative=())]
Dates = Annotated[tuple[str, str], Parameter(negative=())]
Switch = Annotated[bool, Parameter(negative=())]

Command = TypeVar("Command", bound=Callable[..., object])

HOUSE = Path(__file__).parents[1]

_ARGUMENT = re.compile(r"^ {4}\*{0,2}(\w+): (.*(?:\n {8}.*)*)", re.MULTILINE)

app = App(
    name="etesian",
    help="Train, run and evaluate learned models of the atmosphere and ocean.",
    help_format="plaintext",
    version_flags=["--version", "-V"],
)


@app.command
def completion(shell: Literal["bash", "zsh", "fish"]) -> None:
    """A script that completes commands and options in a shell, such as `source <(etesian completion bash)`.

    Args:
        shell: that is to run the script.
    """
    print(app.generate_completion(shell=shell))


def explained(verb: str, **own: str) -> Callable[[Command], Command]:
    """Give the arguments of a command the words that a verb has for them.

    Args:
        verb: module and name below `etesian`, such as `run.Run.forecast`.
        **own: words for what only the command line has, or says otherwise.
    """

    def explain(command: Command) -> Command:
        words = words_of(verb) | own
        lines = [f"    {name}: {words[name]}" for name in inspect.signature(command).parameters if name in words]
        command.__doc__ = "\n".join([inspect.cleandoc(str(command.__doc__)), "", "Args:", *lines])
        return command

    return explain


def words_of(verb: str) -> dict[str, str]:
    """Return what the docstring of a function says of each of its arguments.

    Args:
        verb: module and name below `etesian`, such as `run.Run.forecast`.

    >>> words_of("api.load")["run"]
    'directory of the run, a checkpoint folder, or for example `baseline:persistence`.'
    """
    *module, name = verb.split(".")
    inside = f"\nclass {module.pop()}(" if module[-1][0].isupper() else ""
    text = _text("/".join(module))
    beginning = text.index(f"def {name}(", text.index(inside.rstrip("(")))
    docstring = inspect.cleandoc(text[beginning:].split('"""', 2)[1])
    arguments = docstring.partition("\nArgs:\n")[2].partition("\n\n")[0]
    return {found[1]: " ".join(found[2].split()) for found in _ARGUMENT.finditer(arguments)}


@cache
def _text(module: str) -> str:
    # Searched as text: to parse it as Python would take as long as all else that `--help` does.
    return (HOUSE / f"{module}.py").read_text(encoding="utf-8")
