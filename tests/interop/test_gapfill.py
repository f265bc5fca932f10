"""The prototype's weights give the prototype's maps."""

import numpy as np
import pytest
import torch
from golden_arrays import GOLDEN, read, weights_of

from etesian.core import Fields, Frame, Grid
from etesian.core.channels import Channel
from etesian.core.errors import CheckpointError
from etesian.interop.gapfill import load

PROTOTYPE = GOLDEN / "sst_prototype.npz"
SST = Channel("sea_surface_temperature")
GRID = Grid(np.arange(16) * 0.25, 5 + np.arange(24) * 0.25)
APRIL = (np.datetime64("2001-04-01", "s") + np.arange(30) * np.timedelta64(86400, "s")).astype(np.int64)


def weights() -> dict[str, np.ndarray]:
    return {key: weight.numpy() for key, weight in weights_of(read(PROTOTYPE)).items()}


def test_maps_are_the_originals_with_its_own_zeros_on_land() -> None:
    network = load(weights(), channel=str(SST), grid=GRID).eval()
    golden = read(PROTOTYPE)
    daily, missing, land, expected = (golden[key] for key in ("daily", "daily_mask", "land", "pred"))
    values, valid = (
        torch.from_numpy(np.nan_to_num(daily))[None, :, None],
        torch.from_numpy(~missing[0, 0])[None, :, None],
    )
    inputs = Fields(values, Frame((SST,), torch.from_numpy(APRIL)[None], GRID), valid)
    with torch.no_grad():
        found = network(inputs, Frame((SST,), torch.from_numpy(APRIL[:1])[None], GRID))[0, 0].numpy()
    error = np.abs(np.where(land, 0, found) - expected).max() / np.abs(expected).max()
    assert error < 2e-6


def test_a_checkpoint_with_a_key_too_many_or_too_few_is_refused() -> None:
    with pytest.raises(CheckpointError, match=r"'decoder\.extra', which is no part of the prototype"):
        load(weights() | {"decoder.extra": np.zeros(1)}, channel=str(SST), grid=GRID)
    fewer = {key: value for key, value in weights().items() if key != "encoder.norm.bias"}
    with pytest.raises(CheckpointError, match=r"embed_norm\.bias is missing"):
        load(fewer, channel=str(SST), grid=GRID)
