"""The CPU backend in C++, for sparse buckets: a chunk's gathering, products, powers and sums in one go.

It is compiled where it runs, see `native_build`. It computes as `blocked` does, and leaves dense attention to it. Three
steps around the attention come with it, which give to the bit what plain operations give.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from sparse_attn.ops.backends import blocked, native_build, recomputed
from sparse_attn.ops.backends.blocked_shift import LOG2_E, choose_shift
from sparse_attn.ops.backends.recomputed import forward_flops
from sparse_attn.ops.grouping import Buckets, Groups

__all__ = ["add_tokens", "attend_buckets", "forward_flops", "helps", "nearest_vertices", "stable_order", "why_not"]

_DTYPES = (torch.float32, torch.bfloat16)


def _shift(q: Tensor, k: Tensor, order: Tensor, size: int, neighbors: int, repeat: bool) -> Tensor | None:
    """What to subtract from the scores of each query, (B, N) float32, to base 2; None is nothing."""
    shifts = [choose_shift(q[b], k[b], scale=LOG2_E)[:2] for b in range(q.shape[0])]
    if all(shift is None for shift, _ in shifts):
        return None
    shift = q.new_zeros(q.shape[:2], dtype=torch.float32)
    for into, (one, too_small) in zip(shift, shifts, strict=True):
        if one is not None:
            # Minus infinity stands for the largest score, which is looked for below.
            into.copy_(one.squeeze(-1)) if not too_small else into.fill_(-math.inf)
    if any(too_small for _, too_small in shifts):
        largest = torch.full_like(shift, -math.inf)
        torch.ops.sparse_attn_native.largest_scores(q, k, order, size, neighbors, repeat, largest)
        torch.where(shift.isneginf(), largest, shift, out=shift)
    return shift


@torch.library.custom_op("sparse_attn::native_forward", mutates_args=())
def native_forward(
    q: Tensor, k: Tensor, v: Tensor, order: Tensor, bucket_size: int, neighbors: int, repeat: bool
) -> tuple[Tensor, Tensor]:
    """The outputs (B, N, C) and the log2-sum-exp2 of each query's scores in all rounds (B, N)."""
    order = order.contiguous()
    shift = _shift(q, k, order, bucket_size, neighbors, repeat)
    out = torch.empty_like(v)
    total = out if v.dtype == torch.float32 else torch.empty_like(v, dtype=torch.float32)
    log_sum = q.new_empty(q.shape[:2], dtype=torch.float32)
    torch.ops.sparse_attn_native.forward(q, k, v, order, bucket_size, neighbors, repeat, shift, total, out, log_sum)
    return out, log_sum


@torch.library.custom_op("sparse_attn::native_backward", mutates_args=())
def native_backward(
    grad: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    order: Tensor,
    mean: Tensor,
    log_sum: Tensor,
    bucket_size: int,
    neighbors: int,
    repeat: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of q, k and v, where `mean` (B, N) is dO . O."""
    dq = torch.empty_like(q, dtype=torch.float32)
    dk, dv = (torch.zeros_like(x, dtype=torch.float32) for x in (k, v))
    torch.ops.sparse_attn_native.backward(
        grad, q, k, v, order.contiguous(), mean.contiguous(), log_sum, bucket_size, neighbors, repeat, dq, dk, dv
    )
    return dq.to(q.dtype), dk.to(k.dtype), dv.to(v.dtype)


recomputed.register(native_forward, native_backward)


def why_not(q: Tensor, k: Tensor, v: Tensor, groups: Groups, *, build: bool = False) -> str | None:
    """The reason why this backend cannot compute this, or None.

    Args:
        q: queries.
        k: keys.
        v: values.
        groups: who may attend to whom.
        build: compile it, if that is what is missing.
    """
    reason = recomputed.why_not(q, k, v, groups)
    if reason is not None:
        return reason
    dtype = recomputed.product_dtype(q, v)
    if dtype not in _DTYPES:
        return f"it computes in float32 and bfloat16, this takes {dtype}"
    return native_build.missing(build)


def attend_buckets(q: Tensor, k: Tensor, v: Tensor, buckets: Buckets) -> Tensor:
    """See `sparse_attn.ops.attend`. First-order gradients only."""
    if buckets.is_dense(q.shape[1]):
        return blocked.attend_buckets(q, k, v, buckets)
    return recomputed.attend_by(native_forward, q, k, v, buckets)


def helps(backend: str, *tensors: Tensor) -> bool:
    """Whether the steps below can take these tensors: they are plain calls, and no part of a compiled graph."""
    if backend not in ("auto", "native") or torch.compiler.is_compiling():
        return False
    fit = all(x.device.type == "cpu" and x.dtype in (torch.float32, torch.int64) for x in tensors)
    return fit and native_build.missing(backend == "native") is None


@torch.library.custom_op("sparse_attn::nearest_vertices", mutates_args=())
def nearest_vertices(rotated: Tensor) -> Tensor:
    """(B, N, R, F) projections -> (B, R, N) int64, the first index of the largest of [x, -x]."""
    batch, tokens, rounds, _ = rotated.shape
    codes = rotated.new_empty((batch, rounds, tokens), dtype=torch.int64)
    torch.ops.sparse_attn_native.nearest(rotated.contiguous(), codes)
    return codes


@nearest_vertices.register_fake
def _(rotated: Tensor) -> Tensor:
    batch, tokens, rounds, _ = rotated.shape
    return rotated.new_empty((batch, rounds, tokens), dtype=torch.int64)


@torch.library.custom_op("sparse_attn::stable_order", mutates_args=())
def stable_order(codes: Tensor) -> Tensor:
    """(..., N) int64 in [0, 2^20) -> (..., N) int64, places in order of code; equal codes in order of place."""
    orders = torch.empty_like(codes, memory_format=torch.contiguous_format)
    torch.ops.sparse_attn_native.order(codes.contiguous(), orders)
    return orders


@stable_order.register_fake
def _(codes: Tensor) -> Tensor:
    return torch.empty_like(codes, memory_format=torch.contiguous_format)


@torch.library.custom_op("sparse_attn::add_tokens", mutates_args=())
def add_tokens(x: Tensor, tokens: Tensor, scale: float) -> Tensor:
    """The sum x + scale * tokens, for (B, C, H, W) and (B, H * W, C), in one pass through both layouts."""
    x = x.contiguous()
    out = torch.empty_like(x)
    torch.ops.sparse_attn_native.add(x, tokens.contiguous(), scale, out)
    return out


@add_tokens.register_fake
def _(x: Tensor, _tokens: Tensor, _scale: float) -> Tensor:
    return torch.empty_like(x, memory_format=torch.contiguous_format)


def _setup(ctx: Any, inputs: tuple[Tensor, Tensor, float], output: Tensor) -> None:
    ctx.scale = inputs[2]


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
    tokens = grad.flatten(2).transpose(1, 2)
    return grad, tokens if ctx.scale == 1.0 else tokens * ctx.scale, None


add_tokens.register_autograd(_backward, setup_context=_setup)
