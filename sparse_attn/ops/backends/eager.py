"""The plain backend: standard tensor operations, autograd for the gradients, any device and dtype."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from sparse_attn.ops.grouping import Buckets
from sparse_attn.ops.merging import merge_rounds


def softmax_attend(q: Tensor, k: Tensor, v: Tensor, allowed: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Softmax attention without a scale.

    Args:
        q: (..., Q, D) queries.
        k: (..., K, D) keys.
        v: (..., K, C) values.
        allowed: broadcastable to (..., Q, K) bool, True where a query may see a key; None is everywhere.

    Returns:
        (..., Q, C) outputs and (..., Q) log-sum-exp of the scores (float32 at least).
    """
    scores = q @ k.transpose(-1, -2)
    scores = scores.to(torch.promote_types(scores.dtype, torch.float32))
    if allowed is not None:
        scores = scores.masked_fill(~allowed, -torch.inf)
    log_sum = scores.logsumexp(dim=-1)
    weights = (scores - log_sum.unsqueeze(-1)).exp()
    return weights.to(v.dtype) @ v, log_sum


def take(x: Tensor, order: Tensor) -> Tensor:
    """(B, N, C) rows in the order of (B or 1, M) indices -> (B, M, C)."""
    return x.gather(1, order.unsqueeze(-1).expand(x.shape[0], -1, x.shape[2]))


def beside(x: Tensor, offsets: Sequence[int]) -> Tensor:
    """(B, J, k, C) chunks -> (B, J, W*k, C): beside each chunk those at the given offsets, in a circle."""
    return torch.cat([x if offset == 0 else x.roll(-offset, dims=1) for offset in offsets], dim=2)


def _round(q: Tensor, k: Tensor, v: Tensor, order: Tensor | None, buckets: Buckets) -> tuple[Tensor, Tensor]:
    """One round: (B, N, C) outputs and (B, N) log-sum-exp, in the order of place."""
    batch, tokens, _ = q.shape
    count, size = buckets.chunks(tokens), buckets.bucket_size
    offsets, pad = buckets.offsets(tokens), count * size - tokens
    place = order if order is not None else torch.arange(tokens, device=q.device).unsqueeze(0)
    allowed = None
    if pad and buckets.boundary == "repeat":
        filled = torch.cat([place, place[:, -pad:]], dim=1)
        q, k, v = (take(x, filled) for x in (q, k, v))
    else:
        q, k, v = (take(x, place) if order is not None else x for x in (q, k, v))
    if pad and buckets.boundary == "mask":
        q, k, v = (F.pad(x, (0, 0, 0, pad)) for x in (q, k, v))
        real = (torch.arange(count * size, device=q.device) < tokens).reshape(1, count, size, 1)
        allowed = beside(real, offsets).transpose(-1, -2)
    q, k, v = (x.reshape(batch, count, size, x.shape[-1]) for x in (q, k, v))
    out, log_sum = softmax_attend(q, beside(k, offsets), beside(v, offsets), allowed)
    out, log_sum = out.flatten(1, 2)[:, :tokens], log_sum.flatten(1, 2)[:, :tokens]
    if order is None:
        return out, log_sum
    back = torch.empty_like(place).scatter_(1, place, torch.arange(tokens, device=q.device).expand_as(place))
    return take(out, back), log_sum.gather(1, back.expand(batch, -1))


def attend_buckets(q: Tensor, k: Tensor, v: Tensor, buckets: Buckets) -> Tensor:
    """Attend in every round and merge the rounds; see `sparse_attn.ops.attend`."""
    if buckets.is_dense(q.shape[1]):
        return softmax_attend(q, k, v)[0]
    if buckets.order is None:
        return _round(q, k, v, None, buckets)[0]
    outputs, log_sums = [], []
    for order in buckets.order.unbind(1):
        out, log_sum = _round(q, k, v, order, buckets)
        outputs.append(out)
        log_sums.append(log_sum)
    return merge_rounds(outputs, log_sums)


def attend_key_lists(q: Tensor, k: Tensor, v: Tensor, index: Tensor) -> Tensor:
    """Each query attends to its own keys; holds the full (N, N) score matrix."""
    allowed = torch.zeros(q.shape[0], q.shape[1], k.shape[1], dtype=torch.bool, device=q.device)
    return softmax_attend(q, k, v, allowed.scatter(2, index, True))[0]
