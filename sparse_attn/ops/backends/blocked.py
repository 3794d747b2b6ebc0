"""The CPU backend: fused in the sense that what it computes in between stays in the cache, forward and backward.

Scores are computed again for the gradients, so that what a forward pass keeps is its inputs, its outputs and one
number a query. `blocked_rounds` serves sparse buckets, `blocked_dense` dense attention.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from sparse_attn.ops.backends import blocked_dense, blocked_rounds
from sparse_attn.ops.backends.blocked_rounds import Plan
from sparse_attn.ops.backends.blocked_shift import Scratch, wide
from sparse_attn.ops.grouping import Buckets, Groups

# PyTorch asks the processor in a private function; should it be gone, float32 is the safe answer. Asked here, as a
# compiler could not look into it.
_ASK: Callable[[], bool] | None = getattr(torch.cpu, "_is_avx512_bf16_supported", None)
_MULTIPLIES_BF16 = _ASK is not None and _ASK()


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
    out: Tensor,
    log_sum: Tensor,
    bucket_size: int,
    neighbors: int,
    repeat: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of q, k and v."""
    with torch.autocast("cpu", enabled=False):
        if order is None:
            return blocked_dense.backward(grad, q, k, v, out, log_sum)
        plan = Plan(q.shape[1], bucket_size, neighbors, repeat)
        grads = [torch.zeros_like(x, dtype=wide(x.dtype)) for x in (q, k, v)]
        scratch = Scratch(q)
        for b in range(q.shape[0]):
            orders = order[b % order.shape[0]]
            into = [x[b] for x in grads]
            blocked_rounds.backward(grad[b], q[b], k[b], v[b], orders, out[b], log_sum[b], plan, into, scratch)
    return grads[0].to(q.dtype), grads[1].to(k.dtype), grads[2].to(v.dtype)


@blocked_forward.register_fake
def _(q: Tensor, _k: Tensor, v: Tensor, *_: object) -> tuple[Tensor, Tensor]:
    return torch.empty_like(v), torch.empty_like(q[..., 0], dtype=wide(q.dtype))


@blocked_backward.register_fake
def _(_grad: Tensor, q: Tensor, k: Tensor, v: Tensor, *_: object) -> tuple[Tensor, Tensor, Tensor]:
    return torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    *tensors, ctx.bucket_size, ctx.neighbors, ctx.repeat = inputs
    ctx.save_for_backward(*tensors, *output)


def _backward(ctx: Any, grad: Tensor, _: Tensor | None) -> tuple[Tensor | None, ...]:
    grads = blocked_backward(grad.contiguous(), *ctx.saved_tensors, ctx.bucket_size, ctx.neighbors, ctx.repeat)
    return *grads, None, None, None, None


blocked_forward.register_autograd(_backward, setup_context=_setup)


def forward_flops(
    q: Sequence[int],
    k: Sequence[int],
    v: Sequence[int],
    order: Sequence[int] | None,
    bucket_size: int,
    neighbors: int,
    repeat: bool,
    **_: object,
) -> int:
    """The operations of `blocked_forward` on tensors of these shapes: both products, padding included."""
    if order is None:
        return 2 * q[0] * q[1] * q[1] * (k[2] + v[2])
    plan = Plan(q[1], bucket_size, neighbors, repeat)
    scores = q[0] * order[1] * plan.count * bucket_size * bucket_size * plan.reach
    return 2 * scores * (k[2] + v[2])


def why_not(q: Tensor, k: Tensor, v: Tensor, groups: Groups) -> str | None:
    """The reason why this backend cannot compute this, or None."""
    if not isinstance(groups, Buckets):
        return "it serves buckets only, not lists of keys"
    if q.device.type != "cpu":
        return f"it runs on the CPU, the tensors are on {q.device.type}"
    return None


def _product_dtype(q: Tensor, v: Tensor) -> torch.dtype:
    """What the products run in: bf16 for bf16 values where the CPU multiplies in it, else float32 or float64."""
    if v.dtype == torch.bfloat16 and _MULTIPLIES_BF16:
        return torch.bfloat16
    return wide(torch.promote_types(q.dtype, v.dtype))


def attend_buckets(q: Tensor, k: Tensor, v: Tensor, buckets: Buckets) -> Tensor:
    """See `sparse_attn.ops.attend`. First-order gradients only."""
    tokens = q.shape[1]
    dtype = _product_dtype(q, v)
    q, k, values = (x.to(dtype).contiguous() for x in (q, k, v))
    order, size = buckets.order, buckets.bucket_size
    if buckets.is_dense(tokens):
        order = None
    elif order is None:
        order = torch.arange(tokens, device=q.device).expand(1, 1, tokens)
    out, _ = blocked_forward(q, k, values, order, size, buckets.neighbors, buckets.boundary == "repeat")
    return out.to(v.dtype)
