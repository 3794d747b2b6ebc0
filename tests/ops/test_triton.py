"""The Triton kernels in Triton's interpreter on the CPU: against the slow twin in float64, outputs and gradients."""

from __future__ import annotations

import os
from functools import partial
from types import ModuleType

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from sparse_attn.ops import Buckets, KeyLists, attend, reference
from sparse_attn.ops.backends import triton_op
from tests.attention.support import assert_close, make, outputs_and_gradients
from tests.tolerances import RELATIVE

triton = pytest.importorskip("triton", reason="Triton is not installed")


def _version(package: ModuleType) -> tuple[int, ...]:
    return tuple(int(part) for part in package.__version__.split(".")[:2])


pytestmark = [
    pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") != "1", reason="needs TRITON_INTERPRET=1"),
    pytest.mark.skipif(
        _version(triton) < (3, 7) and _version(np) >= (2, 4), reason="this Triton's interpreter needs NumPy before 2.4"
    ),
]

ours = partial(attend, backend="triton")


def _tokens(batch: int, count: int, width: int = 3, wide: int = 5) -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(batch + count)
    q, k = (2 * torch.randn(batch, count, width) for _ in range(2))
    return q, k, torch.randn(batch, count, wide)


def _compare(q: Tensor, k: Tensor, v: Tensor, buckets: Buckets) -> None:
    assert triton_op.why_not(q, k, v, buckets) is None
    cotangent = torch.randn_like(v)
    results = []
    for function, dtype in ((ours, torch.float32), (reference.attend, torch.float64)):
        leaves = [t.to(dtype).requires_grad_() for t in (q.clone(), k.clone(), v.clone())]
        out = function(*leaves, buckets)
        results.append([out.detach(), *torch.autograd.grad((out * cotangent.to(dtype)).sum(), leaves)])
    assert_close(results[0][0], results[1][0], "float32", floor=1.0)
    for got, expected in zip(results[0][1:], results[1][1:], strict=True):
        assert_close(got, expected, "float32.param_grad", floor=1.0)


@given(
    batch=st.integers(1, 2),
    count=st.integers(1, 41),
    size=st.integers(1, 19),
    rounds=st.integers(1, 3),
    neighbors=st.integers(0, 2),
    shared=st.booleans(),
)
@settings(max_examples=12, deadline=None, derandomize=True)
def test_buckets_equal_the_slow_twin(
    batch: int, count: int, size: int, rounds: int, neighbors: int, shared: bool
) -> None:
    order = torch.rand(1 if shared else batch, rounds, count).argsort(dim=-1)
    _compare(*_tokens(batch, count), Buckets(order, size, neighbors))


@pytest.mark.parametrize(
    ("count", "size", "neighbors", "boundary"),
    [(53, 7, 2, "mask"), (37, 5, 1, "mask"), (31, 11, 0, "mask"), (40, 8, 2, "repeat"), (37, 41, 2, "repeat")],
)
def test_order_of_place_and_dense_equal_the_slow_twin(count: int, size: int, neighbors: int, boundary: str) -> None:
    """Whole chunks mean the same to both boundaries; one chunk is dense attention."""
    _compare(*_tokens(2, count), Buckets(None, size, neighbors, boundary))  # type: ignore[arg-type]


@pytest.mark.parametrize(("width", "wide"), [(1, 1), (17, 33), (5, 300), (128, 512)])
def test_widths(width: int, wide: int) -> None:
    """Widths that are no powers of two; values wider than one program's slice."""
    q, k, v = _tokens(1, 19, width, wide)
    _compare(q / width**0.5, k, v, Buckets(torch.rand(1, 2, 19).argsort(dim=-1), 4, 2))


@pytest.mark.parametrize("rounds", [1, 2])
def test_bfloat16_values(rounds: int) -> None:
    """As under autocast: queries and keys are float32, the products are not."""
    q, _, v = _tokens(2, 29, 8, 24)
    k = F.normalize(q, dim=-1)
    buckets = Buckets(torch.rand(2, rounds, 29).argsort(dim=-1), 5, 2)
    leaves = [t.requires_grad_() for t in (q, k.detach(), v.bfloat16())]
    out = ours(*leaves, buckets)
    assert out.dtype == torch.bfloat16
    twins = [t.detach().double().requires_grad_() for t in leaves]
    expected = reference.attend(*twins, buckets)
    assert_close(out.double(), expected, "bf16")
    cotangent = torch.randn_like(expected)
    got = torch.autograd.grad(out, leaves, cotangent.bfloat16())
    for ours_, theirs, leaf in zip(got, torch.autograd.grad(expected, twins, cotangent), leaves, strict=True):
        assert ours_.dtype == leaf.dtype
        # The interpreter cuts numbers off to bfloat16 where a GPU rounds them, at twice the error.
        assert float((ours_ - theirs).norm() / theirs.norm()) <= 2 * RELATIVE["bf16"]


def test_large_scores() -> None:
    """Scores of some thousands overflow exp, and float32 knows them to about 1e-4 only."""
    q, k, v = _tokens(1, 37)
    buckets = Buckets(torch.rand(1, 2, 37).argsort(dim=-1), 5, 2)
    leaves = [t.requires_grad_() for t in (1000 * q, k, v)]
    out = ours(*leaves, buckets)
    assert_close(out.double(), reference.attend(*(t.double() for t in leaves), buckets), "bf16")
    assert all(torch.isfinite(grad).all() for grad in torch.autograd.grad(out.sum(), leaves))


def test_same_bits_twice() -> None:
    q, k, v = (t.requires_grad_() for t in _tokens(2, 37))
    buckets = Buckets(torch.rand(2, 3, 37).argsort(dim=-1), 5, 2)
    runs = []
    for _ in range(2):
        out = ours(q, k, v, buckets)
        runs.append([out, *torch.autograd.grad(out.square().sum(), [q, k, v])])
    assert all(torch.equal(first, second) for first, second in zip(*runs, strict=True))


@pytest.mark.parametrize("name", ["nlsa", "random_bucket", "local_window", "nla"])
@pytest.mark.parametrize("size", [(1, 1), (2, 3), (3, 1), (5, 7), (7, 5), (11, 11)], ids="{0[0]}x{0[1]}".format)
def test_contract_shapes(name: str, size: tuple[int, int]) -> None:
    fused, plain = (make(name, bucket_size=9, rounds=2, backend=b).eval() for b in ("triton", "eager"))
    plain.load_state_dict(fused.state_dict())
    x, cotangent = torch.randn(2, 2, 6, *size).unbind(0)
    got, expected = (outputs_and_gradients(block, x, cotangent) for block in (fused, plain))
    assert got.keys() == expected.keys()
    for what, value in expected.items():
        assert_close(got[what], value, "float32.param_grad" if what.startswith("grad.") else "float32", floor=1.0)


@pytest.mark.parametrize("name", ["nlsa", "nla"])
def test_compile_fullgraph(name: str) -> None:
    torch.compiler.reset()
    block = make(name, bucket_size=9, rounds=2, backend="triton").eval()
    x, cotangent = torch.randn(2, 1, 6, 5, 7).unbind(0)
    expected = outputs_and_gradients(block, x, cotangent)
    compiled = torch.compile(block, fullgraph=True, backend="aot_eager")
    for what, value in outputs_and_gradients(compiled, x, cotangent).items():
        assert_close(value, expected[what.replace("_orig_mod.", "")], "float32", floor=1.0)


def test_operator_is_well_formed() -> None:
    """Shapes and dtypes of the fake kernels, and what autograd needs, as `torch.library` checks them."""
    q, k, v = (t.requires_grad_() for t in _tokens(1, 5))
    torch.library.opcheck(
        triton_op.triton_forward,
        (q, k, v.detach().bfloat16(), torch.rand(1, 2, 5).argsort(dim=-1), 2, 1),
        test_utils=("test_schema", "test_autograd_registration", "test_faketensor"),
    )


def test_it_says_when_it_cannot(monkeypatch: pytest.MonkeyPatch) -> None:
    q, k, v = _tokens(1, 23)
    order = torch.rand(1, 2, 23).argsort(dim=-1)
    sparse = Buckets(order, 4, 2)
    for groups, tensors, reason in (
        (KeyLists(order[0, :1, :, None]), (q, k, v), "not lists of keys"),
        (Buckets(order, 4, 2, "repeat"), (q, k, v), "boundary='mask' only"),
        (Buckets(order[..., :22], 11, 2, "repeat"), (q[:, :22], k[:, :22], v[:, :22]), "boundary='mask' only"),
        (sparse, (q.double(), k.double(), v.double()), "the queries are torch.float64"),
        (sparse, (q, k, v.double()), "the values are torch.float64"),
        (sparse, (torch.ones(1, 23, 129), torch.ones(1, 23, 129), v), "queries up to 128"),
        (sparse, (q, k, torch.ones(1, 23, 513)), "values up to 512"),
    ):
        assert reason in str(triton_op.why_not(*tensors, groups))
    assert triton_op.why_not(q, k, v, sparse) is None
    monkeypatch.setenv("TRITON_INTERPRET", "0")
    assert "TRITON_INTERPRET=1" in str(triton_op.why_not(q, k, v, sparse))
    monkeypatch.setattr(triton_op, "_HAS_TRITON", False)
    with pytest.warns(UserWarning, match="'triton' falls back to 'eager': Triton is not installed"):
        got = ours(q, k, v, sparse)
    assert torch.equal(got, attend(q, k, v, sparse, backend="eager"))


def test_second_order_gradients_are_refused() -> None:
    q, k, v = (t.requires_grad_() for t in _tokens(1, 11))
    out = ours(q, k, v, Buckets(torch.rand(1, 1, 11).argsort(dim=-1), 3, 2))
    (first,) = torch.autograd.grad(out.square().sum(), [q], create_graph=True)
    with pytest.raises(RuntimeError, match="triton_backward"):
        first.sum().backward()


def test_flops_of_both_products() -> None:
    """Three rounds of 5 chunks of 8, each with a window of 24 keys, 3 and 5 wide; dense, 37 keys."""
    shapes = [(2, 37, 3), (2, 37, 3), (2, 37, 5)]
    assert triton_op.forward_flops(*shapes, (1, 3, 37), 8, 2) == 2 * 2 * 3 * 40 * 24 * (3 + 5)
    assert triton_op.forward_flops(*shapes, (1, 1, 37), 37, 0) == 2 * 2 * 37 * 37 * (3 + 5)
