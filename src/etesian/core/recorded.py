"""A constructor call kept as plain data, to rebuild a module from a checkpoint without pickled code."""

import functools
import importlib
import inspect
import sys
from dataclasses import fields, is_dataclass
from typing import Any, TypeVar

import numpy as np

from etesian.core.channels import Channel
from etesian.core.errors import CheckpointError
from etesian.core.fields import Layout
from etesian.core.grid import Grid, Region
from etesian.core.names import locate, public_name

_PLAIN_TYPES: dict[str, Any] = {"Layout": Layout}

Plain = TypeVar("Plain", bound=type)


def plain(options: Plain) -> Plain:
    """Let checkpoints hold a dataclass of plain values; its module has to be imported before one is read."""
    _PLAIN_TYPES[options.__name__] = options
    return options


class Recorded:
    """Remembers how it was constructed; `describe` gives that as JSON data, `rebuild` calls it again.

    Arguments must be numbers, strings, sequences, mappings, channels, grids, layouts or other recorded objects.
    """

    _call: dict[str, Any]

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        original = cls.__init__
        signature = inspect.signature(original)

        @functools.wraps(original)
        def recording(self: Any, *args: Any, **kwargs: Any) -> None:
            if type(self) is cls:
                bound = signature.bind(self, *args, **kwargs)
                bound.apply_defaults()
                call = {name: value for name, value in bound.arguments.items() if name != "self"}
                object.__setattr__(self, "_call", call)
            original(self, *args, **kwargs)

        if "__init__" in cls.__dict__:
            cls.__init__ = recording  # type: ignore[method-assign]

    def describe(self) -> dict[str, Any]:
        """Return class and arguments as JSON data."""
        return {
            "class": public_name(f"{type(self).__module__}.{type(self).__qualname__}"),
            "arguments": {name: to_plain(value) for name, value in self._call.items()},
        }


def to_plain(value: Any) -> Any:
    """Turn an argument into JSON data.

    Raises:
        TypeError: if it is of no kind that can be written down.
    """
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Channel):
        return {"channel": str(value.name), "level": value.level}
    if isinstance(value, Region):
        return {"region": list(value)}
    if isinstance(value, Grid):
        return {"grid": value.to_dict()}
    if isinstance(value, Recorded):
        return {"recorded": value.describe()}
    if is_dataclass(value) and type(value).__name__ in _PLAIN_TYPES:
        content = {f.name: to_plain(getattr(value, f.name)) for f in fields(value)}
        return {"dataclass": type(value).__name__, "fields": content}
    if isinstance(value, np.ndarray | np.generic):
        return {"array": value.tolist()}
    if isinstance(value, list | tuple):
        return [to_plain(item) for item in value]
    if isinstance(value, dict):
        # In pairs, because JSON would turn keys that are numbers into text.
        return {"mapping": [[to_plain(key), to_plain(item)] for key, item in value.items()]}
    raise TypeError(f"{type(value).__name__} cannot be written into a checkpoint")


def from_plain(data: Any) -> Any:
    """Turn JSON data back into the argument that `to_plain` wrote; sequences come back as tuples."""
    if isinstance(data, list):
        return tuple(from_plain(item) for item in data)
    if not isinstance(data, dict):
        return data
    if "channel" in data:
        return Channel(data["channel"], data["level"])
    if "region" in data:
        return Region(*data["region"])
    if "grid" in data:
        return Grid.from_dict(data["grid"])
    if "recorded" in data:
        return rebuild(data["recorded"])
    if "dataclass" in data:
        content = {name: from_plain(value) for name, value in data["fields"].items()}
        return _PLAIN_TYPES[data["dataclass"]](**content)
    if "array" in data:
        return np.asarray(data["array"])
    return {from_plain(key): from_plain(item) for key, item in data["mapping"]}


def rebuild(description: dict[str, Any]) -> Any:
    """Construct what `Recorded.describe` described.

    Only classes that record their construction are called, so a checkpoint cannot name arbitrary code.

    Raises:
        CheckpointError: if the class cannot be found, does not record its construction, or has changed its arguments.
    """
    found = find_class(Recorded, description["class"])
    arguments = {name: from_plain(value) for name, value in description["arguments"].items()}
    try:
        return found(**arguments)
    except TypeError as error:
        raise CheckpointError(
            f"{description['class']} no longer takes what the checkpoint gives it: {error}"
        ) from error


def find_class(kind: type, path: str) -> Any:
    """Return the class of a kind that a checkpoint names.

    Nothing is imported but modules of this library: a class of the user's is known once its module was imported.

    Args:
        kind: what the class must be.
        path: public name of the class, or its module and name.

    Raises:
        CheckpointError: if there is no such class, or it is of another kind.
    """
    module_name, _, name = locate(path).rpartition(".")
    own = module_name.split(".")[0] == "etesian"
    try:
        module = importlib.import_module(module_name) if own else sys.modules[module_name]
        found = vars(module)[name]
    except (ImportError, KeyError):
        remedy = "" if own else f"; where you trust it, import {module_name} first, on the command line by --trust"
        state = "which is not installed" if own else "which nothing has imported"
        raise CheckpointError(f"the checkpoint needs {path}, {state}{remedy}") from None
    if not (inspect.isclass(found) and issubclass(found, kind)):
        expected = "not one of its kind" if kind is Recorded else f"no {kind.__name__.lower()}"
        raise CheckpointError(f"the checkpoint names {path}, which is {expected}")
    return found
