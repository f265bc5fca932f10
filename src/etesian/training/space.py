"""What `etesian tune` chooses from: settings of a recipe by their dotted names, each with its choices or its bounds."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from etesian.core.errors import RecipeError, suggest
from etesian.training.trusted import plain

_PARTS, _BOUNDS = ("data", "model", "trainer"), ("low", "high", "log", "step")

_SAME_VALIDATION = ("statics", "leads_per_sample", "batch_size", "workers")
"""Options of data that leave alone what a network is validated on, unlike history (its times) and inputs (targets)."""

_MEASURE = (
    "loss", "balance", "latitude_weights", "channel_weights", "lead_weights", "level_weights", "forecast_weight",
    "reconstruct_weight", "mask_patches", "mask_variables", "anomalies", "members", "band_weight", "content",
    "consistency", "spread", "log1p", "hole", "lags", "adversarial", "limit_val_batches", "overfit_batches",
    "fast_dev_run",
)  # fmt: skip
"""Options of tasks and of the trainer that say what the validation loss measures."""


@dataclass(frozen=True)
class Setting:
    """A setting of a recipe, with its choices, or the first and last of the numbers that it may be.

    Attributes:
        name: dotted, without init_args.
        examples: the choices, or both bounds.
        kind: choice, int or float.
        log: whether numbers are drawn evenly in their logarithm.
        step: between two numbers; None for any.
    """

    name: str
    examples: list[Any]
    kind: str = "choice"
    log: bool = False
    step: float | None = None

    def pick(self, trial: Any) -> Any:
        """Return the value that a trial of Optuna has or gets."""
        if self.kind == "choice":
            # As text: Optuna keeps no lists, such as those of `history`.
            return json.loads(trial.suggest_categorical(self.name, [json.dumps(each) for each in self.examples]))
        draw = trial.suggest_int if self.kind == "int" else trial.suggest_float
        return draw(self.name, *self.examples, log=self.log, step=self.step)

    def parameter(self, value: Any) -> Any:
        """Return a value as Optuna knows it; None if it cannot be chosen.

        >>> Setting("model.network.dropout", [0, 0.1]).parameter(0.0)
        '0'
        """
        if self.kind == "choice":
            # A recipe's 0.0 is the choice 0, and a 1 is no true.
            is_bool = isinstance(value, bool)
            same = (json.dumps(each) for each in self.examples if each == value and isinstance(each, bool) == is_bool)
            return next(same, None)
        low, high = self.examples
        if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
            return None
        steps = (value - low) / self.step if self.step else 0
        return value if abs(steps - round(steps)) < 1e-9 else None


def read_space(given: str | Path | Mapping[str, Any]) -> tuple[str, list[Setting]]:
    """Return the name of a space, for messages, and its settings.

    Args:
        given: a YAML file, or a mapping like it.

    Raises:
        RecipeError: if it cannot be read, or a setting has neither choices nor bounds that fit together.
    """
    where, content = ("the space" if isinstance(given, Mapping) else str(given)), dict[str, Any]()
    try:
        content = given if isinstance(given, dict) else plain(Path(str(given)).read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError, UnicodeDecodeError) as error:
        raise RecipeError(f"{where} is no YAML file that can be read ({' '.join(str(error).split())})") from None
    if not isinstance(content, dict) or not content:
        raise RecipeError(f"{where} has nothing to choose; give dotted names, such as model.network.dim: [64, 128]")
    settings: dict[str, Setting] = {}
    for full, value in content.items():
        name = ".".join(part for part in str(full).split(".") if part != "init_args")
        if name in settings:
            raise RecipeError(f"{where} has {name} twice, with init_args and without; leave one out")
        settings[name] = _setting(where, name, value)
    return where, list(settings.values())


def _setting(where: str, name: str, given: Any) -> Setting:
    part, *rest = name.split(".")
    if part not in _PARTS or not rest:
        raise RecipeError(
            f"{where}: '{name}' is no setting of a recipe's data, model or trainer{suggest(part, _PARTS)}"
        )
    if (part == "data" and rest[0] not in _SAME_VALIDATION) or (part != "data" and rest[0] in _MEASURE):
        raise RecipeError(
            f"{where}: {name} could change what the validation loss measures or is measured on, so that scores could "
            "not be compared; leave it out"
        )
    where = f"{where}: {name}"
    if isinstance(given, list) and given:
        return Setting(name, given)
    if not isinstance(given, dict):
        raise RecipeError(f"{where} is {given!r}; give choices, [a, b], or bounds, {{low: a, high: b}}")
    if unknown := [str(key) for key in given if key not in _BOUNDS]:
        raise RecipeError(f"{where} has no '{unknown[0]}'{suggest(unknown[0], _BOUNDS)}")
    low, high, log, step = (given.get(key) for key in _BOUNDS)
    numbers = [each for each in (low, high, step) if each is not None]
    if any(isinstance(each, bool) or not isinstance(each, int | float) for each in numbers) or log not in (
        None,
        True,
        False,
    ):
        raise RecipeError(f"{where} is {given}; give numbers, and log: true or false")
    if low is None or high is None or not -math.inf < low < high < math.inf:
        raise RecipeError(f"{where} goes from low {low} to high {high}; give both, low below high")
    if log and (low <= 0 or step is not None):
        raise RecipeError(f"{where} is logarithmic, which needs a low above 0 and no step")
    if step is not None and not 0 < step <= high - low:
        raise RecipeError(f"{where} has step {step}; it must be above 0 and no longer than from low to high")
    whole = all(isinstance(each, int) for each in numbers)
    return Setting(name, [low, high], "int" if whole else "float", bool(log), step or (1 if whole else None))


def value_in(recipe: Any, name: str) -> Any:
    """Return what a complete recipe says of an option; None where it has none.

    >>> value_in({"model": {"class_path": "etesian.ForecastTask", "init_args": {"bounds": "clip"}}}, "model.bounds")
    'clip'
    """
    for part in name.split("."):
        recipe = recipe[-1] if isinstance(recipe, list) and recipe else recipe
        if isinstance(recipe, dict) and part != "class_path" and "init_args" in recipe:
            recipe = recipe["init_args"]
        recipe = recipe.get(part) if isinstance(recipe, dict) else None
    return recipe
