"""Dropping activations and residual branches."""

import pytest
import torch

from etesian.nn.dropout import Dropout, DropPath


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_the_asked_share_is_dropped_and_the_mean_kept(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    values = torch.ones(333, 333, dtype=dtype, requires_grad=True)
    out = Dropout(0.1)(values)
    assert out.dtype == dtype
    assert float((out == 0).double().mean()) == pytest.approx(0.1, abs=0.004)
    assert float(out.double().mean()) == pytest.approx(1.0, abs=0.01)
    out.sum().backward()
    assert torch.equal(values.grad, out.detach())


def test_neighbours_are_dropped_independently_and_a_seed_repeats_them() -> None:
    torch.manual_seed(0)
    first = Dropout(0.5)(torch.ones(200_000)).gt(0).double()
    for shift in (1, 2, 3, 4):
        correlation = torch.corrcoef(torch.stack([first[:-shift], first[shift:]]))[0, 1]
        assert abs(float(correlation)) < 0.01
    torch.manual_seed(0)
    assert torch.equal(Dropout(0.5)(torch.ones(200_000)).gt(0).double(), first)


def test_nothing_is_dropped_outside_training() -> None:
    values = torch.randn(5)
    assert torch.equal(Dropout(0.5).eval()(values), values)
    assert torch.equal(Dropout(0.0)(values), values)
    with pytest.raises(ValueError, match=r"share of 1\.0"):
        Dropout(1.0)


def test_dropped_paths_are_whole_samples_and_keep_the_mean() -> None:
    torch.manual_seed(0)
    drop = DropPath(0.25)
    out = drop(torch.ones(4000, 3, 2))
    assert torch.equal(out, out[:, :1, :1].expand_as(out))
    assert out.unique().tolist() == pytest.approx([0, 4 / 3])
    assert float(out.mean()) == pytest.approx(1.0, abs=0.04)
    assert torch.equal(drop.eval()(out), out)
