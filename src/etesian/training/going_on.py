"""Going on with a run: with the recipe that it was begun with, until all that it asks for is done."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lightning.pytorch.callbacks import EarlyStopping
from torch.optim.lr_scheduler import LambdaLR

from etesian.core.errors import EtesianError, RecipeError
from etesian.store.reader import Store
from etesian.training.optimizers import WarmupCosine
from etesian.training.trusted import read

Options = list[list[dict[str, Any]]]
"""Of the parameter groups of each optimiser, by name."""

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


def was_stopped(run: Path, last: dict[str, Any], trainer: dict[str, Any]) -> bool:
    """Tell whether early stopping or a limit of time has ended a run, and would end it again.

    Args:
        run: directory of the run.
        last: description of the checkpoint to go on from.
        trainer: of the complete recipe, as plain data.
    """
    if not last.get("stopped") or not (run / "recipe.yaml").exists():
        return False
    before = read(run / "recipe.yaml").get("trainer", {})
    enough = last["epoch"] + 1 >= (trainer.get("min_epochs") or 0) and last["step"] >= (trainer.get("min_steps") or 0)
    return enough and all(before.get(name) == trainer.get(name) for name in ("callbacks", "max_time"))


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


def optimizer_options(trainer: Any) -> Options:
    """Return the options of each optimiser's parameter groups as plain data, as they were before the first step."""
    return [
        [
            {name: value for name, value in group.items() if name not in ("params", "initial_lr")}
            | {"lr": group.get("initial_lr", group["lr"])}
            for group in optimizer.param_groups
        ]
        for optimizer in trainer.optimizers
    ]


def apply_options(trainer: Any, now: Options, before: Options) -> None:
    """Give the restored optimisers the options that have changed since the checkpoint was written.

    A schedule's share of the learning rate stays what it is.

    Args:
        trainer: whose optimisers and schedules are restored.
        now: `optimizer_options` of this start.
        before: those of the start that wrote the checkpoint.
    """
    for optimizer, new_groups, old_groups in zip(trainer.optimizers, now, before, strict=True):
        for group, new, old in zip(optimizer.param_groups, new_groups, old_groups, strict=True):
            changed = {name: value for name, value in new.items() if old.get(name, value) != value}
            if "lr" in changed:
                group["initial_lr"] = new["lr"]
                changed["lr"] = group["lr"] * new["lr"] / old["lr"] if old["lr"] else new["lr"]
            group.update(changed)
    for each in trainer.lr_scheduler_configs:
        if isinstance(each.scheduler, LambdaLR):
            each.scheduler.base_lrs = [group["initial_lr"] for group in each.scheduler.optimizer.param_groups]


def schedules(trainer: Any) -> list[WarmupCosine]:
    """Return the schedules whose length is that of the run."""
    lambdas = [f for each in trainer.lr_scheduler_configs for f in getattr(each.scheduler, "lr_lambdas", [])]
    return list({id(f): f for f in lambdas if isinstance(f, WarmupCosine)}.values())


def redirect_schedules(trainer: Any, asked_steps: list[int], epochs_done: int) -> None:
    """Let schedules end where the run now ends, from the learning rate that they have come to.

    Args:
        trainer: whose schedules are restored.
        asked_steps: length of each schedule as this start has made it.
        epochs_done: before this start.
    """
    for schedule, asked in zip(schedules(trainer), asked_steps, strict=True):
        if schedule.asked_steps != asked:
            epochs = trainer.max_epochs if trainer.max_epochs and trainer.max_epochs > 0 else 0
            left = round(asked * (epochs - epochs_done) / epochs) if epochs else asked - trainer.global_step
            schedule.redirect(trainer.global_step, trainer.global_step + left, asked)


def keep_patience(trainer: Any, checkpoint: dict[str, Any]) -> None:
    """Let early stopping have the patience that the recipe gives it now, not that of the checkpoint."""
    for callback in trainer.callbacks:
        state = checkpoint["callbacks"].get(callback.state_key)
        if isinstance(callback, EarlyStopping) and state is not None:
            state["patience"] = callback.patience
