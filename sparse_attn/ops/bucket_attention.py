"""Attend and merge: softmax attention confined to groups."""

from __future__ import annotations

from torch import Tensor

from sparse_attn.ops.backends import run
from sparse_attn.ops.grouping import Groups


def attend(q: Tensor, k: Tensor, v: Tensor, groups: Groups, *, backend: str = "auto") -> Tensor:
    """Softmax attention of every query over the keys its group allows, rounds merged by Eq. 11.

    No scale is applied to the scores.

    Args:
        q: (B, N, D) queries.
        k: (B, N, D) keys.
        v: (B, N, C) values.
        groups: who may attend to whom.
        backend: `auto`, `blocked`, `native`, `triton` or `eager`, see `sparse_attn.ops.backends`.

    Returns:
        (B, N, C), of the values' dtype.

    Raises:
        UnknownNameError: no such backend.
    """
    return run(q, k, v, groups, backend)
