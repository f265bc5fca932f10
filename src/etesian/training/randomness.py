"""Random numbers of every process and device: drawn apart, and gone on with where a run stopped."""

from collections.abc import Sequence

import torch
from torch import Tensor

from etesian.samples.batches import rank_and_world

RandomStates = dict[str, Tensor]
"""States of one process's generators, by `cpu` and the kind of its device."""


def draw_apart() -> None:
    """Let each process draw random numbers of its own: all begin with the same seed, to make the same network."""
    rank, _ = rank_and_world()
    if rank:
        torch.manual_seed(torch.initial_seed() + rank)


def random_states(device: torch.device) -> list[RandomStates]:
    """Return the states of all processes, process by process; all of them have to call it.

    Args:
        device: of this process.
    """
    own = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        own["cuda"] = torch.cuda.get_rng_state(device)
    _, world = rank_and_world()
    if world == 1:
        return [own]
    gathered: list[RandomStates] = [{} for _ in range(world)]
    torch.distributed.all_gather_object(gathered, own)
    return gathered


def restore(states: Sequence[RandomStates], device: torch.device) -> None:
    """Go on with the random numbers of a run, where it had as many processes on such devices; else draw others.

    Args:
        states: of all processes when it stopped.
        device: of this process.
    """
    rank, _ = rank_and_world()
    own = states[min(rank, len(states) - 1)]
    # Numbers that follow from the state, and are others for each process.
    torch.manual_seed(int(own["cpu"].long().sum()) * 1000 + rank)
    if rank < len(states):
        torch.set_rng_state(own["cpu"].cpu())
        if device.type == "cuda" and "cuda" in own:
            torch.cuda.set_rng_state(own["cuda"].cpu(), device)
