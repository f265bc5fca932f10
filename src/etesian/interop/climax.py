"""Reading checkpoints of the original ClimaX (github.com/microsoft/ClimaX, arXiv 2301.10343)."""

import re
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from etesian.core.channels import Channel, canonical_name
from etesian.core.errors import CheckpointError, EtesianError, first_line, suggest
from etesian.core.fields import Layout
from etesian.core.grid import Grid
from etesian.networks.climax import ClimaX
from etesian.nn.tokens import interpolate_position, patch_counts
from etesian.training.checkpoint import refuse_not_finite

_STATICS = ("land_sea_mask", "orography", "latitude_field")

_SURFACE = ("2m_temperature", "10m_u_component_of_wind", "10m_v_component_of_wind")

_UPPER_AIR = (
    "geopotential",
    "u_component_of_wind",
    "v_component_of_wind",
    "temperature",
    "relative_humidity",
    "specific_humidity",
)

_LEVELS = (50, 250, 500, 600, 700, 850, 925)

ORIGINAL_VARIABLES: tuple[Channel, ...] = (
    *(Channel(name) for name in (*_STATICS, *_SURFACE)),
    *(Channel(name, level) for name in _UPPER_AIR for level in _LEVELS),
)
"""The 48 variables of the released checkpoints, in their order."""

_PROJECTION = re.compile(r"time_(pos_embed|query|agg)\b.*")

_RENAMED = {
    "var_query": "aggregation.query",
    "var_embed": "aggregation.variable_embed",
    "var_agg.in_proj_weight": "aggregation.in_proj_weight",
    "var_agg.in_proj_bias": "aggregation.in_proj_bias",
    "var_agg.out_proj.weight": "aggregation.out_proj.weight",
    "var_agg.out_proj.bias": "aggregation.out_proj.bias",
    "pos_embed": "position",
    "lead_time_embed.weight": "lead_time.weight",
    "lead_time_embed.bias": "lead_time.bias",
}

_INSIDE_BLOCK = {
    "attn.qkv": "attention.qkv",
    "attn.proj": "attention.out",
    "mlp.fc1": "mlp.expand",
    "mlp.fc2": "mlp.contract",
    "norm1": "norm1",
    "norm2": "norm2",
}


@dataclass(frozen=True)
class Report:
    """What became of every key of a checkpoint.

    Attributes:
        keys: original key → what was done with it.
    """

    keys: Mapping[str, str]

    def __str__(self) -> str:
        families: dict[tuple[str, ...], list[tuple[str, str]]] = {}
        for pair in self.keys.items():
            families.setdefault(tuple(re.sub(r"\d+", "#", text) for text in pair), []).append(pair)
        lines = [[_ranged(texts) for texts in zip(*pairs, strict=True)] for pairs in families.values()]
        width = max(len(key) for key, _ in lines)
        return "\n".join(f"{key:<{width}}  {outcome}" for key, outcome in lines)


def _ranged(texts: Sequence[str]) -> str:
    """Write texts that differ in their numbers as one: `blocks.0…7.norm1.weight`."""
    first, last = (re.split(r"(\d+)", text) for text in (texts[0], texts[-1]))
    return "".join(a if a == b else f"{a}…{b}" for a, b in zip(first, last, strict=True))


def load(
    source: str | Path | Mapping[str, Any],
    *,
    num_heads: int,
    grid: Grid | None = None,
    variables: Sequence[Channel | str] | None = None,
    ignore: Sequence[str] = (),
    dropout: float = 0.1,
    drop_path: float = 0.1,
) -> tuple[ClimaX, Report]:
    """Build the network from a checkpoint of the original, strictly.

    Reads a Lightning `.ckpt`, a saved state dictionary, or a mapping of names to arrays, in every key layout that the
    original has used: with and without `net.`, with `channel_` for `var_`, with one patch embedding per variable or
    all in one tensor. No pickled code is run. Inputs and targets of the network's layout are all its variables, those
    that do not change in time among the statics.

    The original knows no coordinates: its first row of patches is whatever row its data begin with. The data that the
    released checkpoints were trained on begin in the south, as ours do.

    Args:
        source: path of the checkpoint, or its content.
        num_heads: attention heads, which the weights do not tell; 16 for the released checkpoints.
        grid: grid of the network; by default the global equiangular grid that the weights fit. On any other grid than
            that one, whose number of patches differs, the position embedding is interpolated.
        variables: names in the order of the weights; by default the 48 of the released checkpoints.
        ignore: keys that have no place in the network and are to be passed over.
        dropout: share of activations dropped in further training.
        drop_path: share of samples that skip the last block's branches in further training.

    Returns:
        The network, and what became of each key.

    Raises:
        CheckpointError: if the file cannot be read without running code, or keys are missing, unknown or misshapen.
    """
    original = read_tensors(source)
    named = _modern_names(original)
    unknown = [key for key, name in named.items() if name is None and key not in ignore]
    for key in ignore:
        if key not in original:
            raise CheckpointError(f"there is no key '{key}' to ignore{suggest(key, original)}")
        if named[key] is not None:
            raise CheckpointError(f"'{key}' belongs to the network and cannot be ignored")
    if unknown:
        raise CheckpointError(f"the checkpoint has keys that are not ClimaX's: {', '.join(unknown)}; see `ignore`")
    weights = {name: original[key] for key, name in named.items() if name is not None}
    if len(weights) < sum(name is not None for name in named.values()):
        raise CheckpointError("the checkpoint holds a key twice, once under its older name")

    with fitting():
        network, interpolated = _build(weights, num_heads, grid, variables, dropout, drop_path)
        state, outcomes = _translate(weights, network, interpolated)
        network.load_state_dict(state)
    return network, Report(
        {key: "ignored, as asked" if name is None else outcomes[name] for key, name in named.items()},
    )


@contextmanager
def fitting(source: str | Path = "the checkpoint") -> Iterator[None]:
    """Say in one sentence that weights have other shapes than a network of their family can have.

    Raises:
        CheckpointError: for whatever goes wrong inside.
    """
    try:
        yield
    except EtesianError:
        raise
    except Exception as error:
        raise CheckpointError(f"{source} has weights that make no network of its kind ({first_line(error)})") from error


def read_tensors(source: str | Path | Mapping[str, Any]) -> dict[str, Tensor]:
    """Return the tensors of a checkpoint by original key.

    Raises:
        CheckpointError: if it cannot be read without running code, or holds anything but finite numbers.
    """
    content: Any = source
    name = "the checkpoint"
    if isinstance(source, str | Path):
        name = str(source)
        content = _content(Path(source))
    if isinstance(content, Mapping) and isinstance(content.get("state_dict"), Mapping):
        content = content["state_dict"]
    if not isinstance(content, Mapping) or not content:
        raise CheckpointError(f"{name} holds no state dictionary")
    for key, value in content.items():
        if not isinstance(value, Tensor | np.ndarray | int | float):
            kind = "text" if isinstance(value, str) else f"a {type(value).__name__}"
            raise CheckpointError(f"{name} cannot be read as tensors alone: '{key}' is {kind}; download it again")
    tensors = {str(key): torch.as_tensor(value) for key, value in content.items()}
    refuse_not_finite(tensors, name)
    return tensors


def _content(path: Path) -> Any:
    """Return what `torch.save` wrote."""
    if not path.is_file():
        raise CheckpointError(f"there is no checkpoint {path}")
    if path.stat().st_size == 0:
        raise CheckpointError(f"{path} cannot be read as tensors alone (it is empty); download it again")
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        if "Weights only load failed" in str(error) and zipfile.is_zipfile(path):
            remedy = "it holds more than tensors; where you trust it, save its 'state_dict' by itself"
        else:
            remedy = "it is cut short, or no file of torch.save; download it again"
        raise CheckpointError(f"{path} cannot be read as tensors alone: {remedy}") from None


def _modern_names(original: Mapping[str, Tensor]) -> dict[str, str | None]:
    """Map each key to the original's newest name for it, None where it has none."""
    named: dict[str, str | None] = {}
    for key in original:
        name = re.sub(r"^channel_(?=embed|query|agg)", "var_", key.removeprefix("net."))
        if _PROJECTION.fullmatch(name):
            raise CheckpointError(
                f"the checkpoint has '{key}': it is ClimaX's projection variant, not the forecast network; "
                "read it with etesian.interop.climax_projection.load"
            )
        known = (
            name in _RENAMED
            or re.fullmatch(r"(norm|head\.\d+)\.(weight|bias)", name)
            or re.fullmatch(r"token_embeds\.(\d+\.proj\.(weight|bias)|proj_(weights|biases))", name)
            or ((block := re.fullmatch(r"blocks\.\d+\.(.+)\.(weight|bias)", name)) and block[1] in _INSIDE_BLOCK)
        )
        named[key] = name if known else None
    return named


def _build(
    weights: Mapping[str, Tensor],
    num_heads: int,
    grid: Grid | None,
    variables: Sequence[Channel | str] | None,
    dropout: float,
    drop_path: float,
) -> tuple[ClimaX, Grid | None]:
    """Build a network of the weights' sizes; also return the grid to interpolate the positions from, if need be."""
    single = [weights[f"token_embeds.{i}.proj.weight"] for i in range(_count(weights, r"token_embeds\.(\d+)\."))]
    stacked = weights.get("token_embeds.proj_weights")
    if (stacked is None) == (not single):
        raise CheckpointError("the checkpoint needs either token_embeds.0.proj.weight … or token_embeds.proj_weights")
    count = len(single) if stacked is None else stacked.shape[0]
    *_, height, width = single[0].shape if stacked is None else stacked.shape
    *_, patches, dim = _need(weights, "pos_embed").shape
    channels = _channels(variables, count)

    rows = round((patches / 2) ** 0.5)
    natural = None
    if 2 * rows * rows == patches and height == width:
        natural = Grid.equiangular(180 / (rows * height))
    chosen = grid or natural
    if chosen is None:
        raise CheckpointError(f"{patches} patches of {height}×{width} cover no equiangular globe; give the grid")
    fits = -(-chosen.shape[0] // height) * -(-chosen.shape[1] // width) == patches
    if not fits and natural is None:
        raise CheckpointError(f"the checkpoint has {patches} patches of {height}×{width}, which do not cover {chosen}")

    statics = tuple(c for c in channels if c.name in _STATICS)
    changing = tuple(c for c in channels if c not in statics)
    network = ClimaX(
        Layout(changing, changing, chosen, statics=statics),
        variables=channels,
        patch=(height, width),
        dim=dim,
        depth=_count(weights, r"blocks\.(\d+)\."),
        heads=num_heads,
        mlp_ratio=_need(weights, "blocks.0.mlp.fc1.weight").shape[0] / dim,
        head_depth=_count(weights, r"head\.(\d+)\.") - 1,
        dropout=dropout,
        drop_path=drop_path,
    )
    return network, None if fits else natural


def _channels(variables: Sequence[Channel | str] | None, count: int) -> tuple[Channel, ...]:
    if variables is None:
        if count != len(ORIGINAL_VARIABLES):
            raise CheckpointError(
                f"the checkpoint has {count} variables, not the usual {len(ORIGINAL_VARIABLES)}; "
                "give their names in order as `variables`"
            )
        return ORIGINAL_VARIABLES
    if len(variables) != count:
        raise CheckpointError(f"the checkpoint has {count} variables, but {len(variables)} are named")
    parsed = [Channel.parse(v) if isinstance(v, str) else v for v in variables]
    return tuple(Channel(canonical_name(c.name) or c.name, c.level) for c in parsed)


def _translate(
    weights: Mapping[str, Tensor], network: ClimaX, interpolate_from: Grid | None
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Turn the original's weights into a state dictionary of the network, and say of each what was done."""
    expected = network.state_dict()
    state: dict[str, Tensor] = {}
    outcomes: dict[str, str] = {}
    misshapen: list[str] = []

    def put(key: str, name: str, value: Tensor, like: Tensor) -> Tensor:
        outcomes[key] = f"loaded as {name}" + ("" if value.shape == like.shape else ", reshaped")
        if value.numel() != like.numel():
            misshapen.append(f"{key} {tuple(value.shape)}")
            return like
        return value.reshape(like.shape)

    for key, value in weights.items():
        if key.startswith("token_embeds."):
            continue
        name = _renamed(key, len(network.head))
        if name not in expected:
            raise CheckpointError(f"the checkpoint has keys that are not ClimaX's: {key}")
        if key == "pos_embed" and interpolate_from is not None:
            rows, columns = patch_counts(interpolate_from.shape, network.patch)
            position = value.reshape(rows, columns, -1).float()
            state[name] = interpolate_position(
                position, interpolate_from, network.layout.grid, network.patch, network.patch
            )
            outcomes[key] = f"interpolated from {interpolate_from} into {name}"
        else:
            state[name] = put(key, name, value, expected[name])
    for kind, stacked_key in (("weight", "proj_weights"), ("bias", "proj_biases")):
        name = f"aggregation.token_{kind}"
        stacked = f"token_embeds.{stacked_key}"
        if stacked in weights:
            state[name] = put(stacked, name, weights[stacked], expected[name])
            continue
        keys = [f"token_embeds.{i}.proj.{kind}" for i in range(len(network.variables))]
        if all(key in weights for key in keys):
            state[name] = torch.stack(
                [put(key, f"{name}[{i}]", weights[key], expected[name][i]) for i, key in enumerate(keys)]
            )
    missing = [name for name in expected if name not in state]
    if missing:
        raise CheckpointError(f"the checkpoint lacks the weights for {', '.join(missing)}")
    if misshapen:
        raise CheckpointError(f"the checkpoint has weights of the wrong shape: {', '.join(misshapen)}")
    return state, outcomes


def rename_shared(key: str) -> str | None:
    """Return our name for one of the original's newest names of what all its variants share; None for any other."""
    if key in _RENAMED:
        return _RENAMED[key]
    block = re.fullmatch(r"(blocks\.\d+)\.(.+)\.(weight|bias)", key)
    if block and block[2] in _INSIDE_BLOCK:
        return f"{block[1]}.{_INSIDE_BLOCK[block[2]]}.{block[3]}"
    return key if re.fullmatch(r"norm\.(weight|bias)", key) else None


def _renamed(key: str, last_of_head: int) -> str:
    """Return our name for one of the original's newest names."""
    return rename_shared(key) or re.sub(rf"^head\.{last_of_head}\.", "to_pixels.", key)


def _count(weights: Mapping[str, Tensor], pattern: str) -> int:
    """Return how many numbers a family of keys runs through."""
    return len({match[1] for key in weights if (match := re.match(pattern, key))})


def _need(weights: Mapping[str, Tensor], key: str) -> Tensor:
    if key not in weights:
        raise CheckpointError(f"the checkpoint lacks '{key}'")
    return weights[key]
