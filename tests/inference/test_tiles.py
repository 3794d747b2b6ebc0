"""Tiles cover the picture, and their weights sum to one."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sparse_attn.inference.tiles import MIN_SIDE, ramps, reflection, spans


@settings(deadline=None)
@given(size=st.integers(1, 211), tile=st.integers(2, 97), data=st.data())
def test_spans_cover_with_at_least_the_overlap(size: int, tile: int, data: st.DataObject) -> None:
    overlap = data.draw(st.integers(0, tile - 1))
    found = spans(size, tile, overlap)
    assert found[0][0] == 0 and found[-1][1] == size
    assert all(stop - start == min(tile, size) for start, stop in found)
    assert all(a_stop - b_start >= overlap for (_, a_stop), (b_start, _) in pairwise(found))


@settings(deadline=None)
@given(size=st.integers(1, 211), tile=st.integers(2, 97), scale=st.integers(1, 4), data=st.data())
def test_ramps_sum_to_one_and_are_one_where_a_tile_is_alone(
    size: int, tile: int, scale: int, data: st.DataObject
) -> None:
    found = spans(size, tile, data.draw(st.integers(0, tile - 1)))
    total = torch.zeros(scale * size, dtype=torch.float64)
    covers = torch.zeros(scale * size, dtype=torch.int64)
    weights = ramps(found, scale, like=total)
    for weight, (start, stop) in zip(weights, found, strict=True):
        total[scale * start : scale * stop] += weight
        covers[scale * start : scale * stop] += 1
    torch.testing.assert_close(total, torch.ones_like(total), rtol=0, atol=1e-12)
    for weight, (start, stop) in zip(weights, found, strict=True):
        assert (weight > 0).all()
        assert (weight[covers[scale * start : scale * stop] == 1] == 1).all()


def test_a_ramp_between_two_tiles_is_linear() -> None:
    like = torch.zeros((), dtype=torch.float64)
    first, second = ramps([(0, 7), (3, 11)], 1, like=like)
    torch.testing.assert_close(second[:4], torch.tensor([0.125, 0.375, 0.625, 0.875], dtype=torch.float64))
    torch.testing.assert_close(first[3:], 1 - second[:4])


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        (1, [0] * 16),
        (2, [1, 0] * 8),
        (3, [2, 1] + [0, 1, 2, 1] * 3 + [0, 1]),
        (13, [1, *range(13), 11, 10]),
        (17, list(range(17))),
    ],
)
def test_reflection(size: int, expected: list[int]) -> None:
    index, before = reflection(size)
    assert len(index) == max(size, MIN_SIDE)
    assert index[before : before + size].tolist() == list(range(size))
    assert index.tolist() == expected
    steps = (index[1:] - index[:-1]).abs()
    assert (steps == (1 if size > 1 else 0)).all()
