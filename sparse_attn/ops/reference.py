"""Slow, obvious twins of the fast operations: loops over queries and explicit lists of keys. For tests and study."""

from __future__ import annotations

import torch
from torch import Tensor

from sparse_attn.ops.grouping import Buckets, Groups


def attended_keys(buckets: Buckets, order: list[int]) -> dict[int, list[int]]:
    """For one round of one image: the keys of every query, with multiplicity.

    Args:
        buckets: how the order is cut.
        order: the round's permutation of the N tokens.
    """
    size, tokens = buckets.bucket_size, len(order)
    if tokens <= size:
        return {query: list(range(tokens)) for query in order}
    chunks = [order[start : start + size] for start in range(0, tokens, size)]
    if buckets.boundary == "repeat" and len(chunks[-1]) < size:
        missing = size - len(chunks[-1])
        chunks[-1] = chunks[-1] + order[-missing:]
    keys: dict[int, list[int]] = {}
    for j in range(len(chunks)):
        met = [j, j - 1, j + 1][: buckets.neighbors + 1]
        around = [m % len(chunks) for m in met]
        if buckets.boundary == "mask":
            around = sorted(set(around))
        for query in chunks[j]:
            # A repeated token's first appearance decides: its repetition as a query is dropped.
            keys.setdefault(query, [key for m in around for key in chunks[m]])
    return keys


def attend(q: Tensor, k: Tensor, v: Tensor, groups: Groups) -> Tensor:
    """The twin of `sparse_attn.ops.attend`: one softmax a query over the concatenation of all rounds' keys."""
    batch, tokens, _ = q.shape
    rows = []
    for b in range(batch):
        keys: list[list[int]] = [[] for _ in range(tokens)]
        if isinstance(groups, Buckets):
            orders = [list(range(tokens))]
            if groups.order is not None:
                orders = groups.order[b % groups.order.shape[0]].tolist()
            for order in orders:
                for query, seen in attended_keys(groups, order).items():
                    keys[query] += seen
        else:
            keys = groups.index[b].tolist()
        for query in range(tokens):
            scores = torch.stack([q[b, query] @ k[b, key] for key in keys[query]])
            weights = scores.softmax(dim=0)
            rows.append(sum(w * v[b, key] for w, key in zip(weights, keys[query], strict=True)))
    return torch.stack(rows).reshape(batch, tokens, -1)


def hash_codes(x: Tensor, rotations: Tensor) -> list[list[list[int]]]:
    """The twin of `sparse_attn.ops.hash_codes`: codes[b][r][n], the first index of the largest of [x R, -x R]."""
    codes = []
    for image in x.detach():
        rounds = []
        for r in range(rotations.shape[1]):
            row = []
            for token in image:
                rotated = (token @ rotations[:, r].to(token.dtype)).tolist()
                both = rotated + [-value for value in rotated]
                row.append(both.index(max(both)))
            rounds.append(row)
        codes.append(rounds)
    return codes
