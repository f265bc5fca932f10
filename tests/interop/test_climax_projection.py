"""Agreement with the original ClimaX's climate projection."""

from pathlib import Path

import golden_arrays
import numpy as np
import pytest
import torch
from golden_arrays import GOLDEN, Arrays, weights_of
from torch import Tensor

from etesian.core import Channel, Fields, Frame, Grid
from etesian.core.errors import CheckpointError
from etesian.interop import climax
from etesian.interop.climax_projection import load

# Outputs of the original with random weights and a width of 16; `shared` has those of a width of 48.
GRID = Grid.equiangular(11.25)


def golden(folder: Path) -> Arrays:
    return golden_arrays.read(folder / "climax_projection.npz")


@pytest.fixture(scope="module")
def weights() -> dict[str, Tensor]:
    return weights_of(golden(GOLDEN))


def check_maps(arrays: Arrays) -> None:
    network = load(weights_of(arrays), num_heads=4, target="tas", grid=GRID).eval()
    year = 365 * 86400
    time = (torch.arange(5) * year).expand(len(arrays["x"]), 5)
    channels = tuple(Channel(str(name)) for name in arrays["in_variables"])
    inputs = Fields(torch.from_numpy(arrays["x"]), Frame(channels, time, GRID, "noleap"))
    with torch.no_grad():
        found = network(inputs, Frame((Channel("tas"),), time[:, -1:], GRID, "noleap"))[:, 0].double()
    expected = torch.from_numpy(arrays["pred"]).double()
    assert float((found - expected).norm() / expected.norm()) < 1e-4
    assert len(network.layout.history) == 5


def test_projected_maps_are_those_of_the_original() -> None:
    check_maps(golden(GOLDEN))


def test_projected_maps_of_a_wider_network_are_those_of_the_original(shared: Path) -> None:
    check_maps(golden(shared / "golden"))


def test_the_forecast_reader_points_to_the_reader_of_projections(weights: dict[str, Tensor]) -> None:
    with pytest.raises(CheckpointError, match=r"read it with etesian\.interop\.climax_projection\.load"):
        climax.load(weights, num_heads=4)


def test_every_key_must_have_its_place(weights: dict[str, Tensor]) -> None:
    with pytest.raises(CheckpointError, match="'extra', which is no part"):
        load(weights | {"net.extra": torch.zeros(1)}, num_heads=4, target="tas", grid=GRID)
    fewer = {key: value for key, value in weights.items() if key != "net.norm.bias"}
    with pytest.raises(CheckpointError, match=r"norm\.bias is missing"):
        load(fewer, num_heads=4, target="tas", grid=GRID)
    with pytest.raises(CheckpointError, match="embeds 4 inputs, but 1 are named"):
        load(weights, num_heads=4, target="tas", grid=GRID, variables=["CO2"])
    with pytest.raises(CheckpointError, match=r"head\.weight has 8192 values, not"):
        load(weights, num_heads=4, target="tas", grid=Grid(np.linspace(-75, 75, 8), GRID.longitude))
