"""What a recipe may name: classes of the kinds that training is made of, from modules that are known or trusted."""

import importlib
import inspect
import re
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import Namespace, get_loader, set_parsing_settings
from lightning.fabric.plugins import CheckpointIO, ClusterEnvironment
from lightning.pytorch import Callback
from lightning.pytorch.accelerators import Accelerator
from lightning.pytorch.loggers import Logger
from lightning.pytorch.plugins import LayerSync, Precision
from lightning.pytorch.profilers import Profiler
from lightning.pytorch.strategies import Strategy
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torchmetrics import Metric

from etesian.core.errors import RecipeError
from etesian.core.names import locate, public_name

MODULES = ("etesian", "torch", "lightning", "pytorch_optimizer", "torchmetrics")
"""What a recipe may name something of, and what may be imported for it."""

KINDS = (
    Accelerator, Callback, CheckpointIO, ClusterEnvironment, LayerSync, Logger, LRScheduler, Metric, Optimizer,
    Precision, Profiler, Strategy,
)  # fmt: skip
"""What a class of another library must be."""

_UNNAMED = {"content": "Content"}
"""Options of version 0.1 whose class went without saying, such as `content: {run: RUN}`."""

_MOST_NODES = 100_000

_read_yaml = get_loader("yaml")


def restrict(trusted: Sequence[str]) -> None:
    """Let the parser of recipes import nothing but what is known or trusted, and call nothing that it reads.

    Args:
        trusted: further modules.
    """
    set_parsing_settings(
        import_path_denylist=["*"],
        import_path_allowlist=[*MODULES, *trusted],
        instantiate_subclass_spec_in_any=False,
    )


def check(config: Namespace, trusted: Sequence[str]) -> None:
    """Refuse a recipe that names anything but classes of the right kinds, before any of them is called.

    The parser has compared each class with the type of its place; what it lets pass, since the place takes a function
    or anything at all, is a class or function of another kind, such as one that downloads and runs code.

    Args:
        config: the parsed recipe.
        trusted: modules that may be named beyond the known ones.

    Raises:
        RecipeError: naming the place.
    """
    for place, named in _named({name: config[name] for name in ("data", "model", "trainer")}, trusted):
        home = str(getattr(named, "__module__", type(named).__module__))
        known = inspect.isclass(named) and (issubclass(named, KINDS) or is_within(home, ("etesian",)))
        if not known and not is_within(home, trusted):
            name = getattr(named, "__qualname__", type(named).__name__)
            raise RecipeError(
                f"{place} names {home}.{name}, which is no optimizer, callback, logger or other part of training; "
                f"where you trust it, add --trust {home}"
            )


def is_within(name: str, modules: Sequence[str]) -> bool:
    """Tell whether a module is one of some, or lies in one."""
    return any(name == module or name.startswith(f"{module}.") for module in modules)


def read(path: Path) -> dict[str, Any]:
    """Read a recipe as plain data.

    Raises:
        RecipeError: if it is no YAML file of the parts of a recipe.
    """
    try:
        text = path.read_text(encoding="utf-8")
        content, twice = plain(text), next(_twice(yaml.compose(text)), None)
    except UnicodeDecodeError:
        raise RecipeError(f"{path} is no text in UTF-8; a recipe is a YAML file") from None
    except (yaml.YAMLError, RecursionError) as error:
        why = " ".join(str(error).split())
        raise RecipeError(f"{path} is no YAML file ({why})") from None
    if twice is not None:
        raise RecipeError(f"{path} says '{twice}' twice, and the first would be lost: put them together")
    if not isinstance(content, dict):
        kind = "empty" if content is None else f"a {type(content).__name__}"
        raise RecipeError(f"{path} is {kind}; a recipe has the parts data, model and trainer")
    for part in ("data", "model", "trainer"):
        given = content.get(part, {"class_path": ""})
        if not isinstance(given, dict):
            raise RecipeError(f"'{part}' in {path} is a {type(given).__name__}; it holds options by name")
        if part != "trainer" and not (
            isinstance(given.get("class_path", ""), str) and {"class_path", "init_args"} & given.keys()
        ):
            raise RecipeError(f"'{part}' in {path} needs class_path and init_args")
    return content


def _twice(node: yaml.Node | None) -> Iterator[str]:
    """Go through the options that YAML gives twice at one place, of which its readers keep the last."""
    if isinstance(node, yaml.CollectionNode):
        pairs = node.value if isinstance(node, yaml.MappingNode) else [(None, each) for each in node.value]
        keys = [str(key.value) for key, _ in pairs if key is not None]
        yield from (key for key in keys if keys.count(key) > 1)
        for _, value in pairs:
            yield from _twice(value)


def _named(value: Any, trusted: Sequence[str], place: str = "") -> Iterator[tuple[str, Any]]:
    """Go through all classes and functions that a recipe names, with their places."""
    if isinstance(value, Namespace | dict):
        items = vars(value) if isinstance(value, Namespace) else value
        for key, item in items.items():
            inside = f"{place}.{key}".lstrip(".")
            if key == "class_path" and isinstance(item, str):
                yield place, _found(item, trusted, place)
            else:
                yield from _named(item, trusted, inside)
    elif isinstance(value, list | tuple | set):
        for number, item in enumerate(value):
            yield from _named(item, trusted, f"{place}[{number}]")
    elif callable(value):
        yield place, value


def _found(path: str, trusted: Sequence[str], place: str) -> Any:
    module, _, name = path.rpartition(".")
    if not is_within(module, (*MODULES, *trusted)):
        raise RecipeError(f"{place} names {path}; where you trust it, add --trust {module}")
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError):
        raise RecipeError(f"{place} names {path}, which is not installed") from None


def plain(text: str) -> Any:
    """Return what YAML text says, as plain data; classes under their public names become what the parser imports.

    Raises:
        RecipeError: if its aliases make it much larger than it looks.
    """
    value = _read_yaml(text)
    if "*" in text and _nodes(value, ()) > _MOST_NODES:
        raise RecipeError(f"a recipe's aliases (*) expand to more than {_MOST_NODES} values; write it without them")
    return _located(value)


def _located(value: Any) -> Any:
    if isinstance(value, list):
        return [_located(item) for item in value]
    if not isinstance(value, dict):
        return value
    return {
        key: locate(item) if key == "class_path" and isinstance(item, str) else _located(_with_class(key, item))
        for key, item in value.items()
    }


def _with_class(option: Any, given: Any) -> Any:
    """Return what is given for an option with its class, where an earlier version had it go without saying."""
    if option not in _UNNAMED or not isinstance(given, dict) or {"class_path", "init_args"} & given.keys():
        return given
    return {"class_path": _UNNAMED[option], "init_args": given}


def by_public_names(recipe: str) -> str:
    """Return the text of a recipe with public names in place of the modules that hold this library's classes.

    >>> by_public_names("class_path: etesian.networks.climax.ClimaX")
    'class_path: etesian.ClimaX'
    """
    return re.sub(r"(class_path: )(etesian\.[\w.]+)", lambda match: match[1] + public_name(match[2]), recipe)


def spelled_out(words: Sequence[str]) -> list[str]:
    """Return the words of a command line with the classes that it gives by their public names spelled out.

    >>> spelled_out(["fit", "--model.network.class_path", "ClimaX", "--data=ForecastData"])[2:]
    ['etesian.networks.climax.ClimaX', '--data=etesian.forecast.data.ForecastData']
    """
    spelled: list[str] = []
    for before, word in pairwise(["", *words]):
        option, equals, value = word.partition("=")
        if equals and _takes_class(option):
            spelled.append(f"{option}={locate(value)}")
        else:
            spelled.append(locate(word) if _takes_class(before) else word)
    return spelled


def _takes_class(option: str) -> bool:
    last = option.rpartition(".")[2]
    return option in ("--model", "--data") or (option.startswith("--") and last in ("class_path", "network", *_UNNAMED))


def _nodes(value: Any, above: tuple[int, ...]) -> int:
    """Count values as they would be written out without aliases, up to one more than the limit."""
    if not isinstance(value, list | dict):
        return 1
    if id(value) in above:
        return _MOST_NODES + 1
    count = 1
    for item in value.values() if isinstance(value, dict) else value:
        count += _nodes(item, (*above, id(value)))
        if count > _MOST_NODES:
            break
    return count
