"""Keras weights of the original AtmoDist give its features, and only they are taken."""

from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from etesian.cli.main import main
from etesian.core import Channel, Fields, Frame, Grid, Layout
from etesian.core.errors import CheckpointError, DataError
from etesian.interop.atmodist import load
from etesian.interop.run import import_weights
from etesian.networks.atmodist import AtmoDist
from etesian.training.checkpoint import load_network

CHANNELS = ("vorticity_850", "divergence_850")
GRID = Grid(np.linspace(-15.75, 15.75, 64), np.arange(64) * 0.5)
PARTS = {"weight": "gamma", "bias": "beta", "running_mean": "moving_mean", "running_var": "moving_variance"}


def keras_name(name: str) -> str:
    """Return the original's name of a weight of ours, written out by hand."""
    *path, part = name.split(".")
    place = ".".join(path)
    if place.startswith("encoder.stages"):
        stage, block, branch, number = path[2:]
        layers = {"branch0": "conv1", "branch1": "bn1", "branch3": "conv2", "branch4": "bn2", "shortcut0": "projection"}
        layer = f"block{int(stage) + 1}_{int(block) + 1}_{layers[branch + number]}"
    else:
        layer = {
            "encoder.stem.0": "in_conv",
            "encoder.stem.1": "in_bn",
            "combine.0": "combined1_conv",
            "combine.1": "combined1_bn",
            "combine.3": "combined2_conv",
            "combine.4": "combined2_bn",
            "answer": "pred",
        }[place]
    folder = "encoder" if place.startswith("encoder") else layer
    weight = PARTS[part] if "bn" in layer else {"weight": "kernel", "bias": "bias"}[part]
    return f"{folder}/{layer}/{weight}:0"


def write(path: Path, network: AtmoDist) -> dict[str, np.ndarray]:
    arrays = {}
    for name, tensor in network.state_dict().items():
        if not name.endswith("num_batches_tracked"):
            values = tensor.numpy()
            arrays[keras_name(name)] = np.moveaxis(values, (0, 1), (-1, -2)) if values.ndim > 1 else values
    save(path, arrays)
    return arrays


def save(path: Path, arrays: dict[str, np.ndarray]) -> None:
    with h5py.File(path, "w") as file:
        for name, values in arrays.items():
            file[f"model_weights/{name}"] = values


def random_network() -> AtmoDist:
    torch.manual_seed(0)
    network = AtmoDist(Layout(tuple(map(Channel.parse, CHANNELS)), (), GRID), lags=7)
    for name, tensor in network.state_dict().items():
        if tensor.is_floating_point():
            tensor.copy_(
                torch.rand_like(tensor) + 0.5 if name.endswith("running_var") else torch.randn_like(tensor) / 9
            )
    return network.eval()


def test_what_keras_would_have_written_comes_back_weight_by_weight(tmp_path: Path) -> None:
    network = random_network()
    write(tmp_path / "weights.hdf5", network)
    found = load(tmp_path / "weights.hdf5", channels=CHANNELS, grid=GRID).state_dict()
    own = {name: t for name, t in network.state_dict().items() if t.is_floating_point()}
    assert all(torch.equal(found[name], tensor) for name, tensor in own.items())


def test_weights_too_many_too_few_or_of_another_shape_are_named(tmp_path: Path) -> None:
    path = tmp_path / "weights.hdf5"
    arrays = write(path, random_network())
    save(path, arrays | {"encoder/block5_1_conv1/kernel:0": np.zeros((3, 3, 1, 1))})
    with pytest.raises(CheckpointError, match=r"encoder.stages.4.0.branch.0.weight is unknown"):
        load(path, channels=CHANNELS, grid=GRID)
    save(path, arrays | {"encoder/extra/kernel:0": np.zeros((3, 3, 1, 1))})
    with pytest.raises(CheckpointError, match="'encoder/extra/kernel:0', which is no part"):
        load(path, channels=CHANNELS, grid=GRID)
    save(path, {name: values for name, values in arrays.items() if "in_bn/gamma" not in name})
    with pytest.raises(CheckpointError, match=r"encoder.stem.1.weight is missing"):
        load(path, channels=CHANNELS, grid=GRID)
    save(path, arrays)
    with pytest.raises(CheckpointError, match=r"encoder.stem.0.weight has shape \(16, 2, 8, 8\), not \(16, 3, 8, 8\)"):
        load(path, channels=(*CHANNELS, "temperature_850"), grid=GRID)


def test_a_file_that_is_no_hdf5_is_refused(tmp_path: Path) -> None:
    (tmp_path / "weights.hdf5").write_text("no weights")
    with pytest.raises(CheckpointError, match="cannot be read as HDF5"):
        load(tmp_path / "weights.hdf5", channels=CHANNELS, grid=GRID)


def test_the_originals_weights_give_its_features_and_probabilities(shared: Path) -> None:
    network = load(shared / "golden/atmodist_small_weights.h5", channels=CHANNELS, grid=GRID)
    with np.load(shared / "golden/atmodist_small.npz") as golden:
        states = torch.from_numpy(np.stack([golden["first"], golden["second"]], 1).transpose(0, 1, 4, 2, 3))
        expected, probabilities = golden["features"].transpose(0, 3, 1, 2), golden["probabilities"]
    frame = Frame(network.layout.inputs, torch.zeros(3, 2, dtype=torch.int64), GRID)
    with torch.no_grad():
        features = network.features(states[:, 0]).numpy()
        found = network(Fields(states, frame)).softmax(1).numpy()
    assert np.abs(features - expected).max() < 1e-5 * np.abs(expected).max()
    assert np.abs(found - probabilities).max() < 1e-4


def test_the_command_imports_a_network_that_loads_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    network = random_network()
    write(tmp_path / "weights.hdf5", network)
    words = ["--grid", "0.5", "--patch", "64", "--variables", *CHANNELS]
    with pytest.raises(SystemExit) as stop:
        main(["import", str(tmp_path / "weights.hdf5"), str(tmp_path / "imported"), *words])
    assert not stop.value.code
    found = load_network(tmp_path / "imported")
    assert isinstance(found, AtmoDist)
    assert found.layout.inputs == tuple(map(Channel.parse, CHANNELS))
    assert found.layout.grid == Grid(np.arange(64) * 0.5 - 15.75, np.arange(64) * 0.5)
    states = torch.randn(1, 2, 64, 64)
    assert torch.equal(found.eval().features(states), network.features(states))
    with pytest.raises(SystemExit):
        main(["import", str(tmp_path / "weights.hdf5"), str(tmp_path / "again")])
    assert "give --grid (degrees) and --variables" in capsys.readouterr().err


def test_weights_that_are_imported_already_are_not_imported_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path / "weights.hdf5", random_network())
    options = {"grid": 0.5, "variables": CHANNELS, "patch": 64}
    assert "has its place" in str(import_weights(tmp_path / "weights.hdf5", tmp_path / "out", **options))
    before = (tmp_path / "out" / "weights.safetensors").stat().st_mtime_ns
    assert import_weights(tmp_path / "weights.hdf5", tmp_path / "out", **options) is None
    assert capsys.readouterr().out == f"{tmp_path / 'out'} is already there\n"
    assert (tmp_path / "out" / "weights.safetensors").stat().st_mtime_ns == before
    with pytest.raises(DataError, match=r"out exists, made with grid = 0\.5 instead of 0\.25; use --overwrite"):
        import_weights(tmp_path / "weights.hdf5", tmp_path / "out", **options | {"grid": 0.25})
