"""The CPU backend that needs nothing but PyTorch: what it computes in between stays in the cache.

`blocked_rounds` serves sparse buckets, `blocked_dense` dense attention; `recomputed` has the gradients' way.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sparse_attn.ops.backends import blocked_dense, blocked_rounds
from sparse_attn.ops.backends.blocked_rounds import Plan
from sparse_attn.ops.backends.blocked_shift import Scratch, wide
from sparse_attn.ops.backends.recomputed import attend_by, forward_flops, register, why_not
from sparse_attn.ops.grouping import Buckets

__all__ = ["attend_buckets", "forward_flops", "why_not"]


@torch.library.custom_op("sparse_attn::blocked_forward", mutates_args=())
def blocked_forward(
    q: Tensor, k: Tensor, v: Tensor, order: Tensor | None, bucket_size: int, neighbors: int, repeat: bool
) -> tuple[Tensor, Tensor]:
    """The outputs (B, N, C) and the log2-sum-exp2 of each query's scores in all rounds (B, N); no order is dense."""
    with torch.autocast("cpu", enabled=False):
        if order is None:
            return blocked_dense.forward(q, k, v)
        plan = Plan(q.shape[1], bucket_size, neighbors, repeat)
        out = torch.zeros_like(v, dtype=wide(v.dtype))
        log_sum = out.new_empty(q.shape[:2])
        scratch = Scratch(q)
        for b in range(q.shape[0]):
            orders = order[b % order.shape[0]]
            log_sum[b] = blocked_rounds.forward(q[b], k[b], v[b], orders, plan, out[b], scratch)
    return out.to(v.dtype), log_sum


@torch.library.custom_op("sparse_attn::blocked_backward", mutates_args=())
def blocked_backward(
    grad: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    order: Tensor | None,
    mean: Tensor,
    log_sum: Tensor,
    bucket_size: int,
    neighbors: int,
    repeat: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of q, k and v, where `mean` (B, N) is dO . O."""
    with torch.autocast("cpu", enabled=False):
        if order is None:
            return blocked_dense.backward(grad, q, k, v, mean, log_sum)
        plan = Plan(q.shape[1], bucket_size, neighbors, repeat)
        grads = [torch.zeros_like(x, dtype=wide(x.dtype)) for x in (q, k, v)]
        scratch = Scratch(q)
        for b in range(q.shape[0]):
            orders = order[b % order.shape[0]]
            into = [x[b] for x in grads]
            blocked_rounds.backward(grad[b], q[b], k[b], v[b], orders, mean[b], log_sum[b], plan, into, scratch)
    return grads[0].to(q.dtype), grads[1].to(k.dtype), grads[2].to(v.dtype)


register(blocked_forward, blocked_backward)


def attend_buckets(q: Tensor, k: Tensor, v: Tensor, buckets: Buckets) -> Tensor:
    """See `sparse_attn.ops.attend`. First-order gradients only."""
    return attend_by(blocked_forward, q, k, v, buckets)
