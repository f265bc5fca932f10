"""What a recipe asks for takes effect where a run goes on, and its learning rate does not jump."""

import math
from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch.callbacks import EarlyStopping
from torch.optim import AdamW

from etesian.training.going_on import apply_options, keep_patience, optimizer_options, redirect_schedules
from etesian.training.optimizers import warmup_cosine


def trainer(lr: float, decay: float, total: int, epochs: int, steps: int = 0, state: object = None) -> SimpleNamespace:
    """One parameter without weight decay, one with; trained for some steps, or from a state."""
    groups = [{"params": [torch.nn.Parameter(torch.ones(2))]}, {"params": [torch.nn.Parameter(torch.ones(2))]}]
    optimizer = AdamW([groups[0], groups[1] | {"weight_decay": 0.0}], lr=lr, weight_decay=decay)
    schedule = warmup_cosine(optimizer, 2, total)
    made = SimpleNamespace(
        optimizers=[optimizer],
        lr_scheduler_configs=[SimpleNamespace(scheduler=schedule)],
        max_epochs=epochs,
        global_step=steps,
    )
    made.options = optimizer_options(made)
    if state is not None:
        optimizer.load_state_dict(state[0])
        schedule.load_state_dict(state[1])
    for _ in range(0 if state is not None else steps):
        optimizer.step()
        schedule.step()
    return made


def state(of: SimpleNamespace) -> tuple[object, object]:
    return of.optimizers[0].state_dict(), of.lr_scheduler_configs[0].scheduler.state_dict()


def rates(of: SimpleNamespace, steps: int) -> list[float]:
    found = []
    for _ in range(steps):
        found.append(of.optimizers[0].param_groups[0]["lr"])
        of.optimizers[0].step()
        of.lr_scheduler_configs[0].scheduler.step()
    return found


def test_options_of_the_optimiser_that_were_changed_take_effect() -> None:
    before = trainer(1e-3, 0.1, 20, 2, steps=10)
    again = trainer(1e-4, 0.3, 20, 2, steps=10, state=state(before))
    assert again.optimizers[0].param_groups[0]["weight_decay"] == 0.1  # PyTorch restores the old ones.
    apply_options(again, again.options, before.options)
    assert [group["weight_decay"] for group in again.optimizers[0].param_groups] == [0.3, 0.0]
    undisturbed = rates(before, 5)
    assert rates(again, 5) == pytest.approx([rate / 10 for rate in undisturbed])


def test_nothing_changes_where_nothing_was_changed() -> None:
    before = trainer(1e-3, 0.1, 20, 2, steps=10)
    again = trainer(1e-3, 0.1, 20, 2, steps=10, state=state(before))
    apply_options(again, again.options, before.options)
    redirect_schedules(again, [20], 1)
    assert rates(again, 10) == rates(before, 10)


def test_a_run_that_is_made_longer_goes_on_from_the_rate_that_it_had() -> None:
    before = trainer(1.0, 0.0, 20, 2, steps=10)
    rate = before.optimizers[0].param_groups[0]["lr"]
    again = trainer(1.0, 0.0, 40, 4, steps=10, state=state(before))
    redirect_schedules(again, [40], 1)
    found = rates(again, 31)
    assert found[0] == rate
    assert found[1] == pytest.approx(rate, rel=0.01)
    assert found[15] == pytest.approx(rate / 2, rel=1e-6)
    assert found[30] == pytest.approx(0.0)


def test_after_the_end_of_the_cosine_more_epochs_do_not_jump() -> None:
    before = trainer(1.0, 0.0, 20, 2, steps=20)
    last = (1 + math.cos(math.pi * 17 / 18)) / 2
    again = trainer(1.0, 0.0, 40, 4, steps=20, state=state(before))
    redirect_schedules(again, [40], 2)
    assert 0 < max(rates(again, 20)) <= last


def test_early_stopping_has_the_patience_that_is_asked_for() -> None:
    asked = EarlyStopping(monitor="val_loss", patience=7)
    checkpoint = {"callbacks": {asked.state_key: {"patience": 2, "wait_count": 1}}}
    keep_patience(SimpleNamespace(callbacks=[asked]), checkpoint)
    assert checkpoint["callbacks"][asked.state_key] == {"patience": 7, "wait_count": 1}
