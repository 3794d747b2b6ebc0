"""Who attends to whom, written out, equals the slow twin's lists."""

from __future__ import annotations

from collections import Counter

import pytest
import torch

from sparse_attn.ops import Buckets, KeyLists
from sparse_attn.ops.attended import attended_counts, attention_weights, chunk_of
from sparse_attn.ops.reference import attended_keys


@pytest.mark.parametrize("boundary", ["mask", "repeat"])
@pytest.mark.parametrize("neighbors", [0, 1, 2])
@pytest.mark.parametrize("tokens", [5, 7, 13, 14, 21, 29])
def test_counts_are_those_of_the_slow_twin(tokens: int, neighbors: int, boundary: str) -> None:
    order = torch.stack([torch.randperm(tokens, generator=torch.Generator().manual_seed(s)) for s in range(4)])
    buckets = Buckets(order.view(2, 2, tokens), 7, neighbors, boundary)
    counts = attended_counts(buckets, tokens, torch.arange(tokens), batch=2)
    assert counts.shape == (2, 2, tokens, tokens)
    for image in range(2):
        for r in range(2):
            for query, keys in attended_keys(buckets, order[2 * image + r].tolist()).items():
                row = counts[image, r, query]
                assert {int(i): int(row[i]) for i in row.nonzero()} == dict(Counter(keys))


def test_order_of_place_and_lists_of_keys() -> None:
    counts = attended_counts(Buckets(None, 3), 7, torch.tensor([1, 6]), batch=2)
    assert counts[1, 0].tolist() == [[1, 1, 1, 0, 0, 0, 0], [0, 0, 0, 0, 0, 0, 1]]
    assert chunk_of(Buckets(None, 3), 7).tolist() == [[[0, 0, 0, 1, 1, 1, 2]]]
    lists = KeyLists(torch.tensor([[[0, 2], [1, 2], [0, 1]]]))
    assert attended_counts(lists, 3, torch.tensor([2, 0]))[0, 0].tolist() == [[1, 1, 0], [1, 0, 1]]


def test_weights_count_a_key_as_often_as_it_is_met() -> None:
    generator = torch.Generator().manual_seed(0)
    q, k = (torch.randn(1, 3, 5, dtype=torch.float64, generator=generator) for _ in range(2))
    counts = torch.tensor([[[1, 0, 2], [1, 1, 1], [0, 0, 3]]])
    weights = attention_weights(q, k, counts)
    numerators = counts * torch.exp(q @ k.transpose(1, 2))
    torch.testing.assert_close(weights, numerators / numerators.sum(-1, keepdim=True))
    assert weights[0, 2].tolist() == [0.0, 0.0, 1.0]
