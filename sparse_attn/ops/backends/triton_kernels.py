# mypy: ignore-errors
# Triton compiles these functions: constants are in capitals, tensors have no types, an unused number is a tuning key.
"""Triton kernels of attention over ordered tokens: tiles, the forward pass, the merging of rounds (Eq. 11).

A tile is BLOCK_M consecutive places of a round's order. It may straddle chunks, so that small buckets fill it as well
as large ones: it walks the chunks that any of its rows sees as one flat list, of which each row sees an interval. The
circle of chunks wraps at J*k; places from N to J*k are padding, which nobody sees. Dense attention is one chunk.
Tokens are int64, as offsets of rows may pass 2^31.

Every program writes rows of its own, so nothing is atomic and the same launch gives the same bits.
"""

from __future__ import annotations

import triton
import triton.language as tl

from sparse_attn.ops.backends.triton_tuning import tuned


@triton.jit
def program(tokens, rounds, parts, BLOCK: tl.constexpr):
    """This program's tile, slice of columns, round and image. One axis: the others of a grid end at 65535."""
    tiles = tl.cdiv(tokens, BLOCK)
    index = tl.program_id(0)
    tile, index = index % tiles, index // tiles
    part, index = index % parts, index // parts
    return tile, part, index % rounds, (index // rounds).to(tl.int64)


@triton.jit
def row_places(tile, tokens, BLOCK: tl.constexpr):
    """A tile's places in the order, and which are real; the last place stands in for those beyond it."""
    places = tile * BLOCK + tl.arange(0, BLOCK)
    return tl.minimum(places, tokens - 1), places < tokens


@triton.jit
def window(tile, places, tokens, size, BEHIND: tl.constexpr, NEIGHBORS: tl.constexpr, BLOCK: tl.constexpr):
    """The flat list's first place and length, and each row's interval [lower, upper) of it."""
    first = tile * BLOCK // size
    last = (tl.minimum(tile * BLOCK + BLOCK, tokens) - 1) // size
    lower = (places // size - first) * size
    return (first - BEHIND) * size, (last - first + 1 + NEIGHBORS) * size, lower, lower + (NEIGHBORS + 1) * size


@triton.jit
def column_places(start, flat, tokens, circle):
    """The places of the flat list's entries in the order, and the entries with -1 for the padding."""
    places = start + flat
    places = tl.where(places < 0, places + circle, places)
    places = tl.where(places >= circle, places - circle, places)
    real = places < tokens
    return tl.where(real, places, 0), tl.where(real, flat, -1)


@triton.jit
def rows_of(x, tokens, first, WIDTH: tl.constexpr, BLOCK: tl.constexpr, UPCAST: tl.constexpr):
    """(len(tokens), BLOCK) columns of x's rows from `first` on; zero beyond WIDTH."""
    columns = first + tl.arange(0, BLOCK)
    pointers = x + tokens[:, None] * WIDTH + columns[None, :]
    if WIDTH % BLOCK == 0:
        rows = tl.load(pointers)
    else:
        rows = tl.load(pointers, mask=columns[None, :] < WIDTH, other=0.0)
    if UPCAST:
        rows = rows.to(tl.float32)
    return rows


@triton.jit
def store_rows(x, tokens, real, first, rows, WIDTH: tl.constexpr, BLOCK: tl.constexpr):
    """Writes (len(tokens), BLOCK) columns of those rows of x that are real."""
    columns = first + tl.arange(0, BLOCK)
    mask = real[:, None] & (columns[None, :] < WIDTH)
    tl.store(x + tokens[:, None] * WIDTH + columns[None, :], rows.to(x.dtype.element_ty), mask=mask)


@tuned("forward")
@triton.jit(do_not_specialize=["tokens", "size", "circle", "rounds", "orders", "parts", "case"])
def forward_kernel(
    q, k, v, order, out, log_sum,
    tokens, size, circle, rounds, orders, parts, case,
    D: tl.constexpr, C: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_C: tl.constexpr,
    NEIGHBORS: tl.constexpr, PRECISION: tl.constexpr, UPCAST: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """Each round's outputs (B, R, N, C) and log-sum-exp (B, R, N)."""
    tile, part, round_, image = program(tokens, rounds, parts, BLOCK_M)
    q, k, v = q + image * tokens * D, k + image * tokens * D, v + image * tokens * C
    order += (image % orders * rounds + round_) * tokens
    places, real = row_places(tile, tokens, BLOCK_M)
    start, span, lower, upper = window(tile, places, tokens, size, (NEIGHBORS + 1) // 2, NEIGHBORS, BLOCK_M)
    own = tl.load(order + places)
    queries = rows_of(q, own, 0, D, BLOCK_D, UPCAST)
    # Finite, so that a row whose first keys are all masked subtracts no infinities.
    largest = tl.full([BLOCK_M], -3.0e38, tl.float32)
    total = tl.zeros([BLOCK_M], tl.float32)
    mixed = tl.zeros([BLOCK_M, BLOCK_C], tl.float32)
    for begin in range(0, span, BLOCK_N):
        seen, flat = column_places(start, begin + tl.arange(0, BLOCK_N), tokens, circle)
        others = tl.load(order + seen)
        keys = rows_of(k, others, 0, D, BLOCK_D, UPCAST)
        scores = tl.dot(queries, tl.trans(keys), input_precision=PRECISION)
        allowed = (flat[None, :] >= lower[:, None]) & (flat[None, :] < upper[:, None])
        scores = tl.where(allowed, scores, float("-inf"))
        larger = tl.maximum(largest, tl.max(scores, 1))
        weights = tl.exp(scores - larger[:, None])
        decay = tl.exp(largest - larger)
        total = total * decay + tl.sum(weights, 1)
        values = rows_of(v, others, part * BLOCK_C, C, BLOCK_C, UPCAST)
        mixed = tl.dot(weights.to(values.dtype), values, mixed * decay[:, None], input_precision=PRECISION)
        largest = larger
    row = (image * rounds + round_) * tokens
    store_rows(out + row * C, own, real, part * BLOCK_C, mixed / total[:, None], C, BLOCK_C)
    if part == 0:
        tl.store(log_sum + row + own, largest + tl.log(total), mask=real)


@triton.jit(do_not_specialize=["tokens", "rounds", "rows"])
def merge_kernel(
    outs, log_sums, out, log_sum, tokens, rounds, rows,
    C: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_M: tl.constexpr,
):  # fmt: skip
    """Eq. 11: weighs each round's output by its share of the softmax's mass, (B, R, N, C) -> (B, N, C)."""
    row = tl.program_id(0).to(tl.int64) * BLOCK_M + tl.arange(0, BLOCK_M)
    real = row < rows
    row = tl.minimum(row, rows - 1)
    first = row // tokens * rounds * tokens + row % tokens
    largest = tl.load(log_sums + first)
    for r in range(1, rounds):
        largest = tl.maximum(largest, tl.load(log_sums + first + r * tokens))
    total = tl.zeros([BLOCK_M], tl.float32)
    for r in range(rounds):
        total += tl.exp(tl.load(log_sums + first + r * tokens) - largest)
    both = largest + tl.log(total)
    merged = tl.zeros([BLOCK_M, BLOCK_C], tl.float32)
    for r in range(rounds):
        share = tl.exp(tl.load(log_sums + first + r * tokens) - both)
        part = rows_of(outs, first + r * tokens, 0, C, BLOCK_C, UPCAST=True)
        merged += share[:, None] * part
    store_rows(out, row, real, 0, merged, C, BLOCK_C)
    tl.store(log_sum + row, both, mask=real)
