"""Members of fine fields: networks that noise has a say in, alone or against a discriminator, written and scored."""

from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pandas as pd
import pytest
import torch
import xarray as xr
from small_tasks import drawn

import etesian as et
from etesian.core import Batch, Channel, Fields, Frame, Grid, Layout
from etesian.core.errors import RecipeError
from etesian.core.statistics import Statistics
from etesian.downscale.data import SuperResolutionData
from etesian.downscale.run import downscale_to
from etesian.downscale.task import DownscaleTask, SuperResolutionTask
from etesian.nn.noise import NORMALS
from etesian.scores.ensembles import ensemble_crps
from etesian.store.prepare import prepare_dataset
from etesian.store.states import DatasetStates
from etesian.training.checkpoint import SafeCheckpoints, load_task
from etesian.training.members import ALMOST_FAIR

pytestmark = pytest.mark.filterwarnings("ignore")
CHANNELS = (Channel("2m_temperature"), Channel("surface_pressure"))
COARSE, FINE = Grid.equiangular(45), Grid.equiangular(11.25)
LAYOUT = Layout(CHANNELS, CHANNELS, COARSE, target_grid=FINE)
STATISTICS = Statistics(
    CHANNELS, np.array([280.0, 1e5]), np.array([10.0, 1e3]), log1p_mean=np.zeros(2), log1p_std=np.full(2, 0.15)
)
SMALL = {"patch": 4, "dim": 8, "depth": 1, "heads": 2, "dropout": 0, "drop_path": 0}
TASKS: dict[str, Any] = {
    "climax": partial(DownscaleTask, lambda own: et.Downscaler(own, lambda deep: et.ClimaX(deep, **SMALL))),
    "unet": partial(
        DownscaleTask,
        lambda own: et.Downscaler(
            own, lambda deep: et.UNet(deep, leads=(0,), width=8, dropout=0.0, noise=0.0), residual=False
        ),
    ),
    "generator": partial(
        SuperResolutionTask, lambda own: et.SRGenerator(own, width=8, blocks=1, tile=6), consistent=True
    ),
}


def task_of(name: str, layout: Layout = LAYOUT, statistics: Statistics = STATISTICS, **options: Any) -> Any:
    torch.manual_seed(0)
    return TASKS[name](layout=layout, statistics=statistics, **({"members": 2} | options))


def batch_of(samples: int = 3) -> Batch:
    generator = torch.Generator().manual_seed(0)
    time = 86400 * torch.arange(samples)[:, None]

    def fields(grid: Grid) -> Fields:
        scale = torch.tensor([10.0, 1e3])[:, None, None]
        values = torch.randn(samples, 1, 2, *grid.shape, generator=generator) * scale
        return Fields(values + torch.tensor([280.0, 1e5])[:, None, None], Frame(CHANNELS, time, grid))

    return Batch(fields(COARSE), fields(FINE))


@pytest.mark.parametrize("name", TASKS)
def test_members_begin_as_one_field_and_part_when_they_are_trained(name: str) -> None:
    task, batch = task_of(name), batch_of()
    assert batch.targets is not None
    alone = task_of(name, members=None)
    task.load_state_dict(alone.state_dict(), strict=False)
    prepared = task.normalized(batch)
    members = task._ensemble(prepared, 3)
    assert torch.equal(members[0], members[1])
    torch.testing.assert_close(members[0], alone(prepared, batch.targets.frame))

    optimizer = torch.optim.Adam(task.parameters(), lr=3e-3)
    for _ in range(20):
        optimizer.zero_grad()
        task.loss(batch)[0].backward()
        optimizer.step()
    assert task._ensemble(prepared, 3).std(0).mean() > 0.01
    torch.manual_seed(3)
    found = task.loss(batch)[0]
    torch.manual_seed(3)
    normals = torch.randn(6, *task.network.noise_shape(FINE))
    assert normals.shape[-1] == NORMALS
    each = [task(prepared, batch.targets.frame, lambda *_, i=i: normals[3 * i : 3 * i + 3]) for i in range(2)]
    score = ensemble_crps(torch.stack(each), prepared.targets.values, ALMOST_FAIR)
    weight = task.loss_weight(batch.targets.frame).expand_as(score)
    torch.testing.assert_close(found, (score * weight).sum() / weight.sum())


@torch.no_grad()
def test_noise_turns_with_the_globe_and_tiles_change_nothing() -> None:
    network = drawn(task_of("generator")).network
    values, normals = torch.randn(1, 1, 2, *COARSE.shape), torch.randn(1, *network.noise_shape(FINE))
    time = torch.zeros(1, 1, dtype=torch.int64)

    def made(turn: int = 0) -> torch.Tensor:
        given = Fields(values.roll(turn, -1), Frame(CHANNELS, time, COARSE))
        return network(given, Frame(CHANNELS, time, FINE), noise=lambda _: normals.roll(turn, 2))

    torch.testing.assert_close(made(3), made().roll(12, -1), rtol=1e-4, atol=1e-5)
    tiled, network.tile = made(), 1000
    torch.testing.assert_close(tiled, made(), rtol=1e-4, atol=1e-5)


def states(fields: Fields) -> xr.Dataset:
    """Return samples as times of a dataset."""
    values = fields.values[:, 0].numpy()
    axes = {
        "time": pd.to_datetime(fields.frame.time[:, 0].numpy(), unit="s"),
        "latitude": fields.frame.grid.latitude,
        "longitude": fields.frame.grid.longitude,
    }
    units = {"2m_temperature": "K", "surface_pressure": "Pa"}
    return xr.Dataset(
        {c.name: (tuple(axes), values[:, i], {"units": units[c.name]}) for i, c in enumerate(CHANNELS)}, axes
    )


@pytest.mark.parametrize("name", TASKS)
def test_fine_members_are_the_same_however_the_work_is_divided_and_are_scored(name: str, tmp_path: Path) -> None:
    task, batch = drawn(task_of(name)), batch_of()
    assert batch.targets is not None
    given = DatasetStates(states(batch.inputs))

    def write(path: str, **options: Any) -> xr.Dataset:
        downscale_to(task, given, str(tmp_path / path), given.time, source={}, **({"members": 3, "seed": 5} | options))
        return xr.open_zarr(tmp_path / path).load()

    whole = write("whole")
    assert whole.surface_pressure.dims == ("time", "number", "latitude", "longitude")
    assert whole.surface_pressure.std("number").min() > 0
    for size in (1, 4):
        xr.testing.assert_allclose(write(f"by{size}", batch_size=size), whole, rtol=1e-5, atol=1e-2)
    xr.testing.assert_allclose(write("two", members=2), whole.isel(number=slice(0, 2)), rtol=1e-5, atol=1e-2)
    assert not np.allclose(write("other", seed=6).surface_pressure, whole.surface_pressure, rtol=1e-5, atol=1e-2)

    truth = states(batch.targets)
    scores = et.evaluate({"fine": whole}, truth, baselines=[]).isel(lead_time=0, region=0, forecast=0)
    for channel in CHANNELS:
        error = np.abs(whole[channel.name] - truth[channel.name]).mean("number")
        pairs = sum(np.abs(whole[channel.name] - whole[channel.name].shift(number=k)).sum("number") for k in (1, 2))
        crps = (error - pairs / 6).weighted(np.cos(np.deg2rad(truth.latitude)))
        expected = crps.mean(("time", "latitude", "longitude"))
        assert float(scores.crps.sel(channel=str(channel))) == pytest.approx(float(expected), rel=1e-4)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> str:
    rng = np.random.default_rng(0)
    grid = Grid.equiangular(11.25)
    axes = {
        "time": pd.date_range("2001-01-01", periods=16, freq="D"),
        "latitude": grid.latitude,
        "longitude": grid.longitude,
    }
    values = 280 + 10 * rng.standard_normal((16, *grid.shape)).astype("f4")
    path = tmp_path_factory.mktemp("store") / "fine.zarr"
    prepare_dataset(
        xr.Dataset({"2m_temperature": (tuple(axes), values, {"units": "K"})}, axes), path, train_end="2001-01-10"
    )
    return str(path)


def fit(
    store: str, folder: Path, epochs: int, checkpoint: Path | None = None, **options: Any
) -> tuple[SuperResolutionTask, SuperResolutionData]:
    L.seed_everything(0, verbose=False)
    data = SuperResolutionData(
        store, ("2001-01-01", "2001-01-10"), ("2001-01-11", "2001-01-16"), patch_size=(8, 8), batch_size=8
    )
    chosen = {"adversarial": 1e-2, "discriminator_width": 4, "members": 2} | options
    task = SuperResolutionTask(
        lambda given: et.SRGenerator(given, width=4, blocks=1), data.layout, data.statistics,
        optimizer=lambda parameters: torch.optim.Adam(parameters, lr=3e-3), **chosen,
    )  # fmt: skip
    trainer = L.Trainer(
        max_epochs=epochs, accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False,
        enable_checkpointing=False, plugins=[SafeCheckpoints()], use_distributed_sampler=False,
    )  # fmt: skip
    trainer.fit(task, data, ckpt_path=None if checkpoint is None else str(checkpoint))
    trainer.save_checkpoint(folder)
    return task, data


def test_members_are_trained_against_a_discriminator_and_an_interrupted_run_goes_on(store: str, tmp_path: Path) -> None:
    whole, data = fit(store, tmp_path / "whole", 3)
    fit(store, tmp_path / "part", 2)
    resumed, _ = fit(store, tmp_path / "resumed", 3, checkpoint=tmp_path / "part")
    for (name, expected), found in zip(whole.state_dict().items(), resumed.state_dict().values(), strict=True):
        assert torch.equal(expected, found), name
    loaded = load_task(tmp_path / "resumed")
    assert isinstance(loaded, SuperResolutionTask)
    assert loaded.members == 2
    batch = loaded.normalized(next(iter(data.val_dataloader())))
    members = loaded.eval()._ensemble(batch, 2)
    assert torch.equal(members, whole.eval()._ensemble(batch, 2))
    assert members.std(0).mean() > 1e-4


def test_members_begin_with_a_generator_that_had_none(store: str, tmp_path: Path) -> None:
    alone, _ = fit(store, tmp_path / "alone", 1, members=None, adversarial=0.0)
    made, _ = fit(store, tmp_path / "more", 0, start=str(tmp_path / "alone"))
    assert {name for name, how in made.transfer.outcomes.items() if how == "new"} == {
        "noise_enter.convolution.weight", "noise_enter.convolution.bias"
    }  # fmt: skip
    for name, tensor in alone.network.state_dict().items():
        assert torch.equal(made.network.state_dict()[name], tensor)


def test_what_has_no_members_says_what_to_do(tmp_path: Path) -> None:
    given = DatasetStates(states(batch_of().inputs))
    with pytest.raises(RecipeError, match="8 members are asked for, but the run was trained without"):
        downscale_to(task_of("unet", members=None), given, str(tmp_path / "f"), given.time, source={}, members=8)
    with pytest.raises(RecipeError, match="members: 1 cannot differ"):
        task_of("climax", members=1)
    with pytest.raises(RecipeError, match="shrink adds less of what a network gives"):
        DownscaleTask(
            lambda own: et.Downscaler(own, lambda deep: et.ClimaX(deep, **SMALL), shrink=True), LAYOUT, STATISTICS,
            members=2,
        )  # fmt: skip
