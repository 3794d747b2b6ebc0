"""The formulas without branches, with numbers for sizes: the slow twins and the ordinary functions, at every N."""

from __future__ import annotations

import pytest
import torch

from sparse_attn.ops import Buckets, grouping, over_windows, random_normal, random_order, reference
from sparse_attn.ops.backends import symbolic
from sparse_attn.ops.backends.eager import softmax_attend
from sparse_attn.ops.counter_random import symbolic_normal
from sparse_attn.ops.grouping import stable_order
from tests.attention.support import assert_close

CPU = torch.device("cpu")


@pytest.mark.parametrize("boundary", ["mask", "repeat"])
@pytest.mark.parametrize("neighbors", [0, 1, 2])
@pytest.mark.parametrize("tokens", [1, 2, 4, 5, 7, 8, 9, 11, 12, 13, 16, 19])
def test_buckets_are_those_of_the_twin(tokens: int, neighbors: int, boundary: str) -> None:
    q, k = torch.randn(2, 2, tokens, 3, dtype=torch.float64)
    v = torch.randn(2, tokens, 5, dtype=torch.float64)
    order = torch.rand(2, 2, tokens).argsort(dim=-1)
    buckets = Buckets(order, 4, neighbors, boundary)
    assert_close(symbolic.attend_buckets(q, k, v, buckets), reference.attend(q, k, v, buckets), "float64")


def test_buckets_in_the_order_of_place() -> None:
    q, k, v = torch.randn(3, 1, 11, 4, dtype=torch.float64)
    buckets = Buckets(None, 3, 1)
    assert_close(symbolic.attend_buckets(q, k, v, buckets), reference.attend(q, k, v, buckets), "float64")


@pytest.mark.parametrize("window", [(3, 3), (2, 5), (5, 2)])
@pytest.mark.parametrize("size", [(1, 1), (1, 9), (9, 1), (2, 5), (3, 3), (1, 10), (3, 4), (6, 9), (7, 11), (10, 4)])
def test_windows_are_those_of_the_map(size: tuple[int, int], window: tuple[int, int]) -> None:
    q, k, v = torch.randn(3, 2, 4, *size, dtype=torch.float64)
    tokens = [x.flatten(2).transpose(1, 2) for x in (q, k, v)]
    if window[0] * window[1] >= size[0] * size[1]:
        expected = softmax_attend(*tokens)[0]
    else:
        cut = over_windows(lambda q, k, v, _: softmax_attend(q, k, v)[0], q, k, v, window)
        expected = cut.flatten(2).transpose(1, 2)
    assert_close(symbolic.attend_windows(*tokens, size, window), expected, "float64")


@pytest.mark.parametrize("half", [1, 2, 7])
def test_rotations_are_the_same_numbers(half: int) -> None:
    expected = random_normal((3, 2, half), seed=5, draw=0, device=CPU)
    got = symbolic_normal((3, 2, half), seed=5, draw=0, device=CPU)
    assert got.shape == (3, 2, max(2, half))
    assert torch.equal(got[..., :half], expected)
    assert half > 1 or torch.equal(got[..., 1:], expected)


def test_distinct_keys_give_the_stable_order(monkeypatch: pytest.MonkeyPatch) -> None:
    keys = torch.randint(0, 5, (2, 3, 101))
    expected, partition = stable_order(keys), random_order(101, 3, seed=1, draw=0, device=CPU)
    monkeypatch.setattr(grouping, "is_symbolic", lambda _: True)
    assert torch.equal(stable_order(keys), expected)
    assert torch.equal(random_order(101, 3, seed=1, draw=0, device=CPU), partition)
