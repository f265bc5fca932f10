"""Neighbourhood attention gives what its definition says, whatever computes it."""

import importlib.util
import sys
from types import SimpleNamespace

import jaxtyping
import pytest
import torch
from torch import Tensor

from etesian.nn import neighborhood
from etesian.nn.neighborhood import (
    BlockOrder,
    axes,
    choose_backend,
    flex_attention,
    natten_attention,
    natten_has_kernels,
    neighborhood_attention,
)
from etesian.nn.neighborhood_block import NeighborhoodAttention
from etesian.nn.tokens import rotate, sincos_3d

Triple = tuple[int, int, int]

# Odd and even sizes and windows, windows as long as an axis and longer, and one that nearly closes the circle.
CASES: list[tuple[Triple, Triple]] = [
    ((3, 9, 13), (3, 3, 5)),
    ((4, 7, 10), (2, 4, 6)),
    ((2, 5, 6), (5, 7, 9)),
    ((6, 11, 17), (1, 1, 1)),
    ((9, 9, 20), (4, 5, 8)),
    ((1, 6, 30), (1, 3, 29)),
    ((7, 3, 19), (3, 9, 4)),
    ((2, 12, 8), (2, 12, 8)),
]


def window_places(size: int, window: int, *, periodic: bool) -> Tensor:
    """List the keys of every query, by the definition."""
    window = min(window, size)
    start = torch.arange(size) - window // 2
    if not periodic:
        start = start.clamp(0, size - window)
    return (start[:, None] + torch.arange(window)) % size


def by_definition(query: Tensor, key: Tensor, value: Tensor, window: Triple, *, periodic: bool = True) -> Tensor:
    """Gather the window of every query."""
    depth, lat, lon = (
        window_places(n, w, periodic=periodic and i == 2)
        for i, (n, w) in enumerate(zip(query.shape[1:4], window, strict=True))
    )
    places = (depth[:, None, None, :, None, None], lat[None, :, None, None, :, None], lon[None, None, :, None, None])
    keys, values = (x[:, *places].flatten(4, 6) for x in (key, value))
    scores = torch.einsum("bzyxhd,bzyxnhd->bzyxhn", query, keys) * query.shape[-1] ** -0.5
    return torch.einsum("bzyxhn,bzyxnhd->bzyxhd", scores.softmax(-1), values)


def draw(
    shape: Triple, *, batch: int = 2, heads: int = 2, dim: int = 5, dtype: torch.dtype = torch.float64
) -> list[Tensor]:
    random = torch.Generator().manual_seed(0)
    made = [torch.randn(batch, *shape, heads, dim, generator=random, dtype=torch.float64) for _ in range(4)]
    return [x.to(dtype).requires_grad_() for x in made]


@pytest.mark.parametrize(("shape", "window"), CASES)
def test_outputs_and_gradients_are_those_of_the_definition(shape: Triple, window: Triple) -> None:
    query, key, value, sensitivity = draw(shape)
    out = neighborhood_attention(query, key, value, window)
    expected = by_definition(query, key, value, window)
    torch.testing.assert_close(out, expected, rtol=0, atol=1e-13)
    gradients = (torch.autograd.grad(o, (query, key, value), sensitivity) for o in (out, expected))
    for found, right in zip(*gradients, strict=True):
        torch.testing.assert_close(found, right, rtol=0, atol=1e-13)


@pytest.mark.parametrize("tile", [(1, 1, 1), (2, 3, 4), (3, 2, 5), (3, 9, 7), (2, 4, 3)])
def test_tiles_of_any_size_give_the_same_also_where_they_do_not_divide(
    tile: Triple, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(neighborhood, "choose_tile", lambda along: tile)
    query, key, value, sensitivity = draw((3, 9, 13))
    out = neighborhood_attention(query, key, value, (2, 3, 4))
    expected = by_definition(query, key, value, (2, 3, 4))
    torch.testing.assert_close(out, expected, rtol=0, atol=1e-13)
    gradients = (torch.autograd.grad(o, (query, key, value), sensitivity) for o in (out, expected))
    for found, right in zip(*gradients, strict=True):
        torch.testing.assert_close(found, right, rtol=0, atol=1e-13)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 3e-6), (torch.bfloat16, 4e-2)])
@pytest.mark.parametrize("dim", [1, 8, 32, 33])
def test_lower_precisions_and_any_head_size_come_close(dtype: torch.dtype, tolerance: float, dim: int) -> None:
    exact = draw((3, 8, 12), dim=dim)
    rounded = [x.detach().to(dtype).requires_grad_() for x in exact]
    out = neighborhood_attention(*rounded[:3], (3, 5, 5))
    assert out.dtype == dtype
    exact = [x.detach().double().requires_grad_() for x in rounded]
    expected = by_definition(*exact[:3], (3, 5, 5))
    found = [out, *torch.autograd.grad(out, rounded[:3], rounded[3])]
    right = [expected, *torch.autograd.grad(expected, exact[:3], exact[3])]
    for a, b in zip(found, right, strict=True):
        assert float((a.double() - b).detach().abs().max()) <= tolerance * float(b.detach().abs().max())


@pytest.mark.parametrize("window", [(2, 3, 5), (3, 4, 4), (2, 3, 13)])
def test_a_turn_of_the_globe_turns_the_answer(window: Triple) -> None:
    query, key, value, _ = draw((3, 7, 13))
    out = neighborhood_attention(query, key, value, window)
    for shift in (1, 6, 12):
        turned = neighborhood_attention(*(x.roll(shift, 3) for x in (query, key, value)), window)
        torch.testing.assert_close(turned, out.roll(shift, 3), rtol=0, atol=1e-14)


def test_a_window_of_the_whole_globe_is_plain_attention() -> None:
    query, key, value, _ = draw((2, 4, 6))
    out = neighborhood_attention(query, key, value, (9, 9, 9))
    flat = (x.flatten(1, 3).transpose(1, 2) for x in (query, key, value))
    expected = torch.nn.functional.scaled_dot_product_attention(*flat).transpose(1, 2).view_as(out)
    torch.testing.assert_close(out, expected, rtol=0, atol=1e-14)


def test_a_query_sees_a_full_window_shifted_inward_at_edges_and_across_the_seam() -> None:
    depth, lat, lon = axes((5, 6, 8), (3, 4, 5))
    seen = [
        axis.contains(torch.tensor([[0]]), torch.arange(axis.size))[0].nonzero()[:, 0].tolist()
        for axis in (depth, lat, lon)
    ]
    assert seen == [[0, 1, 2], [0, 1, 2, 3], [0, 1, 2, 6, 7]]
    last = [
        axis.contains(torch.tensor([[axis.size - 1]]), torch.arange(axis.size))[0].nonzero()[:, 0].tolist()
        for axis in (depth, lat, lon)
    ]
    assert last == [[2, 3, 4], [2, 3, 4, 5], [0, 1, 5, 6, 7]]
    assert lat.contains(torch.tensor(3), torch.arange(6)).nonzero()[:, 0].tolist() == [1, 2, 3, 4]


def test_shapes_that_differ_and_empty_windows_are_refused() -> None:
    query, key, value, _ = draw((2, 4, 6))
    with pytest.raises((ValueError, TypeError), match=r"differ in shape|parameter 'key'"):
        neighborhood_attention(query, key[:, :1], value, (1, 3, 3))
    with pytest.raises(ValueError, match="holds no key"):
        neighborhood_attention(query, key, value, (1, 0, 3))


@pytest.mark.parametrize(("shape", "window"), CASES)
def test_flex_attention_sees_the_windows_of_the_definition(shape: Triple, window: Triple) -> None:
    order = BlockOrder(axes(shape, window), torch.device("cpu"))
    count = order.inside.numel()
    number = torch.arange(count)
    sees = order.sees(number[0], number[0], number[:, None], number[None])
    blocks = sees.view(count // 128, 128, count // 128, 128)
    inside = order.inside.view(-1, 128)
    asked = (blocks & inside[:, :, None, None]).any(3).any(1)
    assert torch.equal(asked, order.blocks)

    places = torch.arange(shape[0] * shape[1] * shape[2]).view(1, *shape, 1, 1)
    sorted_places = order.sort(places).flatten()
    table = torch.zeros(places.numel(), places.numel(), dtype=torch.bool)
    real = order.inside.nonzero()[:, 0]
    table[sorted_places[real][:, None], sorted_places[real]] = sees[real][:, real]
    along = [window_places(n, w, periodic=i == 2) for i, (n, w) in enumerate(zip(shape, window, strict=True))]
    expected = torch.zeros_like(table)
    depth, lat, lon = along
    flat = places[0, ..., 0, 0]
    for z in range(shape[0]):
        for y in range(shape[1]):
            for x in range(shape[2]):
                expected[flat[z, y, x], flat[depth[z]][:, lat[y]][:, :, lon[x]].flatten()] = True
    assert torch.equal(table, expected)


@pytest.mark.parametrize(("shape", "window"), [((3, 9, 13), (3, 3, 5)), ((4, 7, 10), (2, 4, 6))])
@pytest.mark.filterwarnings("ignore")
def test_flex_attention_gives_what_the_definition_says(
    shape: Triple, window: Triple, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The mask is traced, and the check of annotations cannot be.
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    query, key, value, _ = (x.detach() for x in draw(shape, dim=16, dtype=torch.float32))
    out = flex_attention(query, key, value, axes(shape, window))
    torch.testing.assert_close(out, by_definition(query, key, value, window), rtol=0, atol=2e-6)


@pytest.mark.parametrize(
    ("shape", "window"),
    [
        ((8, 20, 40), (5, 7, 7)), ((3, 9, 13), (3, 3, 5)), ((4, 7, 10), (2, 4, 6)), ((2, 5, 6), (5, 7, 9)),
        ((6, 11, 17), (1, 1, 1)), ((8, 90, 180), (5, 7, 7)),
        ((9, 9, 20), (4, 5, 8)), ((1, 6, 30), (1, 3, 29)), ((2, 12, 8), (2, 12, 8)),
    ],
)  # fmt: skip
def test_codes_see_what_places_see_in_the_blocks_that_are_visited(shape: Triple, window: Triple) -> None:
    order = BlockOrder(axes(shape, window), torch.device("cpu"))
    order.codes = order._codes()
    assert order.codes is not None
    number, none = torch.arange(128), torch.tensor(0)
    for row, columns in enumerate(order.blocks[:40]):
        query = row * 128 + number[:, None]
        key = (columns.nonzero() * 128 + number).flatten()[None]
        inside = order.inside[query]
        one, other = (sees(none, none, query, key) & inside for sees in (order.sees, order.sees_by_codes))
        assert torch.equal(one, other)


def test_too_many_residues_leave_the_arithmetic() -> None:
    order = BlockOrder(axes((2, 6, 181), (1, 3, 5)), torch.device("cpu"))
    assert order._codes() is None


def test_weathermesh_2_needs_short_codes() -> None:
    codes = BlockOrder(axes((8, 90, 180), (5, 7, 7)), torch.device("cpu"))._codes()
    assert codes is not None
    assert {code.dtype for code in codes} == {torch.int32}


def test_natten_is_given_longitudes_that_wrap(monkeypatch: pytest.MonkeyPatch) -> None:
    def na3d(query: Tensor, key: Tensor, value: Tensor, kernel_size: Triple) -> Tensor:
        return by_definition(query, key, value, kernel_size, periodic=False)

    monkeypatch.setitem(sys.modules, "natten", SimpleNamespace(na3d=na3d))
    for window in ((2, 3, 5), (3, 4, 6)):
        query, key, value, _ = draw((3, 7, 13))
        out = natten_attention(query, key, value, axes((3, 7, 13), window))
        torch.testing.assert_close(out, by_definition(query, key, value, window), rtol=0, atol=1e-13)


def test_the_backend_is_chosen_by_device_head_size_and_what_is_installed(
    monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    request.addfinalizer(natten_has_kernels.cache_clear)
    shape = (8, 90, 180)
    assert choose_backend("cpu", torch.float32, 32, shape, (5, 7, 7)) == "tiled"
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    natten_has_kernels.cache_clear()
    assert choose_backend("cuda", torch.bfloat16, 32, shape, (5, 7, 7)) == "flex"
    assert choose_backend("cuda", torch.bfloat16, 24, shape, (5, 7, 7)) == "tiled"
    assert choose_backend("cuda", torch.float64, 32, shape, (5, 7, 7)) == "tiled"
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    for built, backend in ((False, "flex"), (True, "natten")):
        monkeypatch.setitem(sys.modules, "natten", SimpleNamespace(HAS_LIBNATTEN=built))
        natten_has_kernels.cache_clear()
        assert choose_backend("cuda", torch.bfloat16, 32, shape, (5, 7, 7)) == backend
    assert choose_backend("cuda", torch.bfloat16, 32, (4, 90, 180), (5, 7, 7)) == "flex"
    assert choose_backend("cpu", torch.float32, 32, shape, (5, 7, 7)) == "tiled"


@pytest.mark.parametrize("rotary", [False, True])
def test_the_module_turns_with_the_globe_and_knows_places_only_with_rotary_positions(rotary: bool) -> None:
    torch.manual_seed(0)
    module = NeighborhoodAttention(24, 2, (2, 3, 5), rotary=rotary).double()
    tokens = torch.randn(2, 3, 7, 10, 24, dtype=torch.float64)
    out = module(tokens)
    torch.testing.assert_close(module(tokens.roll(3, 3)), out.roll(3, 3), rtol=0, atol=1e-13)
    # Mirrored in latitude, windows are the same sets of keys; only positions tell the order.
    mirrored = module(tokens.flip(2)).flip(2)
    assert torch.allclose(mirrored, out, rtol=0, atol=1e-12) is not rotary


def test_rotary_products_depend_on_distance_only_also_across_the_seam() -> None:
    query, key = (torch.randn(1, 1, 1, 1, 1, 14).double().expand(1, 4, 5, 6, 1, 14) for _ in range(2))
    turned_query, turned_key = rotate(query), rotate(key)
    assert torch.allclose(turned_query.norm(dim=-1), query.norm(dim=-1))

    def product(a: Triple, b: Triple) -> float:
        return float(turned_query[0, *a, 0] @ turned_key[0, *b, 0])

    assert product((0, 0, 5), (1, 2, 0)) == pytest.approx(product((2, 1, 0), (3, 3, 1)), rel=1e-5)
    assert product((0, 0, 5), (0, 0, 0)) == pytest.approx(product((0, 0, 2), (0, 0, 3)), rel=1e-5)
    assert product((0, 0, 0), (0, 0, 1)) != pytest.approx(product((0, 0, 0), (0, 0, 2)), rel=1e-2)


def test_the_sines_and_cosines_tell_all_places_apart() -> None:
    places = sincos_3d(24, (3, 8, 16)).flatten(0, 2)
    assert float(torch.cdist(places, places).fill_diagonal_(torch.inf).min()) > 1e-2
    with pytest.raises(ValueError, match="even dimension of at least 6, not 7"):
        sincos_3d(7, (1, 2, 2))


def test_the_attention_runs_where_there_are_no_values() -> None:
    with torch.device("meta"):
        module = NeighborhoodAttention(16, 2, (3, 3, 3))
    out = module(torch.empty(1, 2, 4, 8, 16, device="meta"))
    assert out.shape == (1, 2, 4, 8, 16)
