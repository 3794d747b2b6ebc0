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
from tests.attention.support import assert_close

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
    count=st.integers(4, 37),
    size=st.integers(1, 7),
    rounds=st.integers(1, 3),
    neighbors=st.integers(0, 2),
    normalize=st.booleans(),
    magnitude=st.sampled_from([1.0, 1000.0]),
)
@twin
def test_blocked_equals_the_slow_twin(
    batch: int, count: int, size: int, rounds: int, neighbors: int, normalize: bool, magnitude: float
) -> None:
    """Also where a score may exceed the query's own by so much that its exponential would overflow."""
    q, k, v = _tokens(batch, count)
    if normalize:
        k = F.normalize(q, dim=-1)
    order = torch.rand(batch, rounds, count).argsort(dim=-1)
    buckets = Buckets(order, size, neighbors)
    if not buckets.is_dense(count):
        _compare(q * magnitude, k, v, buckets, backend="blocked")


def test_blocked_walks_many_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sparse_attn.ops.backends.blocked._BLOCK_SCORES", 100)
    q, k, v = _tokens(2, 53)
    _compare(q, k, v, Buckets(torch.rand(1, 2, 53).argsort(dim=-1), 5, 2), backend="blocked")


def test_blocked_is_the_choice_of_auto_and_says_when_it_cannot() -> None:
    q, k, v = _tokens(1, 23)
    order = torch.rand(1, 2, 23).argsort(dim=-1)
    chosen, forced = (attend(q, k, v, Buckets(order, 4, 2), backend=b) for b in ("auto", "blocked"))
    assert torch.equal(chosen, forced)
    for buckets, tensors, reason in (
        (Buckets(order, 4, 2, "repeat"), (q, k, v), "boundary='mask' only"),
        (Buckets(None, 4), (q, k, v), "sparse buckets only"),
        (Buckets(order, 4, 2), (q.half(), k.half(), v.half()), "the queries are torch.float16"),
    ):
        with pytest.warns(UserWarning, match=f"'blocked' falls back to 'eager': .*{reason}"):
            got = attend(*tensors, buckets, backend="blocked")
        assert torch.equal(got, attend(*tensors, buckets, backend="eager"))


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
    for boundary in ("mask", "repeat"):
        buckets = Buckets(order, 2, 2, boundary)  # type: ignore[arg-type]
        assert torch.autograd.gradcheck(lambda *t, b=buckets: attend(*t, b), (q, k, v))


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
