"""The forecast task computes the loss it promises and steps as it says."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch.strategies import FSDPStrategy, ModelParallelStrategy
from torch import Tensor, nn

from etesian.core import Batch, Channel, Fields, Frame, Grid, Layout
from etesian.core.errors import RecipeError
from etesian.core.statistics import Statistics
from etesian.forecast.baselines import Persistence
from etesian.forecast.task import ForecastTask
from etesian.networks.network import Network

HOUR = 3600
CHANNELS = (Channel("temperature", 500), Channel("temperature", 850), Channel("surface_pressure"))
MEAN, STD = np.array([250.0, 280.0, 1e5]), np.array([10.0, 15.0, 900.0])
GRID = Grid(np.linspace(-75, 75, 6), np.arange(8) * 45.0)
STATIC = (Channel("orography"),)


class Tiny(Network):
    """A 1×1 convolution of history and statics plus the lead: equivariant under turns of longitude."""

    def __init__(self, layout: Layout) -> None:
        super().__init__()
        self.layout = layout
        self.mix = nn.Conv2d(len(layout.history) * len(layout.inputs) + len(layout.statics), len(layout.targets), 1)
        self.per_day = nn.Parameter(torch.full((1,), 0.1))

    def no_decay(self) -> set[str]:
        return {"mix.bias", "per_day"}

    def forward(
        self, inputs: Fields, target: Frame, *, forcings: Fields | None = None, statics: Fields | None = None
    ) -> Tensor:
        known = [inputs.filled().flatten(1, 2)] + ([] if statics is None else [statics.values.flatten(1, 2)])
        mixed = self.mix(torch.cat(known, dim=1))[:, [self.layout.targets.index(c) for c in target.channels]]
        days = (target.time - inputs.frame.time[:, -1:]).float() / 86400
        return mixed[:, None] + self.per_day * days[:, :, None, None, None]


def layout_of(**options: Any) -> Layout:
    return Layout(**({"inputs": CHANNELS, "targets": CHANNELS, "grid": GRID, "statics": STATIC} | options))


def task_of(layout: Layout | None = None, network: Any = Tiny, **options: Any) -> ForecastTask:
    torch.manual_seed(0)
    statistics = Statistics((*CHANNELS, *STATIC), np.append(MEAN, 500.0), np.append(STD, 300.0))
    return ForecastTask(network, layout or layout_of(), statistics, **options)


def batch_of(layout: Layout | None = None, leads: tuple[int, ...] = (6, 24), *, gaps: float = 0.3) -> Batch:
    layout = layout or layout_of()
    random = torch.Generator().manual_seed(1)
    start = torch.tensor([[0], [30 * HOUR]])

    def fields(hours: tuple[int, ...], channels: tuple[Channel, ...], share: float) -> Fields:
        numbers = [[*CHANNELS, *STATIC].index(c) for c in channels]
        mean, std = (torch.tensor(np.append(a, b)[numbers]).float() for a, b in ((MEAN, 500.0), (STD, 300.0)))
        shape = (2, len(hours), len(channels), *GRID.shape)
        values = torch.randn(shape, generator=random) * std[:, None, None] + mean[:, None, None]
        valid = torch.rand(shape, generator=random) >= share if share else None
        return Fields(values, Frame(channels, start + HOUR * torch.tensor(hours), GRID), valid)

    return Batch(
        fields(layout.history, layout.inputs, gaps),
        fields(leads, layout.targets, gaps),
        statics=fields((0,), layout.statics, 0.0) if layout.statics else None,
    )


@pytest.mark.parametrize("loss", ["mse", "l1"])
@pytest.mark.parametrize("latitude", ["area", "cosine", "uniform"])
def test_the_loss_is_the_weighted_mean_over_valid_points(loss: Any, latitude: Any) -> None:
    task = task_of(loss=loss, latitude_weights=latitude, channel_weights={"temperature": 2.0, "temperature_850": 0.5})
    batch = batch_of()
    assert batch.targets is not None
    assert batch.targets.valid is not None
    predicted = (task.predict(batch, batch.targets.frame).values.double().numpy() - MEAN[:, None, None]) / STD[
        :, None, None
    ]
    truth = (batch.targets.values.double().numpy() - MEAN[:, None, None]) / STD[:, None, None]
    row = {"area": GRID.area_weights, "cosine": GRID.cosine_weights, "uniform": np.ones(6)}[latitude]
    total = weights = 0.0
    for index in np.argwhere(batch.targets.valid.numpy()):
        weight = row[index[3]] * [2.0, 0.5, 1.0][index[2]]
        error = predicted[tuple(index)] - truth[tuple(index)]
        total += weight * (error**2 if loss == "mse" else abs(error))
        weights += weight
    np.testing.assert_allclose(task.loss(batch)[0].item(), total / weights, rtol=1e-5)


def test_lead_weights_weigh_the_errors_of_each_lead() -> None:
    batch = batch_of()
    assert batch.targets is not None
    assert batch.targets.valid is not None
    plain = task_of()
    parts, counts = [], []
    for lead in (0, 1):
        valid = batch.targets.valid.clone()
        valid[:, 1 - lead] = False
        parts.append(plain.loss(replace(batch, targets=replace(batch.targets, valid=valid)))[0].item())
        counts.append((valid * plain.loss_weight(batch.targets.frame)).sum().item())
    weighted = task_of(lead_weights={6: 3.0, 24: 1.0}).loss(batch)[0].item()
    expected = (3 * counts[0] * parts[0] + counts[1] * parts[1]) / (3 * counts[0] + counts[1])
    assert weighted == pytest.approx(expected, rel=1e-5)


def test_a_lead_without_a_weight_is_named() -> None:
    with pytest.raises(RecipeError, match=r"lead_weights has none for 24 h; it names \[6\] h"):
        task_of(lead_weights={6: 3.0}).loss(batch_of())


def test_values_that_are_not_valid_have_no_effect() -> None:
    task, batch = task_of(), batch_of()
    expected = task.loss(batch)[0]
    expected.backward()
    gradients = [p.grad.clone() for p in task.parameters() if p.grad is not None]
    assert batch.targets is not None
    wild = [
        replace(f, values=f.values.masked_fill(~f.valid, float("nan")))  # type: ignore[operator]
        for f in (batch.inputs, batch.targets)
    ]
    task.zero_grad()
    found = task.loss(replace(batch, inputs=wild[0], targets=wild[1]))[0]
    found.backward()
    assert torch.equal(found, expected)
    assert len(gradients) == 3
    for p, gradient in zip(task.parameters(), gradients, strict=True):
        assert torch.equal(p.grad, gradient)  # type: ignore[arg-type]


def test_a_prediction_that_is_missing_where_the_truth_is_too_does_not_spoil_the_loss() -> None:
    batch = batch_of()
    assert batch.targets is not None
    hole = torch.ones_like(batch.inputs.values, dtype=torch.bool)
    hole[..., 2, 3] = False
    batch = replace(
        batch,
        inputs=replace(batch.inputs, valid=hole),
        targets=replace(batch.targets, valid=hole.expand(-1, 2, -1, -1, -1)),
    )
    assert task_of(network=Persistence).loss(batch)[0].isfinite()


def test_no_valid_point_makes_a_loss_of_zero() -> None:
    batch = batch_of()
    assert batch.targets is not None
    nothing = replace(batch.targets, valid=torch.zeros_like(batch.targets.values, dtype=torch.bool))
    assert task_of().loss(replace(batch, targets=nothing))[0] == 0


def test_a_change_is_added_to_the_initial_state() -> None:
    batch = batch_of(gaps=0.0)
    assert batch.targets is not None
    state, change = task_of(), task_of(predict="change")
    torch.testing.assert_close(
        change.predict(batch, batch.targets.frame).values - batch.inputs.values,
        state.predict(batch, batch.targets.frame).values - torch.tensor(MEAN).float()[:, None, None],
        rtol=1e-4,
        atol=0.02,
    )


@pytest.mark.parametrize("history", [(0,), (-6, 0)])
@pytest.mark.parametrize("predict", ["state", "change"])
def test_an_iterated_forecast_equals_stepping_by_hand(history: tuple[int, ...], predict: Any) -> None:
    layout = layout_of(history=history)
    task, single = task_of(layout, step_hours=6, predict=predict), task_of(layout, predict=predict)
    batch = batch_of(layout, leads=(6, 18), gaps=0.0)
    assert batch.targets is not None
    found = task.predict(batch, batch.targets.frame)
    inputs, states = batch.inputs, []
    for step in (1, 2, 3):
        frame = replace(batch.targets.frame, time=batch.inputs.frame.time[:, -1:] + 6 * HOUR * step)
        state = single.predict(replace(batch, inputs=inputs), frame)
        states.append(state.values)
        values = torch.cat([inputs.values, state.values], dim=1)[:, 1:]
        inputs = Fields(values, replace(frame, time=torch.cat([inputs.frame.time, frame.time], dim=1)[:, 1:]))
    torch.testing.assert_close(found.values, torch.cat([states[0], states[2]], dim=1), rtol=1e-5, atol=1e-2)
    assert found.frame.time.tolist() == batch.targets.frame.time.tolist()


class SeesHoles(Tiny):
    """Adds the share of holes in what it is given."""

    def forward(self, inputs: Fields, target: Frame, **options: Any) -> Tensor:
        holes = 0.0 if inputs.valid is None else (~inputs.valid).float().mean()
        return super().forward(inputs, target, **options) + holes


def test_holes_of_the_initial_state_stay_holes_in_an_iterated_forecast() -> None:
    task, single = task_of(network=SeesHoles, step_hours=6), task_of(network=SeesHoles)
    batch = batch_of(leads=(6, 12), gaps=0.3)
    assert batch.targets is not None
    found = task.predict(batch, batch.targets.frame)
    first = replace(batch.targets.frame, time=batch.targets.frame.time[:, :1])
    second = replace(first, time=batch.targets.frame.time[:, 1:])
    state = single.predict(batch, first)
    again = Fields(state.values, replace(first, channels=batch.inputs.frame.channels), batch.inputs.valid)
    expected = single.predict(replace(batch, inputs=again), second)
    torch.testing.assert_close(found.values[:, 1:], expected.values, rtol=1e-5, atol=1e-2)


def test_validation_asks_the_network_once_and_logs_the_loss_of_its_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    task, batch, logged, calls = task_of(), batch_of(), {}, []
    expected = task.loss(batch)[0].item()
    task.network.register_forward_hook(lambda *_: calls.append(1))
    monkeypatch.setattr(task, "log", lambda name, value, **_: logged.update({name: float(value)}))
    task.validation_step(batch, 0)
    assert len(calls) == 1
    assert logged["val_loss"] == pytest.approx(expected)
    assert batch.targets is not None
    error = task.predict(batch, batch.targets.frame).values - batch.targets.values
    valid = batch.targets.valid
    assert valid is not None
    weight = torch.from_numpy(GRID.area_weights).float()[:, None] * valid
    expected_rmse = ((error.square() * weight).sum((0, 3, 4)) / weight.sum((0, 3, 4))).sqrt()
    torch.testing.assert_close(task.sums[CHANNELS].rmse()[..., 0].float(), expected_rmse, rtol=1e-4, atol=1e-4)


def test_leads_that_are_no_whole_steps_are_refused() -> None:
    task = task_of(step_hours=6)
    for leads in ((6, 9), (0, 6)):
        with pytest.raises(RecipeError, match=r"leads of .* h are not whole steps of 6 h"):
            task.loss(batch_of(leads=leads))


def test_samples_of_one_batch_may_have_different_leads() -> None:
    task, batch = task_of(step_hours=6), batch_of(leads=(6,), gaps=0.0)
    assert batch.targets is not None
    frame = replace(batch.targets.frame, time=batch.inputs.frame.time + HOUR * torch.tensor([[6], [18]]))
    both = task.predict(batch, frame).values
    one = task.predict(batch, replace(frame, time=batch.inputs.frame.time + HOUR * 18)).values
    torch.testing.assert_close(both[1], one[1])
    assert not torch.allclose(both[0], one[0])


def test_a_subset_of_channels_can_be_asked_for_in_any_order() -> None:
    batch = batch_of()
    for task in (task_of(), task_of(predict="change"), task_of(step_hours=6)):
        assert batch.targets is not None
        whole = task.predict(batch, batch.targets.frame).select(CHANNELS[::-2])
        part = task.predict(batch, replace(batch.targets.frame, channels=CHANNELS[::-2]))
        torch.testing.assert_close(part.values, whole.values)


def test_turning_longitudes_in_training_changes_nothing_for_an_equivariant_network() -> None:
    plain, turning, batch = task_of(), task_of(roll_longitude=True), batch_of()
    expected = plain.train().loss(batch)[0]
    for seed in range(4):
        torch.manual_seed(seed)
        torch.testing.assert_close(turning.train().loss(batch)[0], expected)


def test_turning_longitudes_turns_inputs_targets_and_statics_alike() -> None:
    seen: list[Tensor] = []

    class Spy(Tiny):
        def forward(self, inputs: Fields, target: Frame, **others: Any) -> Tensor:
            seen.append(torch.cat([inputs.values, others["statics"].values], dim=2))
            return super().forward(inputs, target, **others)

    task, batch = task_of(network=Spy, roll_longitude=True), batch_of()
    task.eval().loss(batch)
    torch.manual_seed(3)
    task.train().loss(batch)
    assert sum(torch.equal(seen[0].roll(shift, -1), seen[1]) for shift in range(8)) == 1


@pytest.mark.parametrize(
    ("layout", "options", "message"),
    [
        ({"targets": CHANNELS[:2]}, {"step_hours": 6}, "feeds back its output, but 'surface_pressure' is not among"),
        ({"history": (-24, 0)}, {"step_hours": 6}, r"steps of 6 h cannot refill a history at \[-24, 0\] h"),
        (
            {"inputs": CHANNELS[:2], "targets": CHANNELS[2:]},
            {"predict": "change"},
            "needs the initial state, but none of the targets is among",
        ),
        ({"grid": Grid([0, 10], [0, 10])}, {"roll_longitude": True}, "needs a grid that goes round the globe"),
        (
            {"target_grid": Grid.equiangular(20)},
            {"predict": "change"},
            "between two grids a forecast can only be of the state",
        ),
        ({"target_grid": Grid.equiangular(20)}, {"step_hours": 6}, "for fields of the same time take DownscaleTask"),
        ({}, {"channel_weights": {"temprature": 2.0}}, "channel_weights names 'temprature', which is not among"),
    ],
)
def test_options_that_cannot_work_are_refused(layout: dict[str, Any], options: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        task_of(layout_of(**layout), **options)


def test_weight_decay_leaves_alone_what_the_network_names() -> None:
    task = task_of()
    decayed, exempt = task.parameter_groups()
    assert [p.shape for p in decayed["params"]] == [task.network.mix.weight.shape]
    assert "weight_decay" not in decayed
    assert exempt["weight_decay"] == 0.0
    assert sum(p.numel() for p in exempt["params"]) == 4
    optimizer = task.make_optimizer(task.parameter_groups())
    assert [group["weight_decay"] for group in optimizer.param_groups] == [1e-5, 0.0]


def test_persistence_has_no_parameters_and_repeats_the_state() -> None:
    batch = batch_of()
    assert batch.targets is not None
    predicted = task_of(network=Persistence).predict(batch, batch.targets.frame).values
    assert batch.inputs.valid is not None
    valid = batch.inputs.valid.expand_as(predicted)
    torch.testing.assert_close(predicted[valid], batch.inputs.values.expand_as(predicted)[valid], rtol=1e-6, atol=0)
    assert predicted[~valid].isnan().all()


def test_a_regional_batch_is_not_turned_in_longitude() -> None:
    task, batch = task_of(roll_longitude=True), batch_of()
    region = Grid(GRID.latitude, GRID.longitude / 2)

    def moved(fields: Fields | None) -> Fields | None:
        return None if fields is None else replace(fields, frame=replace(fields.frame, grid=region))

    with pytest.raises(RecipeError, match="roll_longitude needs grids that go round the globe"):
        task.loss(Batch(*(moved(part) for part in batch.parts())))  # type: ignore[arg-type]


@pytest.mark.parametrize("strategy", [FSDPStrategy, ModelParallelStrategy])
def test_a_strategy_whose_checkpoints_cannot_be_read_is_refused_before_training(strategy: type) -> None:
    task = task_of()
    task.trainer = type("Trainer", (), {"strategy": strategy.__new__(strategy)})()  # type: ignore[assignment]
    with pytest.raises(RecipeError, match=f"{strategy.__name__} writes no checkpoints .*; use strategy: sharded"):
        task.setup("fit")


@pytest.mark.parametrize(
    ("trained", "asked", "said"),
    [
        ([24, 72], (24, 48, 72), None),
        ([72, 24], (25, 71), None),
        ([24, 72], (24, 78), r"trained for leads of 24 to 72 h, not for 78 h; ask for those, or train another run"),
        ([24, 72], (6, 24), r"trained for leads of 24 to 72 h, not for 6 h"),
        ([24], (24, 25), r"trained for 24 h, not for 25 h"),
        ([], (1000,), None),
    ],
)
def test_a_run_without_steps_answers_only_leads_within_those_of_its_training(
    trained: list[int], asked: tuple[int, ...], said: str | None
) -> None:
    task = task_of()
    task.provenance = {"leads": trained}
    if said is None:
        task.check_leads(asked)
    else:
        with pytest.raises(RecipeError, match=said):
            task.check_leads(asked)


def test_what_steps_through_time_goes_on_beyond_its_training_in_whole_steps() -> None:
    iterated = task_of(step_hours=6)
    iterated.provenance = {"leads": [6, 12]}
    iterated.check_leads([6, 240])
    with pytest.raises(RecipeError, match="9 h is no whole number of the steps of 6 h"):
        iterated.check_leads([6, 9])
    own_steps = task_of()
    own_steps.provenance, own_steps.network.steps_in_time = {"leads": [24]}, True
    own_steps.check_leads([240])
