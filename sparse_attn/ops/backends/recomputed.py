"""What the CPU backends share: gradients that recompute the scores, as parts of PyTorch's graph.

What a forward pass keeps is its inputs, its outputs and one number a query. The backward pass needs the outputs only
for dO . O, one number a query. It is the gradient of the logarithm L of a query's sum, as O is the sum of 2^(s - L) V;
so it is taken in a step of its own, after which the outputs are freed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from sparse_attn.ops.backends.blocked_shift import LN_2, wide
from sparse_attn.ops.grouping import Buckets

# PyTorch asks the processor in a private function; should it be gone, float32 is the safe answer. Asked here, as a
# compiler could not look into it.
_ASK: Callable[[], bool] | None = getattr(torch.cpu, "_is_avx512_bf16_supported", None)
_MULTIPLIES_BF16 = _ASK is not None and _ASK()
_ROWS = 2048


@torch.library.custom_op("sparse_attn::row_dots", mutates_args=())
def row_dots(left: Tensor, right: Tensor) -> Tensor:
    """(B, N, C), (B, N, C) -> (B, N) dot products; in parts, as all products would be as large as the tensors."""
    parts = zip(left.split(_ROWS, dim=1), right.split(_ROWS, dim=1), strict=True)
    return torch.cat([(x.to(wide(x.dtype)) * y).sum(-1) for x, y in parts], dim=1)


@row_dots.register_fake
def _(left: Tensor, _: Tensor) -> Tensor:
    return torch.empty_like(left[..., 0], dtype=wide(left.dtype))


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


def _fake_forward(q: Tensor, _k: Tensor, v: Tensor, *_: object) -> tuple[Tensor, Tensor]:
    return torch.empty_like(v), torch.empty_like(q[..., 0], dtype=wide(q.dtype))


def _fake_backward(_grad: Tensor, q: Tensor, k: Tensor, v: Tensor, *_: object) -> tuple[Tensor, Tensor, Tensor]:
    return torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)


def register(forward: Any, backward: Any) -> None:
    """Makes `backward` the gradient of `forward`, and both known to compilers.

    Args:
        forward: (q, k, v, order, bucket_size, neighbors, repeat) -> outputs (B, N, C), log2-sum-exp2 (B, N).
        backward: (grad, q, k, v, order, mean, log_sum, bucket_size, neighbors, repeat) -> gradients of q, k and v,
            with the logarithms held fast; `mean` (B, N) is dO . O.
    """

    def setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        *tensors, ctx.bucket_size, ctx.neighbors, ctx.repeat = inputs
        ctx.save_for_backward(*tensors, output[1])

    def gradient(ctx: Any, grad: Tensor, grad_log_sum: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, order, log_sum = ctx.saved_tensors
        mean = grad_log_sum / -LN_2
        settings = ctx.bucket_size, ctx.neighbors, ctx.repeat
        return *backward(grad.contiguous(), q, k, v, order, mean, log_sum, *settings), None, None, None, None

    forward.register_fake(_fake_forward)
    backward.register_fake(_fake_backward)
    forward.register_autograd(gradient, setup_context=setup)


def product_dtype(q: Tensor, v: Tensor) -> torch.dtype:
    """What the products run in: bf16 for bf16 values where the CPU multiplies in it, else float32 or float64."""
    if v.dtype == torch.bfloat16 and _MULTIPLIES_BF16:
        return torch.bfloat16
    return wide(torch.promote_types(q.dtype, v.dtype))


def attend_by(forward: Any, q: Tensor, k: Tensor, v: Tensor, buckets: Buckets) -> Tensor:
    """`attend` by an operator given to `register`; its order is None where attention is dense."""
    tokens, dtype = q.shape[1], product_dtype(q, v)
    q, k, values = (x.to(dtype).contiguous() for x in (q, k, v))
    order = buckets.order
    if buckets.is_dense(tokens):
        order = None
    elif order is None:
        order = torch.arange(tokens, device=q.device).expand(1, 1, tokens)
    repeat = buckets.boundary == "repeat"
    out, log_sum = forward(q, k, values, order, buckets.bucket_size, buckets.neighbors, repeat)
    return _Outputs.apply(out, log_sum).to(v.dtype)


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
    """The operations of a forward operator on tensors of these shapes: both products, padding included."""
    if order is None:
        return 2 * q[0] * q[1] * q[1] * (k[2] + v[2])
    padded = -(-q[1] // bucket_size) * bucket_size
    return 2 * q[0] * order[1] * padded * bucket_size * (neighbors + 1) * (k[2] + v[2])


def why_not(q: Tensor, k: Tensor, v: Tensor, groups: object) -> str | None:
    """The reason why no CPU backend can compute this, or None."""
    if not isinstance(groups, Buckets):
        return "it serves buckets only, not lists of keys"
    if q.device.type != "cpu":
        return f"it runs on the CPU, the tensors are on {q.device.type}"
    return None
