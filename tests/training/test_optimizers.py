"""Shampoo and SOAP train with our parameter groups, and go on from a checkpoint as if nothing had happened."""

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning as L
import pytest
import torch
from pytorch_optimizer import SOAP

from etesian.core import Layout
from etesian.forecast.data import ForecastData
from etesian.forecast.task import ForecastTask
from etesian.networks.climax import ClimaX
from etesian.training.checkpoint import SafeCheckpoints, best_and_last
from etesian.training.optimizers import Shampoo

MAKERS = {
    "shampoo": lambda p: Shampoo(p, lr=1e-3, every=2, start=2, block_size=16, weight_decay=0.1),
    "soap": lambda p: SOAP(p, lr=1e-3, precondition_frequency=2, max_precondition_dim=64, weight_decay=0.1),
}


def network(layout: Layout) -> ClimaX:
    return ClimaX(layout, dim=16, depth=1, heads=2, dropout=0.0, drop_path=0.0)


class Stop(L.Callback):
    """Ends training after some epochs, as an interruption would."""

    def __init__(self, epochs: int) -> None:
        self.epochs = epochs

    def on_train_epoch_end(self, trainer: L.Trainer, task: L.LightningModule) -> None:
        trainer.should_stop = trainer.current_epoch + 1 >= self.epochs


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", MAKERS)
def test_a_run_that_was_interrupted_ends_as_an_undisturbed_one(name: str, store: str, tmp_path: Path) -> None:
    def fit(folder: str, epochs: int, resume: bool = False) -> ForecastTask:
        data = ForecastData([store], ("2001-01-01", "2001-01-08"), ("2001-01-09", "2001-01-12"), [6], batch_size=10)
        torch.manual_seed(0)
        task = ForecastTask(network, data.layout, data.statistics, optimizer=MAKERS[name], warmup_steps=2)
        trainer = L.Trainer(
            accelerator="cpu", max_epochs=4, default_root_dir=tmp_path, logger=False, enable_progress_bar=False,
            enable_model_summary=False, plugins=[SafeCheckpoints()], use_distributed_sampler=False,
            callbacks=[*best_and_last(tmp_path / folder / "checkpoints"), Stop(epochs)],
        )  # fmt: skip
        last = tmp_path / folder / "checkpoints" / "last"
        trainer.fit(task, datamodule=data, ckpt_path=str(last) if resume else None)
        return task

    whole = fit("whole", 4)
    begun = fit("parts", 2).state_dict()
    parts = fit("parts", 4, resume=True).state_dict()
    for key, expected in whole.state_dict().items():
        assert torch.equal(parts[key], expected), key
    assert not torch.equal(begun["network.head.0.weight"], parts["network.head.0.weight"])


@pytest.mark.parametrize("name", MAKERS)
def test_weights_decay_but_not_those_of_groups_without(name: str) -> None:
    kept, decayed, idle = (torch.nn.Parameter(torch.ones(6, 4)) for _ in range(3))
    optimizer = MAKERS[name]([{"params": [decayed, idle]}, {"params": [kept], "weight_decay": 0.0}])
    for _ in range(3):
        kept.grad, decayed.grad = torch.zeros(6, 4), torch.zeros(6, 4)
        optimizer.step()
    assert torch.equal(kept, torch.ones(6, 4))
    assert torch.equal(idle, torch.ones(6, 4))
    steps = 3 if name == "shampoo" else 2
    torch.testing.assert_close(decayed.data, torch.full((6, 4), (1 - 1e-3 * 0.1) ** steps))


@pytest.mark.parametrize("name", MAKERS)
def test_a_matrix_that_is_badly_scaled_in_hidden_directions_is_found_sooner_than_by_adam(name: str) -> None:
    draw = torch.Generator().manual_seed(0)
    left, right = (torch.linalg.qr(torch.randn(8, 8, generator=draw))[0] * torch.logspace(0, 1.5, 8) for _ in range(2))
    truth = torch.randn(8, 8, generator=draw)

    def error(make: Any) -> float:
        guess = torch.nn.Parameter(torch.zeros(8, 8))
        optimizer = make([guess])
        for step in range(300):
            for group in optimizer.param_groups:
                group["lr"] = 0.1 * (1 - step / 300)
            optimizer.zero_grad()
            (left.T @ (guess - truth) @ right).square().mean().backward()
            optimizer.step()
        return float((guess - truth).detach().square().mean())

    makers = {
        "shampoo": lambda p: Shampoo(p, every=2, start=2),
        "soap": lambda p: SOAP(p, precondition_frequency=2, weight_decay=0.0),
    }
    assert error(makers[name]) < 0.5 * error(lambda p: torch.optim.Adam(p, betas=(0.9, 0.99)))


def test_a_state_is_loaded_where_another_parameter_was_never_used() -> None:
    used, idle = torch.nn.Parameter(torch.ones(3, 2)), torch.nn.Parameter(torch.ones(2))
    first = Shampoo([used, idle], every=1, start=1)
    used.grad = torch.randn(3, 2, generator=torch.Generator().manual_seed(0))
    first.step()
    second = Shampoo([used, idle], every=1, start=1)
    second.load_state_dict(first.state_dict())
    assert idle.grad is None
    assert idle not in second.state
    held = [optimizer.state[used]["pre_conditioner"].statistics for optimizer in (first, second)]
    assert torch.equal(held[0][0], held[1][0])
    assert not torch.equal(held[0][0], torch.eye(len(held[0][0])) * 1e-6)


@pytest.mark.parametrize("config", ["AdamPreconditionerConfig", "AdamGraftingConfig"])
def test_the_distributed_one_is_taken_where_it_is_installed(config: str, monkeypatch: pytest.MonkeyPatch) -> None:
    made: dict[str, Any] = {}

    def build(params: Any, **options: Any) -> torch.optim.Optimizer:
        made.update(options)
        return torch.optim.SGD(params)

    package = SimpleNamespace(__spec__=object(), DistributedShampoo=build)
    setattr(package, config, lambda **options: options)
    parameter = [torch.nn.Parameter(torch.ones(2, 2))]
    assert isinstance(Shampoo(parameter), Shampoo)
    monkeypatch.setitem(sys.modules, "distributed_shampoo", package)
    Shampoo(parameter, lr=0.5, betas=(0.8, 0.95), weight_decay=0.1, every=7, start=3, block_size=64)
    assert made == {
        "lr": 0.5, "betas": (0.8, 0.95), "weight_decay": 0.1, "epsilon": 1e-8, "precondition_frequency": 7,
        "start_preconditioning_step": 7, "max_preconditioner_dim": 64,
        "grafting_config": {"beta2": 0.95, "epsilon": 1e-8},
    }  # fmt: skip
