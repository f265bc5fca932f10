"""What is wrong with a recipe that the parser refuses: found by looking at the recipe, said in one sentence."""

import importlib
import inspect
import typing
from argparse import ArgumentError
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from traceback import walk_tb
from types import UnionType
from typing import Any, Literal, NoReturn, Union, get_args, get_origin

import lightning as L
import yaml
from jsonargparse import ArgumentParser
from lightning.pytorch import Callback
from lightning.pytorch.loggers import Logger
from torch.optim import Optimizer

from etesian.core.errors import first_line, suggest
from etesian.core.names import HOMES, RECIPE_PARTS
from etesian.samples.loading import TaskData
from etesian.training.logs import with_folders
from etesian.training.task import Task
from etesian.training.trusted import KINDS, MODULES, is_within, plain, read

_USUAL = {
    Callback: "lightning.pytorch.callbacks.EarlyStopping",
    Logger: "lightning.pytorch.loggers.TensorBoardLogger",
    Optimizer: "torch.optim.AdamW",
}
"""What a recipe may name where it names nothing."""

_FROM_DATA = ("layout", "statistics")
"""Arguments of a task that no recipe gives."""


class _MistakeError(Exception):
    """Says in one sentence what is wrong."""


def explain(error: ArgumentError, words: Sequence[str], trusted: Sequence[str]) -> str:
    """Return what is wrong with a recipe and its options, in one sentence.

    Args:
        error: of the parser.
        words: command line: its command, recipes and options.
        trusted: modules that the recipe may name classes of beyond the known ones.
    """
    try:
        recipe = _complete(words, trusted)
        # A name that there is not says more than a value that does not fit.
        for values in (False, True):
            _Look(trusted, values=values).at_recipe(recipe)
    except _MistakeError as mistake:
        return str(mistake)
    *_, innermost = causes(error)
    return first_line(innermost)


def causes(error: BaseException) -> Iterator[BaseException]:
    """Go through an error and what it was raised from."""
    cause: BaseException | None = error
    while cause is not None:
        yield cause
        cause = cause.__cause__


def maker(error: BaseException) -> str:
    """Name the class that was being made when an error was raised."""
    frames = [frame for frame, _ in walk_tb(error.__traceback__) if frame.f_code.co_name == "__init__"]
    made = [frame.f_locals["self"] for frame in frames if "self" in frame.f_locals]
    return type(made[-1]).__name__ if made else "a class"


def _complete(words: Sequence[str], trusted: Sequence[str]) -> dict[str, Any]:
    """Return the recipes of a command line, laid over each other, with the options in their places."""
    recipe: dict[str, Any] = {}
    given = iter(words[1:])
    for word in given:
        option, equals, value = word.partition("=")
        if not option.startswith("-"):
            raise _MistakeError(f"'{word}' is no option; name what to set, such as --trainer.max_epochs=20")
        value = value if equals else next(given, "")
        *outer, last = option.lstrip("-").removesuffix("+").split(".")
        if option in ("-c", "--config"):
            if not Path(value).is_file():
                raise _MistakeError(f"there is no recipe {value}; `etesian recipes` lists those that ship")
            recipe = _over(recipe, read(Path(value)))
        elif outer and last == "help":
            _refuse_unknown_module(value, trusted)
        else:
            _set(recipe, outer, last, _value(value), append=option.endswith("+"))
    return dict(with_folders(recipe, trusted))


def _value(text: str) -> Any:
    try:
        return plain(text)
    except yaml.YAMLError:
        return text


def _over(below: Any, above: Any) -> Any:
    """Lay one part of a recipe over another; another class inherits the arguments that it has as well."""
    if isinstance(below, dict) and "class_path" in below:
        above = _opened(above)
    if not isinstance(below, dict) or not isinstance(above, dict):
        return above
    if "class_path" in above and below.get("class_path") not in (None, above["class_path"]):
        return {"inherited": below.get("init_args")} | above
    return below | {key: _over(below.get(key), value) for key, value in above.items()}


def _set(node: dict[str, Any], outer: Sequence[str], last: str, value: Any, *, append: bool) -> None:
    """Put the value of an option into its place, whose dotted name may leave out init_args."""
    for name in outer:
        node = _holder(node, name)
        inner = node.get(name)
        if isinstance(inner, list) and inner:
            inner[-1] = opened = _opened(inner[-1])
        else:
            node[name] = opened = _opened(inner)
        node = opened
    node = _holder(node, last)
    if last == "class_path":
        node.update(_over(dict(node), {last: value}))
        node["init_args"] = {} if "inherited" in node else node.get("init_args")
        return
    node[last] = [*(node.get(last) or []), value] if append else _over(node.get(last), value)


def _opened(given: Any) -> dict[str, Any]:
    """Return what holds the options of a part that is given by its class alone, or not at all."""
    return {"class_path": given} if isinstance(given, str) else given if isinstance(given, dict) else {}


def _holder(node: dict[str, Any], name: str) -> dict[str, Any]:
    """Return what holds an option of a part: the arguments of its class, where it has one."""
    if name in ("class_path", "init_args", "dict_kwargs") or not {"class_path", "init_args"} & node.keys():
        return node
    node["init_args"] = node.get("init_args") or {}
    arguments: dict[str, Any] = node["init_args"]
    return arguments


def _refuse_unknown_module(path: str, trusted: Sequence[str]) -> None:
    module = path.rpartition(".")[0]
    if module and not is_within(module, (*MODULES, *trusted)):
        raise _MistakeError(
            f"the recipe names {path}, but only what is in torch, lightning, pytorch_optimizer, torchmetrics or "
            f"etesian is called; where you trust it, add --trust {module}"
        )


class _Look:
    """Goes through a recipe along the arguments of the classes that it names, and stops at the first mistake.

    Args:
        trusted: modules that the recipe may name classes of beyond the known ones.
        values: compare values with their types, and not only names.
    """

    def __init__(self, trusted: Sequence[str], *, values: bool) -> None:
        self.trusted, self.values = trusted, values

    def at_recipe(self, recipe: dict[str, Any]) -> None:
        for name in recipe:
            if name not in RECIPE_PARTS:
                raise _MistakeError(f"a recipe has no part '{name}'{suggest(name, RECIPE_PARTS)}")
        for part, base in (("data", TaskData), ("model", Task)):
            if not recipe.get(part):
                raise _MistakeError(f"the recipe lacks its part '{part}', which names a class and its arguments")
            self._at_class(part, base, 0, recipe[part])
        self._at_arguments("trainer", L.Trainer, 0, recipe.get("trainer") or {})
        self._at_value("seed_everything", bool | int, recipe.get("seed_everything", 0))

    def _at_class(self, place: str, base: type, skipped: int, given: Any) -> None:
        """Look at a class and its arguments.

        Args:
            place: dotted name.
            base: what it must be.
            skipped: how many of its first arguments no recipe gives.
            given: its path, its arguments, or both.
        """
        parts = _opened(given)
        kind: type | None = base
        inside, arguments = place, parts.get("init_args", parts) or {}
        if "class_path" in parts:
            kind = self._named(place, base, str(parts["class_path"]))
            inside, arguments = f"{place}.init_args", parts.get("init_args") or {}
        else:
            own: list[type] = base.__subclasses__()
            is_kind = inspect.isabstract(base) or getattr(base, "_is_protocol", False) or own
            if is_kind and arguments and not set(arguments) <= set(_arguments(base)[0]):
                option = next(iter(arguments))
                raise _MistakeError(
                    f"{place} names no class that '{option}' is an option of; give the class first, "
                    f"such as --{place}={_USUAL.get(base) or _class_with(option, base)}"
                )
        if kind is not None:
            accepted = _arguments(kind)[0]
            inherited = {name: value for name, value in (parts.get("inherited") or {}).items() if name in accepted}
            self._at_arguments(inside, kind, skipped, inherited | arguments)

    def _named(self, place: str, base: type, path: str) -> type | None:
        """Return the class of a path; None for a function, which is judged after parsing."""
        _refuse_unknown_module(path, self.trusted)
        module, _, name = path.rpartition(".")
        found: Any = None
        if module:
            try:
                found = getattr(importlib.import_module(module), name, None)
            except ImportError as error:
                raise _MistakeError(f"{place} names {path}, which cannot be imported ({first_line(error)})") from None
        else:
            found = next((each for each in _subclasses(base) if each.__name__ == name), None)
        if callable(found) and not inspect.isclass(found):
            if is_within(str(found.__module__), ("etesian", *self.trusted)):
                return None
            raise _MistakeError(f"{place} names {path}, a function; it must name a class, such as torch.optim.AdamW")
        if not inspect.isclass(found) or not _is_a(found, base):
            beside = vars(importlib.import_module(module)).values() if module and found is None else ()
            known = [each.__name__ for each in beside if inspect.isclass(each) and _is_a(each, base)]
            article = "an" if base.__name__[0] in "AEIO" else "a"
            what = "which there is not" if found is None else f"which is not {article} {base.__name__}"
            names = {each.__name__ for each in _classes(base).values()}
            raise _MistakeError(f"{place} names {path}, {what}{suggest(name, {*known, *names})}")
        return found

    def _at_arguments(self, place: str, kind: type, skipped: int, given: Any) -> None:
        """Look at the arguments of a class; see `_at_class`."""
        known, is_open = _arguments(kind)
        names = [name for name in list(known)[skipped:] if name not in _FROM_DATA]
        if not isinstance(given, dict):
            raise _MistakeError(f"{place} is {given!r}; it holds options by name")
        for name in given:
            if name not in names and not is_open:
                quotes = "; put what has commas in it, such as a region, in quotes"
                remedy = suggest(name, names) if isinstance(name, str) else quotes
                raise _MistakeError(f"{kind.__name__} has no option '{name}'{remedy}")
        for name in names:
            if known[name][0] and name not in given:
                raise _MistakeError(f"{place} lacks '{name}', without which there is no {kind.__name__}")
        for name, value in given.items():
            if name in known:
                self._at_value(f"{place}.{name}", known[name][1], value)

    def _at_value(self, place: str, hint: Any, value: Any) -> None:
        base, skipped = _class_of(hint)
        several = value if isinstance(value, list) else [value]
        if base is not None and (str not in get_args(hint) or isinstance(value, dict)):
            for number, each in enumerate(several):
                if isinstance(each, str | dict):
                    inside = f"{place}[{number}]" if isinstance(value, list) else place
                    self._at_class(inside, base, skipped, each)
        elif self.values and hint is not None:
            self._compare(place, hint, value)

    def _compare(self, place: str, hint: Any, value: Any) -> None:
        """Compare a value with its type, as the parser does."""
        parser = ArgumentParser(exit_on_error=False)
        try:
            parser.add_argument("--value", type=hint)
        except ValueError:
            return
        try:
            parser.parse_object({"value": value})
        except ArgumentError as error:
            if isinstance(value, str) and any(isinstance(each, ImportError) for each in causes(error)):
                _refuse_unknown_module(value, self.trusted)
            _refuse_value(place, hint, value)


def _refuse_value(place: str, hint: Any, value: Any) -> NoReturn:
    options = [str(each) for each in get_args(hint)] if get_origin(hint) is Literal else []
    if options:
        raise _MistakeError(f"{place} cannot be {value!r}{suggest(str(value), options)}")
    raise _MistakeError(f"{place} is {value!r}, but must be {_words(hint)}")


def _words(hint: Any) -> str:
    """Return a type as a recipe's author would write it."""
    if get_origin(hint) in (Union, UnionType):
        return " or ".join(_words(each) for each in get_args(hint))
    if hint is type(None):
        return "null"
    return hint.__name__ if inspect.isclass(hint) and not get_args(hint) else str(hint).replace("typing.", "")


def _class_of(hint: Any) -> tuple[type | None, int]:
    """Return which class a type asks for, and how many of its first arguments the caller gives."""
    origin, inner = get_origin(hint), get_args(hint)
    if origin is Callable or origin is typing.get_origin(Callable[[], Any]):
        base, _ = _class_of(inner[-1])
        return base, len(inner[0]) if isinstance(inner[0], list) else 0
    if origin in (Union, UnionType) or (inspect.isclass(origin) and issubclass(origin, Iterable)):
        found = [_class_of(each) for each in inner[: 1 if origin is dict else None]]
        return next((each for each in found if each[0] is not None), (None, 0))
    if inspect.isclass(hint) and (issubclass(hint, KINDS) or is_within(hint.__module__, ("etesian",))):
        return hint, 0
    return None, 0


def _arguments(kind: type) -> tuple[dict[str, tuple[bool, Any]], bool]:
    """Return whether each argument of a class is required and its type, and whether the class takes any others."""
    found: dict[str, tuple[bool, Any]] = {}
    owner = next(each for each in kind.__mro__ if "__init__" in vars(each))
    for each in kind.__mro__:
        own = vars(each).get("__init__")
        if own is None:
            continue
        try:
            hints, parameters = typing.get_type_hints(own), list(inspect.signature(own).parameters.values())[1:]
        except (NameError, TypeError, ValueError):
            return found, True
        for parameter in parameters:
            if parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
                # What a class asks of the one that it builds on, it may give itself.
                required = parameter.default is parameter.empty and each is owner
                found.setdefault(parameter.name, (required, hints.get(parameter.name)))
        if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
            return found, False
    return found, True


def _classes(base: type) -> dict[str, type]:
    """Return the classes of a kind that a recipe may name, by their paths: the library's and those loaded."""
    known = {module: names for module, names in HOMES.items() if module not in ("api", "run")}
    homes = [(f"etesian.{module}", name) for module, names in known.items() for name in names]
    own = {f"etesian.{name}": vars(importlib.import_module(module))[name] for module, name in homes}
    foreign = [each for each in _subclasses(base) if not is_within(each.__module__, ("etesian",))]
    found = own | {f"{each.__module__}.{each.__name__}": each for each in foreign}
    return {path: each for path, each in found.items() if inspect.isclass(each) and _is_a(each, base) and each != base}


def _class_with(option: str, base: type) -> str:
    """Return the path of a class of a kind that has an option; if there is none, of any."""
    known = _classes(base)
    return next((path for path, kind in known.items() if option in _arguments(kind)[0]), next(iter(known)))


def _subclasses(base: type) -> Iterator[type]:
    own: list[type] = type.__subclasses__(base)
    for each in own:
        yield each
        yield from _subclasses(each)


def _is_a(kind: type, base: type) -> bool:
    try:
        return issubclass(kind, base)
    except TypeError:  # a protocol
        return all(hasattr(kind, name) for name in vars(base) if not name.startswith("_"))
