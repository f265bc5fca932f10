"""Shampoo, from whichever implementation is installed, with a state that checkpoints can hold."""

import importlib
import importlib.util
import inspect
import math
from abc import ABCMeta
from collections.abc import Iterable
from typing import Any

import torch
from pytorch_optimizer import ScalableShampoo
from pytorch_optimizer.optimizer.utils.graft import LayerWiseGrafting
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

DISTRIBUTED = "distributed_shampoo"
"""Meta's package, which shares the work between processes; it is on no package index."""

_OBJECTS = {"pre_conditioner": ("statistics", "pre_conditioners"), "graft": ("momentum", "statistics")}
"""What is to be kept of the objects in the state of `ScalableShampoo`."""


class _Installed(ABCMeta):
    def __call__(cls, *arguments: Any, **options: Any) -> Any:
        if importlib.util.find_spec(DISTRIBUTED) is None:
            return super().__call__(*arguments, **options)
        given = inspect.signature(cls.__init__).bind(None, *arguments, **options)  # type: ignore[misc]
        given.apply_defaults()
        return _distributed(**{name: value for name, value in given.arguments.items() if name != "self"})


class Shampoo(ScalableShampoo, metaclass=_Installed):
    """Shampoo (Gupta et al. 2018, arXiv 1802.09568), whose steps are as long as RMSProp's or Adam's would be.

    Where Meta's `distributed_shampoo` is installed, calling this gives that one, whose processes share the work among
    them; else the one of `pytorch-optimizer`, with a state of plain tensors, so that it can be saved and loaded without
    pickled code. Their steps differ in detail.

    Args:
        params: parameters or groups of them.
        lr: learning rate, as for Adam.
        betas: decay of the mean gradient, and of the second moments of gradients.
        weight_decay: decoupled, as AdamW's.
        every: steps between two computations of the preconditioners.
        start: steps before the preconditioners are used, at least `every`.
        block_size: rows and columns of the largest preconditioner; larger matrices are cut into blocks.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.99),
        weight_decay: float = 0.0,
        every: int = 20,
        start: int = 20,
        block_size: int = 256,
    ) -> None:
        super().__init__(
            params,
            lr=lr,
            betas=betas,
            weight_decay=weight_decay,
            decoupled_weight_decay=True,
            moving_average_for_momentum=True,
            preconditioning_compute_steps=every,
            start_preconditioning_step=max(start, every),
            block_size=block_size,
            graft_type=LayerWiseGrafting.RMSPROP,
            nesterov=False,
            # Else matrices with no more entries than a block count as vectors, which have no preconditioner.
            shape_interpretation=False,
        )

    def state_dict(self) -> dict[str, Any]:
        """Return the state with every object replaced by its tensors."""
        state = super().state_dict()
        state["state"] = {number: _tensors(each) for number, each in state["state"].items()}
        return state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Make the objects anew and put the tensors back."""
        super().load_state_dict(state_dict | {"state": {}})
        parameters = [p for group in self.param_groups for p in group["params"]]
        gradients = [p.grad for p in parameters]
        # The state of a parameter is made where there is a gradient.
        for number, p in enumerate(parameters):
            p.grad = torch.zeros_like(p) if number in state_dict["state"] else None
        for group in self.param_groups:
            self.init_group(group)
        for p, gradient in zip(parameters, gradients, strict=True):
            p.grad = gradient
        for number, saved in state_dict["state"].items():
            _restore(self.state[parameters[number]], saved)


def _distributed(
    params: Iterable[Any],
    lr: float,
    betas: tuple[float, float],
    weight_decay: float,
    every: int,
    start: int,
    block_size: int,
) -> Optimizer:
    package: Any = importlib.import_module(DISTRIBUTED)
    # The class was renamed between versions.
    grafting = getattr(package, "AdamPreconditionerConfig", None) or package.AdamGraftingConfig
    made: Optimizer = package.DistributedShampoo(
        params,
        lr=lr,
        betas=betas,
        epsilon=1e-8,
        weight_decay=weight_decay,
        precondition_frequency=every,
        start_preconditioning_step=max(start, every),
        max_preconditioner_dim=block_size,
        grafting_config=grafting(beta2=betas[1], epsilon=1e-8),
    )
    return made


def _tensors(state: dict[str, Any]) -> dict[str, Any]:
    plain = {"momentum": state["momentum"]}
    for name, attributes in _OBJECTS.items():
        for attribute in attributes:
            plain[f"{name}.{attribute}"] = getattr(state[name], attribute)
    return plain


def _restore(state: dict[str, Any], saved: dict[str, Any]) -> None:
    device = state["momentum"].device

    def there(value: Any) -> Any:
        return value.to(device) if isinstance(value, Tensor) else [each.to(device) for each in value]

    state["momentum"] = there(saved["momentum"])
    for name, attributes in _OBJECTS.items():
        for attribute in attributes:
            setattr(state[name], attribute, there(saved[f"{name}.{attribute}"]))


class WarmupCosine:
    """Share of the full learning rate at a step: it rises linearly, then falls along half a cosine.

    Its numbers are kept in checkpoints, so that a run that goes on for longer knows how it began.

    Args:
        warmup_steps: steps until the full learning rate.
        total_steps: steps until the end of the cosine.
        floor: share of the full learning rate at the end.
    """

    def __init__(self, warmup_steps: int, total_steps: int, floor: float = 0.0) -> None:
        self.warmup_steps, self.total_steps, self.floor = warmup_steps, total_steps, floor
        self.asked_steps = total_steps
        self.falls_from, self.height = warmup_steps, 1.0

    def __call__(self, step: int) -> float:
        """Return the share of the full learning rate."""
        if step < self.warmup_steps:
            return (step + 1) / (self.warmup_steps + 1)
        gone = min((step - self.falls_from) / max(self.total_steps - self.falls_from, 1), 1.0)
        return self.floor + (self.height - self.floor) * (1 + math.cos(math.pi * gone)) / 2

    def redirect(self, step: int, end: int, asked_steps: int) -> None:
        """Fall to another end from here on, without a jump; from the last rate that was used if the end was reached.

        Args:
            step: that is about to be made.
            end: step of the new end.
            asked_steps: length of the whole schedule as the recipe has it.
        """
        if step > self.warmup_steps:
            self.height, self.falls_from = self(min(step, self.total_steps - 1)), step
        self.total_steps, self.asked_steps = end, asked_steps


def warmup_cosine(optimizer: Optimizer, warmup_steps: int, total_steps: int, floor: float = 0.0) -> LambdaLR:
    """Return a schedule that rises linearly, then falls along half a cosine; see `WarmupCosine`."""
    return LambdaLR(optimizer, WarmupCosine(warmup_steps, total_steps, floor))
