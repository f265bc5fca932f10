"""Fine-tuning: which trained weights a run begins with, and which of its parameters it trains."""

from dataclasses import dataclass, field

from etesian.core.errors import RecipeError, suggest
from etesian.models.network import Network, Transfer
from etesian.tasks.checkpoint import load_network


@dataclass(frozen=True)
class Start:
    """Where fine-tuning begins.

    Attributes:
        checkpoint: run directory or checkpoint of a trained network, or what `etesian import` made of an original's.
        train: what is trained, by the network's plain names: all, head, embeddings, norms, attention, lora.
        new_rate: learning rate of tensors that hold anything new, as a multiple of the others'.
    """

    checkpoint: str
    train: list[str] = field(default_factory=lambda: ["all"])
    new_rate: float = 1.0


def begin(network: Network, start: Start) -> Transfer:
    """Give a network the weights to start from and freeze what is not to be trained.

    Frozen parameters get no gradients, and the backward pass ends at the first part that is trained.

    Raises:
        RecipeError: if the network has no part of a name, or nothing to train under it.
        CheckpointError: if the checkpoint does not fit.
    """
    parts = network.parts()
    for name in start.train:
        if name not in parts:
            raise RecipeError(f"{type(network).__name__} has no part '{name}' to train{suggest(name, parts)}")
        if not parts[name]:
            raise RecipeError(f"the network has nothing under '{name}' to train; see its arguments")
    transfer = network.adopt(load_network(start.checkpoint))
    trained = set().union(*(parts[name] for name in start.train))
    for name, parameter in network.named_parameters():
        parameter.requires_grad_(name in trained)
    return transfer
