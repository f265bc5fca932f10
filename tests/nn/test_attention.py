"""The transformer block, what dropout draws, and the fused aggregation against the same step written out."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from etesian.nn.attention import Mlp, SelfAttention, TransformerBlock, VariableAggregation
from etesian.nn.dropout import Dropout, DropPath


def test_self_attention_is_pytorchs() -> None:
    ours = SelfAttention(24, 4).double()
    theirs = nn.MultiheadAttention(24, 4, batch_first=True).double()
    theirs.in_proj_weight, theirs.in_proj_bias = ours.qkv.weight, ours.qkv.bias
    theirs.out_proj.weight, theirs.out_proj.bias = ours.out.weight, ours.out.bias
    tokens = torch.randn(2, 5, 24, dtype=torch.float64)
    assert torch.allclose(ours(tokens), theirs(tokens, tokens, tokens)[0], rtol=0, atol=1e-12)


@pytest.mark.parametrize("training", [True, False])
def test_wide_heads_of_many_tokens_differ_from_single_precision_by_rounding(training: bool) -> None:
    torch.manual_seed(0)
    attention, tokens, upstream = SelfAttention(64, 1), torch.randn(1, 200, 64), torch.randn(1, 200, 64)
    with torch.set_grad_enabled(training):
        exact = attention(tokens)
        with torch.autocast("cpu", torch.bfloat16):
            found = attention(tokens)
    assert (found.float() - exact).norm() < 2**-7 * exact.norm()
    if training:
        wanted = torch.autograd.grad(exact, attention.qkv.weight, upstream)[0]
        gradient = torch.autograd.grad(found, attention.qkv.weight, upstream.bfloat16())[0]
        assert (gradient - wanted).norm() < 2**-6 * wanted.norm()


def test_in_half_precision_attention_itself_computes_in_single() -> None:
    torch.manual_seed(0)
    attention, tokens = SelfAttention(32, 4), torch.randn(2, 9, 32)
    with torch.autocast("cpu", torch.bfloat16):
        query, key, value = attention.qkv(tokens).unflatten(-1, (3, 4, -1)).permute(2, 0, 3, 1, 4).float()
        found = attention(tokens)
    scores = (query @ key.transpose(-1, -2) / 8**0.5).softmax(-1)
    mixed = (scores @ value).transpose(1, 2).flatten(2).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        expected = attention.out(mixed)
    assert found.dtype == torch.bfloat16
    # One rounding of what attention gives, and none of its scores.
    torch.testing.assert_close(found, expected, rtol=0, atol=2**-8 * float(expected.detach().abs().max()))


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


@pytest.mark.parametrize("share", [0.001, 0.4, 0.95])
def test_every_place_is_dropped_as_often_the_first_and_the_last_like_others(share: float) -> None:
    torch.manual_seed(0)
    drop, count = Dropout(share), 4000
    dropped = torch.stack([drop(torch.ones(7)) == 0 for _ in range(count)]).double().mean(0)
    deviation = (share * (1 - share) / count) ** 0.5
    assert float((dropped - share).abs().max()) < 4 * deviation


def test_what_is_dropped_follows_the_order_of_places_and_not_of_memory() -> None:
    values = torch.ones(30, 40).T.requires_grad_()
    torch.manual_seed(0)
    out = Dropout(0.5)(values)
    torch.manual_seed(0)
    assert torch.equal(out, Dropout(0.5)(torch.ones(40, 30)))
    out.sum().backward()
    assert torch.equal(values.grad, out.detach())


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


def written_out(step: VariableAggregation, pixels: Tensor, streams: Tensor, missing: Tensor | None = None) -> Tensor:
    """Build every token and let PyTorch's multi-head attention aggregate them."""
    tokens = torch.einsum("blsp,sdp->blsd", pixels, step.token_weight[streams])
    if missing is not None and step.missing_weight is not None:
        tokens = tokens + torch.einsum("blsp,sdp->blsd", missing, step.missing_weight[streams])
    tokens = (tokens + (step.token_bias + step.variable_embed)[streams]).flatten(0, 1).transpose(0, 1)
    mixed, _ = F.multi_head_attention_forward(
        step.query.expand(1, tokens.shape[1], -1),
        tokens,
        tokens,
        step.query.shape[0],
        step.heads,
        step.in_proj_weight,
        step.in_proj_bias,
        None,
        None,
        False,
        0.0,
        step.out_proj.weight,
        step.out_proj.bias,
    )
    return mixed[0].view(*pixels.shape[:2], -1)


def random_step(dtype: torch.dtype = torch.float64, *, points: int = 6, validity: bool = False) -> VariableAggregation:
    torch.manual_seed(3)
    step = VariableAggregation(7, points, 24, 4, validity=validity)
    with torch.no_grad():
        for parameter in step.parameters():
            parameter.normal_(std=0.3)
    return step.to(dtype)


def difference(ours: Tensor, theirs: Tensor) -> float:
    return float((ours - theirs).detach().norm() / theirs.detach().norm())


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-12)])
@pytest.mark.parametrize(("points", "validity"), [(6, False), (6, True), (1, False)])
def test_outputs_and_all_gradients_are_those_of_the_step_written_out(
    dtype: torch.dtype, tolerance: float, points: int, validity: bool
) -> None:
    step = random_step(dtype, points=points, validity=validity)
    pixels = torch.randn(2, 5, 4, points, dtype=dtype, requires_grad=True)
    missing = (torch.rand(2, 5, 4, 6) < 0.3).to(dtype) if validity else None
    streams = torch.tensor([5, 0, 3, 6])
    ours, theirs = step(pixels, streams, missing), written_out(step, pixels, streams, missing)
    assert difference(ours, theirs) < tolerance

    upstream = torch.randn_like(ours)
    wanted = {"pixels": pixels, **dict(step.named_parameters())}
    mine = torch.autograd.grad(ours, list(wanted.values()), upstream)
    reference = torch.autograd.grad(theirs, list(wanted.values()), upstream)
    dim = 24
    for name, a, b in zip(wanted, mine, reference, strict=True):
        if name == "in_proj_bias":
            # The key's bias shifts all scores alike: the reference is only zero up to rounding.
            assert a[dim : 2 * dim].abs().max() == 0
            assert b[dim : 2 * dim].abs().max() < tolerance * b.norm()
        assert difference(a, b) < tolerance, name


def test_bfloat16_autocast_stays_within_its_rounding_and_keeps_weights_in_float32() -> None:
    step = random_step(torch.float32)
    pixels, streams = torch.randn(2, 5, 7, 6), torch.arange(7)
    with torch.autocast("cpu", torch.bfloat16):
        low = step(pixels, streams)
    assert low.dtype == torch.bfloat16
    assert difference(low.float(), written_out(step, pixels, streams)) < 0.01
    low.float().sum().backward()
    assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in step.parameters())


def test_leaving_a_variable_out_is_masking_it_in_the_softmax() -> None:
    step = random_step()
    pixels = torch.randn(1, 3, 7, 6, dtype=torch.float64)
    kept = torch.tensor([0, 1, 2, 4, 5, 6])
    without = step(pixels[:, :, kept], kept)

    tokens = torch.einsum("blsp,sdp->blsd", pixels, step.token_weight) + step.token_bias + step.variable_embed
    query_weight, key_weight, value_weight = step.in_proj_weight.chunk(3)
    query_bias, key_bias, value_bias = step.in_proj_bias.chunk(3)
    query = (query_weight @ step.query + query_bias).view(4, 6)
    key = (tokens @ key_weight.T + key_bias).view(1, 3, 7, 4, 6)
    scores = torch.einsum("hk,blshk->blsh", query, key) / 6**0.5
    scores[:, :, 3] = -torch.inf
    value = (tokens @ value_weight.T + value_bias).view(1, 3, 7, 4, 6)
    mixed = torch.einsum("blsh,blshk->blhk", scores.softmax(dim=2), value).flatten(2)
    assert difference(without, step.out_proj(mixed)) < 1e-12


def test_the_order_in_which_variables_are_given_does_not_matter() -> None:
    step = random_step()
    pixels = torch.randn(2, 3, 7, 6, dtype=torch.float64)
    order = torch.randperm(7)
    assert difference(step(pixels[:, :, order], order), step(pixels, torch.arange(7))) < 1e-12


def test_an_embedding_of_missing_values_has_no_effect_where_nothing_is_missing() -> None:
    step = random_step(torch.float32, validity=True)
    pixels, streams = torch.randn(2, 3, 7, 6), torch.arange(7)
    assert difference(step(pixels, streams, torch.zeros_like(pixels)), step(pixels, streams)) < 1e-6
    some = torch.zeros_like(pixels)
    some[0, 0] = 1
    changed = (step(pixels, streams, some) - step(pixels, streams)).abs().amax(dim=-1)
    assert changed[0, 0] > 1e-2
    assert changed.flatten()[1:].max() < 1e-5


@pytest.mark.parametrize("points", [6, 1])
def test_where_all_of_a_variable_is_missing_it_is_as_if_it_had_not_been_given(points: int) -> None:
    step = random_step(points=points, validity=True)
    pixels, streams = torch.randn(2, 3, 7, points, dtype=torch.float64), torch.arange(7)
    missing = torch.zeros_like(pixels)
    missing[0, 1, 4], missing[1, 2] = 1, 1
    answer, kept = step(pixels, streams, missing), streams[streams != 4]
    assert difference(answer[0, 1], step(pixels[:, :, kept], kept)[0, 1]) < 1e-12
    assert difference(answer[1, :2], step(pixels, streams)[1, :2]) < 1e-12
    value_bias = step.in_proj_bias.chunk(3)[2]
    assert difference(answer[1, 2], step.out_proj(value_bias)) < 1e-12


def test_heads_of_the_aggregation_must_divide_the_width() -> None:
    with pytest.raises(ValueError, match="5 heads do not divide a width of 24"):
        VariableAggregation(7, 6, 24, 5)
