"""Training with weights, gradients and optimiser states divided among processes (FSDP)."""

from collections.abc import Mapping
from typing import Any

import torch
import torch.distributed
from lightning.pytorch.callbacks import WeightAveraging
from lightning.pytorch.core.optimizer import LightningOptimizer
from lightning.pytorch.strategies import DDPStrategy, StrategyRegistry
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.optim import Optimizer
from torch.utils import _pytree as tree

from etesian.core.errors import RecipeError
from etesian.training.task import Task


class Sharded(DDPStrategy):
    """Divides the samples of a step among processes as DDP does, and also what DDP holds in every process.

    Each process keeps its share of every parameter, of its gradient and of the optimiser's state; the parameters of a
    transformer block are gathered while it computes, the others from the network's first use in a step to its last.
    Checkpoints are the ordinary ones: they are gathered on writing and divided on resuming, so that a run can go on
    with any number of processes, sharded or not. Validation during training uses the shards; the trainer's other
    commands hold the whole network.

    Args:
        options: of Lightning's `DDPStrategy` that concern the processes, such as `process_group_backend`, `timeout`.
    """

    lightning_module: Task

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        if self._ddp_kwargs:
            raise RecipeError(f"Sharded has no option {next(iter(self._ddp_kwargs))!r}; it is one of DDP")

    def configure_ddp(self) -> None:
        """Divide the network's parameters, block by block.

        Raises:
            RecipeError: if the task, a callback or the precision cannot work on shards.
        """
        task, network = self.lightning_module, self.lightning_module.network
        if isinstance(network, FSDPModule):
            return
        self._refuse_what_needs_whole_parameters()
        mesh = init_device_mesh(self.root_device.type, (self.world_size,))
        for tensor in (*task.parameters(), *task.buffers()):
            torch.distributed.broadcast(tensor.data, 0)
        for block in network.shards():
            fully_shard(block, mesh=mesh)
        kind = type(network)
        fully_shard(network, mesh=mesh)
        # Sharding puts a class of its own in between; a checkpoint must name the one that can be rebuilt.
        type(network).__module__, type(network).__qualname__ = kind.__module__, kind.__qualname__

    def lightning_module_state_dict(self) -> dict[str, Any]:
        """Return the whole state of the task in the first process, and empty tensors in the others."""
        return {name: self._gather(tensor) for name, tensor in super().lightning_module_state_dict().items()}

    def load_model_state_dict(self, checkpoint: Mapping[str, Any], strict: bool = True) -> None:
        """Take over the whole state of a task, before or after its parameters are divided."""
        own = self.lightning_module.state_dict()
        given = {name: _like(own[name], t) if name in own else t for name, t in checkpoint["state_dict"].items()}
        super().load_model_state_dict({"state_dict": given}, strict=strict)

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        """Return the whole state of the optimiser in the first process, and empty tensors in the others."""
        if isinstance(optimizer, LightningOptimizer):
            optimizer = optimizer.optimizer
        state: dict[str, Any] = tree.tree_map_only(Tensor, self._gather, optimizer.state_dict())
        return state

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        """Take over the whole states of optimisers, and divide them as their parameters are."""
        states = []
        for optimizer, whole in zip(self.optimizers, checkpoint["optimizer_states"], strict=True):
            parameters = [p for group in optimizer.param_groups for p in group["params"]]
            numbers = [n for group in whole["param_groups"] for n in group["params"]]
            divided = {
                n: {name: _like(p, value) for name, value in whole["state"][n].items()}
                for n, p in zip(numbers, parameters, strict=True)
                if n in whole["state"]
            }
            states.append({**whole, "state": divided})
        super().load_optimizer_state_dict({"optimizer_states": states})

    def _gather(self, tensor: Tensor) -> Tensor:
        if not isinstance(tensor, DTensor):
            return tensor
        whole = tensor.full_tensor()
        return whole.cpu() if self.is_global_zero else whole.new_empty(0, device="cpu")

    def _refuse_what_needs_whole_parameters(self) -> None:
        task = self.lightning_module
        if not task.network.shards():
            raise RecipeError(f"{type(task.network).__name__} cannot be divided among processes; use strategy: ddp")
        own = [name for name, _ in task.named_parameters() if not name.startswith("network.")]
        if own:
            raise RecipeError(f"Sharded divides only the network, but the task learns {own[0]}; use strategy: ddp")
        for callback in task.trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, WeightAveraging):
                raise RecipeError(f"{type(callback).__name__} averages whole weights, not shards; use strategy: ddp")
        if self.precision_plugin.precision == "16-mixed":
            raise RecipeError("Sharded cannot scale losses as 16-mixed does; use precision: bf16-mixed")


def _like(own: Tensor, value: Any) -> Any:
    """Return a tensor as this process holds it: its share of it, where its own is a shard of that shape."""
    if not isinstance(own, DTensor) or not isinstance(value, Tensor) or value.shape != own.shape:
        return value
    mesh = own.device_mesh
    return distribute_tensor(value.to(mesh.device_type), mesh, own.placements, src_data_rank=None)


StrategyRegistry.register("sharded", Sharded, description="Divides weights and optimiser states among processes")
