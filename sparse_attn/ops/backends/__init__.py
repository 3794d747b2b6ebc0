"""Backends of `attend`: each computes the same function; `auto` picks the fastest one that can.

The ladder of `auto`: `blocked` on the CPU for sparse buckets, else `eager`. A graph that is being exported takes
`eager`, so that it needs no operator of this package.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from sparse_attn.errors import unknown_name
from sparse_attn.ops.backends import blocked, eager
from sparse_attn.ops.grouping import Buckets, Groups

BACKENDS = ("auto", "blocked", "eager")


def check_backend(name: object) -> str:
    """Returns `name`.

    Raises:
        UnknownNameError: no such backend.
    """
    if name not in BACKENDS:
        raise unknown_name("backend", str(name), BACKENDS)
    return str(name)


def flop_formulas() -> dict[Any, Callable[..., int]]:
    """For `torch.utils.flop_counter`, which cannot look into this package's own operators: what they cost."""
    return {torch.ops.sparse_attn.blocked_forward: blocked.forward_flops}


def run(q: Tensor, k: Tensor, v: Tensor, groups: Groups, backend: str) -> Tensor:
    """`attend` by a backend of this name; one that cannot falls back to `eager` and warns."""
    if check_backend(backend) != "eager" and not (backend == "auto" and torch.compiler.is_exporting()):
        reason = blocked.why_not(q, groups)
        if reason is None:
            assert isinstance(groups, Buckets)
            return blocked.attend_buckets(q, k, v, groups)
        if backend == "blocked":
            warnings.warn(f"backend 'blocked' falls back to 'eager': {reason}", stacklevel=2)
    if isinstance(groups, Buckets):
        return eager.attend_buckets(q, k, v, groups)
    return eager.attend_key_lists(q, k, v, groups.index)
