"""The transformer block."""

import pytest
import torch
from torch import nn

from etesian.nn.attention import DropPath, SelfAttention, TransformerBlock


def test_self_attention_is_pytorchs() -> None:
    ours = SelfAttention(24, 4).double()
    theirs = nn.MultiheadAttention(24, 4, batch_first=True).double()
    theirs.in_proj_weight, theirs.in_proj_bias = ours.qkv.weight, ours.qkv.bias
    theirs.out_proj.weight, theirs.out_proj.bias = ours.out.weight, ours.out.bias
    tokens = torch.randn(2, 5, 24, dtype=torch.float64)
    assert torch.allclose(ours(tokens), theirs(tokens, tokens, tokens)[0], rtol=0, atol=1e-12)


def test_a_block_treats_tokens_alike() -> None:
    block = TransformerBlock(16, 2).double()
    tokens, order = torch.randn(2, 7, 16, dtype=torch.float64), torch.randperm(7)
    assert torch.allclose(block(tokens)[:, order], block(tokens[:, order]), rtol=0, atol=1e-12)


def test_dropped_paths_are_whole_samples_and_keep_the_mean() -> None:
    torch.manual_seed(0)
    drop = DropPath(0.25)
    out = drop(torch.ones(4000, 3, 2))
    assert torch.equal(out, out[:, :1, :1].expand_as(out))
    assert out.unique().tolist() == pytest.approx([0, 4 / 3])
    assert float(out.mean()) == pytest.approx(1.0, abs=0.04)
    assert torch.equal(drop.eval()(out), out)


def test_heads_must_divide_the_width() -> None:
    with pytest.raises(ValueError, match="3 heads do not divide a width of 16"):
        SelfAttention(16, 3)
