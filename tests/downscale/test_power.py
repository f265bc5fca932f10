"""Whole globes keep no more power of any scale than true fields had."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import xarray as xr

import etesian as et
from etesian.core import Channel, Fields, Frame, Grid
from etesian.core.errors import RecipeError
from etesian.core.sphere import power, spherical_harmonics
from etesian.downscale.power import PowerLimit

GRID = Grid.equiangular(11.25)
CHANNELS = (Channel("vorticity", 850), Channel("divergence", 850))


def smooth(count: int, truncation: int, seed: int = 0) -> np.ndarray:
    """Return random fields of two channels with equal power at all total wavenumbers up to one."""
    random = np.random.default_rng(seed)
    shape = (count, 1, 2, truncation + 1, truncation + 1)
    coefficients = np.tril(random.standard_normal(shape) + 1j * random.standard_normal(shape))
    coefficients[..., 0] = coefficients[..., 0].real
    coefficients /= np.sqrt(power(coefficients))[..., None]
    return spherical_harmonics(GRID, truncation).synthesise(coefficients)


def fields(values: np.ndarray, channels: tuple[Channel, ...] = CHANNELS) -> Fields:
    time = torch.zeros(len(values), 1, dtype=torch.int64)
    return Fields(torch.from_numpy(values), Frame(channels, time, GRID))


def powers(values: Any) -> np.ndarray:
    return power(spherical_harmonics(GRID).analyse(np.asarray(values)))


def test_power_beyond_the_most_of_truth_is_taken_and_phases_stay() -> None:
    limit = PowerLimit(CHANNELS, GRID)
    truth = smooth(3, 7)
    limit.fit([fields(truth[:2]), fields(2 * truth[2:])])
    np.testing.assert_allclose(limit.most[:, :8], 4, rtol=1e-6)
    assert limit.most[:, 8:16].max() < 1e-20
    given = 3 * smooth(2, 15, seed=1)
    np.testing.assert_allclose(powers(given)[..., :16], 9)
    kept = limit(fields(given)).values
    np.testing.assert_allclose(powers(kept)[..., :8], 4, rtol=1e-6)
    assert powers(kept)[..., 8:].max() < 1e-20
    below = spherical_harmonics(GRID, 7)
    np.testing.assert_allclose(kept, 2 / 3 * below.synthesise(below.analyse(given)), atol=1e-6)


def test_fields_within_the_limit_and_wavenumbers_beyond_those_known_stay() -> None:
    limit = PowerLimit(CHANNELS, GRID)
    limit.fit([fields(smooth(1, 15))])
    given = fields(0.9 * smooth(2, 15, seed=1))
    assert torch.equal(limit(given).values, given.values)
    limit.most = limit.most[:, :4]
    rough = 2 * smooth(1, 7)
    np.testing.assert_allclose(powers(limit(fields(rough)).values)[0, 0, :, :8], [[1.0] * 4 + [4.0] * 4] * 2, rtol=1e-6)


def test_each_channel_has_its_own_limit() -> None:
    limit = PowerLimit(CHANNELS, GRID)
    truth = smooth(1, 7) * np.array([1.0, 3.0])[:, None, None]
    limit.fit([fields(truth)])
    turned = fields(5 * truth[:, :, ::-1].copy(), CHANNELS[::-1])
    np.testing.assert_allclose(powers(limit(turned).values)[0, 0, :, 1], [9, 1])
    alone = limit(turned.select(CHANNELS[:1]))
    np.testing.assert_allclose(powers(alone.values)[0, 0, :, 1], [1])


def days(longitudes: slice = slice(None)) -> xr.Dataset:
    axes = {"time": pd.date_range("2001-01-01", periods=40), "level": [850], "latitude": GRID.latitude}
    axes["longitude"] = GRID.longitude
    values = 1e-5 * smooth(40, 5).astype("f4")
    held = {channel.name: (tuple(axes), values[:, :, i]) for i, channel in enumerate(CHANNELS)}
    found = xr.Dataset(held, axes).isel(longitude=longitudes)
    for name in found.data_vars:
        found[name].attrs["units"] = "s**-1"
    return found


def recipe(store: str) -> dict[str, Any]:
    network = {"class_path": "etesian.SRGenerator", "init_args": {"width": 4, "blocks": 1}}
    periods = {"train": ["2001-01-01", "2001-01-31"], "validate": ["2001-02-01", "2001-02-09"]}
    data = {"store": store, "factor": 2, "patch_size": [8, 8], "patches": 1, "batch_size": 8, **periods}
    return {
        "data": {"class_path": "etesian.SuperResolutionData", "init_args": data},
        "model": {"class_path": "etesian.SuperResolutionTask", "init_args": {"network": network, "limit_power": True}},
        "trainer": {"accelerator": "cpu", "max_epochs": 1, "enable_model_summary": False, "logger": False},
    }


def test_a_run_gives_no_scale_more_power_than_its_training_days_and_keeps_the_limit(tmp_path: Path) -> None:
    store = et.prepare(days(), tmp_path / "fine.zarr", train=("2001-01-01", "2001-01-31"))
    coarse = et.prepare(days(), tmp_path / "coarse.zarr", train=("2001-01-01", "2001-01-31"), coarsen=2)
    made = et.fit(recipe(str(store.path)), run=tmp_path / "run")
    run = et.load(tmp_path / "run")
    assert torch.equal(run.task.limit.most, made.task.limit.most)
    np.testing.assert_allclose(run.task.limit.most[:, :6], powers(store.read(range(31))).max(0)[:, :6], rtol=1e-5)
    free = et.load(tmp_path / "run")
    free.task.limit = None
    found = {}
    for name, each in (("kept", run), ("free", free)):
        fine = each.downscale(coarse, ("2001-02-01", "2001-02-09"), grid=store.path).load()
        found[name] = powers([fine[channel.name].values[:, 0] for channel in CHANNELS]).max(1)
    assert (found["free"][:, 6:12] > 1e-14).all()
    assert (found["kept"] <= run.task.limit.most.numpy()[:, :16] * 1.001 + 1e-19).all()


def test_a_region_has_no_such_limit(tmp_path: Path) -> None:
    store = et.prepare(days(slice(16)), tmp_path / "part.zarr", train=("2001-01-01", "2001-01-31"))
    refused = r"^limit_power: spherical harmonics need a globe .*; or set limit_power: false$"
    with pytest.raises(RecipeError, match=refused):
        et.fit(recipe(str(store.path)), run=tmp_path / "run")
    holes = days()
    holes["vorticity"][:, :, 2, 3] = np.nan
    store = et.prepare(holes, tmp_path / "holes.zarr", train=("2001-01-01", "2001-01-31"))
    with pytest.raises(RecipeError, match=r"^limit_power: .* values are missing; .*; or set limit_power: false$"):
        et.fit(recipe(str(store.path)), run=tmp_path / "run")
