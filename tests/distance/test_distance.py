"""The learned distance is a scaled mean squared difference of features, on patches, globes and xarray fields."""

from pathlib import Path

import lightning as L
import numpy as np
import pytest
import torch
import xarray as xr
from torch.utils.data import DataLoader

from etesian.core import Batch, Channel, Fields, Frame, Grid, Layout
from etesian.core.errors import ChannelError, CheckpointError, GridError, RecipeError
from etesian.core.statistics import Statistics
from etesian.distance.distance import AtmoDistance, Content, atmodistance, tiles
from etesian.distance.task import InpaintTask
from etesian.networks.atmodist import Autoencoder
from etesian.nn.normalizer import Normalizer
from etesian.training.checkpoint import SafeCheckpoints, load_task

CHANNELS = (Channel("vorticity", 850), Channel("divergence", 850))
GRID = Grid(np.linspace(-31, 31, 32), np.arange(32.0) * 2)
GLOBE = Grid.equiangular(5.625)
STATISTICS = Statistics(
    CHANNELS, np.array([1e-5, 0]), np.array([3e-5, 1e-5]), log1p_mean=np.zeros(2), log1p_std=np.full(2, 0.2)
)


def network() -> Autoencoder:
    torch.manual_seed(0)
    return Autoencoder(Layout(CHANNELS, (), GRID))


def distance(layer: str | None = "1.2") -> AtmoDistance:
    return AtmoDistance(network(), Normalizer(STATISTICS, log1p=True), scale=3.0, layer=layer)


def states(grid: Grid = GRID, batch: int = 2, seed: int = 0) -> Fields:
    values = np.random.default_rng(seed).standard_normal((batch, 1, 2, *grid.shape)) * 2e-5
    return Fields(torch.from_numpy(values).float(), Frame(CHANNELS, torch.zeros(batch, 1, dtype=torch.int64), grid))


def test_on_a_patch_it_is_the_scaled_mean_squared_difference_of_a_layers_features() -> None:
    metric, first, second = distance(), states(), states(seed=1)
    normalized = [metric.normalizer.normalize(each).values[:, 0] for each in (first, second)]
    here, there = (metric.network.features(each, "1.2") for each in normalized)
    torch.testing.assert_close(metric(first, second)[:, 0], 3 * (here - there).square().mean((1, 2, 3)))
    assert metric(first, first).abs().max() == 0


def test_tiles_cover_a_globe_and_each_has_the_size_of_a_patch() -> None:
    for grid, size in ((GLOBE, (32, 32)), (Grid.equiangular(4.5), (16, 24)), (GRID, (12, 9)), (GRID, (64, 64))):
        seen = np.zeros(grid.shape, dtype=int)
        for rows, columns in tiles(grid, size):
            assert (len(rows), len(columns)) == tuple(np.minimum(size, grid.shape))
            steps = np.diff(columns) % grid.shape[1]
            assert (np.diff(rows) == 1).all()
            assert (steps == 1).all()
            seen[np.ix_(rows, columns)] += 1
        assert seen.min() == 1


def test_on_a_globe_it_is_the_mean_over_tiles_and_goes_round_it() -> None:
    metric, first, second = distance(), states(GLOBE), states(GLOBE, seed=1)
    halves = []
    for west in (0, 32):
        frame = Frame(CHANNELS, first.frame.time, Grid(GLOBE.latitude, GLOBE.longitude[west : west + 32]))
        halves.append(metric(*(Fields(each.values[..., west : west + 32], frame) for each in (first, second))))
    torch.testing.assert_close(metric(first, second), (halves[0] + halves[1]) / 2)
    turned = [Fields(each.values.roll(32, -1), each.frame) for each in (first, second)]
    torch.testing.assert_close(metric(*turned), metric(first, second))


def test_tiles_in_the_tropics_weigh_more_than_those_at_the_poles() -> None:
    metric = distance()
    grid = Grid.equiangular(1.875)
    first = states(grid, batch=1)
    totals = []
    for rows in (slice(0, 32), slice(32, 64)):
        values = first.values.clone()
        values[..., rows, :] += 2e-5
        totals.append(metric(first, Fields(values, first.frame)).item())
    edges = np.sin(np.radians([-90, -30, 30]))
    # Both changes reach a third row of tiles to the same, small extent.
    assert totals[1] / totals[0] == pytest.approx((edges[2] - edges[1]) / (edges[1] - edges[0]), rel=0.1)


def test_its_gradient_reaches_both_states_and_no_weight_and_training_mode_changes_nothing() -> None:
    metric = distance(layer=None).train()
    first, second = states(), states(seed=1)
    before = metric(first, second)
    first.values.requires_grad_()
    second.values.requires_grad_()
    metric(first, second).sum().backward()
    assert torch.equal(metric(first, second), before)
    assert first.values.grad.abs().sum() > 0  # type: ignore[union-attr]
    assert second.values.grad.abs().sum() > 0  # type: ignore[union-attr]
    assert not any(parameter.requires_grad for parameter in metric.parameters())


def test_where_a_value_is_missing_there_is_no_distance_of_that_sample() -> None:
    first = states()
    valid = torch.ones_like(first.values, dtype=torch.bool)
    valid[1, 0, 0, 3, 4] = False
    found = distance()(Fields(first.values, first.frame, valid), states(seed=1))
    assert found.isnan().flatten().tolist() == [False, True]
    torch.testing.assert_close(found[0], distance()(first, states(seed=1))[0])


def test_other_grids_channels_and_layers_are_refused() -> None:
    metric = distance()
    with pytest.raises(GridError, match="states on different grids"):
        metric(states(), states(GLOBE))
    with pytest.raises(ChannelError, match="needs 'divergence_850'"):
        metric(states().select(CHANNELS[:1]), states())
    with pytest.raises(RecipeError, match=r"no layer '9.9'"):
        distance("9.9")


def dataset(seed: int) -> xr.Dataset:
    values = np.random.default_rng(seed).standard_normal((2, 3, 2, 32, 64)).astype(np.float32) * 2e-5
    dims = ("time", "level", "latitude", "longitude")
    fields = {
        name: (dims, part)
        for name, part in zip(("vorticity", "divergence"), values.swapaxes(1, 2).reshape(2, 3, 2, 32, 64), strict=True)
    }
    coordinates = {"time": np.arange(3), "level": [500, 850], "latitude": GLOBE.latitude, "longitude": GLOBE.longitude}
    return xr.Dataset(fields, coordinates)


def test_datasets_have_the_distance_of_their_fields_whatever_the_order_of_their_dimensions() -> None:
    metric, first, second = distance(), dataset(0), dataset(1)
    found = atmodistance(metric, first, second)
    assert found.dims == ("time",)
    for place in range(3):
        fields = []
        for each in (first, second):
            stacked = np.stack([each[c.name].sel(level=c.level).values[place] for c in CHANNELS])[None, None]
            fields.append(
                Fields(torch.from_numpy(stacked), Frame(CHANNELS, torch.zeros(1, 1, dtype=torch.int64), GLOBE))
            )
        assert found.values[place] == pytest.approx(metric(*fields).item(), rel=1e-5)
    shuffled = second.transpose("longitude", "latitude", "level", "time").isel(latitude=slice(None, None, -1))
    xr.testing.assert_allclose(found, atmodistance(metric, first, shuffled))
    members = xr.concat([second, first], "member")
    assert atmodistance(metric, first.isel(time=0), members.isel(time=0)).values[1] == 0
    with pytest.raises(ChannelError, match="'vorticity' has no level of 850 hPa"):
        atmodistance(metric, first.sel(level=[500]), second)
    with pytest.raises(ChannelError, match="no variable 'divergence'"):
        atmodistance(metric, first.drop_vars("divergence"), second)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of an inpainting task that has seen a few pairs."""
    folder = tmp_path_factory.mktemp("run")
    task = InpaintTask(lambda _: network(), Layout(CHANNELS, (), GRID), STATISTICS, step_hours=6, lags=2, hole=0.5)
    first, second = states(batch=4), states(batch=4, seed=1)
    time = torch.tensor([[0, 6], [0, 12], [6, 12], [6, 18]]) * 3600
    batch = Batch(Fields(torch.cat([first.values, second.values], 1), Frame(CHANNELS, time, GRID)))
    trainer = L.Trainer(
        default_root_dir=folder, max_epochs=1, accelerator="cpu", logger=False, plugins=[SafeCheckpoints()],
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False, num_sanity_val_steps=0,
    )  # fmt: skip
    loader = DataLoader([batch], batch_size=None)  # type: ignore[arg-type, var-annotated]
    trainer.fit(task, loader, loader)
    trainer.save_checkpoint(folder / "checkpoint")
    return folder / "checkpoint"


def test_a_run_gives_a_distance_scaled_over_its_lags(run: Path) -> None:
    metric = AtmoDistance.load(run, "2.1")
    task = load_task(run)
    assert isinstance(task, InpaintTask)
    assert metric.scale == task.curves.scale("2.1") > 0
    first, second = states(batch=8, seed=5), states(batch=8, seed=6)
    both = [metric.normalizer.normalize(each).values for each in (first, second)]
    assert metric(first, second).mean().item() == pytest.approx((both[0] - both[1]).square().mean().item(), rel=0.5)


def test_a_content_loss_is_the_weighted_distance_and_counts_missing_truth_as_met(run: Path) -> None:
    loss = Content(str(run), weight=2.0, layer="stem").over(CHANNELS)
    predicted, truth = states(), states(seed=1)
    metric = AtmoDistance.load(run, "stem")
    torch.testing.assert_close(loss(predicted, truth), 2 * metric(predicted, truth).mean())
    nothing = torch.zeros_like(truth.values, dtype=torch.bool)
    assert loss(predicted, Fields(truth.values, truth.frame, nothing)) == 0
    with pytest.raises(ChannelError, match="compares 'divergence_850', which is not predicted"):
        Content(str(run)).over(CHANNELS[:1])
    with pytest.raises(RecipeError, match="weight = 0 must be greater than 0"):
        Content(str(run), weight=0).over(CHANNELS)


def test_a_run_of_another_task_gives_no_distance(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("etesian.distance.distance.load_task", lambda run: object())
    with pytest.raises(CheckpointError, match="is a run of object; a distance comes from"):
        AtmoDistance.load(tmp_path)
