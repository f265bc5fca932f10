"""Weights of a trained ClimaX in one of other variables, another grid or patch."""

from dataclasses import dataclass

import torch
from torch import Tensor

from etesian.core.channels import Channel
from etesian.core.errors import CheckpointError
from etesian.core.grid import Grid
from etesian.networks.network import Network, Transfer
from etesian.nn.noise import is_for_noise
from etesian.nn.tokens import interpolate_position

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
        local_width: features of a point; 0 without a local path.
        local_half: whether the local path has a level at half the resolution.
    """

    variables: tuple[Channel, ...]
    ages: int
    grid: Grid
    patch: tuple[int, int]
    local_width: int
    local_half: bool


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
        CheckpointError: if the transformers are of different sizes, or the local paths.
    """
    for option in ("local_width", "local_half"):
        wanted, known = getattr(here, option), getattr(there, option)
        if wanted != known:
            raise CheckpointError(f"the trained ClimaX has {option}: {known}, this one {wanted}; make them equal")
    own, theirs = network.state_dict(), source.state_dict()
    outcomes: dict[str, str] = {}
    new: set[str] = set()
    for name, tensor in own.items():
        trained = theirs.get(name)
        if name == "position":
            own[name], outcomes[name] = _position(here, theirs[name], there)
        elif trained is None and (is_for_noise(name) or any(part in name for part in _OPTIONAL)):
            outcomes[name], known = "new", torch.zeros(0)
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
            outcomes[name] = "loaded" if share == 1 else "new" if share == 0 else f"{share:.0%} loaded, the rest new"
            if share < 1:
                new.add(name)
        elif trained.shape != tensor.shape:
            shapes = f"{tuple(trained.shape)} there and {tuple(tensor.shape)} here"
            raise CheckpointError(f"the trained ClimaX is of another size: {name} is {shapes}")
        else:
            own[name], outcomes[name] = trained, "loaded"
    outcomes |= {name: "dropped" for name in theirs if name not in own}
    outcomes |= {str(channel): "dropped" for channel in there.variables if channel not in here.variables}
    outcomes |= {str(channel): "new" for channel in here.variables if channel not in there.variables}
    network.load_state_dict(own)
    return Transfer(outcomes, frozenset(new))


def _position(here: Tokens, trained: Tensor, there: Tokens) -> tuple[Tensor, str]:
    if here.grid == there.grid and here.patch == there.patch:
        return trained, "loaded"
    position = interpolate_position(trained, there.grid, here.grid, there.patch, here.patch)
    return position, f"interpolated from {there.grid}"


def _rows(here: Tokens, there: Tokens, name: str) -> tuple[list[int], list[int]]:
    """Return which rows of a tensor correspond to which rows of the source's."""
    ours, theirs = here.variables, there.variables
    shared = [(ours.index(channel), theirs.index(channel)) for channel in ours if channel in theirs]
    pixels = 1 if here.local_width else here.patch[0] * here.patch[1]
    blocks = range(pixels if name in _BY_PIXEL else min(here.ages, there.ages))
    pairs = [(block * len(ours) + a, block * len(theirs) + b) for block in blocks for a, b in shared]
    return [a for a, _ in pairs], [b for _, b in pairs]
