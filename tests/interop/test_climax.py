"""Agreement with the original ClimaX, and what is said of checkpoints that do not fit."""

from collections.abc import Mapping
from pathlib import Path

import golden_arrays
import numpy as np
import pytest
import torch
from golden_arrays import GOLDEN, Arrays, weights_of
from torch import Tensor

from etesian.core import Channel, Fields, Frame, Grid
from etesian.core.errors import CheckpointError
from etesian.interop.climax import ORIGINAL_VARIABLES, load
from etesian.networks.climax import ClimaX

# Outputs of the original with random weights and a width of 16; `shared` has those of a width of 48.


@pytest.fixture(params=["narrow", "wide"])
def folder(request: pytest.FixtureRequest) -> Path:
    return GOLDEN if request.param == "narrow" else Path(request.getfixturevalue("shared")) / "golden"


def arrays_of(folder: Path) -> Arrays:
    return golden_arrays.read(folder / "climax_global.npz")


@pytest.fixture(scope="module")
def golden() -> Arrays:
    return arrays_of(GOLDEN)


@pytest.fixture(scope="module")
def weights(golden: Arrays) -> dict[str, Tensor]:
    return weights_of(golden)


def channels(names: np.ndarray) -> tuple[Channel, ...]:
    return tuple(Channel.parse(str(name)) for name in names)


def read(weights: Mapping[str, Tensor], golden: Arrays) -> ClimaX:
    variables = [str(name) for name in golden["default_variables"]]
    # The golden rows run from south to north, as `lat` says, so they are fed as they are.
    grid = Grid(golden["lat"], golden["lon"])
    return load(weights, num_heads=4, grid=grid, variables=variables)[0].eval()


def predict(network: ClimaX, golden: Arrays, rows: slice = slice(None), columns: slice = slice(None)) -> Tensor:
    grid = Grid(golden["lat"][rows], golden["lon"][columns])
    start = torch.tensor([0, 86400, 10**9])[:, None]
    valid_time = start + torch.from_numpy(golden["lead_time_hours"] * 3600).long()[:, None]
    inputs = Fields(
        torch.from_numpy(golden["x"][:, None, :, rows, columns]),
        Frame(channels(golden["in_variables"]), start, grid),
    )
    return network(inputs, Frame(channels(golden["out_variables"]), valid_time, grid))[:, 0]


def error(ours: Tensor, theirs: np.ndarray | Tensor) -> float:
    reference = torch.as_tensor(theirs).double().reshape(ours.shape)
    return float((ours.detach().double() - reference).norm() / reference.norm())


def test_predictions_are_the_originals(folder: Path) -> None:
    golden = arrays_of(folder)
    assert error(predict(read(weights_of(golden), golden), golden), golden["pred"]) < 1e-5


def test_gradients_of_the_originals_loss_are_the_originals(folder: Path) -> None:
    golden = arrays_of(folder)
    weights = weights_of(golden)
    network = read(weights, golden)
    cosine = np.cos(np.radians(golden["lat"]))
    latitude_weights = torch.from_numpy(cosine / cosine.mean()).float()[:, None]
    loss = ((predict(network, golden) - torch.from_numpy(golden["y"])) ** 2 * latitude_weights).mean()
    loss.backward()
    assert float(loss.detach()) == pytest.approx(float(golden["loss"]), rel=1e-6)

    report = load(weights, num_heads=4, variables=channels(golden["default_variables"]))[1]
    parameters = dict(network.named_parameters())
    gradients = golden_arrays.read(folder / "climax_global_grads.npz")
    theirs = {key.removeprefix("grads/"): gradient for key, gradient in gradients.items()}
    for key, gradient in theirs.items():
        name, _, number = report.keys[key].removeprefix("loaded as ").removesuffix(", reshaped").partition("[")
        ours = parameters[name].grad
        assert ours is not None
        assert error(ours[int(number[:-1])] if number else ours, gradient) < 1e-4, key
    # Variables that were not given have no gradient in the original either.
    unused = parameters["aggregation.token_weight"].grad
    assert unused is not None
    assert unused[[0, 2, 7]].abs().max() == 0


@pytest.mark.parametrize("region", ["Australia", "NorthAmerica"])
def test_a_region_uses_its_own_patches_and_positions(folder: Path, region: str) -> None:
    golden = arrays_of(folder)
    with np.load(folder / f"climax_regional_{region}.npz") as data:
        rows, columns = (slice(int(first), int(last) + 1) for first, last in (data["rows"], data["cols"]))
        ours = predict(read(weights_of(golden), golden), golden, rows, columns)
        assert error(ours, data["pred"]) < 1e-5


def test_every_layout_of_keys_gives_the_same_network(
    golden: Arrays, weights: dict[str, Tensor], tmp_path: Path
) -> None:
    expected = read(weights, golden).state_dict()
    older = {key.replace("var_", "channel_"): value for key, value in weights.items()}
    bare = {key.removeprefix("net."): value for key, value in weights.items()}
    stacked = {key: value for key, value in weights.items() if "token_embeds" not in key}
    for kind, name in (("weight", "proj_weights"), ("bias", "proj_biases")):
        stacked[f"net.token_embeds.{name}"] = torch.stack(
            [weights[f"net.token_embeds.{i}.proj.{kind}"] for i in range(8)]
        )
    torch.save({"state_dict": weights, "epoch": 3}, tmp_path / "lightning.ckpt")
    for source in (older, bare, stacked, tmp_path / "lightning.ckpt"):
        network, report = load(source, num_heads=4, variables=channels(golden["default_variables"]))
        state = network.state_dict()
        assert state.keys() == expected.keys()
        assert all(torch.equal(state[name], value) for name, value in expected.items())
        assert all(outcome.startswith("loaded as ") for outcome in report.keys.values())


def test_the_original_file_with_older_names_is_read(shared: Path) -> None:
    golden = arrays_of(shared / "golden")
    with np.load(shared / "golden" / "climax_channel_names.npz") as data:
        older = {key.removeprefix("weights/"): data[key] for key in data if key.startswith("weights/")}
    network, report = load(older, num_heads=4, variables=channels(golden["default_variables"]))
    assert report.keys["net.channel_query"] == "loaded as aggregation.query, reshaped"
    assert torch.equal(network.aggregation.query, read(weights_of(golden), golden).aggregation.query)


def test_grid_and_sizes_follow_from_the_weights(golden: Arrays, weights: dict[str, Tensor]) -> None:
    network, _ = load(weights, num_heads=4, variables=channels(golden["default_variables"]))
    assert network.layout.grid == Grid.equiangular(11.25)
    assert (network.patch, len(network.blocks), len(network.head) // 2) == ((2, 2), 2, 2)
    assert [str(c) for c in network.layout.statics] == ["land_sea_mask", "orography", "latitude_field"]


def test_positions_are_interpolated_to_another_grid_and_that_is_reported(
    golden: Arrays, weights: dict[str, Tensor]
) -> None:
    fine = Grid.equiangular(5.625)
    network, report = load(weights, num_heads=4, grid=fine, variables=channels(golden["default_variables"]))
    assert network.position.shape == (16, 32, 16)
    assert report.keys["net.pos_embed"].startswith("interpolated from 16×32")


def test_the_released_checkpoints_have_48_variables() -> None:
    assert len(ORIGINAL_VARIABLES) == len(set(ORIGINAL_VARIABLES)) == 48
    assert [str(ORIGINAL_VARIABLES[i]) for i in (0, 2, 3, 6, 13, 47)] == [
        "land_sea_mask",
        "latitude_field",
        "2m_temperature",
        "geopotential_50",
        "u_component_of_wind_50",
        "specific_humidity_925",
    ]


def test_nothing_is_dropped_silently(golden: Arrays, weights: dict[str, Tensor]) -> None:
    names = channels(golden["default_variables"])
    extra = weights | {"net.mask_token": torch.zeros(1)}
    with pytest.raises(CheckpointError, match=r"keys that are not ClimaX's: net\.mask_token"):
        load(extra, num_heads=4, variables=names)
    _, report = load(extra, num_heads=4, variables=names, ignore=["net.mask_token"])
    assert report.keys.keys() == extra.keys()
    assert "net.mask_token" in str(report)
    assert report.keys["net.mask_token"] == "ignored, as asked"
    with pytest.raises(CheckpointError, match=r"no key 'net\.mask_tokn' to ignore; did you mean"):
        load(extra, num_heads=4, variables=names, ignore=["net.mask_tokn"])
    with pytest.raises(CheckpointError, match="belongs to the network"):
        load(weights, num_heads=4, variables=names, ignore=["net.norm.weight"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"net.norm.weight": None}, r"lacks the weights for norm\.weight"),
        ({"net.token_embeds.3.proj.bias": None}, r"lacks the weights for aggregation\.token_bias"),
        ({"net.pos_embed": None}, "lacks 'pos_embed'"),
        ({"net.norm.weight": torch.zeros(15)}, r"wrong shape: norm\.weight \(15,\)"),
        ({"net.time_pos_embed": torch.zeros(1, 10, 16)}, "projection variant"),
        ({"net.channel_query": torch.zeros(1, 1, 16)}, "twice"),
        ({"net.blocks.0.gamma.weight": torch.zeros(1)}, r"not ClimaX's: net\.blocks\.0\.gamma"),
    ],
)
def test_a_checkpoint_that_does_not_fit_is_refused(
    golden: Arrays, weights: dict[str, Tensor], change: dict[str, Tensor | None], message: str
) -> None:
    changed = {key: value for key, value in (weights | change).items() if value is not None}
    with pytest.raises(CheckpointError, match=message):
        load(changed, num_heads=4, variables=channels(golden["default_variables"]))


def test_variables_must_be_named_where_they_are_not_the_usual_ones(weights: dict[str, Tensor]) -> None:
    with pytest.raises(CheckpointError, match="8 variables, not the usual 48"):
        load(weights, num_heads=4)
    with pytest.raises(CheckpointError, match="8 variables, but 1 are named"):
        load(weights, num_heads=4, variables=["2m_temperature"])


class Pickled:
    """Stands for anything but tensors in a checkpoint."""


def test_pickled_code_is_refused(weights: dict[str, Tensor], tmp_path: Path) -> None:
    path = tmp_path / "code.ckpt"
    torch.save({"state_dict": weights, "callback": Pickled()}, path)
    with pytest.raises(CheckpointError, match=r"code\.ckpt cannot be read as tensors alone"):
        load(path, num_heads=4)
    path.write_bytes(b"no checkpoint")
    with pytest.raises(CheckpointError, match=r"code\.ckpt cannot be read"):
        load(path, num_heads=4)
    with pytest.raises(CheckpointError, match="there is no checkpoint"):
        load(tmp_path / "absent.ckpt", num_heads=4)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", r"cannot be read as tensors alone \(it is empty\); download it again"),
        (b"<html>", "cut short, or no file of torch.save; download it again"),
        ({"state_dict": {"net.pos_embed": "words"}}, "'net.pos_embed' is text"),
        ({"net.pos_embed": [torch.ones(2)]}, "'net.pos_embed' is a list"),
        ([torch.ones(2)], "holds no state dictionary"),
        ({"state_dict": {}}, "holds no state dictionary"),
        ({"net.pos_embed": torch.full((1, 2, 3), torch.nan)}, "pos_embed is not finite in 6 of its 6 values"),
    ],
)
def test_what_is_no_checkpoint_is_refused_by_name(content: object, said: str, tmp_path: Path) -> None:
    file = tmp_path / "5.625deg.ckpt"
    if isinstance(content, bytes):
        file.write_bytes(content)
    else:
        torch.save(content, file)
    with pytest.raises(CheckpointError, match=rf"5.625deg.ckpt .*{said}"):
        load(file, num_heads=4)


@pytest.mark.parametrize(
    ("key", "value"),
    [("net.pos_embed", torch.ones(3)), ("net.token_embeds.0.proj.weight", torch.ones(3)), ("net.pos_embed", 1.0)],
)
def test_weights_of_impossible_shapes_are_refused(
    key: str, value: object, weights: dict[str, Tensor], golden: Arrays
) -> None:
    assert key in weights
    changed = weights | {key: value}
    with pytest.raises(CheckpointError, match=r"the checkpoint has weights that make no network of its kind"):
        load(changed, num_heads=4)
