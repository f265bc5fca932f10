"""What training in the latent means: which leads, which weights, what is kept for the backward pass."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from running import train_together
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from etesian.core import Batch, Fields, Layout
from etesian.core.errors import RecipeError
from etesian.forecast import latent as offloading
from etesian.forecast.data import ForecastData
from etesian.forecast.latent import LatentForecastTask
from etesian.networks.unet import UNet
from etesian.networks.weathermesh import WeatherMesh
from etesian.samples.windows import Horizon
from etesian.scores.ensembles import ensemble_crps
from etesian.training.checkpoint import SafeCheckpoints, best_and_last, load_task
from etesian.training.members import ALMOST_FAIR, fresh

SMALL: dict[str, Any] = {
    "patch": (2, 2, 2), "dim": 16, "heads": 2, "window": (2, 3, 3), "encoder_depth": 1, "decoder_depth": 1,
    "processors": {6: 1, 24: 1}, "surface_width": 8,
}  # fmt: skip
PERIODS = ("2001-01-01", "2001-01-08"), ("2001-01-09", "2001-01-12")


def data_of(store: str, **options: Any) -> ForecastData:
    return ForecastData([store], *PERIODS, **({"leads": [6, 12, 24, 30], "batch_size": 8} | options))


def task_of(data: ForecastData, **options: Any) -> LatentForecastTask:
    torch.manual_seed(0)

    def network(layout: Layout) -> WeatherMesh:
        made = WeatherMesh(layout, **SMALL)
        with torch.no_grad():
            for name, parameter in made.named_parameters():
                if "norm" not in name:
                    parameter.normal_(std=0.2)
        return made

    return LatentForecastTask(network, data.layout, data.statistics, **options)


def drawn(data: ForecastData) -> Batch:
    """A batch whose samples are verified at leads of their own."""
    batch: Batch = next(iter(data.train_dataloader()))
    assert batch.targets is not None
    assert len({tuple(row) for row in (batch.targets.frame.time - batch.inputs.frame.time).tolist()}) > 3
    return batch


@pytest.fixture
def data(gappy_store: str) -> ForecastData:
    return data_of(gappy_store, leads_per_sample=2)


@pytest.fixture
def forced(gappy_store: str) -> ForecastData:
    return data_of(gappy_store, leads_per_sample=2, forcings=["surface_pressure", "toa_incident_solar_radiation"])


def gradients(task: LatentForecastTask) -> dict[str, Tensor | None]:
    return {name: p.grad for name, p in task.named_parameters()}


def test_the_loss_is_the_mean_over_what_is_valid_weighted_by_variable_level_and_latitude(data: ForecastData) -> None:
    options: dict[str, Any] = {"channel_weights": {"temperature": 2.0}, "level_weights": {850: 3.0}, "loss": "l1"}
    task, batch = task_of(data, **options), drawn(data)
    loss, parts = task.loss(batch)
    known = task.normalized(batch)
    assert known.targets is not None
    assert known.targets.valid is not None
    values = task.forward(known, known.targets.frame)
    weight = {"temperature_500": 2.0, "temperature_850": 6.0, "surface_pressure": 1.0}
    rows = torch.from_numpy(data.layout.grid.area_weights).float()
    total = count = torch.zeros(())
    for number, channel in enumerate(known.targets.frame.channels):
        each = known.targets.valid[:, :, number] * weight[str(channel)] * rows[:, None]
        total = total + ((values - known.targets.values)[:, :, number].abs() * each).sum()
        count = count + each.sum()
    torch.testing.assert_close(loss, total / count)
    assert parts.keys() == {"forecast_loss"}


@pytest.mark.parametrize("predict", ["state", "departure", "forced"])
def test_training_sees_what_forecasting_gives(data: ForecastData, forced: ForecastData, predict: str) -> None:
    if predict == "forced":
        data, predict = forced, "state"
    task, batch = task_of(data, predict=predict, spread=0.5), drawn(data)
    known = task.normalized(batch)
    assert known.targets is not None
    expected = task._error(task.forward(known, known.targets.frame), known)
    torch.testing.assert_close(task.loss(batch)[0], expected)


def test_the_regulariser_is_the_distance_to_the_encoded_truth_and_teaches_the_encoder_nothing_there(
    data: ForecastData,
) -> None:
    task, batch = task_of(data, consistency=0.5), drawn(data)
    loss, parts = task.loss(batch)
    torch.testing.assert_close(loss, parts["forecast_loss"] + 0.5 * parts["consistency"])
    known = task.normalized(batch)
    assert known.targets is not None
    assert known.targets.valid is not None
    assert known.statics is not None
    network, total = task.network, torch.zeros(())
    hours = (known.targets.frame.time - known.inputs.frame.time) // 3600
    for sample in range(len(batch)):
        frame = replace(known.inputs.frame, time=known.inputs.frame.time[sample : sample + 1])
        start = Fields(known.inputs.values[sample : sample + 1], frame)
        statics = Fields(known.statics.values[:1], replace(frame, channels=known.statics.frame.channels))
        for column, lead in enumerate(hours[sample].tolist()):
            latent = network.encode(start, statics)
            for step in network.plan(lead):
                latent = network.step(latent, step)
            at = replace(frame, time=known.targets.frame.time[sample : sample + 1, column : column + 1])
            truth = Fields(known.targets.values[sample : sample + 1, column : column + 1], at)
            total = total + (latent - network.encode(truth, statics)).square().mean() / hours.numel()
    torch.testing.assert_close(parts["consistency"], total, rtol=1e-4, atol=0)
    assert not task._encoded_truth(known).requires_grad


def test_the_true_state_is_encoded_with_what_is_known_of_it(forced: ForecastData) -> None:
    task, batch = task_of(forced, consistency=0.5), drawn(forced)
    known = task.normalized(batch)
    assert known.targets is not None
    assert known.forcings is not None
    assert known.statics is not None
    state = torch.cat([known.targets.filled(), known.forcings.values[:, :, :1]], dim=2)[1:2, 1:]
    at = replace(known.inputs.frame, time=known.targets.frame.time[1:2, 1:])
    assert [str(channel) for channel in at.channels] == ["temperature_500", "temperature_850", "surface_pressure"]
    statics = replace(known.statics, values=known.statics.values[:1], frame=replace(known.statics.frame, time=at.time))
    expected = task.network.encode(Fields(state, at), statics)
    torch.testing.assert_close(task._encoded_truth(known)[3:4], expected, rtol=1e-4, atol=1e-5)


def test_of_members_forecasts_and_latents_are_trained_by_their_crps(data: ForecastData) -> None:
    task, batch = task_of(data, consistency=0.5, members=2), drawn(data)
    with torch.no_grad():
        for name, parameter in task.network.named_parameters():
            if "modulation" in name:
                parameter.normal_(std=0.2)
    torch.manual_seed(1)
    loss, parts = task.loss(batch)
    torch.testing.assert_close(loss, parts["forecast_loss"] + 0.5 * parts["consistency"])
    known = task.normalized(batch)
    assert known.targets is not None
    torch.manual_seed(1)
    members = task._ensemble(known, 2, fresh(2 * len(batch)))
    assert members.std(0).mean() > 0.1
    torch.testing.assert_close(parts["forecast_loss"], task._crps(members, known, ALMOST_FAIR), rtol=1e-4, atol=1e-6)
    latent = torch.randn(6, 2, 3, 4, 16)
    expected = ensemble_crps(torch.stack([latent[:3], latent[3:]]), latent[:3] + 1, ALMOST_FAIR).mean()
    torch.testing.assert_close(task._inconsistency(latent, latent[:3] + 1), expected)
    assert not task._encoded_truth(known).requires_grad


def test_the_difference_in_spread_is_that_of_root_mean_squares_over_what_is_valid(data: ForecastData) -> None:
    task, batch = task_of(data, spread=0.5), drawn(data)
    loss, parts = task.loss(batch)
    torch.testing.assert_close(loss, parts["forecast_loss"] + 0.5 * parts["spread"])
    known = task.normalized(batch)
    assert known.targets is not None
    assert known.targets.valid is not None
    values = task.forward(known, known.targets.frame)
    rows = torch.from_numpy(data.layout.grid.area_weights).float()[:, None]
    total = count = torch.zeros(())
    for column in range(2):
        for channel in range(3):
            weight = known.targets.valid[:, column, channel] * rows
            both = [
                (x[:, column, channel].square() * weight).sum() / weight.sum() for x in (values, known.targets.values)
            ]
            total = total + (both[0].sqrt() - both[1].sqrt()).square() * weight.sum()
            count = count + weight.sum()
    torch.testing.assert_close(parts["spread"], total / count, rtol=1e-3, atol=0)


def test_a_network_that_answers_zero_learns_from_the_spread(data: ForecastData) -> None:
    task = LatentForecastTask(lambda layout: WeatherMesh(layout, **SMALL), data.layout, data.statistics, spread=1.0)
    loss, parts = task.loss(drawn(data))
    assert float(parts["spread"].detach()) == pytest.approx(1, rel=0.2)
    loss.backward()
    assert all(p.grad is None or bool(p.grad.isfinite().all()) for p in task.parameters())


def test_recomputed_steps_have_the_same_gradients_and_keep_one_latent_each(data: ForecastData) -> None:
    batch = drawn(data)
    plain, thrifty = task_of(data, consistency=0.1), task_of(data, consistency=0.1, recompute=True)
    plain.loss(batch)[0].backward()
    thrifty.loss(batch)[0].backward()
    for name, expected in gradients(plain).items():
        assert expected is not None, name
        torch.testing.assert_close(gradients(thrifty)[name], expected, msg=name)

    def kept(task: LatentForecastTask, leads: list[int]) -> int:
        sizes: list[int] = []
        latent = task.network.encode(task.normalized(batch).inputs, task.normalized(batch).statics)
        step = task.network.step if task is plain else offloading.recomputed(task.network.step, offload=False)
        with saved_tensors_hooks(lambda t: sizes.append(t.numel()) or t, lambda t: t):
            for lead in leads:
                latent = step(latent, lead)
        assert latent.requires_grad
        return sum(sizes) // latent.numel()

    assert kept(thrifty, [6] * 5) == 5
    assert kept(plain, [6] * 5) > 50
    with torch.no_grad():
        assert not offloading.recomputed(thrifty.network.step, offload=True)(
            torch.ones(1, 2, 3, 4, 16), 6
        ).requires_grad


def test_what_enters_a_step_and_nothing_else_is_off_loaded(data: ForecastData, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a device without memory of its own, as `meta` is, so that what would be moved can be seen."""
    moved: list[tuple[int, ...]] = []

    class Moves(saved_tensors_hooks):
        def __init__(self, pin_memory: bool, device_type: str) -> None:
            assert (pin_memory, device_type) == (True, "meta")
            super().__init__(lambda t: moved.append(tuple(t.shape)), lambda t: t)

    monkeypatch.setattr(offloading, "save_on_cpu", Moves)
    network = task_of(data).network.to("meta")
    latent = torch.zeros(2, *network.latent_shape, 16, device="meta", requires_grad=True)
    step = offloading.recomputed(network.step, offload=True)
    step(step(latent, 6), 24)
    assert moved == [tuple(latent.shape)] * 2


def test_processors_that_no_lead_needs_take_part_with_gradients_of_zero(gappy_store: str) -> None:
    data = data_of(gappy_store, leads=[6])
    task = task_of(data)
    task.loss(next(iter(data.train_dataloader())))[0].backward()
    for name, gradient in gradients(task).items():
        assert gradient is not None, name
        assert bool(gradient.abs().sum() > 0) is ("processors.24" not in name), name


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("members", [None, 2])
def test_an_interrupted_run_goes_on_with_the_same_leads_and_a_trained_one_is_loaded(
    gappy_store: str, tmp_path: Path, members: int | None
) -> None:
    def fit(folder: str, epochs: int, resume: bool = False) -> LatentForecastTask:
        data = data_of(gappy_store, leads_per_sample=2, horizon=Horizon(6, 9, "quadratic"))
        options = {"consistency": 0.2, "recompute": True, "level_weights": {850: 2.0}, "members": members}
        task = task_of(data, **options, warmup_steps=2, optimizer=lambda p: torch.optim.Adam(p, lr=1e-3))
        # Without an end of training there would be another learning rate.
        trainer = L.Trainer(
            accelerator="cpu", max_epochs=4, limit_val_batches=1, default_root_dir=tmp_path, logger=False,
            enable_progress_bar=False, enable_model_summary=False, plugins=[SafeCheckpoints()],
            callbacks=[*best_and_last(tmp_path / folder / "checkpoints"), Stop(epochs)], use_distributed_sampler=False,
        )  # fmt: skip
        last = tmp_path / folder / "checkpoints" / "last"
        trainer.fit(task, datamodule=data, ckpt_path=str(last) if resume else None)
        return task

    whole = fit("whole", 4)
    fit("parts", 2)
    parts = fit("parts", 4, resume=True)
    for name, tensor in whole.state_dict().items():
        assert torch.equal(parts.state_dict()[name], tensor), name
    again = load_task(tmp_path / "whole", "last")
    assert isinstance(again, LatentForecastTask)
    assert again.options() == whole.options()
    assert again.options()["level_weights"] == {850: 2.0}


class Stop(L.Callback):
    """Ends training after some epochs, as an interruption would."""

    def __init__(self, epochs: int) -> None:
        self.epochs = epochs

    def on_train_epoch_end(self, trainer: L.Trainer, task: L.LightningModule) -> None:
        trainer.should_stop = trainer.current_epoch + 1 >= self.epochs


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"step_hours": 6}, "leave out step_hours"),
        ({"consistency": -1.0}, "consistency = -1 must be 0 or more"),
        ({"spread": -1.0}, "spread = -1 must be 0 or more"),
        ({"offload": True}, "set recompute: true"),
        ({"level_weights": {300: 1.0}}, r"names 300 hPa; the targets are on \[500, 850\] hPa"),
    ],
)
def test_what_does_not_fit_is_refused(data: ForecastData, options: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        task_of(data, **options)


def test_consistency_needs_targets_that_can_be_encoded(gappy_store: str) -> None:
    data = data_of(gappy_store, targets=["temperature"])
    with pytest.raises(RecipeError, match="every input must be among the targets"):
        task_of(data, consistency=0.1)
    with pytest.raises(RecipeError, match="UNet has no latent to step in"):
        LatentForecastTask(lambda layout: UNet(layout, leads=(6,)), data.layout, data.statistics)


def train_latent(processes: int, store: str, out: Path) -> None:
    data = ForecastData(
        [store], ("2001-01-01T06", "2001-01-03"), ("2001-01-09", "2001-01-12"), [6, 12, 18], batch_size=2 // processes
    )
    torch.manual_seed(0)
    losses: list[float] = []

    class Course(L.Callback):
        def on_train_batch_end(self, trainer: L.Trainer, task: L.LightningModule, outputs: Any, *_: object) -> None:
            losses.append(trainer.strategy.reduce(outputs["loss"].detach().clone(), reduce_op="mean").item())

    task = LatentForecastTask(
        lambda layout: WeatherMesh(
            layout, patch=(2, 2, 2), dim=16, heads=2, window=(2, 3, 3), encoder_depth=1, decoder_depth=1,
            processors={6: 1, 12: 1}, surface_width=8,
        ),
        data.layout, data.statistics, recompute=True, warmup_steps=1,
        optimizer=lambda parameters: torch.optim.SGD(parameters, lr=0.1),
    )  # fmt: skip
    trainer = L.Trainer(
        accelerator="cpu", devices=processes, strategy="ddp" if processes > 1 else "auto", max_epochs=2, logger=False,
        enable_progress_bar=False, enable_checkpointing=False, enable_model_summary=False,
        use_distributed_sampler=False, num_sanity_val_steps=0, limit_val_batches=0, callbacks=[Course()],
    )  # fmt: skip
    trainer.fit(task, datamodule=data)
    if trainer.is_global_zero:
        out.write_text(json.dumps(losses))


@pytest.mark.filterwarnings("ignore")
def test_two_processes_that_need_different_processors_train_as_one_does(store: str, tmp_path: Path) -> None:
    train_latent(1, store, tmp_path / "1.json")
    train_together(2, train_latent, 2, store, tmp_path / "2.json")
    one, two = (json.loads((tmp_path / f"{processes}.json").read_text()) for processes in (1, 2))
    assert len(one) > 8
    assert two == pytest.approx(one, rel=1e-5)
