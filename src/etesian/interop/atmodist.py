"""Reading Keras weights of the original AtmoDist (github.com/sehoffmann/AtmoDist, arXiv 2109.09076)."""

import re
from collections.abc import Sequence
from pathlib import Path

import h5py
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from etesian.core.channels import Channel
from etesian.core.errors import CheckpointError, first_line
from etesian.core.fields import Layout
from etesian.core.grid import Grid
from etesian.interop.climax import fitting
from etesian.networks.atmodist import AtmoDist
from etesian.training.checkpoint import load_strictly, refuse_not_finite

_LAYERS = {
    "in_conv": "encoder.stem.0",
    "in_bn": "encoder.stem.1",
    "combined1_conv": "combine.0",
    "combined1_bn": "combine.1",
    "combined2_conv": "combine.3",
    "combined2_bn": "combine.4",
    "pred": "answer",
}

_INSIDE_BLOCK = {
    "conv1": "branch.0",
    "bn1": "branch.1",
    "conv2": "branch.3",
    "bn2": "branch.4",
    "projection": "shortcut.0",
}

_WEIGHTS = {
    "kernel": "weight",
    "bias": "bias",
    "gamma": "weight",
    "beta": "bias",
    "moving_mean": "running_mean",
    "moving_variance": "running_var",
}


def load(path: str | Path, *, channels: Sequence[Channel | str], grid: Grid) -> AtmoDist:
    """Build the network from the original's `model_weights.hdf5`, strictly: every key has its place.

    Reads the file without TensorFlow. The weights tell neither the variables nor the size of a patch exactly.

    Args:
        path: HDF5 file with the weights of the small network.
        channels: variables in the order that the network was trained with.
        grid: of a patch; the original's have 160×160 points.

    Raises:
        CheckpointError: if the file cannot be read, or weights are missing, unknown or misshapen.
    """
    named: dict[str, Tensor] = {}
    for key, values in read_keras(path).items():
        *_, layer, weight = ("", *key.removesuffix(":0").split("/"))
        place = _place(layer)
        if place is None or weight not in _WEIGHTS:
            raise CheckpointError(f"{path} has '{key}', which is no part of the small AtmoDist network")
        named[f"{place}.{_WEIGHTS[weight]}"] = _to_torch(values)
    if "answer.weight" not in named:
        raise CheckpointError(f"{path} lacks the layer 'pred', which tells how many lags there are")
    refuse_not_finite(named, str(path))
    own = tuple(channel if isinstance(channel, Channel) else Channel.parse(channel) for channel in channels)
    with fitting(path):
        network = AtmoDist(Layout(own, (), grid), lags=named["answer.weight"].shape[0])
    # PyTorch counts batches, Keras does not.
    counters = {name: value for name, value in network.state_dict().items() if name.endswith("num_batches_tracked")}
    load_strictly(network, named | counters, str(path))
    return network.eval()


def read_keras(path: str | Path) -> dict[str, NDArray[np.float32]]:
    """Return the arrays of a Keras weight file by their path within it.

    Raises:
        CheckpointError: if it cannot be read.
    """
    arrays: dict[str, NDArray[np.float32]] = {}

    def collect(name: str, item: object) -> None:
        if isinstance(item, h5py.Dataset):
            arrays[name] = np.asarray(item[()], dtype=np.float32)

    try:
        with h5py.File(path) as file:
            weights = file.get("model_weights", file)
            weights.visititems(collect)
    except (OSError, ValueError, AttributeError) as error:
        raise CheckpointError(f"{path} cannot be read as HDF5 ({first_line(error)})") from None
    return arrays


def _place(layer: str) -> str | None:
    """Return the name here of a layer of the original; None if it is not one."""
    block = re.fullmatch(r"block(\d+)_(\d+)_(\w+)", layer)
    if block is None:
        return _LAYERS.get(layer)
    stage, number, part = block.groups()
    inside = _INSIDE_BLOCK.get(part)
    return None if inside is None else f"encoder.stages.{int(stage) - 1}.{int(number) - 1}.{inside}"


def _to_torch(values: NDArray[np.float32]) -> Tensor:
    """Return a kernel with its axes in PyTorch's order: (row, column, in, out) → (out, in, row, column)."""
    order = {4: (3, 2, 0, 1), 2: (1, 0), 1: (0,)}.get(values.ndim)
    if order is None:
        raise CheckpointError(f"a weight of {values.ndim} dimensions is no part of the small AtmoDist network")
    return torch.from_numpy(np.ascontiguousarray(values.transpose(order)))
