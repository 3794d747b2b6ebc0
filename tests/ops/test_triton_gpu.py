"""The Triton kernels on a CUDA device, compiled and tuned: against float64, outputs and gradients."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from sparse_attn.ops import Buckets, attend, reference
from sparse_attn.ops.backends import triton_op
from tests.attention.support import assert_close, make, outputs_and_gradients
from tests.tolerances import RELATIVE

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]
DTYPES = [torch.float32, torch.bfloat16, torch.float16]


def _case(
    batch: int, count: int, width: int, wide: int, dtype: torch.dtype, rounds: int
) -> tuple[list[Tensor], Tensor, Tensor]:
    """Queries, normalised keys, values as under autocast; a cotangent; an order."""
    # So short that no query sees itself alone, or the gradients of the scores would be mere rounding.
    q = 4 * F.normalize(torch.randn(batch, count, width, device="cuda"), dim=-1)
    leaves = [q, F.normalize(q, dim=-1), torch.randn(batch, count, wide, device="cuda", dtype=dtype)]
    order = torch.rand(batch, rounds, count, device="cuda").argsort(dim=-1)
    return [t.requires_grad_() for t in leaves], torch.randn(batch, count, wide, device="cuda", dtype=dtype), order


def _check(leaves: list[Tensor], cotangent: Tensor, buckets: Buckets, backend: str) -> None:
    """Against `eager`, or the slow twin, of the same numbers in float64."""
    assert triton_op.why_not(*leaves, buckets) is None
    out = attend(*leaves, buckets, backend="triton")
    assert out.dtype == leaves[2].dtype
    got = [out, *torch.autograd.grad(out, leaves, cotangent)]
    twins = [t.detach().double().requires_grad_() for t in leaves]
    slow = reference.attend(*twins, buckets) if backend == "twin" else attend(*twins, buckets, backend=backend)
    expected = [slow, *torch.autograd.grad(slow, twins, cotangent.double())]
    for index, (ours, theirs) in enumerate(zip(got, expected, strict=True)):
        if out.dtype == torch.float32:
            assert_close(ours.double(), theirs, "float32.param_grad" if index else "float32", floor=1.0)
        else:
            assert float((ours - theirs).norm() / theirs.norm()) <= RELATIVE["bf16"]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("neighbors", [0, 1, 2])
@pytest.mark.parametrize(("count", "size"), [(1, 4), (13, 5), (37, 7), (53, 1), (61, 30)])
def test_buckets_equal_the_slow_twin(count: int, size: int, neighbors: int, dtype: torch.dtype) -> None:
    leaves, cotangent, order = _case(2, count, 3, 5, dtype, 2)
    _check(leaves, cotangent, Buckets(order, size, neighbors), "twin")


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("width", "wide"), [(16, 64), (25, 100), (32, 128), (64, 256), (80, 320), (128, 512)])
@pytest.mark.parametrize("rounds", [1, 3])
def test_widths(width: int, wide: int, rounds: int, dtype: torch.dtype) -> None:
    leaves, cotangent, order = _case(2, 509, width, wide, dtype, rounds)
    _check(leaves, cotangent, Buckets(order, 47, 2), "eager")


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("count", [1, 17, 1013])
def test_dense_and_order_of_place(count: int, dtype: torch.dtype) -> None:
    leaves, cotangent, _ = _case(2, count, 16, 64, dtype, 1)
    _check(leaves, cotangent, Buckets(None, count), "eager")
    _check(leaves, cotangent, Buckets(None, 36, 2), "eager")


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_full_size(dtype: torch.dtype) -> None:
    """16 maps of 48 by 48 pixels with 256 channels, four rounds; the order shared, too."""
    leaves, cotangent, order = _case(16, 2304, 64, 256, dtype, 4)
    _check(leaves, cotangent, Buckets(order, 144, 2), "eager")
    _check(leaves, cotangent, Buckets(order[:1], 144, 2), "eager")


def test_rows_beyond_32_bit_offsets() -> None:
    """The last of so many windows is where an offset of 32 bits has wrapped."""
    batch = 2**31 // (64 * 512) + 3
    leaves, _, _ = _case(1, 64, 16, 512, torch.bfloat16, 1)
    many = [t.detach().expand(batch, -1, -1).contiguous() for t in leaves]
    out = attend(*many, Buckets(None, 64), backend="triton")
    assert torch.equal(out[-1], out[0])


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_same_bits_twice(dtype: torch.dtype) -> None:
    leaves, cotangent, order = _case(2, 509, 16, 64, dtype, 3)
    runs = []
    for _ in range(2):
        out = attend(*leaves, Buckets(order, 47, 2), backend="triton")
        runs.append([out, *torch.autograd.grad(out, leaves, cotangent)])
    assert all(torch.equal(first, second) for first, second in zip(*runs, strict=True))


def test_large_scores() -> None:
    leaves, cotangent, order = _case(1, 509, 16, 64, torch.float32, 2)
    leaves[0] = (1000 * leaves[0]).detach().requires_grad_()
    out = attend(*leaves, Buckets(order, 47, 2), backend="triton")
    assert all(torch.isfinite(t).all() for t in (out, *torch.autograd.grad(out, leaves, cotangent)))


@pytest.mark.parametrize("name", ["nlsa", "random_bucket", "local_window", "nla"])
@pytest.mark.parametrize("size", [(1, 1), (2, 3), (3, 1), (5, 7), (7, 5), (11, 11)], ids="{0[0]}x{0[1]}".format)
def test_contract_shapes(name: str, size: tuple[int, int]) -> None:
    fused, plain = (make(name, bucket_size=9, rounds=2, backend=b).cuda().eval() for b in ("triton", "eager"))
    plain.load_state_dict(fused.state_dict())
    x, cotangent = torch.randn(2, 2, 6, *size, device="cuda").unbind(0)
    got, expected = (outputs_and_gradients(block, x, cotangent) for block in (fused, plain))
    for what, value in expected.items():
        assert_close(got[what], value, "float32.param_grad" if what.startswith("grad.") else "float32", floor=1.0)


@pytest.mark.parametrize("name", ["nlsa", "nla"])
def test_compile_fullgraph_under_autocast(name: str) -> None:
    torch.compiler.reset()
    block = make(name, channels=64, bucket_size=144, rounds=4, backend="triton").cuda().eval()
    x = torch.randn(2, 64, 48, 48, device="cuda")
    with torch.autocast("cuda", torch.bfloat16):
        expected, got = block(x), torch.compile(block, fullgraph=True)(x)
    # The compiled embedding may round otherwise, and a token then change its group.
    assert float((got - expected).detach().norm() / expected.detach().norm()) <= RELATIVE["bf16"]
