"""Attend and merge: softmax attention confined to groups."""

from __future__ import annotations

from torch import Tensor

from sparse_attn.ops.backends import check_backend, eager
from sparse_attn.ops.grouping import Buckets, Groups


def attend(q: Tensor, k: Tensor, v: Tensor, groups: Groups, *, backend: str = "auto") -> Tensor:
    """Softmax attention of every query over the keys its group allows, rounds merged by Eq. 11.

    No scale is applied to the scores.

    Args:
        q: (B, N, D) queries.
        k: (B, N, D) keys.
        v: (B, N, C) values.
        groups: who may attend to whom.
        backend: `auto` or `eager`.

    Returns:
        (B, N, C), of the values' dtype.

    Raises:
        UnknownNameError: no such backend.
    """
    check_backend(backend)
    if isinstance(groups, Buckets):
        return eager.attend_buckets(q, k, v, groups)
    return eager.attend_key_lists(q, k, v, groups.index)
