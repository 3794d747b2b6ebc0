"""Who attends to whom, written out for a few queries: for measuring and drawing attention, not for computing it."""

from __future__ import annotations

import torch
from torch import Tensor

from sparse_attn.ops.grouping import Buckets, Groups


def attended_counts(groups: Groups, tokens: int, queries: Tensor, *, batch: int = 1) -> Tensor:
    """How often each of some queries meets each key, round by round.

    Args:
        groups: who may attend to whom.
        tokens: N.
        queries: (Q,) int64, indices of tokens.
        batch: B.

    Returns:
        (B, R, Q, N) int16. With `boundary="mask"` no entry is above 1.
    """
    if isinstance(groups, Buckets):
        return _of_buckets(groups, tokens, queries, batch)
    index = groups.index[:, queries]
    counts = torch.zeros((batch, len(queries), tokens), dtype=torch.int16, device=queries.device)
    return counts.scatter_(2, index, 1).unsqueeze(1)


def chunk_of(buckets: Buckets, tokens: int) -> Tensor:
    """The chunk every token is in, (B or 1, R, N) int64 in [0, J)."""
    if buckets.order is None:
        return torch.arange(tokens).div(buckets.bucket_size, rounding_mode="floor").expand(1, 1, tokens)
    places = torch.empty_like(buckets.order)
    return places.scatter_(2, buckets.order, torch.arange(tokens, device=places.device).expand_as(places)).div(
        buckets.bucket_size, rounding_mode="floor"
    )


def attention_weights(queries: Tensor, keys: Tensor, counts: Tensor) -> Tensor:
    """The weights of Eq. 6: over the union of all rounds, a key counting as often as it is met (Eq. 11).

    Args:
        queries: (B, Q, D).
        keys: (B, N, D), normalised if they are to be.
        counts: (B, Q, N), how often each key is met in all rounds together.

    Returns:
        (B, Q, N), rows that sum to one.
    """
    scores = queries @ keys.transpose(1, 2)
    return (scores + counts.to(scores.dtype).log()).softmax(dim=-1)


def _of_buckets(buckets: Buckets, tokens: int, queries: Tensor, batch: int) -> Tensor:
    size, device = buckets.bucket_size, queries.device
    order = torch.arange(tokens, device=device).expand(1, 1, tokens) if buckets.order is None else buckets.order
    rounds, count = order.shape[1], buckets.chunks(tokens)
    if count == 1:
        return torch.ones((batch, rounds, len(queries), tokens), dtype=torch.int16, device=device)
    chunk = chunk_of(buckets, tokens).to(device)[..., queries]
    offsets = torch.tensor(buckets.offsets(tokens), device=device)
    # (B or 1, R, Q, K) places in the order; those past its end belong to nobody, or repeat its last tokens.
    met = (chunk.unsqueeze(-1) + offsets).remainder(count)
    places = (met.unsqueeze(-1) * size + torch.arange(size, device=device)).flatten(-2)
    once = torch.ones_like(places, dtype=torch.int16)
    if buckets.boundary == "repeat":
        places = torch.where(places < tokens, places, places - (count * size - tokens))
    else:
        once = (places < tokens).to(torch.int16)
    keys = order.unsqueeze(2).expand(-1, -1, len(queries), -1).gather(3, places.clamp(max=tokens - 1))
    counts = torch.zeros((*keys.shape[:3], tokens), dtype=torch.int16, device=device)
    return counts.scatter_add_(3, keys, once).expand(batch, -1, -1, -1)
