"""Super-resolution learns from block means, keeps them where asked, and resumes with both optimisers."""

from pathlib import Path

import lightning as L
import numpy as np
import pandas as pd
import pytest
import torch
import xarray as xr

from etesian.core import Batch, Channel, Fields, Frame, Grid, Layout
from etesian.core.errors import CheckpointError, GridError, RecipeError
from etesian.core.statistics import Statistics
from etesian.distance.distance import AtmoDistance, Content
from etesian.downscale.data import SuperResolutionData
from etesian.downscale.task import SuperResolutionTask, with_block_means
from etesian.networks.atmodist import AtmoDist
from etesian.networks.srgan import SRGenerator
from etesian.nn.normalizer import Normalizer
from etesian.store.prepare import prepare_dataset
from etesian.training.checkpoint import SafeCheckpoints, load_task

CHANNELS = (Channel("vorticity", 500), Channel("divergence", 500))
COARSE, FINE = Grid(np.arange(4) * 4.0 + 1.5, np.arange(4) * 4.0 + 1.5), Grid(np.arange(16) * 1.0, np.arange(16) * 1.0)
STATISTICS = Statistics(
    CHANNELS,
    np.array([1e-5, 0.0]),
    np.array([4e-5, 1e-5]),
    log1p_mean=np.array([0.01, 0.0]),
    log1p_std=np.array([0.15, 0.14]),
)


def make_task(**options: object) -> SuperResolutionTask:
    torch.manual_seed(0)
    layout = Layout(CHANNELS, CHANNELS, COARSE, target_grid=FINE)
    return SuperResolutionTask(lambda given: SRGenerator(given, width=8, blocks=1), layout, STATISTICS, **options)


def batch_of(count: int = 3) -> Batch:
    generator = torch.Generator().manual_seed(1)
    fine = 3e-5 * torch.randn(count, 1, 2, 16, 16, generator=generator)
    time = torch.zeros(count, 1, dtype=torch.int64)
    coarse = fine.reshape(count, 1, 2, 4, 4, 4, 4).mean(dim=(4, 6))
    return Batch(Fields(coarse, Frame(CHANNELS, time, COARSE)), Fields(fine, Frame(CHANNELS, time, FINE)))


def block_means(values: torch.Tensor) -> torch.Tensor:
    return values.double().reshape(*values.shape[:-2], 4, 4, 4, 4).mean(dim=(-3, -1))


def test_the_block_means_of_a_consistent_output_are_the_input() -> None:
    batch = batch_of()
    assert batch.targets is not None
    free, kept = (make_task(consistent=flag).eval().predict(batch, batch.targets.frame) for flag in (False, True))
    scale = batch.inputs.values.abs().max()
    assert ((block_means(free.values) - batch.inputs.values) / scale).abs().max() > 0.05
    assert ((block_means(kept.values) - batch.inputs.values) / scale).abs().max() < 1e-6


def test_block_means_are_the_input_on_the_way_to_disk_too() -> None:
    task, batch = make_task(consistent=True).eval(), batch_of()
    (written,) = task.forecast(batch, (0,))
    means = written.values.reshape(*written.values.shape[:3], 4, 4, 4, 4).mean(dim=(-3, -1))
    torch.testing.assert_close(means, batch.inputs.values, rtol=1e-4, atol=1e-9)


def test_a_consistent_loss_sees_the_corrected_fields() -> None:
    batch = batch_of()
    assert batch.targets is not None
    task = make_task(consistent=True).eval()
    predicted = task.predict(batch, batch.targets.frame)
    normalized = [task.normalizer.normalize(fields).values for fields in (predicted, batch.targets)]
    expected = (normalized[0] - normalized[1]).square().mean()
    torch.testing.assert_close(task.loss(batch)[0].detach(), expected, rtol=1e-4, atol=1e-6)


def test_adding_block_means_changes_nothing_that_has_them() -> None:
    batch = batch_of()
    assert batch.targets is not None
    again = with_block_means(batch.targets, batch.inputs)
    torch.testing.assert_close(again.values, batch.targets.values, rtol=1e-5, atol=1e-11)


def test_block_means_are_those_of_the_network_in_physical_units_not_of_normalised_fields() -> None:
    batch = batch_of()
    task = make_task()
    normal = task.normalizer.normalize(batch.inputs).values
    assert batch.targets is not None
    naive = block_means(task.normalizer.normalize(batch.targets).values)
    assert (normal - naive).abs().max() > 1e-3


def test_options_that_cannot_work_are_refused() -> None:
    with pytest.raises(RecipeError, match="cannot be negative"):
        make_task(adversarial=-1.0)
    layout = Layout(CHANNELS[:1], CHANNELS, COARSE, target_grid=FINE)
    with pytest.raises(RecipeError, match="'divergence_500' is not among the inputs"):
        SuperResolutionTask(lambda given: SRGenerator(given, width=8, blocks=1), layout, STATISTICS)


def test_a_run_spreads_to_grids_with_as_many_points_and_no_others() -> None:
    task = make_task().eval()
    globe = Grid.equiangular(11.25)
    own = task.layout
    spread = task.between(globe, globe.refined(4))
    values = torch.randn(1, 1, 2, *globe.shape) * 1e-5
    inputs = Fields(values, Frame(CHANNELS, torch.zeros(1, 1, dtype=torch.int64), globe))
    batch = Batch(inputs)
    fine = spread.predict(batch, spread.target_frame(batch, (0,)))
    assert fine.frame.grid.shape == (64, 128)
    assert task.layout == task.network.layout == own
    torch.testing.assert_close(fine.values, task.predict(batch, fine.frame).values)
    with pytest.raises(GridError, match="4 times finer"):
        task.between(globe, globe.refined(2))
    shifted = Grid(globe.refined(4).latitude, globe.refined(4).longitude + 1.0)
    with pytest.raises(GridError, match="no such blocks around"):
        task.between(globe, shifted)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Smooth random fields on a globe, the rough part of which depends on the smooth one."""
    rng = np.random.default_rng(0)
    grid = Grid.equiangular(5.625)
    noise = rng.normal(size=(24, 2, *grid.shape)).astype(np.float32)
    smooth = sum(np.roll(noise, (i, j), (-2, -1)) for i in range(-3, 4) for j in range(-3, 4)) / 7
    fields = 3e-5 * (smooth + 0.5 * np.sign(smooth))
    dataset = xr.Dataset(
        {
            name: (("time", "level", "latitude", "longitude"), fields[:, [i]], {"units": "s-1", "levels": [500]})
            for i, name in enumerate(("vorticity", "divergence"))
        },
        {
            "time": pd.date_range("2001-01-01", periods=24, freq="D"),
            "level": [500],
            "latitude": grid.latitude,
            "longitude": grid.longitude,
        },
    )
    path = tmp_path_factory.mktemp("store") / "fine.zarr"
    prepare_dataset(dataset, path, train_end="2001-01-16")
    return str(path)


def data(store: str) -> SuperResolutionData:
    return SuperResolutionData(
        store, ("2001-01-01", "2001-01-16"), ("2001-01-17", "2001-01-20"), patch_size=(16, 16), batch_size=8, patches=2
    )


def fit(
    store: str, folder: Path, epochs: int, checkpoint: Path | None = None, **options: object
) -> SuperResolutionTask:
    L.seed_everything(0, verbose=False)
    module = data(store)
    task = SuperResolutionTask(
        lambda given: SRGenerator(given, width=8, blocks=1),
        module.layout,
        module.statistics,
        optimizer=lambda parameters: torch.optim.Adam(parameters, lr=3e-3),
        **options,
    )
    trainer = L.Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        plugins=[SafeCheckpoints()],
        use_distributed_sampler=False,
    )
    trainer.fit(task, module, ckpt_path=None if checkpoint is None else str(checkpoint))
    trainer.save_checkpoint(folder)
    return task


def test_training_by_the_error_beats_bilinear_interpolation(store: str, tmp_path: Path) -> None:
    task = fit(store, tmp_path / "run", 25, warmup_steps=5).eval()
    batch = next(iter(data(store).val_dataloader()))
    assert batch.targets is not None
    predicted = task.predict(batch, batch.targets.frame).values
    bilinear = torch.nn.functional.interpolate(batch.inputs.values[:, 0], scale_factor=4, mode="bilinear")[:, None]
    error, simple = ((each - batch.targets.values).square().mean().item() for each in (predicted, bilinear))
    assert error < 0.9 * simple


def test_an_adversarial_run_goes_on_as_if_it_had_not_been_interrupted(store: str, tmp_path: Path) -> None:
    options = {"adversarial": 1e-2, "discriminator_width": 4}
    whole = fit(store, tmp_path / "whole", 3, **options)
    fit(store, tmp_path / "part", 2, **options)
    resumed = fit(store, tmp_path / "resumed", 3, checkpoint=tmp_path / "part", **options)
    for (name, expected), found in zip(whole.state_dict().items(), resumed.state_dict().values(), strict=True):
        assert torch.equal(expected, found), name
    loaded = load_task(tmp_path / "resumed")
    assert isinstance(loaded, SuperResolutionTask)
    assert loaded.discriminator is not None
    for (name, expected), found in zip(whole.state_dict().items(), loaded.state_dict().values(), strict=True):
        assert torch.equal(expected, found), name


def test_generator_and_discriminator_each_learn_with_their_own_optimiser(store: str, tmp_path: Path) -> None:
    task = fit(store, tmp_path / "run", 1, adversarial=1e-2, discriminator_width=4)
    generator, discriminator = task.optimizers()
    held = [{id(p) for group in each.param_groups for p in group["params"]} for each in (generator, discriminator)]
    assert held[0] == {id(p) for p in task.network.parameters()}
    assert task.discriminator is not None
    assert held[1] == {id(p) for p in task.discriminator.parameters()}
    assert not task.has_best


@pytest.mark.parametrize(("verdict", "expected"), [(0.3, (2, 1)), (0.5, (1, 1)), (0.69, (1, 2))])
def test_whoever_falls_behind_takes_one_more_step(
    verdict: float, expected: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    task = make_task(adversarial=1e-3, discriminator_width=4)
    steps = {"generator": 0, "discriminator": 0}

    def generator_step(_: Batch) -> dict[str, torch.Tensor]:
        steps["generator"] += 1
        return {}

    def discriminator_step(*_: object) -> torch.Tensor:
        steps["discriminator"] += 1
        return torch.tensor(verdict)

    monkeypatch.setattr(task, "_generator_step", generator_step)
    monkeypatch.setattr(task, "_discriminator_step", discriminator_step)
    monkeypatch.setattr(task, "log_dict", lambda *_, **__: None)
    task.training_step(batch_of(), 0)
    assert tuple(steps.values()) == expected


def test_a_run_begins_with_a_trained_generator(store: str, tmp_path: Path) -> None:
    first = fit(store, tmp_path / "first", 1)
    module = data(store)
    begun = SuperResolutionTask(
        lambda given: SRGenerator(given, width=8, blocks=1),
        module.layout,
        module.statistics,
        adversarial=1e-3,
        start=str(tmp_path / "first"),
    )
    for name, tensor in first.network.state_dict().items():
        assert torch.equal(begun.network.state_dict()[name], tensor)
    with pytest.raises(CheckpointError, match="of another size"):
        SuperResolutionTask(
            lambda given: SRGenerator(given, width=16, blocks=1),
            module.layout,
            module.statistics,
            start=str(tmp_path / "first"),
        )


@pytest.mark.parametrize("adversarial", [0.0, 1e-3])
def test_the_distance_of_features_trains_the_generator_beside_or_without_the_error(
    adversarial: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    metric = AtmoDistance(AtmoDist(Layout(CHANNELS, (), FINE), lags=2), Normalizer(STATISTICS), scale=2.0, layer="1.1")
    monkeypatch.setattr(AtmoDistance, "load", classmethod(lambda cls, run, layer=None: metric))
    batch = batch_of()
    assert batch.targets is not None
    error = make_task().eval().loss(batch)[0]
    alone = make_task(content=Content("run", error_weight=0.0), adversarial=adversarial).eval()
    distance = metric(alone.predict(batch, batch.targets.frame), batch.targets).mean()
    torch.testing.assert_close(alone.loss(batch)[0], distance, rtol=1e-4, atol=1e-6)
    both = make_task(content=Content("run", weight=3.0), adversarial=adversarial).eval()
    torch.testing.assert_close(both.loss(batch)[0], error + 3 * distance, rtol=1e-4, atol=1e-6)
    alone.loss(batch)[0].backward()
    assert all(p.grad is not None for p in alone.network.parameters())
    assert not any("distance" in name for name in alone.state_dict())
