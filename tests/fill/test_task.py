"""Gap filling learns, keeps its best weights, and tells how far it may be wrong."""

from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import lightning as L
import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from etesian.core import Batch, Channel, Fields, Frame, Grid, Layout
from etesian.core.clock import month_start, parse_time, seasonal_terms
from etesian.core.errors import RecipeError
from etesian.core.statistics import Statistics
from etesian.fill.months import LAND
from etesian.fill.task import GapFillTask, at_sea
from etesian.networks.dincae import GapFillUNet
from etesian.networks.gapfiller import GapFiller
from etesian.networks.kriging import LocalKriging, Problem
from etesian.networks.network import Distribution, Reconstruction
from etesian.networks.unet import UNet
from etesian.training.checkpoint import SafeCheckpoints, best_and_last, load_task
from etesian.training.finetune import Start

SST = Channel("sea_surface_temperature")
GRID = Grid(30 + 0.25 * np.arange(16), 10 + 0.25 * np.arange(24))
LAYOUT = Layout((SST,), (SST,), GRID, statics=(LAND,))
DAYS = 30


def cycle() -> np.ndarray:
    """A seasonal cycle that differs from place to place."""
    north = GRID.latitude[:, None] - 30 + 0 * GRID.longitude
    terms = np.zeros((5, 2, *GRID.shape), np.float32)
    terms[:, 0] = np.stack([290 - north, -4 + 0.2 * north, 0 * north, 0 * north, 0.3 + 0 * north])
    return terms


STATISTICS = Statistics(
    (SST, LAND), np.array([290.0, 0.1]), np.array([3.0, 0.3]), cycle(), np.array([1.0, 0.3])
)  # fmt: skip


def batch(number: int, *, daily: bool = False, rows: slice = slice(None), columns: slice = slice(None)) -> Batch:
    """Days of waves that travel about the seasonal cycle, mostly under clouds, with the truth."""
    random = np.random.default_rng(number)
    grid = Grid(GRID.latitude[rows], GRID.longitude[columns])
    start = parse_time(f"2001-{number % 12 + 1:02d}-01", "proleptic_gregorian")
    time = start + 86400 * np.arange(DAYS)
    season = np.tensordot(seasonal_terms(time, "proleptic_gregorian"), cycle()[:, 0], 1)
    phase = 2 * np.pi * random.random()
    east, north = GRID.longitude, GRID.latitude[:, None]
    wave = np.sin(1.2 * east + 0.9 * north - 0.1 * np.arange(DAYS)[:, None, None] + phase)
    truth = (season + wave)[:, rows, columns][None, :, None]
    clear = np.repeat(np.repeat(random.random((1, DAYS, 1, 4, 6)) < 0.3, 4, 3), 4, 4)[..., rows, columns]
    seen = truth + 0.1 * random.standard_normal(truth.shape)
    inputs = Fields(*_tensors(seen, clear, Frame((SST,), torch.from_numpy(time)[None], grid)))
    land = torch.zeros(1, 1, 1, *grid.shape)
    land[..., :2] = 1
    sea = np.broadcast_to(np.arange(grid.shape[1]) >= 2, truth.shape)
    target = truth if daily else truth.mean(1, keepdims=True)
    frame = inputs.frame if daily else replace(inputs.frame, time=torch.tensor([[start]]))
    targets = Fields(*_tensors(target, sea[:, : target.shape[1]], frame))
    statics = Fields(land, Frame((LAND,), torch.zeros(1, 1, dtype=torch.int64), grid))
    return Batch(inputs, targets, statics=statics)


def _tensors(values: np.ndarray, valid: np.ndarray, frame: Frame) -> tuple[Tensor, Frame, Tensor]:
    return torch.from_numpy(values).float(), frame, torch.from_numpy(valid.copy())


def filler(layout: Layout, **options: Any) -> GapFiller:
    small = {"dim": 16, "heads": 2, "depth": 1, "hidden": 16, "pooling_heads": 2, "residual": "mean"}
    return GapFiller(layout, **(small | options))


def fit(
    task: GapFillTask, folder: Path, *, epochs: int, daily: bool = False, callbacks: Any = (), batches: int = 12
) -> L.Trainer:
    trainer = L.Trainer(
        max_epochs=epochs, accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False,
        callbacks=[*best_and_last(folder), *callbacks], plugins=[SafeCheckpoints()], num_sanity_val_steps=0,
        default_root_dir=folder,
    )  # fmt: skip
    parts = ([batch(n, daily=daily) for n in numbers] for numbers in (range(batches), range(100, 100 + batches // 2)))
    trainer.fit(task, *(DataLoader(part, batch_size=None) for part in parts))
    return trainer


def adam(rate: float) -> Any:
    return lambda parameters: torch.optim.AdamW(parameters, lr=rate)


def rmse(task: GapFillTask, daily: bool = False) -> float:
    squares = []
    for number in range(200, 206):
        one = batch(number, daily=daily)
        assert one.targets is not None
        difference = task.eval().predict(one, one.targets.frame).values - one.targets.values
        squares.append(difference[one.targets.valid].square())
    return float(torch.cat(squares).mean().sqrt())


class Watch(L.Callback):
    """Remembers training mode, and the validation loss and weights of each epoch; spoils the weights of the fifth."""

    def __init__(self) -> None:
        self.modes: list[bool] = []
        self.epochs: list[tuple[float, Tensor]] = []

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.current_epoch == 4:
            # So that the last epochs are not the best.
            for parameter in pl_module.parameters():
                parameter.data.add_(torch.ones_like(parameter))

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *args: Any) -> None:
        self.modes.append(all(module.training for module in pl_module.modules()))

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        weights = torch.cat([p.detach().flatten() for p in pl_module.network.parameters()])  # type: ignore[union-attr]
        self.epochs.append((float(trainer.callback_metrics["val_loss"]), weights.clone()))


def test_training_goes_on_in_training_mode_and_the_best_weights_are_those_of_the_best_epoch(tmp_path: Path) -> None:
    torch.manual_seed(0)
    watch = Watch()
    task = GapFillTask(filler, LAYOUT, STATISTICS, optimizer=adam(0.005), warmup_steps=2)
    fit(task, tmp_path, epochs=6, callbacks=[watch])
    assert len(watch.modes) == 72
    assert all(watch.modes)
    losses = [loss for loss, _ in watch.epochs]
    best = int(np.argmin(losses))
    assert best < 4
    for name, epoch in (("best", best), ("last", len(losses) - 1)):
        kept = torch.cat([p.detach().flatten() for p in load_task(tmp_path / name).network.parameters()])
        assert torch.equal(kept, watch.epochs[epoch][1])


@pytest.mark.parametrize("daily", [False, True])
@pytest.mark.parametrize(("residual", "epochs"), [("nothing", 4), ("analysis", 3), (None, 6)])
def test_trained_networks_are_better_than_before_and_survive_the_checkpoint(
    residual: str | None, epochs: int, daily: bool, tmp_path: Path
) -> None:
    torch.manual_seed(0)

    def build(layout: Layout) -> Reconstruction:
        if residual is None:
            return GapFillUNet(layout, width=8, levels=2)
        return filler(layout, daily=daily, residual=residual)

    loss = "nll" if residual is None else "l1"
    task = GapFillTask(build, LAYOUT, STATISTICS, loss=loss, optimizer=adam(0.005), warmup_steps=5)  # type: ignore[arg-type]
    before = rmse(task, daily)
    fit(task.train(), tmp_path, epochs=epochs, daily=daily)
    after = rmse(task, daily)
    # Before training the guess is the seasonal cycle, or an analysis of the observations, which is good already.
    assert after < (0.8 if residual == "analysis" else 0.7) * before
    one = batch(200, daily=daily)
    assert one.targets is not None
    again = load_task(tmp_path / "last").predict(one, one.targets.frame)
    assert torch.equal(again.values, task.eval().predict(one, one.targets.frame).values)


def test_half_the_deviation_is_found_out_and_the_calibrated_one_covers_as_a_gaussian_does(tmp_path: Path) -> None:
    class Overconfident(Reconstruction):
        """Gives the seasonal cycle, with half of the deviation that its errors have."""

        gives_variance = True

        def __init__(self, layout: Layout) -> None:
            super().__init__()
            self.layout, self.anchor = layout, torch.nn.Parameter(torch.zeros(()))

        def distribution(self, inputs: Fields, target: Frame, *, statics: Fields | None = None) -> Distribution:
            mean = self.anchor * torch.zeros(*target.time.shape, 1, *target.grid.shape)
            return Distribution(mean, 0.25 * (1 + torch.linspace(0, 3, mean.shape[-1]).expand_as(mean)).square())

    def truth(number: int) -> Batch:
        one = batch(number)
        assert one.targets is not None
        centre = task._monthly_cycle(one.inputs.frame, one.targets.frame)
        random = torch.Generator().manual_seed(number)
        noise = torch.randn(centre.shape, generator=random) * (1 + torch.linspace(0, 3, centre.shape[-1]))
        return replace(one, targets=replace(one.targets, values=centre + noise))

    task = GapFillTask(Overconfident, LAYOUT, STATISTICS, loss="nll")
    trainer = L.Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, enable_checkpointing=False)
    trainer.validate(task, DataLoader([truth(n) for n in range(20)], batch_size=None), verbose=False)
    assert float(task.spread_factor) == pytest.approx(2, rel=0.05)
    assert "spread_factor" in task.state_dict()

    inside = []
    for number in range(100, 120):
        one = truth(number)
        assert one.targets is not None
        mean, deviation = task.distribution(one, one.targets.frame)
        assert deviation is not None
        inside.append((mean.values - one.targets.values).abs() < deviation.values)
    for part in torch.cat(inside).chunk(4, dim=-1):
        assert float(part.float().mean()) == pytest.approx(0.683, abs=0.03)


def test_trained_deviations_are_reliable_on_days_never_seen(tmp_path: Path) -> None:
    torch.manual_seed(0)
    task = GapFillTask(
        lambda layout: filler(layout, variance=True), LAYOUT, STATISTICS, loss="nll", optimizer=adam(0.005)
    )
    fit(task, tmp_path, epochs=6)
    kept = load_task(tmp_path / "best")
    assert isinstance(kept, GapFillTask)
    ratios = []
    for number in range(200, 212):
        one = batch(number)
        assert one.targets is not None
        mean, deviation = kept.distribution(one, one.targets.frame)
        assert deviation is not None
        ratios.append(((mean.values - one.targets.values).abs() / deviation.values)[one.targets.valid])
    ratio = torch.cat(ratios)
    assert float((ratio < 1).float().mean()) == pytest.approx(0.68, abs=0.1)
    assert float((ratio < 2).float().mean()) == pytest.approx(0.95, abs=0.05)


def test_land_never_counts_as_observed() -> None:
    task = GapFillTask(filler, LAYOUT, STATISTICS).eval()
    one = batch(3)
    assert one.targets is not None
    assert one.inputs.valid is not None
    one.inputs.valid[..., :2] = False
    expected = task.predict(one, one.targets.frame).values
    values, valid = one.inputs.values.clone(), one.inputs.valid.clone()
    values[..., :2], valid[..., :2] = 400.0, True
    wrong = replace(one, inputs=Fields(values, one.inputs.frame, valid))
    assert torch.equal(task.predict(wrong, one.targets.frame).values, expected)
    without_mask = replace(wrong, statics=None)
    other = GapFillTask(filler, replace(LAYOUT, statics=()), STATISTICS).eval()
    assert not torch.allclose(
        other.predict(without_mask, one.targets.frame).values,
        other.predict(replace(one, statics=None), one.targets.frame).values,
    )


def test_without_observations_a_month_is_the_mean_of_the_seasonal_cycle_over_its_own_days() -> None:
    task = GapFillTask(filler, LAYOUT, STATISTICS).eval()
    for rows, columns in ((slice(None), slice(None)), (slice(4, 12), slice(8, 20))):
        one = batch(2, rows=rows, columns=columns)
        assert one.targets is not None
        assert one.inputs.valid is not None
        one.inputs.valid[:] = False
        found = task.predict(one, one.targets.frame).values[0, 0, 0]
        time = one.inputs.frame.time[0].numpy()
        days = np.tensordot(seasonal_terms(time, "proleptic_gregorian"), cycle()[:, 0], 1)
        # A residual of the mean is 0 before training, so that nothing is added.
        np.testing.assert_allclose(found.numpy(), days.mean(0)[rows, columns], atol=1e-3)


def test_targets_without_truth_do_not_count() -> None:
    task = GapFillTask(filler, LAYOUT, STATISTICS, loss="mse")
    one = batch(1)
    assert one.targets is not None
    assert one.targets.valid is not None
    loss = task.loss(one)[0]
    values = one.targets.values.clone()
    values[~one.targets.valid] = torch.nan
    assert torch.equal(task.loss(replace(one, targets=replace(one.targets, values=values)))[0], loss)


def test_losses_are_what_their_names_say_and_validation_is_by_a_score(monkeypatch: pytest.MonkeyPatch) -> None:
    one = batch(1)
    assert one.targets is not None
    losses, validated = {}, {}
    for name in ("l1", "mse", "nll"):
        torch.manual_seed(0)
        task = GapFillTask(lambda layout: filler(layout, variance=True), LAYOUT, STATISTICS, loss=name)  # type: ignore[arg-type]
        mean, deviation = task.eval().distribution(one, one.targets.frame)
        error = (mean.values - one.targets.values)[one.targets.valid].double()
        assert deviation is not None
        spread = deviation.values[one.targets.valid].double()
        losses[name] = task.loss(one)[0].item()
        monkeypatch.setattr(task, "log", lambda _, value, name=name, **__: validated.update({name: value.item()}))
        task.on_validation_epoch_start()
        task.validation_step(one, 0)
    likelihood = spread.log() + 0.5 * (error / spread) ** 2
    expected = {"l1": error.abs(), "mse": error**2, "nll": likelihood * spread}
    for name, values in expected.items():
        assert losses[name] == pytest.approx(float(values.mean()), rel=1e-3), name
    # The balanced likelihood is least where variances are large, whatever the errors: no score to choose an epoch by.
    for name, values in (expected | {"nll": likelihood}).items():
        assert validated[name] == pytest.approx(float(values.mean()), rel=1e-3), name


def test_fine_tuning_begins_with_trained_weights_and_trains_the_parts_named(tmp_path: Path) -> None:
    trained = GapFillTask(filler, LAYOUT, STATISTICS, optimizer=adam(0.01))
    fit(trained, tmp_path, epochs=1)
    task = GapFillTask(filler, LAYOUT, STATISTICS, start=Start(str(tmp_path / "last"), ["decoder"]))
    with pytest.raises(
        RecipeError, match="statistics: trained, but GapFillTask normalises by those of its data; leave"
    ):
        GapFillTask(filler, LAYOUT, STATISTICS, start=Start(str(tmp_path / "last"), statistics="trained"))
    assert torch.equal(task.network.embed.weight, trained.network.embed.weight)  # type: ignore[union-attr, arg-type]
    assert {name.split(".")[0] for name, p in task.network.named_parameters() if p.requires_grad} == {
        "decoder"
    }  # fmt: skip


def test_networks_that_fill_no_gaps_or_give_no_variance_are_refused() -> None:
    with pytest.raises(RecipeError, match="UNet fills no gaps"):
        GapFillTask(lambda layout: UNet(layout, (24,)), replace(LAYOUT, grid=GRID), STATISTICS)
    with pytest.raises(RecipeError, match="give GapFiller variance: true"):
        GapFillTask(filler, LAYOUT, STATISTICS, loss="nll")


def test_a_unet_sees_its_neighbours_in_time_and_no_others() -> None:
    torch.manual_seed(0)
    network = GapFillUNet(replace(LAYOUT, statics=()), width=8, levels=1).eval()
    one = batch(4, daily=True)
    assert one.inputs.valid is not None
    changed = one.inputs.values.clone()
    changed[:, 10] += 1
    seen = replace(one.inputs, valid=torch.ones_like(one.inputs.valid))
    with torch.no_grad():
        answers = [network(replace(seen, values=v), seen.frame) for v in (one.inputs.values, changed)]
    difference = (answers[1] - answers[0]).abs().amax(dim=(0, 2, 3, 4))
    assert (difference > 1e-6).nonzero().flatten().tolist() == [9, 10, 11]
    start = month_start(seen.frame.time[:, :1].numpy(), seen.frame.calendar)
    with torch.no_grad():
        month = network(seen, replace(seen.frame, time=torch.from_numpy(start)))
    torch.testing.assert_close(month, answers[0].mean(1, keepdim=True))


def test_the_first_epoch_fits_kriging_and_validates_it_before_anything_else_learns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("etesian.networks.kriging_fit._STEPS", 6)
    monkeypatch.setattr("etesian.networks.kriging_fit._AT_ONCE", 40)
    torch.manual_seed(0)
    options = {"residual": "kriging", "refine": 4, "variance": True, "daily": True, "hidden": 8}
    task = GapFillTask(lambda layout: filler(layout, **options), LAYOUT, STATISTICS, "nll", optimizer=adam(0.01))
    network = cast(GapFiller, task.network)
    assert network.kriging is not None
    before = network.kriging.kernels().clone()
    fit(task, tmp_path, epochs=1, daily=True, batches=2)
    kernels = network.kriging.kernels().clone()
    assert not torch.allclose(kernels, before)
    one = batch(200, daily=True)
    inputs = task.normalizer.normalize(at_sea(one))
    assert inputs.valid is not None
    kriged = network.kriging(inputs.filled(), inputs.valid, inputs.frame.time.double() / 86400, GRID).values
    torch.testing.assert_close(task.eval()._ask(one, inputs.frame).mean, kriged)
    # A run that goes on, or begins with such weights, learns at once.
    fit(task, tmp_path / "more", epochs=1, daily=True, batches=2)
    assert torch.equal(network.kriging.kernels(), kernels)
    assert not torch.allclose(task.eval()._ask(one, inputs.frame).mean, kriged)


@pytest.mark.parametrize("daily", [True, False])
def test_kriging_of_what_reaches_no_answer_is_left_out_and_answers_stay_the_same(
    daily: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    one = batch(1, daily=daily)
    assert one.targets is not None
    sea = torch.zeros(1, 1, 1, *GRID.shape)
    sea[..., :7] = 1
    land = replace(one, statics=Fields(1 - sea, Frame((LAND,), torch.zeros(1, 1, dtype=torch.int64), GRID)))
    task = GapFillTask(
        lambda layout: filler(layout, residual="kriging", refine=4, variance=True, daily=True), LAYOUT, STATISTICS
    )
    # Everything that is kriged enters the answers.
    for parameter in task.network.parameters():
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter, std=0.2)
    wanted = torch.zeros_like(one.targets.values, dtype=torch.bool)
    wanted[:, :8] = True
    asked = []
    estimate = LocalKriging.estimate

    def counted(self: LocalKriging, problem: Problem, channel: int) -> Any:
        asked.append(len(problem.points))
        return estimate(self, problem, channel)

    monkeypatch.setattr(LocalKriging, "estimate", counted)
    found = task.distribution(land, one.targets.frame, wanted if daily else None)
    fewer = sum(asked)
    monkeypatch.setattr("etesian.fill.task.kriging_only", lambda *_, **__: nullcontext())
    asked.clear()
    for values, every in zip(found, task.distribution(land, one.targets.frame), strict=True):
        assert values is not None
        assert every is not None
        where = wanted & (sea > 0)
        assert torch.equal(values.values[where], every.values[where])
        assert not torch.equal(values.values, every.values)
    # Columns as far as 12 points from the sea, and days as far as 3 from those wanted.
    assert fewer == 4 * 5 * (11 if daily else 30)
    assert sum(asked) == 4 * 6 * 30
