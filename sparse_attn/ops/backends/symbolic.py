"""Attention of graphs that are exported for every image size: no branch depends on a size, masks do its work.

A chunk that is met twice, as a circle of one or two chunks meets it, is masked instead of left out. So small images
need no case of their own: of up to three chunks, each counted once, every query sees every key.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sparse_attn.ops.backends.eager import beside, softmax_attend, take
from sparse_attn.ops.grouping import OFFSETS, Buckets, at_least
from sparse_attn.ops.merging import merge_rounds


def _chunks(count: int) -> int:
    """At least two, the second of which may be empty: a traced size that may be one is a branch."""
    return at_least(2, count)


def _visible(buckets: Buckets, tokens: int, slots: Tensor) -> Tensor:
    """(1, J, 1, W*k) bool: which places of its window a chunk sees.

    Args:
        buckets: how tokens are cut.
        tokens: N.
        slots: (J*k,) int64, 0 to J*k - 1.
    """
    count, size, offsets = _chunks(buckets.chunks(tokens)), buckets.bucket_size, OFFSETS[: buckets.neighbors + 1]
    real = beside((slots < tokens).reshape(1, count, size, 1), offsets).transpose(-1, -2)
    # The window's w-th chunk is another one than those before it only if there are more than w chunks.
    distinct = torch.arange(len(offsets) * size, device=slots.device) < count * size
    if buckets.boundary == "mask":
        return real & distinct
    return (real & distinct) | (torch.arange(1, device=slots.device) + tokens > size)


def attend_buckets(q: Tensor, k: Tensor, v: Tensor, buckets: Buckets) -> Tensor:
    """Attend in every round and merge the rounds, for every N; see `sparse_attn.ops.attend`."""
    tokens = q.shape[1]
    count, size, offsets = _chunks(buckets.chunks(tokens)), buckets.bucket_size, OFFSETS[: buckets.neighbors + 1]
    places = torch.arange(tokens, device=q.device)
    slots = torch.arange(count * size, device=q.device)
    visible = _visible(buckets, tokens, slots)
    if buckets.boundary == "mask":
        source = slots.clamp(max=tokens - 1)
    else:
        source = torch.where(slots < tokens, slots, (slots - (count * size - tokens)).clamp(min=0))
    outputs, log_sums = [], []
    for order in buckets.order.unbind(1) if buckets.order is not None else [places.unsqueeze(0)]:
        filled = order[:, source]
        qs, ks, vs = (take(x, filled).reshape(q.shape[0], count, size, x.shape[-1]) for x in (q, k, v))
        out, log_sum = softmax_attend(qs, beside(ks, offsets), beside(vs, offsets), visible)
        back = torch.empty_like(order).scatter(1, order, places.expand_as(order))
        outputs.append(take(out.flatten(1, 2), back))
        log_sums.append(log_sum.flatten(1, 2).gather(1, back.expand(q.shape[0], -1)))
    return merge_rounds(outputs, log_sums)


def attend_windows(q: Tensor, k: Tensor, v: Tensor, size: tuple[int, int], window: tuple[int, int]) -> Tensor:
    """Dense attention in windows laid out from the top left, those at the far edges smaller, for every H and W.

    Args:
        q: (B, N, D) queries.
        k: (B, N, D) keys.
        v: (B, N, C) values.
        size: (H, W) of the map that the N tokens are the row-major pixels of.
        window: (h, w); where it holds N tokens, attention is dense in the whole map.

    Returns:
        (B, N, C).
    """
    (height, width), (h, w) = size, window
    batch, tokens, _ = q.shape
    across = (width + w - 1) // w
    count = _chunks((height + h - 1) // h * across)
    y, x = torch.arange(height, device=q.device).unsqueeze(1), torch.arange(width, device=q.device)
    cut = ((y // h * across + x // w) * (h * w) + y % h * w + x % w).flatten()
    places = torch.arange(tokens, device=q.device)
    whole = torch.arange(1, device=q.device) + tokens <= h * w
    slot = torch.where(whole, places, cut)
    # Windows without a token give NaN, which no token looks up.
    source = torch.full((count * h * w,), -1, dtype=torch.int64, device=q.device).scatter(0, slot, places)
    filled = source.clamp(min=0)
    qs, ks, vs = (t[:, filled].reshape(batch, count, h * w, t.shape[-1]) for t in (q, k, v))
    out, _ = softmax_attend(qs, ks, vs, (source >= 0).reshape(1, count, 1, h * w))
    return out.flatten(1, 2)[:, slot]
