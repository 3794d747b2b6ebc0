"""The CPU backend: fused in the sense that what it computes in between stays in the cache, forward and backward.

Scores are computed again for the gradients, so that what a forward pass keeps is its inputs, its outputs and one
number a query. `blocked_rounds` serves sparse buckets, `blocked_dense` dense attention.

The backward pass needs the outputs only for dO . O, one number a query. It is the gradient of the logarithm L of a
query's sum, as O is the sum of 2^(s - L) V; so it is taken in a step of its own, after which the outputs are freed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from sparse_attn.ops.backends import blocked_dense, blocked_rounds
from sparse_attn.ops.backends.blocked_rounds import Plan
from sparse_attn.ops.backends.blocked_shift import LN_2, Scratch, wide
from sparse_attn.ops.grouping import Buckets, Groups

# PyTorch asks the processor in a private function; should it be gone, float32 is the safe answer. Asked here, as a
# compiler could not look into it.
_ASK: Callable[[], bool] | None = getattr(torch.cpu, "_is_avx512_bf16_supported", None)
_MULTIPLIES_BF16 = _ASK is not None and _ASK()
_ROWS = 2048


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


@torch.library.custom_op("sparse_attn::row_dots", mutates_args=())
def row_dots(left: Tensor, right: Tensor) -> Tensor:
    """(B, N, C), (B, N, C) -> (B, N) dot products; in parts, as all products would be as large as the tensors."""
    parts = zip(left.split(_ROWS, dim=1), right.split(_ROWS, dim=1), strict=True)
    return torch.cat([(x.to(wide(x.dtype)) * y).sum(-1) for x, y in parts], dim=1)


@blocked_forward.register_fake
def _(q: Tensor, _k: Tensor, v: Tensor, *_: object) -> tuple[Tensor, Tensor]:
    return torch.empty_like(v), torch.empty_like(q[..., 0], dtype=wide(q.dtype))


@blocked_backward.register_fake
def _(_grad: Tensor, q: Tensor, k: Tensor, v: Tensor, *_: object) -> tuple[Tensor, Tensor, Tensor]:
    return torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)


@row_dots.register_fake
def _(left: Tensor, _: Tensor) -> Tensor:
    return torch.empty_like(left[..., 0], dtype=wide(left.dtype))


def _setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    *tensors, ctx.bucket_size, ctx.neighbors, ctx.repeat = inputs
    ctx.save_for_backward(*tensors, output[1])


def _backward(ctx: Any, grad: Tensor, grad_log_sum: Tensor) -> tuple[Tensor | None, ...]:
    q, k, v, order, log_sum = ctx.saved_tensors
    mean = grad_log_sum / -LN_2
    settings = ctx.bucket_size, ctx.neighbors, ctx.repeat
    grads = blocked_backward(grad.contiguous(), q, k, v, order, mean, log_sum, *settings)
    return *grads, None, None, None, None


# Of the outputs, with the logarithms held fast; `_Outputs` adds what passes through these.
blocked_forward.register_autograd(_backward, setup_context=_setup)


class _Outputs(torch.autograd.Function):
    """The outputs, unchanged, as what they are: a function of the logarithms too."""

    @staticmethod
    def forward(out: Tensor, _log_sum: Tensor) -> Tensor:
        return out.view_as(out)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        ctx.save_for_backward(inputs[0])

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
        (out,) = ctx.saved_tensors
        grad = grad.contiguous()
        return grad, row_dots(grad, out) * -LN_2


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
    out, log_sum = blocked_forward(q, k, values, order, size, buckets.neighbors, buckets.boundary == "repeat")
    return _Outputs.apply(out, log_sum).to(v.dtype)
