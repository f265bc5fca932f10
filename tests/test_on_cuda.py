"""Every network and task on a CUDA device that is pretended: what would be refused there, and numbers as on the CPU."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from lightning import LightningModule
from pretended import PretendedError, pretend, real
from small_tasks import CASES, Case, apart, fill_kriging, predicted, quiet, trained, validated
from torch import Tensor

from etesian.core import Batch
from etesian.nn import neighborhood
from etesian.training.task import Task

pytestmark = pytest.mark.filterwarnings("ignore")

WAITS = {fill_kriging: 3}
"""How often the host may wait in a step of training, if not once."""


def dense(query: Tensor, key: Tensor, value: Tensor, block_mask: Any) -> Tensor:
    """Attend as compiled FlexAttention does, of all keys with a mask; without the blocks that are left out."""
    place = torch.arange(query.shape[-2], device=query.device)
    seen = block_mask.mask_mod(place[0], place[0], place[:, None], place[None])
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
        assert log.count <= WAITS.get(case, 1), log
    with pretend(), torch.autocast("cuda", torch.bfloat16):
        on_gpu, moved = there(task, batch)
        assert apart(trained(on_gpu, moved), loss) < 0.2
        validated(on_gpu, moved)
        predicted(on_gpu, moved)
    with pretend(), torch.autocast("cuda", torch.float16):
        assert apart(trained(*there(task, batch)), loss) < 0.2


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
