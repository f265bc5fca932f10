"""Going on with a run: what the recipe asks for now takes effect, also where the checkpoint holds an older value."""

from typing import Any

from lightning.pytorch.callbacks import EarlyStopping
from torch.optim.lr_scheduler import LambdaLR

from etesian.training.optimizers import WarmupCosine

Options = list[list[dict[str, Any]]]


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
