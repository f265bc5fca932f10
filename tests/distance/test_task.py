"""Lags are told from the clock, learned from growing waves, counted, written down and kept."""

import csv
from pathlib import Path

import lightning as L
import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from etesian.core import Batch, Channel, Fields, Frame, Grid, Layout
from etesian.core.errors import RecipeError
from etesian.core.statistics import Statistics
from etesian.distance.curves import LagCurves, lag_classes, top_hits, write_epoch
from etesian.distance.task import TimeLagTask, paper_optimizer
from etesian.networks.atmodist import AtmoDist, Autoencoder
from etesian.training.checkpoint import SafeCheckpoints, load_task

CHANNELS = (Channel("vorticity", 850), Channel("divergence", 850))
GRID = Grid(np.linspace(-31, 31, 32), np.arange(32.0) * 2)
LAYOUT = Layout(CHANNELS, (), GRID)
STATISTICS = Statistics(CHANNELS, np.zeros(2), np.ones(2), log1p_mean=np.zeros(2), log1p_std=np.full(2, 0.2))
LAGS = 3


def waves(batch: int, seed: int = 0) -> Batch:
    """Waves of random shape that double in every step of 6 h; the lag is 1, 2 or 3 steps."""
    lag = np.arange(batch) % LAGS + 1
    first = np.random.default_rng(seed).standard_normal((batch, 2, 32, 32))
    second = first * 2.0 ** lag[:, None, None, None]
    time = np.stack([0 * lag, lag * 6 * 3600], 1)
    values = torch.from_numpy(np.stack([first, second], 1)).float()
    return Batch(Fields(values, Frame(CHANNELS, torch.from_numpy(time), GRID)))


def task(**options: object) -> TimeLagTask:
    torch.manual_seed(0)
    return TimeLagTask(lambda layout: AtmoDist(layout, lags=LAGS), LAYOUT, STATISTICS, step_hours=6, **options)  # type: ignore[arg-type]


def trainer(folder: Path, epochs: int = 1) -> L.Trainer:
    return L.Trainer(
        default_root_dir=folder, max_epochs=epochs, accelerator="cpu", logger=False, plugins=[SafeCheckpoints()],
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False, num_sanity_val_steps=0,
        gradient_clip_val=5.0,
    )  # fmt: skip


def loader(*batches: Batch) -> DataLoader[Batch]:
    return DataLoader(batches, batch_size=None)  # type: ignore[arg-type]


def test_the_class_of_a_pair_is_the_number_of_steps_between_its_times() -> None:
    time = torch.tensor([[0, 6], [30, 48], [12, 24]]) * 3600
    assert lag_classes(Frame(CHANNELS, time, GRID), 6, 3).tolist() == [0, 2, 1]


@pytest.mark.parametrize(("hours", "lag"), [(9, "9"), (0, "0"), (24, "24"), (-6, "-6")])
def test_a_lag_without_a_class_is_refused(hours: int, lag: str) -> None:
    frame = Frame(CHANNELS, torch.tensor([[0, 6], [0, hours]]) * 3600, GRID)
    with pytest.raises(RecipeError, match=f"a lag of {lag} h, which is not among the 3 classes of 6 h"):
        lag_classes(frame, 6, 3)


def test_the_scale_makes_features_as_far_apart_as_states_over_the_upper_half_of_the_lags() -> None:
    curves = LagCurves(4, ["stem", "1.1"])
    curves.count.copy_(torch.tensor([1.0, 1, 2, 4]))
    curves.states.copy_(torch.tensor([9.0, 9, 2 * 3, 4 * 5]))
    curves.features[:, 1] = torch.tensor([1.0, 1, 2 * 7, 4 * 9])
    assert curves.scale() == curves.scale("1.1") == pytest.approx((3 * 7 + 5 * 9) / (7**2 + 9**2))
    with pytest.raises(RecipeError, match="no scale can be fitted"):
        curves.scale("stem")
    with pytest.raises(RecipeError, match=r"no layer '1.2'"):
        curves.scale("1.2")


def test_curves_are_the_mean_squared_differences_of_states_and_of_every_layer() -> None:
    batch, network = waves(6), task().network.eval()
    curves = LagCurves(LAGS, network.encoder.layers())
    first, second = batch.inputs.values.unbind(1)
    classes = lag_classes(batch.inputs.frame, 6, LAGS)
    with torch.no_grad():
        for part in (slice(0, 2), slice(2, 6)):
            curves.add(classes[part], first[part], second[part], network.encoder)
        for layer in ("stem", "3.2", "4.6"):
            apart = (network.features(first, layer) - network.features(second, layer)).square().mean((1, 2, 3))
            expected = [apart[classes == lag].mean() for lag in range(LAGS)]
            torch.testing.assert_close(curves.means(layer)[1], torch.stack(expected))
    states = (first - second).square().mean((1, 2, 3))
    torch.testing.assert_close(curves.means()[0], torch.stack([states[classes == lag].mean() for lag in range(LAGS)]))


def test_training_tells_the_lags_of_waves_apart_and_writes_down_how_well(tmp_path: Path) -> None:
    fitted = task(optimizer=lambda parameters: torch.optim.SGD(parameters, lr=0.01, momentum=0.9))
    for module in fitted.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 0.5  # Sixteen steps are few for running means.
    batches = [waves(24, seed) for seed in range(8)]
    trainer(tmp_path, epochs=2).fit(fitted, loader(*batches), loader(waves(24, seed=99)))
    with (tmp_path / "lags" / "scores.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["epoch"] for row in rows] == ["0", "1"]
    assert float(rows[-1]["val_accuracy"]) > 0.5
    assert float(rows[1]["train_loss"]) < float(rows[0]["train_loss"]) < 2
    assert round(float(rows[0]["train_accuracy"]) * 24 * 8, 2).is_integer()
    assert float(rows[-1]["val_loss"]) < np.log(LAGS)
    assert all(float(row["val_top3"]) == 1 for row in rows)
    table = np.loadtxt(tmp_path / "lags" / "confusion_001.csv", delimiter=",", skiprows=1)
    assert table[:, 0].tolist() == [6, 12, 18]
    assert table[:, 1:].sum(1).tolist() == [8, 8, 8]
    assert np.trace(table[:, 1:]) / 24 == pytest.approx(float(rows[-1]["val_accuracy"]), abs=1e-5)
    assert (tmp_path / "lags" / "confusion_001.png").stat().st_size > 5000


def test_a_distance_is_trained_to_grow_with_the_lag(tmp_path: Path) -> None:
    torch.manual_seed(0)
    fitted = TimeLagTask(
        lambda layout: AtmoDist(layout, lags=LAGS, order="distance"), LAYOUT, STATISTICS, step_hours=6,
        optimizer=lambda parameters: torch.optim.SGD(parameters, lr=0.01, momentum=0.9),
    )  # fmt: skip
    for module in fitted.modules():
        if isinstance(module, torch.nn.BatchNorm2d | torch.nn.BatchNorm1d):
            module.momentum = 0.5
    trainer(tmp_path).fit(fitted, loader(*(waves(24, seed) for seed in range(8))), loader(waves(24, seed=99)))
    features = fitted.curves.means()[1]
    assert (features.diff() > 0.2 * features[0]).all()
    assert float(fitted.trainer.callback_metrics["val_loss"]) < np.log(LAGS)


def test_rows_of_epochs_that_are_run_again_are_replaced(tmp_path: Path) -> None:
    confusion = np.array([[3, 1], [0, 4]])
    for epoch, loss in ((0, 1.0), (1, 2.0), (2, 3.0), (1, 9.0)):
        write_epoch(tmp_path, epoch, {"val_loss": loss}, confusion, 6)
    with (tmp_path / "scores.csv").open() as file:
        assert [(row["epoch"], row["val_loss"]) for row in csv.DictReader(file)] == [("0", "1"), ("1", "9")]


def test_top_hits_count_the_highest_scores() -> None:
    scores = torch.tensor([[5.0, 4, 3, 2], [5.0, 4, 3, 2], [0.0, 0, 0, 9]])
    assert top_hits(scores, torch.tensor([2, 3, 3])) == 2
    assert top_hits(scores, torch.tensor([0, 1, 3]), count=1) == 2


@pytest.mark.usefixtures("no_rendering")
def test_the_learning_rate_falls_only_where_the_loss_stays_behind_the_fixed_epochs(tmp_path: Path) -> None:
    rates = {}
    for plateau_from in (0, 9):
        fitted = task(
            optimizer=lambda parameters: torch.optim.SGD(parameters, lr=1e-6), patience=0, plateau_from=plateau_from
        )
        for module in fitted.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.momentum = 0.0  # So that the validation loss stays what it is.
        trainer(tmp_path / str(plateau_from), epochs=3).fit(fitted, loader(waves(6)), loader(waves(6)))
        rates[plateau_from] = fitted.trainer.optimizers[0].param_groups[0]["lr"]
    assert rates == {0: pytest.approx(1e-8), 9: 1e-6}


@pytest.mark.usefixtures("no_rendering")
def test_a_run_comes_back_with_its_scores_and_its_curves(tmp_path: Path) -> None:
    fitted = task()
    one = trainer(tmp_path)
    one.fit(fitted, loader(waves(12)), loader(waves(12, seed=1)))
    one.save_checkpoint(tmp_path / "checkpoint")
    loaded = load_task(tmp_path / "checkpoint")
    assert isinstance(loaded, TimeLagTask)
    assert torch.equal(loaded(waves(3)), fitted.eval()(waves(3)))
    assert loaded.curves.scale() == fitted.curves.scale() > 0
    assert loaded.network.encoder.layers() == loaded.curves.layers


def test_the_optimiser_is_the_papers_with_no_decay_of_biases_and_normalisation() -> None:
    fitted = task()
    optimizer = paper_optimizer(fitted.parameter_groups())
    decay = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    for name, parameter in fitted.network.named_parameters():
        # The penalty 1e-4·w² has the gradient 2e-4·w.
        assert decay[id(parameter)] == (0 if parameter.ndim == 1 else 2e-4), name
    assert (optimizer.defaults["lr"], optimizer.defaults["momentum"]) == (0.1, 0.9)


def test_another_network_and_predictions_of_fields_are_refused() -> None:
    with pytest.raises(RecipeError, match="trains AtmoDist, not Autoencoder"):
        TimeLagTask(lambda layout: Autoencoder(layout), LAYOUT, STATISTICS, step_hours=6)  # type: ignore[arg-type, return-value]
    with pytest.raises(RecipeError, match="etesian evaluate --distance"):
        task().predict(waves(3), waves(3).inputs.frame)
