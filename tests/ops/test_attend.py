"""`attend` against its slow twin in float64, outputs and gradients; and the authors' dense block."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

from sparse_attn.errors import UnknownNameError
from sparse_attn.ops import Buckets, Groups, KeyLists, attend, reference
from sparse_attn.ops.backends import _log_once, choose
from tests.attention.support import assert_close
from tests.tolerances import RELATIVE

twin = settings(max_examples=40, deadline=None, derandomize=True)


def _compare(q: Tensor, k: Tensor, v: Tensor, groups: Groups, backend: str = "eager") -> None:
    cotangent = torch.randn_like(v)
    results = []
    for function in (partial(attend, backend=backend), reference.attend):
        leaves = [t.detach().clone().requires_grad_() for t in (q, k, v)]
        out = function(*leaves, groups)
        results.append([out.detach(), *torch.autograd.grad((out * cotangent).sum(), leaves)])
    for ours, expected in zip(*results, strict=True):
        assert_close(ours, expected, "float64", floor=1.0)


def _tokens(batch: int, count: int) -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(batch + count)
    q, k = (2 * torch.randn(batch, count, 3, dtype=torch.float64) for _ in range(2))
    return q, k, torch.randn(batch, count, 5, dtype=torch.float64)


@given(
    batch=st.integers(1, 2),
    count=st.integers(1, 23),
    size=st.integers(1, 11),
    rounds=st.integers(1, 3),
    neighbors=st.integers(0, 2),
    boundary=st.sampled_from(["mask", "repeat"]),
    shared=st.booleans(),
)
@twin
def test_buckets_equal_the_slow_twin(
    batch: int, count: int, size: int, rounds: int, neighbors: int, boundary: str, shared: bool
) -> None:
    q, k, v = _tokens(batch, count)
    order = torch.rand(1 if shared else batch, rounds, count).argsort(dim=-1)
    _compare(q, k, v, Buckets(order, size, neighbors, boundary))  # type: ignore[arg-type]


@given(
    batch=st.integers(1, 2),
    count=st.integers(1, 37),
    size=st.integers(1, 7),
    rounds=st.integers(1, 3),
    neighbors=st.integers(0, 2),
    boundary=st.sampled_from(["mask", "repeat"]),
    normalize=st.booleans(),
    magnitude=st.sampled_from([1.0, 30.0, 1000.0]),
)
@settings(max_examples=80, deadline=None, derandomize=True)
def test_blocked_equals_the_slow_twin(
    batch: int,
    count: int,
    size: int,
    rounds: int,
    neighbors: int,
    boundary: str,
    normalize: bool,
    magnitude: float,
) -> None:
    """Scores that need nothing subtracted, the query's own score, and the largest one, as its power would overflow."""
    q, k, v = _tokens(batch, count)
    if normalize:
        k = F.normalize(q, dim=-1)
    order = torch.rand(batch, rounds, count).argsort(dim=-1)
    _compare(q * magnitude, k, v, Buckets(order, size, neighbors, boundary), backend="blocked")  # type: ignore[arg-type]


@pytest.mark.parametrize("count", [5, 23, 61])
@pytest.mark.parametrize("magnitude", [1.0, 1000.0])
def test_blocked_dense_equals_the_slow_twin(monkeypatch: pytest.MonkeyPatch, count: int, magnitude: float) -> None:
    """Several images in a tile, and several tiles in an image."""
    monkeypatch.setattr("sparse_attn.ops.backends.blocked_dense.TILE", (7, 11))
    q, k, v = _tokens(3, count)
    _compare(q * magnitude, k, v, Buckets(None, count), backend="blocked")


@pytest.mark.parametrize("size", [5, 17])
@pytest.mark.parametrize("boundary", ["mask", "repeat"])
@pytest.mark.parametrize("magnitude", [1.0, 1000.0])
def test_blocked_walks_many_blocks(monkeypatch: pytest.MonkeyPatch, size: int, boundary: str, magnitude: float) -> None:
    """Blocks of several small chunks, and large chunks of which a block takes some queries at a time."""
    monkeypatch.setattr("sparse_attn.ops.backends.blocked_rounds.BLOCK_SCORES", 200)
    monkeypatch.setattr("sparse_attn.ops.backends.blocked_rounds.MIN_ROWS", 4)
    q, k, v = _tokens(2, 78)
    order = torch.rand(1, 2, 78).argsort(dim=-1)
    _compare(q * magnitude, k, v, Buckets(order, size, 2, boundary), backend="blocked")  # type: ignore[arg-type]


@pytest.mark.parametrize("magnitude", [1e8, 1e10, 1e15])
@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("dense", [False, True])
def test_blocked_where_rounding_of_scores_is_large(magnitude: float, normalize: bool, dense: bool) -> None:
    """Scores by far apart give the value of the best key, and finite gradients; a bound by rounding gave NaN."""
    torch.manual_seed(0)
    q = F.normalize(torch.randn(2, 53, 8), dim=-1)
    k, v = q * (1.0 if normalize else magnitude**0.5), torch.randn(2, 53, 7)
    q = q * (magnitude if normalize else magnitude**0.5)
    groups = Buckets(None, 53) if dense else Buckets(torch.rand(1, 2, 53).argsort(dim=-1), 11, 2)
    leaves = [t.requires_grad_() for t in (q, k, v)]
    out = attend(leaves[0], leaves[1], leaves[2], groups, backend="blocked")
    torch.testing.assert_close(out, v)
    assert all(bool(grad.isfinite().all()) for grad in torch.autograd.grad(out.sum(), leaves))


@pytest.mark.parametrize("scale", [0.1, 0.5, 1.0])
@pytest.mark.parametrize("dense", [False, True])
def test_blocked_in_bf16(scale: float, dense: bool) -> None:
    """Values in bf16, as under autocast: products in bf16, sums in float32.

    Gradients of scores are differences that vanish where a weight is all but one, as in any attention that keeps its
    outputs in bf16, so weights are not that peaked here.
    """
    torch.manual_seed(0)
    q = scale * torch.randn(2, 230, 16)
    k, v = F.normalize(q, dim=-1), torch.randn(2, 230, 32)
    groups = Buckets(None, 230) if dense else Buckets(torch.rand(1, 2, 230).argsort(dim=-1), 25, 2)
    cotangent = torch.randn_like(v)
    results = []
    for half in (True, False):
        leaves = [t.clone().requires_grad_() for t in (q, k, v)]
        values = leaves[2].bfloat16() if half else leaves[2]
        out = attend(leaves[0], leaves[1], values, groups, backend="blocked" if half else "eager")
        assert out.dtype == values.dtype
        results.append([out.float(), *torch.autograd.grad((out.float() * cotangent).sum(), leaves)])
    for what, got, expected in zip(("output", "q", "k", "v"), *results, strict=True):
        error = float((got - expected).detach().norm() / expected.detach().norm())
        assert error <= RELATIVE["bf16.rms" if what == "output" else "bf16.rms_grad"]


def test_blocked_in_bf16_compiles_whole() -> None:
    torch.compiler.reset()
    q, k, v = _tokens(1, 23)
    buckets = Buckets(torch.rand(1, 2, 23).argsort(dim=-1), 4, 2)
    compiled = torch.compile(partial(attend, groups=buckets), fullgraph=True, backend="aot_eager")
    args = q.float(), k.float(), v.bfloat16()
    assert torch.equal(compiled(*args), attend(*args, buckets))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_blocked_computes_at_least_in_float32(dtype: torch.dtype) -> None:
    q, k, v = (t.to(dtype) for t in _tokens(1, 23))
    order = torch.rand(1, 2, 23).argsort(dim=-1)
    out = attend(q, k, v, Buckets(order, 4, 2), backend="blocked")
    expected = attend(q.double(), k.double(), v.double(), Buckets(order, 4, 2), backend="eager")
    assert out.dtype == dtype
    assert_close(out.double(), expected, "float32" if dtype == torch.float32 else "float16.rounded")


def test_blocked_keeps_a_bad_token_to_its_chunk() -> None:
    """Padding stands in for no token: a NaN elsewhere does not come in through it."""
    q, k, v = _tokens(1, 23)
    order = torch.arange(23).expand(1, 1, 23)
    v[0, 0], q[0, 0] = torch.nan, torch.nan
    out = attend(q, k, v.requires_grad_(), Buckets(order, 5, 0), backend="blocked")
    assert out[0, :5].isnan().any() and out[0, 5:].isfinite().all()
    (grad,) = torch.autograd.grad(out[0, 5:].sum(), v)
    assert grad[0, 5:].isfinite().all()


def test_backends_are_chosen_by_a_ladder_and_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    q, k, v = _tokens(1, 23)
    index = torch.rand(1, 23, 23).argsort(dim=-1)[..., :5]
    refused = "not native: it computes in float32 and bfloat16, this takes torch.float64"
    assert choose(q, k, v, Buckets(None, 4), "auto") == ("blocked", refused)
    assert choose(q, k, v, Buckets(None, 4), "eager") == ("eager", None)
    assert choose(q.to("meta"), k.to("meta"), v.to("meta"), Buckets(None, 4), "auto")[0] == "eager"
    with pytest.warns(UserWarning, match="'blocked' falls back to 'eager': it serves buckets only"):
        got = attend(q, k, v, KeyLists(index), backend="blocked")
    assert torch.equal(got, attend(q, k, v, KeyLists(index)))
    _log_once.cache_clear()
    with caplog.at_level("INFO", "sparse_attn"):
        for _ in range(2):
            attend(q, k, v, Buckets(None, 4))
    assert [r.message for r in caplog.records] == [
        f"attention on cpu, torch.float64 values: backend blocked, {refused}"
    ]


def test_blocked_refuses_second_order_gradients() -> None:
    q, k, v = (t.requires_grad_() for t in _tokens(1, 23))
    out = attend(q, k, v, Buckets(torch.rand(1, 2, 23).argsort(dim=-1), 4, 2), backend="blocked")
    (first,) = torch.autograd.grad(out.square().sum(), [q], create_graph=True)
    with pytest.raises(RuntimeError, match="blocked_backward"):
        first.sum().backward()


@given(batch=st.integers(1, 2), count=st.integers(1, 17), size=st.integers(1, 7), neighbors=st.integers(0, 2))
@twin
def test_order_of_place_equals_the_slow_twin(batch: int, count: int, size: int, neighbors: int) -> None:
    _compare(*_tokens(batch, count), Buckets(None, size, neighbors))


@given(batch=st.integers(1, 2), count=st.integers(1, 17), data=st.data())
@twin
def test_key_lists_equal_the_slow_twin(batch: int, count: int, data: st.DataObject) -> None:
    keys = data.draw(st.integers(1, count))
    index = torch.rand(batch, count, count).argsort(dim=-1)[..., :keys]
    _compare(*_tokens(batch, count), KeyLists(index))


def test_gradcheck() -> None:
    q, k, v = (t.requires_grad_() for t in _tokens(1, 7))
    order = torch.stack([torch.randperm(7) for _ in range(2)])[None]
    for groups in (Buckets(order, 2, 2), Buckets(order, 2, 2, "repeat"), Buckets(None, 7)):
        for backend in ("eager", "blocked"):
            assert torch.autograd.gradcheck(lambda *t, g=groups, b=backend: attend(*t, g, backend=b), (q, k, v))


def test_unknown_backend() -> None:
    with pytest.raises(UnknownNameError, match=r"unknown backend 'egaer'; did you mean .*eager"):
        attend(*_tokens(1, 5), Buckets(None, 2), backend="egaer")


@pytest.mark.parametrize("case", ["b1_c32_12x12_res0.1", "b2_c16_9x11"])
@pytest.mark.parametrize("precision", ["float64", "float32"])
def test_dense_reference(reference_dir: Path, case: str, precision: str) -> None:
    """The authors' dense block around our `attend`: PReLU embeddings, raw keys, the scale on the input."""
    path = reference_dir / f"dense_{case}.safetensors"
    tensors = load_file(path)
    with safe_open(path, "pt") as file:
        hyper = json.loads(file.metadata()["hyper_parameters"])
    dtype = {"float64": torch.float64, "float32": torch.float32}[precision]
    suffix = "_f64" if precision == "float64" else ""
    params = {
        k.removeprefix("param."): v.to(dtype).requires_grad_() for k, v in tensors.items() if k.startswith("param.")
    }
    x = tensors["input"].to(dtype).requires_grad_()

    def embed(stem: str) -> Tensor:
        out = F.conv2d(x, params[f"{stem}.0.weight"], params[f"{stem}.0.bias"])
        return F.prelu(out, params[f"{stem}.1.weight"]).flatten(2).transpose(1, 2)

    q, k, v = (embed(f"conv_{stem}") for stem in ("match1", "match2", "assembly"))
    attention = attend(q, k, v, Buckets(None, x.shape[2] * x.shape[3]))
    out = attention.transpose(1, 2).reshape(x.shape) + hyper["res_scale"] * x
    (out * tensors["cotangent"].to(dtype)).sum().backward()
    assert_close(out, tensors[f"output{suffix}"], precision)
    assert x.grad is not None
    assert_close(x.grad, tensors[f"grad{suffix}.input"], precision)
    for name, parameter in params.items():
        assert isinstance(parameter, Tensor | nn.Parameter)
        assert parameter.grad is not None
        assert_close(
            parameter.grad,
            tensors[f"grad{suffix}.{name}"],
            "float64" if precision == "float64" else "float32.param_grad",
        )
