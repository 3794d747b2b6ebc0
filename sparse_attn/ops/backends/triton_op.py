"""The Triton backend: kernels that gather rows by token, walk each chunk's window and write every token's row once.

Triton is imported where a kernel is launched, so that the package imports without it, and at no cost.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from sparse_attn.ops.backends.triton_launch import MAX_KEY_WIDTH, MAX_VALUE_WIDTH, Launch, depth, interpreted
from sparse_attn.ops.grouping import Buckets, Groups

_HAS_TRITON = importlib.util.find_spec("triton") is not None
_DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def _over_rounds(x: Tensor) -> Tensor:
    """(B, R, N, C) -> (B, N, C), summed in float32."""
    return x.squeeze(1) if x.shape[1] == 1 else x.sum(dim=1)


@torch.library.custom_op("sparse_attn::triton_forward", mutates_args=())
def triton_forward(
    q: Tensor, k: Tensor, v: Tensor, order: Tensor, bucket_size: int, neighbors: int
) -> tuple[Tensor, Tensor]:
    """The outputs (B, N, C) and, float32, the log-sum-exp of each query's scores in all rounds (B, N)."""
    from sparse_attn.ops.backends import triton_kernels as kernels

    launch = Launch(q, v, order, bucket_size, neighbors)
    out, log_sum = torch.empty_like(v), q.new_empty(q.shape[:2], dtype=torch.float32)
    outs, log_sums = out, log_sum
    if launch.rounds > 1:
        shape = (launch.batch, launch.rounds, launch.tokens)
        outs, log_sums = v.new_empty(*shape, launch.wide), log_sum.new_empty(shape)
    low_q, low_k = q.to(v.dtype), k.to(v.dtype)
    with torch.cuda.device_of(q):
        kernels.forward_kernel[launch.grid(launch.parts)](
            low_q, low_k, v, order, outs, log_sums, parts=launch.parts, BLOCK_C=launch.slice, **launch.options
        )
        if launch.rounds > 1:
            launch.by_row(
                kernels.merge_kernel, outs, log_sums, out, log_sum, tokens=launch.tokens, rounds=launch.rounds
            )
    return out, log_sum


@torch.library.custom_op("sparse_attn::triton_backward", mutates_args=())
def triton_backward(
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
    """The gradients of q, k and v."""
    from sparse_attn.ops.backends import triton_grad_kernels as kernels

    launch = Launch(q, v, order, bucket_size, neighbors)
    shape = (launch.batch, launch.rounds, launch.tokens)
    mean = torch.empty_like(log_sum)
    dq, dk = (log_sum.new_empty(*shape, launch.width) for _ in range(2))
    dv = v.new_empty(*shape, launch.wide)
    low_q, low_k = q.to(v.dtype), k.to(v.dtype)
    with torch.cuda.device_of(q):
        launch.by_row(kernels.mean_kernel, grad, out, mean)
        for into, of_keys, tensors in ((dq, False, (low_q, grad, low_k, v)), (dk, True, (low_k, v, low_q, grad))):
            kernels.score_grad_kernel[launch.grid()](
                *tensors,
                order,
                log_sum,
                mean,
                into,
                BLOCK_C=depth(launch.wide, exact=v.dtype == torch.float32),
                OF_KEYS=of_keys,
                **launch.options,
            )
        kernels.value_grad_kernel[launch.grid(launch.parts)](
            low_q, low_k, grad, order, log_sum, dv, parts=launch.parts, BLOCK_C=launch.slice, **launch.options
        )
    return _over_rounds(dq).to(q.dtype), _over_rounds(dk).to(k.dtype), _over_rounds(dv)


@triton_forward.register_fake
def _(q: Tensor, _k: Tensor, v: Tensor, *_: object) -> tuple[Tensor, Tensor]:
    return torch.empty_like(v), q.new_empty(q.shape[:2], dtype=torch.float32)


@triton_backward.register_fake
def _(_grad: Tensor, q: Tensor, k: Tensor, v: Tensor, *_: object) -> tuple[Tensor, Tensor, Tensor]:
    return torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    *tensors, ctx.bucket_size, ctx.neighbors = inputs
    ctx.save_for_backward(*tensors, *output)


def _backward(ctx: Any, grad: Tensor, _: Tensor | None) -> tuple[Tensor | None, ...]:
    grads = triton_backward(grad.contiguous(), *ctx.saved_tensors, ctx.bucket_size, ctx.neighbors)
    return *grads, None, None, None


triton_forward.register_autograd(_backward, setup_context=_setup)


def forward_flops(
    q: Sequence[int],
    k: Sequence[int],
    v: Sequence[int],
    order: Sequence[int],
    bucket_size: int,
    neighbors: int,
    **_: object,
) -> int:
    """The operations of `triton_forward` on tensors of these shapes: both products, padding included."""
    queries = order[1] * -(-q[1] // bucket_size) * bucket_size
    return 2 * q[0] * queries * bucket_size * (neighbors + 1) * (k[2] + v[2])


def _no_device(kind: str, index: int) -> str | None:
    """Why this device runs no kernels, or None."""
    if not _HAS_TRITON:
        return "Triton is not installed"
    if kind == "cpu":
        return None if interpreted() else "on a CPU it runs with TRITON_INTERPRET=1 only"
    if kind != "cuda":
        return f"it runs on CUDA devices, the tensors are on {kind}"
    if torch.version.hip is not None:
        return "it serves NVIDIA devices only"
    major, minor = torch.cuda.get_device_capability(index)
    return None if major >= 8 else f"it needs compute capability 8.0, the device has {major}.{minor}"


# To torch.compile the answer is a constant, as it cannot trace the look at the device. This is all that
# torch.compiler.assume_constant_result does, but for importing the whole compiler with the package.
_no_device._dynamo_marked_constant = True  # type: ignore[attr-defined]


def why_not(q: Tensor, k: Tensor, v: Tensor, groups: Groups) -> str | None:
    """The reason why this backend cannot compute this, or None."""
    if not isinstance(groups, Buckets):
        return "it serves buckets, not lists of keys"
    tokens = q.shape[1]
    chunks = groups.chunks(tokens)
    # With whole chunks, and neighbours that do not coincide, both boundaries mean the same.
    if groups.boundary != "mask" and chunks > 1 and (tokens % groups.bucket_size or chunks <= groups.neighbors):
        return "it serves boundary='mask' only"
    for what, x in (("queries", q), ("keys", k), ("values", v)):
        if x.dtype not in _DTYPES:
            return f"it computes in float32, bfloat16 and float16, the {what} are {x.dtype}"
    if q.shape[2] > MAX_KEY_WIDTH or v.shape[2] > MAX_VALUE_WIDTH:
        return (
            f"it serves queries up to {MAX_KEY_WIDTH} and values up to {MAX_VALUE_WIDTH} wide, "
            f"these are {q.shape[2]} and {v.shape[2]}"
        )
    return _no_device(q.device.type, q.device.index or 0)


def attend_buckets(q: Tensor, k: Tensor, v: Tensor, buckets: Buckets) -> Tensor:
    """See `sparse_attn.ops.attend`; products in the values' dtype, sums in float32. First-order gradients only."""
    tokens = q.shape[1]
    order, size, neighbors = buckets.order, buckets.bucket_size, buckets.neighbors
    if buckets.is_dense(tokens):
        order, size, neighbors = None, tokens, 0
    if order is None:
        order = torch.arange(tokens, device=q.device).reshape(1, 1, tokens)
    return triton_forward(q.contiguous(), k.contiguous(), v.contiguous(), order.contiguous(), size, neighbors)[0]
