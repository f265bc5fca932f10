"""The transformer block."""

import pytest
import torch
from torch import nn

from etesian.nn.attention import Mlp, SelfAttention, TransformerBlock


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


def test_training_computes_the_same_gradients_as_the_block_written_out() -> None:
    torch.manual_seed(0)
    mlp = Mlp(8, 32).double()
    tokens = torch.randn(2, 3, 8, dtype=torch.float64, requires_grad=True)
    ours = mlp(tokens)
    theirs = mlp.contract(torch.nn.functional.gelu(mlp.expand(tokens)))
    wanted = [tokens, *mlp.parameters()]
    upstream = torch.randn_like(ours)
    for a, b in zip(
        torch.autograd.grad(ours, wanted, upstream), torch.autograd.grad(theirs, wanted, upstream), strict=True
    ):
        assert torch.allclose(a, b, rtol=0, atol=1e-12)


def test_the_recomputation_drops_the_same_activations() -> None:
    torch.manual_seed(0)
    mlp = Mlp(4, 32, dropout=0.5).double()
    with torch.no_grad():
        mlp.contract.weight.fill_(1.0)
        mlp.contract.bias.zero_()
        mlp.expand.weight.zero_()
        mlp.expand.bias.fill_(1.0)
    out = mlp(torch.zeros(1, 1, 4, dtype=torch.float64))
    out.sum().backward()
    # Only what was kept on the way forward may have a gradient: Σ over outputs of kept activations equals `out`.
    kept = mlp.contract.weight.grad
    assert kept is not None
    assert float(kept.sum()) == pytest.approx(float(out.detach().sum()))


def test_heads_must_divide_the_width() -> None:
    with pytest.raises(ValueError, match="3 heads do not divide a width of 16"):
        SelfAttention(16, 3)
