"""The learning rate rises in a line and falls along a cosine."""

from itertools import pairwise

import pytest
import torch

from etesian.training.optimizers import warmup_cosine


def rates(warmup: int, total: int, floor: float = 0.0) -> list[float]:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=2.0)
    schedule = warmup_cosine(optimizer, warmup, total, floor)
    found = []
    for _ in range(total + 2):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return found


def test_it_rises_linearly_reaches_the_full_rate_and_falls_to_the_floor() -> None:
    found = rates(4, 24, floor=0.1)
    assert found[:5] == pytest.approx([2 * k / 5 for k in (1, 2, 3, 4, 5)])
    assert found[14] == pytest.approx(2 * 0.55)
    assert found[24] == found[25] == pytest.approx(0.2)
    assert all(a >= b for a, b in pairwise(found[4:]))


def test_without_warmup_it_begins_with_the_full_rate() -> None:
    assert rates(0, 10)[0] == 2.0
    assert rates(0, 10)[10] == pytest.approx(0.0)
