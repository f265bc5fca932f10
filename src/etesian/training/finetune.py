"""Fine-tuning: which trained weights a run begins with, and which of its parameters it trains."""

from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from etesian.core.errors import RecipeError, suggest
from etesian.core.statistics import Statistics
from etesian.networks.network import Network, Transfer
from etesian.training.checkpoint import load_network, load_task


@dataclass(frozen=True)
class Start:
    """Where fine-tuning begins.

    Attributes:
        checkpoint: run directory or checkpoint of a trained network, or what `etesian import` made of an original's.
        train: what is trained, by the network's plain names: all, head, embeddings, norms, attention, lora.
        new_rate: learning rate of tensors that hold anything new, as a multiple of the others'.
        statistics: normalise by those of the `data` at hand, or keep the `trained` run's for all channels that it knew,
            as parts do that stay frozen; seasonal cycles on a layout's other grids are those of the data.
    """

    checkpoint: str
    train: list[str] = field(default_factory=lambda: ["all"])
    new_rate: float = 1.0
    statistics: Literal["data", "trained"] = "data"


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


def kept_statistics(start: Start, statistics: Statistics) -> Statistics:
    """Return the statistics of the run to start from for the channels that it knew, others as they are.

    Raises:
        CheckpointError: if the start is no run.
        RecipeError: if the run knew no seasonal cycle, but these statistics do.
    """
    trained = load_task(start.checkpoint).normalizer.statistics
    known = [channel in trained.channels for channel in statistics.channels]
    positions = [
        trained.channels.index(c) if is_known else 0 for c, is_known in zip(statistics.channels, known, strict=True)
    ]

    def merged(name: str, axis: int = 0) -> Any:
        own, theirs = getattr(statistics, name), getattr(trained, name)
        if own is None:
            return None
        if theirs is None:
            raise RecipeError(f"{start.checkpoint} was trained without anomalies; set anomalies: false")
        chosen = np.array(known).reshape([-1 if number == axis else 1 for number in range(own.ndim)])
        return np.where(chosen, theirs.take(positions, axis), own)

    return Statistics(
        statistics.channels,
        merged("mean"),
        merged("std"),
        merged("harmonics", axis=1),
        merged("anomaly_std"),
        observed=statistics.observed,
        other_harmonics=statistics.other_harmonics,
    )
