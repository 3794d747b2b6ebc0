"""Dense attention on the CPU, tile by tile: the full score matrix is never held. See `blocked_shift` for the maths."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from sparse_attn.ops.backends.blocked_shift import (
    LN_2,
    LOG2_E,
    Scratch,
    accumulate,
    choose_shift,
    log_sums,
    prepare_backward,
    size_of_scores,
    wide,
)

# Queries and keys of a tile; images that are smaller than a tile go together.
TILE = (512, 1024)


def _slices(length: int, step: int) -> list[slice]:
    return [slice(start, min(start + step, length)) for start in range(0, length, step)]


def _query_tiles(batch: int, tokens: int) -> Iterator[tuple[slice, slice]]:
    """Which images, and which of their queries."""
    together = max(1, TILE[0] * TILE[1] // (tokens * tokens))
    for images in _slices(batch, together):
        for rows in _slices(tokens, tokens if together > 1 else TILE[0]):
            yield images, rows


def _shift(q: Tensor, k: Tensor, scratch: Scratch) -> Tensor | None:
    """m_i, (B, N, 1), rounded to the dtype of the queries."""
    shift, too_small, scratch.apart = choose_shift(q, k)
    if shift is not None and too_small:
        for images, rows in _query_tiles(len(q), q.shape[1]):
            for keys in _slices(k.shape[1], TILE[1]):
                largest = scratch.product("e", q[images, rows], k[images, keys].mT).amax(dim=-1, keepdim=True)
                shift[images, rows] = torch.maximum(shift[images, rows], largest.to(shift.dtype))
    return None if shift is None else shift.to(q.dtype)


def _part(shift: Tensor | None, images: slice, rows: slice) -> Tensor | None:
    return None if shift is None else shift[images, rows]


def forward(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """(B, N, D), (B, N, D), (B, N, C) -> (B, N, C) and the log2-sum-exp2 of each query's scores (B, N)."""
    q = q * LOG2_E
    scratch = Scratch(q)
    shift = _shift(q, k, scratch)
    out = torch.zeros_like(v, dtype=wide(v.dtype))
    total = out.new_zeros(*v.shape[:2], 1)
    for images, rows in _query_tiles(len(q), q.shape[1]):
        for keys in _slices(k.shape[1], TILE[1]):
            e = scratch.product("e", q[images, rows], k[images, keys].mT, _part(shift, images, rows)).exp2_()
            total[images, rows] += e.sum(dim=-1, keepdim=True, dtype=total.dtype)
            accumulate(out[images, rows], e, v[images, keys], scratch)
    return out.div_(total).to(v.dtype), log_sums(shift, total)


def backward(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, mean: Tensor, log_sum: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of q, k and v, with dS = P (dO V^T - dO . O)."""
    q = q * LOG2_E
    dq, dk, dv = (torch.zeros_like(x, dtype=log_sum.dtype) for x in (q, k, v))
    scratch = Scratch(q)
    small, scratch.apart = size_of_scores(q, k)
    shift, factor, means = prepare_backward(mean, log_sum, like=grad, small=small)
    for images, rows in _query_tiles(len(q), q.shape[1]):
        queries, grads = q[images, rows], grad[images, rows]
        if factor is not None:
            grads = grads * factor[images, rows]
        for keys in _slices(k.shape[1], TILE[1]):
            p = scratch.product("p", queries, k[images, keys].mT, _part(shift, images, rows)).exp2_()
            accumulate(dv[images, keys], p.mT, grads, scratch)
            ds = scratch.product("ds", grads, v[images, keys].mT, means[images, rows]).mul_(p)
            accumulate(dq[images, rows], ds, k[images, keys], scratch)
            accumulate(dk[images, keys], ds.mT, queries, scratch)
    return dq.to(q.dtype), dk.mul_(LN_2).to(k.dtype), dv.to(v.dtype)
