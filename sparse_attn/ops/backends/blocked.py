"""The CPU backend: a few chunks at a time in scratch memory that stays in the cache, scores recomputed for gradients.

One softmax runs over all rounds' keys (Eq. 11), so with any per-query constant m_i, out_i = sum_r E_r V / sum_r sum E_r
where E = exp(s - m_i): rounds merge by plain addition. m_i is the query's score with itself. A query is always in its
own chunk, so the sum is at least 1 and cannot underflow; where keys are normalised queries m_i = ||q_i|| is the
maximum. Elsewhere a score may exceed it, and where exp could overflow m_i is the true maximum, at one more pass.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from sparse_attn.ops.grouping import Buckets, Groups

# Scores of one block: 8 chunks of 144 by 432 float32 are 2 MB.
_BLOCK_SCORES = 8 * 144 * 432
_SAFE_EXPONENT = 60.0


def _wrapped(x: Tensor, order: Tensor, count: int, size: int) -> Tensor:
    """(N, C) rows in order, as (J + 2, k, C) chunks: the last again before the first, the first after the last."""
    tokens, width = x.shape
    buffer = x.new_zeros((count + 2) * size, width)
    torch.index_select(x, 0, order, out=buffer[size : size + tokens])
    chunks = buffer.view(count + 2, size, width)
    chunks[0], chunks[-1] = chunks[count], chunks[1]
    return chunks


def _unwrapped(chunks: Tensor, order: Tensor, into: Tensor) -> None:
    """Adds (J + 2, k, C) chunks, whose two ends belong to the chunks they repeat, to the rows of (N, C)."""
    chunks[-2] += chunks[0]
    chunks[1] += chunks[-1]
    into.index_add_(0, order, chunks[1:-1].flatten(0, 1)[: into.shape[0]])


class _Plan:
    """How a round is walked: blocks of chunks, each with the window its queries see."""

    def __init__(self, tokens: int, size: int, neighbors: int) -> None:
        self.tokens, self.size, self.neighbors = tokens, size, neighbors
        self.count = -(-tokens // size)
        self.reach = neighbors + 1
        self.before = 0 if neighbors == 0 else 1
        self.pad = self.count * size - tokens
        step = max(1, _BLOCK_SCORES // (size * size * self.reach))
        self.blocks = [(start, min(start + step, self.count)) for start in range(0, self.count, step)]

    def windows(self, chunks: Tensor, start: int, stop: int) -> Tensor:
        """(c, W*k, C): for each chunk of a block what it sees, as an overlapping view of the wrapped chunks."""
        _, size, width = chunks.shape
        first = chunks[1 + start - self.before :]
        return first.as_strided((stop - start, self.reach * size, width), (size * width, width, 1))

    def add_windows(self, chunks: Tensor, start: int, stop: int, windows: Tensor) -> None:
        """Adds (c, W*k, C) to the chunks that `windows` is a view of."""
        for part in range(self.reach):
            first = 1 + start - self.before + part
            chunks[first : first + stop - start] += windows[:, part * self.size : (part + 1) * self.size]

    def fill_padding(self, scores: Tensor, start: int, stop: int, value: float) -> None:
        """Overwrites, in the (c, k, W*k) scores of a block, the columns of the last chunk's padding."""
        if self.pad == 0:
            return
        last = self.count - 1
        for chunk in range(start, stop):
            for part in range(self.reach):
                if (chunk - self.before + part) % self.count == last:
                    end = (part + 1) * self.size
                    scores[chunk - start, :, end - self.pad : end] = value


def _reference_scores(q: Tensor, k: Tensor, order: Tensor, plan: _Plan) -> Tensor:
    """m_i, (N, 1): the query's score with itself, or where exp could overflow its largest score."""
    own = (q * k).sum(-1, keepdim=True)
    bound = q.norm(dim=-1, keepdim=True) * k.norm(dim=-1).max()
    if bool((bound - own).max() < _SAFE_EXPONENT):
        return own
    for row in order:
        qs, ks = (_wrapped(x, row, plan.count, plan.size) for x in (q, k))
        largest = []
        for start, stop in plan.blocks:
            scores = qs[start + 1 : stop + 1] @ plan.windows(ks, start, stop).mT
            plan.fill_padding(scores, start, stop, -torch.inf)
            largest.append(scores.amax(dim=-1).flatten())
        own[row] = torch.maximum(own[row], torch.cat(largest)[: plan.tokens].unsqueeze(-1))
    return own


@torch.library.custom_op("sparse_attn::blocked_forward", mutates_args=())
def blocked_forward(
    q: Tensor, k: Tensor, v: Tensor, order: Tensor, bucket_size: int, neighbors: int
) -> tuple[Tensor, Tensor]:
    """The outputs (B, N, C) and the log-sum-exp of each query's scores in all rounds (B, N)."""
    plan = _Plan(q.shape[1], bucket_size, neighbors)
    out, log_sum = torch.zeros_like(v), torch.empty_like(q[..., 0])
    with torch.autocast("cpu", enabled=False):
        for b in range(q.shape[0]):
            rows = order[b % order.shape[0]]
            shift = _reference_scores(q[b], k[b], rows, plan)
            total = torch.zeros_like(shift)
            for row in rows:
                qs, ks, vs, shifts = (_wrapped(x, row, plan.count, bucket_size) for x in (q[b], k[b], v[b], shift))
                outs, sums = torch.empty_like(vs), torch.empty_like(shifts)
                for start, stop in plan.blocks:
                    inner = slice(start + 1, stop + 1)
                    e = torch.baddbmm(shifts[inner], qs[inner], plan.windows(ks, start, stop).mT, beta=-1).exp_()
                    plan.fill_padding(e, start, stop, 0.0)
                    torch.sum(e, dim=-1, keepdim=True, out=sums[inner])
                    torch.bmm(e, plan.windows(vs, start, stop), out=outs[inner])
                out[b].index_add_(0, row, outs[1:-1].flatten(0, 1)[: plan.tokens])
                total.index_add_(0, row, sums[1:-1].flatten(0, 1)[: plan.tokens])
            out[b] /= total
            log_sum[b] = (shift + total.log()).squeeze(-1)
    return out, log_sum


@torch.library.custom_op("sparse_attn::blocked_backward", mutates_args=())
def blocked_backward(
    grad: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    order: Tensor,
    out: Tensor,
    log_sum: Tensor,
    bucket_size: int,
    neighbors: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of q, k and v: with P = exp(s - log_sum), dS = P (dO V^T - dO . O)."""
    plan = _Plan(q.shape[1], bucket_size, neighbors)
    dq, dk, dv = torch.zeros_like(q), torch.zeros_like(k), torch.zeros_like(v)
    with torch.autocast("cpu", enabled=False):
        for b in range(q.shape[0]):
            mean = (grad[b] * out[b]).sum(-1, keepdim=True)
            tokens = (q[b], k[b], v[b], log_sum[b].unsqueeze(-1), grad[b], mean)
            for row in order[b % order.shape[0]]:
                qs, ks, vs, shifts, grads, means = (_wrapped(x, row, plan.count, bucket_size) for x in tokens)
                dqs, dks, dvs = torch.zeros_like(qs), torch.zeros_like(ks), torch.zeros_like(vs)
                for start, stop in plan.blocks:
                    inner = slice(start + 1, stop + 1)
                    window = plan.windows(ks, start, stop)
                    p = torch.baddbmm(shifts[inner], qs[inner], window.mT, beta=-1).exp_()
                    plan.fill_padding(p, start, stop, 0.0)
                    plan.add_windows(dvs, start, stop, torch.bmm(p.mT, grads[inner]))
                    ds = torch.baddbmm(means[inner], grads[inner], plan.windows(vs, start, stop).mT, beta=-1).mul_(p)
                    torch.bmm(ds, window, out=dqs[inner])
                    plan.add_windows(dks, start, stop, torch.bmm(ds.mT, qs[inner]))
                dq[b].index_add_(0, row, dqs[1:-1].flatten(0, 1)[: plan.tokens])
                _unwrapped(dks, row, dk[b])
                _unwrapped(dvs, row, dv[b])
    return dq, dk, dv


@blocked_forward.register_fake
def _(q: Tensor, _k: Tensor, v: Tensor, *_: object) -> tuple[Tensor, Tensor]:
    return torch.empty_like(v), torch.empty_like(q[..., 0])


@blocked_backward.register_fake
def _(_grad: Tensor, q: Tensor, k: Tensor, v: Tensor, *_: object) -> tuple[Tensor, Tensor, Tensor]:
    return torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    *tensors, ctx.bucket_size, ctx.neighbors = inputs
    ctx.save_for_backward(*tensors, *output)


def _backward(ctx: Any, grad: Tensor, _: Tensor | None) -> tuple[Tensor | None, ...]:
    grads = blocked_backward(grad.contiguous(), *ctx.saved_tensors, ctx.bucket_size, ctx.neighbors)
    return *grads, None, None, None


blocked_forward.register_autograd(_backward, setup_context=_setup)


def forward_flops(
    q: Sequence[int],
    k: Sequence[int],
    v: Sequence[int],
    order: Sequence[int],
    bucket_size: int,
    neighbors: int,
    **_: object,
) -> int:
    """The operations of `blocked_forward` on tensors of these shapes: both products, padding included."""
    plan = _Plan(q[1], bucket_size, neighbors)
    scores = q[0] * order[1] * plan.count * bucket_size * bucket_size * plan.reach
    return 2 * scores * (k[2] + v[2])


def why_not(q: Tensor, groups: Groups) -> str | None:
    """The reason why this backend cannot compute this, or None."""
    if not isinstance(groups, Buckets) or groups.order is None or groups.is_dense(q.shape[1]):
        return "it serves sparse buckets only"
    if groups.boundary != "mask":
        return "it serves boundary='mask' only"
    if q.device.type != "cpu":
        return f"it runs on the CPU, the tensors are on {q.device.type}"
    if q.dtype not in (torch.float32, torch.float64):
        return f"it computes in float32 and float64, the queries are {q.dtype}"
    return None


def attend_buckets(q: Tensor, k: Tensor, v: Tensor, buckets: Buckets) -> Tensor:
    """See `sparse_attn.ops.attend`; computes in the queries' dtype. First-order gradients only."""
    assert buckets.order is not None
    values = v.to(q.dtype).contiguous()
    out, _ = blocked_forward(
        q.contiguous(), k.contiguous(), values, buckets.order, buckets.bucket_size, buckets.neighbors
    )
    return out.to(v.dtype)
