"""What a ClimaX takes over from a trained one: variables by name, positions by coordinate."""

from dataclasses import dataclass

import torch
from torch import Tensor

from etesian.core.channels import Channel
from etesian.core.errors import CheckpointError
from etesian.core.grid import Grid
from etesian.networks.network import Network, Transfer
from etesian.nn.position import interpolate_position

_BY_STREAM = ("token_weight", "token_bias", "variable_embed", "missing_weight")

_OPTIONAL = ("lora", "missing_weight", "neck.")

_BY_PIXEL = ("to_pixels.weight", "to_pixels.bias")


@dataclass(frozen=True)
class Tokens:
    """What the tokens of a ClimaX stand for.

    Attributes:
        variables: that have an embedding, in the order of its rows.
        ages: number of times in the history.
        grid: that the positions are of.
        patch: rows and columns that make up a token.
    """

    variables: tuple[Channel, ...]
    ages: int
    grid: Grid
    patch: tuple[int, int]


def adopt(network: Network, here: Tokens, source: Network, there: Tokens) -> Transfer:
    """Take over what fits.

    Tensors by variable go from variable to variable, by name; those that the source does not know stay new, and those
    that the network does not know are dropped. Positions are interpolated between grids. Patches of another size make
    the embedding of pixels and the last layer new.

    Args:
        network: to give weights to.
        here: what its tokens stand for.
        source: the trained network.
        there: what the tokens of that stand for.

    Raises:
        CheckpointError: if the transformers are of different sizes.
    """
    own, theirs = network.state_dict(), source.state_dict()
    fates: dict[str, str] = {}
    new: set[str] = set()
    for name, tensor in own.items():
        trained = theirs.get(name)
        if name == "position":
            own[name], fates[name] = _position(here, theirs[name], there)
        elif trained is None and any(part in name for part in _OPTIONAL):
            fates[name], known = "new", torch.zeros(0)
            new.add(name)
        elif trained is None:
            raise CheckpointError(f"the trained ClimaX is smaller: it has no {name}; give the network the same depth")
        elif name.rpartition(".")[2] in _BY_STREAM or name in _BY_PIXEL:
            pairs = _rows(here, there, name)
            known = torch.zeros(tensor.shape[0], dtype=torch.bool)
            if tensor.shape[1:] == trained.shape[1:] and (name not in _BY_PIXEL or here.patch == there.patch):
                ours, trained_rows = (torch.tensor(rows, dtype=torch.int64) for rows in pairs)
                own[name] = tensor.clone()
                own[name][ours], known[ours] = trained[trained_rows], True
            share = int(known.sum()) / len(known)
            fates[name] = "loaded" if share == 1 else "new" if share == 0 else f"{share:.0%} loaded, the rest new"
            if share < 1:
                new.add(name)
        elif trained.shape != tensor.shape:
            shapes = f"{tuple(trained.shape)} there and {tuple(tensor.shape)} here"
            raise CheckpointError(f"the trained ClimaX is of another size: {name} is {shapes}")
        else:
            own[name], fates[name] = trained, "loaded"
    fates |= {name: "dropped" for name in theirs if name not in own}
    fates |= {str(channel): "dropped" for channel in there.variables if channel not in here.variables}
    fates |= {str(channel): "new" for channel in here.variables if channel not in there.variables}
    network.load_state_dict(own)
    return Transfer(fates, frozenset(new))


def _position(here: Tokens, trained: Tensor, there: Tokens) -> tuple[Tensor, str]:
    if here.grid == there.grid and here.patch == there.patch:
        return trained, "loaded"
    position = interpolate_position(trained, there.grid, here.grid, there.patch, here.patch)
    return position, f"interpolated from {there.grid}"


def _rows(here: Tokens, there: Tokens, name: str) -> tuple[list[int], list[int]]:
    """Return which rows of a tensor correspond to which rows of the source's."""
    ours, theirs = here.variables, there.variables
    shared = [(ours.index(channel), theirs.index(channel)) for channel in ours if channel in theirs]
    blocks = range(here.patch[0] * here.patch[1] if name in _BY_PIXEL else min(here.ages, there.ages))
    pairs = [(block * len(ours) + a, block * len(theirs) + b) for block in blocks for a, b in shared]
    return [a for a, _ in pairs], [b for _, b in pairs]
