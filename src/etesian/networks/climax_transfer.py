"""What a ClimaX takes over from a trained one: variables by name, positions by coordinate."""

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from etesian.core.errors import CheckpointError
from etesian.networks.network import Transfer
from etesian.nn.position import interpolate_position

if TYPE_CHECKING:
    from etesian.networks.climax import ClimaX

_BY_STREAM = ("token_weight", "token_bias", "variable_embed", "missing_weight")

_OPTIONAL = ("lora", "missing_weight", "neck.")

_BY_PIXEL = ("to_pixels.weight", "to_pixels.bias")


def adopt(network: "ClimaX", source: "ClimaX") -> Transfer:
    """Take over what fits.

    Tensors by variable go from variable to variable, by name; those that the source does not know stay new, and those
    that the network does not know are dropped. Positions are interpolated between grids. Patches of another size make
    the embedding of pixels and the last layer new.

    Raises:
        CheckpointError: if the transformers are of different sizes.
    """
    own, theirs = network.state_dict(), source.state_dict()
    fates: dict[str, str] = {}
    new: set[str] = set()
    for name, tensor in own.items():
        trained = theirs.get(name)
        if name == "position":
            own[name], fates[name] = _position(network, source)
        elif trained is None and any(part in name for part in _OPTIONAL):
            fates[name], known = "new", torch.zeros(0)
            new.add(name)
        elif trained is None:
            raise CheckpointError(f"the trained ClimaX is smaller: it has no {name}; give the network the same depth")
        elif name.rpartition(".")[2] in _BY_STREAM or name in _BY_PIXEL:
            pairs = _rows(network, source, name)
            known = torch.zeros(tensor.shape[0], dtype=torch.bool)
            if tensor.shape[1:] == trained.shape[1:] and (name not in _BY_PIXEL or network.patch == source.patch):
                here, there = (torch.tensor(rows, dtype=torch.int64) for rows in pairs)
                own[name] = tensor.clone()
                own[name][here], known[here] = trained[there], True
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
    fates |= {str(channel): "dropped" for channel in source.variables if channel not in network.variables}
    fates |= {str(channel): "new" for channel in network.variables if channel not in source.variables}
    network.load_state_dict(own)
    return Transfer(fates, frozenset(new))


def _position(network: "ClimaX", source: "ClimaX") -> tuple[Tensor, str]:
    here, there = network.layout.grid, source.layout.grid
    if here == there and network.patch == source.patch:
        return source.position.detach(), "loaded"
    position = interpolate_position(source.position.detach(), there, here, source.patch, network.patch)
    return position, f"interpolated from {there}"


def _rows(network: "ClimaX", source: "ClimaX", name: str) -> tuple[list[int], list[int]]:
    """Return which rows of a tensor correspond to which rows of the source's."""
    ours, theirs = network.variables, source.variables
    shared = [(ours.index(channel), theirs.index(channel)) for channel in ours if channel in theirs]
    if name in _BY_PIXEL:
        blocks = range(network.patch[0] * network.patch[1])
    else:
        ages = [each.aggregation.token_bias.shape[0] // len(each.variables) for each in (network, source)]
        blocks = range(min(ages))
    pairs = [(block * len(ours) + a, block * len(theirs) + b) for block in blocks for a, b in shared]
    return [a for a, _ in pairs], [b for _, b in pairs]
