# mypy: ignore-errors
# Triton compiles these functions: constants are in capitals, tensors have no types, an unused number is a tuning key.
"""Triton kernels of the gradients.

With P = exp(s - log_sum): dV = P^T dO, dS = P (dO V^T - dO . O), dQ = dS K, dK = dS^T Q.

dQ and dK are one kernel: its rows are queries that walk the keys they see, or keys that walk the queries that see
them. dV has a kernel of its own, though it computes the scores again: accumulators for both would not fit the
registers, and the scores are the small part, as D is a fraction of C.
"""

from __future__ import annotations

import triton
import triton.language as tl

from sparse_attn.ops.backends.triton_kernels import (
    column_places,
    program,
    row_places,
    rows_of,
    store_rows,
    window,
)
from sparse_attn.ops.backends.triton_tuning import tuned


@triton.jit(do_not_specialize=["rows"])
def mean_kernel(grad, out, mean, rows, C: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_M: tl.constexpr):
    """The products dO . O of every token: (B, N, C) twice -> (B, N)."""
    row = tl.program_id(0).to(tl.int64) * BLOCK_M + tl.arange(0, BLOCK_M)
    real = row < rows
    row = tl.minimum(row, rows - 1)
    product = rows_of(grad, row, 0, C, BLOCK_C, UPCAST=True) * rows_of(out, row, 0, C, BLOCK_C, UPCAST=True)
    tl.store(mean + row, tl.sum(product, 1), mask=real)


@tuned("score_grad", "OF_KEYS")
@triton.jit(do_not_specialize=["tokens", "size", "circle", "rounds", "orders", "case"])
def score_grad_kernel(
    row, row_wide, column, column_wide, order, log_sum, mean, grad,
    tokens, size, circle, rounds, orders, case,
    D: tl.constexpr, C: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_C: tl.constexpr,
    NEIGHBORS: tl.constexpr, PRECISION: tl.constexpr, UPCAST: tl.constexpr,
    OF_KEYS: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """Each round's gradient (B, R, N, D): of the queries, given q, dO, k, v; OF_KEYS, given k, v, q, dO."""
    tile, _, round_, image = program(tokens, rounds, 1, BLOCK_M)
    row, column = row + image * tokens * D, column + image * tokens * D
    row_wide, column_wide = row_wide + image * tokens * C, column_wide + image * tokens * C
    log_sum, mean = log_sum + image * tokens, mean + image * tokens
    order += (image % orders * rounds + round_) * tokens
    places, real = row_places(tile, tokens, BLOCK_M)
    behind: tl.constexpr = NEIGHBORS // 2 if OF_KEYS else (NEIGHBORS + 1) // 2
    start, span, lower, upper = window(tile, places, tokens, size, behind, NEIGHBORS, BLOCK_M)
    own = tl.load(order + places)
    ours = rows_of(row, own, 0, D, BLOCK_D, UPCAST)
    wide = rows_of(row_wide, own, 0, C, BLOCK_C, UPCAST)
    if not OF_KEYS:
        shift, centre = tl.load(log_sum + own)[:, None], tl.load(mean + own)[:, None]
    total = tl.zeros([BLOCK_M, BLOCK_D], tl.float32)
    for begin in range(0, span, BLOCK_N):
        seen, flat = column_places(start, begin + tl.arange(0, BLOCK_N), tokens, circle)
        others = tl.load(order + seen)
        theirs = rows_of(column, others, 0, D, BLOCK_D, UPCAST)
        scores = tl.dot(ours, tl.trans(theirs), input_precision=PRECISION)
        weights = tl.dot(wide, tl.trans(rows_of(column_wide, others, 0, C, BLOCK_C, UPCAST)), input_precision=PRECISION)
        for first in tl.static_range(BLOCK_C, C, BLOCK_C):
            left = rows_of(row_wide, own, first, C, BLOCK_C, UPCAST)
            right = rows_of(column_wide, others, first, C, BLOCK_C, UPCAST)
            weights = tl.dot(left, tl.trans(right), weights, input_precision=PRECISION)
        if OF_KEYS:
            shift, centre = tl.load(log_sum + others)[None, :], tl.load(mean + others)[None, :]
        allowed = (flat[None, :] >= lower[:, None]) & (flat[None, :] < upper[:, None])
        share = tl.exp(tl.where(allowed, scores - shift, float("-inf")))
        total = tl.dot((share * (weights - centre)).to(theirs.dtype), theirs, total, input_precision=PRECISION)
    store_rows(grad + (image * rounds + round_) * tokens * D, own, real, 0, total, D, BLOCK_D)


@tuned("value_grad")
@triton.jit(do_not_specialize=["tokens", "size", "circle", "rounds", "orders", "parts", "case"])
def value_grad_kernel(
    q, k, out_grad, order, log_sum, grad,
    tokens, size, circle, rounds, orders, parts, case,
    D: tl.constexpr, C: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_C: tl.constexpr,
    NEIGHBORS: tl.constexpr, PRECISION: tl.constexpr, UPCAST: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """Each round's gradient (B, R, N, C) of the values: rows are keys, which walk the queries that see them."""
    tile, part, round_, image = program(tokens, rounds, parts, BLOCK_M)
    q, k, out_grad = q + image * tokens * D, k + image * tokens * D, out_grad + image * tokens * C
    order += (image % orders * rounds + round_) * tokens
    log_sum += image * tokens
    places, real = row_places(tile, tokens, BLOCK_M)
    start, span, lower, upper = window(tile, places, tokens, size, NEIGHBORS // 2, NEIGHBORS, BLOCK_M)
    own = tl.load(order + places)
    keys = rows_of(k, own, 0, D, BLOCK_D, UPCAST)
    total = tl.zeros([BLOCK_M, BLOCK_C], tl.float32)
    for begin in range(0, span, BLOCK_N):
        seen, flat = column_places(start, begin + tl.arange(0, BLOCK_N), tokens, circle)
        others = tl.load(order + seen)
        queries = rows_of(q, others, 0, D, BLOCK_D, UPCAST)
        scores = tl.dot(keys, tl.trans(queries), input_precision=PRECISION)
        allowed = (flat[None, :] >= lower[:, None]) & (flat[None, :] < upper[:, None])
        share = tl.exp(tl.where(allowed, scores - tl.load(log_sum + others)[None, :], float("-inf")))
        wide = rows_of(out_grad, others, part * BLOCK_C, C, BLOCK_C, UPCAST)
        total = tl.dot(share.to(wide.dtype), wide, total, input_precision=PRECISION)
    store_rows(grad + (image * rounds + round_) * tokens * C, own, real, part * BLOCK_C, total, C, BLOCK_C)
