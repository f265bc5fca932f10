"""Every network and task on a CUDA device that is pretended: what would be refused there, and numbers as on the CPU."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch
from lightning import LightningModule
from lightning.pytorch.accelerators import CPUAccelerator
from lightning.pytorch.callbacks import EMAWeightAveraging
from lightning.pytorch.strategies import SingleDeviceStrategy
from pretended import PretendedError, pretend, real
from small_tasks import (
    CASES,
    GLOBE,
    Case,
    adversarial,
    adversarial_members,
    apart,
    fill_daily,
    fill_kriging,
    fill_mean,
    fill_monthly,
    gappy_sea,
    predicted,
    quiet,
    trained,
    validated,
)
from torch import Tensor

import etesian as et
from etesian.core import Batch, Frame
from etesian.fill.run import Filler
from etesian.nn import neighborhood
from etesian.samples.windows import Period
from etesian.training.checkpoint import SafeCheckpoints, best_and_last
from etesian.training.task import Task

pytestmark = pytest.mark.filterwarnings("ignore")

WAITS = {fill_monthly: 1, fill_daily: 1, fill_mean: 1, fill_kriging: 3, adversarial: 1, adversarial_members: 1}
"""How often the host may wait in a step of training: to list tokens, to look for neighbours, to see who is ahead."""


def dense(query: Tensor, key: Tensor, value: Tensor, block_mask: Any) -> Tensor:
    """Attend as compiled FlexAttention does, by scores of every query with every key and a mask."""
    place = torch.arange(query.shape[-2], device=query.device)
    visited = block_mask.to_dense()[0, 0].bool().repeat_interleave(128, 0).repeat_interleave(128, 1)
    seen = visited & block_mask.mask_mod(place[0], place[0], place[:, None], place[None])
    with torch.autocast("cuda", enabled=False):
        scores = query.float() @ key.float().transpose(-1, -2) * query.shape[-1] ** -0.5
        weights = scores.masked_fill(~seen, float("-inf")).softmax(-1).nan_to_num(0.0)
        return (weights @ value.float()).to(query.dtype)


@pytest.fixture(autouse=True)
def attention(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(neighborhood, "_compiled_flex", lambda: dense)


def there(task: Task, batch: Batch) -> Case:
    return quiet(copy.deepcopy(task)).to("cuda"), batch.pin_memory().to("cuda")


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.__name__)
def test_everything_runs_on_a_gpu_and_the_host_goes_ahead(
    case: Callable[[], Case], monkeypatch: pytest.MonkeyPatch
) -> None:
    # At most of the steps nobody looks at the loss.
    monkeypatch.setattr(LightningModule, "global_step", 1)
    torch.manual_seed(0)
    task, batch = case()
    twin = quiet(copy.deepcopy(task))
    loss, answer = trained(twin, batch), predicted(twin, batch)
    gradients = {name: p.grad for name, p in twin.named_parameters() if p.grad is not None}
    largest = max(float(gradient.abs().max()) for gradient in gradients.values())
    with pretend() as log:
        on_gpu, moved = there(task, batch)
        assert apart(trained(on_gpu, moved), loss) < 1e-4
        for name, parameter in on_gpu.named_parameters():
            if name in gradients:
                off = (real(parameter.grad) - gradients[name]).abs().max()
                assert off < 5e-3 * gradients[name].abs().max() + 1e-6 * largest, name
        assert apart(predicted(on_gpu, moved), answer) < 1e-3
        validated(on_gpu, moved)
        log.waits.clear()
        trained(on_gpu, batch.pin_memory().to("cuda"))
        assert log.count <= WAITS.get(case, 0), log
    with pretend(), torch.autocast("cuda", torch.bfloat16):
        on_gpu, moved = there(task, batch)
        assert apart(trained(on_gpu, moved), loss) < 0.2
        validated(on_gpu, moved)
        predicted(on_gpu, moved)
    with pretend(), torch.autocast("cuda", torch.float16):
        assert apart(trained(*there(task, batch)), loss) < 0.2


class Host(CPUAccelerator):
    """Lets Lightning train on whatever device it is told."""

    def setup_device(self, device: torch.device) -> None:
        """Look at nothing."""


def trainer(folder: Path, epochs: int) -> L.Trainer:
    return L.Trainer(
        strategy=SingleDeviceStrategy(torch.device("cuda", 0), accelerator=Host()), precision="bf16-mixed",
        max_epochs=epochs, gradient_clip_val=1.0, use_distributed_sampler=False, num_sanity_val_steps=1, logger=False,
        enable_progress_bar=False, enable_model_summary=False, plugins=[SafeCheckpoints()],
        callbacks=[*best_and_last(folder), EMAWeightAveraging(decay=0.5)],
    )  # fmt: skip


def test_a_run_trains_goes_on_and_forecasts_on_a_gpu(store: str, tmp_path: Path) -> None:
    data = et.ForecastData([store], ("2001-01-01", "2001-01-04"), ("2001-01-05", "2001-01-07"), [24], batch_size=4)

    def task() -> et.ForecastTask:
        return et.ForecastTask(
            lambda own: et.ClimaX(own, patch=2, dim=16, depth=1, heads=2, dropout=0.5), data.layout, data.statistics
        )

    with pretend():
        trainer(tmp_path, 1).fit(task(), data)
        going_on = trainer(tmp_path, 2)
        going_on.fit(task(), data, ckpt_path=str(tmp_path / "last"))
        assert going_on.current_epoch == 2
        assert torch.get_float32_matmul_precision() == "highest"
        run = et.load(tmp_path / "last")
        assert (run.device, run.precision) == (torch.device("cuda"), "bf16-mixed")
        half, single = (
            et.load(tmp_path / "last", precision=precision).forecast(store, ("2001-01-05", "2001-01-06"), [24])
            for precision in (None, "32-true")
        )
    saved = torch.load(tmp_path / "last" / "training.pt", weights_only=True)
    assert saved["random_states"][0].keys() == {"cpu", "cuda"}
    exact = et.load(tmp_path / "last").forecast(store, ("2001-01-05", "2001-01-06"), [24])["temperature"].values
    spread = exact.std()
    assert abs(single["temperature"].values - exact).max() < 1e-4 * spread
    assert 0 < abs(half["temperature"].values - exact).max() < 0.1 * spread


def test_gaps_are_filled_on_a_gpu_as_on_the_cpu(tmp_path: Path) -> None:
    task, store = gappy_sea(tmp_path / "sea.zarr")

    def filled(task: Task) -> dict[str, np.ndarray]:
        filler = Filler(task.eval(), store, "missing")
        return filler.fill(*filler.stretches(Period("2001-03", "2001-03")))

    expected = filled(task)
    with pretend():
        found = filled(copy.deepcopy(task).to("cuda"))
    for name, each in expected.items():
        np.testing.assert_allclose(found[name], each, rtol=1e-5, err_msg=name)


def test_times_come_back_to_the_host() -> None:
    with pretend():
        time = torch.zeros(1, 2, dtype=torch.int64, device="cuda")
        assert Frame((), time, GLOBE).time.numpy().tolist() == [[0, 0]]


def test_what_is_pretended_refuses_and_counts_as_cuda_does() -> None:
    with pretend() as log:
        ours = torch.arange(6.0, device="cuda").view(2, 3)
        assert ours.device == torch.device("cuda:0")
        for wrong in (
            lambda: ours + torch.ones(3),
            lambda: torch.cat([ours, torch.ones(2, 3)]),
            lambda: torch.ones(3) @ ours.T,
            lambda: ours.index_copy(1, torch.tensor([0], device="cuda"), ours[:, :1].half()),
            lambda: ours.masked_scatter(ours > 2, ours.bfloat16()),
            ours.numpy,
        ):
            with pytest.raises((PretendedError, TypeError)):
                wrong()
        log.waits.clear()
        assert float((ours + torch.tensor(1.0)).sum()) == 21
        assert ours[:, [2, 0]].tolist() == [[2, 0], [5, 3]]
        assert bool((ours[ours > 3] == torch.tensor([4.0, 5.0], device="cuda")).all())
        torch.ones(3).pin_memory().to("cuda", non_blocking=True)
        kinds = [kind for (kind, _), count in log.waits.items() for _ in range(count)]
        assert sorted(kinds) == [
            "index by a mask", "index of the host", "item", "item", "to the device", "to the host"
        ]  # fmt: skip
        with torch.autocast("cuda", torch.bfloat16):
            assert (ours @ ours.T).dtype == torch.bfloat16
            assert ours.bfloat16().softmax(-1).dtype == torch.float32
