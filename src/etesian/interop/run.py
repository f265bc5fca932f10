"""Other projects' weights → a network of this library, on disk."""

import json
from collections.abc import Sequence
from pathlib import Path

import h5py
import numpy as np
from safetensors.torch import save_file

from etesian.core.errors import RecipeError
from etesian.core.grid import Grid
from etesian.core.outputs import claim, complete_or_absent
from etesian.core.resumable import is_finished, plan_text
from etesian.interop import atmodist, climax
from etesian.networks.network import Network
from etesian.store.prepare import identity


def import_weights(
    path: str | Path,
    out: str | Path,
    *,
    num_heads: int = 16,
    grid: float | str | None = None,
    variables: Sequence[str] | None = None,
    patch: int = 160,
    overwrite: bool = False,
) -> object:
    """Turn a checkpoint of the original ClimaX or AtmoDist into a network of this library.

    Of ClimaX it says what became of each key; AtmoDist's Keras weights, an HDF5 file, fit as a whole or are refused.

    Args:
        path: `5.625deg.ckpt`, `1.40625deg.ckpt`, another of ClimaX's files, or AtmoDist's `model_weights.hdf5`.
        out: folder to write `weights.safetensors` and `network.json` into.
        num_heads: ClimaX's attention heads, which the weights do not tell; 16 for the released checkpoints.
        grid: resolution in degrees; by default the global grid that the weights fit; AtmoDist needs it.
        variables: in the order of the weights; by default the 48 of the released checkpoints; AtmoDist needs them.
        patch: rows and columns of AtmoDist's patches.
        overwrite: replace a network that is there already, of other weights or made otherwise.

    Returns:
        What became of the weights, to be printed; None where the network is there already.

    Raises:
        CheckpointError: if the file cannot be read without running code, or keys do not fit.
        DataError: if something else is in the folder.
    """
    weights = identity([str(path)])
    plan = {"weights": weights, "num_heads": num_heads, "grid": grid, "variables": variables, "patch": patch}
    if is_finished(claim(out, "network", [path], overwrite=overwrite), plan, overwrite=overwrite):
        return None
    network: Network
    names = None if variables is None else list(variables)
    if Path(path).is_file() and h5py.is_hdf5(path):
        if grid is None or not names:
            raise RecipeError("AtmoDist's weights tell neither; give --grid (degrees) and --variables, in their order")
        degrees = _degrees(grid) * np.arange(patch)
        network = atmodist.load(path, channels=names, grid=Grid(degrees - degrees.mean(), degrees))
        report: object = f"every weight of {path} has its place"
    else:
        equiangular = None if grid is None else Grid.equiangular(_degrees(grid))
        network, report = climax.load(path, num_heads=num_heads, grid=equiangular, variables=names)
    with complete_or_absent(out, "network", plan=plan_text(plan)) as folder:
        tensors = {name: tensor.contiguous() for name, tensor in network.state_dict().items()}
        save_file(tensors, folder / "weights.safetensors")
        (folder / "network.json").write_text(json.dumps(network.describe(), indent=1))
    return report


def _degrees(text: float | str) -> float:
    try:
        degrees = float(text)
    except ValueError:
        degrees = 0.0
    if not 0 < degrees <= 90:
        raise RecipeError(f"grid is a resolution in degrees, such as 5.625, not '{text}'")
    return degrees
