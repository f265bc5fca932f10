"""Reading checkpoints of the original ClimaX's climate projection (github.com/microsoft/ClimaX)."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from etesian.core.channels import Channel
from etesian.core.constants import HOURS_PER_YEAR
from etesian.core.errors import CheckpointError
from etesian.core.fields import Layout
from etesian.core.grid import Grid
from etesian.interop.climax import fitting, read_tensors, rename_shared
from etesian.networks.climax_projection import ClimaXProjection

CLIMATEBENCH_INPUTS = ("CO2", "SO2", "CH4", "BC")
"""Inputs in the order of the original's weights."""

_OF_TIME = {
    "time_pos_embed": "time_position",
    "time_query": "time_query",
    "time_agg.in_proj_weight": "time_aggregation.in_proj_weight",
    "time_agg.in_proj_bias": "time_aggregation.in_proj_bias",
    "time_agg.out_proj.weight": "time_aggregation.out_proj.weight",
    "time_agg.out_proj.bias": "time_aggregation.out_proj.bias",
    "head.weight": "head.weight",
    "head.bias": "head.bias",
}


def load(
    source: str | Path | Mapping[str, Any],
    *,
    num_heads: int,
    target: str,
    grid: Grid,
    variables: Sequence[str] = CLIMATEBENCH_INPUTS,
    dropout: float = 0.1,
    drop_path: float = 0.1,
) -> ClimaXProjection:
    """Build the projection network from a checkpoint of the original, strictly: every key has its place.

    Args:
        source: path of the checkpoint, or its content.
        num_heads: attention heads, which the weights do not tell.
        target: what it predicts, such as `tas`.
        grid: of inputs and maps; the original knows no coordinates, its first row is the data's.
        variables: inputs in the order of the weights.
        dropout: share of activations dropped in further training.
        drop_path: share of samples that skip the last block's branches in further training.

    Raises:
        CheckpointError: if the file cannot be read without running code, or keys are missing, unknown or misshapen.
    """
    original = {key.removeprefix("net."): value for key, value in read_tensors(source).items()}
    named: dict[str, Any] = {}
    embedding: dict[str, dict[int, Any]] = {"weight": {}, "bias": {}}
    for key, value in original.items():
        if single := re.fullmatch(r"token_embeds\.(\d+)\.proj\.(weight|bias)", key):
            embedding[single[2]][int(single[1])] = value
        elif name := _OF_TIME.get(key) or rename_shared(key):
            named[name] = value
        else:
            raise CheckpointError(f"the checkpoint has '{key}', which is no part of ClimaX's projection network")
    for kind, parts in embedding.items():
        if sorted(parts) != list(range(len(variables))):
            raise CheckpointError(
                f"the checkpoint embeds {len(parts)} inputs, but {len(variables)} are named; give their names in order"
            )
        for number, value in parts.items():
            named[f"aggregation.token_{kind}.{number}"] = value
    needed = {"aggregation.query", "time_position", "blocks.0.mlp.expand.weight"} - named.keys()
    if needed:
        raise CheckpointError(f"the checkpoint lacks the weights for {needed.pop()}; it is no projection network")
    with fitting():
        dim, years = named["aggregation.query"].numel(), named["time_position"].shape[-2]
        network = ClimaXProjection(
            Layout(
                tuple(Channel(name) for name in variables),
                (Channel(target),),
                grid,
                history=tuple(-HOURS_PER_YEAR * age for age in reversed(range(years))),
            ),
            patch=tuple(embedding["weight"][0].shape[-2:]),
            dim=dim,
            depth=len({key.split(".")[1] for key in named if key.startswith("blocks.")}),
            heads=num_heads,
            mlp_ratio=named["blocks.0.mlp.expand.weight"].shape[0] / dim,
            dropout=dropout,
            drop_path=drop_path,
        )
        return _filled(network, named, len(variables))


def _filled(network: ClimaXProjection, named: dict[str, Any], inputs: int) -> ClimaXProjection:
    """Copy weights into the network, saying what is missing, left over or misshapen."""
    expected = network.state_dict()
    positions = {name: value for name, value in expected.items() if not name.startswith("aggregation.token_")}
    for kind in ("weight", "bias"):
        for number in range(inputs):
            positions[f"aggregation.token_{kind}.{number}"] = expected[f"aggregation.token_{kind}"][number]
    faults = [f"{name} is missing" for name in positions.keys() - named.keys()]
    faults += [f"{name} is unknown" for name in named.keys() - positions.keys()]
    faults += [
        f"{name} has {named[name].numel()} values, not {positions[name].numel()}"
        for name in positions.keys() & named.keys()
        if named[name].numel() != positions[name].numel()
    ]
    if faults:
        raise CheckpointError(f"the checkpoint does not fit the network: {'; '.join(sorted(faults))}")
    for name, place in positions.items():
        place.copy_(named[name].reshape(place.shape))
    return network
