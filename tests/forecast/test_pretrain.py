"""What is hidden is reconstructed from the rest: shares, no leaks, only hidden points count."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from etesian.core import Batch, Channel, Fields, Frame, Grid, Layout
from etesian.core.errors import RecipeError
from etesian.core.statistics import Statistics
from etesian.forecast.pretrain import PretrainTask
from etesian.networks.climax import ClimaX
from etesian.networks.unet import UNet

HOUR = 3600
CHANNELS = (*(Channel("temperature", level) for level in (250, 500, 850)), Channel("surface_pressure"))
GRID = Grid(np.linspace(-75, 75, 6), np.arange(8) * 45.0)
STATISTICS = Statistics(CHANNELS, np.full(4, 10.0), np.full(4, 2.0))
LAYOUT = Layout(CHANNELS, CHANNELS, GRID, history=(-6, 0))


def climax(layout: Layout, *, validity: bool = True) -> ClimaX:
    return ClimaX(layout, patch=2, dim=16, depth=1, heads=2, dropout=0.0, drop_path=0.0, validity=validity)


def task_of(network: Any = climax, layout: Layout = LAYOUT, **options: Any) -> PretrainTask:
    torch.manual_seed(0)
    return PretrainTask(network, layout, STATISTICS, **options)


def fields(hours: list[int], *, samples: int = 3, gaps: float = 0.0, grid: Grid = GRID, seed: int = 1) -> Fields:
    random = torch.Generator().manual_seed(seed)
    time = torch.arange(samples)[:, None] * 24 * HOUR + torch.tensor(hours) * HOUR
    shape = (samples, len(hours), len(CHANNELS), *grid.shape)
    values = torch.randn(shape, generator=random) * 2 + 10
    valid = torch.rand(shape, generator=random) >= gaps if gaps else None
    return Fields(values, Frame(CHANNELS, time, grid), valid)


def batch_of(*, gaps: float = 0.0) -> Batch:
    return Batch(fields([-6, 0], gaps=gaps), fields([24], seed=2))


def fix(task: PretrainTask, hidden: torch.Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(task, "hidden", lambda *_: hidden)


@pytest.mark.parametrize(("patches", "variables"), [(0.5, 0.0), (0.0, 0.3), (0.3, 0.25)])
def test_the_shares_that_are_hidden_are_those_asked_for(patches: float, variables: float) -> None:
    task = task_of(mask_patches=patches, mask_variables=variables)
    hidden = task.hidden(fields([0], samples=4000)).float()
    assert hidden.mean().item() == pytest.approx(1 - (1 - patches) * (1 - variables), abs=0.01)
    whole_variables = hidden.flatten(3).all(-1).float().mean().item()
    assert whole_variables == pytest.approx(variables, abs=0.03)
    cells = hidden.reshape(4000, 1, 4, 3, 2, 4, 2)
    assert torch.equal(cells.amax((-3, -1)), cells.amin((-3, -1)))
    places = hidden.amin(2).mean().item()
    assert places == pytest.approx(patches, abs=0.01)


def test_something_always_stays_and_odd_grids_are_covered() -> None:
    grid = Grid(np.linspace(-60, 60, 5), np.linspace(0, 40, 7))
    task = task_of(mask_patches=0.99, mask_variables=0.99)
    hidden = task.hidden(fields([0], samples=500, grid=grid))
    assert hidden.shape == (500, 1, 4, 5, 7)
    assert bool((~hidden).flatten(1).any(1).all())
    assert hidden[..., -1, :].float().mean().item() == pytest.approx(hidden.float().mean().item(), abs=0.02)


def test_hidden_values_have_no_influence_on_the_reconstruction(monkeypatch: pytest.MonkeyPatch) -> None:
    task = task_of(mask_variables=0.25).eval()
    for parameter in task.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    answers: list[torch.Tensor] = []
    task.network.register_forward_hook(lambda _module, _given, answer: answers.append(answer))
    now = fields([0])
    hidden = task.hidden(now)
    fix(task, hidden, monkeypatch)
    batch = batch_of()
    for shift in (0.0, 5.0):
        inputs = replace(batch.inputs, values=batch.inputs.values + shift * hidden)
        task._reconstruction_error(task.normalized(replace(batch, inputs=inputs)))
    torch.testing.assert_close(answers[0], answers[1], rtol=0, atol=0)
    inputs = replace(batch.inputs, values=batch.inputs.values + 5.0 * ~hidden)
    task._reconstruction_error(task.normalized(replace(batch, inputs=inputs)))
    assert (answers[2] - answers[0]).abs().max() > 1e-3


@pytest.mark.parametrize("loss", ["mse", "l1"])
def test_the_loss_is_the_weighted_error_at_hidden_points_that_are_known(
    loss: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = task_of(
        forecast_weight=0.0, reconstruct_weight=2.0, loss=loss, channel_weights={"surface_pressure": 3.0},
    )  # fmt: skip
    batch = batch_of(gaps=0.2)
    hidden = task.hidden(fields([0]))
    fix(task, hidden, monkeypatch)
    monkeypatch.setattr(task.network, "forward", lambda _inputs, target, **_: torch.ones(3, 1, 4, *target.grid.shape))
    assert batch.inputs.valid is not None
    error = ((batch.inputs.values[:, -1:] - 10) / 2 - 1).double()
    error = error**2 if loss == "mse" else error.abs()
    weight = torch.tensor([1.0, 1.0, 1.0, 3.0])[:, None, None] * torch.from_numpy(GRID.area_weights)[:, None]
    weight = weight * (hidden & batch.inputs.valid[:, -1:])
    expected = (error * weight).sum() / weight.sum()
    total, parts = task.loss(batch)
    assert parts.keys() == {"reconstruct_loss"}
    assert parts["reconstruct_loss"].item() == pytest.approx(expected.item(), rel=1e-5)
    assert total.item() == pytest.approx(2 * expected.item(), rel=1e-5)


def test_reconstruction_and_forecast_add_up_by_their_weights() -> None:
    batch = batch_of()
    task = task_of(forecast_weight=0.5, reconstruct_weight=3.0, roll_longitude=True)
    total, parts = task.loss(batch)
    assert total.item() == pytest.approx(0.5 * parts["forecast_loss"].item() + 3 * parts["reconstruct_loss"].item())
    only = task_of(reconstruct_weight=0.0, network=lambda layout: climax(layout, validity=False))
    assert only.loss(batch)[1].keys() == {"forecast_loss"}


def test_training_hides_anew_and_validation_always_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    task, batch = task_of(), batch_of()
    logged: dict[str, float] = {}
    monkeypatch.setattr(task, "log", lambda name, value, **_: logged.update({name: value.item()}))
    seen = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        task.on_validation_epoch_start()
        task.validation_step(batch, 0)
        seen.append(dict(logged))
    assert seen[0] == seen[1]
    assert set(logged) == {"val_loss", "val_forecast_loss", "val_reconstruct_loss"}
    assert logged["val_loss"] == pytest.approx(logged["val_forecast_loss"] + logged["val_reconstruct_loss"])
    torch.manual_seed(1)
    drawn = [task.hidden(fields([0])) for _ in range(2)]
    torch.manual_seed(1)
    assert torch.equal(task.hidden(fields([0])), drawn[0])
    assert not torch.equal(drawn[0], drawn[1])


def test_reconstruction_is_learned_from_what_is_left() -> None:
    """All channels are one wave: whatever is hidden follows from what is not."""
    task = task_of(layout=replace(LAYOUT, history=(0,)), forecast_weight=0.0, mask_variables=0.25)
    optimizer = torch.optim.Adam(task.parameters(), lr=3e-3)
    phase = torch.rand(64, 1, 1, 1, 1, generator=torch.Generator().manual_seed(3)) * 2 * torch.pi
    wave = torch.sin(phase + torch.from_numpy(np.radians(GRID.longitude)).float()).expand(64, 1, 4, *GRID.shape)
    example = fields([0], samples=64)
    batch = Batch(replace(example, values=10 + 2 * wave), replace(example, values=10 + 2 * wave))
    losses = []
    for _ in range(150):
        loss = task.loss(batch)[0]
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        losses.append(loss.item())
    assert np.mean(losses[-10:]) < 0.4 * losses[0]


def test_a_network_that_was_only_trained_to_reconstruct_is_asked_for_no_forecast() -> None:
    with pytest.raises(RecipeError, match=r"forecast_weight was 0, .* never trained to forecast; fine-tune it first"):
        task_of(forecast_weight=0.0).forecast(batch_of(), [24])
    with pytest.raises(RecipeError, match="never trained to forecast"):
        task_of(forecast_weight=0.0).predict(batch_of(), fields([24]).frame)
    assert next(iter(task_of().forecast(batch_of(), [24]))).values.shape == (3, 1, 4, *GRID.shape)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"network": lambda layout: climax(layout, validity=False)}, "ClimaX cannot tell hidden values .*validity: tr"),
        ({"network": lambda layout: UNet(layout, leads=(24,), width=4)}, "UNet cannot tell hidden values from zeros"),
        ({"mask_patches": 1.0}, r"mask_patches = 1 must be a share from 0 up to, but not including, 1"),
        ({"mask_patches": 0.0}, "nothing is hidden to be reconstructed"),
        ({"reconstruct_weight": 0.0, "forecast_weight": 0.0}, "must be 0 or more, one of them greater than 0"),
        ({"predict": "change"}, "a change says nothing at lead 0.*use predict: state"),
    ],
)
def test_what_cannot_be_pretrained_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        task_of(**({"layout": replace(LAYOUT, history=(0,))} | options))
