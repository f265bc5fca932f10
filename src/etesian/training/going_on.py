"""Going on with a run: only with the recipe that it was begun with, and not where it is finished."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from etesian.core.errors import EtesianError, RecipeError
from etesian.store.reader import Store
from etesian.training.checkpoint import read_description
from etesian.training.trusted import read

_APPLIED = ("data.init_args.workers", "data.init_args.batch_size", "model.init_args.optimizer.init_args.")
"""What may change: it takes effect, and changes neither the network nor what it learns."""


def refuse_changes(run: Path, recipe: dict[str, Any], last: dict[str, Any], *, finished: bool) -> None:
    """Refuse options that differ from those that a run was begun with and cannot take effect any more.

    Args:
        run: directory of the run.
        recipe: complete, as plain data.
        last: description of the checkpoint to go on from.
        finished: nothing is left to train, so that no option takes effect.

    Raises:
        RecipeError: naming the option, its value then and now.
    """
    if not (run / "recipe.yaml").exists():
        return
    before = read(run / "recipe.yaml")
    for part in ("seed_everything", "data", "model"):
        for name, old, new in _differences(part, before.get(part), recipe.get(part)):
            if name.startswith(_APPLIED) and not finished:
                continue
            if name == "data.init_args.stores" and _same_stores(new, last):
                continue
            what = "was of another network" if ".network." in name else "was begun otherwise"
            raise RecipeError(
                f"the run to go on with {what}: {name} was {old} in {run}, not {new}; leave it as it was, or name "
                "another run directory with --run"
            )


def is_finished(last: dict[str, Any], trainer: dict[str, Any]) -> bool:
    """Tell whether a run has made all the epochs or steps that the recipe asks for."""
    epochs, steps = trainer.get("max_epochs"), trainer.get("max_steps", -1)
    epochs_done = epochs is not None and 0 <= epochs <= last["epoch"] + 1
    return bool(epochs_done or 0 <= steps <= last["step"])


def last_checkpoint(run: Path) -> dict[str, Any] | None:
    """Return the description of the checkpoint that a run goes on from, if there is one."""
    folder = run / "checkpoints" / "last"
    return read_description(folder) if folder.exists() else None


def _differences(name: str, old: Any, new: Any) -> Iterator[tuple[str, Any, Any]]:
    """Go through the options that differ; one that only one version of this library has is none."""
    if isinstance(old, dict) and isinstance(new, dict) and "class_path" in old and "class_path" in new:
        if old["class_path"] != new["class_path"]:
            yield f"{name}.class_path", old["class_path"], new["class_path"]
            return
        theirs, ours = old.get("init_args") or {}, new.get("init_args") or {}
        for key in theirs.keys() & ours.keys():
            yield from _differences(f"{name}.init_args.{key}", theirs[key], ours[key])
    elif old != new:
        yield name, old, new


def _same_stores(paths: list[str], last: dict[str, Any]) -> bool:
    """Tell whether stores hold what the run has seen, wherever they lie now."""
    try:
        return {Store(path).fingerprint for path in paths} == set(last["provenance"]["stores"].values())
    except (EtesianError, KeyError, AttributeError, TypeError):
        return False
