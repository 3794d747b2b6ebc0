"""Sparse buckets on the CPU: a few chunks at a time, in scratch memory that stays in the cache.

The chunks of a block and their neighbours are gathered from the tokens just before they are used, and what comes out
is added to its tokens at once: nothing is padded, tripled or unsorted, and no tensor is as large as a round. See
`blocked_shift` for the maths.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

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
)

# Scores of one block, and tokens of one block: 16 chunks of 144 by 432 float32 are 4 MB.
BLOCK_SCORES = 16 * 144 * 432
BLOCK_TOKENS = 4096
MIN_ROWS = 64


@dataclass(frozen=True)
class Plan:
    """How a round is walked. Positions count the padded order, wrapped by the neighbours of the first and last chunk.

    Args:
        tokens: N.
        size: k.
        neighbors: of `Buckets`.
        repeat: the padding repeats the last tokens and they are keys, as `boundary='repeat'` has it.
    """

    tokens: int
    size: int
    neighbors: int
    repeat: bool

    @property
    def count(self) -> int:
        """J."""
        return -(-self.tokens // self.size)

    @property
    def reach(self) -> int:
        """W, the chunks in a window."""
        return self.neighbors + 1

    @property
    def before(self) -> int:
        """Chunks in a window before the queries' own."""
        return min(self.neighbors, 1)

    @property
    def pad(self) -> int:
        """Positions of the last chunk that hold no token of their own."""
        return self.count * self.size - self.tokens

    def wrap(self, order: Tensor) -> Tensor:
        """(N,) -> ((J + W - 1) * k,) the token at each position; padding that is no key holds some token."""
        filler = order[self.tokens - self.pad :] if self.repeat else order[:1].expand(self.pad)
        chunks = torch.cat([order, filler]).unflatten(0, (self.count, self.size))
        return torch.cat([chunks[self.count - self.before :], chunks, chunks[: self.reach - 1 - self.before]]).flatten()

    def blocks(self) -> list[tuple[int, int]]:
        """The first chunk of each block and the one after its last."""
        step = min(BLOCK_SCORES // (self.size * self.size * self.reach), BLOCK_TOKENS // self.size)
        step = max(1, min(step, self.count))
        return [(start, min(start + step, self.count)) for start in range(0, self.count, step)]

    def row_slices(self) -> list[slice]:
        """The queries of a chunk: all at once, or some at a time where a single chunk's scores are many."""
        step = max(MIN_ROWS, BLOCK_SCORES // (self.size * self.reach))
        return [slice(start, min(start + step, self.size)) for start in range(0, self.size, step)]

    def not_keys(self, start: int, stop: int) -> Iterator[tuple[int, int]]:
        """Stretches of padding among the positions that the windows of a block cover, counted from the first."""
        if self.pad and not self.repeat:
            low, high = start * self.size, (stop - 1 + self.reach) * self.size
            for chunk in {self.before - 1, self.before + self.count - 1} - {-1}:
                end = (chunk + 1) * self.size
                if low < end <= high:
                    yield end - self.pad - low, end - low

    def windows(self, tokens: Tensor, chunks: int) -> Tensor:
        """(positions, C) gathered tokens as overlapping windows (c, W*k, C)."""
        width = tokens.shape[-1]
        return tokens.as_strided((chunks, self.reach * self.size, width), (self.size * width, width, 1))

    def add_to_windows(self, tokens: Tensor, weights: Tensor, values: Tensor, scratch: Scratch) -> None:
        """Adds weights^T values, (c, W*k, C), for weights (c, rows, W*k), to the (positions, C) under the windows."""
        chunks = tokens.unflatten(0, (-1, self.size))
        for part in range(self.reach):
            columns = weights[:, :, part * self.size : (part + 1) * self.size]
            accumulate(chunks[part : part + len(weights)], columns.mT, values, scratch)

    def clear_not_keys(self, scores: Tensor, start: int, value: float) -> None:
        """Overwrites the columns of (c, rows, W*k) scores that belong to padding."""
        for first, last in self.not_keys(start, start + len(scores)):
            for chunk in range(len(scores)):
                low, high = first - chunk * self.size, last - chunk * self.size
                if low >= 0 and high <= scores.shape[-1]:
                    scores[chunk, :, low:high] = value


class _Block:
    """One block of a round: the tokens it gathers, and where its results belong."""

    def __init__(self, plan: Plan, wrapped: Tensor, start: int, stop: int, scratch: Scratch) -> None:
        self.plan, self.start, self.chunks, self.scratch = plan, start, stop - start, scratch
        size = plan.size
        self.key_rows = wrapped[start * size : (stop - 1 + plan.reach) * size]
        self.query_rows = wrapped[(start + plan.before) * size : (stop + plan.before) * size]
        self.real = min(stop * size, plan.tokens) - start * size

    def _gather(self, name: str, tokens: Tensor, rows: Tensor) -> Tensor:
        out = self.scratch.take(name, len(rows), tokens.shape[1], dtype=tokens.dtype)
        return torch.index_select(tokens, 0, rows, out=out)

    def queries(self, name: str, tokens: Tensor) -> Tensor:
        """(N, C) -> (c, k, C)."""
        return self._gather(name, tokens, self.query_rows).unflatten(0, (self.chunks, self.plan.size))

    def keys(self, name: str, tokens: Tensor) -> Tensor:
        """(N, C) -> (positions, C), zero where there is padding."""
        gathered = self._gather(name, tokens, self.key_rows)
        for first, last in self.plan.not_keys(self.start, self.start + self.chunks):
            gathered[first:last] = 0.0
        return gathered

    def windows(self, name: str, tokens: Tensor) -> Tensor:
        """(N, C) -> (c, W*k, C)."""
        return self.plan.windows(self.keys(name, tokens), self.chunks)

    def powers(self, queries: Tensor, windows: Tensor, shift: Tensor | None, rows: slice) -> Tensor:
        """2^(q k^T - shift) for those rows of (c, k, D) queries: (c, rows, W*k), zero for padding."""
        subtract = None if shift is None else shift[:, rows]
        e = self.scratch.product("powers", queries[:, rows], windows.mT, subtract).exp2_()
        self.plan.clear_not_keys(e, self.start, 0.0)
        return e

    def clear_not_queries(self, weights: Tensor, rows: slice) -> None:
        """Zeroes the rows of (c, rows, W*k) weights whose queries are padding."""
        first = max(self.real - (self.chunks - 1) * self.plan.size - rows.start, 0)
        weights[-1, first:] = 0.0

    def add_to_queries(self, total: Tensor, values: Tensor, rows: slice) -> None:
        """Adds (c, rows, C) to the tokens (N, C) of those queries, without padding."""
        if values.shape[1] == self.plan.size:
            tokens, added = self.query_rows[: self.real], values.flatten(0, 1)[: self.real]
        else:
            last = min(rows.stop, self.real)
            tokens, added = self.query_rows[rows.start : last], values[0, : max(last - rows.start, 0)]
        total.index_add_(0, tokens, added.to(total.dtype))

    def add_to_keys(self, total: Tensor, values: Tensor) -> None:
        """Adds (positions, C) to the tokens (N, C) of the keys, without padding."""
        for first, last in self.plan.not_keys(self.start, self.start + self.chunks):
            values[first:last] = 0.0
        total.index_add_(0, self.key_rows, values)


def _blocks(plan: Plan, orders: Tensor, scratch: Scratch) -> Iterator[_Block]:
    for order in orders:
        wrapped = plan.wrap(order)
        for start, stop in plan.blocks():
            yield _Block(plan, wrapped, start, stop, scratch)


def _shift(q: Tensor, k: Tensor, orders: Tensor, plan: Plan, scratch: Scratch) -> Tensor | None:
    """m_i, (N, 1), rounded to the dtype of the queries, which are yet to be multiplied by log2(e)."""
    shift, too_small, scratch.apart = choose_shift(q, k, scale=LOG2_E)
    if shift is not None and too_small:
        for block in _blocks(plan, orders, scratch):
            queries, windows = block.queries("q", q).mul_(LOG2_E), block.windows("k", k)
            largest = shift.new_empty(block.chunks, plan.size, 1)
            for rows in plan.row_slices():
                scores = scratch.product("powers", queries[:, rows], windows.mT)
                plan.clear_not_keys(scores, block.start, -torch.inf)
                largest[:, rows] = scores.amax(dim=-1, keepdim=True).to(shift.dtype)
            tokens = block.query_rows[: block.real]
            shift[tokens] = torch.maximum(shift[tokens], largest.flatten(0, 1)[: block.real])
    return None if shift is None else shift.to(q.dtype)


def forward(q: Tensor, k: Tensor, v: Tensor, orders: Tensor, plan: Plan, out: Tensor, scratch: Scratch) -> Tensor:
    """One image: (N, D), (N, D), (N, C), (R, N); adds to `out` (N, C), and returns each query's log2-sum-exp2 (N,)."""
    shift = _shift(q, k, orders, plan, scratch)
    total = out.new_zeros(plan.tokens, 1)
    for block in _blocks(plan, orders, scratch):
        queries = block.queries("q", q).mul_(LOG2_E)
        keys, values = block.windows("k", k), block.windows("v", v)
        shifts = None if shift is None else block.queries("shift", shift)
        for rows in plan.row_slices():
            e = block.powers(queries, keys, shifts, rows)
            # Summed in float32 either way; PyTorch would make a float32 copy of bf16 if asked for a float32 result.
            block.add_to_queries(total, e.sum(dim=-1, keepdim=True), rows)
            block.add_to_queries(out, scratch.product("out", e, values), rows)
    out.div_(total)
    return log_sums(shift, total)


def backward(
    grad: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    orders: Tensor,
    mean: Tensor,
    log_sum: Tensor,
    plan: Plan,
    grads: Sequence[Tensor],
    scratch: Scratch,
) -> None:
    """One image: adds the gradients of q, k and v to `grads`, with dS = P (dO V^T - dO . O), the latter `mean` (N,)."""
    dq, dk, dv = grads
    small, scratch.apart = size_of_scores(q, k, scale=LOG2_E)
    shift, factor, dots = prepare_backward(mean, log_sum, like=grad, small=small)
    for block in _blocks(plan, orders, scratch):
        queries = block.queries("q", q).mul_(LOG2_E)
        grad_out, means = block.queries("grad", grad), block.queries("mean", dots)
        if factor is not None:
            grad_out *= block.queries("factor", factor)
        shifts = None if shift is None else block.queries("shift", shift)
        keys, values = block.windows("k", k), block.windows("v", v)
        dks, dvs = (
            scratch.take(n, len(block.key_rows), x.shape[1], dtype=x.dtype) for n, x in (("dk", dk), ("dv", dv))
        )
        dks.zero_()
        dvs.zero_()
        for rows in plan.row_slices():
            p = block.powers(queries, keys, shifts, rows)
            block.clear_not_queries(p, rows)
            plan.add_to_windows(dvs, p, grad_out[:, rows], scratch)
            ds = scratch.product("ds", grad_out[:, rows], values.mT, means[:, rows]).mul_(p)
            block.add_to_queries(dq, scratch.product("dq", ds, keys), rows)
            plan.add_to_windows(dks, ds, queries[:, rows], scratch)
        block.add_to_keys(dk, dks)
        block.add_to_keys(dv, dvs)
    dk.mul_(LN_2)
