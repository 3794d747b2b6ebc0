"""Spherical LSH against its slow twin, and its number of buckets."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sparse_attn.ops import bucket_count, hash_codes, reference, sort_by_code


@pytest.mark.parametrize(
    ("tokens", "size", "expected"),
    [
        (1, 144, 2),
        (143, 144, 2),
        (144, 144, 2),
        (431, 144, 2),
        (432, 144, 4),
        (576, 144, 4),
        (2304, 144, 16),
        (18287, 144, 126),
        (18288, 144, 128),
        (10**6, 144, 128),
    ],
)
def test_bucket_count(tokens: int, size: int, expected: int) -> None:
    assert bucket_count(tokens, size) == expected


@given(batch=st.integers(1, 2), count=st.integers(1, 13), rounds=st.integers(1, 3), half=st.integers(1, 5))
@settings(max_examples=30, deadline=None, derandomize=True)
def test_codes_equal_the_slow_twin(batch: int, count: int, rounds: int, half: int) -> None:
    torch.manual_seed(count)
    x = torch.randn(batch, count, 3, dtype=torch.float64)
    rotations = torch.randn(3, rounds, half, dtype=torch.float64)
    assert hash_codes(x, rotations).tolist() == reference.hash_codes(x, rotations)


def test_direction_alone_decides() -> None:
    x, rotations = torch.randn(1, 97, 5), torch.randn(5, 2, 7)
    assert torch.equal(hash_codes(x, rotations), hash_codes(4 * x, rotations))
    assert torch.equal((hash_codes(-x, rotations) - hash_codes(x, rotations)).abs(), torch.full((1, 2, 97), 7))


def test_ties_go_to_the_lowest_index() -> None:
    assert hash_codes(torch.zeros(1, 3, 5), torch.randn(5, 2, 7)).eq(0).all()


def test_codes_are_float32_under_autocast() -> None:
    x, rotations = torch.randn(1, 997, 16), torch.randn(16, 4, 64)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(hash_codes(x, rotations), hash_codes(x.float(), rotations))


def test_sort_is_stable() -> None:
    codes = torch.randint(3, (2, 2, 997))
    key = codes * 997 + torch.arange(997)
    assert torch.equal(sort_by_code(codes), key.argsort(dim=-1))
