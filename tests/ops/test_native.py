"""The native backend against the slow twin; `test_native_build` has how it comes to be there."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

import sparse_attn
from sparse_attn.ops import Buckets, KeyLists, attend, hash_codes, reference, sort_by_code
from sparse_attn.ops.backends import _log_once, choose, native, native_build
from tests.attention.support import assert_close
from tests.tolerances import RELATIVE


@pytest.fixture(scope="module")
def built() -> Iterator[Path]:
    """The compiled backend, in a folder that is gone afterwards."""
    reason = native_build.unsupported()
    if reason is not None:
        pytest.skip(f"no native backend here: {reason}")
    if not any(map(shutil.which, native_build.COMPILERS)):
        pytest.skip("no C++ compiler: install g++ to run this test")
    path = sparse_attn.build_native()
    yield path
    path.unlink()
    native_build._missing.cache_clear()


def _tokens(batch: int, count: int, width: int = 3, wide: int = 5) -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(batch + count)
    q, k = (2 * torch.randn(batch, count, width) for _ in range(2))
    return q, k, torch.randn(batch, count, wide)


def _compare(q: Tensor, k: Tensor, v: Tensor, buckets: Buckets, twin: Callable[..., Tensor] = reference.attend) -> None:
    """Against the twin in float64, on the same float32 inputs."""
    cotangent = torch.randn_like(v)
    leaves = [t.detach().clone().requires_grad_() for t in (q, k, v)]
    assert choose(*leaves, buckets, "native") == ("native", None)
    out = attend(*leaves, buckets, backend="native")
    ours = [out.detach(), *torch.autograd.grad((out * cotangent).sum(), leaves)]
    exact = [t.detach().double().requires_grad_() for t in (q, k, v)]
    expected = twin(*exact, buckets)
    wanted = [expected.detach(), *torch.autograd.grad((expected * cotangent.double()).sum(), exact)]
    # Float32 scores are off by the rounding of their size, and powers and gradients with them.
    largest = float((q.norm(dim=-1).max() * k.norm(dim=-1).max()).double())
    tolerance = max(RELATIVE["float32.param_grad"], 8 * torch.finfo(torch.float32).eps * largest)
    for got, right in zip(ours, wanted, strict=True):
        assert float((got - right).abs().max()) <= tolerance * max(1.0, float(right.abs().max()))


@given(
    batch=st.integers(1, 3),
    count=st.integers(1, 37),
    size=st.integers(1, 7),
    rounds=st.integers(1, 3),
    neighbors=st.integers(0, 2),
    boundary=st.sampled_from(["mask", "repeat"]),
    shared=st.booleans(),
    normalize=st.booleans(),
    magnitude=st.sampled_from([1.0, 30.0]),
    threads=st.integers(1, 5),
)
@settings(max_examples=120, deadline=None, derandomize=True)
def test_equals_the_slow_twin(
    built: Path,
    batch: int,
    count: int,
    size: int,
    rounds: int,
    neighbors: int,
    boundary: str,
    shared: bool,
    normalize: bool,
    magnitude: float,
    threads: int,
) -> None:
    """Scores that need nothing subtracted, the query's own score, and the largest one; stretches cut anywhere."""
    q, k, v = _tokens(batch, count)
    if normalize:
        k = F.normalize(q, dim=-1)
    order = torch.rand(1 if shared else batch, rounds, count).argsort(dim=-1)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        _compare(q * magnitude, k, v, Buckets(order, size, neighbors, boundary))  # type: ignore[arg-type]
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize(("size", "neighbors"), [(144, 2), (193, 2), (300, 1), (450, 0), (700, 2)])
@pytest.mark.parametrize("boundary", ["mask", "repeat"])
def test_long_chunks_are_cut_into_tiles(built: Path, size: int, neighbors: int, boundary: str) -> None:
    """Against plain operations, as so many tokens would take the slow twin minutes."""
    q, k, v = _tokens(1, 1111, 16, 33)
    order = torch.rand(1, 2, 1111).argsort(dim=-1)
    buckets = Buckets(order, size, neighbors, boundary)  # type: ignore[arg-type]
    _compare(q, F.normalize(k, dim=-1), v, buckets, twin=partial(attend, backend="eager"))


@pytest.mark.parametrize("magnitude", [1e8, 1e10, 1e15])
@pytest.mark.parametrize("normalize", [True, False])
def test_where_rounding_of_scores_is_large(built: Path, magnitude: float, normalize: bool) -> None:
    """Scores by far apart give the value of the best key, and finite gradients."""
    q = F.normalize(torch.randn(2, 53, 8), dim=-1)
    k, v = q * (1.0 if normalize else magnitude**0.5), torch.randn(2, 53, 7)
    q = q * (magnitude if normalize else magnitude**0.5)
    leaves = [t.requires_grad_() for t in (q, k, v)]
    out = attend(*leaves, Buckets(torch.rand(1, 2, 53).argsort(dim=-1), 11, 2), backend="native")
    torch.testing.assert_close(out, v)
    assert all(bool(grad.isfinite().all()) for grad in torch.autograd.grad(out.sum(), leaves))


@pytest.mark.parametrize("scale", [0.1, 0.5, 1.0])
@pytest.mark.parametrize(("count", "size", "width", "wide"), [(230, 25, 16, 32), (231, 24, 7, 9), (900, 300, 16, 32)])
def test_in_bf16(built: Path, scale: float, count: int, size: int, width: int, wide: int) -> None:
    """Odd sizes are padded to pairs; one round and several end differently."""
    if not torch.cpu._is_avx512_bf16_supported():
        pytest.skip("this processor does not multiply in bf16")
    q = scale * torch.randn(2, count, width)
    k, v = F.normalize(q, dim=-1), torch.randn(2, count, wide)
    cotangent = torch.randn_like(v)
    for rounds in (1, 2):
        buckets = Buckets(torch.rand(1, rounds, count).argsort(dim=-1), size, 2)
        results = []
        for half in (True, False):
            leaves = [t.clone().requires_grad_() for t in (q, k, v)]
            values = leaves[2].bfloat16() if half else leaves[2]
            out = attend(leaves[0], leaves[1], values, buckets, backend="native" if half else "eager")
            assert out.dtype == values.dtype
            results.append([out.float(), *torch.autograd.grad((out.float() * cotangent).sum(), leaves)])
        for what, got, expected in zip(("output", "q", "k", "v"), *results, strict=True):
            error = float((got - expected).detach().norm() / expected.detach().norm())
            assert error <= RELATIVE["bf16.rms" if what == "output" else "bf16.rms_grad"], (what, rounds)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_is_the_same_each_time(built: Path, dtype: torch.dtype) -> None:
    q, k, v = _tokens(2, 500, 16, 24)
    buckets = Buckets(torch.rand(2, 4, 500).argsort(dim=-1), 13, 2)
    runs = []
    for _ in range(3):
        leaves = [q.clone().requires_grad_(), k.clone().requires_grad_(), v.to(dtype).requires_grad_()]
        out = attend(*leaves, buckets, backend="native")
        runs.append([out, *torch.autograd.grad(out.float().square().sum(), leaves)])
    assert all(torch.equal(x, y) for other in runs[1:] for x, y in zip(runs[0], other, strict=True))


def test_keeps_a_bad_token_to_its_chunk(built: Path) -> None:
    q, k, v = _tokens(1, 23)
    v[0, 0], q[0, 0] = torch.nan, torch.nan
    buckets = Buckets(torch.arange(23).expand(1, 1, 23), 5, 0)
    out = attend(q, k, v.requires_grad_(), buckets, backend="native")
    assert out[0, :5].isnan().any() and out[0, 5:].isfinite().all()
    (grad,) = torch.autograd.grad(out[0, 5:].sum(), v)
    assert grad[0, 5:].isfinite().all()


@pytest.mark.filterwarnings("ignore:The .grad attribute")  # read by the check itself
def test_the_operator_is_one_that_compilers_can_trust(built: Path) -> None:
    q, k, v = (t.requires_grad_() for t in _tokens(1, 23))
    order = torch.rand(1, 2, 23).argsort(dim=-1)
    torch.library.opcheck(torch.ops.sparse_attn.native_forward, (q, k, v, order, 4, 2, False))


def test_compiles_whole(built: Path) -> None:
    torch.compiler.reset()
    block = sparse_attn.create_attention("nlsa", 8, bucket_size=7, backend="native").eval()
    compiled = torch.compile(block, fullgraph=True, backend="aot_eager")
    x = torch.randn(1, 8, 9, 9)
    assert torch.equal(compiled(x), block(x))


def test_codes_are_those_of_plain_operations_to_the_bit(built: Path) -> None:
    """Ties, and numbers that are none, included."""
    for shape in ((1, 300, 4, 35), (2, 50, 3, 1), (2, 99, 2, 64), (3, 7, 2, 17)):
        x, eye = torch.randn(shape[0], shape[1], shape[2], shape[3]), torch.eye(shape[3])
        broken = x.clone()
        for value in (torch.nan, torch.inf, -torch.inf):
            broken[torch.rand_like(x) < 0.02] = value
        for tokens in (x, (2 * x).round(), broken, torch.zeros_like(x), torch.full_like(x, -torch.inf)):
            (most, above), (least, below) = tokens.max(dim=-1), tokens.min(dim=-1)
            expected = torch.where(most < -least, below + shape[3], above).transpose(1, 2)
            assert torch.equal(native.nearest_vertices(tokens), expected)
        flat = x[:, :, 0]
        rotations = eye.unsqueeze(1)
        assert torch.equal(hash_codes(flat, rotations, backend="native"), hash_codes(flat, rotations, backend="eager"))


def test_orders_are_those_of_a_stable_sort(built: Path) -> None:
    for shape in ((1, 4, 1000), (2, 3, 7), (1, 1, 1)):
        for different in (1, 2, 70, 128):
            codes = torch.randint(different, shape)
            assert torch.equal(native.stable_order(codes), codes.sort(dim=-1, stable=True).indices)
            assert torch.equal(sort_by_code(codes, backend="native"), sort_by_code(codes, backend="eager"))
    with pytest.raises(RuntimeError, match=r"expected codes in .* got -1 to 3"):
        native.stable_order(torch.tensor([3, -1]))


@pytest.mark.parametrize("scale", [1.0, 0.3])
def test_residuals_are_those_of_plain_operations_to_the_bit(built: Path, scale: float) -> None:
    """Through the block, whose gradients differ by the rounding of the attention only."""
    for batch, channels, height, width in ((1, 8, 5, 7), (2, 33, 12, 11), (1, 4, 1, 1)):
        x = torch.randn(batch, channels, height, width, requires_grad=True)
        tokens = torch.randn(batch, height * width, channels, requires_grad=True)
        out = native.add_tokens(x, tokens, scale)
        expected = x + scale * tokens.mT.unflatten(2, (height, width))
        assert torch.equal(out, expected)
        cotangent = torch.randn_like(out)
        ours, plain = (torch.autograd.grad((y * cotangent).sum(), (x, tokens)) for y in (out, expected))
        assert all(torch.equal(a, b) for a, b in zip(ours, plain, strict=True))


def test_a_block_of_it_is_the_block_of_plain_operations(built: Path) -> None:
    blocks = [
        sparse_attn.create_attention("nlsa", 16, bucket_size=9, backend=name).eval() for name in ("native", "eager")
    ]
    blocks[1].load_state_dict(blocks[0].state_dict())
    x = torch.randn(2, 16, 13, 11)
    for layout in (torch.contiguous_format, torch.channels_last):
        results = []
        for block in blocks:
            leaf = x.to(memory_format=layout).requires_grad_()
            out = block(leaf)
            results.append([out, *torch.autograd.grad(out.square().sum(), [leaf, *block.parameters()])])
        assert results[0][0].stride() == results[1][0].stride()
        for ours, expected in zip(*results, strict=True):
            assert_close(ours, expected, "float32.param_grad")


def test_refuses_second_order_gradients(built: Path) -> None:
    q, k, v = (t.requires_grad_() for t in _tokens(1, 23))
    out = attend(q, k, v, Buckets(torch.rand(1, 2, 23).argsort(dim=-1), 4, 2), backend="native")
    (first,) = torch.autograd.grad(out.square().sum(), [q], create_graph=True)
    with pytest.raises(RuntimeError, match="native_backward"):
        first.sum().backward()


def test_auto_takes_it_where_it_is_built(built: Path, caplog: pytest.LogCaptureFixture) -> None:
    q, k, v = _tokens(1, 23)
    buckets = Buckets(torch.rand(1, 2, 23).argsort(dim=-1), 4, 2)
    native_build._missing.cache_clear()
    _log_once.cache_clear()
    with caplog.at_level("INFO", "sparse_attn"):
        attend(q, k, v, buckets)
    assert [r.message for r in caplog.records] == ["attention on cpu, torch.float32 values: backend native"]
    reason = "not native: it computes in float32 and bfloat16, this takes torch.float64"
    assert choose(q.double(), k.double(), v.double(), buckets, "auto") == ("blocked", reason)


def test_what_it_does_not_serve_is_left_to_others(built: Path) -> None:
    q, k, v = _tokens(1, 23)
    index = torch.rand(1, 23, 23).argsort(dim=-1)[..., :5]
    with pytest.warns(UserWarning, match="'native' falls back to 'eager': it serves buckets only"):
        attend(q, k, v, KeyLists(index), backend="native")
    with pytest.warns(UserWarning, match="'native' falls back to 'blocked': it computes in float32 and bfloat16"):
        attend(q.double(), k.double(), v.double(), Buckets(None, 4), backend="native")
    # Few tokens: one chunk, that is dense attention.
    assert torch.equal(attend(q, k, v, Buckets(None, 23), backend="native"), attend(q, k, v, Buckets(None, 23)))
