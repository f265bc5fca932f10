"""Arrays that the original systems gave, from plain `.npz` files or from smaller ones that hold all of them in one."""

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

GOLDEN = Path(__file__).parent / "golden"

Arrays = Mapping[str, np.ndarray]


def read(path: Path) -> Arrays:
    """Return arrays by name; those of single precision may lie in `packed`, byte by byte, behind one another."""
    with np.load(path) as data:
        arrays = dict(data)
    if "packed" in arrays:
        values = np.ascontiguousarray(arrays.pop("packed").T).view(np.float32).ravel()
        for name, shape in json.loads(str(arrays.pop("shapes"))).items():
            arrays[name], values = np.split(values, [int(np.prod(shape))])
            arrays[name] = arrays[name].reshape(shape)
    return arrays


def weights_of(arrays: Arrays) -> dict[str, Tensor]:
    """Return the weights among arrays by the names that they have in the original."""
    return {
        name.removeprefix("weights/"): torch.from_numpy(array)
        for name, array in arrays.items()
        if name.startswith("weights/")
    }
